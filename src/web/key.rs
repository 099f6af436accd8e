//! The board's own key: 32 random bytes in the state directory, made at the first start that needs them.
//!
//! Sessions are signed with it, so that what a browser sends reveals nothing about the secret (see [`super::session`]).
//! A key that cannot be read is replaced, and one that cannot be saved lasts until the restart: people have to log in
//! again then, but the service starts, and nothing is ever signed with a predictable key.

use std::fmt;
use std::io;
use std::path::Path;

use ring::hmac;

use crate::durable;

/// The file's name in the state directory.
const FILE: &str = "session-key";
/// As many as HMAC-SHA256 uses at full strength (RFC 2104, section 3).
const BYTES: usize = 32;

/// A key that only this board knows.
pub struct BoardKey([u8; BYTES]);

impl fmt::Debug for BoardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl BoardKey {
    /// Loads the key from `state`, or makes a new one, which is saved there if that is possible.
    pub fn open(state: Option<&Path>) -> Self {
        let Some(file) = state.map(|directory| directory.join(FILE)) else {
            tracing::warn!("there is no state directory: logins end with the next restart");
            return Self::random();
        };
        match durable::read(&file, BYTES).and_then(whole) {
            Ok(key) => return Self(key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "the key cannot be read; a new one ends all logins");
                // It may be a directory, which no file can replace.
                if let Err(error) = durable::set_aside(&file) {
                    tracing::debug!(%error, "the unreadable key stays where it is");
                }
            }
        }
        Self::renew(state)
    }

    /// Makes a new key, which is saved in `state` if that is possible.
    pub fn renew(state: Option<&Path>) -> Self {
        let key = Self::random();
        let Some(file) = state.map(|directory| directory.join(FILE)) else { return key };
        if let Err(error) = durable::write(&file, &key.0) {
            tracing::warn!(%error, file = %file.display(), "the key cannot be saved: logins end with the next restart");
        }
        key
    }

    /// Makes a new random key.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The key for one purpose. It does not reveal the keys for others.
    pub fn derive(&self, purpose: &[u8]) -> hmac::Key {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, purpose).as_ref())
    }
}

fn whole(bytes: Vec<u8>) -> io::Result<[u8; BYTES]> {
    bytes.try_into().map_err(|_| io::Error::other(format!("it does not have {BYTES} bytes")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample(key: &BoardKey) -> Vec<u8> {
        hmac::sign(&key.derive(b"test"), b"text").as_ref().to_vec()
    }

    #[test]
    fn the_key_is_created_once_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let first = sample(&BoardKey::open(Some(&state)));
        assert_eq!(sample(&BoardKey::open(Some(&state))), first);
        assert_ne!(sample(&BoardKey::open(Some(&root.path().join("other")))), first);
        assert_eq!(fs::metadata(state.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_unreadable_key_is_replaced_and_never_prevents_a_start() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(FILE);
        for content in ["", "short", "longer than thirty-two bytes, by far"] {
            fs::write(&file, content).unwrap();
            let made = sample(&BoardKey::open(Some(root.path())));
            assert_eq!(sample(&BoardKey::open(Some(root.path()))), made, "{content:?}");
            assert_eq!(fs::read_to_string(root.path().join("session-key.bad")).unwrap(), content);
        }
        let odd = tempfile::tempdir().unwrap();
        fs::create_dir_all(odd.path().join(FILE).join("within")).unwrap();
        let made = sample(&BoardKey::open(Some(odd.path())));
        assert_eq!(sample(&BoardKey::open(Some(odd.path()))), made);
    }

    #[test]
    fn a_key_that_cannot_be_saved_differs_at_each_start() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("state"), "a file where the directory should be").unwrap();
        let state = root.path().join("state");
        assert_ne!(sample(&BoardKey::open(Some(&state))), sample(&BoardKey::open(Some(&state))));
        assert_ne!(sample(&BoardKey::open(None)), sample(&BoardKey::open(None)));
    }
}
