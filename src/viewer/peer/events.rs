//! What happens at a peer connection, as its session gets to know it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnectionEventHandler, RTCIceCandidateType, RTCIceConnectionState, RTCIceGatheringState,
    RTCPeerConnectionIceEvent, RTCPeerConnectionState,
};

use super::guard::{Guard, UNPOISONED};
use super::handshake::Refusal;
use super::relay::Search;
use crate::signalling::Candidate;
use crate::tasks::Group;

/// The label of the data channel that each viewer opens.
const CONTROL: &str = "control";

/// What happens at a peer connection.
#[derive(Debug)]
pub enum Event {
    /// A candidate of ours; `None` after the last one.
    Candidate(Option<Candidate>),
    /// ICE found a way; DTLS follows.
    Reached,
    /// Media can flow.
    Connected,
    /// The path is silent.
    Disconnected,
    /// The path is lost.
    Closed,
    /// The viewer closed the connection.
    Left,
    /// The viewer opened its data channel.
    ControlOpened,
    /// The viewer cannot decode without a key frame.
    KeyFrameWanted,
    /// A text message on the data channel.
    Message(String),
    /// What had a transport of its own has come to an end, while the viewer goes on.
    Lost(&'static str),
    /// The viewer has ended all that it asked for, and may ask again.
    Idle,
    /// The viewer has refused the DTLS handshake, or the board the viewer's part.
    Refused(Refusal),
    /// The viewer has given up a transport of which another section speaks now, and begins it again.
    Gone {
        /// For [`Peer::begin_again`](super::Peer::begin_again).
        transport: usize,
        /// Whether the viewer's life depends on it.
        is_main: bool,
    },
}

/// The data channel that is listened to, once there is one.
pub type Control = Arc<std::sync::Mutex<Option<Arc<dyn DataChannel>>>>;

/// What the crate tells. Its methods are awaited on the connection's driver, so none may wait.
pub struct Teller {
    /// Takes what happens.
    pub events: mpsc::UnboundedSender<Event>,
    /// Takes what the viewer says on its data channel.
    pub messages: mpsc::Sender<String>,
    /// Gets the data channel.
    pub control: Control,
    /// Finds out whether the board has its relay; `None` where none is configured.
    pub relay: Option<Arc<Search>>,
    /// Learns that the handshake is complete.
    pub guard: Arc<Guard>,
    /// In which the data channel is listened to.
    pub group: Group,
}

impl Teller {
    /// Unbounded, since a lost state change would be a stuck viewer; the crate makes few of these.
    fn tell(&self, event: Event) {
        // The session may be gone already; then nobody wants to know.
        self.events.send(event).ok();
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Teller {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Some(relay) = self.relay.as_ref().filter(|_| event.candidate.typ == RTCIceCandidateType::Relay) {
            relay.found();
        }
        if let (RTCIceCandidateType::Host, Ok(address)) = (event.candidate.typ, event.candidate.address.parse()) {
            self.guard.gathered(SocketAddr::new(address, event.candidate.port));
        }
        if let Ok(init) = event.candidate.to_json() {
            self.tell(Event::Candidate(Some(Candidate {
                candidate: init.candidate,
                sdp_mid: init.sdp_mid,
                sdp_m_line_index: init.sdp_mline_index,
                username_fragment: init.username_fragment,
            })));
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            if let Some(relay) = &self.relay {
                relay.end();
            }
            self.tell(Event::Candidate(None));
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        // After a restart the stack only has what it had before, until another path is found.
        if state == RTCIceConnectionState::Connected && !self.guard.is_former() {
            self.tell(Event::Reached);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Connected => {
                self.guard.connected();
                self.tell(Event::Connected);
            }
            RTCPeerConnectionState::Disconnected => self.tell(Event::Disconnected),
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => self.tell(Event::Closed),
            _ => {}
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let (slot, events, messages) = (self.control.clone(), self.events.clone(), self.messages.clone());
        let guard = self.guard.clone();
        self.group.spawn(async move {
            // A viewer may open what it likes; only the one channel is listened to, and no other kept.
            let is_control = channel.label().await.is_ok_and(|label| label == CONTROL);
            if is_control && slot.lock().expect(UNPOISONED).is_none() {
                listen(channel, &slot, &events, &messages, &guard).await;
            } else if let Err(error) = channel.close().await {
                tracing::trace!(%error, "a data channel that is not listened to was closed already");
            }
        });
    }
}

async fn listen(
    channel: Arc<dyn DataChannel>,
    slot: &std::sync::Mutex<Option<Arc<dyn DataChannel>>>,
    events: &mpsc::UnboundedSender<Event>,
    messages: &mpsc::Sender<String>,
    guard: &Guard,
) {
    *slot.lock().expect(UNPOISONED) = Some(channel.clone());
    let mut is_told = false;
    while let Some(event) = channel.poll().await {
        match event {
            DataChannelEvent::OnOpen if !is_told => {
                is_told = true;
                events.send(Event::ControlOpened).ok();
            }
            DataChannelEvent::OnMessage(message) => {
                let text = String::from_utf8(message.data.to_vec()).ok().filter(|_| message.is_string);
                let Some(text) = text else {
                    guard.read(message.data.len());
                    continue;
                };
                if messages.send(text).await.is_err() {
                    break;
                }
            }
            DataChannelEvent::OnClose => break,
            _ => {}
        }
    }
    *slot.lock().expect(UNPOISONED) = None;
}
