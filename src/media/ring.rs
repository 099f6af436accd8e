//! The frames that a feed keeps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Frame;

/// How far a reader may fall behind before it skips, so that a viewer shows the present.
const MAX_LAG: Duration = Duration::from_millis(300);

/// Most bytes that may wait for a reader: the limit for the queue of a stalled viewer at any bitrate.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// Frames that are kept at once. Within [`FRESH`] the fastest camera makes 144.
pub(super) const MAX_FRAMES: usize = 512;

/// How old the newest key frame may be for a new reader to start at it rather than wait for a fresh one.
///
/// Shorter than the camera's pause between forced key frames would leave new readers without a picture in between;
/// longer would send a new reader a burst.
pub(super) const FRESH: Duration = Duration::from_millis(600);

/// The limits of the frames that a feed keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How old a frame may be, counted from the newest one.
    pub age: Duration,
    /// All frames together, in bytes.
    pub bytes: usize,
    /// Their number.
    pub frames: usize,
}

impl Window {
    /// For viewers: a key frame at which a new reader may start, and as much as a reader may be behind.
    pub const LIVE: Self = Self { age: FRESH, bytes: 2 * MAX_BYTES, frames: MAX_FRAMES };
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) frames: VecDeque<Arc<Frame>>,
    pub(super) bytes: usize,
    /// Position of `frames[0]`, counted from the feed's beginning.
    pub(super) start: u64,
}

impl Ring {
    pub(super) fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    pub(super) fn at(&self, position: u64) -> Option<&Arc<Frame>> {
        position.checked_sub(self.start).and_then(|index| self.frames.get(index as usize))
    }

    pub(super) fn newest_key(&self) -> Option<u64> {
        let back = self.frames.iter().rev().position(|frame| frame.is_key)?;
        Some(self.end() - 1 - back as u64)
    }

    /// The oldest key frame from `position` on.
    pub(super) fn next_key(&self, position: u64) -> Option<u64> {
        let from = position.saturating_sub(self.start) as usize;
        let ahead = self.frames.iter().skip(from).position(|frame| frame.is_key)?;
        Some(self.start + (from + ahead) as u64)
    }

    /// The oldest position that is worth sending: frames before it are too old, or too many bytes to catch up with.
    pub(super) fn oldest_sendable(&self) -> u64 {
        let Some(newest) = self.frames.back() else { return self.start };
        let mut bytes = 0;
        let sendable = self.frames.iter().rev().take_while(|frame| {
            bytes += frame.data.len();
            bytes <= MAX_BYTES && newest.captured.saturating_duration_since(frame.captured) <= MAX_LAG
        });
        // The newest frame is always worth sending, even one larger than the bound.
        self.end() - (sendable.count() as u64).max(1)
    }

    pub(super) fn push(&mut self, frame: Arc<Frame>, window: Window) {
        self.bytes += frame.data.len();
        self.frames.push_back(frame);
        while let (Some(oldest), Some(newest)) = (self.frames.front(), self.frames.back()) {
            let is_stale = newest.captured.saturating_duration_since(oldest.captured) > window.age;
            let is_full = self.bytes > window.bytes || self.frames.len() > window.frames;
            if self.frames.len() <= 1 || !(is_stale || is_full) {
                break;
            }
            self.bytes -= oldest.data.len();
            self.frames.pop_front();
            self.start += 1;
        }
    }
}
