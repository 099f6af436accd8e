//! ICE candidates (RFC 8839, section 5.1): reads those of a viewer that can be used, and writes the board's own.

use std::fmt;
use std::net::IpAddr;

use sdp_types::{AttributeError, CandidateAddress};

/// A candidate that a UDP socket can send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Equal for candidates of the same base and server (RFC 8445, section 5.1.1.3).
    pub foundation: String,
    /// The candidate with the higher priority is tried first.
    pub priority: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its UDP port, never 0.
    pub port: u16,
    /// Its type.
    pub kind: Kind,
}

/// Type of a candidate, by how it was learned (RFC 8445, section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// From an interface.
    Host,
    /// From a STUN server.
    ServerReflexive,
    /// From a check.
    PeerReflexive,
    /// From a TURN server.
    Relayed,
}

impl Kind {
    fn read(word: &str) -> Option<Self> {
        [Self::Host, Self::ServerReflexive, Self::PeerReflexive, Self::Relayed]
            .into_iter()
            .find(|kind| kind.word().eq_ignore_ascii_case(word))
    }

    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relayed => "relay",
        }
    }

    /// RFC 8445, section 5.1.2.2.
    fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PeerReflexive => 110,
            Self::ServerReflexive => 100,
            Self::Relayed => 0,
        }
    }
}

impl Candidate {
    /// Reads a candidate, with or without `candidate:` or `a=candidate:` before it. `None` if the board cannot use it,
    /// which is not an error (RFC 8839, section 5.1: what is not understood is ignored): a transport other than UDP,
    /// the RTCP component, a name instead of an address (a browser hides its own address that way, and checks ours
    /// instead), an address with a zone or one from which nothing can answer, an unknown type, or a priority that is
    /// too large.
    ///
    /// # Errors
    ///
    /// When the text does not have the form of a candidate; the error states what is wrong.
    pub fn read(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        let text = text.strip_prefix("a=").unwrap_or(text);
        let text = text.strip_prefix("candidate:").unwrap_or(text);
        // Extensions and related addresses, after the eighth word, change nothing.
        let words: Vec<_> = text.split_whitespace().take(8).collect();
        let read: sdp_types::Candidate = words.join(" ").parse().map_err(|error: AttributeError| error.to_string())?;
        let CandidateAddress::IpAddr(address) = read.address else { return Ok(None) };
        let (Ok(priority), Some(kind)) = (u32::try_from(read.priority), Kind::read(read.typ.as_str())) else {
            return Ok(None);
        };
        let is_udp = read.component_id == 1 && read.transport.eq_ignore_ascii_case("udp");
        let candidate = Self { foundation: read.foundation, priority, address, port: read.port, kind };
        Ok(Some(candidate).filter(|candidate| is_udp && candidate.port != 0 && can_answer(address)))
    }

    /// All usable candidates among an attribute's values.
    pub(super) fn usable<'a>(values: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Self> {
        values.filter_map(|value| Self::read(value).ok().flatten())
    }

    /// A copy with the priority of the `rank`-th best of its type, counted from 0 (RFC 8445, section 5.1.2.1: no two
    /// candidates of one type have the same priority).
    #[must_use]
    pub fn ranked(self, rank: usize) -> Self {
        let preference = u16::MAX - u16::try_from(rank).unwrap_or(u16::MAX);
        let priority = (self.kind.preference() << 24) | (u32::from(preference) << 8) | 255;
        Self { priority, ..self }
    }
}

/// The form used in a description, without `candidate:`.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { foundation, priority, address, port, kind } = self;
        write!(f, "{foundation} 1 udp {priority} {address} {port} typ {}", kind.word())?;
        // A related address would only reveal addresses of networks that do not concern the viewer; RFC 8839 requires
        // the field to be present all the same.
        match (kind, address) {
            (Kind::Host, _) => Ok(()),
            (_, IpAddr::V4(_)) => f.write_str(" raddr 0.0.0.0 rport 0"),
            (_, IpAddr::V6(_)) => f.write_str(" raddr :: rport 0"),
        }
    }
}

/// Whether an endpoint can answer from this address.
fn can_answer(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !(address.is_unspecified() || address.is_multicast() || address.is_broadcast()),
        // A link-local address needs its link, which a candidate cannot name.
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local()),
    }
}
