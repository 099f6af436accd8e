//! Tests of cameras with a fake capture process, which can misbehave in ways that a real one does not.

mod false_reports;
mod misbehaving;
mod time_limits;
mod well_behaved;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream as Socket;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::net::UnixStream;

use crate::capture::wire::{self, Header, MessageKind};
use crate::capture::{ActiveMode, Begin, Built, Order, Patience, Report, Step};
use crate::media::{Frame, Purpose, Resolution, Subscription};

use super::launcher::{Exit, ProcessHandle};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("done within PATIENCE")
}

async fn close(group: Group) {
    assert!(group.close(Duration::from_secs(5)).await, "tasks are left");
}

/// Launches fake processes with these behaviours, in order. The last one repeats.
#[derive(Clone)]
pub struct FakeLauncher(Arc<Mutex<VecDeque<Behaviour>>>);

type Behaviour = Arc<dyn Fn(&mut FakeProcess) -> Option<Exit> + Send + Sync>;

impl FakeLauncher {
    /// Starts a fake process, and connects to it.
    pub fn launch(&self) -> io::Result<(UnixStream, ProcessHandle)> {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        let behaviour = {
            let mut behaviours = self.0.lock().unwrap();
            if behaviours.len() > 1 { behaviours.pop_front() } else { behaviours.front().cloned() }
        };
        let behaviour = behaviour.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such program"))?;
        let (killed, is_killed) = watch::channel(false);
        let (ended, has_ended) = watch::channel(None);
        let mut process = FakeProcess { socket: theirs, is_killed, begin: None };
        thread::spawn(move || {
            let exit = behaviour(&mut process);
            let exit = if *process.is_killed.borrow() { Exit::Signal(9) } else { exit.unwrap_or(Exit::Code(0)) };
            drop(process);
            ended.send_replace(Some(exit));
        });
        Ok((UnixStream::from_std(ours)?, ProcessHandle::Fake(FakeHandle { killed, has_ended })))
    }
}

/// Handle to a fake process.
pub struct FakeHandle {
    killed: watch::Sender<bool>,
    has_ended: watch::Receiver<Option<Exit>>,
}

impl fmt::Debug for FakeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fake")
    }
}

impl FakeHandle {
    pub fn kill(&self) -> io::Result<()> {
        self.killed.send_replace(true);
        Ok(())
    }

    pub async fn ended(&mut self) -> Exit {
        self.has_ended.wait_for(Option::is_some).await.unwrap().unwrap()
    }
}

/// A fake process: its side of the connection.
pub struct FakeProcess {
    socket: Socket,
    is_killed: watch::Receiver<bool>,
    begin: Option<Begin>,
}

impl FakeProcess {
    /// The next order; `None` if the parent is gone, or has killed the process.
    fn order(&mut self) -> Option<Order> {
        self.socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        loop {
            if *self.is_killed.borrow() {
                return None;
            }
            match wire::read(&mut self.socket) {
                Ok(found) => return found.map(|(_, body)| serde_json::from_slice(&body).unwrap()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }

    /// Does nothing until it is killed.
    fn hang(&self) -> Option<Exit> {
        while !*self.is_killed.borrow() {
            thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn report(&mut self, report: &Report) {
        self.raw(&wire::message(MessageKind::Report, report).unwrap());
    }

    fn doing(&mut self, step: Step) {
        self.report(&Report::Doing(step));
    }

    /// Ignores errors: the parent may be gone.
    fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).ok();
    }

    fn frame(&mut self, attempt: u32, is_key: bool, text: &str) {
        let captured = wire::nanoseconds(std::time::Instant::now());
        let length = text.len() as u32;
        let header = Header { kind: MessageKind::Frame, is_key, rendition: 0, length, number: attempt, captured };
        self.raw(&[&header.bytes()[..], text.as_bytes()].concat());
    }

    /// Sends the hello and receives the first settings.
    fn greet(&mut self) -> Option<Begin> {
        self.report(&Report::Hello { version: wire::VERSION });
        let Some(Order::Begin(begin)) = self.order() else { return None };
        self.begin = Some(begin.clone());
        Some(begin)
    }

    /// The number of the next attempt.
    fn opened(&mut self) -> Option<u32> {
        loop {
            if let Order::Open { attempt, .. } = self.order()? {
                return Some(attempt);
            }
        }
    }

    /// Builds and starts, and sends the first frame.
    fn run(&mut self, attempt: u32) {
        self.report(&Report::Built { attempt, built: built() });
        self.doing(running());
        self.frame(attempt, true, "first");
    }

    /// Sends a frame each 20 ms and carries out orders, until the parent is gone or `ends` returns true.
    fn serve(&mut self, mut ends: impl FnMut(&mut Self, u32, u32) -> bool) -> Option<()> {
        loop {
            let attempt = self.opened()?;
            self.run(attempt);
            self.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            for number in 0.. {
                if *self.is_killed.borrow() || ends(self, attempt, number) {
                    return None;
                }
                match wire::read(&mut self.socket) {
                    Ok(Some((_, body))) => match serde_json::from_slice(&body).unwrap() {
                        Order::Close { .. } => {
                            self.report(&Report::Closed { attempt });
                            break;
                        }
                        Order::KeyFrame { .. } => self.frame(attempt, true, "key"),
                        _ => {}
                    },
                    Ok(None) => return None,
                    Err(_) => self.frame(attempt, false, "next"),
                }
            }
        }
    }
}

fn built() -> Built {
    Built {
        device: "camera".into(),
        mode: Some(ActiveMode { format: "NV12".into(), resolution: Resolution { width: 640, height: 480 }, fps: 50.0 }),
        encoder: Some("x264enc".into()),
        key_frames_on_demand: Some(true),
        patience: Patience { first: Duration::from_millis(300), next: Duration::from_millis(200) },
    }
}

fn running() -> Step {
    Step::Running { device: "camera".into(), format: Some("NV12".into()), encoder: Some("x264enc".into()) }
}

/// A process that does what it should.
fn good(process: &mut FakeProcess) -> Option<Exit> {
    process.greet()?;
    process.serve(|_, _, _| false);
    None
}

/// A camera with fake processes.
struct Fixture {
    group: Group,
    camera: Camera,
    viewer: Subscription,
    status: watch::Receiver<Status>,
}

impl Fixture {
    fn new(behaviours: Vec<Behaviour>) -> Self {
        Self::with(behaviours, Duration::from_secs(60))
    }

    fn with(behaviours: Vec<Behaviour>, linger: Duration) -> Self {
        let group = Group::new();
        let launcher = Launcher::with_fake(FakeLauncher(Arc::new(Mutex::new(behaviours.into()))), linger);
        let camera = Camera::open(Config { source: "/dev/video0".into(), ..Config::default() }, &launcher, &group);
        let (viewer, status) = (camera.feed().subscribe(Purpose::Viewer), camera.status());
        Self { group, camera, viewer, status }
    }

    async fn frame(&mut self) -> Arc<Frame> {
        in_time(self.viewer.next()).await
    }

    async fn is(&mut self, state: State) -> Status {
        in_time(self.status.wait_for(|status| status.state == state)).await.unwrap().clone()
    }

    /// Waits for a reason that contains these words.
    async fn reason(&mut self, words: &str) -> String {
        let has = |status: &Status| status.reason.as_deref().is_some_and(|reason| reason.contains(words));
        let found = tokio::time::timeout(PATIENCE, self.status.wait_for(has)).await;
        let found = found.map(|found| found.unwrap().reason.clone().unwrap());
        found.unwrap_or_else(|_| panic!("the reason is not {words:?}, but {:?}", self.camera.status().borrow().reason))
    }
}

fn behaviour(play: impl Fn(&mut FakeProcess) -> Option<Exit> + Send + Sync + 'static) -> Behaviour {
    Arc::new(play)
}
