//! A network of the test's own: the board at one end of a cable, the browser at the other, nothing else.
//!
//! The test starts itself anew in namespaces made by `unshare`. In a process namespace of its own, whatever it started
//! (QEMU, chromedriver and its browsers) ends with it, however it ends.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The host's end of the cable, as QEMU is told.
pub const TAP: &str = "tap0";
const HOST_ADDRESS: &str = "192.168.77.1/24";
/// A page that may not use the camera learns one local address only: that of the default route. Without a route
/// Chromium has no address to be reached at, and never connects. Nobody forwards anything there.
const GATEWAY: &str = "192.168.77.2";

/// Set inside the namespaces, to the directory that `tests/board/make` printed.
const IMAGE: &str = "PEERCAM_BOARD_IMAGE";

/// Makes what the board boots from, which needs the network, and goes on without it. Returns inside the namespaces,
/// with the directory of what was made.
pub fn enter() -> Result<PathBuf> {
    if let Some(image) = env::var_os(IMAGE) {
        lay_cable()?;
        return Ok(image.into());
    }
    let make = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/board/make"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("tests/board/make cannot be run")?;
    if !make.status.success() {
        bail!("tests/board/make failed: {}", make.status);
    }
    let image = String::from_utf8(make.stdout)?;

    let mut unshare = Command::new("unshare");
    if fs::metadata("/proc/self")?.uid() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(IMAGE, image.trim_end());
    Err(unshare.exec()).context("unshare cannot be run")
}

fn lay_cable() -> Result<()> {
    for arguments in [
        "link set lo up",
        &format!("tuntap add {TAP} mode tap"),
        &format!("address add {HOST_ADDRESS} dev {TAP}"),
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
