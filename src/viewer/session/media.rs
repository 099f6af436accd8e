//! Sends video and audio to the viewer, as far as the viewer wants them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Session;
use crate::media::{Frame, Purpose, Subscription};
use crate::viewer::peer::{Kind, Peer};
use crate::viewer::state::{Action, Event, State};

impl Session {
    /// Starts sending at the newest key frame, which was requested when ICE found a path.
    pub(super) fn stream(&mut self) {
        let seconds = self.stats.since.elapsed().as_secs_f64();
        tracing::info!(viewer = %self.call.viewer, seconds, "viewer watches");
        self.restart_video();
        self.update_subscriptions();
    }

    /// Subscribes to video again from the newest key frame on, if video is wanted.
    pub(super) fn restart_video(&mut self) {
        if let Some(video) = &mut self.video {
            *video = self.source.video.subscribe(Purpose::Viewer);
        }
    }

    /// Subscribes to video while the viewer wants it, and to audio while the viewer wants it and is connected.
    pub(super) fn update_subscriptions(&mut self) {
        let (wants_video, wants_audio) = self.peer.as_ref().map(Peer::sending).unwrap_or_default();
        if wants_video != self.video.is_some() {
            self.video = wants_video.then(|| self.source.video.subscribe(Purpose::Viewer));
        }
        let wants_audio = wants_audio && matches!(self.state, State::Watching | State::Interrupted);
        if wants_audio != self.audio.is_some() {
            self.audio =
                self.source.audio.as_ref().filter(|_| wants_audio).map(|audio| audio.subscribe(Purpose::Viewer));
        }
    }

    pub(super) fn request_key_frame(&self) {
        if let Some(video) = &self.video {
            video.request_key_frame();
        }
    }

    pub(super) async fn send_video(&mut self, frame: &Arc<Frame>) -> Action {
        let skipped = self.video.as_ref().map(Subscription::skipped).unwrap_or_default();
        self.stats.skipped.store(skipped, Ordering::Relaxed);
        let Some(peer) = &mut self.peer else { return Action::Wait };
        if peer.send(Kind::Video, frame).await.is_err() {
            return self.apply(Event::Closed);
        }
        self.stats.frames.fetch_add(1, Ordering::Relaxed);
        if frame.is_key {
            self.key_frame_requests.key_frame_sent(Instant::now());
        }
        Action::Wait
    }

    pub(super) async fn send_audio(&mut self, frame: &Arc<Frame>) -> Action {
        let Some(peer) = &mut self.peer else { return Action::Wait };
        if peer.send(Kind::Audio, frame).await.is_err() {
            return self.apply(Event::Closed);
        }
        Action::Wait
    }
}
