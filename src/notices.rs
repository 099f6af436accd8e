//! Notices: what an operator should know and cannot see in the picture, such as a mistake in the provisioning file,
//! a full data partition, or a name that another device has.
//!
//! Other processes leave their notices as files, `/run/peercam-notices/<about>`, which hold a few sentences;
//! modules of the service call [`Notices::set`]. All are shown in the status, on the page and by `peercam doctor`,
//! and each change is logged once.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::tasks::Group;

/// Directory of the notice files, relative to the root.
const DIRECTORY: &str = "run/peercam-notices";

/// How often the directory is read. Notices are written when the board starts or when a disk fills up, so nobody
/// waits at the page for one. Listing a directory in memory takes 20 µs.
const INTERVAL: Duration = Duration::from_secs(5);

/// Most bytes of a notice that are shown: a screenful.
const MAX_TEXT: usize = 4096;
/// Most files that are shown. The directory is written by services of the system, of which only a few leave notices.
const MAX_FILES: usize = 16;
/// Most characters of a file's name that are shown.
const MAX_ABOUT: usize = 64;

/// One thing that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// One word for the subject, such as `provisioning`.
    pub about: String,
    /// One or a few sentences.
    pub text: String,
}

/// All notices. Clones share them.
#[derive(Clone, Debug)]
pub struct Notices {
    all: Arc<watch::Sender<All>>,
}

#[derive(Debug, Default, PartialEq)]
struct All {
    from_files: Vec<Notice>,
    own: BTreeMap<&'static str, String>,
}

impl Notices {
    /// Reads the notices below `root`, which is `/` except in tests, periodically until `group` stops.
    pub fn open(root: &Path, group: &Group) -> Self {
        let notices = Self { all: Arc::new(watch::Sender::new(All::default())) };
        let (following, root, stop) = (notices.clone(), root.to_owned(), group.clone());
        // The first look is immediate, so that what was wrong before the start is in the log of the start.
        following.update(from_files(&root));
        group.keep("notices", following, move |following| {
            let (stop, root) = (stop.clone(), root.clone());
            Box::pin(async move {
                let mut ticks = tokio::time::interval(INTERVAL);
                loop {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => break,
                        _ = ticks.tick() => following.update(from_files(&root)),
                    }
                }
            })
        });
        notices
    }

    /// Sets the notice about `about`; it stays until it is [withdrawn](Self::clear) or replaced.
    pub fn set(&self, about: &'static str, text: String) {
        self.all.send_if_modified(|all| {
            let is_news = all.own.get(about) != Some(&text);
            if is_news {
                tracing::warn!(about, text, "notice");
                all.own.insert(about, text);
            }
            is_news
        });
    }

    /// Removes the notice about `about`.
    pub fn clear(&self, about: &'static str) {
        self.all.send_if_modified(|all| all.own.remove(about).inspect(|_| log_end(about)).is_some());
    }

    /// The present notices.
    pub fn list(&self) -> Vec<Notice> {
        let all = self.all.borrow();
        let own = all.own.iter().map(|(about, text)| Notice { about: (*about).to_owned(), text: text.clone() });
        all.from_files.iter().cloned().chain(own).collect()
    }

    /// Changes whenever the notices do, from now on; call [`list`](Self::list) for those that exist already.
    pub fn changes(&self) -> watch::Receiver<impl Send + Sync + use<>> {
        self.all.subscribe()
    }

    fn update(&self, from_files: Vec<Notice>) {
        self.all.send_if_modified(|all| {
            if all.from_files == from_files {
                return false;
            }
            for notice in from_files.iter().filter(|notice| !all.from_files.contains(notice)) {
                tracing::warn!(about = notice.about, text = notice.text, "notice");
            }
            let is_gone = |before: &&Notice| !from_files.iter().any(|now| now.about == before.about);
            all.from_files.iter().filter(is_gone).for_each(|notice| log_end(&notice.about));
            all.from_files = from_files;
            true
        });
    }
}

fn log_end(about: &str) {
    tracing::info!(about, "the notice no longer applies");
}

/// The notices that other processes have left below `root`.
pub fn from_files(root: &Path) -> Vec<Notice> {
    let directory = root.join(DIRECTORY);
    // The directory does not exist before the first notice.
    let Ok(entries) = fs::read_dir(&directory) else { return Vec::new() };
    // A name that begins with a dot is a file that is still being written.
    let is_shown = |file: &PathBuf| file.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_shown).collect();
    files.sort();
    files.iter().take(MAX_FILES).filter_map(|file| read(file)).collect()
}

/// Leaves a notice below `root`, for the service to read now or when it starts. Text beyond what is shown is cut off.
///
/// # Errors
///
/// Errors of the file system. An earlier notice with the same `about` then remains.
pub fn write(root: &Path, about: &str, text: &str) -> io::Result<()> {
    let directory = root.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    // Whatever the umask is: the service runs as another user.
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    let draft = directory.join(format!(".{about}"));
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o644))?;
    fs::rename(draft, directory.join(about))
}

/// Removes the notice with this `about` below `root`, if there is one.
pub fn remove(root: &Path, about: &str) {
    // Usually there is none.
    fs::remove_file(root.join(DIRECTORY).join(about)).ok();
}

/// `None` for an empty file: its notice was withdrawn.
fn read(file: &Path) -> Option<Notice> {
    let about: String = file.file_name()?.to_string_lossy().chars().take(MAX_ABOUT).collect();
    let text = match content(file) {
        Ok(content) => plain(&content),
        Err(error) => format!("{} cannot be read: {error}", file.display()),
    };
    (!text.is_empty()).then(|| Notice { about: plain(&about), text })
}

fn content(file: &Path) -> io::Result<String> {
    // Symbolic links are not followed, and nothing is opened that could block the reader.
    if !fs::symlink_metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    let is_cut = bytes.len() > MAX_TEXT;
    bytes.truncate(MAX_TEXT);
    let text = String::from_utf8_lossy(&bytes);
    Ok(if is_cut { format!("{}…", text.trim_end_matches('\u{fffd}')) } else { text.into_owned() })
}

/// Removes characters that would move a terminal's cursor.
fn plain(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    kept.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(DIRECTORY)).unwrap();
        for (name, content) in files {
            fs::write(root.path().join(DIRECTORY).join(name), content).unwrap();
        }
        root
    }

    fn notice(about: &str, text: &str) -> Notice {
        Notice { about: about.into(), text: text.into() }
    }

    #[test]
    fn notices_are_read_from_their_files() {
        let root = root(&[
            ("provisioning", "peercam.toml, line 3: no.\nNothing was changed.\n".as_bytes()),
            ("data-partition", b"It is full.\n"),
            (".data-partition.tmp", b"half"),
            ("taken-back", b"\n"),
        ]);
        let expected = [
            notice("data-partition", "It is full."),
            notice("provisioning", "peercam.toml, line 3: no.\nNothing was changed."),
        ];
        assert_eq!(from_files(root.path()), expected);
        assert_eq!(from_files(Path::new("/nowhere")), []);
    }

    #[test]
    fn a_written_notice_is_complete_and_readable_for_all_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "wifi", "no").unwrap();
        write(root.path(), "wifi", "not joined").unwrap();
        write(root.path(), "provisioning", &"ü".repeat(3000)).unwrap();
        let shown = [notice("provisioning", &"ü".repeat(MAX_TEXT / 2)), notice("wifi", "not joined")];
        assert_eq!(from_files(root.path()), shown);
        let directory = root.path().join(DIRECTORY);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "a draft is left");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join("wifi"))), (0o755, 0o644));
        remove(root.path(), "wifi");
        remove(root.path(), "wifi");
        assert_eq!(from_files(root.path()), shown[..1]);
    }

    #[test]
    fn any_notice_file_is_shown_harmlessly() {
        let long = "ü".repeat(3000);
        let root = root(&[("binary", b"a\xffb\x1b[2Jc\0"), ("long", long.as_bytes())]);
        let directory = root.path().join(DIRECTORY);
        symlink("/etc/passwd", directory.join("link")).unwrap();
        fs::create_dir(directory.join("folder")).unwrap();
        let from_files = from_files(root.path());
        let [binary, folder, link, long] = &from_files[..] else { panic!("{from_files:?}") };
        assert_eq!(binary.text, "a\u{fffd}b[2Jc");
        assert!(folder.text.ends_with("folder cannot be read: it is not a file"), "{folder:?}");
        assert!(link.text.ends_with("link cannot be read: it is not a file"), "{link:?}");
        assert_eq!(long.text, format!("{}…", "ü".repeat(2048)));
    }

    #[test]
    fn a_directory_full_of_files_does_not_fill_the_page() {
        let names: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
        assert_eq!(from_files(root(&files).path()).len(), MAX_FILES);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_noticed_and_own_notices_are_listed_after_those_from_files() {
        let (root, group) = (root(&[("provisioning", b"wrong")]), Group::new());
        let notices = Notices::open(root.path(), &group);
        notices.set("name", "taken".into());
        assert_eq!(notices.list(), [notice("provisioning", "wrong"), notice("name", "taken")]);

        let mut changes = notices.changes();
        notices.set("name", "taken".into());
        assert!(!changes.has_changed().unwrap(), "nothing new was set");
        fs::remove_file(root.path().join(DIRECTORY).join("provisioning")).unwrap();
        changes.changed().await.unwrap();
        assert_eq!(notices.list(), [notice("name", "taken")]);
        notices.clear("name");
        assert_eq!(notices.list(), []);
        assert!(group.close(Duration::from_secs(1)).await);
    }
}
