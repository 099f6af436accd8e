//! Limits on the messages of one viewer, and on malformed ones. The same for every transport that stays open.

use std::time::Instant;

use crate::rate_limit::{Rate, RateLimit};

/// The messages of one viewer. A browser trickles ten candidates in a burst, and again at an ICE restart.
pub const MESSAGES: Rate = Rate { burst: 100.0, per_second: 20.0 };

/// Malformed messages after which a viewer is ignored: enough for a developer to see what is wrong.
const MAX_MALFORMED: u32 = 10;

/// What one viewer has sent so far.
#[derive(Debug)]
pub struct Limits {
    messages: RateLimit,
    malformed: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages: RateLimit::new(MESSAGES), malformed: 0 }
    }
}

impl Limits {
    /// Whether one more message may come at `now`.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.messages.allows(now)
    }

    /// Counts a malformed message. Returns whether it was the last one allowed.
    pub fn is_last_malformed(&mut self) -> bool {
        self.malformed += 1;
        self.malformed >= MAX_MALFORMED
    }
}
