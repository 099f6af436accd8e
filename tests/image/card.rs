//! A card with the image on it, as it is put into a board: the image file never changes, writes of a test or the board
//! go to an overlay.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// Larger than the image, so that the data partition can grow; unwritten parts take no space.
const SIZE: &str = "8G";
/// The smallest alignment of partitions, and the unit of the kernel and sfdisk.
const SECTOR: u64 = 512;
/// The type of the boot partition in a GPT: an EFI system partition (UEFI specification 2.10, table 5.7).
const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Where a partition lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of its first byte.
    pub start: u64,
    /// How many there are.
    pub size: u64,
}

impl Extent {
    /// From the values of `/sys/class/block/*/{start,size}`.
    pub fn of_sectors(start: u64, size: u64) -> Self {
        Self { start: start * SECTOR, size: size * SECTOR }
    }

    /// This part of a card for QEMU: the options of a block device (qemu-block-drivers(7)).
    fn within(self, card: &Path) -> String {
        let Self { start, size } = self;
        format!("driver=raw,offset={start},size={size},file.driver=qcow2,file.file.filename={}", card.display())
    }
}

/// A card. It is removed with the directory that contains it.
#[derive(Clone, Debug)]
pub struct Card {
    file: PathBuf,
    boot: Extent,
}

impl Card {
    /// A new card with `image` on it.
    pub fn flash(image: &Path, file: PathBuf) -> Result<Self> {
        must(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .arg(image)
                .arg(&file)
                .arg(SIZE),
        )?;
        Ok(Self { file, boot: boot_partition(image)? })
    }

    /// Another card with the content of this one, which must not change any more.
    pub fn copy(&self, file: PathBuf) -> Result<Self> {
        must(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
                .arg(&self.file)
                .arg(&file),
        )?;
        Ok(Self { file, boot: self.boot })
    }

    /// A handle to a card of the same image that exists already.
    pub fn beside(&self, file: PathBuf) -> Self {
        Self { file, boot: self.boot }
    }

    /// For QEMU, in the format qcow2.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Puts a file on the boot partition, replacing one of that name, as a user does with the card in a reader.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let fat = self.take_out(self.boot)?;
        let source = self.file.with_extension("put");
        std::fs::write(&source, content)?;
        must(Command::new("mcopy").arg("-o").arg("-i").arg(&fat).arg(&source).arg(format!("::{name}")))?;
        let image = self.boot.within(&self.file);
        must(
            Command::new("qemu-img").args(["convert", "-n", "-f", "raw", "--target-image-opts"]).arg(&fat).arg(image),
        )?;
        Ok(())
    }

    /// A file of the boot partition, if it is there.
    pub fn get(&self, name: &str) -> Result<Option<String>> {
        let fat = self.take_out(self.boot)?;
        let output = run(Command::new("mtype").arg("-i").arg(&fat).arg(format!("::{name}")))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
            false if said.contains("not found") || said.contains("No match") => Ok(None),
            false => bail!("mtype {name}: {said}"),
        }
    }

    /// Overwrites the beginning of a partition, including the signature of its file system.
    pub fn destroy(&self, partition: Extent) -> Result<()> {
        let command = format!("write -P 0xa5 {} 64k", partition.start);
        must(Command::new("qemu-io").args(["-f", "qcow2", "-c", &command]).arg(&self.file))?;
        Ok(())
    }

    /// A copy of a partition, beside the card.
    pub fn take_out(&self, partition: Extent) -> Result<PathBuf> {
        let copy = self.file.with_extension("partition");
        must(
            Command::new("qemu-img")
                .args(["convert", "-O", "raw", "--image-opts"])
                .arg(partition.within(&self.file))
                .arg(&copy),
        )?;
        Ok(copy)
    }
}

/// The partitions of an image, first to last.
pub fn partitions(image: &Path) -> Result<Vec<Extent>> {
    Ok(table(image)?.into_iter().map(|partition| Extent::of_sectors(partition.start, partition.size)).collect())
}

fn boot_partition(image: &Path) -> Result<Extent> {
    let found = table(image)?.into_iter().find(|partition| partition.kind.starts_with(EFI_SYSTEM));
    let found = found.context("the image has no EFI system partition")?;
    Ok(Extent::of_sectors(found.start, found.size))
}

/// As sfdisk writes it with `--json`.
#[derive(Debug, Deserialize)]
struct Partition {
    start: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
}

fn table(image: &Path) -> Result<Vec<Partition>> {
    let output = must(Command::new("sfdisk").arg("--json").arg(image))?;
    let mut document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(document["partitiontable"]["label"] == "gpt", "the image has no GPT: {document}");
    Ok(serde_json::from_value(document["partitiontable"]["partitions"].take())?)
}

/// Runs a program, also from root's search path; it has to succeed.
pub fn must(command: &mut Command) -> Result<Output> {
    let output = run(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(output)
}

/// The same; the caller checks the exit status.
pub fn run(command: &mut Command) -> Result<Output> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [path.as_os_str(), OsStr::new(":/usr/sbin:/sbin")].join(OsStr::new(""));
    command.env("PATH", path).output().with_context(|| format!("{command:?} cannot be run"))
}
