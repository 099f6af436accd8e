//! The shipped binary on the board's machine.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::network::Machine;
use crate::until;
use testkit::shipped::{Shipped, program};

/// The port that it serves on and announces.
pub const PORT: u16 = 8077;

/// The secret of the board.
const SECRET: &str = "a-secret-for-the-name";

/// How long it may take to start on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The port of Multicast DNS (5353) at any address, as it is in `/proc/net/udp`.
const MDNS: &str = ":14E9";

/// A running `peercam`. Dropped, it is killed.
pub struct Board(Shipped);

impl Board {
    /// Starts one that calls itself Front_Door and listens at an address, with further `tables` in its configuration, and
    /// waits until it serves.
    pub async fn start(listens: &str, tables: &str) -> Result<Self> {
        let text = format!(
            "[device]\nid = \"Front_Door\"\n[web]\nlisten = \"{listens}:{PORT}\"\nsecret = \"{SECRET}\"\n[[camera]]\n\
             source = \"test\"\n[audio]\ncapture = \"off\"\n{tables}"
        );
        let board = Self(Shipped::start(Machine::Board.command(program()), &text)?);
        until("the board serves", LIMIT, async || Ok(board.log()?.contains(" serving "))).await?;
        Ok(board)
    }

    /// What it says of itself, asked at an address.
    pub async fn status(&self, at: IpAddr) -> Result<Value> {
        self.0.status(&format!("http://{at}:{PORT}"), SECRET).await
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        self.0.log()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> Result<i64> {
        self.0.memory()
    }

    /// How many sockets on its machine are at the port of Multicast DNS.
    pub fn mdns_sockets(&self) -> Result<usize> {
        let mut count = 0;
        for table in ["udp", "udp6"] {
            let sockets = fs::read_to_string(format!("/proc/{}/net/{table}", self.0.id()))?;
            // The second column is the local address (Documentation/networking/proc_net_tcp.rst).
            let locals = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
            count += locals.filter(|local| local.ends_with(MDNS)).count();
        }
        Ok(count)
    }

    /// Sends SIGTERM, and waits for its end.
    pub async fn stop(self) -> Result<()> {
        self.0.stop().await
    }
}
