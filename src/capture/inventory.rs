//! The inventory of a board: its devices and encoders, for `doctor`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::Control;
use super::device::{AlsaDevice, V4l2Camera};

/// The devices and encoders of a board, and those that would be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// Why nothing could be examined; all other fields are then empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The version of GStreamer, or why it does not start.
    pub gstreamer: String,
    /// Cameras with their controls.
    pub cameras: Vec<(V4l2Camera, Vec<Control>)>,
    /// IDs of the cameras that libcamera finds.
    pub libcamera: Vec<String>,
    /// Video nodes that are not usable cameras, and why.
    pub other_nodes: Vec<String>,
    /// Microphones.
    pub microphones: Vec<AlsaDevice>,
    /// Each encoder, tried at the first camera's size.
    pub encoders: Vec<EncoderTrial>,
    /// Elements that are missing, and the Debian package that has each.
    pub missing_elements: Vec<(String, String)>,
    /// For each configured camera: what would be used, or why nothing can be used.
    pub uses: Vec<(String, Result<String, String>)>,
    /// The sound source that would be used, or why there is none.
    pub sound: Option<Result<String, String>>,
}

/// Result of trying one encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderTrial {
    /// The GStreamer element.
    pub name: String,
    /// Whether its software is installed here.
    pub is_installed: bool,
    /// How long a few pictures took, or why it cannot be used.
    pub outcome: Result<Duration, String>,
    /// Whether it makes a key frame on demand. If not, one comes each second.
    pub has_key_frames_on_demand: bool,
}
