//! Restarts the service in place: the same process executes the binary again with the same arguments.
//!
//! The process keeps its PID, so a service manager still sees the process that it started, with its credentials,
//! watchdog and limits. Without a service manager, this is the only way to restart.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Passes the trial token to the process that runs the trial.
const TRIAL: &str = "PEERCAM_TRIAL";

/// The first descriptor after standard input, output and error, which stay open.
const FIRST_CLOSED: i32 = 3;

/// The binary and arguments of this process, as they were when it started.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// Must be called early: once an upgrade has replaced the file, the kernel reports our path as `.. (deleted)`.
    pub(super) fn current() -> Self {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_else(|| "peercam".into());
        let path = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Self { path, name, arguments: arguments.collect() }
    }
}

/// The trial token that was passed to this process.
pub(super) fn token() -> Option<String> {
    env::var(TRIAL).ok()
}

/// How the service restarts.
#[derive(Clone, Debug)]
pub struct Reexec {
    pub(super) program: Program,
    pub(super) trial: Option<String>,
}

impl Reexec {
    /// Replaces this process. Everything should be closed before this is called.
    ///
    /// Returns only if that fails, with the reason.
    pub fn exec(self) -> io::Error {
        // Not all libraries set close-on-exec on their descriptors: GStreamer 1.22 does not for a camera's.
        close_fds::set_fds_cloexec_threadsafe(FIRST_CLOSED, &[]);
        let mut command = Command::new(&self.program.path);
        command.arg0(&self.program.name).args(&self.program.arguments).env_remove(TRIAL);
        if let Some(token) = self.trial {
            command.env(TRIAL, token);
        }
        command.exec()
    }
}
