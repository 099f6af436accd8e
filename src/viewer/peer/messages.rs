//! The peer's part of a DTLS handshake, as far as it has come: which messages, and which pieces of them.
//!
//! Nothing of it is authenticated before both sides have finished, and `rtc-dtls` 0.21.1 takes what comes first. So what
//! no peer sends at this point is told from the rest by what can be seen without keys: the type of a message, its
//! number, its order among the others, and its size (RFC 5246, section 7.4; RFC 6347, section 4.2.2).

use std::cmp::Ordering;
use std::ops::{Range, RangeInclusive};

/// What one side sends before it encrypts, in order: types, the numbers that they can have, and the lengths.
type Order = [(u8, RangeInclusive<u16>, Range<usize>)];

const OF_CLIENT: &Order = &[
    // Versions, random, session and cookie, cipher suites and extensions, among them key shares of hybrid groups.
    (CLIENT_HELLO, 0..=1, 38..4096),
    (CERTIFICATE, 1..=2, 3..MOST_CERTIFICATES),
    // A public key, or a secret under an RSA key of 4096 bits.
    (16, 2..=3, 1..1024),
    (CERTIFICATE_VERIFY, 3..=4, 4..1024),
];
const OF_SERVER: &Order = &[
    // HelloVerifyRequest, which a server may leave out.
    (3, 0..=0, 3..259),
    (2, 0..=1, 38..1024),
    (CERTIFICATE, 1..=2, 3..MOST_CERTIFICATES),
    // A curve, a public key and a signature by RSA.
    (12, 2..=3, 4..1024),
    // CertificateRequest: kinds of keys and signatures, and names of authorities, of which there are few or none.
    (13, 3..=4, 3..4096),
    (14, 3..=5, 0..1),
];
/// Types of handshake messages (RFC 5246, section 7.4).
pub const CLIENT_HELLO: u8 = 1;
const CERTIFICATE: u8 = 11;
const CERTIFICATE_VERIFY: u8 = 15;

/// Bytes of a chain of certificates: one of RSA, with two authorities, has four thousand.
const MOST_CERTIFICATES: usize = 16 * 1024;
/// Type, length, message number, fragment offset and length (RFC 6347, section 4.2.2).
const HEADER: usize = 12;

/// A part in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Begins it.
    Client,
    /// Answers.
    Server,
}

/// A handshake message, or a fragment of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its type.
    pub kind: u8,
    /// Its number among those of its sender.
    pub number: u16,
    length: usize,
    range: Range<usize>,
}

/// The pieces in a record of epoch 0; `None` where they do not fill it.
pub fn pieces(mut content: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while !content.is_empty() {
        let (head, rest) = content.split_first_chunk::<HEADER>()?;
        let number =
            |at: usize| usize::from(head[at]) << 16 | usize::from(head[at + 1]) << 8 | usize::from(head[at + 2]);
        let (length, offset, size) = (number(1), number(6), number(9));
        let piece = Piece {
            kind: head[0],
            number: u16::from_be_bytes([head[4], head[5]]),
            length,
            range: offset..offset + size,
        };
        content = rest.get(size..)?;
        pieces.push(piece);
    }
    (!pieces.is_empty()).then_some(pieces)
}

/// What has come of the peer's messages.
#[derive(Clone, Debug, Default)]
pub struct Messages(Vec<Message>);

#[derive(Clone, Debug)]
struct Message {
    kind: u8,
    number: u16,
    length: usize,
    /// Without gaps from its beginning, once all is there.
    came: Vec<Range<usize>>,
}

impl Messages {
    /// Takes note of a piece; `false` where a peer with this part does not send it.
    pub fn take(&mut self, part: Part, piece: &Piece) -> bool {
        let Some(rank) = rank(part, piece) else { return false };
        let is_in_order = self.0.iter().all(|other| {
            let other_rank = order(part).iter().position(|(kind, ..)| *kind == other.kind);
            // A client says hello twice.
            let is_hello = part == Part::Client && rank == 0 && other_rank == Some(0);
            match other.number.cmp(&piece.number) {
                Ordering::Less => is_hello || other_rank < Some(rank),
                Ordering::Equal => (other.kind, other.length) == (piece.kind, piece.length),
                Ordering::Greater => is_hello || other_rank > Some(rank),
            }
        });
        if !is_in_order {
            return false;
        }
        let known = self.0.iter().position(|message| message.number == piece.number).unwrap_or_else(|| {
            let Piece { kind, number, length, .. } = *piece;
            self.0.push(Message { kind, number, length, came: Vec::new() });
            self.0.len() - 1
        });
        if !self.0[known].came.contains(&piece.range) {
            self.0[known].came.push(piece.range.clone());
        }
        true
    }

    /// The number of the last message that is there with all before it; `None` where the first is not.
    pub fn whole(&self) -> Option<u16> {
        let is_whole = |number: &u16| self.0.iter().any(|message| message.number == *number && message.is_whole());
        (0..).take_while(is_whole).last()
    }

    /// Whether the peer has sent what a client sends before it encrypts.
    pub fn has_verified(&self) -> bool {
        let whole = self.whole();
        self.0.iter().any(|message| message.kind == CERTIFICATE_VERIFY && Some(message.number) <= whole)
    }
}

impl Message {
    fn is_whole(&self) -> bool {
        let mut end = 0;
        while end < self.length {
            let next = self.came.iter().filter(|range| range.start <= end).map(|range| range.end).max();
            match next.filter(|next| *next > end) {
                Some(next) => end = next,
                None => return false,
            }
        }
        !self.came.is_empty()
    }
}

fn order(part: Part) -> &'static Order {
    match part {
        Part::Client => OF_CLIENT,
        Part::Server => OF_SERVER,
    }
}

/// The place of a piece's message in the order of its sender's, if it can be one of them.
fn rank(part: Part, piece: &Piece) -> Option<usize> {
    let Piece { kind, number, length, range } = piece;
    let is_piece = range.end <= *length && (!range.is_empty() || *length == 0);
    let fits = |(one, numbers, lengths): &(u8, RangeInclusive<u16>, Range<usize>)| {
        one == kind && numbers.contains(number) && lengths.contains(length)
    };
    order(part).iter().position(fits).filter(|_| is_piece)
}
