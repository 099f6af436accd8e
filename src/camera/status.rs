//! What a source says of itself.

use serde::Serialize;

use crate::capture::{Built, Mode, PASSTHROUGH};

use super::State;

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

impl Status {
    /// Takes in what runs from now on.
    pub(super) fn take_in(&mut self, built: &Built) {
        self.device.clone_from(&built.device);
        self.mode.clone_from(&built.mode);
        self.encoder.clone_from(&built.encoder);
        self.key_frames_on_demand = built.key_frames_on_demand;
        let encodes = built.encoder.as_deref().is_some_and(|encoder| encoder != PASSTHROUGH);
        self.encoder_starts += u64::from(encodes);
        self.encoders_running = u32::from(encodes);
    }
}
