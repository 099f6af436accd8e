//! Parses the few parts of H.264 that are needed here.

use super::H264Profile;

/// The type of a sequence parameter set (H.264, table 7-1).
const SPS: u8 = 7;

/// The type of a picture parameter set.
const PPS: u8 = 8;

/// The type of a slice of an IDR picture.
const IDR: u8 = 5;

/// The type of a slice of a picture that is no IDR picture (H.264, table 7-1).
const SLICE: u8 = 1;

/// The profile in an access unit's sequence parameter set (Annex B), if it has one.
///
/// Baseline with constraint_set1_flag is reported as constrained baseline (42e0) whatever the other flags are: they
/// are the same profile (RFC 6184, table 5), and x264 writes 42c0.
pub fn profile(access_unit: &[u8]) -> Option<H264Profile> {
    let [idc, constraints, _] = parameters(access_unit)?;
    let is_constrained_baseline = idc == 66 && constraints & 0x40 != 0;
    Some(if is_constrained_baseline { H264Profile::CONSTRAINED_BASELINE } else { H264Profile { idc, constraints } })
}

/// The sequence and picture parameter sets of an access unit (Annex B), with their start codes; empty if it has none.
pub fn parameter_sets(access_unit: &[u8]) -> Vec<u8> {
    let start = |bytes: &[u8]| bytes.windows(3).position(|bytes| bytes == [0, 0, 1]);
    let (mut sets, mut rest) = (Vec::new(), access_unit);
    while let Some(at) = start(rest) {
        let unit = &rest[at + 3..];
        match unit.first().map(|head| head & 0x1f) {
            // They come before the slices (H.264, section 7.4.1.2.3), which are long.
            Some(SLICE..=IDR) => break,
            Some(SPS | PPS) => {
                // The next start code may begin with one more zero; a unit never ends with one (section 7.4.1).
                let unit = &unit[..start(unit).unwrap_or(unit.len())];
                let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                sets.extend([0, 0, 0, 1]);
                sets.extend(&unit[..end]);
            }
            _ => {}
        }
        rest = unit;
    }
    sets
}

/// The level_idc in an access unit's sequence parameter set, if it has one.
pub fn level(access_unit: &[u8]) -> Option<u8> {
    parameters(access_unit).map(|[_, _, level]| level)
}

/// The number of units (Annex B) in the bytes.
pub fn units(access_unit: &[u8]) -> usize {
    access_unit.windows(3).filter(|bytes| bytes == &[0, 0, 1]).count()
}

/// Whether a slice of the access unit (Annex B) is predicted from pictures before and after it (B, H.264, table 7-6).
pub fn has_b_slices(access_unit: &[u8]) -> bool {
    let slices =
        access_unit.windows(4).enumerate().filter(|(_, bytes)| bytes[..3] == [0, 0, 1] && bytes[3] & 0x1f == SLICE);
    // first_mb_in_slice and slice_type (section 7.3.3) have 37 bits at most in the largest picture.
    let kind = |at: usize| {
        let bytes = access_unit[at + 4..].iter().take(8);
        let mut bits = bytes.flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
        unsigned(&mut bits)?;
        unsigned(&mut bits)
    };
    slices.filter_map(|(at, _)| kind(at)).any(|kind| kind % 5 == 1)
}

/// An unsigned Exp-Golomb number (H.264, section 9.1).
fn unsigned(bits: &mut impl Iterator<Item = bool>) -> Option<u32> {
    let zeros = bits.by_ref().take_while(|bit| !bit).count();
    let rest = (0..zeros).try_fold(1_u32, |number, _| Some(number.checked_mul(2)? | u32::from(bits.next()?)))?;
    Some(rest - 1)
}

/// profile_idc, the constraint flags and level_idc (H.264, section 7.3.2.1.1).
fn parameters(access_unit: &[u8]) -> Option<[u8; 3]> {
    let sps = access_unit.windows(7).find(|bytes| bytes[..3] == [0, 0, 1] && bytes[3] & 0x1f == SPS)?;
    Some([sps[4], sps[5], sps[6]])
}

/// The access unit without the delimiter that h264parse (1.22) puts in front of each, whatever the encoder did:
/// RTP marks the end of an access unit by itself (RFC 6184, section 5.1), so these would be bytes for nothing.
pub fn without_delimiter(access_unit: &[u8]) -> &[u8] {
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
    fn parameter_sets_are_extracted_with_either_start_code() {
        let unit = [
            0, 0, 0, 1, 9, 0x10, 0, 0, 0, 1, 0x67, 0x42, 0xc0, 0, 0, 1, 0x68, 0xce, 0, 0, 0, 1, 0x65, 7, 0, 0, 1, 0x68,
        ];
        assert_eq!(parameter_sets(&unit), [0, 0, 0, 1, 0x67, 0x42, 0xc0, 0, 0, 0, 1, 0x68, 0xce]);
        assert!(parameter_sets(&[0, 0, 1, 0x41, 1]).is_empty() && parameter_sets(&[0, 0, 1]).is_empty());
    }

    #[test]
    fn b_slices_are_found_in_any_unit_of_a_picture() {
        // first_mb_in_slice is 0, `1`; slice_type 5, 6 and 7 (P, B, I): `00110`, `00111`, `0001000`.
        let cases: [(&[u8], bool); 8] = [
            (&[0, 0, 0, 1, 0x41, 0b1001_1010], false),
            (&[0, 0, 0, 1, 0x01, 0b1001_1110], true),
            (&[0, 0, 1, 0x41, 0b1000_1000], false),
            // Type 1 (B) as `010`, behind a delimiter; and in the second slice, which begins at block 3, `00100`.
            (&[0, 0, 0, 1, 9, 0x50, 0, 0, 1, 0x01, 0b1010_0000], true),
            (&[0, 0, 1, 0x41, 0b1001_1010, 0, 0, 1, 0x01, 0b0010_0010], true),
            // An IDR picture has none, whatever its bytes are.
            (&[0, 0, 0, 1, 0x65, 0b1010_0000], false),
            (&[0, 0, 1, 0x41], false),
            (&[0, 0, 1, 0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0], false),
        ];
        for (bytes, expected) in cases {
            assert_eq!(has_b_slices(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn units_are_counted_by_their_start_codes() {
        let cases: [(&[u8], usize); 4] =
            [(&[], 0), (&[0, 0, 1], 1), (&[0, 0, 0, 1, 9, 0x50, 0, 0, 1, 0x41], 2), (&[0, 0, 3, 1, 0, 1], 0)];
        for (bytes, expected) in cases {
            assert_eq!(units(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn only_a_leading_delimiter_is_removed() {
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
