//! Tests of a network that is joined, or not.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::joining::{Timing, watch, watch_at};
use super::{Board, FULL};

/// No patience, so that each obstacle is reported at once.
const TIMING: Timing = Timing { limit: Duration::ZERO, interval: Duration::from_millis(10) };
/// The limit for answers from another thread, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const ERROR: &str = "boot/firmware/peercam-error.txt";
/// The known obstacle, and not the guess between two.
const WRONG_PASSWORD: &str = " s: the password is wrong.";
const NOTICE: &str = "run/peercam-notices/wifi";
const STATE: &str = "sys/class/net/wlan0/operstate";

/// A board with NetworkManager, for which only the kernel's state of the radio is checked.
fn board() -> Board {
    let board = Board::raspberry();
    board.start_with(FULL);
    board
}

fn with_radio(board: &Board) {
    fs::create_dir_all(board.at("sys/class/net/wlan0/phy80211")).unwrap();
    board.put(STATE, "down\n");
}

/// Watches until `during` has seen what it expects and let the network be joined.
fn watched(board: &Board, during: impl FnOnce(&mpsc::Receiver<String>)) {
    let (report, reports) = mpsc::channel();
    let paths = board.paths();
    let watching = thread::spawn(move || watch_at(TIMING, &paths, |message| report.send(message.to_owned()).unwrap()));
    during(&reports);
    watching.join().unwrap().unwrap();
    let last = reports.iter().last().unwrap();
    assert_eq!(last, "Wi-Fi \"home\" is joined.");
}

#[test]
fn a_joined_network_leaves_no_message_and_is_not_checked_again() {
    let board = board();
    with_radio(&board);
    board.put(STATE, "up\n");
    watched(&board, |_| ());
    assert!(!board.at(ERROR).exists() && !board.at(NOTICE).exists());
    watch(&board.paths(), |word| panic!("{word}")).unwrap();
}

/// Answers as wpa_supplicant does: a client that attaches gets these events, one that asks for the status the latest
/// one.
fn supplicant(board: &Board, events: &'static [&str]) -> mpsc::Sender<&'static str> {
    fs::create_dir_all(board.at("run/wpa_supplicant")).unwrap();
    let socket = UnixDatagram::bind(board.at("run/wpa_supplicant/wlan0")).unwrap();
    let (sender, statuses) = mpsc::channel();
    thread::spawn(move || {
        let (mut status, mut request) = ("wpa_state=SCANNING\n", [0; 64]);
        loop {
            let (length, asker) = socket.recv_from(&mut request).unwrap();
            match statuses.try_recv() {
                Ok(next) => status = next,
                Err(mpsc::TryRecvError::Empty) => {}
                // The test is over.
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
            let answers = match &request[..length] {
                b"ATTACH" => [&["OK\n"], events].concat(),
                b"STATUS" => vec![status],
                other => panic!("{other:?}"),
            };
            // The client may be gone, or be that of another test by then.
            answers.iter().for_each(|answer| drop(socket.send_to_addr(answer.as_bytes(), &asker)));
        }
    });
    sender
}

#[test]
fn a_wrong_password_is_reported_on_the_boot_partition_and_the_page_until_the_network_is_joined() {
    let board = Board::new();
    board.start_with(FULL);
    with_radio(&board);
    // Connected to some other access point.
    board.put(STATE, "up\n");
    let supplicant = supplicant(
        &board,
        &[
            "<3>CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"home\" auth_failures=1 duration=10 reason=WRONG_KEY",
            "<3>CTRL-EVENT-NETWORK-NOT-FOUND ",
        ],
    );
    watched(&board, |reports| {
        // What is known later is reported after the guess.
        let message =
            std::iter::from_fn(|| reports.recv_timeout(LIMIT).ok()).find(|message| message.contains(WRONG_PASSWORD));
        assert!(message.expect("it is reported").starts_with("Wi-Fi \"home\" was not joined"));
        // It is reported before it is written.
        while !fs::read_to_string(board.at(ERROR)).is_ok_and(|text| text.contains(WRONG_PASSWORD)) {
            thread::yield_now();
        }
        assert!(board.text(NOTICE).contains(WRONG_PASSWORD));
        supplicant.send("bssid=02:00:00:00:01:00\nssid=next door\nwpa_state=COMPLETED\n").unwrap();
        supplicant.send("ssid=home\nwpa_state=4WAY_HANDSHAKE\n").unwrap();
        thread::sleep(TIMING.interval * 20);
        assert!(board.at(ERROR).exists() && board.at(NOTICE).exists(), "another network is taken for it");
        supplicant.send("bssid=02:00:00:00:01:00\nssid=home\nid=0\nwpa_state=COMPLETED\n").unwrap();
    });
    assert!(!board.at(ERROR).exists() && !board.at(NOTICE).exists());
}

#[test]
fn a_restarted_wpa_supplicant_is_asked_again_and_escaped_names_are_recognized() {
    let board = Board::new();
    board.start_with("[wifi]\nssid = \"d\\\"\\\\ü\"\ncountry = \"DE\"");
    with_radio(&board);
    drop(supplicant(&board, &[]));
    let (report, reports) = mpsc::channel();
    let paths = board.paths();
    let watching = thread::spawn(move || watch_at(TIMING, &paths, |message| report.send(message.to_owned()).unwrap()));
    assert!(reports.recv_timeout(LIMIT).unwrap().contains("was not joined"));
    fs::remove_file(board.at("run/wpa_supplicant/wlan0")).unwrap();
    let supplicant = supplicant(&board, &[]);
    supplicant.send("ssid=d\\\"\\\\\\xc3\\xbc\nwpa_state=COMPLETED\n").unwrap();
    watching.join().unwrap().unwrap();
    assert!(!board.at("etc/peercam/wifi-to-join").exists());
}

#[test]
fn an_obstacle_is_reported_once_and_a_broken_card_does_not_end_the_check() {
    let board = board();
    // Nothing can be written to a path that is a directory.
    fs::create_dir(board.at(ERROR)).unwrap();
    let (report, reports) = mpsc::channel();
    let paths = board.paths();
    let watching = thread::spawn(move || watch_at(TIMING, &paths, |message| report.send(message.to_owned()).unwrap()));
    assert!(reports.recv_timeout(LIMIT).unwrap().contains("no radio"));
    assert!(reports.recv_timeout(LIMIT).unwrap().contains("could not be left"));
    with_radio(&board);
    assert!(reports.recv_timeout(LIMIT).unwrap().contains("or the password is wrong"));
    assert!(reports.recv_timeout(LIMIT).unwrap().contains("could not be left"));
    fs::remove_dir_all(board.at("sys")).unwrap();
    thread::sleep(TIMING.interval * 20);
    with_radio(&board);
    board.put(STATE, "up\n");
    assert!(reports.recv_timeout(LIMIT).unwrap().contains("is joined"));
    watching.join().unwrap().unwrap_err();
    assert!(!board.at("etc/peercam/wifi-to-join").exists());
}

#[test]
fn a_missing_radio_is_reported_and_the_check_continues_when_one_is_plugged_in() {
    let board = board();
    watched(&board, |reports| {
        assert!(reports.recv_timeout(LIMIT).unwrap().contains("no radio"));
        with_radio(&board);
        assert!(reports.recv_timeout(LIMIT).unwrap().contains("no network of that name is in reach, or the password"));
        board.put(STATE, "up\n");
    });
}

#[test]
fn the_message_about_a_later_file_is_not_overwritten() {
    let board = board();
    board.start_with("nmae = \"a\"");
    watched(&board, |reports| {
        reports.recv_timeout(LIMIT).unwrap();
        with_radio(&board);
        reports.recv_timeout(LIMIT).unwrap();
        assert!(board.text(ERROR).contains("`nmae`"));
        board.put(STATE, "up\n");
    });
    assert!(board.text(ERROR).contains("`nmae`"));
}
