//! What keeps a camera or a microphone going: starts it for its viewers, stops it after them, restarts it when it
//! fails or falls silent, and passes on what viewers want of the encoder.

use std::time::{Duration, Instant};

use gstreamer as gst;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::media::{Demand, DemandWatch};
use crate::tasks::{Backoff, Group};

use super::due::{KeyFrames, Progress, Timers};
use super::opener::{Outcome, Settings, Shared, Warmth, blocking, locked};
use super::pipeline::{self, Pipeline, Sink};
use super::snapshot::{self, Picture};
use super::state::{Action, Event};
use super::{Error, Privacy, State, Status};

/// How long a source runs on without viewers: a page that is reloaded finds it running.
const GRACE: Duration = Duration::from_secs(2);

/// How often progress is looked at, so that a silent stall is noticed within a second.
const CHECK: Duration = Duration::from_millis(200);

/// After so many frames in a row a source works, whatever happens to it then.
const WORKS: u64 = 5;

/// How often a device that is not there is looked for. Looking is cheap, so that its return is noticed fast.
const LOOK: Duration = Duration::from_millis(250);

/// How long a device may take to close: the kernel gives up waiting for sound after ten seconds.
const CLOSING: Duration = Duration::from_secs(11);

/// What a handle asks of its actor.
#[derive(Debug)]
pub(super) enum Command<S> {
    /// Other settings; the answer when they are in effect or given up.
    Configure(S, Verdict),
    /// Another pipeline in the place of the running one.
    Restart,
    /// Privacy; the answer when the device is closed.
    Privacy(Privacy, oneshot::Sender<()>),
    /// The next raw picture.
    Snapshot(oneshot::Sender<Picture>),
}

/// Takes what became of new settings.
pub(super) type Verdict = oneshot::Sender<Result<(), Error>>;

/// What an actor is made of.
pub(super) struct Actor<S> {
    pub(super) source: Shared<S>,
    pub(super) sink: Sink,
    pub(super) settings: watch::Sender<S>,
    pub(super) privacy: Privacy,
    pub(super) status: watch::Sender<Status>,
    pub(super) inbox: mpsc::UnboundedReceiver<Command<S>>,
    pub(super) group: Group,
}

/// New settings whose first picture is waited for.
struct Trial<S> {
    former: S,
    verdict: Verdict,
}

/// A device that has not let go of its pipeline yet.
struct Closing {
    device: String,
    closed: oneshot::Receiver<()>,
}

/// The actor at work.
struct Running<'a, S> {
    actor: &'a mut Actor<S>,
    demand: DemandWatch,
    state: State,
    pipeline: Option<Pipeline>,
    closing: Option<Closing>,
    timers: Timers,
    backoff: Backoff,
    key_frames: KeyFrames,
    wishes: u64,
    progress: Progress,
    /// Whether the source was told that this pipeline works.
    works: bool,
    failure: Option<Error>,
    snapshots: Vec<oneshot::Sender<Picture>>,
    trial: Option<Trial<S>>,
}

impl<S: Settings> Actor<S> {
    /// Runs until the group stops. After a panic it can be run again: privacy, settings and the inbox are kept.
    pub(super) async fn run(&mut self) {
        self.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        let mut running = Running {
            demand: self.sink.feed.demand(),
            actor: self,
            state: State::Idle,
            pipeline: None,
            closing: None,
            timers: Timers::default(),
            // A device that is busy or broken becomes free unannounced; its picture is to be back within 2 s.
            backoff: Backoff::new(LOOK, Duration::from_millis(1500)),
            key_frames: KeyFrames::default(),
            wishes: 0,
            progress: Progress::default(),
            works: false,
            failure: None,
            snapshots: Vec::new(),
            trial: None,
        };
        running.run().await;
        running.stop().await;
    }
}

impl<S: Settings> Running<'_, S> {
    async fn run(&mut self) {
        let group = self.actor.group.clone();
        if self.actor.privacy == Privacy::On {
            self.apply(Event::Hidden).await;
        }
        let now = self.demand.now();
        self.heed(now).await;
        loop {
            let timer = self.timers.next();
            tokio::select! {
                biased;
                () = group.stopped() => return,
                Some(command) = self.actor.inbox.recv() => self.obey(command).await,
                demand = self.demand.changed() => self.heed(demand).await,
                event = report(&mut self.pipeline) => self.hear(event).await,
                () = sleep_until(timer) => self.look().await,
            }
        }
    }

    async fn obey(&mut self, command: Command<S>) {
        if let Command::Privacy(privacy, _) = command {
            self.actor.privacy = privacy;
        }
        match command {
            Command::Configure(settings, verdict) => self.configure(settings, verdict).await,
            Command::Restart => self.apply(Event::Renewed).await,
            Command::Privacy(Privacy::On, done) => {
                self.apply(Event::Hidden).await;
                // What is there to be shown was recorded before.
                self.actor.sink.feed.clear();
                // Nobody waits only where the request was given up.
                done.send(()).ok();
            }
            Command::Privacy(Privacy::Off, done) => {
                self.apply(Event::Shown).await;
                done.send(()).ok();
                let now = self.demand.now();
                self.heed(now).await;
            }
            Command::Snapshot(taker) => {
                self.snapshots.push(taker);
                self.serve_snapshots();
            }
        }
    }

    async fn configure(&mut self, settings: S, verdict: Verdict) {
        let former = self.actor.settings.send_replace(settings.clone());
        let is_tuned = settings.suits(&former);
        // The first picture of an earlier trial never came, so what was before it is what can be gone back to.
        let former = match self.trial.take() {
            Some(earlier) if !is_tuned => {
                earlier.verdict.send(Err(Error::Superseded)).ok();
                earlier.former
            }
            Some(earlier) => {
                self.trial = Some(earlier);
                former
            }
            None => former,
        };
        if is_tuned {
            if let Some(pipeline) = &self.pipeline {
                settings.tune(pipeline);
            }
            verdict.send(Ok(())).ok();
            // It may be wanted warm now, or not any more.
            let now = self.demand.now();
            return self.heed(now).await;
        }
        if matches!(self.state, State::Idle | State::Private) {
            verdict.send(Ok(())).ok();
            return;
        }
        self.trial = Some(Trial { former, verdict });
        self.apply(Event::Renewed).await;
    }

    /// The trial is over, if there was one: its settings hold.
    fn accept(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.verdict.send(Ok(())).ok();
        }
    }

    async fn heed(&mut self, demand: Demand) {
        let has_wish = std::mem::replace(&mut self.wishes, demand.key_frames) != demand.key_frames;
        if demand.viewers > 0 || self.actor.settings.borrow().warmth() == Warmth::Kept {
            self.timers.leave = None;
            if self.state == State::Idle {
                // The first frame of a pipeline is a key frame, which fulfils the wish.
                return self.apply(Event::Wanted).await;
            }
        } else if self.state != State::Idle && self.timers.leave.is_none() {
            self.timers.leave = Some(Instant::now() + GRACE);
        }
        if has_wish && matches!(self.state, State::Starting | State::Live) {
            self.timers.key_frame = self.key_frames.wish(Instant::now());
            self.force_due_key_frame(Instant::now());
        }
    }

    async fn hear(&mut self, event: pipeline::Event) {
        match event {
            pipeline::Event::FirstFrame => self.apply(Event::FirstFrame).await,
            pipeline::Event::Failed(failure) => self.fail(failure).await,
        }
    }

    async fn look(&mut self) {
        let now = Instant::now();
        let is_due = |timer: Option<Instant>| timer.is_some_and(|due| due <= now);
        self.force_due_key_frame(now);
        if is_due(self.timers.leave) {
            self.timers.leave = None;
            return self.apply(Event::Unwanted).await;
        }
        if is_due(self.timers.retry) {
            self.timers.retry = None;
            return self.apply(Event::RetryDue).await;
        }
        if is_due(self.timers.check) {
            self.timers.check = Some(now + CHECK);
            self.check(now).await;
        }
    }

    async fn check(&mut self, now: Instant) {
        let Some(pipeline) = &self.pipeline else { return };
        let patience = pipeline.graph().patience;
        let patience = if self.state == State::Live { patience.next } else { patience.first };
        let published = pipeline.published();
        if !self.works && published >= WORKS {
            self.works = true;
            locked(&self.actor.source).learn(Outcome::Works);
        }
        if self.progress.silence(published, now) < patience {
            return;
        }
        let (device, pictures) = (pipeline.graph().device.clone(), pipeline.damaged());
        match self.state {
            State::Starting if pictures > 0 => self.fail(Error::Damaged { device, pictures, waited: patience }).await,
            State::Starting => self.fail(Error::Silent { device, waited: patience }).await,
            _ => {
                tracing::warn!(%device, waited_ms = patience.as_millis() as u64, "no frames any more, restarting");
                if !self.works {
                    locked(&self.actor.source).learn(Outcome::Stalled);
                }
                self.apply(Event::Stalled).await;
            }
        }
    }

    fn force_due_key_frame(&mut self, now: Instant) {
        if self.timers.key_frame.is_some_and(|due| due <= now) {
            self.timers.key_frame = None;
            self.key_frames.forced(now);
            if let Some(pipeline) = &self.pipeline {
                pipeline.force_key_frame();
            }
        }
    }

    async fn fail(&mut self, failure: Error) {
        locked(&self.actor.source).learn(Outcome::Failed(&failure));
        // A device that is not there says nothing about the settings: they hold.
        if let Some(trial) = self.trial.take_if(|_| failure.is_of_settings()) {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "the new settings do not work, back to the former");
            self.actor.settings.send_replace(trial.former);
            trial.verdict.send(Err(failure)).ok();
            return self.apply(Event::Renewed).await;
        }
        let is_news = self.failure.as_ref().is_none_or(|known| known.to_string() != failure.to_string());
        if is_news {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "waiting");
        }
        self.failure = Some(failure);
        self.apply(Event::Failed).await;
    }

    async fn apply(&mut self, event: Event) {
        let (state, action) = self.state.on(event);
        self.state = state;
        match action {
            Action::Nothing => return,
            Action::Start => return self.start().await,
            Action::Restart => {
                self.stop().await;
                return self.start().await;
            }
            Action::Stop => {
                self.failure = None;
                self.backoff.reset();
                self.stop().await;
            }
            Action::Pause => {
                self.stop().await;
                let is_absent = self.failure.as_ref().is_some_and(Error::is_absence);
                if is_absent {
                    self.backoff.reset();
                }
                let pause = if is_absent { LOOK } else { self.backoff.pause() };
                self.timers.retry = Some(Instant::now() + pause);
            }
            Action::Settle => {
                self.failure = None;
                if let Some(graph) = self.pipeline.as_ref().map(Pipeline::graph) {
                    tracing::info!(device = %graph.device, mode = graph.mode.as_ref().map(tracing::field::display),
                        encoder = graph.encoder.as_ref().map(|encoder| encoder.kind.name), "frames flow");
                }
                self.backoff.reset();
                self.serve_snapshots();
            }
        }
        self.tell();
        // Whoever has this answer and asks for the status finds it there.
        self.accept();
    }

    async fn start(&mut self) {
        self.tell();
        // A device is opened once at a time: attempts must not pile up behind one that hangs.
        if let Some(closing) = &mut self.closing {
            if closing.closed.try_recv() == Err(TryRecvError::Empty) {
                let failure = Error::Stuck { device: closing.device.clone() };
                return Box::pin(self.fail(failure)).await;
            }
            self.closing = None;
        }
        self.works = false;
        let actor = &self.actor;
        let (source, sink, settings) = (actor.source.clone(), actor.sink.clone(), actor.settings.borrow().clone());
        let started = blocking(&actor.group, move || {
            gst::init().map_err(Error::broken)?;
            let graph = locked(&source).open(&settings)?;
            Pipeline::run(graph, sink)
        })
        .await;
        let pipeline = match started {
            Ok(pipeline) => pipeline,
            // Not `fail`: that calls `apply`, which called this.
            Err(failure) => return Box::pin(self.fail(failure)).await,
        };
        let now = Instant::now();
        self.key_frames.forced(now);
        self.progress = Progress { published: 0, since: Some(now) };
        self.timers = Timers { check: Some(now + CHECK), leave: self.timers.leave, ..Timers::default() };
        let graph = pipeline.graph();
        self.actor.status.send_modify(|status| {
            status.device.clone_from(&graph.device);
            status.mode.clone_from(&graph.mode);
            status.encoder = match (&graph.encoder, &graph.mode) {
                (Some(encoder), _) => Some(encoder.kind.name.to_owned()),
                (None, Some(_)) => Some(super::PASSTHROUGH.to_owned()),
                (None, None) => Some("opusenc".to_owned()),
            };
            let encoders = u32::from(graph.encoder.is_some() || graph.mode.is_none());
            status.encoder_starts += u64::from(encoders);
            status.encoders_running = encoders;
        });
        self.pipeline = Some(pipeline);
        self.tell();
    }

    async fn stop(&mut self) {
        self.timers = Timers::default();
        if let Some(pipeline) = self.pipeline.take() {
            let device = pipeline.graph().device.clone();
            let (done, closed) = oneshot::channel();
            self.actor.group.spawn_blocking(move || {
                drop(pipeline);
                // Nobody waits for it any more where it took too long.
                done.send(()).ok();
            });
            let mut closing = Closing { device, closed };
            if tokio::time::timeout(CLOSING, &mut closing.closed).await.is_err() {
                tracing::error!(device = %closing.device, waited_s = CLOSING.as_secs(), "the device does not let go");
                self.closing = Some(closing);
            }
        }
        self.actor.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
    }

    fn serve_snapshots(&mut self) {
        if let (State::Live, Some(pipeline)) = (self.state, &self.pipeline) {
            for taker in self.snapshots.drain(..) {
                snapshot::take(pipeline, taker);
            }
        }
    }

    /// Publishes state and reason where they changed.
    fn tell(&self) {
        let reason = match self.state {
            State::Private => Some(super::PRIVACY.to_owned()),
            _ => self.failure.as_ref().map(Error::to_string),
        };
        // Until an attempt brings a frame it is waited for: a status that says so four times a second tells nothing.
        let state = if self.state == State::Starting && reason.is_some() { State::Waiting } else { self.state };
        self.actor.status.send_if_modified(|status| {
            let is_news = (status.state, &status.reason) != (state, &reason);
            (status.state, status.reason) = (state, reason);
            is_news
        });
    }
}

async fn report(pipeline: &mut Option<Pipeline>) -> pipeline::Event {
    match pipeline {
        Some(pipeline) => pipeline.event().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(timer: Option<Instant>) {
    match timer {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
