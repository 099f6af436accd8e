//! Puts packets of sound in step.
//!
//! A sound card's buffers are time-stamped when they are read, which wavers by milliseconds, and by tens of them on a
//! busy board. The samples themselves have no gaps. A browser that sees packets of 20 ms whose time stamps are 19 or
//! 21 ms apart throws away or makes up what seems too much or missing, so the time of a packet is that of the one
//! before and its length, as long as the card's clock bears that out.

use std::time::{Duration, Instant};

/// How long each packet is.
const PACKET: Duration = Duration::from_millis(20);

/// A difference of one packet that is no wavering: samples were lost, or the device was away.
const GAP: f64 = 0.2;

/// How far the mean may be off before time is set anew. Lip sync asks for less than 40 ms; each setting is heard.
const MOST_OFF: f64 = 0.03;

/// Weight of a new packet in the mean: about a second of packets.
const WEIGHT: f64 = 0.02;

/// The time line of one pipeline's packets.
#[derive(Debug, Default)]
pub(super) struct Even {
    last: Option<Instant>,
    /// Mean of how much later packets come than they are placed, in seconds.
    off: f64,
}

impl Even {
    /// When the packet that is stamped `captured` really began.
    pub(super) fn place(&mut self, captured: Instant) -> Instant {
        let Some(expected) = self.last.map(|last| last + PACKET) else {
            self.last = Some(captured);
            return captured;
        };
        let off = seconds_between(expected, captured);
        self.off += (off - self.off) * WEIGHT;
        let placed = if off.abs() > GAP {
            self.off = 0.0;
            captured
        } else if self.off.abs() > MOST_OFF {
            shifted(expected, std::mem::take(&mut self.off))
        } else {
            expected
        };
        self.last = Some(placed);
        placed
    }
}

/// From `from` to `to`; negative if `to` is the earlier one.
fn seconds_between(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(after) => after.as_secs_f64(),
        None => -(from - to).as_secs_f64(),
    }
}

fn shifted(at: Instant, seconds: f64) -> Instant {
    let span = Duration::from_secs_f64(seconds.abs());
    if seconds >= 0.0 { at + span } else { at.checked_sub(span).unwrap_or(at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where packets are placed that are stamped by `stamp`, in milliseconds from the first.
    fn placed(packets: u32, stamp: impl Fn(u32) -> f64) -> Vec<f64> {
        let start = Instant::now() + Duration::from_secs(1);
        let mut even = Even::default();
        let place = |packet| even.place(shifted(start, stamp(packet) / 1000.0));
        let placed: Vec<Instant> = (0..packets).map(place).collect();
        placed.iter().map(|at| seconds_between(placed[0], *at) * 1000.0).collect()
    }

    #[test]
    fn wavering_stamps_become_even_ones() {
        let times = placed(500, |packet| f64::from(packet) * 20.0 + f64::from(packet * 7919 % 31) - 15.0);
        let steps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| (step - 20.0).abs() < 0.001), "{steps:?}");
    }

    #[test]
    fn a_slow_card_is_followed_within_lip_sync() {
        // 200 ppm slow for ten minutes.
        let stamp = |packet: u32| f64::from(packet) * 20.0 * 1.0002;
        let times = placed(30_000, stamp);
        let worst = times.iter().zip(0..).map(|(at, packet)| (stamp(packet) - at).abs()).fold(0.0, f64::max);
        assert!(worst < 40.0, "{worst} ms off");
        let settings = times.windows(2).filter(|pair| (pair[1] - pair[0] - 20.0).abs() > 0.001).count();
        assert!((1..=5).contains(&settings), "{settings} settings");
    }

    #[test]
    fn a_gap_is_a_gap() {
        let times = placed(100, |packet| f64::from(packet) * 20.0 + if packet < 50 { 0.0 } else { 1000.0 });
        assert!((times[50] - times[49] - 1020.0).abs() < 0.001);
        assert!((times[51] - times[50] - 20.0).abs() < 0.001);
    }
}
