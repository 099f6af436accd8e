//! What a disk can do to us: be full, be read-only, or lose power at any moment.

use super::*;

#[tokio::test]
async fn a_step_that_cannot_be_written_is_not_done() {
    let board = Board::new();
    // A file where the state directory should be fails for root too, unlike missing rights.
    fs::write(board.state(), "").unwrap();
    let upkeep = board.start();
    let refused = upkeep.apply("broker".into(), pending("a"), MINUTE).await;
    assert!(matches!(refused, Err(Error::Unkept(_))), "{refused:?}");
    let refused = upkeep.restart(Restart::Service, pending("a")).await;
    assert!(matches!(refused, Err(Error::Unkept(_))), "{refused:?}");
    assert!(!is_asked_to_restart(&upkeep));
}

#[tokio::test]
async fn settings_that_could_not_be_kept_are_lost_until_there_is_room_for_all_of_them() {
    let board = Board::new();
    fs::write(board.state(), "").unwrap();
    let upkeep = board.start();
    let error = upkeep.change(|set| set.log_level = Some("debug".into())).await.unwrap_err().to_string();
    assert!(error.contains(board.state().join(SETTINGS).to_str().unwrap()), "{error}");
    assert_eq!(upkeep.settings().log_level.as_deref(), Some("debug"), "it is in effect");
    assert!(upkeep.change(|set| set.log_level = Some("debug".into())).await.is_err(), "it is lost still");
    upkeep.change(|set| set.log_level = None).await.expect("nothing is lost that is as the disk has it");
    assert!(upkeep.change(|set| set.audio.on = Some(false)).await.is_err());

    fs::remove_file(board.state()).unwrap();
    set_bitrate(&upkeep, 700).await;
    let settings = upkeep.settings();
    assert_eq!((bitrate(&settings), settings.audio.on), (Some(700), Some(false)));
    assert_eq!(board.start().settings(), settings, "the earlier change was kept with the later one");
}

#[tokio::test]
async fn a_trial_that_cannot_be_kept_or_ended_on_the_disk_goes_back_all_the_same() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let ledger = board.kept(LEDGER).unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    fs::rename(board.state(), board.root.path().join("away")).unwrap();
    fs::write(board.state(), "").unwrap();
    upkeep.confirm_trial().await;
    let token = upkeep.restart_asked().await.trial;
    assert_eq!(token, None);
    fs::remove_file(board.state()).unwrap();
    fs::rename(board.root.path().join("away"), board.state()).unwrap();
    assert_eq!(board.kept(LEDGER).unwrap(), ledger);
    let memory = board.remembered(token);
    assert_eq!(memory.text(), FILE);
    assert_eq!(due(&open(memory)).status, Status::Failed);
}

/// A power cut can leave any beginning of the draft, or the file renamed; nothing else is ever there.
#[tokio::test]
async fn a_power_cut_at_any_moment_of_any_step_leaves_the_state_before_or_after_it() {
    let board = Board::new();
    let upkeep = board.start();
    set_bitrate(&upkeep, 700).await;
    let mut steps = vec![snapshot(&board)];
    set_bitrate(&upkeep, 800).await;
    steps.push(snapshot(&board));
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    steps.push(snapshot(&board));
    let token = upkeep.restart_asked().await.trial;
    let upkeep = open(board.remembered(token.clone()));
    hide(&upkeep).await;
    steps.push(snapshot(&board));
    upkeep.confirm_trial().await;
    steps.push(snapshot(&board));
    for pair in steps.windows(2) {
        let expected = (found(&board, &pair[0], None, &token), found(&board, &pair[1], None, &token));
        for name in [SETTINGS, LEDGER] {
            let (old, new) = (content(&pair[0], name), content(&pair[1], name));
            // A draft is never read, so a few of its beginnings stand for all.
            for written in (0..new.len()).step_by(29).chain([new.len()]).filter(|_| old != new) {
                let found = found(&board, &pair[0], Some((name, &new[..written])), &token);
                assert_eq!(found, expected.0, "{name} cut at {written}");
            }
        }
        assert_ne!(expected.0, expected.1, "the step did something");
    }
}

type Files = Vec<(String, String)>;

fn snapshot(board: &Board) -> Files {
    [SETTINGS, LEDGER].into_iter().filter_map(|name| Some((name.to_owned(), board.kept(name)?))).collect()
}

fn content<'f>(files: &'f Files, name: &str) -> &'f str {
    files.iter().find(|(other, _)| other == name).map_or("", |(_, content)| content)
}

/// What the two processes that may come find with these files: the one that was handed the trial, and any other.
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
        let memory = board.remembered(token);
        format!("{:?} {:?} {:?} {:?}", memory.source(), memory.text(), memory.settings(), memory.ledger)
    };
    format!("{} / {}", start(token.clone()), start(None))
}
