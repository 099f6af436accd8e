//! How long to wait before the next attempt, and what cuts it short.

use std::time::{Duration, Instant, SystemTime};

use super::wire::Kind;
use crate::tasks::Backoff;

/// While the broker is away: it answers within 3 s of its return, so 2 s at most.
const AWAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// While somebody has to change something: brokers count failed logins, and some lock out who knocks too often.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// While a certificate is out of its time: once it is in its time, TLS is up within 10 s.
const CLOCK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// While another client has our name: each return ends the other's connection, and the other's return ours.
const RIVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The clock was set, rather than slewed: a time daemon corrects less than this by and by.
const JUMP: Duration = Duration::from_secs(2);

/// The pauses of one broker.
#[derive(Debug)]
pub struct Pauses {
    away: Backoff,
    refused: Backoff,
    clock: Backoff,
    rival: Backoff,
}

impl Default for Pauses {
    fn default() -> Self {
        let backoff = |(first, most)| Backoff::new(first, most);
        Self { away: backoff(AWAY), refused: backoff(REFUSED), clock: backoff(CLOCK), rival: backoff(RIVAL) }
    }
}

impl Pauses {
    /// The pause after an attempt that failed so.
    pub fn after(&mut self, kind: Kind) -> Duration {
        match kind {
            Kind::Away | Kind::Closed | Kind::TooLarge => self.away.pause(),
            Kind::Refused | Kind::Objected => self.refused.pause(),
            Kind::Clock => self.clock.pause(),
            Kind::Rival => self.rival.pause(),
        }
    }
}

/// The clock that only goes forward, and the one that people set.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    steady: Instant,
    wall: SystemTime,
}

impl Clocks {
    /// Both, now.
    pub fn read() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// Whether the wall clock was set between this reading and a `later` one.
    pub fn were_set_before(self, later: Self) -> bool {
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
    fn a_clock_that_was_set_is_told_from_one_that_goes_its_way() {
        let then = Clocks::read();
        let later = |steady: u64, wall: i64| {
            let by = Duration::from_secs(wall.unsigned_abs());
            let wall = if wall < 0 { then.wall - by } else { then.wall + by };
            Clocks { steady: then.steady + Duration::from_secs(steady), wall }
        };
        assert!(!then.were_set_before(later(1, 1)));
        assert!(!then.were_set_before(later(30, 29)), "slewed");
        assert!(then.were_set_before(later(1, 56 * 365 * 86_400)), "from 1970 to now");
        assert!(then.were_set_before(later(1, -3600)));
    }

    #[test]
    fn pauses_stay_within_what_each_kind_of_failure_allows() {
        let mut pauses = Pauses::default();
        for (kind, first, most) in [
            (Kind::Away, 250, 2_000),
            (Kind::Refused, 1_000, 30_000),
            (Kind::Clock, 1_000, 5_000),
            (Kind::Rival, 1_000, 30_000),
        ] {
            let all: Vec<_> = (0..10).map(|_| pauses.after(kind).as_millis()).collect();
            assert!(all[0] <= first && all.iter().all(|pause| *pause <= most), "{kind:?}: {all:?}");
            assert!(*all.last().unwrap() >= most * 3 / 4, "{kind:?}: {all:?}");
        }
    }
}
