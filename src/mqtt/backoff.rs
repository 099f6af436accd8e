//! The pause before the next attempt to connect, and the clock change that ends it early.

use std::time::{Duration, Instant, SystemTime};

use super::wire::Kind;
use crate::tasks::Backoff;

/// While the broker is unreachable: 2 s at most, so that the board is connected within 3 s of the broker's return.
const UNAVAILABLE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// While a person has to change something: brokers count failed logins, and some lock out clients that try too often.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// While a certificate is not valid yet or any more: once it is, TLS is up within 10 s.
const CLOCK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// While another client uses our client id: each connect ends the other's connection.
const CLIENT_ID_CONFLICT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A larger difference means that the clock was set: a time daemon that slews it corrects less than this at a time.
const JUMP: Duration = Duration::from_secs(2);

/// The pauses between attempts to connect to one broker.
#[derive(Debug)]
pub struct ReconnectBackoff {
    unavailable: Backoff,
    refused: Backoff,
    clock: Backoff,
    rival: Backoff,
}

impl Default for ReconnectBackoff {
    fn default() -> Self {
        let new = |(first, max)| Backoff::new(first, max);
        Self { unavailable: new(UNAVAILABLE), refused: new(REFUSED), clock: new(CLOCK), rival: new(CLIENT_ID_CONFLICT) }
    }
}

impl ReconnectBackoff {
    /// The pause after a failure of this kind.
    pub fn after(&mut self, kind: Kind) -> Duration {
        match kind {
            Kind::Unavailable | Kind::Closed | Kind::TooLarge => self.unavailable.pause(),
            Kind::Refused | Kind::Disallowed => self.refused.pause(),
            Kind::Clock => self.clock.pause(),
            Kind::ClientIdConflict => self.rival.pause(),
        }
    }
}

/// The monotonic clock and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    steady: Instant,
    wall: SystemTime,
}

impl Clocks {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// Whether the wall clock was set between this reading and a `later` one.
    pub fn was_set_by(self, later: Self) -> bool {
        let steady = later.steady - self.steady;
        match later.wall.duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(steady) > JUMP,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_distinguished_from_one_that_drifts() {
        let then = Clocks::read();
        let later = |steady: u64, wall: i64| {
            let by = Duration::from_secs(wall.unsigned_abs());
            let wall = if wall < 0 { then.wall - by } else { then.wall + by };
            Clocks { steady: then.steady + Duration::from_secs(steady), wall }
        };
        assert!(!then.was_set_by(later(1, 1)));
        assert!(!then.was_set_by(later(30, 29)), "slewed");
        assert!(then.was_set_by(later(1, 56 * 365 * 86_400)), "from 1970 to now");
        assert!(then.was_set_by(later(1, -3600)));
    }

    #[test]
    fn pauses_stay_within_what_each_kind_of_failure_allows() {
        let mut backoff = ReconnectBackoff::default();
        for (kind, first, most) in [
            (Kind::Unavailable, 250, 2_000),
            (Kind::Refused, 1_000, 30_000),
            (Kind::Clock, 1_000, 5_000),
            (Kind::ClientIdConflict, 1_000, 30_000),
        ] {
            let all: Vec<_> = (0..10).map(|_| backoff.after(kind).as_millis()).collect();
            assert!(all[0] <= first && all.iter().all(|pause| *pause <= most), "{kind:?}: {all:?}");
            assert!(*all.last().unwrap() >= most * 3 / 4, "{kind:?}: {all:?}");
        }
    }
}
