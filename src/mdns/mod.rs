//! Announces the board on its own networks, so that nobody has to know its address: `<name>.local` by Multicast DNS
//! (RFC 6762), and the page by DNS-SD (RFC 6763). The only room that knows a Multicast DNS library.
//!
//! It answers for the addresses on which the page is to be had, and asks nothing.

mod names;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use mdns_sd::{DaemonEvent, IfKind, IfPredicate, RRType, Receiver, ServiceDaemon, ServiceInfo};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::tasks::Group;
pub use names::{Name, host_name};

/// The page, as browsers of services look for it (RFC 6763, section 4.1.2).
const PAGE: &str = "_http._tcp.local.";
/// The board as such, for programs that know it.
const BOARD: &str = "_peercam._tcp.local.";

/// How often the addresses of the board are looked at, in seconds: who plugs in a cable looks for the board soon after.
/// One look is a netlink request that takes about 50 µs.
const LOOK_S: u32 = 3;

/// How long the name may take from the time when there is an address: a look, at most 250 ms of waiting and three probes
/// 250 ms apart (RFC 6762, section 8.1), a second more for each name that is taken, and a slow board.
const ANNOUNCED: Duration = Duration::from_secs(20);

/// How long goodbye may take: it is one packet for each network, which nobody acknowledges.
const GOODBYE: Duration = Duration::from_millis(300);

/// The `[mdns]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Whether the board announces itself where its page can be reached from the network.
    pub enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// What is announced.
#[derive(Clone, Debug)]
pub struct Subject {
    /// How the board calls itself.
    pub device: String,
    /// Of the software.
    pub version: &'static str,
    /// Where its page is.
    pub listens: SocketAddr,
}

/// The board's presence on its networks, for as long as its group runs.
#[derive(Clone, Debug)]
pub struct Announcement {
    wanted: String,
    name: watch::Receiver<Option<Name>>,
}

impl Announcement {
    /// Begins to announce `subject`, until `group` stops; nothing where that is switched off, or where the page cannot be
    /// reached from a network.
    pub fn open(config: &Config, subject: Subject, group: &Group) -> Option<Self> {
        if !config.enabled || subject.listens.ip().is_loopback() {
            return None;
        }
        let wanted = host_name(&subject.device);
        let (responder, events) = match respond(&subject, &wanted) {
            Ok(responder) => responder,
            Err(error) => {
                tracing::warn!(%error, "the board cannot announce itself by mDNS");
                return None;
            }
        };
        let (told, name) = watch::channel(None);
        let presence = Presence { responder, events, told, wanted: wanted.clone(), listens: subject.listens.ip() };
        let stop = group.clone();
        group.spawn(async move {
            tokio::select! {
                biased;
                () = stop.stopped() => {}
                () = presence.follow() => {}
            }
            presence.part().await;
        });
        Some(Self { wanted, name })
    }

    /// The name that is asked for, such as `front-door.local`.
    pub fn wanted(&self) -> &str {
        &self.wanted
    }

    /// The name that was got, once it was.
    pub fn name(&self) -> watch::Receiver<Option<Name>> {
        self.name.clone()
    }
}

/// Starts the responder, which has a thread of its own.
fn respond(subject: &Subject, host: &str) -> Result<(ServiceDaemon, Receiver<DaemonEvent>), mdns_sd::Error> {
    let responder = ServiceDaemon::new()?;
    let listens = subject.listens.ip();
    let is_left_out = IfPredicate::new(move |interface| !is_page_at(interface.ip(), listens));
    responder.disable_interface(IfKind::Predicate(is_left_out))?;
    responder.set_ip_check_interval(LOOK_S)?;
    let events = responder.monitor()?;
    let about: [(&str, &str); 5] = [
        ("id", &subject.device),
        ("version", subject.version),
        ("path", "/"),
        ("whep", "/whep"),
        // Whoever comes from the network is asked for the secret; what else there may be once, is for this word to say.
        ("auth", "secret"),
    ];
    for (kind, facts) in [(PAGE, &about[2..3]), (BOARD, &about)] {
        let service = ServiceInfo::new(kind, &subject.device, &format!("{host}."), (), subject.listens.port(), facts)?;
        responder.register(service.enable_addr_auto())?;
    }
    Ok((responder, events))
}

/// Whether the page can be had at an address of the board, and by one who only has the name.
fn is_page_at(address: IpAddr, listens: IpAddr) -> bool {
    match (address, listens) {
        _ if address.is_loopback() => false,
        // One that is valid on a single link would be told on the other links too: the library compares prefixes, and
        // theirs are all alike. Whoever has no address but this has one of IPv4 by RFC 3927.
        (IpAddr::V6(address), _) if address.is_unicast_link_local() => false,
        (IpAddr::V4(_), _) if listens.is_unspecified() => true,
        // Not where the page listens to IPv4 only.
        (IpAddr::V6(_), IpAddr::V6(_)) if listens.is_unspecified() => true,
        _ => address == listens,
    }
}

/// What the task holds.
struct Presence {
    responder: ServiceDaemon,
    events: Receiver<DaemonEvent>,
    told: watch::Sender<Option<Name>>,
    wanted: String,
    listens: IpAddr,
}

impl Presence {
    /// Follows what becomes of the name. Ends only if the library does.
    async fn follow(&self) {
        let mut overdue = pin!(sleep(ANNOUNCED));
        let mut is_overdue = false;
        loop {
            let event = tokio::select! {
                event = self.events.recv_async() => event,
                () = overdue.as_mut(), if !is_overdue => {
                    is_overdue = true;
                    self.doubt();
                    continue;
                }
            };
            match event {
                Ok(event) => self.take(event),
                Err(_) => {
                    tracing::error!("the board is not announced by mDNS any more: the library has ended");
                    self.told.send_replace(None);
                    return;
                }
            }
        }
    }

    fn take(&self, event: DaemonEvent) {
        match event {
            DaemonEvent::NameChange(change) if matches!(change.rr_type, RRType::A | RRType::AAAA) => {
                // It comes for each address.
                self.told.send_if_modified(|name| {
                    let now = Some(Name::instead_of(&self.wanted, &change.new_name));
                    (*name != now).then(|| *name = now).is_some()
                });
            }
            DaemonEvent::Announce(..) => {
                self.told.send_if_modified(|name| {
                    let is_first = name.is_none();
                    name.get_or_insert_with(|| Name::as_wanted(&self.wanted));
                    is_first
                });
            }
            DaemonEvent::Error(error) => tracing::warn!(%error, "mDNS"),
            // Addresses that come and go, and answers: nothing that an operator asks for.
            _ => {}
        }
    }

    /// The library does not say that it got no socket.
    fn doubt(&self) {
        let addresses = if_addrs::get_if_addrs().unwrap_or_default();
        let has_address =
            addresses.iter().any(|interface| interface.is_oper_up() && is_page_at(interface.ip(), self.listens));
        if has_address && self.told.borrow().is_none() {
            tracing::warn!(
                name = self.wanted,
                "the board could not announce itself by mDNS; does another program keep UDP port 5353 to itself?"
            );
        }
    }

    /// Takes everything back, so that nobody is sent to where nothing is any more.
    async fn part(&self) {
        let Ok(done) = self.responder.shutdown() else { return };
        if timeout(GOODBYE, done.recv_async()).await.is_err() {
            tracing::debug!("goodbye by mDNS was not said in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_at_which_the_page_is_are_announced() {
        let cases = [
            ("192.0.2.1", "0.0.0.0", true),
            ("192.0.2.1", "::", true),
            ("169.254.7.7", "::", true),
            ("2001:db8::1", "::", true),
            ("2001:db8::1", "0.0.0.0", false),
            ("fe80::1", "::", false),
            ("127.0.0.1", "0.0.0.0", false),
            ("::1", "::", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.2", "192.0.2.1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("192.0.2.1", "2001:db8::1", false),
        ];
        for (address, listens, expected) in cases {
            assert_eq!(is_page_at(address.parse().unwrap(), listens.parse().unwrap()), expected, "{address} {listens}");
        }
    }

    #[tokio::test]
    async fn nothing_is_announced_where_it_is_switched_off_or_nobody_could_come() {
        let group = Group::new();
        let subject =
            |listens: &str| Subject { device: "board".into(), version: "1", listens: listens.parse().unwrap() };
        let off = Config { enabled: false };
        assert!(Announcement::open(&off, subject("0.0.0.0:80"), &group).is_none());
        assert!(Announcement::open(&Config::default(), subject("127.0.0.1:80"), &group).is_none());
        assert!(Announcement::open(&Config::default(), subject("[::1]:80"), &group).is_none());
        assert!(group.is_empty());
    }
}
