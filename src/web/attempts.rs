//! Slows down guessing: each wrong secret makes its sender wait longer, and all senders together have a limit.
//!
//! The limit has two parts, since an owner who logs in from a new address cannot be told from a guesser there, but can
//! be told from one who has guessed before: the first attempt of an address does not wait for the guesses of others.
//!
//! Behind one address may be both a guesser and somebody who knows the secret: a network behind a router, or all who come
//! by a proxy. The right secret of one cannot be let in at once there, or each request of the other would test one. So
//! attempts from one address have their turn one after the other, and those whose turn comes soon wait for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time;

/// Wrong attempts without a pause between them: a person who mistypes.
const FREE: u32 = 3;
/// The pause after the last of them; it doubles from then on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a first login behind one connection that guesses has its turn within 16 s, and a guesser gets
/// 10,800 tries a day, an eighth of what a network of machines has at [`TOGETHER`].
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// The pause at an address that has given the secret before: who guesses from there has as many tries as such a network.
const KNOWN_PAUSE: Duration = Duration::from_secs(1);
/// The longest that an attempt waits for its turn, within the time for a request (30 s); else it has to come again. At an
/// address that has given the secret, 24 have their turn within it.
const LONGEST_TURN: Duration = Duration::from_secs(24);
/// How long an address is known to have given the secret: as long as a login lasts.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 3600);
/// After this without a wrong attempt an address begins with a clean record.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Addresses of a crowd that are remembered: about 150 KiB. Beyond, the one that was quiet longest is forgotten, of those
/// first that have not given the secret.
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
    /// When it gave the secret last: the limit of all together does not lock it out.
    known_at: Option<Instant>,
    open_at: Instant,
    last_wrong: Instant,
    last: Instant,
    /// Those who wait for their turn, in the order in which they came. Each has a clone.
    line: Arc<tokio::sync::Mutex<()>>,
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

    /// Looks at one attempt from `sender`, once it is its turn, unless it has to come again.
    pub async fn attempt(&self, crowd: Crowd, sender: IpAddr, is_right: impl Fn() -> bool) -> Verdict {
        let begun = now();
        let Some((line, pause)) = self.ledger(crowd).line(network(sender), begun) else {
            return self.look(crowd, sender, begun, is_right);
        };
        // The table has a clone too.
        let in_line = Arc::strong_count(&line) as u32 - 1;
        if pause * in_line > LONGEST_TURN {
            return Verdict::Wait(pause);
        }
        let _turn = line.lock().await;
        loop {
            let now = now();
            match self.look(crowd, sender, now, &is_right) {
                Verdict::Wait(pause) if now + pause <= begun + LONGEST_TURN => time::sleep(pause).await,
                verdict => return verdict,
            }
        }
    }

    /// Somebody at `sender` has shown in another way to know the secret.
    pub fn is_known(&self, crowd: Crowd, sender: IpAddr) {
        let now = now();
        self.ledger(crowd).record(network(sender), now).known_at = Some(now);
    }

    /// Looks at one attempt now, unless it has to wait.
    ///
    /// Done under one lock, so that attempts in parallel are not looked at before the first is noted.
    fn look(&self, crowd: Crowd, sender: IpAddr, now: Instant, is_right: impl FnOnce() -> bool) -> Verdict {
        let sender = network(sender);
        let mut ledger = self.ledger(crowd);
        let ledger = &mut *ledger;
        let record = ledger.addresses.get(&sender).filter(|record| !record.is_old(now));
        let pause = record.map_or(Duration::ZERO, |record| record.open_at.saturating_duration_since(now));
        if !pause.is_zero() {
            return Verdict::Wait(pause);
        }
        let is_known = record.is_some_and(|record| record.is_known(now));
        let is_first = record.is_none() && ledger.is_first(sender, now);
        let allowance = if is_first { &mut ledger.first } else { &mut ledger.together };
        let pause = allowance.wait(now);
        if !is_known && !pause.is_zero() {
            return Verdict::Wait(pause);
        }
        if is_right() {
            // The wrong ones before are not forgiven: behind one address may be a guesser and somebody who knows.
            ledger.record(sender, now).known_at = Some(now);
            Verdict::Right
        } else {
            allowance.spend();
            ledger.note(sender, now);
            Verdict::Wrong
        }
    }

    fn ledger(&self, crowd: Crowd) -> MutexGuard<'_, Ledger> {
        let ledger = match crowd {
            Crowd::Near => &self.near,
            Crowd::Far => &self.far,
            Crowd::Pages => &self.pages,
        };
        ledger.lock().expect("lock is never poisoned: no panic while held")
    }
}

/// By the clock that tests can stop.
fn now() -> Instant {
    time::Instant::now().into_std()
}

impl Ledger {
    /// Where attempts from `sender` wait, and for how long each; `None` where it is the first one.
    fn line(&self, sender: IpAddr, now: Instant) -> Option<(Arc<tokio::sync::Mutex<()>>, Duration)> {
        let record = self.addresses.get(&sender).filter(|record| !record.is_old(now))?;
        Some((record.line.clone(), record.pause(now)))
    }

    /// Whether nothing was tried from there lately. Who has one IPv6 network has its neighbours too: a /48 is what a
    /// site is given (RFC 6177, section 2).
    fn is_first(&self, sender: IpAddr, now: Instant) -> bool {
        let site = |address: &IpAddr| match address {
            IpAddr::V4(address) => IpAddr::V4(*address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
        };
        let mut lately = self.addresses.iter().filter(|(_, record)| !record.is_quiet(now));
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
            record.open_at = now + record.pause(now);
        }
    }

    fn record(&mut self, sender: IpAddr, now: Instant) -> &mut Record {
        if self.addresses.len() >= MOST_ADDRESSES && !self.addresses.contains_key(&sender) {
            self.addresses.retain(|_, record| !record.is_old(now));
            let quietest = self.addresses.iter().min_by_key(|(_, record)| (record.is_known(now), record.last));
            let quietest = quietest.map(|(address, _)| *address);
            if let Some(quietest) = quietest.filter(|_| self.addresses.len() >= MOST_ADDRESSES) {
                self.addresses.remove(&quietest);
            }
        }
        let fresh =
            || Record { wrong: 0, known_at: None, open_at: now, last_wrong: now, last: now, line: Arc::default() };
        let record = self.addresses.entry(sender).or_insert_with(fresh);
        if record.is_old(now) {
            *record = fresh();
        }
        record.last = now;
        record
    }
}

impl Record {
    /// The pause after a wrong attempt that is not free any more.
    fn pause(&self, now: Instant) -> Duration {
        if self.is_known(now) {
            return KNOWN_PAUSE;
        }
        // 2^16 s is far beyond the longest pause already.
        let doublings = self.wrong.saturating_sub(FREE).min(16);
        (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
    }

    fn is_known(&self, now: Instant) -> bool {
        self.known_at.is_some_and(|at| now.saturating_duration_since(at) < KNOWN)
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGOTTEN
    }

    fn is_old(&self, now: Instant) -> bool {
        self.is_quiet(now) && !self.is_known(now)
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
        attempts.look(Crowd::Far, sender, now, || false)
    }

    #[test]
    fn pauses_double_for_the_guesser_and_others_are_unhurt() {
        let mut now = Instant::now();
        let attempts = Attempts::new(now);
        for _ in 0..3 {
            assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wrong);
        }
        for seconds in [1, 2, 4, 8, 8, 8] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wait(pause));
            assert_eq!(attempts.look(Crowd::Far, AWAY, now, || true), Verdict::Wait(pause), "the right one waits too");
            assert_eq!(attempts.look(Crowd::Far, HOME, now, || true), Verdict::Right);
            now += pause;
            assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wrong);
        }
        now += LONGEST_PAUSE;
        assert_eq!(attempts.look(Crowd::Far, AWAY, now, || true), Verdict::Right);
        assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wrong);
        assert_eq!(wrong(&attempts, AWAY, now), Verdict::Wait(KNOWN_PAUSE), "a right one forgives nothing");
        now += FORGOTTEN + KNOWN_PAUSE;
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
        assert_eq!(attempts.look(Crowd::Far, HOME, now, || true), Verdict::Right);
        let guess = |number| wrong(&attempts, machine(number), now);
        let firsts = (0..400).filter(|number| guess(*number) == Verdict::Wrong).count();
        assert_eq!(firsts, FIRST.most as usize);
        let seconds = (0..400).filter(|number| guess(*number) == Verdict::Wrong).count();
        assert_eq!(seconds, TOGETHER.most as usize);
        assert_eq!(attempts.look(Crowd::Far, HOME, now, || true), Verdict::Right);
        assert_eq!(attempts.look(Crowd::Far, AWAY, now, || true), Verdict::Wait(FIRST.pause));
        assert_eq!(attempts.look(Crowd::Far, AWAY, now + FIRST.pause, || true), Verdict::Right);
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
                    if tick % 4 == 0 && attempts.look(Crowd::Far, AWAY, now, || true) == Verdict::Right {
                        break;
                    }
                }
                let most = FIRST.most as u32 + TOGETHER.most as u32 + 5 * (begins + 20);
                assert!(looked_at as u32 <= most, "{looked_at} guesses in {begins} s");
            }
        }
    }

    /// Guesses from `HOME` by `number` connections at once, each as fast as it is answered, for as long as `honest` takes.
    /// Returns how many were looked at, and its output.
    async fn beside_guessers<T>(attempts: &Attempts, number: usize, honest: impl Future<Output = T>) -> (usize, T) {
        let looked_at = std::sync::atomic::AtomicUsize::new(0);
        let guessers = (0..number).map(|_| async {
            loop {
                if attempts.attempt(Crowd::Far, HOME, || false).await == Verdict::Wrong {
                    looked_at.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                time::sleep(Duration::from_millis(1)).await;
            }
        });
        let all = futures_util::future::join_all(guessers);
        let honest = async {
            // The guessers are there first.
            time::sleep(Duration::from_secs(30)).await;
            honest.await
        };
        let given = tokio::select! {
            given = honest => given,
            _ = all => unreachable!("they never end"),
        };
        (looked_at.into_inner(), given)
    }

    #[tokio::test(start_paused = true)]
    async fn who_knows_the_secret_has_a_turn_beside_guessers_at_the_same_address() {
        for number in [1, 16] {
            let attempts = Attempts::new(now());
            assert_eq!(attempts.attempt(Crowd::Far, HOME, || true).await, Verdict::Right);
            let begun = now();
            let (looked_at, longest) = beside_guessers(&attempts, number, async {
                let mut longest = Duration::ZERO;
                for _ in 0..20 {
                    let asked = now();
                    assert_eq!(attempts.attempt(Crowd::Far, HOME, || true).await, Verdict::Right);
                    longest = longest.max(now() - asked);
                    time::sleep(Duration::from_millis(500)).await;
                }
                longest
            })
            .await;
            assert!(longest <= KNOWN_PAUSE * (number as u32 + 1), "{number} guessers: {longest:?}");
            let most = FREE as u64 + (now() - begun).as_secs() + 1;
            assert!(looked_at as u64 <= most, "{looked_at} guesses, {most} at most");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_login_beside_a_guesser_at_the_same_address_waits_for_some_seconds_and_guesses_stay_slow() {
        for (number, most) in [(1, 2), (2, 3)] {
            let attempts = Attempts::new(now());
            let begun = now();
            let (looked_at, waited) = beside_guessers(&attempts, number, async {
                let asked = now();
                while attempts.attempt(Crowd::Far, HOME, || true).await != Verdict::Right {
                    time::sleep(Duration::from_secs(1)).await;
                }
                now() - asked
            })
            .await;
            assert!(waited <= LONGEST_PAUSE * most, "{number} guessers: {waited:?}");
            // At 0, 0, 0, 1, 3, 7 and 15 s, and then each 8 s.
            let most = 7 + (now() - begun).as_secs().saturating_sub(15) / 8;
            assert!(looked_at as u64 <= most, "{looked_at} guesses, {most} at most");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cookie_tells_that_the_secret_is_known_at_an_address() {
        let attempts = Attempts::new(now());
        let (_, first) = beside_guessers(&attempts, 16, attempts.attempt(Crowd::Far, HOME, || true)).await;
        assert_eq!(first, Verdict::Wait(LONGEST_PAUSE), "too many wait already");
        attempts.is_known(Crowd::Far, HOME);
        let (_, known) = beside_guessers(&attempts, 16, attempts.attempt(Crowd::Far, HOME, || true)).await;
        assert_eq!(known, Verdict::Right);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_at_one_address_holds_few_attempts() {
        let attempts = Attempts::new(now());
        attempts.is_known(Crowd::Far, HOME);
        let begun = now();
        let flood = (0..200).map(|_| attempts.attempt(Crowd::Far, HOME, || false));
        let verdicts = futures_util::future::join_all(flood).await;
        let looked_at = verdicts.iter().filter(|verdict| **verdict == Verdict::Wrong).count();
        // The free ones have their turn as they come.
        assert_eq!(looked_at, 24 + FREE as usize);
        assert!(now() - begun <= LONGEST_TURN);
        for number in 0..3000 {
            attempts.is_known(Crowd::Far, machine(number));
        }
        assert!(attempts.far.lock().unwrap().addresses.len() <= MOST_ADDRESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_known_through_a_flood_of_others_and_a_quiet_month() {
        let attempts = Attempts::new(now());
        attempts.is_known(Crowd::Far, HOME);
        for number in 0..1500 {
            time::advance(Duration::from_secs(1)).await;
            attempts.attempt(Crowd::Far, machine(number), || false).await;
        }
        let is_known = || attempts.ledger(Crowd::Far).record(HOME, now()).is_known(now());
        assert!(is_known());
        time::advance(KNOWN).await;
        assert!(!is_known());
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
        assert_eq!(attempts.look(Crowd::Far, AWAY, now, || true), Verdict::Wait(FIRST.pause));
        for crowd in [Crowd::Near, Crowd::Pages] {
            assert_eq!(attempts.look(crowd, HOME, now, || true), Verdict::Right, "{crowd:?}");
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
