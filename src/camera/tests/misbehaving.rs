//! Processes that hang, crash, flood or violate the protocol, and missing programs.

use std::time::Instant;

use super::*;

/// Checks that a second process delivers frames after a first one that runs `play`, and that the status then has
/// `words`.
async fn is_replaced(play: impl Fn(&mut FakeProcess) -> Option<Exit> + Send + Sync + 'static, words: &str) {
    let mut fixture = Fixture::new(vec![behaviour(play), behaviour(good)]);
    fixture.reason(words).await;
    loop {
        if &fixture.frame().await.data[..] == b"next" {
            break;
        }
    }
    assert_eq!(fixture.is(State::Live).await.reason, None);
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_hangs_at_any_step_is_killed_and_replaced() {
    let steps = [
        (Step::Looking { at: Some("/dev/video3".into()) }, "/dev/video3 hangs: it cannot be opened"),
        (Step::Trying { encoder: "v4l2h264enc".into() }, "v4l2h264enc hangs"),
        (Step::Starting { device: "camera".into(), format: None, encoder: None }, "it cannot be opened"),
    ];
    let hang = |(step, words): (Step, &'static str)| async move {
        let play = move |process: &mut FakeProcess| {
            process.greet()?;
            process.opened()?;
            process.doing(step.clone());
            process.hang()
        };
        let begun = Instant::now();
        is_replaced(play, words).await;
        begun.elapsed()
    };
    // In parallel, because each waits for its limit.
    let took = futures_util::future::join_all(steps.map(hang)).await;
    assert!(took.iter().all(|took| *took < Duration::from_secs(17)), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_while_it_captures_is_replaced_within_seconds() {
    let stopped = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        process.hang()
    });
    let mut fixture = Fixture::new(vec![stopped, behaviour(good)]);
    fixture.frame().await;
    let begun = Instant::now();
    // 200 ms of patience here, 400 ms more for a busy board, checked each 200 ms.
    assert!(fixture.frame().await.is_key);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_while_it_captures_is_replaced_at_once_and_viewers_stay() {
    let ends = |exit| {
        behaviour(move |process: &mut FakeProcess| {
            process.greet()?;
            process.serve(|_, _, number| number >= 3);
            Some(exit)
        })
    };
    let exits = [Exit::Signal(9), Exit::Signal(11), Exit::Code(1), Exit::Code(0)];
    let mut behaviours: Vec<_> = exits.into_iter().map(ends).collect();
    behaviours.push(behaviour(good));
    let begun = Instant::now();
    let mut fixture = Fixture::new(behaviours);
    let mut firsts = 0;
    while firsts < 5 {
        let frame = fixture.frame().await;
        firsts += u32::from(&frame.data[..] == b"first");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_floods_or_violates_the_protocol_is_killed_with_the_reason() {
    is_replaced(
        |process| {
            process.greet()?;
            let attempt = process.opened()?;
            process.run(attempt);
            loop {
                process.frame(attempt, false, "flood");
                if *process.is_killed.borrow() {
                    return None;
                }
            }
        },
        "messages of",
    )
    .await;
    let raw: [(&'static [u8], &str); 4] = [
        (&[9; 64], "of kind 9, which does not exist"),
        (&[2, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "the limit is"),
        (&[2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'{', b'!', b'}'], "column"),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "it sends orders"),
    ];
    for (bytes, words) in raw {
        is_replaced(
            move |process| {
                process.greet()?;
                process.opened()?;
                process.raw(bytes);
                process.hang()
            },
            words,
        )
        .await;
    }
    is_replaced(
        |process| {
            process.report(&Report::Hello { version: 99 });
            process.hang()
        },
        "it speaks version 99 of the protocol",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_about_unknown_attempts_change_nothing() {
    let play = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        for attempt in [0, 7, u32::MAX] {
            process.report(&Report::Failed { attempt, error: Error::Private });
            process.report(&Report::Closed { attempt });
            process.report(&Report::Stalled { attempt });
            process.report(&Report::Outdated { attempt });
            process.report(&Report::Built { attempt, built: built() });
            process.report(&Report::Rendition { attempt, number: 1, outcome: Ok("x264enc".into()) });
            process.report(&Report::Answer { request: attempt, answer: Ok(Answer::Done) });
        }
        process.serve(|_, _, _| false);
        process.frame(attempt, true, "alive");
        process.hang()
    });
    let mut fixture = Fixture::new(vec![play]);
    fixture.frame().await;
    let live = fixture.is(State::Live).await;
    assert_eq!((live.encoder_starts, live.reason), (1, None));
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_reported_and_tried_again() {
    let mut fixture = Fixture::new(vec![]);
    let why = fixture.reason("does not start").await;
    assert!(why.contains("there is no such program") && why.contains("install"), "{why}");
    assert_eq!(fixture.camera.status().borrow().state, State::Waiting);
    let asked = in_time(fixture.camera.controls()).await.unwrap_err();
    assert!(matches!(asked, Error::NotStarted { .. }), "{asked}");
    close(fixture.group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_is_answered_within_a_second_whatever_the_process_does() {
    let hangs_when_closed = behaviour(|process| {
        process.greet()?;
        let attempt = process.opened()?;
        process.run(attempt);
        while !*process.is_killed.borrow() {
            process.frame(attempt, true, "secret");
            thread::sleep(Duration::from_millis(2));
        }
        None
    });
    let hangs_when_opened = behaviour(|process| {
        process.greet()?;
        process.opened()?;
        process.doing(Step::Looking { at: None });
        process.hang()
    });
    for (first_process, has_frames) in [(hangs_when_closed, true), (hangs_when_opened, false)] {
        let mut fixture = Fixture::new(vec![first_process, behaviour(good)]);
        match has_frames {
            true => drop(fixture.frame().await),
            false => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        let begun = Instant::now();
        in_time(fixture.camera.set_privacy(Privacy::On)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let published = fixture.camera.feed().published();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(fixture.camera.feed().published(), published, "nothing is sent after the answer");
        assert_eq!(fixture.is(State::Private).await.reason.as_deref(), Some("privacy is on"));
        in_time(fixture.camera.set_privacy(Privacy::Off)).await.unwrap();
        loop {
            if &fixture.frame().await.data[..] == b"next" {
                break;
            }
        }
        close(fixture.group).await;
    }
}
