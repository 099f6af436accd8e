//! The shipped binary as a process of its own, on the test picture and tone, at a free port.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Client;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::shipped::{Shipped, program};

/// How long a start may take on a loaded machine before it counts as failed.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Time limit of waits.
const LIMIT: Duration = Duration::from_secs(15);

/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(20);

/// Small enough that a debug build, the encoder and a browser that decodes in software share two cores.
const CAMERA: &str = r#"
    [[camera]]
    name = "main"
    source = "test"
    width = 640
    height = 360
    fps = 30
    bitrate = 800
    key_frame_interval = 10

    [audio]
    capture = "test"
"#;

/// How many boards without viewers run at once: they cost little, and their tests mostly wait.
const PLACES: u32 = 4;

/// Tests that measure times or count processes take every place, so that their board runs alone. A test that starts
/// two boards at once waits for itself.
static ROOM: Semaphore = Semaphore::const_new(PLACES as usize);

/// A running `peercam`. Dropped, it is killed, and its log is printed, which the test runner shows where a test failed.
pub struct Board {
    shipped: Shipped,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// Environment variables besides the usual ones, of each of its starts.
    pub surroundings: Vec<(&'static str, PathBuf)>,
    client: Client,
    _places: SemaphorePermit<'static>,
}

impl Board {
    /// Starts one that listens on loopback, with further `tables` in its configuration, and waits until it serves.
    pub async fn start(tables: &str) -> Result<Self> {
        Self::start_with("127.0.0.1", "", tables).await
    }

    /// As [`start`](Self::start), beside other boards: for tests that measure nothing and have no viewers.
    pub async fn start_beside_others(tables: &str) -> Result<Self> {
        Self::start_in(1, "127.0.0.1", "", Vec::new(), tables).await
    }

    /// As [`start`](Self::start), with an address to listen on and further lines in the table `[web]`.
    pub async fn start_with(address: &str, web: &str, tables: &str) -> Result<Self> {
        Self::start_at(address, web, Vec::new(), tables).await
    }

    /// As [`start`](Self::start), with figures of the board that are read below `root`.
    pub async fn start_below(root: &Path, tables: &str) -> Result<Self> {
        Self::start_among(vec![("PEERCAM_ROOT", root.to_owned())], tables).await
    }

    /// As [`start`](Self::start), with further environment variables.
    pub async fn start_among(surroundings: Vec<(&'static str, PathBuf)>, tables: &str) -> Result<Self> {
        Self::start_at("127.0.0.1", "", surroundings, tables).await
    }

    /// Starts one with all of that.
    pub async fn start_at(
        address: &str,
        web: &str,
        surroundings: Vec<(&'static str, PathBuf)>,
        tables: &str,
    ) -> Result<Self> {
        Self::start_in(PLACES, address, web, surroundings, tables).await
    }

    async fn start_in(
        places: u32,
        address: &str,
        web: &str,
        surroundings: Vec<(&'static str, PathBuf)>,
        tables: &str,
    ) -> Result<Self> {
        let places = ROOM.acquire_many(places).await.expect("never closed");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = format!("[web]\nlisten = \"{address}:{port}\"\n{web}\n{CAMERA}\n{tables}\n");
        let shipped = Shipped::start(command(&surroundings), &text)?;
        let client = Client::builder().no_proxy().build()?;
        let url = format!("http://127.0.0.1:{port}");
        let board = Self { shipped, url, surroundings, client, _places: places };
        board.wait_until_it_serves().await?;
        Ok(board)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.shipped.kill()
    }

    /// Starts it again after its end, with the same configuration, at the same port.
    pub async fn start_again(&mut self) -> Result<()> {
        self.shipped.start_again(command(&self.surroundings))?;
        self.wait_until_it_serves().await
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) -> Result<()> {
        self.shipped.signal(name)
    }

    /// Waits for its end.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.shipped.ended(limit).await
    }

    /// `ws://127.0.0.1:PORT/api/signal`
    pub fn signal_url(&self) -> String {
        format!("{}/api/signal", self.url.replace("http", "ws"))
    }

    /// The status, in the notation of `docs/protocol.md`.
    pub async fn status(&self) -> Result<Value> {
        let response = self.client.get(format!("{}/api/status", self.url)).send().await?;
        ensure!(response.status() == 200, "status: {}", response.status());
        Ok(response.json().await?)
    }

    /// As [`wait_for_count`](Self::wait_for_count), of a board with a secret.
    pub async fn wait_for_count_with(&self, secret: &str, pointer: &str, wanted: u64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let request = self.client.get(format!("{}/api/status", self.url)).bearer_auth(secret);
            let status: Value = request.send().await?.json().await?;
            if status.pointer(pointer).and_then(Value::as_u64) == Some(wanted) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain for {pointer} = {wanted} in {status:#}");
            sleep(INTERVAL).await;
        }
    }

    /// A count in the status, by its JSON pointer.
    pub async fn count(&self, pointer: &str) -> Result<u64> {
        let status = self.status().await?;
        let count = status.pointer(pointer).and_then(Value::as_u64);
        count.with_context(|| format!("no count {pointer} in {status:#}"))
    }

    /// Waits until a count in the status has this value.
    pub async fn wait_for_count(&self, pointer: &str, wanted: u64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.count(pointer).await? != wanted {
            if Instant::now() > deadline {
                bail!("waited {LIMIT:?} in vain for {pointer} = {wanted} in {:#}", self.status().await?);
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until nobody watches and the encoder has stopped.
    pub async fn wait_until_idle(&self) -> Result<()> {
        self.wait_for_count(VIEWERS, 0).await?;
        self.wait_for_count(ENCODERS, 0).await
    }

    /// Where its configuration is.
    pub fn configuration(&self) -> PathBuf {
        self.shipped.configuration()
    }

    /// One of the files that it keeps.
    pub fn kept(&self, name: &str) -> PathBuf {
        let state = self.surroundings.iter().find(|(variable, _)| *variable == "STATE_DIRECTORY");
        state.map_or(self.shipped.directory(), |(_, state)| state).join(name)
    }

    /// Whether it still is the process that was started.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.shipped.end()?.is_none())
    }

    /// Its process id, for `/proc`.
    pub fn process(&self) -> u32 {
        self.shipped.id()
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        self.shipped.log()
    }

    /// Its standard output so far.
    pub fn said(&self) -> Result<String> {
        self.shipped.said()
    }

    /// Its resource usage.
    pub fn usage(&self) -> Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.shipped.id()));
        let memory = self.shipped.memory()?;
        // What has ended since it was listed does not count.
        let descriptors = fs::read_dir(process.join("fd"))?.flatten().flat_map(|entry| fs::read_link(entry.path()));
        let threads = fs::read_dir(process.join("task"))?.flatten();
        let threads = threads.flat_map(|entry| fs::read_to_string(entry.path().join("comm")));
        Ok(Usage { descriptors: descriptors.collect(), threads: threads.collect(), memory })
    }

    async fn wait_until_it_serves(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let url = format!("{}/healthz", self.url);
        while !self.client.get(&url).send().await.is_ok_and(|response| response.status() == 200) {
            ensure!(Instant::now() < deadline, "nothing served within {START_LIMIT:?}:\n{}", self.log()?);
            sleep(INTERVAL).await;
        }
        Ok(())
    }
}

/// Where the status counts viewers, encoders that run, and encoders that were started.
pub const VIEWERS: &str = "/viewers/count";
/// See [`VIEWERS`].
pub const ENCODERS: &str = "/cameras/0/encoders_running";
/// See [`VIEWERS`].
pub const ENCODER_STARTS: &str = "/cameras/0/encoder_starts";

/// Resources of a process.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The targets of its open descriptors.
    pub descriptors: Vec<PathBuf>,
    /// The names of its threads.
    pub threads: Vec<String>,
    /// Resident memory in KiB.
    pub memory: i64,
}

/// The command of the binary under test with this environment.
fn command(surroundings: &[(&str, PathBuf)]) -> Command {
    let mut command = Command::new(program());
    // By default glibc has an arena for each of several threads, which takes more than a thousand viewers to fill.
    command.env("MALLOC_ARENA_MAX", "1").envs(surroundings.iter().map(|(name, value)| (name, value)));
    command
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.kill().ok();
        eprintln!("-- the board's log:\n{}--", self.log().unwrap_or_default());
    }
}
