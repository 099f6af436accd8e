//! Messages from a session to its viewer, on the data channel and on the signalling connection.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Session;
use crate::signalling::{ErrorCode, Signal};
use crate::viewer::Picture;
use crate::viewer::control_channel::{Event as PageEvent, Reply};
use crate::viewer::state::Action;

impl Session {
    pub(super) async fn send_picture_state(&mut self, picture: &watch::Receiver<Picture>) -> Action {
        let picture = picture.borrow().clone();
        self.send_reply(&Reply::Event(PageEvent::Camera(&picture))).await
    }

    pub(super) async fn send_sound_state(&mut self) -> Action {
        let on = self.source.has_sound.borrow().unwrap_or_default();
        self.send_reply(&Reply::Event(PageEvent::Sound { on })).await
    }

    pub(super) async fn send_viewer_count(&mut self, count: &watch::Receiver<usize>) -> Action {
        let viewers = *count.borrow();
        self.send_reply(&Reply::Event(PageEvent::Viewers { viewers })).await
    }

    pub(super) async fn send_identify(&mut self, time: Duration) -> Action {
        self.send_reply(&Reply::Event(PageEvent::Identify { seconds: time.as_secs() })).await
    }

    pub(super) async fn send_reply(&mut self, reply: &Reply<'_>) -> Action {
        self.send_text(&reply.text()).await
    }

    pub(super) async fn send_text(&mut self, text: &str) -> Action {
        if let Some(peer) = &self.peer {
            peer.send_text(text).await;
        }
        Action::Wait
    }

    pub(super) async fn send_error(&mut self, code: ErrorCode, reason: impl Into<String>) {
        self.send_signal(Signal::error(code, reason)).await;
    }

    /// Sends a message on the signalling connection without waiting. If the viewer does not read, the message is
    /// dropped.
    pub(super) async fn send_signal(&mut self, signal: Signal) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.call.outgoing.try_send(signal) {
            tracing::debug!(viewer = %self.call.viewer, "the viewer does not read its signalling; message dropped");
        }
    }
}
