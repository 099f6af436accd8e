//! What can be adjusted at a camera: brightness, focus, pan and whatever else its driver lists. Cameras of libcamera's are
//! the matter of [`csi_controls`].
//!
//! A control of a V4L2 device is set through a descriptor of its own beside the pipeline's, which V4L2 allows (Linux,
//! userspace-api/media/v4l/open.rst, "Multiple Opens").

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use peercam::capture::{Access, Choice, Config, Control, Error, Kind, Report, Source, USUAL, Video, sizes};
use peercam::media::Resolution;
use v4l::control::{Flags, Type};
use v4l2r::bindings::{v4l2_query_ext_ctrl, v4l2_querymenu};
use v4l2r::ioctl::{self, CtrlId, QueryCtrlFlags};

use crate::output::Output;

use super::csi_controls;
use super::device::{self, Nodes};
use super::extended::Extended;
use super::node::{Node, os_error, words};

/// What the handle and the capture share about a device: where it is, and what was set at it. A clone is the same.
#[derive(Clone, Debug)]
pub struct Adjusted {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The node that the pipeline uses.
    node: Mutex<Option<PathBuf>>,
    /// The element that has a camera of libcamera's open.
    source: Mutex<glib::WeakRef<gst::Element>>,
    /// What an operator has set, and what is therefore set again.
    kept: Mutex<BTreeMap<String, i64>>,
    /// What the parent was told last.
    told_values: Mutex<Option<BTreeMap<String, i64>>>,
    told_sizes: Mutex<Option<Vec<Resolution>>>,
    output: Output,
    /// For who asks beside the pictures.
    nodes: Nodes,
}

/// Where controls are.
#[derive(Debug)]
pub enum Place {
    /// At a node.
    Node(PathBuf),
    /// At a camera of libcamera's.
    Csi,
}

/// What each guards is right after each single statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Adjusted {
    /// A device at which `kept` is to be set. What becomes known of it is told by `output`.
    pub fn new(kept: BTreeMap<String, i64>, nodes: &Nodes, output: Output) -> Self {
        let shared = Shared {
            node: Mutex::default(),
            source: Mutex::default(),
            kept: Mutex::new(kept),
            told_values: Mutex::default(),
            told_sizes: Mutex::default(),
            output,
            nodes: nodes.quietly(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The pipeline is about to use this device, or the test picture: sets there what was set before. A driver that
    /// was loaded again or a camera that was without power has forgotten it. Blocks.
    pub fn found(&self, video: Option<&Video>) {
        *lock(&self.shared.node) = video.map(|video| video.path.clone());
        self.tell_sizes(video);
        let kept = lock(&self.shared.kept).clone();
        let Some(node) = video.map(|video| &video.path).filter(|_| !kept.is_empty()) else { return };
        if let Err(error) = self.set_again(node, kept) {
            tracing::warn!(reason = %error, "the kept controls cannot be set");
        }
    }

    /// The pipeline is about to use a camera of libcamera's by this element.
    pub fn found_csi(&self, source: &gst::Element) {
        lock(&self.shared.source).set(Some(source));
        csi_controls::set_again(source, &*lock(&self.shared.kept));
    }

    /// With one look at the device's list: this delays the first picture.
    fn set_again(&self, node: &Path, kept: BTreeMap<String, i64>) -> Result<(), Error> {
        let device = open(node)?;
        let controls = listed(&device, node);
        let mut values = values(controls.iter().map(|listed| &listed.control));
        for (name, value) in kept {
            // An unchanged one is left alone: setting may move a lens.
            if values.get(&name) == Some(&value) {
                continue;
            }
            match set_one(&device, node, &controls, &name, value) {
                Ok(control) => values.extend(control.value.map(|value| (name, value))),
                Err(error) => tracing::warn!(control = name, value, reason = %error, "a kept control cannot be set"),
            }
        }
        self.tell_values(values);
        Ok(())
    }

    /// The place in use; where none is, the one that `config` would use. Blocks.
    pub fn place(&self, config: &Config) -> Result<Place, Error> {
        let source = Source::parse(&config.source);
        if matches!(source, Source::Libcamera(_)) {
            return Ok(Place::Csi);
        }
        if let Some(node) = lock(&self.shared.node).clone().filter(|node| node.exists()) {
            return Ok(Place::Node(node));
        }
        let video = match source {
            Source::Test | Source::Libcamera(_) => None,
            Source::V4l2(name) => Some(self.shared.nodes.camera(&name, config.resolution())?),
            Source::Auto => self.shared.nodes.cameras(config.resolution()).into_iter().next(),
        };
        self.tell_sizes(video.as_ref());
        let none = || Error::NoControls { device: "the test picture".into() };
        video.map(|video| Place::Node(video.path)).ok_or_else(none)
    }

    /// All controls at `place`. Blocks.
    pub fn list(&self, place: &Place) -> Result<Vec<Control>, Error> {
        let controls = match place {
            Place::Node(node) => list(node)?,
            Place::Csi => csi_controls::list(lock(&self.shared.source).upgrade().as_ref()),
        };
        if controls.is_empty() && matches!(place, Place::Csi) {
            return Err(Error::NoControls { device: "a camera of libcamera before version 0.4".into() });
        }
        self.tell_values(values(&controls));
        Ok(controls)
    }

    /// Sets a control, and remembers that. Blocks.
    pub fn set(&self, place: &Place, name: &str, value: i64) -> Result<Control, Error> {
        let control = match place {
            Place::Node(node) => set(node, name, value)?,
            Place::Csi => match lock(&self.shared.source).upgrade() {
                Some(source) => csi_controls::set(&source, name, value)?,
                None => {
                    let why = "the camera is closed; it has to be watched meanwhile".into();
                    return Err(Error::Refused { name: name.to_owned(), value, why });
                }
            },
        };
        if control.kind != Kind::Button {
            lock(&self.shared.kept).insert(name.to_owned(), value);
            // One may have changed another: an automatic that is switched off gives its value away.
            self.list(place)?;
        }
        Ok(control)
    }

    fn tell_sizes(&self, video: Option<&Video>) {
        let sizes = video.map_or_else(|| USUAL.to_vec(), |video| sizes(&video.offers));
        self.tell(&self.shared.told_sizes, sizes, Report::Sizes);
    }

    fn tell_values(&self, values: BTreeMap<String, i64>) {
        self.tell(&self.shared.told_values, values, Report::Controls);
    }

    fn tell<T: Clone + PartialEq>(&self, told: &Mutex<Option<T>>, now: T, report: fn(T) -> Report) {
        let mut told = lock(told);
        if told.as_ref() != Some(&now) {
            *told = Some(now.clone());
            self.shared.output.report(&report(now));
        }
    }
}

/// A control, and how its driver knows it.
struct Listed {
    control: Control,
    id: u32,
    /// Whether its value has 64 bits.
    is_wide: bool,
}

/// All controls that have numbers as values. Blocks.
pub fn list(path: &Path) -> Result<Vec<Control>, Error> {
    Ok(listed(&open(path)?, path).into_iter().map(|listed| listed.control).collect())
}

fn listed(node: &Node, path: &Path) -> Vec<Listed> {
    let extended = Extended(path);
    let mut all: Vec<Listed> = vec![];
    for mut listed in described(node).iter().filter_map(|found| control(node, &extended, found)) {
        let name = &listed.control.name;
        // A title in another script leaves no letters; of two controls of one name only the first could be set.
        if name.is_empty() || all.iter().any(|known| known.control.name == *name) {
            let base = Some(name.as_str()).filter(|name| !name.is_empty()).unwrap_or("control");
            listed.control.name = format!("{base}_{:x}", listed.id);
        }
        all.push(listed);
    }
    all
}

/// Sets one control; gives it with the value that it has then. Blocks.
pub fn set(path: &Path, name: &str, value: i64) -> Result<Control, Error> {
    let node = open(path)?;
    let known = listed(&node, path);
    set_one(&node, path, &known, name, value)
}

fn values<'a>(controls: impl IntoIterator<Item = &'a Control>) -> BTreeMap<String, i64> {
    controls.into_iter().filter_map(|control| Some((control.name.clone(), control.value?))).collect()
}

fn set_one(node: &Node, path: &Path, known: &[Listed], name: &str, value: i64) -> Result<Control, Error> {
    let Some(Listed { control, id, is_wide }) = known.iter().find(|known| known.control.name == name) else {
        let known: Vec<_> = known.iter().map(|known| known.control.name.as_str()).collect();
        return Err(Error::UnknownControl { name: name.to_owned(), known: known.join(", ") });
    };
    let mut control = control.clone();
    control.check(value)?;
    let refused = |why: String| Error::Refused { name: name.to_owned(), value, why };
    if control.access == Access::ReadOnly {
        return Err(refused("it is read-only".into()));
    }
    let set = match is_wide {
        true => Extended(path).set_wide(*id, value),
        // A mask of 32 bits is a negative number where its highest bit is set. A button takes any.
        false => ioctl::s_ctrl(node.file(), *id, value as i32).map(drop).map_err(|error| os_error(error.into())),
    };
    set.map_err(|error| refused(reason(&error)))?;
    if !matches!(control.kind, Kind::Button) {
        control.value = match is_wide {
            true => Extended(path).wide(*id),
            false => value_of(node, control.kind, *id),
        };
    }
    Ok(control)
}

fn open(path: &Path) -> Result<Node, Error> {
    Node::open(path).map_err(|error| device::refusal(&path.display().to_string(), &error))
}

/// How many controls a device can have, and how many values a menu: a driver's lists need not end.
const MOST_CONTROLS: usize = 512;
const MOST_CHOICES: i64 = 256;

/// What the driver says of its controls, in the order of their numbers (`VIDIOC_QUERY_EXT_CTRL`).
fn described(node: &Node) -> Vec<v4l2_query_ext_ctrl> {
    let mut found: Vec<v4l2_query_ext_ctrl> = Vec::new();
    while found.len() < MOST_CONTROLS {
        let last = found.last().map_or(0, |found| found.id);
        let next = CtrlId::new(last).map(|last| {
            ioctl::query_ext_ctrl::<v4l2_query_ext_ctrl>(
                node.file(),
                last,
                QueryCtrlFlags::NEXT | QueryCtrlFlags::COMPOUND,
            )
        });
        match next {
            // A driver that goes backwards would go on for ever.
            Ok(Ok(next)) if next.id > last => found.push(next),
            _ => break,
        }
    }
    found
}

fn name_of_driver(found: &v4l2_query_ext_ctrl) -> String {
    words(&found.name.map(|byte| byte as u8))
}

/// The places of a menu, none where the driver says what cannot be.
fn choices(found: &v4l2_query_ext_ctrl) -> std::ops::Range<i64> {
    let is_sound =
        found.minimum >= 0 && (found.minimum..found.minimum.saturating_add(MOST_CHOICES)).contains(&found.maximum);
    if is_sound { found.minimum..found.maximum + 1 } else { 0..0 }
}

/// One of the driver's controls, unless its value is no number or it has none: strings, arrays and empty menus are left
/// out.
fn control(node: &Node, extended: &Extended, found: &v4l2_query_ext_ctrl) -> Option<Listed> {
    let kind = match Type::try_from(found.type_).ok()? {
        Type::Integer | Type::Integer64 => Kind::Integer,
        Type::Boolean => Kind::Boolean,
        Type::Menu | Type::IntegerMenu => Kind::Menu,
        Type::Button => Kind::Button,
        Type::Bitmask => Kind::Bitmask,
        Type::CtrlClass | Type::String | Type::U8 | Type::U16 | Type::U32 | Type::Area => return None,
    };
    let flags = Flags::from_bits_truncate(found.flags);
    let is_empty = matches!(kind, Kind::Integer | Kind::Boolean) && found.minimum > found.maximum;
    if flags.intersects(Flags::DISABLED | Flags::HAS_PAYLOAD) || is_empty {
        return None;
    }
    let access = match flags {
        flags if flags.contains(Flags::READ_ONLY) => Access::ReadOnly,
        flags if flags.contains(Flags::INACTIVE) => Access::Inactive,
        _ => Access::Writable,
    };
    let is_wide = found.type_ == Type::Integer64 as u32;
    let value = match kind {
        Kind::Button => None,
        _ if flags.contains(Flags::WRITE_ONLY) => None,
        _ if is_wide => extended.wide(found.id),
        _ => value_of(node, kind, found.id),
    };
    let mut menu = if kind == Kind::Menu && !choices(found).is_empty() { extended.menu(found.id) } else { vec![] };
    if kind == Kind::Menu && menu.is_empty() {
        let is_there = |value: &i64| ioctl::querymenu::<v4l2_querymenu>(node.file(), found.id, *value as u32).is_ok();
        let untitled = choices(found).filter(is_there);
        menu = untitled.map(|value| Choice { value, title: value.to_string() }).collect();
    }
    if kind == Kind::Menu && menu.is_empty() {
        return None;
    }
    let name = name_of_driver(found);
    let control = Control {
        name: name_of(&name),
        title: name,
        kind,
        access,
        minimum: found.minimum,
        maximum: found.maximum,
        step: found.step,
        default: found.default_value,
        value,
        menu,
    };
    Some(Listed { control, id: found.id, is_wide })
}

/// The value now, where the driver tells.
fn value_of(node: &Node, kind: Kind, id: u32) -> Option<i64> {
    let value = ioctl::g_ctrl(node.file(), id).ok()?;
    Some(if kind == Kind::Bitmask { i64::from(value as u32) } else { i64::from(value) })
}

/// As v4l2-ctl does it: small letters and digits, with one `_` for whatever is between.
fn name_of(title: &str) -> String {
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ResourceBusy => "it cannot be changed while the camera runs".into(),
        io::ErrorKind::PermissionDenied => "it cannot be written".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::guide::Guide;

    #[test]
    fn names_are_those_of_v4l2_ctl() {
        let cases = [
            ("Brightness", "brightness"),
            ("White Balance, Automatic", "white_balance_automatic"),
            ("Pan (Absolute)", "pan_absolute"),
            ("OSD Text Mode", "osd_text_mode"),
            ("  ", ""),
        ];
        for (title, name) in cases {
            assert_eq!(name_of(title), name);
        }
    }

    #[test]
    fn what_has_no_device_has_no_controls() {
        let (socket, _parent) = UnixStream::pair().unwrap();
        let adjusted = Adjusted::new(BTreeMap::new(), &Nodes::new(Guide::alone()), Output::new(socket));
        let config = Config { source: "test".into(), ..Config::default() };
        let error = adjusted.place(&config).unwrap_err().to_string();
        assert!(error.contains("the test picture has no controls"), "{error}");
    }
}
