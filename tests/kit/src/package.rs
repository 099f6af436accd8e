//! The Debian package of the program under test, and versions of it that do not exist yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::shipped::program;

/// Makes the package, unless it is there already; gives its file. Where nothing is missing, no network is needed.
pub fn of_this_build() -> Result<PathBuf> {
    printed(&["scripts/package", "--of", program()])
}

/// Runs a program of the repository that makes something and prints its path.
pub fn printed(command: &[&str]) -> Result<PathBuf> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(Path::new(crate::REPOSITORY).join(program))
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    ensure!(output.status.success(), "{program} failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().into())
}

/// A package that is unpacked, to be packed again as another version.
pub struct Repacked {
    directory: TempDir,
    version: String,
}

impl Repacked {
    /// The contents of `package` as those of `version`.
    pub fn of(package: &Path, version: &str) -> Result<Self> {
        let repacked = Self { directory: tempfile::tempdir()?, version: version.to_owned() };
        run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(repacked.tree()))?;
        let control = repacked.tree().join("DEBIAN/control");
        let text = fs::read_to_string(&control)?;
        let own = text.lines().find(|line| line.starts_with("Version: ")).context("a package without a version")?;
        fs::write(control, text.replace(own, &format!("Version: {version}")))?;
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
        run(&mut pack)?;
        Ok(file)
    }

    fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }
}

/// Runs a command that has to succeed; otherwise the error has its output.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}
