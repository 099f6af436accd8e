//! What may pass between the network and the WebRTC stack.
//!
//! The crate takes what is not STUN from any address once it has found its way (`rtc` 0.21.1, `handler/ice.rs:77`), and
//! settles conflicts of roles before it has looked at who asks (`rtc-ice` 0.21.1, `agent/mod.rs:1278`). So a stranger's
//! datagrams end here (RFC 8445, section 12: data is for candidates that a check has proved), and only what a viewer
//! can know, or the relay that we asked, goes on.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use tokio::sync::Notify;
use webrtc::runtime::{AsyncUdpSocket, Transmit};

use super::checks::Checks;
use super::handshake::{Handshake, Refusal, Sent, Verdict};
use super::messages::Part;
use super::path::Path;
use super::sockets::{Passage, Way};
use super::stun;
use super::unread::Unread;
use crate::sdp::Credentials;

/// Addresses of a viewer that may be proved at one socket: it moves between a few networks, or a NAT moves it.
const MOST_PROVED: usize = 16;

/// What the sockets of one viewer share.
#[derive(Debug, Default)]
pub struct Guard {
    handshake: Mutex<Handshake>,
    /// When the handshake's last flight is due may have changed.
    changed: Notify,
    /// By which that flight went, and to where.
    way: Mutex<Option<(Arc<dyn AsyncUdpSocket>, SocketAddr)>>,
    /// The viewer has ended the connection.
    ended: Notify,
    /// From then on nothing passes: a viewer that begins again is not to find a way that is about to end.
    is_over: AtomicBool,
    /// Of all connections of the viewer, as `checks` is.
    unread: Arc<Mutex<Unread>>,
    checks: Arc<Mutex<Checks>>,
    path: Mutex<Path>,
    /// Whether [`detour`](Guard::detour) has one: asked of each packet, without a lock.
    has_detour: AtomicBool,
    /// The viewer's nomination has led to another path.
    moved: Notify,
    /// The name by which checks address us, followed by a colon (RFC 8445, section 7.2.2).
    name: Mutex<Option<String>>,
}

/// What becomes of a datagram of the stack's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It is sent.
    Sent,
    /// It is sent, and [`Guard::remember`] learns by which way: it belongs to the handshake.
    Remembered,
    /// It is not.
    HeldBack,
}

/// What one socket knows of the addresses that it talks with.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Those whose checks the stack has answered, which it does when they know our password; and our relays.
    proved: Mutex<VecDeque<SocketAddr>>,
}

impl Guard {
    /// That of another connection of the same viewer, which has what bounds the viewer in common with this.
    pub fn beside(&self) -> Self {
        Self { unread: self.unread.clone(), checks: self.checks.clone(), ..Self::default() }
    }

    /// ICE restarts at the stack: it has forgotten its pair.
    pub fn restarts(&self) {
        self.on_path(Path::restart);
    }

    /// The viewer gets an answer with the first credentials, and has the second.
    pub fn begins(&self, ours: Credentials, theirs: Credentials) {
        *self.name.lock().expect(UNPOISONED) = Some(format!("{}:", ours.ufrag));
        self.checks.lock().expect(UNPOISONED).restart();
        self.on_path(|path| path.begin(ours, theirs));
    }

    /// The viewer may be at this address.
    pub fn names(&self, address: SocketAddr) {
        self.on_path(|path| path.name(address));
    }

    /// The stack has one of our addresses as a candidate.
    pub fn gathered(&self, local: SocketAddr) {
        self.on_path(|path| path.gathered(local));
    }

    /// The stack has a socket.
    pub fn opens(&self, local: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        self.on_path(|path| path.open(local, socket));
    }

    /// The stack has let go of it.
    pub fn closes(&self, local: SocketAddr) {
        self.on_path(|path| path.close(local));
    }

    /// The connection is over.
    pub fn leaves(&self) {
        self.on_path(Path::end);
    }

    /// Whether the viewer is reached by the path of before a restart.
    pub fn is_former(&self) -> bool {
        self.on_path(|path| path.is_former())
    }

    /// Waits until the viewer is reached by another path than before a restart.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// What the stack is to receive at a socket beside what comes there, and from where.
    pub fn next(&self, local: SocketAddr, waker: &Waker) -> Option<(SocketAddr, Vec<u8>)> {
        self.on_path(|path| path.next(local, waker))
    }

    /// By which way all goes but checks, where the stack takes another.
    pub fn detour(&self) -> Option<Way> {
        if !self.has_detour.load(Ordering::Acquire) {
            return None;
        }
        self.path.lock().expect(UNPOISONED).detour().cloned()
    }

    /// The way to which only this socket listens any more.
    pub fn left_to(&self, local: SocketAddr) -> Option<Way> {
        self.on_path(|path| path.left_to(local))
    }

    /// Sends what is to be sent beside what the stack sends. What cannot go at once is lost, as anywhere on the way.
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
    pub fn earned(&self, bytes: usize) {
        self.checks.lock().expect(UNPOISONED).earn(bytes);
    }

    /// The stack takes this part in the handshake.
    pub fn takes_part(&self, part: Part) {
        self.handshake.lock().expect(UNPOISONED).begins(part);
    }

    /// Media can flow.
    pub fn connected(&self) {
        self.handshake.lock().expect(UNPOISONED).complete();
    }

    /// A message of the viewer's, of that many bytes, has been read.
    pub fn read(&self, bytes: usize) {
        self.unread.lock().expect(UNPOISONED).read(bytes);
    }

    /// Waits until the viewer ends the connection.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// What becomes of a datagram of the stack's.
    pub fn sends(
        &self,
        addresses: &Addresses,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Sending {
        if self.is_over.load(Ordering::Relaxed)
            || self.on_path(|path| path.sends(from, to, datagram, now)) == Passage::Closed
        {
            return Sending::HeldBack;
        }
        if stun::is_message(datagram) {
            match [datagram[0], datagram[1]] {
                stun::BINDING_SUCCESS | stun::ALLOCATE_REQUEST => addresses.prove(to),
                // Without a name it asks a STUN server of ours.
                stun::BINDING_REQUEST if stun::attribute(datagram, stun::USERNAME).is_some() => {
                    let admits = || self.checks.lock().expect(UNPOISONED).admit(from, to, datagram.len(), now);
                    return if addresses.has_proved(to) || admits() { Sending::Sent } else { Sending::HeldBack };
                }
                _ => {}
            }
        }
        let content = stun::content(datagram);
        if is_dtls(content) {
            match self.handshake.lock().expect(UNPOISONED).sent(content, datagram, now) {
                Sent::Flight => return Sending::Remembered,
                Sent::End => {
                    self.is_over.store(true, Ordering::Relaxed);
                    self.ended.notify_one();
                }
                Sent::Refusal => self.changed.notify_one(),
                Sent::Other => {}
            }
        }
        Sending::Sent
    }

    /// A datagram of the handshake goes by this way.
    pub fn remember(&self, socket: &Arc<dyn AsyncUdpSocket>, to: SocketAddr) {
        *self.way.lock().expect(UNPOISONED) = Some((socket.clone(), to));
        self.changed.notify_one();
    }

    /// Sends our last flight of the handshake once more whenever it is due, until the handshake is refused. Cancelling it
    /// loses one datagram at most.
    pub async fn repeat(&self) -> Refusal {
        loop {
            let (due, judged) = {
                let mut handshake = self.handshake.lock().expect(UNPOISONED);
                if let Some(refusal) = handshake.refused(Instant::now()) {
                    return refusal;
                }
                (handshake.due(), handshake.judged())
            };
            let search = self.on_path(|path| path.next_search());
            tokio::select! {
                biased;
                () = self.changed.notified() => continue,
                () = sleep_until(judged) => continue,
                () = sleep_until(search) => {
                    let mut checks = self.checks.lock().expect(UNPOISONED);
                    self.on_path(|path| path.search(&mut checks, Instant::now()));
                    continue;
                }
                () = sleep_until(due) => {}
            }
            let flight = self.handshake.lock().expect(UNPOISONED).repeat(Instant::now());
            let way = self.way.lock().expect(UNPOISONED).clone();
            // After a restart the flight goes where all goes, but for one in a relay's envelope.
            let detour = self.detour().filter(|detour| !detour.is_relayed());
            let detour = detour.map(|detour| (detour.socket.clone(), detour.to()));
            let Some((socket, to)) = detour.or(way) else { continue };
            for datagram in flight {
                let sent = socket.send_to(&datagram, to).await;
                tracing::trace!(?sent, "a flight of the handshake is repeated");
            }
        }
    }

    /// What becomes of a datagram that came at a socket of the stack's.
    pub fn receives(
        &self,
        addresses: &Addresses,
        at: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Verdict {
        let is_over = self.is_over.load(Ordering::Relaxed);
        if is_over || (!addresses.has_proved(from) && !self.is_for_us(datagram)) {
            return Verdict::Discard;
        }
        self.judges(at, from, datagram, now)
    }

    /// What the stack gets of a datagram that came by a way which it has left.
    pub fn receives_left<'a>(&self, way: &Way, from: SocketAddr, datagram: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        let content = stun::content(datagram);
        let is_given = from == way.to() && self.judges(way.place.local, from, datagram, now) == Verdict::Give;
        (is_given && !stun::is_message(content)).then_some(content)
    }

    fn judges(&self, at: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        // RTP and RTCP need no look.
        if datagram.first().is_none_or(|first| *first >= 128) {
            return Verdict::Give;
        }
        if self.on_path(|path| path.receives(at, from, datagram)) == Passage::Closed {
            return Verdict::Discard;
        }
        let content = stun::content(datagram);
        if is_dtls(content) {
            let verdict = self.handshake.lock().expect(UNPOISONED).received(content, now);
            let is_admitted = || self.unread.lock().expect(UNPOISONED).admit(content.len(), now);
            if verdict == Verdict::Give && !is_admitted() {
                return Verdict::Discard;
            }
            if verdict == Verdict::Give {
                self.on_path(|path| path.keeps(at, from, datagram));
            }
            // What is discarded may be a repeat, which calls for ours.
            if verdict == Verdict::Discard {
                self.changed.notify_one();
            }
            return verdict;
        }
        Verdict::Give
    }

    /// Whether somebody of whom nothing is known may say this: an answer, which names a transaction of ours, or a check
    /// by our name.
    fn is_for_us(&self, datagram: &[u8]) -> bool {
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

/// For locks, which nobody holds who can panic.
pub const UNPOISONED: &str = "lock is never poisoned: no panic while held";

impl Addresses {
    fn prove(&self, address: SocketAddr) {
        let mut proved = self.proved.lock().expect(UNPOISONED);
        if proved.contains(&address) {
            return;
        }
        if proved.len() == MOST_PROVED {
            proved.pop_front();
        }
        proved.push_back(address);
    }

    fn has_proved(&self, address: SocketAddr) -> bool {
        self.proved.lock().expect(UNPOISONED).contains(&address)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// RFC 7983.
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
            socket.0.earned(2000);
            socket.0.takes_part(Part::Client);
            socket.0.begins(credentials("ourname"), credentials("theirs"));
            socket
        }

        fn send(&self, to: &str, datagram: &[u8]) -> bool {
            self.0.sends(&self.1, address(AT), address(to), datagram, Instant::now()) != Sending::HeldBack
        }

        fn is_given(&self, from: &str, datagram: &[u8]) -> bool {
            self.0.receives(&self.1, address(AT), address(from), datagram, Instant::now()) == Verdict::Give
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
    fn a_stranger_gets_nothing_in_but_an_answer_or_a_check_by_our_name() {
        let socket = Socket::new();
        socket.send(VIEWER, &message(stun::BINDING_SUCCESS, &[]));
        // The role's attribute alone (ICE-CONTROLLED) would turn the stack's role.
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
    fn a_relay_that_was_asked_may_bring_what_it_relays() {
        let socket = Socket::new();
        let channel = [&[0x40, 0, 0, DTLS.len() as u8][..], &DTLS].concat();
        assert!(!socket.is_given(STRANGER, &channel));
        assert!(socket.send(STRANGER, &message(stun::ALLOCATE_REQUEST, &[])));
        assert!(socket.is_given(STRANGER, &channel));
    }

    #[test]
    fn an_address_is_proved_at_one_socket_and_sixteen_are_remembered() {
        let (socket, other) = (Socket::new(), Addresses::default());
        socket.send(VIEWER, &message(stun::BINDING_SUCCESS, &[]));
        assert_eq!(socket.0.receives(&other, address(AT), address(VIEWER), &DTLS, Instant::now()), Verdict::Discard);
        for port in 1..=16 {
            socket.send(&format!("198.51.100.8:{port}"), &message(stun::BINDING_SUCCESS, &[]));
        }
        assert!(!socket.is_given(VIEWER, &DTLS));
        assert!(socket.is_given("198.51.100.8:16", &DTLS));
    }

    #[test]
    fn checks_are_held_back_but_not_to_who_has_answered_and_not_to_a_stun_server() {
        let socket = Socket::new();
        let sent = |to: &str, datagram: &[u8]| (0..50).filter(|_| socket.send(to, datagram)).count();
        assert_eq!(sent(STRANGER, &check(b"theirs:ourname")), 1);
        assert_eq!(sent(STRANGER, &message(stun::BINDING_REQUEST, &[])), 50);
        socket.send(VIEWER, &message(stun::BINDING_SUCCESS, &[]));
        assert_eq!(sent(VIEWER, &check(b"theirs:ourname")), 50);
    }

    #[test]
    fn before_there_is_an_answer_nobody_knows_our_name() {
        let (guard, addresses) = (Guard::default(), Addresses::default());
        let asked = |name| guard.receives(&addresses, address(AT), address(VIEWER), &check(name), Instant::now());
        for name in [&b":"[..], b"", b"ourname:x"] {
            assert_eq!(asked(name), Verdict::Discard);
        }
        guard.begins(credentials("ourname"), credentials("theirs"));
        guard.begins(credentials("another"), credentials("theirs"));
        assert_eq!(asked(b"another:x"), Verdict::Give);
        assert_eq!(asked(b"ourname:x"), Verdict::Discard, "a restart gave us another name");
    }
}
