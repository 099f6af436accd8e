//! Sound that is played a little faster or slower: what lies between two samples is interpolated.
//!
//! Each sample that comes out is the sum of the 32 around its place, weighed by a sinc under a Kaiser window. That is exact
//! to -80 dB up to 0.42 of the rate (20 kHz of 48), and changes nothing at all where a place is that of a sample.

use std::f64::consts::PI;
use std::sync::LazyLock;

/// Samples that one is made of.
const TAPS: usize = 32;

/// How many places between two samples are told apart. What comes out is off by half of that at most: -88 dB at 1 kHz
/// of 48.
const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 10;

/// The window: less lets aliases through, more takes from the high notes.
const BETA: f64 = 8.0;

/// What the weights of one place add up to. They and the sum of 32 samples times them fit their types.
const UNIT: i32 = 1 << UNIT_BITS;
const UNIT_BITS: u32 = 14;

/// The bits of a place behind the point: what is between two samples.
const POINT: u32 = 32;

/// The weights of each place, in order.
static WEIGHTS: LazyLock<Vec<[i16; TAPS]>> =
    LazyLock::new(|| (0..PLACES).map(|place| weights(place as f64 / PLACES as f64)).collect());

/// The weights of the samples around a place that is `behind` the middle one by so much.
fn weights(behind: f64) -> [i16; TAPS] {
    let (half, top) = ((TAPS / 2) as f64, bessel(BETA));
    let exact: [f64; TAPS] = std::array::from_fn(|tap| {
        let away = behind - (tap as f64 - (half - 1.0));
        let sinc = if away == 0.0 { 1.0 } else { (PI * away).sin() / (PI * away) };
        sinc * bessel(BETA * (1.0 - (away / half).powi(2)).max(0.0).sqrt()) / top
    });
    let total: f64 = exact.iter().sum();
    let mut rounded = exact.map(|weight| (weight / total * f64::from(UNIT)).round() as i16);
    // So that loudness does not waver from place to place.
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

/// Interleaved samples of 16 bits in, the same at another speed out.
#[derive(Debug)]
pub struct Resampler {
    /// Of each channel the samples that are still needed.
    channels: Vec<Vec<i16>>,
    /// Of the next sample that comes out: the first that it is made of, counted from the first in `channels`.
    place: u64,
}

impl Resampler {
    /// By how many samples what comes out lies before what came in: with the first buffer as many come out as go in.
    pub const AHEAD: usize = TAPS / 2;

    /// Does beforehand what takes some milliseconds.
    pub fn prepare() {
        LazyLock::force(&WEIGHTS);
    }

    pub fn new(channels: usize) -> Self {
        Self { channels: vec![vec![0; TAPS - 1]; channels], place: 0 }
    }

    /// How many samples lie between the next that comes out and the next that goes in. Negative where some are skipped.
    pub fn waiting(&self) -> f64 {
        let place = self.place as f64 / (1_u64 << POINT) as f64;
        self.channels[0].len() as f64 - (TAPS / 2 - 1) as f64 - place
    }

    /// Leaves out so many samples of those that come next.
    pub fn skip(&mut self, samples: u32) {
        self.place += u64::from(samples) << POINT;
    }

    /// Takes in interleaved samples and adds to `into` what comes out where each lasts longer by `stretch`. Returns how
    /// many samples of each channel came out.
    pub fn pass(&mut self, samples: &[u8], stretch: f64, into: &mut Vec<u8>) -> usize {
        let count = self.channels.len();
        for (number, channel) in self.channels.iter_mut().enumerate() {
            let own = samples.chunks_exact(2).skip(number).step_by(count);
            channel.extend(own.map(|sample| i16::from_le_bytes([sample[0], sample[1]])));
        }
        let (step, places) = (((1.0 - stretch) * (1_u64 << POINT) as f64) as u64, WEIGHTS.as_slice());
        let mut made = 0;
        loop {
            // To the nearest place that there are weights for.
            let near = self.place + (1 << (POINT - PLACE_BITS - 1));
            let (first, between) = ((near >> POINT) as usize, near >> (POINT - PLACE_BITS));
            let weights = &places[between as usize % PLACES];
            for channel in &self.channels {
                let Some(taken) = channel.get(first..).and_then(|rest| rest.first_chunk()) else {
                    return self.forget(made);
                };
                into.extend_from_slice(&weighed(taken, weights).to_le_bytes());
            }
            self.place += step;
            made += 1;
        }
    }

    /// Drops the samples that are not needed any more.
    fn forget(&mut self, made: usize) -> usize {
        let used = (self.place >> POINT).min(self.channels[0].len() as u64);
        for channel in &mut self.channels {
            channel.drain(..used as usize);
        }
        self.place -= used << POINT;
        made
    }
}

// Each tap by its number, not in a loop: a debug build, such as the virtual board's, would take three times as long to
// count and to check the bounds.
fn weighed(samples: &[i16; TAPS], weights: &[i16; TAPS]) -> i16 {
    macro_rules! sum_of {
        ($($tap:literal)*) => { UNIT / 2 $(+ samples[$tap] as i32 * weights[$tap] as i32)* };
    }
    let sum = sum_of!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    (sum >> UNIT_BITS).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out where a sine of so many periods in a sample goes in, in buffers of odd lengths.
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
    fn at_the_card_s_own_speed_not_a_bit_changes() {
        let out = played(0.01, 48_000, 0.0);
        assert!(out[..Resampler::AHEAD].iter().all(|sample| *sample == 0.0));
        for (sample, found) in out[Resampler::AHEAD..].iter().enumerate() {
            assert_eq!(*found, (8192.0 * (2.0 * PI * 0.01 * sample as f64).sin()).round());
        }
    }

    #[test]
    fn a_stretched_sine_is_a_lower_sine_and_nothing_else() {
        // In parts of the rate: 1 kHz of 48, 1 kHz of 16, 10 kHz of 48. What else there may be, in decibels.
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
    fn the_loudest_sound_is_not_wrapped() {
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
    fn what_is_left_out_is_left_out_across_buffers() {
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
