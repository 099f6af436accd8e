//! One current picture as JPEG.

use std::sync::Arc;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use tokio::sync::oneshot;

use crate::media::Frame;
use crate::tasks::Group;

use super::opener::blocking;
use super::pipeline::Pipeline;
use super::{Error, element, encoder};

/// JPEG's numbers are full range, BT.601 (JFIF), cameras' mostly video range. Out of RGB the JPEG library itself makes
/// what is right; videoconvert (1.22) between two kinds of 4:2:0 with the same matrix forgets the range.
const JPEG_RAW: &str = "video/x-raw,format=RGB";

/// High enough that blocks do not show; a 720p picture has about 150 kB.
const QUALITY: i32 = 88;

/// How long the conversion of one picture may take on a slow and busy board.
const CONVERSION: gst::ClockTime = gst::ClockTime::from_seconds(4);

/// What a snapshot is made of.
#[derive(Debug)]
pub(super) enum Picture {
    /// A raw picture and its format.
    Raw(gst::Sample),
    /// The camera encodes by itself: the feed's newest key frame is what there is.
    Encoded,
}

/// Gives `taker` the next raw picture of `pipeline`. The probe removes itself, so that it costs nothing otherwise.
pub(super) fn take(pipeline: &Pipeline, taker: oneshot::Sender<Picture>) {
    let pad = pipeline.graph().raw.as_ref().and_then(|element| element.static_pad("src"));
    let Some(pad) = pad else {
        // Nobody takes it any more: the wait was given up.
        taker.send(Picture::Encoded).ok();
        return;
    };
    let mut taker = Some(taker);
    let taker = std::sync::Mutex::new(move |picture| taker.take().map(|taker| taker.send(picture).ok()));
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let (Some(buffer), Some(caps)) = (info.buffer(), pad.current_caps()) {
            let sample = gst::Sample::builder().buffer(buffer).caps(&caps).build();
            if let Ok(mut give) = taker.lock() {
                give(Picture::Raw(sample));
            }
        }
        gst::PadProbeReturn::Remove
    });
}

/// What a JPEG is made of.
#[derive(Debug)]
pub(super) enum Still {
    Raw(gst::Sample),
    KeyFrame(Arc<Frame>),
}

/// Converts a picture, on a thread for blocking work.
pub(super) async fn jpeg(group: &Group, still: Still) -> Result<Bytes, Error> {
    blocking(group, move || convert(&still)).await
}

fn convert(still: &Still) -> Result<Bytes, Error> {
    let (caps, buffer, times, decode) = match still {
        Still::Raw(sample) => (
            sample.caps_owned().ok_or_else(|| Error::broken("a picture without a format"))?,
            sample.buffer_owned().ok_or_else(|| Error::broken("a picture without bytes"))?,
            1,
            vec![],
        ),
        Still::KeyFrame(frame) => (
            encoder::caps("video/x-h264,stream-format=byte-stream,alignment=au")?,
            gst::Buffer::from_slice(frame.data.clone()),
            // Of a profile whose pictures may be out of order, openh264dec (1.22) gives a picture out with the next one.
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
    let raw = element("capsfilter")?.property("caps", encoder::caps(JPEG_RAW)?);
    elements.push(raw.build().map_err(Error::broken)?);
    elements.push(element("jpegenc")?.property("quality", QUALITY).build().map_err(Error::broken)?);
    elements.push(sink.clone().upcast());
    pipeline.add_many(&elements).map_err(Error::broken)?;
    gst::Element::link_many(&elements).map_err(Error::broken)?;
    let shot = shoot(&pipeline, &source, &sink, &vec![buffer; times]);
    // It has served; whether it stops well changes nothing about the picture.
    pipeline.set_state(gst::State::Null).ok();
    shot
}

fn shoot(
    pipeline: &gst::Pipeline,
    source: &gst_app::AppSrc,
    sink: &gst_app::AppSink,
    buffers: &[gst::Buffer],
) -> Result<Bytes, Error> {
    pipeline.set_state(gst::State::Playing).map_err(Error::broken)?;
    for (buffer, second) in buffers.iter().zip(0..) {
        let mut buffer = buffer.clone();
        let still = buffer.make_mut();
        // A still has no time; the capture's would put it outside of this pipeline's.
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
