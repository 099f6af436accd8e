//! How people find the board: the link to its page, its name on the network, and what the console says of the secret.

use std::io;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use tokio::sync::watch;

use crate::config::{Config, SecretOrigin};
use crate::mdns;
use crate::mdns::Announcement;
use crate::mdns::Name;
use crate::mdns::Subject;
use crate::notices::Notices;
use crate::systemd;
use crate::tasks::Group;

/// What its notice is about.
const ABOUT: &str = "name";

/// What to do about a secret that is made and cannot be kept.
pub const KEEP_SECRET: &str = "Make the state directory writable, or choose a secret: `web.secret`";

/// Where the page is. The listener's address, and the name under which it is announced.
#[derive(Clone, Debug)]
pub struct Place {
    address: SocketAddr,
    name: Option<String>,
}

impl Place {
    /// Where a page with this configuration is to be had.
    pub fn of(config: &Config) -> Self {
        let address = config.web.listen;
        let is_announced = config.mdns.enabled && !address.ip().is_loopback();
        Self { address, name: is_announced.then(|| mdns::host_name(&config.device_id())) }
    }

    /// The same, under the name that it got, if it got one.
    pub fn under(self, name: Option<&str>) -> Self {
        Self { name: name.map(str::to_owned).or(self.name), ..self }
    }

    /// What to open in a browser on this machine or, where the page is there for the network, on another one.
    pub fn link(&self) -> String {
        match &self.name {
            Some(name) => format!("http://{name}:{}/", self.address.port()),
            None => self.link_by_address().unwrap_or_else(|| format!("http://{}/", self.address)),
        }
    }

    /// The same by its address, for those whose devices do not know such names; `None` while there is no network.
    pub fn link_by_address(&self) -> Option<String> {
        let ip = if self.address.ip().is_unspecified() { outward()? } else { self.address.ip() };
        Some(format!("http://{}/", SocketAddr::new(ip, self.address.port())))
    }
}

/// The board's address towards the network, or on the first one where that leads nowhere else. Nothing is sent: the
/// kernel is asked for the route to an address that is nobody's (RFC 5737).
fn outward() -> Option<IpAddr> {
    let routed = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let is_usable = |interface: &if_addrs::Interface| interface.is_oper_up() && !interface.is_loopback();
    let near = || {
        let interfaces = if_addrs::get_if_addrs().ok()?.into_iter().filter(is_usable);
        interfaces.map(|interface| interface.ip()).find(IpAddr::is_ipv4)
    };
    routed().or_else(near)
}

/// Tells the networks that the board is at `address`, and says where when that becomes something else. Gives the place,
/// and the name that the board got.
pub fn announce(
    config: &Config,
    address: SocketAddr,
    notices: &Notices,
    group: &Group,
) -> (Place, watch::Receiver<Option<String>>) {
    let (got, local_name) = watch::channel(None);
    let subject = Subject { device: config.device_id(), version: env!("CARGO_PKG_VERSION"), listens: address };
    let Some(announcement) = Announcement::open(&config.mdns, subject, group) else {
        return (Place { address, name: None }, local_name);
    };
    let place = Place { address, name: Some(announcement.wanted().to_owned()) };
    let (mut names, notices, stop) = (announcement.name(), notices.clone(), group.clone());
    group.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                changed = names.changed() => if changed.is_err() { break },
            }
            let name = names.borrow_and_update().clone();
            got.send_replace(name.as_ref().map(|name| name.host.clone()));
            if let Some(name) = name {
                name_found(&name, address, &notices);
            }
        }
    });
    (place, local_name)
}

fn name_found(name: &Name, address: SocketAddr, notices: &Notices) {
    let place = Place { address, name: Some(name.host.clone()) };
    let link = place.link();
    match &name.taken {
        Some(taken) => notices.tell(
            ABOUT,
            format!(
                "Another device on this network has the name {taken}. This camera is at {link} until it starts again; \
                 give it a name of its own (device.id)."
            ),
        ),
        None => notices.withdraw(ABOUT),
    }
    tracing::info!(link, address = place.link_by_address(), "announced on the network");
    systemd::status(&format!("serving at {link}"));
}

/// Tells the operator about the secret: on standard output, since the log, which is on the other one, is often sent
/// elsewhere.
pub fn show(config: &Config, origin: &SecretOrigin) {
    match (origin, &config.web.secret) {
        (SecretOrigin::Made { kept, instead }, Some(secret)) => {
            let place = Place::of(config);
            let or = place.link_by_address().filter(|link| *link != place.link());
            let or = or.map(|link| format!(" or {link}")).unwrap_or_default();
            let because = match instead {
                None => "This camera can be reached from the network, so it has a secret now:".to_owned(),
                Some(reason) => {
                    format!("The secret of this camera cannot be used: what was kept {reason}. It has a new one:")
                }
            };
            let until = match kept {
                Ok(file) => format!("It is shown this once, and kept in {}.", file.display()),
                Err(reason) => {
                    format!("It holds until the next start only, since it cannot be kept ({reason}). {KEEP_SECRET}.")
                }
            };
            let shown = format!(
                "\n{because}\n\n    {}\n\nThe page asks for it: open {}{or}\n{until}\n\n",
                secret.reveal(),
                place.link(),
            );
            // Nobody may be there to see it; it is kept all the same.
            io::stdout().write_all(shown.as_bytes()).ok();
            let (file, unkept) = (kept.as_ref().ok().map(|file| file.display().to_string()), kept.as_ref().err());
            match instead {
                None => tracing::info!(file, unkept, "a secret was made"),
                Some(reason) => tracing::warn!(file, unkept, reason, "a secret was made in the place of a lost one"),
            }
        }
        (SecretOrigin::Kept(file), _) => tracing::info!(file = %file.display(), "the secret is the one made earlier"),
        (
            SecretOrigin::Made { .. } | SecretOrigin::Configured | SecretOrigin::Credential | SecretOrigin::NotNeeded,
            _,
        ) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(toml: &str) -> String {
        Place::of(&Config::parse(toml).unwrap()).link()
    }

    #[test]
    fn a_board_for_the_network_is_linked_to_by_its_name_and_one_for_this_machine_by_its_address() {
        assert_eq!(link(""), "http://127.0.0.1:8080/");
        assert_eq!(link("[device]\nid = \"Front_Door\"\n[web]\nlisten = \"[::]:80\""), "http://front-door.local:80/");
        let by_address = link("[web]\nlisten = \"192.0.2.7:8080\"\n[mdns]\nenabled = false");
        assert_eq!(by_address, "http://192.0.2.7:8080/");
    }
}
