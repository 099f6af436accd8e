//! Cameras and sound cards simulated in user space, and the shipped binary that uses them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use testkit::shipped::{Shipped, program};

/// How long a start may take on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The tests measure times: one board runs at a time, except boards whose tests mostly wait.
static TURN: RwLock<()> = RwLock::const_new(());

/// The number of the next command, for a unique id.
static COMMANDS: AtomicU64 = AtomicU64::new(1);

/// Exclusive or shared use of the machine by a board.
#[expect(dead_code, reason = "held, never read")]
enum Turn {
    Alone(RwLockWriteGuard<'static, ()>),
    Beside(RwLockReadGuard<'static, ()>),
}

/// Where ALSA finds the sound cards of `alsa.c`.
const SOUND: &str = r#"
    pcm_type.peercam { lib "LIBRARY" }
    pcm.plug { @args [ SLAVE ] @args.SLAVE { type string } type plug slave.pcm $SLAVE }
    pcm.hw { @args [ CARD DEV ] @args.CARD { type string } @args.DEV { type integer } type peercam card $CARD }
"#;

/// A folder of devices. The binary sees no other cameras.
pub struct Devices {
    folder: TempDir,
}

impl Devices {
    /// Nodes in order, each in the notation of `v4l2.c`, and sound cards as lines of ALSA's configuration.
    pub fn new(nodes: &[impl AsRef<[u8]>], sound: &str) -> Result<Self> {
        let devices = Self { folder: tempfile::tempdir()? };
        for (number, node) in nodes.iter().enumerate() {
            devices.plug(number, node.as_ref())?;
        }
        let sound = format!("{SOUND}{sound}").replace("LIBRARY", &library("alsa").display().to_string());
        fs::write(devices.folder.path().join("asound.conf"), sound)?;
        Ok(devices)
    }

    pub fn plug(&self, number: usize, node: impl AsRef<[u8]>) -> Result<()> {
        Ok(fs::write(self.node(number), node)?)
    }

    pub fn unplug(&self, number: usize) -> Result<()> {
        Ok(fs::remove_file(self.node(number))?)
    }

    fn node(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("video{number}"))
    }

    /// Sets the cards of the system, in the notation of `alsa.c`; the default is those of this machine.
    pub fn cards(&self, cards: &str) -> Result<()> {
        self.file("cards", cards.as_bytes()).map(drop)
    }

    /// A file beside the devices.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        let libraries = ["v4l2", "alsa"].map(|name| library(name).display().to_string()).join(":");
        command.env("LD_PRELOAD", libraries).env("PEERCAM_CAMERAS", self.folder.path());
        let cards = self.folder.path().join("cards");
        if cards.exists() {
            command.env("PEERCAM_CARDS", cards);
        }
        command.env("ALSA_CONFIG_PATH", self.folder.path().join("asound.conf"));
        command
    }

    /// Runs `peercam doctor` with them.
    pub fn doctor(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command().arg("doctor").args(arguments).output()?)
    }

    /// Starts the binary with them and these tables in its configuration, as the only board of the machine.
    pub async fn watch(&self, tables: &str) -> Result<Watched> {
        self.watch_in(Turn::Alone(TURN.write().await), tables).await
    }

    /// The same, beside other boards that are started in this way.
    pub async fn watch_beside(&self, tables: &str) -> Result<Watched> {
        self.watch_in(Turn::Beside(TURN.read().await), tables).await
    }

    async fn watch_in(&self, turn: Turn, tables: &str) -> Result<Watched> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = format!("[web]\nlisten = \"127.0.0.1:{port}\"\n{tables}\n");
        let shipped = Shipped::start(self.command(), &text)?;
        let client = Client::builder().no_proxy().build()?;
        let watched = Watched { shipped, url: format!("http://127.0.0.1:{port}"), client, _turn: turn };
        let deadline = Instant::now() + START_LIMIT;
        while watched.status().await.is_err() {
            ensure!(Instant::now() < deadline, "it does not serve:\n{}", watched.shipped.log()?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(watched)
    }
}

/// One of the two C files as a library, compiled once for all tests.
fn library(name: &str) -> &'static Path {
    static LIBRARIES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let all = LIBRARIES.get_or_init(|| ["v4l2", "alsa"].map(|name| compiled(name).expect("cc compiles the libraries")));
    &all[usize::from(name == "alsa")]
}

fn compiled(name: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cameras/{name}.c"));
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lib{name}.so"));
    let flags = ["-O1", "-shared", "-fPIC", "-DPIC", "-Wall", "-Wextra", "-Werror", "-Wno-stringop-truncation"];
    let status = Command::new("cc")
        .args(flags)
        .arg("-o")
        .arg(&library)
        .arg(source)
        .args(["-ldl", "-lasound", "-lm"])
        .status()?;
    ensure!(status.success(), "cc: {status}");
    Ok(library)
}

/// The running binary.
pub struct Watched {
    pub shipped: Shipped,
    pub url: String,
    client: Client,
    _turn: Turn,
}

impl Watched {
    pub async fn status(&self) -> Result<Value> {
        Ok(self.client.get(format!("{}/api/status", self.url)).send().await?.error_for_status()?.json().await?)
    }

    /// Waits until the cameras are as `wanted`.
    pub async fn cameras_are(&self, limit: Duration, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        self.are("cameras", limit, wanted).await
    }

    /// Waits until a list of the status is as `wanted`.
    pub async fn are(&self, list: &str, limit: Duration, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status().await?;
            let found = match &status[list] {
                Value::Array(found) => found.clone(),
                one => vec![one.clone()],
            };
            if wanted(&found) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("{list} are {found:#?}\nafter {limit:?}; the log:\n{}", self.shipped.log()?);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends a command and returns its outcome.
    pub async fn command(&self, command: &str, arguments: Value) -> Result<Value> {
        let url = format!("{}/api/signal?for=commands", self.url.replace("http", "ws"));
        let (mut socket, _) = connect_async(url).await?;
        let id = COMMANDS.fetch_add(1, Ordering::Relaxed).to_string();
        let text = json!({ "type": "command", "id": id, "command": command, "args": arguments }).to_string();
        socket.send(Message::text(text)).await?;
        loop {
            let message = socket.next().await.context("the WebSocket was closed")??;
            let Message::Text(text) = message else { continue };
            let told: Value = serde_json::from_str(&text)?;
            if told["type"] == "outcome" && told["status"] != "executing" {
                return Ok(told);
            }
        }
    }

    /// The picture of a camera as JPEG.
    pub async fn snapshot(&self, camera: &str) -> Result<Vec<u8>> {
        let request = self.client.get(format!("{}/snapshot.jpg?camera={camera}", self.url));
        Ok(request.send().await?.error_for_status()?.bytes().await?.to_vec())
    }

    /// Stops it and returns its log; fails if it had ended before, does not exit cleanly, or a task panicked.
    pub async fn end(mut self) -> Result<String> {
        ensure!(self.shipped.end()?.is_none(), "it ended before:\n{}", self.shipped.log()?);
        self.shipped.signal("TERM")?;
        let status = self.shipped.ended(Duration::from_secs(20)).await?;
        let log = self.shipped.log()?;
        ensure!(status.success() && !log.contains("panicked"), "{status}\n{log}");
        Ok(log)
    }
}
