//! What a broker does not do for this board, as far as it turned out.

use super::MOST_BYTES;

/// Lines that are told of at most: each names a topic or a filter, of which a board has some ten.
const MOST_LACKS: usize = 16;

/// What the broker does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest packet that it takes, in bytes, as far as is known; never more than [`MOST_BYTES`].
    pub most_bytes: usize,
    /// What else, each for people.
    pub lacks: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { most_bytes: MOST_BYTES, lacks: Vec::new() }
    }
}

impl Limits {
    /// Where the broker refuses a retained message.
    pub const NO_RETAINED: &str = "it keeps no retained messages, so this board's state is seen when it changes next";

    /// Where the broker takes QoS 0 only.
    pub const NO_ACKNOWLEDGEMENT: &str = "it takes QoS 0 only, so what is published may be lost";

    /// Adds a line. Whether it is a new one.
    pub fn lack(&mut self, line: String) -> bool {
        let is_new = !self.lacks.contains(&line) && self.lacks.len() < MOST_LACKS;
        if is_new {
            self.lacks.push(line);
        }
        is_new
    }

    /// The largest packet that it takes, in bytes, where it takes less than the board sends and that is known.
    pub fn known_bytes(&self) -> Option<usize> {
        (self.most_bytes < MOST_BYTES).then_some(self.most_bytes)
    }

    /// All of it in one sentence; `None` where there is nothing to say.
    pub fn in_words(&self) -> Option<String> {
        let size = self.known_bytes().map(|bytes| format!("it takes packets of {bytes} bytes at most"));
        let all: Vec<_> = self.lacks.iter().cloned().chain(size).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
