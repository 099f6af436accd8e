//! The values that commands are made of. Each type carries its limits, so that what is read and what the published
//! schema says cannot differ.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A whole number from `LEAST` to `MOST` that is a multiple of `STEP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within<const LEAST: u32, const MOST: u32, const STEP: u32 = 1>(u32);

impl<const LEAST: u32, const MOST: u32, const STEP: u32> Within<LEAST, MOST, STEP> {
    /// `number`, if it is one of those allowed.
    pub fn new(number: u32) -> Option<Self> {
        ((LEAST..=MOST).contains(&number) && number.is_multiple_of(STEP)).then_some(Self(number))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const LEAST: u32, const MOST: u32, const STEP: u32> Serialize for Within<LEAST, MOST, STEP> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de, const LEAST: u32, const MOST: u32, const STEP: u32> Deserialize<'de> for Within<LEAST, MOST, STEP> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const LEAST: u32, const MOST: u32, const STEP: u32>;
        impl<const LEAST: u32, const MOST: u32, const STEP: u32> Visitor<'_> for Number<LEAST, MOST, STEP> {
            type Value = Within<LEAST, MOST, STEP>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match STEP {
                    1 => write!(f, "a whole number from {LEAST} to {MOST}"),
                    2 => write!(f, "an even number from {LEAST} to {MOST}"),
                    _ => write!(f, "a multiple of {STEP} from {LEAST} to {MOST}"),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let known = u32::try_from(number).ok().and_then(Within::new);
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

impl<const LEAST: u32, const MOST: u32, const STEP: u32> JsonSchema for Within<LEAST, MOST, STEP> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("WholeFrom{LEAST}To{MOST}By{STEP}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST });
        if STEP > 1 {
            schema.insert("multipleOf".into(), STEP.into());
        }
        schema
    }
}

/// Text of 1 to `MOST` characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text<const MOST: usize>(String);

impl<const MOST: usize> Text<MOST> {
    /// `text`, if it has a length that is allowed.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (1..=MOST).contains(&text.chars().count()).then_some(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de, const MOST: usize> Deserialize<'de> for Text<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let length = text.chars().count();
        Self::new(text).ok_or_else(|| D::Error::custom(format!("{length} characters are not 1 to {MOST} of them")))
    }
}

impl<const MOST: usize> JsonSchema for Text<MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("TextUpTo{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MOST })
    }
}
