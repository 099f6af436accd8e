//! Text that must not reach a log, a status or a file by accident.

use std::fmt;
use std::path::Path;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::durable;

/// Most bytes of a secret's or password's file that are read. The longest generated passwords have some hundred
/// characters.
const MAX_BYTES: usize = 4096;

/// A password or token. Its `Debug` and its serialised form are `***`.
///
/// It has no `==`: the time that a comparison takes reveals how much of a guess is right.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The secret text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads the only line of `file`. Blanks at its start and end are kept; a line break at the end, which editors
    /// add, is removed.
    ///
    /// # Errors
    ///
    /// The reason why there is no secret.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = Self::read_text(file)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.contains(['\n', '\0']) {
            return Err("is not one line with a password".into());
        }
        Ok(Self(line.to_owned()))
    }

    /// Reads the whole text of `file`, which may hold a secret.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub fn read_text(file: &Path) -> Result<String, String> {
        let bytes = durable::read(file, MAX_BYTES).map_err(|error| format!("cannot be read: {error}"))?;
        String::from_utf8(bytes).map_err(|_| "is not text (UTF-8)".into())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// serde's own error for a value of the wrong type quotes it, and an unquoted password of digits is such a value.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOnly)
    }
}

struct TextOnly;

impl TextOnly {
    fn refuse<E: Error>() -> Result<Secret, E> {
        Err(E::custom("expected text in quotes"))
    }
}

impl Visitor<'_> for TextOnly {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Self::refuse()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output_or_json() {
        let secret = Some(Secret::from("correct horse".to_owned()));
        assert_eq!(format!("{secret:?}"), "Some(***)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""***""#);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_without_being_quoted() {
        for wrong in ["12345678", "-12345678", "12345678.5", "1e400", "true", "[12345678]", "{\"12345678\":1}", "null"]
        {
            let Err(error) = serde_json::from_str::<Secret>(wrong) else { panic!("{wrong} is taken") };
            assert!(!error.to_string().contains("12345678"), "{error}");
        }
        assert_eq!(serde_json::from_str::<Secret>("\"12345678\"").unwrap().reveal(), "12345678");
    }
}
