//! The capture processes of one source, one after the other: starts a process when it is needed, watches and ends
//! it, and passes what it has learned and what it died of to the next.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::capture::wire;
use crate::capture::{
    Begin, Blame, Built, Error, KnownDevice, LearnedState, LogSettings, Order, Question, Report, Role, Settings, Step,
};
use crate::media::Feed;
use crate::tasks::Group;

use super::device_state::{CurrentStep, DeviceState, TRIAL_LIMIT};
use super::launcher::{Exit, Launcher};
use super::pending_questions::{PendingQuestions, Responder};
use super::process::{End, Process, ProcessEvent};

/// Time limit of an answer. Drivers that answer at all do so within milliseconds; a snapshot takes as long as a
/// cold camera needs to measure light.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A process that ends so soon after its start has done nothing yet.
const QUICK_EXIT: Duration = Duration::from_secs(10);

/// So many quick ends in a row are no accident, whatever the exit status is.
const CRASH_LOOP: u32 = 3;

/// Events of a process for the actor.
#[derive(Debug)]
pub(super) enum SupervisorEvent {
    /// The graph is built.
    Built(u32, Built),
    /// The first frame was published.
    FirstFrame(u32),
    /// The attempt cannot continue.
    Failed(u32, Error),
    /// Frames came and then stopped.
    Stalled(u32),
    /// It captures a substitute for a device, and the device may be there now.
    Outdated(u32),
    /// The device is closed.
    Closed(u32),
    /// The process has ended, and its device is closed with it: the cause, and the error to report.
    Ended(EndCause, Error),
    /// The process was killed, but is still there.
    Remains,
}

/// Why a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndCause {
    /// It was killed because it hung.
    Hung,
    /// It could not be started, or violated the protocol.
    Unfit,
    /// It exited on its own, or another program ended it.
    Accident,
}

/// Why a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KillReason {
    /// It hangs. The next process skips what it was doing.
    Hangs(&'static str),
    /// It may be working, but takes too long, for example with privacy. Nothing is blamed.
    TooSlow,
}

impl KillReason {
    fn words(self) -> &'static str {
        match self {
            Self::Hangs(why) => why,
            Self::TooSlow => "it did not close its device in time",
        }
    }
}

/// Owner of a source's capture process.
pub(super) struct Supervisor {
    launcher: Launcher,
    log: watch::Receiver<LogSettings>,
    /// The source that it captures, in a word.
    name: String,
    feed: Feed,
    /// The role of its processes; for a camera with the control values known at that time.
    role: Box<dyn Fn() -> Role + Send>,
    known_device: Option<watch::Sender<KnownDevice>>,
    process: Option<Process>,
    doing: CurrentStep,
    memory: LearnedState,
    /// The cause of the last process's end, unless that was an accident.
    blame: Option<Blame>,
    /// Why it was killed, if it was.
    killed: Option<KillReason>,
    /// Number of quick ends in a row.
    quick_exits: u32,
    attempts: u32,
    /// Permission to try an encoder, and since when the process has it.
    permit: Option<(OwnedSemaphorePermit, Instant)>,
    questions: PendingQuestions,
}

impl Supervisor {
    pub(super) fn new(
        launcher: Launcher,
        name: &str,
        feed: Feed,
        role: impl Fn() -> Role + Send + 'static,
        known_device: Option<watch::Sender<KnownDevice>>,
    ) -> Self {
        Self {
            log: launcher.log(),
            launcher,
            name: name.to_owned(),
            feed,
            role: Box::new(role),
            known_device,
            process: None,
            doing: CurrentStep::at_launch(),
            memory: LearnedState::Null,
            blame: None,
            killed: None,
            quick_exits: 0,
            attempts: 0,
            permit: None,
            questions: PendingQuestions::default(),
        }
    }

    /// The feed for its frames.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Whether a process runs.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether questions wait for answers.
    pub(super) fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    /// How long a process stays after its last use.
    pub(super) fn linger(&self) -> Duration {
        self.launcher.linger()
    }

    /// Whether the next process will skip an encoder or a node that the last one died of.
    pub(super) fn has_step_to_skip(&self) -> bool {
        let is_named = |step: &Step| matches!(step, Step::Trying { .. } | Step::Looking { at: Some(_) });
        self.blame.as_ref().is_some_and(|blame| is_named(&blame.step))
    }

    /// Whether several processes in a row ended soon after their start.
    pub(super) fn is_crash_looping(&self) -> bool {
        self.quick_exits >= CRASH_LOOP
    }

    /// Starts a process, unless one runs.
    pub(super) fn start(&mut self, group: &Group) -> &Process {
        let Self { launcher, log, name, feed, role, memory, blame, .. } = self;
        self.process.get_or_insert_with(|| {
            self.doing = CurrentStep::at_launch();
            self.killed = None;
            let begin = Begin {
                version: wire::VERSION,
                role: role(),
                log: log.borrow_and_update().clone(),
                memory: memory.clone(),
                blame: blame.take(),
            };
            Process::launch(launcher, name, &begin, feed.clone(), group)
        })
    }

    /// Ends the process, which closes its device. The group waits for its exit.
    pub(super) fn end_process(&mut self) {
        if self.process.take().is_some_and(|process| process.launched.elapsed() >= QUICK_EXIT) {
            self.quick_exits = 0;
        }
        self.permit = None;
        self.questions.refuse_all(&Error::Closed);
    }

    /// Opens the device. Returns the number of the attempt.
    pub(super) fn open(&mut self, settings: Settings, group: &Group) -> u32 {
        self.attempts = self.attempts.wrapping_add(1);
        let attempt = self.attempts;
        // The frames of an earlier attempt cannot be continued by this one.
        self.feed.clear();
        self.start(group).publish(Some(attempt));
        // It may have been at rest for long.
        self.doing.since = Instant::now();
        self.order(&Order::Open { attempt, settings });
        attempt
    }

    /// Closes the device; none of its frames are published from now on.
    pub(super) fn close(&mut self, attempt: u32) {
        if let Some(process) = &self.process {
            process.publish(None);
        }
        self.order(&Order::Close { attempt });
    }

    /// Sends an order, if a process runs. A process that no longer reads hangs.
    pub(super) fn order(&mut self, order: &Order) {
        if self.process.as_ref().is_some_and(|process| !process.send(order)) {
            self.kill(KillReason::Hangs("it reads no orders"));
        }
    }

    /// Number of published frames of the attempt.
    pub(super) fn published(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::published)
    }

    /// Asks the process, and starts one if needed. The answer goes to `responder`.
    pub(super) fn ask(&mut self, question: Question, responder: Responder, group: &Group) {
        self.ask_with_limit(question, responder, ANSWER_LIMIT, group);
    }

    /// Like [`Self::ask`], with the time limit `patience`.
    pub(super) fn ask_with_limit(
        &mut self,
        question: Question,
        responder: Responder,
        patience: Duration,
        group: &Group,
    ) {
        let Some(request) = self.questions.add(responder, patience) else { return };
        self.start(group);
        self.order(&Order::Ask { request, question });
    }

    /// When the next question times out.
    pub(super) fn next_answer_limit(&self) -> Option<Instant> {
        self.questions.next_limit()
    }

    /// Answers the questions that have timed out. `device` is the device that does not answer.
    pub(super) fn expire_answers(&mut self, device: &str) {
        self.questions.expire(device);
    }

    /// Whether the process hangs with `device`, from which no frame has come for `silence`.
    pub(super) fn hangs(&self, device: &DeviceState, silence: Duration) -> bool {
        let Some(process) = self.process.as_ref().filter(|_| self.killed.is_none()) else { return false };
        // Whatever steps it reports: all others wait for the permission that it holds.
        let keeps_permit = self.permit.as_ref().is_some_and(|(_, since)| since.elapsed() > TRIAL_LIMIT);
        keeps_permit || self.doing.hangs(device, process.published() > 0, silence)
    }

    /// Restarts all time limits: this process itself did not run, and messages of the other one are still unread.
    pub(super) fn reset_timers(&mut self) {
        let now = Instant::now();
        self.doing.since = now;
        if let Some((_, since)) = &mut self.permit {
            *since = now;
        }
    }

    /// Whether a process runs that may hang although it has no device open.
    pub(super) fn is_busy(&self) -> bool {
        self.is_running() && self.doing.step != Some(Step::Resting)
    }

    /// The present step of the process, in words.
    pub(super) fn doing(&self) -> String {
        self.doing.in_words()
    }

    /// Kills the process. Its end comes as [`SupervisorEvent::Ended`].
    pub(super) fn kill(&mut self, reason: KillReason) {
        if let Some(process) = &self.process {
            process.publish(None);
            process.kill();
            self.killed.get_or_insert(reason);
        }
    }

    /// The next report of the process; never returns without a process. Cancel safe. `device` is its device, in words.
    pub(super) async fn next_event(&mut self, device: &str) -> SupervisorEvent {
        loop {
            let wants_permit = self.permit.is_none() && self.doing.step == Some(Step::Waiting);
            let permit = self.launcher.encoder_trial.clone();
            let Some(process) = &mut self.process else { return std::future::pending().await };
            let event = tokio::select! {
                biased;
                event = process.event() => event,
                Ok(()) = self.log.changed() => {
                    let filter = self.log.borrow_and_update().filter.clone();
                    self.order(&Order::Log { filter });
                    continue;
                }
                Ok(permit) = permit.acquire_owned(), if wants_permit => {
                    self.permit = Some((permit, Instant::now()));
                    self.order(&Order::Try);
                    continue;
                }
            };
            match event {
                ProcessEvent::Report(report) => {
                    if let Some(event) = self.handle_report(report) {
                        return event;
                    }
                }
                ProcessEvent::FirstFrame(attempt) => return SupervisorEvent::FirstFrame(attempt),
                ProcessEvent::Picture(request, jpeg) => self.questions.picture(request, jpeg, &self.name),
                ProcessEvent::Remains => return SupervisorEvent::Remains,
                ProcessEvent::Ended(end) => return self.handle_exit(end, device),
            }
        }
    }

    fn handle_report(&mut self, report: Report) -> Option<SupervisorEvent> {
        match report {
            // Its version was checked when the report came.
            Report::Hello { .. } => self.doing = CurrentStep { step: Some(Step::Resting), since: Instant::now() },
            Report::Doing(step) => {
                if step != Step::Waiting && !matches!(step, Step::Trying { .. }) {
                    self.permit = None;
                }
                self.doing = CurrentStep { step: Some(step), since: Instant::now() };
            }
            Report::Built { attempt, built } => return Some(SupervisorEvent::Built(attempt, built)),
            Report::Failed { attempt, error } => return Some(SupervisorEvent::Failed(attempt, error)),
            Report::Stalled { attempt } => return Some(SupervisorEvent::Stalled(attempt)),
            Report::Outdated { attempt } => return Some(SupervisorEvent::Outdated(attempt)),
            Report::Closed { attempt } => return Some(SupervisorEvent::Closed(attempt)),
            Report::Remember(memory) => self.memory = memory,
            Report::Controls(values) => self.update_known(|known| &mut known.controls, values),
            Report::Sizes(sizes) => self.update_known(|known| &mut known.sizes, sizes),
            // Nobody orders one yet.
            Report::Rendition { .. } => {}
            Report::Answer { request, answer } => self.questions.answer(request, answer, &self.name),
        }
        None
    }

    /// Updates a part of what is known of the device.
    fn update_known<T: PartialEq>(&self, part: impl Fn(&mut KnownDevice) -> &mut T, now: T) {
        if let Some(known_device) = &self.known_device {
            known_device.send_if_modified(|known| {
                let known = part(known);
                let is_news = *known != now;
                *known = now;
                is_news
            });
        }
    }

    /// Handles the end of a process. The next process skips what it was doing, unless the end was an accident.
    fn handle_exit(&mut self, end: End, device: &str) -> SupervisorEvent {
        let age = self.process.take().map_or(Duration::ZERO, |process| process.launched.elapsed());
        self.permit = None;
        match self.killed {
            _ if age >= QUICK_EXIT => self.quick_exits = 0,
            Some(KillReason::TooSlow) => {}
            _ => self.quick_exits += 1,
        }
        let device = device.to_owned();
        let (cause, how, error) = match (self.killed.take(), end) {
            (Some(reason), _) => {
                let why = reason.words();
                let error = match &self.doing.step {
                    Some(Step::Trying { encoder }) => Error::EncoderHangs { encoder: encoder.clone() },
                    Some(Step::Looking { at: Some(node) }) => {
                        Error::Stuck { device: node.clone(), verb: "opened".into() }
                    }
                    Some(Step::Loading | Step::Starting { .. } | Step::Looking { at: None }) | None => {
                        Error::Stuck { device, verb: "opened".into() }
                    }
                    Some(Step::Stopping { .. }) => Error::Stuck { device, verb: "closed".into() },
                    _ => Error::Ended { device, how: format!("{why} and was killed") },
                };
                let how = matches!(reason, KillReason::Hangs(_)).then(|| why.to_owned());
                (EndCause::Hung, how, error)
            }
            (None, End::NotStarted(error)) => {
                let is_missing = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
                let advice = if is_missing { "; install the package peercam again" } else { "" };
                (EndCause::Unfit, None, Error::NotStarted { why: error.to_string(), advice: advice.into() })
            }
            (None, End::Misbehaved(why)) => (EndCause::Unfit, Some(why.clone()), Error::Misbehaved { device, why }),
            (None, End::Exit(exit)) => {
                let how = exit.to_string();
                // The exit status of a process that systemd has started is unknown.
                let is_unknown = exit == Exit::Unknown && self.doing.step.as_ref().is_some_and(Step::may_crash);
                let is_fault = exit.is_crash() || is_unknown || self.quick_exits >= CRASH_LOOP && exit != Exit::Code(0);
                (EndCause::Accident, is_fault.then(|| how.clone()), Error::Ended { device, how })
            }
        };
        let step = self.doing.step.take();
        // A graph that ran for a while may do so again; one that dies soon each time will not.
        let step = step.filter(|step| !matches!(step, Step::Running { .. }) || self.quick_exits > 1);
        self.blame = how.zip(step).map(|(how, step)| Blame { step, how });
        self.questions.refuse_all(&error);
        SupervisorEvent::Ended(cause, error)
    }
}
