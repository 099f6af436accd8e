//! The file on the boot partition: found, read as far as it is text, answered, and removed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount_remount};

use super::Refusal;
use super::places::Places;
use crate::durable;

/// What it has to be called.
pub(super) const NAME: &str = "peercam.toml";
/// What Windows makes of that where it hides endings, and its editor adds one.
const NAME_BY_NOTEPAD: &str = "peercam.toml.txt";
/// What tells the mistakes.
const ERROR_NAME: &str = "peercam-error.txt";

/// Where firmware, or what stands in for it, keeps its FAT partition: Raspberry Pi OS from 12 on and our image; Debian;
/// Raspberry Pi OS up to 11.
const BOOT: [&str; 3] = ["boot/firmware", "boot/efi", "boot"];

/// The longest that is read. A file with all tables of the configuration and twenty cameras has 5 KB.
const LONGEST: u64 = 64 * 1024;

/// A file for this board.
#[derive(Debug)]
pub(super) struct Found {
    place: &'static str,
    directory: PathBuf,
    name: &'static str,
}

impl Found {
    /// The first there is.
    pub fn on(places: &Places) -> Option<Self> {
        let there = |name: &'static str| {
            let place = BOOT.into_iter().find(|place| places.at(place).join(name).exists())?;
            Some(Self { place, directory: places.at(place), name })
        };
        there(NAME).or_else(|| there(NAME_BY_NOTEPAD))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    /// The boot partition, below the root.
    pub fn place(&self) -> &'static str {
        self.place
    }

    /// Its text, with lines as on this system.
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

    /// Leaves word of what was wrong, where the file is. The same word is not written again: the card lasts longer.
    pub fn refuse(&self, reasons: &str) -> io::Result<()> {
        tell(&self.directory, &format!("{reasons}\n"))
    }

    /// Takes back what was said of an earlier one, and lets this one be used again.
    pub fn keep(&self) -> io::Result<()> {
        take_back(&self.directory)
    }

    /// Takes away what was used, and what was said of an earlier one.
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

/// Leaves word on the boot partition.
pub(super) fn tell(directory: &Path, text: &str) -> io::Result<()> {
    let file = directory.join(ERROR_NAME);
    // For editors that know no other end of a line.
    let text = text.replace('\n', "\r\n");
    if fs::read(&file).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    writing(directory, || durable::write(&file, text.as_bytes()))
}

/// Takes back what was left there.
pub(super) fn take_back(directory: &Path) -> io::Result<()> {
    let file = directory.join(ERROR_NAME);
    if !file.exists() {
        return Ok(());
    }
    writing(directory, || {
        fs::remove_file(&file)?;
        File::open(directory)?.sync_all()
    })
}

/// Where the boot partition is mounted read-only, it is writable for as long as `work` takes.
fn writing<T>(directory: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            let flags = statvfs(directory).map(|there| flags(there.f_flag))?;
            // That it is read-only is what whoever reads of this can help.
            mount_remount(directory, flags - MountFlags::RDONLY, c"").map_err(|_| error)?;
            let done = work();
            // Busy, it stays writable; nothing is lost by that.
            mount_remount(directory, flags, c"").ok();
            done
        }
        done => done,
    }
}

/// What a mount is, as mount(2) is told it: a remount takes off what it is not told again.
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
    // Windows' editors write a mark in front, and "Unicode" there may be UTF-16.
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
        let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = sound.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: has a character that is not UTF-8: save the file as UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err("the file is empty".into());
    }
    Ok(text.replace("\r\n", "\n"))
}
