//! The shipped binary, open to its network, with a secret.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::sleep;

use crate::network::ADDRESS;
use testkit::shipped::{Shipped, program};

/// What players have to know.
pub const SECRET: &str = "a-secret-for-the-players";

/// The time from a player's end until the board counts it no more, if it is told of that end.
pub const LEFT: Duration = Duration::from_secs(3);
/// The same for a player that falls silent: ICE waits for 7 s.
pub const LOST: Duration = Duration::from_secs(10);

/// How long a start may take on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often a state is looked at that is waited for.
const INTERVAL: Duration = Duration::from_millis(50);

/// Small enough that a debug build, the encoder and a player that decodes in software share two cores.
const CONFIGURATION: &str = r#"
    [[camera]]
    source = "test"
    width = 640
    height = 360
    fps = 30
    bitrate = 800
    key_frame_interval = 10

    [audio]
    capture = "test"

    [mdns]
    enabled = false
"#;

/// A running `peercam`. Dropped, it is killed.
pub struct Board(Shipped);

/// Where it serves.
fn url() -> String {
    format!("http://{ADDRESS}:8080")
}

/// Where it serves WHEP.
pub fn whep() -> String {
    format!("{}/whep", url())
}

impl Board {
    /// Starts one, and waits until it serves.
    pub async fn start() -> Result<Self> {
        let web = format!("[web]\nlisten = \"0.0.0.0:8080\"\nsecret = \"{SECRET}\"\n");
        let board = Self(Shipped::start(Command::new(program()), &format!("{web}{CONFIGURATION}"))?);
        let deadline = Instant::now() + START_LIMIT;
        while board.status().await.is_err() {
            ensure!(Instant::now() < deadline, "the board does not serve:\n{}", board.log()?);
            sleep(INTERVAL).await;
        }
        Ok(board)
    }

    /// How many calls have become viewers so far.
    pub async fn admitted(&self) -> Result<u64> {
        count(&self.status().await?, "/viewers/totals/admitted")
    }

    /// Waits until the status counts nobody.
    pub async fn wait_until_nobody_watches(&self, limit: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let status = self.status().await?;
            if count(&status, "/viewers/count")? == 0 {
                return Ok(());
            }
            ensure!(began.elapsed() < limit, "it has gone, and the board counts it {limit:?} later: {status:#}");
            sleep(INTERVAL).await;
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        self.0.log()
    }

    async fn status(&self) -> Result<Value> {
        self.0.status(&url(), SECRET).await
    }
}

fn count(status: &Value, pointer: &str) -> Result<u64> {
    status.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no count {pointer} in {status:#}"))
}
