//! A network of the test's own: a TAP device with the board at one end and the browser at the other.

use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::namespaces;

/// The TAP device at the host's end, for QEMU.
pub const TAP: &str = "tap0";
/// The host's address at its end.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// A page that may not use the camera learns one local address only: that of the default route. Without a route
/// Chromium has no address to be reached at, and never connects. Nobody forwards anything there.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// Set inside the namespaces, to the directory that the suite's `make` printed.
const MADE: &str = "PEERCAM_TEST_MADE";

/// Has what the board boots from made by `make`, a program of the repository, with these arguments, which may need the
/// network, and goes on without it. Returns inside the namespaces, with the directory that the program printed.
pub fn enter(make: &str, arguments: &[&str]) -> Result<PathBuf> {
    if let Some(made) = env::var_os(MADE) {
        lay_cable()?;
        return Ok(made.into());
    }
    let output = Command::new(Path::new(crate::REPOSITORY).join(make))
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("{make} cannot be run"))?;
    if !output.status.success() {
        bail!("{make} failed: {}", output.status);
    }
    let made = String::from_utf8(output.stdout)?;
    match namespaces::reexec(&[], MADE, made.trim_end())? {}
}

fn lay_cable() -> Result<()> {
    for arguments in [
        "link set lo up",
        &format!("tuntap add {TAP} mode tap"),
        &format!("address add {HOST}/24 dev {TAP}"),
        &format!("link set {TAP} up"),
        &format!("route add default via {GATEWAY}"),
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status().context("ip cannot be run")?;
        if !status.success() {
            bail!(
                "ip {arguments}: {status}. The board's network needs /dev/net/tun to be readable and writable by this \
                 user (it is for everybody on an ordinary Debian), or root"
            );
        }
    }
    Ok(())
}
