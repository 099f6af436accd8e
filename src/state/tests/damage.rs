//! Damaged state files: by a failing card, by other programs, or by manual edits.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// Number of damages that are tried on each file. They are the same on each run, so that a failure can be reproduced.
const DAMAGES: u32 = 500;

/// A number sequence that is the same on each run (Marsaglia, "Xorshift RNGs", 2003).
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % most
    }
}

/// One of the ways in which a file's content is damaged; never the undamaged content.
fn damaged(content: &[u8], seed: u32) -> Vec<u8> {
    let mut numbers = Numbers(seed.wrapping_mul(2_654_435_761).max(1));
    let mut bytes = content.to_vec();
    let at = numbers.below(bytes.len());
    let end = (at + 1 + numbers.below(64)).min(bytes.len());
    match seed % 8 {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << numbers.below(8),
        2 => bytes[at..end].fill(0),
        3 => bytes[at..].fill(0),
        4 => bytes[at..end].iter_mut().for_each(|byte| *byte = numbers.below(256) as u8),
        5 => drop(bytes.drain(at..end)),
        6 => bytes.extend_from_slice(&content[at..]),
        // One letter changes into another: the result is mostly valid JSON with another meaning.
        _ => {
            let letters: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_lowercase()).collect();
            bytes[letters[numbers.below(letters.len())]] = b'z';
        }
    }
    if bytes == content { Vec::new() } else { bytes }
}

/// A board with all kinds of saved state, and with privacy on.
async fn hidden_board() -> Board {
    let board = Board::new();
    let state = board.start();
    set_bitrate(&state, 700).await;
    state.change(|set| set.set_privacy(&["main".to_owned()], true)).await.unwrap();
    state.apply(candidate("broker 1", "a")).await.unwrap();
    let state = open(board.reexec(state).await);
    state.confirm_trial().await;
    board
}

#[tokio::test]
async fn privacy_stays_on_with_any_damage_to_settings_until_a_command_switches_it_off() {
    let board = hidden_board().await;
    let content = board.file_content(SETTINGS).unwrap();
    for seed in 0..DAMAGES {
        let damaged = damaged(content.as_bytes(), seed);
        fs::write(board.state().join(SETTINGS), &damaged).unwrap();
        let damaged = String::from_utf8_lossy(&damaged);
        for start in ["first", "second"] {
            let settings = board.start().settings();
            assert!(settings.is_private("main") && settings.is_private("yard"), "{seed}, {start} start: {damaged}");
            assert_eq!(settings.closed, Some(Closed::Unread), "{seed}, {start} start: {damaged}");
        }
        let state = board.start();
        state.change(|set| set.set_privacy(&["main".to_owned()], false)).await.unwrap();
        assert!(!board.start().settings().is_private("main"), "{seed}");
    }
}

#[tokio::test]
async fn the_service_starts_with_the_configuration_file_with_any_damage_to_the_record() {
    let board = hidden_board().await;
    let content = board.file_content(RECORD).unwrap();
    for seed in 0..DAMAGES {
        let damaged = damaged(content.as_bytes(), seed);
        fs::write(board.state().join(RECORD), &damaged).unwrap();
        let loaded = board.load(None);
        assert_eq!(loaded.text(), FILE, "{seed}: {}", String::from_utf8_lossy(&damaged));
        assert!(loaded.losses.record.is_some());
        assert!(board.start().settings().is_private("main"), "privacy does not depend on it");
        assert!(board.load(None).losses.record.is_none(), "it is reported once");
    }
}

#[tokio::test]
async fn anything_else_in_place_of_the_settings_file_is_set_aside_and_privacy_is_on() {
    type StandIn = fn(&Path);
    let stand_ins: [(&str, StandIn); 6] = [
        ("a directory", |file| fs::create_dir_all(file.join("within")).unwrap()),
        ("a pipe", |file| {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, file, fifo, 0o600.into(), 0).unwrap();
        }),
        ("more than", |file| fs::File::create(file).unwrap().set_len(1 << 40).unwrap()),
        ("No such file", |file| symlink("/nowhere", file).unwrap()),
        ("symbolic links", |file| symlink(file.file_name().unwrap(), file).unwrap()),
        ("a device", |file| symlink("/dev/zero", file).unwrap()),
    ];
    let board = Board::new();
    fs::create_dir_all(board.state()).unwrap();
    for (what, stand_in) in stand_ins {
        let file = board.state().join(SETTINGS);
        fs::remove_file(&file).ok();
        stand_in(&file);
        let loaded = board.load(None);
        assert!(loaded.losses.settings.as_ref().is_some_and(|loss| loss.contains(what)), "{what}: {:?}", loaded.losses);
        assert!(loaded.settings().is_private("main"), "{what}");
        set_bitrate(&open(loaded), 700).await;
        let settings = board.start().settings();
        assert!(settings.is_private("main") && bitrate(&settings) == Some(700), "{what}");
    }
}

#[tokio::test]
async fn a_power_cut_while_settings_are_set_aside_does_not_open_the_camera() {
    let board = hidden_board().await;
    fs::rename(board.state().join(SETTINGS), board.state().join("settings.json.bad")).unwrap();
    assert_eq!(board.start().settings().closed, Some(Closed::Unread));
}

#[tokio::test]
async fn files_of_the_version_before_are_read() {
    let board = Board::new();
    let state = board.start();
    hide(&state).await;
    let ours = board.file_content(SETTINGS).unwrap();
    let (_, body) = ours.split_once("\",\n").unwrap();
    for text in [format!("{{\n{body}"), format!("{{{}", body.replace('\n', " "))] {
        fs::write(board.state().join(SETTINGS), text).unwrap();
        let settings = board.start().settings();
        assert!(settings.is_private("main") && settings.closed.is_none(), "{settings:?}");
    }
}

#[tokio::test]
async fn privacy_applies_to_cameras_that_are_configured_later() {
    let mut board = Board::new();
    let state = board.start();
    state.change(|set| set.set_privacy(&["main".to_owned()], true)).await.unwrap();
    board.file = "# another camera".into();
    assert!(board.start().settings().is_private("yard"));
}
