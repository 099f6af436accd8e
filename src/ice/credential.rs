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
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to log in to a server.
#[derive(Debug)]
pub enum Login {
    /// No login: STUN.
    Open,
    /// As configured, always the same.
    Fixed {
        /// TURN's user name.
        username: String,
        /// TURN's password.
        credential: Secret,
    },
    /// With credentials made from a secret that is shared with the relay.
    Generated(Secret),
}

impl Login {
    /// User name and password for a client that asks at `now`.
    pub fn at(&self, now: SystemTime, lifetime: Duration, device: &str) -> Option<(String, Credential)> {
        match self {
            Self::Open => None,
            Self::Fixed { username, credential } => {
                Some((username.clone(), Credential(credential.reveal().to_owned())))
            }
            Self::Generated(secret) => Some(generate(secret, now + lifetime, device)),
        }
    }
}

/// Credentials that expire at `expiry` (draft-uberti-behave-turn-rest-00, section 2.2): the user name has the time, and
/// the password proves to the relay that a holder of the secret has made it.
fn generate(secret: &Secret, expiry: SystemTime, device: &str) -> (String, Credential) {
    // A clock before 1970 is wrong: the relay refuses either way.
    let seconds = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let username = format!("{seconds}:{device}");
    // The draft and all relays use SHA-1 here; collisions are of no use without the key (RFC 6151 on HMAC).
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.reveal().as_bytes());
    let credential = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    (username, Credential(credential))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_equals_the_one_that_the_relay_computes() {
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (username, credential) = generate(&Secret::from("north".to_owned()), expiry, "front-door");
        assert_eq!(username, "1800000000:front-door");
        // printf 1800000000:front-door | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(credential.reveal(), "GjpXiRff9fxUJLffqZBDj2dJbb0=");
    }
}
