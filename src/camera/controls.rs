//! What can be adjusted at a V4L2 device: brightness, focus, pan and whatever else its driver lists.
//!
//! A control is set through a descriptor of its own beside the pipeline's, which V4L2 allows (Linux,
//! userspace-api/media/v4l/open.rst, "Multiple Opens").

use std::collections::BTreeMap;
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use v4l::control::{Description, Flags, MenuItem, Type, Value};

use super::device::{self, Source};
use super::{Config, Error};

/// Something of a camera that can be adjusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Control {
    #[serde(skip)]
    pub(super) id: u32,
    /// The name to set it by, as v4l2-ctl makes it of the driver's: `white_balance_automatic`.
    pub name: String,
    /// What the driver calls it: `White Balance, Automatic`.
    pub title: String,
    /// What its values mean.
    pub kind: Kind,
    /// Whether it can be set now.
    pub access: Access,
    /// The least value.
    pub minimum: i64,
    /// The greatest value.
    pub maximum: i64,
    /// What values grow by, counted from the least.
    pub step: u64,
    /// What it is without adjustment.
    pub default: i64,
    /// What it is now, where the driver tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// The values of a menu; others between `minimum` and `maximum` do not exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub menu: Vec<Choice>,
}

/// What a control's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A number.
    Integer,
    /// 0 is off, 1 is on.
    Boolean,
    /// One of `menu`.
    Menu,
    /// Any value sets it off.
    Button,
    /// A set of bits, all of which are in `maximum`.
    Bitmask,
}

/// Whether a control can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// It can.
    Writable,
    /// It has no effect at the moment: another control, such as an automatic, does its work.
    Inactive,
    /// It only tells.
    ReadOnly,
}

/// One value of a menu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// What to set.
    pub value: i64,
    /// What the driver calls it.
    pub title: String,
}

impl Control {
    /// Refuses what the control does not have.
    fn check(&self, value: i64) -> Result<(), Error> {
        let within = (self.minimum..=self.maximum).contains(&value);
        let is_right = match self.kind {
            Kind::Button => true,
            Kind::Boolean => within,
            Kind::Menu => self.menu.iter().any(|choice| choice.value == value),
            // A 32-bit mask is listed as a negative number where its highest bit is set.
            Kind::Bitmask => value & !(self.maximum & 0xffff_ffff) == 0,
            Kind::Integer => within && value.abs_diff(self.minimum).is_multiple_of(self.step.max(1)),
        };
        if is_right {
            Ok(())
        } else {
            Err(Error::OutOfRange { name: self.name.clone(), value, allowed: self.allowed() })
        }
    }

    /// What it can be set to, in words.
    pub fn allowed(&self) -> String {
        let Self { minimum, maximum, step, .. } = self;
        match self.kind {
            Kind::Button => "any number".into(),
            Kind::Boolean => "0 or 1".into(),
            Kind::Bitmask => format!("made of the bits of {maximum:#x}"),
            Kind::Menu => {
                let choices = self.menu.iter().map(|choice| format!("{} ({})", choice.value, choice.title));
                format!("one of {}", choices.collect::<Vec<_>>().join(", "))
            }
            Kind::Integer if *step > 1 => format!("from {minimum} to {maximum} in steps of {step}"),
            Kind::Integer => format!("from {minimum} to {maximum}"),
        }
    }
}

/// What is known of a camera's device beside its pipeline: where it is, and what was set at it.
/// A clone is the same knowledge; the handle and the capture share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Adjusted {
    shared: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    node: Option<PathBuf>,
    /// What an operator has set, and what is therefore set again.
    kept: BTreeMap<String, i64>,
    /// What the device said last.
    seen: BTreeMap<String, i64>,
}

impl Adjusted {
    /// A device at which `kept` is to be set.
    pub(super) fn new(kept: BTreeMap<String, i64>) -> Self {
        Self { shared: Arc::new(Mutex::new(Known { kept, ..Known::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // What it guards is right after each single statement.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipeline is about to use this node, or none: sets there what was set before. A driver that was loaded
    /// anew or a camera that was without power has forgotten it. Blocks.
    pub(super) fn found(&self, node: Option<&Path>) {
        let kept = {
            let mut known = self.lock();
            known.node = node.map(Path::to_owned);
            known.kept.clone()
        };
        let Some(node) = node else { return };
        let controls = if kept.is_empty() { Vec::new() } else { self.list(node).unwrap_or_default() };
        for (name, value) in kept {
            // An unchanged one is left alone: setting may move a lens.
            let is_so = controls.iter().any(|control| control.name == name && control.value == Some(value));
            if is_so {
                continue;
            }
            if let Err(error) = set(node, &name, value) {
                tracing::warn!(control = name, value, reason = %error, "a kept control cannot be set");
            }
        }
    }

    /// The node in use; where none is, the one that `config` would use. Blocks.
    pub(super) fn node(&self, config: &Config) -> Result<PathBuf, Error> {
        if let Some(node) = self.lock().node.clone().filter(|node| node.exists()) {
            return Ok(node);
        }
        let none = |device: &str| Err(Error::NoControls { device: device.into() });
        match Source::parse(&config.source) {
            Source::Test => none("the test picture"),
            Source::Libcamera(_) => none("a libcamera camera"),
            Source::V4l2(name) => Ok(device::camera(&name, config.resolution())?.path),
            Source::Auto => match device::cameras(config.resolution()).into_iter().next() {
                Some(video) => Ok(video.path),
                None => none("the test picture"),
            },
        }
    }

    /// All controls of the device at `node`. Blocks.
    pub(super) fn list(&self, node: &Path) -> Result<Vec<Control>, Error> {
        let controls = list(node)?;
        let values = controls.iter().filter_map(|control| Some((control.name.clone(), control.value?)));
        self.lock().seen = values.collect();
        Ok(controls)
    }

    /// Sets a control, and remembers that. Blocks.
    pub(super) fn set(&self, node: &Path, name: &str, value: i64) -> Result<Control, Error> {
        let control = set(node, name, value)?;
        let mut known = self.lock();
        if control.kind != Kind::Button {
            known.kept.insert(name.to_owned(), value);
        }
        if let Some(value) = control.value {
            known.seen.insert(name.to_owned(), value);
        }
        Ok(control)
    }

    /// The values, as far as they are known.
    pub(super) fn known(&self) -> BTreeMap<String, i64> {
        let known = self.lock();
        let mut values = known.kept.clone();
        values.extend(known.seen.clone());
        values
    }
}

/// All controls that have numbers as values. Blocks.
pub(super) fn list(node: &Path) -> Result<Vec<Control>, Error> {
    listed(&open(node)?, node)
}

fn listed(device: &v4l::Device, node: &Path) -> Result<Vec<Control>, Error> {
    // The `v4l` crate (0.14) panics at control types that are newer than itself.
    let found = panic::catch_unwind(panic::AssertUnwindSafe(|| device.query_controls()));
    let Ok(found) = found else {
        let device = format!("{} has controls newer than this software; it", node.display());
        return Err(Error::NoControls { device });
    };
    // A device without any refuses the question.
    Ok(found.unwrap_or_default().into_iter().filter_map(|found| control(device, found)).collect())
}

/// Sets one control; gives it with the value that it has then. Blocks.
pub(super) fn set(node: &Path, name: &str, value: i64) -> Result<Control, Error> {
    let device = open(node)?;
    let known = listed(&device, node)?;
    let Some(mut control) = known.iter().find(|control| control.name == name).cloned() else {
        let known: Vec<_> = known.into_iter().map(|control| control.name).collect();
        return Err(Error::UnknownControl { name: name.to_owned(), known: known.join(", ") });
    };
    control.check(value)?;
    let refused = |why: String| Error::Refused { name: name.to_owned(), value, why };
    if control.access == Access::ReadOnly {
        return Err(refused("it is read-only".into()));
    }
    let wanted = if control.kind == Kind::Button { Value::None } else { Value::Integer(value) };
    let set = device.set_control(v4l::Control { id: control.id, value: wanted });
    set.map_err(|error| refused(reason(&error)))?;
    control.value = value_of(&device, control.id);
    Ok(control)
}

fn open(node: &Path) -> Result<v4l::Device, Error> {
    v4l::Device::with_path(node).map_err(|error| device::refusal(&node.display().to_string(), &error))
}

/// One of the driver's controls, unless its value is no number: strings and arrays are left out.
fn control(device: &v4l::Device, found: Description) -> Option<Control> {
    let kind = match found.typ {
        Type::Integer | Type::Integer64 => Kind::Integer,
        Type::Boolean => Kind::Boolean,
        Type::Menu | Type::IntegerMenu => Kind::Menu,
        Type::Button => Kind::Button,
        Type::Bitmask => Kind::Bitmask,
        Type::CtrlClass | Type::String | Type::U8 | Type::U16 | Type::U32 | Type::Area => return None,
    };
    if found.flags.intersects(Flags::DISABLED | Flags::HAS_PAYLOAD) {
        return None;
    }
    let access = match found.flags {
        flags if flags.contains(Flags::READ_ONLY) => Access::ReadOnly,
        flags if flags.contains(Flags::INACTIVE) => Access::Inactive,
        _ => Access::Writable,
    };
    let is_readable = kind != Kind::Button && !found.flags.contains(Flags::WRITE_ONLY);
    let title = |item: MenuItem| match item {
        MenuItem::Name(name) => name,
        MenuItem::Value(value) => value.to_string(),
    };
    let items = found.items.unwrap_or_default().into_iter();
    Some(Control {
        id: found.id,
        name: name_of(&found.name),
        title: found.name,
        kind,
        access,
        minimum: found.minimum,
        maximum: found.maximum,
        step: found.step,
        default: found.default,
        value: if is_readable { value_of(device, found.id) } else { None },
        menu: items.map(|(value, item)| Choice { value: i64::from(value), title: title(item) }).collect(),
    })
}

/// The value now; none of bitmasks and menus of integers, which the `v4l` crate does not read.
fn value_of(device: &v4l::Device, id: u32) -> Option<i64> {
    match device.control(id).ok()?.value {
        Value::Integer(value) => Some(value),
        Value::Boolean(value) => Some(i64::from(value)),
        _ => None,
    }
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
    use super::*;

    fn control(kind: Kind, minimum: i64, maximum: i64, step: u64, menu: &[(i64, &str)]) -> Control {
        Control {
            id: 0,
            name: "gain".into(),
            title: "Gain".into(),
            kind,
            access: Access::Writable,
            minimum,
            maximum,
            step,
            default: minimum,
            value: None,
            menu: menu.iter().map(|&(value, title)| Choice { value, title: title.into() }).collect(),
        }
    }

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
    fn what_a_control_does_not_have_is_refused_with_what_it_has() {
        let number = control(Kind::Integer, -10, 10, 5, &[]);
        let switch = control(Kind::Boolean, 0, 1, 1, &[]);
        let menu = control(Kind::Menu, 0, 3, 1, &[(1, "Manual"), (3, "Aperture Priority")]);
        let bits = control(Kind::Bitmask, 0, 0x5, 0, &[]);
        let button = control(Kind::Button, 0, 0, 0, &[]);
        let cases = [
            (
                &number,
                vec![-10, -5, 0, 10],
                vec![(-11, "from -10 to 10 in steps of 5"), (1, "steps of 5"), (15, "to 10")],
            ),
            (&switch, vec![0, 1], vec![(2, "0 or 1"), (-1, "0 or 1")]),
            (&menu, vec![1, 3], vec![(0, "one of 1 (Manual), 3 (Aperture Priority)"), (2, "one of")]),
            (&bits, vec![0, 1, 4, 5], vec![(2, "bits of 0x5"), (8, "bits")]),
            (&button, vec![0, 1, i64::MAX], vec![]),
        ];
        for (control, right, wrong) in cases {
            for value in right {
                assert!(control.check(value).is_ok(), "{control:?} {value}");
            }
            for (value, allowed) in wrong {
                let error = control.check(value).unwrap_err().to_string();
                assert!(error.starts_with(&format!("`gain`: {value} is not ")) && error.contains(allowed), "{error}");
            }
        }
        assert!(number.check(i64::MIN).is_err() && number.check(i64::MAX).is_err());
    }

    #[test]
    fn what_has_no_device_has_no_controls() {
        let adjusted = Adjusted::default();
        for (source, who) in [("test", "the test picture has no controls"), ("libcamera", "a libcamera camera has no")]
        {
            let config = Config { source: source.into(), ..Config::default() };
            let error = adjusted.node(&config).unwrap_err().to_string();
            assert!(error.contains(who), "{error}");
        }
    }
}
