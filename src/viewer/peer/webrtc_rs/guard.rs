//! Filters datagrams between the network and the WebRTC stack.
//!
//! Once the crate has a path, it accepts anything that is not STUN from any address (`rtc` 0.21.1,
//! `handler/ice.rs:77`), and it resolves role conflicts before it has verified the sender (`rtc-ice` 0.21.1,
//! `agent/mod.rs:1278`). So datagrams of strangers are discarded here (RFC 8445, section 12: data is only for
//! candidates that a check has verified). Only datagrams that require knowledge of the viewer's session, or that come
//! from our own TURN relay, are passed on.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use tokio::sync::Notify;
use webrtc::runtime::{AsyncUdpSocket, Transmit};

use super::checks::Checks;
use super::dtls_messages::DtlsRole;
use super::handshake::{Handshake, Refusal, Sent, Verdict};
use super::path::Path;
use super::receive_quota::ReceiveQuota;
use super::sockets::{Decision, Route};
use super::stun;
use crate::sdp::Credentials;
use crate::tasks::sleep_until;

/// Maximum number of a viewer's addresses that are verified at one socket: the viewer moves between a few networks, or
/// a NAT changes its address.
const MAX_VERIFIED: usize = 16;

/// State that the sockets of one connection share.
#[derive(Debug, Default)]
pub struct Guard {
    handshake: Mutex<Handshake>,
    /// Notified when the time at which the handshake's last flight is due may have changed.
    changed: Notify,
    /// The socket that sent that flight, and its destination.
    route: Mutex<Option<(Arc<dyn AsyncUdpSocket>, SocketAddr)>>,
    /// Notified when the viewer has ended the connection.
    ended: Notify,
    /// Once set, nothing passes: a restarting viewer must not find a path that is about to end.
    is_over: AtomicBool,
    /// Shared by all connections of the viewer, like `checks`.
    receive_quota: Arc<Mutex<ReceiveQuota>>,
    checks: Arc<Mutex<Checks>>,
    path: Mutex<Path>,
    /// Whether [`detour`](Guard::detour) returns a route: read for each packet, without a lock.
    has_detour: AtomicBool,
    /// Notified when the viewer's nomination has led to another path.
    moved: Notify,
    /// The start of the USERNAME of checks sent to us: our user name fragment and a colon (RFC 8445, section 7.2.2).
    name: Mutex<Option<String>>,
}

/// The decision on a datagram that the stack sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendVerdict {
    /// It is sent.
    Sent,
    /// It is sent and belongs to the handshake: [`Guard::remember`] records the socket and the destination.
    SentHandshake,
    /// It is not sent.
    HeldBack,
}

/// Addresses that one socket communicates with.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Verified addresses: those whose checks the stack has answered, which it does if they are signed with our
    /// password; and our relays.
    verified: Mutex<VecDeque<SocketAddr>>,
}

impl Guard {
    /// A guard for another connection of the same viewer. It shares the limits that apply to the viewer as a whole.
    pub fn additional(&self) -> Self {
        Self { receive_quota: self.receive_quota.clone(), checks: self.checks.clone(), ..Self::default() }
    }

    /// Called when the stack restarts ICE: it has forgotten its pair.
    pub fn on_restart(&self) {
        self.on_path(Path::restart);
    }

    /// Called when the viewer gets an answer: `ours` are the board's credentials in it, `theirs` the viewer's.
    pub fn on_answer(&self, ours: Credentials, theirs: Credentials) {
        *self.name.lock().expect(UNPOISONED) = Some(format!("{}:", ours.ufrag));
        self.checks.lock().expect(UNPOISONED).restart();
        self.on_path(|path| path.begin(ours, theirs));
    }

    /// Adds an address at which the viewer may be.
    pub fn add_peer_address(&self, address: SocketAddr) {
        self.on_path(|path| path.add_peer_address(address));
    }

    /// Called when the stack has gathered one of our addresses as a candidate.
    pub fn on_gathered(&self, local: SocketAddr) {
        self.on_path(|path| path.gathered(local));
    }

    /// Called when the stack has opened a socket.
    pub fn on_open(&self, local: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        self.on_path(|path| path.open(local, socket));
    }

    /// Called when the stack has closed a socket.
    pub fn on_close(&self, local: SocketAddr) {
        self.on_path(|path| path.close(local));
    }

    /// Called when the connection has ended.
    pub fn on_end(&self) {
        self.on_path(Path::end);
    }

    /// Whether the viewer is still reached on the path from before a restart.
    pub fn is_former(&self) -> bool {
        self.on_path(|path| path.is_former())
    }

    /// Waits until the viewer is reached on another path than before a restart.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// The next synthetic datagram for the stack at a socket, and its sender.
    pub fn next_injected(&self, local: SocketAddr, waker: &Waker) -> Option<(SocketAddr, Vec<u8>)> {
        self.on_path(|path| path.next_injected(local, waker))
    }

    /// The route on which everything except checks is sent, if the stack has selected another pair.
    pub fn detour(&self) -> Option<Route> {
        if !self.has_detour.load(Ordering::Acquire) {
            return None;
        }
        self.path.lock().expect(UNPOISONED).detour().cloned()
    }

    /// The route, if only the socket at `local` is left to receive for it.
    pub fn closed_route_for(&self, local: SocketAddr) -> Option<Route> {
        self.on_path(|path| path.closed_route_for(local))
    }

    /// Sends the datagrams that are to be sent in addition to those of the stack. A datagram that cannot be sent at
    /// once is lost.
    pub fn flush(&self, cx: &mut Context<'_>) {
        for (socket, destination, contents) in self.on_path(Path::outgoing) {
            let transmit = Transmit { destination, ecn: None, contents: &contents, segment_size: None, src_ip: None };
            let sent = socket.poll_send(cx, &transmit);
            tracing::trace!(?sent, "a check of the viewer's path");
        }
    }

    fn on_path<T>(&self, act: impl FnOnce(&mut Path) -> T) -> T {
        let mut path = self.path.lock().expect(UNPOISONED);
        let result = act(&mut path);
        self.has_detour.store(path.detour().is_some(), Ordering::Release);
        if path.has_moved() {
            self.moved.notify_one();
        }
        result
    }

    /// The viewer has sent this many bytes that name candidates.
    pub fn add_credit(&self, bytes: usize) {
        self.checks.lock().expect(UNPOISONED).earn(bytes);
    }

    /// Sets the stack's role in the handshake.
    pub fn set_role(&self, part: DtlsRole) {
        self.handshake.lock().expect(UNPOISONED).set_role(part);
    }

    /// Called when media can flow.
    pub fn connected(&self) {
        self.handshake.lock().expect(UNPOISONED).complete();
    }

    /// Called when a message of the viewer, of that many bytes, has been read.
    pub fn read(&self, bytes: usize) {
        self.receive_quota.lock().expect(UNPOISONED).read(bytes);
    }

    /// Waits until the viewer ends the connection.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Decides on a datagram that the stack sends.
    pub fn on_send(
        &self,
        addresses: &Addresses,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> SendVerdict {
        if self.is_over.load(Ordering::Relaxed)
            || self.on_path(|path| path.on_send(from, to, datagram, now)) == Decision::Drop
        {
            return SendVerdict::HeldBack;
        }
        if stun::is_message(datagram) {
            match [datagram[0], datagram[1]] {
                stun::BINDING_SUCCESS | stun::ALLOCATE_REQUEST => addresses.verify(to),
                // A request without USERNAME goes to our STUN server.
                stun::BINDING_REQUEST if stun::attribute(datagram, stun::USERNAME).is_some() => {
                    let admits = || self.checks.lock().expect(UNPOISONED).admit(from, to, datagram.len(), now);
                    return if addresses.has_verified_address(to) || admits() {
                        SendVerdict::Sent
                    } else {
                        SendVerdict::HeldBack
                    };
                }
                _ => {}
            }
        }
        let content = stun::content(datagram);
        if is_dtls(content) {
            match self.handshake.lock().expect(UNPOISONED).sent(content, datagram, now) {
                Sent::Flight => return SendVerdict::SentHandshake,
                Sent::End => {
                    self.is_over.store(true, Ordering::Relaxed);
                    self.ended.notify_one();
                }
                Sent::Refusal => self.changed.notify_one(),
                Sent::Other => {}
            }
        }
        SendVerdict::Sent
    }

    /// Records where a datagram of the handshake is sent.
    pub fn remember(&self, socket: &Arc<dyn AsyncUdpSocket>, to: SocketAddr) {
        *self.route.lock().expect(UNPOISONED) = Some((socket.clone(), to));
        self.changed.notify_one();
    }

    /// Sends our last flight of the handshake again whenever it is due, until the handshake is refused. Cancelling it
    /// loses at most one datagram.
    pub async fn repeat(&self) -> Refusal {
        loop {
            let (due, refusal_due) = {
                let mut handshake = self.handshake.lock().expect(UNPOISONED);
                if let Some(refusal) = handshake.refused(Instant::now()) {
                    return refusal;
                }
                (handshake.due(), handshake.refusal_due())
            };
            let search = self.on_path(|path| path.next_search());
            tokio::select! {
                biased;
                () = self.changed.notified() => continue,
                () = sleep_until(refusal_due) => continue,
                () = sleep_until(search) => {
                    let mut checks = self.checks.lock().expect(UNPOISONED);
                    self.on_path(|path| path.search(&mut checks, Instant::now()));
                    continue;
                }
                () = sleep_until(due) => {}
            }
            let flight = self.handshake.lock().expect(UNPOISONED).repeat(Instant::now());
            let route = self.route.lock().expect(UNPOISONED).clone();
            // After a restart the flight is sent on the route, except through a relay.
            let detour = self.detour().filter(|detour| !detour.is_relayed());
            let detour = detour.map(|detour| (detour.socket.clone(), detour.to()));
            let Some((socket, to)) = detour.or(route) else { continue };
            for datagram in flight {
                let sent = socket.send_to(&datagram, to).await;
                tracing::trace!(?sent, "a flight of the handshake is repeated");
            }
        }
    }

    /// Decides on a datagram that was received at a socket of the stack.
    pub fn on_receive(
        &self,
        addresses: &Addresses,
        at: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Verdict {
        let is_over = self.is_over.load(Ordering::Relaxed);
        if is_over || (!addresses.has_verified_address(from) && !self.is_addressed_to_us(datagram)) {
            return Verdict::Discard;
        }
        self.inspect(at, from, datagram, now)
    }

    /// The content of a datagram for the stack, received on a route whose socket the stack has closed; `None` if there
    /// is none.
    pub fn on_receive_for_closed<'a>(
        &self,
        route: &Route,
        from: SocketAddr,
        datagram: &'a [u8],
        now: Instant,
    ) -> Option<&'a [u8]> {
        let content = stun::content(datagram);
        let is_given = from == route.to() && self.inspect(route.pair.local, from, datagram, now) == Verdict::Pass;
        (is_given && !stun::is_message(content)).then_some(content)
    }

    fn inspect(&self, at: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        // RTP and RTCP are not inspected.
        if datagram.first().is_none_or(|first| *first >= 128) {
            return Verdict::Pass;
        }
        if self.on_path(|path| path.on_receive(at, from, datagram)) == Decision::Drop {
            return Verdict::Discard;
        }
        let content = stun::content(datagram);
        if is_dtls(content) {
            let verdict = self.handshake.lock().expect(UNPOISONED).received(content, now);
            let is_admitted = || self.receive_quota.lock().expect(UNPOISONED).admit(content.len(), now);
            if verdict == Verdict::Pass && !is_admitted() {
                return Verdict::Discard;
            }
            if verdict == Verdict::Pass {
                self.on_path(|path| path.keep_early(at, from, datagram));
            }
            // A discarded datagram may be a repeat, which has to be answered with our flight.
            if verdict == Verdict::Discard {
                self.changed.notify_one();
            }
            return verdict;
        }
        Verdict::Pass
    }

    /// Whether an unverified address may send this: a response, which has the id of a transaction of ours, or a check
    /// with our user name fragment.
    fn is_addressed_to_us(&self, datagram: &[u8]) -> bool {
        if !stun::is_message(datagram) {
            return false;
        }
        if stun::is_response(datagram) {
            return true;
        }
        let name = self.name.lock().expect(UNPOISONED);
        let asked = stun::attribute(datagram, stun::USERNAME);
        let is_check = datagram.starts_with(&stun::BINDING_REQUEST);
        is_check && name.as_ref().zip(asked).is_some_and(|(name, asked)| asked.starts_with(name.as_bytes()))
    }
}

/// The panic message for locks whose holders never panic.
pub const UNPOISONED: &str = "lock is never poisoned: no panic while held";

impl Addresses {
    fn verify(&self, address: SocketAddr) {
        let mut verified = self.verified.lock().expect(UNPOISONED);
        if verified.contains(&address) {
            return;
        }
        if verified.len() == MAX_VERIFIED {
            verified.pop_front();
        }
        verified.push_back(address);
    }

    fn has_verified_address(&self, address: SocketAddr) -> bool {
        self.verified.lock().expect(UNPOISONED).contains(&address)
    }
}

/// Whether the first byte is one of DTLS (RFC 7983).
fn is_dtls(content: &[u8]) -> bool {
    matches!(content.first(), Some(20..=63))
}

#[cfg(test)]
mod tests {
    use super::super::stun::tests::message;
    use super::*;

    const AT: &str = "192.0.2.1:5000";
    const DTLS: [u8; 17] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4];

    /// A viewer's guard at one socket.
    struct Socket(Guard, Addresses);

    impl Socket {
        fn new() -> Self {
            let socket = Self(Guard::default(), Addresses::default());
            socket.0.add_credit(2000);
            socket.0.set_role(DtlsRole::Client);
            socket.0.on_answer(credentials("ourname"), credentials("theirs"));
            socket
        }

        fn send(&self, to: &str, datagram: &[u8]) -> bool {
            self.0.on_send(&self.1, address(AT), address(to), datagram, Instant::now()) != SendVerdict::HeldBack
        }

        fn is_given(&self, from: &str, datagram: &[u8]) -> bool {
            self.0.on_receive(&self.1, address(AT), address(from), datagram, Instant::now()) == Verdict::Pass
        }
    }

    fn address(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn credentials(ufrag: &str) -> Credentials {
        Credentials { ufrag: ufrag.into(), password: "0123456789012345678901".into() }
    }

    fn check(name: &[u8]) -> Vec<u8> {
        message(stun::BINDING_REQUEST, &[(stun::USERNAME, name)])
    }

    const VIEWER: &str = "198.51.100.7:4000";
    const STRANGER: &str = "203.0.113.9:4000";

    #[test]
    fn a_stranger_can_send_only_responses_and_checks_with_our_user_name() {
        let socket = Socket::new();
        socket.send(VIEWER, &message(stun::BINDING_SUCCESS, &[]));
        // The role attribute (ICE-CONTROLLED) alone would make the stack change its role.
        let conflict = message(stun::BINDING_REQUEST, &[(0x8029, &[0; 8])]);
        let indication = message([0x00, 0x11], &[]);
        for datagram in
            [&DTLS[..], &[0x80; 200], &[0x40, 0, 0, 1, 20], &conflict, &indication, &check(b"x:ourname"), b"hi"]
        {
            assert!(!socket.is_given(STRANGER, datagram), "{datagram:?}");
        }
        for datagram in [&DTLS[..], &[0x80; 200], &indication] {
            assert!(socket.is_given(VIEWER, datagram), "{datagram:?}");
        }
        assert!(socket.is_given(STRANGER, &check(b"ourname:theirs")), "a viewer whose address is not known yet");
        assert!(socket.is_given(STRANGER, &message(stun::BINDING_SUCCESS, &[])));
    }

    #[test]
    fn a_relay_that_we_use_may_deliver_data() {
        let socket = Socket::new();
        let channel = [&[0x40, 0, 0, DTLS.len() as u8][..], &DTLS].concat();
        assert!(!socket.is_given(STRANGER, &channel));
        assert!(socket.send(STRANGER, &message(stun::ALLOCATE_REQUEST, &[])));
        assert!(socket.is_given(STRANGER, &channel));
    }

    #[test]
    fn an_address_is_verified_for_one_socket_and_sixteen_are_remembered() {
        let (socket, other) = (Socket::new(), Addresses::default());
        socket.send(VIEWER, &message(stun::BINDING_SUCCESS, &[]));
        assert_eq!(socket.0.on_receive(&other, address(AT), address(VIEWER), &DTLS, Instant::now()), Verdict::Discard);
        for port in 1..=16 {
            socket.send(&format!("198.51.100.8:{port}"), &message(stun::BINDING_SUCCESS, &[]));
        }
        assert!(!socket.is_given(VIEWER, &DTLS));
        assert!(socket.is_given("198.51.100.8:16", &DTLS));
    }

    #[test]
    fn checks_are_limited_except_to_verified_addresses_and_stun_servers() {
        let socket = Socket::new();
        let sent = |to: &str, datagram: &[u8]| (0..50).filter(|_| socket.send(to, datagram)).count();
        assert_eq!(sent(STRANGER, &check(b"theirs:ourname")), 1);
        assert_eq!(sent(STRANGER, &message(stun::BINDING_REQUEST, &[])), 50);
        socket.send(VIEWER, &message(stun::BINDING_SUCCESS, &[]));
        assert_eq!(sent(VIEWER, &check(b"theirs:ourname")), 50);
    }

    #[test]
    fn before_the_answer_checks_are_discarded() {
        let (guard, addresses) = (Guard::default(), Addresses::default());
        let asked = |name| guard.on_receive(&addresses, address(AT), address(VIEWER), &check(name), Instant::now());
        for name in [&b":"[..], b"", b"ourname:x"] {
            assert_eq!(asked(name), Verdict::Discard);
        }
        guard.on_answer(credentials("ourname"), credentials("theirs"));
        guard.on_answer(credentials("another"), credentials("theirs"));
        assert_eq!(asked(b"another:x"), Verdict::Pass);
        assert_eq!(asked(b"ourname:x"), Verdict::Discard, "a restart gave us another name");
    }
}
