//! One clock for everything that is captured.
//!
//! All pipelines run on a monotonic system clock, so that pictures and sound of separate pipelines, and frames
//! before and after a restart, share one time line: that of [`Instant`].

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gstreamer as gst;
use gstreamer::prelude::*;

/// A clock for a pipeline and its relation to [`Instant`].
#[derive(Clone, Debug)]
pub struct Clock {
    clock: gst::Clock,
    /// The same moment on both clocks. Both are CLOCK_MONOTONIC, so one pair is valid for ever.
    zero: Instant,
    zero_time: gst::ClockTime,
}

impl Clock {
    /// The process's clock. GStreamer must be initialised.
    pub fn of_process() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        CLOCK
            .get_or_init(|| {
                let clock = gst::glib::Object::builder::<gst::SystemClock>()
                    .property("name", "peercam-clock")
                    .property("clock-type", gst::ClockType::Monotonic)
                    .build()
                    .upcast::<gst::Clock>();
                let (zero, zero_time) = at_once(|| clock.time());
                Self { clock, zero, zero_time }
            })
            .clone()
    }

    /// The clock for a pipeline.
    pub fn as_gst(&self) -> &gst::Clock {
        &self.clock
    }

    /// The moment at which this clock shows `time`.
    pub fn instant(&self, time: gst::ClockTime) -> Instant {
        match time.checked_sub(self.zero_time) {
            Some(after) => self.zero + Duration::from(after),
            None => self.zero.checked_sub(Duration::from(self.zero_time - time)).unwrap_or(self.zero),
        }
    }

    /// The time of this clock at `instant`.
    pub fn time(&self, instant: Instant) -> gst::ClockTime {
        let nanos = |duration: Duration| gst::ClockTime::from_nseconds(duration.as_nanos() as u64);
        match instant.checked_duration_since(self.zero) {
            Some(after) => self.zero_time + nanos(after),
            None => self.zero_time.saturating_sub(nanos(self.zero - instant)),
        }
    }
}

/// Two readings that are further apart than this do not form a pair: the thread was preempted in between.
const AT_ONCE: Duration = Duration::from_micros(50);

/// The result of `read`, and the moment of the call. On a busy board some milliseconds may pass between two
/// readings, so the closest of a few pairs is taken.
fn at_once<T>(mut read: impl FnMut() -> T) -> (Instant, T) {
    let mut pair = || {
        let moment = Instant::now();
        let value = read();
        (moment.elapsed(), moment, value)
    };
    let mut closest = pair();
    for _ in 0..4 {
        if closest.0 <= AT_ONCE {
            break;
        }
        let next = pair();
        if next.0 < closest.0 {
            closest = next;
        }
    }
    (closest.1, closest.2)
}

/// The Unix time of `instant`, by the present wall clock: a board without a battery starts in 1970 and jumps when
/// it gets the time from the network.
pub fn unix_time(instant: Instant) -> Duration {
    let (now, wall) = at_once(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    match now.checked_duration_since(instant) {
        Some(ago) => wall.saturating_sub(ago),
        None => wall + (instant - now),
    }
}

/// The newest moment, not after `now`, at which the wall clock showed a full second.
pub fn full_second(now: Instant) -> Instant {
    let into = Duration::from_nanos(u64::from(unix_time(now).subsec_nanos()));
    now.checked_sub(into).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_clock_times_share_one_time_line() {
        gst::init().unwrap();
        let clock = Clock::of_process();
        let now = Instant::now();
        assert_eq!(clock.instant(clock.time(now)), now);
        let (before, time, after) = (Instant::now(), clock.as_gst().time(), Instant::now());
        // The two readings of the pair that joins the clocks may be a scheduling pause apart, never more.
        let slack = Duration::from_millis(2);
        let instant = clock.instant(time);
        assert!(instant + slack >= before && instant <= after + slack);
    }

    #[test]
    fn a_pair_of_readings_is_close_even_if_the_thread_is_preempted() {
        let mut readings = 0;
        let (moment, value) = at_once(|| {
            readings += 1;
            if readings <= 2 {
                std::thread::sleep(Duration::from_millis(20));
            }
            Instant::now()
        });
        assert!(value - moment < Duration::from_millis(20), "{:?} apart", value - moment);
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
