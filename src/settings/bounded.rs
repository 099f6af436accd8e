//! Whole numbers with limits. The limits are part of the type, so that parsing, checks and the published schema cannot
//! differ.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A whole number from `MIN` to `MAX` that is a multiple of `STEP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded<const MIN: u32, const MAX: u32, const STEP: u32 = 1>(u32);

impl<const MIN: u32, const MAX: u32, const STEP: u32> Bounded<MIN, MAX, STEP> {
    /// The least of them.
    pub const MIN: u32 = MIN;

    /// `number`, if it is one of those allowed.
    pub fn new(number: u32) -> Option<Self> {
        ((MIN..=MAX).contains(&number) && number.is_multiple_of(STEP)).then_some(Self(number))
    }

    /// The fault of `number`, which is in `unit`; `None` if it is allowed.
    pub fn fault(number: u32, unit: &str) -> Option<String> {
        let space = if unit.is_empty() { "" } else { " " };
        match (Self::new(number), STEP) {
            (Some(_), _) => None,
            (None, 1) => Some(format!("{number}{space}{unit} is not from {MIN} to {MAX}")),
            (None, 2) => Some(format!("{number}{space}{unit} is no even number from {MIN} to {MAX}")),
            (None, _) => Some(format!("{number}{space}{unit} is no multiple of {STEP} from {MIN} to {MAX}")),
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32, const STEP: u32> Serialize for Bounded<MIN, MAX, STEP> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de, const MIN: u32, const MAX: u32, const STEP: u32> Deserialize<'de> for Bounded<MIN, MAX, STEP> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u32, const MAX: u32, const STEP: u32>;
        impl<const MIN: u32, const MAX: u32, const STEP: u32> Visitor<'_> for Number<MIN, MAX, STEP> {
            type Value = Bounded<MIN, MAX, STEP>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match STEP {
                    1 => write!(f, "a whole number from {MIN} to {MAX}"),
                    2 => write!(f, "an even number from {MIN} to {MAX}"),
                    _ => write!(f, "a multiple of {STEP} from {MIN} to {MAX}"),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let known = u32::try_from(number).ok().and_then(Bounded::new);
                known.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            /// To JSON Schema 1280.0 is a whole number, and some languages have no others.
            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
                    return self.visit_u64(number as u64);
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_u32(Number)
    }
}

impl<const MIN: u32, const MAX: u32, const STEP: u32> JsonSchema for Bounded<MIN, MAX, STEP> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("WholeFrom{MIN}To{MAX}By{STEP}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX });
        if STEP > 1 {
            schema.insert("multipleOf".into(), STEP.into());
        }
        schema
    }
}
