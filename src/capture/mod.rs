//! The protocol between the two processes: `peercam`, which serves viewers and the network, and `peercam-capture`,
//! which holds the devices.
//!
//! Each camera and the microphone have their own capture process. Only that process loads GStreamer, V4L2 and ALSA,
//! so that a fault in a driver or a decoder ends it and nothing else. The parent sends orders ([`Order`]); the
//! capture process sends reports ([`Report`]) and frames, over one Unix stream socket in the format of [`wire`].
//! `docs/capture-protocol.md` has the complete protocol.

mod config;
mod control;
mod device;
mod error;
mod format;
mod inventory;
mod message;
mod ptz;
pub mod wire;

pub use config::{AudioConfig, CaptureConfig, Config, ENCODERS, Mistake, PASSTHROUGH};
pub use control::{Control, ControlAccess, ControlKind, KnownDevice, MenuItem};
pub use device::{AlsaDevice, RECEIVER, SourceSpec, V4l2Camera};
pub use error::Error;
pub use format::{ActiveMode, CaptureFormat, CaptureMode, FrameRate, Sizes, USUAL, sizes};
pub use inventory::{EncoderTrial, Inventory};
pub use message::{
    Answer, Begin, Blame, Built, LearnedState, LogSettings, MAX_RENDITIONS, Order, Patience, Question, Rendition,
    Report, Role, Settings, Step,
};
pub use ptz::{AxisMotion, PtzMovement};

/// Text in the status and in errors while privacy is on.
pub const PRIVACY: &str = "privacy is on";
