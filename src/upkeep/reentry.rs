//! The service restarts itself: the same process with the same arguments runs the binary anew.
//!
//! The process keeps its number, so that a service manager sees the one it started, with its credentials, watchdog and
//! limits; where there is no service manager, this is how a restart is possible at all.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Hands the token of a trial to the process that makes it.
const TRIAL: &str = "PEERCAM_TRIAL";

/// Standard input, output and error stay open.
const FIRST_OF_OURS: i32 = 3;

/// The binary and arguments of this process, as they were when it began.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// Asked early: once an upgrade has replaced the file, the kernel calls ours `.. (deleted)`.
    pub(super) fn current() -> Self {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_else(|| "peercam".into());
        let path = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Self { path, name, arguments: arguments.collect() }
    }
}

/// The token that this process was handed.
pub(super) fn token() -> Option<String> {
    env::var(TRIAL).ok()
}

/// How the service begins anew.
#[derive(Clone, Debug)]
pub struct Reentry {
    pub(super) program: Program,
    pub(super) trial: Option<String>,
}

impl Reentry {
    /// Replaces this process. Everything should be closed by then.
    ///
    /// Returns only if that is not possible, with the reason.
    pub fn exec(self) -> io::Error {
        // Not all libraries mark their descriptors as our own: GStreamer 1.22 leaves that of a camera unmarked.
        close_fds::set_fds_cloexec_threadsafe(FIRST_OF_OURS, &[]);
        let mut command = Command::new(&self.program.path);
        command.arg0(&self.program.name).args(&self.program.arguments).env_remove(TRIAL);
        if let Some(token) = self.trial {
            command.env(TRIAL, token);
        }
        command.exec()
    }
}
