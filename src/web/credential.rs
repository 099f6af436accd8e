//! The credential of a request, besides a cookie: the secret, or a session that the page keeps.

use axum::extract::{Query, Request};
use axum::http::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::origin;

/// The path of the WebSocket; only this path accepts a credential in its URL.
pub const SIGNAL: &str = "/api/signal";

/// Paths that programs and people open by a URL with `user:password@` in it, which works with Basic only.
const BASIC_PATHS: [&str; 3] = ["/snapshot.jpg", "/api/status", "/metrics"];

/// By convention, scripts set it so that the browser does not ask for user and password.
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// A secret or session, by the way in which it was sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer(String),
    /// `?token=` in the URL of a WebSocket, to which a page cannot add a header.
    Token(String),
    /// `Authorization: Basic` (RFC 7617), which browsers add by themselves once a user has typed it in.
    Basic(String),
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
}

impl Credential {
    /// The credential of `request`; `None` if it has none that its path accepts.
    pub fn of(request: &Request) -> Option<Self> {
        let (headers, path) = (request.headers(), request.uri().path());
        if let Some((scheme, rest)) = authorization(headers) {
            if scheme.eq_ignore_ascii_case("bearer") {
                return Some(Self::Bearer(rest.to_owned()));
            }
            if scheme.eq_ignore_ascii_case("basic") && is_for_programs(path) {
                return password(rest).map(Self::Basic);
            }
        }
        // Any page can load an image from this URL, but an image cannot ask for an upgrade.
        if path != SIGNAL || !is_upgrade(headers) {
            return None;
        }
        Query::<Token>::try_from_uri(request.uri()).ok()?.0.token.map(Self::Token)
    }

    /// Whether a page of any origin may send it to `path`: the page has added it itself, and its browser has asked in a
    /// preflight whether it may.
    pub fn is_for_any_page(&self, path: &str) -> bool {
        matches!(self, Self::Bearer(_)) && is_for_programs(path)
    }

    /// The secret or session.
    pub fn text(&self) -> &str {
        match self {
            Self::Bearer(text) | Self::Token(text) | Self::Basic(text) => text,
        }
    }
}

/// Whether `path` is WHEP's endpoint or one of its sessions.
pub fn is_whep(path: &str) -> bool {
    path == "/whep" || path.starts_with("/whep/")
}

/// Whether `path` is for programs, and pages of any origin, that send the secret with each request: as Bearer, or as
/// the password of HTTP Basic.
pub fn is_for_programs(path: &str) -> bool {
    is_whep(path) || BASIC_PATHS.contains(&path)
}

/// Whether a refusal of `path` offers Basic. A browser answers that with its own dialog before a script sees the
/// refusal, so it is offered only to programs and for URLs that a person opens.
pub fn offers_basic(path: &str, headers: &HeaderMap) -> bool {
    is_for_programs(path) && !headers.contains_key(REQUESTED_WITH) && origin::is_opened(headers).unwrap_or(true)
}

/// Whether the request asks for a WebSocket (RFC 6455, section 4.1).
fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name, wanted: &str| {
        let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    has(UPGRADE, "websocket") && has(CONNECTION, "upgrade")
}

fn authorization(headers: &HeaderMap) -> Option<(&str, &str)> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some((scheme, rest.trim()))
}

/// The text after the first colon of `user:password`; the user does not matter.
fn password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn of(path: &str, headers: &[(&str, &str)]) -> Option<Credential> {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Credential::of(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn the_password_of_any_user_is_accepted_on_paths_for_basic_authentication() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (text, password) in [("x:secret", "secret"), (":secret", "secret"), ("a:b:c ", "b:c "), ("user:", "")] {
            let sent = basic(text);
            assert_eq!(of("/whep", &[("authorization", &sent)]), Some(Credential::Basic(password.into())), "{text}");
        }
        let sent = basic("x:secret");
        for path in ["/whep/", "/whep/1", "/snapshot.jpg?camera=a", "/api/status", "/metrics"] {
            assert!(of(path, &[("authorization", &sent)]).is_some(), "{path}");
        }
        for path in ["/", "/api/signal", "/whepx", "/api/login"] {
            assert_eq!(of(path, &[("authorization", &sent)]), None, "{path}");
        }
        for odd in ["Basic", "Basic ", "Basic !!!", "Basic c2VjcmV0", "Basic /w==", "Digest x=y"] {
            assert_eq!(of("/whep", &[("authorization", odd)]), None, "{odd}");
        }
    }

    #[test]
    fn a_token_in_the_url_counts_only_with_an_upgrade() {
        let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        let token = Some(Credential::Token("correct horse".into()));
        assert_eq!(of("/api/signal?token=correct%20horse", &upgrade), token);
        assert_eq!(of("/api/signal?token=x", &[]), None);
        assert_eq!(of("/api/signal?token=x", &upgrade[..1]), None);
        assert_eq!(of("/api/signal?token=x", &upgrade[1..]), None);
        assert_eq!(of("/whep?token=x", &upgrade), None);
    }

    #[test]
    fn basic_authentication_is_not_offered_to_scripts() {
        let names = |path, headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            offers_basic(path, &HeaderMap::from_iter(headers))
        };
        assert!(names("/snapshot.jpg", &[]) && names("/whep/1", &[("sec-fetch-mode", "navigate")]));
        assert!(!names("/api/status", &[("sec-fetch-mode", "cors")]));
        assert!(!names("/api/status", &[("x-requested-with", "XMLHttpRequest")]));
        assert!(!names("/api/signal", &[]) && !names("/", &[]));
    }
}
