//! Files that are old or new after a power cut, never half of each; and reading what may be anything by then.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Names that what cannot be used is given before the first of them is used again.
const MOST_ASIDE: usize = 9;

/// The content of a regular file of at most `most` bytes. What else may stand in its place neither makes this wait nor
/// fills the memory: a pipe, a device, a file without end.
///
/// # Errors
///
/// What the file system says, or that it is no such file.
pub fn read(file: &Path, most: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer, and a terminal could become ours.
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

/// Who can read a file that is made. The owner can write it, and nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its directory too, where that is made.
    Owner,
    /// Everybody, whatever the process's umask says; that holds for a directory which is made.
    All,
    /// Whoever could read the file that is replaced; everybody if there was none, or if its owner or group was another
    /// which this process may not give it to: better that the file is read by too many than not by those it is for.
    AsBefore,
}

/// The mode of a file that everybody may read.
const FOR_ALL: u32 = 0o644;

/// What is to be under a name: on the disk already, but still under another. Dropped, it is removed.
#[derive(Debug)]
#[must_use = "what is only drafted is removed"]
pub struct Draft {
    draft: PathBuf,
    file: PathBuf,
}

/// Makes `content` what `file` holds. Only the owner can read it; its directory is made if need be.
///
/// It is written beside its place, brought to the disk, and only then given its name, since rename(2) replaces a file
/// in one step. Blocks until the disk has it. One writer at a time is the caller's business.
///
/// # Errors
///
/// What the file system says. The file is the old one then, and what was written of the new one is removed.
pub fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    Draft::of_file(file, content, Readers::Owner)?.commit()
}

impl Draft {
    /// Brings `content` to the disk beside `file`, whose directory is made if need be. It does all that a full or
    /// read-only disk may refuse; what is left for [`commit`](Self::commit) seldom fails.
    ///
    /// # Errors
    ///
    /// What the file system says; nothing is left then.
    pub fn of_file(file: &Path, content: &[u8], readers: Readers) -> io::Result<Self> {
        let draft = Self::beside(file, readers)?;
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.draft)?;
        written.write_all(content)?;
        match readers {
            Readers::Owner => {}
            Readers::All => written.set_permissions(Permissions::from_mode(FOR_ALL))?,
            Readers::AsBefore => give_to_those_of(file, &written)?,
        }
        written.sync_all()?;
        Ok(draft)
    }

    /// As [`of_file`](Self::of_file), for a symbolic link at `link` that leads to `target`.
    ///
    /// # Errors
    ///
    /// What the file system says; nothing is left then.
    pub fn of_link(link: &Path, target: &Path) -> io::Result<Self> {
        let draft = Self::beside(link, Readers::All)?;
        symlink(target, &draft.draft)?;
        Ok(draft)
    }

    /// Gives it its name, since rename(2) replaces a file in one step. Blocks until the disk has it.
    ///
    /// # Errors
    ///
    /// What the file system says. If it could not be renamed, the file is the old one.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(&self.draft, &self.file)?;
        // The name is an entry of the directory, which is another file.
        File::open(directory_of(&self.file))?.sync_all()
    }

    fn beside(file: &Path, readers: Readers) -> io::Result<Self> {
        let mode = if readers == Readers::Owner { 0o700 } else { 0o755 };
        DirBuilder::new().recursive(true).mode(mode).create(directory_of(file))?;
        let draft = beside(file, "draft");
        // One that a power cut left may have another owner's rights, which opening it would keep.
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
        // On a full disk its space is needed by others; once it has its name, or was never made, nothing is there.
        fs::remove_file(&self.draft).ok();
    }
}

/// Gives what cannot be used another name, so that it is out of the way and can be looked at. Returns the name:
/// `FILE.bad`, or where a directory is in the way of that `FILE.bad.2` and so on.
///
/// # Errors
///
/// What the file system says; it stays where it is then.
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
    Err(refused.unwrap_or_else(|| io::Error::other("there is no name for it")))
}

/// Whether something was [set aside](set_aside) that had this name.
pub fn was_set_aside(file: &Path) -> bool {
    beside(file, "bad").symlink_metadata().is_ok()
}

fn give_to_those_of(before: &Path, written: &File) -> io::Result<()> {
    match fs::metadata(before) {
        Ok(data) => {
            // Before the owner, who alone may set it.
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
    fn a_file_is_made_with_its_directory_and_only_the_owner_can_read_either() {
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
    fn a_draft_that_a_power_cut_left_is_neither_taken_for_the_file_nor_in_the_way() {
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
    fn a_draft_is_nothing_until_it_is_committed_and_leaves_nothing_when_it_is_not() {
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
    fn a_file_that_is_replaced_keeps_its_readers_where_that_is_wanted() {
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
    fn only_a_regular_file_of_bounded_size_is_read_and_nothing_makes_the_reader_wait() {
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
    fn what_is_in_the_way_is_set_aside_whatever_it_is_and_whatever_was_before() {
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
    fn what_cannot_be_written_leaves_the_old_file_and_no_draft() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("settings.json");
        // A directory in the file's place: the rename is what fails.
        fs::create_dir_all(file.join("within")).unwrap();
        write(&file, b"new").unwrap_err();
        assert_eq!(names(root.path()), ["settings.json"]);
        // Where the directory should be is a file: it fails before there is a draft.
        fs::write(root.path().join("taken"), "").unwrap();
        write(&root.path().join("taken/settings.json"), b"new").unwrap_err();
        assert_eq!(names(root.path()), ["settings.json", "taken"]);
    }
}
