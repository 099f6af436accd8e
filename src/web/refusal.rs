//! Refusals of the HTTP server: problem details (RFC 9457) on WHEP's paths, plain JSON on the others.

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::credential::{is_for_programs, is_whep};

/// The most characters of an origin that are quoted: a scheme, the longest DNS name, and a port.
const MAX_QUOTED: usize = 270;

/// The most bytes of the HTTP library's text: its longest sentence names a field of the query.
const MAX_TEXT: usize = 4096;

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither cookie nor token.
    NoSecret,
    /// A wrong secret.
    WrongSecret,
    /// Too many wrong secrets; the time after which the next one is checked.
    Wait(Duration),
    /// `Host` is not one of this board's names.
    Host,
    /// A page of another origin; the origin, if it is known.
    Origin(Option<String>),
    /// The request's grant does not allow it; the reason.
    NotAllowed(String),
    /// The head of the request contradicts itself; the contradiction.
    BadHead(&'static str),
    /// The request did not end in time.
    Slow,
    /// No such path.
    NotFound,
    /// The body is not what the path accepts.
    BadBody,
    /// The body is not declared as JSON.
    NotJson,
    /// There is no camera of that name.
    UnknownCamera(String),
    /// The camera gives no picture.
    NoPicture(String),
    /// The path is a WebSocket, and the request asks for none.
    NoUpgrade,
    /// A refusal of the HTTP library: its status and reason.
    Http(StatusCode, String),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSecret | Self::WrongSecret => StatusCode::UNAUTHORIZED,
            Self::Wait(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Host | Self::Origin(_) | Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::NotFound | Self::UnknownCamera(_) => StatusCode::NOT_FOUND,
            Self::BadBody | Self::BadHead(_) => StatusCode::BAD_REQUEST,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoPicture(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoUpgrade => StatusCode::UPGRADE_REQUIRED,
            Self::Http(status, _) => *status,
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSecret => "secret-needed",
            Self::WrongSecret => "wrong-secret",
            Self::Wait(_) => "too-many-attempts",
            Self::Host => "unknown-host",
            Self::Origin(_) => "foreign-origin",
            Self::NotAllowed(_) => "not-allowed",
            Self::BadHead(_) => "bad-request",
            Self::Slow => "too-slow",
            Self::NotFound => "not-found",
            Self::BadBody => "bad-body",
            Self::NotJson => "not-json",
            Self::UnknownCamera(_) => "unknown-camera",
            Self::NoPicture(_) => "no-picture",
            Self::NoUpgrade => "no-websocket",
            Self::Http(StatusCode::METHOD_NOT_ALLOWED, _) => "method-not-allowed",
            Self::Http(StatusCode::PAYLOAD_TOO_LARGE, _) => "too-long",
            Self::Http(..) => "bad-request",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::NoSecret => {
                "this camera has a secret: log in at its page, or send `Authorization: Bearer SECRET`".into()
            }
            Self::WrongSecret => "that is not the secret of this camera".into(),
            Self::Wait(pause) => format!("too many wrong attempts; try again in {} s", whole_seconds(*pause)),
            Self::Host => "this camera is not known by the name in `Host` (from a proxy, in `X-Forwarded-Host` or \
                           `Forwarded`); add it to `web.allowed_hosts`"
                .into(),
            Self::Origin(None) => "a page of another origin may not do this; add it to `web.allowed_origins`".into(),
            Self::Origin(Some(page)) => format!(
                "a page of {} may not do this; add that to `web.allowed_origins`. If it is the camera's own page behind a \
                 reverse proxy, have the proxy pass on `Host` as it came, or `X-Forwarded-Host`",
                page.chars().take(MAX_QUOTED).collect::<String>()
            ),
            Self::BadHead(fault) => (*fault).into(),
            Self::Slow => "the request took too long to come".into(),
            Self::NotFound => "there is nothing at this path".into(),
            Self::NotJson => "send the secret as JSON, with `Content-Type: application/json`".into(),
            Self::BadBody => {
                "the body is not {\"secret\":\"..\"}, with \"keep\":\"cookie\" or \"token\" where wanted".into()
            }
            Self::NoUpgrade => {
                "this path is a WebSocket, and the request asks for none; if a page asked for one, a reverse \
                                proxy on the way has to speak HTTP/1.1 to the camera and pass on `Upgrade` and \
                                `Connection`"
                    .into()
            }
            Self::NotAllowed(reason) | Self::UnknownCamera(reason) | Self::NoPicture(reason) => reason.clone(),
            Self::Http(_, reason) => reason.clone(),
        }
    }

    /// Gives a refusal of the HTTP library, which has no body or only text, the body of all refusals. Returns any other
    /// `response` unchanged.
    pub async fn with_body(response: Response, method: &Method, path: &str) -> Response {
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_bare = kind.is_none_or(|kind| kind.starts_with(b"text/plain"));
        if !response.status().is_client_error() || !is_bare {
            return response;
        }
        let (parts, body) = response.into_parts();
        let text = to_bytes(body, MAX_TEXT).await.unwrap_or_default();
        let reason = match parts.status {
            StatusCode::METHOD_NOT_ALLOWED => format!("this path does not take {method}; `Allow` names what it takes"),
            StatusCode::PAYLOAD_TOO_LARGE => "the body is longer than this path takes".into(),
            _ if text.is_empty() => "this is no request that this path takes".into(),
            _ => String::from_utf8_lossy(&text).into_owned(),
        };
        Self::Http(parts.status, reason).respond(path)
    }

    /// The answer to a request for `path`.
    pub fn respond(&self, path: &str) -> Response {
        let (status, mut reason) = (self.status(), self.reason());
        if matches!(self, Self::Origin(_)) && is_for_programs(path) {
            reason +=
                ". Where the camera has a secret, a page of any origin may send it as `Authorization: Bearer SECRET`";
        }
        let mut response = if is_whep(path) {
            let problem = json!({
                "type": "about:blank",
                "title": status.canonical_reason().unwrap_or("Refused"),
                "status": status.as_u16(),
                "detail": reason,
                "code": self.code(),
            });
            let mut response = (status, Json(problem)).into_response();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            response
        } else {
            (status, Json(json!({ "code": self.code(), "reason": reason }))).into_response()
        };
        let headers = response.headers_mut();
        match self {
            Self::Wait(pause) => drop(headers.insert(RETRY_AFTER, whole_seconds(*pause).into())),
            Self::NoPicture(_) => drop(headers.insert(RETRY_AFTER, 2.into())),
            Self::NoUpgrade => drop(headers.insert(UPGRADE, HeaderValue::from_static("websocket"))),
            Self::NoSecret | Self::WrongSecret => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"peercam\""));
            }
            _ => {}
        }
        response
    }
}

/// Rounded up: a client that waits this long is not refused again.
fn whole_seconds(pause: Duration) -> u64 {
    pause.as_millis().div_ceil(1000) as u64
}
