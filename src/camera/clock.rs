//! One clock for everything that is captured.
//!
//! Every pipeline runs on a monotonic system clock, so that pictures and sound from separate pipelines, and the
//! frames before and after a restart, are on one line of time: that of [`Instant`].

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gstreamer as gst;
use gstreamer::prelude::*;

/// A clock for a pipeline and its relation to [`Instant`].
#[derive(Clone, Debug)]
pub(super) struct Clock {
    clock: gst::Clock,
    /// The same moment on both clocks. Both count CLOCK_MONOTONIC, so that one pair is enough for ever.
    zero: Instant,
    zero_time: gst::ClockTime,
}

impl Clock {
    /// The process's clock. GStreamer must be initialised.
    pub(super) fn of_process() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        CLOCK
            .get_or_init(|| {
                let clock = gst::glib::Object::builder::<gst::SystemClock>()
                    .property("name", "peercam-clock")
                    .property("clock-type", gst::ClockType::Monotonic)
                    .build()
                    .upcast::<gst::Clock>();
                // Between the two readings the thread may lose its processor; the closest of a few pairs is kept.
                let (_, zero, zero_time) = (0..5)
                    .map(|_| {
                        let before = Instant::now();
                        let time = clock.time();
                        (before.elapsed(), before, time)
                    })
                    .min_by_key(|(gap, ..)| *gap)
                    .expect("five pairs were taken");
                Self { clock, zero, zero_time }
            })
            .clone()
    }

    /// What a pipeline is told to use.
    pub(super) fn as_gst(&self) -> &gst::Clock {
        &self.clock
    }

    /// The moment that this clock shows as `time`.
    pub(super) fn instant(&self, time: gst::ClockTime) -> Instant {
        match time.checked_sub(self.zero_time) {
            Some(after) => self.zero + Duration::from(after),
            None => self.zero.checked_sub(Duration::from(self.zero_time - time)).unwrap_or(self.zero),
        }
    }

    /// What this clock shows at `instant`.
    pub(super) fn time(&self, instant: Instant) -> gst::ClockTime {
        let nanos = |duration: Duration| gst::ClockTime::from_nseconds(duration.as_nanos() as u64);
        match instant.checked_duration_since(self.zero) {
            Some(after) => self.zero_time + nanos(after),
            None => self.zero_time.saturating_sub(nanos(self.zero - instant)),
        }
    }
}

/// The Unix time of `instant`, by the wall clock as it goes now: a board without a battery starts in 1970 and
/// jumps when the network tells it the time.
pub(super) fn unix_time(instant: Instant) -> Duration {
    let (now, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    match now.checked_duration_since(instant) {
        Some(ago) => wall.saturating_sub(ago),
        None => wall + (instant - now),
    }
}

/// The newest moment, not after `now`, at which the wall clock showed a full second.
pub(super) fn full_second(now: Instant) -> Instant {
    let into = Duration::from_nanos(u64::from(unix_time(now).subsec_nanos()));
    now.checked_sub(into).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_clock_times_are_one_line() {
        gst::init().unwrap();
        let clock = Clock::of_process();
        let now = Instant::now();
        assert_eq!(clock.instant(clock.time(now)), now);
        let (before, time, after) = (Instant::now(), clock.as_gst().time(), Instant::now());
        // The pair that joins the clocks may be a scheduling pause apart, never more.
        let slack = Duration::from_millis(2);
        let instant = clock.instant(time);
        assert!(instant + slack >= before && instant <= after + slack);
    }

    #[test]
    fn the_full_second_is_at_most_a_second_ago() {
        let now = Instant::now();
        let full = full_second(now);
        assert!(now - full < Duration::from_secs(1));
        let off = unix_time(full).subsec_millis();
        assert!(off <= 1 || off == 999, "{off} ms off a full second");
    }
}
