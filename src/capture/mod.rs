//! What the two processes say to each other: `peercam`, which holds the viewers and the network, and `peercam-capture`,
//! which holds the devices.
//!
//! Each camera and the microphone have a capture process of their own. It is the only one that loads GStreamer, V4L2 and
//! ALSA, so that what a driver or a decoder does wrong ends it and nothing else. The parent orders ([`Order`]), the
//! capture process reports ([`Report`]) and sends frames, over one Unix stream socket in the form of [`wire`].
//! `docs/capture-protocol.md` has the protocol whole.

mod config;
mod control;
mod device;
mod error;
mod format;
mod message;
mod movement;
mod survey;
pub mod wire;

pub use config::{AudioConfig, CaptureConfig, Config, ENCODERS, Mistake, PASSTHROUGH};
pub use control::{Access, Adjustments, Choice, Control, Kind};
pub use device::{Audio, RECEIVER, Source, Video};
pub use error::Error;
pub use format::{Format, Mode, Offer, Rate, Sizes, USUAL, sizes};
pub use message::{
    Answer, Begin, Blame, Built, Log, MOST_RENDITIONS, Memory, Order, Patience, Question, Rendition, Report, Role,
    Settings, Step,
};
pub use movement::{Motion, Movement};
pub use survey::{EncoderTrial, Survey};

/// What status and refusals say while privacy is on.
pub const PRIVACY: &str = "privacy is on";
