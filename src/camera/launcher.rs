//! How capture processes come into being, and how they are ended.

use std::env;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::net::{UnixSocket, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, watch};

use crate::capture::Log;

/// Names a socket behind which systemd starts a capture process for each connection (`systemd/peercam-capture.socket`).
const SOCKET: &str = "PEERCAM_CAPTURE_SOCKET";

/// The program, where the service starts it by itself.
const PROGRAM: &str = "peercam-capture";

/// Where the program is besides the folder of the service's own, seen from that folder.
const ELSEWHERE: &str = "../libexec/peercam";

/// Starts capture processes. A clone is the same.
#[derive(Clone, Debug)]
pub struct Launcher {
    way: Way,
    log: watch::Sender<Log>,
    linger: Duration,
    /// Of all capture processes one tries an encoder at a time.
    pub(super) trial: Arc<Semaphore>,
}

#[derive(Clone)]
enum Way {
    /// A child of this process.
    Spawn(PathBuf),
    /// systemd starts it.
    Connect(PathBuf),
    /// A test plays it.
    #[cfg(test)]
    Play(super::tests::Player),
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(program) => write!(f, "spawn {}", program.display()),
            Self::Connect(socket) => write!(f, "connect to {}", socket.display()),
            #[cfg(test)]
            Self::Play(_) => f.write_str("play"),
        }
    }
}

impl Launcher {
    /// Starts them as the environment says: by systemd, or else the program that is installed with this one.
    pub fn from_environment(log: Log, linger: Duration) -> Self {
        let way = match env::var_os(SOCKET).filter(|socket| !socket.is_empty()) {
            Some(socket) => Way::Connect(socket.into()),
            None => Way::Spawn(beside_us()),
        };
        Self::new(way, log, linger)
    }

    fn new(way: Way, log: Log, linger: Duration) -> Self {
        Self { way, log: watch::Sender::new(log), linger, trial: Arc::new(Semaphore::new(1)) }
    }

    /// Starts `program`.
    pub fn of_program(program: PathBuf, log: Log, linger: Duration) -> Self {
        Self::new(Way::Spawn(program), log, linger)
    }

    #[cfg(test)]
    pub(super) fn of_socket(socket: PathBuf, log: Log, linger: Duration) -> Self {
        Self::new(Way::Connect(socket), log, linger)
    }

    #[cfg(test)]
    pub(super) fn played(player: super::tests::Player, linger: Duration) -> Self {
        Self::new(Way::Play(player), Log::default(), linger)
    }

    /// How log lines are written, now and as it changes.
    pub(super) fn log(&self) -> watch::Receiver<Log> {
        self.log.subscribe()
    }

    /// Changes how much is logged, also by processes that run.
    pub fn log_by(&self, filter: &str) {
        self.log.send_modify(|log| filter.clone_into(&mut log.filter));
    }

    /// How long a process stays that nobody needs.
    pub(super) fn linger(&self) -> Duration {
        self.linger
    }

    /// A capture process at the other end of a connection. `what` it captures stands in the list of processes. One that
    /// systemd starts has sent its first word by then.
    pub(super) async fn launch(&self, what: &str) -> io::Result<(UnixStream, Life)> {
        let named =
            |error: io::Error, path: &PathBuf| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match &self.way {
            Way::Connect(socket) => {
                let unconnected = UnixSocket::new_stream()?;
                // Before it is connected, so that no word comes without who says it.
                set_socket_passcred(&unconnected, true)?;
                let connected = unconnected.connect(socket).await.map_err(|error| named(error, socket))?;
                let pid = first_sender(&connected).await?.filter(|pid| *pid != getpid());
                // Where the kernel does not let us hold it, the end of the connection has to do.
                let held = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                Ok((connected, Life::Foreign(held)))
            }
            Way::Spawn(program) => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let child = Command::new(program)
                    .arg(what)
                    .stdin(OwnedFd::from(theirs))
                    .stdout(Stdio::null())
                    .kill_on_drop(true)
                    .spawn()
                    .map_err(|error| named(error, program))?;
                Ok((UnixStream::from_std(ours)?, Life::Child(child)))
            }
            #[cfg(test)]
            Way::Play(player) => player.play(),
        }
    }
}

/// Who sends the first word, as the kernel knows it (SO_PASSCRED in unix(7)). A process that was taken over could claim
/// to be another, which would then be killed in its place.
async fn first_sender(socket: &UnixStream) -> io::Result<Option<Pid>> {
    let peek = || {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut word = [0];
        let read = recvmsg(socket, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::PEEK)?;
        let mut said = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        // With the end of a connection comes nobody.
        Ok(if read.bytes > 0 { said.next() } else { None })
    };
    socket.async_io(Interest::READABLE, peek).await
}

/// The program that is installed with this one.
fn beside_us() -> PathBuf {
    let folder = env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    let Some(folder) = folder else { return PROGRAM.into() };
    let places = [folder.join(PROGRAM), folder.join(ELSEWHERE).join(PROGRAM)];
    let installed = places.iter().find(|program| program.exists());
    installed.unwrap_or(&places[0]).clone()
}

/// What a process is held by.
#[derive(Debug)]
pub(super) enum Life {
    /// A child of this process.
    Child(Child),
    /// One that systemd started, where it can be held.
    Foreign(Option<OwnedFd>),
    /// A test plays it.
    #[cfg(test)]
    Played(super::tests::Played),
}

/// How often is looked whether a process that systemd started has ended, once its connection has.
const LOOK: Duration = Duration::from_millis(10);

/// Whether the process has ended: its pidfd is readable then (pidfd_open(2)).
fn has_ended(held: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(held, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It is not known; only a parent is told.
    Unknown,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        let signal = status.signal().map(Self::Signal);
        signal.or(status.code().map(Self::Code)).unwrap_or(Self::Unknown)
    }
}

impl Exit {
    /// Whether a fault of the process itself ended it.
    pub(super) fn is_crash(self) -> bool {
        let crashes = [Signal::SEGV, Signal::ABORT, Signal::BUS, Signal::ILL, Signal::FPE, Signal::TRAP, Signal::SYS];
        crashes.iter().any(|crash| self == Self::Signal(crash.as_raw()))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "it ended with code {code}"),
            Self::Signal(signal) if signal == Signal::KILL.as_raw() => f.write_str("it was killed (SIGKILL)"),
            Self::Signal(signal) if signal == Signal::SEGV.as_raw() => f.write_str("it crashed (SIGSEGV)"),
            Self::Signal(signal) if signal == Signal::ABORT.as_raw() => f.write_str("it crashed (SIGABRT)"),
            Self::Signal(signal) => write!(f, "it was ended by signal {signal}"),
            Self::Unknown => f.write_str("it ended"),
        }
    }
}

impl Life {
    /// Ends it, whatever it is doing.
    pub(super) fn kill(&mut self) {
        let killed = match self {
            Self::Child(child) => child.start_kill(),
            Self::Foreign(Some(held)) => pidfd_send_signal(held, Signal::KILL).map_err(io::Error::from),
            Self::Foreign(None) => Err(io::Error::other("it cannot be held")),
            #[cfg(test)]
            Self::Played(played) => played.kill(),
        };
        if let Err(error) = killed {
            tracing::debug!(reason = %error, "a capture process cannot be killed");
        }
    }

    /// Returns when it has ended by itself, where that is seen besides by the end of its connection. Cancelling the wait
    /// loses nothing.
    pub(super) async fn ended_by_itself(&mut self) -> Exit {
        match self {
            Self::Foreign(_) => std::future::pending().await,
            _ => self.ended().await,
        }
    }

    /// Returns when it has ended, its connection being closed. Cancelling the wait loses nothing.
    pub(super) async fn ended(&mut self) -> Exit {
        match self {
            Self::Child(child) => child.wait().await.map_or(Exit::Unknown, Exit::from),
            Self::Foreign(Some(held)) => {
                while !has_ended(held) {
                    tokio::time::sleep(LOOK).await;
                }
                Exit::Unknown
            }
            // The end of its connection is all that is seen of it.
            Self::Foreign(None) => Exit::Unknown,
            #[cfg(test)]
            Self::Played(played) => played.ended().await,
        }
    }
}
