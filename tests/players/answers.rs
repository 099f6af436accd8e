//! Each answer of `tests/offers`, taken by libwebrtc: a second reader that is a whole WebRTC stack.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::program::LIMIT;

/// As arguments of the suite call this.
pub const NAME: &str = "answers";

/// How many answers were taken, and how many damaged ones were not.
#[derive(Debug, Deserialize)]
pub struct Taken {
    taken: usize,
    damaged: usize,
}

/// Has all of them taken, whole and damaged.
pub async fn are_taken(made: &Path) -> Result<Taken> {
    let mut command = Command::new(made.join("python/bin/python3"));
    command
        .args(["-B", "tests/players/take_answers.py", "tests/offers/cases"])
        .env("OPENH264", made.join("openh264/libopenh264.so.8"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.with_context(|| format!("it goes on after {LIMIT:?}"))??;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {complaint}", output.status);
    let taken: Taken = serde_json::from_slice(&output.stdout).context(complaint.into_owned())?;
    ensure!(taken.taken >= 80 && taken.damaged >= 6 * taken.taken, "too few for all cases: {taken:?}");
    Ok(taken)
}
