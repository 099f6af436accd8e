//! What survives, and what does not. A process is a [`Memory`] that became an [`Upkeep`]; its end is a drop.

mod damage;
mod disk;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tempfile::TempDir;

use super::memory::{LEDGER, OVERRULED, SETTINGS};
use super::reentry::Program;
use super::*;
use crate::command::Outcome;
use crate::command::Status;
use crate::mqtt::Reply;

const FILE: &str = "# the file";
const MINUTE: Duration = Duration::from_secs(60);

/// A board, with what lies on its disk and which boot it is in.
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

    fn kept(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.state().join(name)).ok()
    }

    /// The memory of a process that was handed `token`.
    fn remembered(&self, token: Option<String>) -> Memory {
        let surroundings = Surroundings {
            state: Some(self.state()),
            reboot: Some(self.root.path().join("reboot")),
            boot: Some(self.boot.to_string()),
            token,
            program: Program::current(),
        };
        Memory::recall(surroundings, self.file.clone())
    }

    /// A process that a service manager started.
    fn start(&self) -> Upkeep {
        open(self.remembered(None))
    }

    /// The process that takes the place of `before`, which asked for it.
    async fn begin_anew(&self, before: Upkeep) -> Memory {
        self.remembered(before.restart_asked().await.trial)
    }
}

fn open(memory: Memory) -> Upkeep {
    memory.open(Box::new(check), &Group::new())
}

/// A configuration says what it has by its words here.
fn check(toml: &str, _: Origin) -> Result<Prospect, String> {
    match toml {
        _ if toml.contains("mistake") => Err("line 1: `mistake` is not known".into()),
        _ if toml.contains("broker") => Ok(Prospect::Broker),
        _ => Ok(Prospect::LocalOnly),
    }
}

fn pending(id: &str) -> Pending {
    let reply = Reply { topic: "answers".into(), correlation: Some(Bytes::from_static(&[0, 255, 10])) };
    let (command, fingerprint) = ("apply-config".into(), format!("of {id}"));
    Pending { id: id.into(), command, fingerprint, origin: Origin::Broker, reply: Some(reply) }
}

/// The only outcome that is owed.
fn due(upkeep: &Upkeep) -> Outcome {
    let dues = upkeep.dues().borrow().clone();
    assert_eq!(dues.len(), 1, "{dues:?}");
    assert_eq!(dues[0].pending, pending(&dues[0].outcome.id), "id, correlation and all");
    dues[0].outcome.clone()
}

async fn tell_all(upkeep: &Upkeep) {
    let dues = upkeep.dues().borrow().clone();
    upkeep.told(dues).await;
}

fn is_asked_to_restart(upkeep: &Upkeep) -> bool {
    upkeep.restart_asked().now_or_never().is_some()
}

async fn set_bitrate(upkeep: &Upkeep, bitrate: u32) {
    upkeep.change(move |set| set.cameras.entry("main".into()).or_default().bitrate = Some(bitrate)).await.unwrap();
}

async fn hide(upkeep: &Upkeep) {
    upkeep.change(|set| set.cameras.entry("main".into()).or_default().privacy = true).await.unwrap();
}

fn bitrate(settings: &Settings) -> Option<u32> {
    settings.cameras.get("main").and_then(|camera| camera.bitrate)
}

fn is_hidden(settings: &Settings) -> bool {
    settings.cameras.get("main").is_some_and(|camera| camera.privacy)
}

#[tokio::test]
async fn settings_survive_a_restart() {
    let board = Board::new();
    let upkeep = board.start();
    assert_eq!(upkeep.settings(), Settings::default());
    set_bitrate(&upkeep, 700).await;
    upkeep.change(|set| set.log_level = Some("debug".into())).await.unwrap();
    let settings = upkeep.settings();
    drop(upkeep);
    assert_eq!(bitrate(&settings), Some(700));
    assert_eq!(board.start().settings(), settings);
}

#[tokio::test]
async fn a_file_that_was_written_later_wins_over_settings_but_not_over_privacy() {
    let mut board = Board::new();
    let upkeep = board.start();
    set_bitrate(&upkeep, 700).await;
    hide(&upkeep).await;
    board.file = "# written later".into();
    let settings = board.start().settings();
    assert_eq!(bitrate(&settings), None);
    assert!(is_hidden(&settings));
    board.file = FILE.into();
    let settings = board.start().settings();
    assert_eq!(bitrate(&settings), None, "what was dropped stays dropped, whatever is written then");
    assert!(is_hidden(&settings));
}

#[tokio::test]
async fn a_change_that_changes_nothing_does_not_wear_the_disk() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.change(|set| set.log_level = None).await.unwrap();
    assert_eq!(board.kept(SETTINGS), None);
}

#[tokio::test]
async fn a_configuration_that_proves_itself_stays() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let memory = board.begin_anew(upkeep).await;
    assert_eq!((memory.source(), memory.text()), (Source::Trial, "broker 1"));
    let upkeep = open(memory);
    let trial = upkeep.on_trial().unwrap();
    assert!(trial.needs_broker() && trial.deadline > Instant::now());
    assert_eq!(upkeep.entrusted("a").unwrap().outcome, None, "still under way");
    upkeep.confirm_trial().await;
    assert!(upkeep.on_trial().is_none() && !is_asked_to_restart(&upkeep));
    assert_eq!(due(&upkeep).status, Status::Successful);
    assert_eq!(upkeep.entrusted("a").unwrap().outcome.unwrap().status, Status::Successful);

    let memory = board.remembered(None);
    assert_eq!((memory.source(), memory.text()), (Source::Applied, "broker 1"));
    let upkeep = open(memory);
    assert_eq!(due(&upkeep).id, "a", "it could not be told yet");
    tell_all(&upkeep).await;
    assert!(upkeep.dues().borrow().is_empty());
    assert_eq!(upkeep.entrusted("a").unwrap().pending.fingerprint, "of a", "known even so");
    assert!(board.start().dues().borrow().is_empty());
}

#[tokio::test]
async fn a_process_that_was_not_handed_the_trial_goes_back_and_says_so() {
    for earlier in [None, Some("broker 0")] {
        let board = Board::new();
        if let Some(earlier) = earlier {
            let upkeep = board.start();
            upkeep.apply(earlier.into(), pending("earlier"), MINUTE).await.unwrap();
            let upkeep = open(board.begin_anew(upkeep).await);
            upkeep.confirm_trial().await;
            tell_all(&upkeep).await;
        }
        let upkeep = board.start();
        upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
        let token = upkeep.restart_asked().await.trial;
        // Tried, then killed; or killed before it was tried. Either way a service manager starts the next process.
        drop(open(board.remembered(token.clone())));
        let memory = board.remembered(None);
        assert_eq!(memory.text(), earlier.unwrap_or(FILE));
        let outcome = due(&open(memory));
        assert_eq!(outcome.status, Status::Failed);
        assert!(outcome.reason.unwrap().contains("went down before the configuration was confirmed"));
        assert_eq!(board.remembered(token).text(), earlier.unwrap_or(FILE), "a trial is made once");
    }
}

#[tokio::test]
async fn a_trial_that_is_given_up_restarts_with_what_was_before() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    upkeep.give_trial_up("no broker there".into()).await;
    let memory = board.begin_anew(upkeep).await;
    assert_eq!((memory.source(), memory.text()), (Source::File, FILE));
    let outcome = due(&open(memory));
    assert_eq!(outcome.status, Status::Failed);
    assert_eq!(outcome.reason.unwrap(), "no broker there; the earlier configuration is in effect again");
}

#[tokio::test]
async fn a_trial_whose_text_cannot_be_read_goes_back_at_once() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let mut memory = board.begin_anew(upkeep).await;
    assert!(memory.reject("line 1: another version knew that key"));
    assert_eq!((memory.source(), memory.text()), (Source::File, FILE));
    assert!(!memory.reject("line 1: nor is this one right"), "nothing is left");
    let upkeep = open(memory);
    assert!(upkeep.on_trial().is_none());
    assert_eq!(due(&upkeep).status, Status::Failed);
    assert!(upkeep.entrusted("a").unwrap().outcome.is_some());
}

#[tokio::test]
async fn an_applied_configuration_that_this_version_cannot_read_waits_for_one_that_can() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    upkeep.confirm_trial().await;
    set_bitrate(&upkeep, 700).await;
    let mut memory = board.remembered(None);
    assert!(memory.reject("line 1: not known"));
    let upkeep = open(memory);
    assert_eq!((upkeep.source(), bitrate(&upkeep.settings())), (Source::File, None));
    set_bitrate(&upkeep, 800).await;
    let memory = board.remembered(None);
    assert_eq!((memory.source(), bitrate(&memory.settings())), (Source::Applied, Some(700)));
}

#[tokio::test]
async fn a_file_that_was_written_later_wins_over_the_applied_configuration() {
    let mut board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let token = upkeep.restart_asked().await.trial;
    board.file = "# written during the restart".into();
    let memory = board.remembered(token);
    assert_eq!(memory.text(), board.file);
    assert!(due(&open(memory)).reason.unwrap().contains("the configuration file was written"));

    let upkeep = board.start();
    tell_all(&upkeep).await;
    upkeep.apply("broker 2".into(), pending("b"), MINUTE).await.unwrap();
    open(board.begin_anew(upkeep).await).confirm_trial().await;
    assert_eq!(board.remembered(None).text(), "broker 2");
    board.file = "# written later".into();
    let memory = board.remembered(None);
    assert_eq!((memory.source(), memory.text()), (Source::File, "# written later"));
    assert_eq!(board.kept(OVERRULED).as_deref(), Some("broker 2"));
    board.file = "# written during the restart".into();
    assert_eq!(board.remembered(None).source(), Source::File, "overruled once is overruled");
}

#[tokio::test]
async fn applying_the_text_of_the_file_goes_back_to_the_file() {
    let mut board = Board::new();
    board.file = "broker of the file".into();
    for toml in ["broker 1", "broker of the file"] {
        let upkeep = board.start();
        upkeep.apply(toml.into(), pending(toml), MINUTE).await.unwrap();
        let upkeep = open(board.begin_anew(upkeep).await);
        upkeep.confirm_trial().await;
        let expected = if toml == "broker 1" { Source::Applied } else { Source::File };
        assert_eq!((upkeep.source(), board.remembered(None).source()), (expected, expected));
        assert_eq!(upkeep.dues().borrow().last().unwrap().outcome.status, Status::Successful);
    }
}

#[tokio::test]
async fn settings_come_back_with_their_configuration_if_the_trial_fails_and_privacy_holds_throughout() {
    let board = Board::new();
    let upkeep = board.start();
    set_bitrate(&upkeep, 700).await;
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    assert_eq!(bitrate(&upkeep.settings()), None, "the configuration was written later");
    hide(&upkeep).await;
    upkeep.give_trial_up("no".into()).await;
    let settings = open(board.begin_anew(upkeep).await).settings();
    assert_eq!((bitrate(&settings), is_hidden(&settings)), (Some(700), true));

    let upkeep = board.start();
    tell_all(&upkeep).await;
    upkeep.apply("broker 2".into(), pending("b"), MINUTE).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    upkeep.confirm_trial().await;
    let settings = board.start().settings();
    assert_eq!((bitrate(&settings), is_hidden(&settings)), (None, true));
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused_and_nothing_is_written() {
    let board = Board::new();
    let upkeep = board.start();
    let refused = [
        ("a mistake", MINUTE, "line 1: `mistake` is not known"),
        ("nothing to reach it by", MINUTE, "has no broker"),
        ("broker", LEAST_TRIAL - Duration::from_secs(1), "from 10 to 600 s"),
        ("broker", MOST_TRIAL + Duration::from_secs(1), "from 10 to 600 s"),
    ];
    for (toml, within, reason) in refused {
        let error = upkeep.apply(toml.into(), pending("a"), within).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(!board.state().exists() && !is_asked_to_restart(&upkeep));
    let local = Pending { origin: Origin::WebSocket, ..pending("a") };
    upkeep.apply("nothing to reach it by".into(), local, MINUTE).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    assert!(!upkeep.on_trial().unwrap().needs_broker());
}

#[tokio::test]
async fn one_restart_at_a_time() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    for upkeep in [upkeep.clone(), open(board.begin_anew(upkeep).await)] {
        let again = upkeep.apply("broker 2".into(), pending("b"), MINUTE).await;
        assert!(matches!(again, Err(Error::Busy("a configuration is on trial"))), "{again:?}");
        let restart = upkeep.restart(Restart::Service, pending("c")).await;
        assert!(matches!(restart, Err(Error::Busy("a configuration is on trial"))), "{restart:?}");
    }
    let upkeep = Board::new().start();
    upkeep.restart(Restart::Service, pending("a")).await.unwrap();
    let again = upkeep.restart(Restart::Service, pending("b")).await;
    assert!(matches!(again, Err(Error::Busy("a restart is under way"))), "{again:?}");
}

#[tokio::test]
async fn a_restart_of_the_service_is_successful_once_it_is_back() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.restart(Restart::Service, pending("a")).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    assert_eq!(due(&upkeep).status, Status::Successful);
    assert!(!is_asked_to_restart(&upkeep), "once is enough");
    assert_eq!(upkeep.entrusted("a").unwrap().pending.fingerprint, "of a");
}

#[tokio::test]
async fn a_reboot_is_asked_for_by_a_file_and_successful_in_the_next_boot() {
    let mut board = Board::new();
    let upkeep = board.start();
    upkeep.restart(Restart::Board, pending("a")).await.unwrap();
    assert!(board.root.path().join("reboot").exists() && !is_asked_to_restart(&upkeep));
    let crashed = board.start();
    let outcome = due(&crashed);
    assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Failed, Some("only the service restarted")));
    tell_all(&crashed).await;

    crashed.restart(Restart::Board, pending("b")).await.unwrap();
    board.boot += 1;
    assert_eq!(due(&board.start()).status, Status::Successful);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_that_nobody_begins_fails_after_a_while_and_is_not_left_to_happen_later() {
    let board = Board::new();
    let upkeep = board.start();
    upkeep.restart(Restart::Board, pending("a")).await.unwrap();
    let mut dues = upkeep.dues();
    dues.wait_for(|dues| !dues.is_empty()).await.unwrap();
    assert!(due(&upkeep).reason.unwrap().contains("peercam-reboot.path"));
    assert!(!board.root.path().join("reboot").exists());
    upkeep.restart(Restart::Service, pending("b")).await.unwrap();
}

#[tokio::test]
async fn without_a_place_to_ask_there_is_no_reboot() {
    let board = Board::new();
    let mut memory = board.remembered(None);
    memory.surroundings.reboot = None;
    let refused = open(memory).restart(Restart::Board, pending("a")).await;
    assert!(matches!(refused, Err(Error::NoReboot)), "{refused:?}");

    let mut memory = board.remembered(None);
    memory.surroundings.reboot = Some(board.root.path().join("nowhere/reboot"));
    let upkeep = open(memory);
    let refused = upkeep.restart(Restart::Board, pending("b")).await;
    assert!(matches!(refused, Err(Error::Reboot(_))), "{refused:?}");
    assert!(board.start().dues().borrow().is_empty(), "the command was told already");
    assert_eq!(upkeep.entrusted("b"), None);
    upkeep.restart(Restart::Service, pending("c")).await.unwrap();
    assert_eq!(upkeep.entrusted("c").unwrap().outcome, None, "ours to tell, from now on");
}

#[tokio::test]
async fn outcomes_that_cannot_be_told_do_not_pile_up() {
    let board = Board::new();
    for number in 0..40 {
        board.start().restart(Restart::Service, pending(&number.to_string())).await.unwrap();
    }
    let ids: Vec<_> = board.start().dues().borrow().iter().map(|due| due.outcome.id.clone()).collect();
    assert_eq!(ids.len(), 16);
    assert_eq!(ids.last().map(String::as_str), Some("39"), "the newest are kept");
}

#[tokio::test]
async fn passwords_of_an_applied_configuration_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let board = Board::new();
    let upkeep = board.start();
    upkeep.apply("broker, hunter2".into(), pending("a"), MINUTE).await.unwrap();
    assert_eq!(fs::metadata(board.state().join(LEDGER)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!format!("{upkeep:?}").contains("hunter2"));
}
