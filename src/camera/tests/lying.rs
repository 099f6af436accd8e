//! Processes that say what is not so, or too much, and ends of which nobody says how they came about.

use std::sync::mpsc;
use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_says_it_rests_while_its_camera_brings_nothing_is_replaced() {
    for step in [Step::Resting, Step::Waiting, Step::Loading] {
        let lies = part(move |puppet| {
            puppet.greet()?;
            let attempt = puppet.opened()?;
            puppet.run(attempt);
            while !*puppet.is_killed.borrow() {
                puppet.doing(step.clone());
                thread::sleep(Duration::from_millis(50));
            }
            None
        });
        let mut stage = Stage::new(vec![lies, part(good)]);
        stage.frame().await;
        let begun = Instant::now();
        while &stage.frame().await.data[..] != b"next" {}
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        close(stage.group).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_at_rest_for_long_has_as_long_to_open_its_device_as_any_other() {
    let slow = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        // Three looks of the service.
        thread::sleep(Duration::from_millis(700));
        puppet.run(attempt);
        puppet.hang()
    });
    let group = Group::new();
    let launcher = Launcher::played(Player(Arc::new(Mutex::new(vec![slow].into()))), Duration::from_secs(60));
    let camera = Camera::open(Config { source: "/dev/video0".into(), ..Config::default() }, &launcher, &group);
    camera.prepare();
    tokio::time::sleep(Duration::from_secs(16)).await;
    let mut viewer = camera.feed().subscribe();
    assert_eq!(&in_time(viewer.next()).await.data[..], b"first");
    assert_eq!(camera.status().borrow().reason, None);
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_keeps_the_leave_to_try_an_encoder_does_not_keep_the_others_waiting() {
    let keeps = part(|puppet| {
        puppet.greet()?;
        puppet.opened()?;
        while !*puppet.is_killed.borrow() {
            puppet.doing(Step::Waiting);
            thread::sleep(Duration::from_millis(50));
        }
        None
    });
    let mut stage = Stage::new(vec![keeps, part(good)]);
    // Meanwhile people are told what is done.
    stage.reason("waiting to try an encoder").await;
    assert_eq!(stage.camera.status().borrow().state, State::Waiting);
    while &stage.frame().await.data[..] != b"next" {}
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_would_wait_for_ever_by_its_own_account_ends_nothing() {
    let for_ever = Patience { first: Duration::MAX, next: Duration::MAX };
    let waits = part(move |puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.report(&Report::Built { attempt, built: Built { patience: for_ever, ..built() } });
        puppet.doing(running());
        thread::sleep(Duration::from_millis(600));
        puppet.frame(attempt, true, "first");
        puppet.hang()
    });
    let mut stage = Stage::new(vec![waits]);
    stage.frame().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The actor that took that in answers still.
    in_time(stage.camera.set_privacy(Privacy::On)).await.unwrap();
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_would_cost_viewers_more_than_they_may_are_not_published() {
    let many = "\0\0\u{1}A".repeat(100 << 10);
    let fills = part(move |puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.report(&Report::Built { attempt, built: built() });
        puppet.doing(running());
        puppet.frame(attempt, true, "");
        puppet.frame(attempt, true, &many);
        puppet.frame(attempt, true, "first");
        puppet.hang()
    });
    let mut stage = Stage::new(vec![fills]);
    assert_eq!(&stage.frame().await.data[..], b"first");
    assert_eq!(stage.camera.feed().published(), 1);
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_end_during_a_trial_is_held_against_the_encoder() {
    let (told, begun) = mpsc::channel();
    let told = Mutex::new(told);
    // As under systemd, which tells nobody how a process ended.
    let dies = part(move |puppet| {
        let begin = puppet.greet()?;
        told.lock().unwrap().send(begin.blame).unwrap();
        puppet.opened()?;
        puppet.doing(Step::Trying { encoder: "v4l2h264enc".into() });
        Some(Exit::Unknown)
    });
    let stage = Stage::new(vec![dies]);
    assert_eq!(begun.recv_timeout(PATIENCE).unwrap(), None);
    let blame = begun.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((blame.step, blame.how.as_str()), (Step::Trying { encoder: "v4l2h264enc".into() }, "it ended"));
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_has_told_of_controls_outlives_it_where_the_next_tells_of_sizes_only() {
    let (values, sizes) = (BTreeMap::from([("gain".to_owned(), 7)]), vec![Resolution { width: 640, height: 480 }]);
    let told = (values.clone(), sizes.clone());
    let tells = part(move |puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.report(&Report::Controls(values.clone()));
        puppet.run(attempt);
        thread::sleep(Duration::from_millis(100));
        Some(Exit::Signal(9))
    });
    let next = part(move |puppet| {
        puppet.greet()?;
        puppet.report(&Report::Sizes(sizes.clone()));
        puppet.serve(|_, _, _| false);
        None
    });
    let mut stage = Stage::new(vec![tells, next]);
    let mut adjustments = stage.camera.adjustments();
    while &stage.frame().await.data[..] != b"next" {}
    let known = in_time(adjustments.wait_for(|known| !known.sizes.is_empty())).await.unwrap().clone();
    assert_eq!((known.controls, known.sizes), told);
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_says_for_people_is_cut_and_writes_no_lines_of_its_own() {
    let says = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        let device = format!("eyes\n\u{1b}[31m\u{202e}{}", "x".repeat(50_000));
        puppet.report(&Report::Failed { attempt, error: Error::Gone { device } });
        puppet.hang()
    });
    let refused = part(|puppet| {
        puppet.greet()?;
        puppet.opened()?;
        let body = format!("{{\"doing\":\"{}\"}}", "y".repeat(1_000_000));
        let length = body.len() as u32;
        let header = Header { kind: Kind::Report, is_key: false, rendition: 0, length, number: 0, captured: 0 };
        puppet.raw(&[&header.bytes()[..], body.as_bytes()].concat());
        puppet.hang()
    });
    let mut stage = Stage::new(vec![says, refused, part(good)]);
    for words in ["eyes", "yyyy"] {
        let reason = stage.reason(words).await;
        assert!(reason.len() < 5000 && !reason.contains(['\n', '\u{1b}', '\u{202e}']), "{} bytes", reason.len());
    }
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_was_watched_long_ago_is_not_slow_when_it_is_watched_again() {
    let group = Group::new();
    let launcher = Launcher::played(Player(Arc::new(Mutex::new(vec![part(good)].into()))), Duration::ZERO);
    let camera = Camera::open(Config { source: "/dev/video0".into(), ..Config::default() }, &launcher, &group);
    for pause in [7, 0] {
        let (mut viewer, mut status) = (camera.feed().subscribe(), camera.status());
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
