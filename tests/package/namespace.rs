//! A place without a network, in which roots can be mounted and made use of.
//!
//! Port 8080 is free there, and what apt installs was downloaded before.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use testkit::namespaces;
use testkit::package;

/// Debian's releases that the package is for.
pub const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// Set inside the namespaces, to what [`Found`] has.
const INSIDE: &str = "PEERCAM_PACKAGE_INSIDE";

/// What was made before the network was left.
pub struct Found {
    /// The package of the program under test.
    pub package: PathBuf,
    /// Of each release the name and the fresh root, a tar file.
    pub roots: Vec<(&'static str, PathBuf)>,
}

/// Makes package and roots, which needs the network, and continues without it. Returns inside the namespaces.
pub fn enter() -> Result<Found> {
    if let Some(paths) = env::var_os(INSIDE) {
        ensure!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success(), "no loopback interface");
        let mut paths = env::split_paths(&paths);
        let package = paths.next().context("no package")?;
        return Ok(Found { package, roots: RELEASES.into_iter().zip(paths).collect() });
    }
    let package = package::of_this_build()?;
    let mut paths = vec![package.clone()];
    for release in RELEASES {
        let package = package.to_str().context("a path that is no text")?;
        paths.push(package::printed(&["tests/package/make", release, package])?);
    }
    // dpkg gives files to several users, so one alone does not do.
    match namespaces::reexec(&["--map-auto"], INSIDE, env::join_paths(paths)?)? {}
}
