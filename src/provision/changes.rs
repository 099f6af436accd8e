//! Changes of files that take effect together: all are on the disk under other names before the first takes effect.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::durable::{Draft, Readers};

/// The required state of one file.
#[derive(Debug)]
pub(super) enum Change {
    /// The file has this content.
    Write {
        /// The file.
        file: PathBuf,
        /// The whole content.
        content: Vec<u8>,
        /// The users that can read it.
        readers: Readers,
    },
    /// A symbolic link.
    Link {
        /// Its path.
        link: PathBuf,
        /// The path that it leads to.
        target: PathBuf,
    },
    /// The file is absent.
    Remove {
        /// The file.
        file: PathBuf,
    },
}

/// A change that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written ({cause}); {left}", .file.display())]
pub(super) struct Failure {
    file: PathBuf,
    cause: io::Error,
    left: &'static str,
}

/// Nothing was renamed yet.
const NOTHING_CHANGED: &str = "nothing was changed";
/// Nothing is lost then, since each start begins again at the first change.
const PART_CHANGED: &str = "what comes before it was changed already, and the next start tries the rest again";

impl Change {
    fn file(&self) -> &Path {
        match self {
            Self::Write { file, .. } | Self::Link { link: file, .. } | Self::Remove { file } => file,
        }
    }

    /// Whether nothing has to be done, as on a start after an interrupted one. Fewer writes also spare the card.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Write { file, content, readers } => {
                let has_rights = |file: &Path| {
                    let Ok(data) = fs::symlink_metadata(file) else { return false };
                    let others = data.is_file() && data.permissions().mode() & 0o077 != 0;
                    *readers == Readers::AsBefore || others == (*readers == Readers::All)
                };
                fs::read(file).is_ok_and(|now| now == *content) && has_rights(file)
            }
            Self::Link { link, target } => fs::read_link(link).is_ok_and(|now| now == *target),
            Self::Remove { file } => {
                fs::symlink_metadata(file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            }
        }
    }

    fn failed(&self, cause: io::Error, left: &'static str) -> Failure {
        Failure { file: self.file().to_owned(), cause, left }
    }

    fn draft(&self) -> io::Result<Work<'_>> {
        Ok(match self {
            Self::Write { file, content, readers } => Work::Rename(Draft::of_file(file, content, *readers)?),
            Self::Link { link, target } => Work::Rename(Draft::of_link(link, target)?),
            Self::Remove { file } => Work::Remove(file),
        })
    }
}

/// A prepared change: the rest is unlikely to fail.
#[derive(Debug)]
pub(super) struct Step<'c> {
    change: &'c Change,
    work: Work<'c>,
}

#[derive(Debug)]
enum Work<'c> {
    Rename(Draft),
    Remove(&'c Path),
}

impl Work<'_> {
    fn commit(self) -> io::Result<()> {
        match self {
            Self::Rename(draft) => draft.commit(),
            Self::Remove(file) => {
                fs::remove_file(file)?;
                File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
            }
        }
    }
}

/// Makes all changes, in their order.
///
/// # Errors
///
/// If the disk refuses a change. As a rule nothing has changed then: a full or read-only disk refuses drafts too.
pub(super) fn apply(changes: &[Change]) -> Result<(), Failure> {
    commit(prepare(changes, usize::MAX)?)
}

/// Prepares at most `most` of the needed changes on the disk.
pub(super) fn prepare(changes: &[Change], most: usize) -> Result<Vec<Step<'_>>, Failure> {
    let needed = changes.iter().filter(|change| !change.is_done()).take(most);
    needed
        .map(|change| match change.draft() {
            Ok(work) => Ok(Step { change, work }),
            Err(error) => Err(change.failed(error, NOTHING_CHANGED)),
        })
        .collect()
}

/// Makes the prepared changes take effect, in their order.
pub(super) fn commit(steps: Vec<Step<'_>>) -> Result<(), Failure> {
    let mut left = NOTHING_CHANGED;
    for Step { change, work } in steps {
        work.commit().map_err(|error| change.failed(error, left))?;
        left = PART_CHANGED;
    }
    Ok(())
}
