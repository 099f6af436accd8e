//! How fast a sound card's clock goes, found from time stamps that waver.
//!
//! A stamp says when the card was asked, less what it had waiting, and a card that counts in bursts has less waiting than
//! it recorded. So a stamp may be late by milliseconds, and is hardly ever early: the earliest of some are the true ones.
//! They steer the speed at which samples are taken by a loop of second order, which ends with no error at a steady drift.

use std::collections::VecDeque;

/// How much sound one measurement is made of, in seconds: some of a card's bursts, none of which lasts longer than 150 ms.
const WINDOW: f64 = 0.25;

/// One measurement is the earliest stamp of its window but so many, if there are ten times as many: a single stamp that
/// is early is a mistake of the driver.
const MISTAKES: usize = 2;

/// The loop takes the median of so many measurements, so that a second in which the board was too busy to ask in time
/// moves nothing.
const MEDIAN: usize = 5;

/// Of an error so much is made up for in each second. At 200 ppm the error rises to 3 ms while the loop learns the drift,
/// which takes it two minutes; a millisecond that stamps are wrong by shifts the pitch by 50 ppm.
const GAIN: f64 = 0.05;

/// Of an error so much goes into the drift in each second: just as much as lets the loop settle without swinging.
const LEARNING: f64 = GAIN * GAIN / 4.0;

/// The fastest that sound is stretched or pressed. Cards are off by up to 500 ppm; people hear 3000.
const MOST: f64 = 0.002;

/// The most by which the speed changes between two measurements.
const SMOOTH: f64 = 20e-6;

/// An error that is no drift: samples are missing. Lip sync asks for less than 40 ms.
const GAP: f64 = 0.03;

/// In so many measurements the error is there before it is believed.
const AGREED: usize = 3;

/// One so large is believed at once, if two stamps in a row say so.
const RIFT: f64 = 0.2;

/// The course of one card's clock.
#[derive(Debug, Default)]
pub struct Course {
    /// The earliest stamps of this window, counted from where they were expected, in seconds.
    earliest: [f64; MISTAKES + 1],
    /// How many stamps this window has.
    stamps: usize,
    /// How much sound this window has, in seconds.
    heard: f64,
    /// The last measurements.
    measured: VecDeque<f64>,
    /// The last stamp, where it was far from what was expected.
    far: Option<f64>,
    /// By how much a sample lasts longer than it should, as far as that is known: 0.0001 is 100 ppm.
    drift: f64,
    /// By how much samples are stretched now: the drift, and what makes up for the error.
    stretch: f64,
}

impl Course {
    /// Takes in a stamp that was `late` by so many seconds, of a buffer that is `long`. Gives what is to be skipped at once
    /// where samples are missing (or are too many: then it is negative).
    pub fn hear(&mut self, late: f64, long: f64) -> Option<f64> {
        let far = Some(late).filter(|late| late.abs() > RIFT);
        if let (Some(before), Some(now)) = (std::mem::replace(&mut self.far, far), far)
            && before.signum() == now.signum()
        {
            return Some(self.skip(if before.abs() < now.abs() { before } else { now }));
        }
        self.note(late);
        self.heard += long;
        if self.heard < WINDOW {
            return None;
        }
        let span = std::mem::take(&mut self.heard);
        let found = self.earliest[(self.stamps / 10).min(MISTAKES)];
        self.stamps = 0;
        if self.measured.len() == MEDIAN {
            self.measured.pop_front();
        }
        self.measured.push_back(found);
        let believed = self.measured.iter().rev().take(AGREED);
        if believed.filter(|error| error.abs() > GAP && error.signum() == found.signum()).count() == AGREED {
            return Some(self.skip(found));
        }
        self.steer(span);
        None
    }

    /// By how much samples are to be stretched: 0.0001 lets each last 100 ppm longer.
    pub fn stretch(&self) -> f64 {
        self.stretch
    }

    /// By how much the card's samples last longer than they should, as far as that is known.
    pub fn drift(&self) -> f64 {
        self.drift
    }

    /// What the last measurements say of the error, in seconds.
    pub fn error(&self) -> f64 {
        let mut sorted = [0.0; MEDIAN];
        let sorted = &mut sorted[..self.measured.len()];
        sorted.iter_mut().zip(&self.measured).for_each(|(place, measured)| *place = *measured);
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// Keeps the earliest stamps of the window in order.
    fn note(&mut self, late: f64) {
        let kept = self.stamps.min(self.earliest.len());
        let place = self.earliest[..kept].partition_point(|earlier| *earlier <= late);
        if place < self.earliest.len() {
            let end = kept.min(self.earliest.len() - 1);
            self.earliest.copy_within(place..end, place + 1);
            self.earliest[place] = late;
        }
        self.stamps += 1;
    }

    fn steer(&mut self, span: f64) {
        let error = self.error();
        self.drift = (self.drift + error * LEARNING * span).clamp(-MOST, MOST);
        let wanted = (self.drift + error * GAIN).clamp(-MOST, MOST);
        self.stretch += (wanted - self.stretch).clamp(-SMOOTH, SMOOTH);
    }

    /// Begins to measure again behind a gap; the drift is still the card's.
    fn skip(&mut self, by: f64) -> f64 {
        *self = Self { drift: self.drift, stretch: self.stretch, ..Self::default() };
        by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What became of a card's sound.
    #[derive(Debug, Default)]
    struct Followed {
        /// The greatest distance between sound and clock in the first ten minutes, and later, in seconds.
        worst: [f64; 2],
        /// The greatest change of speed between two buffers.
        jerk: f64,
        skips: Vec<f64>,
        drift: f64,
        /// Of the last minute: by how much sound lasted longer than it should.
        slope: f64,
    }

    /// An hour of a card that is slow by `ppm`, in buffers of `long` seconds whose stamps are late by `late`, which is told
    /// the buffer's number and a random number from 0 to 1.
    fn followed(ppm: f64, long: f64, late: impl Fn(u64, f64) -> f64) -> Followed {
        let (mut course, mut found) = (Course::default(), Followed::default());
        let (buffers, minute) = ((3600.0 / long) as u64, (60.0 / long) as u64);
        let (mut random, mut before, mut last_minute) = (1_u64, 0.0, 0.0);
        let mut stamp = |buffer: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = (random >> 11) as f64 / (1_u64 << 53) as f64;
            buffer as f64 * long * (1.0 + ppm * 1e-6) + late(buffer, chance)
        };
        let mut line = stamp(0);
        for buffer in 0..buffers {
            let truth = buffer as f64 * long * (1.0 + ppm * 1e-6);
            if let Some(skip) = course.hear(stamp(buffer) - line, long) {
                found.skips.push(skip);
                line += skip;
            }
            let part = usize::from(buffer as f64 * long > 600.0);
            found.worst[part] = found.worst[part].max((truth - line).abs());
            found.jerk = found.jerk.max((course.stretch() - before).abs());
            before = course.stretch();
            if buffer == buffers - minute {
                last_minute = line;
            }
            line += long * (1.0 + course.stretch());
        }
        found.drift = course.drift() * 1e6;
        found.slope = ((line - last_minute) / (minute as f64 * long) - 1.0) * 1e6;
        found
    }

    /// Stamps that are late by up to 3 ms, one in twenty by up to 40, and all of half a second now and then.
    fn busy(buffer: u64, chance: f64) -> f64 {
        if buffer % 9_700 >= 9_650 {
            0.05 + chance * 0.02
        } else if chance > 0.95 {
            (chance - 0.95) * 0.8
        } else {
            chance * 0.003
        }
    }

    #[test]
    fn an_hour_of_drift_is_followed_within_lip_sync_and_without_a_step() {
        for ppm in [-500.0, -200.0, 0.0, 200.0, 500.0] {
            for long in [0.002, 0.01, 0.14] {
                let found = followed(ppm, long, |_, chance| chance * 0.003);
                assert!(found.skips.is_empty(), "{ppm} ppm, {long} s: {found:?}");
                assert!(found.worst[0] < 0.012 && found.worst[1] < 0.004, "{ppm} ppm, {long} s: {found:?}");
                assert!(found.jerk < SMOOTH * 1.001, "{ppm} ppm, {long} s: {found:?}");
                assert!((found.slope - ppm).abs() < 60.0, "{ppm} ppm, {long} s: {found:?}");
            }
        }
    }

    #[test]
    fn the_drift_is_found_to_a_few_millionths() {
        for ppm in [-200.0, 20.0, 200.0] {
            let found = followed(ppm, 0.01, |_, chance| chance * 0.003);
            assert!((found.drift - ppm).abs() < 10.0, "{ppm} ppm: {found:?}");
        }
    }

    #[test]
    fn a_card_that_counts_in_bursts_is_followed() {
        for (ppm, burst) in [(200.0, 4), (-200.0, 4), (200.0, 12), (-200.0, 12)] {
            // Four (twelve) buffers come at once, with the stamps of the last one's end.
            let found = followed(ppm, 0.01, |buffer, _| (burst - 1 - buffer % burst) as f64 * 0.01);
            assert!(found.skips.len() <= 1, "{ppm} ppm, {burst}: {found:?}");
            // Of the longer bursts two stamps in a window are timely, and count as mistakes.
            let most = if burst == 4 { 0.004 } else { 0.012 };
            assert!(found.worst[1] < most, "{ppm} ppm, {burst}: {found:?}");
        }
    }

    #[test]
    fn a_busy_board_moves_nothing() {
        for ppm in [-200.0, 200.0] {
            let found = followed(ppm, 0.01, busy);
            assert!(found.worst[1] < 0.006 && found.jerk < SMOOTH * 1.001, "{ppm} ppm: {found:?}");
            assert!(found.skips.is_empty(), "{ppm} ppm: {found:?}");
        }
    }

    #[test]
    fn a_first_stamp_that_is_late_is_put_right() {
        for (first, skips) in [(0.02, 0), (0.06, 1)] {
            let found = followed(200.0, 0.01, |buffer, chance| if buffer == 0 { first } else { chance * 0.003 });
            assert_eq!(found.skips.len(), skips, "{found:?}");
            assert!(found.worst[1] < 0.004, "{found:?}");
        }
    }

    #[test]
    fn single_stamps_that_are_nonsense_are_passed_over() {
        for nonsense in [-3600.0, -0.1, 0.1, 3600.0] {
            let found =
                followed(200.0, 0.01, |buffer, chance| if buffer % 1000 == 999 { nonsense } else { chance * 0.003 });
            assert!(found.skips.is_empty() && found.worst[1] < 0.005, "{nonsense} s: {found:?}");
        }
    }

    #[test]
    fn missing_samples_are_skipped_once_and_soon() {
        for (gap, within) in [(0.04, 100), (0.15, 100), (0.5, 2), (5.0, 2)] {
            let mut course = Course::default();
            let (mut line, mut skips) = (0.0, vec![]);
            for buffer in 0..2000 {
                let truth = f64::from(buffer) * 0.01 + if buffer < 1000 { 0.0 } else { gap };
                if let Some(skip) = course.hear(truth - line, 0.01) {
                    assert!((1000..1000 + within).contains(&buffer), "{gap} s: skipped at {buffer}");
                    skips.push(skip);
                    line += skip;
                }
                line += 0.01 * (1.0 + course.stretch());
            }
            assert!(skips.len() == 1 && (skips[0] - gap).abs() < 0.001, "{gap} s: {skips:?}");
        }
    }
}
