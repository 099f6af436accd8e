//! Which cameras and microphones exist, and what they offer.
//!
//! Only looks: capturing is GStreamer's work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use v4l::capability::Flags;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture as _;

use crate::media::Resolution;

use super::Error;
use super::mode::{Format, Offer, Rate, Sizes};

/// Where udev puts the names that stay when `/dev/videoN` changes its number.
const NAMES: [&str; 2] = ["/dev/v4l/by-id", "/dev/v4l/by-path"];

/// What `[[camera]] source` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The first usable camera, else the test picture.
    Auto,
    Test,
    /// A path, or a name in one of [`NAMES`].
    V4l2(String),
    /// The camera with this name, or the first.
    Libcamera(Option<String>),
}

impl Source {
    pub(super) fn parse(text: &str) -> Self {
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
#[derive(Clone, Debug, Serialize)]
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
}

impl Video {
    /// Name and path, for people.
    pub fn in_words(&self) -> String {
        format!("{} ({})", self.card, self.path.display())
    }

    /// Whether both are the same camera at the same plug, whatever their numbers.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.card == other.card && self.bus == other.bus
    }

    /// The formats it has, used or not, for an error message.
    pub(super) fn formats(&self) -> String {
        let mut names: Vec<_> = self.offers.iter().map(|offer| offer.format.name().to_owned()).collect();
        names.extend(self.unused_formats.iter().cloned());
        names.dedup();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// Looks at one device; `near` is the size whose rates are asked for where the device has ranges of sizes.
    pub(super) fn look(path: &Path, near: Resolution) -> Result<Self, Error> {
        let shown = || path.display().to_string();
        let refused = |error: io::Error| refusal(&shown(), &error);
        let device = v4l::Device::with_path(path).map_err(refused)?;
        let capabilities = device.query_caps().map_err(|_| Error::NoCapture { device: shown() })?;
        if !capabilities.capabilities.contains(Flags::VIDEO_CAPTURE | Flags::STREAMING) {
            return Err(Error::NoCapture { device: shown() });
        }
        let mut offers = Vec::new();
        let mut unused_formats = Vec::new();
        for description in device.enum_formats().map_err(refused)? {
            match Format::from_fourcc(&description.fourcc.repr) {
                Some(format) => offers.extend(offers_of(&device, description.fourcc, format, near)),
                None => unused_formats.push(String::from_utf8_lossy(&description.fourcc.repr).into_owned()),
            }
        }
        let (card, bus) = (capabilities.card, capabilities.bus);
        Ok(Self { path: path.to_owned(), card, bus, names: names_of(path), offers, unused_formats })
    }
}

fn offers_of(device: &v4l::Device, fourcc: v4l::FourCC, format: Format, near: Resolution) -> Vec<Offer> {
    let sizes = device.enum_framesizes(fourcc).unwrap_or_default().into_iter().map(|size| match size.size {
        FrameSizeEnum::Discrete(size) => Sizes::One(Resolution { width: size.width, height: size.height }),
        FrameSizeEnum::Stepwise(range) => Sizes::Range {
            least: Resolution { width: range.min_width, height: range.min_height },
            most: Resolution { width: range.max_width, height: range.max_height },
            step: Resolution { width: range.step_width, height: range.step_height },
        },
    });
    let offer = |sizes: Sizes| {
        let at = sizes.nearest(near);
        // Drivers without rates refuse the question.
        let intervals = device.enum_frameintervals(fourcc, at.width, at.height).unwrap_or_default();
        let rates = intervals.into_iter().flat_map(|interval| match interval.interval {
            FrameIntervalEnum::Discrete(interval) => rates(&[interval]),
            // A rate between the two would be possible, but each driver rounds it in its own way.
            FrameIntervalEnum::Stepwise(range) => rates(&[range.min, range.max]),
        });
        Offer { format, sizes, rates: rates.collect() }
    };
    sizes.map(offer).collect()
}

fn rates(intervals: &[v4l::Fraction]) -> Vec<Rate> {
    let rates = intervals.iter().map(|interval| Rate { frames: interval.denominator, seconds: interval.numerator });
    rates.filter(|rate| rate.frames > 0 && rate.seconds > 0).collect()
}

/// All video nodes, in the order of their numbers.
pub(super) fn video_nodes() -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut nodes: Vec<_> = entries.filter(|path| number(path).is_some()).collect();
    nodes.sort_by_key(number);
    nodes
}

/// All cameras that send something we can use.
pub(super) fn cameras(near: Resolution) -> Vec<Video> {
    let seen = video_nodes().into_iter().filter_map(|node| Video::look(&node, near).ok());
    seen.filter(|video| !video.offers.is_empty()).collect()
}

/// The camera that the configuration means by `name`, a path or a stable name.
pub(super) fn camera(name: &str, near: Resolution) -> Result<Video, Error> {
    let candidates = NAMES.iter().map(|folder| Path::new(folder).join(name));
    let found = std::iter::once(PathBuf::from(name)).chain(candidates).find_map(|path| {
        // A bare name must not be taken for a file in the working directory.
        path.is_absolute().then(|| fs::canonicalize(path).ok()).flatten()
    });
    let path = found.ok_or_else(|| Error::Absent { device: name.to_owned() })?;
    Video::look(&path, near)
}

fn names_of(path: &Path) -> Vec<String> {
    let links = NAMES.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let own = links.filter(|link| fs::canonicalize(link.path()).is_ok_and(|target| target == path));
    own.map(|link| link.path().display().to_string()).collect()
}

/// What an error on opening a device means.
pub(super) fn refusal(device: &str, error: &io::Error) -> Error {
    let device = device.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => Error::Absent { device },
        io::ErrorKind::PermissionDenied => Error::Denied { device },
        io::ErrorKind::ResourceBusy => Error::Busy { device },
        _ => match error.raw_os_error() {
            // ENODEV and ENXIO: the node outlives its device for a moment.
            Some(19 | 6) => Error::Gone { device },
            // ENOTTY and EINVAL: no V4L2 device at all.
            Some(25 | 22) => Error::NoCapture { device },
            _ => Error::Failed { device, why: error.to_string(), cause: None },
        },
    }
}

/// An ALSA capture device.
#[derive(Clone, Debug, Serialize)]
pub struct Audio {
    /// What ALSA opens: `hw:CARD=id,DEV=n`.
    pub device: String,
    /// What its driver calls it.
    pub card: String,
}

impl Audio {
    /// Name and device, for people.
    pub fn in_words(&self) -> String {
        format!("{} ({})", self.card, self.device)
    }
}

/// All capture devices, in the order of their cards.
pub(super) fn microphones() -> Vec<Audio> {
    let cards = alsa::card::Iter::new().flatten();
    cards.flat_map(|card| microphones_of(card).unwrap_or_default()).collect()
}

fn microphones_of(card: alsa::Card) -> alsa::Result<Vec<Audio>> {
    let control = alsa::Ctl::from_card(&card, true)?;
    let info = control.card_info()?;
    let (id, name) = (info.get_id()?, info.get_name()?);
    let devices = alsa::ctl::DeviceIter::new(&control).filter_map(|device| u32::try_from(device).ok());
    let capturing = devices.filter(|&device| control.pcm_info(device, 0, alsa::Direction::Capture).is_ok());
    Ok(capturing.map(|device| Audio { device: format!("hw:CARD={id},DEV={device}"), card: name.to_owned() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Resolution = Resolution { width: 640, height: 480 };

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

    #[test]
    fn what_is_no_camera_is_refused_with_the_reason() {
        let refused = |name: &str| camera(name, NEAR).unwrap_err();
        assert!(matches!(refused("/dev/video987"), Error::Absent { .. }));
        assert!(matches!(refused("usb-nobody-has-this"), Error::Absent { .. }));
        assert!(matches!(refused("Cargo.toml"), Error::Absent { .. }), "relative names are no paths");
        assert!(matches!(refused("/dev/null"), Error::NoCapture { .. }));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(refused(file.path().to_str().unwrap()), Error::NoCapture { .. }));
    }
}
