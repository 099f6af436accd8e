//! Announces the board on its own networks, so that its address need not be known: `<name>.local` by Multicast DNS
//! (RFC 6762), and the page by DNS-SD (RFC 6763). No other module uses a Multicast DNS library.
//!
//! It answers for the addresses at which the page can be reached, and searches for no other devices.

mod names;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mdns_sd::{DaemonEvent, IfKind, IfPredicate, Metrics, RRType, Receiver, ServiceDaemon, ServiceInfo};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::tasks::Group;
use names::service_name;
pub use names::{Name, host_name};

/// The service type of the page, for service browsers (RFC 6763, section 4.1.2).
const PAGE: &str = "_http._tcp.local.";
/// The service type of the board, for programs made for it.
const BOARD: &str = "_peercam._tcp.local.";

/// How often the addresses of the board are checked, in seconds: after a cable is plugged in, the board should be found
/// soon. One check is a netlink request that takes about 50 µs.
const ADDRESS_CHECK_S: u32 = 3;

/// Time limit for getting the name once there is an address: one address check, at most 250 ms of waiting and three
/// probes 250 ms apart (RFC 6762, section 8.1), a second more for each name that is taken, and a slow board.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit for the goodbye: one packet for each network, which is not acknowledged.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(300);

/// How often the responder's memory is checked. The unit's `MemoryMax=` has to allow for what a network of 100 Mbit/s
/// can fill in this time.
const MEMORY_CHECK: Duration = Duration::from_secs(1);

/// The most records of other devices that are kept. The responder keeps records of any sender for the TTL that they
/// state, and has no limit of its own. A home with a hundred devices has about 200; this many take 2.5 MB.
const MAX_RECORDS: i64 = 4000;
/// Timers that take the memory of one record. Each repetition of a record adds two.
const TIMERS_PER_RECORD: i64 = 40;

/// The `[mdns]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Whether the board announces itself if its page can be reached from the network.
    pub enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The announced board.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The device's id.
    pub device: String,
    /// The version of the software.
    pub version: &'static str,
    /// The address that its page listens on.
    pub listens: SocketAddr,
}

/// The board's announcement on its networks, for as long as its group runs.
#[derive(Clone, Debug)]
pub struct Announcement {
    wanted: String,
    name: watch::Receiver<Option<Name>>,
}

impl Announcement {
    /// Announces `subject` until `group` stops. `None` if that is disabled, or if the page cannot be reached from a
    /// network.
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
        let (name_sender, name) = watch::channel(None);
        let responder_task = Responder { responder, events, name_sender, wanted: wanted.clone(), subject };
        let stop = group.clone();
        group.keep("the name on the network", responder_task, move |responder_task| {
            let stop = stop.clone();
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    () = responder_task.run() => {}
                }
                responder_task.withdraw().await;
            })
        });
        Some(Self { wanted, name })
    }

    /// The name that is requested, such as `front-door.local`.
    pub fn wanted(&self) -> &str {
        &self.wanted
    }

    /// The name that the board got, once it has one.
    pub fn name(&self) -> watch::Receiver<Option<Name>> {
        self.name.clone()
    }
}

/// Starts the responder, which has a thread of its own.
fn respond(subject: &Subject, host: &str) -> Result<(ServiceDaemon, Receiver<DaemonEvent>), mdns_sd::Error> {
    let responder = ServiceDaemon::new()?;
    let events = set_up(&responder, subject, host).inspect_err(|_| {
        // If it were only dropped, it would go on. It may have ended already.
        responder.shutdown().ok();
    })?;
    Ok((responder, events))
}

fn set_up(responder: &ServiceDaemon, subject: &Subject, host: &str) -> Result<Receiver<DaemonEvent>, mdns_sd::Error> {
    let listens = subject.listens.ip();
    let is_excluded = IfPredicate::new(move |interface| !is_reachable_at(interface.ip(), listens));
    responder.disable_interface(IfKind::Predicate(is_excluded))?;
    responder.set_ip_check_interval(ADDRESS_CHECK_S)?;
    let events = responder.monitor()?;
    let txt: [(&str, &str); 5] = [
        ("id", &subject.device),
        ("version", subject.version),
        ("path", "/"),
        ("whep", "/whep"),
        // A client from the network needs the secret; another method would be stated here.
        ("auth", "secret"),
    ];
    let name = service_name(&subject.device);
    for (kind, properties) in [(PAGE, &txt[2..3]), (BOARD, &txt)] {
        let service = ServiceInfo::new(kind, name, &format!("{host}."), (), subject.listens.port(), properties)?;
        responder.register(service.enable_addr_auto())?;
    }
    Ok(events)
}

/// Whether the page can be reached at an address of the board, by a client that only has the name.
fn is_reachable_at(address: IpAddr, listens: IpAddr) -> bool {
    match (address, listens) {
        _ if address.is_loopback() => false,
        // A link-local address would be announced on the other links too: the library compares prefixes, and theirs are
        // all alike. A client that has no other IPv6 address has one of IPv4 by RFC 3927.
        (IpAddr::V6(address), _) if address.is_unicast_link_local() => false,
        (IpAddr::V4(_), _) if listens.is_unspecified() => true,
        // Not if the page listens on IPv4 only.
        (IpAddr::V6(_), IpAddr::V6(_)) if listens.is_unspecified() => true,
        _ => address == listens,
    }
}

/// The task that runs the responder.
struct Responder {
    responder: ServiceDaemon,
    events: Receiver<DaemonEvent>,
    name_sender: watch::Sender<Option<Name>>,
    wanted: String,
    subject: Subject,
}

impl Responder {
    /// Follows the name, and replaces the responder when other devices fill its memory. Ends only if the library does.
    async fn run(&mut self) {
        loop {
            tokio::select! {
                () = self.listen() => {
                    tracing::error!("the board is not announced by mDNS any more: the library has ended");
                    self.name_sender.send_replace(None);
                    return;
                }
                records = self.memory_full() => tracing::warn!(
                    records,
                    "other devices fill the memory with what they announce by mDNS; the board announces itself again"
                ),
            }
            self.withdraw().await;
            // The new responder requests the name again, and may get another one.
            self.name_sender.send_replace(None);
            match respond(&self.subject, &self.wanted) {
                Ok((responder, events)) => (self.responder, self.events) = (responder, events),
                Err(error) => {
                    tracing::error!(%error, "the board is not announced by mDNS any more");
                    return;
                }
            }
        }
    }

    /// Handles the responder's events, until it ends.
    async fn listen(&self) {
        while let Ok(event) = self.events.recv_async().await {
            self.on_event(event);
        }
    }

    /// Completes once the responder uses too much memory, with the corresponding number of records. Meanwhile it warns
    /// if the name is overdue.
    async fn memory_full(&self) -> i64 {
        let mut overdue = Overdue::default();
        loop {
            sleep(MEMORY_CHECK).await;
            self.warn_if_overdue(&mut overdue);
            // A responder that is too busy to answer is asked again.
            let Ok(counted) = self.responder.get_metrics() else { continue };
            let Ok(Ok(metrics)) = timeout(MEMORY_CHECK, counted.recv_async()).await else { continue };
            let records = memory_use(&metrics);
            if records > MAX_RECORDS {
                return records;
            }
        }
    }

    fn on_event(&self, event: DaemonEvent) {
        match event {
            DaemonEvent::NameChange(change) if matches!(change.rr_type, RRType::A | RRType::AAAA) => {
                // The event comes for each address.
                self.name_sender.send_if_modified(|name| {
                    let now = Some(Name::instead_of(&self.wanted, &change.new_name));
                    (*name != now).then(|| *name = now).is_some()
                });
            }
            DaemonEvent::Announce(..) => {
                self.name_sender.send_if_modified(|name| {
                    let is_first = name.is_none();
                    name.get_or_insert_with(|| Name::as_wanted(&self.wanted));
                    is_first
                });
            }
            DaemonEvent::Error(error) => tracing::warn!(%error, "mDNS"),
            // Addresses that come and go, and answers: not relevant to an operator.
            _ => {}
        }
    }

    /// Warns if the name is overdue: the library does not report that it got no socket.
    fn warn_if_overdue(&self, overdue: &mut Overdue) {
        let listens = self.subject.listens.ip();
        let is_usable =
            |interface: &if_addrs::Interface| interface.is_oper_up() && is_reachable_at(interface.ip(), listens);
        if self.name_sender.borrow().is_some() || !if_addrs::get_if_addrs().unwrap_or_default().iter().any(is_usable) {
            overdue.reset();
        } else if overdue.is_due(Instant::now()) {
            tracing::warn!(
                name = self.wanted,
                "the board could not announce itself by mDNS; does another program use UDP port 5353 exclusively?"
            );
        }
    }

    /// Withdraws the announcement, so that no client is sent to an address that no longer answers.
    async fn withdraw(&self) {
        let Ok(done) = self.responder.shutdown() else { return };
        if timeout(GOODBYE_TIMEOUT, done.recv_async()).await.is_err() {
            tracing::debug!("the goodbye by mDNS was not sent in time");
        }
    }
}

/// The responder's memory use, as a number of records.
fn memory_use(metrics: &Metrics) -> i64 {
    let records = metrics.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count);
    records.sum::<i64>() + metrics.get("timer").copied().unwrap_or_default() / TIMERS_PER_RECORD
}

/// Whether the name is overdue: there is an address, and no name yet.
#[derive(Debug, Default)]
struct Overdue {
    since: Option<Instant>,
    is_warned: bool,
}

impl Overdue {
    /// There is a name, or no address for one.
    fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether to warn now, which is done once.
    fn is_due(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_due = !self.is_warned && now - since >= ANNOUNCE_TIMEOUT;
        self.is_warned |= is_due;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_at_which_the_page_can_be_reached_are_announced() {
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
            assert_eq!(
                is_reachable_at(address.parse().unwrap(), listens.parse().unwrap()),
                expected,
                "{address} {listens}"
            );
        }
    }

    #[test]
    fn the_time_limit_for_the_name_starts_with_the_first_address() {
        let (mut overdue, begun) = (Overdue::default(), Instant::now());
        assert!(!overdue.is_due(begun));
        assert!(!overdue.is_due(begun + ANNOUNCE_TIMEOUT / 2));
        assert!(overdue.is_due(begun + ANNOUNCE_TIMEOUT));
        assert!(!overdue.is_due(begun + 2 * ANNOUNCE_TIMEOUT), "warned once");
        overdue.reset();
        assert!(!overdue.is_due(begun + 3 * ANNOUNCE_TIMEOUT), "the cable was pulled, and plugged in just now");
        assert!(overdue.is_due(begun + 4 * ANNOUNCE_TIMEOUT));
    }

    #[test]
    fn memory_use_includes_records_and_timers() {
        let metrics =
            |properties: &[(&str, i64)]| properties.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(memory_use(&metrics(&[])), 0);
        assert_eq!(memory_use(&metrics(&[("cached-addr", 7), ("cached-txt", 2), ("respond", 1000)])), 9);
        assert_eq!(memory_use(&metrics(&[("cached-addr", 1), ("timer", 4000)])), 101);
    }

    #[tokio::test]
    async fn nothing_is_announced_if_disabled_or_unreachable() {
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
