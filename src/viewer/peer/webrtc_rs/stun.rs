//! STUN messages (RFC 8489) and the TURN messages around relayed data (RFC 8656), as far as our sockets read and write
//! them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use rtc::stun::fingerprint::fingerprint_value;

/// The first two bytes of a Binding request: a connectivity check, or a request to a STUN server.
pub const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
/// The first two bytes of a Binding success response.
pub const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
/// The first two bytes of an Allocate request.
pub const ALLOCATE_REQUEST: [u8; 2] = [0x00, 0x03];
/// The first two bytes of an Allocate success response.
pub const ALLOCATE_SUCCESS: [u8; 2] = [0x01, 0x03];
/// The first two bytes of an Allocate error response.
pub const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];
/// The first two bytes of a Refresh request, which extends or releases an allocation.
pub const REFRESH_REQUEST: [u8; 2] = [0x00, 0x04];
/// The first two bytes of a ChannelBind request.
pub const CHANNEL_BIND_REQUEST: [u8; 2] = [0x00, 0x09];
/// The first two bytes of a Send indication, which makes a relay forward a datagram to a peer.
pub const SEND_INDICATION: [u8; 2] = [0x00, 0x16];
/// The first two bytes of a Data indication, with which a relay delivers a peer's datagram.
pub const DATA_INDICATION: [u8; 2] = [0x00, 0x17];

/// The attribute USERNAME (RFC 8489, section 14.3).
pub const USERNAME: u16 = 0x0006;
/// The attribute MESSAGE-INTEGRITY (RFC 8489, section 14.5).
const MESSAGE_INTEGRITY: u16 = 0x0008;
/// The attribute ERROR-CODE (RFC 8489, section 14.8).
pub const ERROR_CODE: u16 = 0x0009;
/// The attribute CHANNEL-NUMBER (RFC 8656, section 18.1).
pub const CHANNEL_NUMBER: u16 = 0x000c;
/// The attribute LIFETIME (RFC 8656, section 18.2).
pub const LIFETIME: u16 = 0x000d;
/// The attribute XOR-PEER-ADDRESS (RFC 8656, section 18.3).
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
/// The attribute DATA (RFC 8656, section 18.4).
pub const DATA: u16 = 0x0013;
/// The attribute XOR-RELAYED-ADDRESS (RFC 8656, section 18.5).
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
/// The attribute XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// The attribute PRIORITY (RFC 8445, section 16.1).
pub const PRIORITY: u16 = 0x0024;
/// The attribute USE-CANDIDATE (RFC 8445, section 16.1).
pub const USE_CANDIDATE: u16 = 0x0025;
/// The attribute FINGERPRINT (RFC 8489, section 14.7).
const FINGERPRINT: u16 = 0x8028;

/// Maximum number of remembered transactions of each kind. One check is sent every 20 ms, and is answered within
/// seconds.
const MAX_TRANSACTIONS: usize = 256;

/// Transaction id, which identifies a request and its response (RFC 8489, section 5).
pub type Transaction = [u8; 12];

/// Size of the header: type, length, magic cookie and transaction id.
const HEADER: usize = 20;
/// Magic cookie (RFC 8489, section 5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Size of an attribute's header: type and length.
const ATTRIBUTE_HEADER: usize = 4;
/// Size of an HMAC-SHA1.
const INTEGRITY_BYTES: usize = 20;
/// Size of the ChannelData header: channel number and length (RFC 8656, section 12.4).
const CHANNEL_HEADER: usize = 4;

/// Whether a datagram is a STUN message.
pub fn is_message(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] < 4 && datagram[4..8] == COOKIE
}

/// Whether a STUN message is a success or error response: bit C1 of its type (RFC 8489, section 5).
pub fn is_response(message: &[u8]) -> bool {
    message.first().is_some_and(|first| first & 1 != 0)
}

/// The transaction id of a STUN message.
pub fn transaction(message: &[u8]) -> Option<Transaction> {
    message.get(8..HEADER)?.try_into().ok()
}

/// The complete attributes of a STUN message, in order: type, value, and offset.
fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, &[u8], usize)> {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let (head, rest) = message.get(at..)?.split_first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let attribute = (u16::from_be_bytes([head[0], head[1]]), rest.get(..length)?, at);
        // Values are padded to four bytes.
        at += ATTRIBUTE_HEADER + length.next_multiple_of(4);
        Some(attribute)
    })
}

/// The value of the first attribute of a type; `None` if there is none or the message is cut off before it.
pub fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(message).find(|(one, ..)| *one == kind).map(|(_, value, _)| value)
}

/// The address in the first attribute of a type, which has to be one of the XOR addresses (RFC 8489, section 14.2).
pub fn address(message: &[u8], kind: u16) -> Option<SocketAddr> {
    let [_, _, high, low, masked @ ..] = attribute(message, kind)? else { return None };
    let port = u16::from_be_bytes([high ^ COOKIE[0], low ^ COOKIE[1]]);
    let mut bytes = masked.to_vec();
    bytes.iter_mut().zip(&message[4..HEADER]).for_each(|(byte, mask)| *byte ^= mask);
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(ip, port))
}

/// A bounded list of transactions with a value for each; the oldest are dropped.
#[derive(Debug)]
pub struct Transactions<T>(VecDeque<(Transaction, T)>);

impl<T> Default for Transactions<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Transactions<T> {
    /// Adds a transaction with its value.
    pub fn note(&mut self, transaction: Transaction, what: T) {
        if self.0.len() == MAX_TRANSACTIONS {
            self.0.pop_front();
        }
        self.0.push_back((transaction, what));
    }

    /// Removes a message's transaction.
    pub fn forget(&mut self, message: &[u8]) {
        self.0.retain(|(one, _)| transaction(message) != Some(*one));
    }

    /// The values of all transactions.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, what)| what)
    }

    /// The value of a message's transaction.
    pub fn find(&self, message: &[u8]) -> Option<&T> {
        let transaction = transaction(message)?;
        self.0.iter().rev().find(|(one, _)| *one == transaction).map(|(_, what)| what)
    }
}

/// A STUN message that is being written.
pub struct Draft(Vec<u8>);

impl Draft {
    /// Starts a message of a type, with a transaction id.
    pub fn new(kind: [u8; 2], transaction: Transaction) -> Self {
        let mut message = kind.to_vec();
        message.extend([0, 0]);
        message.extend(COOKIE);
        message.extend(transaction);
        Self(message)
    }

    /// Adds an attribute. Its value is at most as large as a datagram.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(kind.to_be_bytes());
        self.0.extend((value.len() as u16).to_be_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.set_length(0);
        self
    }

    /// Adds an attribute with an address, in the form of the XOR addresses.
    pub fn with_address(self, kind: u16, address: SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        let (family, mut bytes) = match address.ip() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (2, ip.octets().to_vec()),
        };
        bytes.iter_mut().zip(&self.0[4..HEADER]).for_each(|(byte, mask)| *byte ^= mask);
        let head = [0, family, port[0] ^ COOKIE[0], port[1] ^ COOKIE[1]];
        self.with(kind, &[&head[..], &bytes].concat())
    }

    /// The message without a signature.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// The message with MESSAGE-INTEGRITY made with an ICE password, and with FINGERPRINT (RFC 8445, section 7.1).
    pub fn sign(mut self, password: &str) -> Vec<u8> {
        self.set_length(ATTRIBUTE_HEADER + INTEGRITY_BYTES);
        let integrity = hmac::sign(&key(password), &self.0);
        let mut message = self.with(MESSAGE_INTEGRITY, integrity.as_ref());
        message.set_length(ATTRIBUTE_HEADER + size_of::<u32>());
        let fingerprint = fingerprint_value(&message.0).to_be_bytes();
        message.with(FINGERPRINT, &fingerprint).0
    }

    /// Writes the length into the header: the bytes so far and `more` bytes that will follow.
    fn set_length(&mut self, more: usize) {
        let length = (self.0.len() - HEADER + more) as u16;
        self.0[2..4].copy_from_slice(&length.to_be_bytes());
    }
}

/// The message with another USERNAME, if it has one, and signed with another password.
pub fn signed_again(message: &[u8], name: &str, password: &str) -> Vec<u8> {
    let mut draft = Draft::new([message[0], message[1]], transaction(message).unwrap_or_default());
    for (kind, value, _) in attributes(message) {
        draft = match kind {
            USERNAME => draft.with(kind, name.as_bytes()),
            MESSAGE_INTEGRITY | FINGERPRINT => draft,
            _ => draft.with(kind, value),
        };
    }
    draft.sign(password)
}

/// Whether the sender of a message knows a password: its MESSAGE-INTEGRITY is correct.
pub fn is_signed(message: &[u8], password: &str) -> bool {
    let Some((_, integrity, at)) = attributes(message).find(|(kind, ..)| *kind == MESSAGE_INTEGRITY) else {
        return false;
    };
    // It covers everything before it, with a length that ends at the attribute (RFC 8489, section 14.5).
    let mut covered = message[..at].to_vec();
    let length = (at + ATTRIBUTE_HEADER + INTEGRITY_BYTES - HEADER) as u16;
    covered[2..4].copy_from_slice(&length.to_be_bytes());
    hmac::verify(&key(password), &covered, integrity).is_ok()
}

fn key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

/// The TURN channel number of a datagram (RFC 7983); `None` if it is not ChannelData.
pub fn channel(datagram: &[u8]) -> Option<[u8; 2]> {
    match datagram {
        [first @ 64..=79, second, ..] => Some([*first, *second]),
        _ => None,
    }
}

/// Whether a datagram is a TURN Send or Data indication.
fn is_indication(datagram: &[u8]) -> bool {
    is_message(datagram) && (datagram.starts_with(&SEND_INDICATION) || datagram.starts_with(&DATA_INDICATION))
}

/// The content of a datagram: the inner data if it goes to or comes from a relay, else the datagram itself.
pub fn content(datagram: &[u8]) -> &[u8] {
    let inner = match datagram {
        [_, _, high, low, ..] if channel(datagram).is_some() => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            datagram.get(CHANNEL_HEADER..CHANNEL_HEADER + length)
        }
        _ if is_indication(datagram) => attribute(datagram, DATA),
        _ => None,
    };
    inner.unwrap_or(datagram)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A STUN message of a type with attributes.
    pub fn message(kind: [u8; 2], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let draft = Draft::new(kind, [7; 12]);
        attributes.iter().fold(draft, |draft, (kind, value)| draft.with(*kind, value)).finish()
    }

    #[test]
    fn a_message_is_signed_like_the_samples_of_rfc_5769() {
        // RFC 5769, section 2.2, with its SOFTWARE and padding by spaces, which the signature covers.
        let sample = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
            \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
            \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
            \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
            \x80\x28\x00\x04\xc0\x7d\x4c\x96";
        let password = "VOkJxbRl1RmTxUk/WvJxBt";
        assert!(is_signed(sample, password) && !is_signed(sample, "another"));
        assert_eq!(address(sample, XOR_MAPPED_ADDRESS), Some("192.0.2.1:32853".parse().unwrap()));
        for place in 0..sample.len() - 8 {
            let mut damaged = sample.to_vec();
            damaged[place] ^= 1;
            // The length is written again before it is verified.
            assert!(place / 2 == 1 || !is_signed(&damaged, password), "byte {place}");
            assert!(!is_signed(&sample[..place], password), "cut at {place}");
        }
        let ours = signed_again(sample, "", "another");
        assert!(is_signed(&ours, "another") && !is_signed(&ours, password));
        let fingerprint = fingerprint_value(&ours[..ours.len() - 8]).to_be_bytes();
        assert_eq!(attribute(&ours, FINGERPRINT), Some(&fingerprint[..]));
        assert_eq!(address(&ours, XOR_MAPPED_ADDRESS), address(sample, XOR_MAPPED_ADDRESS));
    }

    #[test]
    fn addresses_survive_writing_and_reading() {
        for text in ["192.0.2.1:1", "[2001:db8::1:2]:65535"] {
            let message = Draft::new(SEND_INDICATION, [9; 12]).with_address(XOR_PEER_ADDRESS, text.parse().unwrap());
            assert_eq!(address(&message.finish(), XOR_PEER_ADDRESS), Some(text.parse().unwrap()));
        }
        let odd = message(SEND_INDICATION, &[(XOR_PEER_ADDRESS, &[0, 1, 2, 3, 4])]);
        assert_eq!(address(&odd, XOR_PEER_ADDRESS), None);
    }

    #[test]
    fn attributes_are_found_after_padding_and_never_beyond_the_end() {
        let whole = message(BINDING_REQUEST, &[(0x8022, b"Coturn!"), (USERNAME, b"us:them")]);
        assert!(is_message(&whole) && !is_response(&whole));
        assert_eq!(attribute(&whole, USERNAME), Some(&b"us:them"[..]));
        assert_eq!(attribute(&whole, DATA), None);
        for end in 0..whole.len() - 1 {
            assert_eq!(attribute(&whole[..end], USERNAME), None, "cut at {end}");
        }
        assert!(is_response(&message(BINDING_SUCCESS, &[])) && is_response(&message(ALLOCATE_ERROR, &[])));
    }

    #[test]
    fn relayed_data_is_unwrapped() {
        assert_eq!(content(&[0x40, 0, 0, 3, 22, 1, 2, 0]), [22, 1, 2]);
        assert_eq!(content(&message([0, 0x17], &[(0x0012, &[0; 8]), (DATA, &[22, 9])])), [22, 9]);
        for itself in [&[22, 254, 253][..], &[0x40, 0, 0, 9, 22], &[0x40], &[], &message([0, 0x17], &[])] {
            assert_eq!(content(itself), itself);
        }
    }
}
