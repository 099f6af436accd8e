//! The host names of this board, and the origins whose pages may use it.
//!
//! Without a secret, a page from anywhere could make a name of its own resolve to this board (DNS rebinding), and then
//! read everything: so `Host` has to be one of ours. With or without a secret, a page from anywhere can send requests
//! that have the viewer's cookie: so the page that sends them has to be ours or an allowed one.
//!
//! Behind a reverse proxy the browser and the board know different names. The browser's name as the proxy reports it
//! (`X-Forwarded-Host`, `Forwarded`) is used to recognise our own page, whatever client sent it: a page of another
//! origin cannot set these fields, neither on a WebSocket nor without a preflight (Fetch, section 4.8), and a client
//! that is not a browser has no cookie to misuse. It never replaces `Host` in the check against DNS rebinding, since a
//! page can set it for its own origin.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::header::{FORWARDED, HOST, ORIGIN, REFERER};
use axum::http::{HeaderMap, HeaderName, Method, Uri, Version};

use super::Config;

/// How the page that sends a request relates to us, as its browser reports it (Fetch Metadata). Browsers send it over
/// https and to loopback only.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The mode of the request: whether a person opens the URL, or a page or script uses it.
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// Where the answer will be shown or used.
const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// The `Host` that a proxy received.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// No page, as far as is known.
    NoPage,
    /// Our own page.
    Ours,
    /// A page that the configuration allows.
    Allowed,
    /// Any other page.
    Foreign,
}

/// The host names of the board, and the origins that may use it.
#[derive(Debug)]
pub struct KnownHosts {
    hosts: Vec<String>,
    origins: Vec<String>,
    /// Whether browsers leave out the port when they connect to the board directly.
    is_default_port: bool,
}

impl KnownHosts {
    /// As configured, for a board that listens at `port`.
    pub fn new(config: &Config, port: u16) -> Self {
        Self {
            hosts: config.allowed_hosts.clone(),
            origins: config.allowed_origins.clone(),
            is_default_port: [80, 443].contains(&port),
        }
    }

    /// Other origins whose pages may use this board.
    pub fn origins(&self) -> &[String] {
        &self.origins
    }

    /// Whether all names by which the request claims to have reached us belong to this machine or are allowed.
    pub fn are_ours(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        host.into_iter().chain(forwarded_hosts(headers)).all(|host| self.is_ours(host)) && host.is_some()
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some((name, _)) = split(host) else { return false };
        let name = name.trim_end_matches('.');
        let is_loopback = match name.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            // RFC 6761, section 6.3: names under localhost never leave the machine.
            Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
        };
        is_loopback || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }

    /// The kind of page that sent the request.
    pub fn sender(&self, headers: &HeaderMap) -> Sender {
        let site = word(headers, &SITE);
        let is_elsewhere = matches!(site, Some("cross-site" | "same-site"));
        let page = match headers.get(ORIGIN) {
            Some(origin) => origin.to_str().ok(),
            // Links, images and frames send no Origin. Their page can hide its address, but not forge another one.
            None if is_elsewhere => word(headers, &REFERER).and_then(origin_of),
            None => return Sender::NoPage,
        };
        let Some(page) = page else { return Sender::Foreign };
        if site == Some("same-origin") || self.is_own_page(page, headers, is_elsewhere) {
            Sender::Ours
        } else if self.origins.iter().any(|allowed| without_default_port(allowed) == without_default_port(page)) {
            Sender::Allowed
        } else {
            Sender::Foreign
        }
    }

    /// Only names and ports are compared: behind a proxy that speaks TLS the schemes differ.
    fn is_own_page(&self, origin: &str, headers: &HeaderMap, is_elsewhere: bool) -> bool {
        let Some((_, page)) = origin.split_once("://") else { return false };
        let is_same = |host: &str, may_lack_port: bool| {
            // nginx's `$host` has no port. Other ports of the same name get its cookies anyway.
            let lacks_port = may_lack_port && !is_elsewhere && split(host).is_some_and(|(_, port)| port.is_none());
            let page = if lacks_port { split(page).map(|(name, _)| name) } else { Some(page) };
            let host = if lacks_port { split(host).map(|(name, _)| name) } else { Some(host) };
            page.zip(host).is_some_and(|(page, host)| is_same_authority(page, host))
        };
        word(headers, &HOST).is_some_and(|host| is_same(host, !self.is_default_port))
            || forwarded_hosts(headers).any(|host| is_same(host, true))
    }
}

/// What is wrong with the host names in the request's head; nothing could rely on them then (RFC 9112, section 3.2).
pub fn host_fault(request: &Request) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Some("the request has more than one `Host`");
    }
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Some("the request has no `Host`");
    }
    let target = request.uri().authority().map(|authority| authority.as_str());
    let contradicts = target.zip(host).is_some_and(|(target, host)| {
        // The board itself serves HTTP only, whose port a client may write or leave out.
        let port = |authority| split(authority).map(|(name, port)| (name, port.unwrap_or("80")));
        let host = host.to_str().ok().and_then(port);
        !port(target).zip(host).is_some_and(|((one, at), (other, to))| at == to && is_same_authority(one, other))
    });
    contradicts.then_some("the request's target names another host than its `Host`")
}

/// Whether a person opens the URL in a window, tab or frame, rather than a page or script that uses it; `None` if the
/// browser does not report it, or no browser sent the request.
pub fn is_opened(headers: &HeaderMap) -> Option<bool> {
    word(headers, &MODE).map(|mode| mode == "navigate")
}

/// Whether the URL is opened within another page.
pub fn is_frame(headers: &HeaderMap) -> bool {
    matches!(word(headers, &DESTINATION), Some("iframe" | "frame" | "embed" | "object"))
}

/// Whether the page that sends this was loaded over https, whatever is between it and us.
pub fn is_over_https(headers: &HeaderMap) -> bool {
    word(headers, &ORIGIN).is_some_and(|origin| origin.starts_with("https://"))
}

/// Whether a method is one that changes nothing (RFC 9110, section 9.2.1).
pub fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
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

/// The name or address in `name:port`, without the brackets of IPv6, and the port; `None` if that is malformed.
fn split(host: &str) -> Option<(&str, Option<&str>)> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            (name, rest.strip_prefix(':'))
        }
        None => host.rsplit_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    (!name.is_empty()).then_some((name, port))
}

/// The hosts that proxies report to have received, from the outermost on (RFC 7239, section 5.3).
fn forwarded_hosts(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = |name| headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let by_convention = lines(FORWARDED_HOST).flat_map(|line| line.split(',')).map(str::trim);
    let pairs = lines(FORWARDED).flat_map(|line| line.split([',', ';'])).filter_map(|pair| pair.split_once('='));
    let by_standard = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("host"));
    by_convention.chain(by_standard.map(|(_, host)| host.trim().trim_matches('"')))
}

/// Whether two names are the same, with the same port if they have one. Some proxies remove the dot at the end of a
/// name, which makes it absolute (RFC 1034, section 3.1).
fn is_same_authority(one: &str, other: &str) -> bool {
    let without_dot = |authority: &str| {
        let (name, port) = split(authority).unwrap_or((authority, None));
        (name.trim_end_matches('.').to_ascii_lowercase(), port.map(str::to_owned))
    };
    without_dot(one) == without_dot(other)
}

fn without_default_port(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let port = if origin.starts_with("https:") { ":443" } else { ":80" };
    origin.strip_suffix(port).map(str::to_owned).unwrap_or(origin)
}

/// The origin of a page's address.
fn origin_of(address: &str) -> Option<&str> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(&address[..scheme.len() + 3 + authority.len()])
}

fn word<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const BROWSER: [(&str, &str); 2] = [("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")];

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn names(port: u16) -> KnownHosts {
        let allowed_origins = vec!["https://home.example".into(), "https://Odd.example:443".into()];
        let config = Config { allowed_hosts: vec!["camera.example".into()], allowed_origins, ..Config::default() };
        KnownHosts::new(&config, port)
    }

    #[test]
    fn only_loopback_names_and_allowed_names_are_ours() {
        let names = names(8080);
        for ours in [
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "a.localhost",
            "Camera.Example:443",
        ] {
            assert!(names.are_ours(&headers(&[("host", ours)])), "{ours}");
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
            assert!(!names.are_ours(&headers(&[("host", other)])), "{other}");
        }
        assert!(!names.are_ours(&HeaderMap::new()));
    }

    #[test]
    fn a_forwarded_name_does_not_make_a_foreign_host_ours() {
        let names = names(8080);
        for name in ["x-forwarded-host", "forwarded"] {
            let add = |host: &str| if name == "forwarded" { format!("for=1;host=\"{host}\"") } else { host.to_owned() };
            let cases = [
                ("evil.example", "localhost", false),
                ("localhost:8080", "evil.example", false),
                ("localhost:8080", "camera.example", true),
            ];
            for (host, added, expected) in cases {
                let sent = headers(&[("host", host), (name, &add(added))]);
                assert_eq!(names.are_ours(&sent), expected, "{sent:?}");
            }
        }
        assert!(!names.are_ours(&headers(&[("host", "localhost"), ("x-forwarded-host", "localhost, evil.example")])));
    }

    #[test]
    fn our_own_page_has_the_same_host_and_port() {
        let cases = [
            (None, Sender::NoPage),
            (Some("http://127.0.0.1:8080"), Sender::Ours),
            (Some("https://127.0.0.1:8080"), Sender::Ours),
            (Some("http://127.0.0.1:8081"), Sender::Foreign),
            (Some("https://home.example"), Sender::Allowed),
            (Some("https://odd.example"), Sender::Allowed),
            (Some("https://home.example.evil"), Sender::Foreign),
            (Some("null"), Sender::Foreign),
        ];
        for (origin, expected) in cases {
            let sent: Vec<_> = [BROWSER[0]].into_iter().chain(origin.map(|origin| ("origin", origin))).collect();
            assert_eq!(names(8080).sender(&headers(&sent)), expected, "{origin:?}");
        }
    }

    /// What proxies make of a browser's request to http://cam.example:21000, and to https://cam.example.
    #[test]
    fn behind_a_proxy_our_own_page_is_recognised_by_forwarded_headers() {
        let odd_port = ("origin", "http://cam.example:21000");
        let tls = ("origin", "https://cam.example");
        let upstream = ("host", "127.0.0.1:8080");
        for sent in [
            &[odd_port, ("host", "cam.example:21000")][..],
            &[odd_port, ("host", "cam.example")],
            &[odd_port, upstream, ("x-forwarded-host", "cam.example:21000")],
            &[odd_port, upstream, ("x-forwarded-host", "cam.example")],
            &[odd_port, upstream, ("x-forwarded-host", "cam.example, inner.example")],
            &[odd_port, upstream, ("forwarded", "for=192.0.2.1;host=\"cam.example:21000\";proto=http, for=10.0.0.1")],
            &[tls, ("host", "cam.example")],
            &[tls, ("host", "cam.example"), ("sec-fetch-site", "same-origin")],
            &[tls, upstream, ("sec-fetch-site", "same-origin")],
            &[tls, ("host", "cam.example"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://cam.example.:21000"), ("host", "cam.example")],
            &[tls, ("host", "CAM.example.")],
        ] {
            assert_eq!(names(8080).sender(&headers(sent)), Sender::Ours, "{sent:?}");
        }
        for sent in [
            &[odd_port, upstream][..],
            &[odd_port, ("host", "cam.example:21001")],
            &[odd_port, upstream, ("x-forwarded-host", "cam.example:21001")],
            &[odd_port, ("host", "cam.example"), ("sec-fetch-site", "same-site")],
            &[("origin", "http://evil.example"), ("host", "cam.example")],
        ] {
            assert_eq!(names(8080).sender(&headers(sent)), Sender::Foreign, "{sent:?}");
        }
        // A browser that connects directly leaves out a default port: a page with another port is another page.
        assert_eq!(names(80).sender(&headers(&[odd_port, ("host", "cam.example")])), Sender::Foreign);
    }

    #[test]
    fn without_an_origin_fetch_metadata_counts() {
        let host = ("host", "127.0.0.1:8080");
        let referer = |address| ("referer", address);
        let cases = [
            (vec![("sec-fetch-site", "none")], Sender::NoPage),
            (vec![("sec-fetch-site", "same-origin")], Sender::NoPage),
            (vec![("sec-fetch-site", "cross-site")], Sender::Foreign),
            (vec![("sec-fetch-site", "same-site")], Sender::Foreign),
            (vec![("sec-fetch-site", "cross-site"), referer("https://home.example/")], Sender::Allowed),
            (vec![("sec-fetch-site", "cross-site"), referer("https://home.example.evil/")], Sender::Foreign),
            (vec![("sec-fetch-site", "cross-site"), referer("https://evil/?https://home.example/")], Sender::Foreign),
        ];
        for (mut sent, expected) in cases {
            sent.push(host);
            assert_eq!(names(8080).sender(&headers(&sent)), expected, "{sent:?}");
        }
    }

    #[test]
    fn a_contradictory_request_head_is_a_fault() {
        let request = |target: &str, hosts: &[&str]| {
            let request = Request::builder().uri(target);
            let request = hosts.iter().fold(request, |request, host| request.header("host", *host));
            host_fault(&request.body(Body::empty()).unwrap()).is_some()
        };
        assert!(!request("/", &["a:1"]) && !request("http://a:1/", &["A:1"]));
        assert!(request("/", &[]) && request("/", &["a", "a"]) && request("/", &["a", "b"]));
        assert!(request("http://evil/", &["localhost"]) && request("http://a:2/", &["a:1"]));
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
