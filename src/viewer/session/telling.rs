//! What a session tells its viewer: on the data channel, and on the signalling connection.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Session;
use crate::signalling::{Refusal, Signal};
use crate::viewer::Picture;
use crate::viewer::control_channel::{Event as Told, Reply};
use crate::viewer::state::Action;

impl Session {
    pub(super) async fn tell_picture(&mut self, picture: &watch::Receiver<Picture>) -> Action {
        let picture = picture.borrow().clone();
        self.tell(&Reply::Event(Told::Camera(&picture))).await
    }

    pub(super) async fn tell_sound(&mut self) -> Action {
        let on = self.source.has_sound.borrow().unwrap_or_default();
        self.tell(&Reply::Event(Told::Sound { on })).await
    }

    pub(super) async fn tell_count(&mut self, count: &watch::Receiver<usize>) -> Action {
        let viewers = *count.borrow();
        self.tell(&Reply::Event(Told::Viewers { viewers })).await
    }

    pub(super) async fn tell_identify(&mut self, time: Duration) -> Action {
        self.tell(&Reply::Event(Told::Identify { seconds: time.as_secs() })).await
    }

    pub(super) async fn tell(&mut self, reply: &Reply<'_>) -> Action {
        self.tell_text(&reply.text()).await
    }

    pub(super) async fn tell_text(&mut self, text: &str) -> Action {
        if let Some(peer) = &self.peer {
            peer.tell(text).await;
        }
        Action::Wait
    }

    pub(super) async fn object(&mut self, code: Refusal, reason: impl Into<String>) {
        self.say(Signal::error(code, reason)).await;
    }

    /// Says something on the signalling connection. A viewer that does not read it loses the message, not us the time.
    pub(super) async fn say(&mut self, signal: Signal) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.call.outgoing.try_send(signal) {
            tracing::debug!(viewer = %self.call.viewer, "the viewer does not read its signalling; message dropped");
        }
    }
}
