//! Writes files so that they hold either the old or the new content after a power cut, and reads untrusted paths.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Number of names to try for a file that is set aside.
const MOST_ASIDE: usize = 9;

/// The content of a regular file of at most `most` bytes. Other files at that path neither block this call nor fill the
/// memory: a pipe, a device, an endless file.
///
/// # Errors
///
/// Errors of the file system, or if it is not such a file.
pub fn read(file: &Path, most: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer, and a terminal could become the controlling one.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(file)?;
    let kind = opened.metadata()?.file_type();
    if !kind.is_file() {
        let what = match kind {
            _ if kind.is_dir() => "a directory",
            _ if kind.is_fifo() => "a pipe",
            _ => "a device",
        };
        return Err(io::Error::other(format!("it is {what}, not a file")));
    }
    let mut content = Vec::new();
    opened.take(most as u64 + 1).read_to_end(&mut content)?;
    if content.len() > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(content)
}

/// The users that can read a new file. Only the owner can write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Only the owner; the same holds for its directory, if it is created.
    Owner,
    /// All users, regardless of the process's umask; the same holds for a directory that is created.
    All,
    /// The users that could read the replaced file. All users, if there was none, or if it has another owner or group
    /// that this process may not set: a file that too many users can read is better than one that its readers cannot
    /// read.
    AsBefore,
}

/// The mode of a file that all users may read.
const FOR_ALL: u32 = 0o644;

/// A file or link that is on the disk under a temporary name. It is removed when dropped.
#[derive(Debug)]
#[must_use = "a draft that is not committed is removed"]
pub struct Draft {
    draft: PathBuf,
    file: PathBuf,
}

/// Replaces the content of `file` with `content`. Only the owner can read it; its directory is created if needed.
///
/// The new content is written beside the file, synced to the disk, and only then renamed, because rename(2)
/// replaces a file in one step. Blocks until the disk has it. The caller makes sure that there is one writer at a time.
///
/// # Errors
///
/// Errors of the file system. The old file then remains, and the new content is removed.
pub fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    Draft::of_file(file, content, Readers::Owner)?.commit()
}

impl Draft {
    /// Writes `content` to the disk beside `file`, whose directory is created if needed. All steps that a full
    /// or read-only disk refuses are done here; [`commit`](Self::commit) seldom fails.
    ///
    /// # Errors
    ///
    /// Errors of the file system; nothing is left on the disk then.
    pub fn of_file(file: &Path, content: &[u8], readers: Readers) -> io::Result<Self> {
        let draft = Self::beside(file, readers)?;
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.draft)?;
        written.write_all(content)?;
        match readers {
            Readers::Owner => {}
            Readers::All => written.set_permissions(Permissions::from_mode(FOR_ALL))?,
            Readers::AsBefore => copy_access(file, &written)?,
        }
        written.sync_all()?;
        Ok(draft)
    }

    /// Like [`of_file`](Self::of_file), for a symbolic link at `link` that points to `target`.
    ///
    /// # Errors
    ///
    /// Errors of the file system; nothing is left on the disk then.
    pub fn of_link(link: &Path, target: &Path) -> io::Result<Self> {
        let draft = Self::beside(link, Readers::All)?;
        symlink(target, &draft.draft)?;
        Ok(draft)
    }

    /// Renames the draft to its final name: rename(2) replaces a file in one step. Blocks until the disk has it.
    ///
    /// # Errors
    ///
    /// Errors of the file system. If the rename failed, the old file remains.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(&self.draft, &self.file)?;
        // The name is an entry of the directory, which needs its own sync.
        File::open(directory_of(&self.file))?.sync_all()
    }

    fn beside(file: &Path, readers: Readers) -> io::Result<Self> {
        let mode = if readers == Readers::Owner { 0o700 } else { 0o755 };
        DirBuilder::new().recursive(true).mode(mode).create(directory_of(file))?;
        let draft = beside(file, "draft");
        // A draft left by a power cut may have another owner and mode, which opening it would keep.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) if draft.is_dir() => drop(set_aside(&draft)?),
            removed => removed?,
        }
        Ok(Self { draft, file: file.to_owned() })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Frees space on a full disk. After the rename, or if it was never created, there is nothing to remove.
        fs::remove_file(&self.draft).ok();
    }
}

/// Renames a file that cannot be used, so that it is out of the way and can be examined. Returns the new name:
/// `FILE.bad`, or if a directory has that name, `FILE.bad.2` and so on.
///
/// # Errors
///
/// Errors of the file system; the file then stays where it is.
pub fn set_aside(file: &Path) -> io::Result<PathBuf> {
    let names = std::iter::once("bad".to_owned()).chain((2..=MOST_ASIDE).map(|number| format!("bad.{number}")));
    let mut refused = None;
    for aside in names.map(|ending| beside(file, &ending)) {
        match fs::rename(file, &aside) {
            Ok(()) => return Ok(aside),
            Err(error) if aside.is_dir() || file.is_dir() && aside.exists() => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| io::Error::other("all names for it are taken")))
}

/// Whether a file of this name was [set aside](set_aside).
pub fn was_set_aside(file: &Path) -> bool {
    beside(file, "bad").symlink_metadata().is_ok()
}

fn copy_access(before: &Path, written: &File) -> io::Result<()> {
    match fs::metadata(before) {
        Ok(data) => {
            // The mode is set before the owner, because only the owner may set it.
            written.set_permissions(Permissions::from_mode(data.mode() & 0o777))?;
            if fchown(written, Some(data.uid()), Some(data.gid())).is_ok() {
                return Ok(());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    written.set_permissions(Permissions::from_mode(FOR_ALL))
}

fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().map(OsString::from).unwrap_or_default();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_created_with_its_directory_and_only_the_owner_can_read_them() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("state/peercam/settings.json");
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(names(file.parent().unwrap()), ["settings.json"]);
    }

    #[test]
    fn a_draft_left_by_a_power_cut_is_ignored_and_replaced() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("settings.json");
        write(&file, b"old").unwrap();
        for rest in ["", "ne", "new, whole, but never renamed"] {
            fs::write(root.path().join("settings.json.draft"), rest).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"old");
        }
        write(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(names(root.path()), ["settings.json"]);
    }

    #[test]
    fn a_draft_has_no_effect_until_it_is_committed_and_is_removed_otherwise() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("etc/hostname"), root.path().join("etc/localtime"));
        drop(Draft::of_file(&file, b"old", Readers::All).unwrap());
        drop(Draft::of_link(&link, Path::new("/usr/share/zoneinfo/UTC")).unwrap());
        assert_eq!(names(&root.path().join("etc")), [""; 0]);
        let draft = Draft::of_file(&file, b"new", Readers::All).unwrap();
        assert!(!file.exists());
        draft.commit().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        Draft::of_link(&link, Path::new("/usr/share/zoneinfo/UTC")).unwrap().commit().unwrap();
        Draft::of_link(&link, Path::new("/usr/share/zoneinfo/Europe/Berlin")).unwrap().commit().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/usr/share/zoneinfo/Europe/Berlin"));
        assert_eq!(names(&root.path().join("etc")), ["hostname", "localtime"]);
    }

    #[test]
    fn a_replaced_file_keeps_its_readers_on_request() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("peercam.toml");
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        Draft::of_file(&file, b"new", Readers::AsBefore).unwrap().commit().unwrap();
        assert_eq!(mode(), 0o644);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        Draft::of_file(&file, b"newer", Readers::AsBefore).unwrap().commit().unwrap();
        assert_eq!(mode(), 0o640);
    }

    #[test]
    fn only_a_small_regular_file_is_read_and_reading_never_blocks() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("sound"), "12345678").unwrap();
        fs::create_dir(path("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        File::create(path("huge")).unwrap().set_len(1 << 40).unwrap();
        symlink("sound", path("link")).unwrap();
        symlink("loop", path("loop")).unwrap();
        assert_eq!(read(&path("link"), 8).unwrap(), b"12345678");
        let refused = [
            ("sound", "more than 7 bytes"),
            ("huge", "more than 7 bytes"),
            ("folder", "a directory"),
            ("pipe", "a pipe"),
            ("loop", "symbolic links"),
            ("nothing", "No such file"),
        ];
        for (name, reason) in refused {
            let error = read(&path(name), 7).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
        assert!(read(Path::new("/dev/zero"), 7).unwrap_err().to_string().contains("a device"));
    }

    #[test]
    fn anything_in_place_of_a_file_is_set_aside() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("settings.json");
        fs::create_dir_all(root.path().join("settings.json.bad/within")).unwrap();
        fs::create_dir_all(root.path().join("settings.json.draft/within")).unwrap();
        for expected in ["settings.json.bad.2", "settings.json.bad.3"] {
            fs::create_dir_all(file.join("within")).unwrap();
            assert_eq!(set_aside(&file).unwrap(), root.path().join(expected));
        }
        write(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(was_set_aside(&file) && root.path().join("settings.json.draft.bad/within").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_draft() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("settings.json");
        // A directory in the file's place makes the rename fail.
        fs::create_dir_all(file.join("within")).unwrap();
        write(&file, b"new").unwrap_err();
        assert_eq!(names(root.path()), ["settings.json"]);
        // A file in the directory's place makes it fail before there is a draft.
        fs::write(root.path().join("taken"), "").unwrap();
        write(&root.path().join("taken/settings.json"), b"new").unwrap_err();
        assert_eq!(names(root.path()), ["settings.json", "taken"]);
    }
}
