//! The cookie that stands for the secret: a time and a code that only who knows the secret can make.
//!
//! Nothing is kept for it on the board, so it survives a restart; another secret ends it.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;

use crate::secret::Secret;

/// How long a login lasts.
pub const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

const NAME: &str = "peercam";

/// Makes and checks cookies.
#[derive(Debug)]
pub struct Cookies {
    key: hmac::Key,
}

/// What a request's cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// There is none, or not one that could ever have been ours.
    Absent,
    /// Made by us, and not over.
    Valid,
    /// Made by us, and over.
    Over,
    /// Not made with this secret: an earlier secret's, or a guess.
    Foreign,
}

impl Cookies {
    /// Cookies for this secret.
    pub fn new(secret: &Secret) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()) }
    }

    /// The `Set-Cookie` value of a login at `now`.
    pub fn issue(&self, now: SystemTime) -> String {
        let end = seconds(now) + LIFE.as_secs();
        let code = hmac::sign(&self.key, message(end).as_bytes());
        let mut hexadecimal = String::new();
        for byte in code.as_ref() {
            write!(hexadecimal, "{byte:02x}").expect("a string takes any text");
        }
        format!("{NAME}={end}.{hexadecimal}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}", LIFE.as_secs())
    }

    /// The `Set-Cookie` value that removes it.
    pub fn remove() -> String {
        format!("{NAME}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0")
    }

    /// Judges a `Cookie` header (RFC 6265, section 4.2.1).
    pub fn judge(&self, header: &str, now: SystemTime) -> Worth {
        let ours = |pair: &str| pair.trim().strip_prefix(NAME)?.strip_prefix('=').map(str::to_owned);
        let Some(value) = header.split(';').find_map(ours) else { return Worth::Absent };
        let parts = value.split_once('.').and_then(|(end, code)| Some((end.parse::<u64>().ok()?, bytes(code)?)));
        let Some((end, code)) = parts else { return Worth::Absent };
        if hmac::verify(&self.key, message(end).as_bytes(), &code).is_err() {
            Worth::Foreign
        } else if end <= seconds(now) {
            Worth::Over
        } else {
            Worth::Valid
        }
    }
}

/// What is signed. It says what for, so that no other use of the secret makes a cookie by chance.
fn message(end: u64) -> String {
    format!("peercam cookie until {end}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    // An HMAC-SHA256 has 32 bytes.
    if hexadecimal.len() != 64 || !hexadecimal.is_ascii() {
        return None;
    }
    (0..hexadecimal.len()).step_by(2).map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(secret: &str) -> Cookies {
        Cookies::new(&secret.to_owned().into())
    }

    fn sent_back(set: &str) -> String {
        format!("theme=dark; {}", set.split(';').next().unwrap())
    }

    #[test]
    fn a_cookie_survives_a_restart_and_ends_with_its_time_or_another_secret() {
        let now = SystemTime::now();
        let sent = sent_back(&cookies("correct horse").issue(now));
        let restarted = cookies("correct horse");
        assert_eq!(restarted.judge(&sent, now), Worth::Valid);
        assert_eq!(restarted.judge(&sent, now + LIFE - Duration::from_secs(1)), Worth::Valid);
        assert_eq!(restarted.judge(&sent, now + LIFE), Worth::Over);
        assert_eq!(cookies("another horse").judge(&sent, now), Worth::Foreign);
    }

    #[test]
    fn a_cookie_with_a_longer_life_than_signed_is_foreign_and_garbage_is_none() {
        let (now, ours) = (SystemTime::now(), cookies("correct horse"));
        let sent = sent_back(&ours.issue(now));
        let (_, code) = sent.split_once('.').unwrap();
        assert_eq!(ours.judge(&format!("peercam=99999999999.{code}"), now), Worth::Foreign);
        for garbage in ["", "peercam=", "peercam=1.", "peercam=x.00", "peercamera=1.2", "peercam=1.é", ";;;="] {
            assert_eq!(ours.judge(garbage, now), Worth::Absent, "{garbage}");
        }
    }
}
