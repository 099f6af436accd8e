//! Counters and state of a running session that other tasks may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::admission::OccupiedPlace;
use super::peer::Statistics;
use super::state::State;
use super::{Summary, milliseconds};
use crate::media::Bitrate;
use crate::signalling::{Transport, ViewerId};

/// The counters of one session.
#[derive(Debug)]
pub struct SessionStats {
    transport: Transport,
    camera: String,
    pub(super) since: Instant,
    pub(super) state: Mutex<State>,
    pub(super) frames: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) bitrate: AtomicU64,
    pub(super) peer: OnceLock<Arc<Statistics>>,
}

impl SessionStats {
    /// Counters of a new call.
    pub fn new(transport: Transport, camera: String) -> Self {
        Self {
            transport,
            camera,
            since: Instant::now(),
            state: Mutex::default(),
            frames: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            bitrate: AtomicU64::new(0),
            peer: OnceLock::new(),
        }
    }

    /// The place that the session occupies.
    pub fn occupied(&self) -> OccupiedPlace {
        let state = *self.state.lock().expect("lock is never poisoned: no panic while held");
        let is_finished = matches!(state, State::Watching | State::Interrupted);
        OccupiedPlace { transport: self.transport, connecting_for: (!is_finished).then(|| self.since.elapsed()) }
    }

    /// Summary for the status.
    pub fn summary(&self, viewer: &ViewerId) -> Summary {
        let peer = self.peer.get();
        Summary {
            viewer: viewer.to_string(),
            transport: self.transport,
            camera: self.camera.clone(),
            state: *self.state.lock().expect("lock is never poisoned: no panic while held"),
            seconds: self.since.elapsed().as_secs(),
            bitrate: Bitrate::bps(self.bitrate.load(Ordering::Relaxed)),
            frames: self.frames.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            rtt_ms: peer.and_then(|peer| peer.rtt()).map(milliseconds),
            loss: peer.map(|peer| peer.loss()).unwrap_or_default(),
            retransmitted: self.retransmitted(),
            withheld: peer.map(|peer| peer.withheld()).unwrap_or_default(),
        }
    }

    /// RTP payload bytes sent so far.
    pub fn bytes(&self) -> u64 {
        self.peer.get().map(|peer| peer.bytes()).unwrap_or_default()
    }

    /// Packets sent again so far.
    pub fn retransmitted(&self) -> u64 {
        self.peer.get().map(|peer| peer.retransmitted()).unwrap_or_default()
    }

    /// Losses that the viewer has reported: whether its latest receiver report has any, and how many packets it has
    /// requested again so far.
    pub fn losses(&self) -> (bool, u64) {
        let peer = self.peer.get();
        peer.map(|peer| (peer.loss() > 0.0, peer.retransmitted() + peer.withheld())).unwrap_or_default()
    }

    /// Key frames that the viewer has requested so far.
    pub fn key_frames_wanted(&self) -> u64 {
        self.peer.get().map(|peer| peer.key_frames_wanted()).unwrap_or_default()
    }
}
