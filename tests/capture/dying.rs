//! Capture processes that end, stop or are left behind.

use peercam::media::Purpose;
use std::path::Path;

use rustix::process::{Pid, Signal};

use super::*;
use testkit::capture_processes::{capture_of, strike};

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_capture_process_is_replaced_and_none_is_left_behind() {
    let group = Group::new();
    let name = format!("dying-{}", std::process::id());
    let camera = Camera::open(Config { name: name.clone(), ..config(640, 360, 30) }, &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    frames(&mut viewer, 10).await;
    let limits = [
        (Signal::KILL, Duration::from_secs(1)),
        (Signal::SEGV, Duration::from_secs(1)),
        (Signal::TERM, Duration::from_secs(1)),
        (Signal::ABORT, Duration::from_secs(1)),
        // Noticed within 1.2 s on a busy board.
        (Signal::STOP, Duration::from_secs(3)),
    ];
    let mut ended = Vec::new();
    for (signal, limit) in limits {
        let pid = capture_of(std::process::id(), &name).expect("a capture process");
        let begun = Instant::now();
        strike(pid, signal);
        loop {
            let frame = in_time(viewer.next()).await;
            if frame.is_key && frame.captured > begun {
                break;
            }
        }
        let took = begun.elapsed();
        println!("{signal:?}: picture again after {} ms", took.as_millis());
        assert!(took < limit, "{signal:?}: {took:?}");
        frames(&mut viewer, 10).await;
        assert_eq!(
            camera.status().borrow().encoder.as_deref(),
            Some("x264enc"),
            "an accident is not blamed on an encoder"
        );
        assert_ne!(capture_of(std::process::id(), &name), Some(pid), "the old process is still there");
        ended.push(pid);
    }
    close(group).await;
    assert_eq!(capture_of(std::process::id(), &name), None, "a process is left");
    // No zombie is left either.
    let is_there = |pid: &Pid| Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists();
    assert!(!ended.iter().any(is_there), "of {ended:?}");
}
