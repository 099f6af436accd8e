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
use crate::sdp::{self, Board, MOST_TRANSPORTS, Offer, Ours, Tracks};
use crate::signalling::Candidate;
use crate::tasks::Group;
use connection::Connection;
use events::Control;
use guard::Guard;
use interfaces::Interfaces;
use names::Names;
use relay::Relay;
use rtp::{RtpClock, Track};

pub use events::Event;
pub use link::LinkStatistics;

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
        let mut peer = Peer {
            stack: self.clone(),
            connections: [const { None }; MOST_TRANSPORTS],
            video,
            audio,
            whole,
            messages: said,
            later,
            offer: offer.clone(),
            said: None,
            answers: 0,
        };
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
    stack: Stack,
    connections: [Option<Connection>; MOST_TRANSPORTS],
    video: Track,
    audio: Track,
    whole: Whole,
    messages: mpsc::Receiver<String>,
    later: Later,
    /// The offer that was answered last.
    offer: Offer,
    /// What the first connection said at first, which stands for one that is lost.
    said: Option<Ours>,
    /// How many answers there were, which numbers them.
    answers: u64,
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
        for transport in 0..offer.transports() {
            self.open(&offer, transport, None).await?;
            let one = match &mut self.connections[transport] {
                Some(connection) => {
                    connection.settle(&offer, transport, self.later).await?;
                    Some(connection.ours().await?)
                }
                None => self.said.clone(),
            };
            let mut one = one.ok_or(webrtc::error::Error::ErrPeerConnSDPTypeInvalidValue)?;
            let session = self.said.get_or_insert_with(|| one.clone()).session.clone();
            one.session = session;
            ours.push(one);
        }
        let (video, audio) = offer.flows();
        self.video.is_paused = !video;
        self.video.follow(offer.video());
        self.audio.is_paused = !audio;
        self.audio.follow(offer.audio());
        self.offer = offer;
        // The crate's own is a time, which does not rise by one and may fall.
        self.answers += 1;
        ours[0].version = self.answers;
        Ok(self.offer.answer(&ours, Some(self.video.sources()), Some(self.audio.sources())))
    }

    /// Opens the connection of a transport that has none yet, unless it was lost.
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
            _ => Interfaces::beside(taken, reached),
        };
        let Tracks { video, audio } = offer.tracks_of(transport);
        let mut tracks = [&mut self.video, &mut self.audio];
        tracks.iter_mut().zip([video, audio]).filter(|(_, is_here)| *is_here).for_each(|(track, _)| track.leaves());
        let tracks = [video.then_some(&self.video), audio.then_some(&self.audio)];
        let at = (offer, transport);
        let opened = Connection::open(&self.stack, &self.whole, at, tracks, interfaces, credentials).await?;
        self.connections[transport] = Some(opened);
        Ok(())
    }

    /// Begins a transport again, of which [`Event::Gone`] has told. Its candidates follow as events.
    pub async fn begin_again(&mut self, transport: usize) -> Result<(), Error> {
        let credentials = self.connections[transport].as_ref().and_then(Connection::credentials);
        let offer = self.offer.clone();
        self.open(&offer, transport, credentials).await?;
        match &mut self.connections[transport] {
            Some(connection) => connection.settle(&offer, transport, self.later).await,
            None => Ok(()),
        }
    }

    /// Which sections of the latest offer are rejected, and why, where the viewer does not do so itself.
    pub fn rejections(&self) -> Option<String> {
        self.offer.rejections()
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

    /// Sends a picture. Waits while the connection's queue is full; fails once it is closed. On a transport that has no
    /// way yet, or none any more, it is dropped.
    pub async fn send_video(&mut self, frame: &Frame) -> Result<(), Error> {
        if !self.is_connected(self.offer.home_of_video()) {
            return Ok(());
        }
        Ok(self.video.send(frame).await?)
    }

    /// Sends a piece of sound, as above.
    pub async fn send_audio(&mut self, frame: &Frame) -> Result<(), Error> {
        if !self.is_connected(self.offer.home_of_audio()) {
            return Ok(());
        }
        Ok(self.audio.send(frame).await?)
    }

    fn is_connected(&self, transport: usize) -> bool {
        self.connections[transport].as_ref().is_some_and(Connection::is_connected)
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

    /// What a transport's event means for the viewer. Its life is that of the [main](Offer::main) one; another that comes
    /// to an end ends what it carries.
    fn judge(&mut self, transport: usize, event: Event) -> Option<Event> {
        match event {
            Event::Candidate(Some(candidate)) => {
                let (index, mid) = self.offer.tagged(transport);
                let (sdp_mid, sdp_m_line_index) = (mid.map(str::to_owned), u16::try_from(index).ok());
                return Some(Event::Candidate(Some(Candidate { sdp_mid, sdp_m_line_index, ..candidate })));
            }
            // The last of all is told once (RFC 8838, section 13).
            Event::Candidate(None) => {
                let mut others = self.connections.iter().flatten();
                return others.all(Connection::is_gathered).then_some(Event::Candidate(None));
            }
            Event::Closed | Event::Left | Event::Disconnected if self.offer.begin_again(transport) => {
                return Some(Event::Gone { transport, is_main: self.offer.main() == Some(transport) });
            }
            _ => {}
        }
        match (event, self.offer.main()) {
            (event, Some(main)) if main == transport => Some(event),
            (Event::Closed | Event::Left | Event::Refused(_), main) => {
                let is_sound = self.offer.home_of_audio() == transport;
                let is_used = self.offer.is_used(transport);
                self.connections[transport] = None;
                self.offer.lose(transport);
                match main {
                    Some(_) => is_used.then_some(Event::Lost(if is_sound { "sound" } else { "data channel" })),
                    None => Some(Event::Idle),
                }
            }
            (Event::Reached | Event::Connected | Event::Disconnected, _) => None,
            (event, _) => Some(event),
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
        self.stack.relay_fault()
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
