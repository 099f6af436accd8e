//! The controls of a camera: brightness, focus, pan and whatever else its driver lists. [`csi_controls`] has those
//! of libcamera's cameras.
//!
//! A control of a V4L2 device is set through a file descriptor separate from the pipeline's, which V4L2 allows
//! (Linux, userspace-api/media/v4l/open.rst, "Multiple Opens").

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use peercam::capture::{
    Config, Control, ControlAccess, ControlKind, Error, MenuItem, Report, SourceSpec, USUAL, V4l2Camera, sizes,
};
use peercam::media::Resolution;
use v4l::control::{Flags, Type};
use v4l2r::bindings::{v4l2_query_ext_ctrl, v4l2_querymenu};
use v4l2r::ioctl::{self, CtrlId, QueryCtrlFlags};

use crate::output::Output;

use super::csi_controls::{self, RepeatedControls};
use super::device::{self, Nodes};
use super::extended_controls::ExtendedControls;
use super::node::{Node, os_error, words};

/// State of a device that questions and the capture share: its node, and the controls that were set. Clones share it.
#[derive(Clone, Debug)]
pub struct DeviceControls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The node that the pipeline uses.
    node: Mutex<Option<PathBuf>>,
    /// The element that has a libcamera camera open.
    source: Mutex<glib::WeakRef<gst::Element>>,
    repeated: RepeatedControls,
    /// Values that an operator has set; they are set again each time the device is opened.
    kept: Mutex<BTreeMap<String, i64>>,
    /// The values and sizes that were last reported to the parent.
    reported_values: Mutex<Option<BTreeMap<String, i64>>>,
    reported_sizes: Mutex<Option<Vec<Resolution>>>,
    output: Output,
    /// For questions, which do not report steps.
    nodes: Nodes,
}

/// The device that has the controls.
#[derive(Debug)]
pub enum ControlTarget {
    /// A V4L2 node.
    Node(PathBuf),
    /// A camera of libcamera.
    Csi,
}

/// Locks it despite a panic: each value is consistent after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceControls {
    /// A device on which `kept` is to be set. Findings are reported to `output`.
    pub fn new(kept: BTreeMap<String, i64>, nodes: &Nodes, output: Output) -> Self {
        let shared = Shared {
            node: Mutex::default(),
            source: Mutex::default(),
            repeated: RepeatedControls::default(),
            kept: Mutex::new(kept),
            reported_values: Mutex::default(),
            reported_sizes: Mutex::default(),
            output,
            nodes: nodes.unreported(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Call before the pipeline uses this device, or the test picture (`None`). Sets the kept controls, which a
    /// driver that was reloaded or a camera that lost power has forgotten. Blocks.
    pub fn use_v4l2(&self, video: Option<&V4l2Camera>) {
        *lock(&self.shared.node) = video.map(|video| video.path.clone());
        self.report_sizes(video);
        let kept = lock(&self.shared.kept).clone();
        let Some(node) = video.map(|video| &video.path).filter(|_| !kept.is_empty()) else { return };
        if let Err(error) = self.set_again(node, kept) {
            tracing::warn!(reason = %error, "the saved controls cannot be set");
        }
    }

    /// Call before the pipeline uses a libcamera camera through this element.
    pub fn use_csi(&self, source: &gst::Element) {
        lock(&self.shared.source).set(Some(source));
        self.shared.repeated.follow(source);
        csi_controls::set_again(source, &*lock(&self.shared.kept));
    }

    /// Lists the controls only once, because that delays the first picture.
    fn set_again(&self, node: &Path, kept: BTreeMap<String, i64>) -> Result<(), Error> {
        let device = open(node)?;
        let controls = listed(&device, node);
        let mut values = values(controls.iter().map(|listed| &listed.control));
        for (name, value) in kept {
            // An unchanged one is not set again, because that may move a lens.
            if values.get(&name) == Some(&value) {
                continue;
            }
            match set_one(&device, node, &controls, &name, value) {
                Ok(control) => values.extend(control.value.map(|value| (name, value))),
                Err(error) => tracing::warn!(control = name, value, reason = %error, "a saved control cannot be set"),
            }
        }
        self.report_values(values);
        Ok(())
    }

    /// The device in use; without one, the device that `config` would use. Blocks.
    pub fn target(&self, config: &Config) -> Result<ControlTarget, Error> {
        let source = SourceSpec::parse(&config.source);
        if matches!(source, SourceSpec::Libcamera(_)) {
            return Ok(ControlTarget::Csi);
        }
        if let Some(node) = lock(&self.shared.node).clone().filter(|node| node.exists()) {
            return Ok(ControlTarget::Node(node));
        }
        let video = match source {
            SourceSpec::Test | SourceSpec::Libcamera(_) => None,
            SourceSpec::V4l2(name) => Some(self.shared.nodes.camera(&name, config.resolution())?),
            SourceSpec::Auto => self.shared.nodes.cameras(config.resolution()).into_iter().next(),
        };
        self.report_sizes(video.as_ref());
        let none = || Error::NoControls { device: "the test picture".into() };
        video.map(|video| ControlTarget::Node(video.path)).ok_or_else(none)
    }

    /// All controls of `target`. Blocks.
    pub fn list(&self, target: &ControlTarget) -> Result<Vec<Control>, Error> {
        let controls = match target {
            ControlTarget::Node(node) => list(node)?,
            ControlTarget::Csi => csi_controls::list(lock(&self.shared.source).upgrade().as_ref()),
        };
        if controls.is_empty() && matches!(target, ControlTarget::Csi) {
            return Err(Error::NoControls { device: "a camera of libcamera before version 0.4".into() });
        }
        self.report_values(values(&controls));
        Ok(controls)
    }

    /// Sets a control, and keeps its value. Blocks.
    pub fn set(&self, target: &ControlTarget, name: &str, value: i64) -> Result<Control, Error> {
        let control = match target {
            ControlTarget::Node(node) => set(node, name, value)?,
            ControlTarget::Csi => match lock(&self.shared.source).upgrade() {
                Some(source) => {
                    let control = csi_controls::set(&source, name, value)?;
                    self.shared.repeated.add(name, value);
                    control
                }
                None => {
                    let why = "the camera is closed; watch it while you set this".into();
                    return Err(Error::Refused { name: name.to_owned(), value, why });
                }
            },
        };
        if control.kind != ControlKind::Button {
            lock(&self.shared.kept).insert(name.to_owned(), value);
            // One may have changed another: an automatic that is switched off reports its value.
            self.list(target)?;
        }
        Ok(control)
    }

    fn report_sizes(&self, video: Option<&V4l2Camera>) {
        let sizes = video.map_or_else(|| USUAL.to_vec(), |video| sizes(&video.modes));
        self.report_if_new(&self.shared.reported_sizes, sizes, Report::Sizes);
    }

    fn report_values(&self, values: BTreeMap<String, i64>) {
        self.report_if_new(&self.shared.reported_values, values, Report::Controls);
    }

    fn report_if_new<T: Clone + PartialEq>(&self, reported: &Mutex<Option<T>>, now: T, report: fn(T) -> Report) {
        let mut reported = lock(reported);
        if reported.as_ref() != Some(&now) {
            *reported = Some(now.clone());
            self.shared.output.report(&report(now));
        }
    }
}

/// A control, and its driver's ID for it.
struct ListedControl {
    control: Control,
    id: u32,
    /// Whether its value has 64 bits.
    is_wide: bool,
}

/// All controls with numeric values. Blocks.
pub fn list(path: &Path) -> Result<Vec<Control>, Error> {
    Ok(listed(&open(path)?, path).into_iter().map(|listed| listed.control).collect())
}

fn listed(node: &Node, path: &Path) -> Vec<ListedControl> {
    let extended = ExtendedControls(path);
    let mut all: Vec<ListedControl> = vec![];
    for mut listed in described(node).iter().filter_map(|found| control(node, &extended, found)) {
        let name = &listed.control.name;
        // A title in another script has no letters left; of two controls with the same name only the first could be
        // set.
        if name.is_empty() || all.iter().any(|known| known.control.name == *name) {
            let base = Some(name.as_str()).filter(|name| !name.is_empty()).unwrap_or("control");
            listed.control.name = format!("{base}_{:x}", listed.id);
        }
        all.push(listed);
    }
    all
}

/// Sets one control; returns it with its new value. Blocks.
pub fn set(path: &Path, name: &str, value: i64) -> Result<Control, Error> {
    let node = open(path)?;
    let known = listed(&node, path);
    set_one(&node, path, &known, name, value)
}

fn values<'a>(controls: impl IntoIterator<Item = &'a Control>) -> BTreeMap<String, i64> {
    controls.into_iter().filter_map(|control| Some((control.name.clone(), control.value?))).collect()
}

fn set_one(node: &Node, path: &Path, known: &[ListedControl], name: &str, value: i64) -> Result<Control, Error> {
    let Some(ListedControl { control, id, is_wide }) = known.iter().find(|known| known.control.name == name) else {
        let known: Vec<_> = known.iter().map(|known| known.control.name.as_str()).collect();
        return Err(Error::UnknownControl { name: name.to_owned(), known: known.join(", ") });
    };
    let mut control = control.clone();
    control.check(value)?;
    let refused = |why: String| Error::Refused { name: name.to_owned(), value, why };
    if control.access == ControlAccess::ReadOnly {
        return Err(refused("it is read-only".into()));
    }
    let set = match is_wide {
        true => ExtendedControls(path).set_wide(*id, value),
        // A 32-bit mask with its highest bit set is a negative number. A button accepts any value.
        false => ioctl::s_ctrl(node.file(), *id, value as i32).map(drop).map_err(|error| os_error(error.into())),
    };
    set.map_err(|error| refused(reason(&error)))?;
    if !matches!(control.kind, ControlKind::Button) {
        control.value = match is_wide {
            true => ExtendedControls(path).wide(*id),
            false => value_of(node, control.kind, *id),
        };
    }
    Ok(control)
}

fn open(path: &Path) -> Result<Node, Error> {
    Node::open(path).map_err(|error| device::open_error(&path.display().to_string(), &error))
}

/// Most controls of a device, and most values of a menu: a driver's lists may be endless.
const MAX_CONTROLS: usize = 512;
const MAX_CHOICES: i64 = 256;

/// The driver's descriptions of its controls, in the order of their IDs (`VIDIOC_QUERY_EXT_CTRL`).
fn described(node: &Node) -> Vec<v4l2_query_ext_ctrl> {
    let mut found: Vec<v4l2_query_ext_ctrl> = Vec::new();
    while found.len() < MAX_CONTROLS {
        let last = found.last().map_or(0, |found| found.id);
        let next = CtrlId::new(last).map(|last| {
            ioctl::query_ext_ctrl::<v4l2_query_ext_ctrl>(
                node.file(),
                last,
                QueryCtrlFlags::NEXT | QueryCtrlFlags::COMPOUND,
            )
        });
        match next {
            // A driver that goes backwards would never end.
            Ok(Ok(next)) if next.id > last => found.push(next),
            _ => break,
        }
    }
    found
}

fn driver_name(found: &v4l2_query_ext_ctrl) -> String {
    words(&found.name.map(|byte| byte as u8))
}

/// The indices of a menu; empty if the driver's limits are impossible.
fn choices(found: &v4l2_query_ext_ctrl) -> std::ops::Range<i64> {
    let is_sound =
        found.minimum >= 0 && (found.minimum..found.minimum.saturating_add(MAX_CHOICES)).contains(&found.maximum);
    if is_sound { found.minimum..found.maximum + 1 } else { 0..0 }
}

/// One of the driver's controls; `None` if its value is not a number or it has no values: strings, arrays and empty
/// menus are left out.
fn control(node: &Node, extended: &ExtendedControls, found: &v4l2_query_ext_ctrl) -> Option<ListedControl> {
    let kind = match Type::try_from(found.type_).ok()? {
        Type::Integer | Type::Integer64 => ControlKind::Integer,
        Type::Boolean => ControlKind::Boolean,
        Type::Menu | Type::IntegerMenu => ControlKind::Menu,
        Type::Button => ControlKind::Button,
        Type::Bitmask => ControlKind::Bitmask,
        Type::CtrlClass | Type::String | Type::U8 | Type::U16 | Type::U32 | Type::Area => return None,
    };
    let flags = Flags::from_bits_truncate(found.flags);
    let is_empty = matches!(kind, ControlKind::Integer | ControlKind::Boolean) && found.minimum > found.maximum;
    if flags.intersects(Flags::DISABLED | Flags::HAS_PAYLOAD) || is_empty {
        return None;
    }
    let access = match flags {
        flags if flags.contains(Flags::READ_ONLY) => ControlAccess::ReadOnly,
        flags if flags.contains(Flags::INACTIVE) => ControlAccess::Inactive,
        _ => ControlAccess::Writable,
    };
    let is_wide = found.type_ == Type::Integer64 as u32;
    let value = match kind {
        ControlKind::Button => None,
        _ if flags.contains(Flags::WRITE_ONLY) => None,
        _ if is_wide => extended.wide(found.id),
        _ => value_of(node, kind, found.id),
    };
    let mut menu =
        if kind == ControlKind::Menu && !choices(found).is_empty() { extended.menu(found.id) } else { vec![] };
    if kind == ControlKind::Menu && menu.is_empty() {
        let is_there = |value: &i64| ioctl::querymenu::<v4l2_querymenu>(node.file(), found.id, *value as u32).is_ok();
        let untitled = choices(found).filter(is_there);
        menu = untitled.map(|value| MenuItem { value, title: value.to_string() }).collect();
    }
    if kind == ControlKind::Menu && menu.is_empty() {
        return None;
    }
    let name = driver_name(found);
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
    Some(ListedControl { control, id: found.id, is_wide })
}

/// The present value, if the driver reports it.
fn value_of(node: &Node, kind: ControlKind, id: u32) -> Option<i64> {
    let value = ioctl::g_ctrl(node.file(), id).ok()?;
    Some(if kind == ControlKind::Bitmask { i64::from(value as u32) } else { i64::from(value) })
}

/// Makes a name as v4l2-ctl does: small letters and digits, with one `_` for everything in between.
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
    use crate::step_reporter::StepReporter;

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
    fn the_test_picture_has_no_controls() {
        let (socket, _parent) = UnixStream::pair().unwrap();
        let controls = DeviceControls::new(BTreeMap::new(), &Nodes::new(StepReporter::silent()), Output::new(socket));
        let config = Config { source: "test".into(), ..Config::default() };
        let error = controls.target(&config).unwrap_err().to_string();
        assert!(error.contains("the test picture has no controls"), "{error}");
    }
}
