//! Versions of the package that do not exist yet: the one at hand with another number and other contents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::root;

/// A package that is unpacked, to be packed again.
pub struct Repacked {
    directory: TempDir,
    version: String,
}

impl Repacked {
    /// The contents of `package` as those of `version`.
    pub fn of(package: &Path, version: &str) -> Result<Self> {
        let repacked = Self { directory: tempfile::tempdir()?, version: version.to_owned() };
        root::must(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(repacked.tree()))?;
        let control = repacked.tree().join("DEBIAN/control");
        let text = fs::read_to_string(&control)?;
        let (_, rest) = text.split_once("\nVersion: ").context("no version")?;
        let own = rest.lines().next().context("no version")?;
        fs::write(control, text.replace(&format!("\nVersion: {own}\n"), &format!("\nVersion: {version}\n")))?;
        Ok(repacked)
    }

    /// With another configuration than the one that is shipped.
    pub fn with_configuration(self, text: &str) -> Result<Self> {
        fs::write(self.tree().join("etc/peercam/peercam.toml"), text)?;
        Ok(self)
    }

    /// Packs it; the file is there for as long as this is.
    pub fn pack(&self) -> Result<PathBuf> {
        let file = self.directory.path().join(format!("peercam_{}.deb", self.version));
        let mut pack = Command::new("dpkg-deb");
        pack.args(["--build", "--root-owner-group", "-Zgzip", "-z1"]).arg(self.tree()).arg(&file);
        root::must(&mut pack)?;
        Ok(file)
    }

    fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }
}
