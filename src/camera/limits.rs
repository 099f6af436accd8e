//! What a `[[camera]]` and an `[audio]` table may hold. What a device makes of it is decided when it is opened.

use super::{AudioConfig, Config};

/// Width or height: below, encoders refuse; above, no level of H.264 goes (RFC 6184's level 6.2 ends at 8192).
const PIXELS: std::ops::RangeInclusive<u32> = 64..=8192;
/// Frames per second. The fastest V4L2 cameras in use give 240.
const FPS: std::ops::RangeInclusive<u32> = 1..=240;
/// kbit/s. Below, no picture is recognisable at any size; above, no viewer's path in use carries it.
const BITRATE: std::ops::RangeInclusive<u32> = 50..=100_000;
/// Seconds between key frames that nobody asked for.
const KEY_FRAME_INTERVAL: std::ops::RangeInclusive<u32> = 1..=600;
/// kbit/s that Opus can code (RFC 6716, section 2.1.1).
const AUDIO_BITRATE: std::ops::RangeInclusive<u32> = 6..=510;
/// The longest name of a camera: it stands in addresses, topics and menus.
const MOST_NAME: usize = 64;

impl Config {
    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > MOST_NAME || !self.name.chars().all(is_plain) {
            wrong.push(("name", format!("is not 1 to {MOST_NAME} letters, digits, `-` or `_` (without accents)")));
        }
        if self.source.is_empty() {
            wrong.push(("source", "is empty; `auto` takes the first usable camera".into()));
        }
        if self.encoder.is_empty() {
            wrong.push(("encoder", "is empty; `auto` takes the best that works".into()));
        }
        let numbers = [
            ("width", self.width, PIXELS),
            ("height", self.height, PIXELS),
            ("fps", self.fps, FPS),
            ("bitrate", self.bitrate, BITRATE),
            ("key_frame_interval", self.key_frame_interval, KEY_FRAME_INTERVAL),
        ];
        wrong.extend(numbers.into_iter().filter_map(|(key, value, allowed)| outside(key, value, allowed)));
        for (key, value) in [("width", self.width), ("height", self.height)] {
            if value % 2 == 1 {
                wrong.push((key, format!("{value} is odd; 4:2:0 pictures have an even {key}")));
            }
        }
        wrong
    }
}

impl AudioConfig {
    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.capture.is_empty() {
            wrong.push(("capture", "is empty; `off` means no sound".into()));
        }
        wrong.extend(outside("channels", self.channels.into(), 1..=2));
        wrong.extend(outside("bitrate", self.bitrate, AUDIO_BITRATE));
        wrong
    }
}

fn outside(key: &'static str, value: u32, allowed: std::ops::RangeInclusive<u32>) -> Option<(&'static str, String)> {
    let (least, most) = (allowed.start(), allowed.end());
    (!allowed.contains(&value)).then(|| (key, format!("{value} is not within {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(Config::default().check(), []);
        assert_eq!(AudioConfig::default().check(), []);
    }

    #[test]
    fn each_impossible_value_is_named() {
        let config = Config { name: "the door".into(), width: 641, fps: 0, bitrate: 1, ..Config::default() };
        let keys: Vec<_> = config.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["name", "fps", "bitrate", "width"]);
        let audio = AudioConfig { channels: 3, ..AudioConfig::default() };
        assert_eq!(audio.check(), [("channels", "3 is not within 1 to 2".to_owned())]);
    }
}
