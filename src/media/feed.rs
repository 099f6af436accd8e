//! Frames go down, demand goes up.
//!
//! A [`Feed`] is a short ring of frames that one camera fills and any number of viewers read, each at its own
//! place. Publishing never waits for a reader: a reader that falls behind loses frames and resumes at a key frame.
//! A feed outlives the pipeline that fills it, so an unplugged camera is silence, not an end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Frame;

/// How far a reader may fall behind before it skips. A viewer that is further behind than this would show the past.
const MOST_BEHIND: Duration = Duration::from_millis(300);

/// How much a reader may have waiting: at any bitrate, the queue of a stopped viewer is bounded by this.
const MOST_BYTES: usize = 1 << 20;

/// Frames that are kept at once. Within [`FRESH`] the fastest camera makes 144.
const MOST_FRAMES: usize = 512;

/// How old the newest key frame may be for a new reader to start at it rather than wait for a fresh one.
///
/// Shorter than the camera's pause between forced key frames would leave joiners black in between;
/// longer would make a joiner swallow a burst.
const FRESH: Duration = Duration::from_millis(600);

/// What viewers together want of the camera.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// How many subscriptions there are. With none the camera may close its device.
    pub viewers: usize,
    /// Counts the wishes for a key frame; a change means that one is wanted now.
    pub key_frames: u64,
}

/// One camera's frames, for any number of readers. A clone is the same feed.
#[derive(Clone, Debug)]
pub struct Feed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The position after the newest frame: readers wait for it to move.
    end: watch::Sender<u64>,
    demand: watch::Sender<Demand>,
}

#[derive(Debug, Default)]
struct Ring {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Position of `frames[0]`, counted from the feed's beginning.
    start: u64,
}

impl Ring {
    fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    fn at(&self, position: u64) -> Option<&Arc<Frame>> {
        position.checked_sub(self.start).and_then(|index| self.frames.get(index as usize))
    }

    fn newest_key(&self) -> Option<u64> {
        let back = self.frames.iter().rev().position(|frame| frame.is_key)?;
        Some(self.end() - 1 - back as u64)
    }

    /// The oldest position that is worth sending: what is before it is too old, or too much to catch up with.
    fn oldest_worth(&self) -> u64 {
        let Some(newest) = self.frames.back() else { return self.start };
        let mut bytes = 0;
        let worth = self.frames.iter().rev().take_while(|frame| {
            bytes += frame.data.len();
            bytes <= MOST_BYTES && newest.captured.saturating_duration_since(frame.captured) <= MOST_BEHIND
        });
        // The newest frame is always worth sending, even one larger than the bound.
        self.end() - (worth.count() as u64).max(1)
    }

    fn push(&mut self, frame: Arc<Frame>) {
        self.bytes += frame.data.len();
        self.frames.push_back(frame);
        // Kept: what a joiner may start at (FRESH), which is more than what a reader may be behind (MOST_BEHIND).
        while let (Some(oldest), Some(newest)) = (self.frames.front(), self.frames.back()) {
            let is_stale = newest.captured.saturating_duration_since(oldest.captured) > FRESH;
            let is_full = self.bytes > 2 * MOST_BYTES || self.frames.len() > MOST_FRAMES;
            if self.frames.len() <= 1 || !(is_stale || is_full) {
                break;
            }
            self.bytes -= oldest.data.len();
            self.frames.pop_front();
            self.start += 1;
        }
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Feed {
    /// A feed without frames.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                ring: Mutex::default(),
                end: watch::channel(0).0,
                demand: watch::channel(Demand::default()).0,
            }),
        }
    }

    /// Adds a frame. Never awaits and never logs; the lock inside is held for a few pointer moves only.
    pub fn publish(&self, frame: Frame) {
        let end = {
            let mut ring = self.shared.lock();
            ring.push(Arc::new(frame));
            ring.end()
        };
        self.shared.end.send_replace(end);
    }

    /// Forgets the frames: what an old pipeline published cannot be continued by a new one.
    pub fn clear(&self) {
        let mut ring = self.shared.lock();
        ring.start = ring.end();
        ring.frames.clear();
        ring.bytes = 0;
    }

    /// Joins the feed. The first frame is the newest key frame, if it is fresh; otherwise one is asked for.
    pub fn subscribe(&self) -> Subscription {
        let mut ends = self.shared.end.subscribe();
        ends.borrow_and_update();
        let fresh = {
            let ring = self.shared.lock();
            let newest = ring.newest_key().and_then(|key| Some((key, ring.at(key)?.captured.elapsed() <= FRESH)));
            newest.and_then(|(key, is_fresh)| is_fresh.then_some(key)).ok_or_else(|| ring.end())
        };
        let (position, needs_key) = match fresh {
            Ok(key) => (key, false),
            Err(end) => (end, true),
        };
        self.shared.demand.send_modify(|demand| {
            demand.viewers += 1;
            demand.key_frames += u64::from(needs_key);
        });
        Subscription { shared: self.shared.clone(), ends, position, needs_key, catching_up: !needs_key, skipped: 0 }
    }

    /// How many frames were ever published.
    pub fn published(&self) -> u64 {
        self.shared.lock().end()
    }

    /// When the newest frame was captured; `None` while there is none.
    pub fn newest(&self) -> Option<Instant> {
        self.shared.lock().frames.back().map(|frame| frame.captured)
    }

    /// What the viewers want, for the camera to act on.
    pub fn demand(&self) -> DemandWatch {
        DemandWatch { changes: self.shared.demand.subscribe() }
    }

    /// Asks the camera for a key frame on behalf of somebody who has no subscription yet.
    pub fn want_key_frame(&self) {
        self.shared.want_key_frame();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("no code that holds the ring can panic")
    }

    fn want_key_frame(&self) {
        self.demand.send_modify(|demand| demand.key_frames += 1);
    }
}

/// The camera's end of the demand.
#[derive(Debug)]
pub struct DemandWatch {
    changes: watch::Receiver<Demand>,
}

impl DemandWatch {
    /// Waits until the demand is another than when it was last looked at.
    pub async fn changed(&mut self) -> Demand {
        // The feed holds the sender; with the feed gone there is nobody left to want anything.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.changes.borrow_and_update()
    }

    /// The demand now, which also counts as looking at it.
    pub fn now(&mut self) -> Demand {
        *self.changes.borrow_and_update()
    }
}

/// One reader's place in a feed. While it exists the feed counts a viewer.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    ends: watch::Receiver<u64>,
    position: u64,
    needs_key: bool,
    /// Between joining at an older key frame and reaching the newest frame, being behind is expected.
    catching_up: bool,
    skipped: u64,
}

impl Subscription {
    /// The next frame that can be decoded, given all that this reader got before.
    ///
    /// It starts at a key frame. A reader that fell behind skips to the newest key frame there is,
    /// or asks for one and waits for it. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Arc<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            if self.ends.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next frame, if there is one now.
    fn take(&mut self) -> Option<Arc<Frame>> {
        let shared = self.shared.clone();
        let ring = shared.lock();
        let end = ring.end();
        if self.position >= end {
            self.catching_up = false;
            return None;
        }
        let worth = if self.catching_up { ring.start } else { ring.oldest_worth() };
        if self.position < worth && !self.needs_key {
            self.catching_up = false;
            self.needs_key = true;
        }
        if self.needs_key {
            match ring.newest_key().filter(|key| *key >= worth.max(self.position)) {
                Some(key) => {
                    self.skipped += key - self.position;
                    self.position = key;
                    self.needs_key = false;
                }
                None => {
                    self.skipped += end - self.position;
                    let is_first_wish = self.position < worth;
                    self.position = end;
                    drop(ring);
                    if is_first_wish {
                        shared.want_key_frame();
                    }
                    return None;
                }
            }
        }
        let frame = ring.at(self.position)?.clone();
        self.position += 1;
        Some(frame)
    }

    /// The viewer cannot go on decoding (PLI, FIR): asks the camera for a key frame.
    pub fn want_key_frame(&self) {
        self.shared.want_key_frame();
    }

    /// How many frames this reader did not get because it was behind or waited for a key frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.demand.send_modify(|demand| demand.viewers -= 1);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A frame that was captured `at` milliseconds after `zero` and holds `at` as its bytes.
    fn frame(zero: Instant, at: u64, is_key: bool) -> Frame {
        Frame::new(Bytes::from(at.to_string()), zero + Duration::from_millis(at), is_key)
    }

    fn taken(subscription: &mut Subscription) -> Vec<String> {
        std::iter::from_fn(|| subscription.take())
            .map(|frame| String::from_utf8(frame.data.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_joiner_starts_at_a_fresh_key_frame_and_asks_for_none() {
        let (feed, zero) = (Feed::new(), Instant::now());
        feed.publish(frame(zero, 0, true));
        feed.publish(frame(zero, 33, false));
        let mut joiner = feed.subscribe();
        assert_eq!(taken(&mut joiner), ["0", "33"]);
        assert_eq!(feed.demand().now(), Demand { viewers: 1, key_frames: 0 });
    }

    #[test]
    fn a_joiner_without_a_fresh_key_frame_asks_for_one_and_waits_for_it() {
        let feed = Feed::new();
        let zero = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        feed.publish(frame(zero, 0, true));
        let mut joiner = feed.subscribe();
        assert_eq!(feed.demand().now(), Demand { viewers: 1, key_frames: 1 });
        feed.publish(frame(zero, 1966, false));
        assert_eq!(taken(&mut joiner), Vec::<String>::new());
        feed.publish(frame(zero, 2000, true));
        assert_eq!(taken(&mut joiner), ["2000"]);
        assert_eq!(feed.demand().now().key_frames, 1);
    }

    #[test]
    fn a_slow_reader_resumes_at_a_key_frame_and_others_are_unhurt() {
        let (feed, zero) = (Feed::new(), Instant::now());
        feed.publish(frame(zero, 0, true));
        let (mut slow, mut quick) = (feed.subscribe(), feed.subscribe());
        assert_eq!(taken(&mut slow), ["0"]);
        assert_eq!(taken(&mut quick), ["0"]);
        for at in (33..500).step_by(33) {
            feed.publish(frame(zero, at, false));
            assert_eq!(taken(&mut quick), [at.to_string()]);
        }
        assert_eq!(taken(&mut slow), Vec::<String>::new(), "what is there cannot be decoded without the lost frames");
        assert_eq!(feed.demand().now().key_frames, 1, "one wish, however often it looks");
        feed.publish(frame(zero, 528, false));
        assert_eq!(taken(&mut slow), Vec::<String>::new());
        assert_eq!(feed.demand().now().key_frames, 1);
        feed.publish(frame(zero, 561, true));
        feed.publish(frame(zero, 594, false));
        assert_eq!(taken(&mut slow), ["561", "594"]);
        assert_eq!(slow.skipped(), 16);
        assert_eq!(quick.skipped(), 0);
    }

    #[test]
    fn a_slow_reader_skips_to_a_key_frame_that_is_already_there() {
        let (feed, zero) = (Feed::new(), Instant::now());
        feed.publish(frame(zero, 0, true));
        let mut slow = feed.subscribe();
        assert_eq!(taken(&mut slow), ["0"]);
        for at in 1..=20 {
            feed.publish(frame(zero, at * 33, at == 15));
        }
        assert_eq!(taken(&mut slow)[0], (15 * 33).to_string());
        assert_eq!(feed.demand().now().key_frames, 0);
    }

    #[test]
    fn the_ring_is_bounded_however_fast_frames_come() {
        let (feed, zero) = (Feed::new(), Instant::now());
        for at in 0..50 {
            feed.publish(Frame::new(Bytes::from(vec![0; 100_000]), zero + Duration::from_millis(at), true));
        }
        {
            let ring = feed.shared.lock();
            assert!(ring.bytes <= 2 * MOST_BYTES);
            assert_eq!(ring.bytes, ring.frames.iter().map(|frame| frame.data.len()).sum::<usize>());
        }
        // And in number, however small they are.
        (0..5000).for_each(|_| feed.publish(Frame::new(Bytes::new(), zero, false)));
        assert_eq!(feed.shared.lock().frames.len(), MOST_FRAMES);
    }

    #[test]
    fn a_joiner_catches_up_from_the_key_frame_even_when_it_is_older_than_a_reader_may_be_behind() {
        let feed = Feed::new();
        let zero = Instant::now().checked_sub(Duration::from_millis(450)).unwrap();
        for at in 0..12 {
            feed.publish(frame(zero, at * 33, at == 0));
        }
        let mut joiner = feed.subscribe();
        assert_eq!(taken(&mut joiner).len(), 12);
    }

    #[test]
    fn leaving_takes_the_demand_back() {
        let feed = Feed::new();
        let mut demand = feed.demand();
        let (first, second) = (feed.subscribe(), feed.subscribe());
        drop(first);
        assert_eq!(demand.now().viewers, 1);
        drop(second);
        assert_eq!(demand.now().viewers, 0);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_a_frame() {
        let feed = Feed::new();
        let mut reader = feed.subscribe();
        let waiting = reader.next();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        feed.publish(frame(Instant::now(), 7, true));
        assert_eq!(&waiting.await.data[..], b"7");
    }
}
