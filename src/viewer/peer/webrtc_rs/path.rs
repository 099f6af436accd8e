//! The candidate pair on which a viewer is reached. Media goes on through an ICE restart, and the pair follows the
//! viewer's nominations.
//!
//! `rtc-ice` 0.21.1 forgets its pair when a restart begins (`agent/mod.rs:710`), so that nothing is sent until another
//! pair is found, if at all; and as the controlled agent it keeps the first nominated pair, whatever is nominated later
//! (`agent/agent_selector.rs:545`). By RFC 8445, section 9 media goes on over the former pair, and by RFC 8839, section
//! 4.4.3.1 the former credentials stay valid until the new ones have led to a pair.
//!
//! So two pairs are distinguished: the *stand-in*, which the stack has selected, and the *route*, on which datagrams
//! are actually sent. Datagrams of the stack for the stand-in are sent on the route, and while the two differ, its
//! checks of the stand-in become checks of the route. After a restart the stack gets the former route as the pair of
//! the new generation, through synthetic checks that require both passwords. Checks on the route are signed with the
//! former credentials, and the route stays in use as long as the viewer answers them (RFC 7675). The first pair that
//! the viewer nominates in the new generation replaces it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use webrtc::runtime::AsyncUdpSocket;

use super::checks::{CHECK_INTERVAL, Checks};
use super::generation::Generation;
use super::sockets::{CandidatePair, Decision, Route, Sockets};
use super::stun::{self, Draft, Transactions};
use crate::sdp::Credentials;

/// Maximum number of a viewer's addresses that are checked on behalf of the stack: as many as an offer may name, and
/// trickled ones.
const MAX_PEER_ADDRESSES: usize = 64;

/// How long a nominated pair stays before one of lower priority can replace it. A viewer that nominates every pair that
/// works (RFC 5245, section 8.1.1.2) does so within this time; a viewer that nominates one by one (RFC 8445) means the
/// last.
const NOMINATION_SETTLES: Duration = Duration::from_secs(1);

/// Size of one of the stack's checks in bytes, which count against the viewer's credit ([`Checks`]).
const CHECK_BYTES: usize = 128;

/// A datagram to be sent in addition to those of the stack: its socket, its destination, and its content.
pub type Outgoing = (Arc<dyn AsyncUdpSocket>, SocketAddr, Vec<u8>);

/// A check with which the viewer nominates a pair.
#[derive(Clone, Debug)]
struct Nomination {
    pair: CandidatePair,
    /// The check's PRIORITY.
    priority: u32,
    request: Vec<u8>,
    /// Whether the stack has received it a second time.
    is_repeated: bool,
}

/// The pairs of one connection; see the module's documentation.
#[derive(Debug, Default)]
pub struct Path {
    sockets: Sockets,
    /// The generation of the stack.
    generation: Option<Generation>,
    /// The generation of the route, if it differs from the stack's.
    former: Option<Generation>,
    route: Option<Route>,
    stand_in: Option<CandidatePair>,
    /// Whether the stack is being made to select the stand-in.
    is_selecting: bool,
    /// The viewer's addresses of this generation that are known so far.
    peer_addresses: Vec<SocketAddr>,
    /// Synthetic requests in the viewer's name, and whether they nominate.
    synthetic: Transactions<bool>,
    /// The stack's checks of the stand-in that were sent on the route.
    redirected: Transactions<()>,
    /// The viewer's nominations that the stack has not accepted yet.
    nominating: Transactions<Nomination>,
    /// The route's priority, and when it was last nominated.
    nominated_priority: Option<(u32, Instant)>,
    outgoing: Vec<Outgoing>,
    /// The release of a former relay's allocation, which waits until the former route is no longer used.
    release: Option<Outgoing>,
    has_moved: bool,
    /// When [`search`](Self::search) last ran. It makes the stack send checks, which open a NAT in between for the
    /// viewer's checks.
    searched: Option<Instant>,
}

impl Path {
    /// Adds a socket of the stack at this address.
    pub fn open(&mut self, local: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        self.sockets.open(local, socket);
    }

    /// Removes a socket that the stack has closed.
    pub fn close(&mut self, local: SocketAddr) {
        self.sockets.close(local);
        self.sockets.tidy(self.route.as_ref().map(|route| route.pair.local));
    }

    /// The next synthetic datagram for the stack at a socket, and its sender; the stack is woken for more.
    pub fn next_injected(&mut self, local: SocketAddr, waker: &Waker) -> Option<(SocketAddr, Vec<u8>)> {
        self.sockets.next_injected(local, waker)
    }

    /// Called when the stack starts a new generation and has forgotten its pair.
    pub fn restart(&mut self) {
        let former = self.former.take().or(self.generation.take());
        self.former = former.filter(|_| self.route.is_some());
        (self.generation, self.stand_in, self.is_selecting) = (None, None, false);
        self.peer_addresses.clear();
        self.sockets.restart();
        (self.synthetic, self.redirected, self.nominating) = Default::default();
    }

    /// Sets the credentials of the generation that has started.
    pub fn begin(&mut self, ours: Credentials, theirs: Credentials) {
        self.generation = Some(Generation { ours, theirs });
        self.select_stand_in();
    }

    /// Adds an address at which the viewer may be.
    pub fn add_peer_address(&mut self, address: SocketAddr) {
        if self.peer_addresses.len() < MAX_PEER_ADDRESSES && !self.peer_addresses.contains(&address) {
            self.peer_addresses.push(address);
        }
    }

    /// Called when the stack has gathered this address as a candidate.
    pub fn gathered(&mut self, local: SocketAddr) {
        self.sockets.gathered(local);
        self.select_stand_in();
    }

    /// Makes the stack select the former route, once it has a candidate at the route's address, or at another address
    /// if that one is gone.
    fn select_stand_in(&mut self) {
        if self.former.is_none() || self.generation.is_none() || self.stand_in.is_some() {
            return;
        }
        let Some(Route { pair: CandidatePair { local: former, peer, .. }, .. }) = self.route else { return };
        let is_like = |one: &SocketAddr| one.ip() == former.ip() && one.is_ipv4() == peer.is_ipv4();
        let has_like = self.sockets.iter().any(|open| is_like(&open.local));
        let mut candidates = self.sockets.candidates();
        let fits = |one: &SocketAddr| if has_like { is_like(one) } else { one.is_ipv4() == peer.is_ipv4() };
        let Some(local) = candidates.find(fits) else { return };
        let stand_in = CandidatePair { local, relay: None, peer };
        drop(candidates);
        (self.stand_in, self.is_selecting) = (Some(stand_in), true);
        self.inject_check(stand_in, true);
    }

    /// Makes the stack receive a check in the viewer's name on a pair.
    fn inject_check(&mut self, pair: CandidatePair, nominates: bool) {
        let Some(generation) = &self.generation else { return };
        let ([name, _], transaction) = (generation.names(), rand::random());
        let draft = Draft::new(stun::BINDING_REQUEST, transaction).with(stun::USERNAME, name.as_bytes());
        let draft = if nominates { draft.with(stun::USE_CANDIDATE, &[]) } else { draft };
        let request = draft.sign(&generation.ours.password);
        self.synthetic.note(transaction, nominates);
        self.sockets.inject(pair, request);
    }

    /// Sends a datagram on the route.
    fn send(&mut self, content: Vec<u8>) {
        if let Some(route) = &self.route {
            let datagram = route.wrapped(&content).unwrap_or(content);
            self.outgoing.push((route.socket.clone(), route.to(), datagram));
        }
    }

    /// Takes the datagrams to be sent in addition to those of the stack.
    pub fn outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// The route, if it differs from the stand-in. Everything is sent on it except the stack's checks.
    pub fn detour(&self) -> Option<&Route> {
        self.route.as_ref().filter(|route| self.stand_in.is_some_and(|stand_in| stand_in != route.pair))
    }

    /// Whether the route differs from the stack's pair.
    fn is_elsewhere(&self) -> bool {
        self.former.is_some() || self.detour().is_some()
    }

    /// Whether the viewer is still reached by the route of a former generation.
    pub fn is_former(&self) -> bool {
        self.former.is_some()
    }

    /// The route, if the stack has closed its socket and the socket at `local` has to receive for it.
    pub fn closed_route_for(&self, local: SocketAddr) -> Option<Route> {
        let route = self.route.as_ref()?;
        let is_left = self.sockets.iter().all(|open| open.local != route.pair.local);
        (is_left && self.sockets.iter().next()?.local == local).then(|| route.clone())
    }

    /// Whether a nomination by the viewer has changed the route since the last call.
    pub fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// Called when the connection has ended.
    pub fn end(&mut self) {
        self.former = None;
        self.outgoing.extend(self.release.take());
    }

    /// Handles a datagram of the stack that is not RTP.
    pub fn on_send(&mut self, local: SocketAddr, to: SocketAddr, datagram: &[u8], now: Instant) -> Decision {
        if self.inspect_relay_request(local, to, datagram) == Decision::Drop {
            return Decision::Drop;
        }
        let (Some(pair), content) = (self.sockets.pair(local, to, datagram), stun::content(datagram)) else {
            return Decision::Pass;
        };
        if !stun::is_message(content) {
            // Anything but a check goes to the pair that the stack has selected. Datagrams sent before a restart may
            // still pass here.
            let is_of_generation = self.former.is_none() || self.sockets.candidates().any(|at| at == local);
            if is_of_generation && !self.is_selecting && self.stand_in.is_none() {
                self.set_route(pair, 0, now);
            }
            return Decision::Pass;
        }
        match [content[0], content[1]] {
            stun::BINDING_REQUEST if Some(pair) == self.stand_in && self.is_elsewhere() => self.checks(pair, content),
            stun::BINDING_SUCCESS => self.on_success_sent(pair, content, now),
            _ => Decision::Pass,
        }
    }

    /// Inspects the stack's requests to a relay.
    fn inspect_relay_request(&mut self, local: SocketAddr, to: SocketAddr, datagram: &[u8]) -> Decision {
        self.sockets.learn_channel(local, to, datagram);
        // The stack releases an allocation that the former route still needs.
        let is_end = datagram.starts_with(&stun::REFRESH_REQUEST)
            && stun::attribute(datagram, stun::LIFETIME).is_some_and(|seconds| seconds.iter().all(|byte| *byte == 0));
        match &self.route {
            Some(Route { socket, pair }) if is_end && self.former.is_some() => {
                if (pair.local, pair.relay) != (local, Some(to)) {
                    return Decision::Pass;
                }
                self.release = Some((socket.clone(), to, datagram.to_vec()));
                Decision::Drop
            }
            _ => Decision::Pass,
        }
    }

    /// Handles a check of the stand-in by the stack.
    fn checks(&mut self, pair: CandidatePair, check: &[u8]) -> Decision {
        let (Some(generation), Some(transaction)) = (&self.generation, stun::transaction(check)) else {
            return Decision::Pass;
        };
        if self.is_selecting {
            let answer = Draft::new(stun::BINDING_SUCCESS, transaction)
                .with_address(stun::XOR_MAPPED_ADDRESS, pair.local)
                .sign(&generation.theirs.password);
            self.sockets.inject(pair, answer);
            self.inject_check(pair, true);
            return Decision::Drop;
        }
        let Generation { theirs, .. } = self.former.as_ref().unwrap_or(generation);
        let [_, name] = self.former.as_ref().unwrap_or(generation).names();
        let check = stun::signed_again(check, &name, &theirs.password);
        self.redirected.note(transaction, ());
        self.send(check);
        // The viewer may have the same address in the new generation, which only this unchanged check can show.
        if self.former.is_some() { Decision::Pass } else { Decision::Drop }
    }

    /// Handles a success response of the stack: it has verified the check, and accepted the nomination if there is one.
    fn on_success_sent(&mut self, pair: CandidatePair, answer: &[u8], now: Instant) -> Decision {
        if let Some(nominates) = self.synthetic.find(answer) {
            self.is_selecting &= !nominates;
            return Decision::Drop;
        }
        let nomination = self.nominating.find(answer).filter(|nomination| nomination.pair == pair);
        if let Some(priority) = nomination.map(|nomination| nomination.priority) {
            self.nominating.forget(answer);
            self.on_nominated(pair, priority, now);
        }
        let is_way = self.route.as_ref().is_some_and(|route| route.pair == pair);
        if let Some(stand_in) = self.stand_in.filter(|stand_in| is_way && *stand_in != pair) {
            self.inject_check(stand_in, false);
        }
        Decision::Pass
    }

    /// Called when the viewer has nominated a pair of the stack's generation.
    fn on_nominated(&mut self, pair: CandidatePair, priority: u32, now: Instant) {
        // The stack selects the first nominated pair, unless it already has the stand-in.
        if self.is_selecting || self.stand_in.is_none() {
            (self.stand_in, self.is_selecting) = (Some(pair), false);
        }
        let Some(route) = self.route.as_ref().filter(|_| self.former.is_none()) else {
            return self.set_route(pair, priority, now);
        };
        let rank = |pair: &CandidatePair, priority| (pair.relay.is_none(), priority);
        let (known, since) = self.nominated_priority.unwrap_or((0, now));
        let is_better = rank(&pair, priority) > rank(&route.pair, known);
        if route.pair == pair || is_better || now.saturating_duration_since(since) >= NOMINATION_SETTLES {
            self.set_route(pair, priority, now);
        }
    }

    /// Keeps a datagram of the viewer's DTLS handshake that arrives before there is a route.
    pub fn keep_early(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if self.route.is_none() {
            self.sockets.keep(local, from, datagram);
        }
    }

    /// Makes a pair the route.
    fn set_route(&mut self, pair: CandidatePair, priority: u32, now: Instant) {
        self.sockets.inject_kept();
        let Some(open) = self.sockets.at(pair.local) else { return };
        self.has_moved |= self.former.take().is_some();
        self.route = Some(Route { socket: open.socket.clone(), pair });
        self.nominated_priority = Some((priority, now));
        self.sockets.tidy(None);
        self.stand_in.get_or_insert(pair);
        self.outgoing.extend(self.release.take());
        if let Some(stand_in) = self.stand_in.filter(|stand_in| *stand_in != pair) {
            self.inject_check(stand_in, false);
        }
    }

    /// Handles a datagram received at a socket.
    pub fn on_receive(&mut self, local: SocketAddr, from: SocketAddr, datagram: &[u8]) -> Decision {
        self.sockets.learn_relayed_address(local, from, datagram);
        let (Some(pair), content) = (self.sockets.pair(local, from, datagram), stun::content(datagram)) else {
            return Decision::Pass;
        };
        if !stun::is_message(content) {
            return Decision::Pass;
        }
        match [content[0], content[1]] {
            stun::BINDING_SUCCESS if self.redirected.find(content).is_some() => self.on_route_response(content),
            stun::BINDING_REQUEST if self.has_former_credentials(content) => self.answer_former_check(pair, content),
            stun::BINDING_SUCCESS => self.on_pair_valid(pair),
            stun::BINDING_REQUEST => {
                if let (Some(_), Some(transaction)) =
                    (stun::attribute(content, stun::USE_CANDIDATE), stun::transaction(content))
                    && self.nominating.find(content).is_none()
                {
                    let priority = stun::attribute(content, stun::PRIORITY).and_then(|bytes| bytes.try_into().ok());
                    let (priority, request) = (priority.map_or(0, u32::from_be_bytes), content.to_vec());
                    let nomination = Nomination { pair, priority, request, is_repeated: false };
                    self.nominating.note(transaction, nomination);
                }
                Decision::Pass
            }
            _ => Decision::Pass,
        }
    }

    /// Called when the viewer has answered a check of a pair, which makes the pair valid. The stack does not answer a
    /// nomination that came before, and forgets it (`agent/agent_selector.rs:558`); the viewer repeats it only after
    /// half a second or more. So the stack gets the nomination a second time.
    fn on_pair_valid(&mut self, pair: CandidatePair) -> Decision {
        let mut waiting = self.nominating.iter_mut().filter(|one| one.pair == pair && !one.is_repeated);
        if let Some(nomination) = waiting.next() {
            nomination.is_repeated = true;
            let request = nomination.request.clone();
            self.sockets.inject(pair, request);
        }
        Decision::Pass
    }

    /// Handles the viewer's answer to a check of the route: the stack receives it as an answer from the stand-in.
    fn on_route_response(&mut self, answer: &[u8]) -> Decision {
        let (Some(generation), Some(stand_in)) = (&self.generation, self.stand_in) else { return Decision::Pass };
        let theirs = &self.former.as_ref().unwrap_or(generation).theirs;
        if !stun::is_signed(answer, &theirs.password) {
            return Decision::Pass;
        }
        let answer = stun::signed_again(answer, "", &generation.theirs.password);
        self.sockets.inject(stand_in, answer);
        Decision::Drop
    }

    /// Whether a check uses the former credentials.
    fn has_former_credentials(&self, check: &[u8]) -> bool {
        self.former.as_ref().is_some_and(|former| {
            let [name, _] = former.names();
            stun::attribute(check, stun::USERNAME) == Some(name.as_bytes())
        })
    }

    /// Answers a check with the former credentials, if it was received on the route.
    fn answer_former_check(&mut self, pair: CandidatePair, check: &[u8]) -> Decision {
        let Some((former, route)) = self.former.as_ref().zip(self.route.as_ref()) else { return Decision::Drop };
        if route.pair == pair
            && stun::is_signed(check, &former.ours.password)
            && let Some(transaction) = stun::transaction(check)
        {
            let answer = Draft::new(stun::BINDING_SUCCESS, transaction)
                .with_address(stun::XOR_MAPPED_ADDRESS, pair.peer)
                .sign(&former.ours.password);
            self.send(answer);
            if let Some(stand_in) = self.stand_in.filter(|_| !self.is_selecting) {
                self.inject_check(stand_in, false);
            }
        }
        Decision::Drop
    }

    /// When [`search`](Self::search) is next due.
    pub fn next_search(&self) -> Option<Instant> {
        let is_searching = self.former.is_some() && self.stand_in.is_some();
        is_searching.then(|| self.searched.map_or_else(Instant::now, |searched| searched + CHECK_INTERVAL))
    }

    /// Makes the stack check one pair of the new generation, as it would if it had no pair yet; `checks` limits which.
    pub fn search(&mut self, checks: &mut Checks, now: Instant) {
        self.searched = Some(now);
        if self.former.is_none() || self.stand_in.is_none() || self.is_selecting {
            return;
        }
        let mut due = None;
        'found: for open in self.sockets.iter() {
            for peer in &self.peer_addresses {
                let direct = CandidatePair { local: open.local, relay: None, peer: *peer };
                if peer.is_ipv4() == open.local.is_ipv4() && checks.is_due(open.local, *peer, CHECK_BYTES, now) {
                    due = Some(direct);
                    break 'found;
                }
                // The guard does not limit checks that go through a relay, so they are counted here.
                if let Some((relay, is_ipv4)) = open.relay
                    && is_ipv4 == peer.is_ipv4()
                    && checks.admit(relay, *peer, CHECK_BYTES, now)
                {
                    due = Some(CandidatePair { relay: Some(relay), ..direct });
                    break 'found;
                }
            }
        }
        if let Some(pair) = due {
            self.inject_check(pair, false);
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

    /// A path with a viewer at its other end; the test acts as the viewer and the stack.
    struct Both {
        path: Path,
        local: SocketAddr,
        ours: Credentials,
        theirs: Credentials,
        now: Instant,
    }

    impl Both {
        /// A path whose viewer has nominated a pair, behind our relay or not.
        fn connected(relay: Option<&str>) -> Self {
            let (ours, theirs) = (credentials("us"), credentials("them"));
            let mut both = Self { path: Path::default(), local: address(RELAY), ours, theirs, now: Instant::now() };
            both.opens();
            both.path.begin(both.ours.clone(), both.theirs.clone());
            let pair = both.pair(relay, PEER);
            both.nominates(pair, 1);
            assert_eq!(both.route(), Some(pair));
            both
        }

        fn opens(&mut self) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            self.local = socket.local_addr().unwrap();
            self.path.open(self.local, TokioRuntime.wrap_udp_socket(socket).unwrap());
        }

        fn pair(&self, relay: Option<&str>, peer: &str) -> CandidatePair {
            CandidatePair { local: self.local, relay: relay.map(address), peer: address(peer) }
        }

        fn route(&self) -> Option<CandidatePair> {
            self.path.route.as_ref().map(|route| route.pair)
        }

        /// The viewer nominates a pair, and the stack accepts.
        fn nominates(&mut self, pair: CandidatePair, priority: u32) {
            let transaction = rand::random();
            let name = format!("{}:{}", self.ours.ufrag, self.theirs.ufrag);
            let request = Draft::new(stun::BINDING_REQUEST, transaction)
                .with(stun::USERNAME, name.as_bytes())
                .with(stun::PRIORITY, &priority.to_be_bytes())
                .with(stun::USE_CANDIDATE, &[])
                .sign(&self.ours.password);
            assert_eq!(self.comes(pair, &request), Decision::Pass);
            let answer = Draft::new(stun::BINDING_SUCCESS, transaction).sign(&self.ours.password);
            assert_eq!(self.goes(pair, &answer), Decision::Pass);
        }

        /// The stack sends something on a pair.
        fn goes(&mut self, pair: CandidatePair, content: &[u8]) -> Decision {
            let relayed = pair.relay.map(|_| enveloped(stun::SEND_INDICATION, pair.peer, content));
            let datagram = relayed.as_deref().unwrap_or(content);
            self.path.on_send(pair.local, pair.relay.unwrap_or(pair.peer), datagram, self.now)
        }

        fn comes(&mut self, pair: CandidatePair, content: &[u8]) -> Decision {
            let relayed = pair.relay.map(|_| enveloped(stun::DATA_INDICATION, pair.peer, content));
            let datagram = relayed.as_deref().unwrap_or(content);
            self.path.on_receive(pair.local, pair.relay.unwrap_or(pair.peer), datagram)
        }

        /// The stack restarts with new sockets, and is made to select the former route.
        fn restarts(&mut self, name: &str) -> CandidatePair {
            let (former, route) = (self.local, self.route().unwrap());
            self.path.restart();
            // Datagrams sent before still pass.
            assert_eq!(self.goes(route, &[23; 40]), Decision::Pass);
            (self.ours, self.theirs) = (credentials(&format!("us{name}")), credentials(&format!("them{name}")));
            self.path.begin(self.ours.clone(), self.theirs.clone());
            self.path.close(former);
            self.opens();
            let local = self.local;
            self.path.gathered(local);
            let stand_in = self.path.stand_in.expect("the stack has a stand-in");
            // The stack sends a check of its own before it accepts the nomination.
            let [request] = self.brought(local).try_into().unwrap();
            assert!(stun::is_signed(&request, &self.ours.password));
            assert_eq!(self.goes(stand_in, &self.check([3; 12])), Decision::Drop);
            let [answer, again] = self.brought(local).try_into().unwrap();
            assert!(stun::is_signed(&answer, &self.theirs.password));
            assert_eq!(stun::transaction(&answer), Some([3; 12]));
            let believes = Draft::new(stun::BINDING_SUCCESS, stun::transaction(&again).unwrap());
            assert_eq!(self.goes(stand_in, &believes.sign(&self.ours.password)), Decision::Drop);
            assert!(!self.path.is_selecting);
            stand_in
        }

        /// A check by the stack.
        fn check(&self, transaction: [u8; 12]) -> Vec<u8> {
            let name = format!("{}:{}", self.theirs.ufrag, self.ours.ufrag);
            let draft = Draft::new(stun::BINDING_REQUEST, transaction).with(stun::USERNAME, name.as_bytes());
            draft.sign(&self.theirs.password)
        }

        /// The synthetic datagrams that the stack receives at a socket.
        fn brought(&mut self, local: SocketAddr) -> Vec<Vec<u8>> {
            std::iter::from_fn(|| Some(self.path.next_injected(local, Waker::noop())?.1)).collect()
        }

        /// The datagrams sent in addition to those of the stack.
        fn went(&mut self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
            let went = self.path.outgoing().into_iter();
            went.map(|(socket, to, datagram)| (socket.local_addr().unwrap(), to, datagram)).collect()
        }
    }

    #[tokio::test]
    async fn after_a_restart_the_former_route_and_its_credentials_stay_in_use() {
        for relay in [None, Some(RELAY)] {
            let mut both = Both::connected(relay);
            let (route, ours, theirs) = (both.route().unwrap(), both.ours.clone(), both.theirs.clone());
            let stand_in = both.restarts("2");
            assert_eq!(both.path.detour().map(|route| route.pair), Some(route));
            both.path.outgoing();

            assert_eq!(both.goes(stand_in, &both.check([4; 12])), Decision::Pass);
            let [(from, to, datagram)] = both.went().try_into().unwrap();
            assert_eq!((from, to), (route.local, relay.map_or(route.peer, address)));
            let check = stun::content(&datagram);
            assert!(stun::is_signed(check, &theirs.password) && !stun::is_signed(check, &both.theirs.password));
            assert_eq!(stun::attribute(check, stun::USERNAME), Some(&b"them:us"[..]));

            // An answer is valid only with the former password, and reaches the stack signed with the new one.
            let answer = |password: &str| Draft::new(stun::BINDING_SUCCESS, [4; 12]).sign(password);
            assert_eq!(both.comes(route, &answer("of a stranger")), Decision::Pass);
            assert_eq!(both.brought(both.local).len(), 0);
            assert_eq!(both.comes(route, &answer(&theirs.password)), Decision::Drop);
            let [brought] = both.brought(both.local).try_into().unwrap();
            assert!(stun::is_signed(&brought, &both.theirs.password));

            // The viewer's own checks are answered if they are signed with the password, and only on the route.
            let asks = |password: &str| {
                Draft::new(stun::BINDING_REQUEST, [5; 12]).with(stun::USERNAME, b"us:them").sign(password)
            };
            let elsewhere = CandidatePair { peer: address(OTHER), ..route };
            assert_eq!(both.comes(elsewhere, &asks(&ours.password)), Decision::Drop);
            assert_eq!(both.comes(route, &asks("of a stranger")), Decision::Drop);
            assert_eq!(both.went().len(), 0);
            assert_eq!(both.comes(route, &asks(&ours.password)), Decision::Drop);
            let [(.., datagram)] = both.went().try_into().unwrap();
            let answer = stun::content(&datagram);
            assert!(stun::is_signed(answer, &ours.password));
            assert_eq!(stun::address(answer, stun::XOR_MAPPED_ADDRESS), Some(route.peer));
        }
    }

    #[tokio::test]
    async fn a_former_route_over_a_turn_channel_works_after_a_restart() {
        let mut both = Both::connected(Some(RELAY));
        let (route, relay, ours) = (both.route().unwrap(), address(RELAY), both.ours.clone());
        let bind = Draft::new(stun::CHANNEL_BIND_REQUEST, [1; 12])
            .with(stun::CHANNEL_NUMBER, &[0x40, 1, 0, 0])
            .with_address(stun::XOR_PEER_ADDRESS, route.peer);
        assert_eq!(both.path.on_send(route.local, relay, &bind.finish(), both.now), Decision::Pass);
        both.restarts("2");
        both.path.outgoing();
        let check = Draft::new(stun::BINDING_REQUEST, [5; 12]).with(stun::USERNAME, b"us:them").sign(&ours.password);
        let datagram = [&[0x40, 1, 0, check.len() as u8][..], &check].concat();
        assert_eq!(both.path.on_receive(route.local, relay, &datagram), Decision::Drop);
        let [(_, to, answer)] = both.went().try_into().unwrap();
        assert_eq!(to, relay);
        assert!(stun::is_signed(stun::content(&answer), &ours.password));
        // The channel is forgotten with the route.
        both.nominates(both.pair(None, OTHER), 1);
        assert_eq!(both.path.on_receive(route.local, relay, &datagram), Decision::Pass);
        assert!(both.went().is_empty());
    }

    #[tokio::test]
    async fn the_first_nomination_after_a_restart_ends_the_former_generation_on_any_pair() {
        for (relay, peer) in [(None, PEER), (None, OTHER), (Some(RELAY), OTHER)] {
            let mut both = Both::connected(None);
            both.restarts("2");
            // A further restart, which the viewer abandons too.
            both.restarts("3");
            assert!(both.path.is_former() && !both.path.has_moved());
            let found = both.pair(relay, peer);
            both.nominates(found, 0);
            assert_eq!((both.route(), both.path.is_former(), both.path.has_moved()), (Some(found), false, true));
            let is_stand_in = both.path.stand_in == Some(found);
            assert_eq!(both.path.detour().is_none(), is_stand_in);
            let asks = Draft::new(stun::BINDING_REQUEST, [5; 12]).with(stun::USERNAME, b"us:them");
            assert_eq!(both.comes(found, &asks.sign("password of us")), Decision::Pass, "as from a stranger");
            assert_eq!(both.went().len(), 0);
        }
    }

    #[tokio::test]
    async fn the_route_follows_a_better_nomination_at_once_and_a_worse_one_later() {
        let mut both = Both::connected(None);
        let (first, better) = (both.pair(None, PEER), both.pair(None, OTHER));
        both.nominates(both.pair(Some(RELAY), OTHER), 9);
        assert_eq!(both.route(), Some(first), "a relayed pair is worse");
        both.nominates(better, 2);
        assert_eq!(both.route(), Some(better));
        assert_eq!(both.path.detour().map(|route| route.pair), Some(better), "the stack stays with the first");
        both.nominates(first, 1);
        assert_eq!(both.route(), Some(better));
        both.now += NOMINATION_SETTLES;
        both.nominates(first, 1);
        assert_eq!(both.route(), Some(first));
        assert!(both.path.detour().is_none());
    }

    #[tokio::test]
    async fn the_stack_s_checks_of_an_abandoned_pair_are_sent_on_the_route() {
        let mut both = Both::connected(None);
        let (first, better) = (both.pair(None, PEER), both.pair(None, OTHER));
        both.nominates(better, 2);
        both.brought(both.local);
        assert_eq!(both.goes(first, &both.check([6; 12])), Decision::Drop);
        let [(_, to, check)] = both.went().try_into().unwrap();
        assert_eq!(to, better.peer);
        assert!(stun::is_signed(&check, &both.theirs.password));
        let answer = Draft::new(stun::BINDING_SUCCESS, [6; 12]).sign(&both.theirs.password);
        assert_eq!(both.comes(better, &answer), Decision::Drop);
        let (from, brought) = both.path.next_injected(both.local, Waker::noop()).unwrap();
        assert_eq!(from, first.peer);
        assert!(stun::is_signed(&brought, &both.theirs.password));
    }

    #[tokio::test]
    async fn a_relay_of_the_former_route_is_released_when_that_route_ends() {
        let release = Draft::new(stun::REFRESH_REQUEST, [1; 12]).with(stun::LIFETIME, &[0; 4]).finish();
        let keep = Draft::new(stun::REFRESH_REQUEST, [2; 12]).with(stun::LIFETIME, &600u32.to_be_bytes()).finish();
        for is_found in [true, false] {
            let mut both = Both::connected(Some(RELAY));
            let (local, relay, now) = (both.local, address(RELAY), both.now);
            both.path.restart();
            assert_eq!(both.path.on_send(local, relay, &keep, now), Decision::Pass);
            assert_eq!(both.path.on_send(local, address(OTHER), &release, now), Decision::Pass, "another relay");
            assert_eq!(both.path.on_send(local, relay, &release, now), Decision::Drop);
            assert_eq!(both.went().len(), 0);
            both.restarts("2");
            if is_found {
                both.nominates(both.pair(None, OTHER), 1);
            } else {
                both.path.end();
            }
            assert_eq!(both.went(), [(local, relay, release.clone())]);
        }
        let mut both = Both::connected(Some(RELAY));
        let (local, relay, now) = (both.local, address(RELAY), both.now);
        both.path.end();
        assert_eq!(both.path.on_send(local, relay, &release, now), Decision::Pass, "at the end of the connection");
    }

    #[tokio::test]
    async fn while_the_former_route_is_in_use_the_stack_checks_the_viewer_s_addresses() {
        let mut both = Both::connected(None);
        both.restarts("2");
        let mut checks = Checks::default();
        checks.earn(10_000);
        both.path.search(&mut checks, both.now);
        assert!(both.brought(both.local).is_empty(), "nothing is named");
        both.path.add_peer_address(address(PEER));
        both.path.add_peer_address(address(OTHER));
        let mut asked = Vec::new();
        for step in 0..10 {
            let now = both.now + CHECK_INTERVAL * step;
            both.path.search(&mut checks, now);
            while let Some((from, request)) = both.path.next_injected(both.local, Waker::noop()) {
                assert!(stun::is_signed(&request, &both.ours.password));
                assert_eq!(stun::attribute(&request, stun::USE_CANDIDATE), None);
                // The guard counts it when the stack's check is sent.
                assert!(checks.admit(both.local, from, CHECK_BYTES, now));
                asked.push((step, from));
            }
        }
        let (one, other) = (address(PEER), address(OTHER));
        assert_eq!(asked, [(0, one), (1, other), (5, one), (6, other)]);
        both.nominates(both.pair(None, OTHER), 1);
        both.brought(both.local);
        assert_eq!(both.path.next_search(), None);
    }

    #[tokio::test]
    async fn an_early_nomination_is_delivered_again_once_its_pair_is_valid() {
        let mut both = Both::connected(None);
        let pair = both.pair(None, OTHER);
        let request = Draft::new(stun::BINDING_REQUEST, [8; 12]).with(stun::USE_CANDIDATE, &[]).finish();
        for _ in 0..2 {
            assert_eq!(both.comes(pair, &request), Decision::Pass);
        }
        let answer = Draft::new(stun::BINDING_SUCCESS, [9; 12]).finish();
        assert_eq!(both.comes(both.pair(None, PEER), &answer), Decision::Pass);
        assert!(both.brought(both.local).is_empty(), "another pair is valid");
        assert_eq!(both.comes(pair, &answer), Decision::Pass);
        assert_eq!(both.path.next_injected(both.local, Waker::noop()), Some((pair.peer, request)));
        assert_eq!(both.comes(pair, &answer), Decision::Pass);
        assert!(both.brought(both.local).is_empty());
    }

    #[tokio::test]
    async fn an_early_handshake_message_is_delivered_once_there_is_a_pair() {
        let mut both = Both::connected(None);
        both.path.route = None;
        both.path.stand_in = None;
        let (pair, hello) = (both.pair(None, PEER), vec![22; 200]);
        for _ in 0..10 {
            both.path.keep_early(pair.local, pair.peer, &hello);
        }
        assert!(both.brought(both.local).is_empty());
        both.nominates(pair, 1);
        let brought = both.brought(both.local);
        assert_eq!(brought.iter().filter(|one| **one == hello).count(), 4);
        both.path.keep_early(pair.local, pair.peer, &hello);
        both.nominates(pair, 1);
        assert!(!both.brought(both.local).contains(&hello), "the stack has it");
    }

    #[test]
    fn malformed_messages_of_strangers_cause_no_panic() {
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
                    path.on_receive(address(OTHER), address(PEER), &datagram);
                    path.on_send(address(OTHER), address(PEER), &datagram, Instant::now());
                }
            }
        }
    }
}
