//! Text that must not reach a log, a status or a file by accident.

use std::fmt;

use serde::Deserialize;

/// A password or token. Its `Debug` is `***`, and it cannot be serialised.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Some(Secret::from("correct horse".to_owned()));
        assert_eq!(format!("{secret:?}"), "Some(***)");
    }
}
