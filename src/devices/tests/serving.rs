//! Orders of the parent, in valid sequences and in others.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use peercam::capture::wire;
use peercam::capture::{
    Answer, AudioConfig, Begin, Blame, Config, Error, LearnedState, Order, Question, Rendition, Report, Role, Settings,
    Step,
};

use crate::attempt::{Attempt, AttemptContext, AttemptEvent};
use crate::codec_trials::CodecTrials;
use crate::graph::branch::Branch;
use crate::graph::{Graph, snapshot};
use crate::graph_builder::{AttemptOutcome, GraphBuilder};
use crate::inventory::controls::DeviceControls;
use crate::inventory::device::Nodes;
use crate::output::Output;
use crate::source::CameraBuilder;
use crate::step_reporter::StepReporter;

use super::*;

#[test]
fn an_attempt_reports_each_step_and_its_frames_carry_its_number() {
    let mut parent = Parent::of(of_camera());
    let mut told = Vec::new();
    parent.open(7, config(320, 180, 30));
    loop {
        match parent.next() {
            Received::Report(Report::Doing(step)) => told.push(step.to_string()),
            Received::Report(Report::Built { attempt, built }) => {
                assert_eq!((attempt, built.device.as_str()), (7, "test picture"));
                told.push("built".into());
            }
            Received::Report(_) => {}
            Received::Picture(..) => panic!("nobody asked for a picture"),
            Received::Frame(header, _) => {
                assert!(header.is_key && header.number == 7 && header.rendition == 0);
                break;
            }
        }
    }
    let expected = [
        "loading GStreamer",
        "looking at devices",
        "waiting to try an encoder",
        "trying x264enc",
        "looking at devices",
        "built",
        "starting test picture",
    ];
    assert_eq!(told[..7], expected);
    parent.closed(7);
    // The same process serves the next attempt.
    parent.open(8, config(320, 180, 30));
    assert_eq!(parent.frame().0.number, 8);
    assert_eq!(parent.leave().unwrap(), EndState::Capturing);
}

#[test]
fn no_encoder_is_tried_without_a_permit_and_results_pass_to_the_next_process() {
    let mut parent = Parent { gives_leave: false, ..Parent::of(of_camera()) };
    parent.open(1, config(320, 180, 30));
    parent.report(|report| (report == Report::Doing(Step::Waiting)).then_some(()));
    parent.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(wire::read(&mut parent.socket).is_err(), "it waits for leave");
    parent.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    parent.order(&Order::Try);
    let memory = parent.report(|report| match report {
        Report::Remember(memory) => Some(memory),
        _ => None,
    });
    parent.frame();
    parent.closed(1);
    assert_eq!(parent.leave().unwrap(), EndState::AtRest);
    let mut next = Parent { gives_leave: false, ..Parent::new() };
    next.order(&Order::Begin(Begin { memory, ..begin(of_camera()) }));
    next.open(1, config(320, 180, 30));
    next.frame();
    next.leave().unwrap();
}

#[test]
fn the_next_process_skips_an_encoder_that_the_last_one_died_of() {
    let mut parent = Parent::new();
    let blame = Blame { step: Step::Trying { encoder: "x264enc".into() }, how: "it hung".into() };
    parent.order(&Order::Begin(Begin { blame: Some(blame), ..begin(of_camera()) }));
    parent.open(1, config(320, 180, 30));
    let encoder = parent.report(|report| match report {
        Report::Built { built, .. } => built.encoder,
        _ => None,
    });
    assert_eq!(encoder, "openh264enc");
    parent.leave().unwrap();
}

#[test]
fn a_missing_device_is_a_failure_and_the_process_continues() {
    let mut parent = Parent::of(of_camera());
    parent.open(1, Config { source: "/dev/video987".into(), ..Config::default() });
    let error = parent.report(|report| match report {
        Report::Failed { attempt: 1, error } => Some(error),
        _ => None,
    });
    assert_eq!(error, Error::Absent { device: "/dev/video987".into() });
    parent.closed(1);
    parent.open(2, config(320, 180, 30));
    parent.frame();
    parent.leave().unwrap();
}

#[test]
fn questions_are_answered_while_pictures_are_sent() {
    let mut parent = Parent::of(of_camera());
    let mut ask = |request, question| {
        parent.order(&Order::Ask { request, question });
        loop {
            match parent.next() {
                Received::Report(Report::Answer { request: answered, answer }) => {
                    assert_eq!(answered, request);
                    return answer.map_err(|error| error.to_string());
                }
                Received::Picture(header, jpeg) => {
                    assert_eq!((header.number, &jpeg[..2]), (request, &[0xff, 0xd8][..]));
                    return Ok(Answer::Done);
                }
                _ => {}
            }
        }
    };
    assert_eq!(ask(1, Question::Controls(config(320, 180, 30))), Err("the test picture has no controls".into()));
    assert!(ask(2, Question::Snapshot).is_err_and(|why| why.contains("no pictures come")));
    let capture = |name: &str| AudioConfig { capture: name.into(), ..AudioConfig::default() };
    assert_eq!(ask(3, Question::HasSound(capture("test"))), Ok(Answer::HasSound(true)));
    let survey = Question::Inventory { cameras: vec![config(320, 180, 30)], audio: capture("test") };
    let Ok(Answer::Inventory(survey)) = ask(4, survey) else { panic!("no survey") };
    assert!(survey.uses[0].1.as_ref().is_ok_and(|used| used.starts_with("test picture, I420 320x180 at 30 fps, ")));
    parent.open(1, config(320, 180, 30));
    parent.frame();
    parent.order(&Order::Ask { request: 5, question: Question::Snapshot });
    let picture = loop {
        if let Received::Picture(header, jpeg) = parent.next() {
            break (header.number, jpeg[..2].to_vec());
        }
    };
    assert_eq!(picture, (5, vec![0xff, 0xd8]));
    parent.leave().unwrap();
}

#[test]
fn invalid_orders_end_the_process_with_the_reason() {
    let close = Order::Close { attempt: 1 };
    let open = |attempt| Order::Open { attempt, settings: Settings::Camera(config(320, 180, 30)) };
    let old = Begin { version: 0, ..begin(of_camera()) };
    let good = || Order::Begin(begin(of_camera()));
    let cases = [
        (vec![close], "the first order is not `begin`"),
        (vec![Order::Begin(old)], "peercam speaks version 0 of the protocol, peercam-capture version 1"),
        (vec![good(), good()], "the parent begins twice"),
        (vec![good(), open(1), open(2)], "attempt 2 begins before attempt 1 is closed"),
    ];
    for (orders, why) in cases {
        let mut parent = Parent::new();
        orders.iter().for_each(|order| parent.order(order));
        let error = parent.capture.join().unwrap().unwrap_err().to_string();
        assert_eq!(error, why);
    }
    let mut parent = Parent::of(of_camera());
    parent.socket.write_all(&wire::message(MessageKind::Report, &Report::Closed { attempt: 1 }).unwrap()).unwrap();
    let error = parent.capture.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("not an order"), "{error}");
    let mut parent = Parent::of(of_camera());
    parent.socket.write_all(b"GET / HTTP/1.1\r\n\r\n0123456789").unwrap();
    let error = parent.capture.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("kind 71"), "{error}");
}

#[test]
fn settings_for_another_kind_of_device_are_a_failure() {
    let mut parent = Parent::of(Role::Microphone { cameras: vec![] });
    parent.open(1, config(320, 180, 30));
    let error = parent.report(|report| match report {
        Report::Failed { error, .. } => Some(error.to_string()),
        _ => None,
    });
    assert!(error.contains("no settings of a microphone"), "{error}");
    parent.leave().unwrap();
}

#[test]
fn video_range_black_and_white_are_full_range_in_the_snapshot() {
    gst::init().unwrap();
    // What v4l2src reports for nearly all of them: video range, BT.601.
    let caps = "video/x-raw,format=NV12,width=64,height=64,framerate=30/1,colorimetry=2:4:7:1".parse().unwrap();
    let mut bytes = vec![128; 64 * 96];
    bytes[..64 * 32].fill(16);
    bytes[64 * 32..64 * 64].fill(235);
    let sample = gst::Sample::builder().caps(&caps).buffer(&gst::Buffer::from_slice(bytes)).build();
    let jpeg = snapshot::convert(&snapshot::Still::Raw(sample)).unwrap();
    let chain = "jpegdec ! videoconvert ! video/x-raw,format=RGB";
    let picture = &through(chain, "image/jpeg", &[jpeg])[0];
    let bytes = picture.buffer().unwrap().map_readable().unwrap().to_vec();
    let (black, white) = (bytes[8 * 192 + 30], bytes[56 * 192 + 30]);
    assert!(black < 4 && white > 251, "black is {black}, white is {white}");
}

/// A device that panics at the first attempt, and shows the test picture at the next.
struct Panicking {
    looks: AtomicU32,
    good: CameraBuilder,
}

impl GraphBuilder for Panicking {
    fn build(&mut self, settings: &Settings) -> Result<Graph, Error> {
        assert!(self.looks.fetch_add(1, Ordering::Relaxed) > 0, "a driver that nobody has thought of");
        self.good.build(settings)
    }

    fn rendition(&mut self, wanted: &Rendition, fps: f64) -> Result<(Branch, String), Error> {
        self.good.rendition(wanted, fps)
    }

    fn record_outcome(&mut self, outcome: AttemptOutcome<'_>) {
        self.good.record_outcome(outcome);
    }

    fn learned(&self) -> LearnedState {
        self.good.learned()
    }

    fn restore(&mut self, memory: LearnedState) {
        self.good.restore(memory);
    }

    fn record_crash(&mut self, blame: &Blame) {
        self.good.record_crash(blame);
    }
}

#[test]
fn a_panic_in_one_attempt_is_a_failure_and_the_next_attempt_works() {
    let (mut socket, child) = UnixStream::pair().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let output = Output::new(child);
    let nodes = Nodes::new(StepReporter::silent());
    let controls = DeviceControls::new(BTreeMap::new(), &nodes, output.clone());
    let good = CameraBuilder::new(controls, nodes, CodecTrials::new(StepReporter::silent()));
    let builder = Arc::new(Mutex::new(Panicking { looks: AtomicU32::new(0), good }));
    let context = AttemptContext { builder, output, reporter: StepReporter::silent() };
    for attempt in 1..=2 {
        let (done, closed) = mpsc::channel();
        let settings = Settings::Camera(config(320, 180, 30));
        let handle = Attempt::begin(attempt, settings, context.clone(), move || done.send(()).unwrap()).unwrap();
        loop {
            let (header, body) = wire::read(&mut socket).unwrap().unwrap();
            if header.kind == MessageKind::Frame {
                assert_eq!(attempt, 2);
                break;
            }
            if let Report::Failed { attempt: 1, error } = serde_json::from_slice(&body).unwrap() {
                assert!(error.to_string().contains("a driver that nobody has thought of"), "{error}");
                break;
            }
        }
        handle.send(AttemptEvent::Close);
        closed.recv_timeout(PATIENCE).unwrap();
    }
}
