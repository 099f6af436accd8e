//! The image as it is flashed, on virtual arm64 boards: from the file that a person puts on the card's boot partition
//! to a picture in the browser, and what becomes of it when the power fails.
//!
//! The boards are switched on one after the other, and the tests of each run in the order in which they stand; the
//! first that fails ends the run. `README.md` here says more.

#[path = "../harness/agent.rs"]
mod agent;
#[path = "../harness/alone.rs"]
mod alone;
#[path = "../harness/avahi.rs"]
#[allow(dead_code, reason = "the suite of mDNS uses the rest")]
mod avahi;
#[path = "../harness/broker.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod broker;
#[path = "../harness/browser.rs"]
#[allow(dead_code, reason = "the end-to-end suite uses the rest")]
mod browser;
mod card;
mod equipment;
mod household;
mod machine;
mod monitor;
#[path = "../harness/namespace.rs"]
mod namespace;
mod place;
mod power_cuts;
#[path = "../harness/starvation.rs"]
mod starvation;
mod visitor;
#[path = "../harness/watching.rs"]
#[allow(dead_code, reason = "the virtual board uses the rest")]
mod watching;

/// Runs one test of a board and says how it went. Two may run beside each other, so that nothing is said before.
macro_rules! test {
    ($machine:ident, $name:ident($($argument:expr),*)) => {{
        let started = std::time::Instant::now();
        let result = $name($($argument),*).await;
        let (name, seconds) = (stringify!($name), started.elapsed().as_secs_f64());
        if let Err(error) = result {
            eprintln!("test {name} ... FAILED ({seconds:.1} s)");
            return Err(error.context(format!("{name} (the board's logs: {})", $machine.logs())));
        }
        eprintln!("test {name} ... ok ({seconds:.1} s)");
    }};
}

mod damaged;
mod provisioned;
mod u_boot;
mod unprovisioned;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::place::Place;

fn main() -> ExitCode {
    // Returns on the other side only.
    alone::go_on(namespace::enter("tests/image/make", &[]), |made| async move { run(made).await })
}

/// The boards, in the order in which they are switched on. Named as arguments, only those are.
const BOARDS: [&str; 4] = ["provisioned", "unprovisioned", "damaged", "u_boot"];

async fn run(made: PathBuf) -> Result<()> {
    let started = Instant::now();
    let named: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = named.iter().find(|name| !BOARDS.contains(&name.as_str())) {
        bail!("there is no board {unknown}; there are {}", BOARDS.join(", "));
    }
    let mut place = Place::set_up(&made).await?;
    for board in BOARDS.into_iter().filter(|board| named.is_empty() || named.iter().any(|name| name == board)) {
        eprintln!("-- the board {board}");
        match board {
            "provisioned" => provisioned::run(&mut place).await?,
            "unprovisioned" => unprovisioned::run(&mut place).await?,
            "damaged" => damaged::run(&mut place).await?,
            _ => u_boot::run(&mut place).await?,
        }
    }
    eprintln!("the image passed, {:.0} s in all", started.elapsed().as_secs_f64());
    Ok(())
}
