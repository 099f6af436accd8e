//! A viewer's sockets, what the stack is to receive at each beside what comes, and the places between which datagrams go.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use webrtc::runtime::AsyncUdpSocket;

use super::stun::{self, Draft};

/// Datagrams that wait for the stack at one socket. It takes them at once; each check of the viewer's makes two at most.
const MOST_WAITING: usize = 64;
/// Datagrams of a first flight: a ClientHello with the key shares of hybrid groups has two.
const MOST_EARLY: usize = 4;
/// Channels that are remembered: one for each pair that is checked over a relay.
const MOST_CHANNELS: usize = 100;

/// One end of ours and one of the viewer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address of our socket.
    pub local: SocketAddr,
    /// The relay of ours that stands between, where there is one.
    pub relay: Option<SocketAddr>,
    /// The viewer's address.
    pub peer: SocketAddr,
}

/// A way out: a socket, where its datagrams go, and the address behind the relay where that is one.
#[derive(Clone, Debug)]
pub struct Way {
    /// By which datagrams go.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// What it leads from and to.
    pub place: Place,
}

impl Way {
    /// Whether a relay stands between.
    pub fn is_relayed(&self) -> bool {
        self.place.relay.is_some()
    }

    /// Where they go.
    pub fn to(&self) -> SocketAddr {
        self.place.relay.unwrap_or(self.place.peer)
    }

    /// A datagram for the relay to send on; `None` where there is no relay.
    pub fn wrapped(&self, content: &[u8]) -> Option<Vec<u8>> {
        self.place.relay.map(|_| enveloped(stun::SEND_INDICATION, self.place.peer, content))
    }
}

/// Whether a datagram goes on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It does.
    Open,
    /// It ends here; something else may go in its place.
    Closed,
}

/// One of our sockets.
#[derive(Debug)]
pub struct Open {
    /// Where it is.
    pub local: SocketAddr,
    /// By which datagrams go.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// The relay that has given it an address, and whether that is of IPv4.
    pub relay: Option<(SocketAddr, bool)>,
    /// Whether the stack has it as a candidate of its generation.
    is_candidate: bool,
    /// What waits for the stack, and from where.
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// The sockets that the stack has.
#[derive(Debug, Default)]
pub struct Sockets {
    open: Vec<Open>,
    /// The viewer's addresses behind channels: of a socket and a relay.
    channels: HashMap<(SocketAddr, SocketAddr, [u8; 2]), SocketAddr>,
    /// What the viewer has sent of DTLS before the stack had a pair.
    early: Vec<(Place, Vec<u8>)>,
}

impl Sockets {
    /// There is a socket at this address.
    pub fn open(&mut self, local: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        let (relay, is_candidate, waiting, waker) = Default::default();
        self.open.push(Open { local, socket, relay, is_candidate, waiting, waker });
    }

    /// The stack has let go of it. Its channels are remembered until [`tidy`](Self::tidy).
    pub fn close(&mut self, local: SocketAddr) {
        self.open.retain(|open| open.local != local);
    }

    /// Forgets the channels of sockets that are neither open nor `kept`.
    pub fn tidy(&mut self, kept: Option<SocketAddr>) {
        let Self { open, channels, .. } = self;
        channels.retain(|(at, ..), _| Some(*at) == kept || open.iter().any(|open| open.local == *at));
    }

    /// Those that are open.
    pub fn iter(&self) -> impl Iterator<Item = &Open> {
        self.open.iter()
    }

    /// The one at an address.
    pub fn at(&self, local: SocketAddr) -> Option<&Open> {
        self.open.iter().find(|open| open.local == local)
    }

    fn at_mut(&mut self, local: SocketAddr) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.local == local)
    }

    /// The stack begins again to gather candidates.
    pub fn restart(&mut self) {
        self.open.iter_mut().for_each(|open| open.is_candidate = false);
    }

    /// The stack has this address as a candidate.
    pub fn gathered(&mut self, local: SocketAddr) {
        if let Some(open) = self.at_mut(local) {
            open.is_candidate = true;
        }
    }

    /// The addresses that the stack has as candidates.
    pub fn candidates(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.iter().filter(|open| open.is_candidate).map(|open| open.local)
    }

    /// Looks at what the stack asks of a relay: its channels are learnt.
    pub fn asks(&mut self, local: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if datagram.starts_with(&stun::CHANNEL_BIND_REQUEST) && self.channels.len() < MOST_CHANNELS {
            let peer = stun::address(datagram, stun::XOR_PEER_ADDRESS);
            if let (Some([first, second, ..]), Some(peer)) = (stun::attribute(datagram, stun::CHANNEL_NUMBER), peer) {
                self.channels.insert((local, to, [*first, *second]), peer);
            }
        }
    }

    /// Looks at what a relay answers.
    pub fn hears(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if datagram.starts_with(&stun::ALLOCATE_SUCCESS)
            && let Some(relayed) = stun::address(datagram, stun::XOR_RELAYED_ADDRESS)
            && let Some(open) = self.at_mut(local)
        {
            open.relay = Some((from, relayed.is_ipv4()));
        }
    }

    /// The place of a datagram that goes or comes between a socket and an address.
    pub fn place(&self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> Option<Place> {
        let content = stun::content(datagram);
        if std::ptr::eq(content, datagram) {
            return Some(Place { local, relay: None, peer: remote });
        }
        let peer = match stun::channel(datagram) {
            Some(channel) => *self.channels.get(&(local, remote, channel))?,
            None => stun::address(datagram, stun::XOR_PEER_ADDRESS)?,
        };
        Some(Place { local, relay: Some(remote), peer })
    }

    /// Keeps a datagram of DTLS that the stack drops, since it has no pair yet: OpenSSL would not repeat it before a
    /// second is over.
    pub fn keep(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if self.early.len() < MOST_EARLY {
            let place = self.place(local, from, datagram);
            self.early.extend(place.map(|place| (place, stun::content(datagram).to_vec())));
        }
    }

    /// Has the stack receive what was kept.
    pub fn bring_kept(&mut self) {
        for (place, content) in std::mem::take(&mut self.early) {
            self.bring(place, content);
        }
    }

    /// Has the stack receive something at a place.
    pub fn bring(&mut self, place: Place, content: Vec<u8>) {
        let Some(open) = self.at_mut(place.local) else { return };
        if open.waiting.len() == MOST_WAITING {
            return;
        }
        let datagram = match place.relay {
            Some(relay) => (relay, enveloped(stun::DATA_INDICATION, place.peer, &content)),
            None => (place.peer, content),
        };
        open.waiting.push_back(datagram);
        if let Some(waker) = &open.waker {
            waker.wake_by_ref();
        }
    }

    /// What the stack is to receive next at a socket; it is woken for more.
    pub fn next(&mut self, local: SocketAddr, waker: &Waker) -> Option<(SocketAddr, Vec<u8>)> {
        let open = self.at_mut(local)?;
        if !open.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            open.waker = Some(waker.clone());
        }
        open.waiting.pop_front()
    }
}

/// A datagram in an indication to or from a relay.
pub fn enveloped(kind: [u8; 2], peer: SocketAddr, content: &[u8]) -> Vec<u8> {
    let draft = Draft::new(kind, rand::random()).with_address(stun::XOR_PEER_ADDRESS, peer);
    draft.with(stun::DATA, content).finish()
}
