//! Connectivity checks to addresses that a viewer has named: paced, thinned out, and no more than it has paid for.
//!
//! The crate checks each pair every 20 ms, however many there are and whether or not anybody answers, so that one offer
//! could have the board send hundreds of times its bytes to a stranger. What goes beyond RFC 8445 is held back here,
//! where the crate takes it for lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The pause between two checks, whatever their pairs (RFC 8445, section 14.2: Ta, 5 ms at least).
pub const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Pairs that are checked (RFC 8445, section 6.1.2.5).
const MOST_PAIRS: usize = 100;

/// The pause before a pair is checked a second time; each further one is twice as long, up to [`LONGEST_PAUSE`]. An
/// answer from the same continent is there by then.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// See [`FIRST_PAUSE`]: the board waits 15 s for a way, so that the last of them still can find one.
const LONGEST_PAUSE: Duration = Duration::from_millis(3200);

/// Bytes that may go to addresses which have not answered, per byte that the viewer has sent: QUIC allows three
/// (RFC 9000, section 8.1), but a check is larger than the candidate that asks for it and has to be repeated.
const FACTOR: usize = 8;

/// What IPv6 and UDP add to a datagram.
const HEADERS: usize = 48;

/// The checks of one viewer.
#[derive(Debug, Default)]
pub struct Checks {
    /// Bytes that may still go.
    credit: usize,
    /// When the next check may go.
    next: Option<Instant>,
    pairs: HashMap<(SocketAddr, SocketAddr), Pair>,
}

#[derive(Debug)]
struct Pair {
    due: Instant,
    pause: Duration,
}

impl Checks {
    /// The viewer has sent this many bytes.
    pub fn earn(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(bytes.saturating_mul(FACTOR));
    }

    /// Whether a check of `size` bytes from `from` may go to `to`, which has proved nothing.
    pub fn is_due(&self, from: SocketAddr, to: SocketAddr, size: usize, now: Instant) -> bool {
        // A tick that comes a moment early counts, or each second one would be lost.
        let is_early = self.next.is_some_and(|next| now + CHECK_INTERVAL / 4 < next);
        let is_its_turn = match self.pairs.get(&(from, to)) {
            Some(pair) => pair.due <= now,
            None => self.pairs.len() < MOST_PAIRS,
        };
        !is_early && is_its_turn && size + HEADERS <= self.credit
    }

    /// As [`is_due`](Self::is_due); where it may, it counts as sent.
    pub fn admit(&mut self, from: SocketAddr, to: SocketAddr, size: usize, now: Instant) -> bool {
        if !self.is_due(from, to, size, now) {
            return false;
        }
        let pause = self.pairs.get(&(from, to)).map_or(FIRST_PAUSE, |pair| (pair.pause * 2).min(LONGEST_PAUSE));
        self.pairs.insert((from, to), Pair { due: now + pause, pause });
        self.credit -= size + HEADERS;
        self.next = Some(self.next.map_or(now, |next| next.max(now)) + CHECK_INTERVAL);
        true
    }

    /// ICE begins again: what was found out of the pairs is no longer true.
    pub fn restart(&mut self) {
        self.pairs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "192.0.2.1:5000";

    /// How many checks go of a stack that tries each of `pairs` pairs every 20 ms for 15 s, of which `answer` answers.
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
    fn a_lone_pair_is_checked_at_once_and_then_ever_more_rarely() {
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
    fn no_more_goes_to_strangers_than_eight_times_what_the_viewer_sent() {
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
