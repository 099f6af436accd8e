//! Sessions, which a login creates: an end time, a number and a message authentication code, as a cookie or as a token
//! that the page keeps.
//!
//! The board stores nothing about a session before it is ended, so it survives a restart; another secret ends all. The
//! code is keyed by the board's own random key, mixed with the secret: a captured session is of no use for guessing the
//! secret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use ring::{digest, hmac};

use super::key::BoardKey;
use super::revoked_logins::{Id, RevokedLogins};
use crate::secret::Secret;

/// How long a login lasts that the browser keeps as a cookie, which scripts cannot read.
pub const COOKIE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a login lasts that the page keeps, which any script of the page could read and which proxies may write into
/// their logs: a dashboard on a wall asks for the secret once a week.
pub const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes and checks sessions.
#[derive(Debug)]
pub struct Sessions {
    key: hmac::Key,
    revoked: RevokedLogins,
    /// The name of this board's cookie: cookies ignore ports and paths, and boards behind one name must not replace
    /// each other's.
    cookie: String,
}

/// The status of a session that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStatus {
    /// Issued by this board, and still valid.
    Valid,
    /// Issued by this board, and ended: it has expired, or the user has logged out.
    Ended,
    /// Not issued by this board, or for an earlier secret.
    Unknown,
}

/// Where a browser sends a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieScope {
    /// To our own pages.
    Ours,
    /// In frames of other sites too, over https, and only within the site where the login was (CHIPS).
    Frames,
}

impl CookieScope {
    fn attributes(self) -> &'static str {
        match self {
            Self::Ours => "HttpOnly; SameSite=Strict; Path=/",
            Self::Frames => "HttpOnly; SameSite=None; Secure; Partitioned; Path=/",
        }
    }
}

impl Sessions {
    /// Sessions of this board for this secret, except those that were ended.
    pub fn new(board: &BoardKey, secret: &Secret, revoked: RevokedLogins) -> Self {
        let secret = digest::digest(&digest::SHA256, secret.reveal().as_bytes());
        let name = hmac::sign(&board.derive(b"name of the cookie"), b"");
        let cookie = format!("peercam-{}", hex::encode(&name.as_ref()[..4]));
        Self { key: board.derive(&[b"session", secret.as_ref()].concat()), revoked, cookie }
    }

    /// A new session that lasts for `life` from `now` on.
    pub fn issue(&self, life: Duration, now: SystemTime) -> String {
        let (end, login) = (seconds(now) + life.as_secs(), rand::random());
        let code = hmac::sign(&self.key, message(end, login).as_bytes());
        format!("{end}.{login}.{}", hex::encode(code.as_ref()))
    }

    /// The `Set-Cookie` value of a login at `now`.
    pub fn cookie(&self, scope: CookieScope, now: SystemTime) -> String {
        let session = self.issue(COOKIE_LIFE, now);
        format!("{}={session}; {}; Max-Age={}", self.cookie, scope.attributes(), COOKIE_LIFE.as_secs())
    }

    /// The `Set-Cookie` values that remove it, whatever its reach.
    pub fn removal_headers(&self) -> [String; 2] {
        [CookieScope::Ours, CookieScope::Frames]
            .map(|scope| format!("{}=; {}; Max-Age=0", self.cookie, scope.attributes()))
    }

    /// The status of a session that was [issued](Self::issue).
    pub fn status_of(&self, session: &str, now: SystemTime) -> SessionStatus {
        match self.made(session) {
            Some((end, login)) if end > seconds(now) && !self.revoked.contains(login) => SessionStatus::Valid,
            Some(_) => SessionStatus::Ended,
            None => SessionStatus::Unknown,
        }
    }

    /// Ends a session, so that copies of it are invalid. Blocks until that is on disk.
    pub fn end(&self, session: &str, now: SystemTime) {
        // Only a valid one, so that a flood of logouts writes nothing.
        if let Some((end, login)) = self.made(session).filter(|_| self.status_of(session, now) == SessionStatus::Valid)
        {
            self.revoked.revoke(login, end, seconds(now));
        }
    }

    /// The end and the number of a session, if this board has made it.
    fn made(&self, session: &str) -> Option<(u64, Id)> {
        let (end, rest) = session.split_once('.')?;
        let (login, code) = rest.split_once('.')?;
        let (end, login, code) = (end.parse().ok()?, login.parse().ok()?, hex::decode(code).ok()?);
        hmac::verify(&self.key, message(end, login).as_bytes(), &code).is_ok().then_some((end, login))
    }

    /// The status of the best of a request's cookies (RFC 6265, section 4.2.1); `None` if it has none of ours.
    pub fn cookie_status(&self, headers: &HeaderMap, now: SystemTime) -> Option<SessionStatus> {
        let statuses = self.cookie_sessions(headers).into_iter().map(|session| self.status_of(&session, now));
        // A login in a frame and one outside have cookies of the same name.
        statuses.reduce(|best, status| if status == SessionStatus::Valid { status } else { best })
    }

    /// The sessions in a request's cookies of ours.
    pub fn cookie_sessions(&self, headers: &HeaderMap) -> Vec<String> {
        let ours = |pair: &str| pair.trim().strip_prefix(&self.cookie)?.strip_prefix('=').map(str::to_owned);
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(';')).filter_map(ours).collect()
    }
}

/// The text that is signed.
fn message(end: u64, login: Id) -> String {
    format!("peercam session {login} until {end}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(board: &BoardKey, secret: &str) -> Sessions {
        Sessions::new(board, &secret.to_owned().into(), RevokedLogins::open(None).unwrap())
    }

    fn sent_back(set: &str) -> HeaderMap {
        let line = format!("theme=dark; {}", set.split(';').next().unwrap());
        HeaderMap::from_iter([(COOKIE, line.parse().unwrap())])
    }

    #[test]
    fn a_cookie_survives_a_restart_and_ends_with_its_lifetime_or_another_secret_or_board() {
        let (board, now) = (BoardKey::random(), SystemTime::now());
        let sent = sent_back(&sessions(&board, "correct horse").cookie(CookieScope::Ours, now));
        let restarted = sessions(&board, "correct horse");
        assert_eq!(restarted.cookie_status(&sent, now), Some(SessionStatus::Valid));
        let end = now + COOKIE_LIFE;
        assert_eq!(restarted.cookie_status(&sent, end - Duration::from_secs(1)), Some(SessionStatus::Valid));
        assert_eq!(restarted.cookie_status(&sent, end), Some(SessionStatus::Ended));
        assert_eq!(sessions(&board, "another horse").cookie_status(&sent, now), Some(SessionStatus::Unknown));
        assert_eq!(sessions(&BoardKey::random(), "correct horse").cookie_status(&sent, now), None);
    }

    #[test]
    fn a_captured_session_is_of_no_use_for_guessing_secrets() {
        let now = SystemTime::now();
        let caught = sessions(&BoardKey::random(), "correct horse").issue(TOKEN_LIFE, now);
        let guess = sessions(&BoardKey::random(), "correct horse");
        assert_eq!(
            guess.status_of(&caught, now),
            SessionStatus::Unknown,
            "the right secret alone does not make the same code"
        );
    }

    #[test]
    fn a_session_with_a_changed_lifetime_and_garbage_are_unknown() {
        let (now, ours) = (SystemTime::now(), sessions(&BoardKey::random(), "correct horse"));
        let session = ours.issue(TOKEN_LIFE, now);
        let (_, rest) = session.split_once('.').unwrap();
        for wrong in [format!("99999999999.{rest}"), format!("{session}0"), format!("1{session}")] {
            assert_eq!(ours.status_of(&wrong, now), SessionStatus::Unknown, "{wrong}");
        }
        for garbage in ["", "1.", "x.00", "..", "1.2.é", "1.2.", "correct horse"] {
            assert_eq!(ours.status_of(garbage, now), SessionStatus::Unknown, "{garbage}");
        }
    }

    #[test]
    fn an_ended_session_is_ended_and_another_of_the_same_second_is_not() {
        let (now, ours) = (SystemTime::now(), sessions(&BoardKey::random(), "correct horse"));
        let (one, other) = (ours.issue(COOKIE_LIFE, now), ours.issue(COOKIE_LIFE, now));
        ours.end(&one, now);
        assert_eq!(
            (ours.status_of(&one, now), ours.status_of(&other, now)),
            (SessionStatus::Ended, SessionStatus::Valid)
        );
        ours.end("1.2.3", now);
    }

    #[test]
    fn one_valid_cookie_among_several_is_enough() {
        let (now, ours) = (SystemTime::now(), sessions(&BoardKey::random(), "correct horse"));
        let valid = ours.issue(COOKIE_LIFE, now);
        for line in [format!("{0}=1.2.3; {0}={valid}", ours.cookie), format!("{0}={valid}; {0}=", ours.cookie)] {
            let headers = HeaderMap::from_iter([(COOKIE, line.parse().unwrap())]);
            assert_eq!(ours.cookie_status(&headers, now), Some(SessionStatus::Valid), "{line}");
        }
    }
}
