//! What can be adjusted at a camera.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::media::Resolution;

use super::Error;

/// Something of a camera that can be adjusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// The values of a menu; others between `minimum` and `maximum` do not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub menu: Vec<Choice>,
}

/// What a control's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What to set.
    pub value: i64,
    /// What the driver calls it.
    pub title: String,
}

impl Control {
    /// Refuses what the control does not have.
    ///
    /// # Errors
    ///
    /// What it has.
    pub fn check(&self, value: i64) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn control(kind: Kind, minimum: i64, maximum: i64, step: u64, menu: &[(i64, &str)]) -> Control {
        Control {
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
}
