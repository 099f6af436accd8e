//! Which names this board answers to, and whose pages may use it.
//!
//! Without a secret, a page from anywhere could be served under a name that it makes lead here (DNS rebinding),
//! and then read everything: so `Host` has to be one of ours. With or without, a page from anywhere can send
//! requests that carry the viewer's cookie: so `Origin`, where it comes along, has to be ours or an allowed one.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};

/// The name or address in `Host: name:port`, without the brackets of IPv6; `None` where that is malformed.
fn host_name(host: &str) -> Option<&str> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    (!name.is_empty()).then_some(name)
}

/// Whether `Host` names this very machine or is in `allowed`.
pub fn is_our_host(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(name) = headers.get(HOST).and_then(|host| host_name(host.to_str().ok()?)) else { return false };
    let name = name.trim_end_matches('.');
    let is_loopback = match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        // RFC 6761, section 6.3: names under localhost never leave the machine.
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
    };
    is_loopback || allowed.iter().any(|host| host.eq_ignore_ascii_case(name))
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// No page (or an old browser's same-origin page): there is no `Origin`.
    NoPage,
    /// Our own page.
    Ours,
    /// A page that the configuration allows.
    Allowed,
    /// Any other page.
    Foreign,
}

/// Whose page sent the request.
pub fn sender(headers: &HeaderMap, allowed: &[String]) -> Sender {
    let Some(origin) = headers.get(ORIGIN) else { return Sender::NoPage };
    let Ok(origin) = origin.to_str() else { return Sender::Foreign };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        // Only the authority is compared: behind a proxy that speaks TLS the schemes differ.
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host) => Sender::Ours,
        _ if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) => Sender::Allowed,
        _ => Sender::Foreign,
    }
}

/// Whether `text` is a scheme and an authority and nothing else (RFC 6454, section 6.2).
pub fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    authority.is_some_and(|authority| !authority.contains(['/', '?', '#', '@', '*', ';', ' ', ',']))
        && text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

/// Whether `text` is a name or address without scheme, port and path.
pub fn is_host(text: &str) -> bool {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    is_name || text.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_machine_and_allowed_ones_are_ours() {
        let allowed = ["camera.example".to_owned()];
        for ours in [
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "a.localhost",
            "Camera.Example:443",
        ] {
            assert!(is_our_host(&headers(ours, None), &allowed), "{ours}");
        }
        for other in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]:80",
            "[::1",
            ":80",
            "",
        ] {
            assert!(!is_our_host(&headers(other, None), &allowed), "{other}");
        }
        assert!(!is_our_host(&HeaderMap::new(), &allowed));
    }

    #[test]
    fn a_page_is_ours_by_host_and_port() {
        let allowed = ["https://home.example".to_owned()];
        let cases = [
            (None, Sender::NoPage),
            (Some("http://127.0.0.1:8080"), Sender::Ours),
            (Some("https://127.0.0.1:8080"), Sender::Ours),
            (Some("http://127.0.0.1:8081"), Sender::Foreign),
            (Some("https://home.example"), Sender::Allowed),
            (Some("https://home.example.evil"), Sender::Foreign),
            (Some("null"), Sender::Foreign),
        ];
        for (origin, expected) in cases {
            assert_eq!(sender(&headers("127.0.0.1:8080", origin), &allowed), expected, "{origin:?}");
        }
    }

    #[test]
    fn origins_and_hosts_of_the_configuration_are_checked() {
        for origin in ["https://home.example", "http://10.0.0.2:81", "http://[::1]:8080"] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in ["home.example", "https://", "https://a/", "https://*", "*", "ftp://a", "https://a; script-src *"]
        {
            assert!(!is_origin(other), "{other}");
        }
        assert!(is_host("camera.example") && is_host("::1") && is_host("10.0.0.1"));
        assert!(!is_host("camera.example:80") && !is_host("http://a") && !is_host(""));
    }
}
