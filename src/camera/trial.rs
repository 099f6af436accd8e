//! Finding an encoder that works: each is made to encode a few pictures before it is used.
//!
//! An element being there says little: a kernel may lack the device, a driver may refuse the size, or hang.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::encoder::{Kind, TABLE, Work};
use super::test_picture::TestPicture;
use super::{Error, capture, element};

/// How many pictures are encoded: hardware that delays by a frame or two still answers.
const PICTURES: u64 = 5;

/// How many must come out.
const ENOUGH: u64 = 3;

/// How long one may take. Known bugs make an encoder hang for ever; firmware is loaded in far less.
const LIMIT: Duration = Duration::from_secs(2);

/// The encoder to use for `work`: the one named, or with `auto` the first of the table that works.
///
/// What was found out is remembered for the life of the process, since hardware does not change. Only where nothing
/// works is it tried anew the next time: a board that is busy starting can be too slow for every encoder.
pub(super) fn choose(name: &str, work: &Work) -> Result<&'static Kind, Error> {
    let named = match name {
        "auto" | super::PASSTHROUGH => None,
        name => Some(Kind::named(name)?),
    };
    let mut tried = Vec::new();
    for kind in TABLE.iter().filter(|kind| named.is_none_or(|named| named == *kind)) {
        match verdict(kind, work) {
            Ok(_) => return Ok(kind),
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
type Finding = (Trial, Result<Duration, String>);

/// All that was found out so far.
fn findings() -> MutexGuard<'static, Vec<Finding>> {
    static FINDINGS: Mutex<Vec<Finding>> = Mutex::new(Vec::new());
    FINDINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long `kind` took for the trial, or why it cannot be used.
pub(super) fn verdict(kind: &'static Kind, work: &Work) -> Result<Duration, String> {
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
    let found = encode(kind, *work).map(|()| begun.elapsed()).map_err(|error| format!("{} failed: {error}", kind.name));
    static FAILING: Mutex<Vec<Trial>> = Mutex::new(Vec::new());
    let is_news = is_news(&mut FAILING.lock().unwrap_or_else(PoisonError::into_inner), key, found.is_ok());
    match &found {
        Ok(took) => tracing::debug!(encoder = kind.name, took_ms = took.as_millis() as u64, "encoder works"),
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

fn encode(kind: &'static Kind, work: Work) -> Result<(), Error> {
    let info = capture::test_format(work.resolution, work.fps.round().max(1.0) as u32)?;
    let source =
        gst_app::AppSrc::builder().caps(&info.to_caps().map_err(Error::broken)?).format(gst::Format::Time).build();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let mut elements = vec![source.clone().upcast(), element("videoconvert")?.build().map_err(Error::broken)?];
    let (encoding, _) = kind.build(work)?;
    elements.extend(encoding);
    elements.extend(capture::parser()?);
    elements.push(sink.clone().upcast());
    let pipeline = gst::Pipeline::new();
    pipeline.add_many(&elements).map_err(Error::broken)?;
    gst::Element::link_many(&elements).map_err(Error::broken)?;
    let outcome = feed_and_count(&pipeline, &source, &sink, &TestPicture::new(&info), work.fps);
    let reported = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    // Only a trial: how it stops says nothing more.
    pipeline.set_state(gst::State::Null).ok();
    match reported.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(Error::broken(error.error())),
        _ => outcome,
    }
}

fn feed_and_count(
    pipeline: &gst::Pipeline,
    source: &gst_app::AppSrc,
    sink: &gst_app::AppSink,
    picture: &TestPicture,
    fps: f64,
) -> Result<(), Error> {
    pipeline.set_state(gst::State::Playing).map_err(Error::broken)?;
    for index in 0..PICTURES {
        let at = Duration::from_secs_f64(index as f64 / fps);
        let mut bytes = vec![0; picture.size()];
        picture.draw(&mut bytes, at);
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        buffer.make_mut().set_pts(gst::ClockTime::from_nseconds(at.as_nanos() as u64));
        source.push_buffer(buffer).map_err(Error::broken)?;
    }
    source.end_of_stream().map_err(Error::broken)?;
    let end = Instant::now() + LIMIT;
    for count in 0..ENOUGH {
        let left = end.saturating_duration_since(Instant::now());
        let sample = sink.try_pull_sample(gst::ClockTime::from_nseconds(left.as_nanos() as u64));
        if sample.is_none() {
            return Err(Error::broken(format!("{count} of {PICTURES} pictures came out within {} s", LIMIT.as_secs())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Bitrate, Resolution};

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
    fn where_nothing_worked_it_is_tried_anew_and_what_worked_is_remembered() {
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
