//! Processes with false or excessive reports, and ends without an exit status.

use crate::media::Purpose;
use std::sync::mpsc;
use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_reports_another_step_while_its_camera_is_silent_is_replaced() {
    for step in [Step::Resting, Step::Waiting, Step::Loading] {
        let lies = behaviour(move |process| {
            process.greet()?;
            let attempt = process.opened()?;
            process.run(attempt);
            while !*process.is_killed.borrow() {
                process.doing(step.clone());
                thread::sleep(Duration::from_millis(50));
            }
            None
        });
        let mut fixture = Fixture::new(vec![lies, behaviour(good)]);
        fixture.frame().await;
        let begun = Instant::now();
        while &fixture.frame().await.data[..] != b"next" {}
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        close(fixture.group).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_rest_does_not_shorten_the_time_to_open_a_device() {
    let slow = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        // Three checks of the service.
        thread::sleep(Duration::from_millis(700));
        process.run(attempt);
        process.hang()
    });
    let group = Group::new();
    let launcher = Launcher::with_fake(FakeLauncher(Arc::new(Mutex::new(vec![slow].into()))), Duration::from_secs(60));
    let camera = Camera::open(Config { source: "/dev/video0".into(), ..Config::default() }, &launcher, &group);
    camera.prewarm();
    tokio::time::sleep(Duration::from_secs(16)).await;
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    assert_eq!(&in_time(viewer.next()).await.data[..], b"first");
    assert_eq!(camera.status().borrow().reason, None);
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_keeps_the_trial_permit_is_replaced() {
    let keeps = behaviour(|process| {
        process.greet()?;
        process.opened()?;
        while !*process.is_killed.borrow() {
            process.doing(Step::Waiting);
            thread::sleep(Duration::from_millis(50));
        }
        None
    });
    let mut fixture = Fixture::new(vec![keeps, behaviour(good)]);
    // Meanwhile the status explains the wait.
    fixture.reason("waiting to try an encoder").await;
    assert_eq!(fixture.camera.status().borrow().state, State::Waiting);
    while &fixture.frame().await.data[..] != b"next" {}
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_reports_endless_patience_does_no_harm() {
    let for_ever = Patience { first: Duration::MAX, next: Duration::MAX };
    let waits = behaviour(move |process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.report(&Report::Built { attempt, built: Built { patience: for_ever, ..built() } });
        process.doing(running());
        thread::sleep(Duration::from_millis(600));
        process.frame(attempt, true, "first");
        process.hang()
    });
    let mut fixture = Fixture::new(vec![waits]);
    fixture.frame().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The actor that got that still answers.
    in_time(fixture.camera.set_privacy(Privacy::On)).await.unwrap();
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_too_expensive_for_viewers_are_not_published() {
    let many = "\0\0\u{1}A".repeat(100 << 10);
    let fills = behaviour(move |process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.report(&Report::Built { attempt, built: built() });
        process.doing(running());
        process.frame(attempt, true, "");
        process.frame(attempt, true, &many);
        process.frame(attempt, true, "first");
        process.hang()
    });
    let mut fixture = Fixture::new(vec![fills]);
    assert_eq!(&fixture.frame().await.data[..], b"first");
    assert_eq!(fixture.camera.feed().published(), 1);
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_end_during_a_trial_is_blamed_on_the_encoder() {
    let (told, begun) = mpsc::channel();
    let told = Mutex::new(told);
    // As under systemd, where the exit status is unknown.
    let dies = behaviour(move |process| {
        let begin = process.greet()?;
        told.lock().unwrap().send(begin.blame).unwrap();
        process.opened()?;
        process.doing(Step::Trying { encoder: "v4l2h264enc".into() });
        Some(Exit::Unknown)
    });
    let fixture = Fixture::new(vec![dies]);
    assert_eq!(begun.recv_timeout(PATIENCE).unwrap(), None);
    let blame = begun.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((blame.step, blame.how.as_str()), (Step::Trying { encoder: "v4l2h264enc".into() }, "it ended"));
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_control_values_outlive_a_process_if_the_next_one_reports_only_sizes() {
    let (values, sizes) = (BTreeMap::from([("gain".to_owned(), 7)]), vec![Resolution { width: 640, height: 480 }]);
    let told = (values.clone(), sizes.clone());
    let tells = behaviour(move |process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.report(&Report::Controls(values.clone()));
        process.run(attempt);
        thread::sleep(Duration::from_millis(100));
        Some(Exit::Signal(9))
    });
    let next = behaviour(move |process| {
        process.greet()?;
        process.report(&Report::Sizes(sizes.clone()));
        process.serve(|_, _, _| false);
        None
    });
    let mut fixture = Fixture::new(vec![tells, next]);
    let mut known_device = fixture.camera.known_device();
    while &fixture.frame().await.data[..] != b"next" {}
    let known = in_time(known_device.wait_for(|known| !known.sizes.is_empty())).await.unwrap().clone();
    assert_eq!((known.controls, known.sizes), told);
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_process_are_shortened_and_cannot_add_log_lines() {
    let says = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        let device = format!("eyes\n\u{1b}[31m\u{202e}\u{2066}{}", "x".repeat(50_000));
        process.report(&Report::Failed { attempt, error: Error::Gone { device } });
        process.hang()
    });
    let refused = behaviour(|process| {
        process.greet()?;
        process.opened()?;
        let body = format!("{{\"doing\":\"{}\"}}", "y".repeat(1_000_000));
        let length = body.len() as u32;
        let header = Header { kind: MessageKind::Report, is_key: false, rendition: 0, length, number: 0, captured: 0 };
        process.raw(&[&header.bytes()[..], body.as_bytes()].concat());
        process.hang()
    });
    let mut fixture = Fixture::new(vec![says, refused, behaviour(good)]);
    for words in ["eyes", "yyyy"] {
        let reason = fixture.reason(words).await;
        assert!(
            reason.len() < 5000 && !reason.contains(['\n', '\u{1b}', '\u{202e}', '\u{2066}']),
            "{} bytes",
            reason.len()
        );
    }
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_long_ago_does_not_count_as_a_slow_start() {
    let group = Group::new();
    let launcher =
        Launcher::with_fake(FakeLauncher(Arc::new(Mutex::new(vec![behaviour(good)].into()))), Duration::ZERO);
    let camera = Camera::open(Config { source: "/dev/video0".into(), ..Config::default() }, &launcher, &group);
    for pause in [7, 0] {
        let (mut viewer, mut status) = (camera.feed().subscribe(Purpose::Viewer), camera.status());
        let waits = |status: &Status| status.state == State::Waiting || status.reason.is_some();
        tokio::select! {
            biased;
            told = status.wait_for(waits) => panic!("{:?}", *told.unwrap()),
            _ = in_time(viewer.next()) => {}
        }
        drop(viewer);
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
    close(group).await;
}
