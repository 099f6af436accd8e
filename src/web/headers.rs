//! The headers that all answers have: what the page may load, and which other pages may read the answers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    CONTENT_SECURITY_POLICY, ORIGIN, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::assets;
use super::credential::{SIGNAL, is_for_programs};
use super::guard::Guard;
use super::origin::Sender;

/// What a page of another origin may send along.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, If-Match";
/// What it may see (draft-ietf-wish-whep, section 4; Retry-After so that it knows how long to wait).
const RESPONSE_HEADERS: &str = "Location, ETag, Link, Accept-Post, Accept-Patch, Retry-After";

/// Who may put an answer into a page without being able to read it, as an image, say (Fetch, section 3.7).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Which pages of other origins may read an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Readers {
    /// None.
    Nobody,
    /// The one that asks, and with what its browser adds by itself.
    Allowed(HeaderValue),
    /// Any, but without what its browser would add.
    Anybody,
}

/// Adds the headers to every answer, and answers the question that a browser asks before a foreign page's request.
pub async fn dress(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let sender = guard.names().sender(request.headers());
    let readers = readers(&guard, &request, sender);
    let is_component = assets::find(request.uri().path().trim_start_matches('/')).is_some();
    let is_question =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_question && readers != Readers::Nobody { preflight() } else { next.run(request).await };
    let headers = response.headers_mut();
    // Any page may show what the viewer component is made of, and nothing else.
    let is_shared = is_component || sender == Sender::Allowed;
    let policy = if is_shared { "cross-origin" } else { "same-origin" };
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static(policy));
    if let Readers::Allowed(page) = &readers {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    } else if readers == Readers::Anybody {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    if readers != Readers::Nobody {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    protect(headers, guard.names().origins());
    response
}

/// What takes a Bearer is for any page where a secret protects it: the page has to send that itself, and no cookie
/// comes along. Without a secret any page that the user of this machine opens could watch, so only allowed ones may.
/// Why its WebSocket is refused any page may know.
fn readers(guard: &Guard, request: &Request, sender: Sender) -> Readers {
    let path = request.uri().path();
    match (sender, request.headers().get(ORIGIN)) {
        (Sender::Allowed, Some(page)) => Readers::Allowed(page.clone()),
        _ if path == SIGNAL || guard.is_locked() && is_for_programs(path) => Readers::Anybody,
        _ => Readers::Nobody,
    }
}

fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        // An hour: the answer changes only with the configuration.
        (ACCESS_CONTROL_MAX_AGE, "3600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn protect(headers: &mut HeaderMap, allowed_origins: &[String]) {
    // `ws:` and `wss:` because Safari before 15.4 does not count them to 'self'; data: and blob: for stills.
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
         media-src 'self' blob: mediastream:; connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'self' {}",
        allowed_origins.join(" ")
    );
    let policy = HeaderValue::from_str(policy.trim_end()).expect("origins are checked to be plain");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}
