//! What a configuration says of cameras and sound.

use serde::{Deserialize, Serialize};

use crate::media::time_code;
use crate::media::{Bitrate, Resolution};

use super::Error;
use super::format::is_in_level;

/// What `encoder` and status call a camera that encodes by itself.
pub const PASSTHROUGH: &str = "passthrough";

/// The encoders that `encoder` can name, in the order of preference.
pub const ENCODERS: [&str; 8] =
    ["v4l2h264enc", "mpph264enc", "vah264enc", "vah264lpenc", "nvh264enc", "nvv4l2h264enc", "x264enc", "openh264enc"];

/// One `[[camera]]` table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// How viewers and status name it.
    pub name: String,
    /// `auto`, `test`, a V4L2 device by path or by-id or by-path name, or `libcamera[:id]`.
    pub source: String,
    /// Wanted width in pixels.
    pub width: u32,
    /// Wanted height in pixels.
    pub height: u32,
    /// Wanted frames per second.
    pub fps: u32,
    /// Ceiling of the encoder's bitrate in kbit/s.
    pub bitrate: u32,
    /// Seconds between key frames that nobody asked for.
    pub key_frame_interval: u32,
    /// Keep encoding when nobody watches.
    pub keep_warm: bool,
    /// `auto`, the GStreamer name of an encoder, or `passthrough` for the camera's own H.264.
    pub encoder: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "main".into(),
            source: "auto".into(),
            width: 1280,
            height: 720,
            fps: 30,
            bitrate: 2000,
            key_frame_interval: 10,
            keep_warm: false,
            encoder: "auto".into(),
        }
    }
}

/// Something in a configuration that cannot be right: the key, and what to do.
pub type Mistake = (&'static str, String);

/// Encoders for 4:2:0 take even sizes only; 4096 is the longer side of the most of H.264's level 5.2 (table A-1).
fn is_even_within(value: u32, least: u32) -> bool {
    (least..=4096).contains(&value) && value.is_multiple_of(2)
}

impl Config {
    /// The mistakes in these values. Whether the device can do them is another question.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut require = |key, is_right: bool, what: String| {
            if !is_right {
                mistakes.push((key, what));
            }
        };
        let least = time_code::LEAST;
        // It stands in addresses, topics and menus.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_name = (1..=64).contains(&self.name.len()) && self.name.chars().all(is_plain);
        require("name", is_name, "is not 1 to 64 letters, digits, `-` or `_` (without accents)".into());
        require("source", !self.source.trim().is_empty(), "use \"auto\", \"test\", a device or \"libcamera\"".into());
        let size = |value, least| format!("{value} is no even number from {least} to 4096");
        require("width", is_even_within(self.width, least.width), size(self.width, least.width));
        require("height", is_even_within(self.height, least.height), size(self.height, least.height));
        let area = format!("{} is a larger picture than 4096x2304, the most of H.264", self.resolution());
        // A side that is too long has been told of.
        require("height", is_in_level(self.resolution()) || self.width.max(self.height) > 4096, area);
        require("fps", (1..=240).contains(&self.fps), format!("{} is not from 1 to 240", self.fps));
        let bitrates = 50..=100_000;
        require(
            "bitrate",
            bitrates.contains(&self.bitrate),
            format!("{} kbit/s is not from 50 to 100000", self.bitrate),
        );
        let intervals = 1..=3600;
        let interval = self.key_frame_interval;
        require("key_frame_interval", intervals.contains(&interval), format!("{interval} s is not from 1 to 3600"));
        let is_known = ["auto", PASSTHROUGH].iter().chain(&ENCODERS).any(|name| *name == self.encoder);
        if !is_known {
            require("encoder", false, Error::UnknownEncoder { name: self.encoder.clone() }.to_string());
        }
        mistakes
    }

    /// Whether this size can be asked for.
    pub fn takes(size: Resolution) -> bool {
        is_even_within(size.width, time_code::LEAST.width) && is_even_within(size.height, time_code::LEAST.height)
    }

    /// Wanted size.
    pub fn resolution(&self) -> Resolution {
        Resolution { width: self.width, height: self.height }
    }

    /// The most that the encoder makes.
    pub fn ceiling(&self) -> Bitrate {
        Bitrate::kbps(u64::from(self.bitrate))
    }

    /// Frames between key frames that nobody asked for, at this rate.
    pub fn key_interval(&self, fps: f64) -> u32 {
        (f64::from(self.key_frame_interval) * fps).round().max(1.0) as u32
    }
}

/// The `[capture]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct CaptureConfig {
    /// Seconds that a capture process stays which nobody needs any more.
    pub linger: u32,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { linger: 60 }
    }
}

impl CaptureConfig {
    /// The mistakes in these values.
    pub fn check(&self) -> Vec<Mistake> {
        let is_right = self.linger <= 86_400;
        let what = || format!("{} s is not from 0 to 86400", self.linger);
        if is_right { Vec::new() } else { vec![("linger", what())] }
    }
}

/// The `[audio]` table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct AudioConfig {
    /// `auto`, `off`, `test`, or an ALSA device name.
    pub capture: String,
    /// 1 or 2.
    pub channels: u8,
    /// kbit/s of the Opus encoder.
    pub bitrate: u32,
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { capture: "auto".into(), channels: 1, bitrate: 48 }
    }
}

impl AudioConfig {
    /// The mistakes in these values.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.capture.trim().is_empty() {
            mistakes.push(("capture", "use \"auto\", \"off\", \"test\" or an ALSA device".into()));
        }
        if !(1..=2).contains(&self.channels) {
            mistakes.push(("channels", format!("{} is neither 1 nor 2", self.channels)));
        }
        if !(6..=510).contains(&self.bitrate) {
            mistakes.push(("bitrate", format!("{} kbit/s is not from 6 to 510 (RFC 6716)", self.bitrate)));
        }
        mistakes
    }

    /// The rate of the Opus encoder, which RFC 6716 ends at 510 kbit/s.
    pub fn ceiling(&self) -> Bitrate {
        Bitrate::kbps(u64::from(self.bitrate.min(510)))
    }
}
