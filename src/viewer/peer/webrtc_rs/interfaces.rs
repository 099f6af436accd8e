//! Selects the board's addresses that are offered to a viewer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};

use if_addrs::{Interface, get_if_addrs};

/// Maximum number of addresses that are offered. Each is a socket with 96 kB of buffers per viewer, and is checked with
/// each of the viewer's addresses; a board with a cable, Wi-Fi and a tunnel has six to eight different ones.
const MAX_ADDRESSES: usize = 8;

/// A remote address of each family (RFC 5737, section 3 and RFC 3849): the kernel is asked for the route to it, and
/// nothing is sent.
const ELSEWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// The addresses that a peer connection binds, looked up each time it binds, so that an ICE restart follows the
/// network. Clones belong to the same peer connection.
///
/// The crate's own wildcard would always leave out loopback, and bind `::` where there is no IPv6.
#[derive(Clone, Debug)]
pub struct Interfaces {
    /// The addresses bound last, the best first.
    bound: Arc<Mutex<Vec<IpAddr>>>,
    /// Maximum number of addresses that are bound.
    most: usize,
    /// The address at which the viewer has reached the board, if known.
    reached: Option<IpAddr>,
}

impl Interfaces {
    /// The addresses of one of `connections` peer connections of a viewer, which share the limit for one viewer.
    /// `reached` is the address at which the viewer has reached the board, if known.
    pub fn one_of(connections: usize, reached: Option<IpAddr>) -> Self {
        Self { bound: Arc::default(), most: MAX_ADDRESSES / connections.max(1), reached }
    }

    /// The addresses of an additional peer connection of a viewer, whose others have bound `taken` addresses: at least
    /// one.
    pub fn additional(taken: usize, reached: Option<IpAddr>) -> Self {
        Self { bound: Arc::default(), most: MAX_ADDRESSES.saturating_sub(taken).max(1), reached }
    }

    /// Number of addresses that were bound last.
    pub fn count(&self) -> usize {
        self.bound.lock().expect("lock is never poisoned: no panic while held").len()
    }

    /// The position of an address among those that were bound last; 0 is the best.
    pub fn rank(&self, ip: IpAddr) -> Option<usize> {
        let bound = self.bound.lock().expect("lock is never poisoned: no panic while held");
        bound.iter().position(|one| *one == ip)
    }
}

impl ToSocketAddrs for Interfaces {
    type Iter = std::vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let addresses: Vec<_> = get_if_addrs()?.into_iter().filter(Interface::is_oper_up).map(Address::from).collect();
        let chosen = choose(&addresses, &sources(), self.reached, self.most);
        let sockets: Vec<_> = chosen.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        *self.bound.lock().expect("lock is never poisoned: no panic while held") = chosen;
        Ok(sockets.into_iter())
    }
}

/// The addresses from which the kernel would send to remote addresses: those of the default route.
fn sources() -> Vec<IpAddr> {
    let source = |elsewhere: &str| {
        let family = if elsewhere.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(family).ok()?;
        socket.connect(elsewhere).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    ELSEWHERE.into_iter().filter_map(source).collect()
}

/// One address of an interface that is up.
#[derive(Clone, Debug)]
struct Address {
    interface: String,
    ip: IpAddr,
    /// Whether the interface is a bridge: a container host has dozens, and a viewer behind one also reaches the board's
    /// other addresses.
    is_bridge: bool,
}

impl From<Interface> for Address {
    fn from(interface: Interface) -> Self {
        let is_bridge = Path::new("/sys/class/net").join(&interface.name).join("bridge").exists();
        Self { ip: interface.ip(), interface: interface.name, is_bridge }
    }
}

/// The addresses that are offered, the best first: those of the default route's interface, then one of each family of
/// each other interface, then their further ones, then bridges. A viewer on this machine reaches any of them, so
/// loopback is left out (RFC 8445, section 5.1.1.1) unless there is nothing else. If there are more than `most`, the
/// last ones are left out, but never the one at which the viewer has `reached` the board: it may be the only one with a
/// route back.
fn choose(addresses: &[Address], sources: &[IpAddr], reached: Option<IpAddr>, most: usize) -> Vec<IpAddr> {
    let is_default = |address: &Address| {
        addresses.iter().any(|other| other.interface == address.interface && sources.contains(&other.ip))
    };
    let is_proven = |address: &Address| Some(address.ip) == reached && is_offerable(address.ip);
    let is_usable = |address: &&Address| is_proven(address) || is_reachable(address, addresses);
    let mut usable: Vec<_> = addresses.iter().filter(is_usable).collect();
    usable.sort_by_key(|address| !sources.contains(&address.ip));
    let mut seen = Vec::new();
    usable.sort_by_cached_key(|address| {
        let family = (&address.interface, address.ip.is_ipv4());
        let is_further = seen.contains(&family);
        seen.push(family);
        (address.is_bridge && !is_default(address), is_further, !is_default(address))
    });
    if let Some(at) = usable.iter().skip(most).position(|address| is_proven(address)) {
        usable.swap(most - 1, most + at);
    }
    let mut chosen: Vec<IpAddr> = usable.into_iter().map(|address| address.ip).take(most).collect();
    if chosen.is_empty() {
        chosen.push(Ipv4Addr::LOCALHOST.into());
    }
    chosen
}

/// Whether another machine can use this address. An IPv6 link-local address is useless without its zone, which a
/// candidate cannot carry (RFC 8445, section 5.1.1.1). In IPv4 the interface follows from the address: a link-local
/// address is the only one between two machines on one cable, and useless beside an assigned address.
fn is_reachable(address: &Address, all: &[Address]) -> bool {
    let is_other = |other: &Address| {
        matches!(other.ip, IpAddr::V4(ip) if !ip.is_link_local()) && other.interface == address.interface
    };
    let is_of_one_link = matches!(address.ip, IpAddr::V4(ip) if ip.is_link_local());
    is_offerable(address.ip) && !(is_of_one_link && all.iter().any(is_other))
}

/// Whether a candidate can contain it.
fn is_offerable(ip: IpAddr) -> bool {
    match ip {
        ip if ip.is_loopback() || ip.is_unspecified() => false,
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: &str, ip: &str) -> Address {
        Address { interface: interface.into(), ip: ip.parse().unwrap(), is_bridge: interface.starts_with("br-") }
    }

    fn chosen(addresses: &[Address], sources: &[&str]) -> Vec<String> {
        chosen_for(addresses, sources, None)
    }

    fn chosen_for(addresses: &[Address], sources: &[&str], reached: Option<&str>) -> Vec<String> {
        let sources: Vec<IpAddr> = sources.iter().map(|ip| ip.parse().unwrap()).collect();
        let reached = reached.map(|ip| ip.parse().unwrap());
        choose(addresses, &sources, reached, MAX_ADDRESSES).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn the_address_that_the_viewer_connected_to_is_always_offered() {
        let mut all: Vec<_> = (0..12).map(|n| address(&format!("eth0.{n}"), &format!("192.0.2.{n}"))).collect();
        all.push(address("eth1", "198.51.100.7"));
        all.push(address("eth1", "169.254.8.1"));
        all.push(address("eth1", "fe80::1"));
        all.push(address("lo", "127.0.0.1"));
        let first: Vec<_> = (0..MAX_ADDRESSES).map(|n| format!("192.0.2.{n}")).collect();
        for far in ["198.51.100.7", "169.254.8.1", "192.0.2.11"] {
            let chosen = chosen_for(&all, &[], Some(far));
            assert_eq!((&chosen[..7], &*chosen[7]), (&first[..7], far));
        }
        // An address that comes first anyway, addresses that no candidate can contain, and one that is not the board's.
        for near in ["192.0.2.3", "192.0.2.7", "fe80::1", "127.0.0.1", "203.0.113.1"] {
            assert_eq!(chosen_for(&all, &[], Some(near)), first, "{near}");
        }
    }

    #[test]
    fn the_default_route_s_interface_comes_first_and_loopback_is_the_last_resort() {
        let lo = [address("lo", "127.0.0.1"), address("lo", "::1")];
        assert_eq!(chosen(&lo, &[]), ["127.0.0.1"]);
        let mut all = lo.to_vec();
        all.push(address("wlan0", "192.0.2.7"));
        all.push(address("eth0", "198.51.100.7"));
        all.push(address("eth0", "fe80::1"));
        all.push(address("eth0", "2001:db8::7"));
        assert_eq!(chosen(&all, &["198.51.100.7"]), ["198.51.100.7", "2001:db8::7", "192.0.2.7"]);
        assert_eq!(chosen(&all, &[]), ["192.0.2.7", "198.51.100.7", "2001:db8::7"]);
    }

    #[test]
    fn a_link_local_address_is_offered_if_its_interface_has_no_other() {
        let cable = [address("lo", "127.0.0.1"), address("eth0", "169.254.8.1"), address("wlan0", "192.0.2.7")];
        assert_eq!(chosen(&cable, &["192.0.2.7"]), ["192.0.2.7", "169.254.8.1"]);
        let both = [address("eth0", "169.254.8.1"), address("eth0", "192.0.2.7")];
        assert_eq!(chosen(&both, &[]), ["192.0.2.7"]);
    }

    #[test]
    fn bridges_beyond_the_limit_are_left_out() {
        let mut all: Vec<_> = (0..40).map(|n| address(&format!("br-{n}"), &format!("172.17.{n}.1"))).collect();
        all.push(address("eth0", "192.0.2.7"));
        all.push(address("eth0", "2001:db8::7"));
        all.push(address("eth0", "2001:db8::8"));
        all.push(address("tailscale0", "100.64.0.7"));
        let chosen = chosen(&all, &["192.0.2.7", "2001:db8::8"]);
        assert_eq!(chosen[..4], ["192.0.2.7", "2001:db8::8", "100.64.0.7", "2001:db8::7"]);
        assert_eq!(chosen.len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_bridge_with_the_default_route_counts_as_an_ordinary_interface() {
        let all = [address("eth1", "192.0.2.7"), address("br-lan", "198.51.100.7")];
        assert_eq!(chosen(&all, &["198.51.100.7"]), ["198.51.100.7", "192.0.2.7"]);
    }
}
