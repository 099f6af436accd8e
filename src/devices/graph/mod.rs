//! One running graph: what it sends, what it reports, how it is tuned and stopped.

pub mod agreed;
pub mod branch;
pub mod clock;
pub mod complaints;
pub mod elements;
pub mod even;
pub mod jpeg;
pub mod plugins;
mod publisher;
mod registry;
pub mod snapshot;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::{Built, Error, Format, Mode, PASSTHROUGH, Patience};
use peercam::media::{Bitrate, h264};

use crate::attempt::Event;
use crate::encoder::Encoder;
use crate::look::newcomer::Newcomer;
use crate::opener::Part;
use crate::test_source::paced::Waker;
use crate::trials::MOST_HELD;

use agreed::Agreed;
use branch::{Branch, Running};
use clock::Clock;
use jpeg::Guard;
pub use publisher::{Published, Sending};

/// The parts of a graph before it runs: what captures, and the encoding that the settings describe.
#[derive(Debug)]
pub struct Graph {
    /// From the device on, in order of flow.
    pub trunk: Vec<gst::Element>,
    /// What encodes.
    pub branch: Branch,
    /// Whether raw pictures leave the trunk, so that more branches can join it, and stills be taken.
    pub is_raw: bool,
    /// Keeps a source of our own going.
    pub waker: Option<Waker>,
    /// The encoder of sound.
    pub opus: Option<gst::Element>,
    /// The device in words.
    pub device: String,
    /// What is captured; none for sound.
    pub mode: Option<Mode>,
    /// What keeps damaged JPEGs from the decoder; none where there are no JPEGs.
    pub guard: Option<Guard>,
    /// What looks at the size of raw pictures; none where the size is no device's.
    pub agreed: Option<Agreed>,
    /// The devices that there were where it stands in for one.
    pub newcomer: Option<Newcomer>,
    /// What the device said of its input.
    pub fault: Option<String>,
    /// How long its frames may take.
    pub patience: Patience,
    /// What decodes JPEGs, where that is hardware.
    pub decoder: Option<gst::Element>,
}

/// Four seconds for the first frame, since most need less than one; then as long as a viewer takes for a hiccup, so that
/// a silent stall is noticed within a second.
pub const USUAL: Patience = Patience { first: Duration::from_secs(4), next: Duration::from_millis(800) };

/// In so many frame intervals one frame at least must come, however low the rate.
const INTERVALS: f64 = 4.0;

/// The patience with a device that was given up as silent `times` times, at so many frames per second: twice as long
/// each time, up to sixteen times.
pub fn patience(times: u32, fps: f64) -> Patience {
    // The lowest rate that is asked for is one in ten minutes.
    let intervals = Duration::from_secs_f64(INTERVALS / fps.max(0.001));
    let grown = |usual: Duration| (usual * 2_u32.pow(times.min(4))).max(intervals);
    Patience { first: grown(USUAL.first), next: grown(USUAL.next) }
}

impl Graph {
    /// A graph whose trunk is `trunk`.
    pub fn new(trunk: Vec<gst::Element>, device: String, mode: Option<Mode>) -> Self {
        let patience = mode.as_ref().map_or(USUAL, |mode| patience(0, mode.fps));
        Self {
            trunk,
            branch: Branch { elements: vec![], encoder: None },
            is_raw: false,
            waker: None,
            opus: None,
            device,
            mode,
            guard: None,
            agreed: None,
            newcomer: None,
            fault: None,
            patience,
            decoder: None,
        }
    }

    /// What to tell of it.
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

/// A running graph: one trunk, and a branch for each encoding. Dropping it stops it, which blocks for as long as the
/// device takes to close.
pub struct Pipeline {
    pipeline: gst::Pipeline,
    trunk: Vec<gst::Element>,
    /// Where branches join; none where there is one only.
    tee: Option<gst::Element>,
    branches: BTreeMap<u16, Running>,
    graph: Facts,
    sending: Sending,
    counts: Counts,
}

/// How many pictures came how far.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// Given by the device.
    arrived: Arc<AtomicU64>,
    /// Given to the decoder of JPEGs.
    passed: Arc<AtomicU64>,
    /// Raw, and given to the encoders.
    raw: Arc<AtomicU64>,
}

/// How far pictures came, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    passed: u64,
    raw: u64,
}

/// What is known of the graph that runs.
pub struct Facts {
    /// The device in words.
    pub device: String,
    /// What is captured; none for sound.
    pub mode: Option<Mode>,
    /// How long its frames may take.
    pub patience: Patience,
    /// Whether there are raw pictures.
    pub is_raw: bool,
    /// How many JPEGs were dropped as damaged; none where there are no JPEGs.
    damaged: Option<Arc<AtomicU64>>,
    fault: Option<String>,
    opus: Option<gst::Element>,
    waker: Option<Waker>,
    decoder: Option<gst::Element>,
}

/// So many pictures that go into an element, and none that comes out: it stands still. At the start it may hold back some
/// ([`MOST_HELD`]) besides.
const STUCK: u64 = 3;

impl Facts {
    /// The patience with a device that was never silent.
    pub fn usual_patience(&self) -> Patience {
        self.mode.as_ref().map_or(USUAL, |mode| patience(0, mode.fps))
    }
}

impl Pipeline {
    /// Starts `graph`. Blocks until the device is open; frames come later, and are sent as `sending` says.
    pub fn run(graph: Graph, sending: Sending, events: &mpsc::Sender<Event>) -> Result<Self, Error> {
        let pipeline = gst::Pipeline::new();
        let clock = Clock::of_process();
        pipeline.use_clock(Some(clock.as_gst()));
        let counts = Counts::default();
        if let Some(source) = graph.trunk.first() {
            count(source, &counts.arrived)?;
        }
        if let Some(guard) = &graph.guard {
            guard.stand(&graph.device, events.clone())?;
            // After the guard's own look at them, which some do not pass.
            count(&guard.element, &counts.passed)?;
        }
        if let Some(agreed) = &graph.agreed {
            agreed.stand(&graph.device, events.clone())?;
        }
        if let Some(last) = graph.trunk.last().filter(|_| graph.is_raw) {
            count(last, &counts.raw)?;
        }
        if graph.mode.is_some() && graph.branch.encoder.is_none() {
            refuse_reordered(&graph, events.clone())?;
        }
        if let (Some(newcomer), Some(source)) = (&graph.newcomer, graph.trunk.first()) {
            newcomer.stand(source, events.clone())?;
        }
        let Graph { mut trunk, branch, is_raw, waker, opus, device, mode, guard, fault, patience, decoder, .. } = graph;
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
                // The first of these is for whom the start fails. Nobody listens only when the pipeline is being dropped.
                told.send(error.clone()).ok();
                events.send(Event::Failed { error, element }).ok();
            }
            gst::BusSyncReply::Drop
        });
        let damaged = guard.map(|guard| guard.dropped);
        let graph = Facts { device, mode, patience, is_raw, damaged, fault, opus, waker, decoder };
        let mut running = Self { pipeline, trunk, tee, branches: BTreeMap::new(), graph, sending, counts };
        running.add(0, branch)?;
        match running.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(running),
            // The message on the bus says more than the state change does.
            Err(failed) => Err(failures.try_recv().unwrap_or_else(|_| Error::broken(failed))),
        }
    }

    /// Adds one more encoding; the others go on.
    pub fn add(&mut self, rendition: u16, branch: Branch) -> Result<(), Error> {
        let Some(from) = self.trunk.last() else { return Err(Error::broken("a graph without a source")) };
        let published = Published::keeping_key_frames(self.graph.mode.is_some() && !self.graph.is_raw);
        let is_video = self.graph.mode.is_some();
        let sink = publisher::sink(&self.sending, rendition, is_video, published.clone());
        let running = Running::join(branch, sink, published, &self.pipeline, from)?;
        self.branches.insert(rendition, running);
        Ok(())
    }

    /// Ends an encoding, if there is one of this number; the others go on.
    pub fn remove(&mut self, rendition: u16) {
        if let Some(mut branch) = self.branches.remove(&rendition) {
            branch.leave(&self.pipeline);
        }
    }

    /// The encodings that there are.
    pub fn renditions(&self) -> impl Iterator<Item = (u16, &Running)> {
        self.branches.iter().map(|(number, branch)| (*number, branch))
    }

    /// The encoding that an element of this name is a part of.
    pub fn rendition_with(&self, element: &str) -> Option<u16> {
        self.renditions().find(|(_, branch)| branch.has(element)).map(|(number, _)| number)
    }

    /// How many frames were sent of the encoding that the settings describe.
    pub fn published(&self) -> u64 {
        self.first().map_or(0, |branch| branch.published().count())
    }

    /// How many buffers the device has given.
    pub fn arrived(&self) -> u64 {
        self.counts.arrived.load(Ordering::Relaxed)
    }

    /// How far pictures came.
    pub fn reached(&self) -> Reached {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Reached { passed: count(&self.counts.passed), raw: count(&self.counts.raw) }
    }

    /// The part that stands still, where nothing came out of the graph since pictures had reached so far.
    pub fn stuck(&self, since: Reached) -> Part {
        let now = self.reached();
        let enough = if self.published() == 0 { STUCK + MOST_HELD as u64 } else { STUCK };
        let encodes = self.first().is_some_and(|branch| branch.encoder().is_some());
        match now.raw - since.raw {
            raw if encodes && raw >= enough => Part::Encoder,
            0 if self.graph.decoder.is_some() && now.passed - since.passed >= enough => Part::Decoder,
            _ => Part::Device,
        }
    }

    /// The part that has the element of this name.
    pub fn part_with(&self, element: &str) -> Part {
        match &self.graph.decoder {
            // Of a branch the encoder is the element that devices make fail.
            _ if self.rendition_with(element).is_some() => Part::Encoder,
            Some(decoder) if decoder.name() == element => Part::Decoder,
            _ => Part::Device,
        }
    }

    /// The encoding that the settings describe.
    pub fn first(&self) -> Option<&Running> {
        self.branches.get(&0)
    }

    /// What is known of the graph.
    pub fn graph(&self) -> &Facts {
        &self.graph
    }

    /// The element that raw pictures leave; none where the camera encodes, and for sound.
    pub fn raw(&self) -> Option<&gst::Element> {
        self.tee.as_ref()
    }

    /// What to say of a device of which no frame could be published for so long.
    pub fn silence(&self, waited: Duration) -> Error {
        let (device, fault) = (self.graph.device.clone(), self.graph.fault.clone());
        let damaged = self.graph.damaged.as_ref().map_or(0, |damaged| damaged.load(Ordering::Relaxed));
        let encodes = self.graph.mode.as_ref().is_some_and(|mode| mode.format == Format::H264.name());
        match self.arrived() {
            _ if damaged > 0 => Error::Damaged { device, pictures: damaged, waited },
            pictures if pictures > 0 && encodes => Error::Unshowable { device, pictures, waited },
            _ => Error::Silent { device, waited, fault },
        }
    }

    /// Asks the encoder for a key frame at the next picture. A camera that encodes by itself is not asked:
    /// how is in each vendor's own extension unit.
    pub fn force_key_frame(&self, rendition: u16) {
        if let Some(encoder) = self.branches.get(&rendition).and_then(Running::encoder) {
            encoder.force_key_frame();
        }
    }

    /// Sets the encoder's bitrate and, for pictures, the frames between key frames that nobody asked for.
    pub fn tune(&self, bitrate: Bitrate, key_interval: u32) {
        if let Some(encoder) = self.first().and_then(Running::encoder) {
            encoder.tune(bitrate, key_interval);
        }
        if let Some(opus) = &self.graph.opus {
            opus.set_property("bitrate", bitrate.as_bps() as i32);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.graph.waker = None;
        // Fails only if an element refuses to stop, which leaves nothing to do about it.
        self.pipeline.set_state(gst::State::Null).ok();
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
    }
}

/// Lets no access unit pass of a camera that encodes pictures out of order; `events` is told once.
fn refuse_reordered(graph: &Graph, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let parsed = graph.branch.elements.last().and_then(|element| element.static_pad("src"));
    let parsed = parsed.ok_or_else(|| Error::broken("no pad to look at H.264"))?;
    let (device, mut is_told) = (graph.device.clone(), false);
    let judge = Mutex::new(move |unit: &[u8]| {
        if !is_told && h264::has_b_slices(unit) {
            is_told = true;
            // Nobody listens only while the pipeline is being stopped.
            events.send(Event::failed(Error::Reordered { device: device.clone() })).ok();
        }
        if is_told { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
    });
    parsed.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let map = info.buffer().and_then(|buffer| buffer.map_readable().ok());
        match (map, judge.lock()) {
            (Some(unit), Ok(mut judge)) => judge(&unit),
            _ => gst::PadProbeReturn::Drop,
        }
    });
    Ok(())
}

/// Counts what leaves the element, from now on.
fn count(element: &gst::Element, counted: &Arc<AtomicU64>) -> Result<(), Error> {
    let pad = element.static_pad("src").ok_or_else(|| Error::broken("a source without a pad"))?;
    let counted = counted.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// What to say where each field of an interlaced picture comes by itself, which the elements behind do not take.
const FIELDS: &str =
    "it sends the two fields of each picture one by one; have what it receives send whole pictures (720p, 1080p)";

/// The failure that a message on the bus tells of, if it does.
fn failure(message: &gst::Message, device: &str) -> Option<Error> {
    match message.view() {
        gst::MessageView::Error(failed) => {
            let (device, error) = (device.to_owned(), failed.error());
            let element = message.src().map(|source| source.name());
            if let Some(told) = element.and_then(|element| complaints::taken(&element, &device)) {
                return Some(told);
            }
            Some(if error.matches(gst::ResourceError::Busy) {
                Error::Busy { device }
            } else if error.matches(gst::ResourceError::NotFound) {
                Error::Gone { device }
            } else if failed.debug().is_some_and(|text| text.contains("Device wants interleaved interlacing")) {
                Error::OtherFields { device }
            } else {
                // The debugging text begins with GStreamer's source file and line; a cause is in its last line.
                let cause = failed.debug().and_then(|text| Some(text.lines().skip(1).last()?.trim().to_owned()));
                let has_fields = cause.as_ref().is_some_and(|cause| cause.contains("(string)alternate"));
                let why = if has_fields { FIELDS } else { error.message().trim_end_matches('.') };
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
    fn patience_doubles_with_each_silence_and_lasts_some_frames_at_least() {
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
