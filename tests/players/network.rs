//! A network of the test's own: one machine with two addresses, on which board and players run, and nothing beyond it.

use std::env;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use testkit::namespaces;

/// The machine's address in the network of its default route.
pub const ADDRESS: &str = "10.77.1.1";
/// Its other one.
pub const OTHER: &str = "10.77.2.1";

/// Set inside the namespaces, to where the players are.
const MADE: &str = "PEERCAM_PLAYERS_MADE";

/// Has the players installed, which may need the network, and goes on without it. Returns inside, with where they are.
pub fn enter() -> Result<PathBuf> {
    if let Some(made) = env::var_os(MADE) {
        lay()?;
        return Ok(made.into());
    }
    let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/players/make");
    let output = Command::new(make).stderr(Stdio::inherit()).output().context("tests/players/make cannot be run")?;
    ensure!(output.status.success(), "tests/players/make failed: {}", output.status);
    match namespaces::reexec(&[], MADE, String::from_utf8(output.stdout)?.trim_end())? {}
}

/// Two cables, of which both ends are here. Chromium wants a default route; nobody is at its end.
fn lay() -> Result<()> {
    ip("link set lo up")?;
    for (cable, address) in [("main", ADDRESS), ("other", OTHER)] {
        ip(&format!("link add {cable} type veth peer name {cable}-end"))?;
        ip(&format!("address add {address}/24 dev {cable}"))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!("link set {cable}-end up"))?;
    }
    ip("route add default via 10.77.1.254")
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("ip cannot be run")?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}
