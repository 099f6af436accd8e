//! Keeps a sound card's samples in step with the clock.
//!
//! A card counts its samples by a quartz of its own, which is off from the system's clock by up to some hundred
//! ppm: at 200 ppm sound and picture are a second apart after 83 minutes. This module resamples the sound by just
//! that ratio, as it comes from the card and before anything counts its samples. From here on a sample's time is
//! that of the first sample plus the number of samples since. If samples are missing, or are too many, that time
//! steps once, and the buffer is flagged.

mod estimator;
mod resampler;

use std::sync::{Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;

use crate::graph::elements::filter;

use estimator::DriftEstimator;
use resampler::Resampler;

/// The sample format that is processed, which is the encoder's.
const FORMAT: &str = "audio/x-raw,format=S16LE,layout=interleaved";

/// Interval of log lines about the drift, in seconds of sound.
const LOG_INTERVAL: f64 = 60.0;

/// Surplus samples are left out, up to so many seconds. An even earlier stamp belongs to another time line.
const MAX_LEFT_OUT: f64 = 1.0;

/// A stamp that is further from the present is not of the pipeline's clock. No card buffers so much sound.
const OTHER_CLOCK: gst::ClockTime = gst::ClockTime::from_seconds(3600);

/// An element whose output is in step with the pipeline's clock. It follows the card and the sample conversion, but
/// nothing that keeps time itself.
pub fn clock_follower() -> Result<gst::Element, Error> {
    let element = filter(FORMAT)?;
    let pad = element.static_pad("src").ok_or_else(|| Error::broken("no pad to put sound in step"))?;
    Resampler::prepare();
    // Only one thread locks it: the pad's streaming thread.
    let followed = Mutex::new(None);
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let stamp = stamp(pad, buffer);
                if followed.is_none() {
                    *followed = pad.current_caps().zip(stamp).and_then(|(caps, start)| ClockFollower::of(&caps, start));
                }
                match followed.as_mut().map(|follower| follower.follow(buffer, stamp)) {
                    Some(Some(followed)) => *buffer = followed,
                    // All of it is left out.
                    Some(None) => return gst::PadProbeReturn::Drop,
                    // Without a stamp there is no time line to follow.
                    None => {}
                }
            }
            // Another format than before, or another time line.
            Some(gst::PadProbeData::Event(event))
                if matches!(event.type_(), gst::EventType::Caps | gst::EventType::Segment) =>
            {
                *followed = None;
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    Ok(element)
}

/// When the first sample of `buffer` was taken, according to its stamp.
///
/// ALSA's plugins outside the kernel (alsa-lib's ioplug) stamp by the wall clock, which alsasrc (1.22) treats as
/// the pipeline's. The arrival of the buffer is then the best that is known.
fn stamp(pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
    // Before a pipeline plays, it has no base time.
    let element = pad.parent_element().filter(|element| element.base_time().is_some_and(|base| !base.is_zero()));
    let now = element.and_then(|element| element.current_running_time());
    let is_of_another_clock = |stamp: gst::ClockTime| now.is_some_and(|now| stamp.absdiff(now) > OTHER_CLOCK);
    let came = || now.map(|now| now.saturating_sub(buffer.duration().unwrap_or_default()));
    buffer.pts().filter(|stamp| !is_of_another_clock(*stamp)).or_else(came)
}

/// The time line of one card's samples.
#[derive(Debug)]
struct ClockFollower {
    rate: u32,
    channels: usize,
    estimator: DriftEstimator,
    resampler: Resampler,
    /// When sample 0 of `samples` was taken.
    start: gst::ClockTime,
    /// Number of samples per channel that came out since.
    samples: u64,
    /// Whether the next buffer starts a new time line.
    is_new: bool,
    /// Seconds of sound since the drift was last logged.
    since_log: f64,
}

impl ClockFollower {
    /// For sound with these caps that begins at `start`.
    fn of(caps: &gst::CapsRef, start: gst::ClockTime) -> Option<Self> {
        let found = caps.structure(0)?;
        let (rate, channels) = (found.get::<i32>("rate").ok()?, found.get::<i32>("channels").ok()?);
        let (rate, channels) = (u32::try_from(rate).ok()?, usize::try_from(channels).ok()?);
        (rate > 0 && channels > 0).then(|| {
            let ahead = span(Resampler::AHEAD as u64, rate);
            Self {
                rate,
                channels,
                estimator: DriftEstimator::default(),
                resampler: Resampler::new(channels),
                start: start.saturating_sub(ahead),
                samples: 0,
                is_new: true,
                since_log: 0.0,
            }
        })
    }

    /// The same sound in step with the clock; `None` if all of it is to be left out. `stamp` is the time when it
    /// was taken.
    fn follow(&mut self, buffer: &gst::BufferRef, stamp: Option<gst::ClockTime>) -> Option<gst::Buffer> {
        let map = buffer.map_readable().ok()?;
        let long = (map.len() / 2 / self.channels) as f64 / f64::from(self.rate);
        if let Some(stamp) = stamp {
            let late = self.late(stamp);
            if let Some(skip) = self.estimator.add_stamp(late, long) {
                self.step(skip, stamp);
            }
        }
        self.log_drift(long);
        let mut followed = Vec::with_capacity(map.len() + 8 * self.channels);
        let made = self.resampler.pass(&map, self.estimator.stretch(), &mut followed) as u64;
        if made == 0 {
            return None;
        }
        let (begin, end) = (self.now(), self.start + span(self.samples + made, self.rate));
        self.samples += made;
        let mut followed = gst::Buffer::from_mut_slice(followed);
        let fields = followed.get_mut()?;
        fields.set_pts(begin);
        fields.set_duration(end - begin);
        if std::mem::take(&mut self.is_new) {
            fields.set_flags(gst::BufferFlags::DISCONT);
        }
        Some(followed)
    }

    /// When the next sample that comes out was taken.
    fn now(&self) -> gst::ClockTime {
        self.start + span(self.samples, self.rate)
    }

    /// By how many seconds `stamp`, of the next sample that comes in, is later than expected.
    fn late(&self, stamp: gst::ClockTime) -> f64 {
        let expected = self.now().nseconds() as f64 / 1e9 + self.resampler.waiting() / f64::from(self.rate);
        stamp.nseconds() as f64 / 1e9 - expected
    }

    /// Handles that `skip` seconds of sound are missing before the buffer with this stamp, or if negative, are too
    /// many.
    fn step(&mut self, skip: f64, stamp: gst::ClockTime) {
        // Rare, and only logged at `debug`.
        tracing::debug!(missing_ms = (skip * 1e3).round(), "the sound card's samples do not match its time stamps");
        if (-MAX_LEFT_OUT..0.0).contains(&skip) {
            // Time does not go back: viewers have that part already.
            return self.resampler.skip((-skip * f64::from(self.rate)) as u32);
        }
        let waiting = self.resampler.waiting() / f64::from(self.rate);
        self.start = if skip > 0.0 { self.now() + seconds(skip) } else { stamp.saturating_sub(seconds(waiting)) };
        self.samples = 0;
        self.is_new = true;
    }

    /// Logs the drift once a minute.
    fn log_drift(&mut self, long: f64) {
        self.since_log += long;
        if self.since_log >= LOG_INTERVAL {
            self.since_log = 0.0;
            let (drift, error) = (self.estimator.drift() * 1e6, self.estimator.error() * 1e3);
            tracing::debug!(
                drift_ppm = drift.round(),
                error_ms = (error * 100.0).round() / 100.0,
                "the sound card's clock"
            );
        }
    }
}

fn seconds(seconds: f64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds((seconds.max(0.0) * 1e9) as u64)
}

/// Duration of so many samples.
fn span(samples: u64, rate: u32) -> gst::ClockTime {
    let nanos = u128::from(samples) * 1_000_000_000 / u128::from(rate);
    gst::ClockTime::from_nseconds(nanos as u64)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;
    use std::thread;

    use gstreamer_app as gst_app;

    use super::*;

    /// A card whose samples each last longer by `drift`, and whose stamps jitter.
    struct Card {
        rate: u32,
        channels: usize,
        drift: f64,
        /// Frequency of the sine that it records, in Hz.
        pitch: f64,
        /// From this sample on, so many seconds are missing.
        gap: (u64, f64),
        samples: u64,
        random: u64,
    }

    impl Card {
        fn new(rate: u32, channels: usize, drift: f64) -> Self {
            Self { rate, channels, drift, pitch: 1000.0, gap: (u64::MAX, 0.0), samples: 0, random: 1 }
        }

        /// When a sample is taken.
        fn at(&self, sample: u64) -> f64 {
            let missing = if sample >= self.gap.0 { self.gap.1 } else { 0.0 };
            100.0 + sample as f64 / f64::from(self.rate) * (1.0 + self.drift) + missing
        }

        /// The next 10 ms.
        fn buffer(&mut self) -> gst::Buffer {
            let (first, count) = (self.samples, u64::from(self.rate / 100));
            let frames = (first..first + count).flat_map(|sample| {
                let heard = (8192.0 * (TAU * self.pitch * self.at(sample)).sin()).round() as i16;
                vec![heard.to_le_bytes(); self.channels].concat()
            });
            let mut buffer = gst::Buffer::from_mut_slice(frames.collect::<Vec<u8>>());
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let late = (self.random >> 40) as f64 / f64::from(1 << 24) * 0.003;
            buffer.get_mut().unwrap().set_pts(seconds(self.at(first) + late));
            self.samples += count;
            buffer
        }

        fn caps(&self) -> gst::Caps {
            gst::Caps::builder("audio/x-raw")
                .field("format", "S16LE")
                .field("layout", "interleaved")
                .field("rate", self.rate as i32)
                .field("channels", self.channels as i32)
                .build()
        }
    }

    /// The first channel of the output for so many seconds of sound: time and value of each sample.
    fn followed(card: &mut Card, long: u64) -> Vec<(f64, f64)> {
        gst::init().unwrap();
        let mut follower = None;
        let mut heard = vec![];
        for _ in 0..long * 100 {
            let buffer = card.buffer();
            let follower =
                follower.get_or_insert_with(|| ClockFollower::of(&card.caps(), buffer.pts().unwrap()).unwrap());
            let Some(followed) = follower.follow(&buffer, buffer.pts()) else { continue };
            let begin = followed.pts().unwrap().nseconds() as f64 / 1e9;
            for (place, frame) in followed.map_readable().unwrap().chunks_exact(2 * card.channels).enumerate() {
                let time = begin + place as f64 / f64::from(card.rate);
                heard.push((time, f64::from(i16::from_le_bytes([frame[0], frame[1]]))));
            }
        }
        heard
    }

    #[test]
    fn sound_of_a_drifting_card_is_stamped_with_its_capture_time() {
        for drift in [0.0002, -0.0002] {
            let mut card = Card { pitch: 10.0, ..Card::new(16_000, 1, drift) };
            let heard = followed(&mut card, 240);
            // The phase of a sine gives the time, to half a period.
            for period in heard.chunks_exact(1600) {
                let part = |turn: fn(f64) -> f64| -> f64 {
                    period.iter().map(|(time, heard)| heard * turn(TAU * 10.0 * time)).sum()
                };
                let off = part(f64::cos).atan2(part(f64::sin)) / TAU / 10.0;
                assert!(off.abs() < 0.006, "at {} s it is off by {off} s", period[0].0 - 100.0);
            }
            let (last, _) = heard.last().unwrap();
            // Without following, 48 ms would be lost.
            assert!((last - card.at(card.samples)).abs() < 0.006, "{drift}: {last} s");
        }
    }

    #[test]
    fn no_step_is_heard_in_the_sound_of_a_drifting_card() {
        for (rate, channels, drift) in
            [(48_000, 1, 0.0002), (44_100, 2, -0.0002), (16_000, 1, 0.0005), (48_000, 1, 0.002)]
        {
            let mut card = Card::new(rate, channels, drift);
            let heard = followed(&mut card, 40);
            // In a sine each sample follows from its neighbours; a step of a hundredth of a period would be 500 off.
            let turn = 2.0 * (TAU * card.pitch / f64::from(rate)).cos();
            let steps = heard[100..].windows(3).map(|near| (near[0].1 + near[2].1 - turn * near[1].1).abs());
            let worst = steps.fold(0.0, f64::max);
            assert!(worst < 16.0, "{rate} Hz, drift {drift}: {worst} of 8192");
            let gaps = heard.windows(2).filter(|pair| (pair[1].0 - pair[0].0 - 1.0 / f64::from(rate)).abs() > 1e-6);
            assert_eq!(gaps.count(), usize::from(drift > 0.001), "{rate} Hz, drift {drift}");
        }
    }

    /// The stamps of the packets that the encoder makes of so many seconds of the card's sound, without the first,
    /// whose stamp is wrong.
    fn packets(mut card: Card, long: u64) -> (Vec<u64>, Card) {
        gst::init().unwrap();
        let element = |name: &str| gst::ElementFactory::make(name).build().unwrap();
        let source = gst_app::AppSrc::builder().caps(&card.caps()).format(gst::Format::Time).build();
        source.set_property("block", true);
        let sink = gst_app::AppSink::builder().sync(false).build();
        let pipeline = gst::Pipeline::new();
        let opus = element("opusenc");
        opus.set_property_from_str("frame-size", "20");
        let elements = [
            source.clone().upcast(),
            element("audioconvert"),
            clock_follower().unwrap(),
            element("audioresample"),
            filter("audio/x-raw,rate=48000,channels=1").unwrap(),
            opus,
            sink.clone().upcast(),
        ];
        pipeline.add_many(&elements).unwrap();
        gst::Element::link_many(&elements).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let pushing = thread::spawn(move || {
            for _ in 0..long * 100 {
                source.push_buffer(card.buffer()).unwrap();
            }
            source.end_of_stream().unwrap();
            card
        });
        let mut stamps = vec![];
        while let Ok(sample) = sink.pull_sample() {
            stamps.push(sample.buffer().unwrap().pts().unwrap().nseconds());
        }
        pipeline.set_state(gst::State::Null).unwrap();
        (stamps.split_off(1), pushing.join().unwrap())
    }

    /// How far each packet's stamp is from the expected one, in milliseconds, if not close to zero.
    fn jumps(stamps: &[u64]) -> Vec<f64> {
        let off = stamps.windows(2).map(|pair| (pair[1] as f64 - pair[0] as f64) / 1e6 - 20.0);
        off.filter(|off| off.abs() > 0.01).collect()
    }

    #[test]
    fn packets_stay_in_step_with_the_clock_at_each_rate_of_the_card() {
        for (rate, channels, drift) in [(16_000, 1, 0.0002), (44_100, 2, -0.0002), (48_000, 1, 0.0002)] {
            let (stamps, card) = packets(Card::new(rate, channels, drift), 300);
            assert!(jumps(&stamps).is_empty(), "{rate} Hz: {:?}", jumps(&stamps));
            let begin = card.at(0);
            let (sent, recorded) = (stamps.len() as f64 * 0.02, card.at(card.samples) - begin);
            // Without following, 60 ms would be lost. The last packet is padded.
            assert!((sent - recorded).abs() < 0.026, "{rate} Hz: {sent} s of {recorded}");
            let first = stamps[0] as f64 / 1e9 - begin - 0.02;
            assert!(first.abs() < 0.01, "{rate} Hz: the first packet is off by {first} s");
        }
    }

    #[test]
    fn a_gap_in_the_samples_is_a_gap_in_the_packets() {
        for (rate, gap) in [(16_000, 1.0), (44_100, 0.05), (48_000, 5.0)] {
            let card = Card { gap: (u64::from(rate) * 10, gap), ..Card::new(rate, 1, 0.0002) };
            let (stamps, _) = packets(card, 20);
            let jumps = jumps(&stamps);
            let whole: f64 = jumps.iter().sum();
            // The resampler restarts after it, with about the length of its filter.
            assert!((whole - gap * 1e3).abs() < 4.0 && jumps.len() <= 2, "{rate} Hz, {gap} s: {jumps:?}");
        }
    }
}
