//! Finding an encoder that works: each is made to encode a few pictures before it is used.
//!
//! An element being there says little: a kernel may lack the device, a driver may refuse the size, hang, write another
//! profile than it was asked for, or show something else.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::media::{H264Profile, Resolution};

use super::encoder::{self, Encoder, Kind, TABLE, Work};
use super::test_picture::TestPicture;
use super::{Error, capture, element, h264, time_code};

/// How many pictures an encoder may hold back: hardware delays by one or two.
const MOST_HELD: usize = 8;

/// How many pictures are encoded before a key frame is asked for.
const BEFORE: usize = 4;

/// A key frame that was asked for has to come within so many pictures.
const SOON: usize = 2;

/// How long one picture may take. Known bugs make an encoder hang for ever; firmware is loaded in far less.
const LIMIT: Duration = Duration::from_secs(2);

/// profile_idc of baseline and constrained baseline (H.264, annex A.2.1).
const BASELINE: u8 = 66;

/// Decoders that do not use the hardware under trial.
const DECODERS: [&str; 2] = ["avdec_h264", "openh264dec"];

/// An encoder that can be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// How long the trial took.
    pub(super) took: Duration,
    /// Whether it makes a key frame when it is asked for one.
    pub(super) has_key_frames_on_demand: bool,
}

/// The encoder to use for `work`: the one named, or with `auto` the first of the table that works.
///
/// What was found out is remembered for the life of the process, since hardware does not change. Only where nothing
/// works is it tried again the next time: a board that is busy starting can be too slow for every encoder.
pub(super) fn choose(name: &str, work: &Work) -> Result<(&'static Kind, Found), Error> {
    let named = match name {
        "auto" | super::PASSTHROUGH => None,
        name => Some(Kind::named(name)?),
    };
    let mut tried = Vec::new();
    for kind in TABLE.iter().filter(|kind| named.is_none_or(|named| named == *kind)) {
        match verdict(kind, work) {
            Ok(found) => return Ok((kind, found)),
            // What other boards have is no news; what every board can have is.
            Err(_) if named.is_none() && kind.is_hardware && !kind.is_installed() => {}
            Err(why) => tried.push(why),
        }
    }
    findings().retain(|(_, found)| found.is_ok());
    Err(Error::NoEncoder { tried: tried.join("; ") })
}

/// What is tried: an encoder with a size, and a rate by its bits.
type Trial = (&'static str, u32, u32, u64);

/// One thing that was found out.
type Finding = (Trial, Result<Found, String>);

/// All that was found out so far.
fn findings() -> MutexGuard<'static, Vec<Finding>> {
    static FINDINGS: Mutex<Vec<Finding>> = Mutex::new(Vec::new());
    FINDINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the trial of `kind` showed, or why it cannot be used.
pub(super) fn verdict(kind: &'static Kind, work: &Work) -> Result<Found, String> {
    if !kind.is_installed() {
        return Err(match kind.is_hardware {
            true => format!("{} is not here (it comes with {})", kind.name, kind.origin),
            false => format!("{} is not here; install {}", kind.name, kind.origin),
        });
    }
    if let Some(obstacle) = kind.obstacle(work) {
        return Err(obstacle);
    }
    let key = (kind.name, work.resolution.width, work.resolution.height, work.fps.to_bits());
    // Held during the trial: two cameras must not try one hardware encoder at once and find it busy.
    let mut findings = findings();
    if let Some((_, found)) = findings.iter().find(|(known, _)| *known == key) {
        return found.clone();
    }
    let begun = Instant::now();
    let found = encode(kind, *work).map_err(|error| format!("{} failed: {error}", kind.name));
    let found = found.map(|has_key_frames_on_demand| Found { took: begun.elapsed(), has_key_frames_on_demand });
    static FAILING: Mutex<Vec<Trial>> = Mutex::new(Vec::new());
    let is_news = is_news(&mut FAILING.lock().unwrap_or_else(PoisonError::into_inner), key, found.is_ok());
    match &found {
        Ok(Found { has_key_frames_on_demand: false, .. }) if is_news => {
            tracing::warn!(encoder = kind.name, "encoder makes no key frames on demand: one comes each second");
        }
        Ok(found) => tracing::debug!(encoder = kind.name, took_ms = found.took.as_millis() as u64, "encoder works"),
        Err(why) if is_news => {
            let (size, fps) = (work.resolution, work.fps);
            tracing::warn!(encoder = kind.name, %size, fps, %why, "encoder does not work");
        }
        Err(_) => {}
    }
    findings.push((key, found.clone()));
    found
}

/// Whether a trial ended otherwise than the last one: where nothing works, all is tried again and again, and fails for
/// the same reasons. `failing` is what failed last.
fn is_news(failing: &mut Vec<Trial>, trial: Trial, works: bool) -> bool {
    let known = failing.iter().position(|known| *known == trial);
    match known {
        Some(at) if works => drop(failing.swap_remove(at)),
        None if !works => failing.push(trial),
        _ => return false,
    }
    true
}

/// Whether `kind` makes key frames on demand.
fn encode(kind: &'static Kind, work: Work) -> Result<bool, Error> {
    let info = capture::test_format(work.resolution, work.fps.round().max(1.0) as u32)?;
    let source =
        gst_app::AppSrc::builder().caps(&info.to_caps().map_err(Error::broken)?).format(gst::Format::Time).build();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let mut elements = vec![source.clone().upcast(), element("videoconvert")?.build().map_err(Error::broken)?];
    let (encoding, encoder) = kind.build(work)?;
    elements.extend(encoding);
    elements.extend(capture::parser()?);
    elements.push(sink.clone().upcast());
    let pipeline = Tried::of(&elements)?;
    let run = Run { source, sink, picture: TestPicture::new(&info), fps: work.fps, pushed: 0, coded: Vec::new() };
    let outcome = run.try_out(&pipeline.0, &encoder, &work);
    // What an element reports says more than that nothing came.
    pipeline.failure().map_or(outcome, Err)
}

/// A pipeline that is stopped when it is dropped.
struct Tried(gst::Pipeline);

impl Tried {
    fn of(elements: &[gst::Element]) -> Result<Self, Error> {
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(elements).map_err(Error::broken)?;
        gst::Element::link_many(elements).map_err(Error::broken)?;
        Ok(Self(pipeline))
    }

    fn failure(&self) -> Option<Error> {
        let message = self.0.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => Some(Error::broken(error.error())),
            _ => None,
        }
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        // Only a trial: how it stops says nothing more.
        self.0.set_state(gst::State::Null).ok();
    }
}

/// Pictures go in one after the other, so that it is known which of them came out.
struct Run {
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
    picture: TestPicture,
    fps: f64,
    pushed: usize,
    coded: Vec<Coded>,
}

/// What came out of an encoder.
struct Coded {
    /// Which of the pictures it is: an encoder may leave some out.
    number: usize,
    is_key: bool,
    bytes: Bytes,
}

impl Run {
    fn try_out(mut self, pipeline: &gst::Pipeline, encoder: &Encoder, work: &Work) -> Result<bool, Error> {
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
        self.check_parameters(encoder.kind, work)?;
        for coded in self.coded.first().into_iter().chain(forced) {
            self.check_picture(coded, work.resolution)?;
        }
        Ok(forced.is_some())
    }

    /// The moment that a picture shows.
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

    /// Waits for what comes out. An encoder that holds pictures back gets more of them first.
    fn pull_what_is_due(&mut self) -> Result<(), Error> {
        let held = self.pushed - self.coded.last().map_or(0, |last| last.number + 1);
        // Long enough for most. An encoder that takes longer has its next picture waiting, which does no harm.
        let patience = if held < MOST_HELD { LIMIT / 10 } else { LIMIT };
        let sample = self.sink.try_pull_sample(gst::ClockTime::from_nseconds(patience.as_nanos() as u64));
        let Some(sample) = sample else {
            if held < MOST_HELD {
                return Ok(());
            }
            let (came, pushed) = (self.coded.len(), self.pushed);
            return Err(Error::broken(format!("{came} of {pushed} pictures came out, and none within {LIMIT:?}")));
        };
        let buffer = sample.buffer().ok_or_else(|| Error::broken("a picture without bytes"))?;
        let segment = sample.segment().and_then(|segment| segment.downcast_ref::<gst::ClockTime>());
        // x264enc shifts its time stamps by 1000 hours together with their segment.
        let at = segment.zip(buffer.pts()).and_then(|(segment, pts)| segment.to_running_time(pts));
        let at = at.ok_or_else(|| Error::broken("a picture without a time"))?;
        let number = (Duration::from(at).as_secs_f64() * self.fps).round() as usize;
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let map = buffer.map_readable().map_err(Error::broken)?;
        self.coded.push(Coded { number, is_key, bytes: Bytes::copy_from_slice(&map) });
        Ok(())
    }

    fn check_parameters(&self, kind: &Kind, work: &Work) -> Result<(), Error> {
        let first = self.coded.first().filter(|first| first.is_key);
        let Some((bytes, H264Profile { idc, .. })) =
            first.and_then(|first| Some((&first.bytes, h264::profile(&first.bytes)?)))
        else {
            return Err(Error::broken("its first picture is no key frame with parameter sets"));
        };
        if idc != BASELINE {
            return Err(Error::broken(format!("its profile is {idc} and not {BASELINE} (baseline)")));
        }
        match (kind.level(work), h264::level(bytes)) {
            (Some(wanted), Some(level)) if level != wanted.idc => {
                Err(Error::broken(format!("its level is {level} and not {}", wanted.idc)))
            }
            _ => Ok(()),
        }
    }

    /// A key frame shows what went in.
    fn check_picture(&self, coded: &Coded, resolution: Resolution) -> Result<(), Error> {
        let decoder = DECODERS.into_iter().find(|name| gst::ElementFactory::find(name).is_some());
        let least = time_code::LEAST;
        let Some(decoder) = decoder.filter(|_| resolution.width >= least.width && resolution.height >= least.height)
        else {
            return Ok(());
        };
        let caps = encoder::caps("video/x-h264,stream-format=byte-stream,alignment=au")?;
        let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
        let sink = gst_app::AppSink::builder().sync(false).build();
        let elements = [
            source.clone().upcast(),
            element("h264parse")?.build().map_err(Error::broken)?,
            element(decoder)?.build().map_err(Error::broken)?,
            element("videoconvert")?.build().map_err(Error::broken)?,
            capture::filter("video/x-raw,format=I420")?,
            sink.clone().upcast(),
        ];
        let pipeline = Tried::of(&elements)?;
        pipeline.0.set_state(gst::State::Playing).map_err(Error::broken)?;
        let mut buffer = gst::Buffer::from_slice(coded.bytes.clone());
        buffer.make_mut().set_pts(gst::ClockTime::ZERO);
        source.push_buffer(buffer).map_err(Error::broken)?;
        source.end_of_stream().map_err(Error::broken)?;
        let shown = sink.try_pull_sample(gst::ClockTime::from_nseconds(LIMIT.as_nanos() as u64));
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
    use crate::media::Bitrate;

    #[test]
    fn a_failure_is_news_for_each_size_and_rate_once_and_again_after_it_worked() {
        let trial = |width, fps: f64| ("x264enc", width, 66, fps.to_bits());
        let mut failing = Vec::new();
        let mut is_news = |trial, works| is_news(&mut failing, trial, works);
        assert!(is_news(trial(66, 30.0), false));
        assert!(!is_news(trial(66, 30.0), false));
        assert!(is_news(trial(68, 30.0), false), "another size");
        assert!(is_news(trial(66, 15.0), false), "another rate");
        assert!(is_news(trial(66, 30.0), true));
        assert!(is_news(trial(66, 30.0), false), "it worked in between");
    }

    #[test]
    fn each_encoder_that_is_here_makes_key_frames_on_demand() {
        gst::init().unwrap();
        let work = Work {
            resolution: Resolution { width: 640, height: 368 },
            fps: 30.0,
            bitrate: Bitrate::kbps(1000),
            key_interval: 300,
        };
        let here: Vec<_> = TABLE.iter().filter(|kind| kind.is_installed()).collect();
        assert!(here.iter().any(|kind| kind.name == "x264enc"), "{here:?}");
        for kind in here {
            let found = verdict(kind, &work);
            println!("{}: {found:?}", kind.name);
            assert!(found.is_ok_and(|found| found.has_key_frames_on_demand), "{}", kind.name);
        }
    }

    #[test]
    fn where_nothing_worked_it_is_tried_again_and_what_worked_is_remembered() {
        gst::init().unwrap();
        let work = |width| Work {
            resolution: Resolution { width, height: 66 },
            fps: 30.0,
            bitrate: Bitrate::kbps(500),
            key_interval: 300,
        };
        let known = |width| findings().iter().any(|((_, known, height, _), _)| (*known, *height) == (width, 66));
        // x264 takes no odd width in 4:2:0.
        assert!(choose("x264enc", &work(67)).is_err());
        assert!(!known(67), "a failure that leaves no encoder is forgotten");
        assert!(choose("x264enc", &work(66)).is_ok());
        assert!(known(66));
    }
}
