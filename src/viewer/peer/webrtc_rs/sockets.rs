//! A connection's sockets, the synthetic datagrams that the stack receives at each, and the candidate pairs on which
//! datagrams are sent.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use webrtc::runtime::AsyncUdpSocket;

use super::stun::{self, Draft};

/// Maximum number of datagrams that wait for the stack at one socket. It takes them at once; each check of the viewer
/// causes at most two.
const MAX_WAITING: usize = 64;
/// Maximum number of datagrams kept of a first flight: a ClientHello with the key shares of hybrid groups has two.
const MAX_EARLY: usize = 4;
/// Maximum number of remembered TURN channels: one for each pair that is checked over a relay.
const MAX_CHANNELS: usize = 100;

/// A candidate pair: one of our sockets and one address of the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidatePair {
    /// The address of our socket.
    pub local: SocketAddr,
    /// Our relay in between, if there is one.
    pub relay: Option<SocketAddr>,
    /// The viewer's address.
    pub peer: SocketAddr,
}

/// A candidate pair that is used for sending, with its socket.
#[derive(Clone, Debug)]
pub struct Route {
    /// The socket that sends the datagrams.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// The pair.
    pub pair: CandidatePair,
}

impl Route {
    /// Whether a relay is in between.
    pub fn is_relayed(&self) -> bool {
        self.pair.relay.is_some()
    }

    /// Destination of the datagrams.
    pub fn to(&self) -> SocketAddr {
        self.pair.relay.unwrap_or(self.pair.peer)
    }

    /// The content wrapped for the relay to forward; `None` if there is no relay.
    pub fn wrapped(&self, content: &[u8]) -> Option<Vec<u8>> {
        self.pair.relay.map(|_| enveloped(stun::SEND_INDICATION, self.pair.peer, content))
    }
}

/// The decision on a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Pass,
    /// It is dropped; another one may be sent in its place.
    Drop,
}

/// One of our sockets.
#[derive(Debug)]
pub struct OpenSocket {
    /// Its address.
    pub local: SocketAddr,
    /// The socket.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// The relay that has allocated an address for it, and whether that address is IPv4.
    pub relay: Option<(SocketAddr, bool)>,
    /// Whether the stack has it as a candidate of the current generation.
    is_candidate: bool,
    /// Datagrams that wait for the stack, with their senders.
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// The sockets that the stack has open.
#[derive(Debug, Default)]
pub struct Sockets {
    open: Vec<OpenSocket>,
    /// The viewer's addresses behind TURN channels, by socket, relay and channel number.
    channels: HashMap<(SocketAddr, SocketAddr, [u8; 2]), SocketAddr>,
    /// DTLS datagrams that the viewer sent before the stack had a pair.
    early: Vec<(CandidatePair, Vec<u8>)>,
}

impl Sockets {
    /// Adds a socket at this address.
    pub fn open(&mut self, local: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        let (relay, is_candidate, waiting, waker) = Default::default();
        self.open.push(OpenSocket { local, socket, relay, is_candidate, waiting, waker });
    }

    /// Removes a socket that the stack has closed. Its channels are remembered until [`tidy`](Self::tidy).
    pub fn close(&mut self, local: SocketAddr) {
        self.open.retain(|open| open.local != local);
    }

    /// Forgets the channels of sockets that are neither open nor `kept`.
    pub fn tidy(&mut self, kept: Option<SocketAddr>) {
        let Self { open, channels, .. } = self;
        channels.retain(|(at, ..), _| Some(*at) == kept || open.iter().any(|open| open.local == *at));
    }

    /// The open sockets.
    pub fn iter(&self) -> impl Iterator<Item = &OpenSocket> {
        self.open.iter()
    }

    /// The socket at an address.
    pub fn at(&self, local: SocketAddr) -> Option<&OpenSocket> {
        self.open.iter().find(|open| open.local == local)
    }

    fn at_mut(&mut self, local: SocketAddr) -> Option<&mut OpenSocket> {
        self.open.iter_mut().find(|open| open.local == local)
    }

    /// Called when the stack starts to gather candidates again.
    pub fn restart(&mut self) {
        self.open.iter_mut().for_each(|open| open.is_candidate = false);
    }

    /// Called when the stack has gathered this address as a candidate.
    pub fn gathered(&mut self, local: SocketAddr) {
        if let Some(open) = self.at_mut(local) {
            open.is_candidate = true;
        }
    }

    /// The addresses that the stack has as candidates.
    pub fn candidates(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.iter().filter(|open| open.is_candidate).map(|open| open.local)
    }

    /// Learns TURN channels from the stack's requests to a relay.
    pub fn learn_channel(&mut self, local: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if datagram.starts_with(&stun::CHANNEL_BIND_REQUEST) && self.channels.len() < MAX_CHANNELS {
            let peer = stun::address(datagram, stun::XOR_PEER_ADDRESS);
            if let (Some([first, second, ..]), Some(peer)) = (stun::attribute(datagram, stun::CHANNEL_NUMBER), peer) {
                self.channels.insert((local, to, [*first, *second]), peer);
            }
        }
    }

    /// Learns relayed addresses from a relay's answers.
    pub fn learn_relayed_address(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if datagram.starts_with(&stun::ALLOCATE_SUCCESS)
            && let Some(relayed) = stun::address(datagram, stun::XOR_RELAYED_ADDRESS)
            && let Some(open) = self.at_mut(local)
        {
            open.relay = Some((from, relayed.is_ipv4()));
        }
    }

    /// The pair of a datagram that is sent or received between a socket and a remote address.
    pub fn pair(&self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> Option<CandidatePair> {
        let content = stun::content(datagram);
        if std::ptr::eq(content, datagram) {
            return Some(CandidatePair { local, relay: None, peer: remote });
        }
        let peer = match stun::channel(datagram) {
            Some(channel) => *self.channels.get(&(local, remote, channel))?,
            None => stun::address(datagram, stun::XOR_PEER_ADDRESS)?,
        };
        Some(CandidatePair { local, relay: Some(remote), peer })
    }

    /// Keeps a DTLS datagram that the stack drops because it has no pair yet: OpenSSL would repeat it only after a
    /// second.
    pub fn keep(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if self.early.len() < MAX_EARLY {
            let pair = self.pair(local, from, datagram);
            self.early.extend(pair.map(|pair| (pair, stun::content(datagram).to_vec())));
        }
    }

    /// Makes the stack receive the kept datagrams.
    pub fn inject_kept(&mut self) {
        for (pair, content) in std::mem::take(&mut self.early) {
            self.inject(pair, content);
        }
    }

    /// Makes the stack receive a datagram on a pair.
    pub fn inject(&mut self, pair: CandidatePair, content: Vec<u8>) {
        let Some(open) = self.at_mut(pair.local) else { return };
        if open.waiting.len() == MAX_WAITING {
            return;
        }
        let datagram = match pair.relay {
            Some(relay) => (relay, enveloped(stun::DATA_INDICATION, pair.peer, &content)),
            None => (pair.peer, content),
        };
        open.waiting.push_back(datagram);
        if let Some(waker) = &open.waker {
            waker.wake_by_ref();
        }
    }

    /// The next synthetic datagram for the stack at a socket, and its sender; the stack is woken for more.
    pub fn next_injected(&mut self, local: SocketAddr, waker: &Waker) -> Option<(SocketAddr, Vec<u8>)> {
        let open = self.at_mut(local)?;
        if !open.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            open.waker = Some(waker.clone());
        }
        open.waiting.pop_front()
    }
}

/// A datagram wrapped in a TURN indication to or from a relay.
pub fn enveloped(kind: [u8; 2], peer: SocketAddr, content: &[u8]) -> Vec<u8> {
    let draft = Draft::new(kind, rand::random()).with_address(stun::XOR_PEER_ADDRESS, peer);
    draft.with(stun::DATA, content).finish()
}
