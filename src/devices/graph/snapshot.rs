//! Takes one current picture as JPEG.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use peercam::capture::wire::{Header, MessageKind};
use peercam::capture::{Error, Report};
use peercam::tasks;

use crate::output::Output;

use super::elements::{self, element};
use super::{Pipeline, Published};

/// JPEG values are full range, BT.601 (JFIF), those of cameras mostly video range. From RGB the JPEG library itself
/// makes the right values; videoconvert (1.22) ignores the range when it converts between two 4:2:0 formats with
/// the same matrix.
const JPEG_RAW: &str = "video/x-raw,format=RGB";

/// High enough that blocks are not visible; a 720p picture has about 150 kB.
const QUALITY: i32 = 88;

/// Time limit for the conversion of one picture, on a slow and busy board.
const CONVERSION: gst::ClockTime = gst::ClockTime::from_seconds(4);

/// Greatest age of a key frame for a snapshot.
const AGE: Duration = Duration::from_millis(600);

/// Time limit for a new key frame.
const WAIT: Duration = Duration::from_secs(5);

/// The input for a JPEG.
#[derive(Debug)]
pub enum Still {
    /// A raw picture and its format.
    Raw(gst::Sample),
    /// A key frame from the camera.
    KeyFrame(Bytes),
}

/// Answers `request` with the next picture of `pipeline` as JPEG. A separate thread encodes it, because that takes
/// longer than the next picture takes to come.
pub fn take(pipeline: &Pipeline, request: u32, output: &Output) {
    let output = output.clone();
    let Some(pad) = pipeline.raw().and_then(|element| element.static_pad("sink")) else {
        let published = pipeline.first().map(|branch| branch.published().clone()).unwrap_or_default();
        return in_background(request, output, move || key_frame(&published));
    };
    let once = Mutex::new(Some(output));
    // The probe removes itself, so it costs nothing otherwise.
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let output = once.lock().ok().and_then(|mut once| once.take());
        if let (Some(output), Some(buffer), Some(caps)) = (output, info.buffer(), pad.current_caps()) {
            let sample = gst::Sample::builder().buffer(buffer).caps(&caps).build();
            in_background(request, output, move || Ok(Still::Raw(sample)));
        }
        gst::PadProbeReturn::Remove
    });
}

fn key_frame(published: &Published) -> Result<Still, Error> {
    let found = published.key_frame(AGE, WAIT).map(Still::KeyFrame);
    found.ok_or_else(|| Error::broken("the camera made no key frame"))
}

fn in_background(request: u32, output: Output, still: impl FnOnce() -> Result<Still, Error> + Send + 'static) {
    let work = move || {
        let made = tasks::catch_panic(|| convert(&still()?)).unwrap_or_else(|panic| Err(Error::Panicked(panic)));
        match made {
            Ok(jpeg) if jpeg.len() <= MessageKind::Picture.most() => {
                let header = Header {
                    kind: MessageKind::Picture,
                    is_key: false,
                    rendition: 0,
                    length: jpeg.len() as u32,
                    number: request,
                    captured: 0,
                };
                output.send(&header, &jpeg);
            }
            Ok(_) => answer(&output, request, Error::broken("the JPEG is too large to be sent")),
            Err(error) => answer(&output, request, error),
        }
    };
    // Without a thread there is no answer, and the time limit of the request applies.
    if let Err(error) = thread::Builder::new().name("snapshot".into()).spawn(work) {
        tracing::warn!(reason = %error, "no thread to make a snapshot");
    }
}

fn answer(output: &Output, request: u32, error: Error) {
    output.report(&Report::Answer { request, answer: Err(error) });
}

/// Converts to JPEG. Blocks.
pub fn convert(still: &Still) -> Result<Bytes, Error> {
    let (caps, buffer, times, decode) = match still {
        Still::Raw(sample) => (
            sample.caps_owned().ok_or_else(|| Error::broken("a picture without a format"))?,
            sample.buffer_owned().ok_or_else(|| Error::broken("a picture without bytes"))?,
            1,
            vec![],
        ),
        Still::KeyFrame(bytes) => (
            elements::caps("video/x-h264,stream-format=byte-stream,alignment=au")?,
            gst::Buffer::from_slice(bytes.clone()),
            // With a profile that may reorder pictures, openh264dec (1.22) outputs a picture only with the next one.
            2,
            vec![element("h264parse")?, element(decoder())?],
        ),
    };
    let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let pipeline = gst::Pipeline::new();
    let mut elements = vec![source.clone().upcast::<gst::Element>()];
    for builder in decode {
        elements.push(builder.build().map_err(Error::broken)?);
    }
    elements.push(element("videoconvert")?.build().map_err(Error::broken)?);
    let raw = element("capsfilter")?.property("caps", elements::caps(JPEG_RAW)?);
    elements.push(raw.build().map_err(Error::broken)?);
    elements.push(element("jpegenc")?.property("quality", QUALITY).build().map_err(Error::broken)?);
    elements.push(sink.clone().upcast());
    pipeline.add_many(&elements).map_err(Error::broken)?;
    gst::Element::link_many(&elements).map_err(Error::broken)?;
    let encoded = encode(&pipeline, &source, &sink, &vec![buffer; times]);
    // The picture is done; an error at the stop does not matter.
    pipeline.set_state(gst::State::Null).ok();
    encoded
}

fn encode(
    pipeline: &gst::Pipeline,
    source: &gst_app::AppSrc,
    sink: &gst_app::AppSink,
    buffers: &[gst::Buffer],
) -> Result<Bytes, Error> {
    pipeline.set_state(gst::State::Playing).map_err(Error::broken)?;
    for (buffer, second) in buffers.iter().zip(0..) {
        let mut buffer = buffer.clone();
        let still = buffer.make_mut();
        // A still has no time; the capture's time stamp would be outside of this pipeline's range.
        still.set_pts(gst::ClockTime::from_seconds(second));
        still.set_dts(gst::ClockTime::NONE);
        source.push_buffer(buffer).map_err(Error::broken)?;
    }
    source.end_of_stream().map_err(Error::broken)?;
    let sample = sink.try_pull_sample(CONVERSION).ok_or_else(|| Error::broken("the picture could not be converted"))?;
    let bytes = sample.buffer().and_then(|buffer| buffer.map_readable().ok().map(|map| Bytes::copy_from_slice(&map)));
    bytes.ok_or_else(|| Error::broken("the JPEG could not be read"))
}

/// Any decoder will do for one key frame.
fn decoder() -> &'static str {
    ["avdec_h264", "openh264dec", "v4l2h264dec"]
        .into_iter()
        .find(|name| gst::ElementFactory::find(name).is_some())
        .unwrap_or("avdec_h264")
}
