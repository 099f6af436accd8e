//! What others may see of a session while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::admission::Taken;
use super::peer::LinkStatistics;
use super::state::State;
use super::{Summary, milliseconds};
use crate::media::Bitrate;
use crate::signalling::{ViewerId, Way};

/// The counters of one session.
#[derive(Debug)]
pub struct Progress {
    way: Way,
    camera: String,
    pub(super) since: Instant,
    pub(super) state: Mutex<State>,
    pub(super) frames: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) bitrate: AtomicU64,
    pub(super) link: OnceLock<Arc<LinkStatistics>>,
}

impl Progress {
    /// Of a viewer that has just called.
    pub fn new(way: Way, camera: String) -> Self {
        Self {
            way,
            camera,
            since: Instant::now(),
            state: Mutex::default(),
            frames: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            bitrate: AtomicU64::new(0),
            link: OnceLock::new(),
        }
    }

    /// The place that it takes.
    pub fn taken(&self) -> Taken {
        let state = *self.state.lock().expect("lock is never poisoned: no panic while held");
        let is_finished = matches!(state, State::Watching | State::Interrupted);
        Taken { way: self.way, unfinished: (!is_finished).then(|| self.since.elapsed()) }
    }

    /// As status lists it.
    pub fn summary(&self, viewer: &ViewerId) -> Summary {
        let link = self.link.get();
        Summary {
            viewer: viewer.to_string(),
            way: self.way,
            camera: self.camera.clone(),
            state: *self.state.lock().expect("nobody panics with it"),
            seconds: self.since.elapsed().as_secs(),
            bitrate: Bitrate::bps(self.bitrate.load(Ordering::Relaxed)),
            frames: self.frames.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            rtt_ms: link.and_then(|link| link.rtt()).map(milliseconds),
            loss: link.map(|link| link.loss()).unwrap_or_default(),
            retransmitted: self.retransmitted(),
            withheld: link.map(|link| link.withheld()).unwrap_or_default(),
        }
    }

    /// RTP payload bytes sent so far.
    pub fn bytes(&self) -> u64 {
        self.link.get().map(|link| link.bytes()).unwrap_or_default()
    }

    /// Packets sent again so far.
    pub fn retransmitted(&self) -> u64 {
        self.link.get().map(|link| link.retransmitted()).unwrap_or_default()
    }

    /// What its reports and requests say of losses: whether the latest report has some, and how many packets it has asked
    /// for again.
    pub fn losses(&self) -> (bool, u64) {
        let link = self.link.get();
        link.map(|link| (link.loss() > 0.0, link.retransmitted() + link.withheld())).unwrap_or_default()
    }

    /// Key frames it asked for so far.
    pub fn key_frames_wanted(&self) -> u64 {
        self.link.get().map(|link| link.key_frames_wanted()).unwrap_or_default()
    }
}
