//! What a board has, as `doctor` tells it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::Control;
use super::device::{Audio, Video};

/// What there is, and what would be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// Why nothing could be looked at; all of the rest is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The version of GStreamer, or why it does not start.
    pub gstreamer: String,
    /// Cameras with their controls.
    pub cameras: Vec<(Video, Vec<Control>)>,
    /// Cameras that libcamera has, by its names for them.
    pub libcamera: Vec<String>,
    /// Video nodes that are no usable cameras, and why.
    pub other_nodes: Vec<String>,
    /// Microphones.
    pub microphones: Vec<Audio>,
    /// Each encoder, tried at the first camera's size.
    pub encoders: Vec<EncoderTrial>,
    /// Elements that are missing, and the Debian package that has each.
    pub missing_elements: Vec<(String, String)>,
    /// For each configured camera: what would be used, or why nothing can be.
    pub uses: Vec<(String, Result<String, String>)>,
    /// What would be used for sound, or why nothing can be.
    pub sound: Option<Result<String, String>>,
}

/// How one encoder did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderTrial {
    /// The GStreamer element.
    pub name: String,
    /// Whether its software is installed here.
    pub is_installed: bool,
    /// How long a few pictures took, or why it cannot be used.
    pub outcome: Result<Duration, String>,
    /// Whether it makes a key frame when a viewer needs one. Without, one comes each second.
    pub has_key_frames_on_demand: bool,
}
