//! What a login gives: a time, a number and a code that only this board can make, as a cookie or as a token that the
//! page keeps.
//!
//! Nothing is kept for it on the board before it is ended, so it survives a restart; another secret ends all. The code
//! is keyed by the board's own random key, mixed with the secret: who has caught one cannot try secrets with it.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use ring::{digest, hmac};

use super::ended::{Ended, Id};
use super::key::BoardKey;
use crate::secret::Secret;

/// How long a login lasts that the browser keeps as a cookie, which scripts cannot read.
pub const COOKIE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long one lasts that the page keeps, which any script of the page could read and which proxies may write into
/// their logs: a dashboard on a wall asks for the secret once a week.
pub const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes and checks sessions.
#[derive(Debug)]
pub struct Sessions {
    key: hmac::Key,
    ended: Ended,
    /// Of this board: cookies know no ports and paths, and boards behind one name must not take each other's away.
    cookie: String,
}

/// What a session that somebody shows is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Made by us, and not over.
    Valid,
    /// Made by us, and over: its time has come, or somebody has logged out.
    Over,
    /// Not made by us, or for an earlier secret.
    Unknown,
}

/// Where a cookie is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To our own pages.
    Ours,
    /// In frames of other sites too, by https, and only below the site where the login was (CHIPS).
    Frames,
}

impl Reach {
    fn attributes(self) -> &'static str {
        match self {
            Self::Ours => "HttpOnly; SameSite=Strict; Path=/",
            Self::Frames => "HttpOnly; SameSite=None; Secure; Partitioned; Path=/",
        }
    }
}

impl Sessions {
    /// Sessions of this board for this secret, but for those that were ended.
    pub fn new(board: &BoardKey, secret: &Secret, ended: Ended) -> Self {
        let secret = digest::digest(&digest::SHA256, secret.reveal().as_bytes());
        let name = hmac::sign(&board.derive(b"name of the cookie"), b"");
        let cookie = format!("peercam-{}", hexadecimal(&name.as_ref()[..4]));
        Self { key: board.derive(&[b"session", secret.as_ref()].concat()), ended, cookie }
    }

    /// A session from `now` on.
    pub fn issue(&self, life: Duration, now: SystemTime) -> String {
        let (end, login) = (seconds(now) + life.as_secs(), rand::random());
        let code = hmac::sign(&self.key, message(end, login).as_bytes());
        format!("{end}.{login}.{}", hexadecimal(code.as_ref()))
    }

    /// The `Set-Cookie` value of a login at `now`.
    pub fn cookie(&self, reach: Reach, now: SystemTime) -> String {
        let session = self.issue(COOKIE_LIFE, now);
        format!("{}={session}; {}; Max-Age={}", self.cookie, reach.attributes(), COOKIE_LIFE.as_secs())
    }

    /// The `Set-Cookie` values that remove it, wherever it was for.
    pub fn removals(&self) -> [String; 2] {
        [Reach::Ours, Reach::Frames].map(|reach| format!("{}=; {}; Max-Age=0", self.cookie, reach.attributes()))
    }

    /// Judges what was [issued](Self::issue).
    pub fn judge(&self, session: &str, now: SystemTime) -> Worth {
        match self.made(session) {
            Some((end, login)) if end > seconds(now) && !self.ended.has(login) => Worth::Valid,
            Some(_) => Worth::Over,
            None => Worth::Unknown,
        }
    }

    /// Ends a session, so that copies of it are worth nothing. Blocks until the disk has it.
    pub fn end(&self, session: &str, now: SystemTime) {
        // Only what is still good, so that a flood of logouts writes nothing.
        if let Some((end, login)) = self.made(session).filter(|_| self.judge(session, now) == Worth::Valid) {
            self.ended.add(login, end, seconds(now));
        }
    }

    /// The end and the number of a session that this board has made.
    fn made(&self, session: &str) -> Option<(u64, Id)> {
        let (end, rest) = session.split_once('.')?;
        let (login, code) = rest.split_once('.')?;
        let (end, login, code) = (end.parse().ok()?, login.parse().ok()?, bytes(code)?);
        hmac::verify(&self.key, message(end, login).as_bytes(), &code).is_ok().then_some((end, login))
    }

    /// Judges the best of a request's cookies (RFC 6265, section 4.2.1); `None` where it has none of ours.
    pub fn judge_cookies(&self, headers: &HeaderMap, now: SystemTime) -> Option<Worth> {
        let worths = self.of_cookies(headers).into_iter().map(|session| self.judge(&session, now));
        // A login in a frame and one beside it are cookies of one name.
        worths.reduce(|best, worth| if worth == Worth::Valid { worth } else { best })
    }

    /// What a request's cookies of ours hold.
    pub fn of_cookies(&self, headers: &HeaderMap) -> Vec<String> {
        let ours = |pair: &str| pair.trim().strip_prefix(&self.cookie)?.strip_prefix('=').map(str::to_owned);
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(';')).filter_map(ours).collect()
    }
}

/// What is signed.
fn message(end: u64, login: Id) -> String {
    format!("peercam session {login} until {end}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
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

    fn sessions(board: &BoardKey, secret: &str) -> Sessions {
        Sessions::new(board, &secret.to_owned().into(), Ended::open(None).unwrap())
    }

    fn sent_back(set: &str) -> HeaderMap {
        let line = format!("theme=dark; {}", set.split(';').next().unwrap());
        HeaderMap::from_iter([(COOKIE, line.parse().unwrap())])
    }

    #[test]
    fn a_cookie_survives_a_restart_and_ends_with_its_time_or_another_secret_or_board() {
        let (board, now) = (BoardKey::random(), SystemTime::now());
        let sent = sent_back(&sessions(&board, "correct horse").cookie(Reach::Ours, now));
        let restarted = sessions(&board, "correct horse");
        assert_eq!(restarted.judge_cookies(&sent, now), Some(Worth::Valid));
        let end = now + COOKIE_LIFE;
        assert_eq!(restarted.judge_cookies(&sent, end - Duration::from_secs(1)), Some(Worth::Valid));
        assert_eq!(restarted.judge_cookies(&sent, end), Some(Worth::Over));
        assert_eq!(sessions(&board, "another horse").judge_cookies(&sent, now), Some(Worth::Unknown));
        assert_eq!(sessions(&BoardKey::random(), "correct horse").judge_cookies(&sent, now), None);
    }

    #[test]
    fn who_has_caught_a_session_cannot_try_secrets_with_it() {
        let now = SystemTime::now();
        let caught = sessions(&BoardKey::random(), "correct horse").issue(TOKEN_LIFE, now);
        let guess = sessions(&BoardKey::random(), "correct horse");
        assert_eq!(guess.judge(&caught, now), Worth::Unknown, "the right secret alone does not make the same code");
    }

    #[test]
    fn a_session_with_a_longer_life_than_signed_and_garbage_are_unknown() {
        let (now, ours) = (SystemTime::now(), sessions(&BoardKey::random(), "correct horse"));
        let session = ours.issue(TOKEN_LIFE, now);
        let (_, rest) = session.split_once('.').unwrap();
        for wrong in [format!("99999999999.{rest}"), format!("{session}0"), format!("1{session}")] {
            assert_eq!(ours.judge(&wrong, now), Worth::Unknown, "{wrong}");
        }
        for garbage in ["", "1.", "x.00", "..", "1.2.é", "1.2.", "correct horse"] {
            assert_eq!(ours.judge(garbage, now), Worth::Unknown, "{garbage}");
        }
    }

    #[test]
    fn a_session_that_is_ended_is_over_and_another_of_the_same_second_is_not() {
        let (now, ours) = (SystemTime::now(), sessions(&BoardKey::random(), "correct horse"));
        let (one, other) = (ours.issue(COOKIE_LIFE, now), ours.issue(COOKIE_LIFE, now));
        ours.end(&one, now);
        assert_eq!((ours.judge(&one, now), ours.judge(&other, now)), (Worth::Over, Worth::Valid));
        ours.end("1.2.3", now);
    }

    #[test]
    fn of_several_cookies_a_valid_one_is_enough() {
        let (now, ours) = (SystemTime::now(), sessions(&BoardKey::random(), "correct horse"));
        let valid = ours.issue(COOKIE_LIFE, now);
        for line in [format!("{0}=1.2.3; {0}={valid}", ours.cookie), format!("{0}={valid}; {0}=", ours.cookie)] {
            let headers = HeaderMap::from_iter([(COOKIE, line.parse().unwrap())]);
            assert_eq!(ours.judge_cookies(&headers, now), Some(Worth::Valid), "{line}");
        }
    }
}
