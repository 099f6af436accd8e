//! What the parent orders, in an order that is right and in others.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use peercam::capture::wire;
use peercam::capture::{
    Answer, AudioConfig, Begin, Blame, Config, Error, Memory, Order, Question, Rendition, Report, Role, Settings, Step,
};

use crate::attempt::{Attempt, Event, Means};
use crate::graph::branch::Branch;
use crate::graph::{Graph, snapshot};
use crate::guide::Guide;
use crate::look::controls::Adjusted;
use crate::look::device::Nodes;
use crate::opener::{Opener, Outcome};
use crate::output::Output;
use crate::source::Capture;
use crate::trials::Trials;

use super::*;

#[test]
fn an_attempt_is_told_of_step_by_step_and_its_frames_carry_its_number() {
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
    // The same process goes on with the next.
    parent.open(8, config(320, 180, 30));
    assert_eq!(parent.frame().0.number, 8);
    assert_eq!(parent.leave().unwrap(), Left::Capturing);
}

#[test]
fn no_encoder_is_tried_without_leave_and_what_was_found_out_is_handed_on() {
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
    assert_eq!(parent.leave().unwrap(), Left::AtRest);
    let mut next = Parent { gives_leave: false, ..Parent::new() };
    next.order(&Order::Begin(Begin { memory, ..begin(of_camera()) }));
    next.open(1, config(320, 180, 30));
    next.frame();
    next.leave().unwrap();
}

#[test]
fn an_encoder_that_a_process_died_of_is_passed_over_by_the_next() {
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
fn a_device_that_does_not_exist_is_a_failure_and_the_process_goes_on() {
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
fn questions_are_answered_beside_the_pictures() {
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
    let survey = Question::Survey { cameras: vec![config(320, 180, 30)], audio: capture("test") };
    let Ok(Answer::Survey(survey)) = ask(4, survey) else { panic!("no survey") };
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
fn what_the_parent_must_not_order_ends_the_process_with_the_reason() {
    let close = Order::Close { attempt: 1 };
    let open = |attempt| Order::Open { attempt, settings: Settings::Camera(config(320, 180, 30)) };
    let old = Begin { version: 0, ..begin(of_camera()) };
    let good = || Order::Begin(begin(of_camera()));
    let cases = [
        (vec![close], "the first order is not to begin"),
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
    parent.socket.write_all(&wire::message(Kind::Report, &Report::Closed { attempt: 1 }).unwrap()).unwrap();
    let error = parent.capture.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("no order"), "{error}");
    let mut parent = Parent::of(of_camera());
    parent.socket.write_all(b"GET / HTTP/1.1\r\n\r\n0123456789").unwrap();
    let error = parent.capture.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("kind 71"), "{error}");
}

#[test]
fn settings_of_something_else_are_a_failure() {
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
fn black_and_white_of_a_usb_camera_are_black_and_white_in_the_snapshot() {
    gst::init().unwrap();
    // What v4l2src says of nearly all of them: video range, BT.601.
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

/// A device that panics at the first look, and shows the test picture at the next.
struct Panicking {
    looks: AtomicU32,
    good: Capture,
}

impl Opener for Panicking {
    fn open(&mut self, settings: &Settings) -> Result<Graph, Error> {
        assert!(self.looks.fetch_add(1, Ordering::Relaxed) > 0, "a driver that nobody has thought of");
        self.good.open(settings)
    }

    fn rendition(&mut self, wanted: &Rendition, fps: f64) -> Result<(Branch, String), Error> {
        self.good.rendition(wanted, fps)
    }

    fn learn(&mut self, outcome: Outcome<'_>) {
        self.good.learn(outcome);
    }

    fn memory(&self) -> Memory {
        self.good.memory()
    }

    fn recall(&mut self, memory: Memory) {
        self.good.recall(memory);
    }

    fn blame(&mut self, blame: &Blame) {
        self.good.blame(blame);
    }
}

#[test]
fn a_panic_over_a_device_is_a_failure_like_another_and_the_next_attempt_goes_well() {
    let (mut socket, child) = UnixStream::pair().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let output = Output::new(child);
    let nodes = Nodes::new(Guide::alone());
    let adjusted = Adjusted::new(BTreeMap::new(), &nodes, output.clone());
    let good = Capture::new(adjusted, nodes, Trials::new(Guide::alone()));
    let opener = Arc::new(Mutex::new(Panicking { looks: AtomicU32::new(0), good }));
    let means = Means { opener, output, guide: Guide::alone() };
    for attempt in 1..=2 {
        let (done, closed) = mpsc::channel();
        let settings = Settings::Camera(config(320, 180, 30));
        let handle = Attempt::begin(attempt, settings, means.clone(), move || done.send(()).unwrap()).unwrap();
        loop {
            let (header, body) = wire::read(&mut socket).unwrap().unwrap();
            if header.kind == Kind::Frame {
                assert_eq!(attempt, 2);
                break;
            }
            if let Report::Failed { attempt: 1, error } = serde_json::from_slice(&body).unwrap() {
                assert!(error.to_string().contains("a driver that nobody has thought of"), "{error}");
                break;
            }
        }
        handle.tell(Event::Close);
        closed.recv_timeout(PATIENCE).unwrap();
    }
}
