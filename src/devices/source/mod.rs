//! From a camera's configuration to the graph that captures and encodes it.

pub mod mode;
mod record;

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::{
    Blame, Config, Error, Format, Memory, Mode, PASSTHROUGH, Rate, Rendition, Settings, Source, Step, Video,
};
use peercam::media::Resolution;
use serde::{Deserialize, Serialize};

use crate::attempt;
use crate::decoder;
use crate::encoder::Work;
use crate::graph::agreed::Agreed;
use crate::graph::branch::Branch;
use crate::graph::elements::{element, filter, parser, queue};
use crate::graph::jpeg::Guard;
use crate::graph::{Graph, patience};
use crate::look::controls::Adjusted;
use crate::look::csi;
use crate::look::device::Nodes;
use crate::look::newcomer::Newcomer;
use crate::opener::{Opener, Outcome, Part};
use crate::test_source::test_picture;
use crate::trials::{Findings, Trial, Trials};

use mode::{Choice, Encoding, Wanted};
use record::Record;
pub use record::uptime;

/// One camera's way from configuration to graph; remembers what was found out on earlier attempts.
#[derive(Debug)]
pub struct Capture {
    config: Config,
    source: Source,
    /// The format of the last attempt, if it came so far.
    format: Option<Format>,
    /// The trials of encoder and JPEG decoder that the last attempt relied on, if it came so far and had them.
    encoder: Option<Trial>,
    decoder: Option<Trial>,
    learned: Learned,
    /// Why the test picture is shown, as far as the log was told.
    told: String,
    adjusted: Adjusted,
    nodes: Nodes,
    trials: Trials,
}

/// What was found out on earlier attempts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Learned {
    /// The `source` of the configuration that it was found out with.
    source: String,
    /// The camera of the last attempt. One that comes back under another number is known by this.
    seen: Option<Video>,
    /// Whether a camera worked. From then on its absence is waited for: a test picture would hide an unplugged one.
    has_worked: bool,
    record: Record,
}

/// What a process after this one is told.
#[derive(Serialize, Deserialize)]
struct Remembered<L, F, H> {
    learned: L,
    encoders: F,
    hanging: H,
}

impl Capture {
    /// What is known of encoders, and of nodes that hang.
    pub fn findings(&self) -> (Findings, Nodes) {
        (self.trials.findings().clone(), self.nodes.clone())
    }

    /// One that knows nothing yet.
    pub fn new(adjusted: Adjusted, nodes: Nodes, trials: Trials) -> Self {
        let config = Config::default();
        Self {
            source: Source::parse(&config.source),
            config,
            format: None,
            encoder: None,
            decoder: None,
            learned: Learned::default(),
            told: String::new(),
            adjusted,
            nodes,
            trials,
        }
    }
}

impl Opener for Capture {
    fn open(&mut self, settings: &Settings) -> Result<Graph, Error> {
        let config = attempt::of_camera(settings)?;
        if config.source != self.learned.source {
            (self.learned.seen, self.learned.has_worked) = (None, false);
        }
        self.source = Source::parse(&config.source);
        self.learned.source.clone_from(&config.source);
        self.config.clone_from(config);
        (self.format, self.encoder, self.decoder) = (None, None, None);
        self.learned.record.forget();
        self.nodes.forget();
        // Before the look at them, so that none that comes meanwhile is missed.
        let there = Newcomer::now();
        let video = match &self.source {
            Source::Test => None,
            Source::Libcamera(id) => return self.libcamera(id.clone().as_deref()),
            Source::V4l2(name) => Some(self.named(name)?),
            Source::Auto => self.any()?,
        };
        self.adjusted.found(video.as_ref());
        self.learned.seen = video.as_ref().map(Video::identity);
        match video {
            None => {
                let mut graph = self.test_picture()?;
                graph.newcomer = Some(there).filter(|_| self.source == Source::Auto);
                Ok(graph)
            }
            Some(video) => self.v4l2(&video),
        }
    }

    fn learn(&mut self, outcome: Outcome<'_>) {
        const STUCK: &str = "pictures went in, and none came out";
        let (part, why) = match outcome {
            Outcome::Works => (Part::Device, String::new()),
            Outcome::Stalled { part } => (part, STUCK.to_owned()),
            // What it says is that no picture comes, of the camera.
            Outcome::Failed { error: Error::Silent { .. } | Error::Damaged { .. }, part } => (part, STUCK.to_owned()),
            Outcome::Failed { error, part } => (part, error.to_string()),
        };
        let trial = match part {
            Part::Device => None,
            Part::Decoder => self.decoder.clone(),
            Part::Encoder => self.encoder.clone(),
        };
        if let Some(trial) = trial {
            // It is not the camera's fault. Software stands still where the processor has no time for it, and so would
            // the next.
            let is_starved = matches!(outcome, Outcome::Stalled { .. }) && trial.is_of_software();
            if !is_starved {
                self.trials.fail(trial, &why);
            }
            return;
        }
        let Some(video) = &self.learned.seen else { return };
        self.learned.has_worked |= matches!(outcome, Outcome::Works);
        self.learned.record.add(video, self.format, outcome);
    }

    fn rendition(&mut self, wanted: &Rendition, fps: f64) -> Result<(Branch, String), Error> {
        let Rendition { resolution, bitrate } = *wanted;
        if !Config::takes(resolution) {
            return Err(Error::broken(format!("{resolution} is no size for a rendition: both sides have to be even")));
        }
        let work = Work { resolution, fps, bitrate, key_interval: self.config.key_interval(fps) };
        let mut shape = shape(matches!(self.source, Source::V4l2(_) | Source::Auto))?;
        // In front of the conversion, of which there is less to do then.
        shape.insert(1, element("videoscale")?.build().map_err(Error::broken)?);
        let Resolution { width, height } = resolution;
        shape.push(filter(&format!("video/x-raw,width={width},height={height},pixel-aspect-ratio=1/1"))?);
        self.encoded(&self.config.encoder.clone(), shape, work)
    }

    fn memory(&self) -> Memory {
        let (encoders, hanging) = (self.trials.findings(), self.nodes.hanging());
        let remembered = Remembered { learned: &self.learned, encoders, hanging };
        serde_json::to_value(remembered).unwrap_or_default()
    }

    fn recall(&mut self, memory: Memory) {
        let Ok(Remembered { learned, encoders, hanging }) = serde_json::from_value(memory) else { return };
        self.nodes.recall(hanging);
        self.learned = learned;
        self.trials.recall(encoders);
    }

    fn blame(&mut self, blame: &Blame) {
        let how = format!("the capture process died: {}", blame.how);
        match &blame.step {
            Step::Trying { encoder } => self.trials.blame(encoder, &how),
            Step::Starting { format, .. } | Step::Running { format, .. } => {
                let format = Format::all().find(|known| format.as_deref() == Some(known.name()));
                if let Some(video) = &self.learned.seen {
                    self.learned.record.blame(video, format, &how);
                }
            }
            Step::Looking { at: Some(node) } => self.nodes.blame(node),
            Step::Resting | Step::Loading | Step::Looking { at: None } | Step::Waiting | Step::Stopping { .. } => {}
        }
    }
}

impl Capture {
    /// The camera that the configuration names. A camera that was unplugged may come back under another number, since
    /// the old one is taken while anybody holds the old device open.
    fn named(&self, name: &str) -> Result<Video, Error> {
        let resolution = self.config.resolution();
        match (self.nodes.camera(name, resolution), &self.learned.seen) {
            (Err(Error::Absent { device }), Some(seen)) => {
                self.nodes.again(seen, resolution).ok_or(Error::Absent { device })
            }
            (found, _) => found,
        }
    }

    /// The camera that is most likely to bring pictures; none where there is no camera at all, or none that ever
    /// brought one.
    fn any(&mut self) -> Result<Option<Video>, Error> {
        let (cameras, others) = self.nodes.looked_at(self.config.resolution());
        let (mute, cameras): (Vec<_>, Vec<_>) =
            cameras.into_iter().partition(|video| self.learned.record.is_mute(video));
        // The least failures first; among equals the one of the last attempt, then the lowest number.
        let is_other = |video: &Video| self.learned.seen.as_ref().is_none_or(|seen| !seen.is_same_as(video));
        let best = cameras.into_iter().min_by_key(|video| (self.learned.record.failures(video), is_other(video)));
        if best.is_none() && self.learned.has_worked {
            return Err(Error::Absent { device: "a camera".into() });
        }
        let told = if best.is_some() {
            String::new()
        } else {
            let mute = mute.iter().map(|video| format!("{} brings no pictures", video.in_words()));
            let why: Vec<_> = mute.chain(others).collect();
            if why.is_empty() { "there is no camera".into() } else { why.join("; ") }
        };
        if self.told != told {
            if !told.is_empty() {
                tracing::info!(camera = %self.config.name, why = %told, "the test picture is shown");
            }
            self.told = told;
        }
        Ok(best)
    }

    fn test_picture(&mut self) -> Result<Graph, Error> {
        let (resolution, fps) = (self.config.resolution(), self.config.fps);
        let mode = Mode { format: "I420".into(), resolution, fps: f64::from(fps) };
        let (source, waker) = test_picture::source(resolution, fps)?;
        let mut graph = Graph::new(vec![source.upcast()], "test picture".into(), Some(mode));
        graph.waker = Some(waker);
        self.add_encoder(&mut graph)?;
        Ok(graph)
    }

    /// What to ask of the camera. A format that does not bring pictures gives way to the next.
    fn choose(&mut self, video: &Video) -> Result<Choice, Error> {
        let encoding = if self.config.encoder == PASSTHROUGH { Encoding::Camera } else { Encoding::Board };
        let wanted = Wanted { resolution: self.config.resolution(), fps: self.config.fps, encoding };
        let failures = |format| self.learned.record.failures_of(video, format).0;
        let choice = mode::choose(&video.offers, wanted, failures)
            .ok_or_else(|| Error::NoMode { device: video.in_words(), formats: video.formats() })?;
        let first = mode::choose(&video.offers, wanted, |_| 0).map(|first| first.format);
        let is_news = |first: &Format| *first != choice.format && self.learned.record.is_untried(video, choice.format);
        if let Some(first) = first.filter(is_news) {
            let (device, instead) = (video.in_words(), choice.format.name());
            let why = self.learned.record.failures_of(video, first).1;
            tracing::warn!(device, format = first.name(), instead, why, "another format of the camera is tried");
        }
        self.format = Some(choice.format);
        Ok(choice)
    }

    fn v4l2(&mut self, video: &Video) -> Result<Graph, Error> {
        let choice = self.choose(video)?;
        let fps = choice.rate.map_or(f64::from(self.config.fps), Rate::as_fps);
        let mode = Mode { format: choice.format.name().into(), resolution: choice.resolution, fps };
        let source = element("v4l2src")?.property("device", video.path.display().to_string());
        let rate = choice.rate.map_or(String::new(), |rate| format!(",framerate={}/{}", rate.frames, rate.seconds));
        let agreed = choice.resolution;
        // What it has in the place of the size that it agreed to.
        let expected = self.learned.record.size(video, agreed);
        let is_raw = choice.format.is_raw();
        if is_raw && !video.has(choice.format, expected) {
            return Err(Error::UnlistedSize { device: video.in_words(), agreed, found: expected });
        }
        let fields = if is_raw { self.learned.record.fields(video) } else { "" };
        let asked = if is_raw { expected } else { agreed };
        let caps = format!("{},width={},height={}{rate}{fields}", choice.format.caps(), asked.width, asked.height);
        let elements = vec![source.build().map_err(Error::broken)?, filter(&caps)?];
        let mut graph = Graph::new(elements, video.in_words(), Some(mode));
        graph.patience = patience(self.learned.record.silences(video), fps);
        graph.fault.clone_from(&video.fault);
        graph.mode.as_mut().expect("it was given one").resolution = expected;
        match choice.format {
            Format::H264 => graph.branch.elements.extend(parser()?),
            Format::MJPEG => {
                let queue = queue()?;
                graph.guard = Some(Guard { element: queue.clone(), agreed, expected, dropped: Arc::default() });
                graph.trunk.push(queue);
                let name = decoder::choose(&mut self.trials, expected);
                let decoder = element(name)?.build().map_err(Error::broken)?;
                if name != decoder::SOFTWARE {
                    self.decoder = Some(decoder::trial(name, expected));
                    graph.decoder = Some(decoder.clone());
                    tracing::info!(device = video.in_words(), decoder = name, "its JPEGs are decoded by hardware");
                }
                graph.trunk.push(decoder);
                self.add_encoder(&mut graph)?;
            }
            _ => {
                let element = graph.trunk.last().cloned().ok_or_else(|| Error::broken("a graph without a source"))?;
                graph.agreed = Some(Agreed { element, node: video.path.clone(), size: agreed, expected });
                self.add_encoder(&mut graph)?;
            }
        }
        Ok(graph)
    }

    fn libcamera(&mut self, id: Option<&str>) -> Result<Graph, Error> {
        let (resolution, fps) = (self.config.resolution(), self.config.fps);
        let source = element("libcamerasrc")?;
        let camera = csi::camera(id)?;
        let source = source.property("camera-name", camera.id.clone());
        let format = camera.format()?;
        let Resolution { width, height } = resolution;
        let caps = format!("video/x-raw,format={format},width={width},height={height},framerate={fps}/1");
        let device = csi::in_words(&camera.id);
        let mode = Mode { format: format.into(), resolution, fps: f64::from(fps) };
        let source = source.build().map_err(Error::broken)?;
        self.adjusted.found_csi(&source);
        let mut graph = Graph::new(vec![source, filter(&caps)?], device, Some(mode));
        self.add_encoder(&mut graph)?;
        Ok(graph)
    }

    /// Adds the encoding that the settings describe to a graph of raw pictures.
    fn add_encoder(&mut self, graph: &mut Graph) -> Result<(), Error> {
        let Some(mode) = &graph.mode else { return Err(Error::broken("a camera without a mode")) };
        graph.is_raw = true;
        let (captured, encoded) = (mode.resolution, mode::even(mode.resolution));
        let work = Work {
            resolution: encoded,
            fps: mode.fps,
            bitrate: self.config.ceiling(),
            key_interval: self.config.key_interval(mode.fps),
        };
        let mut shape = shape(graph.agreed.is_some())?;
        if captured != encoded {
            let crop = element("videocrop")?
                .property("right", (captured.width - encoded.width) as i32)
                .property("bottom", (captured.height - encoded.height) as i32);
            shape.push(crop.build().map_err(Error::broken)?);
        }
        let (branch, name) = self.encoded(&self.config.encoder.clone(), shape, work)?;
        self.encoder = Some(work.tried_by(&name));
        graph.branch = branch;
        Ok(())
    }

    /// From shaped pictures to access units.
    fn encoded(&mut self, encoder: &str, shape: Vec<gst::Element>, work: Work) -> Result<(Branch, String), Error> {
        let (kind, found) = self.trials.choose(encoder, &work)?;
        let (encoding, mut encoder) = kind.build(work)?;
        if !found.has_key_frames_on_demand {
            encoder.has_key_frames_each_second(work);
        }
        let elements = shape.into_iter().chain(encoding).chain(parser()?).collect();
        Ok((Branch { elements, encoder: Some(encoder) }, kind.name.to_owned()))
    }
}

/// What pictures pass on their way to an encoder: untouched where it takes them as they are.
fn shape(may_be_fields: bool) -> Result<Vec<gst::Element>, Error> {
    let mut shape = vec![queue()?, element("videoconvert")?.build().map_err(Error::broken)?];
    if may_be_fields {
        // Pictures of two fields, as analogue receivers have them, become pictures of one moment; others pass
        // untouched. One for each that is captured, at the least cost.
        let whole = element("deinterlace")?.property_from_str("fields", "top").property_from_str("method", "linear");
        shape.push(whole.build().map_err(Error::broken)?);
    }
    Ok(shape)
}
