//! How much a viewer may say, and how often without sense. The same on every way in that stays open.

use std::time::Instant;

/// Messages that may come at once, and per second from then on. A browser trickles ten candidates in a burst,
/// and an ICE restart does so again.
const BURST: f64 = 100.0;
/// See [`BURST`].
const PER_SECOND: f64 = 20.0;

/// Messages without sense after which a viewer is not listened to: enough for a developer to see what is wrong.
const MOST_MISTAKES: u32 = 10;

/// How one viewer has behaved so far.
#[derive(Debug)]
pub struct Manners {
    allowance: f64,
    since: Instant,
    mistakes: u32,
}

impl Default for Manners {
    fn default() -> Self {
        Self { allowance: BURST, since: Instant::now(), mistakes: 0 }
    }
}

impl Manners {
    /// Whether one more message at `now` is within what may come.
    pub fn is_within_rate(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() * PER_SECOND;
        self.since = now;
        self.allowance = (self.allowance + earned).min(BURST) - 1.0;
        self.allowance >= 0.0
    }

    /// Counts a message without sense, and tells whether it was the last one allowed.
    pub fn is_last_mistake(&mut self) -> bool {
        self.mistakes += 1;
        self.mistakes >= MOST_MISTAKES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_fine_and_a_flood_is_not() {
        let mut manners = Manners::default();
        let start = manners.since;
        assert!((0..100).all(|_| manners.is_within_rate(start)));
        assert!(!manners.is_within_rate(start));
        assert!(manners.is_within_rate(start + Duration::from_secs(1)));
    }
}
