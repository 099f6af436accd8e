//! Plays sound a little faster or slower, by interpolation between samples.
//!
//! Each output sample is the sum of the 32 samples around its position, weighted by a sinc with a Kaiser window.
//! That is exact to -80 dB up to 0.42 of the rate (20 kHz of 48), and changes nothing if a position is that of a
//! sample.

use std::f64::consts::PI;
use std::sync::LazyLock;

/// Number of input samples per output sample.
const TAPS: usize = 32;

/// Number of positions between two samples. The output is off by half of that distance at most: -88 dB at 1 kHz of 48.
const PHASES: usize = 1 << PHASE_BITS;
const PHASE_BITS: u32 = 10;

/// Kaiser window parameter: less lets aliases through, more attenuates high frequencies.
const BETA: f64 = 8.0;

/// Sum of the weights of one position. The weights, and the sum of 32 samples times them, fit their types.
const UNIT: i32 = 1 << UNIT_BITS;
const UNIT_BITS: u32 = 14;

/// Number of fractional bits of a position.
const FRACTION_BITS: u32 = 32;

/// The weights of each position, in order.
static WEIGHTS: LazyLock<Vec<[i16; TAPS]>> =
    LazyLock::new(|| (0..PHASES).map(|place| weights(place as f64 / PHASES as f64)).collect());

/// The weights of the samples around a position that is `behind` the middle one by this fraction.
fn weights(behind: f64) -> [i16; TAPS] {
    let (half, top) = ((TAPS / 2) as f64, bessel(BETA));
    let exact: [f64; TAPS] = std::array::from_fn(|tap| {
        let away = behind - (tap as f64 - (half - 1.0));
        let sinc = if away == 0.0 { 1.0 } else { (PI * away).sin() / (PI * away) };
        sinc * bessel(BETA * (1.0 - (away / half).powi(2)).max(0.0).sqrt()) / top
    });
    let total: f64 = exact.iter().sum();
    let mut rounded = exact.map(|weight| (weight / total * f64::from(UNIT)).round() as i16);
    // So that the volume is the same at each position.
    let missing = UNIT - rounded.iter().map(|weight| i32::from(*weight)).sum::<i32>();
    let middle = if behind < 0.5 { TAPS / 2 - 1 } else { TAPS / 2 };
    rounded[middle] += missing as i16;
    rounded
}

/// The modified Bessel function of the first kind and order zero, by its series.
fn bessel(of: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for step in 1..25 {
        term *= (of / 2.0 / f64::from(step)).powi(2);
        sum += term;
    }
    sum
}

/// Resamples interleaved 16-bit samples.
#[derive(Debug)]
pub struct Resampler {
    /// For each channel, the samples that are still needed.
    channels: Vec<Vec<i16>>,
    /// Of the next output sample: position of the first sample that it needs, counted from the first in `channels`.
    place: u64,
}

impl Resampler {
    /// Number of samples by which the output is ahead of the input: the first buffer yields as many as it has.
    pub const AHEAD: usize = TAPS / 2;

    /// Computes the weights in advance, which takes some milliseconds.
    pub fn prepare() {
        LazyLock::force(&WEIGHTS);
    }

    pub fn new(channels: usize) -> Self {
        Self { channels: vec![vec![0; TAPS - 1]; channels], place: 0 }
    }

    /// Number of samples between the next output sample and the next input sample. Negative while samples are skipped.
    pub fn waiting(&self) -> f64 {
        let place = self.place as f64 / (1_u64 << FRACTION_BITS) as f64;
        self.channels[0].len() as f64 - (TAPS / 2 - 1) as f64 - place
    }

    /// Leaves out so many of the next samples.
    pub fn skip(&mut self, samples: u32) {
        self.place += u64::from(samples) << FRACTION_BITS;
    }

    /// Takes interleaved samples and appends the output to `into`, with each sample longer by `stretch`. Returns
    /// the number of output samples per channel.
    pub fn pass(&mut self, samples: &[u8], stretch: f64, into: &mut Vec<u8>) -> usize {
        let count = self.channels.len();
        for (number, channel) in self.channels.iter_mut().enumerate() {
            let own = samples.chunks_exact(2).skip(number).step_by(count);
            channel.extend(own.map(|sample| i16::from_le_bytes([sample[0], sample[1]])));
        }
        let (step, places) = (((1.0 - stretch) * (1_u64 << FRACTION_BITS) as f64) as u64, WEIGHTS.as_slice());
        let mut made = 0;
        loop {
            // Rounds to the nearest position that has weights.
            let near = self.place + (1 << (FRACTION_BITS - PHASE_BITS - 1));
            let (first, between) = ((near >> FRACTION_BITS) as usize, near >> (FRACTION_BITS - PHASE_BITS));
            let weights = &places[between as usize % PHASES];
            for channel in &self.channels {
                let Some(taken) = channel.get(first..).and_then(|rest| rest.first_chunk()) else {
                    return self.discard(made);
                };
                into.extend_from_slice(&weighted_sum(taken, weights).to_le_bytes());
            }
            self.place += step;
            made += 1;
        }
    }

    /// Drops the samples that are no longer needed.
    fn discard(&mut self, made: usize) -> usize {
        let used = (self.place >> FRACTION_BITS).min(self.channels[0].len() as u64);
        for channel in &mut self.channels {
            channel.drain(..used as usize);
        }
        self.place -= used << FRACTION_BITS;
        made
    }
}

// Unrolled by hand: a debug build, such as the virtual board's, would take three times as long to count and to
// check the bounds.
fn weighted_sum(samples: &[i16; TAPS], weights: &[i16; TAPS]) -> i16 {
    macro_rules! sum_of {
        ($($tap:literal)*) => { UNIT / 2 $(+ samples[$tap] as i32 * weights[$tap] as i32)* };
    }
    let sum = sum_of!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    (sum >> UNIT_BITS).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output for a sine with so many periods per sample, in buffers of odd lengths.
    fn played(periods: f64, count: usize, stretch: f64) -> Vec<f64> {
        let mut resampler = Resampler::new(2);
        let mut out = vec![];
        let (mut sample, mut random) = (0, 1_usize);
        while sample < count {
            random = random * 1_103_515_245 % (1 << 31) + 12_345;
            let frames = (sample..sample + random % 700).flat_map(|sample| {
                let left = (8192.0 * (2.0 * PI * periods * sample as f64).sin()).round() as i16;
                [left.to_le_bytes(), (-left).to_le_bytes()].concat()
            });
            let frames: Vec<u8> = frames.collect();
            resampler.pass(&frames, stretch, &mut out);
            sample += frames.len() / 4;
        }
        let sides: Vec<[i16; 2]> = out
            .chunks_exact(4)
            .map(|frame| [i16::from_le_bytes([frame[0], frame[1]]), i16::from_le_bytes([frame[2], frame[3]])])
            .collect();
        assert!(sides.iter().all(|[left, right]| (i32::from(*left) + i32::from(*right)).abs() <= 1));
        sides.iter().map(|[left, _]| f64::from(*left)).collect()
    }

    #[test]
    fn without_stretching_no_bit_changes() {
        let out = played(0.01, 48_000, 0.0);
        assert!(out[..Resampler::AHEAD].iter().all(|sample| *sample == 0.0));
        for (sample, found) in out[Resampler::AHEAD..].iter().enumerate() {
            assert_eq!(*found, (8192.0 * (2.0 * PI * 0.01 * sample as f64).sin()).round());
        }
    }

    #[test]
    fn a_stretched_sine_is_a_lower_sine_without_distortion() {
        // As fractions of the rate: 1 kHz of 48, 1 kHz of 16, 10 kHz of 48; with the most distortion and noise, in
        // decibels.
        for (periods, most) in [(1.0 / 48.0, -75.0), (1.0 / 16.0, -70.0), (10.0 / 48.0, -62.0)] {
            for stretch in [0.0002, -0.0002, 0.002] {
                let out = played(periods, 96_000, stretch);
                let made = 96_000.0 / (1.0 - stretch);
                assert!((out.len() as f64 - made).abs() < 1000.0, "{} of {made} samples", out.len());
                let step = 2.0 * PI * periods * (1.0 - stretch);
                let angle = |place: usize| step * place as f64 - 2.0 * PI * periods * Resampler::AHEAD as f64;
                let rest = out.iter().enumerate().skip(100).map(|(place, found)| found - 8192.0 * angle(place).sin());
                let rest = rest.map(|off| off * off).sum::<f64>() / (out.len() - 100) as f64;
                let decibels = 10.0 * (rest / (8192.0 * 8192.0 / 2.0)).log10();
                assert!(decibels < most, "{periods} periods, stretched by {stretch}: {decibels:.1} dB");
            }
        }
    }

    #[test]
    fn the_loudest_sound_is_clipped_and_does_not_wrap() {
        let mut resampler = Resampler::new(1);
        let mut out = vec![];
        // Steps between the extremes overshoot.
        let square: Vec<u8> =
            (0..4800).flat_map(|sample| if sample / 24 % 2 == 0 { i16::MIN } else { i16::MAX }.to_le_bytes()).collect();
        resampler.pass(&square, 0.002, &mut out);
        let out: Vec<i16> = out.chunks_exact(2).map(|sample| i16::from_le_bytes([sample[0], sample[1]])).collect();
        let turns = out[100..].windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
        assert!((190..=200).contains(&turns), "the square changes its sign {turns} times");
    }

    #[test]
    fn samples_are_skipped_across_buffers() {
        let mut resampler = Resampler::new(1);
        let count: Vec<u8> = (0..480_i16).flat_map(|sample| (sample * 10).to_le_bytes()).collect();
        let mut out = vec![];
        assert_eq!(resampler.pass(&count, 0.0, &mut out), 480);
        resampler.skip(600);
        assert_eq!(resampler.waiting(), 16.0 - 600.0);
        assert_eq!(resampler.pass(&count, 0.0, &mut out), 0);
        assert_eq!(resampler.pass(&count, 0.0, &mut out), 360);
        assert_eq!(resampler.waiting(), 16.0);
        assert_eq!(out.len(), 2 * 840);
    }
}
