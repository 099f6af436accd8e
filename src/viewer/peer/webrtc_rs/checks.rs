//! Limits connectivity checks to addresses that a viewer has sent: paced, with growing pauses, and bounded by the bytes
//! that the viewer has sent.
//!
//! The crate checks each pair every 20 ms, however many pairs there are and whether or not an answer comes, so that a
//! single offer could make the board send hundreds of times its size to a stranger. Checks beyond what RFC 8445 allows
//! are dropped here; to the crate they look lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pause between two checks, whatever their pairs (RFC 8445, section 14.2: Ta, at least 5 ms).
pub const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum number of pairs that are checked (RFC 8445, section 6.1.2.5).
const MAX_PAIRS: usize = 100;

/// Pause before a pair is checked a second time; each further pause is twice as long, up to [`MAX_PAUSE`]. An
/// answer from the same continent has arrived by then.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// See [`FIRST_PAUSE`]: the board waits 15 s for a path, so that even the last checks can still find one.
const MAX_PAUSE: Duration = Duration::from_millis(3200);

/// Bytes that may be sent to addresses that have not answered, per byte that the viewer has sent: QUIC allows three
/// (RFC 9000, section 8.1), but a check is larger than the candidate that causes it and has to be repeated.
const FACTOR: usize = 8;

/// Bytes that IPv6 and UDP add to a datagram.
const HEADERS: usize = 48;

/// The checks of one viewer.
#[derive(Debug, Default)]
pub struct Checks {
    /// Bytes that may still be sent.
    credit: usize,
    /// When the next check may be sent.
    next: Option<Instant>,
    pairs: HashMap<(SocketAddr, SocketAddr), Pair>,
}

#[derive(Debug)]
struct Pair {
    due: Instant,
    pause: Duration,
}

impl Checks {
    /// Adds credit for bytes that the viewer has sent.
    pub fn earn(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(bytes.saturating_mul(FACTOR));
    }

    /// Whether a check of `size` bytes may be sent from `from` to `to`, an address that is not verified yet.
    pub fn is_due(&self, from: SocketAddr, to: SocketAddr, size: usize, now: Instant) -> bool {
        // A tick that is slightly early counts; otherwise every second one would be lost.
        let is_early = self.next.is_some_and(|next| now + CHECK_INTERVAL / 4 < next);
        let is_its_turn = match self.pairs.get(&(from, to)) {
            Some(pair) => pair.due <= now,
            None => self.pairs.len() < MAX_PAIRS,
        };
        !is_early && is_its_turn && size + HEADERS <= self.credit
    }

    /// Same as [`is_due`](Self::is_due); if the check may be sent, it is counted as sent.
    pub fn admit(&mut self, from: SocketAddr, to: SocketAddr, size: usize, now: Instant) -> bool {
        if !self.is_due(from, to, size, now) {
            return false;
        }
        let pause = self.pairs.get(&(from, to)).map_or(FIRST_PAUSE, |pair| (pair.pause * 2).min(MAX_PAUSE));
        self.pairs.insert((from, to), Pair { due: now + pause, pause });
        self.credit -= size + HEADERS;
        self.next = Some(self.next.map_or(now, |next| next.max(now)) + CHECK_INTERVAL);
        true
    }

    /// Called at an ICE restart: the state of the pairs is no longer valid.
    pub fn restart(&mut self) {
        self.pairs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "192.0.2.1:5000";

    /// The checks that pass, as time in ms and pair, of a stack that tries each of `pairs` pairs every 20 ms for 15 s
    /// and never gets an answer.
    fn checks(checks: &mut Checks, pairs: u16) -> Vec<(u64, u16)> {
        let start = Instant::now();
        let mut sent = Vec::new();
        for tick in 0..750 {
            for pair in 0..pairs {
                let to = SocketAddr::from(([198, 51, 100, 1], 1024 + pair));
                if checks.admit(FROM.parse().unwrap(), to, 120, start + CHECK_INTERVAL * tick) {
                    sent.push((u64::from(tick) * 20, pair));
                }
            }
        }
        sent
    }

    #[test]
    fn a_single_pair_is_checked_at_once_and_then_less_and_less_often() {
        let mut gate = Checks::default();
        gate.earn(10_000);
        let times: Vec<_> = checks(&mut gate, 1).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [0, 100, 300, 700, 1500, 3100, 6300, 9500, 12700]);
    }

    #[test]
    fn all_pairs_share_one_check_every_20_ms_and_each_gets_its_turn() {
        let mut gate = Checks::default();
        gate.earn(1_000_000);
        let sent = checks(&mut gate, 200);
        assert!(sent.windows(2).all(|two| two[1].0 >= two[0].0 + 20), "{sent:?}");
        let mut pairs: Vec<_> = sent.iter().map(|(_, pair)| *pair).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs, (0..100).collect::<Vec<_>>(), "a hundred pairs are checked, and no more");
    }

    #[test]
    fn unverified_addresses_receive_at_most_eight_times_what_the_viewer_sent() {
        for (offer, pairs) in [(900, 1), (2000, 10), (3500, 32), (3500, 100)] {
            let mut gate = Checks::default();
            gate.earn(offer);
            let bytes = checks(&mut gate, pairs).len() * (120 + 28);
            assert!(bytes <= 8 * offer, "{bytes} bytes for an offer of {offer} with {pairs} pairs");
            assert!(bytes > 0);
        }
    }

    #[test]
    fn a_restart_checks_known_pairs_at_once() {
        let mut gate = Checks::default();
        gate.earn(10_000);
        let (from, to, now) = (FROM.parse().unwrap(), "198.51.100.1:9".parse().unwrap(), Instant::now());
        assert!(gate.admit(from, to, 120, now));
        assert!(!gate.admit(from, to, 120, now + CHECK_INTERVAL));
        gate.restart();
        assert!(gate.admit(from, to, 120, now + CHECK_INTERVAL));
    }
}
