//! The vocabulary of pictures and sound: frames, codecs, sizes, rates, and the [`Feed`] they travel on.
//!
//! No I/O happens here and no other room is known here.

mod feed;
pub mod h264;
pub mod time_code;

use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use feed::{Demand, DemandWatch, Feed, Subscription};

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
    payloads: OnceLock<Vec<Bytes>>,
}

impl Frame {
    /// A frame as it came from the encoder.
    pub fn new(data: Bytes, captured: Instant, is_key: bool) -> Self {
        Self { data, captured, is_key, payloads: OnceLock::new() }
    }

    /// The frame cut into RTP payloads. The first caller cuts; all viewers share the result, so that
    /// twenty viewers cost one packetisation and one copy of the bytes.
    pub fn payloads(&self, packetise: impl FnOnce(&Bytes) -> Vec<Bytes>) -> &[Bytes] {
        self.payloads.get_or_init(|| packetise(&self.data))
    }
}

/// What the frames of a feed are encoded with.
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
