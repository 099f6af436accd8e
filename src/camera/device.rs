//! Which cameras and microphones exist, and what they offer.
//!
//! Only looks: capturing is GStreamer's work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use v4l2r::QueueType;
use v4l2r::ioctl::Capabilities;

use crate::media::Resolution;

use super::Error;
use super::mode::{self, Format, Offer};
use super::node::{self, Endless, Identity, Node};

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
    /// Whether somebody has to set up what is behind it before it brings anything, as behind the receiver of a CSI
    /// camera. `auto` leaves it out; by its name it is used.
    pub is_receiver: bool,
    /// What kept its input from bringing pictures when it was looked at, as an HDMI receiver says it.
    pub fault: Option<&'static str>,
}

impl Video {
    /// Name and path, for people.
    pub fn in_words(&self) -> String {
        format!("{} ({})", self.card, self.path.display())
    }

    /// Whether it lists this size for the format.
    pub(super) fn has(&self, format: Format, size: Resolution) -> bool {
        self.offers.iter().any(|offer| offer.format == format && offer.sizes.nearest(size) == size)
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
        let node = Node::open(path).map_err(|error| refusal(&shown(), &error))?;
        let identity = node.identity().map_err(|error| match refusal(&shown(), &error) {
            Error::Failed { .. } => Error::NoCapture { device: shown() },
            known => known,
        })?;
        if let Some(why) = why_no_camera(&identity) {
            return Err(Error::NoCamera { device: format!("{} ({})", identity.card, shown()), why });
        }
        let is_planar = identity.can.contains(Capabilities::VIDEO_CAPTURE_MPLANE);
        let queue = if is_planar { QueueType::VideoCaptureMplane } else { QueueType::VideoCapture };
        let found = offers(&node, queue, near).map_err(|Endless| Error::Endless { device: shown() })?;
        let (offers, unused_formats) = found;
        let (is_receiver, fault) = (is_receiver(&identity), node.fault());
        let Identity { card, bus, .. } = identity;
        Ok(Self { path: path.to_owned(), card, bus, names: names_of(path), offers, unused_formats, is_receiver, fault })
    }
}

/// Why this node brings no pictures by itself, if it does not.
fn why_no_camera(Identity { driver, card, can, .. }: &Identity) -> Option<&'static str> {
    let can = |any: Capabilities| can.intersects(any);
    let captures = can(Capabilities::VIDEO_CAPTURE | Capabilities::VIDEO_CAPTURE_MPLANE);
    let puts_out = can(Capabilities::VIDEO_OUTPUT | Capabilities::VIDEO_OUTPUT_MPLANE);
    let is_of = |names: &[&str]| names.iter().any(|name| driver.starts_with(name) || card.starts_with(name));
    Some(match () {
        // Unless it is loaded with `exclusive_caps`, it says that it can do everything, and converts nothing.
        () if driver == LOOPBACK && captures => return None,
        () if driver == LOOPBACK => "no program gives it pictures yet",
        // A node of both queues was a converter before Linux 3.6 had a flag for them.
        () if can(Capabilities::VIDEO_M2M | Capabilities::VIDEO_M2M_MPLANE) || captures && puts_out => {
            "it converts what other programs give it"
        }
        () if is_of(&PROCESSORS) => "it is a part of the board's image processor",
        () if can(Capabilities::TOUCH) => "it is a touch pad",
        () if captures && can(Capabilities::STREAMING) => return None,
        () if captures => "it does not stream",
        () if can(Capabilities::META_CAPTURE | Capabilities::META_OUTPUT) => {
            "it has data about pictures, but no pictures"
        }
        () if puts_out => "it takes pictures and brings none",
        () if can(Capabilities::VBI_CAPTURE | Capabilities::SLICED_VBI_CAPTURE) => "it has a TV signal's text only",
        () if can(Capabilities::RADIO | Capabilities::TUNER | Capabilities::SDR_CAPTURE) => "it is a radio",
        () => "it captures nothing",
    })
}

/// The driver of cameras that other programs feed (v4l2loopback): OBS's virtual camera, a phone, a photo camera.
const LOOPBACK: &str = "v4l2 loopback";

/// Drivers of image processors and codecs that call each of their queues a capture device of its own. They bring
/// nothing unless a program feeds them (Linux, drivers/staging/vc04_services, drivers/media/platform/raspberrypi).
const PROCESSORS: [&str; 5] = ["bcm2835-isp", "bcm2835-codec", "pispbe", "pisp_be", "rpivid"];

/// Drivers of CSI receivers: their nodes bring pictures only once somebody has set up the sensor behind them, and then
/// mostly as it sees them, which takes an image processor.
const RECEIVERS: [&str; 3] = ["unicam", "bcm2835-unicam", "rp1-cfe"];

/// `V4L2_CAP_IO_MC`: what the node brings depends on a media graph that somebody has to set up first (Linux 5.7,
/// vidioc-querycap.rst).
const IO_MC: u32 = 0x2000_0000;

/// What to know of a receiver, after its name.
pub const RECEIVER: &str =
    "is the receiver of a camera that has to be set up first: use \"libcamera\", or name it as `source`";

fn is_receiver(identity: &Identity) -> bool {
    let is_of = |name: &&str| identity.driver.starts_with(*name) || identity.card.starts_with(*name);
    identity.can.bits() & IO_MC != 0 || RECEIVERS.iter().any(is_of)
}

/// What can be used of a node, and the codes of its other formats.
fn offers(node: &Node, queue: QueueType, near: Resolution) -> Result<(Vec<Offer>, Vec<String>), Endless> {
    let (mut offers, mut unused) = (Vec::new(), Vec::new());
    for code in node.formats(queue)? {
        let before = offers.len();
        if let Some(format) = Format::from_fourcc(code) {
            for sizes in node.sizes(queue, code)? {
                let rates = node.rates(code, sizes.nearest(near))?;
                offers.push(Offer { format, sizes, rates });
            }
        }
        if offers.len() == before {
            unused.push(node::words(&code));
        }
    }
    // One format may be listed under two codes.
    mode::without_repetition(&mut offers);
    Ok((offers, unused))
}

/// All video nodes, in the order of their numbers.
pub(super) fn video_nodes() -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut nodes: Vec<_> = entries.filter(|path| number(path).is_some()).collect();
    nodes.sort_by_key(number);
    nodes
}

/// All cameras that send something we can use, as far as they do so without being set up.
pub(super) fn cameras(near: Resolution) -> Vec<Video> {
    looked_at(near).0
}

/// The same, and of all other video nodes why they are none.
pub(super) fn looked_at(near: Resolution) -> (Vec<Video>, Vec<String>) {
    let (mut cameras, mut others) = (Vec::new(), Vec::new());
    for node in video_nodes() {
        match Video::look(&node, near) {
            Ok(video) if video.is_receiver => others.push(format!("{} {RECEIVER}", video.in_words())),
            Ok(video) if video.offers.is_empty() => {
                others.push(Error::NoMode { device: video.in_words(), formats: video.formats() }.to_string());
            }
            Ok(video) => cameras.push(video),
            Err(error) => others.push(error.to_string()),
        }
    }
    (cameras, others)
}

/// The same camera under whatever number it has now. Only its own formats are listed: that takes longest.
pub(super) fn again(seen: &Video, near: Resolution) -> Option<Video> {
    let is_it = |path: &PathBuf| {
        let identity = Node::open(path).and_then(|node| node.identity());
        identity.is_ok_and(|found| found.card == seen.card && found.bus == seen.bus)
    };
    let mut looked = video_nodes().into_iter().filter(is_it).filter_map(|path| Video::look(&path, near).ok());
    looked.find(|video| !video.offers.is_empty())
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

/// Where a card is plugged in, by its long name: `C920 at usb-0000:01:00.0-1.2, high speed` (Linux, sound/usb/card.c). It
/// is what V4L2 calls the bus of a camera in the same case.
fn plug(long_name: &str) -> Option<String> {
    let (_, place) = long_name.rsplit_once(" at ")?;
    let (plug, _) = place.split_once(',')?;
    plug.starts_with("usb-").then(|| plug.to_owned())
}

/// The capture device at this plug; none where it is the name of no plug.
pub(super) fn microphone(plug: &str) -> Option<Audio> {
    let listed = if plug.starts_with("usb-") { microphones() } else { vec![] };
    listed.into_iter().find(|audio| audio.plug.as_deref() == Some(plug))
}

/// All capture devices, in the order of their cards.
pub(super) fn microphones() -> Vec<Audio> {
    let cards = alsa::card::Iter::new().flatten();
    cards.flat_map(|card| microphones_of(card).unwrap_or_default()).collect()
}

fn microphones_of(card: alsa::Card) -> alsa::Result<Vec<Audio>> {
    let control = alsa::Ctl::from_card(&card, true)?;
    let info = control.card_info()?;
    let number = card.get_index();
    // The `alsa` crate (0.12) gives no name that is not UTF-8. ALSA takes a card's number in the place of its name.
    let id = info.get_id().map_or_else(|_| number.to_string(), str::to_owned);
    let name = info.get_name().map(|name| node::words(name.as_bytes())).unwrap_or_default();
    let name = if name.is_empty() { format!("sound card {number}") } else { name };
    let plug = info.get_longname().ok().and_then(plug);
    let devices = alsa::ctl::DeviceIter::new(&control).filter_map(|device| u32::try_from(device).ok());
    let capturing = devices.take(MOST_DEVICES);
    let capturing = capturing.filter(|&device| control.pcm_info(device, 0, alsa::Direction::Capture).is_ok());
    let audio = |device| Audio { device: format!("hw:CARD={id},DEV={device}"), card: name.clone(), plug: plug.clone() };
    Ok(capturing.map(audio).collect())
}

/// How many devices of a card are looked at; ALSA numbers 32 (sound/core/pcm.c).
const MOST_DEVICES: usize = 32;

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
