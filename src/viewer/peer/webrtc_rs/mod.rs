//! Implements the contract of `peer` with the crates `webrtc` and `rtc`, which are used only in the files of this
//! folder.
//!
//! Problems of `webrtc` 0.21.1 that are worked around here: mDNS sockets (off; browsers' `.local` candidates are
//! learned as peer-reflexive ones), a check interval of 200 ms, offers that it misunderstands ([`crate::sdp`]),
//! swallowed RTCP and unlimited retransmission ([`interceptor`]), timestamps from summed durations ([`rtp`]), detached
//! tasks ([`runtime`]), a system call per packet and 96 kB of buffers per socket ([`socket`]), datagrams from strangers
//! ([`guard`]), a handshake that fails when a datagram is lost ([`handshake`]), an unlimited number of checks
//! ([`checks`]), name resolution that blocks everything else ([`dns_cache`]), refusals by relays that are not reported
//! ([`turn_diagnostics`]), and connections that live on when dropped.

mod build;
mod checks;
mod codecs;
mod connection;
mod dns_cache;
mod dtls_messages;
mod events;
mod generation;
mod guard;
mod handshake;
mod interceptor;
mod interfaces;
mod path;
mod payloads;
mod receive_quota;
mod rtp;
mod rtp_mapping;
mod runtime;
mod socket;
mod sockets;
mod stun;
mod turn_diagnostics;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{Notify, mpsc};
use webrtc::peer_connection::crypto::{self, SignatureScheme};
use webrtc::peer_connection::{RTCCertificate, RTCIceServer};

use super::{Error, Event, Gathering, Kind, Statistics};
use crate::ice::Servers;
use crate::media::Frame;
use crate::sdp::{self, Board, LocalTransport, MAX_TRANSPORTS, Offer, Tracks};
use crate::signalling::Candidate;
use crate::tasks::Group;
use connection::Connection;
use dns_cache::DnsCache;
use events::Control;
use guard::Guard;
use interfaces::Interfaces;
use payloads::{PayloadCache, Payloads};
use rtp::{RtpClock, Track};
use turn_diagnostics::TurnStatus;

/// Messages of a viewer that may wait to be read on its data channel; SCTP slows down a viewer that sends more.
const MESSAGES: usize = 16;

/// Keeps only the crate's text: its error type is not used outside.
impl From<webrtc::error::Error> for Error {
    fn from(error: webrtc::error::Error) -> Self {
        Self::Stack(error.to_string())
    }
}

/// State that all peer connections share.
#[derive(Clone)]
pub struct Stack {
    /// One certificate for all viewers: creating a key for each would cost milliseconds per join.
    certificate: RTCCertificate,
    servers: Servers,
    dns_cache: DnsCache,
    relay: TurnStatus,
    payloads: PayloadCache,
    /// The address of the board at which the viewer has reached it, if known.
    reached: Option<IpAddr>,
    group: Group,
}

impl Stack {
    /// Creates a stack whose peer connections run their tasks in `group`.
    pub fn new(servers: Servers, group: Group) -> Result<Self, Error> {
        let provider = crypto::default_provider()
            .map_err(|error| webrtc::error::Error::Other(format!("no cryptography: {error}")))?;
        let names = vec!["peercam".to_owned()];
        let parameters = rcgen::CertificateParams::new(names).expect("the name is a valid DNS name");
        let certificate = RTCCertificate::generate(provider.crypto(), SignatureScheme::EcdsaP256Sha256, parameters)?;
        let dns_cache = DnsCache::default();
        let hosts = of_the_crate(&servers).into_iter().filter_map(|server| server.urls().ok()).flatten();
        dns_cache.keep_resolved(hosts.map(|url| format!("{}:{}", url.host, url.port)).collect(), &group);
        Ok(Self {
            certificate,
            servers,
            dns_cache,
            relay: TurnStatus::default(),
            payloads: PayloadCache::default(),
            reached: None,
            group,
        })
    }

    /// A copy for a viewer that has reached the board at this address.
    #[must_use]
    pub fn reached_at(&self, address: Option<IpAddr>) -> Self {
        Self { reached: address, ..self.clone() }
    }

    /// The reason why the board got no TURN relay when a viewer last needed one; `None` if it got one or none is
    /// configured.
    pub fn relay_fault(&self) -> Option<String> {
        self.relay.fault()
    }

    /// Answers an offer. Returns the viewer's connections, and the answer with the board's host candidates in it.
    pub async fn answer(&self, offer: &str, board: Board, gathering: Gathering) -> Result<(Peer, String), Error> {
        let (bytes, offer) = (offer.len(), Offer::read(offer, board)?);
        let (epoch, wall) = (Instant::now(), SystemTime::now());
        // Both tracks are created, since a further offer may request media that the first does not.
        let video = Track::video(RtpClock::new(90_000, epoch, wall));
        let audio = Track::audio(RtpClock::new(48_000, epoch, wall));
        let (messages, said) = mpsc::channel(MESSAGES);
        let shared = SharedState {
            control: Control::default(),
            messages,
            key_frame_wanted: Arc::new(Notify::new()),
            statistics: Arc::new(Statistics::default()),
            guard: Guard::default(),
        };
        shared.guard.add_credit(bytes);
        let mut peer = Peer {
            stack: self.clone(),
            connections: [const { None }; MAX_TRANSPORTS],
            video,
            audio,
            shared,
            messages: said,
            payloads: self.payloads.share(),
            gathering,
            offer: offer.clone(),
            said: None,
            answers: 0,
        };
        let answer = peer.answer_offer(offer).await?;
        Ok((peer, answer))
    }
}

/// The STUN and TURN servers in the crate's form.
fn of_the_crate(servers: &Servers) -> Vec<RTCIceServer> {
    let servers = servers.for_board().into_iter();
    let server = servers.map(|server| RTCIceServer {
        urls: server.urls,
        username: server.username.unwrap_or_default(),
        credential: server.credential.map(|credential| credential.reveal().to_owned()).unwrap_or_default(),
    });
    server.collect()
}

/// State that all connections of one viewer share.
struct SharedState {
    control: Control,
    messages: mpsc::Sender<String>,
    key_frame_wanted: Arc<Notify>,
    statistics: Arc<Statistics>,
    /// Limits that apply to the viewer as a whole.
    guard: Guard,
}

/// One viewer: one connection per transport of its offer, which is a single one if the offer bundles. They are closed
/// when dropped.
pub struct Peer {
    stack: Stack,
    connections: [Option<Connection>; MAX_TRANSPORTS],
    video: Track,
    audio: Track,
    shared: SharedState,
    messages: mpsc::Receiver<String>,
    payloads: Arc<Payloads>,
    gathering: Gathering,
    /// The offer that was answered last.
    offer: Offer,
    /// The first connection's description of the board's side, used in place of that of a lost connection.
    said: Option<LocalTransport>,
    /// Number of answers so far, which is the version of the answer.
    answers: u64,
}

impl Peer {
    /// Answers a further offer on the same connections.
    pub async fn negotiate(&mut self, offer: &str, board: Board) -> Result<String, Error> {
        let (bytes, offer) = (offer.len(), self.offer.renegotiate(offer, board)?);
        self.shared.guard.add_credit(bytes);
        self.answer_offer(offer).await
    }

    async fn answer_offer(&mut self, offer: Offer) -> Result<String, Error> {
        let mut ours: Vec<LocalTransport> = Vec::with_capacity(MAX_TRANSPORTS);
        for transport in 0..offer.transports() {
            self.open(&offer, transport, None).await?;
            let one = match &mut self.connections[transport] {
                Some(connection) => {
                    connection.negotiate(&offer, transport, self.gathering).await?;
                    Some(connection.local().await?)
                }
                None => self.said.clone(),
            };
            let mut one = one.ok_or(webrtc::error::Error::ErrPeerConnSDPTypeInvalidValue)?;
            let session = self.said.get_or_insert_with(|| one.clone()).session.clone();
            one.session = session;
            ours.push(one);
        }
        let (video, audio) = offer.sending();
        self.video.is_paused = !video;
        self.video.follow(offer.video());
        self.audio.is_paused = !audio;
        self.audio.follow(offer.audio());
        self.offer = offer;
        // The crate's own version is a time, which does not increase by one and may decrease.
        self.answers += 1;
        ours[0].version = self.answers;
        Ok(self.offer.answer(&ours, Some(self.video.sources()), Some(self.audio.sources())))
    }

    /// Opens the connection of a transport that has none yet, unless the transport was lost.
    async fn open(
        &mut self,
        offer: &Offer,
        transport: usize,
        credentials: Option<sdp::Credentials>,
    ) -> Result<(), Error> {
        let place = &mut self.connections[transport];
        if offer.is_lost(transport) || place.as_ref().is_some_and(|one| one.number() == offer.number(transport)) {
            return Ok(());
        }
        *place = None;
        let taken: usize = self.connections.iter().flatten().map(Connection::addresses).sum();
        let (reached, all) = (self.stack.reached, offer.transports());
        let interfaces = match self.answers {
            0 => Interfaces::one_of(all, reached),
            _ => Interfaces::additional(taken, reached),
        };
        let Tracks { video, audio } = offer.tracks_on(transport);
        let mut tracks = [&mut self.video, &mut self.audio];
        tracks.iter_mut().zip([video, audio]).filter(|(_, is_here)| *is_here).for_each(|(track, _)| track.leaves());
        let tracks = [video.then_some(&self.video), audio.then_some(&self.audio)];
        let at = (offer, transport);
        let opened = Connection::open(&self.stack, &self.shared, at, tracks, interfaces, credentials).await?;
        self.connections[transport] = Some(opened);
        Ok(())
    }

    /// Starts a transport again that [`Event::TransportClosed`](super::Event::TransportClosed) has reported. Its
    /// candidates follow as events.
    pub async fn restart_transport(&mut self, transport: usize) -> Result<(), Error> {
        let credentials = self.connections[transport].as_ref().and_then(Connection::credentials);
        let offer = self.offer.clone();
        self.open(&offer, transport, credentials).await?;
        match &mut self.connections[transport] {
            Some(connection) => connection.negotiate(&offer, transport, self.gathering).await,
            None => Ok(()),
        }
    }

    /// Sections of the latest offer that the board rejects although the viewer does not, with the reasons.
    pub fn rejections(&self) -> Option<String> {
        self.offer.rejections()
    }

    /// Whether video is to be sent, and whether audio is.
    pub fn sending(&self) -> (bool, bool) {
        self.offer.sending()
    }

    /// The section in which video is sent: its index and its `a=mid`; `None` while no video is sent.
    pub fn video_section(&self) -> Option<(usize, Option<String>)> {
        self.offer.video_section().map(|(index, mid)| (index, mid.map(str::to_owned)))
    }

    /// See [`Peer::rtp_at`](super::Peer::rtp_at).
    pub fn rtp_at(&self, at: Instant) -> Option<u32> {
        self.offer.video().map(|_| self.video.clock().timestamp(at))
    }

    /// See [`Peer::send`](super::Peer::send).
    pub async fn send(&mut self, kind: Kind, frame: &Arc<Frame>) -> Result<(), Error> {
        let home = match kind {
            Kind::Video => self.offer.video_transport(),
            Kind::Audio => self.offer.audio_transport(),
        };
        if !self.is_connected(home) {
            return Ok(());
        }
        let track = match kind {
            Kind::Video => &mut self.video,
            Kind::Audio => &mut self.audio,
        };
        Ok(track.send(frame, &self.payloads).await?)
    }

    fn is_connected(&self, transport: usize) -> bool {
        self.connections[transport].as_ref().is_some_and(Connection::is_connected)
    }

    /// Adds a candidate of the viewer; one that the board cannot use is ignored (RFC 8839, section 5.1).
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), Error> {
        // A `.local` name hides the browser's address. The board need not know it: the browser checks our host
        // candidates, and we learn its address from those checks (RFC 8445, section 7.3.1.3).
        self.shared.guard.add_credit(candidate.candidate.len());
        let read = sdp::Candidate::read(&candidate.candidate);
        let Some(usable) = read.map_err(Error::BadCandidate)? else { return Ok(()) };
        let (mid, index) = (candidate.sdp_mid.as_deref(), candidate.sdp_m_line_index.map(usize::from));
        let transport = self.offer.transport_of(mid, index, candidate.username_fragment.as_deref());
        let connection = transport.map_err(Error::BadCandidate)?.and_then(|at| self.connections[at].as_ref());
        match connection {
            Some(connection) => connection.add_candidate(&usable, candidate.username_fragment).await,
            // The candidate belongs to a rejected section.
            None => Ok(()),
        }
    }

    /// Waits for the next event. Cancelling the wait loses nothing.
    pub async fn event(&mut self) -> Event {
        loop {
            let [first, second, third] = &mut self.connections;
            let (transport, event) = tokio::select! {
                biased;
                event = event_of(first) => (0, event),
                event = event_of(second) => (1, event),
                event = event_of(third) => (2, event),
                () = self.shared.key_frame_wanted.notified() => return Event::KeyFrameWanted,
                Some(message) = self.messages.recv() => {
                    self.shared.guard.read(message.len());
                    return Event::Message(message);
                }
            };
            if let Some(event) = self.judge(transport, event) {
                return event;
            }
        }
    }

    /// Translates a transport's event for the session, which depends on the [main](Offer::main) transport. If another
    /// transport ends, only the media or data that it carries ends.
    fn judge(&mut self, transport: usize, event: Event) -> Option<Event> {
        match event {
            Event::Candidate(Some(candidate)) => {
                let (index, mid) = self.offer.tagged_section(transport);
                let (sdp_mid, sdp_m_line_index) = (mid.map(str::to_owned), u16::try_from(index).ok());
                return Some(Event::Candidate(Some(Candidate { sdp_mid, sdp_m_line_index, ..candidate })));
            }
            // The end of candidates is reported once, after that of all transports (RFC 8838, section 13).
            Event::Candidate(None) => {
                let mut others = self.connections.iter().flatten();
                return others.all(Connection::is_gathered).then_some(Event::Candidate(None));
            }
            Event::Closed | Event::ViewerClosed | Event::Disconnected if self.offer.restart_transport(transport) => {
                return Some(Event::TransportClosed {
                    transport,
                    is_main: self.offer.main_transport() == Some(transport),
                });
            }
            _ => {}
        }
        match (event, self.offer.main_transport()) {
            (event, Some(main)) if main == transport => Some(event),
            (Event::Closed | Event::ViewerClosed | Event::Refused(_), main) => {
                let is_sound = self.offer.audio_transport() == transport;
                let is_used = self.offer.is_used(transport);
                self.connections[transport] = None;
                self.offer.mark_lost(transport);
                match main {
                    Some(_) => is_used.then_some(Event::TransportLost(if is_sound { "sound" } else { "data channel" })),
                    None => Some(Event::Idle),
                }
            }
            (Event::PathFound | Event::Connected | Event::Disconnected, _) => None,
            (event, _) => Some(event),
        }
    }

    /// Sends text on the data channel. If there is no channel or it is full, the text is dropped.
    pub async fn send_text(&self, text: &str) {
        let control = self.shared.control.lock().expect("lock is never poisoned: no panic while held").clone();
        if let Some(control) = control
            && let Err(error) = control.try_send_text(text).await
        {
            tracing::debug!(%error, "message on the data channel dropped");
        }
    }

    /// The reason why the board has no TURN relay, called when no path to this viewer was found.
    pub fn relay_fault(&self) -> Option<String> {
        self.connections.iter().flatten().for_each(Connection::give_up_relay);
        self.stack.relay_fault()
    }

    /// Counters of all its transports.
    pub fn statistics(&self) -> Arc<Statistics> {
        self.shared.statistics.clone()
    }
}

async fn event_of(connection: &mut Option<Connection>) -> Event {
    match connection {
        Some(connection) => connection.event().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
