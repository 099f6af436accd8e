//! Limits how often key frames are made on demand.

use std::time::{Duration, Instant};

/// Pause between key frames on demand: each costs as much as ten frames or more, and a flood of requests would make
/// every viewer's picture worse.
const KEY_FRAME_PAUSE: Duration = Duration::from_millis(500);

/// Schedules key frames on demand.
#[derive(Debug, Default)]
pub(super) struct KeyFrameThrottle {
    last: Option<Instant>,
}

impl KeyFrameThrottle {
    /// When to fulfil a request made `now`: at once, or at the end of the pause together with others.
    pub(super) fn schedule(&self, now: Instant) -> Option<Instant> {
        Some(self.last.map_or(now, |last| now.max(last + KEY_FRAME_PAUSE)))
    }

    pub(super) fn forced(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_request_is_fulfilled_at_once_and_a_flood_at_most_twice_a_second() {
        let zero = Instant::now();
        let mut throttle = KeyFrameThrottle::default();
        assert_eq!(throttle.schedule(zero), Some(zero));
        throttle.forced(zero);
        let mut forced = 1;
        let mut due = None;
        for millis in 1..=3000 {
            let now = zero + Duration::from_millis(millis);
            due = due.or(throttle.schedule(now));
            if due.is_some_and(|due| due <= now) {
                throttle.forced(now);
                due = None;
                forced += 1;
            }
        }
        assert_eq!(forced, 7, "one at once, then one every 500 ms for 3 s");
        let later = zero + Duration::from_secs(10);
        assert_eq!(throttle.schedule(later), Some(later));
    }
}
