//! STUN messages (RFC 8489) and the envelopes of TURN (RFC 8656), as far as our sockets have to read them.

/// The first two bytes of a Binding request: a connectivity check, or a question to a STUN server.
pub const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
/// The first two bytes of a Binding success response.
pub const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
/// The first two bytes of an Allocate request.
pub const ALLOCATE_REQUEST: [u8; 2] = [0x00, 0x03];
/// The first two bytes of an error in answer to Allocate.
pub const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];
/// TURN's Send and Data indications, which carry somebody's datagram.
const INDICATIONS: [[u8; 2]; 2] = [[0x00, 0x16], [0x00, 0x17]];

/// The attribute USERNAME (RFC 8489, section 14.3).
pub const USERNAME: u16 = 0x0006;
/// The attribute ERROR-CODE (RFC 8489, section 14.8).
pub const ERROR_CODE: u16 = 0x0009;
/// The attribute DATA (RFC 8656, section 18.4).
const DATA: u16 = 0x0013;

/// Type, length, magic cookie and transaction.
const HEADER: usize = 20;
/// RFC 8489, section 5.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Channel number and length (RFC 8656, section 12.4).
const CHANNEL_HEADER: usize = 4;

/// Whether a datagram is a STUN message.
pub fn is_message(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] < 4 && datagram[4..8] == COOKIE
}

/// Whether a STUN message is a response, of success or error: bit C1 of its type (RFC 8489, section 5).
pub fn is_response(message: &[u8]) -> bool {
    message.first().is_some_and(|first| first & 1 != 0)
}

/// The value of the first attribute of a kind; `None` where there is none or the message is cut off before it.
pub fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut attributes = message.get(HEADER..)?;
    loop {
        let (head, rest) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if u16::from_be_bytes([head[0], head[1]]) == kind {
            return rest.get(..length);
        }
        // Values are padded to four bytes.
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// What an endpoint means by a datagram: its content where it goes to or comes from a relay, itself otherwise.
pub fn content(datagram: &[u8]) -> &[u8] {
    let inner = match datagram {
        // RFC 7983: a channel of TURN.
        [64..=79, _, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            datagram.get(CHANNEL_HEADER..CHANNEL_HEADER + length)
        }
        [first, second, ..] if INDICATIONS.contains(&[*first, *second]) && is_message(datagram) => {
            attribute(datagram, DATA)
        }
        _ => None,
    };
    inner.unwrap_or(datagram)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A STUN message of a type with attributes.
    pub fn message(kind: [u8; 2], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = kind.to_vec();
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(COOKIE);
        message.extend([7; 12]);
        message.extend(body);
        message
    }

    #[test]
    fn attributes_are_found_behind_padded_ones_and_never_beyond_the_end() {
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
    fn a_relay_s_envelope_is_opened() {
        assert_eq!(content(&[0x40, 0, 0, 3, 22, 1, 2, 0]), [22, 1, 2]);
        assert_eq!(content(&message([0, 0x17], &[(0x0012, &[0; 8]), (DATA, &[22, 9])])), [22, 9]);
        for itself in [&[22, 254, 253][..], &[0x40, 0, 0, 9, 22], &[0x40], &[], &message([0, 0x17], &[])] {
            assert_eq!(content(itself), itself);
        }
    }
}
