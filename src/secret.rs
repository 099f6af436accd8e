//! Text that must not reach a log, a status or a file by accident.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A password or token. It shows and serialises as `***`.
///
/// There is no `==`: how long that takes tells how much of a guess is right.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
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
}
