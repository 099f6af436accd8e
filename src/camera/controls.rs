//! What can be adjusted at a V4L2 device: brightness, focus, pan and whatever else its driver lists.
//!
//! A control is set through a descriptor of its own beside the pipeline's, which V4L2 allows (Linux,
//! userspace-api/media/v4l/open.rst, "Multiple Opens").

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;
use v4l::control::{Flags, Type};
use v4l2r::bindings::{v4l2_query_ext_ctrl, v4l2_querymenu};
use v4l2r::ioctl::{self, CtrlId, QueryCtrlFlags};

use crate::media::Resolution;

use super::device::{self, Source, Video};
use super::extended::Extended;
use super::node::{Node, os_error, words};
use super::{Config, Error, mode};

/// Something of a camera that can be adjusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Control {
    #[serde(skip)]
    pub(super) id: u32,
    /// Whether its value has 64 bits.
    #[serde(skip)]
    pub(super) wide: bool,
    /// The name to set it by, as v4l2-ctl makes it of the driver's: `white_balance_automatic`. It ends with the control's
    /// number where the driver's has no letters, or is that of another control.
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
            // A driver's default need not be on its own grid.
            Kind::Integer => {
                let steps = value.abs_diff(self.minimum);
                within && (steps.is_multiple_of(self.step.max(1)) || value == self.default)
            }
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

/// What is known of a device without asking it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adjustments {
    /// The values of its controls, by name; none before they were first listed or set.
    pub controls: BTreeMap<String, i64>,
    /// Sizes that it has, the smallest first; none before it was first looked at.
    pub sizes: Vec<Resolution>,
}

/// What the handle and the capture share about a device: where it is, and what was set at it. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Adjusted {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The node that the pipeline uses.
    node: Mutex<Option<PathBuf>>,
    /// What an operator has set, and what is therefore set again.
    kept: Mutex<BTreeMap<String, i64>>,
    told: watch::Sender<Adjustments>,
}

/// What each guards is right after each single statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Adjusted {
    /// A device at which `kept` is to be set.
    pub(super) fn new(kept: BTreeMap<String, i64>) -> Self {
        let told = Adjustments { controls: kept.clone(), ..Adjustments::default() };
        let shared = Shared { node: Mutex::default(), kept: Mutex::new(kept), told: watch::channel(told).0 };
        Self { shared: Arc::new(shared) }
    }

    /// What is known, now and as it changes.
    pub(super) fn told(&self) -> watch::Receiver<Adjustments> {
        self.shared.told.subscribe()
    }

    /// The pipeline is about to use this device, or the test picture: sets there what was set before. A driver that
    /// was loaded anew or a camera that was without power has forgotten it. Blocks.
    pub(super) fn found(&self, video: Option<&Video>) {
        *lock(&self.shared.node) = video.map(|video| video.path.clone());
        self.tell_sizes(video);
        let kept = lock(&self.shared.kept).clone();
        let Some(node) = video.map(|video| &video.path).filter(|_| !kept.is_empty()) else { return };
        if let Err(error) = self.set_again(node, kept) {
            tracing::warn!(reason = %error, "the kept controls cannot be set");
        }
    }

    /// With one look at the device's list: this delays the first picture.
    fn set_again(&self, node: &Path, kept: BTreeMap<String, i64>) -> Result<(), Error> {
        let device = open(node)?;
        let controls = listed(&device, node);
        let mut values = values(&controls);
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
        self.tell(|told| &mut told.controls, values);
        Ok(())
    }

    /// The node in use; where none is, the one that `config` would use. Blocks.
    pub(super) fn node(&self, config: &Config) -> Result<PathBuf, Error> {
        if let Some(node) = lock(&self.shared.node).clone().filter(|node| node.exists()) {
            return Ok(node);
        }
        let video = match Source::parse(&config.source) {
            Source::Test => None,
            Source::Libcamera(_) => return Err(Error::NoControls { device: "a libcamera camera".into() }),
            Source::V4l2(name) => Some(device::camera(&name, config.resolution())?),
            Source::Auto => device::cameras(config.resolution()).into_iter().next(),
        };
        self.tell_sizes(video.as_ref());
        video.map(|video| video.path).ok_or_else(|| Error::NoControls { device: "the test picture".into() })
    }

    /// All controls of the device at `node`. Blocks.
    pub(super) fn list(&self, node: &Path) -> Result<Vec<Control>, Error> {
        let controls = list(node)?;
        self.tell(|told| &mut told.controls, values(&controls));
        Ok(controls)
    }

    /// Sets a control, and remembers that. Blocks.
    pub(super) fn set(&self, node: &Path, name: &str, value: i64) -> Result<Control, Error> {
        let control = set(node, name, value)?;
        if control.kind != Kind::Button {
            lock(&self.shared.kept).insert(name.to_owned(), value);
            // One may have changed another: an automatic that is switched off gives its value away.
            self.list(node)?;
        }
        Ok(control)
    }

    fn tell_sizes(&self, video: Option<&Video>) {
        let sizes = video.map_or_else(|| mode::USUAL.to_vec(), |video| mode::sizes(&video.offers));
        self.tell(|told| &mut told.sizes, sizes);
    }

    fn tell<T: PartialEq>(&self, part: impl Fn(&mut Adjustments) -> &mut T, now: T) {
        self.shared.told.send_if_modified(|told| {
            let part = part(told);
            let is_news = *part != now;
            *part = now;
            is_news
        });
    }
}

/// All controls that have numbers as values. Blocks.
pub(super) fn list(path: &Path) -> Result<Vec<Control>, Error> {
    Ok(listed(&open(path)?, path))
}

fn listed(node: &Node, path: &Path) -> Vec<Control> {
    let extended = Extended(path);
    let mut controls: Vec<Control> = vec![];
    for mut control in described(node).iter().filter_map(|found| control(node, &extended, found)) {
        // A title in another script leaves no letters; of two controls of one name only the first could be set.
        if control.name.is_empty() || controls.iter().any(|known| known.name == control.name) {
            let base = Some(control.name.as_str()).filter(|name| !name.is_empty()).unwrap_or("control");
            control.name = format!("{base}_{:x}", control.id);
        }
        controls.push(control);
    }
    controls
}

/// Sets one control; gives it with the value that it has then. Blocks.
pub(super) fn set(path: &Path, name: &str, value: i64) -> Result<Control, Error> {
    let node = open(path)?;
    let known = listed(&node, path);
    set_one(&node, path, &known, name, value)
}

fn values(controls: &[Control]) -> BTreeMap<String, i64> {
    controls.iter().filter_map(|control| Some((control.name.clone(), control.value?))).collect()
}

fn set_one(node: &Node, path: &Path, known: &[Control], name: &str, value: i64) -> Result<Control, Error> {
    let Some(mut control) = known.iter().find(|control| control.name == name).cloned() else {
        let known: Vec<_> = known.iter().map(|control| control.name.as_str()).collect();
        return Err(Error::UnknownControl { name: name.to_owned(), known: known.join(", ") });
    };
    control.check(value)?;
    let refused = |why: String| Error::Refused { name: name.to_owned(), value, why };
    if control.access == Access::ReadOnly {
        return Err(refused("it is read-only".into()));
    }
    let set = match control.wide {
        true => Extended(path).set_wide(control.id, value),
        // A mask of 32 bits is a negative number where its highest bit is set. A button takes any.
        false => ioctl::s_ctrl(node.file(), control.id, value as i32).map(drop).map_err(|error| os_error(error.into())),
    };
    set.map_err(|error| refused(reason(&error)))?;
    if !matches!(control.kind, Kind::Button) {
        control.value = match control.wide {
            true => Extended(path).wide(control.id),
            false => value_of(node, control.kind, control.id),
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
fn control(node: &Node, extended: &Extended, found: &v4l2_query_ext_ctrl) -> Option<Control> {
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
    let wide = found.type_ == Type::Integer64 as u32;
    let value = match kind {
        Kind::Button => None,
        _ if flags.contains(Flags::WRITE_ONLY) => None,
        _ if wide => extended.wide(found.id),
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
    Some(Control {
        id: found.id,
        wide,
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
    })
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
    use super::*;

    fn control(kind: Kind, minimum: i64, maximum: i64, step: u64, menu: &[(i64, &str)]) -> Control {
        Control {
            id: 0,
            wide: false,
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
        let adjusted = Adjusted::new(BTreeMap::new());
        for (source, who) in [("test", "the test picture has no controls"), ("libcamera", "a libcamera camera has no")]
        {
            let config = Config { source: source.into(), ..Config::default() };
            let error = adjusted.node(&config).unwrap_err().to_string();
            assert!(error.contains(who), "{error}");
        }
    }
}
