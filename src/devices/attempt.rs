//! One attempt to capture: a thread that opens the device, watches over its frames and closes it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use peercam::capture::{AudioConfig, Config, Error, Rendition, Report, Settings, Step};
use peercam::tasks;

use crate::graph::{Pipeline, Reached, Sending, complaints, snapshot};
use crate::guide::Guide;
use crate::opener::{Outcome, Part, Shared, locked};
use crate::output::Output;

/// How often frames are looked for, so that a silent stall is noticed within a second.
const CHECK: Duration = Duration::from_millis(100);

/// A look that comes so late says that this process itself stood still, and nothing of the device.
const STOOD_STILL: Duration = Duration::from_millis(300);

/// After so many frames in a row a source works, whatever happens to it then.
const WORKS: u64 = 5;

/// What happens to an attempt.
#[derive(Debug)]
pub enum Event {
    /// It is to end.
    Close,
    /// Settings that it can take as it runs.
    Tune(Settings),
    /// A key frame of this rendition is wanted.
    KeyFrame(u16),
    /// A rendition is wanted, or wanted no more.
    Rendition(u16, Option<Rendition>),
    /// One current picture as JPEG is wanted by the request of this number.
    Snapshot(u32),
    /// The graph is broken.
    Failed {
        /// Why.
        error: Error,
        /// The GStreamer element that says so; none where none does.
        element: String,
    },
    /// It stands in for a device, and there may be one now.
    Outdated,
}

impl Event {
    /// What comes of the device makes the graph of no use.
    pub fn failed(error: Error) -> Self {
        Self::Failed { error, element: String::new() }
    }
}

/// A handle to an attempt that runs.
#[derive(Debug)]
pub struct Attempt {
    /// The parent's number for it.
    pub number: u32,
    events: mpsc::Sender<Event>,
}

/// What every attempt of a process has in common.
#[derive(Clone)]
pub struct Means {
    /// What opens the device.
    pub opener: Shared,
    /// The way to the parent.
    pub output: Output,
    /// What tells the parent of each step.
    pub guide: Guide,
}

impl Attempt {
    /// Begins attempt `number`. `closed` is called when its device is closed, before that is reported.
    ///
    /// # Errors
    ///
    /// When the system has no thread for it.
    pub fn begin(
        number: u32,
        settings: Settings,
        means: Means,
        closed: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (events, inbox) = mpsc::channel();
        let running = Running { number, means, events: events.clone(), inbox };
        thread::Builder::new().name("attempt".into()).spawn(move || running.run(settings, closed))?;
        Ok(Self { number, events })
    }

    /// Tells it.
    pub fn tell(&self, event: Event) {
        // It has ended only where it was closed, when it wants to know nothing any more.
        self.events.send(event).ok();
    }
}

/// Within the thread.
struct Running {
    number: u32,
    means: Means,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
}

/// How an attempt ended by itself.
enum End {
    /// It was closed.
    Closed,
    /// It cannot go on.
    Failed { error: Error, part: Part },
    /// Frames came, and then none.
    Stalled { part: Part },
    /// There may be a device in the place of what stands in for it.
    Outdated,
}

impl Running {
    fn run(self, settings: Settings, closed: impl FnOnce()) {
        let Means { output, guide, .. } = self.means.clone();
        let mut pipeline = None;
        let end = match self.open(&settings) {
            Ok(opened) => self.watch(pipeline.insert(opened)),
            Err(error) => End::Failed { error, part: Part::Device },
        };
        let is_closed = matches!(end, End::Closed);
        self.report(end);
        if !is_closed {
            // What failed may hang when it is stopped; that is for the parent to say, which has the words by now.
            while !matches!(self.inbox.recv(), Ok(Event::Close) | Err(_)) {}
        }
        if let Some(pipeline) = pipeline {
            guide.doing(Step::Stopping { device: pipeline.graph().device.clone() });
            drop(pipeline);
        }
        guide.doing(Step::Resting);
        closed();
        output.report(&Report::Closed { attempt: self.number });
    }

    fn open(&self, settings: &Settings) -> Result<Pipeline, Error> {
        let (Means { output, guide, .. }, attempt) = (&self.means, self.number);
        let opened = tasks::caught(|| {
            guide.doing(Step::Loading);
            complaints::init()?;
            guide.doing(Step::Looking { at: None });
            let graph = locked(&self.means.opener).open(settings)?;
            self.remember();
            let built = graph.built();
            let (device, encoder) = (built.device.clone(), built.encoder.clone());
            let format = built.mode.as_ref().map(|mode| mode.format.clone());
            // The frames that follow are for whom this says what they are.
            output.report(&Report::Built { attempt, built });
            guide.doing(Step::Starting { device: device.clone(), format: format.clone(), encoder: encoder.clone() });
            let sending = Sending { attempt, output: output.clone() };
            let pipeline = Pipeline::run(graph, sending, &self.events)?;
            guide.doing(Step::Running { device, format, encoder });
            Ok(pipeline)
        });
        opened.unwrap_or_else(|panic| Err(Error::Panicked(panic)))
    }

    /// Until it ends by itself or is closed.
    fn watch(&self, pipeline: &mut Pipeline) -> End {
        let (patience, usual) = (pipeline.graph().patience, pipeline.graph().usual_patience());
        let mut progress = Progress::new(pipeline);
        let mut works = false;
        loop {
            let begun = Instant::now();
            match self.inbox.recv_timeout(CHECK) {
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return End::Closed,
                Ok(Event::Tune(settings)) => tune(pipeline, &settings),
                Ok(Event::KeyFrame(rendition)) => pipeline.force_key_frame(rendition),
                Ok(Event::Rendition(number, wanted)) => self.rendition(pipeline, number, wanted),
                Ok(Event::Snapshot(request)) => snapshot::take(pipeline, request, &self.means.output),
                Ok(Event::Failed { error, element }) => match pipeline.rendition_with(&element) {
                    Some(number) if number > 0 => self.give_up(pipeline, number, error),
                    _ => return End::Failed { error, part: pipeline.part_with(&element) },
                },
                Ok(Event::Outdated) => return End::Outdated,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let published = pipeline.published();
            if !works && published >= WORKS {
                works = true;
                self.learn(Outcome::Works);
            }
            // Frames that the parent does not take are no fault of what makes them.
            if begun.elapsed() > CHECK + STOOD_STILL || self.means.output.is_busy() {
                progress.since = Instant::now();
            }
            let silent = progress.silence(pipeline);
            let part = pipeline.stuck(progress.reached);
            // A device may take long for its first picture; a decoder that has pictures may not.
            let waits = if part == Part::Decoder { patience.next } else { patience.first };
            let next = if progress.is_steady(usual.next) { usual.next } else { patience.next };
            if published == 0 && silent >= waits {
                return End::Failed { error: pipeline.silence(silent), part };
            }
            if published > 0 && silent >= next {
                return End::Stalled { part };
            }
        }
    }

    fn rendition(&self, pipeline: &mut Pipeline, number: u16, wanted: Option<Rendition>) {
        pipeline.remove(number);
        let (Some(wanted), Some(fps)) = (wanted, pipeline.graph().mode.as_ref().map(|mode| mode.fps)) else { return };
        let begun = tasks::caught(|| {
            if !pipeline.graph().is_raw {
                return Err(Error::broken("the camera encodes by itself: there is one encoding only"));
            }
            let (branch, encoder) = locked(&self.means.opener).rendition(&wanted, fps)?;
            pipeline.add(number, branch)?;
            Ok(encoder)
        });
        let outcome = begun.unwrap_or_else(|panic| Err(Error::Panicked(panic)));
        self.means.output.report(&Report::Rendition { attempt: self.number, number, outcome });
        self.remember();
    }

    fn give_up(&self, pipeline: &mut Pipeline, number: u16, error: Error) {
        pipeline.remove(number);
        self.means.output.report(&Report::Rendition { attempt: self.number, number, outcome: Err(error) });
    }

    fn report(&self, end: End) {
        let (output, attempt) = (&self.means.output, self.number);
        match end {
            End::Closed => {}
            End::Failed { error, part } => {
                self.learn(Outcome::Failed { error: &error, part });
                output.report(&Report::Failed { attempt, error });
            }
            End::Stalled { part } => {
                self.learn(Outcome::Stalled { part });
                output.report(&Report::Stalled { attempt });
            }
            End::Outdated => output.report(&Report::Outdated { attempt }),
        }
    }

    fn learn(&self, outcome: Outcome<'_>) {
        locked(&self.means.opener).learn(outcome);
        self.remember();
    }

    fn remember(&self) {
        let memory = locked(&self.means.opener).memory();
        self.means.output.report(&Report::Remember(memory));
    }
}

/// Since when no frame came, and how far pictures had come then.
struct Progress {
    published: u64,
    reached: Reached,
    since: Instant,
    /// When the first frame came.
    first: Option<Instant>,
    /// The longest time between two frames.
    longest: Duration,
}

/// Frames that have come evenly for so long go on so: of a camera that was silent before, patience is not needed then.
const STEADY: Duration = Duration::from_secs(3);

impl Progress {
    fn new(pipeline: &Pipeline) -> Self {
        let now = Instant::now();
        Self { published: 0, reached: pipeline.reached(), since: now, first: None, longest: Duration::ZERO }
    }

    /// Whether frames have come evenly, compared with this patience.
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
            (self.published, self.reached, self.since) = (published, pipeline.reached(), now);
            self.first.get_or_insert(now);
        }
        self.since.elapsed()
    }
}

/// Turns what can be turned while it runs.
fn tune(pipeline: &Pipeline, settings: &Settings) {
    match settings {
        Settings::Camera(config) => {
            let key_interval = pipeline.graph().mode.as_ref().map_or(1, |mode| config.key_interval(mode.fps));
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
