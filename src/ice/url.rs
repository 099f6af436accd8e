//! URLs of STUN and TURN servers (RFC 7064, RFC 7065).

/// The parts of a URL that decide who can use the server.
#[derive(Debug, PartialEq)]
pub struct ServerUrl<'t> {
    /// Whether it is a relay: `turn` or `turns`.
    pub is_relay: bool,
    is_encrypted: bool,
    host: &'t str,
    transport: Option<&'t str>,
}

impl<'t> ServerUrl<'t> {
    /// Parses a URL. The error names it and its fault.
    pub fn parse(url: &'t str) -> Result<Self, String> {
        let known = |scheme: &str| matches!(scheme, "stun" | "stuns" | "turn" | "turns");
        let Some((scheme, rest)) = url.split_once(':').filter(|(scheme, _)| known(scheme)) else {
            return Err(format!("{url} does not begin with stun:, stuns:, turn: or turns:"));
        };
        let (address, query) = rest.split_once('?').map_or((rest, None), |(address, query)| (address, Some(query)));
        let (host, port) = split(address).ok_or_else(|| {
            format!("{url} has no host and port that can be read: write {scheme}:relay.example:3478, without //")
        })?;
        if port.is_some_and(|port| port.parse().unwrap_or(0u16) == 0) {
            return Err(format!("the port of {url} is not from 1 to 65535"));
        }
        let is_relay = scheme.starts_with("turn");
        let transport = query.map(|query| query.strip_prefix("transport=").unwrap_or_default());
        match transport {
            Some(_) if !is_relay => Err(format!("{url} has a query, which only turn: and turns: have")),
            Some(other) if other != "udp" && other != "tcp" => {
                Err(format!("{url} ends in another query than ?transport=udp or ?transport=tcp"))
            }
            _ => Ok(Self { is_relay, is_encrypted: scheme.ends_with('s'), host, transport }),
        }
    }

    /// Why the board itself cannot use the server; viewers can.
    pub fn board_limitation(&self) -> Option<&'static str> {
        if self.is_encrypted {
            return Some("the board has no STUN or TURN over TLS");
        }
        if self.transport == Some("tcp") {
            return Some("the board has no TURN over TCP");
        }
        // The crate joins host and port without brackets, and looks that up as a name.
        (self.is_relay && self.host.contains(':'))
            .then_some("the board reaches relays by name or IPv4 address; give the relay a name")
    }
}

/// Host and port; an IPv6 address has brackets, which are removed.
fn split(address: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (!host.is_empty() && host.chars().all(is_plain)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_in_the_browser_s_form_are_parsed() {
        let usable = ["stun:a.example", "stun:192.0.2.1:3478", "turn:a.example:80", "turn:a?transport=udp"];
        for url in usable {
            assert_eq!(ServerUrl::parse(url).unwrap().board_limitation(), None, "{url}");
        }
        for url in
            ["stuns:a", "turns:a:443", "turn:a?transport=tcp", "turns:a?transport=tcp", "turn:[2001:db8::1]:3478"]
        {
            assert!(ServerUrl::parse(url).unwrap().board_limitation().is_some(), "{url}");
        }
    }

    #[test]
    fn an_invalid_url_is_refused_with_the_fault() {
        let cases = [
            ("http://a", "does not begin with"),
            ("a.example", "does not begin with"),
            ("turn:", "no host"),
            ("turn://a.example", "without //"),
            ("turn:[::1", "no host"),
            ("turn:a b", "no host"),
            ("turn:user@a", "no host"),
            ("turn:a:0", "from 1 to 65535"),
            ("turn:a:99999", "from 1 to 65535"),
            ("turn:a:b", "from 1 to 65535"),
            ("stun:a?transport=udp", "only turn:"),
            ("turn:a?transport=sctp", "another query"),
            ("turn:a?colour=red", "another query"),
        ];
        for (url, fault) in cases {
            let found = ServerUrl::parse(url).unwrap_err();
            assert!(found.contains(fault), "{url}: {found}");
        }
    }
}
