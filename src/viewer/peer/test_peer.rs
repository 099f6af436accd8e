//! A WebRTC stack for tests of sessions: the test triggers its events and reads the actions of the session.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;

use super::{Error, Event, Kind, Statistics};
use crate::media::Frame;
use crate::sdp::Board;
use crate::signalling::Candidate;

/// Creates peers, and gives the test the other end of each.
#[derive(Clone)]
pub struct Stack {
    shared: Arc<Shared>,
    made: mpsc::UnboundedSender<Remote>,
}

/// An action of a session on its peer.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// It negotiated a further offer.
    Negotiated(String),
    /// It sent a frame with these bytes.
    Sent(Kind, Vec<u8>),
    /// It sent text on the data channel.
    PageEvent(String),
    /// It added a candidate of the viewer.
    Candidate(String),
    /// It restarted this transport.
    TransportRestarted(usize),
}

/// The test's end of a peer.
pub struct Remote {
    /// The channel for events of the peer.
    pub events: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
}

/// The session's end of a peer.
pub struct Peer {
    events: mpsc::UnboundedReceiver<Event>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Errors with which the next calls fail, before anything else.
    failures: Mutex<VecDeque<Error>>,
    done: Mutex<Vec<Done>>,
    sending: Mutex<(bool, bool)>,
    statistics: Arc<Statistics>,
}

impl Stack {
    /// Creates a stack, and a receiver for the test's ends of the peers it creates. Video and audio are wanted at
    /// first.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Remote>) {
        let (made, peers) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            failures: Mutex::default(),
            done: Mutex::default(),
            sending: Mutex::new((true, true)),
            statistics: Arc::default(),
        });
        (Self { shared, made }, peers)
    }

    /// Makes the next call that can fail return this error.
    pub fn fail(&self, error: Error) {
        self.shared.failures.lock().unwrap().push_back(error);
    }

    /// See [`Stack::answer`](super::Stack::answer).
    pub fn answer(&self, offer: &str) -> Result<(Peer, String), Error> {
        self.shared.failure()?;
        let (events, events_rx) = mpsc::unbounded_channel();
        self.made.send(Remote { events, shared: self.shared.clone() }).ok();
        Ok((Peer { events: events_rx, shared: self.shared.clone() }, format!("answer to {offer}")))
    }
}

impl Remote {
    /// Triggers an event.
    pub fn trigger(&self, event: Event) {
        self.events.send(event).ok();
    }

    /// Takes the actions of the session since the last call.
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut self.shared.done.lock().unwrap())
    }

    /// Sets whether the viewer's next offer requests video, and audio.
    pub fn set_sending(&self, sending: (bool, bool)) {
        *self.shared.sending.lock().unwrap() = sending;
    }
}

impl Shared {
    fn failure(&self) -> Result<(), Error> {
        self.failures.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    fn record(&self, done: Done) -> Result<(), Error> {
        self.failure()?;
        self.done.lock().unwrap().push(done);
        Ok(())
    }
}

// See the documentation of `super::Peer`.
#[allow(clippy::unused_async, reason = "the contract waits")]
impl Peer {
    pub async fn negotiate(&mut self, offer: &str, _: Board) -> Result<String, Error> {
        self.shared.record(Done::Negotiated(offer.into()))?;
        Ok(format!("answer to {offer}"))
    }

    pub async fn restart_transport(&mut self, transport: usize) -> Result<(), Error> {
        self.shared.record(Done::TransportRestarted(transport))
    }

    pub fn rejections(&self) -> Option<String> {
        None
    }

    pub fn sending(&self) -> (bool, bool) {
        *self.shared.sending.lock().unwrap()
    }

    pub fn video_section(&self) -> Option<(usize, Option<String>)> {
        self.sending().0.then_some((0, None))
    }

    pub fn rtp_at(&self, _: Instant) -> Option<u32> {
        self.sending().0.then_some(7)
    }

    pub async fn send(&mut self, kind: Kind, frame: &Arc<Frame>) -> Result<(), Error> {
        self.shared.record(Done::Sent(kind, frame.data.to_vec()))
    }

    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), Error> {
        self.shared.record(Done::Candidate(candidate.candidate))
    }

    pub async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    pub async fn send_text(&self, text: &str) {
        self.shared.done.lock().unwrap().push(Done::PageEvent(text.into()));
    }

    pub fn relay_fault(&self) -> Option<String> {
        Some("no relay answers".into())
    }

    pub fn statistics(&self) -> Arc<Statistics> {
        self.shared.statistics.clone()
    }
}
