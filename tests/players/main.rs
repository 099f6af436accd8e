//! The shipped binary, played by the programs and libraries that people already have: each as it is published, told no
//! more than the address and the secret.
//!
//! All of them play one board, which has two addresses in a network of its own, so they run in order. They stand in
//! [`PLAYERS`]; arguments name those that are to run. One of them also takes each [answer](answers) of `tests/offers`.

mod answers;
mod board;
mod network;
mod page;
mod program;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::time::timeout;

use crate::board::Board;
use crate::page::Page;
use crate::program::LIMIT;
use testkit::browser::Browser;
use testkit::namespaces;

/// What is played at least: pictures, and pieces of sound of 20 ms.
const ENOUGH: u32 = 100;

/// A player of the suite.
struct Player {
    /// As it is called by those who use it.
    name: &'static str,
    kind: Kind,
    /// Whether it restarts ICE.
    restarts: bool,
    /// Whether the board is told of its end, by DELETE or by DTLS (RFC 5246, section 7.2.1). Else silence has to tell.
    says_goodbye: bool,
}

/// How a player is started.
enum Kind {
    /// A program: its words, in which `MADE` stands for where it was installed.
    Program(&'static [&'static str]),
    /// A library of a page in Chromium.
    Page,
}

/// A player that ends when it has played.
const fn program(name: &'static str, restarts: bool, words: &'static [&'static str]) -> Player {
    Player { name, kind: Kind::Program(words), restarts, says_goodbye: true }
}

/// One in a page.
const fn page(name: &'static str, restarts: bool) -> Player {
    Player { name, kind: Kind::Page, restarts, says_goodbye: true }
}

const GSTREAMER: &str = "MADE/gstreamer/debug/gstreamer-player";
const PYTHON: &str = "MADE/python/bin/python3";

/// All of them. Those that do not restart ICE have no call for it. By default `webrtcbin` offers a transport for each
/// stream.
const PLAYERS: [Player; 13] = [
    program("whepsrc", false, &[GSTREAMER, "whepsrc"]),
    program("whepclientsrc", false, &[GSTREAMER, "whepclientsrc"]),
    program("webrtcbin", false, &[GSTREAMER, "webrtcbin"]),
    program("webrtcbin, bundled", false, &[GSTREAMER, "bundled"]),
    program("aiortc", false, &[PYTHON, "-B", "tests/players/play_aiortc.py"]),
    program("libwebrtc", true, &[PYTHON, "-B", "tests/players/play_libwebrtc.py"]),
    program("libwebrtc, sound apart", true, &[PYTHON, "-B", "tests/players/play_libwebrtc.py", "apart"]),
    Player { says_goodbye: false, ..program("libdatachannel", false, &["node", "MADE/node/play_libdatachannel.mjs"]) },
    Player { says_goodbye: false, ..program("werift", true, &["node", "MADE/node/play_werift.mjs"]) },
    program("pion", true, &["MADE/pion-player"]),
    page("whip-whep", true),
    page("@binbat/whip-whep", true),
    page("@eyevinn/webrtc-player", false),
];

/// What a player says has come, since it joined or since it has restarted ICE.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Played {
    /// Pictures, decoded, or taken out of their packets by a player that does not decode.
    frames: u32,
    /// Pieces of sound of 20 ms each.
    sound: u32,
}

fn main() -> ExitCode {
    // Returns on the other side only.
    namespaces::run(network::enter(), |made| async move { run(&made).await })
}

/// Runs all players, or those that are named, and goes on after one that fails.
async fn run(made: &Path) -> Result<()> {
    let named: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |player: &&Player| named.is_empty() || named.iter().any(|name| player.name.contains(name.as_str()));
    let board = Board::start().await?;
    let mut browser = None;
    let mut failed = Vec::new();
    let players: Vec<&Player> = PLAYERS.iter().filter(wanted).collect();
    let takes_answers = named.is_empty() || named.iter().any(|name| answers::NAME.contains(name.as_str()));
    ensure!(!players.is_empty() || takes_answers, "no player has a name with {named:?} in it");
    if takes_answers {
        let taken = answers::are_taken(made).await.context("answers are not taken as they are meant")?;
        eprintln!("{} ... ok ({taken:?})", answers::NAME);
    }
    for player in &players {
        eprint!("{} ... ", player.name);
        let began = Instant::now();
        match play(player, &board, made, &mut browser).await {
            Ok(()) => eprintln!("ok ({:.1} s)", began.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("FAILED ({:.1} s)\n{error:#}", began.elapsed().as_secs_f64());
                failed.push(player.name);
                // The next one is to find nobody, whatever became of this one: a page plays on while it is open.
                browser = None;
                board.wait_until_nobody_watches(LIMIT).await?;
            }
        }
    }
    let log = board.log()?;
    if !failed.is_empty() {
        eprintln!("-- the board's log:\n{log}--");
    }
    eprintln!("{} passed, {} failed", players.len() - failed.len(), failed.len());
    ensure!(failed.is_empty(), "these players do not play: {}", failed.join(", "));
    ensure!(!log.contains("panicked"), "a panic is in the board's log:\n{log}");
    ensure!(!log.contains(board::SECRET), "the secret is in the board's log:\n{log}");
    Ok(())
}

/// Plays, restarts ICE where the player can, plays again, ends, and sees that the board notices each of these.
async fn play(player: &Player, board: &Board, made: &Path, browser: &mut Option<Browser>) -> Result<()> {
    let before = board.admitted().await?;
    let played = match player.kind {
        Kind::Program(words) => program::play(words, made).await,
        Kind::Page => {
            if browser.is_none() {
                *browser = Some(Browser::start().await?);
            }
            let page = Page::open(browser.as_ref().context("it was started")?, made).await?;
            timeout(LIMIT, page.play(player)).await.context("it does not end")?
        }
    }?;
    ensure!(played.len() == 1 + usize::from(player.restarts), "it has played {played:?}");
    for part in &played {
        ensure!(part.frames >= ENOUGH && part.sound >= ENOUGH, "it has played {played:?}");
    }
    let joined = board.admitted().await? - before;
    ensure!(joined == 1, "{joined} viewers have joined");
    board.wait_until_nobody_watches(if player.says_goodbye { board::LEFT } else { board::LOST }).await
}
