//! Processes that follow the protocol.

use std::sync::mpsc;
use std::time::Instant;

use crate::capture::{Blame, LearnedState};
use crate::media::Purpose;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_open_while_there_are_viewers_and_its_process_ends_later() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let play = behaviour(move |process| {
        good(process);
        told.lock().unwrap().send(()).unwrap();
        None
    });
    let Fixture { group, camera, mut viewer, mut status } = Fixture::with(vec![play], Duration::from_millis(300));
    let first = in_time(viewer.next()).await;
    assert!(first.is_key && &first.data[..] == b"first");
    let live = in_time(status.wait_for(|status| status.state == State::Live)).await.unwrap().clone();
    assert_eq!((live.device.as_str(), live.encoder_starts, live.encoders_running), ("camera", 1, 1));
    drop(viewer);
    in_time(status.wait_for(|status| status.state == State::Idle && status.encoders_running == 0)).await.unwrap();
    assert!(ended.recv_timeout(Duration::from_millis(100)).is_err(), "it lingers");
    ended.recv_timeout(PATIENCE).unwrap();
    // The next viewer gets another process.
    assert!(in_time(camera.feed().subscribe(Purpose::Viewer).next()).await.is_key);
    close(group).await;
    ended.recv_timeout(PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_gets_the_learned_state_and_the_cause_of_the_last_end() {
    let (told, begun) = mpsc::channel();
    let told = Mutex::new(told);
    let play = behaviour(move |process| {
        let begin = process.greet()?;
        let count = begin.memory.as_u64().unwrap_or_default();
        told.lock().unwrap().send(begin).unwrap();
        process.report(&Report::Remember((count + 1).into()));
        process.opened()?;
        process.doing(Step::Trying { encoder: "v4l2h264enc".into() });
        Some(Exit::Signal(11))
    });
    let mut fixture = Fixture::new(vec![play]);
    fixture.reason("it crashed (SIGSEGV)").await;
    let first = begun.recv_timeout(PATIENCE).unwrap();
    assert_eq!((first.memory, first.blame), (LearnedState::Null, None));
    for count in 1_u64..3 {
        let next = begun.recv_timeout(PATIENCE).unwrap();
        let step = Step::Trying { encoder: "v4l2h264enc".into() };
        let blame = Blame { step, how: "it crashed (SIGSEGV)".into() };
        assert_eq!((next.memory, next.blame), (count.into(), Some(blame)));
    }
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_process_tries_an_encoder_at_a_time() {
    let busy = Arc::new(Mutex::new(()));
    let play = behaviour(move |process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.doing(Step::Waiting);
        while process.order()? != Order::Try {}
        {
            let _only = busy.try_lock().expect("no other process tries an encoder");
            process.doing(Step::Trying { encoder: "x264enc".into() });
            thread::sleep(Duration::from_millis(50));
        }
        process.run(attempt);
        process.serve(|_, _, _| false);
        None
    });
    let group = Group::new();
    let launcher = Launcher::with_fake(FakeLauncher(Arc::new(Mutex::new([play].into()))), Duration::ZERO);
    let cameras: Vec<_> = (0..4).map(|_| Camera::open(Config::default(), &launcher, &group)).collect();
    let viewers = cameras.iter().map(|camera| camera.feed().subscribe(Purpose::Viewer));
    for mut viewer in viewers.collect::<Vec<_>>() {
        in_time(viewer.next()).await;
    }
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_start_a_process_and_fail_when_it_ends() {
    let play = behaviour(|process| {
        process.greet()?;
        loop {
            let Order::Ask { request, question } = process.order()? else { continue };
            let answer = match question {
                Question::Controls(_) => Ok(Answer::Controls(vec![])),
                Question::Move { .. } => Ok(Answer::HasSound(true)),
                Question::SetControl { .. } => return Some(Exit::Signal(6)),
                _ => Err(Error::broken("no")),
            };
            process.report(&Report::Answer { request: request + 1, answer: Ok(Answer::Done) });
            process.report(&Report::Answer { request, answer });
        }
    });
    let Fixture { group, camera, viewer, .. } = Fixture::new(vec![play]);
    drop(viewer);
    assert_eq!(in_time(camera.controls()).await, Ok(vec![]));
    let wrong = in_time(camera.move_ptz(PtzMovement::default())).await.unwrap_err().to_string();
    assert!(wrong.contains("does not match the question"), "{wrong}");
    let died = in_time(camera.set_control("gain", 3)).await.unwrap_err().to_string();
    assert!(died.contains("it crashed (SIGABRT)"), "{died}");
    assert_eq!(in_time(camera.controls()).await, Ok(vec![]), "by another process");
    in_time(camera.set_privacy(Privacy::On)).await.unwrap();
    assert_eq!(in_time(camera.controls()).await, Err(Error::Private));
    assert_eq!(in_time(camera.snapshot()).await, Err(Error::Private));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prewarmed_process_opens_no_device_before_a_viewer_comes() {
    let (told, orders) = mpsc::channel();
    let told = Mutex::new(told);
    let play = behaviour(move |process| {
        process.greet()?;
        told.lock().unwrap().send("begun").unwrap();
        let attempt = process.opened()?;
        told.lock().unwrap().send("opened").unwrap();
        process.run(attempt);
        process.serve(|_, _, _| false);
        None
    });
    let Fixture { group, camera, viewer, mut status } = Fixture::new(vec![play]);
    drop(viewer);
    in_time(status.wait_for(|status| status.state == State::Idle)).await.unwrap();
    while orders.recv_timeout(Duration::from_millis(100)).is_ok() {}
    camera.prewarm();
    let begun = orders.recv_timeout(Duration::from_secs(3));
    assert!(begun.is_err() || begun == Ok("begun"), "{begun:?}");
    assert!(orders.recv_timeout(Duration::from_millis(200)).is_err(), "no device is opened");
    in_time(camera.feed().subscribe(Purpose::Viewer).next()).await;
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_past_attempt_or_another_rendition_are_not_published() {
    let play = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        let header =
            Header { kind: MessageKind::Frame, is_key: true, rendition: 3, length: 5, number: attempt, captured: 0 };
        process.raw(&[&header.bytes()[..], b"other"].concat());
        while !matches!(process.order()?, Order::Close { .. }) {}
        for _ in 0..50 {
            process.frame(attempt, true, "late");
        }
        process.report(&Report::Closed { attempt });
        process.frame(attempt, true, "later");
        let next = process.opened()?;
        process.frame(attempt, true, "latest");
        process.run(next);
        process.hang()
    });
    let mut fixture = Fixture::new(vec![play]);
    assert_eq!(&fixture.frame().await.data[..], b"first");
    fixture.is(State::Live).await;
    fixture.camera.restart();
    let second = fixture.frame().await;
    assert_eq!(&second.data[..], b"first", "of the next attempt");
    assert_eq!(fixture.camera.feed().published(), 2);
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_capture_time_becomes_the_present() {
    let play = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        for captured in [0, u64::MAX, 1 << 62, wire::nanoseconds(Instant::now() + Duration::from_secs(7))] {
            let header =
                Header { kind: MessageKind::Frame, is_key: true, rendition: 0, length: 0, number: attempt, captured };
            process.raw(&header.bytes());
        }
        process.serve(|_, _, _| false);
        None
    });
    let begun = Instant::now();
    let mut fixture = Fixture::new(vec![play]);
    for _ in 0..5 {
        let frame = fixture.frame().await;
        assert!(frame.captured >= begun && frame.captured <= Instant::now());
    }
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_running_graph_accepts_need_no_restart_and_others_are_tried() {
    let (told, orders) = mpsc::channel();
    let told = Mutex::new(told);
    let play = behaviour(move |process| {
        process.greet()?;
        loop {
            let order = process.order()?;
            if let Order::Open { attempt, settings } = &order {
                let is_bad = matches!(settings, crate::capture::Settings::Camera(config) if config.width == 1922);
                match is_bad {
                    true => process.report(&Report::Failed { attempt: *attempt, error: Error::broken("no such size") }),
                    false => process.run(*attempt),
                }
            }
            if let Order::Close { attempt } = order {
                process.report(&Report::Closed { attempt });
            }
            told.lock().unwrap().send(order).unwrap();
        }
    });
    let mut fixture = Fixture::new(vec![play]);
    fixture.frame().await;
    fixture.is(State::Live).await;
    let config = fixture.camera.config();
    in_time(fixture.camera.configure(Config { bitrate: 777, ..config.clone() })).await.unwrap();
    let orders = |count| (0..count).map(|_| orders.recv_timeout(PATIENCE).unwrap()).collect::<Vec<_>>();
    assert!(matches!(&orders(2)[..], [Order::Open { attempt: 1, .. }, Order::Tune(_)]));
    let wide = Config { width: 1280, bitrate: 777, ..config.clone() };
    in_time(fixture.camera.configure(Config { width: 640, ..wide.clone() })).await.unwrap();
    assert!(matches!(&orders(2)[..], [Order::Close { attempt: 1 }, Order::Open { attempt: 2, .. }]));
    let refused = in_time(fixture.camera.configure(Config { width: 1922, ..wide })).await.unwrap_err();
    assert!(refused.to_string().contains("no such size"));
    assert_eq!(fixture.camera.config().width, 640);
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_filter_reaches_the_running_process_and_the_next_one() {
    let tells = behaviour(|process| {
        let begin = process.greet()?;
        let attempt = process.opened()?;
        // Frames come only in answer to orders.
        let patience = Patience { first: PATIENCE, next: PATIENCE };
        process.report(&Report::Built { attempt, built: Built { patience, ..built() } });
        process.doing(running());
        process.frame(attempt, true, &format!("begins with {:?}", begin.log.filter));
        loop {
            match process.order()? {
                Order::Log { filter } if filter == "info" => return Some(Exit::Signal(9)),
                Order::Log { filter } => process.frame(attempt, true, &format!("goes on with {filter:?}")),
                _ => {}
            }
        }
    });
    let group = Group::new();
    let launcher = Launcher::with_fake(FakeLauncher(Arc::new(Mutex::new(vec![tells].into()))), Duration::from_secs(60));
    let camera = Camera::open(Config::default(), &launcher, &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    let mut said = async |words: &str| {
        let heard = async { while viewer.next().await.data[..] != *words.as_bytes() {} };
        in_time(heard).await
    };
    said(r#"begins with """#).await;
    launcher.set_log_filter("debug");
    said(r#"goes on with "debug""#).await;
    launcher.set_log_filter("info");
    said(r#"begins with "info""#).await;
    close(group).await;
}
