//! Receives the parent's orders and carries them out.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use peercam::capture::wire::{self, MessageKind};
use peercam::capture::{Answer, Begin, Error, MAX_RENDITIONS, Order, Question, Report, Role, Settings};
use peercam::tasks;

use crate::attempt::{Attempt, AttemptContext, AttemptEvent};
use crate::codec_trials::{CodecTrials, TrialResults};
use crate::graph::driver_errors;
use crate::graph_builder::{GraphBuilder, SharedBuilder};
use crate::inventory::controls::{ControlTarget, DeviceControls};
use crate::inventory::device::Nodes;
use crate::inventory::ptz;
use crate::inventory::report;
use crate::log;
use crate::microphone::SoundBuilder;
use crate::output::Output;
use crate::source::CameraBuilder;
use crate::step_reporter::StepReporter;

/// Most questions that are answered at the same time. Further ones are refused: each needs a thread.
const MAX_QUESTIONS: usize = 16;

/// State of a capture process when its parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// It is capturing.
    Capturing,
    /// It has no device open.
    AtRest,
}

/// Serves the parent on `socket` until it is gone. `prepare` is called before anything is opened.
///
/// # Errors
///
/// When the parent violates the protocol or has another version of it.
pub fn serve(socket: UnixStream, prepare: impl FnOnce(&Begin)) -> io::Result<EndState> {
    let output = Output::new(socket.try_clone()?);
    output.report(&Report::Hello { version: wire::VERSION });
    let mut orders = Orders(socket);
    let begin = match orders.next()? {
        Some(Order::Begin(begin)) if begin.version == wire::VERSION => begin,
        Some(Order::Begin(begin)) => {
            let (ours, theirs) = (wire::VERSION, begin.version);
            return Err(violation(format!(
                "peercam speaks version {theirs} of the protocol, peercam-capture version {ours}"
            )));
        }
        Some(_) => return Err(violation("the first order is not `begin`".into())),
        None => return Ok(EndState::AtRest),
    };
    prepare(&begin);
    // In parallel with the orders: loading its libraries is most of the start time. If it fails, the attempt
    // reports that.
    thread::Builder::new().name("gstreamer".into()).spawn(driver_errors::init)?;
    let server = Server::new(begin, output);
    while let Some(order) = orders.next()? {
        server.handle_order(order)?;
    }
    Ok(if server.attempt().is_some() { EndState::Capturing } else { EndState::AtRest })
}

/// The orders from the parent.
struct Orders(UnixStream);

impl Orders {
    fn next(&mut self) -> io::Result<Option<Order>> {
        let (header, body) = match wire::read(&mut self.0) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // The parent went away without having read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        };
        if header.kind != MessageKind::Order {
            return Err(violation(format!("the parent sends a message that is not an order ({:?})", header.kind)));
        }
        Ok(Some(serde_json::from_slice(&body)?))
    }
}

fn violation(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Carries out orders.
struct Server {
    context: AttemptContext,
    reporter: StepReporter,
    controls: DeviceControls,
    /// For questions about the microphone, which must not wait for an attempt.
    cameras: Vec<peercam::capture::Config>,
    /// The results of trials, and the nodes that hang, as known at the start.
    results: (TrialResults, Nodes),
    attempt: Arc<Mutex<Option<Attempt>>>,
    questions: Arc<AtomicUsize>,
}

impl Server {
    fn new(begin: Begin, output: Output) -> Self {
        let reporter = StepReporter::new(output.clone());
        let (kept, cameras) = match &begin.role {
            Role::Camera { kept } => (kept.clone(), None),
            Role::Microphone { cameras } => (Default::default(), Some(cameras.clone())),
            Role::Inventory => Default::default(),
        };
        let nodes = Nodes::new(reporter.clone());
        let controls = DeviceControls::new(kept, &nodes, output.clone());
        let (builder, results): (SharedBuilder, _) = match &cameras {
            Some(cameras) => {
                let sound = with_learned(SoundBuilder::new(cameras, nodes.clone()), &begin, &output);
                (Arc::new(Mutex::new(sound)), (TrialResults::new(), nodes))
            }
            None => {
                let capture = CameraBuilder::new(controls.clone(), nodes, CodecTrials::new(reporter.clone()));
                let capture = with_learned(capture, &begin, &output);
                let results = capture.results();
                (Arc::new(Mutex::new(capture)), results)
            }
        };
        let cameras = cameras.unwrap_or_default();
        let (attempt, questions) = (Arc::default(), Arc::default());
        let context = AttemptContext { builder, output, reporter: reporter.clone() };
        Self { context, reporter, controls, cameras, results, attempt, questions }
    }

    fn attempt(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_order(&self, order: Order) -> io::Result<()> {
        match order {
            Order::Begin(_) => return Err(violation("the parent begins twice".into())),
            Order::Open { attempt, settings } => self.open(attempt, settings)?,
            Order::Close { attempt } => self.send_to_attempt(Some(attempt), AttemptEvent::Close),
            Order::Tune(settings) => self.send_to_attempt(None, AttemptEvent::Tune(settings)),
            Order::KeyFrame { rendition } => self.send_to_attempt(None, AttemptEvent::KeyFrame(rendition)),
            Order::Rendition { number, wanted } if (1..=MAX_RENDITIONS).contains(&number) => {
                self.send_to_attempt(None, AttemptEvent::Rendition(number, wanted));
            }
            Order::Rendition { number, .. } => return Err(violation(format!("there is no rendition {number}"))),
            Order::Log { filter } => log::change(&filter),
            Order::Try => self.reporter.grant_permit(),
            Order::Ask { request, question } => self.ask(request, question),
        }
        Ok(())
    }

    fn open(&self, number: u32, settings: Settings) -> io::Result<()> {
        let mut place = self.attempt();
        if let Some(known) = &*place {
            return Err(violation(format!("attempt {number} begins before attempt {} is closed", known.number)));
        }
        let attempt = self.attempt.clone();
        let closed = move || drop(attempt.lock().unwrap_or_else(PoisonError::into_inner).take());
        *place = Some(Attempt::begin(number, settings, self.context.clone(), closed)?);
        Ok(())
    }

    fn send_to_attempt(&self, number: Option<u32>, event: AttemptEvent) {
        let attempt = self.attempt();
        // An attempt that was just closed has reported that itself.
        if let Some(attempt) = attempt.as_ref().filter(|attempt| number.is_none_or(|number| number == attempt.number)) {
            attempt.send(event);
        }
    }

    /// Answers on a separate thread, because drivers may hang.
    fn ask(&self, request: u32, question: Question) {
        if let (Question::Snapshot, Some(attempt)) = (&question, &*self.attempt()) {
            return attempt.send(AttemptEvent::Snapshot(request));
        }
        let output = self.context.output.clone();
        let asked = self.questions.clone();
        if asked.fetch_add(1, Ordering::AcqRel) >= MAX_QUESTIONS {
            asked.fetch_sub(1, Ordering::AcqRel);
            let answer = Err(Error::broken("too many questions at once; ask again later"));
            return output.report(&Report::Answer { request, answer });
        }
        let (controls, cameras) = (self.controls.clone(), self.cameras.clone());
        let (reporter, results) = (self.reporter.clone(), self.results.clone());
        let answering = move || {
            let answer = tasks::catch_panic(|| answer(question, &controls, &cameras, reporter, results));
            let answer = answer.unwrap_or_else(|panic| Err(Error::Panicked(panic)));
            asked.fetch_sub(1, Ordering::AcqRel);
            output.report(&Report::Answer { request, answer });
        };
        // Without a thread there is no answer, and the parent's time limit applies.
        if let Err(error) = thread::Builder::new().name("question".into()).spawn(answering) {
            tracing::warn!(reason = %error, "no thread to answer a question");
        }
    }
}

/// `builder`, with what earlier processes have learned and died of.
fn with_learned<O: GraphBuilder>(mut builder: O, begin: &Begin, output: &Output) -> O {
    builder.restore(begin.memory.clone());
    if let Some(blame) = &begin.blame {
        builder.record_crash(blame);
        output.report(&Report::Remember(builder.learned()));
    }
    builder
}

/// Answers a question that does not need the running graph. Blocks.
fn answer(
    question: Question,
    controls: &DeviceControls,
    cameras: &[peercam::capture::Config],
    reporter: StepReporter,
    (results, nodes): (TrialResults, Nodes),
) -> Result<Answer, Error> {
    Ok(match question {
        Question::Snapshot => return Err(Error::broken("no pictures come at present")),
        Question::Controls(config) => Answer::Controls(controls.list(&controls.target(&config)?)?),
        Question::SetControl { config, name, value } => {
            Answer::Control(controls.set(&controls.target(&config)?, &name, value)?)
        }
        Question::Move { config, movement } => match controls.target(&config) {
            Ok(ControlTarget::Node(node)) => ptz::apply(&node, movement).map(|()| Answer::Done)?,
            Ok(ControlTarget::Csi) | Err(Error::NoControls { .. }) => return Err(ptz::unsupported(movement)),
            Err(error) => return Err(error),
        },
        Question::HasSound(config) => {
            Answer::HasSound(SoundBuilder::new(cameras, nodes.unreported()).is_there(&config))
        }
        Question::Inventory { cameras, audio } => {
            let mut trials = CodecTrials::new(reporter);
            trials.restore(results);
            Answer::Inventory(Box::new(report::take_inventory(&cameras, &audio, &nodes, &mut trials)))
        }
    })
}
