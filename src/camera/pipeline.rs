//! One running graph: what it publishes, what it reports, how it is tuned and stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use tokio::sync::{mpsc, watch};

use crate::media::{Bitrate, Feed, Frame, H264Profile};

use super::agreed::Agreed;
use super::attempt::Gate;
use super::clock::Clock;
use super::complaints;
use super::encoder::Encoder;
use super::even::Even;
use super::jpeg::Guard;
use super::mode::Format;
use super::newcomer::Newcomer;
use super::paced::Waker;
use super::{Error, Mode, h264};

/// Where a graph's frames go.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) feed: Feed,
    /// Where the profile of H.264 is told; none for sound.
    pub(super) profile: Option<watch::Sender<H264Profile>>,
}

/// What a running graph reports.
#[derive(Debug)]
pub(super) enum Event {
    /// The first frame was published.
    FirstFrame,
    /// It stands in for a device, and there may be one now.
    Outdated,
    /// It is broken; GStreamer's words.
    Failed(Error),
}

/// The parts of a graph, from source to parser, before it runs.
#[derive(Debug)]
pub(super) struct Graph {
    /// All elements in order of flow; the sink is added by [`Pipeline::run`].
    pub(super) elements: Vec<gst::Element>,
    /// Keeps a source of our own going.
    pub(super) waker: Option<Waker>,
    /// What is turned at run time; none where the camera encodes, and for sound.
    pub(super) encoder: Option<Encoder>,
    /// The encoder of sound.
    pub(super) opus: Option<gst::Element>,
    /// The element after which pictures are raw.
    pub(super) raw: Option<gst::Element>,
    /// The device in words.
    pub(super) device: String,
    /// What is captured; none for sound.
    pub(super) mode: Option<Mode>,
    /// What keeps damaged JPEGs from the decoder; none where there are no JPEGs.
    pub(super) guard: Option<Guard>,
    /// What looks at the size of raw pictures; none where the size is no device's.
    pub(super) agreed: Option<Agreed>,
    /// The devices that there were where it stands in for one.
    pub(super) newcomer: Option<Newcomer>,
    /// What the device said of its input.
    pub(super) fault: Option<&'static str>,
    /// How long its frames may take.
    pub(super) patience: Patience,
}

/// How long frames may take before the device counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// The first one: sensors measure light first, and some encoders load firmware.
    pub(super) first: Duration,
    /// Each one after it.
    pub(super) next: Duration,
}

impl Patience {
    /// Four seconds for the first, since most need less than one; then as long as a viewer takes for a hiccup, so that
    /// a silent stall is noticed within a second.
    pub(super) const USUAL: Self = Self { first: Duration::from_secs(4), next: Duration::from_millis(800) };

    /// In so many frame intervals one frame at least must come, however low the rate.
    const INTERVALS: f64 = 4.0;

    /// Of a device that was given up as silent `times` times, at so many frames per second: twice as long each time, up
    /// to sixteen times.
    pub(super) fn after(times: u32, fps: f64) -> Self {
        // The lowest rate that is asked for is one in ten minutes.
        let intervals = Duration::from_secs_f64(Self::INTERVALS / fps.max(0.001));
        let grown = |usual: Duration| (usual * 2_u32.pow(times.min(4))).max(intervals);
        Self { first: grown(Self::USUAL.first), next: grown(Self::USUAL.next) }
    }
}

impl Graph {
    /// A graph that begins with `elements`.
    pub(super) fn new(elements: Vec<gst::Element>, device: String, mode: Option<Mode>) -> Self {
        let patience = mode.as_ref().map_or(Patience::USUAL, |mode| Patience::after(0, mode.fps));
        Self {
            elements,
            waker: None,
            encoder: None,
            opus: None,
            raw: None,
            device,
            mode,
            guard: None,
            agreed: None,
            newcomer: None,
            fault: None,
            patience,
        }
    }
}

/// A running graph. Dropping it stops it, which blocks for as long as the device takes to close.
#[derive(Debug)]
pub(super) struct Pipeline {
    pipeline: gst::Pipeline,
    graph: Graph,
    gate: Gate,
    events: mpsc::UnboundedReceiver<Event>,
    /// How many buffers the device has given.
    arrived: Arc<AtomicU64>,
    published: Arc<AtomicU64>,
}

impl Pipeline {
    /// Starts `graph`. Blocks until the device is open; frames come later, and are published through `gate`.
    pub(super) fn run(graph: Graph, sink: Sink, gate: Gate) -> Result<Self, Error> {
        let (sender, events) = mpsc::unbounded_channel();
        let published = Arc::new(AtomicU64::new(0));
        let pipeline = gst::Pipeline::new();
        let clock = Clock::of_process();
        pipeline.use_clock(Some(clock.as_gst()));
        // What an old pipeline left cannot be continued by this one.
        sink.feed.clear();
        let sink = publisher(clock, sink, gate.clone(), published.clone(), sender.clone());
        pipeline.add_many(&graph.elements).map_err(Error::broken)?;
        pipeline.add(&sink).map_err(Error::broken)?;
        gst::Element::link_many(graph.elements.iter().chain([sink.upcast_ref()])).map_err(Error::broken)?;
        if let Some(guard) = &graph.guard {
            guard.stand(&graph.device, sender.clone())?;
        }
        if let Some(agreed) = &graph.agreed {
            agreed.stand(&graph.device, sender.clone())?;
        }
        if let (Some(newcomer), Some(source)) = (&graph.newcomer, graph.elements.first()) {
            newcomer.stand(source, sender.clone())?;
        }
        let arrived = counted(&graph)?;
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let device = graph.device.clone();
        bus.set_sync_handler(move |_, message| {
            if let Some(failure) = failure(message, &device) {
                // Nobody listens only when the pipeline is being dropped.
                sender.send(Event::Failed(failure)).ok();
            }
            gst::BusSyncReply::Drop
        });
        let mut running = Self { pipeline, graph, gate, events, arrived, published };
        match running.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(running),
            // The message on the bus says more than the state change does.
            Err(failed) => Err(match running.events.try_recv() {
                Ok(Event::Failed(failure)) => failure,
                _ => Error::broken(failed),
            }),
        }
    }

    /// The next report. Cancelling the wait loses nothing.
    pub(super) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The bus handler holds a sender for as long as the pipeline lives.
            None => std::future::pending().await,
        }
    }

    /// How many frames were published.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// What to say of a device of which no frame could be published for so long.
    pub(super) fn silence(&self, waited: Duration) -> Error {
        let (device, fault) = (self.graph.device.clone(), self.graph.fault);
        let damaged = self.graph.guard.as_ref().map_or(0, |guard| guard.dropped.load(Ordering::Relaxed));
        let encodes = self.graph.mode.as_ref().is_some_and(|mode| mode.format == Format::H264.name());
        match self.arrived.load(Ordering::Relaxed) {
            _ if damaged > 0 => Error::Damaged { device, pictures: damaged, waited },
            pictures if pictures > 0 && encodes => Error::Unshowable { device, pictures, waited },
            _ => Error::Silent { device, waited, fault },
        }
    }

    /// What its frames pass through.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What it was built of.
    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Asks the encoder for a key frame at the next picture. A camera that encodes by itself is not asked:
    /// how is in each vendor's own extension unit.
    pub(super) fn force_key_frame(&self) {
        if let Some(encoder) = &self.graph.encoder {
            encoder.force_key_frame();
        }
    }

    /// Sets the encoder's bitrate and, for pictures, the frames between key frames that nobody asked for.
    pub(super) fn tune(&self, bitrate: Bitrate, key_interval: u32) {
        if let Some(encoder) = &self.graph.encoder {
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

/// Counts what leaves the first element, from now on.
fn counted(graph: &Graph) -> Result<Arc<AtomicU64>, Error> {
    let count = Arc::new(AtomicU64::new(0));
    let pad = graph.elements.first().and_then(|source| source.static_pad("src"));
    let pad = pad.ok_or_else(|| Error::broken("a source without a pad"))?;
    let counted = count.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Ok(count)
}

/// The end of the graph: each access unit or packet becomes a frame of the feed.
fn publisher(
    clock: Clock,
    sink: Sink,
    gate: Gate,
    published: Arc<AtomicU64>,
    events: mpsc::UnboundedSender<Event>,
) -> gst_app::AppSink {
    let mut even = Even::default();
    let new_sample = move |appsink: &gst_app::AppSink| {
        let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
        let segment = sample.segment().and_then(|segment| segment.downcast_ref::<gst::ClockTime>());
        // x264enc shifts its time stamps by 1000 hours together with their segment, so only running time counts.
        let running = segment.zip(buffer.pts()).and_then(|(segment, pts)| segment.to_running_time(pts));
        let (Some(running), Some(base)) = (running, appsink.base_time()) else { return Ok(gst::FlowSuccess::Ok) };
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let data = {
            let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
            // One copy: the memory is the encoder's, from a pool of as few as four buffers on V4L2 encoders, and
            // a viewer that holds on to a frame must not stop the encoder.
            Bytes::copy_from_slice(if sink.profile.is_some() { h264::without_delimiter(&map) } else { &map })
        };
        if is_key
            && let Some(profile) = &sink.profile
            && let Some(found) = h264::profile(&data)
        {
            profile.send_if_modified(|known| std::mem::replace(known, found) != found);
        }
        let stamped = clock.instant(base + running);
        let captured = if sink.profile.is_some() { stamped } else { even.place(stamped) };
        if !gate.pass(|| sink.feed.publish(Frame::new(data, captured, is_key))) {
            return Err(gst::FlowError::Flushing);
        }
        if published.fetch_add(1, Ordering::Relaxed) == 0 {
            events.send(Event::FirstFrame).ok();
        }
        Ok(gst::FlowSuccess::Ok)
    };
    gst_app::AppSink::builder()
        // A frame is worth most now: it is the viewer's place to smooth, not ours to wait.
        .sync(false)
        .async_(false)
        .enable_last_sample(false)
        .callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build())
        .build()
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
            let Patience { first, next } = Patience::after(times, fps);
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
