//! What becomes of kept files that were damaged: by a dying card, by other programs, by hand.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// Damages that are tried of each file. The same each time, so that one which fails can be looked at.
const DAMAGES: u32 = 500;

/// A sequence of numbers that is the same each time (Marsaglia, "Xorshift RNGs", 2003).
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % most
    }
}

/// One of the ways in which a file's content is lost; never the content itself.
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
        // A letter that becomes another one: what is left is JSON mostly, and says something else.
        _ => {
            let letters: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_lowercase()).collect();
            bytes[letters[numbers.below(letters.len())]] = b'z';
        }
    }
    if bytes == content { Vec::new() } else { bytes }
}

/// A board on which everything is kept that can be, and privacy is on.
async fn hidden_board() -> Board {
    let board = Board::new();
    let upkeep = board.start();
    set_bitrate(&upkeep, 700).await;
    upkeep.change(|set| set.set_privacy(&["main".to_owned()], true)).await.unwrap();
    upkeep.apply("broker 1".into(), pending("a"), MINUTE).await.unwrap();
    let upkeep = open(board.begin_anew(upkeep).await);
    upkeep.confirm_trial().await;
    board
}

#[tokio::test]
async fn however_settings_are_damaged_privacy_stays_on_until_a_command_says_otherwise() {
    let board = hidden_board().await;
    let content = board.kept(SETTINGS).unwrap();
    for seed in 0..DAMAGES {
        let damaged = damaged(content.as_bytes(), seed);
        fs::write(board.state().join(SETTINGS), &damaged).unwrap();
        let damaged = String::from_utf8_lossy(&damaged);
        for start in ["first", "second"] {
            let settings = board.start().settings();
            assert!(settings.is_private("main") && settings.is_private("yard"), "{seed}, {start} start: {damaged}");
            assert_eq!(settings.closed, Some(Closed::Unread), "{seed}, {start} start: {damaged}");
        }
        let upkeep = board.start();
        upkeep.change(|set| set.set_privacy(&["main".to_owned()], false)).await.unwrap();
        assert!(!board.start().settings().is_private("main"), "{seed}");
    }
}

#[tokio::test]
async fn however_the_ledger_is_damaged_the_service_starts_with_what_was_applied_or_with_the_file() {
    let board = hidden_board().await;
    let content = board.kept(LEDGER).unwrap();
    for seed in 0..DAMAGES {
        let damaged = damaged(content.as_bytes(), seed);
        fs::write(board.state().join(LEDGER), &damaged).unwrap();
        let memory = board.remembered(None);
        assert_eq!(memory.text(), FILE, "{seed}: {}", String::from_utf8_lossy(&damaged));
        assert!(memory.losses.ledger.is_some());
        assert!(board.start().settings().is_private("main"), "privacy does not depend on it");
        assert!(board.remembered(None).losses.ledger.is_none(), "it is said once");
    }
}

#[tokio::test]
async fn whatever_stands_in_the_place_of_settings_is_set_aside_and_privacy_is_on() {
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
        let memory = board.remembered(None);
        assert!(memory.losses.settings.as_ref().is_some_and(|lost| lost.contains(what)), "{what}: {:?}", memory.losses);
        assert!(memory.settings().is_private("main"), "{what}");
        set_bitrate(&open(memory), 700).await;
        let settings = board.start().settings();
        assert!(settings.is_private("main") && bitrate(&settings) == Some(700), "{what}");
    }
}

#[tokio::test]
async fn power_that_goes_while_settings_are_set_aside_does_not_open_the_camera() {
    let board = hidden_board().await;
    fs::rename(board.state().join(SETTINGS), board.state().join("settings.json.bad")).unwrap();
    assert_eq!(board.start().settings().closed, Some(Closed::Unread));
}

#[tokio::test]
async fn what_the_version_before_wrote_is_read() {
    let board = Board::new();
    let upkeep = board.start();
    hide(&upkeep).await;
    let ours = board.kept(SETTINGS).unwrap();
    let (_, body) = ours.split_once("\",\n").unwrap();
    for text in [format!("{{\n{body}"), format!("{{{}", body.replace('\n', " "))] {
        fs::write(board.state().join(SETTINGS), text).unwrap();
        let settings = board.start().settings();
        assert!(settings.is_private("main") && settings.closed.is_none(), "{settings:?}");
    }
}

#[tokio::test]
async fn privacy_holds_for_cameras_that_get_their_names_later() {
    let mut board = Board::new();
    let upkeep = board.start();
    upkeep.change(|set| set.set_privacy(&["main".to_owned()], true)).await.unwrap();
    board.file = "# another camera".into();
    assert!(board.start().settings().is_private("yard"));
}
