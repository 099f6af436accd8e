//! Finds cameras and microphones, and their formats.
//!
//! It only examines them: GStreamer does the capturing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peercam::capture::{AlsaDevice, CaptureFormat, CaptureMode, Error, RECEIVER, Step, V4l2Camera};
use peercam::media::Resolution;
use v4l2r::QueueType;
use v4l2r::ioctl::Capabilities;

use crate::source::mode;
use crate::source::since_boot;
use crate::step_reporter::StepReporter;

use super::node::{self, Endless, Identity, Node};

/// Directories in which udev puts names that stay when `/dev/videoN` changes its number.
const NAMES: [&str; 2] = ["/dev/v4l/by-id", "/dev/v4l/by-path"];

/// How long a node is skipped that an earlier process hung on.
const SKIP_TIME: Duration = Duration::from_secs(600);

/// Examines nodes, and reports which one it opens, so that a hang can be attributed to it.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// `None` to report to nobody.
    reporter: Option<StepReporter>,
    /// Nodes to skip, and until when, as time since the board's start.
    hanging: BTreeMap<PathBuf, Duration>,
}

/// Reports the end of a node's examination when dropped.
struct StepGuard<'a>(Option<&'a StepReporter>);

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        if let Some(reporter) = self.0 {
            reporter.doing(Step::Looking { at: None });
        }
    }
}

impl Nodes {
    /// Reports to `reporter`.
    pub fn new(reporter: StepReporter) -> Self {
        Self { reporter: Some(reporter), hanging: BTreeMap::new() }
    }

    /// A copy that reports to nobody, for use beside a reported step.
    pub fn unreported(&self) -> Self {
        Self { reporter: None, ..self.clone() }
    }

    /// The nodes that are skipped.
    pub fn hanging(&self) -> &BTreeMap<PathBuf, Duration> {
        &self.hanging
    }

    /// Restores the nodes that earlier processes hung on.
    pub fn restore(&mut self, hanging: BTreeMap<PathBuf, Duration>) {
        self.hanging = hanging;
        self.expire();
    }

    /// No longer skips nodes that were skipped for long enough.
    pub fn expire(&mut self) {
        let now = since_boot();
        self.hanging.retain(|_, until| now < *until);
    }

    /// Records that a process hung on this node.
    pub fn record_hang(&mut self, node: &str) {
        tracing::warn!(node, "the device hangs when it is examined and is skipped for a while");
        self.hanging.insert(node.into(), since_boot() + SKIP_TIME);
    }

    fn report_step(&self, path: &Path) -> StepGuard<'_> {
        if let Some(reporter) = &self.reporter {
            reporter.doing(Step::Looking { at: Some(path.display().to_string()) });
        }
        StepGuard(self.reporter.as_ref())
    }

    /// Examines one device; `near` is the size whose rates are listed if the device has ranges of sizes.
    pub fn examine(&self, path: &Path, near: Resolution) -> Result<V4l2Camera, Error> {
        let shown = || path.display().to_string();
        if self.hanging.contains_key(path) {
            return Err(Error::Stuck { device: shown(), verb: "opened".into() });
        }
        let _step = self.report_step(path);
        let node = Node::open(path).map_err(|error| open_error(&shown(), &error))?;
        let identity = node.identity().map_err(|error| match open_error(&shown(), &error) {
            Error::Failed { .. } => Error::NoCapture { device: shown() },
            known => known,
        })?;
        if let Some(why) = why_no_camera(&identity) {
            return Err(Error::NoCamera { device: format!("{} ({})", identity.card, shown()), why: why.into() });
        }
        let is_planar = identity.can.contains(Capabilities::VIDEO_CAPTURE_MPLANE);
        let queue = if is_planar { QueueType::VideoCaptureMplane } else { QueueType::VideoCapture };
        let found = modes(&node, queue, near).map_err(|Endless| Error::Endless { device: shown() })?;
        let (modes, unused_formats) = found;
        let (is_receiver, fault) = (is_receiver(&identity), node.fault().map(str::to_owned));
        let Identity { card, bus, .. } = identity;
        Ok(V4l2Camera {
            path: path.to_owned(),
            card,
            bus,
            names: names_of(path),
            modes,
            unused_formats,
            is_receiver,
            fault,
        })
    }

    /// All cameras with a format that we can use, unless they have to be set up first.
    pub fn cameras(&self, near: Resolution) -> Vec<V4l2Camera> {
        self.cameras_and_others(near).0
    }

    /// Like [`Self::cameras`], with the reasons why the other video nodes are not cameras.
    pub fn cameras_and_others(&self, near: Resolution) -> (Vec<V4l2Camera>, Vec<String>) {
        let (mut cameras, mut others) = (Vec::new(), Vec::new());
        for node in video_nodes() {
            match self.examine(&node, near) {
                Ok(video) if video.is_receiver => others.push(format!("{} {RECEIVER}", video.in_words())),
                Ok(video) if video.modes.is_empty() => {
                    others.push(Error::NoMode { device: video.in_words(), formats: video.formats() }.to_string());
                }
                Ok(video) => cameras.push(video),
                Err(error) => others.push(error.to_string()),
            }
        }
        (cameras, others)
    }

    /// The same camera under its present number. Only its own formats are listed, because that takes longest.
    pub fn find_again(&self, seen: &V4l2Camera, near: Resolution) -> Option<V4l2Camera> {
        let is_it = |path: &PathBuf| {
            if self.hanging.contains_key(path) {
                return false;
            }
            let _step = self.report_step(path);
            let identity = Node::open(path).and_then(|node| node.identity());
            identity.is_ok_and(|found| found.card == seen.card && found.bus == seen.bus)
        };
        let mut looked = video_nodes().into_iter().filter(is_it).filter_map(|path| self.examine(&path, near).ok());
        looked.find(|video| !video.modes.is_empty())
    }

    /// The camera that the configuration calls `name`, a path or a stable name.
    pub fn camera(&self, name: &str, near: Resolution) -> Result<V4l2Camera, Error> {
        let candidates = NAMES.iter().map(|folder| Path::new(folder).join(name));
        let found = std::iter::once(PathBuf::from(name)).chain(candidates).find_map(|path| {
            // A bare name must not be taken for a file in the working directory.
            path.is_absolute().then(|| fs::canonicalize(path).ok()).flatten()
        });
        let path = found.ok_or_else(|| Error::Absent { device: name.to_owned() })?;
        self.examine(&path, near)
    }
}

/// Why this node delivers no pictures by itself; `None` if it does.
fn why_no_camera(Identity { driver, card, can, .. }: &Identity) -> Option<&'static str> {
    let can = |any: Capabilities| can.intersects(any);
    let captures = can(Capabilities::VIDEO_CAPTURE | Capabilities::VIDEO_CAPTURE_MPLANE);
    let outputs = can(Capabilities::VIDEO_OUTPUT | Capabilities::VIDEO_OUTPUT_MPLANE);
    let is_of = |names: &[&str]| names.iter().any(|name| driver.starts_with(name) || card.starts_with(name));
    Some(match () {
        // Unless it is loaded with `exclusive_caps`, it claims to have all capabilities, and converts nothing.
        () if driver == LOOPBACK && captures => return None,
        () if driver == LOOPBACK => "no program gives it pictures yet",
        // Before Linux 3.6 had a flag for it, a node with both queues was a converter.
        () if can(Capabilities::VIDEO_M2M | Capabilities::VIDEO_M2M_MPLANE) || captures && outputs => {
            "it converts what other programs give it"
        }
        () if is_of(&IMAGE_PROCESSORS) => "it is a part of the board's image processor",
        () if can(Capabilities::TOUCH) => "it is a touch pad",
        () if captures && can(Capabilities::STREAMING) => return None,
        () if captures => "it does not stream",
        () if can(Capabilities::META_CAPTURE | Capabilities::META_OUTPUT) => {
            "it has data about pictures, but no pictures"
        }
        () if outputs => "it accepts pictures and delivers none",
        () if can(Capabilities::VBI_CAPTURE | Capabilities::SLICED_VBI_CAPTURE) => "it has a TV signal's text only",
        () if can(Capabilities::RADIO | Capabilities::TUNER | Capabilities::SDR_CAPTURE) => "it is a radio",
        () => "it captures nothing",
    })
}

/// The driver of cameras that other programs feed (v4l2loopback): OBS's virtual camera, a phone, a photo camera.
const LOOPBACK: &str = "v4l2 loopback";

/// Drivers of image processors and codecs that make a separate capture device of each queue. They deliver nothing
/// unless a program feeds them (Linux, drivers/staging/vc04_services, drivers/media/platform/raspberrypi).
const IMAGE_PROCESSORS: [&str; 5] = ["bcm2835-isp", "bcm2835-codec", "pispbe", "pisp_be", "rpivid"];

/// Drivers of CSI receivers: their nodes deliver pictures only after a program has set up the sensor behind them,
/// and then mostly raw sensor data, which needs an image processor.
const RECEIVERS: [&str; 3] = ["unicam", "bcm2835-unicam", "rp1-cfe"];

/// `V4L2_CAP_IO_MC`: the node's output depends on a media graph that has to be set up first (Linux 5.7,
/// vidioc-querycap.rst).
const IO_MC: u32 = 0x2000_0000;

fn is_receiver(identity: &Identity) -> bool {
    let is_of = |name: &&str| identity.driver.starts_with(*name) || identity.card.starts_with(*name);
    identity.can.bits() & IO_MC != 0 || RECEIVERS.iter().any(is_of)
}

/// The usable formats of a node, and the codes of its others.
fn modes(node: &Node, queue: QueueType, near: Resolution) -> Result<(Vec<CaptureMode>, Vec<String>), Endless> {
    let (mut modes, mut unused) = (Vec::new(), Vec::new());
    for code in node.formats(queue)? {
        let before = modes.len();
        if let Some(format) = CaptureFormat::from_fourcc(code) {
            for sizes in node.sizes(queue, code)? {
                let rates = node.rates(code, sizes.nearest(near))?;
                modes.push(CaptureMode { format, sizes, rates });
            }
        }
        if modes.len() == before {
            unused.push(node::words(&code));
        }
    }
    // One format may be listed under two codes.
    mode::without_repetition(&mut modes);
    Ok((modes, unused))
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

/// Translates an error on opening a device.
pub fn open_error(device: &str, error: &io::Error) -> Error {
    let device = device.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => Error::Absent { device },
        io::ErrorKind::PermissionDenied => Error::Denied { device },
        io::ErrorKind::ResourceBusy => Error::Busy { device },
        _ => match error.raw_os_error() {
            // ENODEV and ENXIO: the node still exists for a moment after its device is gone.
            Some(19 | 6) => Error::Gone { device },
            // ENOTTY and EINVAL: not a V4L2 device.
            Some(25 | 22) => Error::NoCapture { device },
            _ => Error::Failed { device, why: error.to_string(), cause: None },
        },
    }
}

/// The port of a card, taken from its long name: `C920 at usb-0000:01:00.0-1.2, high speed` (Linux,
/// sound/usb/card.c). It equals V4L2's bus of a camera at the same port.
fn plug(long_name: &str) -> Option<String> {
    let (_, place) = long_name.rsplit_once(" at ")?;
    let (plug, _) = place.split_once(',')?;
    plug.starts_with("usb-").then(|| plug.to_owned())
}

/// The capture device at this port; `None` if `plug` is not a port.
pub fn microphone(plug: &str) -> Option<AlsaDevice> {
    let listed = if plug.starts_with("usb-") { microphones() } else { vec![] };
    listed.into_iter().find(|audio| audio.plug.as_deref() == Some(plug))
}

/// All capture devices, in the order of their cards.
pub fn microphones() -> Vec<AlsaDevice> {
    let cards = alsa::card::Iter::new().flatten();
    cards.flat_map(|card| microphones_of(card).unwrap_or_default()).collect()
}

fn microphones_of(card: alsa::Card) -> alsa::Result<Vec<AlsaDevice>> {
    let control = alsa::Ctl::from_card(&card, true)?;
    let info = control.card_info()?;
    let number = card.get_index();
    // The `alsa` crate (0.12) returns no name that is not UTF-8. ALSA accepts a card's number instead of its name.
    let id = info.get_id().map_or_else(|_| number.to_string(), str::to_owned);
    let name = info.get_name().map(|name| node::words(name.as_bytes())).unwrap_or_default();
    let name = if name.is_empty() { format!("sound card {number}") } else { name };
    let plug = info.get_longname().ok().and_then(plug);
    let devices = alsa::ctl::DeviceIter::new(&control).filter_map(|device| u32::try_from(device).ok());
    let capturing = devices.take(MAX_DEVICES);
    let capturing = capturing.filter(|&device| control.pcm_info(device, 0, alsa::Direction::Capture).is_ok());
    let audio =
        |device| AlsaDevice { device: format!("hw:CARD={id},DEV={device}"), card: name.clone(), plug: plug.clone() };
    Ok(capturing.map(audio).collect())
}

/// Most devices of a card that are examined; ALSA has at most 32 (sound/core/pcm.c).
const MAX_DEVICES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Resolution = Resolution { width: 640, height: 480 };

    #[test]
    fn a_path_that_is_no_camera_is_refused_with_the_reason() {
        let nodes = Nodes::new(StepReporter::silent());
        let refused = |name: &str| nodes.camera(name, NEAR).unwrap_err();
        assert!(matches!(refused("/dev/video987"), Error::Absent { .. }));
        assert!(matches!(refused("usb-nobody-has-this"), Error::Absent { .. }));
        assert!(matches!(refused("Cargo.toml"), Error::Absent { .. }), "relative names are no paths");
        assert!(matches!(refused("/dev/null"), Error::NoCapture { .. }));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(refused(file.path().to_str().unwrap()), Error::NoCapture { .. }));
    }
}
