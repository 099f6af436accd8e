//! What an operator should know and cannot see in the picture: a mistake in the provisioning file, a data partition that
//! is full, a name that another device has.
//!
//! Other processes leave their notices as files, `/run/peercam-notices/<about>`, which hold a few sentences; the
//! service's own rooms tell theirs. All are shown in the status, on the page and by `peercam doctor`, and each change is
//! logged once.

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

/// Where the files are.
const DIRECTORY: &str = "run/peercam-notices";

/// How often they are looked for. Who writes one does so at the board's start, or when a disk fills up: nothing that
/// somebody waits for in front of the page. To list a directory in memory takes 20 µs.
const LOOK: Duration = Duration::from_secs(5);

/// Bytes of a notice that are shown: a screenful. More is no notice.
const MOST_TEXT: usize = 4096;
/// Files that are shown. The directory is written by services of the system, of which a handful have something to say.
const MOST_FILES: usize = 16;
/// Characters of a file's name that are shown.
const MOST_ABOUT: usize = 64;

/// One thing that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// A word for what it is about, such as `provisioning`.
    pub about: String,
    /// A sentence or a few.
    pub text: String,
}

/// All notices. A clone is the same.
#[derive(Clone, Debug)]
pub struct Notices {
    all: Arc<watch::Sender<All>>,
}

#[derive(Debug, Default, PartialEq)]
struct All {
    left: Vec<Notice>,
    told: BTreeMap<&'static str, String>,
}

impl Notices {
    /// Those left below `root`, which is `/` but for tests, looked at again and again until `group` stops.
    pub fn open(root: &Path, group: &Group) -> Self {
        let notices = Self { all: Arc::new(watch::Sender::new(All::default())) };
        let (following, root, stop) = (notices.clone(), root.to_owned(), group.clone());
        // The first look at once, so that what was wrong before the start is in the log of the start.
        following.take(left(&root));
        group.keep("notices", following, move |following| {
            let (stop, root) = (stop.clone(), root.clone());
            Box::pin(async move {
                let mut looks = tokio::time::interval(LOOK);
                loop {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => break,
                        _ = looks.tick() => following.take(left(&root)),
                    }
                }
            })
        });
        notices
    }

    /// Says something that holds until it is [withdrawn](Self::withdraw) or said anew.
    pub fn tell(&self, about: &'static str, text: String) {
        self.all.send_if_modified(|all| {
            let is_news = all.told.get(about) != Some(&text);
            if is_news {
                tracing::warn!(about, text, "notice");
                all.told.insert(about, text);
            }
            is_news
        });
    }

    /// It does not hold any more.
    pub fn withdraw(&self, about: &'static str) {
        self.all.send_if_modified(|all| all.told.remove(about).inspect(|_| log_end(about)).is_some());
    }

    /// What there is to know now.
    pub fn list(&self) -> Vec<Notice> {
        let all = self.all.borrow();
        let told = all.told.iter().map(|(about, text)| Notice { about: (*about).to_owned(), text: text.clone() });
        all.left.iter().cloned().chain(told).collect()
    }

    /// Changes with each change of them from now on; what there is already is for [`list`](Self::list) to say.
    pub fn changes(&self) -> watch::Receiver<impl Send + Sync + use<>> {
        self.all.subscribe()
    }

    fn take(&self, left: Vec<Notice>) {
        self.all.send_if_modified(|all| {
            if all.left == left {
                return false;
            }
            for notice in left.iter().filter(|notice| !all.left.contains(notice)) {
                tracing::warn!(about = notice.about, text = notice.text, "notice");
            }
            let is_gone = |before: &&Notice| !left.iter().any(|now| now.about == before.about);
            all.left.iter().filter(is_gone).for_each(|notice| log_end(&notice.about));
            all.left = left;
            true
        });
    }
}

fn log_end(about: &str) {
    tracing::info!(about, "the notice does not hold any more");
}

/// The notices that other programs have left below `root`.
pub fn left(root: &Path) -> Vec<Notice> {
    let directory = root.join(DIRECTORY);
    // It is not there before somebody has something to say.
    let Ok(entries) = fs::read_dir(&directory) else { return Vec::new() };
    // A name with a dot is one that is still being written.
    let is_shown = |file: &PathBuf| file.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_shown).collect();
    files.sort();
    files.iter().take(MOST_FILES).filter_map(|file| read(file)).collect()
}

/// Leaves a notice below `root`, for the service that runs or will: of the text as much as is shown.
///
/// # Errors
///
/// What the file system says. An earlier notice about the same stays then.
pub fn leave(root: &Path, about: &str, text: &str) -> io::Result<()> {
    let directory = root.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    // Whatever the umask says: the service is somebody else.
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    let text = &text[..text.floor_char_boundary(MOST_TEXT)];
    let draft = directory.join(format!(".{about}"));
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o644))?;
    fs::rename(draft, directory.join(about))
}

/// Takes back what was left about this below `root`, if anything was.
pub fn take_back(root: &Path, about: &str) {
    // Most often there is nothing.
    fs::remove_file(root.join(DIRECTORY).join(about)).ok();
}

/// `None` for an empty file: its notice was taken back.
fn read(file: &Path) -> Option<Notice> {
    let about: String = file.file_name()?.to_string_lossy().chars().take(MOST_ABOUT).collect();
    let text = match content(file) {
        Ok(content) => plain(&content),
        Err(error) => format!("{} cannot be read: {error}", file.display()),
    };
    (!text.is_empty()).then(|| Notice { about: plain(&about), text })
}

fn content(file: &Path) -> io::Result<String> {
    // Not what a link leads to, and nothing that would make the reader wait.
    if !fs::symlink_metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(MOST_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    let is_cut = bytes.len() > MOST_TEXT;
    bytes.truncate(MOST_TEXT);
    let text = String::from_utf8_lossy(&bytes);
    Ok(if is_cut { format!("{}…", text.trim_end_matches('\u{fffd}')) } else { text.into_owned() })
}

/// Without what would move a terminal's cursor.
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
    fn notices_are_read_as_they_were_left() {
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
        assert_eq!(left(root.path()), expected);
        assert_eq!(left(Path::new("/nowhere")), []);
    }

    #[test]
    fn what_is_left_by_us_is_whole_for_everybody_and_gone_when_it_is_taken_back() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "wifi", "no").unwrap();
        leave(root.path(), "wifi", "not joined").unwrap();
        leave(root.path(), "provisioning", &"ü".repeat(3000)).unwrap();
        let shown = [notice("provisioning", &"ü".repeat(MOST_TEXT / 2)), notice("wifi", "not joined")];
        assert_eq!(left(root.path()), shown);
        let directory = root.path().join(DIRECTORY);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "a draft is left");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join("wifi"))), (0o755, 0o644));
        take_back(root.path(), "wifi");
        take_back(root.path(), "wifi");
        assert_eq!(left(root.path()), shown[..1]);
    }

    #[test]
    fn whatever_is_left_is_shown_harmlessly() {
        let long = "ü".repeat(3000);
        let root = root(&[("binary", b"a\xffb\x1b[2Jc\0"), ("long", long.as_bytes())]);
        let directory = root.path().join(DIRECTORY);
        symlink("/etc/passwd", directory.join("link")).unwrap();
        fs::create_dir(directory.join("folder")).unwrap();
        let left = left(root.path());
        let [binary, folder, link, long] = &left[..] else { panic!("{left:?}") };
        assert_eq!(binary.text, "a\u{fffd}b[2Jc");
        assert!(folder.text.ends_with("folder cannot be read: it is not a file"), "{folder:?}");
        assert!(link.text.ends_with("link cannot be read: it is not a file"), "{link:?}");
        assert_eq!(long.text, format!("{}…", "ü".repeat(2048)));
    }

    #[test]
    fn a_directory_full_of_files_does_not_fill_the_page() {
        let names: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
        assert_eq!(left(root(&files).path()).len(), MOST_FILES);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_noticed_and_what_was_told_stands_beside_what_was_left() {
        let (root, group) = (root(&[("provisioning", b"wrong")]), Group::new());
        let notices = Notices::open(root.path(), &group);
        notices.tell("name", "taken".into());
        assert_eq!(notices.list(), [notice("provisioning", "wrong"), notice("name", "taken")]);

        let mut changes = notices.changes();
        notices.tell("name", "taken".into());
        assert!(!changes.has_changed().unwrap(), "nothing new was told");
        fs::remove_file(root.path().join(DIRECTORY).join("provisioning")).unwrap();
        changes.changed().await.unwrap();
        assert_eq!(notices.list(), [notice("name", "taken")]);
        notices.withdraw("name");
        assert_eq!(notices.list(), []);
        assert!(group.close(Duration::from_secs(1)).await);
    }
}
