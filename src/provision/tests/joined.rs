//! A network that is joined, or not.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::joining::{Pace, watch, watch_at};
use super::{Board, FULL};

/// None, so that each answer is told at once.
const PACE: Pace = Pace { patience: Duration::ZERO, interval: Duration::from_millis(10) };
/// For answers from another thread, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const ERROR: &str = "boot/firmware/peercam-error.txt";
/// What is heard, and not the guess that it is this or that.
const WRONG_PASSWORD: &str = " s: the password is wrong.";
const NOTICE: &str = "run/peercam-notices/wifi";
const STATE: &str = "sys/class/net/wlan0/operstate";

/// With NetworkManager, of which the kernel's word for the radio is all that is asked.
fn board() -> Board {
    let board = Board::raspberry();
    board.start_with(FULL);
    board
}

fn with_radio(board: &Board) {
    fs::create_dir_all(board.at("sys/class/net/wlan0/phy80211")).unwrap();
    board.put(STATE, "down\n");
}

/// Watches until `during` has seen what it wants and let the network be joined.
fn watched(board: &Board, during: impl FnOnce(&mpsc::Receiver<String>)) {
    let (say, said) = mpsc::channel();
    let places = board.places();
    let watching = thread::spawn(move || watch_at(PACE, &places, |word| say.send(word.to_owned()).unwrap()));
    during(&said);
    watching.join().unwrap().unwrap();
    let last = said.iter().last().unwrap();
    assert_eq!(last, "Wi-Fi \"home\" is joined.");
}

#[test]
fn a_network_that_is_joined_leaves_no_word_and_is_not_waited_for_again() {
    let board = board();
    with_radio(&board);
    board.put(STATE, "up\n");
    watched(&board, |_| ());
    assert!(!board.at(ERROR).exists() && !board.at(NOTICE).exists());
    watch(&board.places(), |word| panic!("{word}")).unwrap();
}

/// Answers as wpa_supplicant does: to whom listens by these events, to whom asks for its status by the latest one.
fn supplicant(board: &Board, events: &'static [&str]) -> mpsc::Sender<&'static str> {
    fs::create_dir_all(board.at("run/wpa_supplicant")).unwrap();
    let socket = UnixDatagram::bind(board.at("run/wpa_supplicant/wlan0")).unwrap();
    let (say, statuses) = mpsc::channel();
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
            // The asker may be gone, or be that of another test by then.
            answers.iter().for_each(|answer| drop(socket.send_to_addr(answer.as_bytes(), &asker)));
        }
    });
    say
}

#[test]
fn a_wrong_password_is_told_on_the_boot_partition_and_the_page_until_the_network_is_joined() {
    let board = Board::new();
    board.start_with(FULL);
    with_radio(&board);
    // Of some access point or other.
    board.put(STATE, "up\n");
    let supplicant = supplicant(
        &board,
        &[
            "<3>CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"home\" auth_failures=1 duration=10 reason=WRONG_KEY",
            "<3>CTRL-EVENT-NETWORK-NOT-FOUND ",
        ],
    );
    watched(&board, |said| {
        // What is heard later is told after the guess at it.
        let word = std::iter::from_fn(|| said.recv_timeout(LIMIT).ok()).find(|word| word.contains(WRONG_PASSWORD));
        assert!(word.expect("it is told").starts_with("Wi-Fi \"home\" was not joined"));
        // It is said before it is written.
        while !fs::read_to_string(board.at(ERROR)).is_ok_and(|text| text.contains(WRONG_PASSWORD)) {
            thread::yield_now();
        }
        assert!(board.text(NOTICE).contains(WRONG_PASSWORD));
        supplicant.send("bssid=02:00:00:00:01:00\nssid=next door\nwpa_state=COMPLETED\n").unwrap();
        supplicant.send("ssid=home\nwpa_state=4WAY_HANDSHAKE\n").unwrap();
        thread::sleep(PACE.interval * 20);
        assert!(board.at(ERROR).exists() && board.at(NOTICE).exists(), "another network is taken for it");
        supplicant.send("bssid=02:00:00:00:01:00\nssid=home\nid=0\nwpa_state=COMPLETED\n").unwrap();
    });
    assert!(!board.at(ERROR).exists() && !board.at(NOTICE).exists());
}

#[test]
fn a_wpa_supplicant_that_is_started_anew_is_asked_again_and_signs_in_names_are_understood() {
    let board = Board::new();
    board.start_with("[wifi]\nssid = \"d\\\"\\\\ü\"\ncountry = \"DE\"");
    with_radio(&board);
    drop(supplicant(&board, &[]));
    let (say, said) = mpsc::channel();
    let places = board.places();
    let watching = thread::spawn(move || watch_at(PACE, &places, |word| say.send(word.to_owned()).unwrap()));
    assert!(said.recv_timeout(LIMIT).unwrap().contains("was not joined"));
    fs::remove_file(board.at("run/wpa_supplicant/wlan0")).unwrap();
    let supplicant = supplicant(&board, &[]);
    supplicant.send("ssid=d\\\"\\\\\\xc3\\xbc\nwpa_state=COMPLETED\n").unwrap();
    watching.join().unwrap().unwrap();
    assert!(!board.at("etc/peercam/wifi-to-join").exists());
}

#[test]
fn what_was_told_is_not_told_again_and_a_broken_card_ends_nothing() {
    let board = board();
    // Nothing can be written where this is.
    fs::create_dir(board.at(ERROR)).unwrap();
    let (say, said) = mpsc::channel();
    let places = board.places();
    let watching = thread::spawn(move || watch_at(PACE, &places, |word| say.send(word.to_owned()).unwrap()));
    assert!(said.recv_timeout(LIMIT).unwrap().contains("no radio"));
    assert!(said.recv_timeout(LIMIT).unwrap().contains("could not be left"));
    with_radio(&board);
    assert!(said.recv_timeout(LIMIT).unwrap().contains("or the password is wrong"));
    assert!(said.recv_timeout(LIMIT).unwrap().contains("could not be left"));
    fs::remove_dir_all(board.at("sys")).unwrap();
    thread::sleep(PACE.interval * 20);
    with_radio(&board);
    board.put(STATE, "up\n");
    assert!(said.recv_timeout(LIMIT).unwrap().contains("is joined"));
    watching.join().unwrap().unwrap_err();
    assert!(!board.at("etc/peercam/wifi-to-join").exists());
}

#[test]
fn a_board_without_a_radio_says_so_and_goes_on_when_one_is_plugged_in() {
    let board = board();
    watched(&board, |said| {
        assert!(said.recv_timeout(LIMIT).unwrap().contains("no radio"));
        with_radio(&board);
        assert!(said.recv_timeout(LIMIT).unwrap().contains("no network of that name is in reach, or the password"));
        board.put(STATE, "up\n");
    });
}

#[test]
fn what_is_said_of_a_later_file_is_not_written_over() {
    let board = board();
    board.start_with("nmae = \"a\"");
    watched(&board, |said| {
        said.recv_timeout(LIMIT).unwrap();
        with_radio(&board);
        said.recv_timeout(LIMIT).unwrap();
        assert!(board.text(ERROR).contains("`nmae`"));
        board.put(STATE, "up\n");
    });
    assert!(board.text(ERROR).contains("`nmae`"));
}
