//! Processes that hang, crash, flood or lie, and programs that are not there.

use std::time::Instant;

use super::*;

/// Whether frames come from a second process after a first one that `play`s, and what was said meanwhile.
async fn is_replaced(play: impl Fn(&mut Puppet) -> Option<Exit> + Send + Sync + 'static, words: &str) {
    let mut stage = Stage::new(vec![part(play), part(good)]);
    stage.reason(words).await;
    loop {
        if &stage.frame().await.data[..] == b"next" {
            break;
        }
    }
    assert_eq!(stage.is(State::Live).await.reason, None);
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_hangs_at_any_step_is_killed_and_another_takes_its_place() {
    let steps = [
        (Step::Looking { at: Some("/dev/video3".into()) }, "/dev/video3 hangs: it does not let itself be opened"),
        (Step::Trying { encoder: "v4l2h264enc".into() }, "v4l2h264enc hangs"),
        (Step::Starting { device: "camera".into(), format: None, encoder: None }, "does not let itself be opened"),
    ];
    let hang = |(step, words): (Step, &'static str)| async move {
        let play = move |puppet: &mut Puppet| {
            puppet.greet()?;
            puppet.opened()?;
            puppet.doing(step.clone());
            puppet.hang()
        };
        let begun = Instant::now();
        is_replaced(play, words).await;
        begun.elapsed()
    };
    // At once, since each waits for its limit.
    let took = futures_util::future::join_all(steps.map(hang)).await;
    assert!(took.iter().all(|took| *took < Duration::from_secs(17)), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_while_it_captures_is_noticed_and_replaced_within_seconds() {
    let stopped = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        puppet.hang()
    });
    let mut stage = Stage::new(vec![stopped, part(good)]);
    stage.frame().await;
    let begun = Instant::now();
    // Patience 200 ms here, 400 ms more for a busy board, looked at each 200 ms.
    assert!(stage.frame().await.is_key);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_while_it_captures_is_replaced_at_once_and_viewers_stay() {
    let ends = |exit| {
        part(move |puppet: &mut Puppet| {
            puppet.greet()?;
            puppet.serve(|_, _, number| number >= 3);
            Some(exit)
        })
    };
    let exits = [Exit::Signal(9), Exit::Signal(11), Exit::Code(1), Exit::Code(0)];
    let mut parts: Vec<_> = exits.into_iter().map(ends).collect();
    parts.push(part(good));
    let begun = Instant::now();
    let mut stage = Stage::new(parts);
    let mut firsts = 0;
    while firsts < 5 {
        let frame = stage.frame().await;
        firsts += u32::from(&frame.data[..] == b"first");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_floods_lies_or_speaks_another_language_is_killed_with_the_reason() {
    is_replaced(
        |puppet| {
            puppet.greet()?;
            let attempt = puppet.opened()?;
            puppet.run(attempt);
            loop {
                puppet.frame(attempt, false, "flood");
                if *puppet.is_killed.borrow() {
                    return None;
                }
            }
        },
        "messages of",
    )
    .await;
    let raw: [(&'static [u8], &str); 4] = [
        (&[9; 64], "of kind 9, which does not exist"),
        (&[2, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "are the most"),
        (&[2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'{', b'!', b'}'], "column"),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "it sends orders"),
    ];
    for (bytes, words) in raw {
        is_replaced(
            move |puppet| {
                puppet.greet()?;
                puppet.opened()?;
                puppet.raw(bytes);
                puppet.hang()
            },
            words,
        )
        .await;
    }
    is_replaced(
        |puppet| {
            puppet.report(&Report::Hello { version: 99 });
            puppet.hang()
        },
        "it speaks version 99 of the protocol",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_attempts_that_never_were_change_nothing() {
    let play = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        for attempt in [0, 7, u32::MAX] {
            puppet.report(&Report::Failed { attempt, error: Error::Private });
            puppet.report(&Report::Closed { attempt });
            puppet.report(&Report::Stalled { attempt });
            puppet.report(&Report::Outdated { attempt });
            puppet.report(&Report::Built { attempt, built: built() });
            puppet.report(&Report::Rendition { attempt, number: 1, outcome: Ok("x264enc".into()) });
            puppet.report(&Report::Answer { request: attempt, answer: Ok(Answer::Done) });
        }
        puppet.serve(|_, _, _| false);
        puppet.frame(attempt, true, "alive");
        puppet.hang()
    });
    let mut stage = Stage::new(vec![play]);
    stage.frame().await;
    let live = stage.is(State::Live).await;
    assert_eq!((live.encoder_starts, live.reason), (1, None));
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_said_so_and_looked_for_again() {
    let mut stage = Stage::new(vec![]);
    let why = stage.reason("does not start").await;
    assert!(why.contains("there is no such program") && why.contains("install"), "{why}");
    assert_eq!(stage.camera.status().borrow().state, State::Waiting);
    let asked = in_time(stage.camera.controls()).await.unwrap_err();
    assert!(matches!(asked, Error::NotStarted { .. }), "{asked}");
    close(stage.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_is_answered_within_a_second_whatever_the_process_does() {
    let hangs_when_closed = part(|puppet| {
        puppet.greet()?;
        let attempt = puppet.opened()?;
        puppet.run(attempt);
        while !*puppet.is_killed.borrow() {
            puppet.frame(attempt, true, "secret");
            thread::sleep(Duration::from_millis(2));
        }
        None
    });
    let hangs_when_opened = part(|puppet| {
        puppet.greet()?;
        puppet.opened()?;
        puppet.doing(Step::Looking { at: None });
        puppet.hang()
    });
    for (part_, has_frames) in [(hangs_when_closed, true), (hangs_when_opened, false)] {
        let mut stage = Stage::new(vec![part_, part(good)]);
        match has_frames {
            true => drop(stage.frame().await),
            false => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        let begun = Instant::now();
        in_time(stage.camera.set_privacy(Privacy::On)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let published = stage.camera.feed().published();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(stage.camera.feed().published(), published, "nothing is sent after the answer");
        assert_eq!(stage.is(State::Private).await.reason.as_deref(), Some("privacy is on"));
        in_time(stage.camera.set_privacy(Privacy::Off)).await.unwrap();
        loop {
            if &stage.frame().await.data[..] == b"next" {
                break;
            }
        }
        close(stage.group).await;
    }
}
