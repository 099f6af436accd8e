//! Turns a camera's configuration into the graph that captures and encodes it.

mod camera_records;
pub mod mode;

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::{
    ActiveMode, Blame, CaptureFormat, Config, Error, FrameRate, LearnedState, PASSTHROUGH, Rendition, Settings,
    SourceSpec, Step, V4l2Camera,
};
use peercam::media::Resolution;
use serde::{Deserialize, Serialize};

use crate::attempt;
use crate::codec_trials::{CodecTrials, TrialKey, TrialResults};
use crate::decoder;
use crate::encoder::EncodingTask;
use crate::graph::branch::Branch;
use crate::graph::elements::{element, filter, parser, queue};
use crate::graph::jpeg_filter::JpegFilter;
use crate::graph::size_check::SizeCheck;
use crate::graph::{Graph, patience};
use crate::graph_builder::{AttemptOutcome, GraphBuilder, GraphPart};
use crate::inventory::controls::DeviceControls;
use crate::inventory::csi;
use crate::inventory::device::Nodes;
use crate::inventory::hotplug::HotplugWatch;
use crate::test_source::test_picture;

use camera_records::CameraRecords;
pub use camera_records::since_boot;
use mode::{Encoding, ModeChoice, ModeRequest};

/// Turns one camera's configuration into graphs, and remembers what earlier attempts have shown.
#[derive(Debug)]
pub struct CameraBuilder {
    config: Config,
    source: SourceSpec,
    /// The format of the last attempt, if it got that far.
    format: Option<CaptureFormat>,
    /// The trials of encoder and JPEG decoder behind the last attempt, if it got that far and had them.
    encoder: Option<TrialKey>,
    decoder: Option<TrialKey>,
    learned: Learned,
    /// The last logged reason for the test picture.
    logged_reason: String,
    controls: DeviceControls,
    nodes: Nodes,
    trials: CodecTrials,
}

/// Results of earlier attempts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Learned {
    /// The `source` of the configuration that it applies to.
    source: String,
    /// The camera of the last attempt, by which one that comes back under another number is recognised.
    seen: Option<V4l2Camera>,
    /// Whether a camera worked. After that a missing one is waited for: a test picture would hide that it is unplugged.
    has_worked: bool,
    record: CameraRecords,
}

/// The learned state that is passed to the next process.
#[derive(Serialize, Deserialize)]
struct Remembered<L, F, H> {
    learned: L,
    encoders: F,
    hanging: H,
}

impl CameraBuilder {
    /// Results of trials, and nodes that hang.
    pub fn results(&self) -> (TrialResults, Nodes) {
        (self.trials.results().clone(), self.nodes.clone())
    }

    /// One without experience.
    pub fn new(controls: DeviceControls, nodes: Nodes, trials: CodecTrials) -> Self {
        let config = Config::default();
        Self {
            source: SourceSpec::parse(&config.source),
            config,
            format: None,
            encoder: None,
            decoder: None,
            learned: Learned::default(),
            logged_reason: String::new(),
            controls,
            nodes,
            trials,
        }
    }
}

impl GraphBuilder for CameraBuilder {
    fn build(&mut self, settings: &Settings) -> Result<Graph, Error> {
        let config = attempt::of_camera(settings)?;
        if config.source != self.learned.source {
            (self.learned.seen, self.learned.has_worked) = (None, false);
        }
        self.source = SourceSpec::parse(&config.source);
        self.learned.source.clone_from(&config.source);
        self.config.clone_from(config);
        (self.format, self.encoder, self.decoder) = (None, None, None);
        self.learned.record.expire();
        self.nodes.expire();
        // Taken before the devices are listed, so that no device that appears meanwhile is missed.
        let hotplug_watch = HotplugWatch::now();
        let video = match &self.source {
            SourceSpec::Test => None,
            SourceSpec::Libcamera(id) => return self.libcamera(id.clone().as_deref()),
            SourceSpec::V4l2(name) => Some(self.named(name)?),
            SourceSpec::Auto => self.any()?,
        };
        self.controls.use_v4l2(video.as_ref());
        self.learned.seen = video.as_ref().map(V4l2Camera::identity);
        match video {
            None => {
                let mut graph = self.test_picture()?;
                graph.hotplug = Some(hotplug_watch).filter(|_| self.source == SourceSpec::Auto);
                Ok(graph)
            }
            Some(video) => self.v4l2(&video),
        }
    }

    fn record_outcome(&mut self, outcome: AttemptOutcome<'_>) {
        const STUCK: &str = "pictures went in, and none came out";
        let (part, why) = match outcome {
            AttemptOutcome::Works => (GraphPart::Device, String::new()),
            AttemptOutcome::Stalled { part } => (part, STUCK.to_owned()),
            // Such an error only reports that no picture of the camera came.
            AttemptOutcome::Failed { error: Error::Silent { .. } | Error::Damaged { .. }, part } => {
                (part, STUCK.to_owned())
            }
            AttemptOutcome::Failed { error, part } => (part, error.to_string()),
        };
        let trial = match part {
            GraphPart::Device => None,
            GraphPart::Decoder => self.decoder.clone(),
            GraphPart::Encoder => self.encoder.clone(),
        };
        if let Some(trial) = trial {
            // The camera is not at fault. Software stalls when it gets no processor time, and the next encoder
            // would stall too.
            let is_starved = matches!(outcome, AttemptOutcome::Stalled { .. }) && trial.is_of_software();
            if !is_starved {
                self.trials.record_failure(trial, &why);
            }
            return;
        }
        let Some(video) = &self.learned.seen else { return };
        self.learned.has_worked |= matches!(outcome, AttemptOutcome::Works);
        self.learned.record.add(video, self.format, outcome);
    }

    fn rendition(&mut self, wanted: &Rendition, fps: f64) -> Result<(Branch, String), Error> {
        let Rendition { resolution, bitrate } = *wanted;
        if !Config::takes(resolution) {
            return Err(Error::broken(format!("{resolution} is no size for a rendition: both sides have to be even")));
        }
        let task = EncodingTask { resolution, fps, bitrate, key_interval: self.config.key_interval(fps) };
        let mut shape = shape(matches!(self.source, SourceSpec::V4l2(_) | SourceSpec::Auto))?;
        // Before the conversion, which then has less to do.
        shape.insert(1, element("videoscale")?.build().map_err(Error::broken)?);
        let Resolution { width, height } = resolution;
        shape.push(filter(&format!("video/x-raw,width={width},height={height},pixel-aspect-ratio=1/1"))?);
        self.encoded(&self.config.encoder.clone(), shape, task)
    }

    fn learned(&self) -> LearnedState {
        let (encoders, hanging) = (self.trials.results(), self.nodes.hanging());
        let remembered = Remembered { learned: &self.learned, encoders, hanging };
        serde_json::to_value(remembered).unwrap_or_default()
    }

    fn restore(&mut self, memory: LearnedState) {
        let Ok(Remembered { learned, encoders, hanging }) = serde_json::from_value(memory) else { return };
        self.nodes.restore(hanging);
        self.learned = learned;
        self.trials.restore(encoders);
    }

    fn record_crash(&mut self, blame: &Blame) {
        let how = format!("the capture process died: {}", blame.how);
        match &blame.step {
            Step::Trying { encoder } => self.trials.record_crash(encoder, &how),
            Step::Starting { format, .. } | Step::Running { format, .. } => {
                let format = CaptureFormat::all().find(|known| format.as_deref() == Some(known.name()));
                if let Some(video) = &self.learned.seen {
                    self.learned.record.record_crash(video, format, &how);
                }
            }
            Step::Looking { at: Some(node) } => self.nodes.record_hang(node),
            Step::Resting | Step::Loading | Step::Looking { at: None } | Step::Waiting | Step::Stopping { .. } => {}
        }
    }
}

impl CameraBuilder {
    /// The camera that the configuration names. A camera that was unplugged may come back under another number,
    /// because the old number stays in use while any process holds the old device open.
    fn named(&self, name: &str) -> Result<V4l2Camera, Error> {
        let resolution = self.config.resolution();
        match (self.nodes.camera(name, resolution), &self.learned.seen) {
            (Err(Error::Absent { device }), Some(seen)) => {
                self.nodes.find_again(seen, resolution).ok_or(Error::Absent { device })
            }
            (found, _) => found,
        }
    }

    /// The camera that is most likely to deliver pictures; `None` if there is no camera, or none that ever
    /// delivered one.
    fn any(&mut self) -> Result<Option<V4l2Camera>, Error> {
        let (cameras, others) = self.nodes.cameras_and_others(self.config.resolution());
        let (mute, cameras): (Vec<_>, Vec<_>) =
            cameras.into_iter().partition(|video| self.learned.record.is_mute(video));
        // Those with the fewest failures first; among equals the camera of the last attempt, then the lowest number.
        let is_other = |video: &V4l2Camera| self.learned.seen.as_ref().is_none_or(|seen| !seen.is_same_as(video));
        let best = cameras.into_iter().min_by_key(|video| (self.learned.record.failures(video), is_other(video)));
        if best.is_none() && self.learned.has_worked {
            return Err(Error::Absent { device: "a camera".into() });
        }
        let told = if best.is_some() {
            String::new()
        } else {
            let mute = mute.iter().map(|video| format!("{} delivers no pictures", video.in_words()));
            let why: Vec<_> = mute.chain(others).collect();
            if why.is_empty() { "there is no camera".into() } else { why.join("; ") }
        };
        if self.logged_reason != told {
            if !told.is_empty() {
                tracing::info!(camera = %self.config.name, why = %told, "the test picture is shown");
            }
            self.logged_reason = told;
        }
        Ok(best)
    }

    fn test_picture(&mut self) -> Result<Graph, Error> {
        let (resolution, fps) = (self.config.resolution(), self.config.fps);
        let mode = ActiveMode { format: "I420".into(), resolution, fps: f64::from(fps) };
        let (source, waker) = test_picture::source(resolution, fps)?;
        let mut graph = Graph::new(vec![source.upcast()], "test picture".into(), Some(mode));
        graph.waker = Some(waker);
        self.add_encoder(&mut graph)?;
        Ok(graph)
    }

    /// Chooses the mode of the camera. A format that delivers no pictures is replaced by the next.
    fn choose(&mut self, video: &V4l2Camera) -> Result<ModeChoice, Error> {
        let encoding = if self.config.encoder == PASSTHROUGH { Encoding::Camera } else { Encoding::Board };
        let wanted = ModeRequest { resolution: self.config.resolution(), fps: self.config.fps, encoding };
        let failures = |format| self.learned.record.failures_of(video, format).0;
        let choice = mode::choose(&video.modes, wanted, failures)
            .ok_or_else(|| Error::NoMode { device: video.in_words(), formats: video.formats() })?;
        let first = mode::choose(&video.modes, wanted, |_| 0).map(|first| first.format);
        let is_news =
            |first: &CaptureFormat| *first != choice.format && self.learned.record.is_untried(video, choice.format);
        if let Some(first) = first.filter(is_news) {
            let (device, instead) = (video.in_words(), choice.format.name());
            let why = self.learned.record.failures_of(video, first).1;
            tracing::warn!(device, format = first.name(), instead, why, "another format of the camera is tried");
        }
        self.format = Some(choice.format);
        Ok(choice)
    }

    fn v4l2(&mut self, video: &V4l2Camera) -> Result<Graph, Error> {
        let choice = self.choose(video)?;
        let fps = choice.rate.map_or(f64::from(self.config.fps), FrameRate::as_fps);
        let mode = ActiveMode { format: choice.format.name().into(), resolution: choice.resolution, fps };
        let source = element("v4l2src")?.property("device", video.path.display().to_string());
        let rate = choice.rate.map_or(String::new(), |rate| format!(",framerate={}/{}", rate.frames, rate.seconds));
        let agreed = choice.resolution;
        // The size that it sends instead of the one that it agreed to.
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
        graph.mode.as_mut().expect("mode was set in Graph::new").resolution = expected;
        match choice.format {
            CaptureFormat::H264 => graph.branch.elements.extend(parser()?),
            CaptureFormat::MJPEG => {
                let queue = queue()?;
                graph.jpeg_filter =
                    Some(JpegFilter { element: queue.clone(), agreed, expected, dropped: Arc::default() });
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
                graph.size_check = Some(SizeCheck { element, node: video.path.clone(), size: agreed, expected });
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
        let mode = ActiveMode { format: format.into(), resolution, fps: f64::from(fps) };
        let source = source.build().map_err(Error::broken)?;
        self.controls.use_csi(&source);
        let mut graph = Graph::new(vec![source, filter(&caps)?], device, Some(mode));
        self.add_encoder(&mut graph)?;
        Ok(graph)
    }

    /// Adds the encoder of the settings to a graph with raw pictures.
    fn add_encoder(&mut self, graph: &mut Graph) -> Result<(), Error> {
        let Some(mode) = &graph.mode else { return Err(Error::broken("a camera without a mode")) };
        graph.is_raw = true;
        let (captured, encoded) = (mode.resolution, mode::even(mode.resolution));
        let task = EncodingTask {
            resolution: encoded,
            fps: mode.fps,
            bitrate: self.config.ceiling(),
            key_interval: self.config.key_interval(mode.fps),
        };
        let mut shape = shape(graph.size_check.is_some())?;
        if captured != encoded {
            let crop = element("videocrop")?
                .property("right", (captured.width - encoded.width) as i32)
                .property("bottom", (captured.height - encoded.height) as i32);
            shape.push(crop.build().map_err(Error::broken)?);
        }
        let (branch, name) = self.encoded(&self.config.encoder.clone(), shape, task)?;
        self.encoder = Some(task.trial_key(&name));
        graph.branch = branch;
        Ok(())
    }

    /// The branch from prepared raw pictures to access units.
    fn encoded(
        &mut self,
        encoder: &str,
        shape: Vec<gst::Element>,
        task: EncodingTask,
    ) -> Result<(Branch, String), Error> {
        let (kind, found) = self.trials.choose(encoder, &task)?;
        let (encoding, mut encoder) = kind.build(task)?;
        if !found.has_key_frames_on_demand {
            encoder.has_key_frames_each_second(task);
        }
        let elements = shape.into_iter().chain(encoding).chain(parser()?).collect();
        Ok((Branch { elements, encoder: Some(encoder) }, kind.name.to_owned()))
    }
}

/// The elements that prepare pictures for an encoder; they do not change pictures that it accepts.
fn shape(may_be_fields: bool) -> Result<Vec<gst::Element>, Error> {
    let mut shape = vec![queue()?, element("videoconvert")?.build().map_err(Error::broken)?];
    if may_be_fields {
        // Interlaced pictures, as from analogue receivers, become progressive ones; others pass unchanged. One
        // picture for each captured one, at the lowest cost.
        let whole = element("deinterlace")?.property_from_str("fields", "top").property_from_str("method", "linear");
        shape.push(whole.build().map_err(Error::broken)?);
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::output::Output;
    use crate::step_reporter::StepReporter;

    #[test]
    fn a_stall_skips_hardware_encoders_and_only_a_failure_skips_software() {
        let (_parent, child) = UnixStream::pair().unwrap();
        let nodes = Nodes::new(StepReporter::silent());
        let controls = DeviceControls::new(BTreeMap::new(), &nodes, Output::new(child));
        let mut camera_builder = CameraBuilder::new(controls, nodes, CodecTrials::new(StepReporter::silent()));
        let stalled = || AttemptOutcome::Stalled { part: GraphPart::Encoder };
        let error = Error::broken("no memory");
        let failed = || AttemptOutcome::Failed { error: &error, part: GraphPart::Encoder };
        let resolution = Resolution { width: 640, height: 360 };
        for (element, outcome, passed_over) in [
            ("x264enc", stalled(), 0),
            ("openh264enc", stalled(), 0),
            ("v4l2h264enc", stalled(), 1),
            ("x264enc", failed(), 2),
        ] {
            camera_builder.encoder = Some(TrialKey::of(element, resolution, 30.0));
            camera_builder.record_outcome(outcome);
            assert_eq!(camera_builder.results().0.len(), passed_over, "{element}");
        }
    }
}
