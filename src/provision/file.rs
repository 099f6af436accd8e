//! The file on the boot partition: finds, reads and removes it, and writes error messages next to it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount_remount};

use super::Refusal;
use super::paths::Paths;
use crate::durable;

/// The required name.
pub(super) const NAME: &str = "peercam.toml";
/// The name that Windows produces if it hides extensions and its editor adds one.
const NAME_BY_NOTEPAD: &str = "peercam.toml.txt";
/// The file with the error messages.
const ERROR_NAME: &str = "peercam-error.txt";

/// Where the FAT partition of the firmware, or its equivalent, is mounted: Raspberry Pi OS from 12 on and our image;
/// Debian; Raspberry Pi OS up to 11.
const BOOT: [&str; 3] = ["boot/firmware", "boot/efi", "boot"];

/// The longest file that is read, in bytes. One with all tables of the configuration and twenty cameras has 5 KB.
const LONGEST: u64 = 64 * 1024;

/// The file that was found.
#[derive(Debug)]
pub(super) struct ProvisioningFile {
    place: &'static str,
    directory: PathBuf,
    name: &'static str,
}

impl ProvisioningFile {
    /// The first file that exists.
    pub fn find(paths: &Paths) -> Option<Self> {
        let there = |name: &'static str| {
            let place = BOOT.into_iter().find(|place| paths.at(place).join(name).exists())?;
            Some(Self { place, directory: paths.at(place), name })
        };
        there(NAME).or_else(|| there(NAME_BY_NOTEPAD))
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    /// The path of the boot partition, below the root.
    pub fn place(&self) -> &'static str {
        self.place
    }

    /// Its text, with the line ends of this system.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn read(&self) -> Result<String, Refusal> {
        if self.name != NAME {
            return Err(Refusal::of_mistakes(format!(
                "the file is called {NAME_BY_NOTEPAD} and not {NAME}: Windows hides the ending it has added. \
                 Show endings (in the Explorer: View, Show, File name extensions), and rename it"
            )));
        }
        let mut bytes = Vec::new();
        let opened = File::open(self.path()).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
        opened.map_err(|error| Refusal::of_board(format!("the file cannot be read: {error}")))?;
        text(bytes).map_err(Refusal::of_mistakes)
    }

    /// Writes the error messages next to the file. The same text is not written again: the card lasts longer.
    pub fn refuse(&self, reasons: &str) -> io::Result<()> {
        write_message(&self.directory, &format!("{reasons}\n"))
    }

    /// Removes the error messages about an earlier file, and leaves this one to be used again.
    pub fn keep(&self) -> io::Result<()> {
        remove_message(&self.directory)
    }

    /// Removes the file that was used, and the error messages about an earlier one.
    pub fn remove(&self) -> io::Result<()> {
        writing(&self.directory, || {
            for name in [ERROR_NAME, self.name] {
                match fs::remove_file(self.directory.join(name)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            File::open(&self.directory)?.sync_all()
        })
    }
}

/// Writes a message on the boot partition.
pub(super) fn write_message(directory: &Path, text: &str) -> io::Result<()> {
    let file = directory.join(ERROR_NAME);
    // For editors that support no other line end.
    let text = text.replace('\n', "\r\n");
    if fs::read(&file).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    writing(directory, || durable::write(&file, text.as_bytes()))
}

/// Removes the message from there.
pub(super) fn remove_message(directory: &Path) -> io::Result<()> {
    let file = directory.join(ERROR_NAME);
    if !file.exists() {
        return Ok(());
    }
    writing(directory, || {
        fs::remove_file(&file)?;
        File::open(directory)?.sync_all()
    })
}

/// Runs `work`; if the boot partition is mounted read-only, it is made writable for that time.
fn writing<T>(directory: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            let flags = statvfs(directory).map(|there| flags(there.f_flag))?;
            // The first error is reported: its reader can change that the partition is read-only.
            mount_remount(directory, flags - MountFlags::RDONLY, c"").map_err(|_| error)?;
            let done = work();
            // If it is busy, it stays writable; that does no harm.
            mount_remount(directory, flags, c"").ok();
            done
        }
        done => done,
    }
}

/// The flags of a mount for mount(2): a remount removes flags that it is not given again.
pub(super) fn flags(mounted: StatVfsMountFlags) -> MountFlags {
    let all = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::SYNCHRONOUS, MountFlags::SYNCHRONOUS),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    all.into_iter().filter(|(there, _)| mounted.contains(*there)).map(|(_, flag)| flag).collect()
}

fn text(mut bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > LONGEST {
        return Err(format!("the file is longer than {} KiB, so it is not what it should be", LONGEST / 1024));
    }
    // Windows' editors write a byte order mark, and their "Unicode" may be UTF-16.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("the file is in UTF-16: save it as UTF-8".into());
    }
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        bytes.drain(..3);
    }
    if bytes.contains(&0) {
        return Err("the file is not text (it has zeros in it)".into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: has a character that is not UTF-8: save the file as UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err("the file is empty".into());
    }
    Ok(text.replace("\r\n", "\n"))
}
