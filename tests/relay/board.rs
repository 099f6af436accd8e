//! The shipped binary on the board's side.

use std::fs;
use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::network::{BOARD, Side};

/// Where it serves; the middle passes this port on.
pub const PORT: u16 = 8080;

/// What its viewers must know.
pub const SECRET: &str = "a-secret-for-the-relay";

/// How long a start may take on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `peercam`. Dropped, it is killed.
pub struct Board {
    process: Child,
    directory: TempDir,
    client: Client,
}

impl Board {
    /// Starts one with further `tables` in its configuration, and waits until it serves.
    pub async fn start(tables: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("peercam.toml");
        let text = format!(
            "[web]\nlisten = \"{BOARD}:{PORT}\"\nsecret = \"{SECRET}\"\n[[camera]]\nsource = \"test\"\nwidth = 640\n\
             height = 360\nbitrate = 800\n[audio]\ncapture = \"test\"\n{tables}"
        );
        fs::write(&file, text)?;
        let process = Side::Board
            .command(env!("CARGO_BIN_EXE_peercam"))
            .args(["run", "--config"])
            .arg(&file)
            .env("STATE_DIRECTORY", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("log"))?)
            .spawn()?;
        let board = Self { process, directory, client: Client::builder().no_proxy().build()? };
        let deadline = Instant::now() + START_LIMIT;
        while board.status().await.is_err() {
            ensure!(Instant::now() < deadline, "the board does not serve:\n{}", board.log()?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(board)
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<Value> {
        let request = self.client.get(format!("http://{BOARD}:{PORT}/api/status")).bearer_auth(SECRET);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
