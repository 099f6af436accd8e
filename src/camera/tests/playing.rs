//! Processes that do what they are to do.

use std::sync::mpsc;
use std::time::Instant;

use crate::capture::{Blame, Memory};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_opened_for_viewers_and_closed_after_them_and_its_process_ends_after_a_while() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let play = part(move |puppet| {
        good(puppet);
        told.lock().unwrap().send(()).unwrap();
        None
    });
    let Stage { group, camera, mut viewer, mut status } = Stage::with(vec![play], Duration::from_millis(300));
    let first = in_time(viewer.next()).await;
    assert!(first.is_key && &first.data[..] == b"first");
    let live = in_time(status.wait_for(|status| status.state == State::Live)).await.unwrap().clone();
    assert_eq!((live.device.as_str(), live.encoder_starts, live.encoders_running), ("camera", 1, 1));
    drop(viewer);
    in_time(status.wait_for(|status| status.state == State::Idle && status.encoders_running == 0)).await.unwrap();
    assert!(ended.recv_timeout(Duration::from_millis(100)).is_err(), "it lingers");
    ended.recv_timeout(PATIENCE).unwrap();
    // The next viewer has another.
    assert!(in_time(camera.feed().subscribe().next()).await.is_key);
    close(group).await;
    ended.recv_timeout(PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_handed_to_the_next_process_and_so_is_what_the_last_one_died_of() {
    let (told, begun) = mpsc::channel();
    let told = Mutex::new(told);
    let play = part(move |puppet| {
        let begin = puppet.greet()?;
        let count = begin.memory.as_u64().unwrap_or_default();
        told.lock().unwrap().send(begin).unwrap();
        puppet.report(&Report::Remember((count + 1).into()));
        puppet.opened()?;
        puppet.doing(Step::Trying { encoder: "v4l2h264enc".into() });
        Some(Exit::Signal(11))
    });
    let mut stage = Stage::new(vec![play]);
    stage.reason("it crashed (SIGSEGV)").await;
    let first = begun.recv_timeout(PATIENCE).unwrap();
    assert_eq!((first.memory, first.blame), (Memory::Null, None));
    for count in 1_u64..3 {
        let next = begun.recv_timeout(PATIENCE).unwrap();
        let step = Step::Trying { encoder: "v4l2h264enc".into() };
        let blame = Blame { step, how: "it crashed (SIGSEGV)".into() };
        assert_eq!((next.memory, next.blame), (count.into(), Some(blame)));
    }
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_one_tries_an_encoder_at_a_time() {
    let busy = Arc::new(Mutex::new(()));
    let play = part(move |puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.doing(Step::Waiting);
        while puppet.order()? != Order::Try {}
        {
            let _only = busy.try_lock().expect("no other tries one");
            puppet.doing(Step::Trying { encoder: "x264enc".into() });
            thread::sleep(Duration::from_millis(50));
        }
        puppet.run(attempt);
        puppet.serve(|_, _, _| false);
        None
    });
    let group = Group::new();
    let launcher = Launcher::played(Player(Arc::new(Mutex::new([play].into()))), Duration::ZERO);
    let cameras: Vec<_> = (0..4).map(|_| Camera::open(Config::default(), &launcher, &group)).collect();
    let viewers = cameras.iter().map(|camera| camera.feed().subscribe());
    for mut viewer in viewers.collect::<Vec<_>>() {
        in_time(viewer.next()).await;
    }
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_start_a_process_and_are_answered_or_given_up_with_it() {
    let play = part(|puppet| {
        puppet.greet()?;
        loop {
            let Order::Ask { request, question } = puppet.order()? else { continue };
            let answer = match question {
                Question::Controls(_) => Ok(Answer::Controls(vec![])),
                Question::Move { .. } => Ok(Answer::HasSound(true)),
                Question::SetControl { .. } => return Some(Exit::Signal(6)),
                _ => Err(Error::broken("no")),
            };
            puppet.report(&Report::Answer { request: request + 1, answer: Ok(Answer::Done) });
            puppet.report(&Report::Answer { request, answer });
        }
    });
    let Stage { group, camera, viewer, .. } = Stage::new(vec![play]);
    drop(viewer);
    assert_eq!(in_time(camera.controls()).await, Ok(vec![]));
    let wrong = in_time(camera.move_by(Movement::default())).await.unwrap_err().to_string();
    assert!(wrong.contains("something else than was asked"), "{wrong}");
    let died = in_time(camera.set_control("gain", 3)).await.unwrap_err().to_string();
    assert!(died.contains("it crashed (SIGABRT)"), "{died}");
    assert_eq!(in_time(camera.controls()).await, Ok(vec![]), "by another process");
    in_time(camera.set_privacy(Privacy::On)).await.unwrap();
    assert_eq!(in_time(camera.controls()).await, Err(Error::Private));
    assert_eq!(in_time(camera.snapshot()).await, Err(Error::Private));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_prepared_is_there_when_somebody_comes_and_opens_no_device_before() {
    let (told, orders) = mpsc::channel();
    let told = Mutex::new(told);
    let play = part(move |puppet| {
        puppet.greet()?;
        told.lock().unwrap().send("begun").unwrap();
        let attempt = puppet.opened()?;
        told.lock().unwrap().send("opened").unwrap();
        puppet.run(attempt);
        puppet.serve(|_, _, _| false);
        None
    });
    let Stage { group, camera, viewer, mut status } = Stage::new(vec![play]);
    drop(viewer);
    in_time(status.wait_for(|status| status.state == State::Idle)).await.unwrap();
    while orders.recv_timeout(Duration::from_millis(100)).is_ok() {}
    camera.prepare();
    let begun = orders.recv_timeout(Duration::from_secs(3));
    assert!(begun.is_err() || begun == Ok("begun"), "{begun:?}");
    assert!(orders.recv_timeout(Duration::from_millis(200)).is_err(), "no device is opened");
    in_time(camera.feed().subscribe().next()).await;
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_of_an_attempt_that_is_over_or_of_another_rendition() {
    let play = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        let header = Header { kind: Kind::Frame, is_key: true, rendition: 3, length: 5, number: attempt, captured: 0 };
        puppet.raw(&[&header.bytes()[..], b"other"].concat());
        while !matches!(puppet.order()?, Order::Close { .. }) {}
        for _ in 0..50 {
            puppet.frame(attempt, true, "late");
        }
        puppet.report(&Report::Closed { attempt });
        puppet.frame(attempt, true, "later");
        let next = puppet.opened()?;
        puppet.frame(attempt, true, "latest");
        puppet.run(next);
        puppet.hang()
    });
    let mut stage = Stage::new(vec![play]);
    assert_eq!(&stage.frame().await.data[..], b"first");
    stage.is(State::Live).await;
    stage.camera.restart();
    let second = stage.frame().await;
    assert_eq!(&second.data[..], b"first", "of the next attempt");
    assert_eq!(stage.camera.feed().published(), 2);
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_frame_was_captured_is_believed_as_far_as_it_can_be() {
    let play = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        for captured in [0, u64::MAX, 1 << 62, wire::nanoseconds(Instant::now() + Duration::from_secs(7))] {
            let header = Header { kind: Kind::Frame, is_key: true, rendition: 0, length: 0, number: attempt, captured };
            puppet.raw(&header.bytes());
        }
        puppet.serve(|_, _, _| false);
        None
    });
    let begun = Instant::now();
    let mut stage = Stage::new(vec![play]);
    for _ in 0..5 {
        let frame = stage.frame().await;
        assert!(frame.captured >= begun && frame.captured <= Instant::now());
    }
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_running_graph_takes_need_no_restart_and_others_are_tried() {
    let (told, orders) = mpsc::channel();
    let told = Mutex::new(told);
    let play = part(move |puppet| {
        puppet.greet()?;
        loop {
            let order = puppet.order()?;
            if let Order::Open { attempt, settings } = &order {
                let is_bad = matches!(settings, crate::capture::Settings::Camera(config) if config.width == 1922);
                match is_bad {
                    true => puppet.report(&Report::Failed { attempt: *attempt, error: Error::broken("no such size") }),
                    false => puppet.run(*attempt),
                }
            }
            if let Order::Close { attempt } = order {
                puppet.report(&Report::Closed { attempt });
            }
            told.lock().unwrap().send(order).unwrap();
        }
    });
    let mut stage = Stage::new(vec![play]);
    stage.frame().await;
    stage.is(State::Live).await;
    let config = stage.camera.config();
    in_time(stage.camera.configure(Config { bitrate: 777, ..config.clone() })).await.unwrap();
    let orders = |count| (0..count).map(|_| orders.recv_timeout(PATIENCE).unwrap()).collect::<Vec<_>>();
    assert!(matches!(&orders(2)[..], [Order::Open { attempt: 1, .. }, Order::Tune(_)]));
    let wide = Config { width: 1280, bitrate: 777, ..config.clone() };
    in_time(stage.camera.configure(Config { width: 640, ..wide.clone() })).await.unwrap();
    assert!(matches!(&orders(2)[..], [Order::Close { attempt: 1 }, Order::Open { attempt: 2, .. }]));
    let refused = in_time(stage.camera.configure(Config { width: 1922, ..wide })).await.unwrap_err();
    assert!(refused.to_string().contains("no such size"));
    assert_eq!(stage.camera.config().width, 640);
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_is_logged_reaches_a_process_that_runs_and_the_next_one() {
    let tells = part(|puppet| {
        let begin = puppet.greet()?;
        let attempt = puppet.opened()?;
        // Frames come when there is something to tell.
        let patience = Patience { first: PATIENCE, next: PATIENCE };
        puppet.report(&Report::Built { attempt, built: Built { patience, ..built() } });
        puppet.doing(running());
        puppet.frame(attempt, true, &format!("begins with {:?}", begin.log.filter));
        loop {
            match puppet.order()? {
                Order::Log { filter } if filter == "info" => return Some(Exit::Signal(9)),
                Order::Log { filter } => puppet.frame(attempt, true, &format!("goes on with {filter:?}")),
                _ => {}
            }
        }
    });
    let group = Group::new();
    let launcher = Launcher::played(Player(Arc::new(Mutex::new(vec![tells].into()))), Duration::from_secs(60));
    let camera = Camera::open(Config::default(), &launcher, &group);
    let mut viewer = camera.feed().subscribe();
    let mut said = async |words: &str| {
        let heard = async { while viewer.next().await.data[..] != *words.as_bytes() {} };
        in_time(heard).await
    };
    said(r#"begins with """#).await;
    launcher.log_by("debug");
    said(r#"goes on with "debug""#).await;
    launcher.log_by("info");
    said(r#"begins with "info""#).await;
    close(group).await;
}
