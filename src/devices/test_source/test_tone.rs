//! The sound without a microphone: a beep in step with the test picture's flash.

use std::f64::consts::TAU;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer_app as gst_app;
use peercam::capture::Error;

use crate::graph::{clock, elements};

use super::live_source::{self, Pace, Waker};
use super::test_picture::FLASH;

/// The sample rate of Opus.
pub const RATE: u32 = 48_000;

/// 1 kHz, a whole number of periods in a beep, so that it begins and ends at zero without a click.
const PITCH: f64 = 1000.0;

/// A quarter of full scale: loud enough to find, quiet enough for a desk.
const LOUDNESS: f64 = 8192.0;

/// Blocks of 10 ms, half of an Opus frame.
const PACE: Pace = Pace { buffers: 100, seconds: 1 };

/// Sound must not have gaps; only after so long a pause (a suspended machine) is the missed part skipped.
const PATIENCE: Duration = Duration::from_millis(500);

/// The sample at `unix_time`.
fn sample(unix_time: Duration) -> i16 {
    let into = Duration::from_nanos(u64::from(unix_time.subsec_nanos()));
    if into < FLASH { (LOUDNESS * (TAU * PITCH * into.as_secs_f64()).sin()) as i16 } else { 0 }
}

/// The tone as a live source with one channel.
pub fn source() -> Result<(gst_app::AppSrc, Waker), Error> {
    let caps = elements::caps(&format!("audio/x-raw,format=S16LE,layout=interleaved,rate={RATE},channels=1"))?;
    let length = RATE * PACE.seconds / PACE.buffers;
    Ok(live_source::source(&caps, PACE, PATIENCE, move |start: Instant| {
        // As from a real microphone, a block comes once its last sample is taken.
        std::thread::sleep((start + Duration::from_millis(10)).saturating_duration_since(Instant::now()));
        let begin = clock::unix_time(start);
        let samples = (0..length).flat_map(|index| {
            let at = begin + Duration::from_nanos(u64::from(index) * 1_000_000_000 / u64::from(RATE));
            sample(at).to_le_bytes()
        });
        let mut buffer = gst::Buffer::from_mut_slice(samples.collect::<Vec<u8>>());
        buffer.get_mut()?.set_duration(gst::ClockTime::from_mseconds(10));
        Some(buffer)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beeps_only_during_the_first_tenth_of_each_second() {
        let second = 1_763_646_463;
        let loudest = |from_ms: u64, to_ms: u64| {
            (from_ms * 48..to_ms * 48)
                .map(|index| sample(Duration::from_secs(second) + Duration::from_nanos(index * 1_000_000_000 / 48_000)))
                .map(i16::unsigned_abs)
                .max()
        };
        assert_eq!(loudest(0, 100), Some(8192));
        assert_eq!(loudest(100, 1000), Some(0));
        assert_eq!(loudest(1000, 1002), Some(8192));
    }
}
