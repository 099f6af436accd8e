//! How this process ends while it captures.

use std::process;

use rustix::process::{Signal, getpid, kill_process};

/// Ends the process at once: the kernel closes its devices. Libraries are not asked, since one of their threads may hang
/// in a driver, or run on while what it works with is being taken apart.
pub fn at_once() -> ! {
    if cfg!(test) {
        // Only the thread of the test's own capture.
        loop {
            std::thread::park();
        }
    }
    kill_process(getpid(), Signal::KILL).ok();
    process::abort()
}
