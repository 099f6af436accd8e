//! Cameras whose capture process is played by the test, which says and does what a real one would not.

mod lying;
mod misbehaving;
mod playing;
mod waiting;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream as Socket;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::net::UnixStream;

use crate::capture::wire::{self, Header, Kind};
use crate::capture::{Begin, Built, Mode, Order, Patience, Report, Step};
use crate::media::{Frame, Resolution, Subscription};

use super::launcher::{Exit, Life};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far less than the patience")
}

async fn close(group: Group) {
    assert!(group.close(Duration::from_secs(5)).await, "tasks are left");
}

/// What the next processes do, each in its turn. The last one is played again and again.
#[derive(Clone)]
pub struct Player(Arc<Mutex<VecDeque<Part>>>);

type Part = Arc<dyn Fn(&mut Puppet) -> Option<Exit> + Send + Sync>;

impl Player {
    /// The process that a test plays, at the other end of a connection.
    pub fn play(&self) -> io::Result<(UnixStream, Life)> {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        let part = {
            let mut parts = self.0.lock().unwrap();
            if parts.len() > 1 { parts.pop_front() } else { parts.front().cloned() }
        };
        let part = part.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such program"))?;
        let (killed, is_killed) = watch::channel(false);
        let (ended, has_ended) = watch::channel(None);
        let mut puppet = Puppet { socket: theirs, is_killed, begin: None };
        thread::spawn(move || {
            let exit = part(&mut puppet);
            let exit = if *puppet.is_killed.borrow() { Exit::Signal(9) } else { exit.unwrap_or(Exit::Code(0)) };
            drop(puppet);
            ended.send_replace(Some(exit));
        });
        Ok((UnixStream::from_std(ours)?, Life::Played(Played { killed, has_ended })))
    }
}

/// The hold on a process that a test plays.
pub struct Played {
    killed: watch::Sender<bool>,
    has_ended: watch::Receiver<Option<Exit>>,
}

impl fmt::Debug for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("played")
    }
}

impl Played {
    pub fn kill(&self) -> io::Result<()> {
        self.killed.send_replace(true);
        Ok(())
    }

    pub async fn ended(&mut self) -> Exit {
        self.has_ended.wait_for(Option::is_some).await.unwrap().unwrap()
    }
}

/// The process's end.
pub struct Puppet {
    socket: Socket,
    is_killed: watch::Receiver<bool>,
    begin: Option<Begin>,
}

impl Puppet {
    /// The next order; none where the parent is gone, or has killed the process.
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
        self.raw(&wire::message(Kind::Report, report).unwrap());
    }

    fn doing(&mut self, step: Step) {
        self.report(&Report::Doing(step));
    }

    /// The parent may be gone by then.
    fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).ok();
    }

    fn frame(&mut self, attempt: u32, is_key: bool, text: &str) {
        let captured = wire::nanoseconds(std::time::Instant::now());
        let length = text.len() as u32;
        let header = Header { kind: Kind::Frame, is_key, rendition: 0, length, number: attempt, captured };
        self.raw(&[&header.bytes()[..], text.as_bytes()].concat());
    }

    /// Greets, and takes how it is to begin.
    fn greet(&mut self) -> Option<Begin> {
        self.report(&Report::Hello { version: wire::VERSION });
        let Some(Order::Begin(begin)) = self.order() else { return None };
        self.begin = Some(begin.clone());
        Some(begin)
    }

    /// The number of the attempt that is ordered next.
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

    /// Sends a frame each 20 ms and does what it is told, until the parent is gone or `ends` says so.
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
        mode: Some(Mode { format: "NV12".into(), resolution: Resolution { width: 640, height: 480 }, fps: 50.0 }),
        encoder: Some("x264enc".into()),
        key_frames_on_demand: Some(true),
        patience: Patience { first: Duration::from_millis(300), next: Duration::from_millis(200) },
    }
}

fn running() -> Step {
    Step::Running { device: "camera".into(), format: Some("NV12".into()), encoder: Some("x264enc".into()) }
}

/// A process as it is to be.
fn good(puppet: &mut Puppet) -> Option<Exit> {
    puppet.greet()?;
    puppet.serve(|_, _, _| false);
    None
}

/// A camera whose processes are played.
struct Stage {
    group: Group,
    camera: Camera,
    viewer: Subscription,
    status: watch::Receiver<Status>,
}

impl Stage {
    fn new(parts: Vec<Part>) -> Self {
        Self::with(parts, Duration::from_secs(60))
    }

    fn with(parts: Vec<Part>, linger: Duration) -> Self {
        let group = Group::new();
        let launcher = Launcher::played(Player(Arc::new(Mutex::new(parts.into()))), linger);
        let camera = Camera::open(Config { source: "/dev/video0".into(), ..Config::default() }, &launcher, &group);
        let (viewer, status) = (camera.feed().subscribe(), camera.status());
        Self { group, camera, viewer, status }
    }

    async fn frame(&mut self) -> Arc<Frame> {
        in_time(self.viewer.next()).await
    }

    async fn is(&mut self, state: State) -> Status {
        in_time(self.status.wait_for(|status| status.state == state)).await.unwrap().clone()
    }

    /// The next reason that has these words.
    async fn reason(&mut self, words: &str) -> String {
        let has = |status: &Status| status.reason.as_deref().is_some_and(|reason| reason.contains(words));
        let found = tokio::time::timeout(PATIENCE, self.status.wait_for(has)).await;
        let found = found.map(|found| found.unwrap().reason.clone().unwrap());
        found.unwrap_or_else(|_| panic!("{words:?} is not said, but {:?}", self.camera.status().borrow().reason))
    }
}

fn part(play: impl Fn(&mut Puppet) -> Option<Exit> + Send + Sync + 'static) -> Part {
    Arc::new(play)
}
