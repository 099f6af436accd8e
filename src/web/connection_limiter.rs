//! Limits the number of connections, and closes an idle one when there are too many.
//!
//! A connection counts from accept to its end, also when it has become a WebSocket. Connections that are not
//! authorized, with requests that never end or answers that the client never reads, are closed in favour of others.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::attempts::network;

/// The most connections at once: half of the 1024 files that a process usually may open, as viewers need sockets too.
const MAX_CONNECTIONS: usize = 512;
/// Connections reserved for networks that were authorized before: enough for a household with a few browsers.
const RESERVED: usize = 32;
/// The most connections of one network: a few browsers with six each. Proxies on this machine have no such limit.
const MAX_PER_NETWORK: usize = 64;
/// The most networks that are remembered as authorized before; about 20 KiB.
const MAX_KNOWN: usize = 256;

/// All connections. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimiter {
    all: Arc<Mutex<Connections>>,
    tracker: TaskTracker,
}

#[derive(Debug, Default)]
struct Connections {
    connections: HashMap<u64, Connection>,
    next: u64,
    /// When each network was last authorized.
    known: HashMap<IpAddr, Instant>,
}

#[derive(Debug)]
struct Connection {
    network: IpAddr,
    /// Since when no authorized request is being answered; `None` while one is.
    idle_since: Option<Instant>,
    evict: CancellationToken,
}

/// The permit of one connection, released when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: ConnectionLimiter,
    number: u64,
    network: IpAddr,
    evict: CancellationToken,
    _token: TaskTrackerToken,
}

impl ConnectionLimiter {
    /// A permit for a connection from `address`; `None` if the limit is reached and no idle connection can be closed.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Option<ConnectionPermit> {
        let network = network(address);
        let mut all = self.all();
        let (mine, room) = (
            all.count(network),
            if all.known.contains_key(&network) { MAX_CONNECTIONS } else { MAX_CONNECTIONS - RESERVED },
        );
        if mine >= MAX_PER_NETWORK && !address.to_canonical().is_loopback() {
            all.close_idlest(|connection| connection.network == network)?;
        } else if all.connections.len() >= room {
            all.close_idlest(|_| true)?;
        }
        let (number, evict) = (all.next, CancellationToken::new());
        all.next += 1;
        all.connections.insert(number, Connection { network, idle_since: Some(now), evict: evict.clone() });
        Some(ConnectionPermit { limiter: self.clone(), number, network, evict, _token: self.tracker.token() })
    }

    /// Completes when all connections have ended. No new one is accepted by then.
    pub async fn all_closed(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn all(&self) -> MutexGuard<'_, Connections> {
        self.all.lock().expect("lock is never poisoned: no panic while held")
    }
}

impl Connections {
    fn count(&self, network: IpAddr) -> usize {
        self.connections.values().filter(|connection| connection.network == network).count()
    }

    /// Closes the connection that has been idle longest in the largest network among those that `is_candidate`; of
    /// networks of one size, those that were authorized before come last. `None` if no connection is idle.
    fn close_idlest(&mut self, is_candidate: impl Fn(&Connection) -> bool) -> Option<()> {
        let mut sizes: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.connections.values() {
            *sizes.entry(connection.network).or_default() += 1;
        }
        let idle = self.connections.iter().filter(|(_, connection)| is_candidate(connection));
        let idle = idle.filter_map(|(number, connection)| Some((connection.idle_since?, *number, connection.network)));
        let (_, number, _) = idle
            .max_by_key(|(since, _, network)| (sizes[network], !self.known.contains_key(network), Reverse(*since)))?;
        self.connections.remove(&number).map(|connection| connection.evict.cancel())
    }

    fn remember(&mut self, network: IpAddr, now: Instant) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&network) {
            let longest_ago = self.known.iter().min_by_key(|(_, at)| **at).map(|(network, _)| *network);
            longest_ago.map(|network| self.known.remove(&network));
        }
        self.known.insert(network, now);
    }
}

impl ConnectionPermit {
    /// A request on the connection was authorized, or it has become a WebSocket: it is not evicted until that is
    /// [over](Self::end_request).
    pub fn start_request(&self, now: Instant) {
        let mut all = self.limiter.all();
        all.remember(self.network, now);
        if let Some(connection) = all.connections.get_mut(&self.number) {
            connection.idle_since = None;
        }
    }

    /// Whether an authorized request is being answered.
    pub fn is_serving(&self) -> bool {
        self.limiter.all().connections.get(&self.number).is_some_and(|connection| connection.idle_since.is_none())
    }

    /// The request was answered.
    pub fn end_request(&self, now: Instant) {
        if let Some(connection) = self.limiter.all().connections.get_mut(&self.number) {
            connection.idle_since.get_or_insert(now);
        }
    }

    /// Completes when the connection has to be closed in favour of others.
    pub async fn evicted(&self) {
        self.evict.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.all().connections.remove(&self.number);
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

    fn was_evicted(permit: &ConnectionPermit) -> bool {
        permit.evict.is_cancelled()
    }

    /// Opens all connections that are not reserved, from `networks` networks, one a millisecond.
    fn fill(limiter: &ConnectionLimiter, networks: u16, begin: Instant) -> Vec<ConnectionPermit> {
        let at = |n: usize| begin + Duration::from_millis(n as u64);
        (0..MAX_CONNECTIONS - RESERVED).map(|n| limiter.admit(address(n as u16 % networks), at(n)).unwrap()).collect()
    }

    #[test]
    fn one_address_has_a_limit_of_connections_and_closed_ones_are_freed() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        let tracker: Vec<_> = (0..MAX_PER_NETWORK).map(|_| limiter.admit(address(1), now).unwrap()).collect();
        tracker.iter().for_each(|permit| permit.start_request(now));
        assert!(limiter.admit(address(1), now).is_none());
        assert!(limiter.admit(address(2), now).is_some());
        drop(tracker);
        assert!(limiter.all().connections.is_empty());
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_share_one_limit() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        let of = |network: u16, host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into();
        let tracker: Vec<_> = (0..200).map(|host| limiter.admit(of(1, host), now).unwrap()).collect();
        assert_eq!(tracker.iter().filter(|permit| !was_evicted(permit)).count(), MAX_PER_NETWORK);
        let other = limiter.admit(of(2, 1), now).unwrap();
        assert!(!was_evicted(&other));
    }

    #[test]
    fn idle_connections_are_evicted_from_the_largest_network_first() {
        let (limiter, begin) = (ConnectionLimiter::default(), Instant::now());
        // Seven networks of 60, and 60 of others with one or two.
        let many: Vec<_> = (0..420).map(|n| limiter.admit(address(n as u16 % 7), begin).unwrap()).collect();
        let few: Vec<_> = (0..60).map(|n| limiter.admit(address(100 + n as u16 % 40), begin).unwrap()).collect();
        let new: Vec<_> =
            (0..100).map(|n| limiter.admit(address(200 + n), begin + Duration::from_secs(1)).unwrap()).collect();
        assert_eq!(many.iter().filter(|permit| was_evicted(permit)).count(), 100);
        assert!(few.iter().chain(&new).all(|permit| !was_evicted(permit)));
    }

    #[test]
    fn the_longest_idle_connection_is_evicted_and_an_active_one_stays() {
        let (limiter, begin) = (ConnectionLimiter::default(), Instant::now());
        let tracker = fill(&limiter, 8, begin);
        tracker[..16].iter().for_each(|permit| permit.start_request(begin));
        let others: Vec<_> = (0..8).map(|n| limiter.admit(address(100 + n), begin).unwrap()).collect();
        assert!(others.iter().all(|permit| !was_evicted(permit)));
        let gone: Vec<_> = (0..tracker.len()).filter(|n| was_evicted(&tracker[*n])).collect();
        assert_eq!(gone, (16..24).collect::<Vec<_>>());
        tracker[0].end_request(begin + Duration::from_secs(9));
        let another = limiter.admit(address(120), begin).unwrap();
        assert!(!was_evicted(&tracker[0]) && !was_evicted(&another), "others have been idle longer");
    }

    #[test]
    fn a_network_that_was_authorized_before_is_admitted_beside_active_connections() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        let home = limiter.admit(address(250), now).unwrap();
        home.start_request(now);
        drop(home);
        let tracker = fill(&limiter, 8, now);
        tracker.iter().for_each(|permit| {
            let mut all = permit.limiter.all();
            all.connections.get_mut(&permit.number).unwrap().idle_since = None;
        });
        assert!(limiter.admit(address(251), now).is_none());
        assert!(limiter.admit(address(250), now).is_some());
    }

    #[test]
    fn the_number_of_remembered_authorized_networks_is_limited() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        for n in 0..1000u16 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1).into();
            limiter.admit(address, now).unwrap().start_request(now + Duration::from_secs(n.into()));
        }
        assert_eq!(limiter.all().known.len(), MAX_KNOWN);
    }
}
