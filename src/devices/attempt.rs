//! One attempt to capture: a thread that opens the device, checks its frames and closes it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use peercam::capture::{AudioConfig, Config, Error, Rendition, Report, Settings, Step};
use peercam::tasks;

use crate::graph::{FrameTarget, Pipeline, StageCounts, driver_errors, snapshot};
use crate::graph_builder::{AttemptOutcome, GraphPart, SharedBuilder, lock};
use crate::output::Output;
use crate::step_reporter::StepReporter;

/// How often frames are checked, so that a silent stall is noticed within a second.
const CHECK: Duration = Duration::from_millis(100);

/// A check that comes so late shows that this process itself did not run; it proves nothing about the device.
const LATE_CHECK: Duration = Duration::from_millis(300);

/// After so many frames a source counts as working.
const WORKS: u64 = 5;

/// An event for the thread of an attempt.
#[derive(Debug)]
pub enum AttemptEvent {
    /// End the attempt.
    Close,
    /// Change settings that a running graph can change.
    Tune(Settings),
    /// Make a key frame of this rendition.
    KeyFrame(u16),
    /// Start a rendition, or end it (`None`).
    Rendition(u16, Option<Rendition>),
    /// Take one picture as JPEG for the request of this number.
    Snapshot(u32),
    /// The graph is broken.
    Failed {
        /// Why.
        error: Error,
        /// The GStreamer element that reports it; empty if none does.
        element: String,
    },
    /// The graph is a substitute for a device, and the device may be there now.
    Outdated,
}

impl AttemptEvent {
    /// The device's data makes the graph useless.
    pub fn failed(error: Error) -> Self {
        Self::Failed { error, element: String::new() }
    }
}

/// Handle to a running attempt.
#[derive(Debug)]
pub struct Attempt {
    /// The parent's number for it.
    pub number: u32,
    events: mpsc::Sender<AttemptEvent>,
}

/// The parts that all attempts of a process share.
#[derive(Clone)]
pub struct AttemptContext {
    /// Describes the graph.
    pub builder: SharedBuilder,
    /// Sends to the parent.
    pub output: Output,
    /// Reports each step to the parent.
    pub reporter: StepReporter,
}

impl Attempt {
    /// Starts attempt `number`. `closed` is called when its device is closed, before that is reported.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn begin(
        number: u32,
        settings: Settings,
        context: AttemptContext,
        closed: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (events, inbox) = mpsc::channel();
        let running = Running { number, context, events: events.clone(), inbox };
        thread::Builder::new().name("attempt".into()).spawn(move || running.run(settings, closed))?;
        Ok(Self { number, events })
    }

    /// Sends it an event.
    pub fn send(&self, event: AttemptEvent) {
        // The thread has ended only if the attempt was closed, and then needs no more events.
        self.events.send(event).ok();
    }
}

/// The attempt, inside its thread.
struct Running {
    number: u32,
    context: AttemptContext,
    events: mpsc::Sender<AttemptEvent>,
    inbox: mpsc::Receiver<AttemptEvent>,
}

/// The end of an attempt.
enum End {
    /// It was closed.
    Closed,
    /// It cannot continue.
    Failed { error: Error, part: GraphPart },
    /// Frames came and then stopped.
    Stalled { part: GraphPart },
    /// The device may be there now, in place of its substitute.
    Outdated,
}

impl Running {
    fn run(self, settings: Settings, closed: impl FnOnce()) {
        let AttemptContext { output, reporter, .. } = self.context.clone();
        let mut pipeline = None;
        let end = match self.open(&settings) {
            Ok(opened) => self.watch(pipeline.insert(opened)),
            Err(error) => End::Failed { error, part: GraphPart::Device },
        };
        let is_closed = matches!(end, End::Closed);
        self.report(end);
        if !is_closed {
            // A graph that failed may hang when it is stopped. The parent watches for that; it has the error already.
            while !matches!(self.inbox.recv(), Ok(AttemptEvent::Close) | Err(_)) {}
        }
        if let Some(pipeline) = pipeline {
            reporter.doing(Step::Stopping { device: pipeline.info().device.clone() });
            drop(pipeline);
        }
        reporter.doing(Step::Resting);
        closed();
        output.report(&Report::Closed { attempt: self.number });
    }

    fn open(&self, settings: &Settings) -> Result<Pipeline, Error> {
        let (AttemptContext { output, reporter, .. }, attempt) = (&self.context, self.number);
        let opened = tasks::catch_panic(|| {
            reporter.doing(Step::Loading);
            driver_errors::init()?;
            reporter.doing(Step::Looking { at: None });
            let graph = lock(&self.context.builder).build(settings)?;
            self.report_learned();
            let built = graph.built();
            let (device, encoder) = (built.device.clone(), built.encoder.clone());
            let format = built.mode.as_ref().map(|mode| mode.format.clone());
            // Sent before the frames, so that the parent knows what they are.
            output.report(&Report::Built { attempt, built });
            reporter.doing(Step::Starting { device: device.clone(), format: format.clone(), encoder: encoder.clone() });
            let target = FrameTarget { attempt, output: output.clone() };
            let pipeline = Pipeline::run(graph, target, &self.events)?;
            reporter.doing(Step::Running { device, format, encoder });
            Ok(pipeline)
        });
        opened.unwrap_or_else(|panic| Err(Error::Panicked(panic)))
    }

    /// Runs until the attempt fails or is closed.
    fn watch(&self, pipeline: &mut Pipeline) -> End {
        let (patience, default) = (pipeline.info().patience, pipeline.info().default_patience());
        let mut progress = FrameProgress::new(pipeline);
        let mut works = false;
        loop {
            let begun = Instant::now();
            match self.inbox.recv_timeout(CHECK) {
                Ok(AttemptEvent::Close) | Err(RecvTimeoutError::Disconnected) => return End::Closed,
                Ok(AttemptEvent::Tune(settings)) => tune(pipeline, &settings),
                Ok(AttemptEvent::KeyFrame(rendition)) => pipeline.force_key_frame(rendition),
                Ok(AttemptEvent::Rendition(number, wanted)) => self.rendition(pipeline, number, wanted),
                Ok(AttemptEvent::Snapshot(request)) => snapshot::take(pipeline, request, &self.context.output),
                Ok(AttemptEvent::Failed { error, element }) => match pipeline.rendition_with(&element) {
                    Some(number) if number > 0 => self.give_up(pipeline, number, error),
                    _ => return End::Failed { error, part: pipeline.part_with(&element) },
                },
                Ok(AttemptEvent::Outdated) => return End::Outdated,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let published = pipeline.published();
            if !works && published >= WORKS {
                works = true;
                self.record_outcome(AttemptOutcome::Works);
            }
            // Frames that the parent does not read are not a fault of the device or encoder.
            if begun.elapsed() > CHECK + LATE_CHECK || self.context.output.is_busy() {
                progress.since = Instant::now();
            }
            let silent = progress.silence(pipeline);
            let part = pipeline.stalled_part(progress.stage_counts);
            // A device may take long for its first picture; a decoder that gets pictures may not.
            let waits = if part == GraphPart::Decoder { patience.next } else { patience.first };
            let next = if progress.is_steady(default.next) { default.next } else { patience.next };
            if published == 0 && silent >= waits {
                return End::Failed { error: pipeline.silence_error(silent), part };
            }
            if published > 0 && silent >= next {
                return End::Stalled { part };
            }
        }
    }

    fn rendition(&self, pipeline: &mut Pipeline, number: u16, wanted: Option<Rendition>) {
        pipeline.remove(number);
        let (Some(wanted), Some(fps)) = (wanted, pipeline.info().mode.as_ref().map(|mode| mode.fps)) else { return };
        let begun = tasks::catch_panic(|| {
            if !pipeline.info().is_raw {
                return Err(Error::broken("the camera encodes by itself: there is one encoding only"));
            }
            let (branch, encoder) = lock(&self.context.builder).rendition(&wanted, fps)?;
            pipeline.add(number, branch)?;
            Ok(encoder)
        });
        let outcome = begun.unwrap_or_else(|panic| Err(Error::Panicked(panic)));
        self.context.output.report(&Report::Rendition { attempt: self.number, number, outcome });
        self.report_learned();
    }

    fn give_up(&self, pipeline: &mut Pipeline, number: u16, error: Error) {
        pipeline.remove(number);
        self.context.output.report(&Report::Rendition { attempt: self.number, number, outcome: Err(error) });
    }

    fn report(&self, end: End) {
        let (output, attempt) = (&self.context.output, self.number);
        match end {
            End::Closed => {}
            End::Failed { error, part } => {
                self.record_outcome(AttemptOutcome::Failed { error: &error, part });
                output.report(&Report::Failed { attempt, error });
            }
            End::Stalled { part } => {
                self.record_outcome(AttemptOutcome::Stalled { part });
                output.report(&Report::Stalled { attempt });
            }
            End::Outdated => output.report(&Report::Outdated { attempt }),
        }
    }

    fn record_outcome(&self, outcome: AttemptOutcome<'_>) {
        lock(&self.context.builder).record_outcome(outcome);
        self.report_learned();
    }

    fn report_learned(&self) {
        let memory = lock(&self.context.builder).learned();
        self.context.output.report(&Report::Remember(memory));
    }
}

/// Time of the last frame, and how far pictures had come through the graph then.
struct FrameProgress {
    published: u64,
    stage_counts: StageCounts,
    since: Instant,
    /// When the first frame came.
    first: Option<Instant>,
    /// The longest interval between two frames.
    longest: Duration,
}

/// Frames that came evenly for so long are expected to continue: a camera that was silent before then needs no
/// extra patience.
const STEADY: Duration = Duration::from_secs(3);

impl FrameProgress {
    fn new(pipeline: &Pipeline) -> Self {
        let now = Instant::now();
        Self { published: 0, stage_counts: pipeline.stage_counts(), since: now, first: None, longest: Duration::ZERO }
    }

    /// Whether frames have come evenly, measured by this patience.
    fn is_steady(&self, patience: Duration) -> bool {
        self.first.is_some_and(|first| first.elapsed() >= STEADY) && self.longest * 2 <= patience
    }

    fn silence(&mut self, pipeline: &Pipeline) -> Duration {
        let published = pipeline.published();
        if published != self.published {
            if self.first.is_some() {
                self.longest = self.longest.max(self.since.elapsed());
            }
            let now = Instant::now();
            (self.published, self.stage_counts, self.since) = (published, pipeline.stage_counts(), now);
            self.first.get_or_insert(now);
        }
        self.since.elapsed()
    }
}

/// Changes the settings that can change while the graph runs.
fn tune(pipeline: &Pipeline, settings: &Settings) {
    match settings {
        Settings::Camera(config) => {
            let key_interval = pipeline.info().mode.as_ref().map_or(1, |mode| config.key_interval(mode.fps));
            pipeline.tune(config.ceiling(), key_interval);
        }
        // Sound has no key frames.
        Settings::Microphone(config) => pipeline.tune(config.ceiling(), 1),
    }
}

/// The settings of a camera.
pub fn of_camera(settings: &Settings) -> Result<&Config, Error> {
    match settings {
        Settings::Camera(config) => Ok(config),
        Settings::Microphone(_) => Err(Error::broken("these are no settings of a camera")),
    }
}

/// The settings of the microphone.
pub fn of_microphone(settings: &Settings) -> Result<&AudioConfig, Error> {
    match settings {
        Settings::Microphone(config) => Ok(config),
        Settings::Camera(_) => Err(Error::broken("these are no settings of a microphone")),
    }
}
