//! Starts and ends capture processes.

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

use crate::capture::LogSettings;

/// Environment variable with the path of a socket behind which systemd starts a capture process for each connection
/// (`systemd/peercam-capture.socket`).
const SOCKET: &str = "PEERCAM_CAPTURE_SOCKET";

/// Name of the program, if the service starts it itself.
const PROGRAM: &str = "peercam-capture";

/// Second place of the program, relative to the service's own folder.
const LIBEXEC: &str = "../libexec/peercam";

/// Starts capture processes. Clones share their state.
#[derive(Clone, Debug)]
pub struct Launcher {
    method: LaunchMethod,
    log: watch::Sender<LogSettings>,
    linger: Duration,
    /// Only one capture process tries an encoder at a time.
    pub(super) encoder_trial: Arc<Semaphore>,
}

#[derive(Clone)]
enum LaunchMethod {
    /// Spawn it as a child of this process.
    Spawn(PathBuf),
    /// Connect to a socket; systemd starts it.
    Connect(PathBuf),
    /// A thread of a test acts as the process.
    #[cfg(test)]
    Fake(super::tests::FakeLauncher),
}

impl fmt::Debug for LaunchMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(program) => write!(f, "spawn {}", program.display()),
            Self::Connect(socket) => write!(f, "connect to {}", socket.display()),
            #[cfg(test)]
            Self::Fake(_) => f.write_str("fake"),
        }
    }
}

impl Launcher {
    /// Starts them through systemd if the environment names its socket, else as the program installed with this one.
    pub fn from_environment(log: LogSettings, linger: Duration) -> Self {
        let method = match env::var_os(SOCKET).filter(|socket| !socket.is_empty()) {
            Some(socket) => LaunchMethod::Connect(socket.into()),
            None => LaunchMethod::Spawn(installed_program()),
        };
        Self::new(method, log, linger)
    }

    fn new(method: LaunchMethod, log: LogSettings, linger: Duration) -> Self {
        Self { method, log: watch::Sender::new(log), linger, encoder_trial: Arc::new(Semaphore::new(1)) }
    }

    /// Starts `program` each time.
    pub fn with_program(program: PathBuf, log: LogSettings, linger: Duration) -> Self {
        Self::new(LaunchMethod::Spawn(program), log, linger)
    }

    #[cfg(test)]
    pub(super) fn with_socket(socket: PathBuf, log: LogSettings, linger: Duration) -> Self {
        Self::new(LaunchMethod::Connect(socket), log, linger)
    }

    #[cfg(test)]
    pub(super) fn with_fake(fake: super::tests::FakeLauncher, linger: Duration) -> Self {
        Self::new(LaunchMethod::Fake(fake), LogSettings::default(), linger)
    }

    /// The log settings, as they change.
    pub(super) fn log(&self) -> watch::Receiver<LogSettings> {
        self.log.subscribe()
    }

    /// Changes the log level, also of running processes.
    pub fn set_log_filter(&self, filter: &str) {
        self.log.send_modify(|log| filter.clone_into(&mut log.filter));
    }

    /// How long a process stays after its last use.
    pub(super) fn linger(&self) -> Duration {
        self.linger
    }

    /// Starts a capture process and connects to it. `what` it captures appears in the list of processes. A process
    /// that systemd starts has sent its first byte when this returns.
    pub(super) async fn launch(&self, what: &str) -> io::Result<(UnixStream, ProcessHandle)> {
        let named =
            |error: io::Error, path: &PathBuf| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match &self.method {
            LaunchMethod::Connect(socket) => {
                let unconnected = UnixSocket::new_stream()?;
                // Set before it is connected, so that no byte arrives without its sender's credentials.
                set_socket_passcred(&unconnected, true)?;
                let connected = unconnected.connect(socket).await.map_err(|error| named(error, socket))?;
                let pid = first_sender(&connected).await?.filter(|pid| *pid != getpid());
                // If the kernel does not allow a pidfd, the end of the connection has to do.
                let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                Ok((connected, ProcessHandle::Foreign(pidfd)))
            }
            LaunchMethod::Spawn(program) => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let child = Command::new(program)
                    .arg(what)
                    .stdin(OwnedFd::from(theirs))
                    .stdout(Stdio::null())
                    .kill_on_drop(true)
                    .spawn()
                    .map_err(|error| named(error, program))?;
                Ok((UnixStream::from_std(ours)?, ProcessHandle::Child(child)))
            }
            #[cfg(test)]
            LaunchMethod::Fake(fake) => fake.launch(),
        }
    }
}

/// Process that sent the first byte, according to the kernel (SO_PASSCRED in unix(7)). A compromised process could
/// otherwise claim the ID of another, which would then be killed instead.
async fn first_sender(socket: &UnixStream) -> io::Result<Option<Pid>> {
    let peek = || {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut word = [0];
        let read = recvmsg(socket, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::PEEK)?;
        let mut senders = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        // The end of a connection carries no credentials.
        Ok(if read.bytes > 0 { senders.next() } else { None })
    };
    socket.async_io(Interest::READABLE, peek).await
}

/// The program that is installed with this one.
fn installed_program() -> PathBuf {
    let folder = env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    let Some(folder) = folder else { return PROGRAM.into() };
    let places = [folder.join(PROGRAM), folder.join(LIBEXEC).join(PROGRAM)];
    let installed = places.iter().find(|program| program.exists());
    installed.unwrap_or(&places[0]).clone()
}

/// Handle to a process.
#[derive(Debug)]
pub(super) enum ProcessHandle {
    /// A child of this process.
    Child(Child),
    /// A process that systemd started, with its pidfd if there is one.
    Foreign(Option<OwnedFd>),
    /// A thread of a test acts as the process.
    #[cfg(test)]
    Fake(super::tests::FakeHandle),
}

/// How often to check whether a process that systemd started has exited, after its connection has ended.
const EXIT_CHECK: Duration = Duration::from_millis(10);

/// Whether the process has exited: its pidfd is then readable (pidfd_open(2)).
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown; only a parent gets the exit status.
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

impl ProcessHandle {
    /// Kills it.
    pub(super) fn kill(&mut self) {
        let killed = match self {
            Self::Child(child) => child.start_kill(),
            Self::Foreign(Some(pidfd)) => pidfd_send_signal(pidfd, Signal::KILL).map_err(io::Error::from),
            Self::Foreign(None) => Err(io::Error::other("it has no pidfd")),
            #[cfg(test)]
            Self::Fake(handle) => handle.kill(),
        };
        if let Err(error) = killed {
            tracing::debug!(reason = %error, "a capture process cannot be killed");
        }
    }

    /// Returns when it has exited on its own, if that is visible other than by the end of its connection. Cancel safe.
    pub(super) async fn ended_by_itself(&mut self) -> Exit {
        match self {
            Self::Foreign(_) => std::future::pending().await,
            _ => self.ended().await,
        }
    }

    /// Returns when it has exited after its connection was closed. Cancel safe.
    pub(super) async fn ended(&mut self) -> Exit {
        match self {
            Self::Child(child) => child.wait().await.map_or(Exit::Unknown, Exit::from),
            Self::Foreign(Some(pidfd)) => {
                while !has_ended(pidfd) {
                    tokio::time::sleep(EXIT_CHECK).await;
                }
                Exit::Unknown
            }
            // Only the end of its connection is visible.
            Self::Foreign(None) => Exit::Unknown,
            #[cfg(test)]
            Self::Fake(handle) => handle.ended().await,
        }
    }
}
