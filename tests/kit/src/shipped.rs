//! The shipped binary as a process, with its configuration and all that it writes in a directory of its own.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

/// The path of the binary of this build. Cargo builds it with the tests and puts it into the directory above theirs.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("a running program has a path");
        let directory = test.parent().and_then(Path::parent).expect("tests are in target/<profile>/deps");
        directory.join("peercam").display().to_string()
    });
    &PROGRAM
}

/// Where the service manager says what is to be kept is kept.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// How long it may take to end: more than viewers, camera and broker are given together.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How often is looked whether it has ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// A running `peercam`. Dropped, it is killed.
pub struct Shipped {
    process: Child,
    directory: TempDir,
    client: Client,
}

impl Shipped {
    /// Starts it by `command`, which ends with the [binary](program), with this configuration.
    pub fn start(command: Command, configuration: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(configuration_in(directory.path()), configuration)?;
        let process = spawn(command, directory.path())?;
        Ok(Self { process, directory, client: Client::builder().no_proxy().build()? })
    }

    /// Starts it again after its end, with the same configuration.
    pub fn start_again(&mut self, command: Command) -> Result<()> {
        ensure!(self.end()?.is_some(), "it still runs");
        self.process = spawn(command, self.directory.path())?;
        Ok(())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it has ended; `None` while it runs.
    pub fn end(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Waits for its end.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.end()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it still runs {limit:?} later:\n{}", self.log()?);
            sleep(INTERVAL).await;
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status()?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// Tells it to stop, and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        self.signal("TERM")?;
        self.ended(END_LIMIT).await?;
        Ok(())
    }

    /// Where all of it is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its configuration is.
    pub fn configuration(&self) -> PathBuf {
        configuration_in(self.directory())
    }

    /// What it has logged so far, which is on standard error.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory().join("log"))?)
    }

    /// Its standard output so far.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory().join("said"))?)
    }

    /// Its status, asked at the `page`, such as `http://192.0.2.1:8080`, by somebody who knows the secret.
    pub async fn status(&self, page: &str, secret: &str) -> Result<Value> {
        let request = self.client.get(format!("{page}/api/status")).bearer_auth(secret);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> Result<i64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(memory.split_whitespace().next().context("no figure")?.parse()?)
    }
}

fn configuration_in(directory: &Path) -> PathBuf {
    directory.join("peercam.toml")
}

fn spawn(mut command: Command, directory: &Path) -> Result<Child> {
    let appended = |name| File::options().create(true).append(true).open(directory.join(name));
    if !command.get_envs().any(|(variable, _)| variable == STATE_DIRECTORY) {
        command.env(STATE_DIRECTORY, directory);
    }
    command
        .args(["run", "--config"])
        .arg(configuration_in(directory))
        .stdin(Stdio::null())
        .stdout(appended("said")?)
        .stderr(appended("log")?)
        .spawn()
        .context("the binary cannot be started")
}

impl Drop for Shipped {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.kill().ok();
    }
}
