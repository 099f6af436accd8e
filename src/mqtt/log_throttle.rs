//! Limits log lines about the connection: one warning when it is lost and one line when it is back.

use std::time::{Duration, Instant};

use super::wire::{Failure, Kind};

/// A connection that is lost again within this time after its return belongs to the previous outage: a broker that
/// flaps is logged at most twice in this time.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Follows the connection's state and decides which changes are logged.
#[derive(Debug, Default)]
pub struct LogThrottle {
    /// The kind of failure that was logged and still lasts.
    logged: Option<Kind>,
    /// The kind that was logged before the connection came back.
    before: Option<Kind>,
    since: Option<Instant>,
    back_at: Option<Instant>,
    /// How often it was lost and came back without a log line, and when it came back last.
    unlogged: Option<(u32, Instant)>,
}

impl LogThrottle {
    /// An attempt failed, or the connection was lost. Returns whether to log a warning.
    pub fn failed(&mut self, failure: &Failure, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let kind = failure.kind.coarse();
        let is_flapping = self.back_at.is_some_and(|back| since - back < STABLE_AFTER);
        let is_known =
            self.logged == Some(kind) || is_flapping && self.before == Some(kind) && now - since < STABLE_AFTER;
        if !is_known {
            self.logged = Some(kind);
        }
        !is_known
    }

    /// The connection is up. Returns whether to log that.
    pub fn connected(&mut self, now: Instant) -> bool {
        let is_first = self.back_at.is_none();
        let was_logged = self.logged.take();
        let was_lost = self.since.take().is_some();
        if was_logged.is_none() && was_lost && !is_first {
            self.unlogged = Some((self.unlogged.map_or(1, |(times, _)| times + 1), now));
        }
        if is_first || was_logged.is_some() {
            self.before = was_logged;
            self.back_at = Some(now);
        }
        is_first || was_logged.is_some()
    }

    /// How often the connection was lost and came back without a log line, once it is stable.
    pub fn take_unlogged(&mut self, now: Instant) -> Option<u32> {
        let holds = self.since.is_none();
        let (times, _) =
            self.unlogged.take_if(|(_, back)| holds && now.saturating_duration_since(*back) >= STABLE_AFTER)?;
        Some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Failure {
        Failure::unavailable("closed")
    }

    #[test]
    fn an_outage_is_logged_once_and_its_end_once() {
        let (mut log_throttle, now) = (LogThrottle::default(), Instant::now());
        assert!(log_throttle.connected(now), "the first connection");
        let now = now + STABLE_AFTER;
        assert!(log_throttle.failed(&unavailable(), now));
        for attempt in 1..100 {
            assert!(!log_throttle.failed(&Failure::unavailable("refused"), now + Duration::from_secs(attempt)));
        }
        assert!(log_throttle.connected(now + Duration::from_secs(100)));
    }

    #[test]
    fn repeated_losses_are_counted_and_reported_once_the_connection_is_stable() {
        let (mut log_throttle, start) = (LogThrottle::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        log_throttle.connected(start);
        assert_eq!(log_throttle.take_unlogged(at(60)), None);
        assert!(log_throttle.failed(&unavailable(), at(60)) && log_throttle.connected(at(61)));
        for lost in [65, 70] {
            assert!(!log_throttle.failed(&unavailable(), at(lost)) && !log_throttle.connected(at(lost + 1)));
        }
        assert_eq!(log_throttle.take_unlogged(at(100)), None, "it has to be stable first");
        assert_eq!(log_throttle.take_unlogged(at(101)), Some(2));
        assert_eq!(log_throttle.take_unlogged(at(200)), None);
    }

    #[test]
    fn each_kind_of_failure_has_its_own_warning() {
        let (mut log_throttle, now) = (LogThrottle::default(), Instant::now());
        assert!(log_throttle.failed(&unavailable(), now));
        assert!(log_throttle.failed(&Failure::refused("password"), now));
        assert!(!log_throttle.failed(&Failure::refused("password"), now));
        assert!(log_throttle.failed(&unavailable(), now));
    }

    #[test]
    fn a_flapping_broker_is_reported_rarely_and_one_that_then_stays_away_is_reported() {
        let (mut log_throttle, start) = (LogThrottle::default(), Instant::now());
        log_throttle.connected(start);
        let mut lines = 0;
        for second in 60..110 {
            let now = start + Duration::from_secs(second);
            lines += usize::from(log_throttle.failed(&unavailable(), now)) + usize::from(log_throttle.connected(now));
        }
        assert_eq!(lines, 4, "50 s have room for two pairs");
        let now = start + Duration::from_secs(110);
        let logged: Vec<_> =
            (0..60).filter(|second| log_throttle.failed(&unavailable(), now + Duration::from_secs(*second))).collect();
        assert_eq!(logged, [30]);
    }
}
