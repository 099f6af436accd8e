//! What is known of a camera or a microphone that was looked at.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::media::Resolution;

use super::format::{Format, Offer};

/// What `[[camera]] source` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The first usable camera, else the test picture.
    Auto,
    /// The test picture.
    Test,
    /// A path, or a name below `/dev/v4l/by-id` or `/dev/v4l/by-path`.
    V4l2(String),
    /// The camera with this name, or the first.
    Libcamera(Option<String>),
}

impl Source {
    /// Reads it; every text means something.
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
pub struct Video {
    /// The device node.
    pub path: PathBuf,
    /// What its driver calls it.
    pub card: String,
    /// Where it is plugged in: `usb-0000:01:00.0-1.2`, `platform:vivid-000`.
    pub bus: String,
    /// The names by which a configuration finds it whatever its number: by-id and by-path.
    pub names: Vec<String>,
    /// Its formats, as far as we can use them.
    pub offers: Vec<Offer>,
    /// Formats it has besides, as V4L2 codes.
    pub unused_formats: Vec<String>,
    /// Whether somebody has to set up what is behind it before it brings anything, as behind the receiver of a CSI
    /// camera. `auto` leaves it out; by its name it is used.
    pub is_receiver: bool,
    /// What kept its input from bringing pictures when it was looked at, as an HDMI receiver says it.
    pub fault: Option<String>,
}

impl Video {
    /// Name and path, for people.
    pub fn in_words(&self) -> String {
        format!("{} ({})", self.card, self.path.display())
    }

    /// As much of it as it takes to know it again. A camera's list of sizes and rates may have 100 KiB.
    pub fn identity(&self) -> Self {
        Self {
            path: self.path.clone(),
            card: self.card.clone(),
            bus: self.bus.clone(),
            names: Vec::new(),
            offers: Vec::new(),
            unused_formats: Vec::new(),
            is_receiver: false,
            fault: None,
        }
    }

    /// Whether it lists this size for the format.
    pub fn has(&self, format: Format, size: Resolution) -> bool {
        self.offers.iter().any(|offer| offer.format == format && offer.sizes.nearest(size) == size)
    }

    /// Whether both are the same camera at the same plug, whatever their numbers.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.card == other.card && self.bus == other.bus
    }

    /// The formats it has, used or not, for an error message.
    pub fn formats(&self) -> String {
        let mut names: Vec<_> = self.offers.iter().map(|offer| offer.format.name().to_owned()).collect();
        names.extend(self.unused_formats.iter().cloned());
        names.dedup();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// What to know of a receiver, after its name.
pub const RECEIVER: &str =
    "is the receiver of a camera that has to be set up first: use \"libcamera\", or name it as `source`";

/// An ALSA capture device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audio {
    /// What ALSA opens: `hw:CARD=id,DEV=n`.
    pub device: String,
    /// What its driver calls it.
    pub card: String,
    /// Where it is plugged in, as for a camera: `usb-0000:01:00.0-1.2`; none where its driver does not tell.
    pub plug: Option<String>,
}

impl Audio {
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
    fn a_source_is_told_from_its_text() {
        let cases = [
            ("auto", Source::Auto),
            ("test", Source::Test),
            ("libcamera", Source::Libcamera(None)),
            ("libcamera:/base/soc/i2c0mux/imx708@1a", Source::Libcamera(Some("/base/soc/i2c0mux/imx708@1a".into()))),
            ("/dev/video2", Source::V4l2("/dev/video2".into())),
            ("usb-046d_C920-video-index0", Source::V4l2("usb-046d_C920-video-index0".into())),
            ("platform-fe801000.csi-video-index0", Source::V4l2("platform-fe801000.csi-video-index0".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(Source::parse(text), expected);
        }
    }
}
