//! Time limits of the steps of a process, the blame when it exceeds them, and other limits.

use crate::media::Purpose;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Command as Program;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_interrupted_by_privacy_is_not_blamed_on_the_encoder() {
    let (told, begun) = mpsc::channel();
    let told = Mutex::new(told);
    let tries = behaviour(move |process| {
        let begin = process.greet()?;
        told.lock().unwrap().send(begin.blame).unwrap();
        process.opened()?;
        process.doing(Step::Trying { encoder: "v4l2h264enc".into() });
        process.hang()
    });
    let fixture = Fixture::new(vec![tries]);
    for _ in 0..4 {
        assert_eq!(begun.recv_timeout(PATIENCE).unwrap(), None);
        tokio::time::sleep(Duration::from_millis(100)).await;
        in_time(fixture.camera.set_privacy(Privacy::On)).await.unwrap();
        in_time(fixture.camera.set_privacy(Privacy::Off)).await.unwrap();
    }
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_do_not_wait_for_a_failed_process_that_does_not_close() {
    let fails = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.report(&Report::Failed { attempt, error: Error::Gone { device: "camera".into() } });
        process.hang()
    });
    let mut fixture = Fixture::new(vec![fails, behaviour(good)]);
    let begun = Instant::now();
    fixture.frame().await;
    // 250 ms until the next attempt, 600 ms for the device to close.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_that_remains_is_reported_until_it_has_ended() {
    let is_let_go = Arc::new(AtomicBool::new(false));
    let within_the_kernel = {
        let is_let_go = is_let_go.clone();
        behaviour(move |process| {
            process.greet()?;
            let attempt = process.opened()?;
            process.run(attempt);
            while !is_let_go.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(2));
            }
            None
        })
    };
    let mut fixture = Fixture::new(vec![within_the_kernel, behaviour(good)]);
    fixture.frame().await;
    fixture.reason("hangs: it cannot be closed").await;
    assert_eq!(fixture.camera.status().borrow().state, State::Waiting);
    let refused = in_time(fixture.camera.set_privacy(Privacy::On)).await.unwrap_err();
    assert!(matches!(refused, Error::MaybeOpen { .. }), "{refused}");
    is_let_go.store(true, Ordering::Relaxed);
    fixture.reason("privacy is on").await;
    in_time(fixture.status.wait_for(|status| status.reason.as_deref() == Some("privacy is on"))).await.unwrap();
    in_time(fixture.camera.set_privacy(Privacy::Off)).await.unwrap();
    while &fixture.frame().await.data[..] != b"next" {}
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_outlives_its_connection_is_killed_within_the_time_of_a_shutdown() {
    let stays = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        let mut number = 0;
        while !*process.is_killed.borrow() {
            process.frame(attempt, false, "next");
            thread::sleep(Duration::from_millis(10));
            number += 1;
        }
        (number > 0).then_some(Exit::Signal(9))
    });
    let mut fixture = Fixture::new(vec![stays]);
    fixture.frame().await;
    assert!(fixture.group.close(Duration::from_secs(1)).await, "the process is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_started_for_a_question_ends_after_the_answer_however_late() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let answers = behaviour(move |process| {
        process.greet()?;
        let Order::Ask { request, .. } = process.order()? else { return None };
        thread::sleep(Duration::from_millis(300));
        process.report(&Report::Answer { request, answer: Ok(Answer::Controls(vec![])) });
        process.order();
        told.lock().unwrap().send(()).unwrap();
        None
    });
    let Fixture { group, camera, viewer, .. } = Fixture::with(vec![answers], Duration::ZERO);
    // Before the actor has started: nobody watches.
    in_time(camera.set_privacy(Privacy::On)).await.unwrap();
    drop(viewer);
    in_time(camera.set_privacy(Privacy::Off)).await.unwrap();
    assert_eq!(in_time(camera.controls()).await, Ok(vec![]));
    ended.recv_timeout(Duration::from_secs(3)).unwrap();
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_waiting_snapshots_is_limited() {
    let fixture = Fixture::new(vec![]);
    for _ in 0..40 {
        let given_up = tokio::time::timeout(Duration::from_millis(5), fixture.camera.snapshot()).await;
        assert!(given_up.is_err(), "requests without a receiver take no place");
    }
    let all = futures_util::future::join_all((0..20).map(|_| fixture.camera.snapshot()));
    let refused = in_time(all).await.into_iter().filter_map(Result::err).map(|error| error.to_string());
    let too_many = refused.filter(|why| why.contains("too many")).count();
    assert_eq!(too_many, 4, "of 20, where 16 may wait");
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_closes_its_device_without_an_order_or_remembers_too_much_is_replaced() {
    let closes = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        process.report(&Report::Closed { attempt });
        process.hang()
    });
    let remembers = behaviour(|process| {
        process.greet()?;
        process.opened()?;
        process.report(&Report::Remember("x".repeat(1 << 19).into()));
        process.hang()
    });
    let mut fixture = Fixture::new(vec![closes, remembers, behaviour(good)]);
    fixture.reason("it remembers").await;
    while &fixture.frame().await.data[..] != b"next" {}
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_continues_without_an_encoder_that_crashes_its_process() {
    let dies = |exit| {
        behaviour(move |process: &mut FakeProcess| {
            process.greet()?;
            process.order()?;
            process.doing(Step::Trying { encoder: "v4l2h264enc".into() });
            Some(exit)
        })
    };
    let answers = behaviour(|process| {
        let begin = process.greet()?;
        let Order::Ask { request, .. } = process.order()? else { return None };
        let blamed = format!("{:?}", begin.blame);
        let inventory = Inventory { gstreamer: blamed, ..Inventory::default() };
        process.report(&Report::Answer { request, answer: Ok(Answer::Inventory(Box::new(inventory))) });
        process.hang()
    });
    // The first one as under systemd.
    let behaviours = vec![dies(Exit::Unknown), dies(Exit::Signal(6)), answers];
    let launcher = Launcher::with_fake(FakeLauncher(Arc::new(Mutex::new(behaviours.into()))), Duration::ZERO);
    let found = in_time(take_inventory(&[], &AudioConfig::default(), &launcher)).await;
    assert!(found.gstreamer.contains("v4l2h264enc") && found.gstreamer.contains("SIGABRT"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_started_by_systemd_is_identified_by_the_kernel_and_killed_if_it_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, words) = (folder.path().join("socket"), folder.path().join("words"));
    let listener = UnixListener::bind(&socket).unwrap();
    let reports = [
        Report::Hello { version: wire::VERSION },
        Report::Built { attempt: 1, built: built() },
        Report::Doing(running()),
    ];
    let said = reports.iter().flat_map(|report| wire::message(MessageKind::Report, report).unwrap());
    fs::write(&words, said.collect::<Vec<_>>()).unwrap();
    let child = thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        let mut shell = Program::new("sh");
        shell.args(["-c", "exec tail -f \"$0\" >&0"]).arg(&words).stdin(OwnedFd::from(connection));
        shell.spawn().unwrap().wait().unwrap()
    });
    let group = Group::new();
    let launcher = Launcher::with_socket(socket, LogSettings::default(), Duration::from_secs(60));
    let camera = Camera::open(Config::default(), &launcher, &group);
    let _viewer = camera.feed().subscribe(Purpose::Viewer);
    let ended = in_time(tokio::task::spawn_blocking(move || child.join().unwrap())).await.unwrap();
    assert_eq!(ended.signal(), Some(9));
    close(group).await;
}
