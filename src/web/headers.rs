//! The headers of all answers: the content security policy, and CORS.

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
use super::authorizer::Authorizer;
use super::credential::{SIGNAL, is_for_programs};
use super::origin::Sender;

/// The request headers that a page of another origin may send.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, If-Match";
/// The response headers that it may read (draft-ietf-wish-whep, section 4; Retry-After so that it knows how long to
/// wait).
const RESPONSE_HEADERS: &str = "Location, ETag, Link, Accept-Post, Accept-Patch, Retry-After";

/// Which pages may embed an answer without being able to read it, such as an image (Fetch, section 3.7).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The pages of other origins that may read an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CorsPolicy {
    /// None.
    Denied,
    /// The page that sends the request, also with credentials.
    Allowed(HeaderValue),
    /// Any page, but without credentials.
    AnyOrigin,
}

/// Adds the security headers to every answer, and answers preflight requests.
pub async fn add_security_headers(State(authorizer): State<Arc<Authorizer>>, request: Request, next: Next) -> Response {
    let sender = authorizer.known_hosts().sender(request.headers());
    let cors_policy = cors_policy(&authorizer, &request, sender);
    let is_component = assets::find(request.uri().path().trim_start_matches('/')).is_some();
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if is_preflight && cors_policy != CorsPolicy::Denied { preflight() } else { next.run(request).await };
    let headers = response.headers_mut();
    // Any page may load the files of the viewer component, and nothing else.
    let is_shared = is_component || sender == Sender::Allowed;
    let policy = if is_shared { "cross-origin" } else { "same-origin" };
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static(policy));
    if let CorsPolicy::Allowed(page) = &cors_policy {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    } else if cors_policy == CorsPolicy::AnyOrigin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    if cors_policy != CorsPolicy::Denied {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    add_protection(headers, authorizer.known_hosts().origins());
    response
}

/// Paths that accept a Bearer are for any page if a secret protects them: the page has to send the secret itself, and
/// no cookie is sent along. Without a secret any page that the user of this machine opens could watch, so only allowed
/// ones may. Any page may learn why its WebSocket is refused.
fn cors_policy(authorizer: &Authorizer, request: &Request, sender: Sender) -> CorsPolicy {
    let path = request.uri().path();
    match (sender, request.headers().get(ORIGIN)) {
        (Sender::Allowed, Some(page)) => CorsPolicy::Allowed(page.clone()),
        _ if path == SIGNAL || authorizer.needs_secret() && is_for_programs(path) => CorsPolicy::AnyOrigin,
        _ => CorsPolicy::Denied,
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

fn add_protection(headers: &mut HeaderMap, allowed_origins: &[String]) {
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
