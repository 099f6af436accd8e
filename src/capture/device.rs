//! Description of a camera or a microphone that was examined.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::media::Resolution;

use super::format::{CaptureFormat, CaptureMode};

/// The value of `[[camera]] source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// The first usable camera, else the test picture.
    Auto,
    /// The test picture.
    Test,
    /// A path, or a name below `/dev/v4l/by-id` or `/dev/v4l/by-path`.
    V4l2(String),
    /// The camera with this name, or the first.
    Libcamera(Option<String>),
}

impl SourceSpec {
    /// Parses it; every text is valid.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            _ if text == "auto" => Self::Auto,
            _ if text == "test" => Self::Test,
            _ if text == "libcamera" => Self::Libcamera(None),
            Some(("libcamera", id)) => Self::Libcamera(Some(id.to_owned())),
            _ => Self::V4l2(text.to_owned()),
        }
    }
}

/// A V4L2 camera.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct V4l2Camera {
    /// The device node.
    pub path: PathBuf,
    /// Its driver's name for it.
    pub card: String,
    /// The port it is plugged into: `usb-0000:01:00.0-1.2`, `platform:vivid-000`.
    pub bus: String,
    /// The names by which a configuration finds it, independent of its number: by-id and by-path.
    pub names: Vec<String>,
    /// Its usable formats, with sizes and rates.
    #[serde(rename = "offers")]
    pub modes: Vec<CaptureMode>,
    /// Its other formats, as V4L2 codes.
    pub unused_formats: Vec<String>,
    /// Whether the hardware behind it has to be set up before it delivers anything, as with the receiver of a CSI
    /// camera. `auto` skips it; naming it selects it.
    pub is_receiver: bool,
    /// Why its input delivered no pictures when it was examined, as reported by an HDMI receiver for example.
    pub fault: Option<String>,
}

impl V4l2Camera {
    /// Name and path, for people.
    pub fn in_words(&self) -> String {
        format!("{} ({})", self.card, self.path.display())
    }

    /// The part of it that identifies it. A camera's list of sizes and rates may have 100 KiB.
    pub fn identity(&self) -> Self {
        Self {
            path: self.path.clone(),
            card: self.card.clone(),
            bus: self.bus.clone(),
            names: Vec::new(),
            modes: Vec::new(),
            unused_formats: Vec::new(),
            is_receiver: false,
            fault: None,
        }
    }

    /// Whether it lists this size for the format.
    pub fn has(&self, format: CaptureFormat, size: Resolution) -> bool {
        self.modes.iter().any(|mode| mode.format == format && mode.sizes.nearest(size) == size)
    }

    /// Whether both are the same camera at the same port, whatever their numbers.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.card == other.card && self.bus == other.bus
    }

    /// The formats it has, used or not, for an error message.
    pub fn formats(&self) -> String {
        let mut names: Vec<_> = self.modes.iter().map(|mode| mode.format.name().to_owned()).collect();
        names.extend(self.unused_formats.iter().cloned());
        names.dedup();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// Text about a receiver, to follow its name.
pub const RECEIVER: &str =
    "is the receiver of a camera that has to be set up first: use \"libcamera\", or name it as `source`";

/// An ALSA capture device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlsaDevice {
    /// Its ALSA name: `hw:CARD=id,DEV=n`.
    pub device: String,
    /// Its driver's name for it.
    pub card: String,
    /// The port it is plugged into, as for a camera: `usb-0000:01:00.0-1.2`; `None` if its driver does not report it.
    pub plug: Option<String>,
}

impl AlsaDevice {
    /// Name, device and plug, for people.
    pub fn in_words(&self) -> String {
        let plug = self.plug.as_ref().map(|plug| format!(" at {plug}")).unwrap_or_default();
        format!("{} ({}{plug})", self.card, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_parsed_from_its_text() {
        let cases = [
            ("auto", SourceSpec::Auto),
            ("test", SourceSpec::Test),
            ("libcamera", SourceSpec::Libcamera(None)),
            (
                "libcamera:/base/soc/i2c0mux/imx708@1a",
                SourceSpec::Libcamera(Some("/base/soc/i2c0mux/imx708@1a".into())),
            ),
            ("/dev/video2", SourceSpec::V4l2("/dev/video2".into())),
            ("usb-046d_C920-video-index0", SourceSpec::V4l2("usb-046d_C920-video-index0".into())),
            ("platform-fe801000.csi-video-index0", SourceSpec::V4l2("platform-fe801000.csi-video-index0".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(SourceSpec::parse(text), expected);
        }
    }
}
