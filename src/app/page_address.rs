//! The address of the board's page, as a link.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::config::Config;
use crate::mdns;

/// Address of the page: the listener's address, and the name under which it is announced.
#[derive(Clone, Debug)]
pub struct PageAddress {
    pub(super) address: SocketAddr,
    /// The mDNS name.
    pub(super) name: Option<String>,
}

impl PageAddress {
    /// The address of the page with this configuration.
    pub fn of(config: &Config) -> Self {
        let address = config.web.listen;
        let is_announced = config.mdns.enabled && !address.ip().is_loopback();
        Self { address, name: is_announced.then(|| mdns::host_name(&config.device_id())) }
    }

    /// The same address under `name`, if there is one.
    pub fn under(self, name: Option<&str>) -> Self {
        Self { name: name.map(str::to_owned).or(self.name), ..self }
    }

    /// The link to open in a browser on this machine or, if the page is open to the network, on another one.
    pub fn link(&self) -> String {
        match &self.name {
            Some(name) => format!("http://{name}:{}/", self.address.port()),
            None => self.link_by_address().unwrap_or_else(|| format!("http://{}/", self.address)),
        }
    }

    /// The link by IP address, for devices that do not resolve mDNS names; `None` while there is no network.
    pub fn link_by_address(&self) -> Option<String> {
        let ip = if self.address.ip().is_unspecified() { outbound_address()? } else { self.address.ip() };
        Some(format!("http://{}/", SocketAddr::new(ip, self.address.port())))
    }
}

/// The board's address towards other networks, or without such a route that of the first usable interface. Nothing
/// is sent: the kernel looks up the route to a documentation address (RFC 5737).
fn outbound_address() -> Option<IpAddr> {
    let of_route = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let is_usable = |interface: &if_addrs::Interface| interface.is_oper_up() && !interface.is_loopback();
    let of_interface = || {
        let interfaces = if_addrs::get_if_addrs().ok()?.into_iter().filter(is_usable);
        interfaces.map(|interface| interface.ip()).find(IpAddr::is_ipv4)
    };
    of_route().or_else(of_interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(toml: &str) -> String {
        PageAddress::of(&Config::parse(toml).unwrap()).link()
    }

    #[test]
    fn the_link_has_the_name_on_the_network_and_the_address_on_loopback() {
        assert_eq!(link(""), "http://127.0.0.1:8080/");
        assert_eq!(link("[device]\nid = \"Front_Door\"\n[web]\nlisten = \"[::]:80\""), "http://front-door.local:80/");
        let by_address = link("[web]\nlisten = \"192.0.2.7:8080\"\n[mdns]\nenabled = false");
        assert_eq!(by_address, "http://192.0.2.7:8080/");
    }
}
