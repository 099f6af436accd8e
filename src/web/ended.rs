//! Logins that somebody has ended before their time: a copy of the cookie is worth nothing then.
//!
//! They are kept in the state directory until the login would have ended anyway, so that a restart does not bring one
//! back.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

use crate::durable;

/// The file's name in the state directory.
const FILE: &str = "ended-logins";

/// Logins that are remembered: of a household's browsers, more than log out within a month. Who logs in and out more
/// often knows the secret, and needs no copy of a cookie. Beyond, the one that ends first is forgotten.
const MOST: usize = 512;

/// Bytes of the file: two numbers of at most 20 digits, a space and a line's end for each.
const MOST_BYTES: usize = MOST * 42;

/// Which login: chosen by chance when it was made.
pub type Id = u64;

/// Ended logins, each with the second (Unix time) in which it would end by itself.
#[derive(Debug)]
pub struct Ended {
    all: RwLock<BTreeMap<Id, u64>>,
    /// `None` where nothing outlives a restart. Locked while it is written, which takes as long as the disk does.
    file: Mutex<Option<PathBuf>>,
}

impl Ended {
    /// Those kept in `state`.
    ///
    /// # Errors
    ///
    /// Why what is kept cannot be read: any login may be an ended one then.
    pub fn open(state: Option<&Path>) -> io::Result<Self> {
        let file = state.map(|directory| directory.join(FILE));
        let kept = match file.as_ref().map(|file| durable::read(file, MOST_BYTES)) {
            Some(Ok(content)) => read(&content).ok_or_else(|| io::Error::other("it is damaged"))?,
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Some(Err(_)) | None => BTreeMap::new(),
        };
        Ok(Self { all: RwLock::new(kept), file: Mutex::new(file) })
    }

    /// None, in the place of what cannot be read, which is set aside.
    pub fn start_over(state: Option<&Path>) -> Self {
        let file = state.map(|directory| directory.join(FILE));
        if let Some(Err(error)) = file.as_ref().map(|file| durable::set_aside(file)) {
            tracing::debug!(%error, "the unreadable list stays where it is");
        }
        Self { all: RwLock::default(), file: Mutex::new(file) }
    }

    /// Whether somebody has ended this login.
    pub fn has(&self, login: Id) -> bool {
        self.all.read().expect("lock is never poisoned: no panic while held").contains_key(&login)
    }

    /// Ends a login that would go on until `end`. In effect at once; then blocks until the disk has it.
    pub fn add(&self, login: Id, end: u64, now: u64) {
        // First, so that of two writers the later one writes what both have added.
        let file = self.file.lock().expect("lock is never poisoned: no panic while held");
        let text = {
            let mut all = self.all.write().expect("lock is never poisoned: no panic while held");
            all.retain(|_, end| *end > now);
            all.insert(login, end);
            while all.len() > MOST {
                let first = all.iter().min_by_key(|(_, end)| **end).map(|(login, _)| *login);
                first.map(|login| all.remove(&login));
            }
            all.iter().fold(String::new(), |mut text, (login, end)| {
                writeln!(text, "{login} {end}").expect("a string takes any text");
                text
            })
        };
        if let Some(file) = file.as_deref()
            && let Err(error) = durable::write(file, text.as_bytes())
        {
            let file = file.display();
            tracing::warn!(%error, %file, "a logout cannot be kept: copies of its cookie are good after a restart");
        }
    }
}

/// `None` where any of it is damaged.
fn read(content: &[u8]) -> Option<BTreeMap<Id, u64>> {
    let lines = std::str::from_utf8(content).ok()?.lines();
    let read = lines.map(|line| {
        let (login, end) = line.split_once(' ')?;
        Some((login.parse().ok()?, end.parse().ok()?))
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_ended_stays_so_after_a_restart_until_it_would_have_ended_by_itself() {
        let state = tempfile::tempdir().unwrap();
        let ended = Ended::open(Some(state.path())).unwrap();
        ended.add(1, 100, 50);
        ended.add(2, 200, 50);
        let again = Ended::open(Some(state.path())).unwrap();
        assert!(again.has(1) && again.has(2) && !again.has(3));
        again.add(3, 300, 100);
        let later = Ended::open(Some(state.path())).unwrap();
        assert!(!later.has(1) && later.has(2) && later.has(3));
    }

    #[test]
    fn a_damaged_list_is_told_and_its_end_is_not_open() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join(FILE);
        for damage in [&b"\xff"[..], b"1", b"1 x", b"1 2\n\n", &[0; 40]] {
            fs::write(&file, damage).unwrap();
            Ended::open(Some(state.path())).unwrap_err();
        }
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        Ended::open(Some(state.path())).unwrap_err();
        Ended::start_over(Some(state.path())).add(1, 100, 50);
        assert!(Ended::open(Some(state.path())).unwrap().has(1));
        assert!(state.path().join("ended-logins.bad").exists());
    }

    #[test]
    fn a_flood_of_logouts_forgets_those_that_end_first_and_the_file_can_still_be_read() {
        let state = tempfile::tempdir().unwrap();
        let kept = Ended { file: Mutex::new(None), ..Ended::open(None).unwrap() };
        for number in 0..MOST as u64 + 9 {
            kept.add(u64::MAX - number, u64::MAX - 1000 + number, 0);
        }
        *kept.file.lock().unwrap() = Some(state.path().join(FILE));
        kept.add(7, u64::MAX, 0);
        let again = Ended::open(Some(state.path())).unwrap();
        assert_eq!(again.all.read().unwrap().len(), MOST);
        assert!(again.has(7) && !again.has(u64::MAX) && again.has(u64::MAX - MOST as u64));
    }
}
