//! Who has a connection, and who has to leave when there are too many.
//!
//! A place is had from the accepting of a connection to its end, also when it has become a WebSocket. Who holds
//! places without being let in, be it by heads that never end or by answers that are never read, makes way for others.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::attempts::network;

/// Connections at once: half of the 1024 files that a process usually may open, as viewers need sockets too.
const MOST: usize = 512;
/// Of these, kept for networks that were let in before: a household with a few browsers.
const KEPT: usize = 32;
/// Of which one network may have so many: a few browsers with six each. This machine's proxies may have all.
const MOST_OF_ONE: usize = 64;
/// Networks that are remembered as let in before; about 20 KiB.
const MOST_KNOWN: usize = 256;

/// All connections. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Crowd {
    all: Arc<Mutex<All>>,
    places: TaskTracker,
}

#[derive(Debug, Default)]
struct All {
    visits: HashMap<u64, Visit>,
    next: u64,
    /// When networks were let in last.
    known: HashMap<IpAddr, Instant>,
}

#[derive(Debug)]
struct Visit {
    network: IpAddr,
    /// Since when it has been about nothing that was let in; `None` while it is.
    idle_since: Option<Instant>,
    leave: CancellationToken,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Crowd,
    number: u64,
    network: IpAddr,
    leave: CancellationToken,
    _token: TaskTrackerToken,
}

impl Crowd {
    /// A place for a connection from `address`; `None` if there is none, and nobody who would have to make way.
    pub fn enter(&self, address: IpAddr, now: Instant) -> Option<Place> {
        let network = network(address);
        let mut all = self.all();
        let (mine, room) = (all.count(network), if all.known.contains_key(&network) { MOST } else { MOST - KEPT });
        if mine >= MOST_OF_ONE && !address.to_canonical().is_loopback() {
            all.dismiss(|visit| visit.network == network)?;
        } else if all.visits.len() >= room {
            all.dismiss(|_| true)?;
        }
        let (number, leave) = (all.next, CancellationToken::new());
        all.next += 1;
        all.visits.insert(number, Visit { network, idle_since: Some(now), leave: leave.clone() });
        Some(Place { crowd: self.clone(), number, network, leave, _token: self.places.token() })
    }

    /// Completes when nobody is left and nobody will come any more.
    pub async fn deserted(&self) {
        self.places.close();
        self.places.wait().await;
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().expect("lock is never poisoned: no panic while held")
    }
}

impl All {
    fn count(&self, network: IpAddr) -> usize {
        self.visits.values().filter(|visit| visit.network == network).count()
    }

    /// Sends away who has been idle longest in the largest network among those that `may_go`; of networks of one size,
    /// those that were let in before come last. `None` where nobody is idle.
    fn dismiss(&mut self, may_go: impl Fn(&Visit) -> bool) -> Option<()> {
        let mut sizes: HashMap<IpAddr, usize> = HashMap::new();
        for visit in self.visits.values() {
            *sizes.entry(visit.network).or_default() += 1;
        }
        let idle = self.visits.iter().filter(|(_, visit)| may_go(visit));
        let idle = idle.filter_map(|(number, visit)| Some((visit.idle_since?, *number, visit.network)));
        let (_, number, _) = idle
            .max_by_key(|(since, _, network)| (sizes[network], !self.known.contains_key(network), Reverse(*since)))?;
        self.visits.remove(&number).map(|visit| visit.leave.cancel())
    }

    fn remember(&mut self, network: IpAddr, now: Instant) {
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&network) {
            let longest_ago = self.known.iter().min_by_key(|(_, at)| **at).map(|(network, _)| *network);
            longest_ago.map(|network| self.known.remove(&network));
        }
        self.known.insert(network, now);
    }
}

impl Place {
    /// A request on the connection was let in, or it has become a WebSocket: it stays until that is
    /// [over](Self::is_idle).
    pub fn is_let_in(&self, now: Instant) {
        let mut all = self.crowd.all();
        all.remember(self.network, now);
        if let Some(visit) = all.visits.get_mut(&self.number) {
            visit.idle_since = None;
        }
    }

    /// Whether a request that was let in is being answered.
    pub fn is_served(&self) -> bool {
        self.crowd.all().visits.get(&self.number).is_some_and(|visit| visit.idle_since.is_none())
    }

    /// The request was answered.
    pub fn is_idle(&self, now: Instant) {
        if let Some(visit) = self.crowd.all().visits.get_mut(&self.number) {
            visit.idle_since.get_or_insert(now);
        }
    }

    /// Completes when the connection has to make way for others.
    pub async fn dismissed(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.all().visits.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    fn address(number: u16) -> IpAddr {
        Ipv4Addr::from(0xc000_0200 + u32::from(number)).into()
    }

    fn was_dismissed(place: &Place) -> bool {
        place.leave.is_cancelled()
    }

    /// As many as it takes to fill the door, of `networks` networks, one a millisecond.
    fn fill(crowd: &Crowd, networks: u16, begin: Instant) -> Vec<Place> {
        let at = |n: usize| begin + Duration::from_millis(n as u64);
        (0..MOST - KEPT).map(|n| crowd.enter(address(n as u16 % networks), at(n)).unwrap()).collect()
    }

    #[test]
    fn one_address_has_its_share_of_connections_and_gives_places_back() {
        let (crowd, now) = (Crowd::default(), Instant::now());
        let places: Vec<_> = (0..MOST_OF_ONE).map(|_| crowd.enter(address(1), now).unwrap()).collect();
        places.iter().for_each(|place| place.is_let_in(now));
        assert!(crowd.enter(address(1), now).is_none());
        assert!(crowd.enter(address(2), now).is_some());
        drop(places);
        assert!(crowd.all().visits.is_empty());
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_share_one_share() {
        let (crowd, now) = (Crowd::default(), Instant::now());
        let of = |network: u16, host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into();
        let places: Vec<_> = (0..200).map(|host| crowd.enter(of(1, host), now).unwrap()).collect();
        assert_eq!(places.iter().filter(|place| !was_dismissed(place)).count(), MOST_OF_ONE);
        let other = crowd.enter(of(2, 1), now).unwrap();
        assert!(!was_dismissed(&other));
    }

    #[test]
    fn who_holds_places_for_nothing_makes_way_and_the_largest_network_first() {
        let (crowd, begin) = (Crowd::default(), Instant::now());
        // Seven networks of 60, and 60 of others with one or two.
        let many: Vec<_> = (0..420).map(|n| crowd.enter(address(n as u16 % 7), begin).unwrap()).collect();
        let few: Vec<_> = (0..60).map(|n| crowd.enter(address(100 + n as u16 % 40), begin).unwrap()).collect();
        let new: Vec<_> =
            (0..100).map(|n| crowd.enter(address(200 + n), begin + Duration::from_secs(1)).unwrap()).collect();
        assert_eq!(many.iter().filter(|place| was_dismissed(place)).count(), 100);
        assert!(few.iter().chain(&new).all(|place| !was_dismissed(place)));
    }

    #[test]
    fn who_has_waited_longest_goes_and_who_is_served_stays() {
        let (crowd, begin) = (Crowd::default(), Instant::now());
        let places = fill(&crowd, 8, begin);
        places[..16].iter().for_each(|place| place.is_let_in(begin));
        let others: Vec<_> = (0..8).map(|n| crowd.enter(address(100 + n), begin).unwrap()).collect();
        assert!(others.iter().all(|place| !was_dismissed(place)));
        let gone: Vec<_> = (0..places.len()).filter(|n| was_dismissed(&places[*n])).collect();
        assert_eq!(gone, (16..24).collect::<Vec<_>>());
        places[0].is_idle(begin + Duration::from_secs(9));
        let another = crowd.enter(address(120), begin).unwrap();
        assert!(!was_dismissed(&places[0]) && !was_dismissed(&another), "others have waited longer");
    }

    #[test]
    fn who_was_let_in_before_finds_a_place_among_those_who_are_being_served() {
        let (crowd, now) = (Crowd::default(), Instant::now());
        let home = crowd.enter(address(250), now).unwrap();
        home.is_let_in(now);
        drop(home);
        let places = fill(&crowd, 8, now);
        places.iter().for_each(|place| {
            let mut all = place.crowd.all();
            all.visits.get_mut(&place.number).unwrap().idle_since = None;
        });
        assert!(crowd.enter(address(251), now).is_none());
        assert!(crowd.enter(address(250), now).is_some());
    }

    #[test]
    fn networks_that_were_let_in_do_not_fill_the_memory() {
        let (crowd, now) = (Crowd::default(), Instant::now());
        for n in 0..1000u16 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1).into();
            crowd.enter(address, now).unwrap().is_let_in(now + Duration::from_secs(n.into()));
        }
        assert_eq!(crowd.all().known.len(), MOST_KNOWN);
    }
}
