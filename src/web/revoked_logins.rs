//! Logins that were ended before they expired: a copy of the cookie is then invalid.
//!
//! They are kept in the state directory until the login would have expired anyway, so that a restart does not
//! revalidate one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

use crate::durable;

/// The file's name in the state directory.
const FILE: &str = "ended-logins";

/// The most logins that are remembered: more than the logouts of a household's browsers within a month. A person who
/// logs in and out more often knows the secret, and needs no copy of a cookie. Beyond that the one that expires first
/// is forgotten.
const MOST: usize = 512;

/// The most bytes of the file: two numbers of at most 20 digits, a space and a line end for each login.
const MAX_BYTES: usize = MOST * 42;

/// Identifies a login: a random number from when it was made.
pub type Id = u64;

/// Ended logins, each with the time (Unix time in seconds) at which it would expire by itself.
#[derive(Debug)]
pub struct RevokedLogins {
    all: RwLock<BTreeMap<Id, u64>>,
    /// `None` if nothing outlives a restart. Locked while the file is written, which takes as long as the disk does.
    file: Mutex<Option<PathBuf>>,
}

impl RevokedLogins {
    /// Loads the ended logins kept in `state`.
    ///
    /// # Errors
    ///
    /// Why the file cannot be read: any login may be an ended one then.
    pub fn open(state: Option<&Path>) -> io::Result<Self> {
        let file = state.map(|directory| directory.join(FILE));
        let kept = match file.as_ref().map(|file| durable::read(file, MAX_BYTES)) {
            Some(Ok(content)) => read(&content).ok_or_else(|| io::Error::other("it is damaged"))?,
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Some(Err(_)) | None => BTreeMap::new(),
        };
        Ok(Self { all: RwLock::new(kept), file: Mutex::new(file) })
    }

    /// An empty list; the unreadable file is set aside.
    pub fn empty(state: Option<&Path>) -> Self {
        let file = state.map(|directory| directory.join(FILE));
        if let Some(Err(error)) = file.as_ref().map(|file| durable::set_aside(file)) {
            tracing::debug!(%error, "the unreadable list stays where it is");
        }
        Self { all: RwLock::default(), file: Mutex::new(file) }
    }

    /// Whether this login was ended.
    pub fn contains(&self, login: Id) -> bool {
        self.all.read().expect("lock is never poisoned: no panic while held").contains_key(&login)
    }

    /// Ends a login that would expire at `end`. Takes effect at once; then blocks until it is on the disk.
    pub fn revoke(&self, login: Id, end: u64, now: u64) {
        // Locked first, so that of two writers the later one writes what both have added.
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
            tracing::warn!(%error, %file, "a logout cannot be saved: copies of its cookie are valid after a restart");
        }
    }
}

/// `None` if any of it is damaged.
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
    fn a_revoked_login_stays_revoked_after_a_restart_until_it_expires() {
        let state = tempfile::tempdir().unwrap();
        let revoked = RevokedLogins::open(Some(state.path())).unwrap();
        revoked.revoke(1, 100, 50);
        revoked.revoke(2, 200, 50);
        let again = RevokedLogins::open(Some(state.path())).unwrap();
        assert!(again.contains(1) && again.contains(2) && !again.contains(3));
        again.revoke(3, 300, 100);
        let later = RevokedLogins::open(Some(state.path())).unwrap();
        assert!(!later.contains(1) && later.contains(2) && later.contains(3));
    }

    #[test]
    fn a_damaged_list_is_an_error() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join(FILE);
        for damage in [&b"\xff"[..], b"1", b"1 x", b"1 2\n\n", &[0; 40]] {
            fs::write(&file, damage).unwrap();
            RevokedLogins::open(Some(state.path())).unwrap_err();
        }
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        RevokedLogins::open(Some(state.path())).unwrap_err();
        RevokedLogins::empty(Some(state.path())).revoke(1, 100, 50);
        assert!(RevokedLogins::open(Some(state.path())).unwrap().contains(1));
        assert!(state.path().join("ended-logins.bad").exists());
    }

    #[test]
    fn a_flood_of_logouts_drops_the_first_to_expire_and_the_file_stays_readable() {
        let state = tempfile::tempdir().unwrap();
        let kept = RevokedLogins { file: Mutex::new(None), ..RevokedLogins::open(None).unwrap() };
        for number in 0..MOST as u64 + 9 {
            kept.revoke(u64::MAX - number, u64::MAX - 1000 + number, 0);
        }
        *kept.file.lock().unwrap() = Some(state.path().join(FILE));
        kept.revoke(7, u64::MAX, 0);
        let again = RevokedLogins::open(Some(state.path())).unwrap();
        assert_eq!(again.all.read().unwrap().len(), MOST);
        assert!(again.contains(7) && !again.contains(u64::MAX) && again.contains(u64::MAX - MOST as u64));
    }
}
