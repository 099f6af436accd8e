//! One connection of the WebRTC stack; it serves one transport of a viewer's offer.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use webrtc::peer_connection::{PeerConnection, RTCConfigurationBuilder, RTCIceCandidateInit, RTCSessionDescription};

use super::dtls_messages::DtlsRole;
use super::events::EventHandler;
use super::guard::Guard;
use super::interceptor::ViewerInterceptor;
use super::interfaces::Interfaces;
use super::rtp::Track;
use super::turn_diagnostics::{TurnAttempt, TurnResponses};
use super::{Error, Event, Gathering, SharedState, Stack, build, of_the_crate};
use crate::sdp::{self, LocalTransport, Offer};
use crate::signalling::Candidate;

/// How long an answer waits for the board's own host candidates. They need no network and come within a millisecond,
/// but on a busy board their task may be delayed far longer; a WHEP viewer gets nothing after the answer, and without a
/// host candidate in it could never reach the board.
const HOST_CANDIDATES: Duration = Duration::from_millis(500);
/// After the first host candidate the others follow without a pause; later ones are trickled.
const NEXT_CANDIDATE: Duration = Duration::from_millis(1);

/// How long an answer waits for candidates from STUN and TURN servers if nothing is sent after it: two round trips to a
/// relay on another continent.
const ALL_CANDIDATES: Duration = Duration::from_millis(500);

/// One transport's connection. It is closed when dropped.
pub struct Connection {
    /// The number of its transport ([`Offer::number`]).
    number: u64,
    connection: Arc<dyn PeerConnection>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Events that came while an answer was being made.
    early_events: VecDeque<Event>,
    relay: Option<Arc<TurnAttempt>>,
    pub(super) guard: Arc<Guard>,
    /// The viewer's credentials of the ICE generation that was last gathered for.
    generation: Option<sdp::Credentials>,
    /// The board's credentials of that generation.
    local: Option<sdp::Credentials>,
    interfaces: Interfaces,
    /// Addresses of the board that STUN and TURN servers reported, in that order.
    reflexive_addresses: Vec<(IpAddr, u16)>,
    /// Whether media can flow.
    is_connected: bool,
    /// Whether the last candidate of the board has been reported.
    is_gathered: bool,
    stack: Stack,
}

impl Connection {
    /// Prepares the connection for one transport of an offer. It sends the tracks that belong there, from addresses of
    /// `interfaces`. A transport that is started again keeps its ICE `credentials`.
    pub async fn open(
        stack: &Stack,
        shared: &SharedState,
        (offer, transport): (&Offer, usize),
        [video, audio]: [Option<&Track>; 2],
        interfaces: Interfaces,
        credentials: Option<sdp::Credentials>,
    ) -> Result<Self, Error> {
        let tracks = || video.into_iter().chain(audio);
        let streams = tracks().map(Track::stream).collect();
        let interceptor = ViewerInterceptor::new(streams, shared.key_frame_wanted.clone(), shared.statistics.clone());
        // Losses are measured on the main transport.
        let interceptor =
            if offer.main_transport() == Some(transport) { interceptor } else { interceptor.additional() };
        let (events, coming) = mpsc::unbounded_channel();
        let turn_responses = Arc::new(TurnResponses::default());
        let relay =
            stack.servers.has_relay().then(|| Arc::new(TurnAttempt::new(stack.relay.clone(), turn_responses.clone())));
        let guard = Arc::new(shared.guard.additional());
        guard.set_role(if offer.is_dtls_client(transport) { DtlsRole::Client } else { DtlsRole::Server });
        let handler = EventHandler {
            events,
            messages: shared.messages.clone(),
            control: shared.control.clone(),
            relay: relay.clone(),
            guard: guard.clone(),
            group: stack.group.clone(),
        };
        let rtp_mapping = video.map(|video| video.stream().rtp_mapping).unwrap_or_default();
        let builder = build::builder(
            stack,
            rtp_mapping,
            interceptor,
            turn_responses,
            guard.clone(),
            interfaces.clone(),
            credentials,
        )?;
        let connection = builder.with_handler(Arc::new(handler)).build().await?;
        let connection = Self {
            number: offer.number(transport),
            connection: Arc::new(connection),
            events: coming,
            early_events: VecDeque::new(),
            relay,
            guard,
            generation: None,
            local: None,
            interfaces,
            reflexive_addresses: Vec::new(),
            is_connected: false,
            is_gathered: false,
            stack: stack.clone(),
        };
        // The tracks are added before the remote description; otherwise the answer would have nothing to send.
        for track in tracks() {
            connection.connection.add_track(track.local()).await?;
        }
        Ok(connection)
    }

    /// Makes the stack answer its part of an offer.
    pub async fn negotiate(&mut self, offer: &Offer, transport: usize, gathering: Gathering) -> Result<(), Error> {
        let is_new = self.generation.as_ref() != Some(offer.credentials(transport));
        if self.generation.is_some() && is_new {
            // The sockets are new, so that the relay is asked again too. Without a restart it must not be asked under
            // another name: the allocation belongs to the name that made it (RFC 8656, section 7.1: code 441). The
            // configuration has no certificate, so the present one is kept: the crate would treat even the same one as
            // another.
            let servers = of_the_crate(&self.stack.servers);
            let configuration = RTCConfigurationBuilder::new().with_ice_servers(servers).build();
            self.connection.set_configuration(configuration).await?;
        }
        if let Some(relay) = self.relay.as_ref().filter(|_| is_new) {
            relay.start();
        }
        let reduced = RTCSessionDescription::offer(offer.stack_offer(transport))?;
        self.connection.set_remote_description(reduced).await?;
        if self.generation.is_some() && is_new {
            self.guard.on_restart();
        }
        let answer = self.connection.create_answer(None).await?;
        self.connection.set_local_description(answer).await?;
        // Without a restart nothing is gathered again, and the candidates are known.
        if is_new {
            self.generation = Some(offer.credentials(transport).clone());
            self.reflexive_addresses.clear();
            self.is_gathered = false;
            let local = self.description().await?.credentials().clone();
            self.local = Some(local.clone());
            self.guard.on_answer(local, offer.credentials(transport).clone());
            offer.addresses(transport).for_each(|address| self.guard.add_peer_address(address));
            self.wait_for_candidates(gathering).await;
        }
        Ok(())
    }

    /// The values of the stack for the answer.
    pub async fn local(&mut self) -> Result<LocalTransport, Error> {
        let mut local = self.description().await?;
        local.candidates = local.candidates.into_iter().map(|candidate| self.ranked(candidate)).collect();
        local.candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
        Ok(local)
    }

    /// The board's side, as currently known to the stack.
    async fn description(&self) -> Result<LocalTransport, Error> {
        let description = self.connection.local_description().await;
        let local = description.and_then(|description| LocalTransport::read(&description.sdp));
        Ok(local.ok_or(webrtc::error::Error::ErrPeerConnSDPTypeInvalidValue)?)
    }

    /// Sets the priority of a candidate of the board; the crate gives all candidates of one type the same.
    fn ranked(&mut self, candidate: sdp::Candidate) -> sdp::Candidate {
        let place = (candidate.address, candidate.port);
        let rank = self.interfaces.rank(candidate.address).unwrap_or_else(|| {
            // The list is bounded: the crate gathers from a limited number of sockets and servers.
            let known = self.reflexive_addresses.iter().position(|one| *one == place);
            known.unwrap_or_else(|| {
                self.reflexive_addresses.push(place);
                self.reflexive_addresses.len() - 1
            })
        });
        candidate.ranked(rank)
    }

    /// A candidate of the board in the form sent to the viewer; `None` if the viewer cannot use it.
    fn for_viewer(&mut self, candidate: Candidate) -> Option<Candidate> {
        let candidate = self.ranked(sdp::Candidate::read(&candidate.candidate).ok()??);
        Some(Candidate {
            candidate: format!("candidate:{candidate}"),
            sdp_mid: None,
            sdp_m_line_index: None,
            username_fragment: None,
        })
    }

    /// Waits for the candidates that come at once, or for those that have to be in the answer. Later candidates are
    /// trickled; these are trickled too, which does no harm.
    async fn wait_for_candidates(&mut self, gathering: Gathering) {
        match gathering {
            Gathering::Full if self.stack.servers.for_board().is_empty() => {
                self.gather(HOST_CANDIDATES, HOST_CANDIDATES).await;
            }
            Gathering::Full => {
                tokio::time::timeout(ALL_CANDIDATES, self.gather(ALL_CANDIDATES, ALL_CANDIDATES)).await.ok();
            }
            Gathering::Trickle => self.gather(HOST_CANDIDATES, NEXT_CANDIDATE).await,
        }
    }

    /// Keeps events until the last candidate, or until no candidate comes within `first`, or `next` after another.
    async fn gather(&mut self, first: Duration, next: Duration) {
        let mut patience = first;
        while let Ok(Some(event)) = tokio::time::timeout(patience, self.events.recv()).await {
            let is_last = matches!(event, Event::Candidate(None));
            if matches!(event, Event::Candidate(_)) {
                patience = next;
            }
            self.early_events.push_back(event);
            if is_last {
                break;
            }
        }
    }

    /// Adds a candidate of the viewer.
    pub async fn add_candidate(&self, candidate: &sdp::Candidate, generation: Option<String>) -> Result<(), Error> {
        let address = SocketAddr::new(candidate.address, candidate.port);
        let candidate = RTCIceCandidateInit {
            candidate: format!("candidate:{candidate}"),
            username_fragment: generation,
            ..Default::default()
        };
        let added = self.connection.add_ice_candidate(candidate).await;
        self.guard.add_peer_address(address);
        added.map_err(|error| Error::BadCandidate(error.to_string()))
    }

    /// Waits for the next event. Cancelling the wait loses nothing. Candidates name no section.
    pub async fn event(&mut self) -> Event {
        loop {
            let event = match self.early_events.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    event = self.events.recv() => event.unwrap_or(Event::Closed),
                    () = self.guard.ended() => Event::ViewerClosed,
                    () = self.guard.moved() => Event::PathFound,
                    refusal = self.guard.repeat() => Event::Refused(refusal.to_string()),
                },
            };
            match event {
                Event::Candidate(Some(candidate)) => {
                    if let Some(candidate) = self.for_viewer(candidate) {
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

    /// The number of its transport ([`Offer::number`]).
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The board's ICE credentials, once there was an answer.
    pub fn credentials(&self) -> Option<sdp::Credentials> {
        self.local.clone()
    }

    /// Number of addresses that it has bound.
    pub fn addresses(&self) -> usize {
        self.interfaces.count()
    }

    /// Whether media can flow, or could before.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Whether the last candidate of the board has been reported.
    pub fn is_gathered(&self) -> bool {
        self.is_gathered
    }

    /// Called when no path to this viewer was found and waiting for the relay ends.
    pub fn give_up_relay(&self) {
        if let Some(relay) = &self.relay {
            relay.viewer_given_up(Instant::now());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.guard.on_end();
        // A connection that is only dropped lives on in the crate's driver.
        let connection = self.connection.clone();
        self.stack.group.spawn(async move {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "peer connection did not close cleanly");
            }
        });
    }
}
