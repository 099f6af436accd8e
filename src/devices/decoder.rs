//! Chooses the JPEG decoder for a camera that sends JPEGs.
//!
//! A hardware decoder is used if it works: it has to decode a few pictures like those of webcams first, and
//! software replaces it if it cannot decode the camera's own pictures. Both checks are needed: `v4l2jpegdec` of a
//! Raspberry Pi outputs nothing for some cameras (raspberrypi/linux 5142), and hardware decoders fail on pictures
//! without Huffman tables (RPi-Distro/vlc 32), which many webcams leave out.

use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use peercam::capture::Error;
use peercam::media::{Resolution, time_code};

use crate::codec_trials::{CodecTrials, MAX_HELD, PICTURE_LIMIT, TrialKey, TrialPipeline};
use crate::graph::elements::{caps, element, filter};
use crate::test_source::test_picture::{self, TestPicture};

/// Hardware decoders: of a kernel with a V4L2 decoder, of Rockchip's media processor, of a VA driver.
const HARDWARE: [&str; 3] = ["v4l2jpegdec", "mppjpegdec", "vajpegdec"];

/// The decoder that every board has.
pub const SOFTWARE: &str = "jpegdec";

/// Number of pictures that have to come out of a trial.
const PICTURES: usize = 4;

/// Frame rate of a trial: a decoder only uses it for time stamps.
const FPS: u32 = 30;

/// The trial of `decoder` for pictures of this size.
pub fn trial(decoder: &str, resolution: Resolution) -> TrialKey {
    TrialKey::of(decoder, resolution, f64::from(FPS))
}

/// The decoder for pictures of this size: the first hardware decoder that is installed and works, else software.
pub fn choose(trials: &mut CodecTrials, resolution: Resolution) -> &'static str {
    first(trials, resolution, HARDWARE.into_iter())
}

fn first(
    trials: &mut CodecTrials,
    resolution: Resolution,
    mut candidates: impl Iterator<Item = &'static str>,
) -> &'static str {
    let works = |decoder: &&'static str| {
        if gst::ElementFactory::find(decoder).is_none() {
            return false;
        }
        let (found, is_news) =
            trials.outcome(trial(decoder, resolution), || decode(decoder, resolution).map(|()| false));
        match &found {
            Err(why) if is_news => tracing::warn!(decoder, size = %resolution, %why, "JPEG decoder does not work"),
            Err(_) => {}
            Ok(found) => tracing::debug!(decoder, took_ms = found.took.as_millis() as u64, "JPEG decoder works"),
        }
        found.is_ok()
    };
    candidates.find(works).unwrap_or(SOFTWARE)
}

/// Decodes JPEGs of the test picture, and checks that the output shows them.
fn decode(decoder: &str, resolution: Resolution) -> Result<(), Error> {
    let source = gst_app::AppSrc::builder()
        .caps(&caps(&format!("image/jpeg,width={},height={},framerate={FPS}/1", resolution.width, resolution.height))?)
        .format(gst::Format::Time)
        .build();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let pipeline = TrialPipeline::of(&[
        source.clone().upcast(),
        element(decoder)?.build().map_err(Error::broken)?,
        element("videoconvert")?.build().map_err(Error::broken)?,
        filter("video/x-raw,format=I420")?,
        sink.clone().upcast(),
    ])?;
    let outcome = (|| {
        pipeline.0.set_state(gst::State::Playing).map_err(Error::broken)?;
        let jpegs = jpegs(resolution)?;
        let (mut pushed, mut shown) = (0, 0);
        while shown < PICTURES {
            let jpeg = gst::Buffer::from_slice(jpegs[pushed % jpegs.len()].clone());
            source.push_buffer(stamped(jpeg, pushed)).map_err(Error::broken)?;
            pushed += 1;
            // A decoder that holds pictures back gets more input first.
            let patience = if pushed - shown < MAX_HELD { PICTURE_LIMIT / 10 } else { PICTURE_LIMIT };
            match sink.try_pull_sample(gst::ClockTime::from_nseconds(patience.as_nanos() as u64)) {
                Some(sample) => check(&sample, resolution, shown % jpegs.len())?,
                None if pushed - shown < MAX_HELD => continue,
                None => {
                    let why = format!("{shown} of {pushed} pictures came out, and none within {PICTURE_LIMIT:?}");
                    return Err(Error::broken(why));
                }
            }
            shown += 1;
        }
        Ok(())
    })();
    pipeline.failure().map_or(outcome, Err)
}

/// Capture time of the picture with this number.
fn moment(number: usize) -> Duration {
    Duration::from_secs(1) * number as u32 / FPS
}

fn stamped(mut buffer: gst::Buffer, number: usize) -> gst::Buffer {
    let at = gst::ClockTime::from_nseconds(moment(number).as_nanos() as u64);
    buffer.get_mut().expect("the buffer is not shared").set_pts(at);
    buffer
}

/// The first pictures of the test picture, in 4:2:2 as webcams send it.
fn jpegs(resolution: Resolution) -> Result<Vec<Vec<u8>>, Error> {
    let info = test_picture::format(resolution, FPS)?;
    let raw = info.to_caps().map_err(Error::broken)?;
    let source = gst_app::AppSrc::builder().caps(&raw).format(gst::Format::Time).build();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let pipeline = TrialPipeline::of(&[
        source.clone().upcast(),
        element("videoconvert")?.build().map_err(Error::broken)?,
        filter("video/x-raw,format=Y42B")?,
        element("jpegenc")?.build().map_err(Error::broken)?,
        sink.clone().upcast(),
    ])?;
    pipeline.0.set_state(gst::State::Playing).map_err(Error::broken)?;
    let picture = TestPicture::new(&info);
    let jpeg = |number| {
        let mut bytes = vec![0; picture.size()];
        picture.draw(&mut bytes, moment(number));
        source.push_buffer(stamped(gst::Buffer::from_mut_slice(bytes), number)).map_err(Error::broken)?;
        let sample = sink.try_pull_sample(gst::ClockTime::from_nseconds(PICTURE_LIMIT.as_nanos() as u64));
        let sample = sample.ok_or_else(|| Error::broken("no JPEG to try a decoder with"))?;
        let map = sample.buffer().ok_or_else(|| Error::broken("a JPEG without bytes"))?.map_readable();
        Ok(map.map_err(Error::broken)?.to_vec())
    };
    (0..PICTURES).map(jpeg).collect()
}

/// Checks that a decoded picture shows the one of this number, in its size.
fn check(sample: &gst::Sample, resolution: Resolution, number: usize) -> Result<(), Error> {
    let info = sample.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok());
    let info = info.ok_or_else(|| Error::broken("a picture without a format"))?;
    let found = Resolution { width: info.width(), height: info.height() };
    if found != resolution {
        return Err(Error::broken(format!("a picture of {resolution} is decoded as {found}")));
    }
    let least = time_code::MIN_SIZE;
    if resolution.width < least.width || resolution.height < least.height {
        return Ok(());
    }
    let buffer = sample.buffer().ok_or_else(|| Error::broken("a picture without bytes"))?;
    let map = buffer.map_readable().map_err(Error::broken)?;
    let seen = time_code::decode(&map, info.stride()[0] as usize, resolution);
    let sent = moment(number).as_millis() as u32;
    if seen == Some(sent) { Ok(()) } else { Err(Error::broken("it does not show the picture that went in")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step_reporter::StepReporter;

    const SIZE: Resolution = Resolution { width: 320, height: 240 };

    #[test]
    fn a_decoder_that_shows_its_input_is_chosen_and_others_are_skipped() {
        gst::init().unwrap();
        let mut trials = CodecTrials::new(StepReporter::silent());
        // Elements that pass on any input, or output nothing: neither decodes.
        let chosen = first(&mut trials, SIZE, ["no-such-element", "identity", "fakesink"].into_iter());
        assert_eq!(chosen, SOFTWARE);
        assert_eq!(first(&mut trials, SIZE, ["identity", SOFTWARE, "fakesink"].into_iter()), SOFTWARE);
        for size in [SIZE, Resolution { width: 1280, height: 720 }, Resolution { width: 96, height: 80 }] {
            decode(SOFTWARE, size).unwrap();
        }
    }
}
