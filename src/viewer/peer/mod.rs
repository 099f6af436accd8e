//! The boundary to the WebRTC stack. Only the files of this folder name the `webrtc` and `rtc` crates.
//!
//! The traps of `webrtc` 0.21.1 that are dealt with here: mDNS sockets (off; browsers' `.local` candidates are
//! learnt as peer-reflexive ones), a check interval of 200 ms, offers that it misunderstands ([`crate::sdp`]),
//! swallowed RTCP and unguarded retransmission ([`link`]), timestamps from summed durations ([`rtp`]),
//! detached tasks ([`runtime`]), a system call for each packet and 96 kB of buffers per socket ([`socket`]), datagrams
//! of strangers ([`guard`]), a handshake that a lost datagram ends ([`handshake`]), checks without number ([`checks`]), a
//! name that is slow to resolve and holds up everything ([`names`]), relays that refuse without a word ([`relay`]), and
//! connections that live on when dropped.

mod build;
mod checks;
mod codecs;
mod events;
mod guard;
mod handshake;
mod interfaces;
mod link;
mod names;
mod relay;
mod rtp;
mod runtime;
mod socket;
mod stun;
mod unread;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc};
use webrtc::peer_connection::crypto::{self, SignatureScheme};
use webrtc::peer_connection::{
    PeerConnection, RTCCertificate, RTCConfigurationBuilder, RTCIceCandidateInit, RTCIceServer, RTCSessionDescription,
};

use crate::ice::Servers;
use crate::sdp::{self, Board, Offer, Ours};
use crate::signalling::Candidate;
use crate::tasks::Group;
use events::{Control, Teller};
use guard::Guard;
use interfaces::Interfaces;
use link::Link;
use names::Names;
use relay::{Answers, Relay, Search};
use rtp::RtpClock;

pub use events::Event;
pub use link::LinkStatistics;
pub use rtp::Track;

/// How long an answer waits for the board's own host candidates. They need no network and come within a millisecond,
/// but on a busy board their task may be kept from running far longer; without one in its answer a WHEP viewer, who is
/// told nothing later, would never find us.
const HOST_CANDIDATES: Duration = Duration::from_millis(500);
/// After the first host candidate the others follow without a pause; those that do not are trickled.
const NEXT_CANDIDATE: Duration = Duration::from_millis(1);

/// How long an answer that is all a viewer gets waits for candidates from STUN and TURN servers: two round trips to
/// a relay on another continent.
const ALL_CANDIDATES: Duration = Duration::from_millis(500);

/// Messages of a viewer that may wait on its data channel; a viewer that sends more is made to wait by SCTP.
const MESSAGES: usize = 16;

/// What keeps a viewer from being served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The offer is the viewer's mistake.
    #[error("{0}")]
    BadOffer(String),
    /// The offer is sound but wants nothing that we send.
    #[error("{0}")]
    NoCommonCodec(String),
    /// The candidate is the viewer's mistake.
    #[error("the candidate cannot be read: {0}")]
    BadCandidate(String),
    /// Our own side failed.
    #[error("the peer connection failed: {0}")]
    Stack(webrtc::error::Error),
}

/// Without `#[from]`, which would have the cause said twice: by this error and as its source.
impl From<webrtc::error::Error> for Error {
    fn from(error: webrtc::error::Error) -> Self {
        Self::Stack(error)
    }
}

impl From<sdp::Error> for Error {
    fn from(error: sdp::Error) -> Self {
        match error {
            sdp::Error::Unusable(reason) => Self::BadOffer(reason),
            sdp::Error::NoCommonCodec(reason) => Self::NoCommonCodec(reason),
        }
    }
}

/// What all peer connections share.
#[derive(Clone)]
pub struct Stack {
    /// One for all viewers: making a key for each would cost milliseconds of each join.
    certificate: RTCCertificate,
    servers: Servers,
    names: Names,
    relay: Relay,
    group: Group,
}

/// How a viewer gets the candidates that take a round trip to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// One by one, after the answer.
    Trickled,
    /// Not at all but in the answer.
    InAnswer,
}

impl Stack {
    /// Prepares for peer connections whose tasks run in `group`.
    pub fn new(servers: Servers, group: Group) -> Result<Self, Error> {
        let provider = crypto::default_provider()
            .map_err(|error| webrtc::error::Error::Other(format!("no cryptography: {error}")))?;
        let names = vec!["peercam".to_owned()];
        let parameters = rcgen::CertificateParams::new(names).expect("the name is a valid DNS name");
        let certificate = RTCCertificate::generate(provider.crypto(), SignatureScheme::EcdsaP256Sha256, parameters)?;
        let names = Names::default();
        let hosts = of_the_crate(&servers).into_iter().filter_map(|server| server.urls().ok()).flatten();
        names.keep_known(hosts.map(|url| format!("{}:{}", url.host, url.port)).collect(), &group);
        Ok(Self { certificate, servers, names, relay: Relay::default(), group })
    }

    /// Why the board got no relay when a viewer last needed one; `None` where it did, or none is configured.
    pub fn relay_fault(&self) -> Option<String> {
        self.relay.fault()
    }

    /// Answers an offer: the connection, and the answer with the board's host candidates in it.
    pub async fn answer(&self, offer: &str, board: Board, later: Later) -> Result<(Peer, String), Error> {
        let (bytes, offer) = (offer.len(), Offer::read(offer, board)?);
        let (epoch, wall) = (Instant::now(), SystemTime::now());
        let video = Track::video(offer.video(), RtpClock::new(90_000, epoch, wall));
        let audio = offer.audio().map(|media| Track::audio(media, RtpClock::new(48_000, epoch, wall)));
        let clocks = std::iter::once(&video).chain(&audio).map(Track::clock).collect();

        let (key_frame_wanted, statistics) = (Arc::new(Notify::new()), Arc::new(LinkStatistics::default()));
        let link = Link::new(clocks, key_frame_wanted.clone(), statistics.clone());
        let (events, coming) = mpsc::unbounded_channel();
        let (messages, said) = mpsc::channel(MESSAGES);
        let (control, answers) = (Control::default(), Arc::new(Answers::default()));
        let relay = self.servers.has_relay().then(|| Arc::new(Search::new(self.relay.clone(), answers.clone())));
        let guard = Arc::new(Guard::default());
        guard.earned(bytes);
        let teller = Teller {
            events,
            messages,
            control: control.clone(),
            relay: relay.clone(),
            guard: guard.clone(),
            group: self.group.clone(),
        };

        let interfaces = Interfaces::default();
        let builder = build::builder(self, &offer, link, answers, guard.clone(), interfaces.clone())?;
        let connection = builder.with_handler(Arc::new(teller)).build().await?;
        let mut peer = Peer {
            connection: Arc::new(connection),
            video,
            audio,
            control,
            events: coming,
            early: VecDeque::new(),
            messages: said,
            key_frame_wanted,
            statistics,
            later,
            relay,
            guard,
            offer: offer.clone(),
            generation: None,
            answers: 0,
            interfaces,
            found: Vec::new(),
            stack: self.clone(),
        };
        // Before the remote description, or the answer would have nothing to send.
        peer.connection.add_track(peer.video.local()).await?;
        if let Some(audio) = &peer.audio {
            peer.connection.add_track(audio.local()).await?;
        }
        let answer = peer.settle(offer).await?;
        Ok((peer, answer))
    }
}

/// The servers as the crate takes them.
fn of_the_crate(servers: &Servers) -> Vec<RTCIceServer> {
    let servers = servers.for_board().into_iter();
    let server = servers.map(|server| RTCIceServer {
        urls: server.urls,
        username: server.username.unwrap_or_default(),
        credential: server.credential.map(|credential| credential.reveal().to_owned()).unwrap_or_default(),
    });
    server.collect()
}

/// One viewer's peer connection. It is closed when dropped.
pub struct Peer {
    connection: Arc<dyn PeerConnection>,
    /// The stream of pictures.
    pub video: Track,
    /// The stream of sound, when the viewer wants one.
    pub audio: Option<Track>,
    control: Control,
    events: mpsc::UnboundedReceiver<Event>,
    /// Events that came while an answer was made.
    early: VecDeque<Event>,
    messages: mpsc::Receiver<String>,
    key_frame_wanted: Arc<Notify>,
    statistics: Arc<LinkStatistics>,
    later: Later,
    relay: Option<Arc<Search>>,
    guard: Arc<Guard>,
    /// The offer that was answered last.
    offer: Offer,
    /// The ICE generation that was gathered for last.
    generation: Option<sdp::Credentials>,
    /// How many answers there were, which numbers them.
    answers: u64,
    interfaces: Interfaces,
    /// Addresses of the board that servers found, in that order.
    found: Vec<(IpAddr, u16)>,
    stack: Stack,
}

impl Peer {
    /// Answers a further offer on the same connection: an ICE restart, or a viewer that pauses.
    pub async fn negotiate(&mut self, offer: &str, board: Board) -> Result<String, Error> {
        let (bytes, offer) = (offer.len(), self.offer.again(offer, board)?);
        self.guard.earned(bytes);
        self.settle(offer).await
    }

    async fn settle(&mut self, offer: Offer) -> Result<String, Error> {
        let is_new = self.generation.as_ref() != Some(offer.credentials());
        if self.generation.is_some() && is_new {
            // The sockets are bound anew, so that the relay is asked anew too. Without a restart it must not be asked
            // under another name: it holds an allocation to the one that made it (RFC 8656, section 7.1: code 441).
            // It keeps the certificate: one in the configuration would count as another.
            let servers = of_the_crate(&self.stack.servers);
            let configuration = RTCConfigurationBuilder::new().with_ice_servers(servers).build();
            self.connection.set_configuration(configuration).await?;
        }
        if let Some(relay) = self.relay.as_ref().filter(|_| is_new) {
            relay.begin();
        }
        self.connection.set_remote_description(RTCSessionDescription::offer(offer.reduced())?).await?;
        let answer = self.connection.create_answer(None).await?;
        self.connection.set_local_description(answer).await?;
        let (video, audio) = offer.flows();
        self.video.is_paused = !video;
        if let Some(track) = &mut self.audio {
            track.is_paused = !audio;
        }
        self.offer = offer;
        // Without a restart nothing is gathered anew, and the candidates are known.
        if is_new {
            self.generation = Some(self.offer.credentials().clone());
            self.found.clear();
            self.wait_for_candidates().await;
        }
        let description = self.connection.local_description().await;
        let ours = description.and_then(|description| Ours::read(&description.sdp));
        let mut ours = ours.ok_or(webrtc::error::Error::ErrPeerConnSDPTypeInvalidValue)?;
        // The crate's own is a time, which does not rise by one and may fall.
        self.answers += 1;
        ours.version = self.answers;
        ours.candidates = ours.candidates.into_iter().map(|candidate| self.ranked(candidate)).collect();
        ours.candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
        let answer = self.offer.answer(&ours, self.video.sources(), self.audio.as_ref().map(Track::sources));
        self.guard.answered(&answer);
        Ok(answer)
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
        let (index, mid) = self.offer.tagged();
        Some(Candidate {
            candidate: format!("candidate:{candidate}"),
            sdp_mid: mid.map(str::to_owned),
            sdp_m_line_index: u16::try_from(index).ok(),
            username_fragment: None,
        })
    }

    /// Gathers what comes at once, or what has to be in the answer. Later candidates are trickled; these are too,
    /// which does no harm.
    async fn wait_for_candidates(&mut self) {
        match self.later {
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

    /// Takes a candidate of the viewer's; one that is of no use here is ignored (RFC 8839, section 5.1).
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), Error> {
        // A `.local` name hides the browser's address from us, who need not know it: the browser checks our host
        // candidates, and we learn its address from those checks (RFC 8445, section 7.3.1.3).
        self.guard.earned(candidate.candidate.len());
        let read = sdp::Candidate::read(&candidate.candidate);
        let Some(usable) = read.map_err(Error::BadCandidate)? else { return Ok(()) };
        let candidate = RTCIceCandidateInit {
            candidate: format!("candidate:{usable}"),
            username_fragment: candidate.username_fragment,
            ..Default::default()
        };
        let added = self.connection.add_ice_candidate(candidate).await;
        added.map_err(|error| Error::BadCandidate(error.to_string()))
    }

    /// Waits for what happens next. Cancelling the wait loses nothing.
    pub async fn event(&mut self) -> Event {
        loop {
            let event = match self.early.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                            biased;
                            event = self.events.recv() => event.unwrap_or(Event::Closed),
                            () = self.key_frame_wanted.notified() => Event::KeyFrameWanted,
                            () = self.guard.ended() => Event::Left,
                Some(message) = self.messages.recv() => {
                    self.guard.read(message.len());
                    Event::Message(message)
                }
                    never = self.guard.repeat() => match never {},
                        },
            };
            let Event::Candidate(Some(candidate)) = event else { return event };
            if let Some(candidate) = self.told(candidate) {
                return Event::Candidate(Some(candidate));
            }
        }
    }

    /// Sends text on the data channel; without one, or with a full one, it is dropped.
    pub async fn tell(&self, text: &str) {
        let control = self.control.lock().expect("nobody panics with it").clone();
        if let Some(control) = control
            && let Err(error) = control.try_send_text(text).await
        {
            tracing::debug!(%error, "message on the data channel dropped");
        }
    }

    /// Why the board has no relay, now that no way to this viewer was found.
    pub fn relay_fault(&self) -> Option<String> {
        self.relay.as_ref()?.give_up(Instant::now());
        self.stack.relay_fault()
    }

    /// Counters of this path.
    pub fn statistics(&self) -> Arc<LinkStatistics> {
        self.statistics.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A connection that is merely dropped lives on in the crate's driver.
        let connection = self.connection.clone();
        self.stack.group.spawn(async move {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "peer connection did not close cleanly");
            }
        });
    }
}

#[cfg(test)]
mod tests;
