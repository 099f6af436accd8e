//! The capture process of one source, for as many processes as that takes: it is started when it is needed, watched, and
//! ended; what one has learned and what it died of is handed to the next.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::capture::wire;
use crate::capture::{
    Adjustments, Begin, Blame, Built, Error, Log, Memory, Order, Question, Report, Role, Settings, Step,
};
use crate::tasks::Group;

use super::device::{Device, Doing, TRYING};
use super::launcher::{Exit, Launcher};
use super::process::{End, Event, Process, Sink};
use super::questions::{Asker, Questions};

/// How long an answer may take. Drivers that answer at all do so within milliseconds, a snapshot within the time that a
/// cold camera needs to measure light.
const ANSWER: Duration = Duration::from_secs(5);

/// A process that ends so soon after its start has done nothing yet.
const SOON: Duration = Duration::from_secs(10);

/// So often in a row, ends so soon are no accident, whatever they are called.
const OFTEN: u32 = 3;

/// What is learned from a process.
#[derive(Debug)]
pub(super) enum Heard {
    /// The graph is built.
    Built(u32, Built),
    /// The first frame was published.
    FirstFrame(u32),
    /// The attempt cannot go on.
    Failed(u32, Error),
    /// Frames came, and then none.
    Stalled(u32),
    /// It stands in for a device, and there may be one now.
    Outdated(u32),
    /// The device is closed.
    Closed(u32),
    /// The process has ended, and its device is closed with it. Whether it was told to, and what to say of it.
    Ended(Cause, Error),
    /// The process was killed, and remains.
    Remains,
}

/// Why a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was killed because it hung.
    Hung,
    /// It could not be started, or did what it must not.
    Unfit,
    /// By itself, or by others.
    Accident,
}

/// Why a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Killing {
    /// It hangs, which is held against what it was doing.
    Hangs(&'static str),
    /// What it does may be well and takes longer than somebody can wait, as privacy does. That is nobody's fault.
    Hurry,
}

impl Killing {
    fn why(self) -> &'static str {
        match self {
            Self::Hangs(why) => why,
            Self::Hurry => "it did not close its device in time",
        }
    }
}

/// What a host is made of.
pub(super) struct Host {
    launcher: Launcher,
    log: watch::Receiver<Log>,
    /// What it captures, in a word.
    name: String,
    sink: Sink,
    /// What its processes capture; a camera's with the controls that are kept at that time.
    role: Box<dyn Fn() -> Role + Send>,
    adjustments: Option<watch::Sender<Adjustments>>,
    process: Option<Process>,
    doing: Doing,
    memory: Memory,
    /// What the last process died of, where that was no accident.
    blame: Option<Blame>,
    /// Why it was killed, if it was.
    killed: Option<Killing>,
    /// Ends soon after the start, in a row.
    quick: u32,
    attempts: u32,
    /// The leave to try an encoder, and since when the process has it.
    permit: Option<(OwnedSemaphorePermit, Instant)>,
    questions: Questions,
}

impl Host {
    pub(super) fn new(
        launcher: Launcher,
        name: &str,
        sink: Sink,
        role: impl Fn() -> Role + Send + 'static,
        adjustments: Option<watch::Sender<Adjustments>>,
    ) -> Self {
        Self {
            log: launcher.log(),
            launcher,
            name: name.to_owned(),
            sink,
            role: Box::new(role),
            adjustments,
            process: None,
            doing: Doing::begun(),
            memory: Memory::Null,
            blame: None,
            killed: None,
            quick: 0,
            attempts: 0,
            permit: None,
            questions: Questions::default(),
        }
    }

    /// Where its frames go.
    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Whether a process runs.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether answers are waited for.
    pub(super) fn is_asked(&self) -> bool {
        !self.questions.is_empty()
    }

    /// How long a process stays that nobody needs.
    pub(super) fn linger(&self) -> Duration {
        self.launcher.linger()
    }

    /// Whether the next process is told of an encoder or a node that the last one died of, and passes that over.
    pub(super) fn has_something_to_pass_over(&self) -> bool {
        let is_named = |step: &Step| matches!(step, Step::Trying { .. } | Step::Looking { at: Some(_) });
        self.blame.as_ref().is_some_and(|blame| is_named(&blame.step))
    }

    /// Whether processes end soon after their start, one after the other.
    pub(super) fn flaps(&self) -> bool {
        self.quick >= OFTEN
    }

    /// Has a process run.
    pub(super) fn start(&mut self, group: &Group) -> &Process {
        let Self { launcher, log, name, sink, role, memory, blame, .. } = self;
        self.process.get_or_insert_with(|| {
            self.doing = Doing::begun();
            self.killed = None;
            let begin = Begin {
                version: wire::VERSION,
                role: role(),
                log: log.borrow_and_update().clone(),
                memory: memory.clone(),
                blame: blame.take(),
            };
            Process::launch(launcher, name, &begin, sink.clone(), group)
        })
    }

    /// Ends the process; its device is closed by that. It is waited for by the group.
    pub(super) fn leave(&mut self) {
        if self.process.take().is_some_and(|process| process.launched.elapsed() >= SOON) {
            self.quick = 0;
        }
        self.permit = None;
        self.questions.refuse_all(&Error::Closed);
    }

    /// Has the device opened. Gives the number of the attempt.
    pub(super) fn open(&mut self, settings: Settings, group: &Group) -> u32 {
        self.attempts = self.attempts.wrapping_add(1);
        let attempt = self.attempts;
        // What an old attempt left cannot be continued by this one.
        self.sink.feed.clear();
        self.start(group).publish(Some(attempt));
        // It may have been at rest for long.
        self.doing.since = Instant::now();
        self.order(&Order::Open { attempt, settings });
        attempt
    }

    /// Has the device closed; nothing of it is published from now on.
    pub(super) fn close(&mut self, attempt: u32) {
        if let Some(process) = &self.process {
            process.publish(None);
        }
        self.order(&Order::Close { attempt });
    }

    /// Sends an order, if a process runs. One that does not read any more hangs.
    pub(super) fn order(&mut self, order: &Order) {
        if self.process.as_ref().is_some_and(|process| !process.send(order)) {
            self.kill(Killing::Hangs("it reads no orders"));
        }
    }

    /// How many frames of the attempt were published.
    pub(super) fn published(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::published)
    }

    /// Asks the process, which is started for it. The answer goes to `asker`.
    pub(super) fn ask(&mut self, question: Question, asker: Asker, group: &Group) {
        self.ask_patiently(question, asker, ANSWER, group);
    }

    /// The same, where the answer may take as long as `patience`.
    pub(super) fn ask_patiently(&mut self, question: Question, asker: Asker, patience: Duration, group: &Group) {
        let Some(request) = self.questions.add(asker, patience) else { return };
        self.start(group);
        self.order(&Order::Ask { request, question });
    }

    /// When the next answer is given up.
    pub(super) fn answer_limit(&self) -> Option<Instant> {
        self.questions.limit()
    }

    /// Gives up what takes too long. `device` is who does not answer.
    pub(super) fn give_up_answers(&mut self, device: &str) {
        self.questions.give_up(device);
    }

    /// Whether the process hangs with `device`, of which no frame has come for `silence`.
    pub(super) fn hangs(&self, device: &Device, silence: Duration) -> bool {
        let Some(process) = self.process.as_ref().filter(|_| self.killed.is_none()) else { return false };
        // Whatever it says meanwhile: all others wait for the leave that it has.
        let keeps_leave = self.permit.as_ref().is_some_and(|(_, since)| since.elapsed() > TRYING);
        keeps_leave || self.doing.hangs(device, process.published() > 0, silence)
    }

    /// This process itself stood still, and what the other has said meanwhile is still to be read.
    pub(super) fn stood_still(&mut self) {
        let now = Instant::now();
        self.doing.since = now;
        if let Some((_, since)) = &mut self.permit {
            *since = now;
        }
    }

    /// Whether a process runs that may hang although it has no device.
    pub(super) fn is_busy(&self) -> bool {
        self.is_running() && self.doing.step != Some(Step::Resting)
    }

    /// What the process does, in words.
    pub(super) fn doing(&self) -> String {
        self.doing.in_words()
    }

    /// Kills the process. That it has ended is heard.
    pub(super) fn kill(&mut self, why: Killing) {
        if let Some(process) = &self.process {
            process.publish(None);
            process.kill();
            self.killed.get_or_insert(why);
        }
    }

    /// What the process brings about next; never without one. Cancelling the wait loses nothing. `device` is what it has,
    /// in words.
    pub(super) async fn heard(&mut self, device: &str) -> Heard {
        loop {
            let wants_leave = self.permit.is_none() && self.doing.step == Some(Step::Waiting);
            let trial = self.launcher.trial.clone();
            let Some(process) = &mut self.process else { return std::future::pending().await };
            let event = tokio::select! {
                biased;
                event = process.event() => event,
                Ok(()) = self.log.changed() => {
                    let filter = self.log.borrow_and_update().filter.clone();
                    self.order(&Order::Log { filter });
                    continue;
                }
                Ok(permit) = trial.acquire_owned(), if wants_leave => {
                    self.permit = Some((permit, Instant::now()));
                    self.order(&Order::Try);
                    continue;
                }
            };
            match event {
                Event::Report(report) => {
                    if let Some(heard) = self.take(report) {
                        return heard;
                    }
                }
                Event::FirstFrame(attempt) => return Heard::FirstFrame(attempt),
                Event::Picture(request, jpeg) => self.questions.picture(request, jpeg, &self.name),
                Event::Remains => return Heard::Remains,
                Event::Ended(end) => return self.bury(end, device),
            }
        }
    }

    fn take(&mut self, report: Report) -> Option<Heard> {
        match report {
            // That its version is right was seen when it came.
            Report::Hello { .. } => self.doing = Doing { step: Some(Step::Resting), since: Instant::now() },
            Report::Doing(step) => {
                if step != Step::Waiting && !matches!(step, Step::Trying { .. }) {
                    self.permit = None;
                }
                self.doing = Doing { step: Some(step), since: Instant::now() };
            }
            Report::Built { attempt, built } => return Some(Heard::Built(attempt, built)),
            Report::Failed { attempt, error } => return Some(Heard::Failed(attempt, error)),
            Report::Stalled { attempt } => return Some(Heard::Stalled(attempt)),
            Report::Outdated { attempt } => return Some(Heard::Outdated(attempt)),
            Report::Closed { attempt } => return Some(Heard::Closed(attempt)),
            Report::Remember(memory) => self.memory = memory,
            Report::Controls(values) => self.adjust(|known| &mut known.controls, values),
            Report::Sizes(sizes) => self.adjust(|known| &mut known.sizes, sizes),
            // Nobody has asked for one yet.
            Report::Rendition { .. } => {}
            Report::Answer { request, answer } => self.questions.answer(request, answer, &self.name),
        }
        None
    }

    /// A part of what is known of the device is another now.
    fn adjust<T: PartialEq>(&self, part: impl Fn(&mut Adjustments) -> &mut T, now: T) {
        if let Some(adjustments) = &self.adjustments {
            adjustments.send_if_modified(|known| {
                let known = part(known);
                let is_news = *known != now;
                *known = now;
                is_news
            });
        }
    }

    /// A process has ended. What it was doing is held against that, unless it was an accident.
    fn bury(&mut self, end: End, device: &str) -> Heard {
        let age = self.process.take().map_or(Duration::ZERO, |process| process.launched.elapsed());
        self.permit = None;
        match self.killed {
            _ if age >= SOON => self.quick = 0,
            Some(Killing::Hurry) => {}
            _ => self.quick += 1,
        }
        let device = device.to_owned();
        let (cause, how, error) = match (self.killed.take(), end) {
            (Some(killing), _) => {
                let why = killing.why();
                let error = match &self.doing.step {
                    Some(Step::Trying { encoder }) => Error::EncoderHangs { encoder: encoder.clone() },
                    Some(Step::Looking { at: Some(node) }) => {
                        Error::Stuck { device: node.clone(), verb: "opened".into() }
                    }
                    Some(Step::Loading | Step::Starting { .. } | Step::Looking { at: None }) | None => {
                        Error::Stuck { device, verb: "opened".into() }
                    }
                    Some(Step::Stopping { .. }) => Error::Stuck { device, verb: "closed".into() },
                    _ => Error::Ended { device, how: format!("{why}, and was killed") },
                };
                let how = matches!(killing, Killing::Hangs(_)).then(|| why.to_owned());
                (Cause::Hung, how, error)
            }
            (None, End::NotStarted(error)) => {
                let is_missing = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
                let advice = if is_missing { "; install the package peercam again" } else { "" };
                (Cause::Unfit, None, Error::NotStarted { why: error.to_string(), advice: advice.into() })
            }
            (None, End::Misbehaved(why)) => (Cause::Unfit, Some(why.clone()), Error::Misbehaved { device, why }),
            (None, End::Exit(exit)) => {
                let how = exit.to_string();
                // Of a process that systemd has started nobody says how it ended.
                let is_unknown = exit == Exit::Unknown && self.doing.step.as_ref().is_some_and(Step::may_crash);
                let is_fault = exit.is_crash() || is_unknown || self.quick >= OFTEN && exit != Exit::Code(0);
                (Cause::Accident, is_fault.then(|| how.clone()), Error::Ended { device, how })
            }
        };
        let step = self.doing.step.take();
        // What has run for a while may do so again; what dies of itself soon each time will not.
        let step = step.filter(|step| !matches!(step, Step::Running { .. }) || self.quick > 1);
        self.blame = how.zip(step).map(|(how, step)| Blame { step, how });
        self.questions.refuse_all(&error);
        Heard::Ended(cause, error)
    }
}
