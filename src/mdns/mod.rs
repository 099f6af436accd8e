//! Announces the board on its own networks, so that nobody has to know its address: `<name>.local` by Multicast DNS
//! (RFC 6762), and the page by DNS-SD (RFC 6763). The only room that knows a Multicast DNS library.
//!
//! It answers for the addresses on which the page is to be had, and asks nothing.

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

/// How often is looked at what the responder keeps. What a network of 100 Mbit/s can fill in this time is for the unit's
/// `MemoryMax=` to bear.
const COUNTED: Duration = Duration::from_secs(1);

/// How many records of other devices are kept at most. It keeps what anybody sends, for as long as the sender says, and
/// has no limit of its own. A home with a hundred devices has about 200; these take 2.5 MB.
const MOST_RECORDS: i64 = 4000;
/// So many of its timers take the memory of a record. Each repetition of a record makes two.
const TIMERS_A_RECORD: i64 = 40;

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
        let presence = Presence { responder, events, told, wanted: wanted.clone(), subject };
        let stop = group.clone();
        group.keep("the name on the network", presence, move |presence| {
            let stop = stop.clone();
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    () = presence.follow() => {}
                }
                presence.part().await;
            })
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
    let events = set_up(&responder, subject, host).inspect_err(|_| {
        // Dropped, it would go on. If it has ended already, that is as well.
        responder.shutdown().ok();
    })?;
    Ok((responder, events))
}

fn set_up(responder: &ServiceDaemon, subject: &Subject, host: &str) -> Result<Receiver<DaemonEvent>, mdns_sd::Error> {
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
    let name = service_name(&subject.device);
    for (kind, facts) in [(PAGE, &about[2..3]), (BOARD, &about)] {
        let service = ServiceInfo::new(kind, name, &format!("{host}."), (), subject.listens.port(), facts)?;
        responder.register(service.enable_addr_auto())?;
    }
    Ok(events)
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
    subject: Subject,
}

impl Presence {
    /// Follows what becomes of the name, with one responder after the other where others fill its memory. Ends only if
    /// the library does.
    async fn follow(&mut self) {
        loop {
            tokio::select! {
                () = self.listen() => {
                    tracing::error!("the board is not announced by mDNS any more: the library has ended");
                    self.told.send_replace(None);
                    return;
                }
                records = self.filled() => tracing::warn!(
                    records,
                    "other devices fill the memory with what they announce by mDNS; the board announces itself anew"
                ),
            }
            self.part().await;
            // It asks for its name again, and may get another one.
            self.told.send_replace(None);
            match respond(&self.subject, &self.wanted) {
                Ok((responder, events)) => (self.responder, self.events) = (responder, events),
                Err(error) => {
                    tracing::error!(%error, "the board is not announced by mDNS any more");
                    return;
                }
            }
        }
    }

    /// Takes what the responder tells, until it ends.
    async fn listen(&self) {
        while let Ok(event) = self.events.recv_async().await {
            self.take(event);
        }
    }

    /// Completes once the responder keeps too much, with how many records that is like. On the way there it says if the
    /// name does not come.
    async fn filled(&self) -> i64 {
        let mut doubt = Doubt::default();
        loop {
            sleep(COUNTED).await;
            self.doubt(&mut doubt);
            // A responder that has too much to do to answer is asked again.
            let Ok(counted) = self.responder.get_metrics() else { continue };
            let Ok(Ok(metrics)) = timeout(COUNTED, counted.recv_async()).await else { continue };
            let records = burden(&metrics);
            if records > MOST_RECORDS {
                return records;
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
    fn doubt(&self, doubt: &mut Doubt) {
        let listens = self.subject.listens.ip();
        let is_usable = |interface: &if_addrs::Interface| interface.is_oper_up() && is_page_at(interface.ip(), listens);
        if self.told.borrow().is_some() || !if_addrs::get_if_addrs().unwrap_or_default().iter().any(is_usable) {
            doubt.dispel();
        } else if doubt.is_due(Instant::now()) {
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

/// How many records' worth of memory the responder keeps.
fn burden(metrics: &Metrics) -> i64 {
    let records = metrics.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count);
    records.sum::<i64>() + metrics.get("timer").copied().unwrap_or_default() / TIMERS_A_RECORD
}

/// Whether the name will come, where there is an address and none yet.
#[derive(Debug, Default)]
struct Doubt {
    since: Option<Instant>,
    is_said: bool,
}

impl Doubt {
    /// There is a name, or no address for it.
    fn dispel(&mut self) {
        *self = Self::default();
    }

    /// Whether it is to be said now, which is once.
    fn is_due(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_due = !self.is_said && now - since >= ANNOUNCED;
        self.is_said |= is_due;
        is_due
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

    #[test]
    fn the_name_is_waited_for_from_the_first_address_on_each_time() {
        let (mut doubt, begun) = (Doubt::default(), Instant::now());
        assert!(!doubt.is_due(begun));
        assert!(!doubt.is_due(begun + ANNOUNCED / 2));
        assert!(doubt.is_due(begun + ANNOUNCED));
        assert!(!doubt.is_due(begun + 2 * ANNOUNCED), "said once");
        doubt.dispel();
        assert!(!doubt.is_due(begun + 3 * ANNOUNCED), "the cable was pulled, and plugged in just now");
        assert!(doubt.is_due(begun + 4 * ANNOUNCED));
    }

    #[test]
    fn what_is_kept_counts_with_what_repeating_it_leaves() {
        let metrics = |facts: &[(&str, i64)]| facts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(burden(&metrics(&[])), 0);
        assert_eq!(burden(&metrics(&[("cached-addr", 7), ("cached-txt", 2), ("respond", 1000)])), 9);
        assert_eq!(burden(&metrics(&[("cached-addr", 1), ("timer", 4000)])), 101);
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
