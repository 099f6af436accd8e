//! By which path a viewer is reached: it goes on through an ICE restart, and follows what the viewer nominates.
//!
//! `rtc-ice` 0.21.1 forgets its pair when a restart begins (`agent/mod.rs:710`), so that nothing flows until another one
//! is found, if ever; and as the controlled agent it stays with the first pair that was nominated, whatever is nominated
//! later (`agent/agent_selector.rs:545`). RFC 8445, section 9 has media go on over the former pair, and RFC 8839, section
//! 4.4.3.1 has the former credentials count until the new ones have led to a pair.
//!
//! So the stack's idea of its pair, the *stand-in*, is told apart from the *way* on which datagrams really go. What it
//! sends to the stand-in goes the way, and while both differ, its checks of the stand-in are checks of the way. After a
//! restart the stack is given the former way as the pair of the new generation, by checks that only who knows both
//! passwords can make; what is checked on the way is signed by the former credentials, and lives as long as the viewer
//! answers to them (RFC 7675). The first pair that the viewer nominates in the new generation takes its place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use webrtc::runtime::AsyncUdpSocket;

use super::checks::{CHECK_INTERVAL, Checks};
use super::sockets::{Passage, Place, Sockets, Way};
use super::stun::{self, Draft, Transactions};
use crate::sdp::Credentials;

/// Addresses of a viewer that are checked on behalf of the stack, as many as an offer may name, and trickled ones.
const MOST_NAMED: usize = 64;

/// How long a nominated pair stays before one of lower priority can take its place. Who nominates each pair that works
/// (RFC 5245, section 8.1.1.2) does so within that time; who nominates one by one (RFC 8445) means the last.
const SETTLED: Duration = Duration::from_secs(1);

/// Bytes of one of the stack's checks, which the viewer has to have paid for ([`Checks`]).
const CHECK_BYTES: usize = 128;

/// A datagram to be sent beside those of the stack: by which socket, where, and what.
pub type Outgoing = (Arc<dyn AsyncUdpSocket>, SocketAddr, Vec<u8>);

/// One ICE generation: the credentials of both sides (RFC 8839, section 5.4).
#[derive(Clone, Debug)]
struct Generation {
    ours: Credentials,
    theirs: Credentials,
}

impl Generation {
    /// The name by which the viewer asks us, and we the viewer (RFC 8445, section 7.2.2).
    fn names(&self) -> [String; 2] {
        let (ours, theirs) = (&self.ours.ufrag, &self.theirs.ufrag);
        [format!("{ours}:{theirs}"), format!("{theirs}:{ours}")]
    }
}

/// A check by which the viewer nominates.
#[derive(Clone, Debug)]
struct Nomination {
    place: Place,
    /// The viewer's for this pair.
    priority: u32,
    request: Vec<u8>,
    /// The stack has had it once more.
    is_repeated: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Path {
    sockets: Sockets,
    /// What the stack has now.
    generation: Option<Generation>,
    /// That of the way, where the stack has another.
    former: Option<Generation>,
    way: Option<Way>,
    stand_in: Option<Place>,
    /// The stack is being told of the stand-in.
    is_telling: bool,
    /// The viewer's addresses of this generation, as far as it has named them.
    named: Vec<SocketAddr>,
    /// Requests in the viewer's name, and whether they nominate.
    made_up: Transactions<bool>,
    /// The stack's checks of the stand-in that went the way.
    diverted: Transactions<()>,
    /// The viewer's nominations that the stack has not accepted yet.
    nominating: Transactions<Nomination>,
    /// The way's priority, and when it was nominated last.
    chosen: Option<(u32, Instant)>,
    outgoing: Vec<Outgoing>,
    /// The end of a former relay's allocation, which waits for the end of the former way.
    release: Option<Outgoing>,
    has_moved: bool,
    /// When a pair was last sought for the stack, so that a NAT between lets the viewer's checks in.
    searched: Option<Instant>,
}

impl Path {
    /// There is a socket at this address.
    pub fn open(&mut self, local: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        self.sockets.open(local, socket);
    }

    /// The stack has let go of it.
    pub fn close(&mut self, local: SocketAddr) {
        self.sockets.close(local);
        self.sockets.tidy(self.way.as_ref().map(|way| way.place.local));
    }

    /// What the stack is to receive next at a socket beside what comes; it is woken for more.
    pub fn next(&mut self, local: SocketAddr, waker: &Waker) -> Option<(SocketAddr, Vec<u8>)> {
        self.sockets.next(local, waker)
    }

    /// The stack begins a new generation and has forgotten its pair.
    pub fn restart(&mut self) {
        let former = self.former.take().or(self.generation.take());
        self.former = former.filter(|_| self.way.is_some());
        (self.generation, self.stand_in, self.is_telling) = (None, None, false);
        self.named.clear();
        self.sockets.restart();
        (self.made_up, self.diverted, self.nominating) = Default::default();
    }

    /// These are the credentials of the generation that has begun.
    pub fn begin(&mut self, ours: Credentials, theirs: Credentials) {
        self.generation = Some(Generation { ours, theirs });
        self.tell();
    }

    /// The viewer may be at this address.
    pub fn name(&mut self, address: SocketAddr) {
        if self.named.len() < MOST_NAMED && !self.named.contains(&address) {
            self.named.push(address);
        }
    }

    /// The stack has this address as a candidate.
    pub fn gathered(&mut self, local: SocketAddr) {
        self.sockets.gathered(local);
        self.tell();
    }

    /// Tells the stack of the former way, once it has a candidate at its address, or else at another if that is gone.
    fn tell(&mut self) {
        if self.former.is_none() || self.generation.is_none() || self.stand_in.is_some() {
            return;
        }
        let Some(Way { place: Place { local: former, peer, .. }, .. }) = self.way else { return };
        let is_like = |one: &SocketAddr| one.ip() == former.ip() && one.is_ipv4() == peer.is_ipv4();
        let has_like = self.sockets.iter().any(|open| is_like(&open.local));
        let mut candidates = self.sockets.candidates();
        let fits = |one: &SocketAddr| if has_like { is_like(one) } else { one.is_ipv4() == peer.is_ipv4() };
        let Some(local) = candidates.find(fits) else { return };
        let stand_in = Place { local, relay: None, peer };
        drop(candidates);
        (self.stand_in, self.is_telling) = (Some(stand_in), true);
        self.ask(stand_in, true);
    }

    /// Asks the stack in the viewer's name at a place.
    fn ask(&mut self, place: Place, nominates: bool) {
        let Some(generation) = &self.generation else { return };
        let ([name, _], transaction) = (generation.names(), rand::random());
        let draft = Draft::new(stun::BINDING_REQUEST, transaction).with(stun::USERNAME, name.as_bytes());
        let draft = if nominates { draft.with(stun::USE_CANDIDATE, &[]) } else { draft };
        let request = draft.sign(&generation.ours.password);
        self.made_up.note(transaction, nominates);
        self.sockets.bring(place, request);
    }

    /// Sends something the way.
    fn send(&mut self, content: Vec<u8>) {
        if let Some(way) = &self.way {
            let datagram = way.wrapped(&content).unwrap_or(content);
            self.outgoing.push((way.socket.clone(), way.to(), datagram));
        }
    }

    /// What is to be sent beside what the stack sends.
    pub fn outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// The way that all goes but the stack's checks, where it is not the one that the stack takes.
    pub fn detour(&self) -> Option<&Way> {
        self.way.as_ref().filter(|way| self.stand_in.is_some_and(|stand_in| stand_in != way.place))
    }

    /// Whether the way is not what the stack believes.
    fn is_elsewhere(&self) -> bool {
        self.former.is_some() || self.detour().is_some()
    }

    /// Whether the viewer is reached by the way of a former generation.
    pub fn is_former(&self) -> bool {
        self.former.is_some()
    }

    /// The socket of the way, where the stack has let go of it and only this socket listens to it.
    pub fn left_to(&self, local: SocketAddr) -> Option<Way> {
        let way = self.way.as_ref()?;
        let is_left = self.sockets.iter().all(|open| open.local != way.place.local);
        (is_left && self.sockets.iter().next()?.local == local).then(|| way.clone())
    }

    /// Whether the viewer's nomination has led to another way than before since this was asked last.
    pub fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// The connection is over.
    pub fn end(&mut self) {
        self.former = None;
        self.outgoing.extend(self.release.take());
    }

    /// The stack sends a datagram that is not RTP.
    pub fn sends(&mut self, local: SocketAddr, to: SocketAddr, datagram: &[u8], now: Instant) -> Passage {
        if self.is_of_relay(local, to, datagram) == Passage::Closed {
            return Passage::Closed;
        }
        let (Some(place), content) = (self.sockets.place(local, to, datagram), stun::content(datagram)) else {
            return Passage::Open;
        };
        if !stun::is_message(content) {
            // What is no check goes to the stack's pair; what it has sent before a restart may still be on its way here.
            let is_of_generation = self.former.is_none() || self.sockets.candidates().any(|at| at == local);
            if is_of_generation && !self.is_telling && self.stand_in.is_none() {
                self.chooses(place, 0, now);
            }
            return Passage::Open;
        }
        match [content[0], content[1]] {
            stun::BINDING_REQUEST if Some(place) == self.stand_in && self.is_elsewhere() => self.checks(place, content),
            stun::BINDING_SUCCESS => self.answers(place, content, now),
            _ => Passage::Open,
        }
    }

    /// Looks at what the stack asks of a relay.
    fn is_of_relay(&mut self, local: SocketAddr, to: SocketAddr, datagram: &[u8]) -> Passage {
        self.sockets.asks(local, to, datagram);
        // The stack gives up what the former way still needs.
        let is_end = datagram.starts_with(&stun::REFRESH_REQUEST)
            && stun::attribute(datagram, stun::LIFETIME).is_some_and(|seconds| seconds.iter().all(|byte| *byte == 0));
        match &self.way {
            Some(Way { socket, place }) if is_end && self.former.is_some() => {
                if (place.local, place.relay) != (local, Some(to)) {
                    return Passage::Open;
                }
                self.release = Some((socket.clone(), to, datagram.to_vec()));
                Passage::Closed
            }
            _ => Passage::Open,
        }
    }

    /// The stack checks the stand-in.
    fn checks(&mut self, place: Place, check: &[u8]) -> Passage {
        let (Some(generation), Some(transaction)) = (&self.generation, stun::transaction(check)) else {
            return Passage::Open;
        };
        if self.is_telling {
            let answer = Draft::new(stun::BINDING_SUCCESS, transaction)
                .with_address(stun::XOR_MAPPED_ADDRESS, place.local)
                .sign(&generation.theirs.password);
            self.sockets.bring(place, answer);
            self.ask(place, true);
            return Passage::Closed;
        }
        let Generation { theirs, .. } = self.former.as_ref().unwrap_or(generation);
        let [_, name] = self.former.as_ref().unwrap_or(generation).names();
        let check = stun::signed_again(check, &name, &theirs.password);
        self.diverted.note(transaction, ());
        self.send(check);
        // The viewer may be at the same address in the new generation, which only this very check can show.
        if self.former.is_some() { Passage::Open } else { Passage::Closed }
    }

    /// The stack answers a check with success: it has proved it, and accepted what it nominates.
    fn answers(&mut self, place: Place, answer: &[u8], now: Instant) -> Passage {
        if let Some(nominates) = self.made_up.find(answer) {
            self.is_telling &= !nominates;
            return Passage::Closed;
        }
        let nomination = self.nominating.find(answer).filter(|nomination| nomination.place == place);
        if let Some(priority) = nomination.map(|nomination| nomination.priority) {
            self.nominating.forget(answer);
            self.nominated(place, priority, now);
        }
        let is_way = self.way.as_ref().is_some_and(|way| way.place == place);
        if let Some(stand_in) = self.stand_in.filter(|stand_in| is_way && *stand_in != place) {
            self.ask(stand_in, false);
        }
        Passage::Open
    }

    /// The viewer has nominated a pair of the stack's generation.
    fn nominated(&mut self, place: Place, priority: u32, now: Instant) {
        // The first one is the stack's, unless it has the stand-in.
        if self.is_telling || self.stand_in.is_none() {
            (self.stand_in, self.is_telling) = (Some(place), false);
        }
        let Some(way) = self.way.as_ref().filter(|_| self.former.is_none()) else {
            return self.chooses(place, priority, now);
        };
        let rank = |place: &Place, priority| (place.relay.is_none(), priority);
        let (known, since) = self.chosen.unwrap_or((0, now));
        let is_better = rank(&place, priority) > rank(&way.place, known);
        if way.place == place || is_better || now.saturating_duration_since(since) >= SETTLED {
            self.chooses(place, priority, now);
        }
    }

    /// The viewer sends something of the DTLS handshake.
    pub fn keeps(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if self.way.is_none() {
            self.sockets.keep(local, from, datagram);
        }
    }

    /// From now on the way is this.
    fn chooses(&mut self, place: Place, priority: u32, now: Instant) {
        self.sockets.bring_kept();
        let Some(open) = self.sockets.at(place.local) else { return };
        self.has_moved |= self.former.take().is_some();
        self.way = Some(Way { socket: open.socket.clone(), place });
        self.chosen = Some((priority, now));
        self.sockets.tidy(None);
        self.stand_in.get_or_insert(place);
        self.outgoing.extend(self.release.take());
        if let Some(stand_in) = self.stand_in.filter(|stand_in| *stand_in != place) {
            self.ask(stand_in, false);
        }
    }

    /// A datagram came at a socket.
    pub fn receives(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) -> Passage {
        self.sockets.hears(local, from, datagram);
        let (Some(place), content) = (self.sockets.place(local, from, datagram), stun::content(datagram)) else {
            return Passage::Open;
        };
        if !stun::is_message(content) {
            return Passage::Open;
        }
        match [content[0], content[1]] {
            stun::BINDING_SUCCESS if self.diverted.find(content).is_some() => self.confirms(content),
            stun::BINDING_REQUEST if self.is_formers(content) => self.answers_former(place, content),
            stun::BINDING_SUCCESS => self.proves(place),
            stun::BINDING_REQUEST => {
                if let (Some(_), Some(transaction)) =
                    (stun::attribute(content, stun::USE_CANDIDATE), stun::transaction(content))
                    && self.nominating.find(content).is_none()
                {
                    let priority = stun::attribute(content, stun::PRIORITY).and_then(|bytes| bytes.try_into().ok());
                    let (priority, request) = (priority.map_or(0, u32::from_be_bytes), content.to_vec());
                    let nomination = Nomination { place, priority, request, is_repeated: false };
                    self.nominating.note(transaction, nomination);
                }
                Passage::Open
            }
            _ => Passage::Open,
        }
    }

    /// The viewer answers a check of a pair, which is valid by that. A nomination that came before it is not answered by
    /// the stack, which forgets it (`agent/agent_selector.rs:558`), and the viewer repeats it after half a second or
    /// more: so the stack gets it once more.
    fn proves(&mut self, place: Place) -> Passage {
        let mut waiting = self.nominating.iter_mut().filter(|one| one.place == place && !one.is_repeated);
        if let Some(nomination) = waiting.next() {
            nomination.is_repeated = true;
            let request = nomination.request.clone();
            self.sockets.bring(place, request);
        }
        Passage::Open
    }

    /// The viewer answers a check of the way, which is news of the stand-in to the stack.
    fn confirms(&mut self, answer: &[u8]) -> Passage {
        let (Some(generation), Some(stand_in)) = (&self.generation, self.stand_in) else { return Passage::Open };
        let theirs = &self.former.as_ref().unwrap_or(generation).theirs;
        if !stun::is_signed(answer, &theirs.password) {
            return Passage::Open;
        }
        let answer = stun::signed_again(answer, "", &generation.theirs.password);
        self.sockets.bring(stand_in, answer);
        Passage::Closed
    }

    /// Whether a check is one by the former credentials.
    fn is_formers(&self, check: &[u8]) -> bool {
        self.former.as_ref().is_some_and(|former| {
            let [name, _] = former.names();
            stun::attribute(check, stun::USERNAME) == Some(name.as_bytes())
        })
    }

    /// Answers a check by the former credentials, if it is one of the way.
    fn answers_former(&mut self, place: Place, check: &[u8]) -> Passage {
        let Some((former, way)) = self.former.as_ref().zip(self.way.as_ref()) else { return Passage::Closed };
        if way.place == place
            && stun::is_signed(check, &former.ours.password)
            && let Some(transaction) = stun::transaction(check)
        {
            let answer = Draft::new(stun::BINDING_SUCCESS, transaction)
                .with_address(stun::XOR_MAPPED_ADDRESS, place.peer)
                .sign(&former.ours.password);
            self.send(answer);
            if let Some(stand_in) = self.stand_in.filter(|_| !self.is_telling) {
                self.ask(stand_in, false);
            }
        }
        Passage::Closed
    }

    /// When [`search`](Self::search) has something to do next.
    pub fn next_search(&self) -> Option<Instant> {
        let is_searching = self.former.is_some() && self.stand_in.is_some();
        is_searching.then(|| self.searched.map_or_else(Instant::now, |searched| searched + CHECK_INTERVAL))
    }

    /// Has the stack check one pair of the new generation, as it would if it had none yet; `checks` says which may be.
    pub fn search(&mut self, checks: &mut Checks, now: Instant) {
        self.searched = Some(now);
        if self.former.is_none() || self.stand_in.is_none() || self.is_telling {
            return;
        }
        let mut due = None;
        'found: for open in self.sockets.iter() {
            for peer in &self.named {
                let direct = Place { local: open.local, relay: None, peer: *peer };
                if peer.is_ipv4() == open.local.is_ipv4() && checks.is_due(open.local, *peer, CHECK_BYTES, now) {
                    due = Some(direct);
                    break 'found;
                }
                // The guard lets each through that goes by a relay: they are counted here.
                if let Some((relay, is_ipv4)) = open.relay
                    && is_ipv4 == peer.is_ipv4()
                    && checks.admit(relay, *peer, CHECK_BYTES, now)
                {
                    due = Some(Place { relay: Some(relay), ..direct });
                    break 'found;
                }
            }
        }
        if let Some(place) = due {
            self.ask(place, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use webrtc::runtime::{Runtime, TokioRuntime};

    use super::super::sockets::enveloped;
    use super::*;

    const PEER: &str = "198.51.100.7:4000";
    const OTHER: &str = "198.51.100.8:4000";
    const RELAY: &str = "203.0.113.3:3478";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn credentials(name: &str) -> Credentials {
        Credentials { ufrag: name.into(), password: format!("password of {name}") }
    }

    /// A path at whose other end is a viewer, and a stack that is played here.
    struct Both {
        path: Path,
        local: SocketAddr,
        ours: Credentials,
        theirs: Credentials,
        now: Instant,
    }

    impl Both {
        /// The viewer has nominated a place, at which it is behind our relay or not.
        fn connected(relay: Option<&str>) -> Self {
            let (ours, theirs) = (credentials("us"), credentials("them"));
            let mut both = Self { path: Path::default(), local: address(RELAY), ours, theirs, now: Instant::now() };
            both.opens();
            both.path.begin(both.ours.clone(), both.theirs.clone());
            let place = both.place(relay, PEER);
            both.nominates(place, 1);
            assert_eq!(both.way(), Some(place));
            both
        }

        fn opens(&mut self) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            self.local = socket.local_addr().unwrap();
            self.path.open(self.local, TokioRuntime.wrap_udp_socket(socket).unwrap());
        }

        fn place(&self, relay: Option<&str>, peer: &str) -> Place {
            Place { local: self.local, relay: relay.map(address), peer: address(peer) }
        }

        fn way(&self) -> Option<Place> {
            self.path.way.as_ref().map(|way| way.place)
        }

        /// The viewer nominates, and the stack accepts.
        fn nominates(&mut self, place: Place, priority: u32) {
            let transaction = rand::random();
            let name = format!("{}:{}", self.ours.ufrag, self.theirs.ufrag);
            let request = Draft::new(stun::BINDING_REQUEST, transaction)
                .with(stun::USERNAME, name.as_bytes())
                .with(stun::PRIORITY, &priority.to_be_bytes())
                .with(stun::USE_CANDIDATE, &[])
                .sign(&self.ours.password);
            assert_eq!(self.comes(place, &request), Passage::Open);
            let answer = Draft::new(stun::BINDING_SUCCESS, transaction).sign(&self.ours.password);
            assert_eq!(self.goes(place, &answer), Passage::Open);
        }

        /// The stack sends something at a place.
        fn goes(&mut self, place: Place, content: &[u8]) -> Passage {
            let relayed = place.relay.map(|_| enveloped(stun::SEND_INDICATION, place.peer, content));
            let datagram = relayed.as_deref().unwrap_or(content);
            self.path.sends(place.local, place.relay.unwrap_or(place.peer), datagram, self.now)
        }

        fn comes(&mut self, place: Place, content: &[u8]) -> Passage {
            let relayed = place.relay.map(|_| enveloped(stun::DATA_INDICATION, place.peer, content));
            let datagram = relayed.as_deref().unwrap_or(content);
            self.path.receives(place.local, place.relay.unwrap_or(place.peer), datagram)
        }

        /// The stack restarts with sockets of its own, and is told of the way.
        fn restarts(&mut self, name: &str) -> Place {
            let (former, way) = (self.local, self.way().unwrap());
            self.path.restart();
            // What was sent before still comes by.
            assert_eq!(self.goes(way, &[23; 40]), Passage::Open);
            (self.ours, self.theirs) = (credentials(&format!("us{name}")), credentials(&format!("them{name}")));
            self.path.begin(self.ours.clone(), self.theirs.clone());
            self.path.close(former);
            self.opens();
            let local = self.local;
            self.path.gathered(local);
            let stand_in = self.path.stand_in.expect("the stack is told");
            // It asks back before it believes, and then says that it does.
            let [request] = self.brought(local).try_into().unwrap();
            assert!(stun::is_signed(&request, &self.ours.password));
            assert_eq!(self.goes(stand_in, &self.check([3; 12])), Passage::Closed);
            let [answer, again] = self.brought(local).try_into().unwrap();
            assert!(stun::is_signed(&answer, &self.theirs.password));
            assert_eq!(stun::transaction(&answer), Some([3; 12]));
            let believes = Draft::new(stun::BINDING_SUCCESS, stun::transaction(&again).unwrap());
            assert_eq!(self.goes(stand_in, &believes.sign(&self.ours.password)), Passage::Closed);
            assert!(!self.path.is_telling);
            stand_in
        }

        /// A check of the stack's.
        fn check(&self, transaction: [u8; 12]) -> Vec<u8> {
            let name = format!("{}:{}", self.theirs.ufrag, self.ours.ufrag);
            let draft = Draft::new(stun::BINDING_REQUEST, transaction).with(stun::USERNAME, name.as_bytes());
            draft.sign(&self.theirs.password)
        }

        /// What the stack gets to read at a socket.
        fn brought(&mut self, local: SocketAddr) -> Vec<Vec<u8>> {
            std::iter::from_fn(|| Some(self.path.next(local, Waker::noop())?.1)).collect()
        }

        /// What went by itself.
        fn went(&mut self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
            let went = self.path.outgoing().into_iter();
            went.map(|(socket, to, datagram)| (socket.local_addr().unwrap(), to, datagram)).collect()
        }
    }

    #[tokio::test]
    async fn after_a_restart_all_goes_the_former_way_and_its_checks_are_those_of_the_former_generation() {
        for relay in [None, Some(RELAY)] {
            let mut both = Both::connected(relay);
            let (way, ours, theirs) = (both.way().unwrap(), both.ours.clone(), both.theirs.clone());
            let stand_in = both.restarts("2");
            assert_eq!(both.path.detour().map(|way| way.place), Some(way));
            both.path.outgoing();

            assert_eq!(both.goes(stand_in, &both.check([4; 12])), Passage::Open);
            let [(from, to, datagram)] = both.went().try_into().unwrap();
            assert_eq!((from, to), (way.local, relay.map_or(way.peer, address)));
            let check = stun::content(&datagram);
            assert!(stun::is_signed(check, &theirs.password) && !stun::is_signed(check, &both.theirs.password));
            assert_eq!(stun::attribute(check, stun::USERNAME), Some(&b"them:us"[..]));

            // An answer counts by the former password only, and reaches the stack by the new one.
            let answer = |password: &str| Draft::new(stun::BINDING_SUCCESS, [4; 12]).sign(password);
            assert_eq!(both.comes(way, &answer("of a stranger")), Passage::Open);
            assert_eq!(both.brought(both.local).len(), 0);
            assert_eq!(both.comes(way, &answer(&theirs.password)), Passage::Closed);
            let [brought] = both.brought(both.local).try_into().unwrap();
            assert!(stun::is_signed(&brought, &both.theirs.password));

            // The viewer's own checks are answered, to who knows the password, and at the way only.
            let asks = |password: &str| {
                Draft::new(stun::BINDING_REQUEST, [5; 12]).with(stun::USERNAME, b"us:them").sign(password)
            };
            let elsewhere = Place { peer: address(OTHER), ..way };
            assert_eq!(both.comes(elsewhere, &asks(&ours.password)), Passage::Closed);
            assert_eq!(both.comes(way, &asks("of a stranger")), Passage::Closed);
            assert_eq!(both.went().len(), 0);
            assert_eq!(both.comes(way, &asks(&ours.password)), Passage::Closed);
            let [(.., datagram)] = both.went().try_into().unwrap();
            let answer = stun::content(&datagram);
            assert!(stun::is_signed(answer, &ours.password));
            assert_eq!(stun::address(answer, stun::XOR_MAPPED_ADDRESS), Some(way.peer));
        }
    }

    #[tokio::test]
    async fn a_former_way_over_a_channel_of_our_relay_is_understood_after_a_restart() {
        let mut both = Both::connected(Some(RELAY));
        let (way, relay, ours) = (both.way().unwrap(), address(RELAY), both.ours.clone());
        let bind = Draft::new(stun::CHANNEL_BIND_REQUEST, [1; 12])
            .with(stun::CHANNEL_NUMBER, &[0x40, 1, 0, 0])
            .with_address(stun::XOR_PEER_ADDRESS, way.peer);
        assert_eq!(both.path.sends(way.local, relay, &bind.finish(), both.now), Passage::Open);
        both.restarts("2");
        both.path.outgoing();
        let check = Draft::new(stun::BINDING_REQUEST, [5; 12]).with(stun::USERNAME, b"us:them").sign(&ours.password);
        let datagram = [&[0x40, 1, 0, check.len() as u8][..], &check].concat();
        assert_eq!(both.path.receives(way.local, relay, &datagram), Passage::Closed);
        let [(_, to, answer)] = both.went().try_into().unwrap();
        assert_eq!(to, relay);
        assert!(stun::is_signed(stun::content(&answer), &ours.password));
        // Which is forgotten with the way.
        both.nominates(both.place(None, OTHER), 1);
        assert_eq!(both.path.receives(way.local, relay, &datagram), Passage::Open);
        assert!(both.went().is_empty());
    }

    #[tokio::test]
    async fn the_first_nomination_after_a_restart_ends_the_former_generation_wherever_it_is() {
        for (relay, peer) in [(None, PEER), (None, OTHER), (Some(RELAY), OTHER)] {
            let mut both = Both::connected(None);
            both.restarts("2");
            // A further restart, of which nothing came either.
            both.restarts("3");
            assert!(both.path.is_former() && !both.path.has_moved());
            let found = both.place(relay, peer);
            both.nominates(found, 0);
            assert_eq!((both.way(), both.path.is_former(), both.path.has_moved()), (Some(found), false, true));
            let is_stand_in = both.path.stand_in == Some(found);
            assert_eq!(both.path.detour().is_none(), is_stand_in);
            let asks = Draft::new(stun::BINDING_REQUEST, [5; 12]).with(stun::USERNAME, b"us:them");
            assert_eq!(both.comes(found, &asks.sign("password of us")), Passage::Open, "as from a stranger");
            assert_eq!(both.went().len(), 0);
        }
    }

    #[tokio::test]
    async fn the_way_follows_a_better_nomination_at_once_and_a_lesser_one_when_it_has_settled() {
        let mut both = Both::connected(None);
        let (first, better) = (both.place(None, PEER), both.place(None, OTHER));
        both.nominates(both.place(Some(RELAY), OTHER), 9);
        assert_eq!(both.way(), Some(first), "one of a relay is the lesser");
        both.nominates(better, 2);
        assert_eq!(both.way(), Some(better));
        assert_eq!(both.path.detour().map(|way| way.place), Some(better), "the stack stays with the first");
        both.nominates(first, 1);
        assert_eq!(both.way(), Some(better));
        both.now += SETTLED;
        both.nominates(first, 1);
        assert_eq!(both.way(), Some(first));
        assert!(both.path.detour().is_none());
    }

    #[tokio::test]
    async fn what_the_stack_asks_of_a_pair_that_was_left_is_asked_of_the_way() {
        let mut both = Both::connected(None);
        let (first, better) = (both.place(None, PEER), both.place(None, OTHER));
        both.nominates(better, 2);
        both.brought(both.local);
        assert_eq!(both.goes(first, &both.check([6; 12])), Passage::Closed);
        let [(_, to, check)] = both.went().try_into().unwrap();
        assert_eq!(to, better.peer);
        assert!(stun::is_signed(&check, &both.theirs.password));
        let answer = Draft::new(stun::BINDING_SUCCESS, [6; 12]).sign(&both.theirs.password);
        assert_eq!(both.comes(better, &answer), Passage::Closed);
        let (from, brought) = both.path.next(both.local, Waker::noop()).unwrap();
        assert_eq!(from, first.peer);
        assert!(stun::is_signed(&brought, &both.theirs.password));
    }

    #[tokio::test]
    async fn a_relay_that_the_former_way_needs_is_released_when_that_way_ends() {
        let release = Draft::new(stun::REFRESH_REQUEST, [1; 12]).with(stun::LIFETIME, &[0; 4]).finish();
        let keep = Draft::new(stun::REFRESH_REQUEST, [2; 12]).with(stun::LIFETIME, &600u32.to_be_bytes()).finish();
        for is_found in [true, false] {
            let mut both = Both::connected(Some(RELAY));
            let (local, relay, now) = (both.local, address(RELAY), both.now);
            both.path.restart();
            assert_eq!(both.path.sends(local, relay, &keep, now), Passage::Open);
            assert_eq!(both.path.sends(local, address(OTHER), &release, now), Passage::Open, "another relay");
            assert_eq!(both.path.sends(local, relay, &release, now), Passage::Closed);
            assert_eq!(both.went().len(), 0);
            both.restarts("2");
            if is_found {
                both.nominates(both.place(None, OTHER), 1);
            } else {
                both.path.end();
            }
            assert_eq!(both.went(), [(local, relay, release.clone())]);
        }
        let mut both = Both::connected(Some(RELAY));
        let (local, relay, now) = (both.local, address(RELAY), both.now);
        both.path.end();
        assert_eq!(both.path.sends(local, relay, &release, now), Passage::Open, "at the end of the connection");
    }

    #[tokio::test]
    async fn while_the_former_way_stands_the_stack_is_made_to_check_what_the_viewer_has_named() {
        let mut both = Both::connected(None);
        both.restarts("2");
        let mut checks = Checks::default();
        checks.earn(10_000);
        both.path.search(&mut checks, both.now);
        assert!(both.brought(both.local).is_empty(), "nothing is named");
        both.path.name(address(PEER));
        both.path.name(address(OTHER));
        let mut asked = Vec::new();
        for step in 0..10 {
            let now = both.now + CHECK_INTERVAL * step;
            both.path.search(&mut checks, now);
            while let Some((from, request)) = both.path.next(both.local, Waker::noop()) {
                assert!(stun::is_signed(&request, &both.ours.password));
                assert_eq!(stun::attribute(&request, stun::USE_CANDIDATE), None);
                // Which the guard counts as the stack's check goes.
                assert!(checks.admit(both.local, from, CHECK_BYTES, now));
                asked.push((step, from));
            }
        }
        let (one, other) = (address(PEER), address(OTHER));
        assert_eq!(asked, [(0, one), (1, other), (5, one), (6, other)]);
        both.nominates(both.place(None, OTHER), 1);
        both.brought(both.local);
        assert_eq!(both.path.next_search(), None);
    }

    #[tokio::test]
    async fn a_nomination_that_came_before_its_pair_was_valid_reaches_the_stack_once_more() {
        let mut both = Both::connected(None);
        let place = both.place(None, OTHER);
        let request = Draft::new(stun::BINDING_REQUEST, [8; 12]).with(stun::USE_CANDIDATE, &[]).finish();
        for _ in 0..2 {
            assert_eq!(both.comes(place, &request), Passage::Open);
        }
        let answer = Draft::new(stun::BINDING_SUCCESS, [9; 12]).finish();
        assert_eq!(both.comes(both.place(None, PEER), &answer), Passage::Open);
        assert!(both.brought(both.local).is_empty(), "another pair is valid");
        assert_eq!(both.comes(place, &answer), Passage::Open);
        assert_eq!(both.path.next(both.local, Waker::noop()), Some((place.peer, request)));
        assert_eq!(both.comes(place, &answer), Passage::Open);
        assert!(both.brought(both.local).is_empty());
    }

    #[tokio::test]
    async fn a_handshake_that_begins_before_there_is_a_pair_reaches_the_stack_once_there_is_one() {
        let mut both = Both::connected(None);
        both.path.way = None;
        both.path.stand_in = None;
        let (place, hello) = (both.place(None, PEER), vec![22; 200]);
        for _ in 0..10 {
            both.path.keeps(place.local, place.peer, &hello);
        }
        assert!(both.brought(both.local).is_empty());
        both.nominates(place, 1);
        let brought = both.brought(both.local);
        assert_eq!(brought.iter().filter(|one| **one == hello).count(), 4);
        both.path.keeps(place.local, place.peer, &hello);
        both.nominates(place, 1);
        assert!(!both.brought(both.local).contains(&hello), "the stack has it");
    }

    #[test]
    fn no_message_of_a_stranger_is_too_odd_to_look_at() {
        let mut path = Path::default();
        path.begin(credentials("us"), credentials("them"));
        let whole = Draft::new(stun::BINDING_REQUEST, [1; 12])
            .with(stun::USERNAME, b"us:them")
            .with(stun::PRIORITY, &[1])
            .with(stun::USE_CANDIDATE, &[]);
        let wrapped = enveloped(stun::DATA_INDICATION, address(PEER), &whole.finish());
        for datagram in [&wrapped, &wrapped[36..].to_vec(), &vec![0x40, 0, 0, 1, 0], &vec![0x4f, 0], &Vec::new()] {
            for end in 0..=datagram.len() {
                for first in [0, 1, 64, 79] {
                    let mut datagram = datagram[..end].to_vec();
                    datagram.first_mut().into_iter().for_each(|byte| *byte = first);
                    path.receives(address(OTHER), address(PEER), &datagram);
                    path.sends(address(OTHER), address(PEER), &datagram, Instant::now());
                }
            }
        }
    }
}
