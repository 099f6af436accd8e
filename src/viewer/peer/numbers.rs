//! The numbers under which a viewer takes a stream: payload types and ids of header extensions.
//!
//! The stack refuses packets with others than it was told at first. So it is told of numbers of ours
//! ([`STACK_VIDEO`](crate::sdp::STACK_VIDEO) and its like), and packets get the viewer's on their way out, which follow
//! its latest offer (RFC 3264, section 8.3.2).

use std::sync::atomic::{AtomicU64, Ordering};

use rtc::rtp;

use crate::sdp::{Media, STACK_EXTENSIONS};

/// Where there is no number. Neither a payload type (seven bits) nor the id of an extension (at most 14) is it.
const NONE: u8 = 0xff;

/// Those of one stream to one viewer. Written by each answer, read by each packet, and so without a lock: a byte each
/// for the payload type, that of retransmissions, and the ids of the [extensions](STACK_EXTENSIONS) in their order.
#[derive(Debug)]
pub struct Numbers(AtomicU64);

impl Default for Numbers {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Numbers {
    /// Takes those of an offer's section; `None` where it has none for the stream.
    pub fn follow(&self, media: Option<&Media>) {
        let mut bytes = [NONE; 8];
        if let Some(media) = media {
            bytes[0] = media.payload_type;
            bytes[1] = media.retransmission.unwrap_or(NONE);
            for (extension, name) in media.extensions() {
                let known = STACK_EXTENSIONS.iter().position(|(_, known)| *known == name);
                known.into_iter().for_each(|place| bytes[2 + place] = extension.id);
            }
        }
        self.0.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }

    fn read(&self) -> [u8; 8] {
        self.0.load(Ordering::Relaxed).to_le_bytes()
    }

    /// Whether the viewer has a section for the stream.
    pub fn are_known(&self) -> bool {
        self.read()[0] != NONE
    }

    /// Whether packets of this payload type are the stream's.
    pub fn is_of(&self, payload_type: u8) -> bool {
        self.read()[0] == payload_type
    }

    /// Whether an extension is sent, by its id for the stack.
    pub fn has(&self, extension: u8) -> bool {
        self.read()[1 + usize::from(extension)] != NONE
    }

    /// Puts the viewer's numbers into a packet of the stack's, which is a retransmission where `original` is the source
    /// of what it repeats. `false` where the viewer takes no such packet.
    pub fn stamp(&self, packet: &mut rtp::Packet, original: Option<u32>) -> bool {
        let [payload_type, retransmission, extensions @ ..] = self.read();
        let rtp::Packet { header, payload } = packet;
        header.payload_type = match original {
            None => payload_type,
            Some(ssrc) if retransmission == NONE => {
                // Without RFC 4588 the packet itself goes again; in its form the number comes first.
                let Some(number) = payload.get(..2).and_then(|bytes| bytes.try_into().ok()) else { return false };
                (header.ssrc, header.sequence_number) = (ssrc, u16::from_be_bytes(number));
                *payload = payload.slice(2..);
                payload_type
            }
            Some(_) => retransmission,
        };
        let id = |id: u8| extensions.get(usize::from(id).wrapping_sub(1)).copied().unwrap_or(NONE);
        header.extensions.iter_mut().for_each(|extension| extension.id = id(extension.id));
        // Repeats may have what the viewer has ceased to take.
        header.extensions.retain(|extension| extension.id != NONE);
        payload_type != NONE
    }
}

#[cfg(test)]
pub mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sdp::Extension;

    /// A section that takes H.264 as 120, with these retransmissions, and its tag as extension 9.
    pub fn media(retransmission: Option<u8>) -> Media {
        Media {
            payload_type: 120,
            parameters: String::new(),
            retransmission,
            feedback: Vec::new(),
            playout_delay: None,
            abs_capture_time: Some(Extension { id: 14, is_one_way: false }),
            mid: Some((Extension { id: 9, is_one_way: false }, "v".into())),
        }
    }

    fn stamped(numbers: &Numbers, payload: &'static [u8], original: Option<u32>) -> Option<rtp::Packet> {
        let mut header = rtp::header::Header { payload_type: 96, ssrc: 5, sequence_number: 6, ..Default::default() };
        for (id, _) in STACK_EXTENSIONS {
            header.set_extension(id, Bytes::from_static(b"x")).unwrap();
        }
        let mut packet = rtp::Packet { header, payload: Bytes::from_static(payload) };
        numbers.stamp(&mut packet, original).then_some(packet)
    }

    #[test]
    fn packets_have_the_numbers_of_the_latest_offer() {
        let numbers = Numbers::default();
        assert!(stamped(&numbers, b"", None).is_none() && !numbers.are_known());
        for (payload_type, tag) in [(120, 9), (35, 1)] {
            let mid = Some((Extension { id: tag, is_one_way: false }, "v".into()));
            numbers.follow(Some(&Media { payload_type, mid, ..media(None) }));
            let header = stamped(&numbers, b"", None).unwrap().header;
            let ids: Vec<_> = header.extensions.iter().map(|extension| extension.id).collect();
            assert_eq!((header.payload_type, ids), (payload_type, vec![14, tag]));
            assert!(numbers.is_of(payload_type) && numbers.has(3) && !numbers.has(1));
        }
        numbers.follow(None);
        assert!(stamped(&numbers, b"", None).is_none());
    }

    #[test]
    fn a_retransmission_goes_in_the_form_that_the_viewer_takes() {
        let numbers = Numbers::default();
        numbers.follow(Some(&media(Some(121))));
        let again = stamped(&numbers, &[1, 2, 3], Some(7)).unwrap();
        assert_eq!((again.header.payload_type, again.header.ssrc, &again.payload[..]), (121, 5, &[1, 2, 3][..]));
        numbers.follow(Some(&media(None)));
        let again = stamped(&numbers, &[1, 2, 3], Some(7)).unwrap();
        assert_eq!((again.header.payload_type, again.header.ssrc, again.header.sequence_number), (120, 7, 258));
        assert_eq!(&again.payload[..], [3]);
        assert!(stamped(&numbers, &[1], Some(7)).is_none());
    }
}
