//! Evens out the time stamps of sound packets.
//!
//! Packets of sound have no gaps, but GStreamer rounds their time stamps. A browser that gets packets of 20 ms
//! whose stamps are off by a sample drops that sample or makes one up. So the time of a packet is that of the
//! previous one plus its length, unless samples are missing in between.

use std::time::{Duration, Instant};

/// Length of a packet.
const PACKET: Duration = Duration::from_millis(20);

/// Smallest difference that is not due to rounding.
const GAP: Duration = Duration::from_millis(1);

/// The time line of one pipeline's packets.
#[derive(Debug, Default)]
pub struct TimestampSmoother {
    last: Option<Instant>,
}

impl TimestampSmoother {
    /// The true start of the packet that is stamped `captured`. `None` for the first one, which must be left out:
    /// opusenc (1.22) subtracts its look-ahead of 6.5 ms from the stamps of all others, so the second would overlap it.
    pub fn smooth(&mut self, captured: Instant) -> Option<Instant> {
        let last = self.last.replace(captured)?;
        let expected = last + PACKET;
        let off = captured.saturating_duration_since(expected).max(expected.saturating_duration_since(captured));
        if off < GAP {
            self.last = Some(expected);
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of the packets after the first, stamped by `stamp`, in nanoseconds from the start.
    fn placed(packets: u64, stamp: impl Fn(u64) -> u64) -> Vec<u64> {
        let start = Instant::now();
        let mut smoother = TimestampSmoother::default();
        let placed = (0..=packets).filter_map(|packet| smoother.smooth(start + Duration::from_nanos(stamp(packet))));
        placed.map(|at| (at - start).as_nanos() as u64).collect()
    }

    #[test]
    fn rounded_stamps_become_equidistant() {
        let times = placed(500, |packet| packet * 20_000_000 + packet * 7919 % 31);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 20_000_000), "{times:?}");
    }

    #[test]
    fn a_gap_is_preserved() {
        for gap in [1_000_000, 30_000_000, 1_000_000_000] {
            let times = placed(100, |packet| packet * 20_000_000 + if packet <= 50 { 0 } else { gap });
            assert_eq!(times[50] - times[49], 20_000_000 + gap);
            assert_eq!(times[51] - times[50], 20_000_000);
        }
    }

    #[test]
    fn the_first_packet_with_its_wrong_stamp_is_left_out() {
        let times = placed(100, |packet| if packet == 0 { 6_500_000 } else { packet * 20_000_000 });
        assert_eq!(times.len(), 100);
        assert!(times[0] == 20_000_000 && times.windows(2).all(|pair| pair[1] - pair[0] == 20_000_000), "{times:?}");
    }
}
