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
const NOTICE: &str = "run/peercam-notices/wifi";
const STATE: &str = "sys/class/net/wlan0/operstate";

fn board() -> Board {
    let board = Board::new();
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

#[test]
fn a_wrong_password_is_told_on_the_boot_partition_and_the_page_until_the_network_is_joined() {
    let board = board();
    with_radio(&board);
    fs::create_dir_all(board.at("run/wpa_supplicant")).unwrap();
    let supplicant = UnixDatagram::bind(board.at("run/wpa_supplicant/wlan0")).unwrap();
    watched(&board, |said| {
        let mut request = [0; 64];
        supplicant.set_read_timeout(Some(LIMIT)).unwrap();
        let (length, asker) = supplicant.recv_from(&mut request).unwrap();
        assert_eq!(&request[..length], b"ATTACH");
        for event in [
            "OK\n",
            "<3>CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"home\" auth_failures=1 duration=10 reason=WRONG_KEY",
            "<3>CTRL-EVENT-NETWORK-NOT-FOUND ",
        ] {
            supplicant.send_to_addr(event.as_bytes(), &asker).unwrap();
        }
        let word = std::iter::from_fn(|| said.recv_timeout(LIMIT).ok()).find(|word| word.contains("password is wrong"));
        let word = word.expect("it is told");
        assert!(word.starts_with("Wi-Fi \"home\" was not joined") && !word.contains("in reach"), "{word}");
        // It is said before it is written.
        while !fs::read_to_string(board.at(ERROR)).is_ok_and(|text| text.contains("password is wrong")) {
            thread::yield_now();
        }
        assert!(board.text(NOTICE).contains("password is wrong"));
        board.put(STATE, "up\n");
    });
    assert!(!board.at(ERROR).exists() && !board.at(NOTICE).exists());
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
