//! The capture processes of a program under test.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The capture process that `parent` has for the camera, or the microphone, of this name.
pub fn capture_of(parent: u32, name: &str) -> Option<Pid> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is_program = words.next().is_some_and(|program| program.ends_with(b"/peercam-capture"));
        is_program && words.next() == Some(name.as_bytes()) && parent_of(*pid) == Some(parent)
    };
    let mut found = pids.filter(is_it);
    found.next().and_then(Pid::from_raw)
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses, which may hold anything.
fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Sends a signal as a fault of the process would be: the first SIGSEGV ends the handler of Rust's library only, which
/// looks for an overflow of the stack, and a real fault comes again at once.
pub fn strike(pid: Pid, signal: Signal) {
    let deadline = Instant::now() + Duration::from_secs(5);
    kill_process(pid, signal).expect("the process is there");
    while signal == Signal::SEGV && kill_process(pid, signal).is_ok() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
