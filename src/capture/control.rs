//! The adjustable controls of a camera.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::media::Resolution;

use super::Error;

/// One control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The name to set it by, derived from the driver's as v4l2-ctl does: `white_balance_automatic`. It ends with
    /// the control's ID if the driver's name has no letters, or is also that of another control.
    pub name: String,
    /// The driver's name: `White Balance, Automatic`.
    pub title: String,
    /// The type of its values.
    pub kind: ControlKind,
    /// Whether it can be set at present.
    pub access: ControlAccess,
    /// The least value.
    pub minimum: i64,
    /// The greatest value.
    pub maximum: i64,
    /// Distance between values, counted from the least.
    pub step: u64,
    /// The default value.
    pub default: i64,
    /// The present value, if the driver reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// The values of a menu; no others between `minimum` and `maximum` exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub menu: Vec<MenuItem>,
}

/// The type of a control's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// A number.
    Integer,
    /// 0 is off, 1 is on.
    Boolean,
    /// One of `menu`.
    Menu,
    /// An action: any value triggers it.
    Button,
    /// A set of bits; `maximum` has all of them.
    Bitmask,
}

/// Whether a control can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlAccess {
    /// It can.
    Writable,
    /// It has no effect at present, because another control, such as an automatic, takes its place.
    Inactive,
    /// It can only be read.
    ReadOnly,
}

/// One value of a menu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MenuItem {
    /// The value to set.
    pub value: i64,
    /// The driver's name for it.
    pub title: String,
}

impl Control {
    /// Rejects a value that the control does not have.
    ///
    /// # Errors
    ///
    /// The values that it has.
    pub fn check(&self, value: i64) -> Result<(), Error> {
        let within = (self.minimum..=self.maximum).contains(&value);
        let is_right = match self.kind {
            ControlKind::Button => true,
            ControlKind::Boolean => within,
            ControlKind::Menu => self.menu.iter().any(|choice| choice.value == value),
            // A 32-bit mask with its highest bit set is listed as a negative number.
            ControlKind::Bitmask => value & !(self.maximum & 0xffff_ffff) == 0,
            // A driver's default may be off its own step grid.
            ControlKind::Integer => {
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

    /// The values it can be set to, in words.
    pub fn allowed(&self) -> String {
        let Self { minimum, maximum, step, .. } = self;
        match self.kind {
            ControlKind::Button => "any number".into(),
            ControlKind::Boolean => "0 or 1".into(),
            ControlKind::Bitmask => format!("made of the bits of {maximum:#x}"),
            ControlKind::Menu => {
                let choices = self.menu.iter().map(|choice| format!("{} ({})", choice.value, choice.title));
                format!("one of {}", choices.collect::<Vec<_>>().join(", "))
            }
            ControlKind::Integer if *step > 1 => format!("from {minimum} to {maximum} in steps of {step}"),
            ControlKind::Integer => format!("from {minimum} to {maximum}"),
        }
    }
}

/// Values of a device that are known without asking its capture process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownDevice {
    /// The values of its controls, by name; empty until they are first listed or set.
    pub controls: BTreeMap<String, i64>,
    /// Its sizes, in ascending order; empty until the device is first examined.
    pub sizes: Vec<Resolution>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(kind: ControlKind, minimum: i64, maximum: i64, step: u64, menu: &[(i64, &str)]) -> Control {
        Control {
            name: "gain".into(),
            title: "Gain".into(),
            kind,
            access: ControlAccess::Writable,
            minimum,
            maximum,
            step,
            default: minimum,
            value: None,
            menu: menu.iter().map(|&(value, title)| MenuItem { value, title: title.into() }).collect(),
        }
    }

    #[test]
    fn a_value_that_a_control_does_not_have_is_refused_with_the_allowed_values() {
        let number = control(ControlKind::Integer, -10, 10, 5, &[]);
        let switch = control(ControlKind::Boolean, 0, 1, 1, &[]);
        let menu = control(ControlKind::Menu, 0, 3, 1, &[(1, "Manual"), (3, "Aperture Priority")]);
        let bits = control(ControlKind::Bitmask, 0, 0x5, 0, &[]);
        let button = control(ControlKind::Button, 0, 0, 0, &[]);
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
}
