//! From the audio configuration to the graph that captures and encodes sound.

use gstreamer::prelude::*;

use crate::media::Bitrate;

use super::pipeline::Graph;
use super::{AudioConfig, Config, Error, element, encoder, test_tone};

/// The microphone's way from configuration to graph.
#[derive(Debug)]
pub(super) struct Sound {
    config: AudioConfig,
    cameras: Vec<Config>,
}

impl Sound {
    pub(super) fn new(config: AudioConfig, cameras: &[Config]) -> Self {
        Self { config, cameras: cameras.to_vec() }
    }

    /// Describes the graph for the device as it is now.
    pub(super) fn open(&self, bitrate: Bitrate) -> Result<Graph, Error> {
        let _ = &self.cameras;
        let (source, waker) = test_tone::source()?;
        let (source, waker, device) = (source.upcast(), Some(waker), "test tone".to_owned());
        let caps = format!("audio/x-raw,rate={},channels={}", test_tone::RATE, self.config.channels);
        let elements = vec![
            source,
            element("audioconvert")?.build().map_err(Error::broken)?,
            element("audioresample")?.build().map_err(Error::broken)?,
            element("capsfilter")?.property("caps", encoder::caps(&caps)?).build().map_err(Error::broken)?,
            element("opusenc")?
                .property("bitrate", bitrate.as_bps().min(510_000) as i32)
                .property_from_str("frame-size", "20")
                // A lost packet is rebuilt from the next one.
                .property("inband-fec", true)
                .property("packet-loss-percentage", 5_i32)
                // Silence must be sent too: viewers measure loss and lip sync by what arrives.
                .property("dtx", false)
                .build()
                .map_err(Error::broken)?,
        ];
        Ok(Graph { elements, waker, encoder: None, raw: None, device, mode: None })
    }
}
