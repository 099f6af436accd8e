//! What a process may take its time for, what is held against whom where it does not get it, and what has an end.

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
async fn a_trial_that_privacy_cuts_short_is_held_against_no_encoder() {
    let (told, begun) = mpsc::channel();
    let told = Mutex::new(told);
    let tries = part(move |puppet| {
        let begin = puppet.greet()?;
        told.lock().unwrap().send(begin.blame).unwrap();
        puppet.opened()?;
        puppet.doing(Step::Trying { encoder: "v4l2h264enc".into() });
        puppet.hang()
    });
    let stage = Stage::new(vec![tries]);
    for _ in 0..4 {
        assert_eq!(begun.recv_timeout(PATIENCE).unwrap(), None);
        tokio::time::sleep(Duration::from_millis(100)).await;
        in_time(stage.camera.set_privacy(Privacy::On)).await.unwrap();
        in_time(stage.camera.set_privacy(Privacy::Off)).await.unwrap();
    }
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_failed_and_does_not_close_is_not_waited_for_by_viewers() {
    let fails = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.report(&Report::Failed { attempt, error: Error::Gone { device: "camera".into() } });
        puppet.hang()
    });
    let mut stage = Stage::new(vec![fails, part(good)]);
    let begun = Instant::now();
    stage.frame().await;
    // 250 ms until the next attempt, 600 ms for the device to close.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_remains_although_it_was_killed_is_said_so_until_it_has_ended() {
    let is_let_go = Arc::new(AtomicBool::new(false));
    let within_the_kernel = {
        let is_let_go = is_let_go.clone();
        part(move |puppet| {
            puppet.greet()?;
            let attempt = puppet.opened()?;
            puppet.run(attempt);
            while !is_let_go.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(2));
            }
            None
        })
    };
    let mut stage = Stage::new(vec![within_the_kernel, part(good)]);
    stage.frame().await;
    stage.reason("hangs: it does not let itself be closed").await;
    assert_eq!(stage.camera.status().borrow().state, State::Waiting);
    let refused = in_time(stage.camera.set_privacy(Privacy::On)).await.unwrap_err();
    assert!(matches!(refused, Error::MaybeOpen { .. }), "{refused}");
    is_let_go.store(true, Ordering::Relaxed);
    stage.reason("privacy is on").await;
    in_time(stage.status.wait_for(|status| status.reason.as_deref() == Some("privacy is on"))).await.unwrap();
    in_time(stage.camera.set_privacy(Privacy::Off)).await.unwrap();
    while &stage.frame().await.data[..] != b"next" {}
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_end_with_its_connection_is_killed_within_the_time_of_a_shutdown() {
    let stays = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        let mut number = 0;
        while !*puppet.is_killed.borrow() {
            puppet.frame(attempt, false, "next");
            thread::sleep(Duration::from_millis(10));
            number += 1;
        }
        (number > 0).then_some(Exit::Signal(9))
    });
    let mut stage = Stage::new(vec![stays]);
    stage.frame().await;
    assert!(stage.group.close(Duration::from_secs(1)).await, "the process is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_started_for_a_question_ends_after_the_answer_however_late_that_comes() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let answers = part(move |puppet| {
        puppet.greet()?;
        let Order::Ask { request, .. } = puppet.order()? else { return None };
        thread::sleep(Duration::from_millis(300));
        puppet.report(&Report::Answer { request, answer: Ok(Answer::Controls(vec![])) });
        puppet.order();
        told.lock().unwrap().send(()).unwrap();
        None
    });
    let Stage { group, camera, viewer, .. } = Stage::with(vec![answers], Duration::ZERO);
    // Before the actor has begun: nobody watches.
    in_time(camera.set_privacy(Privacy::On)).await.unwrap();
    drop(viewer);
    in_time(camera.set_privacy(Privacy::Off)).await.unwrap();
    assert_eq!(in_time(camera.controls()).await, Ok(vec![]));
    ended.recv_timeout(Duration::from_secs(3)).unwrap();
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_wait_for_a_camera_are_as_many_as_may_wait_and_no_more() {
    let stage = Stage::new(vec![]);
    for _ in 0..40 {
        let given_up = tokio::time::timeout(Duration::from_millis(5), stage.camera.snapshot()).await;
        assert!(given_up.is_err(), "those who have gone take no place");
    }
    let all = futures_util::future::join_all((0..20).map(|_| stage.camera.snapshot()));
    let refused = in_time(all).await.into_iter().filter_map(Result::err).map(|error| error.to_string());
    let too_many = refused.filter(|why| why.contains("too many")).count();
    assert_eq!(too_many, 4, "of 20, where 16 may wait");
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_closes_its_device_untold_or_remembers_too_much_is_replaced() {
    let closes = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        puppet.report(&Report::Closed { attempt });
        puppet.hang()
    });
    let remembers = part(|puppet| {
        puppet.greet()?;
        puppet.opened()?;
        puppet.report(&Report::Remember("x".repeat(1 << 19).into()));
        puppet.hang()
    });
    let mut stage = Stage::new(vec![closes, remembers, part(good)]);
    stage.reason("it remembers").await;
    while &stage.frame().await.data[..] != b"next" {}
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_in_which_a_process_dies_of_an_encoder_goes_on_without_that() {
    let dies = |exit| {
        part(move |puppet: &mut Puppet| {
            puppet.greet()?;
            puppet.order()?;
            puppet.doing(Step::Trying { encoder: "v4l2h264enc".into() });
            Some(exit)
        })
    };
    let answers = part(|puppet| {
        let begin = puppet.greet()?;
        let Order::Ask { request, .. } = puppet.order()? else { return None };
        let blamed = format!("{:?}", begin.blame);
        let survey = Survey { gstreamer: blamed, ..Survey::default() };
        puppet.report(&Report::Answer { request, answer: Ok(Answer::Survey(Box::new(survey))) });
        puppet.hang()
    });
    // The first as under systemd.
    let parts = vec![dies(Exit::Unknown), dies(Exit::Signal(6)), answers];
    let launcher = Launcher::played(Player(Arc::new(Mutex::new(parts.into()))), Duration::ZERO);
    let found = in_time(survey(&[], &AudioConfig::default(), &launcher)).await;
    assert!(found.gstreamer.contains("v4l2h264enc") && found.gstreamer.contains("SIGABRT"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_systemd_started_is_known_by_the_kernels_word_and_killed_where_it_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, words) = (folder.path().join("socket"), folder.path().join("words"));
    let listener = UnixListener::bind(&socket).unwrap();
    let reports = [
        Report::Hello { version: wire::VERSION },
        Report::Built { attempt: 1, built: built() },
        Report::Doing(running()),
    ];
    let said = reports.iter().flat_map(|report| wire::message(Kind::Report, report).unwrap());
    fs::write(&words, said.collect::<Vec<_>>()).unwrap();
    let child = thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        let mut shell = Program::new("sh");
        shell.args(["-c", "exec tail -f \"$0\" >&0"]).arg(&words).stdin(OwnedFd::from(connection));
        shell.spawn().unwrap().wait().unwrap()
    });
    let group = Group::new();
    let launcher = Launcher::of_socket(socket, Log::default(), Duration::from_secs(60));
    let camera = Camera::open(Config::default(), &launcher, &group);
    let _viewer = camera.feed().subscribe();
    let ended = in_time(tokio::task::spawn_blocking(move || child.join().unwrap())).await.unwrap();
    assert_eq!(ended.signal(), Some(9));
    close(group).await;
}
