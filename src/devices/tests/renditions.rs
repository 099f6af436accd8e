//! Several encodings of one camera.

use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer_video as gst_video;
use peercam::capture::wire::Header;
use peercam::capture::{Config, Order, Rendition, Report};
use peercam::media::{Bitrate, Resolution};

use super::{Parent, config, of_camera, through};

const SMALL: Rendition = Rendition { resolution: Resolution { width: 320, height: 180 }, bitrate: Bitrate::kbps(300) };

const FPS: u32 = 15;

fn size_of(key_frame: &Bytes) -> (u32, u32) {
    let caps = "video/x-h264,stream-format=byte-stream,alignment=au";
    let samples = through("h264parse ! openh264dec", caps, std::slice::from_ref(key_frame));
    let info = gst_video::VideoInfo::from_caps(samples[0].caps().unwrap()).unwrap();
    (info.width(), info.height())
}

/// Collects frames of both renditions until `enough` returns true for them.
fn frames(parent: &mut Parent, enough: impl Fn(&[Vec<(Header, Bytes)>; 2]) -> bool) -> [Vec<(Header, Bytes)>; 2] {
    let mut found = [vec![], vec![]];
    while !enough(&found) {
        let (header, body) = parent.frame();
        found[usize::from(header.rendition)].push((header, body));
    }
    found
}

#[test]
fn adding_and_removing_a_rendition_loses_no_frame_of_the_other() {
    gst::init().unwrap();
    let mut parent = Parent::of(of_camera());
    // If the machine is too slow, pictures are dropped before the encoder; here they are few and small.
    parent.open(1, Config { key_frame_interval: 600, ..config(480, 270, FPS) });
    let mut watched = Vec::new();
    let [first, _] = frames(&mut parent, |found| found[0].len() >= 10);
    watched.extend(first);
    for _ in 0..3 {
        parent.order(&Order::Rendition { number: 1, wanted: Some(SMALL) });
        let [large, small] = frames(&mut parent, |found| found[1].len() >= 15);
        assert!(small[0].0.is_key && size_of(&small[0].1) == (320, 180));
        watched.extend(large);
        parent.order(&Order::KeyFrame { rendition: 1 });
        let [large, small] = frames(&mut parent, |found| found[1].len() >= 10);
        assert!(small.iter().any(|(header, _)| header.is_key), "a key frame that was asked for");
        assert!(large.iter().all(|(header, _)| !header.is_key), "the other has none of it");
        watched.extend(large);
        parent.order(&Order::Rendition { number: 1, wanted: None });
        let [large, _] = frames(&mut parent, |found| found[0].len() >= 20);
        watched.extend(large);
    }
    let [after, none] = frames(&mut parent, |found| found[0].len() >= 20);
    assert!(none.is_empty(), "{} frames of what ended", none.len());
    watched.extend(after);
    parent.closed(1);
    let interval = Duration::from_secs(1) / FPS;
    let apart = watched.windows(2).map(|pair| Duration::from_nanos(pair[1].0.captured - pair[0].0.captured));
    let lost: Vec<_> = apart.filter(|apart| *apart > interval * 3 / 2).collect();
    assert!(lost.is_empty(), "of {} frames some are missing: {lost:?}", watched.len());
    assert_eq!(watched.iter().filter(|(header, _)| header.is_key).count(), 1);
    parent.leave().unwrap();
}

#[test]
fn an_impossible_rendition_is_refused_and_the_others_continue() {
    let mut parent = Parent::of(of_camera());
    parent.open(1, config(320, 180, 30));
    parent.frame();
    let odd = Rendition { resolution: Resolution { width: 321, height: 180 }, ..SMALL };
    parent.order(&Order::Rendition { number: 2, wanted: Some(odd) });
    let outcome = parent.report(|report| match report {
        Report::Rendition { attempt: 1, number: 2, outcome } => Some(outcome),
        _ => None,
    });
    assert!(outcome.unwrap_err().to_string().contains("321x180"));
    // Ending one that never existed is no error.
    parent.order(&Order::Rendition { number: 7, wanted: None });
    for _ in 0..10 {
        assert_eq!(parent.frame().0.rendition, 0);
    }
    parent.order(&Order::Rendition { number: 8, wanted: None });
    let error = parent.capture.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("there is no rendition 8"), "{error}");
}
