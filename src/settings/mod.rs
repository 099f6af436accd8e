//! The settings of picture and sound, defined once with their limits.
//!
//! `each_video_setting` lists the five settings of the picture. The configuration, the command `set-video`, the status
//! and the saved settings are generated from that list, so another setting is one more line here.

mod bounded;

use serde::{Deserialize, Serialize};

pub use bounded::Bounded;

/// Pixels; the minimum has room for the test picture's clock, the maximum is the longer side of H.264's level 5.2
/// (table A-1). Encoders for 4:2:0 accept even sizes only.
pub type Width = Bounded<160, 4096, 2>;
/// The same for the height.
pub type Height = Bounded<96, 4096, 2>;
/// Frames per second.
pub type Fps = Bounded<1, 240>;
/// kbit/s of the picture.
pub type VideoBitrate = Bounded<50, 100_000>;
/// Seconds between key frames.
pub type KeyFrameInterval = Bounded<1, 3600>;
/// kbit/s of the sound (RFC 6716, section 2.1.1).
pub type AudioBitrate = Bounded<6, 510>;
/// Channels of the sound.
pub type Channels = Bounded<1, 2>;

/// Passes the list of the picture's settings to the macro `$then`: documentation, name, limits, default, and the unit
/// for texts. The published schema of the commands includes the documentation.
macro_rules! each_video_setting {
    ($then:ident) => {
        $then! {
            /// Pixels.
            width: Width = 1280, "";
            /// Pixels. Together with the width not more than 4096x2304 has.
            height: Height = 720, "";
            /// Frames per second.
            fps: Fps = 30, "";
            /// The ceiling, in kbit/s.
            bitrate: VideoBitrate = 2000, "kbit/s";
            /// Seconds between key frames that nobody asked for.
            key_frame_interval: KeyFrameInterval = 10, "s";
        }
    };
}
pub(crate) use each_video_setting;

macro_rules! settings_and_patch {
    ($($(#[$doc:meta])* $name:ident: $limits:ty = $usual:literal, $unit:literal;)*) => {
        /// The settings of a camera's picture, as in its `[[camera]]` table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct VideoSettings {
            $($(#[$doc])* pub $name: u32,)*
        }

        /// Some of the settings: those that a command changes, or that commands have changed.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct VideoPatch {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<u32>,)*
        }

        impl Default for VideoSettings {
            fn default() -> Self {
                Self { $($name: $usual,)* }
            }
        }

        impl VideoSettings {
            /// The settings that are outside their limits, by name, each with its fault.
            pub fn faults(&self) -> Vec<(&'static str, String)> {
                let all = [$((stringify!($name), <$limits>::fault(self.$name, $unit)),)*];
                all.into_iter().filter_map(|(name, fault)| Some((name, fault?))).collect()
            }

            /// The same with the settings of `patch`.
            #[must_use]
            pub fn with(self, patch: VideoPatch) -> Self {
                Self { $($name: patch.$name.unwrap_or(self.$name),)* }
            }
        }

        impl VideoPatch {
            /// Names of the settings.
            pub const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// The settings of `self`, and those of `earlier` that `self` does not have.
            #[must_use]
            pub fn over(self, earlier: Self) -> Self {
                Self { $($name: self.$name.or(earlier.$name),)* }
            }
        }
    };
}
each_video_setting!(settings_and_patch);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_its_own_settings_and_the_later_patch_wins() {
        let earlier = VideoPatch { width: Some(640), fps: Some(15), ..VideoPatch::default() };
        let later = VideoPatch { fps: Some(25), ..VideoPatch::default() };
        let both = later.over(earlier);
        assert_eq!(both, VideoPatch { width: Some(640), fps: Some(25), ..VideoPatch::default() });
        let settings = VideoSettings::default().with(both);
        assert_eq!(settings, VideoSettings { width: 640, fps: 25, ..VideoSettings::default() });
    }

    #[test]
    fn settings_outside_their_limits_are_named_with_the_limits() {
        assert_eq!(VideoSettings::default().faults(), []);
        let wrong = VideoSettings { width: 641, height: 10, fps: 0, bitrate: 49, key_frame_interval: 3601 };
        let expected = [
            ("width", "641 is no even number from 160 to 4096"),
            ("height", "10 is no even number from 96 to 4096"),
            ("fps", "0 is not from 1 to 240"),
            ("bitrate", "49 kbit/s is not from 50 to 100000"),
            ("key_frame_interval", "3601 s is not from 1 to 3600"),
        ];
        assert_eq!(wrong.faults(), expected.map(|(name, fault)| (name, fault.to_owned())));
    }

    /// The table that operators read.
    #[test]
    fn the_documentation_has_every_setting_with_its_usual_value() {
        let text = include_str!("../../docs/operating.md");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `[[camera]] ")).collect();
        let usual = serde_json::to_value(VideoSettings::default()).unwrap();
        for name in VideoPatch::NAMES {
            let value = usual[name].to_string();
            let is_told = rows.iter().any(|row| {
                let cells: Vec<_> = row.split('|').map(str::trim).collect();
                let names: Vec<_> =
                    cells[1].trim_start_matches("`[[camera]] ").split('`').filter(|part| part.len() > 2).collect();
                let values: Vec<_> = cells[2].split(", ").collect();
                names.iter().position(|known| known == name).is_some_and(|at| values.get(at) == Some(&value.as_str()))
            });
            assert!(is_told, "{name} = {value} is not in docs/operating.md");
        }
    }
}
