//! Slows down guessing of the secret: each wrong attempt makes its sender wait longer, and all senders together have
//! a limit.
//!
//! The limit has two parts. An owner who logs in from a new address cannot be distinguished from a guesser there, but
//! can be from an address that has guessed before: the first attempt of an address does not wait for the guesses of
//! others.
//!
//! One address may stand for both a guesser and an owner of the secret: a network behind a router, or all
//! clients of a proxy. A right secret cannot be accepted at once there, or the guesser could test one with each
//! request. So attempts from one address are queued, and those whose turn comes soon wait for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time;

use crate::rate_limit::{Rate, RateLimit, now};

/// Wrong attempts without a pause between them, for a person who mistypes.
const FREE_ATTEMPTS: u32 = 3;
/// The pause after the last of them; it doubles from then on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a first login beside one connection that guesses has its turn within 16 s, and a guesser gets
/// 10,800 tries a day, an eighth of what a network of machines has at [`TOTAL_RATE`].
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// The pause at an address that has given the secret before: a guesser there has as many tries as such a network.
const KNOWN_PAUSE: Duration = Duration::from_secs(1);
/// The longest that an attempt waits for its turn, within the time for a request (30 s); beyond that the client has to
/// try again. At an address that has given the secret, 24 have their turn within it.
const MAX_QUEUE_WAIT: Duration = Duration::from_secs(24);
/// How long an address is known to have given the secret: as long as a login lasts.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// After this time without a wrong attempt the count of an address starts again at zero.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);
/// The most addresses of a group that are remembered: about 150 KiB. Beyond that the least recently used one is
/// forgotten; those that have not given the secret go first.
const MAX_ADDRESSES: usize = 1024;
/// Wrong attempts of a group's addresses together, after the first of each. Without it a guesser with a network of
/// machines would have no limit.
const TOTAL_RATE: Rate = Rate { burst: 60.0, per_second: 1.0 };
/// First attempts of a group's addresses together, as long as they are wrong. A network of up to 280 machines makes an
/// owner at a new address wait for 10 s at most, and one of any size makes 4 more guesses a second: a random secret of
/// 8 small letters, of which there are 2e11, holds for centuries.
const FIRST_ATTEMPT_RATE: Rate = Rate { burst: 256.0, per_second: 4.0 };

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The secret was right.
    Right,
    /// The secret was wrong, and the attempt counts.
    Wrong,
    /// The secret was not checked, and will not be for this long.
    Wait(Duration),
}

/// Senders whose attempts are counted together, besides the count of each address.
///
/// Guessers in one group cannot lock out another group. So an owner whose board is attacked by a network of machines
/// logs in from the board's own network, and a page that guesses in its visitor's browser locks out only pages of that
/// kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderGroup {
    /// The board's own network.
    OwnNetwork,
    /// Any other network.
    OtherNetwork,
    /// Pages of other sites, wherever the browser is.
    ForeignPages,
}

impl SenderGroup {
    /// The group of `sender`, which has connected to the board's address `ours`.
    pub fn of(sender: IpAddr, ours: IpAddr) -> Self {
        let is_private = match sender.to_canonical() {
            IpAddr::V4(sender) => sender.is_private() || sender.is_link_local() || sender.is_loopback(),
            IpAddr::V6(sender) => {
                let is_own_network = ours.is_ipv6() && network(sender.into()) == network(ours);
                sender.is_unique_local() || sender.is_unicast_link_local() || sender.is_loopback() || is_own_network
            }
        };
        if is_private { Self::OwnNetwork } else { Self::OtherNetwork }
    }
}

/// Wrong attempts so far.
#[derive(Debug)]
pub struct Attempts {
    own_network: Mutex<AttemptTable>,
    other_network: Mutex<AttemptTable>,
    foreign_pages: Mutex<AttemptTable>,
}

#[derive(Debug)]
struct AttemptTable {
    addresses: HashMap<IpAddr, Record>,
    first: RateLimit,
    total: RateLimit,
}

#[derive(Debug)]
struct Record {
    wrong: u32,
    /// When it last gave the secret: the total limit does not apply to it then.
    known_at: Option<Instant>,
    open_at: Instant,
    last_wrong: Instant,
    last: Instant,
    /// The attempts that wait for their turn, in order of arrival. Each has a clone.
    queue: Arc<tokio::sync::Mutex<()>>,
}

impl Attempts {
    /// No attempts so far.
    pub fn new() -> Self {
        let table = || {
            let (first, total) = (RateLimit::new(FIRST_ATTEMPT_RATE), RateLimit::new(TOTAL_RATE));
            Mutex::new(AttemptTable { addresses: HashMap::new(), first, total })
        };
        Self { own_network: table(), other_network: table(), foreign_pages: table() }
    }

    /// Checks one attempt from `sender` when it is its turn, or returns how long it has to wait.
    pub async fn attempt(&self, group: SenderGroup, sender: IpAddr, is_right: impl Fn() -> bool) -> Verdict {
        let begun = now();
        let Some((queue, pause)) = self.table(group).queue(network(sender), begun) else {
            return self.check_now(group, sender, begun, is_right);
        };
        // The table has a clone too.
        let queued = Arc::strong_count(&queue) as u32 - 1;
        if pause * queued > MAX_QUEUE_WAIT {
            return Verdict::Wait(pause);
        }
        let _turn = queue.lock().await;
        loop {
            let now = now();
            match self.check_now(group, sender, now, &is_right) {
                Verdict::Wait(pause) if now + pause <= begun + MAX_QUEUE_WAIT => time::sleep(pause).await,
                verdict => return verdict,
            }
        }
    }

    /// A client at `sender` has proved in another way that it knows the secret.
    pub fn mark_known(&self, group: SenderGroup, sender: IpAddr) {
        let now = now();
        self.table(group).record(network(sender), now).known_at = Some(now);
    }

    /// Checks one attempt now, unless it has to wait.
    ///
    /// Done under one lock, so that parallel attempts are not checked before the first one counts.
    fn check_now(&self, group: SenderGroup, sender: IpAddr, now: Instant, is_right: impl FnOnce() -> bool) -> Verdict {
        let sender = network(sender);
        let mut table = self.table(group);
        let table = &mut *table;
        let record = table.addresses.get(&sender).filter(|record| !record.is_old(now));
        let pause = record.map_or(Duration::ZERO, |record| record.open_at.saturating_duration_since(now));
        if !pause.is_zero() {
            return Verdict::Wait(pause);
        }
        let is_known = record.is_some_and(|record| record.is_known(now));
        let is_first = record.is_none() && table.is_first(sender, now);
        let limit = if is_first { &mut table.first } else { &mut table.total };
        let pause = limit.wait(now);
        if !is_known && !pause.is_zero() {
            return Verdict::Wait(pause);
        }
        if is_right() {
            // Earlier wrong ones still count: one address may stand for a guesser and somebody who knows the
            // secret.
            table.record(sender, now).known_at = Some(now);
            Verdict::Right
        } else {
            limit.allows(now);
            table.record_wrong(sender, now);
            Verdict::Wrong
        }
    }

    fn table(&self, group: SenderGroup) -> MutexGuard<'_, AttemptTable> {
        let table = match group {
            SenderGroup::OwnNetwork => &self.own_network,
            SenderGroup::OtherNetwork => &self.other_network,
            SenderGroup::ForeignPages => &self.foreign_pages,
        };
        table.lock().expect("lock is never poisoned: no panic while held")
    }
}

impl AttemptTable {
    /// The queue of attempts from `sender`, and the pause of each; `None` for its first attempt.
    fn queue(&self, sender: IpAddr, now: Instant) -> Option<(Arc<tokio::sync::Mutex<()>>, Duration)> {
        let record = self.addresses.get(&sender).filter(|record| !record.is_old(now))?;
        Some((record.queue.clone(), record.pause(now)))
    }

    /// Whether there was no recent attempt from there. A client with one IPv6 network has its neighbours too: a site is
    /// given a /48 (RFC 6177, section 2).
    fn is_first(&self, sender: IpAddr, now: Instant) -> bool {
        let site = |address: &IpAddr| match address {
            IpAddr::V4(address) => IpAddr::V4(*address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
        };
        let mut lately = self.addresses.iter().filter(|(_, record)| !record.is_quiet(now));
        !lately.any(|(address, _)| site(address) == site(&sender))
    }

    fn record_wrong(&mut self, sender: IpAddr, now: Instant) {
        let record = self.record(sender, now);
        if now.saturating_duration_since(record.last_wrong) > FORGET_AFTER {
            record.wrong = 0;
        }
        record.wrong += 1;
        record.last_wrong = now;
        if record.wrong >= FREE_ATTEMPTS {
            record.open_at = now + record.pause(now);
        }
    }

    fn record(&mut self, sender: IpAddr, now: Instant) -> &mut Record {
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&sender) {
            self.addresses.retain(|_, record| !record.is_old(now));
            let least_recent = self.addresses.iter().min_by_key(|(_, record)| (record.is_known(now), record.last));
            let least_recent = least_recent.map(|(address, _)| *address);
            if let Some(least_recent) = least_recent.filter(|_| self.addresses.len() >= MAX_ADDRESSES) {
                self.addresses.remove(&least_recent);
            }
        }
        let fresh =
            || Record { wrong: 0, known_at: None, open_at: now, last_wrong: now, last: now, queue: Arc::default() };
        let record = self.addresses.entry(sender).or_insert_with(fresh);
        if record.is_old(now) {
            *record = fresh();
        }
        record.last = now;
        record
    }
}

impl Record {
    /// The pause after a wrong attempt, when none is free any more.
    fn pause(&self, now: Instant) -> Duration {
        if self.is_known(now) {
            return KNOWN_PAUSE;
        }
        // 2^16 s is far beyond the longest pause already.
        let doublings = self.wrong.saturating_sub(FREE_ATTEMPTS).min(16);
        (FIRST_PAUSE * 2u32.pow(doublings)).min(MAX_PAUSE)
    }

    fn is_known(&self, now: Instant) -> bool {
        self.known_at.is_some_and(|at| now.saturating_duration_since(at) < KNOWN_FOR)
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGET_AFTER
    }

    fn is_old(&self, now: Instant) -> bool {
        self.is_quiet(now) && !self.is_known(now)
    }
}

/// The network that counts as one sender of attempts or connections: an IPv6 host has a whole /64 to itself (RFC 4291,
/// section 2.5.1).
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

    /// The time until [`FIRST_ATTEMPT_RATE`] allows another attempt.
    const NEXT: Duration = Duration::from_millis(250);

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const GUESSER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn wrong(attempts: &Attempts, sender: IpAddr, now: Instant) -> Verdict {
        attempts.check_now(SenderGroup::OtherNetwork, sender, now, || false)
    }

    #[test]
    fn pauses_double_for_the_guesser_and_not_for_others() {
        let mut now = Instant::now();
        let attempts = Attempts::new();
        for _ in 0..3 {
            assert_eq!(wrong(&attempts, GUESSER, now), Verdict::Wrong);
        }
        for seconds in [1, 2, 4, 8, 8, 8] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(wrong(&attempts, GUESSER, now), Verdict::Wait(pause));
            assert_eq!(
                attempts.check_now(SenderGroup::OtherNetwork, GUESSER, now, || true),
                Verdict::Wait(pause),
                "the right one waits too"
            );
            assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, HOME, now, || true), Verdict::Right);
            now += pause;
            assert_eq!(wrong(&attempts, GUESSER, now), Verdict::Wrong);
        }
        now += MAX_PAUSE;
        assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, GUESSER, now, || true), Verdict::Right);
        assert_eq!(wrong(&attempts, GUESSER, now), Verdict::Wrong);
        assert_eq!(wrong(&attempts, GUESSER, now), Verdict::Wait(KNOWN_PAUSE), "a right one does not reset the count");
        now += FORGET_AFTER + KNOWN_PAUSE;
        assert!((0..3).all(|_| wrong(&attempts, GUESSER, now) == Verdict::Wrong), "time resets it");
    }

    /// An address of a network of machines, each at another site.
    fn machine(number: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 1).into()
    }

    #[test]
    fn many_addresses_together_are_limited_except_those_that_have_given_the_secret() {
        let now = Instant::now();
        let attempts = Attempts::new();
        assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, HOME, now, || true), Verdict::Right);
        let guess = |number| wrong(&attempts, machine(number), now);
        let firsts = (0..400).filter(|number| guess(*number) == Verdict::Wrong).count();
        assert_eq!(firsts, FIRST_ATTEMPT_RATE.burst as usize);
        let seconds = (0..400).filter(|number| guess(*number) == Verdict::Wrong).count();
        assert_eq!(seconds, TOTAL_RATE.burst as usize);
        assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, HOME, now, || true), Verdict::Right);
        assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, GUESSER, now, || true), Verdict::Wait(NEXT));
        assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, GUESSER, now + NEXT, || true), Verdict::Right);
    }

    /// Machines of many sites guess as fast as they can, and an owner logs in from an address that is new to the board.
    #[test]
    fn a_first_login_beside_a_network_of_guessers_waits_for_ten_seconds_at_most() {
        for machines in [80, 280] {
            for begins in [0, 1, 30, 1000] {
                let start = Instant::now();
                let attempts = Attempts::new();
                let mut checked = 0;
                for tick in 0..(begins + 20) * 4 {
                    let now = start + NEXT * tick;
                    // The owner comes last in each tick, when the machines have used up the limits.
                    checked += (0..machines).filter(|n| wrong(&attempts, machine(*n), now) == Verdict::Wrong).count();
                    let Some(waited) = tick.checked_sub(begins * 4).map(|ticks| NEXT * ticks) else { continue };
                    assert!(waited <= Duration::from_secs(10), "{machines} machines, {begins} s: still waits");
                    // As a page does that follows `Retry-After`.
                    if tick % 4 == 0
                        && attempts.check_now(SenderGroup::OtherNetwork, GUESSER, now, || true) == Verdict::Right
                    {
                        break;
                    }
                }
                let most = FIRST_ATTEMPT_RATE.burst as u32 + TOTAL_RATE.burst as u32 + 5 * (begins + 20);
                assert!(checked as u32 <= most, "{checked} guesses in {begins} s");
            }
        }
    }

    /// Guesses from `HOME` over `number` connections at once, each as fast as it is answered, for as long as `honest`
    /// takes. Returns how many were checked, and the output of `honest`.
    async fn beside_guessers<T>(attempts: &Attempts, number: usize, honest: impl Future<Output = T>) -> (usize, T) {
        let checked = std::sync::atomic::AtomicUsize::new(0);
        let guessers = (0..number).map(|_| async {
            loop {
                if attempts.attempt(SenderGroup::OtherNetwork, HOME, || false).await == Verdict::Wrong {
                    checked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                time::sleep(Duration::from_millis(1)).await;
            }
        });
        let all = futures_util::future::join_all(guessers);
        let honest = async {
            // The guessers start first.
            time::sleep(Duration::from_secs(30)).await;
            honest.await
        };
        let given = tokio::select! {
            given = honest => given,
            _ = all => unreachable!("they never end"),
        };
        (checked.into_inner(), given)
    }

    #[tokio::test(start_paused = true)]
    async fn the_right_secret_has_its_turn_beside_guessers_at_the_same_address() {
        for number in [1, 16] {
            let attempts = Attempts::new();
            assert_eq!(attempts.attempt(SenderGroup::OtherNetwork, HOME, || true).await, Verdict::Right);
            let begun = now();
            let (checked, longest) = beside_guessers(&attempts, number, async {
                let mut longest = Duration::ZERO;
                for _ in 0..20 {
                    let asked = now();
                    assert_eq!(attempts.attempt(SenderGroup::OtherNetwork, HOME, || true).await, Verdict::Right);
                    longest = longest.max(now() - asked);
                    time::sleep(Duration::from_millis(500)).await;
                }
                longest
            })
            .await;
            assert!(longest <= KNOWN_PAUSE * (number as u32 + 1), "{number} guessers: {longest:?}");
            let most = FREE_ATTEMPTS as u64 + (now() - begun).as_secs() + 1;
            assert!(checked as u64 <= most, "{checked} guesses, {most} at most");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_login_beside_a_guesser_at_the_same_address_waits_seconds_and_guesses_stay_slow() {
        for (number, most) in [(1, 2), (2, 3)] {
            let attempts = Attempts::new();
            let begun = now();
            let (checked, waited) = beside_guessers(&attempts, number, async {
                let asked = now();
                while attempts.attempt(SenderGroup::OtherNetwork, HOME, || true).await != Verdict::Right {
                    time::sleep(Duration::from_secs(1)).await;
                }
                now() - asked
            })
            .await;
            assert!(waited <= MAX_PAUSE * most, "{number} guessers: {waited:?}");
            // At 0, 0, 0, 1, 3, 7 and 15 s, and then each 8 s.
            let most = 7 + (now() - begun).as_secs().saturating_sub(15) / 8;
            assert!(checked as u64 <= most, "{checked} guesses, {most} at most");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_valid_cookie_marks_its_address_as_known() {
        let attempts = Attempts::new();
        let (_, first) =
            beside_guessers(&attempts, 16, attempts.attempt(SenderGroup::OtherNetwork, HOME, || true)).await;
        assert_eq!(first, Verdict::Wait(MAX_PAUSE), "too many wait already");
        attempts.mark_known(SenderGroup::OtherNetwork, HOME);
        let (_, known) =
            beside_guessers(&attempts, 16, attempts.attempt(SenderGroup::OtherNetwork, HOME, || true)).await;
        assert_eq!(known, Verdict::Right);
    }

    #[tokio::test(start_paused = true)]
    async fn few_attempts_of_one_address_wait_in_the_queue() {
        let attempts = Attempts::new();
        attempts.mark_known(SenderGroup::OtherNetwork, HOME);
        let begun = now();
        let flood = (0..200).map(|_| attempts.attempt(SenderGroup::OtherNetwork, HOME, || false));
        let verdicts = futures_util::future::join_all(flood).await;
        let checked = verdicts.iter().filter(|verdict| **verdict == Verdict::Wrong).count();
        // The free ones are checked as they come.
        assert_eq!(checked, 24 + FREE_ATTEMPTS as usize);
        assert!(now() - begun <= MAX_QUEUE_WAIT);
        for number in 0..3000 {
            attempts.mark_known(SenderGroup::OtherNetwork, machine(number));
        }
        assert!(attempts.other_network.lock().unwrap().addresses.len() <= MAX_ADDRESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_stays_known_through_a_flood_of_others_and_a_quiet_month() {
        let attempts = Attempts::new();
        attempts.mark_known(SenderGroup::OtherNetwork, HOME);
        for number in 0..1500 {
            time::advance(Duration::from_secs(1)).await;
            attempts.attempt(SenderGroup::OtherNetwork, machine(number), || false).await;
        }
        let is_known = || attempts.table(SenderGroup::OtherNetwork).record(HOME, now()).is_known(now());
        assert!(is_known());
        time::advance(KNOWN_FOR).await;
        assert!(!is_known());
    }

    #[test]
    fn networks_of_one_site_share_one_first_attempt() {
        let now = Instant::now();
        let attempts = Attempts::new();
        let guess = |n| wrong(&attempts, Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1).into(), now);
        let checked = (0..400).filter(|network| guess(*network) == Verdict::Wrong).count();
        assert_eq!(checked, 1 + TOTAL_RATE.burst as usize);
    }

    #[test]
    fn the_number_of_remembered_addresses_is_limited() {
        let mut now = Instant::now();
        let attempts = Attempts::new();
        for n in 0..3000u16 {
            now += Duration::from_secs(1);
            wrong(&attempts, machine(n), now);
        }
        assert!(attempts.other_network.lock().unwrap().addresses.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_count_as_one_sender() {
        let now = Instant::now();
        let attempts = Attempts::new();
        let last =
            (0..5u16).map(|n| wrong(&attempts, Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n).into(), now)).last();
        assert_eq!(last, Some(Verdict::Wait(FIRST_PAUSE)));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), HOME);
    }

    #[test]
    fn remote_guessers_do_not_prevent_a_login_from_the_own_network() {
        let now = Instant::now();
        let attempts = Attempts::new();
        for number in 0..400 {
            wrong(&attempts, machine(number), now);
        }
        assert_eq!(attempts.check_now(SenderGroup::OtherNetwork, GUESSER, now, || true), Verdict::Wait(NEXT));
        for group in [SenderGroup::OwnNetwork, SenderGroup::ForeignPages] {
            assert_eq!(attempts.check_now(group, HOME, now, || true), Verdict::Right, "{group:?}");
        }
    }

    #[test]
    fn the_board_s_own_network_is_recognised_by_address() {
        let of = |sender: &str, ours: &str| SenderGroup::of(sender.parse().unwrap(), ours.parse().unwrap());
        for sender in ["192.168.1.7", "10.1.2.3", "172.20.0.1", "169.254.1.1", "127.0.0.1", "::1", "fe80::1", "fd00::1"]
        {
            assert_eq!(of(sender, "192.168.1.2"), SenderGroup::OwnNetwork, "{sender}");
        }
        assert_eq!(of("::ffff:192.168.1.7", "::ffff:192.168.1.2"), SenderGroup::OwnNetwork);
        assert_eq!(of("2001:db8:1:2::7", "2001:db8:1:2::1"), SenderGroup::OwnNetwork);
        for (sender, ours) in [("2001:db8:1:3::7", "2001:db8:1:2::1"), ("198.51.100.1", "192.168.1.2")] {
            assert_eq!(of(sender, ours), SenderGroup::OtherNetwork, "{sender}");
        }
        assert_eq!(of("::ffff:198.51.100.1", "::ffff:192.168.1.2"), SenderGroup::OtherNetwork);
    }
}
