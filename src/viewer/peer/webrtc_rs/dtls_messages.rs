//! The messages and fragments received from the peer in a DTLS handshake.
//!
//! None of this is authenticated before both sides have finished, and `rtc-dtls` 0.21.1 accepts what arrives first. So
//! messages that no peer sends at this point are recognised by what is visible without keys: message type, message
//! number, order among the other messages, and size (RFC 5246, section 7.4; RFC 6347, section 4.2.2).

use std::cmp::Ordering;
use std::ops::{Range, RangeInclusive};

/// The messages that one side sends before it encrypts, in order: type, possible message numbers, and possible lengths.
type MessageOrder = [(u8, RangeInclusive<u16>, Range<usize>)];

const OF_CLIENT: &MessageOrder = &[
    // Versions, random, session id, cookie, cipher suites and extensions, including key shares of hybrid groups.
    (CLIENT_HELLO, 0..=1, 38..4096),
    (CERTIFICATE, 1..=2, 3..MAX_CERTIFICATES),
    // A public key, or a secret encrypted with an RSA key of 4096 bits.
    (16, 2..=3, 1..1024),
    (CERTIFICATE_VERIFY, 3..=4, 4..1024),
];
const OF_SERVER: &MessageOrder = &[
    // HelloVerifyRequest, which a server may leave out.
    (3, 0..=0, 3..259),
    (2, 0..=1, 38..1024),
    (CERTIFICATE, 1..=2, 3..MAX_CERTIFICATES),
    // A curve, a public key and an RSA signature.
    (12, 2..=3, 4..1024),
    // CertificateRequest: types of keys and signatures, and names of authorities, of which there are few or none.
    (13, 3..=4, 3..4096),
    (14, 3..=5, 0..1),
];
/// Types of handshake messages (RFC 5246, section 7.4).
pub const CLIENT_HELLO: u8 = 1;
const CERTIFICATE: u8 = 11;
const CERTIFICATE_VERIFY: u8 = 15;

/// Maximum size of a certificate chain in bytes: an RSA chain with two authorities has four thousand.
const MAX_CERTIFICATES: usize = 16 * 1024;
/// Size of the header: type, length, message number, fragment offset and length (RFC 6347, section 4.2.2).
const HEADER: usize = 12;

/// A role in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsRole {
    /// Starts the handshake.
    Client,
    /// Answers the client.
    Server,
}

/// A fragment of a handshake message, or a whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The message type.
    pub kind: u8,
    /// The message number, counted per sender.
    pub number: u16,
    length: usize,
    range: Range<usize>,
}

/// The fragments in a record of epoch 0; `None` if they do not fill it exactly.
pub fn fragments_in(mut content: &[u8]) -> Option<Vec<Fragment>> {
    let mut fragments = Vec::new();
    while !content.is_empty() {
        let (head, rest) = content.split_first_chunk::<HEADER>()?;
        let number =
            |at: usize| usize::from(head[at]) << 16 | usize::from(head[at + 1]) << 8 | usize::from(head[at + 2]);
        let (length, offset, size) = (number(1), number(6), number(9));
        let fragment = Fragment {
            kind: head[0],
            number: u16::from_be_bytes([head[4], head[5]]),
            length,
            range: offset..offset + size,
        };
        content = rest.get(size..)?;
        fragments.push(fragment);
    }
    (!fragments.is_empty()).then_some(fragments)
}

/// The messages received from the peer so far.
#[derive(Clone, Debug, Default)]
pub struct ReceivedMessages(Vec<Message>);

#[derive(Clone, Debug)]
struct Message {
    kind: u8,
    number: u16,
    length: usize,
    /// The received ranges of its bytes.
    received: Vec<Range<usize>>,
}

impl ReceivedMessages {
    /// Records a fragment. Returns `false` if a peer in this role does not send it.
    pub fn add(&mut self, role: DtlsRole, fragment: &Fragment) -> bool {
        let Some(rank) = rank(role, fragment) else { return false };
        let is_in_order = self.0.iter().all(|other| {
            let other_rank = message_order(role).iter().position(|(kind, ..)| *kind == other.kind);
            // A client sends two ClientHellos.
            let is_hello = role == DtlsRole::Client && rank == 0 && other_rank == Some(0);
            match other.number.cmp(&fragment.number) {
                Ordering::Less => is_hello || other_rank < Some(rank),
                Ordering::Equal => (other.kind, other.length) == (fragment.kind, fragment.length),
                Ordering::Greater => is_hello || other_rank > Some(rank),
            }
        });
        if !is_in_order {
            return false;
        }
        let known = self.0.iter().position(|message| message.number == fragment.number).unwrap_or_else(|| {
            let Fragment { kind, number, length, .. } = *fragment;
            self.0.push(Message { kind, number, length, received: Vec::new() });
            self.0.len() - 1
        });
        if !self.0[known].received.contains(&fragment.range) {
            self.0[known].received.push(fragment.range.clone());
        }
        true
    }

    /// The number of the last message that is complete together with all before it; `None` if the first is not
    /// complete.
    pub fn whole(&self) -> Option<u16> {
        let is_whole = |number: &u16| self.0.iter().any(|message| message.number == *number && message.is_whole());
        (0..).take_while(is_whole).last()
    }

    /// Whether the peer has sent everything that a client sends before it encrypts.
    pub fn is_client_flight_complete(&self) -> bool {
        let whole = self.whole();
        self.0.iter().any(|message| message.kind == CERTIFICATE_VERIFY && Some(message.number) <= whole)
    }
}

impl Message {
    fn is_whole(&self) -> bool {
        let mut end = 0;
        while end < self.length {
            let next = self.received.iter().filter(|range| range.start <= end).map(|range| range.end).max();
            match next.filter(|next| *next > end) {
                Some(next) => end = next,
                None => return false,
            }
        }
        !self.received.is_empty()
    }
}

fn message_order(role: DtlsRole) -> &'static MessageOrder {
    match role {
        DtlsRole::Client => OF_CLIENT,
        DtlsRole::Server => OF_SERVER,
    }
}

/// The position of a fragment's message in its sender's order; `None` if it is not one of them.
fn rank(role: DtlsRole, fragment: &Fragment) -> Option<usize> {
    let Fragment { kind, number, length, range } = fragment;
    let is_piece = range.end <= *length && (!range.is_empty() || *length == 0);
    let fits = |(one, rtp_mapping, lengths): &(u8, RangeInclusive<u16>, Range<usize>)| {
        one == kind && rtp_mapping.contains(number) && lengths.contains(length)
    };
    message_order(role).iter().position(fits).filter(|_| is_piece)
}
