//! Carries frames from a source to its readers, and their demand back to the source.
//!
//! A [`Feed`] is a short ring of frames that one camera fills and any number of viewers read, each at its own
//! position. Publishing never waits for a reader: a reader that falls behind loses frames and resumes at a key frame.
//! A feed outlives the pipeline that fills it, so readers of an unplugged camera stay subscribed. It also has its
//! [`Format`], and combines the requests of its readers into one [`Demand`].

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::watch;

use super::demand::{Demand, DemandWatch, Purpose, Readers};
use super::ring::{FRESH, Ring, Window};
use super::{Bitrate, Format, Frame};

/// What happens to a reader that is too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// It starts at the newest key frame, and skips to a newer one when it falls behind: it shows the present.
    Live,
    /// It begins at the oldest key frame that the feed keeps and gets every frame from there on. If the feed's window
    /// was too small for it, it gets the number of lost frames.
    Lossless,
}

/// How a feed is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The purpose.
    pub purpose: Purpose,
    /// What happens when it falls behind.
    pub lag: Lag,
}

impl From<Purpose> for Reading {
    /// The default: recorders get all frames, others the present.
    fn from(purpose: Purpose) -> Self {
        let lag = if purpose == Purpose::Recorder { Lag::Lossless } else { Lag::Live };
        Self { purpose, lag }
    }
}

/// Frames that a lossless reader has lost since the last one that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} frames were lost because they were read too slowly")]
pub struct Lagged(pub u64);

/// One camera's frames, for any number of readers. A clone is the same feed.
#[derive(Clone, Debug)]
pub struct Feed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    window: Window,
    ring: Mutex<Ring>,
    format: watch::Sender<Format>,
    /// The readers.
    readers: Mutex<Readers>,
    /// The position after the newest frame: readers wait for it to move.
    end: watch::Sender<u64>,
    demand: watch::Sender<Demand>,
}

impl Feed {
    /// A feed without frames, for viewers.
    pub fn new(format: Format) -> Self {
        Self::with_window(Window::LIVE, format)
    }

    /// A feed without frames that keeps this much, for example so that a recording includes the time before it began.
    pub fn with_window(window: Window, format: Format) -> Self {
        Self {
            shared: Arc::new(Shared {
                window,
                ring: Mutex::default(),
                format: watch::channel(format).0,
                readers: Mutex::default(),
                end: watch::channel(0).0,
                demand: watch::channel(Demand::default()).0,
            }),
        }
    }

    /// Adds a frame. Never awaits and never logs; the lock inside is held for a few pointer moves only.
    pub fn publish(&self, frame: Frame) {
        let end = {
            let mut ring = self.shared.lock();
            ring.push(Arc::new(frame), self.shared.window);
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

    /// The format of its frames, now and as it changes. A change comes before the first frame that has the new format.
    pub fn format(&self) -> watch::Receiver<Format> {
        self.shared.format.subscribe()
    }

    /// Sets the format of the next frames.
    pub fn describe(&self, update: impl FnOnce(&mut Format)) {
        self.shared.format.send_if_modified(|format| {
            let before = format.clone();
            update(format);
            *format != before
        });
    }

    /// Joins the feed. The first frame is the newest key frame, if it is fresh, for a live reader, and the oldest that
    /// is kept for a lossless one; otherwise one is requested.
    pub fn subscribe(&self, reading: impl Into<Reading>) -> Subscription {
        let Reading { purpose, lag } = reading.into();
        let mut ends = self.shared.end.subscribe();
        ends.borrow_and_update();
        let first = {
            let ring = self.shared.lock();
            let is_fresh = |key: &u64| ring.at(*key).is_some_and(|frame| frame.captured.elapsed() <= FRESH);
            let first = match lag {
                Lag::Live => ring.newest_key().filter(is_fresh),
                Lag::Lossless => ring.next_key(ring.start),
            };
            first.ok_or_else(|| ring.end())
        };
        let (position, needs_key) = match first {
            Ok(key) => (key, false),
            Err(end) => (end, true),
        };
        let number = self.shared.update(needs_key, |readers| readers.join(purpose));
        let (shared, has_key) = (self.shared.clone(), !needs_key);
        Subscription {
            shared,
            number,
            lag,
            ends,
            position,
            needs_key,
            catching_up: has_key,
            skipped: 0,
            has_begun: has_key,
            lost: 0,
        }
    }

    /// Number of frames published so far.
    pub fn published(&self) -> u64 {
        self.shared.lock().end()
    }

    /// When the newest frame was captured; `None` while there is none.
    pub fn newest(&self) -> Option<Instant> {
        self.shared.lock().frames.back().map(|frame| frame.captured)
    }

    /// The demand of the readers, for the camera to act on.
    pub fn demand(&self) -> DemandWatch {
        DemandWatch { changes: self.shared.demand.subscribe() }
    }

    /// Requests a key frame from the camera for a client that has no subscription yet.
    pub fn request_key_frame(&self) {
        self.shared.request_key_frame();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("lock is never poisoned: no panic while held")
    }

    fn request_key_frame(&self) {
        self.demand.send_modify(|demand| demand.key_frames += 1);
    }

    /// Changes the readers, and publishes their combined demand. It is published under their lock, so that an older
    /// demand never replaces a newer one.
    fn update<T>(&self, needs_key: bool, update: impl FnOnce(&mut Readers) -> T) -> T {
        let mut readers = self.readers.lock().expect("lock is never poisoned: no panic while held");
        let altered = update(&mut readers);
        self.demand.send_if_modified(|demand| {
            let now = readers.demand(demand.key_frames + u64::from(needs_key));
            std::mem::replace(demand, now) != now
        });
        altered
    }
}

/// One reader's position in a feed. While it exists the feed counts the reader.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    number: u64,
    lag: Lag,
    ends: watch::Receiver<u64>,
    position: u64,
    needs_key: bool,
    /// Between joining at an older key frame and reaching the newest frame, being behind is expected.
    catching_up: bool,
    skipped: u64,
    /// Of a lossless reader: whether it has found its first key frame. Frames before that do not count as lost.
    has_begun: bool,
    /// Of a lossless reader: number of lost frames that were not reported to it yet.
    lost: u64,
}

impl Subscription {
    /// The next frame that can be decoded, given all that this reader got before.
    ///
    /// It starts at a key frame. A live reader that fell behind skips to the newest key frame, a lossless one to the
    /// oldest, or it requests one and waits for it. Cancel safe.
    pub async fn next(&mut self) -> Arc<Frame> {
        loop {
            if let Ok(frame) = self.next_or_lag().await {
                return frame;
            }
        }
    }

    /// The same for a lossless reader.
    ///
    /// # Errors
    ///
    /// When frames were lost before the next one, once for each gap. A live reader has no errors.
    pub async fn next_or_lag(&mut self) -> Result<Arc<Frame>, Lagged> {
        loop {
            let taken = self.take();
            if self.lost > 0 {
                // The frame that was taken is put back: the gap comes first.
                self.position -= u64::from(taken.is_some());
                return Err(Lagged(std::mem::take(&mut self.lost)));
            }
            if let Some(frame) = taken {
                return Ok(frame);
            }
            if self.ends.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next frame, if there is one now.
    fn take(&mut self) -> Option<Arc<Frame>> {
        match self.lag {
            Lag::Live => self.take_live(),
            Lag::Lossless => self.take_lossless(),
        }
    }

    fn take_lossless(&mut self) -> Option<Arc<Frame>> {
        let shared = self.shared.clone();
        let ring = shared.lock();
        if self.position < ring.start {
            self.lost += ring.start - self.position;
            self.position = ring.start;
            self.needs_key = true;
        }
        if self.needs_key {
            let key = ring.next_key(self.position);
            let passed_over = key.unwrap_or(ring.end()) - self.position;
            self.position += passed_over;
            self.lost += if self.has_begun { passed_over } else { 0 };
            if key.is_none() {
                let asks = self.has_begun && passed_over > 0;
                drop(ring);
                if asks {
                    shared.request_key_frame();
                }
                return None;
            }
            self.needs_key = false;
            self.has_begun = true;
        }
        let frame = ring.at(self.position)?.clone();
        self.position += 1;
        Some(frame)
    }

    fn take_live(&mut self) -> Option<Arc<Frame>> {
        let shared = self.shared.clone();
        let ring = shared.lock();
        let end = ring.end();
        if self.position >= end {
            self.catching_up = false;
            return None;
        }
        let sendable = if self.catching_up { ring.start } else { ring.oldest_sendable() };
        if self.position < sendable && !self.needs_key {
            self.catching_up = false;
            self.needs_key = true;
        }
        if self.needs_key {
            match ring.newest_key().filter(|key| *key >= sendable.max(self.position)) {
                Some(key) => {
                    self.skipped += key - self.position;
                    self.position = key;
                    self.needs_key = false;
                }
                None => {
                    self.skipped += end - self.position;
                    let is_first_request = self.position < sendable;
                    self.position = end;
                    drop(ring);
                    if is_first_request {
                        shared.request_key_frame();
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
    pub fn request_key_frame(&self) {
        self.shared.request_key_frame();
    }

    /// Sets the bitrate that this reader wants; `None` for any.
    pub fn request_bitrate(&self, bitrate: Option<Bitrate>) {
        self.shared.update(false, |readers| readers.want(self.number, bitrate));
    }

    /// Number of frames that this reader skipped because it was behind or waited for a key frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.update(false, |readers| readers.leave(self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::media::Codec;
    use crate::media::ring::{MAX_BYTES, MAX_FRAMES};

    fn feed() -> Feed {
        Feed::new(Format::of(Codec::Opus))
    }

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
    fn a_new_reader_starts_at_a_fresh_key_frame_and_requests_none() {
        let (feed, zero) = (feed(), Instant::now());
        feed.publish(frame(zero, 0, true));
        feed.publish(frame(zero, 33, false));
        let mut joiner = feed.subscribe(Purpose::Viewer);
        assert_eq!(taken(&mut joiner), ["0", "33"]);
        assert_eq!(feed.demand().now(), Demand { viewers: 1, ..Demand::default() });
    }

    #[test]
    fn a_new_reader_without_a_fresh_key_frame_requests_one_and_waits_for_it() {
        let feed = feed();
        let zero = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        feed.publish(frame(zero, 0, true));
        let mut joiner = feed.subscribe(Purpose::Viewer);
        assert_eq!(feed.demand().now(), Demand { viewers: 1, key_frames: 1, ..Demand::default() });
        feed.publish(frame(zero, 1966, false));
        assert_eq!(taken(&mut joiner), Vec::<String>::new());
        feed.publish(frame(zero, 2000, true));
        assert_eq!(taken(&mut joiner), ["2000"]);
        assert_eq!(feed.demand().now().key_frames, 1);
    }

    #[test]
    fn a_slow_reader_resumes_at_a_key_frame_and_others_are_unaffected() {
        let (feed, zero) = (feed(), Instant::now());
        feed.publish(frame(zero, 0, true));
        let (mut slow, mut quick) = (feed.subscribe(Purpose::Viewer), feed.subscribe(Purpose::Viewer));
        assert_eq!(taken(&mut slow), ["0"]);
        assert_eq!(taken(&mut quick), ["0"]);
        for at in (33..500).step_by(33) {
            feed.publish(frame(zero, at, false));
            assert_eq!(taken(&mut quick), [at.to_string()]);
        }
        assert_eq!(taken(&mut slow), Vec::<String>::new(), "the frames left cannot be decoded without the lost ones");
        assert_eq!(feed.demand().now().key_frames, 1, "one request, however often it looks");
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
        let (feed, zero) = (feed(), Instant::now());
        feed.publish(frame(zero, 0, true));
        let mut slow = feed.subscribe(Purpose::Viewer);
        assert_eq!(taken(&mut slow), ["0"]);
        for at in 1..=20 {
            feed.publish(frame(zero, at * 33, at == 15));
        }
        assert_eq!(taken(&mut slow)[0], (15 * 33).to_string());
        assert_eq!(feed.demand().now().key_frames, 0);
    }

    #[test]
    fn the_ring_is_bounded_however_fast_frames_come() {
        let (feed, zero) = (feed(), Instant::now());
        for at in 0..50 {
            feed.publish(Frame::new(Bytes::from(vec![0; 100_000]), zero + Duration::from_millis(at), true));
        }
        {
            let ring = feed.shared.lock();
            assert!(ring.bytes <= 2 * MAX_BYTES);
            assert_eq!(ring.bytes, ring.frames.iter().map(|frame| frame.data.len()).sum::<usize>());
        }
        // And in number, however small they are.
        (0..5000).for_each(|_| feed.publish(Frame::new(Bytes::new(), zero, false)));
        assert_eq!(feed.shared.lock().frames.len(), MAX_FRAMES);
    }

    #[test]
    fn a_new_reader_catches_up_from_a_key_frame_older_than_the_allowed_lag() {
        let feed = feed();
        let zero = Instant::now().checked_sub(Duration::from_millis(450)).unwrap();
        for at in 0..12 {
            feed.publish(frame(zero, at * 33, at == 0));
        }
        let mut joiner = feed.subscribe(Purpose::Viewer);
        assert_eq!(taken(&mut joiner).len(), 12);
    }

    #[test]
    fn leaving_takes_the_demand_back() {
        let feed = feed();
        let mut demand = feed.demand();
        let (first, second) = (feed.subscribe(Purpose::Viewer), feed.subscribe(Purpose::Viewer));
        drop(first);
        assert_eq!(demand.now().viewers, 1);
        drop(second);
        assert_eq!(demand.now().viewers, 0);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_a_frame() {
        let feed = feed();
        let mut reader = feed.subscribe(Purpose::Viewer);
        let waiting = reader.next();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        feed.publish(frame(Instant::now(), 7, true));
        assert_eq!(&waiting.await.data[..], b"7");
    }

    #[tokio::test]
    async fn a_lossless_reader_begins_at_the_oldest_key_frame_and_gets_the_number_of_lost_frames() {
        let window = Window { age: Duration::from_secs(10), bytes: 1 << 20, frames: 10 };
        let (feed, zero) = (Feed::with_window(window, Format::of(Codec::Opus)), Instant::now());
        (0..5).for_each(|at| feed.publish(frame(zero, at, at == 1 || at == 3)));
        let mut recorder = feed.subscribe(Purpose::Recorder);
        assert_eq!(taken(&mut recorder), ["1", "2", "3", "4"]);
        assert_eq!(feed.demand().now(), Demand { others: 1, ..Demand::default() });
        // Frames 5 to 19; kept are 10 to 19, and the first that can be decoded is 12.
        (5..20).for_each(|at| feed.publish(frame(zero, at, at % 12 == 0)));
        assert_eq!(recorder.next_or_lag().await.err(), Some(Lagged(7)));
        assert_eq!(&recorder.next_or_lag().await.unwrap().data[..], b"12");
        assert_eq!(taken(&mut recorder).len(), 7);
        // No key frame is kept: one is requested, and the whole gap is reported at once.
        (20..40).for_each(|at| feed.publish(frame(zero, at, false)));
        assert_eq!(recorder.next_or_lag().await.err(), Some(Lagged(20)));
        assert_eq!(feed.demand().now().key_frames, 1);
        feed.publish(frame(zero, 40, false));
        feed.publish(frame(zero, 41, true));
        assert_eq!(recorder.next_or_lag().await.err(), Some(Lagged(1)));
        assert_eq!(&recorder.next_or_lag().await.unwrap().data[..], b"41");
    }

    #[test]
    fn a_lossless_reader_that_joins_before_the_first_key_frame_has_lost_nothing() {
        let (feed, zero) = (feed(), Instant::now());
        let mut recorder = feed.subscribe(Purpose::Recorder);
        assert_eq!(feed.demand().now().key_frames, 1);
        feed.publish(frame(zero, 0, false));
        assert_eq!(taken(&mut recorder), Vec::<String>::new());
        feed.publish(frame(zero, 1, true));
        assert_eq!((taken(&mut recorder), recorder.lost), (vec!["1".to_owned()], 0));
        assert_eq!(feed.demand().now().key_frames, 1);
    }

    #[test]
    fn the_demand_combines_all_readers() {
        let feed = feed();
        let mut demand = feed.demand();
        let (one, other) = (feed.subscribe(Purpose::Viewer), feed.subscribe(Purpose::Server));
        assert_eq!((demand.now().viewers, demand.now().others, demand.now().bitrate), (1, 1, None));
        one.request_bitrate(Some(Bitrate::kbps(800)));
        other.request_bitrate(Some(Bitrate::kbps(500)));
        assert_eq!(demand.now().bitrate, Some(Bitrate::kbps(500)));
        drop(other);
        assert_eq!((demand.now().readers(), demand.now().bitrate), (1, Some(Bitrate::kbps(800))));
        one.request_bitrate(None);
        assert_eq!(demand.now().bitrate, None);
    }

    #[test]
    fn readers_are_notified_only_when_the_format_changes() {
        let feed = feed();
        let mut format = feed.format();
        feed.describe(|format| format.size = None);
        assert!(!format.has_changed().unwrap());
        feed.describe(|format| format.parameter_sets = Bytes::from_static(b"sps"));
        assert_eq!(&format.borrow_and_update().parameter_sets[..], b"sps");
    }
}
