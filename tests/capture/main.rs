//! Cameras and the microphone with real capture processes: GStreamer, test picture and test tone.

#![allow(clippy::unwrap_used, reason = "allowed in tests; clippy does not count their helpers as tests")]

mod changing;
mod dying;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use peercam::camera::{
    AudioConfig, AxisMotion, Camera, Config, Error, Launcher, LogSettings, Microphone, Preset, Privacy, PtzMovement,
    State,
};
use peercam::doctor;
use peercam::media::{Frame, H264Profile, Purpose, Resolution, Subscription, h264, time_code};
use peercam::tasks::Group;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(width: u32, height: u32, fps: u32) -> Config {
    Config { source: "test".into(), width, height, fps, ..Config::default() }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("done within PATIENCE")
}

/// Starts the program that was built with this test.
fn launcher() -> Launcher {
    let log = LogSettings { filter: "warn".into(), ..LogSettings::default() };
    Launcher::with_program(env!("CARGO_BIN_EXE_peercam-capture").into(), log, Duration::from_secs(2))
}

/// The Unix time of a moment.
fn unix_time(moment: Instant) -> Duration {
    let (now, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    wall - (now - moment)
}

async fn close(group: Group) {
    assert!(group.close(Duration::from_secs(5)).await, "tasks are left");
}

async fn frames(viewer: &mut Subscription, count: usize) -> Vec<std::sync::Arc<Frame>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        frames.push(in_time(viewer.next()).await);
    }
    frames
}

/// A raw picture, decoded from a frame.
struct Decoded {
    info: gst_video::VideoInfo,
    bytes: Vec<u8>,
}

impl Decoded {
    fn luma(&self, x: usize, y: usize) -> u8 {
        self.bytes[self.info.offset()[0] + y * self.info.stride()[0] as usize + x]
    }
}

/// Runs encoded bytes through a `chain` of GStreamer elements and returns the output.
fn through(chain: &str, caps: &str, buffers: &[Bytes]) -> Vec<gst::Sample> {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!("appsrc name=in format=time ! {chain} ! appsink name=out sync=false"))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    source.set_caps(Some(&caps.parse().unwrap()));
    pipeline.set_state(gst::State::Playing).unwrap();
    for (index, bytes) in buffers.iter().enumerate() {
        let mut buffer = gst::Buffer::from_slice(bytes.clone());
        buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(20 * index as u64));
        source.push_buffer(buffer).unwrap();
    }
    source.end_of_stream().unwrap();
    let samples = std::iter::from_fn(|| sink.try_pull_sample(gst::ClockTime::from_seconds(10))).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    samples
}

fn decoded(chain: &str, caps: &str, buffers: &[Bytes]) -> Vec<Decoded> {
    let samples = through(&format!("{chain} ! videoconvert ! video/x-raw,format=I420"), caps, buffers);
    let decoded = |sample: gst::Sample| Decoded {
        info: gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap(),
        bytes: sample.buffer().unwrap().map_readable().unwrap().to_vec(),
    };
    samples.into_iter().map(decoded).collect()
}

const H264: &str = "video/x-h264,stream-format=byte-stream,alignment=au";

#[tokio::test(flavor = "multi_thread")]
async fn frames_flow_and_begin_with_a_key_frame() {
    let group = Group::new();
    let camera = Camera::open(config(1280, 720, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    let frames = frames(&mut viewer, 30).await;
    assert!(frames[0].is_key);
    assert!(frames.windows(2).all(|pair| pair[0].captured < pair[1].captured), "captured goes forward only");
    let status = camera.status().borrow().clone();
    assert_eq!((status.state, status.encoder_starts, status.encoders_running), (State::Live, 1, 1));
    assert_eq!((status.device.as_str(), status.reason), ("test picture", None));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_constrained_baseline_without_b_frames_or_delimiters() {
    for encoder in ["x264enc", "openh264enc"] {
        let group = Group::new();
        let camera = Camera::open(Config { encoder: encoder.into(), ..config(640, 360, 30) }, &launcher(), &group);
        let mut viewer = camera.feed().subscribe(Purpose::Viewer);
        for frame in frames(&mut viewer, 20).await {
            let starts = frame.data.windows(4).filter(|bytes| bytes[..3] == [0, 0, 1]);
            let types: Vec<u8> = starts.map(|bytes| bytes[3] & 0x1f).collect();
            assert!(!types.contains(&9), "{encoder}: an access unit delimiter in {types:?}");
            assert!(!frame.is_key || types.starts_with(&[7, 8]), "{encoder}: a key frame with {types:?}");
            assert_eq!(frame.is_key, types.contains(&5), "{encoder}: {types:?}");
            // Baseline has no B-slices; that it is baseline is in the SPS.
            if frame.is_key {
                assert_eq!(h264::profile(&frame.data), Some(H264Profile::CONSTRAINED_BASELINE), "{encoder}");
            }
        }
        assert_eq!(camera.status().borrow().encoder.as_deref(), Some(encoder));
        let format = camera.feed().format().borrow().clone();
        assert_eq!(format.profile(), Some(H264Profile::CONSTRAINED_BASELINE));
        assert!(!format.parameter_sets.is_empty() && format.size.is_some(), "{format:?}");
        close(group).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_request_brings_a_key_frame_at_once_and_a_flood_two_a_second() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    // After the pause that follows the start.
    frames(&mut viewer, 25).await;
    viewer.request_key_frame();
    let after: Vec<bool> = frames(&mut viewer, 8).await.iter().map(|frame| frame.is_key).collect();
    assert!(after.contains(&true), "no key frame within 8 frames of the request: {after:?}");
    let begun = Instant::now();
    let mut forced = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        viewer.request_key_frame();
        forced += u32::from(in_time(viewer.next()).await.is_key);
    }
    assert!((4..=7).contains(&forced), "{forced} key frames in 3 s");
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bitrate_changes_while_running() {
    let group = Group::new();
    let camera = Camera::open(Config { bitrate: 4000, ..config(1280, 720, 30) }, &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    let mut key_frame_size = async || {
        viewer.request_key_frame();
        loop {
            let frame = in_time(viewer.next()).await;
            if frame.is_key {
                return frame.data.len();
            }
        }
    };
    let generous = key_frame_size().await;
    camera.configure(Config { bitrate: 100, ..camera.config() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The first is perhaps older than the change.
    key_frame_size().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    key_frame_size().await;
    let thrifty = key_frame_size().await;
    assert!(thrifty * 2 < generous, "a key frame of {thrifty} bytes after one of {generous}");
    assert_eq!(camera.status().borrow().encoder_starts, 1, "the encoder runs on");
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_encoder_stops_after_the_last_viewer_and_restarts_on_the_same_time_line() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let mut status = camera.status();
    let (mut first, second) = (camera.feed().subscribe(Purpose::Viewer), camera.feed().subscribe(Purpose::Viewer));
    let last = frames(&mut first, 5).await[4].captured;
    drop(first);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(status.borrow().encoders_running, 1, "one viewer is left");
    drop(second);
    in_time(status.wait_for(|status| status.state == State::Idle && status.encoders_running == 0)).await.unwrap();
    let mut again = camera.feed().subscribe(Purpose::Viewer);
    let frame = in_time(again.next()).await;
    assert!(frame.is_key && frame.captured > last + Duration::from_secs(2));
    in_time(status.wait_for(|status| status.state == State::Live)).await.unwrap();
    assert_eq!((status.borrow().encoder_starts, status.borrow().encoders_running), (2, 1));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_code_survives_the_encoder_and_matches_the_capture_time() {
    for (width, height) in [(1280, 720), (640, 360)] {
        let group = Group::new();
        let camera = Camera::open(config(width, height, 30), &launcher(), &group);
        let mut viewer = camera.feed().subscribe(Purpose::Viewer);
        let frames = frames(&mut viewer, 12).await;
        let bytes: Vec<Bytes> = frames.iter().map(|frame| frame.data.clone()).collect();
        let pictures = decoded("h264parse ! openh264dec", H264, &bytes);
        assert!(pictures.len() >= 10, "{} of 12 pictures decoded", pictures.len());
        for (picture, frame) in pictures.iter().zip(&frames) {
            let resolution = Resolution { width, height };
            let luma = &picture.bytes[picture.info.offset()[0]..];
            let read = time_code::decode(luma, picture.info.stride()[0] as usize, resolution);
            let captured = unix_time(frame.captured).as_millis() as u32;
            let off = read.map(|read| i64::from(read).abs_diff(i64::from(captured)));
            assert!(off.is_some_and(|off| off <= 2), "{read:?} in a frame of {captured} at {resolution}");
        }
        close(group).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flash_and_beep_begin_together() {
    let group = Group::new();
    let test = config(320, 180, 30);
    let camera = Camera::open(test.clone(), &launcher(), &group);
    let sound = AudioConfig { capture: "auto".into(), ..AudioConfig::default() };
    let microphone = Microphone::open(sound, &[test], &launcher(), &group).unwrap();
    let (mut video, mut audio) =
        (camera.feed().subscribe(Purpose::Viewer), microphone.feed().subscribe(Purpose::Viewer));
    let (pictures, packets) = tokio::join!(frames(&mut video, 75), frames(&mut audio, 125));

    let bytes: Vec<Bytes> = pictures.iter().map(|frame| frame.data.clone()).collect();
    let decoded = decoded("h264parse ! openh264dec", H264, &bytes);
    let is_white = |picture: &Decoded| picture.luma(300, 170) > 128;
    let flash =
        decoded.windows(2).position(|pair| !is_white(&pair[0]) && is_white(&pair[1])).expect("2.5 s have a flash");
    let flash = unix_time(pictures[flash + 1].captured);

    let bytes: Vec<Bytes> = packets.iter().map(|packet| packet.data.clone()).collect();
    let chain = "opusdec ! audioconvert ! audio/x-raw,format=S16LE,channels=1,rate=48000";
    let caps = "audio/x-opus,rate=48000,channels=1,channel-mapping-family=0";
    let samples: Vec<i16> = through(chain, caps, &bytes)
        .iter()
        .flat_map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec())
        .collect::<Vec<u8>>()
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let loud = |sample: &i16| sample.unsigned_abs() > 2000;
    // From silence: the recording may begin within a beep.
    let silence = samples.windows(4800).position(|window| !window.iter().any(loud)).expect("silence between beeps");
    let beep = silence + samples[silence..].iter().position(loud).expect("2.5 s have a beep");
    let beep = unix_time(packets[0].captured) + Duration::from_secs_f64(beep as f64 / 48_000.0);

    let into_second = |time: Duration| (time.as_secs_f64() + 0.5).fract() - 0.5;
    assert!(into_second(flash).abs() < 0.040, "flash {} s off the second", into_second(flash));
    assert!(into_second(beep).abs() < 0.030, "beep {} s off the second", into_second(beep));
    assert_eq!(microphone.status().borrow().device, "test tone");
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_a_jpeg_of_the_right_size_and_colours() {
    let group = Group::new();
    let camera = Camera::open(config(640, 360, 30), &launcher(), &group);
    let jpeg = camera.snapshot().await.unwrap();
    assert_eq!(jpeg[..2], [0xff, 0xd8]);
    let chain = "jpegdec ! videoconvert ! video/x-raw,format=RGB";
    let picture = &through(chain, "image/jpeg", &[jpeg])[0];
    let info = gst_video::VideoInfo::from_caps(picture.caps().unwrap()).unwrap();
    assert_eq!((info.width(), info.height()), (640, 360));
    let bytes = picture.buffer().unwrap().map_readable().unwrap().to_vec();
    // The eighth place has the leaves, which are never the same.
    let bars = [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191)];
    for (bar, (red, green, blue)) in bars.into_iter().enumerate() {
        let at = 150 * info.stride()[0] as usize + (bar * 80 + 40) * 3;
        let off = [(bytes[at], red), (bytes[at + 1], green), (bytes[at + 2], blue)].map(|(is, want)| is.abs_diff(want));
        assert!(off.into_iter().all(|off| off < 12), "bar {bar} is {:?}, not {red} {green} {blue}", &bytes[at..at + 3]);
    }
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_camera_waits_with_the_reason_and_a_snapshot_returns_it() {
    let group = Group::new();
    let camera = Camera::open(Config { source: "/dev/video987".into(), ..Config::default() }, &launcher(), &group);
    let mut status = camera.status();
    let error = camera.snapshot().await.unwrap_err().to_string();
    assert!(error.contains("/dev/video987 does not exist"), "{error}");
    let status = status.borrow_and_update().clone();
    assert_eq!((status.encoder_starts, status.encoders_running), (0, 0));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_configurations_are_reported_with_advice() {
    let cases = [
        (Config { source: "/dev/null".into(), ..Config::default() }, "/dev/null is no capture device"),
        (Config { source: "libcamera".into(), ..Config::default() }, "install gstreamer1.0-libcamera"),
        (Config { encoder: "x265enc".into(), ..config(320, 180, 30) }, "no encoder is called \"x265enc\""),
        (Config { encoder: "nvh264enc".into(), ..config(320, 180, 30) }, "no encoder works here: nvh264enc"),
    ];
    for (config, reason) in cases {
        let group = Group::new();
        let camera = Camera::open(config, &launcher(), &group);
        let _viewer = camera.feed().subscribe(Purpose::Viewer);
        let mut status = camera.status();
        let status = in_time(status.wait_for(|status| status.state == State::Waiting)).await.unwrap().clone();
        assert!(status.reason.as_deref().is_some_and(|why| why.contains(reason)), "{status:?}");
        close(group).await;
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_a_problem_with_its_reason() {
    let absent = Config { source: "/dev/video987".into(), ..Config::default() };
    let report =
        doctor::check(&[absent], &AudioConfig { capture: "off".into(), ..AudioConfig::default() }, &launcher()).await;
    assert!(report.has_problem());
    assert!(report.to_string().contains("/dev/video987 does not exist"), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["level"], "problem");
}

#[tokio::test]
async fn the_test_picture_has_an_encoder_that_was_tried() {
    let test = Config { source: "test".into(), ..Config::default() };
    let report =
        doctor::check(&[test], &AudioConfig { capture: "test".into(), ..AudioConfig::default() }, &launcher()).await;
    let text = report.to_string();
    assert!(text.contains("x264enc works"), "{text}");
    assert!(text.contains("main: test picture, I420 1280x720 at 30 fps, "), "{text}");
}

#[test]
fn the_defaults_are_valid_and_wrong_values_are_named_by_key() {
    assert_eq!(Config::default().check(), []);
    assert_eq!(AudioConfig::default().check(), []);
    let wrong = Config { width: 1281, fps: 0, bitrate: 1, encoder: "x265enc".into(), ..Config::default() };
    let keys: Vec<_> = wrong.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["width", "fps", "bitrate", "encoder"]);
    let wrong = AudioConfig { channels: 3, bitrate: 1, capture: " ".into() };
    let keys: Vec<_> = wrong.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["capture", "channels", "bitrate"]);
}

/// Resident memory in KiB, and processor time in hundredths of a second (proc(5)).
fn spent() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().unwrap();
    (resident.trim().trim_end_matches(" kB").parse().unwrap(), ticks(11) + ticks(12))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, with --nocapture"]
async fn measure_first_frame_processor_and_memory() {
    println!("before: {} KiB", spent().0);
    for round in 0..3 {
        let group = Group::new();
        let begun = Instant::now();
        let camera = Camera::open(config(1280, 720, 30), &launcher(), &group);
        let mut viewer = camera.feed().subscribe(Purpose::Viewer);
        let frame = in_time(viewer.next()).await;
        let (took, behind) = (begun.elapsed(), frame.captured.elapsed());
        println!("round {round}: first frame after {took:?}, {behind:?} after its capture");
        if round == 0 {
            let (begun, before) = (Instant::now(), spent().1);
            let (mut bytes, mut count, mut delays) = (0, 0, Vec::new());
            while begun.elapsed() < Duration::from_secs(10) {
                let frame = in_time(viewer.next()).await;
                (bytes, count) = (bytes + frame.data.len(), count + 1);
                delays.push(frame.captured.elapsed());
            }
            delays.sort();
            let (resident, after) = spent();
            println!(
                "{count} frames, {} kbit/s, {} % of a core, {resident} KiB, capture to feed median {:?}, 95th {:?}",
                bytes * 8 / 10_000,
                (after - before) / 10,
                delays[delays.len() / 2],
                delays[delays.len() * 95 / 100]
            );
        }
        drop(viewer);
        close(group).await;
        println!("stopped: {} KiB", spent().0);
    }
    let idle = Group::new();
    let _camera = Camera::open(config(1280, 720, 30), &launcher(), &idle);
    let before = spent().1;
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("idle: {} hundredths of a second in 5 s", spent().1 - before);
    close(idle).await;
}
