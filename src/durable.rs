//! Files that are old or new after a power cut, never half of each.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes `content` what `file` holds. Only the owner can read it; its directory is made if need be.
///
/// It is written beside its place, brought to the disk, and only then given its name, since rename(2) replaces a file
/// in one step. Blocks until the disk has it. One writer at a time is the caller's business.
///
/// # Errors
///
/// What the file system says. The file is the old one then, and what was written of the new one is removed.
pub fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let draft = beside(file, "draft");
    let written = write_draft(&draft, content).and_then(|()| fs::rename(&draft, file));
    if let Err(error) = written {
        // On a full disk the draft's space is needed by others; where it was never made, there is nothing to remove.
        fs::remove_file(&draft).ok();
        return Err(error);
    }
    // The name is an entry of the directory, which is another file.
    File::open(directory)?.sync_all()
}

/// Gives a file that cannot be used another name, so that it is out of the way and can be looked at. Returns the name.
///
/// # Errors
///
/// What the file system says; the file stays where it is then.
pub fn set_aside(file: &Path) -> io::Result<PathBuf> {
    let aside = beside(file, "bad");
    fs::rename(file, &aside)?;
    Ok(aside)
}

fn write_draft(draft: &Path, content: &[u8]) -> io::Result<()> {
    // One that a power cut left may have another owner's rights, which opening it would keep.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(content)?;
    file.sync_all()
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().map(OsString::from).unwrap_or_default();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
