//! The shipped binary on the board's side.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::time::sleep;

use crate::network::{BOARD, Side};
use testkit::shipped::{Shipped, program};

/// The port that it serves on; the middle forwards it.
pub const PORT: u16 = 8080;

/// The secret of the board.
pub const SECRET: &str = "a-secret-for-the-relay";

/// How long a start may take on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `peercam`. Dropped, it is killed.
pub struct Board(Shipped);

impl Board {
    /// Starts one with further `tables` in its configuration, and waits until it serves.
    pub async fn start(tables: &str) -> Result<Self> {
        let text = format!(
            "[web]\nlisten = \"{BOARD}:{PORT}\"\nsecret = \"{SECRET}\"\n[[camera]]\nsource = \"test\"\nwidth = 640\n\
             height = 360\nbitrate = 800\n[audio]\ncapture = \"test\"\n{tables}"
        );
        let board = Self(Shipped::start(Side::Board.command(program()), &text)?);
        let deadline = Instant::now() + START_LIMIT;
        while board.status().await.is_err() {
            ensure!(Instant::now() < deadline, "the board does not serve:\n{}", board.log()?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(board)
    }

    /// Its status.
    pub async fn status(&self) -> Result<Value> {
        self.0.status(&format!("http://{BOARD}:{PORT}"), SECRET).await
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        self.0.log()
    }
}
