//! A real relay: coturn with TURN REST credentials, in the middle.

use std::fs;
use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::network::MIDDLE;

const PORT: u16 = 3478;
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running coturn. Dropped, it is killed, and its log is printed.
pub struct Coturn {
    process: Child,
    directory: TempDir,
}

impl Coturn {
    /// Starts one that shares `secret` with boards.
    pub async fn start(secret: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let log = File::create(directory.path().join("log"))?;
        let usual = Path::new("/usr/bin/turnserver");
        let process = Command::new(if usual.exists() { usual } else { Path::new("turnserver") })
            .args(["-n", "--use-auth-secret", &format!("--static-auth-secret={secret}")])
            .args([format!("--listening-ip={MIDDLE}"), format!("--relay-ip={MIDDLE}")])
            .args(["--realm=relay.example", "--no-tls", "--no-dtls", "--no-cli", "--simple-log", "--log-file=stdout"])
            // A relay on the internet does not reach what is behind the boards' and viewers' NATs.
            .arg("--denied-peer-ip=10.77.0.0-10.77.255.255")
            // Allocations have to be refreshed while a test runs.
            .args(["--max-allocate-lifetime=10", "--stale-nonce=5"])
            .arg(format!("--userdb={}", directory.path().join("users").display()))
            .arg(format!("--pidfile={}", directory.path().join("pid").display()))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("turnserver cannot be started; the Debian package `coturn` has it")?;
        let coturn = Self { process, directory };
        let deadline = Instant::now() + START_LIMIT;
        // It listens by TCP beside UDP.
        while TcpStream::connect((MIDDLE, PORT)).is_err() {
            ensure!(Instant::now() < deadline, "coturn does not listen:\n{}", coturn.log()?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(coturn)
    }

    /// The table `[ice]` for a board that uses it, with credentials valid for `lifetime` seconds.
    pub fn table(secret: &str, lifetime: u32) -> String {
        format!(
            "[ice]\nservers = [{{ urls = \"turn:{MIDDLE}:{PORT}\", secret = \"{secret}\" }}]\nlifetime = {lifetime}\n"
        )
    }

    /// Suspends it, like a machine that hangs.
    pub fn freeze(&self) -> Result<()> {
        let status = Command::new("kill").args(["-STOP", &self.process.id().to_string()]).status()?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!("-- the relay's log:\n{}--", self.log().unwrap_or_default());
        }
    }
}
