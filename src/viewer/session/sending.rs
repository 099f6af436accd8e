//! What a session sends its viewer: pictures and sound, as far as it wants them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Session;
use crate::media::{Feed, Frame, Subscription};
use crate::viewer::peer::Peer;
use crate::viewer::state::{Action, Event, State};

impl Session {
    /// Starts at the newest key frame, which was asked for when ICE had found its way.
    pub(super) fn stream(&mut self) {
        let seconds = self.progress.since.elapsed().as_secs_f64();
        tracing::info!(viewer = %self.call.viewer, seconds, "viewer watches");
        self.join_video();
        self.follow_wishes();
    }

    /// Takes pictures from the newest key frame on, where any are wanted.
    pub(super) fn join_video(&mut self) {
        if let Some(video) = &mut self.video {
            *video = self.source.video.subscribe();
        }
    }

    /// Takes pictures while the viewer wants any, and sound while it wants that and can get it.
    pub(super) fn follow_wishes(&mut self) {
        let (sees, hears) = self.peer.as_ref().map(Peer::flows).unwrap_or_default();
        if sees != self.video.is_some() {
            self.video = sees.then(|| self.source.video.subscribe());
        }
        let hears = hears && matches!(self.state, State::Watching | State::Interrupted);
        if hears != self.audio.is_some() {
            self.audio = self.source.audio.as_ref().filter(|_| hears).map(Feed::subscribe);
        }
    }

    pub(super) fn want_key_frame(&self) {
        if let Some(video) = &self.video {
            video.want_key_frame();
        }
    }

    pub(super) async fn send_video(&mut self, frame: &Frame) -> Action {
        let skipped = self.video.as_ref().map(Subscription::skipped).unwrap_or_default();
        self.progress.skipped.store(skipped, Ordering::Relaxed);
        let Some(peer) = &mut self.peer else { return Action::Wait };
        if peer.send_video(frame).await.is_err() {
            return self.happened(Event::Closed);
        }
        self.progress.frames.fetch_add(1, Ordering::Relaxed);
        if frame.is_key {
            self.wishes.got(Instant::now());
        }
        Action::Wait
    }

    pub(super) async fn send_audio(&mut self, frame: &Frame) -> Action {
        let Some(peer) = &mut self.peer else { return Action::Wait };
        if peer.send_audio(frame).await.is_err() {
            return self.happened(Event::Closed);
        }
        Action::Wait
    }
}
