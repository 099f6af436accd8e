//! Counters of a peer connection.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one viewer's connection. The stack writes them while others read.
#[derive(Debug, Default)]
pub struct Statistics {
    pub(super) rtt_us: AtomicU32,
    /// Packets lost, in 1/256, as in the latest receiver report.
    pub(super) loss_256: AtomicU32,
    pub(super) retransmitted: AtomicU64,
    pub(super) withheld: AtomicU64,
    pub(super) key_frames_wanted: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Statistics {
    /// The latest round-trip time; `None` until a report contained one.
    pub fn rtt(&self) -> Option<Duration> {
        Some(self.rtt_us.load(Ordering::Relaxed)).filter(|us| *us > 0).map(|us| Duration::from_micros(us.into()))
    }
    /// Share of packets lost before retransmission, from 0 to 1, from the latest report.
    pub fn loss(&self) -> f64 {
        f64::from(self.loss_256.load(Ordering::Relaxed)) / 256.0
    }
    /// Packets sent again.
    pub fn retransmitted(&self) -> u64 {
        self.retransmitted.load(Ordering::Relaxed)
    }
    /// Requested packets that were not sent again because they would have been of no use.
    pub fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }
    /// PLI and FIR received.
    pub fn key_frames_wanted(&self) -> u64 {
        self.key_frames_wanted.load(Ordering::Relaxed)
    }
    /// RTP payload bytes sent, retransmissions included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
