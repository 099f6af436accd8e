//! Slows down guessing: each wrong secret makes its sender wait longer, and all senders together have a limit.
//!
//! The limit has two parts, since an owner who logs in from a new address cannot be told from a guesser there, but can
//! be told from one who has guessed before: the first attempt of an address does not wait for the guesses of others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Wrong attempts without a pause between them: a person who mistypes.
const FREE: u32 = 3;
/// The pause after the last of them; it doubles from then on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: an owner who waits it out loses a minute, a guesser gets 1440 tries a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After this without a wrong attempt an address begins with a clean record.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Addresses of a crowd that are remembered: about 100 KiB. Beyond, the one that was quiet longest is forgotten.
const MOST_ADDRESSES: usize = 1024;
/// Wrong attempts of a crowd's addresses together, after the first of each. Without it a guesser with a network of
/// machines would have no limit.
const TOGETHER: Bucket = Bucket { most: 60.0, pause: Duration::from_secs(1) };
/// First attempts of a crowd's addresses together, as long as they are wrong. A network of up to 280 machines makes an
/// owner at a new address wait for 10 s at most, and one of any size makes 4 more guesses a second: a random secret of
/// 8 small letters, of which there are 2e11, holds for centuries.
const FIRST: Bucket = Bucket { most: 256.0, pause: Duration::from_millis(250) };

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was right.
    Right,
    /// It was wrong, and noted.
    Wrong,
    /// It was not looked at, and will not be for this long.
    Wait(Duration),
}

/// Those whose attempts are counted together, beside the count of each address.
///
/// Guessers in one crowd cannot keep another from logging in. So an owner whose board is guessed at by a network of
/// machines logs in from the board's own network, and a page that guesses in its visitor's browser locks out only pages
/// like itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// The board's own network.
    Near,
    /// Any other.
    Far,
    /// Pages of other sites, wherever their browser is.
    Pages,
}

impl Crowd {
    /// That of `sender`, who has reached the board at `ours`.
    pub fn of(sender: IpAddr, ours: IpAddr) -> Self {
        let is_private = match sender.to_canonical() {
            IpAddr::V4(sender) => sender.is_private() || sender.is_link_local() || sender.is_loopback(),
            IpAddr::V6(sender) => {
                let is_own_network = ours.is_ipv6() && network(sender.into()) == network(ours);
                sender.is_unique_local() || sender.is_unicast_link_local() || sender.is_loopback() || is_own_network
            }
        };
        if is_private { Self::Near } else { Self::Far }
    }
}

/// Wrong attempts so far.
#[derive(Debug)]
pub struct Attempts {
    near: Mutex<Ledger>,
    far: Mutex<Ledger>,
    pages: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    addresses: HashMap<IpAddr, Record>,
    first: Allowance,
    together: Allowance,
}

/// How many attempts there may be at once, and how long each takes to be allowed again.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    most: f64,
    pause: Duration,
}

/// What is left in a bucket.
#[derive(Debug)]
struct Allowance {
    bucket: Bucket,
    left: f64,
    since: Instant,
}

impl Allowance {
    fn new(bucket: Bucket, now: Instant) -> Self {
        Self { bucket, left: bucket.most, since: now }
    }

    /// How long until there is one.
    fn wait(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() / self.bucket.pause.as_secs_f64();
        self.left = (self.left + earned).min(self.bucket.most);
        self.since = now;
        if self.left < 1.0 { self.bucket.pause } else { Duration::ZERO }
    }

    fn spend(&mut self) {
        self.left = (self.left - 1.0).max(0.0);
    }
}

#[derive(Debug)]
struct Record {
    wrong: u32,
    /// Knew the secret before: the limit of all together does not lock it out.
    is_known: bool,
    open_at: Instant,
    last_wrong: Instant,
    last: Instant,
}

impl Attempts {
    /// None so far.
    pub fn new(now: Instant) -> Self {
        let ledger = || {
            let (first, together) = (Allowance::new(FIRST, now), Allowance::new(TOGETHER, now));
            Mutex::new(Ledger { addresses: HashMap::new(), first, together })
        };
        Self { near: ledger(), far: ledger(), pages: ledger() }
    }

    /// Looks at one attempt from `sender`, unless it has to wait.
    ///
    /// Done under one lock, so that attempts in parallel are not looked at before the first is noted.
    pub fn attempt(&self, crowd: Crowd, sender: IpAddr, now: Instant, is_right: impl FnOnce() -> bool) -> Verdict {
        let sender = network(sender);
        let ledger = match crowd {
            Crowd::Near => &self.near,
            Crowd::Far => &self.far,
            Crowd::Pages => &self.pages,
        };
        let mut ledger = ledger.lock().expect("lock is never poisoned: no panic while held");
        let ledger = &mut *ledger;
        let record = ledger.addresses.get(&sender).filter(|record| !record.is_old(now));
        let pause = record.map_or(Duration::ZERO, |record| record.open_at.saturating_duration_since(now));
        if !pause.is_zero() {
            return Verdict::Wait(pause);
        }
        let is_known = record.is_some_and(|record| record.is_known);
        let is_first = record.is_none() && ledger.is_first(sender, now);
        let allowance = if is_first { &mut ledger.first } else { &mut ledger.together };
        let pause = allowance.wait(now);
        if !is_known && !pause.is_zero() {
            return Verdict::Wait(pause);
        }
        if is_right() {
            // The wrong ones before are not forgiven: behind one address may be a guesser and somebody who knows.
            ledger.record(sender, now).is_known = true;
            Verdict::Right
        } else {
            allowance.spend();
            ledger.note(sender, now);
            Verdict::Wrong
        }
    }
}

impl Ledger {
    /// Whether nothing was tried from there lately. Who has one IPv6 network has its neighbours too: a /48 is what a
    /// site is given (RFC 6177, section 2).
    fn is_first(&self, sender: IpAddr, now: Instant) -> bool {
        let site = |address: &IpAddr| match address {
            IpAddr::V4(address) => IpAddr::V4(*address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
        };
        let mut lately = self.addresses.iter().filter(|(_, record)| !record.is_old(now));
        !lately.any(|(address, _)| site(address) == site(&sender))
    }

    fn note(&mut self, sender: IpAddr, now: Instant) {
        let record = self.record(sender, now);
        if now.saturating_duration_since(record.last_wrong) > FORGOTTEN {
            record.wrong = 0;
        }
        record.wrong += 1;
        record.last_wrong = now;
        if record.wrong >= FREE {
            // 2^16 s is far beyond the longest pause already.
            let doublings = (record.wrong - FREE).min(16);
            record.open_at = now + (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE);
        }
    }

    fn record(&mut self, sender: IpAddr, now: Instant) -> &mut Record {
        if self.addresses.len() >= MOST_ADDRESSES && !self.addresses.contains_key(&sender) {
            self.addresses.retain(|_, record| !record.is_old(now));
            let quietest = self.addresses.iter().min_by_key(|(_, record)| record.last).map(|(address, _)| *address);
            if let Some(quietest) = quietest.filter(|_| self.addresses.len() >= MOST_ADDRESSES) {
                self.addresses.remove(&quietest);
            }
        }
        let fresh = || Record { wrong: 0, is_known: false, open_at: now, last_wrong: now, last: now };
        let record = self.addresses.entry(sender).or_insert_with(fresh);
        if record.is_old(now) {
            *record = fresh();
        }
        record.last = now;
        record
    }
}

impl Record {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGOTTEN
    }
}

/// What counts as one sender or crowd of connections: an IPv6 host has a whole /64 to itself (RFC 4291, section 2.5.1).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn wrong(attempts: &Attempts, sender: IpAddr, now: Instant) -> Verdict {
        attempts.attempt(Crowd::Far, sender, now, || false)
    }

    #[test]
    fn pauses_double_for_the_guesser_and_others_are_unhurt() {
        let mut now = Instant::now();
        let attempts = Attempts::new(now);
        for _ in 0..3 {
            assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wrong);
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wait(pause));
            assert_eq!(
                attempts.attempt(Crowd::Far, AWAY, now, || true),
                Verdict::Wait(pause),
                "the right one waits too"
            );
            assert_eq!(attempts.attempt(Crowd::Far, HOME, now, || true), Verdict::Right);
            now += pause;
            assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wrong);
        }
        now += LONGEST_PAUSE;
        assert_eq!(attempts.attempt(Crowd::Far, AWAY, now, || true), Verdict::Right);
        assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wrong);
        assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wait(LONGEST_PAUSE), "a right one forgives nothing");
        now += FORGOTTEN + LONGEST_PAUSE;
        assert!((0..3).all(|_| wrong(&attempts, AWAY, now) == Verdict::Wrong), "time does");
    }

    /// An address of a network of machines, each at another site.
    fn machine(number: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 1).into()
    }

    #[test]
    fn many_addresses_together_are_slowed_too_but_not_who_knew_the_secret() {
        let now = Instant::now();
        let attempts = Attempts::new(now);
        assert_eq!(attempts.attempt(Crowd::Far, HOME, now, || true), Verdict::Right);
        let guess = |number| wrong(&attempts, machine(number), now);
        let firsts = (0..400).filter(|number| guess(*number) == Verdict::Wrong).count();
        assert_eq!(firsts, FIRST.most as usize);
        let seconds = (0..400).filter(|number| guess(*number) == Verdict::Wrong).count();
        assert_eq!(seconds, TOGETHER.most as usize);
        assert_eq!(attempts.attempt(Crowd::Far, HOME, now, || true), Verdict::Right);
        assert_eq!(attempts.attempt(Crowd::Far, AWAY, now, || true), Verdict::Wait(FIRST.pause));
        assert_eq!(attempts.attempt(Crowd::Far, AWAY, now + FIRST.pause, || true), Verdict::Right);
    }

    /// Machines of many sites guess as fast as they can, and somebody logs in from an address that was never seen.
    #[test]
    fn a_first_login_beside_a_network_of_guessers_waits_for_ten_seconds_at_most() {
        for machines in [80, 280] {
            for begins in [0, 1, 30, 1000] {
                let start = Instant::now();
                let attempts = Attempts::new(start);
                let mut looked_at = 0;
                for tick in 0..(begins + 20) * 4 {
                    let now = start + FIRST.pause * tick;
                    // The owner comes last in each tick, when all of them have taken what there is.
                    looked_at += (0..machines).filter(|n| wrong(&attempts, machine(*n), now) == Verdict::Wrong).count();
                    let Some(waited) = tick.checked_sub(begins * 4).map(|ticks| FIRST.pause * ticks) else { continue };
                    assert!(waited <= Duration::from_secs(10), "{machines} machines, {begins} s: still waits");
                    // As a page does that obeys `Retry-After`.
                    if tick % 4 == 0 && attempts.attempt(Crowd::Far, AWAY, now, || true) == Verdict::Right {
                        break;
                    }
                }
                let most = FIRST.most as u32 + TOGETHER.most as u32 + 5 * (begins + 20);
                assert!(looked_at as u32 <= most, "{looked_at} guesses in {begins} s");
            }
        }
    }

    #[test]
    fn networks_of_one_site_have_one_first_attempt_together() {
        let now = Instant::now();
        let attempts = Attempts::new(now);
        let guess = |n| wrong(&attempts, Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1).into(), now);
        let looked_at = (0..400).filter(|network| guess(*network) == Verdict::Wrong).count();
        assert_eq!(looked_at, 1 + TOGETHER.most as usize);
    }

    #[test]
    fn a_network_of_addresses_cannot_fill_the_memory() {
        let mut now = Instant::now();
        let attempts = Attempts::new(now);
        for n in 0..3000u16 {
            now += Duration::from_secs(1);
            wrong(&attempts, machine(n), now);
        }
        assert!(attempts.far.lock().unwrap().addresses.len() <= MOST_ADDRESSES);
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_are_one_sender() {
        let now = Instant::now();
        let attempts = Attempts::new(now);
        let last =
            (0..5u16).map(|n| wrong(&attempts, Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n).into(), now)).last();
        assert_eq!(last, Some(Verdict::Wait(FIRST_PAUSE)));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), HOME);
    }

    #[test]
    fn a_network_of_guessers_elsewhere_does_not_keep_the_owner_at_home_from_logging_in() {
        let now = Instant::now();
        let attempts = Attempts::new(now);
        for number in 0..400 {
            wrong(&attempts, machine(number), now);
        }
        assert_eq!(attempts.attempt(Crowd::Far, AWAY, now, || true), Verdict::Wait(FIRST.pause));
        for crowd in [Crowd::Near, Crowd::Pages] {
            assert_eq!(attempts.attempt(crowd, HOME, now, || true), Verdict::Right, "{crowd:?}");
        }
    }

    #[test]
    fn the_board_s_own_network_is_told_by_its_addresses() {
        let of = |sender: &str, ours: &str| Crowd::of(sender.parse().unwrap(), ours.parse().unwrap());
        for sender in ["192.168.1.7", "10.1.2.3", "172.20.0.1", "169.254.1.1", "127.0.0.1", "::1", "fe80::1", "fd00::1"]
        {
            assert_eq!(of(sender, "192.168.1.2"), Crowd::Near, "{sender}");
        }
        assert_eq!(of("::ffff:192.168.1.7", "::ffff:192.168.1.2"), Crowd::Near);
        assert_eq!(of("2001:db8:1:2::7", "2001:db8:1:2::1"), Crowd::Near);
        for (sender, ours) in [("2001:db8:1:3::7", "2001:db8:1:2::1"), ("198.51.100.1", "192.168.1.2")] {
            assert_eq!(of(sender, ours), Crowd::Far, "{sender}");
        }
        assert_eq!(of("::ffff:198.51.100.1", "::ffff:192.168.1.2"), Crowd::Far);
    }
}
