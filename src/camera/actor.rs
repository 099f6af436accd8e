//! What keeps a camera or a microphone going: starts it for its viewers, stops it after them, restarts it when it
//! fails or falls silent, and passes on what viewers want of the encoder.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::media::{Demand, DemandWatch};
use crate::tasks::{Backoff, Group};

use super::attempt::{Device, Hiding, Opening, Told};
use super::due::{KeyFrames, Progress, Timers, sleep_until};
use super::opener::{Outcome, Settings, Shared, Warmth, unless_in_use};
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

/// What a handle asks of its actor.
#[derive(Debug)]
pub(super) enum Command<S> {
    /// Other settings; the answer when they are in effect or given up.
    Configure(S, Verdict),
    /// Another pipeline in the place of the running one.
    Restart,
    /// Privacy; the answer when the device is closed, or takes too long for it.
    Privacy(Privacy, oneshot::Sender<Result<(), Error>>),
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

/// The actor at work.
struct Running<'a, S> {
    actor: &'a mut Actor<S>,
    demand: DemandWatch,
    state: State,
    device: Device<S>,
    hiding: Option<Hiding>,
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
            device: Device::Closed,
            hiding: None,
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
        // The group waits for the thread that closes the device.
        running.stop();
    }
}

impl<S: Settings> Running<'_, S> {
    async fn run(&mut self) {
        let group = self.actor.group.clone();
        if self.actor.privacy == Privacy::On {
            self.apply(Event::Hidden);
        }
        let now = self.demand.now();
        self.follow(now);
        loop {
            let hiding = self.hiding.as_ref().map(|hiding| hiding.limit);
            let timer = [self.timers.next(), self.device.limit(), hiding].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = group.stopped() => return,
                Some(command) = self.actor.inbox.recv() => self.obey(command),
                demand = self.demand.changed() => self.follow(demand),
                told = self.device.told() => self.hear(told),
                () = sleep_until(timer) => self.look(),
            }
        }
    }

    fn obey(&mut self, command: Command<S>) {
        if let Command::Privacy(privacy, _) = command {
            self.actor.privacy = privacy;
        }
        match command {
            Command::Configure(settings, verdict) => self.configure(settings, verdict),
            Command::Restart => self.apply(Event::Renewed),
            Command::Privacy(Privacy::On, done) => {
                self.hiding.get_or_insert_default().told.push(done);
                self.apply(Event::Hidden);
                // What is there to be shown was recorded before.
                self.actor.sink.feed.clear();
                if self.device.closing().is_none() {
                    self.answer_hiding();
                }
            }
            Command::Privacy(Privacy::Off, done) => {
                self.answer_hiding();
                self.apply(Event::Shown);
                // Nobody waits only where the request was given up.
                done.send(Ok(())).ok();
                let now = self.demand.now();
                self.follow(now);
            }
            Command::Snapshot(taker) => {
                self.snapshots.push(taker);
                self.serve_snapshots();
            }
        }
    }

    fn configure(&mut self, settings: S, verdict: Verdict) {
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
            if let Some(pipeline) = self.device.pipeline() {
                settings.tune(pipeline);
            }
            verdict.send(Ok(())).ok();
            // It may be wanted warm now, or not any more.
            let now = self.demand.now();
            return self.follow(now);
        }
        if matches!(self.state, State::Idle | State::Private) {
            verdict.send(Ok(())).ok();
            return;
        }
        self.trial = Some(Trial { former, verdict });
        self.apply(Event::Renewed);
    }

    /// The trial is over, if there was one: its settings hold.
    fn accept(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.verdict.send(Ok(())).ok();
        }
    }

    fn follow(&mut self, demand: Demand) {
        let has_wish = std::mem::replace(&mut self.wishes, demand.key_frames) != demand.key_frames;
        if demand.viewers > 0 || self.actor.settings.borrow().warmth() == Warmth::Kept {
            self.timers.leave = None;
            if self.state == State::Idle {
                // The first frame of a pipeline is a key frame, which fulfils the wish.
                return self.apply(Event::Wanted);
            }
        } else if self.state != State::Idle && self.timers.leave.is_none() {
            self.timers.leave = Some(Instant::now() + GRACE);
        }
        if has_wish && matches!(self.state, State::Starting | State::Live) {
            self.timers.key_frame = self.key_frames.wish(Instant::now());
            self.force_due_key_frame(Instant::now());
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Opened(opened) => self.take_over(opened),
            Told::Reported(pipeline::Event::FirstFrame) => self.apply(Event::FirstFrame),
            Told::Reported(pipeline::Event::Outdated) => self.apply(Event::Renewed),
            Told::Reported(pipeline::Event::Failed(failure)) => self.fail(failure),
            Told::Closed => self.go_on(),
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let is_due = |timer: Option<Instant>| timer.is_some_and(|due| due <= now);
        self.force_due_key_frame(now);
        if is_due(self.hiding.as_ref().map(|hiding| hiding.limit)) {
            self.answer_hiding();
        }
        if is_due(self.device.limit()) {
            self.stop();
            return self.hang();
        }
        if is_due(self.timers.leave) {
            self.timers.leave = None;
            return self.apply(Event::Unwanted);
        }
        if is_due(self.timers.retry) {
            self.timers.retry = None;
            return self.apply(Event::RetryDue);
        }
        if is_due(self.timers.check) {
            self.timers.check = Some(now + CHECK);
            self.check(now);
        }
    }

    fn check(&mut self, now: Instant) {
        let Some(pipeline) = self.device.pipeline() else { return };
        let patience = pipeline.graph().patience;
        let patience = if self.state == State::Live { patience.next } else { patience.first };
        let published = pipeline.published();
        if !self.works && published >= WORKS {
            self.works = true;
            self.learn(Outcome::Works);
        }
        if self.progress.silence(published, now) < patience {
            return;
        }
        match self.state {
            State::Starting => self.fail(pipeline.silence(patience)),
            _ => {
                let device = &pipeline.graph().device;
                tracing::warn!(%device, waited_ms = patience.as_millis() as u64, "no frames any more, restarting");
                if !self.works {
                    self.learn(Outcome::Stalled);
                }
                self.apply(Event::Stalled);
            }
        }
    }

    fn force_due_key_frame(&mut self, now: Instant) {
        if self.timers.key_frame.is_some_and(|due| due <= now) {
            self.timers.key_frame = None;
            self.key_frames.forced(now);
            if let Some(pipeline) = self.device.pipeline() {
                pipeline.force_key_frame();
            }
        }
    }

    /// The device has hung for too long.
    fn hang(&mut self) {
        let Some(failure) = self.device.hangs() else { return };
        if self.state == State::Starting {
            return self.fail(failure);
        }
        tracing::error!(source = %self.actor.status.borrow().name, reason = %failure, "the device does not let go");
        self.tell();
    }

    /// The device is closed.
    fn go_on(&mut self) {
        self.device = Device::Closed;
        self.actor.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        self.answer_hiding();
        self.tell();
        if self.state == State::Starting {
            self.start();
        }
    }

    /// Tells those who wait for it whether the device is closed.
    fn answer_hiding(&mut self) {
        let Some(hiding) = self.hiding.take() else { return };
        // Before the answers, so that who has one and asks for the status finds it there.
        self.tell();
        hiding.answer(self.device.closing());
    }

    fn learn(&self, outcome: Outcome<'_>) {
        // In use is it only where opening hangs, of which there is nothing to learn.
        if let Some(mut source) = unless_in_use(&self.actor.source) {
            source.learn(outcome);
        }
    }

    fn fail(&mut self, failure: Error) {
        self.learn(Outcome::Failed(&failure));
        // A device that is not there says nothing about the settings: they hold.
        if let Some(trial) = self.trial.take_if(|_| failure.is_of_settings()) {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "the new settings do not work, back to the former");
            self.actor.settings.send_replace(trial.former);
            trial.verdict.send(Err(failure)).ok();
            return self.apply(Event::Renewed);
        }
        let is_news = self.failure.as_ref().is_none_or(|known| known.to_string() != failure.to_string());
        if is_news {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "waiting");
        }
        self.failure = Some(failure);
        self.apply(Event::Failed);
    }

    fn apply(&mut self, event: Event) {
        let (state, action) = self.state.on(event);
        self.state = state;
        match action {
            Action::Nothing => return,
            Action::Start => return self.start(),
            Action::Restart => {
                self.stop();
                return self.start();
            }
            Action::Stop => {
                self.failure = None;
                self.backoff.reset();
                self.stop();
                self.timers.leave = None;
            }
            Action::Pause => {
                self.stop();
                let is_absent = self.failure.as_ref().is_some_and(Error::is_absence);
                if is_absent {
                    self.backoff.reset();
                }
                let pause = if is_absent { LOOK } else { self.backoff.pause() };
                self.timers.retry = Some(Instant::now() + pause);
            }
            Action::Settle => {
                self.failure = None;
                if let Some(graph) = self.device.pipeline().map(Pipeline::graph) {
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

    fn start(&mut self) {
        self.tell();
        match self.device.closing() {
            None => {}
            Some(closing) if closing.limit.is_none() => return self.fail(closing.hangs()),
            // Once it is closed this is called again.
            Some(_) => return,
        }
        self.works = false;
        let actor = &self.actor;
        let settings = actor.settings.borrow().clone();
        let opening = Opening::begin(actor.source.clone(), actor.sink.clone(), settings, &actor.group);
        self.device = Device::Opening(opening);
    }

    fn take_over(&mut self, opened: Result<Box<Pipeline>, Error>) {
        let begun_with = self.device.begun_with();
        let pipeline = match opened {
            Ok(pipeline) => pipeline,
            Err(failure) => return self.fail(failure),
        };
        let settings = self.actor.settings.borrow().clone();
        if begun_with.is_some_and(|begun_with| begun_with != settings) {
            settings.tune(&pipeline);
        }
        let now = Instant::now();
        self.key_frames.forced(now);
        self.progress = Progress { published: 0, since: Some(now) };
        self.timers = Timers { check: Some(now + CHECK), leave: self.timers.leave, ..Timers::default() };
        self.actor.status.send_modify(|status| status.take_in(pipeline.graph()));
        self.device = Device::Open(pipeline);
        self.tell();
    }

    /// Has the device closed; nothing of it is published any more.
    fn stop(&mut self) {
        self.timers = Timers { leave: self.timers.leave, ..Timers::default() };
        self.device.let_go(&self.actor.status.borrow(), &self.actor.group);
    }

    fn serve_snapshots(&mut self) {
        if let (State::Live, Some(pipeline)) = (self.state, self.device.pipeline()) {
            for taker in self.snapshots.drain(..) {
                snapshot::take(pipeline, taker);
            }
        }
    }

    /// Publishes state and reason where they changed.
    fn tell(&self) {
        let reason = match self.state {
            State::Private => Some(match self.device.closing() {
                Some(closing) if self.hiding.is_none() => closing.may_be_open().to_string(),
                _ => super::PRIVACY.to_owned(),
            }),
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
