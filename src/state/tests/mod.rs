//! State that survives a restart, and state that does not. A process loads it ([`Loaded`]) and opens it
//! ([`SavedState`]); a drop ends the process.

mod damage;
mod disk;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tempfile::TempDir;

use super::loaded::{OVERRIDDEN, RECORD, SETTINGS};
use super::reexec::Program;
use super::*;
use crate::command::Outcome;
use crate::command::Reply;
use crate::command::Status;

const FILE: &str = "# the file";
const MINUTE: Duration = Duration::from_secs(60);

/// A board, with the files on its disk and its current boot.
struct Board {
    root: TempDir,
    file: String,
    boot: u32,
}

impl Board {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), file: FILE.into(), boot: 1 }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn file_content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.state().join(name)).ok()
    }

    /// The state that a process loads if it was passed `token`.
    fn load(&self, token: Option<String>) -> Loaded {
        let environment = Environment {
            state: Some(self.state()),
            reboot: Some(self.root.path().join("reboot")),
            boot: Some(self.boot.to_string()),
            token,
            program: Program::current(),
        };
        Loaded::load(environment, self.file.clone())
    }

    /// A process that a service manager started.
    fn start(&self) -> SavedState {
        open(self.load(None))
    }

    /// The process that replaces `before`, which requested it.
    async fn reexec(&self, before: SavedState) -> Loaded {
        self.load(before.restart_requested().await.trial)
    }
}

fn open(loaded: Loaded) -> SavedState {
    SavedState::open(loaded, Box::new(check), &Group::new())
}

/// In these tests a configuration contains words for what it has.
fn check(toml: &str, _: bool) -> Result<Reach, String> {
    match toml {
        _ if toml.contains("mistake") => Err("line 1: `mistake` is not known".into()),
        _ if toml.contains("broker") => Ok(Reach::Broker),
        _ => Ok(Reach::LocalOnly),
    }
}

fn candidate(toml: &str, id: &str) -> Candidate {
    Candidate { toml: toml.into(), within: MINUTE, may_name_files: true, pending: pending(id) }
}

fn pending(id: &str) -> PendingCommand {
    let reply = Reply { topic: "answers".into(), correlation: Some(Bytes::from_static(&[0, 255, 10])) };
    let (command, fingerprint) = ("apply-config".into(), format!("of {id}"));
    PendingCommand { id: id.into(), command, fingerprint, origin: Origin::Broker, reply: Some(reply) }
}

/// The outcome, if exactly one is owed.
fn only_owed(state: &SavedState) -> Outcome {
    let owed_outcomes = state.owed_outcomes().borrow().clone();
    assert_eq!(owed_outcomes.len(), 1, "{owed_outcomes:?}");
    assert_eq!(owed_outcomes[0].pending, pending(&owed_outcomes[0].outcome.id), "with its id and correlation data");
    owed_outcomes[0].outcome.clone()
}

async fn report_all(state: &SavedState) {
    let owed_outcomes = state.owed_outcomes().borrow().clone();
    state.remove_reported(owed_outcomes).await;
}

fn is_restart_requested(state: &SavedState) -> bool {
    state.restart_requested().now_or_never().is_some()
}

async fn set_bitrate(state: &SavedState, bitrate: u32) {
    state.change(move |set| set.cameras.entry("main".into()).or_default().video.bitrate = Some(bitrate)).await.unwrap();
}

async fn hide(state: &SavedState) {
    state.change(|set| set.cameras.entry("main".into()).or_default().privacy = true).await.unwrap();
}

fn bitrate(settings: &Settings) -> Option<u32> {
    settings.cameras.get("main").and_then(|camera| camera.video.bitrate)
}

fn is_hidden(settings: &Settings) -> bool {
    settings.cameras.get("main").is_some_and(|camera| camera.privacy)
}

#[tokio::test]
async fn settings_survive_a_restart() {
    let board = Board::new();
    let state = board.start();
    assert_eq!(state.settings(), Settings::default());
    set_bitrate(&state, 700).await;
    state.change(|set| set.log_level = Some("debug".into())).await.unwrap();
    let settings = state.settings();
    drop(state);
    assert_eq!(bitrate(&settings), Some(700));
    assert_eq!(board.start().settings(), settings);
}

#[tokio::test]
async fn a_configuration_file_that_was_written_later_overrides_settings_but_not_privacy() {
    let mut board = Board::new();
    let state = board.start();
    set_bitrate(&state, 700).await;
    hide(&state).await;
    board.file = "# written later".into();
    let settings = board.start().settings();
    assert_eq!(bitrate(&settings), None);
    assert!(is_hidden(&settings));
    board.file = FILE.into();
    let settings = board.start().settings();
    assert_eq!(bitrate(&settings), None, "dropped settings do not return");
    assert!(is_hidden(&settings));
}

#[tokio::test]
async fn a_change_without_effect_is_not_written() {
    let board = Board::new();
    let state = board.start();
    state.change(|set| set.log_level = None).await.unwrap();
    assert_eq!(board.file_content(SETTINGS), None);
}

#[tokio::test]
async fn a_confirmed_configuration_stays() {
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let loaded = board.reexec(state).await;
    assert_eq!((loaded.source(), loaded.text()), (Source::Trial, "broker 1"));
    let state = open(loaded);
    let trial = state.active_trial().unwrap();
    assert!(trial.needs_broker() && trial.deadline > Instant::now());
    assert_eq!(state.known_command("a").unwrap().outcome, None, "still in progress");
    state.confirm_trial().await;
    assert!(state.active_trial().is_none() && !is_restart_requested(&state));
    assert_eq!(only_owed(&state).status, Status::Successful);
    assert_eq!(state.known_command("a").unwrap().outcome.unwrap().status, Status::Successful);

    let loaded = board.load(None);
    assert_eq!((loaded.source(), loaded.text()), (Source::Applied, "broker 1"));
    let state = open(loaded);
    assert_eq!(only_owed(&state).id, "a", "it could not be reported yet");
    report_all(&state).await;
    assert!(state.owed_outcomes().borrow().is_empty());
    assert_eq!(state.known_command("a").unwrap().pending.fingerprint, "of a", "it stays known");
    assert!(board.start().owed_outcomes().borrow().is_empty());
}

#[tokio::test]
async fn a_process_without_the_trial_token_restores_the_earlier_configuration_and_reports_it() {
    for earlier in [None, Some("broker 0")] {
        let board = Board::new();
        if let Some(earlier) = earlier {
            let state = board.start();
            state.apply(candidate(earlier, "earlier")).await.unwrap();
            let state = open(board.reexec(state).await);
            state.confirm_trial().await;
            report_all(&state).await;
        }
        let state = board.start();
        state.apply(candidate("broker 1", "a")).await.unwrap();
        let token = state.restart_requested().await.trial;
        // Killed after or before the trial began. In both cases a service manager starts the next process.
        drop(open(board.load(token.clone())));
        let loaded = board.load(None);
        assert_eq!(loaded.text(), earlier.unwrap_or(FILE));
        let outcome = only_owed(&open(loaded));
        assert_eq!(outcome.status, Status::Failed);
        assert!(outcome.reason.unwrap().contains("went down before the configuration was confirmed"));
        assert_eq!(board.load(token).text(), earlier.unwrap_or(FILE), "a trial is run once");
    }
}

#[tokio::test]
async fn an_aborted_trial_restarts_with_the_earlier_configuration() {
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let state = open(board.reexec(state).await);
    state.abort_trial("no broker there".into()).await;
    let loaded = board.reexec(state).await;
    assert_eq!((loaded.source(), loaded.text()), (Source::File, FILE));
    let outcome = only_owed(&open(loaded));
    assert_eq!(outcome.status, Status::Failed);
    assert_eq!(outcome.reason.unwrap(), "no broker there; the earlier configuration is in effect again");
}

#[tokio::test]
async fn a_trial_whose_text_cannot_be_read_ends_at_once() {
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let mut loaded = board.reexec(state).await;
    assert!(loaded.reject("line 1: another version knew that key"));
    assert_eq!((loaded.source(), loaded.text()), (Source::File, FILE));
    assert!(!loaded.reject("line 1: nor is this one right"), "no other configuration is left");
    let state = open(loaded);
    assert!(state.active_trial().is_none());
    assert_eq!(only_owed(&state).status, Status::Failed);
    assert!(state.known_command("a").unwrap().outcome.is_some());
}

#[tokio::test]
async fn an_applied_configuration_that_this_version_cannot_read_is_kept_for_a_version_that_can() {
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let state = open(board.reexec(state).await);
    state.confirm_trial().await;
    set_bitrate(&state, 700).await;
    let mut loaded = board.load(None);
    assert!(loaded.reject("line 1: not known"));
    let state = open(loaded);
    assert_eq!((state.source(), bitrate(&state.settings())), (Source::File, None));
    set_bitrate(&state, 800).await;
    let loaded = board.load(None);
    assert_eq!((loaded.source(), bitrate(&loaded.settings())), (Source::Applied, Some(700)));
}

#[tokio::test]
async fn a_configuration_file_that_was_written_later_overrides_the_applied_configuration() {
    let mut board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let token = state.restart_requested().await.trial;
    board.file = "# written during the restart".into();
    let loaded = board.load(token);
    assert_eq!(loaded.text(), board.file);
    assert!(only_owed(&open(loaded)).reason.unwrap().contains("the configuration file was written"));

    let state = board.start();
    report_all(&state).await;
    state.apply(candidate("broker 2", "b")).await.unwrap();
    open(board.reexec(state).await).confirm_trial().await;
    assert_eq!(board.load(None).text(), "broker 2");
    board.file = "# written later".into();
    let loaded = board.load(None);
    assert_eq!((loaded.source(), loaded.text()), (Source::File, "# written later"));
    assert_eq!(board.file_content(OVERRIDDEN).as_deref(), Some("broker 2"));
    board.file = "# written during the restart".into();
    assert_eq!(board.load(None).source(), Source::File, "it stays overridden");
}

#[tokio::test]
async fn applying_the_text_of_the_file_switches_back_to_the_file() {
    let mut board = Board::new();
    board.file = "broker of the file".into();
    for toml in ["broker 1", "broker of the file"] {
        let state = board.start();
        state.apply(candidate(toml, toml)).await.unwrap();
        let state = open(board.reexec(state).await);
        state.confirm_trial().await;
        let expected = if toml == "broker 1" { Source::Applied } else { Source::File };
        assert_eq!((state.source(), board.load(None).source()), (expected, expected));
        assert_eq!(state.owed_outcomes().borrow().last().unwrap().outcome.status, Status::Successful);
    }
}

#[tokio::test]
async fn settings_return_with_their_configuration_if_the_trial_fails_and_privacy_never_changes() {
    let board = Board::new();
    let state = board.start();
    set_bitrate(&state, 700).await;
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let state = open(board.reexec(state).await);
    assert_eq!(bitrate(&state.settings()), None, "the configuration was written later");
    hide(&state).await;
    state.abort_trial("no".into()).await;
    let settings = open(board.reexec(state).await).settings();
    assert_eq!((bitrate(&settings), is_hidden(&settings)), (Some(700), true));

    let state = board.start();
    report_all(&state).await;
    state.apply(candidate("broker 2", "b")).await.unwrap();
    let state = open(board.reexec(state).await);
    state.confirm_trial().await;
    let settings = board.start().settings();
    assert_eq!((bitrate(&settings), is_hidden(&settings)), (None, true));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_applied_is_refused_and_nothing_is_written() {
    let board = Board::new();
    let state = board.start();
    let refused = [
        ("a mistake", MINUTE, "line 1: `mistake` is not known"),
        ("local only", MINUTE, "has no broker"),
        ("broker", MIN_TRIAL - Duration::from_secs(1), "from 10 to 600 s"),
        ("broker", MAX_TRIAL + Duration::from_secs(1), "from 10 to 600 s"),
    ];
    for (toml, within, reason) in refused {
        let error = state.apply(Candidate { within, ..candidate(toml, "a") }).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(!board.state().exists() && !is_restart_requested(&state));
    let local = PendingCommand { origin: Origin::WebSocket, ..pending("a") };
    state.apply(Candidate { pending: local, ..candidate("local only", "a") }).await.unwrap();
    let state = open(board.reexec(state).await);
    assert!(!state.active_trial().unwrap().needs_broker());
}

#[tokio::test]
async fn only_one_restart_is_in_progress_at_a_time() {
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    for state in [state.clone(), open(board.reexec(state).await)] {
        let again = state.apply(candidate("broker 2", "b")).await;
        assert!(matches!(again, Err(Error::Busy("a configuration is on trial"))), "{again:?}");
        let restart = state.restart(Restart::Service, pending("c")).await;
        assert!(matches!(restart, Err(Error::Busy("a configuration is on trial"))), "{restart:?}");
    }
    let state = Board::new().start();
    state.restart(Restart::Service, pending("a")).await.unwrap();
    let again = state.restart(Restart::Service, pending("b")).await;
    assert!(matches!(again, Err(Error::Busy("a restart is under way"))), "{again:?}");
}

#[tokio::test]
async fn a_restart_of_the_service_is_successful_once_it_runs_again() {
    let board = Board::new();
    let state = board.start();
    state.restart(Restart::Service, pending("a")).await.unwrap();
    let state = open(board.reexec(state).await);
    assert_eq!(only_owed(&state).status, Status::Successful);
    assert!(!is_restart_requested(&state), "it restarts once");
    assert_eq!(state.known_command("a").unwrap().pending.fingerprint, "of a");
}

#[tokio::test]
async fn a_reboot_is_requested_by_a_file_and_successful_in_the_next_boot() {
    let mut board = Board::new();
    let state = board.start();
    state.restart(Restart::Board, pending("a")).await.unwrap();
    assert!(board.root.path().join("reboot").exists() && !is_restart_requested(&state));
    let crashed = board.start();
    let outcome = only_owed(&crashed);
    assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Failed, Some("only the service restarted")));
    report_all(&crashed).await;

    crashed.restart(Restart::Board, pending("b")).await.unwrap();
    board.boot += 1;
    assert_eq!(only_owed(&board.start()).status, Status::Successful);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_that_does_not_begin_fails_after_a_while_and_its_request_is_removed() {
    let board = Board::new();
    let state = board.start();
    state.restart(Restart::Board, pending("a")).await.unwrap();
    let mut owed_outcomes = state.owed_outcomes();
    owed_outcomes.wait_for(|owed| !owed.is_empty()).await.unwrap();
    assert!(only_owed(&state).reason.unwrap().contains("peercam-reboot.path"));
    assert!(!board.root.path().join("reboot").exists());
    state.restart(Restart::Service, pending("b")).await.unwrap();
}

#[tokio::test]
async fn without_a_place_for_the_request_a_reboot_is_refused() {
    let board = Board::new();
    let mut loaded = board.load(None);
    loaded.environment.reboot = None;
    let refused = open(loaded).restart(Restart::Board, pending("a")).await;
    assert!(matches!(refused, Err(Error::NoReboot)), "{refused:?}");

    let mut loaded = board.load(None);
    loaded.environment.reboot = Some(board.root.path().join("nowhere/reboot"));
    let state = open(loaded);
    let refused = state.restart(Restart::Board, pending("b")).await;
    assert!(matches!(refused, Err(Error::Reboot(_))), "{refused:?}");
    assert!(board.start().owed_outcomes().borrow().is_empty(), "the command has failed already");
    assert_eq!(state.known_command("b"), None);
    state.restart(Restart::Service, pending("c")).await.unwrap();
    assert_eq!(state.known_command("c").unwrap().outcome, None, "its outcome is reported after the restart");
}

#[tokio::test]
async fn outcomes_that_cannot_be_reported_are_limited_in_number() {
    let board = Board::new();
    for number in 0..40 {
        board.start().restart(Restart::Service, pending(&number.to_string())).await.unwrap();
    }
    let ids: Vec<_> = board.start().owed_outcomes().borrow().iter().map(|owed| owed.outcome.id.clone()).collect();
    assert_eq!(ids.len(), 16);
    assert_eq!(ids.last().map(String::as_str), Some("39"), "the newest are kept");
}

#[tokio::test]
async fn only_the_owner_can_read_passwords_of_an_applied_configuration() {
    use std::os::unix::fs::PermissionsExt;
    let board = Board::new();
    let state = board.start();
    state.apply(candidate("broker, hunter2", "a")).await.unwrap();
    assert_eq!(fs::metadata(board.state().join(RECORD)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!format!("{state:?}").contains("hunter2"));
}
