//! Finds an encoder that works: each has to encode a few pictures before it is used.
//!
//! That an element exists proves little: a kernel may lack the device, a driver may refuse the size, hang, write
//! another profile than requested, or encode something else.

use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use peercam::capture::{Error, PASSTHROUGH};
use peercam::media::{H264Profile, Resolution, h264, time_code};

use crate::codec_trials::{CodecTrials, MAX_HELD, PICTURE_LIMIT, TrialKey, TrialPipeline, WorkingCodec};
use crate::graph::elements::{self, element, filter, parser};
use crate::test_source::test_picture::{self, TestPicture};

use super::{Encoder, EncoderKind, EncodingTask, TABLE};

/// Number of pictures that are encoded before a key frame is requested.
const BEFORE: usize = 4;

/// A requested key frame has to come within so many pictures.
const SOON: usize = 2;

/// profile_idc of baseline and constrained baseline (H.264, annex A.2.1).
const BASELINE: u8 = 66;

/// Decoders that do not use the hardware on trial.
const DECODERS: [&str; 2] = ["avdec_h264", "openh264dec"];

impl CodecTrials {
    /// The encoder for `task`: the named one, or with `auto` the first of the table that works.
    pub fn choose(&mut self, name: &str, task: &EncodingTask) -> Result<(&'static EncoderKind, WorkingCodec), Error> {
        let named = match name {
            "auto" | PASSTHROUGH => None,
            name => Some(EncoderKind::named(name)?),
        };
        let mut tried = Vec::new();
        for kind in TABLE.iter().filter(|kind| named.is_none_or(|named| named == *kind)) {
            match self.verdict(kind, task) {
                Ok(found) => return Ok((kind, found)),
                // A missing encoder of another kind of board is not reported; a missing one that every board can
                // have is.
                Err(_) if named.is_none() && kind.is_hardware && !kind.is_installed() => {}
                Err(why) => tried.push(why),
            }
        }
        self.forget_failures();
        Err(Error::NoEncoder { tried: tried.join("; ") })
    }

    /// The result of trying `kind`, or why it cannot be used.
    pub fn verdict(&mut self, kind: &'static EncoderKind, task: &EncodingTask) -> Result<WorkingCodec, String> {
        if !kind.is_installed() {
            return Err(match kind.is_hardware {
                true => format!("{} is not available (it comes with {})", kind.name, kind.origin),
                false => format!("{} is not installed; install {}", kind.name, kind.origin),
            });
        }
        if let Some(reason) = kind.unsupported_reason(task) {
            return Err(reason);
        }
        let trial = task.trial_key(kind.name);
        // Viewers wait for its picture, and software behaves the same on all boards.
        if !kind.is_hardware && self.is_untested_replacement(&trial) {
            return Ok(WorkingCodec { took: Duration::ZERO, has_key_frames_on_demand: true });
        }
        let (found, is_news) = self.outcome(trial, || encode(kind, *task));
        match &found {
            Ok(WorkingCodec { has_key_frames_on_demand: false, .. }) if is_news => {
                tracing::warn!(encoder = kind.name, "encoder makes no key frames on demand: one comes each second");
            }
            Ok(found) => tracing::debug!(encoder = kind.name, took_ms = found.took.as_millis() as u64, "encoder works"),
            Err(why) if is_news => {
                let (size, fps) = (task.resolution, task.fps);
                tracing::warn!(encoder = kind.name, %size, fps, %why, "encoder does not work");
            }
            Err(_) => {}
        }
        found
    }
}

impl EncodingTask {
    /// The trial of an encoder for this work.
    pub fn trial_key(&self, encoder: &str) -> TrialKey {
        TrialKey::of(encoder, self.resolution, self.fps)
    }
}

/// Tries `kind`; returns whether it makes key frames on demand.
fn encode(kind: &'static EncoderKind, task: EncodingTask) -> Result<bool, Error> {
    let info = test_picture::format(task.resolution, task.fps.round().max(1.0) as u32)?;
    let source =
        gst_app::AppSrc::builder().caps(&info.to_caps().map_err(Error::broken)?).format(gst::Format::Time).build();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let mut elements = vec![source.clone().upcast(), element("videoconvert")?.build().map_err(Error::broken)?];
    let (encoding, encoder) = kind.build(task)?;
    elements.extend(encoding);
    elements.extend(parser()?);
    elements.push(sink.clone().upcast());
    let pipeline = TrialPipeline::of(&elements)?;
    let run = TrialRun { source, sink, picture: TestPicture::new(&info), fps: task.fps, pushed: 0, coded: Vec::new() };
    let outcome = run.try_out(&pipeline.0, &encoder, &task);
    // The error of an element is more specific than a missing picture.
    pipeline.failure().map_or(outcome, Err)
}

/// Feeds pictures one by one, so that each output can be matched to its input.
struct TrialRun {
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
    picture: TestPicture,
    fps: f64,
    pushed: usize,
    coded: Vec<CodedPicture>,
}

/// A picture from the encoder.
struct CodedPicture {
    /// Number of the input picture: an encoder may leave some out.
    number: usize,
    is_key: bool,
    bytes: Bytes,
}

impl TrialRun {
    fn try_out(mut self, pipeline: &gst::Pipeline, encoder: &Encoder, task: &EncodingTask) -> Result<bool, Error> {
        pipeline.set_state(gst::State::Playing).map_err(Error::broken)?;
        while self.coded.len() < BEFORE {
            self.push()?;
            self.pull_what_is_due()?;
        }
        let (before, asked) = (self.coded.len(), self.pushed);
        encoder.force_key_frame();
        while self.coded.last().is_none_or(|last| last.number + 1 < asked + SOON) {
            self.push()?;
            self.pull_what_is_due()?;
        }
        // A picture that the encoder held back may become the key frame too.
        let forced = self.coded[before..].iter().find(|coded| coded.is_key);
        self.check_parameters(encoder.kind, task)?;
        for coded in self.coded.first().into_iter().chain(forced) {
            self.check_picture(coded, task.resolution)?;
        }
        Ok(forced.is_some())
    }

    /// The time that a picture shows.
    fn moment(&self, number: usize) -> Duration {
        Duration::from_secs_f64(number as f64 / self.fps)
    }

    fn push(&mut self) -> Result<(), Error> {
        let at = self.moment(self.pushed);
        let mut bytes = vec![0; self.picture.size()];
        self.picture.draw(&mut bytes, at);
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        buffer.make_mut().set_pts(gst::ClockTime::from_nseconds(at.as_nanos() as u64));
        self.source.push_buffer(buffer).map_err(Error::broken)?;
        self.pushed += 1;
        Ok(())
    }

    /// Waits for output. An encoder that holds pictures back gets more input first.
    fn pull_what_is_due(&mut self) -> Result<(), Error> {
        let held = self.pushed - self.coded.last().map_or(0, |last| last.number + 1);
        // Long enough for most. If an encoder takes longer, its next picture waits, which does no harm.
        let patience = if held < MAX_HELD { PICTURE_LIMIT / 10 } else { PICTURE_LIMIT };
        let sample = self.sink.try_pull_sample(gst::ClockTime::from_nseconds(patience.as_nanos() as u64));
        let Some(sample) = sample else {
            if held < MAX_HELD {
                return Ok(());
            }
            let (came, pushed) = (self.coded.len(), self.pushed);
            return Err(Error::broken(format!(
                "{came} of {pushed} pictures came out, and none within {PICTURE_LIMIT:?}"
            )));
        };
        let buffer = sample.buffer().ok_or_else(|| Error::broken("a picture without bytes"))?;
        let segment = sample.segment().and_then(|segment| segment.downcast_ref::<gst::ClockTime>());
        // x264enc shifts its time stamps by 1000 hours together with their segment.
        let at = segment.zip(buffer.pts()).and_then(|(segment, pts)| segment.to_running_time(pts));
        let at = at.ok_or_else(|| Error::broken("a picture without a time"))?;
        let number = (Duration::from(at).as_secs_f64() * self.fps).round() as usize;
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let map = buffer.map_readable().map_err(Error::broken)?;
        self.coded.push(CodedPicture { number, is_key, bytes: Bytes::copy_from_slice(&map) });
        Ok(())
    }

    fn check_parameters(&self, kind: &EncoderKind, task: &EncodingTask) -> Result<(), Error> {
        let first = self.coded.first().filter(|first| first.is_key);
        let Some((bytes, H264Profile { idc, .. })) =
            first.and_then(|first| Some((&first.bytes, h264::profile(&first.bytes)?)))
        else {
            return Err(Error::broken("its first picture is no key frame with parameter sets"));
        };
        if idc != BASELINE {
            return Err(Error::broken(format!("its profile is {idc} and not {BASELINE} (baseline)")));
        }
        match (kind.level(task), h264::level(bytes)) {
            (Some(wanted), Some(level)) if level != wanted.idc => {
                Err(Error::broken(format!("its level is {level} and not {}", wanted.idc)))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a key frame shows the picture that went in.
    fn check_picture(&self, coded: &CodedPicture, resolution: Resolution) -> Result<(), Error> {
        let decoder = DECODERS.into_iter().find(|name| gst::ElementFactory::find(name).is_some());
        let least = time_code::MIN_SIZE;
        let Some(decoder) = decoder.filter(|_| resolution.width >= least.width && resolution.height >= least.height)
        else {
            return Ok(());
        };
        let caps = elements::caps("video/x-h264,stream-format=byte-stream,alignment=au")?;
        let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
        let sink = gst_app::AppSink::builder().sync(false).build();
        let elements = [
            source.clone().upcast(),
            element("h264parse")?.build().map_err(Error::broken)?,
            element(decoder)?.build().map_err(Error::broken)?,
            element("videoconvert")?.build().map_err(Error::broken)?,
            filter("video/x-raw,format=I420")?,
            sink.clone().upcast(),
        ];
        let pipeline = TrialPipeline::of(&elements)?;
        pipeline.0.set_state(gst::State::Playing).map_err(Error::broken)?;
        let mut buffer = gst::Buffer::from_slice(coded.bytes.clone());
        buffer.make_mut().set_pts(gst::ClockTime::ZERO);
        source.push_buffer(buffer).map_err(Error::broken)?;
        source.end_of_stream().map_err(Error::broken)?;
        let shown = sink.try_pull_sample(gst::ClockTime::from_nseconds(PICTURE_LIMIT.as_nanos() as u64));
        let seen = shown.as_ref().and_then(|sample| {
            let info = gstreamer_video::VideoInfo::from_caps(sample.caps()?).ok()?;
            let map = sample.buffer()?.map_readable().ok()?;
            time_code::decode(&map, info.stride()[0] as usize, resolution)
        });
        let sent = self.moment(coded.number).as_millis() as u32;
        if seen == Some(sent) { Ok(()) } else { Err(Error::broken("it does not show the picture that went in")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step_reporter::StepReporter;
    use peercam::media::Bitrate;

    #[test]
    fn each_installed_encoder_makes_key_frames_on_demand() {
        gst::init().unwrap();
        let task = EncodingTask {
            resolution: Resolution { width: 640, height: 368 },
            fps: 30.0,
            bitrate: Bitrate::kbps(1000),
            key_interval: 300,
        };
        let mut trials = CodecTrials::new(StepReporter::silent());
        let here: Vec<_> = TABLE.iter().filter(|kind| kind.is_installed()).collect();
        assert!(here.iter().any(|kind| kind.name == "x264enc"), "{here:?}");
        for kind in here {
            let found = trials.verdict(kind, &task);
            println!("{}: {found:?}", kind.name);
            assert!(found.is_ok_and(|found| found.has_key_frames_on_demand), "{}", kind.name);
        }
    }

    #[test]
    fn failures_are_forgotten_if_nothing_works_and_successes_are_remembered() {
        gst::init().unwrap();
        let task = |width| EncodingTask {
            resolution: Resolution { width, height: 66 },
            fps: 30.0,
            bitrate: Bitrate::kbps(500),
            key_interval: 300,
        };
        let mut trials = CodecTrials::new(StepReporter::silent());
        let is_known = |trials: &mut CodecTrials, width| {
            let mut is_tried = false;
            let tried = || {
                is_tried = true;
                Ok(true)
            };
            assert!(trials.outcome(task(width).trial_key("x264enc"), tried).0.is_ok());
            !is_tried
        };
        // x264 takes no odd width in 4:2:0.
        assert!(trials.choose("x264enc", &task(67)).is_err());
        assert!(!is_known(&mut trials, 67), "a failure that leaves no encoder is forgotten");
        assert!(trials.choose("x264enc", &task(66)).is_ok());
        assert!(is_known(&mut trials, 66));
    }

    #[test]
    fn an_encoder_that_fails_in_use_or_crashes_the_process_is_skipped_also_after_a_restart() {
        gst::init().unwrap();
        let task = EncodingTask {
            resolution: Resolution { width: 320, height: 192 },
            fps: 30.0,
            bitrate: Bitrate::kbps(500),
            key_interval: 300,
        };
        let mut trials = CodecTrials::new(StepReporter::silent());
        let first = trials.choose("auto", &task).unwrap().0.name;
        trials.record_failure(task.trial_key(first), "it stands still");
        let second = trials.choose("auto", &task).unwrap().0.name;
        assert_ne!(first, second);
        let why = trials.verdict(EncoderKind::named(first).unwrap(), &task).unwrap_err();
        assert!(why.contains("it stands still"), "{why}");
        let mut after = CodecTrials::new(StepReporter::silent());
        let results = serde_json::to_string(trials.results()).unwrap();
        after.restore(serde_json::from_str(&results).unwrap());
        assert_eq!(after.choose("auto", &task).unwrap().0.name, second);
        after.record_crash(second, "it hung");
        let why = after.choose("auto", &task).unwrap_err().to_string();
        assert!(why.contains("it hung") && why.contains("it stands still"), "{why}");
        assert!(after.choose("auto", &task).is_ok(), "where nothing works all are tried again");
    }
}
