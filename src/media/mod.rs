//! The types for pictures and sound: frames, codecs, sizes, rates, and the [`Feed`] that carries them.
//!
//! This module does no I/O and depends on no other module.

mod demand;
mod feed;
pub mod h264;
mod ring;
pub mod time_code;

use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use demand::{Demand, DemandWatch, Purpose};
pub use feed::{Feed, Lag, Lagged, Reading, Subscription};
pub use ring::Window;

/// One access unit of H.264 (Annex B, with SPS and PPS in front of each key frame) or one Opus packet.
#[derive(Debug)]
pub struct Frame {
    /// The encoded bytes.
    pub data: Bytes,
    /// When the camera or microphone took it, on the process's monotonic clock.
    ///
    /// Not a pipeline's timestamp: those restart at zero with each pipeline, and the feed outlives pipelines.
    pub captured: Instant,
    /// Whether decoding can start here. Always true for Opus.
    pub is_key: bool,
}

impl Frame {
    /// A frame as it came from the encoder.
    pub fn new(data: Bytes, captured: Instant, is_key: bool) -> Self {
        Self { data, captured, is_key }
    }
}

/// Format of the frames of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Their codec.
    pub codec: Codec,
    /// The sequence and picture parameter sets of the newest key frame (H.264, Annex B); empty before it and for sound.
    pub parameter_sets: Bytes,
    /// The size of pictures, if it is known.
    pub size: Option<Resolution>,
    /// Number of the rendition; 0 has the size of the settings.
    pub rendition: u16,
}

impl Format {
    /// The first rendition of a source, with nothing else known.
    pub fn of(codec: Codec) -> Self {
        Self { codec, parameter_sets: Bytes::new(), size: None, rendition: 0 }
    }

    /// The profile of H.264; `None` for sound.
    pub fn profile(&self) -> Option<H264Profile> {
        match self.codec {
            Codec::H264(profile) => Some(profile),
            Codec::Opus => None,
        }
    }
}

/// The codec of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// H.264 with the profile that is signalled to viewers.
    H264(H264Profile),
    /// Opus (RFC 6716) at 48 kHz.
    Opus,
}

/// The first two bytes of H.264's profile-level-id (RFC 6184, section 8.1): profile_idc and the constraint flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct H264Profile {
    /// profile_idc: 66 baseline, 77 main, 100 high.
    pub idc: u8,
    /// constraint_set0_flag in the highest bit, and so on.
    pub constraints: u8,
}

impl H264Profile {
    /// Constrained baseline (42e0): what every WebRTC browser decodes (RFC 7742, section 5).
    pub const CONSTRAINED_BASELINE: Self = Self { idc: 0x42, constraints: 0xe0 };
}

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bitrate(u64);

impl Bitrate {
    /// From bits per second.
    pub const fn bps(bits: u64) -> Self {
        Self(bits)
    }
    /// From kilobits (1000 bits) per second, the unit of the configuration.
    pub const fn kbps(kilobits: u64) -> Self {
        Self(kilobits * 1000)
    }
    /// In bits per second.
    pub const fn as_bps(self) -> u64 {
        self.0
    }
    /// In kilobits per second, rounded down.
    pub const fn as_kbps(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kbit/s", self.as_kbps())
    }
}

/// Width and height of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resolution {
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}
