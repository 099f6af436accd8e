//! The image as it is flashed, on virtual arm64 boards: from the file that a user puts on the card's boot partition to
//! a picture in the browser, and power cuts.
//!
//! The boards boot one after the other, and the tests of each run in order; the first failure ends the run. `README.md`
//! here has more.

mod api_client;
mod card;
mod environment;
mod lan;
mod machine;
mod monitor;
mod power_cuts;
mod test_disk;

/// Runs one test of a board and prints its result at the end, because two may run at the same time.
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

use crate::environment::Environment;
use testkit::namespaces;
use testkit::tap_network;

fn main() -> ExitCode {
    // Returns on the other side only.
    namespaces::run(tap_network::enter("tests/image/make", &[]), |made| async move { run(made).await })
}

/// The boards, in the order in which they boot. Arguments select some of them.
const BOARDS: [&str; 4] = ["provisioned", "unprovisioned", "damaged", "u_boot"];

async fn run(made: PathBuf) -> Result<()> {
    let started = Instant::now();
    let named: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = named.iter().find(|name| !BOARDS.contains(&name.as_str())) {
        bail!("there is no board {unknown}; there are {}", BOARDS.join(", "));
    }
    let mut environment = Environment::set_up(&made).await?;
    for board in BOARDS.into_iter().filter(|board| named.is_empty() || named.iter().any(|name| name == board)) {
        eprintln!("-- the board {board}");
        match board {
            "provisioned" => provisioned::run(&mut environment).await?,
            "unprovisioned" => unprovisioned::run(&mut environment).await?,
            "damaged" => damaged::run(&mut environment).await?,
            _ => u_boot::run(&mut environment).await?,
        }
    }
    eprintln!("the image passed, {:.0} s in all", started.elapsed().as_secs_f64());
    Ok(())
}
