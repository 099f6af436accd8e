//! Who may do what: the secret as Bearer, cookie or token, and the names and origins that are ours.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Query, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use ring::hmac;
use ring::rand::SystemRandom;
use serde::Deserialize;

use super::Config;
use super::attempts::{Attempts, Verdict};
use super::cookie::{Cookies, Worth};
use super::origin;
use super::origin::Sender;
use super::refusal::Refusal;

/// The time for a request's body and its answer. A snapshot may have to start a camera first.
const REQUEST: Duration = Duration::from_secs(30);

/// The path whose upgrade gives a WebSocket; it alone takes the secret as `?token=`.
pub const SIGNAL: &str = "/api/signal";

/// The other end of a request's connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a request may do, for those that serve it.
///
/// Today who knows the secret (or is on this machine, where none is set) may do everything.
/// Links with fewer rights become further variants, made in `Guard::access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Owner,
}

/// What stands before all paths.
#[derive(Debug)]
pub struct Guard {
    /// `None` where no secret is needed.
    lock: Option<Lock>,
    attempts: Attempts,
    config: Config,
}

#[derive(Debug)]
struct Lock {
    cookies: Cookies,
    /// Of this process: both sides of a comparison are signed with it, which takes the same time for all guesses
    /// and does not tell the secret's length.
    key: hmac::Key,
    expected: hmac::Tag,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
}

impl Guard {
    /// What `config` asks for.
    pub fn new(config: Config) -> Self {
        let lock = config.secret.as_ref().map(|secret| {
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .expect("the kernel's random numbers do not fail once the system is up");
            let expected = hmac::sign(&key, secret.reveal().as_bytes());
            Lock { cookies: Cookies::new(secret), key, expected }
        });
        Self { lock, attempts: Attempts::new(Instant::now()), config }
    }

    /// Whether a secret is needed.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Other origins whose pages may use this board.
    pub fn allowed_origins(&self) -> &[String] {
        &self.config.allowed_origins
    }

    /// What a request may do.
    pub fn access(&self, headers: &HeaderMap, uri: &Uri, peer: IpAddr) -> Result<Access, Refusal> {
        let Some(lock) = &self.lock else { return Ok(Access::Owner) };
        if let Some(token) = bearer(headers).or_else(|| query_token(uri)) {
            return self.unlock(&token, peer);
        }
        let cookie = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
        let worth = cookie.map(|header| lock.cookies.judge(header, SystemTime::now()));
        match worth.into_iter().find(|worth| *worth != Worth::Absent).unwrap_or(Worth::Absent) {
            Worth::Absent | Worth::Over => Err(Refusal::NoSecret),
            // A foreign cookie is a guess at the secret like any other. So a valid one waits with the wrong ones
            // of its address too: otherwise the difference would tell the guesser.
            worth => self.judge(peer, || worth == Worth::Valid),
        }
    }

    /// Tries `secret` at the lock.
    pub fn unlock(&self, secret: &str, peer: IpAddr) -> Result<Access, Refusal> {
        let Some(lock) = &self.lock else { return Ok(Access::Owner) };
        self.judge(peer, || hmac::verify(&lock.key, secret.as_bytes(), lock.expected.as_ref()).is_ok())
    }

    /// The `Set-Cookie` value of a login; `None` where no secret is needed.
    pub fn login_cookie(&self) -> Option<HeaderValue> {
        let cookie = self.lock.as_ref()?.cookies.issue(SystemTime::now());
        Some(HeaderValue::from_str(&cookie).expect("digits and letters only"))
    }

    fn judge(&self, peer: IpAddr, is_right: impl FnOnce() -> bool) -> Result<Access, Refusal> {
        match self.attempts.attempt(peer, Instant::now(), is_right) {
            Verdict::Right => Ok(Access::Owner),
            Verdict::Wrong => {
                tracing::warn!("wrong secret");
                Err(Refusal::WrongSecret)
            }
            Verdict::Wait(pause) => Err(Refusal::Wait(pause)),
        }
    }

    /// Whether the request's `Host` and `Origin` are fine.
    fn provenance(&self, request: &Request) -> Result<(), Refusal> {
        let (headers, path) = (request.headers(), request.uri().path());
        // A health check may come under any name; it tells nothing that such a page could use.
        if self.lock.is_none() && path != "/healthz" && !origin::is_our_host(headers, &self.config.allowed_hosts) {
            return Err(Refusal::Host);
        }
        let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        // What a browser adds by itself is nothing to rely on; a Bearer was given to the page by its user.
        let is_by_token = self.lock.is_some() && path.starts_with("/whep") && bearer(headers).is_some();
        let is_foreign = origin::sender(headers, &self.config.allowed_origins) == Sender::Foreign;
        if (changes || path == SIGNAL) && is_foreign && !is_by_token {
            return Err(Refusal::Origin);
        }
        Ok(())
    }
}

/// Lets requests pass that come under our name, from our pages, and in time.
pub async fn receive(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if let Err(refusal) = guard.provenance(&request) {
        tracing::info!(path, ?refusal, "request refused");
        return refusal.respond(&path);
    }
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::Slow.respond(&path),
    }
}

/// Lets requests pass that may do something, and notes what.
pub async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    // A browser asks beforehand, and without the secret, what it may send (Fetch, section 3.2.2).
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    match guard.access(request.headers(), request.uri(), peer(&request)) {
        Ok(access) => {
            request.extensions_mut().insert(access);
            next.run(request).await
        }
        Err(refusal) => {
            let mut response = refusal.respond(request.uri().path());
            if refusal == Refusal::WrongSecret && bearer(request.headers()).is_none() {
                forget_cookie(&mut response);
            }
            response
        }
    }
}

/// Has the browser drop a cookie of an earlier secret, so that it is not taken for a guess with each request.
pub fn forget_cookie(response: &mut Response) {
    let cookie = HeaderValue::from_str(&Cookies::remove()).expect("letters and signs only");
    response.headers_mut().insert(SET_COOKIE, cookie);
}

/// The address of a request's sender.
pub fn peer(request: &Request) -> IpAddr {
    let Peer(address) = request.extensions().get().expect("the listener notes it at each request");
    address.ip()
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn query_token(uri: &Uri) -> Option<String> {
    (uri.path() == SIGNAL).then(|| Query::<Token>::try_from_uri(uri).ok()?.0.token)?
}
