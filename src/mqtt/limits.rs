//! Features and sizes that a broker does not support, as far as known.

use super::MAX_BYTES;

/// The most lines that are kept: each names a topic or a filter, and a board has some ten.
const MAX_UNSUPPORTED: usize = 16;

/// Features and sizes that the broker does not support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest packet that it accepts, in bytes, as far as known; at most [`MAX_BYTES`].
    pub most_bytes: usize,
    /// Unsupported features, as text for people.
    pub unsupported: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { most_bytes: MAX_BYTES, unsupported: Vec::new() }
    }
}

impl Limits {
    /// If the broker refuses retained messages.
    pub const NO_RETAINED: &str = "it keeps no retained messages, so this board's state is seen when it changes next";

    /// If the broker accepts QoS 0 only.
    pub const NO_ACKNOWLEDGEMENT: &str = "it takes QoS 0 only, so what is published may be lost";

    /// Adds a line. Returns whether it is new.
    pub fn add_unsupported(&mut self, line: String) -> bool {
        let is_new = !self.unsupported.contains(&line) && self.unsupported.len() < MAX_UNSUPPORTED;
        if is_new {
            self.unsupported.push(line);
        }
        is_new
    }

    /// The largest packet that the broker accepts, in bytes, if it is known to be less than the board sends.
    pub fn known_bytes(&self) -> Option<usize> {
        (self.most_bytes < MAX_BYTES).then_some(self.most_bytes)
    }

    /// All limits in one sentence; `None` if there is nothing to report.
    pub fn describe(&self) -> Option<String> {
        let size = self.known_bytes().map(|bytes| format!("it takes packets of {bytes} bytes at most"));
        let all: Vec<_> = self.unsupported.iter().cloned().chain(size).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
