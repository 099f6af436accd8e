//! The configuration of cameras and sound.

use serde::{Deserialize, Serialize};

use crate::media::{Bitrate, Resolution, time_code};
use crate::settings::{AudioBitrate, Channels, Height, VideoSettings, Width, each_video_setting};

use super::Error;
use super::format::is_in_level;

/// Name of a camera's own encoder, for `encoder` and in the status.
pub const PASSTHROUGH: &str = "passthrough";

/// The encoders that `encoder` accepts, in the order of preference.
pub const ENCODERS: [&str; 8] =
    ["v4l2h264enc", "mpph264enc", "vah264enc", "vah264lpenc", "nvh264enc", "nvv4l2h264enc", "x264enc", "openh264enc"];

macro_rules! camera_table {
    ($($(#[$doc:meta])* $name:ident: $limits:ty = $usual:literal, $unit:literal;)*) => {
        /// One `[[camera]]` table.
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(default)]
        pub struct Config {
            /// Its name for viewers and in the status.
            pub name: String,
            /// `auto`, `test`, a V4L2 device by path or by-id or by-path name, or `libcamera[:id]`.
            pub source: String,
            $($(#[$doc])* pub $name: u32,)*
            /// Keep encoding when nobody watches.
            pub keep_warm: bool,
            /// `auto`, the GStreamer name of an encoder, or `passthrough` for the camera's own H.264.
            pub encoder: String,
        }

        impl Default for Config {
            fn default() -> Self {
                let (name, auto, keep_warm) = ("main".into(), "auto".to_owned(), false);
                Self { name, source: auto.clone(), $($name: $usual,)* keep_warm, encoder: auto }
            }
        }

        impl Config {
            /// The picture settings.
            pub fn video(&self) -> VideoSettings {
                VideoSettings { $($name: self.$name,)* }
            }

            /// The same configuration with these picture settings.
            #[must_use]
            pub fn with_video(self, video: VideoSettings) -> Self {
                Self { $($name: video.$name,)* ..self }
            }
        }
    };
}
// Not nested: the keys of a table in the file are flat.
each_video_setting!(camera_table);

// The test picture's clock fits into the smallest picture.
const _: () = assert!(time_code::MIN_SIZE.width <= Width::MIN && time_code::MIN_SIZE.height <= Height::MIN);

/// A mistake in a configuration: the key, and what to do.
pub type Mistake = (&'static str, String);

impl Config {
    /// The mistakes in these values. Whether the device supports them is checked elsewhere.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut require = |key, is_right: bool, what: String| {
            if !is_right {
                mistakes.push((key, what));
            }
        };
        // The name appears in addresses, topics and menus.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_name = (1..=64).contains(&self.name.len()) && self.name.chars().all(is_plain);
        require("name", is_name, "is not 1 to 64 letters, digits, `-` or `_` (without accents)".into());
        require("source", !self.source.trim().is_empty(), "use \"auto\", \"test\", a device or \"libcamera\"".into());
        let faults = self.video().faults();
        let is_too_long = faults.iter().any(|(key, _)| ["width", "height"].contains(key));
        faults.into_iter().for_each(|(key, what)| require(key, false, what));
        let area = format!("{} is a larger picture than 4096x2304, the limit of H.264", self.resolution());
        // A wrong side was reported already.
        require("height", is_in_level(self.resolution()) || is_too_long, area);
        let is_known = ["auto", PASSTHROUGH].iter().chain(&ENCODERS).any(|name| *name == self.encoder);
        if !is_known {
            require("encoder", false, Error::UnknownEncoder { name: self.encoder.clone() }.to_string());
        }
        mistakes
    }

    /// Whether this size can be requested.
    pub fn takes(size: Resolution) -> bool {
        Width::new(size.width).is_some() && Height::new(size.height).is_some()
    }

    /// The requested size.
    pub fn resolution(&self) -> Resolution {
        Resolution { width: self.width, height: self.height }
    }

    /// Highest bitrate of the encoder.
    pub fn ceiling(&self) -> Bitrate {
        Bitrate::kbps(u64::from(self.bitrate))
    }

    /// Interval of the regular key frames, in frames at this rate.
    pub fn key_interval(&self, fps: f64) -> u32 {
        (f64::from(self.key_frame_interval) * fps).round().max(1.0) as u32
    }
}

/// The `[capture]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct CaptureConfig {
    /// Seconds that a capture process stays after its last use.
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
        if Channels::new(self.channels.into()).is_none() {
            mistakes.push(("channels", format!("{} is neither 1 nor 2", self.channels)));
        }
        if let Some(fault) = AudioBitrate::fault(self.bitrate, "kbit/s") {
            mistakes.push(("bitrate", format!("{fault} (RFC 6716)")));
        }
        mistakes
    }

    /// Highest bitrate of the Opus encoder; RFC 6716 ends at 510 kbit/s.
    pub fn ceiling(&self) -> Bitrate {
        Bitrate::kbps(u64::from(self.bitrate.min(510)))
    }
}
