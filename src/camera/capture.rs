//! From a camera's configuration to the graph that captures and encodes it.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use crate::media::{Bitrate, Resolution};

use super::encoder::{self, Kind, Work};
use super::paced::{self, Pace, Waker};
use super::pipeline::Graph;
use super::test_picture::TestPicture;
use super::{Config, Error, Mode, clock, element};

/// One camera's way from configuration to graph; remembers what was found out on earlier attempts.
#[derive(Debug)]
pub(super) struct Capture {
    config: Config,
    chosen: Option<(Work, &'static Kind)>,
}

impl Capture {
    pub(super) fn new(config: Config) -> Self {
        Self { config, chosen: None }
    }

    /// Describes the graph for the device as it is now.
    pub(super) fn open(&mut self, bitrate: Bitrate) -> Result<Graph, Error> {
        self.test_picture(bitrate)
    }

    fn test_picture(&mut self, bitrate: Bitrate) -> Result<Graph, Error> {
        let Config { width, height, fps, .. } = self.config;
        let resolution = Resolution { width, height };
        let mode = Mode { format: "I420".into(), resolution, fps: f64::from(fps) };
        let (source, waker) = test_source(resolution, fps)?;
        let mut graph = Graph {
            elements: vec![source.upcast()],
            waker: Some(waker),
            encoder: None,
            raw: None,
            device: "test picture".into(),
            mode: Some(mode),
        };
        self.add_encoder(&mut graph, bitrate)?;
        Ok(graph)
    }

    /// From raw pictures to access units.
    fn add_encoder(&mut self, graph: &mut Graph, bitrate: Bitrate) -> Result<(), Error> {
        let mode = graph.mode.as_ref().expect("a camera has a mode");
        let work = Work {
            resolution: mode.resolution,
            fps: mode.fps,
            bitrate,
            key_interval: (self.config.key_frame_interval as f64 * mode.fps).round().max(1.0) as u32,
        };
        let kind = Kind::named("x264enc")?;
        self.chosen = Some((work, kind));
        let (elements, encoder) = kind.build(work)?;
        let queue = element("queue")?
            // Where the encoder is too slow, pictures are dropped before the work is done, the oldest first, so
            // that what is shown stays new. One waits while one is being encoded.
            .property("max-size-buffers", 1_u32)
            .property("max-size-bytes", 0_u32)
            .property("max-size-time", 0_u64)
            .property_from_str("leaky", "downstream")
            .build()
            .map_err(Error::broken)?;
        // Both pass buffers on untouched where nothing needs to be converted.
        let convert = element("videoconvert")?.build().map_err(Error::broken)?;
        graph.raw = graph.elements.last().cloned();
        graph.elements.extend([queue, convert]);
        graph.elements.extend(elements);
        graph.elements.extend(parser()?);
        graph.encoder = Some(encoder);
        Ok(())
    }
}

/// Access units in Annex B with SPS and PPS in front of each key frame.
fn parser() -> Result<[gst::Element; 2], Error> {
    let parse = element("h264parse")?.property("config-interval", -1).build().map_err(Error::broken)?;
    let caps = encoder::caps("video/x-h264,stream-format=byte-stream,alignment=au")?;
    Ok([parse, element("capsfilter")?.property("caps", caps).build().map_err(Error::broken)?])
}

/// The test picture as a live source.
fn test_source(resolution: Resolution, fps: u32) -> Result<(gst_app::AppSrc, Waker), Error> {
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, resolution.width, resolution.height)
        .fps(gst::Fraction::new(fps as i32, 1))
        .colorimetry(&"bt709".parse().map_err(Error::broken)?)
        .build()
        .map_err(Error::broken)?;
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
