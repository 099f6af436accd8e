//! A player that is a program: it is called with the address of WHEP and the secret, and prints what it has played.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::Played;
use crate::board;

/// A player that has not ended by then plays nothing: of the pictures that it has to play, most play 200 in 7 s.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Runs the program of these `words`, and gives what it has played.
pub async fn play(words: &[&str], made: &Path) -> Result<Vec<Played>> {
    let made = made.to_str().context("a directory whose name is no text")?;
    let mut words = words.iter().map(|word| word.replace("MADE", made));
    let mut command = Command::new(words.next().context("no program")?);
    command
        .args(words)
        .args([&board::whep(), board::SECRET])
        // An error says what went wrong; a backtrace of the player's own threads hides it.
        .env("RUST_LIB_BACKTRACE", "0")
        .env("OPENH264", format!("{made}/openh264/libopenh264.so.8"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().context("it cannot be started")?;
    let output = timeout(LIMIT, child.wait_with_output()).await.with_context(|| format!("it plays on after {LIMIT:?}"));
    let output = output??;
    let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(output.status.success(), "{}: {said}{complained}", output.status);
    said.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}
