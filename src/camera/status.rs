//! What a source says of itself.

use std::fmt;

use serde::Serialize;

use crate::media::Resolution;

use super::pipeline::Graph;
use super::{PASSTHROUGH, State};

/// What a camera or microphone is doing, for status, health and the page's state pill.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The camera's name; `microphone` for the microphone.
    pub name: String,
    /// Where it is in its life.
    pub state: State,
    /// Why there is no picture, when there is none and somebody wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The device in use, in words: `vivid (/dev/video0)`, `test picture`.
    pub device: String,
    /// What is captured: `YUYV 1280x720 at 30 fps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The encoder in use; `passthrough` for a camera that encodes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// Whether a key frame comes when a viewer needs one; else one comes each second, or when the camera makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_frames_on_demand: Option<bool>,
    /// How many encoders were started since the process began.
    pub encoder_starts: u64,
    /// How many encoders run now: 0 or 1.
    pub encoders_running: u32,
}

/// A capture mode as chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mode {
    /// As V4L2 calls it, mostly: `YUYV`, `NV12`, `I420`, `MJPEG`, `H264`.
    pub format: String,
    /// Picture size.
    #[serde(flatten)]
    pub resolution: Resolution,
    /// Frames per second.
    pub fps: f64,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {} fps", self.format, self.resolution, (self.fps * 100.0).round() / 100.0)
    }
}

impl Status {
    /// Takes in what runs from now on.
    pub(super) fn take_in(&mut self, graph: &Graph) {
        self.device.clone_from(&graph.device);
        self.mode.clone_from(&graph.mode);
        self.encoder = match (&graph.encoder, &graph.mode) {
            (Some(encoder), _) => Some(encoder.kind.name.to_owned()),
            (None, Some(_)) => Some(PASSTHROUGH.to_owned()),
            (None, None) => Some("opusenc".to_owned()),
        };
        self.key_frames_on_demand = graph.mode.as_ref().map(|_| match &graph.encoder {
            Some(encoder) => encoder.has_key_frames_on_demand(),
            None => false,
        });
        let encoders = u32::from(graph.encoder.is_some() || graph.mode.is_none());
        self.encoder_starts += u64::from(encoders);
        self.encoders_running = encoders;
    }
}
