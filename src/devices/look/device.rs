//! Which cameras and microphones exist, and what they offer.
//!
//! Only looks: capturing is GStreamer's work.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peercam::capture::{Audio, Error, Format, Offer, RECEIVER, Step, Video};
use peercam::media::Resolution;
use v4l2r::QueueType;
use v4l2r::ioctl::Capabilities;

use crate::guide::Guide;
use crate::source::mode;
use crate::source::uptime;

use super::node::{self, Endless, Identity, Node};

/// Where udev puts the names that stay when `/dev/videoN` changes its number.
const NAMES: [&str; 2] = ["/dev/v4l/by-id", "/dev/v4l/by-path"];

/// How long a node is left alone that a process before this one has hung with.
const LEFT_ALONE: Duration = Duration::from_secs(600);

/// Looks at nodes, and tells which, so that what hangs has a name.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// None: nobody is told.
    guide: Option<Guide>,
    /// Nodes that are left alone, and until when, since the board started.
    hanging: BTreeMap<PathBuf, Duration>,
}

/// Within the look at a node.
struct Told<'a>(Option<&'a Guide>);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if let Some(guide) = self.0 {
            guide.doing(Step::Looking { at: None });
        }
    }
}

impl Nodes {
    /// Tells `guide`.
    pub fn new(guide: Guide) -> Self {
        Self { guide: Some(guide), hanging: BTreeMap::new() }
    }

    /// The same, for a look beside what is told of: nobody is told.
    pub fn quietly(&self) -> Self {
        Self { guide: None, ..self.clone() }
    }

    /// Which nodes are left alone.
    pub fn hanging(&self) -> &BTreeMap<PathBuf, Duration> {
        &self.hanging
    }

    /// Takes which nodes processes before this one have hung with.
    pub fn recall(&mut self, hanging: BTreeMap<PathBuf, Duration>) {
        self.hanging = hanging;
        self.forget();
    }

    /// Looks at nodes again that were left alone for long enough.
    pub fn forget(&mut self) {
        let now = uptime();
        self.hanging.retain(|_, until| now < *until);
    }

    /// A process has hung with this node.
    pub fn blame(&mut self, node: &str) {
        tracing::warn!(node, "the device hangs when it is looked at, and is left alone");
        self.hanging.insert(node.into(), uptime() + LEFT_ALONE);
    }

    fn telling(&self, path: &Path) -> Told<'_> {
        if let Some(guide) = &self.guide {
            guide.doing(Step::Looking { at: Some(path.display().to_string()) });
        }
        Told(self.guide.as_ref())
    }

    /// Looks at one device; `near` is the size whose rates are asked for where the device has ranges of sizes.
    pub fn look(&self, path: &Path, near: Resolution) -> Result<Video, Error> {
        let shown = || path.display().to_string();
        if self.hanging.contains_key(path) {
            return Err(Error::Stuck { device: shown(), verb: "opened".into() });
        }
        let _told = self.telling(path);
        let node = Node::open(path).map_err(|error| refusal(&shown(), &error))?;
        let identity = node.identity().map_err(|error| match refusal(&shown(), &error) {
            Error::Failed { .. } => Error::NoCapture { device: shown() },
            known => known,
        })?;
        if let Some(why) = why_no_camera(&identity) {
            return Err(Error::NoCamera { device: format!("{} ({})", identity.card, shown()), why: why.into() });
        }
        let is_planar = identity.can.contains(Capabilities::VIDEO_CAPTURE_MPLANE);
        let queue = if is_planar { QueueType::VideoCaptureMplane } else { QueueType::VideoCapture };
        let found = offers(&node, queue, near).map_err(|Endless| Error::Endless { device: shown() })?;
        let (offers, unused_formats) = found;
        let (is_receiver, fault) = (is_receiver(&identity), node.fault().map(str::to_owned));
        let Identity { card, bus, .. } = identity;
        Ok(Video {
            path: path.to_owned(),
            card,
            bus,
            names: names_of(path),
            offers,
            unused_formats,
            is_receiver,
            fault,
        })
    }

    /// All cameras that send something we can use, as far as they do so without being set up.
    pub fn cameras(&self, near: Resolution) -> Vec<Video> {
        self.looked_at(near).0
    }

    /// The same, and of all other video nodes why they are none.
    pub fn looked_at(&self, near: Resolution) -> (Vec<Video>, Vec<String>) {
        let (mut cameras, mut others) = (Vec::new(), Vec::new());
        for node in video_nodes() {
            match self.look(&node, near) {
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
    pub fn again(&self, seen: &Video, near: Resolution) -> Option<Video> {
        let is_it = |path: &PathBuf| {
            if self.hanging.contains_key(path) {
                return false;
            }
            let _told = self.telling(path);
            let identity = Node::open(path).and_then(|node| node.identity());
            identity.is_ok_and(|found| found.card == seen.card && found.bus == seen.bus)
        };
        let mut looked = video_nodes().into_iter().filter(is_it).filter_map(|path| self.look(&path, near).ok());
        looked.find(|video| !video.offers.is_empty())
    }

    /// The camera that the configuration means by `name`, a path or a stable name.
    pub fn camera(&self, name: &str, near: Resolution) -> Result<Video, Error> {
        let candidates = NAMES.iter().map(|folder| Path::new(folder).join(name));
        let found = std::iter::once(PathBuf::from(name)).chain(candidates).find_map(|path| {
            // A bare name must not be taken for a file in the working directory.
            path.is_absolute().then(|| fs::canonicalize(path).ok()).flatten()
        });
        let path = found.ok_or_else(|| Error::Absent { device: name.to_owned() })?;
        self.look(&path, near)
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
pub fn video_nodes() -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut nodes: Vec<_> = entries.filter(|path| number(path).is_some()).collect();
    nodes.sort_by_key(number);
    nodes
}

fn names_of(path: &Path) -> Vec<String> {
    let links = NAMES.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let own = links.filter(|link| fs::canonicalize(link.path()).is_ok_and(|target| target == path));
    own.map(|link| link.path().display().to_string()).collect()
}

/// What an error on opening a device means.
pub fn refusal(device: &str, error: &io::Error) -> Error {
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

/// Where a card is plugged in, by its long name: `C920 at usb-0000:01:00.0-1.2, high speed` (Linux, sound/usb/card.c). It
/// is what V4L2 calls the bus of a camera in the same case.
fn plug(long_name: &str) -> Option<String> {
    let (_, place) = long_name.rsplit_once(" at ")?;
    let (plug, _) = place.split_once(',')?;
    plug.starts_with("usb-").then(|| plug.to_owned())
}

/// The capture device at this plug; none where it is the name of no plug.
pub fn microphone(plug: &str) -> Option<Audio> {
    let listed = if plug.starts_with("usb-") { microphones() } else { vec![] };
    listed.into_iter().find(|audio| audio.plug.as_deref() == Some(plug))
}

/// All capture devices, in the order of their cards.
pub fn microphones() -> Vec<Audio> {
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
    fn what_is_no_camera_is_refused_with_the_reason() {
        let nodes = Nodes::new(Guide::alone());
        let refused = |name: &str| nodes.camera(name, NEAR).unwrap_err();
        assert!(matches!(refused("/dev/video987"), Error::Absent { .. }));
        assert!(matches!(refused("usb-nobody-has-this"), Error::Absent { .. }));
        assert!(matches!(refused("Cargo.toml"), Error::Absent { .. }), "relative names are no paths");
        assert!(matches!(refused("/dev/null"), Error::NoCapture { .. }));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(refused(file.path().to_str().unwrap()), Error::NoCapture { .. }));
    }
}
