//! A moment in time written into a picture so that a machine can read it back after compression.
//!
//! Two rows of twenty blocks, from the picture's top left corner, read row by row from the left. A white block is
//! a 1, a black one a 0. The first 32 bits are the low 32 bits of the Unix time in milliseconds at which the
//! picture was taken, most significant bit first; the last 8 are their CRC-8 (polynomial 0x07, initial value 0xff,
//! over the four bytes, most significant first), so that neither a black nor a white picture reads as a time.
//!
//! A block is a square whose edge is `width / 80` pixels, at least 8, rounded down to an even number. A reader
//! takes the mean luma of the inner half of a block, which compression smears least, and calls it 1 above 128.

use super::Resolution;

const COLUMNS: usize = 20;
const ROWS: usize = 2;

/// Half way between the black (16) and the white (235) of video range, also half way in full range.
const THRESHOLD: u32 = 128;

/// The narrowest and lowest picture in which the code has a place, and the rest of the test picture too.
pub const MIN_SIZE: Resolution = Resolution { width: 160, height: 96 };

/// The edge of a block in pixels in a picture of `width` pixels.
pub fn block_edge(width: u32) -> usize {
    ((width / 80).max(8) & !1) as usize
}

/// The 40 bits of a code for `unix_ms`, in reading order.
pub fn encode(unix_ms: u64) -> [bool; COLUMNS * ROWS] {
    let time = unix_ms as u32;
    let bits = (u64::from(time) << 8) | u64::from(crc8(time));
    std::array::from_fn(|bit| bits >> (COLUMNS * ROWS - 1 - bit) & 1 == 1)
}

/// Reads the low 32 bits of Unix milliseconds from the luma plane of a picture, whose lines are `stride` bytes apart.
///
/// `None` if the picture is too small, the check value does not fit, or blocks are cut off.
pub fn decode(luma: &[u8], stride: usize, resolution: Resolution) -> Option<u32> {
    let edge = block_edge(resolution.width);
    if (resolution.width as usize) < COLUMNS * edge || (resolution.height as usize) < ROWS * edge {
        return None;
    }
    let mut bits = 0_u64;
    for block in 0..COLUMNS * ROWS {
        let (left, top) = (block % COLUMNS * edge + edge / 4, block / COLUMNS * edge + edge / 4);
        let mut sum = 0;
        for line in top..top + edge / 2 {
            let start = line * stride + left;
            sum += luma.get(start..start + edge / 2)?.iter().map(|&luma| u32::from(luma)).sum::<u32>();
        }
        bits = bits << 1 | u64::from(sum / (edge / 2 * (edge / 2)) as u32 > THRESHOLD);
    }
    let (time, check) = ((bits >> 8) as u32, bits as u8);
    (crc8(time) == check).then_some(time)
}

/// Paints the code for `unix_ms` into the luma plane of a picture.
pub fn paint(luma: &mut [u8], stride: usize, width: u32, unix_ms: u64) {
    let edge = block_edge(width);
    for (block, is_white) in encode(unix_ms).into_iter().enumerate() {
        let (left, top) = (block % COLUMNS * edge, block / COLUMNS * edge);
        for line in top..top + edge {
            luma[line * stride + left..][..edge].fill(if is_white { 235 } else { 16 });
        }
    }
}

fn crc8(time: u32) -> u8 {
    time.to_be_bytes().into_iter().fold(0xff, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 != 0 { crc << 1 ^ 0x07 } else { crc << 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_from_noisy_luma_at_any_size() {
        for (width, height) in [(160, 90), (320, 180), (640, 360), (854, 480), (1280, 720), (1920, 1080)] {
            let stride = width as usize + 13;
            for time in [0, 1, 1_763_646_463_123, u64::from(u32::MAX), 0xdead_beef] {
                let mut luma = vec![90; stride * height as usize];
                paint(&mut luma, stride, width, time);
                for (index, luma) in luma.iter_mut().enumerate() {
                    *luma = luma.saturating_add((index * 7 % 61) as u8).saturating_sub(30);
                }
                assert_eq!(decode(&luma, stride, Resolution { width, height }), Some(time as u32), "{width} {time}");
            }
        }
    }

    #[test]
    fn a_picture_without_a_code_reads_as_none() {
        let resolution = Resolution { width: 640, height: 360 };
        for luma in [0, 16, 127, 235, 255] {
            assert_eq!(decode(&vec![luma; 640 * 360], 640, resolution), None, "a picture of luma {luma}");
        }
        assert_eq!(decode(&[235; 640 * 4], 640, resolution), None, "too few bytes");
        assert_eq!(decode(&[16; 64], 8, Resolution { width: 8, height: 8 }), None, "too small");
        let mut luma = vec![16; 640 * 360];
        paint(&mut luma, 640, 640, 1_763_646_463_123);
        luma[4 * 640..6 * 640].iter_mut().for_each(|luma| *luma = 235 - *luma / 2);
        luma[2 * 640..4 * 640].iter_mut().for_each(|luma| *luma = 235 - *luma / 2);
        assert_eq!(decode(&luma, 640, resolution), None, "a row that was overwritten");
    }

    #[test]
    fn the_check_value_is_the_documented_one() {
        // Worked out independently: CRC-8, polynomial 0x07, initial 0xff, over "1234" (0x31 0x32 0x33 0x34).
        let by_long_division = |bytes: &[u8]| {
            let mut register = 0xff_u16;
            for byte in bytes {
                for bit in (0..8).rev() {
                    let top = (register >> 7 & 1) ^ u16::from(byte >> bit & 1);
                    register = (register << 1 & 0xff) ^ if top == 1 { 0x07 } else { 0 };
                }
            }
            register as u8
        };
        assert_eq!(crc8(0x3132_3334), by_long_division(b"1234"));
    }
}
