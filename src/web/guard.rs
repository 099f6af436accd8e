//! Who may do what: the secret, a cookie or a session, and the names and pages that are ours.

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

use super::attempts::{Attempts, Crowd, Verdict};
use super::credential::{Credential, SIGNAL, names_basic};
use super::crowd::Place;
use super::ended::Ended;
use super::key::BoardKey;
use super::origin::{Names, Sender};
use super::refusal::Refusal;
use super::session::{Reach, Sessions, TOKEN_LIFE, Worth};
use super::tally::Tally;
use super::{Config, assets, origin};
use crate::secret::Secret;
use crate::signalling::Admitted;

/// The time for a request's body and its answer. A snapshot may have to start a camera first.
const REQUEST: Duration = Duration::from_secs(30);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request's connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who sent it.
    pub address: SocketAddr,
    /// Where it reached us.
    pub ours: SocketAddr,
    /// Its place among the others.
    pub place: Arc<Place>,
}

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
    names: Names,
    tally: Tally,
}

#[derive(Debug)]
struct Lock {
    sessions: Sessions,
    /// Of this process: both sides of a comparison are signed with it, which takes the same time for all guesses
    /// and does not tell the secret's length.
    key: hmac::Key,
    expected: hmac::Tag,
    /// The board made the secret: nobody finds it by guessing.
    is_made: bool,
}

/// Whom a wrong secret is held against.
#[derive(Clone, Copy, Debug)]
pub struct Guesser {
    address: IpAddr,
    crowd: Crowd,
}

/// What a request brings to be let in.
enum Claim {
    /// Nothing that could be a guess.
    Settled(Result<Access, Refusal>),
    /// A secret.
    Secret(String, Guesser),
}

impl Guard {
    /// What `config` asks for, at a listener's `port`. What has to outlive a restart is kept in `state`.
    pub fn new(config: &Config, port: u16, state: Option<&Path>) -> Self {
        let lock = config.secret.as_ref().map(|secret| {
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .expect("the kernel's random numbers do not fail once the system is up");
            let expected = hmac::sign(&key, secret.reveal().as_bytes());
            Lock { sessions: sessions(secret, state), key, expected, is_made: config.is_secret_made }
        });
        let now = Instant::now();
        Self { lock, attempts: Attempts::new(now), names: Names::new(config, port), tally: Tally::new() }
    }

    /// Whether a secret is needed.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// The names and pages that are ours.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What was refused.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What a request may do. A secret may have to wait for its turn.
    pub fn access<'g>(&'g self, request: &Request) -> impl Future<Output = Result<Access, Refusal>> + use<'g> {
        let claim = self.claim(request);
        async move {
            match claim {
                Claim::Settled(settled) => settled,
                Claim::Secret(secret, guesser) => self.unlock(&secret, guesser).await,
            }
        }
    }

    /// What can be said without a look at the secret.
    fn claim(&self, request: &Request) -> Claim {
        let Some(lock) = &self.lock else { return Claim::Settled(Ok(Access::Owner)) };
        let (headers, now) = (request.headers(), SystemTime::now());
        // What a browser adds by itself is no word of a foreign page. A page that is opened by its link is none.
        let is_foreign = self.names.sender(headers) == Sender::Foreign && !origin::is_opened(headers).unwrap_or(false);
        let cookie = lock.sessions.judge_cookies(headers, now).filter(|_| !is_foreign);
        let guesser = self.guesser(request);
        // Nobody can guess a code that is made with the board's key, so a valid one waits for nothing.
        let is_logged_in = || {
            self.attempts.is_known(guesser.crowd, guesser.address);
            Claim::Settled(Ok(Access::Owner))
        };
        if cookie == Some(Worth::Valid) {
            return is_logged_in();
        }
        let Some(given) =
            Credential::of(request).filter(|given| !is_foreign || given.is_for_any_page(request.uri().path()))
        else {
            return Claim::Settled(Err(Refusal::NoSecret));
        };
        match lock.sessions.judge(given.text(), now) {
            Worth::Valid => is_logged_in(),
            Worth::Over => Claim::Settled(Err(Refusal::NoSecret)),
            Worth::Unknown => Claim::Secret(given.text().to_owned(), guesser),
        }
    }

    /// Tries `secret`, which came from `guesser`, at the lock.
    pub async fn unlock(&self, secret: &str, guesser: Guesser) -> Result<Access, Refusal> {
        let Some(lock) = &self.lock else { return Ok(Access::Owner) };
        let is_right = || hmac::verify(&lock.key, secret.as_bytes(), lock.expected.as_ref()).is_ok();
        // At 10,000 guesses a second, one of 79 bits is found after 10^12 years: it needs no limit.
        if lock.is_made && is_right() {
            return Ok(Access::Owner);
        }
        match self.attempts.attempt(guesser.crowd, guesser.address, is_right).await {
            Verdict::Right => Ok(Access::Owner),
            Verdict::Wrong => Err(Refusal::WrongSecret),
            Verdict::Wait(pause) => Err(Refusal::Wait(pause)),
        }
    }

    /// Whom a wrong secret is held against.
    pub fn guesser(&self, request: &Request) -> Guesser {
        let peer = peer(request);
        let address = peer.address.ip().to_canonical();
        // A proxy on this machine adds who asked it, as the last one; only programs of this machine could lie here.
        let asker = || request.headers().get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?.rsplit(',').next();
        let behind = asker().filter(|_| address.is_loopback()).and_then(|asker| asker.trim().parse::<IpAddr>().ok());
        let address = behind.unwrap_or(address);
        let crowd = if self.names.sender(request.headers()) == Sender::Foreign {
            Crowd::Pages
        } else {
            Crowd::of(address, peer.ours.ip())
        };
        Guesser { address, crowd }
    }

    /// What a login leaves at the browser that has sent `request`: a `Set-Cookie` value; `None` where no secret is
    /// needed.
    pub fn cookie(&self, request: &HeaderMap) -> Option<HeaderValue> {
        // Only where frames are allowed, since other sites' pages have no other use for it.
        let is_for_frames = !self.names.origins().is_empty() && origin::is_over_https(request);
        let reach = if is_for_frames { Reach::Frames } else { Reach::Ours };
        let cookie = self.lock.as_ref()?.sessions.cookie(reach, SystemTime::now());
        Some(HeaderValue::from_str(&cookie).expect("digits and letters only"))
    }

    /// The same for a page that cannot have a cookie: a session that it keeps by itself.
    pub fn token(&self) -> Option<String> {
        Some(self.lock.as_ref()?.sessions.issue(TOKEN_LIFE, SystemTime::now()))
    }

    /// Ends the logins that a request brings: by cookie, or by a token as Bearer. Blocks until the disk has it.
    pub fn log_out(&self, request: &Request) {
        let Some(lock) = &self.lock else { return };
        let token = Credential::of(request).map(|given| given.text().to_owned());
        for session in lock.sessions.of_cookies(request.headers()).into_iter().chain(token) {
            lock.sessions.end(&session, SystemTime::now());
        }
    }

    /// Has the browser drop its cookie.
    pub fn forget_cookie(&self, response: &mut Response) {
        for removal in self.lock.iter().flat_map(|lock| lock.sessions.removals()) {
            let removal = HeaderValue::from_str(&removal).expect("letters and signs only");
            response.headers_mut().append(SET_COOKIE, removal);
        }
    }

    /// The answer to a request that is refused.
    pub fn refuse(&self, refusal: &Refusal, path: &str, request: &HeaderMap) -> Response {
        self.tally.count(refusal);
        let mut response = refusal.respond(path);
        if matches!(refusal, Refusal::NoSecret | Refusal::WrongSecret) && names_basic(path, request) {
            let basic = HeaderValue::from_static("Basic realm=\"peercam\", charset=\"UTF-8\"");
            response.headers_mut().append(WWW_AUTHENTICATE, basic);
        }
        let cookie = self.lock.as_ref().and_then(|lock| lock.sessions.judge_cookies(request, SystemTime::now()));
        if *refusal == Refusal::NoSecret && matches!(cookie, Some(Worth::Unknown | Worth::Over)) {
            self.forget_cookie(&mut response);
        }
        response
    }

    /// Whether the request came by our name, and from a page that may send it.
    fn provenance(&self, request: &Request) -> Result<(), Refusal> {
        let (headers, path) = (request.headers(), request.uri().path());
        if let Some(fault) = origin::host_fault(request) {
            return Err(Refusal::BadHead(fault));
        }
        // A health check may come under any name; it tells nothing that such a page could use.
        if self.lock.is_none() && path != "/healthz" && !self.names.are_ours(headers) {
            return Err(Refusal::Host);
        }
        if self.names.sender(headers) != Sender::Foreign || self.is_for_foreign_pages(request) {
            return Ok(());
        }
        let page = headers.get(ORIGIN).and_then(|page| page.to_str().ok());
        Err(Refusal::Origin(page.map(str::to_owned)))
    }

    /// Whether it does not matter which page sent it.
    fn is_for_foreign_pages(&self, request: &Request) -> bool {
        let (headers, path) = (request.headers(), request.uri().path());
        // It was given to the page by its user.
        if self.lock.is_some() && Credential::of(request).is_some_and(|given| given.is_for_any_page(path)) {
            return true;
        }
        if !origin::is_safe(request.method()) || path == SIGNAL {
            return false;
        }
        // The question before a request does nothing; the viewer component is for other pages too; and a link may be
        // anywhere. Whom a frame is shown to is the browser's business, by our `frame-ancestors`.
        let is_public = path == "/healthz" || assets::find(path.trim_start_matches('/')).is_some();
        let is_link = origin::is_opened(headers).unwrap_or(false)
            && (!origin::is_frame(headers) || path == "/" || !self.names.origins().is_empty());
        request.method() == Method::OPTIONS || is_public || is_link
    }
}

/// Logins for `secret`. Where it cannot be read which of them were ended, all are.
fn sessions(secret: &Secret, state: Option<&Path>) -> Sessions {
    match Ended::open(state) {
        Ok(ended) => Sessions::new(&BoardKey::open(state), secret, ended),
        Err(error) => {
            tracing::warn!(%error, "the list of ended logins cannot be read; a new key ends all logins");
            Sessions::new(&BoardKey::renew(state), secret, Ended::start_over(state))
        }
    }
}

/// Lets requests pass that come under our name, from our pages, and in time.
pub async fn receive(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let Err(refusal) = guard.provenance(&request) {
        return guard.refuse(&refusal, &path, request.headers());
    }
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => Refusal::explained(response, &method, &path).await,
        Err(_) => guard.refuse(&Refusal::Slow, &path, &HeaderMap::new()),
    }
}

/// Lets requests pass that may do something, and notes what.
pub async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.access(&request).await {
        Ok(access) => {
            if guard.is_locked() || guard.names.sender(request.headers()) != Sender::Foreign {
                request.extensions_mut().insert(Admitted);
            }
            peer(&request).place.is_let_in(Instant::now());
            request.extensions_mut().insert(access);
            next.run(request).await
        }
        // A browser asks beforehand, and without the secret, what it may send (Fetch, section 3.2.2).
        Err(Refusal::NoSecret) if request.method() == Method::OPTIONS => next.run(request).await,
        Err(refusal) => guard.refuse(&refusal, request.uri().path(), request.headers()),
    }
}

/// A request's connection.
pub fn peer(request: &Request) -> &Peer {
    request.extensions().get().expect("the listener notes it at each request")
}
