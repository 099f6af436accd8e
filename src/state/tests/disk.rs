//! Disk failures: a full disk, a read-only disk, and power loss at any moment.

use super::*;

#[tokio::test]
async fn a_step_that_cannot_be_written_has_no_effect() {
    let board = Board::new();
    // A file in place of the state directory fails for root too, unlike missing permissions.
    fs::write(board.state(), "").unwrap();
    let state = board.start();
    let refused = state.apply(candidate("broker", "a")).await;
    assert!(matches!(refused, Err(Error::NotSaved(_))), "{refused:?}");
    let refused = state.restart(Restart::Service, pending("a")).await;
    assert!(matches!(refused, Err(Error::NotSaved(_))), "{refused:?}");
    assert!(!is_restart_requested(&state));
}

#[tokio::test]
async fn settings_that_could_not_be_written_are_written_with_the_next_change_that_can() {
    let board = Board::new();
    fs::write(board.state(), "").unwrap();
    let state = board.start();
    let error = state.change(|set| set.log_level = Some("debug".into())).await.unwrap_err().to_string();
    assert!(error.contains(board.state().join(SETTINGS).to_str().unwrap()), "{error}");
    assert_eq!(state.settings().log_level.as_deref(), Some("debug"), "it is in effect");
    assert!(state.change(|set| set.log_level = Some("debug".into())).await.is_err(), "it is still not written");
    state.change(|set| set.log_level = None).await.expect("the disk has the same settings");
    assert!(state.change(|set| set.audio.on = Some(false)).await.is_err());

    fs::remove_file(board.state()).unwrap();
    set_bitrate(&state, 700).await;
    let settings = state.settings();
    assert_eq!((bitrate(&settings), settings.audio.on), (Some(700), Some(false)));
    assert_eq!(board.start().settings(), settings, "the earlier change was written with the later one");
}

#[tokio::test]
async fn a_trial_whose_end_cannot_be_written_restores_the_earlier_configuration() {
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let record = board.file_content(RECORD).unwrap();
    let state = open(board.reexec(state).await);
    fs::rename(board.state(), board.root.path().join("away")).unwrap();
    fs::write(board.state(), "").unwrap();
    state.confirm_trial().await;
    let token = state.restart_requested().await.trial;
    assert_eq!(token, None);
    fs::remove_file(board.state()).unwrap();
    fs::rename(board.root.path().join("away"), board.state()).unwrap();
    assert_eq!(board.file_content(RECORD).unwrap(), record);
    let loaded = board.load(token);
    assert_eq!(loaded.text(), FILE);
    assert_eq!(only_owed(&open(loaded)).status, Status::Failed);
}

/// A power cut can leave any prefix of the draft, or the renamed file; no other state is possible.
#[tokio::test]
async fn a_power_cut_at_any_moment_leaves_the_state_before_or_after_the_step() {
    let board = Board::new();
    let state = board.start();
    set_bitrate(&state, 700).await;
    let mut steps = vec![snapshot(&board)];
    set_bitrate(&state, 800).await;
    steps.push(snapshot(&board));
    state.apply(candidate("broker 1", "a")).await.unwrap();
    steps.push(snapshot(&board));
    let token = state.restart_requested().await.trial;
    let state = open(board.load(token.clone()));
    hide(&state).await;
    steps.push(snapshot(&board));
    state.confirm_trial().await;
    steps.push(snapshot(&board));
    for pair in steps.windows(2) {
        let expected = (found(&board, &pair[0], None, &token), found(&board, &pair[1], None, &token));
        for name in [SETTINGS, RECORD] {
            let (old, new) = (content(&pair[0], name), content(&pair[1], name));
            // A draft is never read, so a few prefixes are enough.
            for written in (0..new.len()).step_by(29).chain([new.len()]).filter(|_| old != new) {
                let found = found(&board, &pair[0], Some((name, &new[..written])), &token);
                assert_eq!(found, expected.0, "{name} cut at {written}");
            }
        }
        assert_ne!(expected.0, expected.1, "the step has an effect");
    }
}

type Files = Vec<(String, String)>;

fn snapshot(board: &Board) -> Files {
    [SETTINGS, RECORD].into_iter().filter_map(|name| Some((name.to_owned(), board.file_content(name)?))).collect()
}

fn content<'f>(files: &'f Files, name: &str) -> &'f str {
    files.iter().find(|(other, _)| other == name).map_or("", |(_, content)| content)
}

/// The state that the two possible next processes load from these files: the one with the trial token, and any other.
fn found(board: &Board, files: &Files, draft: Option<(&str, &str)>, token: &Option<String>) -> String {
    let start = |token: Option<String>| {
        fs::remove_dir_all(board.state()).ok();
        fs::create_dir_all(board.state()).unwrap();
        for (name, content) in files {
            fs::write(board.state().join(name), content).unwrap();
        }
        if let Some((name, content)) = draft {
            fs::write(board.state().join(format!("{name}.draft")), content).unwrap();
        }
        let loaded = board.load(token);
        format!("{:?} {:?} {:?} {:?}", loaded.source(), loaded.text(), loaded.settings(), loaded.record)
    };
    format!("{} / {}", start(token.clone()), start(None))
}
