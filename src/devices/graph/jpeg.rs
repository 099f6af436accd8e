//! Which of a camera's JPEGs may reach the decoder.
//!
//! Cameras send damaged ones: cables are long, and drivers give away buffers that were not filled. The decoder
//! (libjpeg) takes any damage within a picture. What it must not get is a picture of another size than was agreed:
//! jpegdec (1.22) takes one of fewer lines for half of an interlaced picture and reads outside of its buffer, and one of
//! a damaged header for any size up to 65535 by 65535. So each picture's headers are read before; what does not fit is
//! dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;
use peercam::media::Resolution;

use crate::attempt::Event;

/// So many pictures in a row that have one and the same other size are no damage: it is what the camera sends.
const MEANT: u32 = 3;

/// Drops what the decoder behind must not get.
#[derive(Debug)]
pub struct Guard {
    /// The element whose pictures are looked at.
    pub element: gst::Element,
    /// The size that the camera agreed to.
    pub agreed: Resolution,
    /// The size that its pictures have, as far as is known.
    pub expected: Resolution,
    /// How many were dropped.
    pub dropped: Arc<AtomicU64>,
}

impl Guard {
    /// Begins to look at what leaves the element. `events` is told once when all pictures have another size.
    pub fn stand(&self, device: &str, events: mpsc::Sender<Event>) -> Result<(), Error> {
        let pad = self.element.static_pad("src").ok_or_else(|| Error::broken("no pad to look at JPEGs"))?;
        let (agreed, expected, dropped) = (self.agreed, self.expected, self.dropped.clone());
        let device = device.to_owned();
        let mut others = Others::default();
        // The probe is called by one thread, the queue's.
        let judge = std::sync::Mutex::new(move |jpeg: &[u8]| {
            let found = size(jpeg);
            if found == Some(expected) {
                others = Others::default();
                return gst::PadProbeReturn::Ok;
            }
            dropped.fetch_add(1, Ordering::Relaxed);
            if let Some(found) = found.filter(|found| others.are_meant(*found)) {
                // Nobody listens only while the pipeline is being stopped.
                events.send(Event::failed(Error::OtherSize { device: device.clone(), agreed, found })).ok();
            }
            gst::PadProbeReturn::Drop
        });
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| match &mut info
            .data
        {
            Some(gst::PadProbeData::Buffer(buffer)) => match (buffer.map_readable(), judge.lock()) {
                (Ok(jpeg), Ok(mut judge)) => judge(&jpeg),
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

/// Pictures of another size, as long as they follow on each other.
#[derive(Debug, Default)]
struct Others {
    last: Option<Resolution>,
    count: u32,
}

impl Others {
    /// Whether with this one there are enough of them to be meant; once.
    fn are_meant(&mut self, found: Resolution) -> bool {
        if self.last.replace(found) != Some(found) {
            self.count = 0;
        }
        self.count += 1;
        self.count == MEANT
    }
}

/// The format that the event tells of with the size that the pictures have: by it the decoder judges them.
fn with_size(event: &gst::Event, size: Resolution) -> Option<gst::Caps> {
    let gst::EventView::Caps(told) = event.view() else { return None };
    let mut caps = told.caps_owned();
    let structure = caps.make_mut().structure_mut(0)?;
    structure.set("width", size.width as i32);
    structure.set("height", size.height as i32);
    Some(caps)
}

/// The size that a JPEG's headers tell, if they are whole and it is one that a camera sends: 8 bits, one or three
/// components, in a process and a sampling that the decoder knows (ISO/IEC 10918-1, annex B).
///
/// They are read up to the picture itself: jpegdec (1.22) fails for good where they end before. What stands between
/// segments is passed over as libjpeg does it, so that both find the same header.
pub fn size(jpeg: &[u8]) -> Option<Resolution> {
    let mut rest = jpeg.strip_prefix(&[0xff, 0xd8])?;
    let (mut colours, mut size) = (Colours::Usual, None);
    loop {
        let marker = rest.iter().position(|byte| *byte == 0xff)?;
        let code = marker + rest[marker..].iter().position(|byte| *byte != 0xff)?;
        let kind = rest[code];
        rest = &rest[code + 1..];
        // A byte of 0xff that is no marker, and markers without a segment: TEM, RSTn.
        if matches!(kind, 0x00 | 0x01 | 0xd0..=0xd7) {
            continue;
        }
        let held = segment(rest)?;
        rest = &rest[held.len() + 2..];
        match kind {
            // SOF0 to SOF2: baseline, extended sequential, progressive, with Huffman codes. There is one.
            0xc0..=0xc2 if size.is_none() => size = Some(in_header(held, colours)?),
            // SOS: the picture itself begins.
            0xda => return size,
            0xdb if !are_tables(held) => return None,
            // Of APP14. JFIF says nothing of colours, which are then YCbCr; Adobe's last byte does (its note 5116).
            0xee if held.starts_with(b"Adobe") && held.get(11) == Some(&0) => colours = Colours::Rgb,
            // DHT, DQT, DRI, APPn, COM. Others have no business before the picture.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => {}
            _ => return None,
        }
    }
}

/// Whether these are whole tables of quantisation (B.2.4.1): libjpeg reads each to its end, wherever the segment ends.
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

/// What three components are, as far as a segment before the frame header says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    Usual,
    Rgb,
}

/// What a segment holds behind its length, which counts itself.
fn segment(rest: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
    rest.get(2..length)
}

/// The size in a frame header (B.2.2).
fn in_header(header: &[u8], colours: Colours) -> Option<Resolution> {
    let [8, high, low, left, right, components, each @ ..] = header else { return None };
    let is_sound = match (components, each) {
        (1, [_, 0x11, _]) => true,
        (3, [one, first, _, two, second, _, three, third, _]) => {
            let (across, down) = (first >> 4, first & 0xf);
            let is_rgb = colours == Colours::Rgb || [*one, *two, *three] == *b"RGB";
            // jpegdec fails for good at a sampling that it does not know, so one damaged picture would begin all again.
            let is_known = (1..=2).contains(&across) && (1..=2).contains(&down);
            let is_finer = (1..=across).contains(&(second >> 4)) && (1..=down).contains(&(second & 0xf));
            is_known && is_finer && second == third && (!is_rgb || *first == 0x11)
        }
        _ => false,
    };
    let (width, height) = (u16::from_be_bytes([*left, *right]), u16::from_be_bytes([*high, *low]));
    (is_sound && width > 0 && height > 0).then(|| Resolution { width: width.into(), height: height.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SOI, APP0, a table of quantisation, a frame header of 640x480 and the beginning of the picture.
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
    fn a_header_that_no_camera_sends_has_no_size() {
        // Places are counted from the header's marker.
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
    fn another_size_is_meant_once_it_came_three_times_in_a_row() {
        let (one, other) = (Resolution { width: 640, height: 464 }, Resolution { width: 640, height: 400 });
        let mut others = Others::default();
        let meant = [one, other, one, one, one, one].map(|found| others.are_meant(found));
        assert_eq!(meant, [false, false, false, false, true, false]);
    }
}
