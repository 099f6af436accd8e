//! Keeps unsuitable JPEGs of a camera from the decoder.
//!
//! Cameras send damaged ones: cables are long, and drivers return buffers that were not filled. The decoder
//! (libjpeg) copes with any damage within a picture. It must not get a picture of another size than agreed: jpegdec
//! (1.22) treats one with fewer lines as half of an interlaced picture and reads outside of its buffer, and one
//! with a damaged header as any size up to 65535 by 65535. So the headers of each picture are parsed first;
//! unsuitable pictures are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;
use peercam::media::Resolution;

use crate::attempt::AttemptEvent;

/// So many pictures in a row with the same other size are not damaged: it is the camera's real size.
const CONFIRMATIONS: u32 = 3;

/// Drops the pictures that the decoder must not get.
#[derive(Debug)]
pub struct JpegFilter {
    /// The element whose output is checked.
    pub element: gst::Element,
    /// The size that the camera agreed to.
    pub agreed: Resolution,
    /// The size that its pictures are known to have.
    pub expected: Resolution,
    /// Number of dropped pictures.
    pub dropped: Arc<AtomicU64>,
}

impl JpegFilter {
    /// Starts to check the element's output. Reports to `events` once if all pictures have another size.
    pub fn attach(&self, device: &str, events: mpsc::Sender<AttemptEvent>) -> Result<(), Error> {
        let pad = self.element.static_pad("src").ok_or_else(|| Error::broken("no pad to look at JPEGs"))?;
        let (agreed, expected, dropped) = (self.agreed, self.expected, self.dropped.clone());
        let device = device.to_owned();
        let mut other_sizes = OtherSizeRun::default();
        // The probe is called by one thread, that of the queue.
        let check = std::sync::Mutex::new(move |jpeg: &[u8]| {
            let found = size(jpeg);
            if found == Some(expected) {
                other_sizes = OtherSizeRun::default();
                return gst::PadProbeReturn::Ok;
            }
            dropped.fetch_add(1, Ordering::Relaxed);
            if let Some(found) = found.filter(|found| other_sizes.is_real_size(*found)) {
                // The receiver is gone only while the pipeline is being stopped.
                events.send(AttemptEvent::failed(Error::OtherSize { device: device.clone(), agreed, found })).ok();
            }
            gst::PadProbeReturn::Drop
        });
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| match &mut info
            .data
        {
            Some(gst::PadProbeData::Buffer(buffer)) => match (buffer.map_readable(), check.lock()) {
                (Ok(jpeg), Ok(mut check)) => check(&jpeg),
                _ => gst::PadProbeReturn::Drop,
            },
            Some(gst::PadProbeData::Event(event)) => {
                if let Some(caps) = with_size(event, expected) {
                    *event = gst::event::Caps::new(&caps);
                }
                gst::PadProbeReturn::Ok
            }
            _ => gst::PadProbeReturn::Ok,
        });
        Ok(())
    }
}

/// Consecutive pictures of one other size.
#[derive(Debug, Default)]
struct OtherSizeRun {
    last: Option<Resolution>,
    count: u32,
}

impl OtherSizeRun {
    /// Whether this picture makes the run long enough to be the real size; true only once.
    fn is_real_size(&mut self, found: Resolution) -> bool {
        if self.last.replace(found) != Some(found) {
            self.count = 0;
        }
        self.count += 1;
        self.count == CONFIRMATIONS
    }
}

/// The caps of the event, with the size that the pictures have: the decoder relies on it.
fn with_size(event: &gst::Event, size: Resolution) -> Option<gst::Caps> {
    let gst::EventView::Caps(caps_event) = event.view() else { return None };
    let mut caps = caps_event.caps_owned();
    let structure = caps.make_mut().structure_mut(0)?;
    structure.set("width", size.width as i32);
    structure.set("height", size.height as i32);
    Some(caps)
}

/// The size in a JPEG's headers, if they are complete and suitable: 8 bits, one or three components, in a process
/// and a sampling that the decoder supports (ISO/IEC 10918-1, annex B).
///
/// They are parsed up to the picture itself: jpegdec (1.22) fails for good if they end before. Bytes between
/// segments are skipped as in libjpeg, so that both find the same header.
pub fn size(jpeg: &[u8]) -> Option<Resolution> {
    let mut rest = jpeg.strip_prefix(&[0xff, 0xd8])?;
    let (mut colours, mut size) = (ColourSpace::YCbCr, None);
    loop {
        let marker = rest.iter().position(|byte| *byte == 0xff)?;
        let code = marker + rest[marker..].iter().position(|byte| *byte != 0xff)?;
        let kind = rest[code];
        rest = &rest[code + 1..];
        // A byte of 0xff that is not a marker, and markers without a segment: TEM, RSTn.
        if matches!(kind, 0x00 | 0x01 | 0xd0..=0xd7) {
            continue;
        }
        let held = segment(rest)?;
        rest = &rest[held.len() + 2..];
        match kind {
            // SOF0 to SOF2: baseline, extended sequential, progressive, with Huffman codes. Only one is allowed.
            0xc0..=0xc2 if size.is_none() => size = Some(in_header(held, colours)?),
            // SOS: the picture itself begins.
            0xda => return size,
            0xdb if !are_tables(held) => return None,
            // APP14. JFIF does not give the colour space, which is then YCbCr; Adobe's last byte does (its note 5116).
            0xee if held.starts_with(b"Adobe") && held.get(11) == Some(&0) => colours = ColourSpace::Rgb,
            // DHT, DQT, DRI, APPn, COM. Others are not valid before the picture.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => {}
            _ => return None,
        }
    }
}

/// Whether these are complete quantisation tables (B.2.4.1): libjpeg reads each to its end, wherever the segment ends.
fn are_tables(mut held: &[u8]) -> bool {
    while let Some(first) = held.first() {
        let length = if first >> 4 == 0 { 65 } else { 129 };
        match held.get(length..) {
            Some(rest) => held = rest,
            None => return false,
        }
    }
    true
}

/// The colour space of three components, according to the segments before the frame header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ColourSpace {
    YCbCr,
    Rgb,
}

/// The content of a segment, after its length, which counts itself.
fn segment(rest: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
    rest.get(2..length)
}

/// The size in a frame header (B.2.2).
fn in_header(header: &[u8], colours: ColourSpace) -> Option<Resolution> {
    let [8, high, low, left, right, components, each @ ..] = header else { return None };
    let is_valid = match (components, each) {
        (1, [_, 0x11, _]) => true,
        (3, [one, first, _, two, second, _, three, third, _]) => {
            let (across, down) = (first >> 4, first & 0xf);
            let is_rgb = colours == ColourSpace::Rgb || [*one, *two, *three] == *b"RGB";
            // jpegdec fails for good at a sampling that it does not support, so one damaged picture would restart
            // everything.
            let is_known = (1..=2).contains(&across) && (1..=2).contains(&down);
            let is_finer = (1..=across).contains(&(second >> 4)) && (1..=down).contains(&(second & 0xf));
            is_known && is_finer && second == third && (!is_rgb || *first == 0x11)
        }
        _ => false,
    };
    let (width, height) = (u16::from_be_bytes([*left, *right]), u16::from_be_bytes([*high, *low]));
    (is_valid && width > 0 && height > 0).then(|| Resolution { width: width.into(), height: height.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SOI, APP0, a quantisation table, a frame header of 640x480 and the beginning of the picture.
    fn header() -> Vec<u8> {
        let mut jpeg = vec![0xff, 0xd8, 0xff, 0xe0, 0, 4, b'J', b'F', 0xff, 0xdb, 0, 67, 0];
        jpeg.extend([1; 64]);
        jpeg.extend([0xff, 0xc0, 0, 17, 8, 1, 0xe0, 2, 0x80, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
        jpeg.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]);
        jpeg
    }

    #[test]
    fn the_size_is_that_of_the_frame_header() {
        let all = header();
        assert_eq!(size(&all), Some(Resolution { width: 640, height: 480 }));
        for cut in 0..all.len() {
            assert_eq!(size(&all[..cut]), None, "cut after {cut} bytes");
        }
        let mut filled = all.clone();
        filled.splice(8..8, [0x12, 0x34, 0xff, 0xff, 0xff]);
        assert_eq!(size(&filled), size(&all), "what stands between segments is passed over, as libjpeg does");
    }

    #[test]
    fn an_unsupported_header_has_no_size() {
        // Positions are counted from the header's marker.
        let at = header().len() - 14 - 19;
        let cases: [(&str, &[(usize, u8)]); 13] = [
            ("lossless", &[(1, 0xc3)]),
            ("two frames", &[(20, 0xc0)]),
            ("a length that does not fit", &[(3, 18)]),
            ("a length that is none", &[(3, 1)]),
            ("twelve bits", &[(4, 12)]),
            ("no height", &[(5, 0), (6, 0)]),
            ("no width", &[(7, 0), (8, 0)]),
            ("two components", &[(9, 2)]),
            ("four components", &[(9, 4)]),
            ("a sampling of four", &[(11, 0x44)]),
            ("colours finer than brightness", &[(11, 0x11), (14, 0x22), (17, 0x22)]),
            ("colours of two kinds", &[(14, 0x22)]),
            ("red, green and blue of other sampling", &[(10, b'R'), (13, b'G'), (16, b'B')]),
        ];
        for (what, changes) in cases {
            let mut jpeg = header();
            for (place, value) in changes {
                jpeg[at + place] = *value;
            }
            assert_eq!(size(&jpeg), None, "{what}");
        }
    }

    #[test]
    fn another_size_is_real_after_three_pictures_in_a_row() {
        let (one, other) = (Resolution { width: 640, height: 464 }, Resolution { width: 640, height: 400 });
        let mut other_sizes = OtherSizeRun::default();
        let meant = [one, other, one, one, one, one].map(|found| other_sizes.is_real_size(found));
        assert_eq!(meant, [false, false, false, false, true, false]);
    }
}
