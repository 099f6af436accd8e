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
mod connection;
mod events;
mod guard;
mod handshake;
mod interfaces;
mod link;
mod messages;
mod names;
mod numbers;
mod path;
mod relay;
mod rtp;
mod runtime;
mod socket;
mod sockets;
mod stun;
mod unread;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{Notify, mpsc};
use webrtc::peer_connection::crypto::{self, SignatureScheme};
use webrtc::peer_connection::{RTCCertificate, RTCIceServer};

use crate::ice::Servers;
use crate::media::Frame;
use crate::sdp::{self, Board, Offer, Ours};
use crate::signalling::Candidate;
use crate::tasks::Group;
use connection::Connection;
use events::Control;
use guard::Guard;
use names::Names;
use relay::Relay;
use rtp::{RtpClock, Track};

pub use events::Event;
pub use link::LinkStatistics;

/// Transports of one offer that are served: the picture's, the sound's and the data channel's.
const MOST_TRANSPORTS: usize = 3;

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
    /// The address of the board at which the viewer has reached it, where that is known.
    reached: Option<IpAddr>,
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
        Ok(Self { certificate, servers, names, relay: Relay::default(), reached: None, group })
    }

    /// The same for a viewer that has reached the board at this address.
    #[must_use]
    pub fn reached_at(&self, address: Option<IpAddr>) -> Self {
        Self { reached: address, ..self.clone() }
    }

    /// Why the board got no relay when a viewer last needed one; `None` where it did, or none is configured.
    pub fn relay_fault(&self) -> Option<String> {
        self.relay.fault()
    }

    /// Answers an offer: the viewer's connections, and the answer with the board's host candidates in it.
    pub async fn answer(&self, offer: &str, board: Board, later: Later) -> Result<(Peer, String), Error> {
        let (bytes, offer) = (offer.len(), Offer::read(offer, board)?);
        let (epoch, wall) = (Instant::now(), SystemTime::now());
        // Both, since a further offer may ask for what the first does not.
        let video = Track::video(RtpClock::new(90_000, epoch, wall));
        let audio = Track::audio(RtpClock::new(48_000, epoch, wall));
        let (messages, said) = mpsc::channel(MESSAGES);
        let whole = Whole {
            control: Control::default(),
            messages,
            key_frame_wanted: Arc::new(Notify::new()),
            statistics: Arc::new(LinkStatistics::default()),
            guard: Guard::default(),
        };
        whole.guard.earned(bytes);
        let mut connections = [const { None }; MOST_TRANSPORTS];
        for (transport, place) in connections.iter_mut().enumerate().take(offer.transports()) {
            let (has_video, has_audio) = offer.tracks_of(transport);
            let tracks = [has_video.then_some(&video), has_audio.then_some(&audio)];
            *place = Some(Connection::open(self, &whole, &offer, transport, tracks).await?);
        }
        let relay = self.relay.clone();
        let (audio, answers, kept) = (Some(audio), 0, offer.clone());
        let mut peer = Peer { connections, video, audio, whole, messages: said, later, offer: kept, answers, relay };
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

/// What all connections of one viewer share.
struct Whole {
    control: Control,
    messages: mpsc::Sender<String>,
    key_frame_wanted: Arc<Notify>,
    statistics: Arc<LinkStatistics>,
    /// What bounds the viewer as a whole.
    guard: Guard,
}

/// One viewer: a connection for each transport of its offer, of which there is one where it bundles. They are closed
/// when it is dropped.
pub struct Peer {
    /// The first is the one of which the viewer's life depends.
    connections: [Option<Connection>; MOST_TRANSPORTS],
    video: Track,
    /// `None` once its transport is lost.
    audio: Option<Track>,
    whole: Whole,
    messages: mpsc::Receiver<String>,
    later: Later,
    /// The offer that was answered last.
    offer: Offer,
    /// How many answers there were, which numbers them.
    answers: u64,
    relay: Relay,
}

impl Peer {
    /// Answers a further offer on the same connections.
    pub async fn negotiate(&mut self, offer: &str, board: Board) -> Result<String, Error> {
        let (bytes, offer) = (offer.len(), self.offer.again(offer, board)?);
        self.whole.guard.earned(bytes);
        self.settle(offer).await
    }

    async fn settle(&mut self, offer: Offer) -> Result<String, Error> {
        let mut ours: Vec<Ours> = Vec::with_capacity(MOST_TRANSPORTS);
        for (transport, connection) in self.connections.iter_mut().enumerate().take(offer.transports()) {
            let one = match connection {
                Some(connection) => {
                    connection.settle(&offer, transport, self.later).await?;
                    connection.ours().await?
                }
                // Nothing is said of one that is lost.
                None => ours[0].clone(),
            };
            ours.push(one);
        }
        let (video, audio) = offer.flows();
        self.video.is_paused = !video;
        self.video.follow(offer.video());
        if let Some(track) = &mut self.audio {
            track.is_paused = !audio;
            track.follow(offer.audio());
        }
        self.offer = offer;
        // The crate's own is a time, which does not rise by one and may fall.
        self.answers += 1;
        ours[0].version = self.answers;
        let audio = self.audio.as_ref().map(Track::sources);
        Ok(self.offer.answer(&ours, Some(self.video.sources()), audio))
    }

    /// Whether pictures are to flow, and sound.
    pub fn flows(&self) -> (bool, bool) {
        self.offer.flows()
    }

    /// Where pictures are sent, by the index and the tag of the section; `None` while they are not.
    pub fn place_of_picture(&self) -> Option<(usize, Option<String>)> {
        self.offer.place_of_picture().map(|(index, mid)| (index, mid.map(str::to_owned)))
    }

    /// The clock of the pictures; `None` where the viewer has no place for any.
    pub fn video_clock(&self) -> Option<RtpClock> {
        self.offer.video().map(|_| self.video.clock())
    }

    /// Sends a picture. Waits while the connection's queue is full; fails once it is closed.
    pub async fn send_video(&mut self, frame: &Frame) -> Result<(), Error> {
        Ok(self.video.send(frame).await?)
    }

    /// Sends a piece of sound, as above. On a transport of its own that has no way yet, or none any more, it is dropped.
    pub async fn send_audio(&mut self, frame: &Frame) -> Result<(), Error> {
        let Some(track) = &mut self.audio else { return Ok(()) };
        let mut connections = self.connections.iter().enumerate();
        let carrier = connections.find(|(transport, _)| self.offer.tracks_of(*transport).1);
        match carrier {
            Some((_, Some(connection))) if connection.is_connected() => Ok(track.send(frame).await?),
            _ => Ok(()),
        }
    }

    /// Takes a candidate of the viewer's; one that is of no use here is ignored (RFC 8839, section 5.1).
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), Error> {
        // A `.local` name hides the browser's address from us, who need not know it: the browser checks our host
        // candidates, and we learn its address from those checks (RFC 8445, section 7.3.1.3).
        self.whole.guard.earned(candidate.candidate.len());
        let read = sdp::Candidate::read(&candidate.candidate);
        let Some(usable) = read.map_err(Error::BadCandidate)? else { return Ok(()) };
        let (mid, index) = (candidate.sdp_mid.as_deref(), candidate.sdp_m_line_index.map(usize::from));
        let transport = self.offer.transport_of(mid, index, candidate.username_fragment.as_deref());
        let connection = transport.map_err(Error::BadCandidate)?.and_then(|at| self.connections[at].as_ref());
        match connection {
            Some(connection) => connection.add_candidate(&usable, candidate.username_fragment).await,
            // Of a section that is rejected.
            None => Ok(()),
        }
    }

    /// Waits for what happens next. Cancelling the wait loses nothing.
    pub async fn event(&mut self) -> Event {
        loop {
            let [first, second, third] = &mut self.connections;
            let (transport, event) = tokio::select! {
                biased;
                event = event_of(first) => (0, event),
                event = event_of(second) => (1, event),
                event = event_of(third) => (2, event),
                () = self.whole.key_frame_wanted.notified() => return Event::KeyFrameWanted,
                Some(message) = self.messages.recv() => {
                    self.whole.guard.read(message.len());
                    return Event::Message(message);
                }
            };
            if let Some(event) = self.judge(transport, event) {
                return event;
            }
        }
    }

    /// What a transport's event means for the viewer. Its life is that of the first one; another that comes to an end
    /// ends what it carries.
    fn judge(&mut self, transport: usize, event: Event) -> Option<Event> {
        match event {
            Event::Candidate(Some(candidate)) => {
                let (index, mid) = self.offer.tagged(transport);
                let (sdp_mid, sdp_m_line_index) = (mid.map(str::to_owned), u16::try_from(index).ok());
                Some(Event::Candidate(Some(Candidate { sdp_mid, sdp_m_line_index, ..candidate })))
            }
            // The last of all is told once (RFC 8838, section 13).
            Event::Candidate(None) => {
                let mut others = self.connections.iter().flatten();
                others.all(Connection::is_gathered).then_some(Event::Candidate(None))
            }
            event if transport == 0 => Some(event),
            Event::Closed | Event::Left => {
                let is_sound = self.offer.tracks_of(transport).1;
                self.audio.take_if(|_| is_sound);
                self.connections[transport] = None;
                self.offer.lose(transport);
                Some(Event::Lost(if is_sound { "sound" } else { "data channel" }))
            }
            Event::Reached | Event::Connected | Event::Disconnected => None,
            event => Some(event),
        }
    }

    /// Sends text on the data channel; without one, or with a full one, it is dropped.
    pub async fn tell(&self, text: &str) {
        let control = self.whole.control.lock().expect("nobody panics with it").clone();
        if let Some(control) = control
            && let Err(error) = control.try_send_text(text).await
        {
            tracing::debug!(%error, "message on the data channel dropped");
        }
    }

    /// Why the board has no relay, now that no way to this viewer was found.
    pub fn relay_fault(&self) -> Option<String> {
        self.connections.iter().flatten().for_each(Connection::give_up_relay);
        self.relay.fault()
    }

    /// Counters of all its paths.
    pub fn statistics(&self) -> Arc<LinkStatistics> {
        self.whole.statistics.clone()
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
