//! The shipped binary on the board's machine.

use std::fs;
use std::fs::File;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::network::Machine;
use crate::until;

/// Where it serves, which is what it has to announce.
pub const PORT: u16 = 8077;

/// What its viewers must know.
const SECRET: &str = "a-secret-for-the-name";

/// How long it may take to start or to end on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A running `peercam`. Dropped, it is killed.
pub struct Board {
    process: Child,
    directory: TempDir,
    client: Client,
}

impl Board {
    /// Starts one that calls itself Front_Door and listens at an address, with further `tables` in its configuration, and
    /// waits until it serves.
    pub async fn start(listens: &str, tables: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("peercam.toml");
        let text = format!(
            "[device]\nid = \"Front_Door\"\n[web]\nlisten = \"{listens}:{PORT}\"\nsecret = \"{SECRET}\"\n[[camera]]\n\
             source = \"test\"\n[audio]\ncapture = \"off\"\n{tables}"
        );
        fs::write(&file, text)?;
        let process = Machine::Board
            .command(env!("CARGO_BIN_EXE_peercam"))
            .args(["run", "--config"])
            .arg(&file)
            .env("STATE_DIRECTORY", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("log"))?)
            .spawn()?;
        let board = Self { process, directory, client: Client::builder().no_proxy().build()? };
        until("the board serves", LIMIT, async || Ok(board.log()?.contains(" serving "))).await?;
        Ok(board)
    }

    /// What it says of itself, asked at an address.
    pub async fn status(&self, at: IpAddr) -> Result<Value> {
        let request = self.client.get(format!("http://{at}:{PORT}/api/status")).bearer_auth(SECRET);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }

    /// Tells it to stop, and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").arg(self.process.id().to_string()).status()?;
        ensure!(status.success(), "kill: {status}");
        let deadline = Instant::now() + LIMIT;
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the board does not stop:\n{}", self.log()?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
