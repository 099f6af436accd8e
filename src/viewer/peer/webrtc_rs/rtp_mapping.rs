//! The payload types and header extension ids that a viewer has negotiated for a stream.
//!
//! The stack refuses packets with numbers other than those negotiated first. So the stack gets fixed numbers of our own
//! ([`STACK_VIDEO`](crate::sdp::STACK_VIDEO) and similar), and packets get the viewer's numbers, from its latest offer,
//! when they are sent (RFC 3264, section 8.3.2).

use std::sync::atomic::{AtomicU64, Ordering};

use rtc::rtp;

use crate::sdp::{Media, STACK_EXTENSIONS};

/// Marks a missing number. It is neither a valid payload type (seven bits) nor a valid extension id (at most 14).
const NONE: u8 = 0xff;

/// The numbers of one stream to one viewer. They are written by each answer and read for each packet, so they need no
/// lock: one byte each for the payload type, that of retransmissions, and the ids of the [extensions](STACK_EXTENSIONS)
/// in order.
#[derive(Debug)]
pub struct RtpMapping(AtomicU64);

impl Default for RtpMapping {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl RtpMapping {
    /// Takes the numbers of an offer's section; `None` if the offer has no section for the stream.
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

    /// Whether packets with this payload type belong to the stream.
    pub fn is_of(&self, payload_type: u8) -> bool {
        self.read()[0] == payload_type
    }

    /// Whether an extension is sent; `extension` is its id for the stack.
    pub fn has(&self, extension: u8) -> bool {
        self.read()[1 + usize::from(extension)] != NONE
    }

    /// Writes the viewer's numbers into a packet of the stack. If the packet is a retransmission, `original` is the
    /// SSRC of the repeated stream. Returns `false` if the viewer does not accept such a packet.
    pub fn stamp(&self, packet: &mut rtp::Packet, original: Option<u32>) -> bool {
        let [payload_type, retransmission, extensions @ ..] = self.read();
        let rtp::Packet { header, payload } = packet;
        header.payload_type = match original {
            None => payload_type,
            Some(ssrc) if retransmission == NONE => {
                // Without RFC 4588 the original packet is sent again; the RFC 4588 payload starts with its sequence
                // number.
                let Some(number) = payload.get(..2).and_then(|bytes| bytes.try_into().ok()) else { return false };
                (header.ssrc, header.sequence_number) = (ssrc, u16::from_be_bytes(number));
                *payload = payload.slice(2..);
                payload_type
            }
            Some(_) => retransmission,
        };
        let id = |id: u8| extensions.get(usize::from(id).wrapping_sub(1)).copied().unwrap_or(NONE);
        header.extensions.iter_mut().for_each(|extension| extension.id = id(extension.id));
        // Retransmissions may have extensions that the viewer no longer accepts.
        header.extensions.retain(|extension| extension.id != NONE);
        payload_type != NONE
    }
}

#[cfg(test)]
pub mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sdp::Extension;

    /// A section with H.264 as payload type 120, this one for retransmissions, and its mid in extension 9.
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

    fn stamped(rtp_mapping: &RtpMapping, payload: &'static [u8], original: Option<u32>) -> Option<rtp::Packet> {
        let mut header = rtp::header::Header { payload_type: 96, ssrc: 5, sequence_number: 6, ..Default::default() };
        for (id, _) in STACK_EXTENSIONS {
            header.set_extension(id, Bytes::from_static(b"x")).unwrap();
        }
        let mut packet = rtp::Packet { header, payload: Bytes::from_static(payload) };
        rtp_mapping.stamp(&mut packet, original).then_some(packet)
    }

    #[test]
    fn packets_have_the_payload_types_and_extension_ids_of_the_latest_offer() {
        let rtp_mapping = RtpMapping::default();
        assert!(stamped(&rtp_mapping, b"", None).is_none() && !rtp_mapping.are_known());
        for (payload_type, tag) in [(120, 9), (35, 1)] {
            let mid = Some((Extension { id: tag, is_one_way: false }, "v".into()));
            rtp_mapping.follow(Some(&Media { payload_type, mid, ..media(None) }));
            let header = stamped(&rtp_mapping, b"", None).unwrap().header;
            let ids: Vec<_> = header.extensions.iter().map(|extension| extension.id).collect();
            assert_eq!((header.payload_type, ids), (payload_type, vec![14, tag]));
            assert!(rtp_mapping.is_of(payload_type) && rtp_mapping.has(3) && !rtp_mapping.has(1));
        }
        rtp_mapping.follow(None);
        assert!(stamped(&rtp_mapping, b"", None).is_none());
    }

    #[test]
    fn a_retransmission_has_the_form_that_the_viewer_accepts() {
        let rtp_mapping = RtpMapping::default();
        rtp_mapping.follow(Some(&media(Some(121))));
        let again = stamped(&rtp_mapping, &[1, 2, 3], Some(7)).unwrap();
        assert_eq!((again.header.payload_type, again.header.ssrc, &again.payload[..]), (121, 5, &[1, 2, 3][..]));
        rtp_mapping.follow(Some(&media(None)));
        let again = stamped(&rtp_mapping, &[1, 2, 3], Some(7)).unwrap();
        assert_eq!((again.header.payload_type, again.header.ssrc, again.header.sequence_number), (120, 7, 258));
        assert_eq!(&again.payload[..], [3]);
        assert!(stamped(&rtp_mapping, &[1], Some(7)).is_none());
    }
}
