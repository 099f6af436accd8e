//! Turns the crate's events of a peer connection into [`Event`]s for the session.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnectionEventHandler, RTCIceCandidateType, RTCIceConnectionState, RTCIceGatheringState,
    RTCPeerConnectionIceEvent, RTCPeerConnectionState,
};

use super::guard::{Guard, UNPOISONED};
use super::turn_diagnostics::TurnAttempt;
use crate::signalling::Candidate;
use crate::tasks::Group;
use crate::viewer::peer::Event;

/// The label of the data channel that each viewer opens.
const CONTROL: &str = "control";

/// The data channel that the board reads, once there is one.
pub type Control = Arc<std::sync::Mutex<Option<Arc<dyn DataChannel>>>>;

/// Receives the crate's events. Its methods are awaited on the connection's driver, so none may block.
pub struct EventHandler {
    /// The channel for events.
    pub events: mpsc::UnboundedSender<Event>,
    /// The channel for the viewer's messages on its data channel.
    pub messages: mpsc::Sender<String>,
    /// The slot for the data channel.
    pub control: Control,
    /// Checks whether the board gets its relay; `None` if none is configured.
    pub relay: Option<Arc<TurnAttempt>>,
    /// Is notified when the handshake is complete.
    pub guard: Arc<Guard>,
    /// The task that reads the data channel runs in this group.
    pub group: Group,
}

impl EventHandler {
    /// The channel is unbounded, since a lost state change would leave a viewer stuck; the crate makes few events.
    fn send(&self, event: Event) {
        // The session may have ended already.
        self.events.send(event).ok();
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for EventHandler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Some(relay) = self.relay.as_ref().filter(|_| event.candidate.typ == RTCIceCandidateType::Relay) {
            relay.candidate_found();
        }
        if let (RTCIceCandidateType::Host, Ok(address)) = (event.candidate.typ, event.candidate.address.parse()) {
            self.guard.on_gathered(SocketAddr::new(address, event.candidate.port));
        }
        if let Ok(init) = event.candidate.to_json() {
            self.send(Event::Candidate(Some(Candidate {
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
                relay.gathering_ended();
            }
            self.send(Event::Candidate(None));
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        // After a restart, until another path is found, the stack only reports the path it had before.
        if state == RTCIceConnectionState::Connected && !self.guard.is_former() {
            self.send(Event::PathFound);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Connected => {
                self.guard.connected();
                self.send(Event::Connected);
            }
            RTCPeerConnectionState::Disconnected => self.send(Event::Disconnected),
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => self.send(Event::Closed),
            _ => {}
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let (slot, events, messages) = (self.control.clone(), self.events.clone(), self.messages.clone());
        let guard = self.guard.clone();
        self.group.spawn(async move {
            // A viewer may open any channel; only the control channel is read, and no other is kept.
            let is_control = channel.label().await.is_ok_and(|label| label == CONTROL);
            if is_control && slot.lock().expect(UNPOISONED).is_none() {
                read_control_channel(channel, &slot, &events, &messages, &guard).await;
            } else if let Err(error) = channel.close().await {
                tracing::trace!(%error, "an unused data channel was closed already");
            }
        });
    }
}

async fn read_control_channel(
    channel: Arc<dyn DataChannel>,
    slot: &std::sync::Mutex<Option<Arc<dyn DataChannel>>>,
    events: &mpsc::UnboundedSender<Event>,
    messages: &mpsc::Sender<String>,
    guard: &Guard,
) {
    *slot.lock().expect(UNPOISONED) = Some(channel.clone());
    let mut is_open = false;
    while let Some(event) = channel.poll().await {
        match event {
            DataChannelEvent::OnOpen if !is_open => {
                is_open = true;
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
