//! A source of generated pictures or sound that runs in real time without drift.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::graph::clock::{self, Clock};

/// Number of buffers per time, exactly: 30000/1001 is not a whole number of nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Buffers ...
    pub buffers: u32,
    /// ... in so many seconds.
    pub seconds: u32,
}

impl Pace {
    /// When buffer `index` is due, from the source's start.
    fn due(self, index: u64) -> Duration {
        let nanos = u128::from(index) * u128::from(self.seconds) * 1_000_000_000 / u128::from(self.buffers);
        Duration::from_nanos(nanos as u64)
    }

    /// The first buffer that is due `elapsed` after the start or later.
    fn index_at(self, elapsed: Duration) -> u64 {
        let scale = u128::from(self.seconds) * 1_000_000_000;
        (elapsed.as_nanos() * u128::from(self.buffers)).div_ceil(scale) as u64
    }

    /// The buffer to make when `index` is the next in order. All times are measured from the source's start.
    ///
    /// If it is later than `patience`, all buffers before the present are skipped. So is one that is due before the
    /// pipeline `began`: its stamp would be that of the beginning, and not match what it shows.
    fn next(self, index: u64, elapsed: Duration, began: Duration, patience: Duration) -> u64 {
        let index = if elapsed > self.due(index) + patience { self.index_at(elapsed) } else { index };
        index.max(self.index_at(began))
    }
}

/// Ends the source's wait for its next buffer when dropped, so that a stop need not wait for it.
pub type Waker = mpsc::Sender<()>;

/// A live `appsrc` that calls `make` with the time of each buffer, in the pipeline's own streaming thread: a
/// stopped pipeline has no thread and costs nothing.
///
/// The first buffer is due at a full Unix second; [`Pace::next`] selects those that are skipped.
pub fn source(
    caps: &gst::Caps,
    pace: Pace,
    patience: Duration,
    mut make: impl FnMut(Instant) -> Option<gst::Buffer> + Send + 'static,
) -> (gst_app::AppSrc, Waker) {
    let (waker, woken) = mpsc::channel();
    let clock = Clock::of_process();
    let start = clock::full_second(Instant::now());
    let mut index = pace.index_at(start.elapsed());
    let need_data = move |source: &gst_app::AppSrc, _: u32| {
        let Some(base) = source.base_time() else { return };
        let began = clock.instant(base).saturating_duration_since(start);
        index = pace.next(index, start.elapsed(), began, patience);
        let due = start + pace.due(index);
        index += 1;
        if let Err(mpsc::RecvTimeoutError::Disconnected) =
            woken.recv_timeout(due.saturating_duration_since(Instant::now()))
        {
            return;
        }
        let Some(mut buffer) = make(due) else { return };
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(clock.time(due).saturating_sub(base));
        }
        // Fails only while the pipeline stops, when the buffer is not needed any more.
        source.push_buffer(buffer).ok();
    };
    let source = gst_app::AppSrc::builder()
        .caps(caps)
        .format(gst::Format::Time)
        .is_live(true)
        .callbacks(gst_app::AppSrcCallbacks::builder().need_data(need_data).build())
        .build();
    (source, waker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_ntsc_has_its_exact_number_of_frames() {
        let pace = Pace { buffers: 30_000, seconds: 1001 };
        let hour = Duration::from_secs(3600);
        let frames = pace.index_at(hour);
        assert_eq!(frames, 3600 * 30_000 / 1001 + 1);
        assert!(pace.due(frames) >= hour && pace.due(frames - 1) < hour);
    }

    #[test]
    fn buffers_that_are_late_or_due_before_the_pipeline_began_are_skipped() {
        let pace = Pace { buffers: 10, seconds: 1 };
        let next = |index, elapsed, began| {
            pace.next(index, Duration::from_millis(elapsed), Duration::from_millis(began), Duration::from_millis(100))
        };
        assert_eq!(next(5, 450, 0), 5, "it is due soon");
        assert_eq!(next(5, 590, 0), 5, "it is late, within the patience");
        assert_eq!(next(5, 610, 0), 7, "it is too late");
        assert_eq!(next(5, 520, 510), 6, "it is due before the pipeline began");
        assert_eq!(next(5, 520, 500), 5, "it is due as the pipeline begins");
    }

    #[test]
    fn the_index_of_a_buffer_follows_from_its_time() {
        for pace in [Pace { buffers: 30, seconds: 1 }, Pace { buffers: 25, seconds: 2 }] {
            for index in 0..1000 {
                // The time is rounded down to a nanosecond, so it may be before the exact one.
                assert_eq!(pace.index_at(pace.due(index)), index);
            }
        }
    }
}
