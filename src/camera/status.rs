//! The status of a camera or of the microphone.

use serde::Serialize;

use crate::capture::{ActiveMode, Built, PASSTHROUGH};

use super::State;

/// Status of a camera or of the microphone, for the status report, the health check and the page's state indicator.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The camera's name; `microphone` for the microphone.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Why there is no picture although there is a reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The device in use, in words: `vivid (/dev/video0)`, `test picture`.
    pub device: String,
    /// The capture mode: `YUYV 1280x720 at 30 fps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ActiveMode>,
    /// The encoder in use; `passthrough` for a camera that encodes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// Whether the encoder makes a key frame on demand; if not, one comes each second, or when the camera makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_frames_on_demand: Option<bool>,
    /// Number of encoders started since this process began.
    pub encoder_starts: u64,
    /// Number of encoders that run now: 0 or 1.
    pub encoders_running: u32,
}

impl Status {
    /// Updates the status to what runs from now on.
    pub(super) fn apply_built(&mut self, built: &Built) {
        self.device.clone_from(&built.device);
        self.mode.clone_from(&built.mode);
        self.encoder.clone_from(&built.encoder);
        self.key_frames_on_demand = built.key_frames_on_demand;
        let encodes = built.encoder.as_deref().is_some_and(|encoder| encoder != PASSTHROUGH);
        self.encoder_starts += u64::from(encodes);
        self.encoders_running = u32::from(encodes);
    }
}
