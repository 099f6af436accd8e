//! The headers that all answers have: what the page may load, and which other pages may read the answers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_SECURITY_POLICY,
    ORIGIN, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::guard::Guard;
use super::origin;
use super::origin::Sender;

/// What a page of another origin may send along.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, If-Match";
/// What it may see (draft-ietf-wish-whep, section 4; Retry-After so that it knows how long to wait).
const RESPONSE_HEADERS: &str = "Location, ETag, Link, Accept-Post, Accept-Patch, Retry-After";

/// Adds the headers to every answer, and answers the question that a browser asks before a foreign page's request.
pub async fn dress(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let readers = readers(&guard, &request);
    let is_question =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&readers, is_question) {
        (Some(_), true) => preflight(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(readers) = readers {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, readers);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    protect(headers, guard.allowed_origins());
    response
}

/// Which pages may read the answer besides our own.
///
/// WHEP's is for any page where a secret protects it: the page has to send the Bearer itself, and no cookie comes
/// along. Without a secret any page that the user of this machine opens could watch, so only allowed ones may.
fn readers(guard: &Guard, request: &Request) -> Option<HeaderValue> {
    if request.uri().path().starts_with("/whep") && guard.is_locked() {
        return Some(HeaderValue::from_static("*"));
    }
    match origin::sender(request.headers(), guard.allowed_origins()) {
        Sender::Allowed => request.headers().get(ORIGIN).cloned(),
        Sender::NoPage | Sender::Ours | Sender::Foreign => None,
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
