//! The actor of a camera or microphone: starts it for its viewers, stops it after them, restarts it when it fails
//! or stalls, and passes viewers' requests to the encoder.

mod lifecycle;

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::{Error, Order, PRIVACY, Question};
use crate::media::{Demand, DemandWatch};
use crate::tasks::{Backoff, Group, sleep_until};

use super::device_state::{DeviceState, PrivacyRequests};
use super::keyframe_throttle::KeyFrameThrottle;
use super::pending_questions::{MAX_PENDING, Responder};
use super::settings::{IdlePolicy, Settings};
use super::state_machine::{Action, Trigger};
use super::supervisor::{KillReason, Supervisor};
use super::timers::{LastCheck, SilenceTimer, Timers};
use super::{Privacy, State, Status};

/// How long a source keeps running without viewers, so that a page that is reloaded finds it running.
const GRACE: Duration = Duration::from_secs(2);

/// How often progress is checked, so that a silent stall is noticed within a second.
const CHECK: Duration = Duration::from_millis(200);

/// Time after which the status explains to waiting viewers why the first picture is late.
const SLOW: Duration = Duration::from_secs(5);

/// A check that comes so late shows that this process itself did not run; it proves nothing about the other one.
const LATE_CHECK: Duration = Duration::from_millis(300);

/// How often to look for a missing device. A look is cheap, so its return is noticed fast.
const ABSENT_RETRY: Duration = Duration::from_millis(250);

/// Commands from a handle to its actor.
pub(super) enum Command<S> {
    /// Other settings; the answer comes when they are in effect or rejected.
    Configure(S, OutcomeSender),
    /// Replace the running pipeline by another.
    Restart,
    /// Privacy; the answer comes when the device is closed, or takes too long to close.
    Privacy(Privacy, oneshot::Sender<Result<(), Error>>),
    /// A question to the capture process, which is started for it. A snapshot waits until frames come.
    Ask(Question, Responder),
    /// Start the capture process, because a viewer is likely to come soon.
    Prewarm,
}

/// Receives the outcome of new settings.
pub(super) type OutcomeSender = oneshot::Sender<Result<(), Error>>;

/// The state of an actor that survives a panic.
pub(super) struct Actor<S> {
    pub(super) supervisor: Supervisor,
    pub(super) settings: watch::Sender<S>,
    pub(super) privacy: Privacy,
    pub(super) status: watch::Sender<Status>,
    pub(super) inbox: mpsc::UnboundedReceiver<Command<S>>,
    pub(super) group: Group,
    /// When it last checked for frames, for the health check.
    pub(super) last_check: LastCheck,
}

/// New settings that are on trial until their first picture.
struct SettingsTrial<S> {
    former: S,
    outcome: OutcomeSender,
}

/// The actor at work.
struct Running<'a, S> {
    actor: &'a mut Actor<S>,
    demand: DemandWatch,
    state: State,
    device: DeviceState,
    /// The settings that the attempt was started with.
    started_with: Option<S>,
    privacy_requests: Option<PrivacyRequests>,
    timers: Timers,
    backoff: Backoff,
    key_frames: KeyFrameThrottle,
    key_frame_requests: u64,
    silence_timer: SilenceTimer,
    /// When the device was asked to open.
    opened: Option<Instant>,
    failure: Option<Error>,
    /// Snapshots that wait for frames.
    snapshots: Vec<Responder>,
    trial: Option<SettingsTrial<S>>,
}

impl<S: Settings> Actor<S> {
    /// Runs until the group stops. After a panic it can run again: privacy, settings and the inbox are kept.
    pub(super) async fn run(&mut self) {
        self.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        // The state of the process after a panic is unknown.
        self.supervisor.end_process();
        let mut running = Running {
            demand: self.supervisor.feed().demand(),
            actor: self,
            state: State::Idle,
            device: DeviceState::Closed,
            started_with: None,
            privacy_requests: None,
            timers: Timers::default(),
            // A device that is busy or broken becomes free unannounced; its picture must be back within 2 s.
            backoff: Backoff::new(ABSENT_RETRY, Duration::from_millis(1500)),
            key_frames: KeyFrameThrottle::default(),
            key_frame_requests: 0,
            silence_timer: SilenceTimer::default(),
            opened: None,
            failure: None,
            snapshots: Vec::new(),
            trial: None,
        };
        running.run().await;
        // The group waits for the end of the process.
        running.actor.supervisor.end_process();
    }
}

impl<S: Settings> Running<'_, S> {
    async fn run(&mut self) {
        let group = self.actor.group.clone();
        if self.actor.privacy == Privacy::On {
            self.apply(Trigger::PrivacyOn);
        }
        let now = self.demand.now();
        self.handle_demand(now);
        loop {
            let privacy_requests = self.privacy_requests.as_ref().map(|privacy_requests| privacy_requests.limit);
            let closing = self.device.closing().and_then(|closing| closing.limit);
            let timers = [self.timers.next(), closing, privacy_requests, self.actor.supervisor.next_answer_limit()];
            let timer = timers.into_iter().flatten().min();
            let device = self.in_words();
            tokio::select! {
                biased;
                () = group.stopped() => return,
                Some(command) = self.actor.inbox.recv() => self.handle_command(command),
                demand = self.demand.changed() => self.handle_demand(demand),
                event = self.actor.supervisor.next_event(&device) => self.handle_event(event),
                () = sleep_until(timer) => self.handle_timers(),
            }
        }
    }

    fn handle_command(&mut self, command: Command<S>) {
        if let Command::Privacy(privacy, _) = command {
            self.actor.privacy = privacy;
        }
        match command {
            Command::Configure(settings, outcome) => self.configure(settings, outcome),
            Command::Restart => self.apply(Trigger::RestartRequested),
            Command::Privacy(Privacy::On, done) => {
                self.privacy_requests.get_or_insert_default().waiting.push(done);
                self.snapshots.drain(..).for_each(|responder| responder.refuse(Error::Private));
                self.apply(Trigger::PrivacyOn);
                // The frames in the feed were recorded before.
                self.actor.supervisor.feed().clear();
                if self.device.closing().is_none() {
                    self.answer_privacy();
                }
            }
            Command::Privacy(Privacy::Off, done) => {
                self.answer_privacy();
                self.apply(Trigger::PrivacyOff);
                // The receiver is gone only if it no longer wants the answer.
                done.send(Ok(())).ok();
                let now = self.demand.now();
                self.handle_demand(now);
            }
            Command::Ask(_, responder) if self.state == State::Private => responder.refuse(Error::Private),
            Command::Ask(Question::Snapshot, responder) => {
                self.snapshots.retain(|waiting| !waiting.is_closed());
                if self.snapshots.len() >= MAX_PENDING {
                    return responder.refuse(Error::TooMany);
                }
                self.snapshots.push(responder);
                self.serve_snapshots();
            }
            Command::Ask(question, responder) => {
                let group = self.actor.group.clone();
                self.actor.supervisor.ask(question, responder, &group);
                self.schedule_process_end();
            }
            Command::Prewarm if self.state == State::Private => {}
            Command::Prewarm => {
                let group = self.actor.group.clone();
                self.actor.supervisor.start(&group);
                self.schedule_process_end();
            }
        }
    }

    fn configure(&mut self, settings: S, outcome: OutcomeSender) {
        let former = self.actor.settings.send_replace(settings.clone());
        let is_tuned = settings.can_retune(&former);
        // The first picture of an earlier trial never came, so its former settings are the ones to go back to.
        let former = match self.trial.take() {
            Some(earlier) if !is_tuned => {
                earlier.outcome.send(Err(Error::Superseded)).ok();
                earlier.former
            }
            Some(earlier) => {
                self.trial = Some(earlier);
                former
            }
            None => former,
        };
        if is_tuned {
            self.tune(&settings);
            outcome.send(Ok(())).ok();
            // Whether it is kept warm may have changed.
            let now = self.demand.now();
            return self.handle_demand(now);
        }
        if matches!(self.state, State::Idle | State::Private) {
            outcome.send(Ok(())).ok();
            return;
        }
        self.trial = Some(SettingsTrial { former, outcome });
        self.apply(Trigger::RestartRequested);
    }

    /// Ends the trial, if there is one: its settings stay.
    fn accept_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.outcome.send(Ok(())).ok();
        }
    }

    fn handle_demand(&mut self, demand: Demand) {
        let is_requested = std::mem::replace(&mut self.key_frame_requests, demand.key_frames) != demand.key_frames;
        if demand.readers() > 0 || self.actor.settings.borrow().idle_policy() == IdlePolicy::KeepRunning {
            self.timers.stop_source = None;
            if self.state == State::Idle {
                // The first frame of a pipeline is a key frame, which fulfils the request.
                return self.apply(Trigger::DemandStarted);
            }
        } else if self.state != State::Idle && self.timers.stop_source.is_none() {
            self.timers.stop_source = Some(Instant::now() + GRACE);
        }
        if is_requested && matches!(self.state, State::Starting | State::Live) {
            self.timers.key_frame = self.key_frames.schedule(Instant::now());
            self.force_due_key_frame(Instant::now());
        }
    }

    fn handle_timers(&mut self) {
        let now = Instant::now();
        let is_due = |timer: Option<Instant>| timer.is_some_and(|due| due <= now);
        self.force_due_key_frame(now);
        if is_due(self.actor.supervisor.next_answer_limit()) {
            let device = self.in_words();
            self.actor.supervisor.expire_answers(&device);
            self.schedule_process_end();
        }
        if is_due(self.privacy_requests.as_ref().map(|privacy_requests| privacy_requests.limit)) {
            self.answer_privacy();
        }
        if let DeviceState::Closing(closing) = &mut self.device
            && is_due(closing.limit)
        {
            closing.limit = None;
            self.actor.supervisor.kill(KillReason::TooSlow);
        }
        if is_due(self.timers.stop_source) {
            self.timers.stop_source = None;
            return self.apply(Trigger::DemandEnded);
        }
        if is_due(self.timers.end_process) {
            self.timers.end_process = None;
            self.end_idle_process();
        }
        if is_due(self.timers.retry) {
            self.timers.retry = None;
            return self.apply(Trigger::RetryDue);
        }
        if let Some(due) = self.timers.check.filter(|due| *due <= now) {
            let is_watched = !matches!(self.device, DeviceState::Closed) || self.actor.supervisor.is_busy();
            self.timers.check = is_watched.then_some(now + CHECK);
            if now - due > LATE_CHECK {
                // Messages sent meanwhile are still unread.
                self.silence_timer.since = Some(now);
                self.actor.supervisor.reset_timers();
            }
            self.check(now);
        }
    }

    /// Checks whether the process hangs. The process itself checks its device's frames.
    fn check(&mut self, now: Instant) {
        self.actor.last_check.set(now);
        let silence = self.silence_timer.silence(self.actor.supervisor.published(), now);
        if self.state == State::Starting {
            // It may be slow by now.
            self.publish_status();
        }
        if self.actor.supervisor.hangs(&self.device, silence) {
            tracing::warn!(device = self.in_words(), "the capture process hangs and is killed");
            self.actor.supervisor.kill(KillReason::Hangs("it hung"));
        }
    }

    fn force_due_key_frame(&mut self, now: Instant) {
        if self.timers.key_frame.is_some_and(|due| due <= now) {
            self.timers.key_frame = None;
            self.key_frames.forced(now);
            if self.device.built().is_some() {
                self.actor.supervisor.order(&Order::KeyFrame { rendition: 0 });
            }
        }
    }

    /// Answers the requests that wait for the device to be closed.
    fn answer_privacy(&mut self) {
        let Some(privacy_requests) = self.privacy_requests.take() else { return };
        // Before the answers, so that a status requested after an answer has it.
        self.publish_status();
        privacy_requests.answer(self.device.closing());
    }

    fn fail(&mut self, failure: Error) {
        // A missing device proves nothing about the settings: they stay.
        if let Some(trial) = self.trial.take_if(|_| failure.is_of_settings()) {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "the new settings do not work, going back to the former");
            self.actor.settings.send_replace(trial.former);
            trial.outcome.send(Err(failure)).ok();
            return self.apply(Trigger::RestartRequested);
        }
        let is_news = self.failure.as_ref().is_none_or(|known| known.to_string() != failure.to_string());
        if is_news {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "waiting");
        }
        self.failure = Some(failure);
        self.apply(Trigger::Failed);
    }

    fn apply(&mut self, trigger: Trigger) {
        let (state, action) = self.state.on(trigger);
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
                self.timers.stop_source = None;
            }
            Action::Pause => {
                self.stop();
                let is_absent = self.failure.as_ref().is_some_and(Error::is_absence);
                if is_absent {
                    self.backoff.reset();
                }
                let pause = if is_absent { ABSENT_RETRY } else { self.backoff.pause() };
                self.timers.retry = Some(Instant::now() + pause);
            }
            Action::MarkLive => {
                self.failure = None;
                if let Some(built) = self.device.built() {
                    tracing::info!(device = %built.device, mode = built.mode.as_ref().map(tracing::field::display),
                        encoder = built.encoder, "frames come");
                }
                self.backoff.reset();
                self.serve_snapshots();
            }
        }
        self.publish_status();
        // Before the answer, so that a status requested after it has the new values.
        self.accept_trial();
    }

    /// Explains a slow start, unless it has failed.
    fn slowness(&self) -> Option<String> {
        let is_slow = self.opened.is_some_and(|opened| opened.elapsed() > SLOW);
        is_slow.then(|| format!("it takes long to start: {}", self.actor.supervisor.doing()))
    }

    /// Publishes state and reason if they changed.
    fn publish_status(&self) {
        let reason = match self.state {
            State::Private => Some(match self.device.closing() {
                Some(closing) if self.privacy_requests.is_none() => closing.may_be_open_error().to_string(),
                _ => PRIVACY.to_owned(),
            }),
            State::Starting => self.failure.as_ref().map(Error::to_string).or_else(|| self.slowness()),
            _ => self.failure.as_ref().map(Error::to_string),
        };
        // Until an attempt delivers a frame the state is waiting: a status that changes four times a second would
        // be useless.
        let state = if self.state == State::Starting && reason.is_some() { State::Waiting } else { self.state };
        self.actor.status.send_if_modified(|status| {
            let is_news = (status.state, &status.reason) != (state, &reason);
            (status.state, status.reason) = (state, reason);
            is_news
        });
    }
}
