//! One running graph: what it sends and reports, and how it is tuned and stopped.

pub mod branch;
pub mod clock;
pub mod driver_errors;
pub mod elements;
pub mod jpeg_filter;
pub mod plugins;
mod publisher;
mod registry;
pub mod size_check;
pub mod snapshot;
pub mod timestamp_smoother;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::{ActiveMode, Built, CaptureFormat, Error, PASSTHROUGH, Patience};
use peercam::media::{Bitrate, h264};

use crate::attempt::AttemptEvent;
use crate::codec_trials::MAX_HELD;
use crate::encoder::Encoder;
use crate::graph_builder::GraphPart;
use crate::inventory::hotplug::HotplugWatch;
use crate::test_source::live_source::Waker;

use branch::{Branch, Running};
use clock::Clock;
use jpeg_filter::JpegFilter;
pub use publisher::{FrameTarget, Published};
use size_check::SizeCheck;

/// The parts of a graph before it runs: the capture, and the encoding that the settings describe.
#[derive(Debug)]
pub struct Graph {
    /// The elements from the device on, in order of flow.
    pub trunk: Vec<gst::Element>,
    /// The encoding.
    pub branch: Branch,
    /// Whether the trunk ends with raw pictures, so that more branches can join it and stills can be taken.
    pub is_raw: bool,
    /// Stops the wait of a generated source when dropped.
    pub waker: Option<Waker>,
    /// The Opus encoder.
    pub opus: Option<gst::Element>,
    /// The device in words.
    pub device: String,
    /// The capture mode; `None` for sound.
    pub mode: Option<ActiveMode>,
    /// Keeps damaged JPEGs from the decoder; `None` if there are no JPEGs.
    pub jpeg_filter: Option<JpegFilter>,
    /// Checks the size of raw pictures; `None` if it does not depend on a device.
    pub size_check: Option<SizeCheck>,
    /// The devices that existed when a substitute was chosen.
    pub hotplug: Option<HotplugWatch>,
    /// The fault of its input, as reported by the device.
    pub fault: Option<String>,
    /// Time limits of its frames.
    pub patience: Patience,
    /// The JPEG decoder, if it is hardware.
    pub decoder: Option<gst::Element>,
}

/// Four seconds for the first frame, because most devices need less than one; then as long as a viewer accepts as a
/// hiccup, so that a silent stall is noticed within a second.
pub const DEFAULT_PATIENCE: Patience = Patience { first: Duration::from_secs(4), next: Duration::from_millis(800) };

/// At least one frame must come in so many frame intervals, however low the rate is.
const MIN_INTERVALS: f64 = 4.0;

/// The patience with a device that was silent `times` times, at `fps` frames per second: twice as long each time,
/// up to sixteen times.
pub fn patience(times: u32, fps: f64) -> Patience {
    // The lowest rate that is requested is one frame in ten minutes.
    let intervals = Duration::from_secs_f64(MIN_INTERVALS / fps.max(0.001));
    let grown = |usual: Duration| (usual * 2_u32.pow(times.min(4))).max(intervals);
    Patience { first: grown(DEFAULT_PATIENCE.first), next: grown(DEFAULT_PATIENCE.next) }
}

impl Graph {
    /// A graph with this trunk and an empty branch.
    pub fn new(trunk: Vec<gst::Element>, device: String, mode: Option<ActiveMode>) -> Self {
        let patience = mode.as_ref().map_or(DEFAULT_PATIENCE, |mode| patience(0, mode.fps));
        Self {
            trunk,
            branch: Branch { elements: vec![], encoder: None },
            is_raw: false,
            waker: None,
            opus: None,
            device,
            mode,
            jpeg_filter: None,
            size_check: None,
            hotplug: None,
            fault: None,
            patience,
            decoder: None,
        }
    }

    /// The report about it.
    pub fn built(&self) -> Built {
        Built {
            device: self.device.clone(),
            mode: self.mode.clone(),
            encoder: match (&self.branch.encoder, &self.mode) {
                (Some(encoder), _) => Some(encoder.kind.name.to_owned()),
                (None, Some(_)) => Some(PASSTHROUGH.to_owned()),
                (None, None) => Some("opusenc".to_owned()),
            },
            key_frames_on_demand: self.mode.as_ref().map(|_| {
                let encoder = self.branch.encoder.as_ref();
                encoder.is_some_and(Encoder::has_key_frames_on_demand)
            }),
            patience: self.patience,
        }
    }
}

/// A running graph: one trunk, and a branch for each encoding. Dropping it stops it, which blocks until the device
/// is closed.
pub struct Pipeline {
    pipeline: gst::Pipeline,
    trunk: Vec<gst::Element>,
    /// Where branches join; `None` if there can be only one.
    tee: Option<gst::Element>,
    branches: BTreeMap<u16, Running>,
    info: GraphInfo,
    target: FrameTarget,
    counts: PictureCounts,
}

/// Number of pictures that reached each stage.
#[derive(Clone, Debug, Default)]
struct PictureCounts {
    /// From the device.
    arrived: Arc<AtomicU64>,
    /// To the JPEG decoder.
    passed: Arc<AtomicU64>,
    /// Raw, to the encoders.
    raw: Arc<AtomicU64>,
}

/// Number of pictures at the stages at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageCounts {
    passed: u64,
    raw: u64,
}

/// Description of the running graph.
pub struct GraphInfo {
    /// The device in words.
    pub device: String,
    /// The capture mode; `None` for sound.
    pub mode: Option<ActiveMode>,
    /// Time limits of its frames.
    pub patience: Patience,
    /// Whether there are raw pictures.
    pub is_raw: bool,
    /// Number of JPEGs dropped as damaged; `None` if there are no JPEGs.
    damaged: Option<Arc<AtomicU64>>,
    fault: Option<String>,
    opus: Option<gst::Element>,
    waker: Option<Waker>,
    decoder: Option<gst::Element>,
}

/// An element has stalled if so many pictures went in and none came out. At the start it may hold back some more
/// ([`MAX_HELD`]).
const STALL_COUNT: u64 = 3;

impl GraphInfo {
    /// The patience with a device that was never silent.
    pub fn default_patience(&self) -> Patience {
        self.mode.as_ref().map_or(DEFAULT_PATIENCE, |mode| patience(0, mode.fps))
    }
}

impl Pipeline {
    /// Starts `graph`. Blocks until the device is open; frames come later, and go to `target`.
    pub fn run(graph: Graph, target: FrameTarget, events: &mpsc::Sender<AttemptEvent>) -> Result<Self, Error> {
        let pipeline = gst::Pipeline::new();
        let clock = Clock::of_process();
        pipeline.use_clock(Some(clock.as_gst()));
        let counts = PictureCounts::default();
        if let Some(source) = graph.trunk.first() {
            count(source, &counts.arrived)?;
        }
        if let Some(jpeg_filter) = &graph.jpeg_filter {
            jpeg_filter.attach(&graph.device, events.clone())?;
            // After the guard's own probe, which drops some pictures.
            count(&jpeg_filter.element, &counts.passed)?;
        }
        if let Some(size_check) = &graph.size_check {
            size_check.attach(&graph.device, events.clone())?;
        }
        if let Some(last) = graph.trunk.last().filter(|_| graph.is_raw) {
            count(last, &counts.raw)?;
        }
        if graph.mode.is_some() && graph.branch.encoder.is_none() {
            refuse_reordered(&graph, events.clone())?;
        }
        if let (Some(hotplug), Some(source)) = (&graph.hotplug, graph.trunk.first()) {
            hotplug.attach(source, events.clone())?;
        }
        let Graph {
            mut trunk, branch, is_raw, waker, opus, device, mode, jpeg_filter, fault, patience, decoder, ..
        } = graph;
        let tee = is_raw.then(branch::tee).transpose()?;
        trunk.extend(tee.clone());
        pipeline.add_many(&trunk).map_err(Error::broken)?;
        gst::Element::link_many(&trunk).map_err(Error::broken)?;
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let (told, failures) = mpsc::channel();
        let (events, of) = (events.clone(), device.clone());
        bus.set_sync_handler(move |_, message| {
            if let Some(error) = failure(message, &of) {
                let element = message.src().map(|source| source.name().to_string()).unwrap_or_default();
                // The first error is the result of a failed start. The receivers are gone only when the pipeline is
                // being dropped.
                told.send(error.clone()).ok();
                events.send(AttemptEvent::Failed { error, element }).ok();
            }
            gst::BusSyncReply::Drop
        });
        let damaged = jpeg_filter.map(|jpeg_filter| jpeg_filter.dropped);
        let info = GraphInfo { device, mode, patience, is_raw, damaged, fault, opus, waker, decoder };
        let mut running = Self { pipeline, trunk, tee, branches: BTreeMap::new(), info, target, counts };
        running.add(0, branch)?;
        match running.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(running),
            // The message on the bus is more specific than the state change.
            Err(failed) => Err(failures.try_recv().unwrap_or_else(|_| Error::broken(failed))),
        }
    }

    /// Adds one more encoding; the others continue.
    pub fn add(&mut self, rendition: u16, branch: Branch) -> Result<(), Error> {
        let Some(from) = self.trunk.last() else { return Err(Error::broken("a graph without a source")) };
        let published = Published::keeping_key_frames(self.info.mode.is_some() && !self.info.is_raw);
        let is_video = self.info.mode.is_some();
        let sink = publisher::sink(&self.target, rendition, is_video, published.clone());
        let running = Running::join(branch, sink, published, &self.pipeline, from)?;
        self.branches.insert(rendition, running);
        Ok(())
    }

    /// Ends the encoding with this number, if there is one; the others continue.
    pub fn remove(&mut self, rendition: u16) {
        if let Some(mut branch) = self.branches.remove(&rendition) {
            branch.leave(&self.pipeline);
        }
    }

    /// All encodings.
    pub fn renditions(&self) -> impl Iterator<Item = (u16, &Running)> {
        self.branches.iter().map(|(number, branch)| (*number, branch))
    }

    /// The encoding that has an element of this name.
    pub fn rendition_with(&self, element: &str) -> Option<u16> {
        self.renditions().find(|(_, branch)| branch.has(element)).map(|(number, _)| number)
    }

    /// Number of frames sent of the encoding that the settings describe.
    pub fn published(&self) -> u64 {
        self.first().map_or(0, |branch| branch.published().count())
    }

    /// Number of buffers from the device.
    pub fn arrived(&self) -> u64 {
        self.counts.arrived.load(Ordering::Relaxed)
    }

    /// Number of pictures at the stages now.
    pub fn stage_counts(&self) -> StageCounts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StageCounts { passed: count(&self.counts.passed), raw: count(&self.counts.raw) }
    }

    /// The part that has stalled, if no frame came out of the graph since these counts.
    pub fn stalled_part(&self, since: StageCounts) -> GraphPart {
        let now = self.stage_counts();
        let enough = if self.published() == 0 { STALL_COUNT + MAX_HELD as u64 } else { STALL_COUNT };
        let encodes = self.first().is_some_and(|branch| branch.encoder().is_some());
        match now.raw - since.raw {
            raw if encodes && raw >= enough => GraphPart::Encoder,
            0 if self.info.decoder.is_some() && now.passed - since.passed >= enough => GraphPart::Decoder,
            _ => GraphPart::Device,
        }
    }

    /// The part that has the element of this name.
    pub fn part_with(&self, element: &str) -> GraphPart {
        match &self.info.decoder {
            // In a branch, the encoder is the element that depends on hardware.
            _ if self.rendition_with(element).is_some() => GraphPart::Encoder,
            Some(decoder) if decoder.name() == element => GraphPart::Decoder,
            _ => GraphPart::Device,
        }
    }

    /// The encoding that the settings describe.
    pub fn first(&self) -> Option<&Running> {
        self.branches.get(&0)
    }

    /// Description of the graph.
    pub fn info(&self) -> &GraphInfo {
        &self.info
    }

    /// The element that raw pictures leave; `None` if the camera encodes, and for sound.
    pub fn raw(&self) -> Option<&gst::Element> {
        self.tee.as_ref()
    }

    /// The error for a device from which no frame could be published for so long.
    pub fn silence_error(&self, waited: Duration) -> Error {
        let (device, fault) = (self.info.device.clone(), self.info.fault.clone());
        let damaged = self.info.damaged.as_ref().map_or(0, |damaged| damaged.load(Ordering::Relaxed));
        let encodes = self.info.mode.as_ref().is_some_and(|mode| mode.format == CaptureFormat::H264.name());
        match self.arrived() {
            _ if damaged > 0 => Error::Damaged { device, pictures: damaged, waited },
            pictures if pictures > 0 && encodes => Error::Unshowable { device, pictures, waited },
            _ => Error::Silent { device, waited, fault },
        }
    }

    /// Requests a key frame at the next picture from the encoder. There is no request to a camera that encodes by
    /// itself: each vendor has its own extension unit for that.
    pub fn force_key_frame(&self, rendition: u16) {
        if let Some(encoder) = self.branches.get(&rendition).and_then(Running::encoder) {
            encoder.force_key_frame();
        }
    }

    /// Sets the encoder's bitrate and, for pictures, the key-frame interval in frames.
    pub fn tune(&self, bitrate: Bitrate, key_interval: u32) {
        if let Some(encoder) = self.first().and_then(Running::encoder) {
            encoder.tune(bitrate, key_interval);
        }
        if let Some(opus) = &self.info.opus {
            opus.set_property("bitrate", bitrate.as_bps() as i32);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.info.waker = None;
        // Fails only if an element refuses to stop, and then nothing can be done.
        self.pipeline.set_state(gst::State::Null).ok();
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
    }
}

/// Drops all access units of a camera that encodes pictures out of order; reports it to `events` once.
fn refuse_reordered(graph: &Graph, events: mpsc::Sender<AttemptEvent>) -> Result<(), Error> {
    let parsed = graph.branch.elements.last().and_then(|element| element.static_pad("src"));
    let parsed = parsed.ok_or_else(|| Error::broken("no pad to look at H.264"))?;
    let (device, mut is_reported) = (graph.device.clone(), false);
    let check = Mutex::new(move |unit: &[u8]| {
        if !is_reported && h264::has_b_slices(unit) {
            is_reported = true;
            // The receiver is gone only while the pipeline is being stopped.
            events.send(AttemptEvent::failed(Error::Reordered { device: device.clone() })).ok();
        }
        if is_reported { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
    });
    parsed.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let map = info.buffer().and_then(|buffer| buffer.map_readable().ok());
        match (map, check.lock()) {
            (Some(unit), Ok(mut check)) => check(&unit),
            _ => gst::PadProbeReturn::Drop,
        }
    });
    Ok(())
}

/// Counts the buffers that leave the element, from now on.
fn count(element: &gst::Element, counted: &Arc<AtomicU64>) -> Result<(), Error> {
    let pad = element.static_pad("src").ok_or_else(|| Error::broken("a source without a pad"))?;
    let counted = counted.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// The reason when each field of an interlaced picture comes separately, which the elements behind do not support.
const SEPARATE_FIELDS: &str =
    "it sends the two fields of each picture separately; set the sending device to progressive pictures (720p, 1080p)";

/// The failure that a message on the bus reports, if any.
fn failure(message: &gst::Message, device: &str) -> Option<Error> {
    match message.view() {
        gst::MessageView::Error(failed) => {
            let (device, error) = (device.to_owned(), failed.error());
            let element = message.src().map(|source| source.name());
            if let Some(told) = element.and_then(|element| driver_errors::take(&element, &device)) {
                return Some(told);
            }
            Some(if error.matches(gst::ResourceError::Busy) {
                Error::Busy { device }
            } else if error.matches(gst::ResourceError::NotFound) {
                Error::Gone { device }
            } else if failed.debug().is_some_and(|text| text.contains("Device wants interleaved interlacing")) {
                Error::OtherFields { device }
            } else {
                // The debug text begins with GStreamer's source file and line; a cause is in its last line.
                let cause = failed.debug().and_then(|text| Some(text.lines().skip(1).last()?.trim().to_owned()));
                let has_fields = cause.as_ref().is_some_and(|cause| cause.contains("(string)alternate"));
                let why = if has_fields { SEPARATE_FIELDS } else { error.message().trim_end_matches('.') };
                Error::Failed { device, why: why.to_owned(), cause }
            })
        }
        gst::MessageView::Eos(_) => Some(Error::Gone { device: device.to_owned() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_with_each_silence_and_covers_some_frames_at_least() {
        let seconds = |times, fps| {
            let Patience { first, next } = patience(times, fps);
            (first.as_secs_f64(), next.as_secs_f64())
        };
        let cases = [
            ((0, 30.0), (4.0, 0.8)),
            ((1, 30.0), (8.0, 1.6)),
            ((2, 30.0), (16.0, 3.2)),
            ((4, 30.0), (64.0, 12.8)),
            ((99, 30.0), (64.0, 12.8)),
            ((0, 0.5), (8.0, 8.0)),
            ((0, 0.1), (40.0, 40.0)),
        ];
        for ((times, fps), expected) in cases {
            assert_eq!(seconds(times, fps), expected, "{times} times at {fps} fps");
        }
    }
}
