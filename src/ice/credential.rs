//! User names and passwords for TURN, given or made.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// TURN's password as a viewer gets it. Its `Debug` is `***`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credential(String);

impl Credential {
    /// The text itself, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How one logs in to a server.
#[derive(Debug)]
pub enum Login {
    /// Not at all: STUN.
    Open,
    /// As configured, always the same.
    Fixed {
        /// TURN's user name.
        username: String,
        /// TURN's password.
        credential: Secret,
    },
    /// With credentials made from a secret that the relay has too.
    Made(Secret),
}

impl Login {
    /// User name and password for somebody who asks at `now`.
    pub fn at(&self, now: SystemTime, lifetime: Duration, device: &str) -> Option<(String, Credential)> {
        match self {
            Self::Open => None,
            Self::Fixed { username, credential } => {
                Some((username.clone(), Credential(credential.reveal().to_owned())))
            }
            Self::Made(secret) => Some(made(secret, now + lifetime, device)),
        }
    }
}

/// Credentials that end at `expiry` (draft-uberti-behave-turn-rest-00, section 2.2): the user name says until when, and
/// the password is the relay's proof that a holder of the secret said so.
fn made(secret: &Secret, expiry: SystemTime, device: &str) -> (String, Credential) {
    // A clock before 1970 is no clock: the relay refuses either way.
    let seconds = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let username = format!("{seconds}:{device}");
    // The draft and all relays have SHA-1 here; nobody can use its collisions without the key (RFC 6151 on HMAC).
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.reveal().as_bytes());
    let credential = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    (username, Credential(credential))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_what_the_relay_computes() {
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (username, credential) = made(&Secret::from("north".to_owned()), expiry, "front-door");
        assert_eq!(username, "1800000000:front-door");
        // printf 1800000000:front-door | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(credential.reveal(), "GjpXiRff9fxUJLffqZBDj2dJbb0=");
    }
}
