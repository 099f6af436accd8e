//! From a camera's configuration to the graph that captures and encodes it.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use crate::media::Resolution;

use super::agreed::Agreed;
use super::controls::Adjusted;
use super::device::{self, Source, Video};
use super::encoder::{self, Work};
use super::jpeg::Guard;
use super::mode::{self, Choice, Encoding, Format, Wanted};
use super::newcomer::Newcomer;
use super::opener::{Opener, Outcome};
use super::paced::{self, Pace, Waker};
use super::pipeline::{Graph, Patience};
use super::record::Record;
use super::test_picture::TestPicture;
use super::{Config, Error, Mode, PASSTHROUGH, clock, element, trial};

/// One camera's way from configuration to graph; remembers what was found out on earlier attempts.
#[derive(Debug)]
pub(super) struct Capture {
    config: Config,
    source: Source,
    /// The camera of the last attempt. One that comes back under another number is known by this.
    seen: Option<Video>,
    /// The format of the last attempt, if it came so far.
    format: Option<Format>,
    /// Whether a camera worked. From then on its absence is waited for: a test picture would hide an unplugged one.
    has_worked: bool,
    record: Record,
    /// Why the test picture is shown, as far as the log was told.
    told: String,
    adjusted: Adjusted,
}

impl Capture {
    pub(super) fn new(config: Config, adjusted: Adjusted) -> Self {
        let source = Source::parse(&config.source);
        let (record, told) = (Record::default(), String::new());
        Self { config, source, seen: None, format: None, has_worked: false, record, told, adjusted }
    }
}

impl Opener<Config> for Capture {
    fn open(&mut self, config: &Config) -> Result<Graph, Error> {
        if config.source != self.config.source {
            self.source = Source::parse(&config.source);
            self.seen = None;
            self.has_worked = false;
        }
        self.config.clone_from(config);
        self.format = None;
        self.record.forget();
        // Before the look at them, so that none that comes meanwhile is missed.
        let there = Newcomer::now();
        let video = match &self.source {
            Source::Test => None,
            Source::Libcamera(id) => return self.libcamera(id.as_deref()),
            Source::V4l2(name) => Some(self.named(name)?),
            Source::Auto => self.any()?,
        };
        self.adjusted.found(video.as_ref());
        self.seen.clone_from(&video);
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
        let Some(video) = &self.seen else { return };
        self.has_worked |= matches!(outcome, Outcome::Works);
        self.record.add(video, self.format, outcome);
    }
}

impl Capture {
    /// The camera that the configuration names. A camera that was unplugged may come back under another number, since
    /// the old one is taken while anybody holds the old device open.
    fn named(&self, name: &str) -> Result<Video, Error> {
        let resolution = self.config.resolution();
        match (device::camera(name, resolution), &self.seen) {
            (Err(Error::Absent { device }), Some(seen)) => {
                device::again(seen, resolution).ok_or(Error::Absent { device })
            }
            (found, _) => found,
        }
    }

    /// The camera that is most likely to bring pictures; none where there is no camera at all, or none that ever
    /// brought one.
    fn any(&mut self) -> Result<Option<Video>, Error> {
        let (cameras, others) = device::looked_at(self.config.resolution());
        let (mute, cameras): (Vec<_>, Vec<_>) = cameras.into_iter().partition(|video| self.record.is_mute(video));
        // The least failures first; among equals the one of the last attempt, then the lowest number.
        let is_other = |video: &Video| self.seen.as_ref().is_none_or(|seen| !seen.is_same_as(video));
        let best = cameras.into_iter().min_by_key(|video| (self.record.failures(video), is_other(video)));
        if best.is_none() && self.has_worked {
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

    fn test_picture(&self) -> Result<Graph, Error> {
        let (resolution, fps) = (self.config.resolution(), self.config.fps);
        let mode = Mode { format: "I420".into(), resolution, fps: f64::from(fps) };
        let (source, waker) = test_source(resolution, fps)?;
        let mut graph = Graph::new(vec![source.upcast()], "test picture".into(), Some(mode));
        graph.waker = Some(waker);
        graph.elements.push(queue()?);
        self.add_encoder(&mut graph, None)?;
        Ok(graph)
    }

    /// What to ask of the camera. A format that does not bring pictures gives way to the next.
    fn choose(&mut self, video: &Video) -> Result<Choice, Error> {
        let encoding = if self.config.encoder == PASSTHROUGH { Encoding::Camera } else { Encoding::Board };
        let wanted = Wanted { resolution: self.config.resolution(), fps: self.config.fps, encoding };
        let failures = |format| self.record.failures_of(video, format).0;
        let choice = mode::choose(&video.offers, wanted, failures)
            .ok_or_else(|| Error::NoMode { device: video.in_words(), formats: video.formats() })?;
        let first = mode::choose(&video.offers, wanted, |_| 0).map(|first| first.format);
        let is_news = |first: &Format| *first != choice.format && self.record.is_untried(video, choice.format);
        if let Some(first) = first.filter(is_news) {
            let (device, instead) = (video.in_words(), choice.format.name());
            let why = self.record.failures_of(video, first).1;
            tracing::warn!(device, format = first.name(), instead, why, "another format of the camera is tried");
        }
        self.format = Some(choice.format);
        Ok(choice)
    }

    fn v4l2(&mut self, video: &Video) -> Result<Graph, Error> {
        let choice = self.choose(video)?;
        let fps = choice.rate.map_or(f64::from(self.config.fps), mode::Rate::as_fps);
        let mode = Mode { format: choice.format.name().into(), resolution: choice.resolution, fps };
        let source = element("v4l2src")?.property("device", video.path.display().to_string());
        let rate = choice.rate.map_or(String::new(), |rate| format!(",framerate={}/{}", rate.frames, rate.seconds));
        let agreed = choice.resolution;
        // What it has in the place of the size that it agreed to.
        let expected = self.record.size(video, agreed);
        let is_raw = choice.format.is_raw();
        if is_raw && !video.has(choice.format, expected) {
            return Err(Error::UnlistedSize { device: video.in_words(), agreed, found: expected });
        }
        let fields = if is_raw { self.record.fields(video) } else { "" };
        let asked = if is_raw { expected } else { agreed };
        let caps = format!("{},width={},height={}{rate}{fields}", choice.format.caps(), asked.width, asked.height);
        let elements = vec![source.build().map_err(Error::broken)?, filter(&caps)?];
        let mut graph = Graph::new(elements, video.in_words(), Some(mode));
        graph.patience = Patience::after(self.record.silences(video), fps);
        graph.fault = video.fault;
        graph.mode.as_mut().expect("it was given one").resolution = expected;
        match choice.format {
            Format::H264 => graph.elements.extend(parser()?),
            Format::MJPEG => {
                let queue = queue()?;
                graph.elements.push(queue.clone());
                graph.guard = Some(Guard { element: queue, agreed, expected, dropped: Arc::default() });
                self.add_encoder(&mut graph, Some("jpegdec"))?;
            }
            _ => {
                let queue = queue()?;
                graph.elements.push(queue.clone());
                graph.agreed = Some(Agreed { element: queue, node: video.path.clone(), size: agreed, expected });
                self.add_encoder(&mut graph, None)?;
            }
        }
        Ok(graph)
    }

    fn libcamera(&self, id: Option<&str>) -> Result<Graph, Error> {
        let (resolution, fps) = (self.config.resolution(), self.config.fps);
        let mut source = element("libcamerasrc")?;
        if let Some(id) = id {
            source = source.property("camera-name", id);
        }
        let Resolution { width, height } = resolution;
        let caps = format!("video/x-raw,format=NV12,width={width},height={height},framerate={fps}/1");
        let device = id.map_or("libcamera".into(), |id| format!("libcamera ({id})"));
        let mode = Mode { format: "NV12".into(), resolution, fps: f64::from(fps) };
        let elements = vec![source.build().map_err(Error::broken)?, filter(&caps)?];
        let mut graph = Graph::new(elements, device, Some(mode));
        graph.elements.push(queue()?);
        self.add_encoder(&mut graph, None)?;
        Ok(graph)
    }

    /// From the queued pictures to access units, by way of the element `decode` if they are compressed.
    fn add_encoder(&self, graph: &mut Graph, decode: Option<&str>) -> Result<(), Error> {
        let mode = graph.mode.as_ref().expect("a camera has a mode");
        let (captured, encoded) = (mode.resolution, mode::even(mode.resolution));
        let work = Work {
            resolution: encoded,
            fps: mode.fps,
            bitrate: self.config.ceiling(),
            key_interval: self.config.key_interval(mode.fps),
        };
        let (kind, found) = trial::choose(&self.config.encoder, &work)?;
        let (elements, mut encoder) = kind.build(work)?;
        if !found.has_key_frames_on_demand {
            encoder.has_key_frames_each_second(work);
        }
        if let Some(decode) = decode {
            graph.elements.push(element(decode)?.build().map_err(Error::broken)?);
        }
        graph.raw = graph.elements.last().cloned();
        // Passes pictures on untouched where the encoder takes them as they are.
        graph.elements.push(element("videoconvert")?.build().map_err(Error::broken)?);
        if graph.agreed.is_some() {
            // Pictures of two fields, as analogue receivers have them, become pictures of one moment; others pass
            // untouched. One for each that is captured, at the least cost.
            let whole =
                element("deinterlace")?.property_from_str("fields", "top").property_from_str("method", "linear");
            graph.elements.push(whole.build().map_err(Error::broken)?);
        }
        if captured != encoded {
            let crop = element("videocrop")?
                .property("right", (captured.width - encoded.width) as i32)
                .property("bottom", (captured.height - encoded.height) as i32);
            graph.elements.push(crop.build().map_err(Error::broken)?);
        }
        graph.elements.extend(elements);
        graph.elements.extend(parser()?);
        graph.encoder = Some(encoder);
        Ok(())
    }
}

/// Between the device and what is done with its pictures.
fn queue() -> Result<gst::Element, Error> {
    let queue = element("queue")?
        // Where the encoder is too slow, pictures are dropped before the work is done, the oldest first, so
        // that what is shown stays new. One waits while one is being encoded.
        .property("max-size-buffers", 1_u32)
        .property("max-size-bytes", 0_u32)
        .property("max-size-time", 0_u64)
        .property_from_str("leaky", "downstream");
    queue.build().map_err(Error::broken)
}

/// Access units in Annex B with SPS and PPS in front of each key frame.
pub(super) fn parser() -> Result<[gst::Element; 2], Error> {
    let parse = element("h264parse")?.property("config-interval", -1).build().map_err(Error::broken)?;
    Ok([parse, filter("video/x-h264,stream-format=byte-stream,alignment=au")?])
}

/// An element that lets only these caps pass.
pub(super) fn filter(caps: &str) -> Result<gst::Element, Error> {
    element("capsfilter")?.property("caps", encoder::caps(caps)?).build().map_err(Error::broken)
}

/// The test picture as a live source.
fn test_source(resolution: Resolution, fps: u32) -> Result<(gst_app::AppSrc, Waker), Error> {
    let info = test_format(resolution, fps)?;
    let caps = info.to_caps().map_err(Error::broken)?;
    let picture = TestPicture::new(&info);
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    // Two in the queue and the encoder, two for encoders that keep a reference; more are made when needed.
    config.set_params(Some(&caps), picture.size() as u32, 4, 0);
    pool.set_config(config).map_err(Error::broken)?;
    pool.set_active(true).map_err(Error::broken)?;
    let pace = Pace { buffers: fps, seconds: 1 };
    let patience = std::time::Duration::from_secs(1) / fps;
    Ok(paced::source(&caps, pace, patience, move |moment| {
        let mut buffer = pool.acquire_buffer(None).ok()?;
        picture.draw(&mut buffer.get_mut()?.map_writable().ok()?, clock::unix_time(moment));
        Some(buffer)
    }))
}

/// How the test picture lies in memory.
pub(super) fn test_format(resolution: Resolution, fps: u32) -> Result<gst_video::VideoInfo, Error> {
    gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, resolution.width, resolution.height)
        .fps(gst::Fraction::new(fps as i32, 1))
        .colorimetry(&"bt709".parse().map_err(Error::broken)?)
        .build()
        .map_err(Error::broken)
}
