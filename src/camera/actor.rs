//! What keeps a camera or a microphone going: starts it for its viewers, stops it after them, restarts it when it
//! fails or falls silent, and passes on what viewers want of the encoder.

use std::time::{Duration, Instant};

use gstreamer as gst;
use tokio::sync::{mpsc, oneshot, watch};

use crate::media::{Demand, DemandWatch};
use crate::tasks::{Backoff, Group};

use super::due::{KeyFrames, Progress, Timers};
use super::pipeline::{self, Graph, Pipeline, Sink};
use super::snapshot::{self, Picture};
use super::state::{Action, Event};
use super::{Error, Privacy, State, Status};

/// How long a source runs on without viewers: a page that is reloaded finds it running.
const GRACE: Duration = Duration::from_secs(2);

/// How often progress is looked at; with [`STALLED`] a silent stall is noticed within a second.
const CHECK: Duration = Duration::from_millis(200);

/// Without frames for so long, a live source has stalled.
const STALLED: Duration = Duration::from_millis(800);

/// In so many frame intervals one frame at least must come, however low the rate.
const STALLED_INTERVALS: f64 = 4.0;

/// How long a first frame may take: sensors measure light first, and some encoders load firmware.
const FIRST_FRAME: Duration = Duration::from_secs(4);

/// How often a device that is not there is looked for. Looking is cheap, so that its return is noticed fast.
const LOOK: Duration = Duration::from_millis(250);

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

/// The configuration of a camera or of the microphone, as far as their actor has to understand it.
pub(super) trait Settings: Clone + PartialEq + Send + Sync + 'static {
    /// Whether a pipeline that was started with `running` only needs to be tuned.
    fn suits(&self, running: &Self) -> bool;
    /// Turns what can be turned while it runs.
    fn tune(&self, pipeline: &Pipeline);
    /// What happens when nobody watches.
    fn warmth(&self) -> Warmth;
}

/// Describes the graph to run for the next attempt. Blocks.
pub(super) type Open<S> = Box<dyn FnMut(&S) -> Result<Graph, Error> + Send>;

/// What an actor is made of.
pub(super) struct Actor<S> {
    pub(super) open: Open<S>,
    pub(super) sink: Sink,
    pub(super) settings: watch::Sender<S>,
    pub(super) privacy: Privacy,
    pub(super) status: watch::Sender<Status>,
    pub(super) inbox: mpsc::UnboundedReceiver<Command<S>>,
    pub(super) group: Group,
}

/// What happens to a source that nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warmth {
    /// It runs on.
    Kept,
    /// Its device is closed.
    Closed,
}

/// New settings whose first picture is waited for.
struct Trial<S> {
    former: S,
    verdict: Verdict,
}

/// The actor at work.
struct Running<S> {
    actor: Actor<S>,
    demand: DemandWatch,
    state: State,
    pipeline: Option<Pipeline>,
    timers: Timers,
    backoff: Backoff,
    key_frames: KeyFrames,
    wishes: u64,
    progress: Progress,
    failure: Option<Error>,
    snapshots: Vec<oneshot::Sender<Picture>>,
    trial: Option<Trial<S>>,
}

impl<S: Settings> Actor<S> {
    /// Runs until the group stops.
    pub(super) async fn run(self) {
        let mut running = Running {
            demand: self.sink.feed.demand(),
            actor: self,
            state: State::Idle,
            pipeline: None,
            timers: Timers::default(),
            // A device that is busy or broken becomes free unannounced; its picture is to be back within 2 s.
            backoff: Backoff::new(LOOK, Duration::from_millis(1500)),
            key_frames: KeyFrames::default(),
            wishes: 0,
            progress: Progress::default(),
            failure: None,
            snapshots: Vec::new(),
            trial: None,
        };
        running.run().await;
        running.stop().await;
    }
}

impl<S: Settings> Running<S> {
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
        let fps = pipeline.graph().mode.as_ref().map_or(f64::INFINITY, |mode| mode.fps);
        let patience = match self.state {
            State::Live => STALLED.max(Duration::from_secs_f64(STALLED_INTERVALS / fps.max(0.1))),
            _ => FIRST_FRAME,
        };
        if self.progress.silence(pipeline.published(), now) < patience {
            return;
        }
        let device = pipeline.graph().device.clone();
        match self.state {
            State::Starting => self.fail(Error::Silent { device, waited: patience }).await,
            _ => {
                tracing::warn!(%device, waited_ms = patience.as_millis() as u64, "no frames any more, restarting");
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
        // A device that is not there says nothing about the settings: they hold.
        if let Some(trial) = self.trial.take_if(|_| !failure.is_absence()) {
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
        let Self { actor, .. } = self;
        let mut open = std::mem::replace(&mut actor.open, Box::new(|_| unreachable!("one start at a time")));
        let (sink, settings) = (actor.sink.clone(), actor.settings.borrow().clone());
        let (open, started) = blocking(&actor.group, move || {
            let started = gst::init()
                .map_err(Error::broken)
                .and_then(|()| open(&settings))
                .and_then(|graph| Pipeline::run(graph, sink));
            (open, started)
        })
        .await;
        self.actor.open = open;
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
            blocking(&self.actor.group, move || drop(pipeline)).await;
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

/// Runs what may block on a thread for such work.
pub(super) async fn blocking<T: Send + 'static>(group: &Group, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = oneshot::channel();
    group.spawn_blocking(move || {
        // Nobody takes the outcome only when the process ends.
        done.send(work()).ok();
    });
    outcome.await.expect("starting and stopping a pipeline does not panic")
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
