//! The interface between a viewer's session and a WebRTC stack.
//!
//! [`webrtc_rs`] implements it with the crates `webrtc` and `rtc`, which are used in no other file of the product.
//! Another stack would be another folder here and another variant of [`Stack`] and [`Peer`]. `test_peer` is a stack for
//! tests. Not here: the lifecycle of a viewer (`session`), and the interpretation of offers ([`crate::sdp`]).

mod statistics;
#[cfg(test)]
pub mod test_peer;
mod webrtc_rs;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::ice::Servers;
use crate::media::{Bitrate, Frame};
use crate::sdp::{self, Board};
use crate::signalling::Candidate;
use crate::tasks::Group;

pub use statistics::Statistics;

/// Why a viewer cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The viewer's offer is invalid.
    #[error("{0}")]
    BadOffer(String),
    /// The offer is valid but asks for nothing that the board sends.
    #[error("{0}")]
    NoCommonCodec(String),
    /// The viewer's candidate is invalid.
    #[error("the candidate cannot be read: {0}")]
    BadCandidate(String),
    /// The board's side failed; the text is the stack's.
    #[error("the peer connection failed: {0}")]
    Stack(String),
}

impl From<sdp::Error> for Error {
    fn from(error: sdp::Error) -> Self {
        match error {
            sdp::Error::Unusable(reason) => Self::BadOffer(reason),
            sdp::Error::NoCommonCodec(reason) => Self::NoCommonCodec(reason),
        }
    }
}

/// Delivery of the candidates that need a round trip to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathering {
    /// One by one, after the answer (trickled).
    Trickle,
    /// All in the answer.
    Full,
}

/// Kind of media that is sent to or received from a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Video.
    Video,
    /// Audio.
    Audio,
}

/// Events of a peer connection.
#[derive(Debug)]
pub enum Event {
    /// A candidate of the board; `None` after the last one.
    Candidate(Option<Candidate>),
    /// ICE found a path; DTLS follows.
    PathFound,
    /// Media can flow.
    Connected,
    /// Nothing is received on the path.
    Disconnected,
    /// The path is lost.
    Closed,
    /// The viewer closed the connection.
    ViewerClosed,
    /// The viewer opened its data channel.
    ControlOpened,
    /// The viewer cannot decode without a key frame.
    KeyFrameWanted,
    /// Estimated bitrate of the path to the viewer, for all streams together.
    #[cfg_attr(not(test), expect(dead_code, reason = "webrtc_rs does not estimate yet"))]
    Estimate(Bitrate),
    /// The viewer sent media.
    #[cfg_attr(not(test), expect(dead_code, reason = "webrtc_rs agrees to no media from viewers yet"))]
    Inbound(Kind, Frame),
    /// A text message on the data channel.
    Message(String),
    /// A transport that carried only the named part (`sound` or `data channel`) has ended; the viewer's session goes
    /// on.
    TransportLost(&'static str),
    /// The viewer has stopped all media and data, and may send another offer.
    Idle,
    /// The DTLS handshake was refused by the viewer or by the board; the text states why.
    Refused(String),
    /// The viewer has closed a transport whose tagged section (RFC 9143) has changed, and restarts it.
    TransportClosed {
        /// Index of the transport, for [`Peer::restart_transport`].
        transport: usize,
        /// Whether the session depends on it.
        is_main: bool,
    },
}

/// A WebRTC stack, and what all its peer connections share. Clones share the same stack.
#[derive(Clone)]
pub enum Stack {
    /// The crates `webrtc` and `rtc`.
    WebrtcRs(webrtc_rs::Stack),
    /// A stack for tests.
    #[cfg(test)]
    Test(test_peer::Stack),
}

/// One viewer's peer connection, or several if its offer does not bundle. It is closed when dropped.
pub enum Peer {
    /// See [`Stack::WebrtcRs`].
    WebrtcRs(Box<webrtc_rs::Peer>),
    /// See [`Stack::Test`].
    #[cfg(test)]
    Test(test_peer::Peer),
}

/// Calls a method of the peer's variant.
macro_rules! of_each {
    ($self:ident, $peer:ident => $call:expr) => {
        match $self {
            Peer::WebrtcRs($peer) => $call,
            #[cfg(test)]
            Peer::Test($peer) => $call,
        }
    };
}

impl Stack {
    /// Creates the product's stack. Its tasks run in `group`.
    ///
    /// # Errors
    ///
    /// When the DTLS certificate cannot be created.
    pub fn new(servers: Servers, group: Group) -> Result<Self, Error> {
        Ok(Self::WebrtcRs(webrtc_rs::Stack::new(servers, group)?))
    }

    /// Answers an offer. Returns the viewer's peer connection, and the answer with the board's host candidates in it.
    /// `reached` is the address at which the viewer reached the board, if known.
    ///
    /// # Errors
    ///
    /// When the offer cannot be answered.
    pub async fn answer(
        &self,
        offer: &str,
        board: Board,
        reached: Option<IpAddr>,
        gathering: Gathering,
    ) -> Result<(Peer, String), Error> {
        match self {
            Self::WebrtcRs(stack) => {
                let (peer, answer) = stack.reached_at(reached).answer(offer, board, gathering).await?;
                Ok((Peer::WebrtcRs(Box::new(peer)), answer))
            }
            #[cfg(test)]
            Self::Test(stack) => stack.answer(offer).map(|(peer, answer)| (Peer::Test(peer), answer)),
        }
    }

    /// The reason why the board got no TURN relay when a viewer last needed one; `None` if it got one or none is
    /// configured.
    pub fn relay_fault(&self) -> Option<String> {
        match self {
            Self::WebrtcRs(stack) => stack.relay_fault(),
            #[cfg(test)]
            Self::Test(_) => None,
        }
    }
}

impl Peer {
    /// Answers a further offer on the same connection.
    ///
    /// # Errors
    ///
    /// When it cannot be answered; the connection goes on as before.
    pub async fn negotiate(&mut self, offer: &str, board: Board) -> Result<String, Error> {
        of_each!(self, peer => peer.negotiate(offer, board).await)
    }

    /// Restarts a transport that [`Event::TransportClosed`] has reported. Its candidates follow as events.
    ///
    /// # Errors
    ///
    /// When the stack fails.
    pub async fn restart_transport(&mut self, transport: usize) -> Result<(), Error> {
        of_each!(self, peer => peer.restart_transport(transport).await)
    }

    /// Sections of the latest offer that the board rejects although the viewer does not, with the reasons.
    pub fn rejections(&self) -> Option<String> {
        of_each!(self, peer => peer.rejections())
    }

    /// Whether video is to be sent, and whether audio is.
    pub fn sending(&self) -> (bool, bool) {
        of_each!(self, peer => peer.sending())
    }

    /// The section in which video is sent: its index and its `a=mid`; `None` while no video is sent.
    pub fn video_section(&self) -> Option<(usize, Option<String>)> {
        of_each!(self, peer => peer.video_section())
    }

    /// RTP timestamp of a frame captured `at`; `None` if the offer has no section for video.
    pub fn rtp_at(&self, at: Instant) -> Option<u32> {
        of_each!(self, peer => peer.rtp_at(at))
    }

    /// Sends a frame. Waits while the connection's queue is full. The frame is dropped while its transport has no path.
    ///
    /// # Errors
    ///
    /// When the connection is closed.
    pub async fn send(&mut self, kind: Kind, frame: &Arc<Frame>) -> Result<(), Error> {
        of_each!(self, peer => peer.send(kind, frame).await)
    }

    /// Adds a candidate of the viewer; one that the board cannot use is ignored (RFC 8839, section 5.1).
    ///
    /// # Errors
    ///
    /// When it cannot be parsed.
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), Error> {
        of_each!(self, peer => peer.add_candidate(candidate).await)
    }

    /// Waits for the next event. Cancelling the wait loses nothing.
    pub async fn event(&mut self) -> Event {
        of_each!(self, peer => peer.event().await)
    }

    /// Sends text on the data channel. If there is no channel or it is full, the text is dropped.
    pub async fn send_text(&self, text: &str) {
        of_each!(self, peer => peer.send_text(text).await)
    }

    /// The reason why the board has no TURN relay, called when no path to this viewer was found.
    pub fn relay_fault(&self) -> Option<String> {
        of_each!(self, peer => peer.relay_fault())
    }

    /// Counters of all its transports.
    pub fn statistics(&self) -> Arc<Statistics> {
        of_each!(self, peer => peer.statistics())
    }
}
