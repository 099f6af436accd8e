//! Carries out what the parent orders.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use peercam::capture::wire::{self, Kind};
use peercam::capture::{Answer, Begin, Error, MOST_RENDITIONS, Order, Question, Report, Role, Settings};
use peercam::tasks;

use crate::attempt::{Attempt, Event, Means};
use crate::graph::complaints;
use crate::guide::Guide;
use crate::log;
use crate::look::controls::{Adjusted, Place};
use crate::look::device::Nodes;
use crate::look::movement;
use crate::look::survey;
use crate::microphone::Sound;
use crate::opener::{Opener, Shared};
use crate::output::Output;
use crate::source::Capture;
use crate::trials::{Findings, Trials};

/// Questions that are answered at a time. More are refused: each has a thread.
const MOST_QUESTIONS: usize = 16;

/// What a capture process is doing when its parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It captures.
    Capturing,
    /// It has no device open.
    AtRest,
}

/// Serves the parent at the other end of `socket` until it is gone. `prepare` is called before anything is opened.
///
/// # Errors
///
/// When the two do not understand each other.
pub fn serve(socket: UnixStream, prepare: impl FnOnce(&Begin)) -> io::Result<Left> {
    let output = Output::new(socket.try_clone()?);
    output.report(&Report::Hello { version: wire::VERSION });
    let mut orders = Orders(socket);
    let begin = match orders.next()? {
        Some(Order::Begin(begin)) if begin.version == wire::VERSION => begin,
        Some(Order::Begin(begin)) => {
            let (ours, theirs) = (wire::VERSION, begin.version);
            return Err(wrong(format!(
                "peercam speaks version {theirs} of the protocol, peercam-capture version {ours}"
            )));
        }
        Some(_) => return Err(wrong("the first order is not to begin".into())),
        None => return Ok(Left::AtRest),
    };
    prepare(&begin);
    // Beside the orders that come: loading its libraries is most of what a start takes. Where it fails, the attempt says so.
    thread::Builder::new().name("gstreamer".into()).spawn(complaints::init)?;
    let server = Server::new(begin, output);
    while let Some(order) = orders.next()? {
        server.obey(order)?;
    }
    Ok(if server.attempt().is_some() { Left::Capturing } else { Left::AtRest })
}

/// What comes from the parent.
struct Orders(UnixStream);

impl Orders {
    fn next(&mut self) -> io::Result<Option<Order>> {
        let (header, body) = match wire::read(&mut self.0) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // It went away without having read all of what was sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        };
        if header.kind != Kind::Order {
            return Err(wrong(format!("the parent sends what is no order ({:?})", header.kind)));
        }
        Ok(Some(serde_json::from_slice(&body)?))
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What serves.
struct Server {
    means: Means,
    guide: Guide,
    adjusted: Adjusted,
    /// For questions about the microphone, which an attempt must not hold up.
    cameras: Vec<peercam::capture::Config>,
    /// What was known of encoders and of nodes that hang when this process began.
    findings: (Findings, Nodes),
    attempt: Arc<Mutex<Option<Attempt>>>,
    questions: Arc<AtomicUsize>,
}

impl Server {
    fn new(begin: Begin, output: Output) -> Self {
        let guide = Guide::new(output.clone());
        let (kept, cameras) = match &begin.role {
            Role::Camera { kept } => (kept.clone(), None),
            Role::Microphone { cameras } => (Default::default(), Some(cameras.clone())),
            Role::Survey => Default::default(),
        };
        let nodes = Nodes::new(guide.clone());
        let adjusted = Adjusted::new(kept, &nodes, output.clone());
        let (opener, findings): (Shared, _) = match &cameras {
            Some(cameras) => {
                let sound = informed(Sound::new(cameras, nodes.clone()), &begin, &output);
                (Arc::new(Mutex::new(sound)), (Findings::new(), nodes))
            }
            None => {
                let capture = Capture::new(adjusted.clone(), nodes, Trials::new(guide.clone()));
                let capture = informed(capture, &begin, &output);
                let findings = capture.findings();
                (Arc::new(Mutex::new(capture)), findings)
            }
        };
        let cameras = cameras.unwrap_or_default();
        let (attempt, questions) = (Arc::default(), Arc::default());
        let means = Means { opener, output, guide: guide.clone() };
        Self { means, guide, adjusted, cameras, findings, attempt, questions }
    }

    fn attempt(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn obey(&self, order: Order) -> io::Result<()> {
        match order {
            Order::Begin(_) => return Err(wrong("the parent begins twice".into())),
            Order::Open { attempt, settings } => self.open(attempt, settings)?,
            Order::Close { attempt } => self.tell_attempt(Some(attempt), Event::Close),
            Order::Tune(settings) => self.tell_attempt(None, Event::Tune(settings)),
            Order::KeyFrame { rendition } => self.tell_attempt(None, Event::KeyFrame(rendition)),
            Order::Rendition { number, wanted } if (1..=MOST_RENDITIONS).contains(&number) => {
                self.tell_attempt(None, Event::Rendition(number, wanted));
            }
            Order::Rendition { number, .. } => return Err(wrong(format!("there is no rendition {number}"))),
            Order::Log { filter } => log::change(&filter),
            Order::Try => self.guide.give_leave(),
            Order::Ask { request, question } => self.ask(request, question),
        }
        Ok(())
    }

    fn open(&self, number: u32, settings: Settings) -> io::Result<()> {
        let mut place = self.attempt();
        if let Some(known) = &*place {
            return Err(wrong(format!("attempt {number} begins before attempt {} is closed", known.number)));
        }
        let attempt = self.attempt.clone();
        let closed = move || drop(attempt.lock().unwrap_or_else(PoisonError::into_inner).take());
        *place = Some(Attempt::begin(number, settings, self.means.clone(), closed)?);
        Ok(())
    }

    fn tell_attempt(&self, number: Option<u32>, event: Event) {
        let attempt = self.attempt();
        // One that has just been closed has reported so by itself.
        if let Some(attempt) = attempt.as_ref().filter(|attempt| number.is_none_or(|number| number == attempt.number)) {
            attempt.tell(event);
        }
    }

    /// Answers on a thread of its own: drivers may hang.
    fn ask(&self, request: u32, question: Question) {
        if let (Question::Snapshot, Some(attempt)) = (&question, &*self.attempt()) {
            return attempt.tell(Event::Snapshot(request));
        }
        let output = self.means.output.clone();
        let asked = self.questions.clone();
        if asked.fetch_add(1, Ordering::AcqRel) >= MOST_QUESTIONS {
            asked.fetch_sub(1, Ordering::AcqRel);
            let answer = Err(Error::broken("too many questions at once; ask again later"));
            return output.report(&Report::Answer { request, answer });
        }
        let (adjusted, cameras) = (self.adjusted.clone(), self.cameras.clone());
        let (guide, findings) = (self.guide.clone(), self.findings.clone());
        let answering = move || {
            let answer = tasks::caught(|| answer(question, &adjusted, &cameras, guide, findings));
            let answer = answer.unwrap_or_else(|panic| Err(Error::Panicked(panic)));
            asked.fetch_sub(1, Ordering::AcqRel);
            output.report(&Report::Answer { request, answer });
        };
        // Without a thread the question stays without an answer, and the parent has a limit for that.
        if let Err(error) = thread::Builder::new().name("question".into()).spawn(answering) {
            tracing::warn!(reason = %error, "no thread to answer a question");
        }
    }
}

/// `opener` with what processes before this one have learned, and died of.
fn informed<O: Opener>(mut opener: O, begin: &Begin, output: &Output) -> O {
    opener.recall(begin.memory.clone());
    if let Some(blame) = &begin.blame {
        opener.blame(blame);
        output.report(&Report::Remember(opener.memory()));
    }
    opener
}

/// The answer to what can be told beside the pictures. Blocks.
fn answer(
    question: Question,
    adjusted: &Adjusted,
    cameras: &[peercam::capture::Config],
    guide: Guide,
    (findings, nodes): (Findings, Nodes),
) -> Result<Answer, Error> {
    Ok(match question {
        Question::Snapshot => return Err(Error::broken("no pictures come at the moment")),
        Question::Controls(config) => Answer::Controls(adjusted.list(&adjusted.place(&config)?)?),
        Question::SetControl { config, name, value } => {
            Answer::Control(adjusted.set(&adjusted.place(&config)?, &name, value)?)
        }
        Question::Move { config, movement } => match adjusted.place(&config) {
            Ok(Place::Node(node)) => movement::carry_out(&node, movement).map(|()| Answer::Done)?,
            Ok(Place::Csi) | Err(Error::NoControls { .. }) => return Err(movement::refusal(movement)),
            Err(error) => return Err(error),
        },
        Question::HasSound(config) => Answer::HasSound(Sound::new(cameras, nodes.quietly()).is_there(&config)),
        Question::Survey { cameras, audio } => {
            let mut trials = Trials::new(guide);
            trials.recall(findings);
            Answer::Survey(Box::new(survey::survey(&cameras, &audio, &nodes, &mut trials)))
        }
    })
}
