//! The few bytes of H.264 that matter here.

use crate::media::H264Profile;

/// The type of a sequence parameter set (H.264, table 7-1).
const SPS: u8 = 7;

/// The profile that an access unit's sequence parameter set (Annex B) tells, if it has one.
///
/// Baseline with constraint_set1_flag is told as constrained baseline (42e0) whatever the other flags are: they
/// are the same profile (RFC 6184, table 5), and x264 writes 42c0.
pub(super) fn profile(access_unit: &[u8]) -> Option<H264Profile> {
    let [idc, constraints, _] = parameters(access_unit)?;
    let is_constrained_baseline = idc == 66 && constraints & 0x40 != 0;
    Some(if is_constrained_baseline { H264Profile::CONSTRAINED_BASELINE } else { H264Profile { idc, constraints } })
}

/// The level_idc that an access unit's sequence parameter set tells, if it has one.
pub(super) fn level(access_unit: &[u8]) -> Option<u8> {
    parameters(access_unit).map(|[_, _, level]| level)
}

/// profile_idc, the constraint flags and level_idc (H.264, section 7.3.2.1.1).
fn parameters(access_unit: &[u8]) -> Option<[u8; 3]> {
    let sps = access_unit.windows(7).find(|bytes| bytes[..3] == [0, 0, 1] && bytes[3] & 0x1f == SPS)?;
    Some([sps[4], sps[5], sps[6]])
}

/// The access unit without the delimiter that h264parse (1.22) puts in front of each, whatever the encoder did:
/// RTP marks the end of an access unit by itself (RFC 6184, section 5.1), so these would be bytes for nothing.
pub(super) fn without_delimiter(access_unit: &[u8]) -> &[u8] {
    match access_unit {
        // Start code, type 9, and one byte of payload (H.264, section 7.3.2.4).
        [0, 0, 0, 1, 9, _, rest @ ..] | [0, 0, 1, 9, _, rest @ ..] if rest.starts_with(&[0, 0]) => rest,
        _ => access_unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_read_behind_a_delimiter_and_either_start_code() {
        let cases: [(&[u8], Option<H264Profile>); 6] = [
            (&[0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f], Some(H264Profile::CONSTRAINED_BASELINE)),
            (&[0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x27, 0x4d, 0x40, 0x28], Some(H264Profile { idc: 77, constraints: 0x40 })),
            (&[0, 0, 1, 0x67, 0x42, 0x80, 0x1f], Some(H264Profile { idc: 66, constraints: 0x80 })),
            (&[0, 0, 1, 0x67, 0x64, 0x00, 0x1f], Some(H264Profile { idc: 100, constraints: 0 })),
            (&[0, 0, 0, 1, 0x65, 1, 2, 3, 4, 5], None),
            (&[0, 0, 1, 0x67], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(profile(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn only_a_delimiter_in_front_is_left_out() {
        let cases: [(&[u8], &[u8]); 4] = [
            (&[0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x65], &[0, 0, 0, 1, 0x65]),
            (&[0, 0, 1, 9, 0x10, 0, 0, 1, 0x41], &[0, 0, 1, 0x41]),
            (&[0, 0, 0, 1, 0x65, 9], &[0, 0, 0, 1, 0x65, 9]),
            (&[0, 0, 0, 1, 9, 0xf0], &[0, 0, 0, 1, 9, 0xf0]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(without_delimiter(bytes), expected);
        }
    }
}
