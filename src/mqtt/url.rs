//! The broker's URL: `mqtt://`, `mqtts://`, `ws://` or `wss://`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// The transport of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// On TCP.
    Mqtt,
    /// On TLS.
    Mqtts,
    /// In a WebSocket.
    Ws,
    /// In a WebSocket on TLS.
    Wss,
}

/// Brokers ignore the path, or use this one (EMQX, HiveMQ, and most that are behind a proxy).
const USUAL_PATH: &str = "/mqtt";

/// The broker's address. Displayed without path and query, which may hold a token.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url {
    scheme: Scheme,
    /// An IPv6 address has no brackets here.
    host: String,
    port: u16,
    /// Path and query of a WebSocket.
    path: String,
}

/// Serialized as it is displayed: path and query may be secret.
impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Scheme {
    const ALL: [Self; 4] = [Self::Mqtt, Self::Mqtts, Self::Ws, Self::Wss];

    fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// The ports that IANA has registered for MQTT, and those of the web.
    fn usual_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// Whether the broker presents a certificate.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    fn is_web(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl Url {
    /// The transport of MQTT.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name or an address; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host with its port, as HTTP writes it.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The same URL with this address as its host.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Self {
        Self { host: address.to_string(), ..self.clone() }
    }

    /// What is requested over HTTP, as text for people. A configured path is not shown, since it may hold a token.
    pub fn http_path_hint(&self) -> Option<&'static str> {
        self.scheme.is_web().then(|| match self.path == USUAL_PATH {
            true => {
                "it was asked for /mqtt, as it is where `mqtt.url` has no path: write the broker's own behind the port"
            }
            false => "it was asked for the path that stands there",
        })
    }

    /// The whole URL, as an HTTP request needs it.
    pub fn in_full(&self) -> String {
        format!("{self}{}", self.path)
    }
}

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with one of the four schemes.
    #[error("does not begin with mqtt:// (elsewhere tcp://), mqtts:// (elsewhere ssl:// or tls://), ws:// or wss://")]
    Scheme,
    /// `user:password@` would be shown wherever the URL is shown.
    #[error("has a user or password in it: use the keys `user` and `password_file` instead")]
    UserInfo,
    /// Neither a name nor an address.
    #[error("has no host after `{0}://`, or one with characters that a host does not have")]
    Host(&'static str),
    /// Not a number, or not a port number.
    #[error("has `{0}` for a port, which is not 1 to 65535")]
    Port(String),
    /// TCP has no paths.
    #[error("has a path, which only ws:// and wss:// have; the topics' prefix is the key `prefix`")]
    Path,
    /// A blank, or a character that HTTP does not allow there.
    #[error("has a path with a blank or a character that is not ASCII")]
    PathCharacter,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let scheme =
            Scheme::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(scheme)).ok_or(UrlError::Scheme)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) => (address, port),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_valid_host = match authority.starts_with('[') {
            true => host.parse::<std::net::Ipv6Addr>().is_ok(),
            // Host names have no underscore, but names of containers do.
            false => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        };
        if !is_valid_host {
            return Err(UrlError::Host(scheme.name()));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => scheme.usual_port(),
            None => return Err(UrlError::Host(scheme.name())),
            Some(number) => match number.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(UrlError::Port(number.into())),
            },
        };
        if !scheme.is_web() && !["", "/"].contains(&path) {
            return Err(UrlError::Path);
        }
        if !path.chars().all(|c| c.is_ascii_graphic() && c != '#') {
            return Err(UrlError::PathCharacter);
        }
        let path = if scheme.is_web() && path.is_empty() { USUAL_PATH } else { path };
        Ok(Self { scheme, host: host.into(), port, path: path.into() })
    }
}

impl TryFrom<String> for Url {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_parts_have_default_values() {
        let cases = [
            ("mqtt://broker", "mqtt://broker:1883", "mqtt://broker:1883"),
            ("MQTT://broker", "mqtt://broker:1883", "mqtt://broker:1883"),
            ("mqtt://192.0.2.7:1884/", "mqtt://192.0.2.7:1884", "mqtt://192.0.2.7:1884/"),
            ("mqtts://broker.example", "mqtts://broker.example:8883", "mqtts://broker.example:8883"),
            ("mqtts://[2001:db8::1]:88", "mqtts://[2001:db8::1]:88", "mqtts://[2001:db8::1]:88"),
            ("ws://broker", "ws://broker:80", "ws://broker:80/mqtt"),
            ("wss://broker:9001/", "wss://broker:9001", "wss://broker:9001/"),
            ("wss://[::1]/a?token=b", "wss://[::1]:443", "wss://[::1]:443/a?token=b"),
        ];
        for (text, shown, whole) in cases {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.in_full().as_str()), (shown, whole), "{text}");
            assert!(!format!("{url:?}").contains("token"), "{url:?}");
        }
        assert_eq!("mqtts://[2001:db8::1]".parse::<Url>().unwrap().host(), "2001:db8::1");
    }

    #[test]
    fn an_invalid_url_is_refused_with_the_fault() {
        let cases = [
            ("", UrlError::Scheme),
            ("broker:1883", UrlError::Scheme),
            ("http://broker", UrlError::Scheme),
            ("tcp://broker", UrlError::Scheme),
            ("mqtt://me:secret@broker", UrlError::UserInfo),
            ("mqtt://", UrlError::Host("mqtt")),
            ("mqtt://:1883", UrlError::Host("mqtt")),
            ("mqtt://a b", UrlError::Host("mqtt")),
            ("mqtt://[broker]", UrlError::Host("mqtt")),
            ("mqtt://[::1]1883", UrlError::Host("mqtt")),
            ("mqtt://[::1", UrlError::Host("mqtt")),
            ("mqtt://broker:0", UrlError::Port("0".into())),
            ("mqtt://broker:65536", UrlError::Port("65536".into())),
            ("mqtt://broker:", UrlError::Port(String::new())),
            ("mqtts://broker/peercam", UrlError::Path),
            ("mqtts://broker?a", UrlError::Path),
            ("ws://broker/a b", UrlError::PathCharacter),
            ("ws://broker/ü", UrlError::PathCharacter),
            ("ws://broker/a#b", UrlError::PathCharacter),
        ];
        for (text, wrong) in cases {
            assert_eq!(text.parse::<Url>(), Err(wrong), "{text}");
        }
    }
}
