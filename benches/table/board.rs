//! Runs the shipped binary as a process of its own, and measures the resources that it uses.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// Time limit for a start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Seconds that a capture process stays when nobody watches: shorter than the default, so that its end can be waited
/// for.
const LINGER: u32 = 10;

/// Resident memory in bytes.
pub struct Memory {
    /// Of the service process, which has the viewers.
    pub service: f64,
    /// Of the service and its capture processes.
    pub all: f64,
}

/// A running `peercam`. It is killed when dropped.
pub struct Board {
    process: Child,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    started: Instant,
    _directory: TempDir,
}

impl Board {
    /// Starts it on the test picture with these lines in its camera table.
    pub fn start(camera: &str) -> Result<Self> {
        Self::start_lingering(LINGER, camera)
    }

    /// Same, but a capture process stays for `linger` seconds when nobody watches.
    pub fn start_lingering(linger: u32, camera: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.path().join("peercam.toml");
        let text = format!(
            "[web]\nlisten = \"127.0.0.1:{port}\"\n[audio]\ncapture = \"test\"\n[viewers]\nmax = 100\n\
             [capture]\nlinger = {linger}\n\
             [[camera]]\nname = \"main\"\nsource = \"test\"\nwidth = 1280\nheight = 720\nfps = 30\nbitrate = 2000\n\
             {camera}\n"
        );
        fs::write(&config, text)?;
        let log = fs::File::create(directory.path().join("log"))?;
        let started = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_peercam"))
            .args(["run", "--config"])
            .arg(&config)
            .env("STATE_DIRECTORY", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { process, url: format!("http://127.0.0.1:{port}"), started, _directory: directory })
    }

    /// Waits until the page is served; returns the time since the start of the process.
    pub async fn served(&self) -> Result<Duration> {
        let client = reqwest::Client::new();
        while self.started.elapsed() < START_LIMIT {
            if client.get(&self.url).send().await.is_ok_and(|response| response.status() == 200) {
                return Ok(self.started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::bail!("the page was not served within {START_LIMIT:?}")
    }

    /// Waits until a frame has been encoded; returns the time since the start of the process.
    pub async fn encoded(&self) -> Result<Duration> {
        while self.started.elapsed() < START_LIMIT {
            if self.metric("peercam_frames_encoded_total").await.is_ok_and(|frames| frames > 0.0) {
                return Ok(self.started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        anyhow::bail!("no frame was encoded within {START_LIMIT:?}")
    }

    /// The status as JSON.
    pub async fn status(&self) -> Result<Value> {
        let text = reqwest::get(format!("{}/api/status", self.url)).await?.error_for_status()?.text().await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The sum of one metric over all labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = reqwest::get(format!("{}/metrics", self.url)).await?.error_for_status()?.text().await?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "there is no metric {name}");
        Ok(values.iter().sum())
    }

    /// CPU time used so far, including its capture processes, even those that have ended.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for process in self.processes()? {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            // proc(5): fields 14 and 15, and 16 and 17 of children that have ended, counted after the name in
            // parentheses, in ticks of 10 ms on Linux.
            let fields: Vec<&str> = stat.rsplit(')').next().context("no name in stat")?.split_whitespace().collect();
            for field in &fields[11..15] {
                ticks += field.parse::<u64>()?;
            }
        }
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory of the service, and of all its processes.
    pub fn memory(&self) -> Result<Memory> {
        let mut each = vec![];
        for process in self.processes()? {
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
            each.push(line.split_whitespace().nth(1).context("no figure")?.parse::<f64>()? * 1024.0);
        }
        Ok(Memory { service: each[0], all: each.iter().sum() })
    }

    /// Waits until all its capture processes have ended.
    pub async fn is_alone(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while self.processes()?.len() > 1 {
            ensure!(Instant::now() < deadline, "its capture processes stay");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The service, and its capture processes.
    fn processes(&self) -> Result<Vec<u32>> {
        let service = self.process.id();
        // proc(5): of each thread, since each may start a process.
        let mut all = vec![service];
        for thread in fs::read_dir(format!("/proc/{service}/task"))?.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        Ok(all)
    }

    /// The share of one core used during `span`.
    pub async fn load(&self, span: Duration) -> Result<f64> {
        let (before, began) = (self.cpu()?, Instant::now());
        tokio::time::sleep(span).await;
        Ok((self.cpu()? - before).as_secs_f64() / began.elapsed().as_secs_f64())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended by itself; after this it has ended in any case.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
