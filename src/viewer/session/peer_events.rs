//! Handles the events of a session's peer connection and the messages from the viewer's data channel.

use std::time::Instant;

use tokio::sync::watch;

use super::{Picture, Session};
use crate::signalling::Signal;
use crate::viewer::control_channel::{Reply, Request};
use crate::viewer::error_reports::cut;
use crate::viewer::milliseconds;
use crate::viewer::peer::Event as PeerEvent;
use crate::viewer::state::{Action, Event, State};

impl Session {
    pub(super) async fn on_peer(
        &mut self,
        event: PeerEvent,
        picture: &watch::Receiver<Picture>,
        count: &watch::Receiver<usize>,
    ) -> Action {
        match event {
            PeerEvent::Candidate(candidate) => {
                self.send_signal(Signal::Candidate { candidate }).await;
                Action::Wait
            }
            PeerEvent::PathFound => {
                // DTLS takes about 20 ms more: a key frame requested now is in the feed when it is done.
                self.restart_video();
                Action::Wait
            }
            PeerEvent::Connected => {
                self.has_all_transports = true;
                if matches!(self.state, State::Watching | State::Interrupted) {
                    // The video is sent on another transport now, on which nothing has been received yet.
                    self.key_frame_requests.section_changed();
                    self.restart_video();
                }
                self.apply(Event::Connected)
            }
            PeerEvent::Disconnected => self.apply(Event::Disconnected),
            PeerEvent::Closed => self.apply(Event::Closed),
            PeerEvent::ViewerClosed => self.apply(Event::Bye),
            PeerEvent::ControlOpened => {
                self.send_picture_state(picture).await;
                self.send_sound_state().await;
                self.send_viewer_count(count).await
            }
            PeerEvent::KeyFrameWanted => {
                if self.key_frame_requests.request(self.stats.losses(), Instant::now()) {
                    self.request_key_frame();
                }
                Action::Wait
            }
            PeerEvent::TransportLost(what) => {
                tracing::info!(viewer = %self.call.viewer, what, "the viewer lost a transport; the others go on");
                self.audio.take_if(|_| what == "sound");
                Action::Wait
            }
            PeerEvent::Idle => self.apply(Event::Idle),
            PeerEvent::Refused(refusal) => {
                tracing::info!(viewer = %self.call.viewer, %refusal, "the DTLS handshake failed");
                self.apply(Event::Refused)
            }
            PeerEvent::TransportClosed { transport, is_main } => {
                tracing::info!(viewer = %self.call.viewer, "the viewer closed a transport and starts it again");
                self.has_all_transports = false;
                let begun = match &mut self.peer {
                    Some(peer) if self.is_signalling_open => peer.restart_transport(transport).await,
                    _ => return self.apply(Event::Bye),
                };
                match begun {
                    Ok(()) if is_main => self.apply(Event::TransportRestarted),
                    Ok(()) => Action::Wait,
                    Err(error) => {
                        tracing::warn!(viewer = %self.call.viewer, %error, "the transport cannot be started again");
                        self.apply(Event::Closed)
                    }
                }
            }
            PeerEvent::Estimate(bitrate) => {
                if let Some(video) = &self.video {
                    video.request_bitrate(Some(bitrate));
                }
                Action::Wait
            }
            PeerEvent::Inbound(kind, frame) => {
                let bytes = frame.data.len();
                tracing::trace!(viewer = %self.call.viewer, ?kind, bytes, "viewers may not send media; dropped");
                Action::Wait
            }
            PeerEvent::Message(text) => self.on_message(&text).await,
        }
    }

    async fn on_message(&mut self, text: &str) -> Action {
        let Some(peer) = &self.peer else { return Action::Wait };
        match serde_json::from_str(text) {
            Ok(Request::Ping { sent }) => {
                let now = Instant::now();
                let board = milliseconds(now - self.board_epoch);
                let rtp = peer.rtp_at(now);
                peer.send_text(&Reply::Pong { sent, board, rtp }.text()).await;
                Action::Wait
            }
            Ok(Request::Bye {}) => self.apply(Event::Bye),
            Ok(Request::Command {}) if self.commands.take(text) => Action::Wait,
            Ok(Request::Command {}) => Action::Close("commands came without end"),
            Err(error) => {
                // The error quotes the text that could not be parsed.
                let error = error.to_string();
                let error = cut(&error, 100);
                let reason = format!("not a message of this channel ({error}); send {{\"type\":\"ping\",\"sent\":..}}");
                peer.send_text(&Reply::Error { reason }.text()).await;
                Action::Wait
            }
        }
    }
}
