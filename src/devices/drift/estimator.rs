//! Estimates the speed of a sound card's clock from time stamps with jitter.
//!
//! A stamp is the time of the read, less the samples that the card had buffered. A card that counts in bursts
//! reports less buffered sound than it recorded. So a stamp may be late by milliseconds, but is hardly ever early:
//! the earliest of several are the true ones. They control the resampling ratio through a loop of second order,
//! which settles without error at a steady drift.

use std::collections::VecDeque;

/// Seconds of sound per measurement: several bursts of a card, none of which lasts longer than 150 ms.
const WINDOW: f64 = 0.25;

/// A measurement is the earliest stamp of its window after leaving out this many, if there are ten times as many: a
/// single early stamp is a mistake of the driver.
const OUTLIERS: usize = 2;

/// The loop uses the median of so many measurements, so that a second in which the board was too busy to read in
/// time has no effect.
const MEDIAN: usize = 5;

/// Fraction of an error that is corrected per second. At 200 ppm the error rises to 3 ms while the loop learns the
/// drift, which takes it two minutes; stamps that are wrong by a millisecond shift the pitch by 50 ppm.
const PHASE_GAIN: f64 = 0.05;

/// Fraction of an error that is added to the drift per second: just so much that the loop settles without oscillation.
const DRIFT_GAIN: f64 = PHASE_GAIN * PHASE_GAIN / 4.0;

/// Greatest change of speed. Cards are off by up to 500 ppm; 3000 are audible.
const MAX_STRETCH: f64 = 0.002;

/// Greatest change of the ratio between two measurements.
const MAX_STRETCH_STEP: f64 = 20e-6;

/// An error too large for drift: samples are missing. Lip sync requires less than 40 ms.
const GAP: f64 = 0.03;

/// Number of consecutive measurements with such an error before it is accepted.
const CONFIRMATIONS: usize = 3;

/// An error so large is accepted at once, if two stamps in a row agree. After a pause in which nobody read the
/// card, the waiting sound comes all at once, and each stamp is late by one buffer less than the one before:
/// nothing is missing.
const LARGE_GAP: f64 = 0.2;

/// The estimate for one card's clock.
#[derive(Debug, Default)]
pub struct DriftEstimator {
    /// The earliest stamps of this window, in seconds relative to the expected times.
    earliest: [f64; OUTLIERS + 1],
    /// Number of stamps in this window.
    stamps: usize,
    /// Seconds of sound in this window.
    window_length: f64,
    /// The last measurements.
    measured: VecDeque<f64>,
    /// The last stamp, if it was far from the expected time.
    far: Option<f64>,
    /// How much longer a sample lasts than it should, as far as is known: 0.0001 is 100 ppm.
    drift: f64,
    /// How much samples are stretched now: the drift, plus the correction of the error.
    stretch: f64,
}

impl DriftEstimator {
    /// Takes a stamp that was `late` by so many seconds, of a buffer that is `long` seconds long. Returns the
    /// seconds to skip at once if samples are missing (negative if there are too many).
    pub fn add_stamp(&mut self, late: f64, long: f64) -> Option<f64> {
        let far = Some(late).filter(|late| late.abs() > LARGE_GAP);
        if let (Some(before), Some(now)) = (std::mem::replace(&mut self.far, far), far)
            && before.signum() == now.signum()
            && before - now < long / 2.0
        {
            return Some(self.skip(if before.abs() < now.abs() { before } else { now }));
        }
        self.insert(late);
        self.window_length += long;
        if self.window_length < WINDOW {
            return None;
        }
        let span = std::mem::take(&mut self.window_length);
        let found = self.earliest[(self.stamps / 10).min(OUTLIERS)];
        self.stamps = 0;
        if self.measured.len() == MEDIAN {
            self.measured.pop_front();
        }
        self.measured.push_back(found);
        let believed = self.measured.iter().rev().take(CONFIRMATIONS);
        if believed.filter(|error| error.abs() > GAP && error.signum() == found.signum()).count() == CONFIRMATIONS {
            return Some(self.skip(found));
        }
        self.update_stretch(span);
        None
    }

    /// How much to stretch samples: 0.0001 makes each last 100 ppm longer.
    pub fn stretch(&self) -> f64 {
        self.stretch
    }

    /// How much longer the card's samples last than they should, as far as is known.
    pub fn drift(&self) -> f64 {
        self.drift
    }

    /// The error according to the last measurements, in seconds.
    pub fn error(&self) -> f64 {
        let mut sorted = [0.0; MEDIAN];
        let sorted = &mut sorted[..self.measured.len()];
        sorted.iter_mut().zip(&self.measured).for_each(|(place, measured)| *place = *measured);
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// Keeps the earliest stamps of the window in order.
    fn insert(&mut self, late: f64) {
        let kept = self.stamps.min(self.earliest.len());
        let place = self.earliest[..kept].partition_point(|earlier| *earlier <= late);
        if place < self.earliest.len() {
            let end = kept.min(self.earliest.len() - 1);
            self.earliest.copy_within(place..end, place + 1);
            self.earliest[place] = late;
        }
        self.stamps += 1;
    }

    fn update_stretch(&mut self, span: f64) {
        let error = self.error();
        self.drift = (self.drift + error * DRIFT_GAIN * span).clamp(-MAX_STRETCH, MAX_STRETCH);
        let wanted = (self.drift + error * PHASE_GAIN).clamp(-MAX_STRETCH, MAX_STRETCH);
        self.stretch += (wanted - self.stretch).clamp(-MAX_STRETCH_STEP, MAX_STRETCH_STEP);
    }

    /// Starts to measure again after a gap; the drift is still the card's.
    fn skip(&mut self, by: f64) -> f64 {
        *self = Self { drift: self.drift, stretch: self.stretch, ..Self::default() };
        by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Result of following a card's sound.
    #[derive(Debug, Default)]
    struct Followed {
        /// The greatest distance between sound and clock in the first ten minutes, and later, in seconds.
        worst: [f64; 2],
        /// The greatest change of the ratio between two buffers.
        jerk: f64,
        skips: Vec<f64>,
        drift: f64,
        /// Within the last minute: how much longer sound lasted than it should.
        slope: f64,
    }

    /// An hour of a card that is slow by `ppm`, in buffers of `long` seconds whose stamps are late by `late`, which
    /// gets the buffer's number and a random number from 0 to 1.
    fn followed(ppm: f64, long: f64, late: impl Fn(u64, f64) -> f64) -> Followed {
        let (mut estimator, mut found) = (DriftEstimator::default(), Followed::default());
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
            if let Some(skip) = estimator.add_stamp(stamp(buffer) - line, long) {
                found.skips.push(skip);
                line += skip;
            }
            let part = usize::from(buffer as f64 * long > 600.0);
            found.worst[part] = found.worst[part].max((truth - line).abs());
            found.jerk = found.jerk.max((estimator.stretch() - before).abs());
            before = estimator.stretch();
            if buffer == buffers - minute {
                last_minute = line;
            }
            line += long * (1.0 + estimator.stretch());
        }
        found.drift = estimator.drift() * 1e6;
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
                assert!(found.jerk < MAX_STRETCH_STEP * 1.001, "{ppm} ppm, {long} s: {found:?}");
                assert!((found.slope - ppm).abs() < 60.0, "{ppm} ppm, {long} s: {found:?}");
            }
        }
    }

    #[test]
    fn the_drift_is_estimated_to_a_few_ppm() {
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
            // With the longer bursts two stamps in a window are timely, and count as mistakes.
            let most = if burst == 4 { 0.004 } else { 0.012 };
            assert!(found.worst[1] < most, "{ppm} ppm, {burst}: {found:?}");
        }
    }

    #[test]
    fn a_busy_board_moves_nothing() {
        for ppm in [-200.0, 200.0] {
            let found = followed(ppm, 0.01, busy);
            assert!(found.worst[1] < 0.006 && found.jerk < MAX_STRETCH_STEP * 1.001, "{ppm} ppm: {found:?}");
            assert!(found.skips.is_empty(), "{ppm} ppm: {found:?}");
        }
    }

    #[test]
    fn sound_that_was_read_late_does_not_count_as_missing() {
        for (ppm, long) in [(-200.0, 0.01), (200.0, 0.01), (200.0, 0.02)] {
            // Once a minute nobody reads for 0.29 s, for the first time after half a minute.
            let minute = (60.0 / long) as u64;
            let found = followed(ppm, long, |buffer, chance| {
                let waited = 0.29 - ((buffer + minute / 2) % minute) as f64 * long;
                waited.max(0.0) + chance * 0.003
            });
            assert!(found.skips.is_empty(), "{ppm} ppm, {long} s: {:?}", found.skips);
            assert!(found.worst[1] < 0.006, "{ppm} ppm, {long} s: {found:?}");
        }
    }

    #[test]
    fn a_late_first_stamp_is_corrected() {
        for (first, skips) in [(0.02, 0), (0.06, 1)] {
            let found = followed(200.0, 0.01, |buffer, chance| if buffer == 0 { first } else { chance * 0.003 });
            assert_eq!(found.skips.len(), skips, "{found:?}");
            assert!(found.worst[1] < 0.004, "{found:?}");
        }
    }

    #[test]
    fn single_implausible_stamps_are_ignored() {
        for nonsense in [-3600.0, -0.1, 0.1, 3600.0] {
            let found =
                followed(200.0, 0.01, |buffer, chance| if buffer % 1000 == 999 { nonsense } else { chance * 0.003 });
            assert!(found.skips.is_empty() && found.worst[1] < 0.005, "{nonsense} s: {found:?}");
        }
    }

    #[test]
    fn missing_samples_are_skipped_once_and_promptly() {
        for (gap, within) in [(0.04, 100), (0.15, 100), (0.5, 2), (5.0, 2)] {
            let mut estimator = DriftEstimator::default();
            let (mut line, mut skips) = (0.0, vec![]);
            for buffer in 0..2000 {
                let truth = f64::from(buffer) * 0.01 + if buffer < 1000 { 0.0 } else { gap };
                if let Some(skip) = estimator.add_stamp(truth - line, 0.01) {
                    assert!((1000..1000 + within).contains(&buffer), "{gap} s: skipped at {buffer}");
                    skips.push(skip);
                    line += skip;
                }
                line += 0.01 * (1.0 + estimator.stretch());
            }
            assert!(skips.len() == 1 && (skips[0] - gap).abs() < 0.001, "{gap} s: {skips:?}");
        }
    }
}
