//! One connection of the WebRTC stack, which is one transport of a viewer's offer.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use webrtc::peer_connection::{PeerConnection, RTCConfigurationBuilder, RTCIceCandidateInit, RTCSessionDescription};

use super::events::{Event, Teller};
use super::guard::Guard;
use super::interfaces::Interfaces;
use super::link::Link;
use super::messages::Part;
use super::relay::{Answers, Search};
use super::rtp::Track;
use super::{Error, Later, Stack, Whole, build, of_the_crate};
use crate::sdp::{self, Offer, Ours};
use crate::signalling::Candidate;

/// How long an answer waits for the board's own host candidates. They need no network and come within a millisecond,
/// but on a busy board their task may be kept from running far longer; without one in its answer a WHEP viewer, who is
/// told nothing later, would never find us.
const HOST_CANDIDATES: Duration = Duration::from_millis(500);
/// After the first host candidate the others follow without a pause; those that do not are trickled.
const NEXT_CANDIDATE: Duration = Duration::from_millis(1);

/// How long an answer that is all a viewer gets waits for candidates from STUN and TURN servers: two round trips to
/// a relay on another continent.
const ALL_CANDIDATES: Duration = Duration::from_millis(500);

/// One transport. It is closed when dropped.
pub struct Connection {
    /// Of its transport ([`Offer::number`]).
    number: u64,
    connection: Arc<dyn PeerConnection>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Events that came while an answer was made.
    early: VecDeque<Event>,
    relay: Option<Arc<Search>>,
    pub(super) guard: Arc<Guard>,
    /// The ICE generation that was gathered for last.
    generation: Option<sdp::Credentials>,
    /// The board's credentials of that generation.
    ours: Option<sdp::Credentials>,
    interfaces: Interfaces,
    /// Addresses of the board that servers found, in that order.
    found: Vec<(IpAddr, u16)>,
    /// Whether media can flow.
    is_connected: bool,
    /// Whether the last candidate of the board has been told.
    is_gathered: bool,
    stack: Stack,
}

impl Connection {
    /// Prepares the connection for one transport of an offer, which sends the tracks that belong there by addresses of
    /// `interfaces`. One that is begun again keeps its ICE `credentials`.
    pub async fn open(
        stack: &Stack,
        whole: &Whole,
        (offer, transport): (&Offer, usize),
        [video, audio]: [Option<&Track>; 2],
        interfaces: Interfaces,
        credentials: Option<sdp::Credentials>,
    ) -> Result<Self, Error> {
        let tracks = || video.into_iter().chain(audio);
        let streams = tracks().map(Track::stream).collect();
        let link = Link::new(streams, whole.key_frame_wanted.clone(), whole.statistics.clone());
        // What a viewer loses is measured of what it came for.
        let link = if offer.main() == Some(transport) { link } else { link.beside() };
        let (events, coming) = mpsc::unbounded_channel();
        let answers = Arc::new(Answers::default());
        let relay = stack.servers.has_relay().then(|| Arc::new(Search::new(stack.relay.clone(), answers.clone())));
        let guard = Arc::new(whole.guard.beside());
        guard.takes_part(if offer.begins_handshake(transport) { Part::Client } else { Part::Server });
        let teller = Teller {
            events,
            messages: whole.messages.clone(),
            control: whole.control.clone(),
            relay: relay.clone(),
            guard: guard.clone(),
            group: stack.group.clone(),
        };
        let numbers = video.map(|video| video.stream().numbers).unwrap_or_default();
        let builder = build::builder(stack, numbers, link, answers, guard.clone(), interfaces.clone(), credentials)?;
        let connection = builder.with_handler(Arc::new(teller)).build().await?;
        let connection = Self {
            number: offer.number(transport),
            connection: Arc::new(connection),
            events: coming,
            early: VecDeque::new(),
            relay,
            guard,
            generation: None,
            ours: None,
            interfaces,
            found: Vec::new(),
            is_connected: false,
            is_gathered: false,
            stack: stack.clone(),
        };
        // Before the remote description, or the answer would have nothing to send.
        for track in tracks() {
            connection.connection.add_track(track.local()).await?;
        }
        Ok(connection)
    }

    /// Has the stack answer its part of an offer.
    pub async fn settle(&mut self, offer: &Offer, transport: usize, later: Later) -> Result<(), Error> {
        let is_new = self.generation.as_ref() != Some(offer.credentials(transport));
        if self.generation.is_some() && is_new {
            // The sockets are new, so that the relay is asked again too. Without a restart it must not be asked
            // under another name: it holds an allocation to the one that made it (RFC 8656, section 7.1: code 441).
            // It keeps the certificate: one in the configuration would count as another.
            let servers = of_the_crate(&self.stack.servers);
            let configuration = RTCConfigurationBuilder::new().with_ice_servers(servers).build();
            self.connection.set_configuration(configuration).await?;
        }
        if let Some(relay) = self.relay.as_ref().filter(|_| is_new) {
            relay.begin();
        }
        let reduced = RTCSessionDescription::offer(offer.reduced(transport))?;
        self.connection.set_remote_description(reduced).await?;
        if self.generation.is_some() && is_new {
            self.guard.restarts();
        }
        let answer = self.connection.create_answer(None).await?;
        self.connection.set_local_description(answer).await?;
        // Without a restart nothing is gathered again, and the candidates are known.
        if is_new {
            self.generation = Some(offer.credentials(transport).clone());
            self.found.clear();
            self.is_gathered = false;
            let ours = self.described().await?.credentials().clone();
            self.ours = Some(ours.clone());
            self.guard.begins(ours, offer.credentials(transport).clone());
            offer.addresses(transport).for_each(|address| self.guard.names(address));
            self.wait_for_candidates(later).await;
        }
        Ok(())
    }

    /// What the answer needs of the stack's.
    pub async fn ours(&mut self) -> Result<Ours, Error> {
        let mut ours = self.described().await?;
        ours.candidates = ours.candidates.into_iter().map(|candidate| self.ranked(candidate)).collect();
        ours.candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
        Ok(ours)
    }

    /// The board's side, as the stack knows it by now.
    async fn described(&self) -> Result<Ours, Error> {
        let description = self.connection.local_description().await;
        let ours = description.and_then(|description| Ours::read(&description.sdp));
        Ok(ours.ok_or(webrtc::error::Error::ErrPeerConnSDPTypeInvalidValue)?)
    }

    /// Gives a candidate of the board its place among the others, which the crate gives all the same.
    fn ranked(&mut self, candidate: sdp::Candidate) -> sdp::Candidate {
        let place = (candidate.address, candidate.port);
        let rank = self.interfaces.rank(candidate.address).unwrap_or_else(|| {
            // The crate gathers from a bounded number of sockets and servers.
            let known = self.found.iter().position(|one| *one == place);
            known.unwrap_or_else(|| {
                self.found.push(place);
                self.found.len() - 1
            })
        });
        candidate.ranked(rank)
    }

    /// A candidate of the board as the viewer is told it, or `None` where it has no use for it.
    fn told(&mut self, candidate: Candidate) -> Option<Candidate> {
        let candidate = self.ranked(sdp::Candidate::read(&candidate.candidate).ok()??);
        Some(Candidate {
            candidate: format!("candidate:{candidate}"),
            sdp_mid: None,
            sdp_m_line_index: None,
            username_fragment: None,
        })
    }

    /// Gathers what comes at once, or what has to be in the answer. Later candidates are trickled; these are too,
    /// which does no harm.
    async fn wait_for_candidates(&mut self, later: Later) {
        match later {
            Later::InAnswer if self.stack.servers.for_board().is_empty() => {
                self.gather(HOST_CANDIDATES, HOST_CANDIDATES).await;
            }
            Later::InAnswer => {
                tokio::time::timeout(ALL_CANDIDATES, self.gather(ALL_CANDIDATES, ALL_CANDIDATES)).await.ok();
            }
            Later::Trickled => self.gather(HOST_CANDIDATES, NEXT_CANDIDATE).await,
        }
    }

    /// Keeps what happens until the last candidate, or until none comes within `first`, or `next` after another.
    async fn gather(&mut self, first: Duration, next: Duration) {
        let mut patience = first;
        while let Ok(Some(event)) = tokio::time::timeout(patience, self.events.recv()).await {
            let is_last = matches!(event, Event::Candidate(None));
            if matches!(event, Event::Candidate(_)) {
                patience = next;
            }
            self.early.push_back(event);
            if is_last {
                break;
            }
        }
    }

    /// Takes a candidate of the viewer's.
    pub async fn add_candidate(&self, candidate: &sdp::Candidate, generation: Option<String>) -> Result<(), Error> {
        let address = SocketAddr::new(candidate.address, candidate.port);
        let candidate = RTCIceCandidateInit {
            candidate: format!("candidate:{candidate}"),
            username_fragment: generation,
            ..Default::default()
        };
        let added = self.connection.add_ice_candidate(candidate).await;
        self.guard.names(address);
        added.map_err(|error| Error::BadCandidate(error.to_string()))
    }

    /// Waits for what happens next. Cancelling the wait loses nothing. Candidates name no section.
    pub async fn event(&mut self) -> Event {
        loop {
            let event = match self.early.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    event = self.events.recv() => event.unwrap_or(Event::Closed),
                    () = self.guard.ended() => Event::Left,
                    () = self.guard.moved() => Event::Reached,
                    refusal = self.guard.repeat() => Event::Refused(refusal),
                },
            };
            match event {
                Event::Candidate(Some(candidate)) => {
                    if let Some(candidate) = self.told(candidate) {
                        return Event::Candidate(Some(candidate));
                    }
                }
                event => {
                    self.is_connected |= matches!(event, Event::Connected);
                    self.is_gathered |= matches!(event, Event::Candidate(None));
                    return event;
                }
            }
        }
    }

    /// Which of the viewer's transports it is ([`Offer::number`]).
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The board's ICE credentials, once there was an answer.
    pub fn credentials(&self) -> Option<sdp::Credentials> {
        self.ours.clone()
    }

    /// How many addresses it has bound.
    pub fn addresses(&self) -> usize {
        self.interfaces.count()
    }

    /// Whether media can flow, or could.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Whether the last candidate of the board has been told.
    pub fn is_gathered(&self) -> bool {
        self.is_gathered
    }

    /// The relay's time is over: no way to this viewer was found.
    pub fn give_up_relay(&self) {
        if let Some(relay) = &self.relay {
            relay.give_up(Instant::now());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.guard.leaves();
        // A connection that is merely dropped lives on in the crate's driver.
        let connection = self.connection.clone();
        self.stack.group.spawn(async move {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "peer connection did not close cleanly");
            }
        });
    }
}
