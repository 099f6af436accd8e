//! What is said of the connection: one warning when it is gone, one line when it is back, and no more.

use std::time::{Duration, Instant};

use super::wire::{Failure, Kind};

/// A connection that does not last this long after its return belongs to the outage before: a broker that flaps is
/// told of at most twice in this time.
const SETTLED: Duration = Duration::from_secs(30);

/// Follows the connection's state and decides what is worth a line.
#[derive(Debug, Default)]
pub struct Outage {
    /// What was warned of and holds on.
    said: Option<Kind>,
    /// What was warned of before the connection was back.
    before: Option<Kind>,
    since: Option<Instant>,
    back_at: Option<Instant>,
    /// How often it was lost and came back without a line, and when it came back last.
    unsaid: Option<(u32, Instant)>,
}

impl Outage {
    /// An attempt failed, or the connection was lost. Whether that is worth a warning.
    pub fn failed(&mut self, failure: &Failure, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let kind = failure.kind.in_short();
        let is_flapping = self.back_at.is_some_and(|back| since - back < SETTLED);
        let is_known = self.said == Some(kind) || is_flapping && self.before == Some(kind) && now - since < SETTLED;
        if !is_known {
            self.said = Some(kind);
        }
        !is_known
    }

    /// The connection is there. Whether that is worth a line.
    pub fn ended(&mut self, now: Instant) -> bool {
        let is_first = self.back_at.is_none();
        let was_said = self.said.take();
        let was_lost = self.since.take().is_some();
        if was_said.is_none() && was_lost && !is_first {
            self.unsaid = Some((self.unsaid.map_or(1, |(times, _)| times + 1), now));
        }
        if is_first || was_said.is_some() {
            self.before = was_said;
            self.back_at = Some(now);
        }
        is_first || was_said.is_some()
    }

    /// How often the connection was lost and came back without a line, once it has held for a while.
    pub fn unsaid(&mut self, now: Instant) -> Option<u32> {
        let holds = self.since.is_none();
        let (times, _) = self.unsaid.take_if(|(_, back)| holds && now.saturating_duration_since(*back) >= SETTLED)?;
        Some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Failure {
        Failure::away("closed")
    }

    #[test]
    fn an_outage_is_one_warning_and_one_return() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert!(outage.ended(now), "the first connection");
        let now = now + SETTLED;
        assert!(outage.failed(&away(), now));
        for attempt in 1..100 {
            assert!(!outage.failed(&Failure::away("refused"), now + Duration::from_secs(attempt)));
        }
        assert!(outage.ended(now + Duration::from_secs(100)));
    }

    #[test]
    fn losses_that_follow_one_another_are_counted_and_told_once_the_connection_holds() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        outage.ended(start);
        assert_eq!(outage.unsaid(at(60)), None);
        assert!(outage.failed(&away(), at(60)) && outage.ended(at(61)));
        for lost in [65, 70] {
            assert!(!outage.failed(&away(), at(lost)) && !outage.ended(at(lost + 1)));
        }
        assert_eq!(outage.unsaid(at(100)), None, "it has to hold first");
        assert_eq!(outage.unsaid(at(101)), Some(2));
        assert_eq!(outage.unsaid(at(200)), None);
    }

    #[test]
    fn another_kind_of_failure_is_another_warning() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert!(outage.failed(&away(), now));
        assert!(outage.failed(&Failure::refused("password"), now));
        assert!(!outage.failed(&Failure::refused("password"), now));
        assert!(outage.failed(&away(), now));
    }

    #[test]
    fn a_broker_that_flaps_is_told_of_once_in_a_while_and_one_that_stays_away_then_is_told_of() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        outage.ended(start);
        let mut lines = 0;
        for second in 60..110 {
            let now = start + Duration::from_secs(second);
            lines += usize::from(outage.failed(&away(), now)) + usize::from(outage.ended(now));
        }
        assert_eq!(lines, 4, "50 s have room for two pairs");
        let now = start + Duration::from_secs(110);
        let said: Vec<_> =
            (0..60).filter(|second| outage.failed(&away(), now + Duration::from_secs(*second))).collect();
        assert_eq!(said, [30]);
    }
}
