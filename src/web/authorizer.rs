//! Authorizes requests: by the secret, a cookie or a session, and by the host names and pages that are allowed.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::header::{ORIGIN, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use ring::hmac;
use ring::rand::SystemRandom;

use super::attempts::{Attempts, SenderGroup, Verdict};
use super::connection_limiter::ConnectionPermit;
use super::credential::{Credential, SIGNAL, offers_basic};
use super::key::BoardKey;
use super::origin::{KnownHosts, Sender};
use super::refusal::Refusal;
use super::refusal_log::RefusalLog;
use super::revoked_logins::RevokedLogins;
use super::session::{CookieScope, SessionStatus, Sessions, TOKEN_LIFE};
use super::{Config, assets, origin};
use crate::access::{Grant, Operation};
use crate::secret::Secret;
use crate::signalling::Authorized;

/// The time limit for a request's body and its answer. A snapshot may have to start a camera first.
const REQUEST: Duration = Duration::from_secs(30);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The connection of a request.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The client's address.
    pub address: SocketAddr,
    /// Our address that it connected to.
    pub ours: SocketAddr,
    /// Its permit from the connection limiter.
    pub permit: Arc<ConnectionPermit>,
}

/// The checks that precede all routes.
#[derive(Debug)]
pub struct Authorizer {
    /// `None` if no secret is needed.
    secret_check: Option<SecretCheck>,
    attempts: Attempts,
    known_hosts: KnownHosts,
    refusal_log: RefusalLog,
}

#[derive(Debug)]
struct SecretCheck {
    sessions: Sessions,
    /// Random for this process: both sides of a comparison are signed with it, which takes the same time for all
    /// guesses and does not reveal the secret's length.
    key: hmac::Key,
    expected: hmac::Tag,
    /// Whether the board generated the secret: a random one cannot be guessed.
    is_generated: bool,
}

/// The sender to which a wrong secret is attributed.
#[derive(Clone, Copy, Debug)]
pub struct AttemptSource {
    address: IpAddr,
    group: SenderGroup,
}

/// The credentials of a request.
enum AuthCheck {
    /// Already decided: there is nothing that could be a guess.
    Decided(Result<Grant, Refusal>),
    /// A secret that has to be checked.
    Secret(String, AttemptSource),
}

impl Authorizer {
    /// The authorizer for `config`, at a listener's `port`. State that survives a restart is kept in `state`.
    pub fn new(config: &Config, port: u16, state: Option<&Path>) -> Self {
        let secret_check = config.secret.as_ref().map(|secret| {
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .expect("the kernel's random numbers do not fail once the system is up");
            let expected = hmac::sign(&key, secret.reveal().as_bytes());
            SecretCheck { sessions: sessions(secret, state), key, expected, is_generated: config.is_secret_generated }
        });
        Self {
            secret_check,
            attempts: Attempts::new(),
            known_hosts: KnownHosts::new(config, port),
            refusal_log: RefusalLog::new(),
        }
    }

    /// Whether a secret is needed.
    pub fn needs_secret(&self) -> bool {
        self.secret_check.is_some()
    }

    /// The board's host names, and the origins whose pages may use it.
    pub fn known_hosts(&self) -> &KnownHosts {
        &self.known_hosts
    }

    /// The counts of refused requests.
    pub fn refusal_log(&self) -> &RefusalLog {
        &self.refusal_log
    }

    /// The grant of a request. A secret may have to wait for its turn.
    pub fn grant<'g>(&'g self, request: &Request) -> impl Future<Output = Result<Grant, Refusal>> + use<'g> {
        let auth_check = self.auth_check(request);
        async move {
            match auth_check {
                AuthCheck::Decided(settled) => settled,
                AuthCheck::Secret(secret, attempt_source) => self.check_secret(&secret, attempt_source).await,
            }
        }
    }

    /// Decides as far as possible without a check of the secret.
    fn auth_check(&self, request: &Request) -> AuthCheck {
        let Some(check) = &self.secret_check else { return AuthCheck::Decided(Ok(Grant::loopback())) };
        let (headers, now) = (request.headers(), SystemTime::now());
        // Credentials that a browser adds by itself do not count for a foreign page. A page opened by a link is not
        // foreign.
        let is_foreign =
            self.known_hosts.sender(headers) == Sender::Foreign && !origin::is_opened(headers).unwrap_or(false);
        let cookie = check.sessions.cookie_status(headers, now).filter(|_| !is_foreign);
        let attempt_source = self.attempt_source(request);
        // A code made with the board's key cannot be guessed, so a valid one never waits.
        let is_logged_in = || {
            self.attempts.mark_known(attempt_source.group, attempt_source.address);
            AuthCheck::Decided(Ok(Grant::login()))
        };
        if cookie == Some(SessionStatus::Valid) {
            return is_logged_in();
        }
        let Some(given) =
            Credential::of(request).filter(|given| !is_foreign || given.is_for_any_page(request.uri().path()))
        else {
            return AuthCheck::Decided(Err(Refusal::NoSecret));
        };
        match check.sessions.status_of(given.text(), now) {
            SessionStatus::Valid => is_logged_in(),
            SessionStatus::Ended => AuthCheck::Decided(Err(Refusal::NoSecret)),
            SessionStatus::Unknown => AuthCheck::Secret(given.text().to_owned(), attempt_source),
        }
    }

    /// Checks `secret`, which came from `attempt_source`.
    pub async fn check_secret(&self, secret: &str, attempt_source: AttemptSource) -> Result<Grant, Refusal> {
        let Some(check) = &self.secret_check else { return Ok(Grant::loopback()) };
        let is_right = || hmac::verify(&check.key, secret.as_bytes(), check.expected.as_ref()).is_ok();
        // At 10,000 guesses a second, a secret of 79 bits is found after 10^12 years: it needs no limit.
        if check.is_generated && is_right() {
            return Ok(Grant::secret());
        }
        match self.attempts.attempt(attempt_source.group, attempt_source.address, is_right).await {
            Verdict::Right => Ok(Grant::secret()),
            Verdict::Wrong => Err(Refusal::WrongSecret),
            Verdict::Wait(pause) => Err(Refusal::Wait(pause)),
        }
    }

    /// The sender to which a wrong secret is attributed.
    pub fn attempt_source(&self, request: &Request) -> AttemptSource {
        let connection_info = connection_info(request);
        let address = connection_info.address.ip().to_canonical();
        // A proxy on this machine appends its client as the last one; only programs of this machine could forge this.
        let asker = || request.headers().get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?.rsplit(',').next();
        let behind = asker().filter(|_| address.is_loopback()).and_then(|asker| asker.trim().parse::<IpAddr>().ok());
        let address = behind.unwrap_or(address);
        let group = if self.known_hosts.sender(request.headers()) == Sender::Foreign {
            SenderGroup::ForeignPages
        } else {
            SenderGroup::of(address, connection_info.ours.ip())
        };
        AttemptSource { address, group }
    }

    /// The `Set-Cookie` value for a login by the browser that has sent `request`; `None` if no secret is needed.
    pub fn cookie(&self, request: &HeaderMap) -> Option<HeaderValue> {
        // Only if frames are allowed, since other sites' pages have no other use for it.
        let is_for_frames = !self.known_hosts.origins().is_empty() && origin::is_over_https(request);
        let scope = if is_for_frames { CookieScope::Frames } else { CookieScope::Ours };
        let cookie = self.secret_check.as_ref()?.sessions.cookie(scope, SystemTime::now());
        Some(HeaderValue::from_str(&cookie).expect("digits and letters only"))
    }

    /// A session token, for a page that cannot have a cookie.
    pub fn token(&self) -> Option<String> {
        Some(self.secret_check.as_ref()?.sessions.issue(TOKEN_LIFE, SystemTime::now()))
    }

    /// Ends the logins of a request: by cookie, or by a token as Bearer. Blocks until that is on the disk.
    pub fn log_out(&self, request: &Request) {
        let Some(check) = &self.secret_check else { return };
        let token = Credential::of(request).map(|given| given.text().to_owned());
        for session in check.sessions.cookie_sessions(request.headers()).into_iter().chain(token) {
            check.sessions.end(&session, SystemTime::now());
        }
    }

    /// Makes the browser delete its cookie.
    pub fn forget_cookie(&self, response: &mut Response) {
        for removal in self.secret_check.iter().flat_map(|check| check.sessions.removal_headers()) {
            let removal = HeaderValue::from_str(&removal).expect("letters and signs only");
            response.headers_mut().append(SET_COOKIE, removal);
        }
    }

    /// The answer to a request that is refused.
    pub fn refuse(&self, refusal: &Refusal, path: &str, request: &HeaderMap) -> Response {
        self.refusal_log.count(refusal);
        let mut response = refusal.respond(path);
        if matches!(refusal, Refusal::NoSecret | Refusal::WrongSecret) && offers_basic(path, request) {
            let basic = HeaderValue::from_static("Basic realm=\"peercam\", charset=\"UTF-8\"");
            response.headers_mut().append(WWW_AUTHENTICATE, basic);
        }
        let cookie =
            self.secret_check.as_ref().and_then(|check| check.sessions.cookie_status(request, SystemTime::now()));
        if *refusal == Refusal::NoSecret && matches!(cookie, Some(SessionStatus::Unknown | SessionStatus::Ended)) {
            self.forget_cookie(&mut response);
        }
        response
    }

    /// Checks that the request uses one of our names, and comes from a page that may send it.
    fn check_origin(&self, request: &Request) -> Result<(), Refusal> {
        let (headers, path) = (request.headers(), request.uri().path());
        if let Some(fault) = origin::host_fault(request) {
            return Err(Refusal::BadHead(fault));
        }
        // A health check may use any name; its answer has nothing that a foreign page could use.
        if self.secret_check.is_none() && path != "/healthz" && !self.known_hosts.are_ours(headers) {
            return Err(Refusal::Host);
        }
        if self.known_hosts.sender(headers) != Sender::Foreign || self.is_for_foreign_pages(request) {
            return Ok(());
        }
        let page = headers.get(ORIGIN).and_then(|page| page.to_str().ok());
        Err(Refusal::Origin(page.map(str::to_owned)))
    }

    /// Whether any page may send it.
    fn is_for_foreign_pages(&self, request: &Request) -> bool {
        let (headers, path) = (request.headers(), request.uri().path());
        // The page got it from its user.
        if self.secret_check.is_some() && Credential::of(request).is_some_and(|given| given.is_for_any_page(path)) {
            return true;
        }
        if !origin::is_safe(request.method()) || path == SIGNAL {
            return false;
        }
        // A preflight request does nothing; pages of other origins use the viewer component too; and a link may be
        // anywhere. Which pages may show a frame is decided by the browser, by our `frame-ancestors`.
        let is_public = path == "/healthz" || assets::find(path.trim_start_matches('/')).is_some();
        let is_link = origin::is_opened(headers).unwrap_or(false)
            && (!origin::is_frame(headers) || path == "/" || !self.known_hosts.origins().is_empty());
        request.method() == Method::OPTIONS || is_public || is_link
    }
}

/// The logins for `secret`. If the list of ended ones cannot be read, all end.
fn sessions(secret: &Secret, state: Option<&Path>) -> Sessions {
    match RevokedLogins::open(state) {
        Ok(revoked) => Sessions::new(&BoardKey::open(state), secret, revoked),
        Err(error) => {
            tracing::warn!(%error, "the list of ended logins cannot be read; a new key ends all logins");
            Sessions::new(&BoardKey::renew(state), secret, RevokedLogins::empty(state))
        }
    }
}

/// Passes on requests that use our name, come from our pages and finish in time.
pub async fn check_source(State(authorizer): State<Arc<Authorizer>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let Err(refusal) = authorizer.check_origin(&request) {
        return authorizer.refuse(&refusal, &path, request.headers());
    }
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => Refusal::with_body(response, &method, &path).await,
        Err(_) => authorizer.refuse(&Refusal::Slow, &path, &HeaderMap::new()),
    }
}

/// Passes on requests that are authorized, with their grant.
pub async fn authorize(State(authorizer): State<Arc<Authorizer>>, mut request: Request, next: Next) -> Response {
    match authorizer.grant(&request).await {
        Ok(grant) => {
            if authorizer.needs_secret() || authorizer.known_hosts.sender(request.headers()) != Sender::Foreign {
                request.extensions_mut().insert(Authorized);
            }
            connection_info(&request).permit.start_request(Instant::now());
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        // A browser asks in advance, without the secret, what it may send (preflight; Fetch, section 3.2.2).
        Err(Refusal::NoSecret) if request.method() == Method::OPTIONS => next.run(request).await,
        Err(refusal) => authorizer.refuse(&refusal, request.uri().path(), request.headers()),
    }
}

/// Passes on requests whose grant allows `operation`. A preflight request has no grant.
pub async fn require_operation(State(operation): State<Operation>, request: Request, next: Next) -> Response {
    let refusal = match request.extensions().get::<Grant>() {
        Some(grant) => {
            grant.allows(operation, Instant::now()).err().map(|denied| Refusal::NotAllowed(denied.to_string()))
        }
        None if operation.right().is_none() || request.method() == Method::OPTIONS => None,
        None => Some(Refusal::NoSecret),
    };
    match refusal {
        None => next.run(request).await,
        Some(refusal) => refusal.respond(request.uri().path()),
    }
}

/// The connection of a request.
pub fn connection_info(request: &Request) -> &ConnectionInfo {
    request.extensions().get().expect("the listener sets it on each request")
}
