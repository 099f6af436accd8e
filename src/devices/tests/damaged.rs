//! Damaged pictures, as cameras send them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use peercam::media::Resolution;

use crate::attempt::AttemptEvent;
use crate::graph::jpeg_filter::JpegFilter;

use super::{PATIENCE, through};

const SIZE: Resolution = Resolution { width: 96, height: 80 };

/// JPEGs as cameras make them: 4:2:0, 4:2:2, 4:4:4 and grey.
fn whole() -> Vec<Vec<u8>> {
    ["I420", "Y42B", "Y444", "GRAY8"]
        .into_iter()
        .map(|format| {
            let chain = format!("videoconvert ! video/x-raw,format={format} ! jpegenc");
            let caps = "video/x-raw,format=I420,width=96,height=80,framerate=30/1";
            let picture: Vec<u8> = (0..96 * 80 * 3 / 2_u32).map(|at| (at * 7 % 251) as u8).collect();
            through(&chain, caps, &[picture.into()])[0].buffer().unwrap().map_readable().unwrap().to_vec()
        })
        .collect()
}

/// Damages a JPEG in one of several ways. `random` returns a number below its argument.
fn damaged(whole: &[u8], random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let mut jpeg = whole.to_vec();
    let marker = |jpeg: &[u8], kind: u8| jpeg.windows(2).position(|pair| pair == [0xff, kind]);
    let header = marker(&jpeg, 0xc0).expect("a baseline JPEG");
    match random(14) {
        0 => jpeg.truncate(random(whole.len())),
        // jpegdec treats a height between half of the agreed one and all of it as half a picture.
        1 => jpeg[header + 6] = (41 + random(39)) as u8,
        2 => (jpeg[header + 5], jpeg[header + 6]) = (random(256) as u8, random(256) as u8),
        3 => (jpeg[header + 7], jpeg[header + 8]) = (random(256) as u8, random(256) as u8),
        4 => jpeg[header + 5..header + 9].fill(0xff),
        // Other processes, precisions and numbers of components; then invalid sampling and tables.
        5 => jpeg[header + 1] = 0xc0 + random(16) as u8,
        6 => jpeg[header + 4 + 5 * random(2)] = random(256) as u8,
        7 => jpeg[header + 10 + random(9)] = random(256) as u8,
        // Removes tables and other segments.
        8 => {
            if let Some(at) = marker(&jpeg, [0xdb, 0xc4, 0xda, 0xe0, 0xd9][random(5)]) {
                let length = usize::from(jpeg.get(at + 3).copied().unwrap_or_default());
                jpeg.drain(at..(at + 2 + length).min(whole.len()));
            }
        }
        9 => jpeg.truncate(whole.len() - 2),
        10 => jpeg.extend_from_slice(whole),
        11 => {
            let at = random(whole.len());
            let length = random(whole.len() - at);
            jpeg.copy_within(at..at + length, random(whole.len() - length));
        }
        12 => jpeg = (0..random(2000)).map(|_| random(256) as u8).collect(),
        _ => {
            for _ in 0..=random(40) {
                let at = random(whole.len());
                jpeg[at] = random(256) as u8;
            }
        }
    }
    jpeg
}

/// The sizes of those `jpegs` that pass guard and decoder.
fn through_the_filter(jpegs: impl Iterator<Item = Vec<u8>>) -> (Vec<(u32, u32)>, JpegFilter) {
    gst::init().unwrap();
    let chain = "appsrc name=in format=time max-buffers=8 ! queue name=guarded ! jpegdec ! appsink name=out sync=false";
    let pipeline = gst::parse::launch(chain).unwrap().downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let element = pipeline.by_name("guarded").unwrap();
    let filter = JpegFilter { element, agreed: SIZE, expected: SIZE, dropped: Arc::default() };
    filter.attach("camera", mpsc::channel().0).unwrap();
    source.set_caps(Some(&"image/jpeg,width=96,height=80,framerate=30/1".parse().unwrap()));
    pipeline.set_state(gst::State::Playing).unwrap();
    let sizes = std::thread::spawn(move || {
        let samples = std::iter::from_fn(|| sink.try_pull_sample(gst::ClockTime::from_seconds(30)));
        let size = |sample: gst::Sample| {
            let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
            (info.width(), info.height())
        };
        samples.map(size).collect()
    });
    for (index, jpeg) in jpegs.enumerate() {
        let mut buffer = gst::Buffer::from_slice(jpeg);
        buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(33 * index as u64));
        let bus = pipeline.bus().unwrap();
        // A failed pipeline would never accept it.
        assert!(bus.pop_filtered(&[gst::MessageType::Error]).is_none(), "the pipeline failed at picture {index}");
        while source.current_level_buffers() > 4 {
            std::thread::sleep(Duration::from_micros(200));
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
                panic!("at picture {index}: {message:?}");
            }
        }
        source.push_buffer(buffer).unwrap();
    }
    source.end_of_stream().unwrap();
    let sizes = sizes.join().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    (sizes, filter)
}

#[test]
fn five_thousand_damaged_jpegs_break_nothing_and_every_valid_one_between_is_shown() {
    // The same ones each time, so that a failure can be reproduced.
    let mut state = 0x2545_f491_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    gst::init().unwrap();
    let whole = whole();
    let count = 5000;
    let jpegs = (0..count).flat_map(|index| {
        let good = &whole[index % 3];
        [damaged(&whole[index % whole.len()], &mut random), good.clone()]
    });
    let (sizes, filter) = through_the_filter(jpegs);
    let dropped = filter.dropped.load(Ordering::Relaxed) as usize;
    assert!(sizes.len() >= count, "{} of {count} whole pictures were shown", sizes.len());
    assert!(sizes.iter().all(|size| *size == (96, 80)), "a size that was not agreed");
    assert!(dropped > count / 3, "{dropped} were dropped before the decoder");
    println!("{} shown, {dropped} dropped before the decoder", sizes.len());
}

#[test]
fn jpegs_of_another_size_than_agreed_are_reported_once_and_dropped() {
    gst::init().unwrap();
    let (events, told) = mpsc::channel();
    let source = gst_app::AppSrc::builder().caps(&"image/jpeg,width=96,height=96".parse().unwrap()).build();
    let queue = gst::ElementFactory::make("queue").build().unwrap();
    let sink = gst_app::AppSink::builder().sync(false).build();
    let pipeline = gst::Pipeline::new();
    let elements = [source.clone().upcast(), queue.clone(), sink.clone().upcast()];
    pipeline.add_many(&elements).unwrap();
    gst::Element::link_many(&elements).unwrap();
    let agreed = Resolution { width: 96, height: 96 };
    let filter = JpegFilter { element: queue, agreed, expected: agreed, dropped: Arc::default() };
    filter.attach("camera", events).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let whole = whole();
    for _ in 0..5 {
        source.push_buffer(gst::Buffer::from_slice(whole[0].clone())).unwrap();
    }
    let AttemptEvent::Failed { error, .. } = told.recv_timeout(PATIENCE).unwrap() else { panic!("no failure") };
    assert_eq!(error.to_string(), "camera agreed to 96x96 and sends 96x80, which is used instead");
    source.end_of_stream().unwrap();
    assert!(sink.try_pull_sample(gst::ClockTime::from_seconds(5)).is_none(), "none reaches the decoder");
    assert!(told.try_recv().is_err(), "once");
    pipeline.set_state(gst::State::Null).unwrap();
}
