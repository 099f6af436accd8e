//! Tells a machine that is too busy from a fault: how long the threads of this test (board, browser, broker, virtual
//! machine) were ready to run and had to wait for a processor.
//!
//! The kernel counts that for each thread, in the second field of `/proc/PID/task/TID/schedstat`
//! (Documentation/scheduler/sched-stats.rst).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often the threads are looked at. A browser has a hundred, so each look takes a few milliseconds.
const INTERVAL: Duration = Duration::from_millis(250);

/// The share of an interval that one thread has to have waited for the machine to count as too busy. A virtual machine
/// or an encoder that waits so long is late by three frames at 30 frames per second.
const TOO_BUSY: f64 = 0.4;

/// How often a span is tried on a machine that is too busy for it.
const TRIES: u32 = 4;

/// Runs `span` until it succeeds. It fails with the first failure during which the machine was not too busy, and with
/// the last of all.
pub async fn unless_starved<T>(mut span: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for number in 1.. {
        let watch = Starvation::watch();
        let result = span().await;
        let worst = watch.worst();
        match result {
            Ok(value) => return Ok(value),
            Err(error) if number == TRIES || worst.share < TOO_BUSY => {
                return Err(error).with_context(|| format!("try {number} of {TRIES}; {worst}"));
            }
            Err(error) => eprintln!("the machine was too busy ({worst}), so this is tried again: {error:#}"),
        }
    }
    unreachable!("the last try returns")
}

/// The longest wait of a thread.
#[derive(Clone, Debug, Default)]
struct Worst {
    /// Of an interval.
    share: f64,
    thread: String,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { share, thread } = self;
        write!(f, "in the worst {INTERVAL:?} the thread {thread:?} waited {:.0} % for a processor", share * 100.0)
    }
}

/// Looks at the threads until it is dropped.
struct Starvation {
    worst: Arc<Mutex<Worst>>,
    has_ended: Arc<AtomicBool>,
}

impl Starvation {
    fn watch() -> Self {
        let watch = Self { worst: Arc::default(), has_ended: Arc::default() };
        let (worst, has_ended) = (watch.worst.clone(), watch.has_ended.clone());
        thread::spawn(move || {
            let (mut before, mut at) = (waits(), Instant::now());
            while !has_ended.load(Ordering::Relaxed) {
                thread::sleep(INTERVAL);
                let (now, elapsed) = (waits(), at.elapsed());
                at = Instant::now();
                for (thread, wait) in &now {
                    // A thread that has just begun has no earlier count.
                    let Some(earlier) = before.get(thread) else { continue };
                    let share = wait.saturating_sub(*earlier).as_secs_f64() / elapsed.as_secs_f64();
                    let mut worst = worst.lock().expect("lock is never poisoned: no panic while held");
                    if share > worst.share {
                        *worst = Worst { share, thread: name(*thread) };
                    }
                }
                before = now;
            }
        });
        watch
    }

    fn worst(&self) -> Worst {
        self.worst.lock().expect("lock is never poisoned: no panic while held").clone()
    }
}

impl Drop for Starvation {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// A process and one of its threads.
type Thread = (u32, u32);

/// How long each thread of this process and of all that it has started has waited so far.
fn waits() -> HashMap<Thread, Duration> {
    let threads = family().into_iter().flat_map(|process| {
        let threads = numbers(&format!("/proc/{process}/task"));
        threads.into_iter().map(move |thread| (process, thread))
    });
    let waits = threads.filter_map(|(process, thread)| {
        // Between two reads it may end.
        let counts = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).ok()?;
        let wait = counts.split_whitespace().nth(1)?.parse().ok()?;
        Some(((process, thread), Duration::from_nanos(wait)))
    });
    waits.collect()
}

/// This process and its descendants.
fn family() -> HashSet<u32> {
    let parents: HashMap<u32, u32> = numbers("/proc").into_iter().filter_map(|id| Some((id, parent(id)?))).collect();
    let own = std::process::id();
    let is_ours = |process: &u32| {
        let line = std::iter::successors(Some(*process), |process| parents.get(process).copied());
        line.take(parents.len()).any(|process| process == own)
    };
    parents.keys().copied().filter(is_ours).collect()
}

fn parent(process: u32) -> Option<u32> {
    // The name before it may hold spaces and brackets (proc(5)).
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Entries of a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn name((process, thread): Thread) -> String {
    let name = fs::read_to_string(format!("/proc/{process}/task/{thread}/comm")).unwrap_or_default();
    name.trim().to_owned()
}
