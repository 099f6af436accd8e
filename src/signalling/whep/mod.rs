//! Signalling over WHEP (draft-ietf-wish-whep-03): one WHEP resource is one call.
//!
//! `POST /whep` answers an offer and names the resource in `Location`; `PATCH` trickles candidates or restarts ICE with
//! an SDP fragment (RFC 8840); `DELETE` ends it. Authentication and CORS are added by `web`.

mod fragment;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{ErrorCode, MAX_BYTES, Signal, SignallingChannel, SignallingContext, Transport, call};
use crate::access::Grant;
use crate::ice::IceServer;
use fragment::Fragment;

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// How long an answer may take. It needs no network, so this only matters on an overloaded board.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Seconds after which a refused viewer should try again.
const RETRY_AFTER: &str = "5";

/// The WHEP endpoint and its resources.
pub fn router(signalling_context: SignallingContext) -> Router {
    let whep = Whep { shared: Arc::new(Shared { signalling_context, resources: Mutex::default() }) };
    // Players append a slash to the addresses that they are given.
    let endpoint = post(create).head(describe).options(describe).fallback(not_allowed);
    Router::new()
        .route("/whep", endpoint.clone())
        .route("/whep/", endpoint)
        .route("/whep/{id}", any(resource))
        .route("/whep/{id}/", any(resource))
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .with_state(whep)
}

#[derive(Clone)]
struct Whep {
    shared: Arc<Shared>,
}

struct Shared {
    signalling_context: SignallingContext,
    resources: Mutex<HashMap<String, Arc<Resource>>>,
}

/// One viewer's resource.
struct Resource {
    to_device: mpsc::Sender<Signal>,
    /// One request at a time changes the session.
    session: tokio::sync::Mutex<Negotiated>,
    /// The request that waits for the answer to a restart.
    waiting: Mutex<Option<oneshot::Sender<Signal>>>,
}

struct Negotiated {
    offer: String,
    generation: u32,
}

impl Negotiated {
    fn etag(&self) -> String {
        format!("\"{}\"", self.generation)
    }
}

#[derive(Deserialize)]
struct CreateQuery {
    camera: Option<String>,
}

/// Marks an authorized request. Only such a request gets the servers in an endpoint's description, since nobody else
/// may see their credentials (RFC 9725, section 4.6).
#[derive(Clone, Copy, Debug)]
pub struct Authorized;

/// The board's address that a request was sent to.
#[derive(Clone, Copy, Debug)]
pub struct Reached(pub IpAddr);

/// `OPTIONS` and `HEAD` of the endpoint.
async fn describe(State(whep): State<Whep>, authorized: Option<Extension<Authorized>>) -> Response {
    let headers = [(ACCEPT_POST, SDP), (header::CONTENT_TYPE, SDP), (header::ALLOW, "POST, OPTIONS, HEAD")];
    let mut response = (StatusCode::OK, headers).into_response();
    if authorized.is_some() {
        whep.add_server_links(&mut response);
    }
    response
}

async fn not_allowed() -> Response {
    let text = "POST an SDP offer here";
    ([(header::ALLOW, "POST, OPTIONS, HEAD")], problem(StatusCode::METHOD_NOT_ALLOWED, text)).into_response()
}

async fn create(
    State(whep): State<Whep>,
    Extension(grant): Extension<Grant>,
    Query(query): Query<CreateQuery>,
    uri: Uri,
    reached: Option<Extension<Reached>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if !is_type(&headers, SDP) {
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the offer with Content-Type: application/sdp");
    }
    if let Some(refusal) = refuse_encoded(&headers) {
        return refusal;
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return body_error(&rejection),
    };
    let Ok(offer) = String::from_utf8(body.into()) else {
        return problem(StatusCode::BAD_REQUEST, "the offer is not UTF-8");
    };
    let reached = reached.map(|Extension(Reached(address))| address);
    let (call, mut channel) = call(Transport::Whep, grant, query.camera, reached);
    if whep.shared.signalling_context.calls.send(call).await.is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the board shuts down");
    }
    channel.to_device.try_send(Signal::Offer { sdp: offer.clone(), camera: None }).ok();
    match tokio::time::timeout(ANSWER_TIMEOUT, answer_or_error(&mut channel.to_viewer)).await {
        Ok(Some(Signal::Answer { sdp })) => whep.created(&uri, channel, offer, sdp),
        Ok(Some(Signal::Error { code, reason })) => refused(code, &reason),
        Ok(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the call ended without an answer"),
        Err(_) => problem(StatusCode::GATEWAY_TIMEOUT, "the board did not answer in time; try again"),
    }
}

/// The answer or refusal among the signals for a viewer. A WHEP viewer cannot be sent candidates; the answer has them.
async fn answer_or_error(to_viewer: &mut mpsc::Receiver<Signal>) -> Option<Signal> {
    loop {
        match to_viewer.recv().await? {
            Signal::Candidate { .. } => {}
            signal => return Some(signal),
        }
    }
}

impl Whep {
    fn created(&self, endpoint: &Uri, channel: SignallingChannel, offer: String, answer: String) -> Response {
        let id = channel.viewer.as_str().to_owned();
        // Relative, since behind a reverse proxy the endpoint has another path than here.
        let folder = if endpoint.path().ends_with('/') { "" } else { "whep/" };
        let location = format!("{folder}{id}");
        let negotiated = Negotiated { offer, generation: 1 };
        let etag = negotiated.etag();
        let resource = Arc::new(Resource {
            to_device: channel.to_device,
            session: tokio::sync::Mutex::new(negotiated),
            waiting: Mutex::default(),
        });
        self.shared.resources().insert(id.clone(), resource.clone());
        let (whep, mut to_viewer) = (self.clone(), channel.to_viewer);
        let name = id;
        self.shared.signalling_context.group.spawn(async move {
            while let Some(signal) = answer_or_error(&mut to_viewer).await {
                let waiting = resource.waiting.lock().expect("lock is never poisoned: no panic while held").take();
                match waiting {
                    // A request that was cancelled does not need its answer any more.
                    Some(waiting) => drop(waiting.send(signal)),
                    None => tracing::debug!(?signal, "no request waits for this signal to a WHEP viewer"),
                }
            }
            whep.shared.resources().remove(&name);
        });
        let headers = [
            (header::LOCATION, location),
            (header::CONTENT_TYPE, SDP.into()),
            (header::ETAG, etag),
            (ACCEPT_PATCH, FRAGMENT.into()),
        ];
        let mut response = (StatusCode::CREATED, headers, answer).into_response();
        self.add_server_links(&mut response);
        response
    }

    fn add_server_links(&self, response: &mut Response) {
        let servers = self.shared.signalling_context.servers.for_viewer();
        for link in servers.iter().flat_map(links).filter_map(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().append(header::LINK, link);
        }
    }
}

impl Shared {
    fn resources(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Resource>>> {
        self.resources.lock().expect("lock is never poisoned: no panic while held")
    }
}

async fn resource(
    State(whep): State<Whep>,
    Path(id): Path<String>,
    method: axum::http::Method,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if method == axum::http::Method::OPTIONS {
        let headers = [(header::ALLOW, "PATCH, DELETE, OPTIONS, HEAD"), (ACCEPT_PATCH, FRAGMENT)];
        return (StatusCode::OK, headers).into_response();
    }
    let found = whep.shared.resources().get(&id).cloned();
    let Some(resource) = found else {
        return problem(StatusCode::NOT_FOUND, "no such session: it has ended, or never was");
    };
    match method {
        axum::http::Method::DELETE => {
            if !matches_any(&headers, &resource.session.lock().await.etag()) {
                let text = "If-Match names another generation of this session; leave it out to end the session";
                return problem(StatusCode::PRECONDITION_FAILED, text);
            }
            resource.to_device.try_send(Signal::bye("deleted")).ok();
            whep.shared.resources().remove(&id);
            StatusCode::OK.into_response()
        }
        axum::http::Method::PATCH => match body {
            Ok(body) => resource.patch(&headers, body).await,
            Err(rejection) => body_error(&rejection),
        },
        axum::http::Method::HEAD => (StatusCode::OK, [(header::CONTENT_TYPE, SDP)]).into_response(),
        _ => {
            let text = "PATCH or DELETE a session";
            ([(header::ALLOW, "PATCH, DELETE, OPTIONS, HEAD")], problem(StatusCode::METHOD_NOT_ALLOWED, text))
                .into_response()
        }
    }
}

impl Resource {
    async fn patch(&self, headers: &HeaderMap, body: Bytes) -> Response {
        if !is_type(headers, FRAGMENT) {
            let text = "send candidates with Content-Type: application/trickle-ice-sdpfrag";
            return ([(ACCEPT_PATCH, FRAGMENT)], problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)).into_response();
        }
        if let Some(refusal) = refuse_encoded(headers) {
            return refusal;
        }
        let fragment = match std::str::from_utf8(&body).map_err(|_| "not UTF-8".to_owned()).and_then(Fragment::read) {
            Ok(fragment) => fragment,
            Err(reason) => return problem(StatusCode::BAD_REQUEST, &format!("the SDP fragment is {reason}")),
        };
        let mut session = self.session.lock().await;
        if let Err(reason) = fragment.check(&session.offer) {
            return problem(StatusCode::BAD_REQUEST, &format!("the SDP fragment {reason}"));
        }
        let is_current = matches_any(headers, &session.etag());
        if fragment.restarts(&session.offer) {
            // RFC 9725, section 4.3.3: a restart matches whatever generation there is.
            if !is_current {
                return problem(StatusCode::PRECONDITION_FAILED, "an ICE restart needs If-Match: *");
            }
            return self.restart(&fragment, &mut session).await;
        }
        if !is_current {
            return problem(
                StatusCode::PRECONDITION_FAILED,
                "this ICE session is over; see the ETag of the last answer",
            );
        }
        for candidate in fragment.candidates {
            if self.to_device.send(Signal::Candidate { candidate: Some(candidate) }).await.is_err() {
                return problem(StatusCode::NOT_FOUND, "the session has ended");
            }
        }
        if fragment.is_end {
            self.to_device.send(Signal::Candidate { candidate: None }).await.ok();
        }
        StatusCode::NO_CONTENT.into_response()
    }

    async fn restart(&self, fragment: &Fragment, session: &mut Negotiated) -> Response {
        let offer = fragment.restart_offer(&session.offer);
        let (answer_to, answer) = oneshot::channel();
        *self.waiting.lock().expect("lock is never poisoned: no panic while held") = Some(answer_to);
        self.to_device.send(Signal::Offer { sdp: offer.clone(), camera: None }).await.ok();
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Signal::Answer { sdp })) => {
                session.offer = offer;
                session.generation += 1;
                let headers = [(header::CONTENT_TYPE, FRAGMENT.to_owned()), (header::ETAG, session.etag())];
                (StatusCode::OK, headers, fragment.answer_to(&sdp)).into_response()
            }
            Ok(Ok(Signal::Error { code, reason })) => refused(code, &reason),
            Ok(_) => problem(StatusCode::NOT_FOUND, "the session has ended"),
            Err(_) => problem(StatusCode::GATEWAY_TIMEOUT, "the board did not answer in time; try again"),
        }
    }
}

/// Whether `If-Match` permits the request for the generation with this tag (RFC 9110, section 13.1.1). It does if it is
/// absent or empty, too.
fn matches_any(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(opaque).filter(|tag| !tag.is_empty()).peekable();
    tags.peek().is_none() || tags.any(|tag| tag == "*" || tag == opaque(etag))
}

/// The part of an entity tag that distinguishes generations. Proxies that compress answers change the rest: they make
/// the tag weak, as nginx and Cloudflare do, or add the encoding, as Apache does. RFC 9725, section 4.3.3 writes the
/// asterisk in quotes.
fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
    tag.split(['-', ';']).next().unwrap_or(tag)
}

/// Refuses a body that is compressed (RFC 9110, section 15.5.16).
fn refuse_encoded(headers: &HeaderMap) -> Option<Response> {
    let coding = headers.get(header::CONTENT_ENCODING)?;
    if coding.as_bytes().eq_ignore_ascii_case(b"identity") {
        return None;
    }
    let text = "the body is compressed; send it as it is, without Content-Encoding";
    let refusal = problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    Some(([(header::ACCEPT_ENCODING, "identity")], refusal).into_response())
}

/// Why a body was not read.
fn body_error(rejection: &BytesRejection) -> Response {
    let text = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body is too long: at most {MAX_BYTES} bytes are read"),
        _ => "the body did not arrive whole".to_owned(),
    };
    problem(rejection.status(), &text)
}

/// A server as `Link` headers, one for each URL (draft-ietf-wish-whep-03, section 4.6).
fn links(server: &IceServer) -> impl Iterator<Item = String> {
    // A quoted-string (RFC 9110, section 5.6.4).
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let login = match (&server.username, &server.credential) {
        (Some(username), Some(credential)) => format!(
            "; username={}; credential={}; credential-type=\"password\"",
            quote(username),
            quote(credential.reveal())
        ),
        _ => String::new(),
    };
    server.urls.iter().map(move |url| format!("<{url}>; rel=\"ice-server\"{login}"))
}

fn is_type(headers: &HeaderMap, query: &str) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(query)
}

/// A refusal as an HTTP response (draft-ietf-wish-whep-03, section 4.2).
fn refused(code: ErrorCode, reason: &str) -> Response {
    let status = match code {
        ErrorCode::BadMessage | ErrorCode::BadOffer | ErrorCode::BadCandidate => StatusCode::BAD_REQUEST,
        ErrorCode::NoCommonCodec => StatusCode::NOT_ACCEPTABLE,
        ErrorCode::UnknownCamera => StatusCode::NOT_FOUND,
        ErrorCode::NotAllowed => StatusCode::FORBIDDEN,
        ErrorCode::NoPicture => StatusCode::CONFLICT,
        ErrorCode::TooManyViewers => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = problem(status, reason);
    if matches!(status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    response
}

/// An error as problem details (RFC 9457).
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason();
    let body = json!({ "type": "about:blank", "status": status.as_u16(), "title": title, "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
