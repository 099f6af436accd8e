//! Tests of the capture process from its parent's side, with real GStreamer.

mod damaged;
mod renditions;
mod serving;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use peercam::capture::wire::{self, Header, MessageKind};
use peercam::capture::{Begin, Config, LearnedState, LogSettings, Order, Report, Role, Settings, Step};

use crate::serve::{EndState, serve};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(width: u32, height: u32, fps: u32) -> Config {
    Config { source: "test".into(), width, height, fps, ..Config::default() }
}

fn begin(role: Role) -> Begin {
    Begin { version: wire::VERSION, role, log: LogSettings::default(), memory: LearnedState::Null, blame: None }
}

fn of_camera() -> Role {
    Role::Camera { kept: BTreeMap::new() }
}

/// A message from the capture process.
#[derive(Debug)]
enum Received {
    Report(Report),
    Frame(Header, Bytes),
    Picture(Header, Bytes),
}

/// The parent of a capture process that runs as a thread of the test.
struct Parent {
    socket: UnixStream,
    capture: JoinHandle<io::Result<EndState>>,
    /// Whether it permits trials of encoders.
    gives_leave: bool,
}

impl Parent {
    fn new() -> Self {
        let (socket, child) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let capture = thread::spawn(move || serve(child, |_| {}));
        Self { socket, capture, gives_leave: true }
    }

    fn of(role: Role) -> Self {
        let mut parent = Self::new();
        parent.order(&Order::Begin(begin(role)));
        parent
    }

    fn order(&mut self, order: &Order) {
        self.socket.write_all(&wire::message(MessageKind::Order, order).unwrap()).unwrap();
    }

    fn open(&mut self, attempt: u32, config: Config) {
        self.order(&Order::Open { attempt, settings: Settings::Camera(config) });
    }

    fn next(&mut self) -> Received {
        let (header, body) = wire::read(&mut self.socket).unwrap().expect("the capture process still runs");
        match header.kind {
            MessageKind::Order => panic!("the capture process sends orders"),
            MessageKind::Frame => Received::Frame(header, body),
            MessageKind::Picture => Received::Picture(header, body),
            MessageKind::Report => {
                let report = serde_json::from_slice(&body).unwrap();
                if report == Report::Doing(Step::Waiting) && self.gives_leave {
                    self.order(&Order::Try);
                }
                Received::Report(report)
            }
        }
    }

    /// The next report for which `wanted` returns a value.
    fn report<T>(&mut self, wanted: impl Fn(Report) -> Option<T>) -> T {
        loop {
            if let Received::Report(report) = self.next()
                && let Some(found) = wanted(report)
            {
                return found;
            }
        }
    }

    fn frame(&mut self) -> (Header, Bytes) {
        loop {
            if let Received::Frame(header, body) = self.next() {
                return (header, body);
            }
        }
    }

    fn closed(&mut self, attempt: u32) {
        self.order(&Order::Close { attempt });
        self.report(|report| (report == Report::Closed { attempt }).then_some(()));
    }

    /// Closes the connection; returns the state of the capture process then.
    fn leave(self) -> io::Result<EndState> {
        drop(self.socket);
        self.capture.join().unwrap()
    }
}

/// Sends encoded bytes through a `chain` of GStreamer elements and returns the output.
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
