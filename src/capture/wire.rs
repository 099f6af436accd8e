//! Format of messages and frames on the socket: a header of 20 bytes, followed by the body.
//!
//! | bytes | content, most significant byte first |
//! |---|---|
//! | 0 | kind, see [`MessageKind`] |
//! | 1 | flags: bit 0 marks a key frame |
//! | 2, 3 | rendition of a frame, else 0 |
//! | 4 to 7 | length of the body |
//! | 8 to 11 | attempt of a frame, request of a picture, else 0 |
//! | 12 to 19 | capture time of a frame, in nanoseconds of CLOCK_MONOTONIC, else 0 |
//!
//! Messages are JSON ([`Order`](super::Order), [`Report`](super::Report)). A faulty header cannot be skipped: it
//! ends the connection.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Both processes come from one build; the number detects a process of another version that an update left running.
pub const VERSION: u32 = 1;

/// Length of a header in bytes.
pub const HEADER: usize = 20;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// 1: an [`Order`](super::Order).
    Order,
    /// 2: a [`Report`](super::Report).
    Report,
    /// 3: an access unit of H.264 (Annex B) or an Opus packet.
    Frame,
    /// 4: a JPEG that answers [`Question::Snapshot`](super::Question::Snapshot).
    Picture,
}

impl MessageKind {
    const ALL: [Self; 4] = [Self::Order, Self::Report, Self::Frame, Self::Picture];

    fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Most bytes of the body; a longer one cannot be valid. For a frame: a key frame of 4096x2304 at 100 Mbit/s.
    pub fn most(self) -> usize {
        match self {
            Self::Order | Self::Report => 1 << 20,
            Self::Frame => 8 << 20,
            Self::Picture => 32 << 20,
        }
    }
}

/// The header of a message or frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of the body.
    pub kind: MessageKind,
    /// Whether a frame is a key frame.
    pub is_key: bool,
    /// Which of the camera's encodings a frame belongs to.
    pub rendition: u16,
    /// Length of the body in bytes.
    pub length: u32,
    /// Attempt of a frame, request of a picture.
    pub number: u32,
    /// Capture time of a frame, in nanoseconds of CLOCK_MONOTONIC.
    pub captured: u64,
}

/// The fault of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is no such kind.
    #[error("it sends something of kind {0}, which does not exist")]
    Kind(u8),
    /// The body is too long.
    #[error("it announces {length} bytes, the limit is {most}")]
    Length {
        /// Announced length in bytes.
        length: u32,
        /// Most bytes allowed.
        most: usize,
    },
}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Header {
    /// The header of an order or a report.
    fn message(kind: MessageKind, length: u32) -> Self {
        Self { kind, is_key: false, rendition: 0, length, number: 0, captured: 0 }
    }

    /// Parses a header.
    ///
    /// # Errors
    ///
    /// The fault of the header.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, HeaderError> {
        let [kind, flags, r0, r1, l0, l1, l2, l3, n0, n1, n2, n3, captured @ ..] = *bytes;
        let known = MessageKind::ALL.into_iter().find(|known| known.number() == kind);
        let kind = known.ok_or(HeaderError::Kind(kind))?;
        let (length, most) = (u32::from_be_bytes([l0, l1, l2, l3]), kind.most());
        if length as usize > most {
            return Err(HeaderError::Length { length, most });
        }
        Ok(Self {
            kind,
            is_key: flags & 1 != 0,
            rendition: u16::from_be_bytes([r0, r1]),
            length,
            number: u32::from_be_bytes([n0, n1, n2, n3]),
            captured: u64::from_be_bytes(captured),
        })
    }

    /// Serialises it.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind.number();
        bytes[1] = u8::from(self.is_key);
        bytes[2..4].copy_from_slice(&self.rendition.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_be_bytes());
        bytes[12..].copy_from_slice(&self.captured.to_be_bytes());
        bytes
    }
}

/// An order or a report as bytes, with its header.
///
/// # Errors
///
/// When it is longer than the other side accepts, such as the memory of a device with an endless list.
pub fn message(kind: MessageKind, message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEADER;
    if length > kind.most() {
        return Err(HeaderError::Length { length: length.try_into().unwrap_or(u32::MAX), most: kind.most() }.into());
    }
    bytes[..HEADER].copy_from_slice(&Header::message(kind, length as u32).bytes());
    Ok(bytes)
}

/// Reads the next header and its body; `None` if the other side has closed the connection.
///
/// # Errors
///
/// When the connection ends within a message, or the header is invalid.
pub fn read(from: &mut impl Read) -> io::Result<Option<(Header, Bytes)>> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match from.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let header = Header::parse(&header)?;
    let mut body = vec![0; header.length as usize];
    from.read_exact(&mut body)?;
    Ok(Some((header, body.into())))
}

/// A time as it is sent: in nanoseconds of CLOCK_MONOTONIC, which is the same for both processes.
pub fn nanoseconds(moment: Instant) -> u64 {
    let (zero, at_zero) = zero();
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match moment.checked_duration_since(zero) {
        Some(after) => at_zero.saturating_add(nanos(after)),
        None => at_zero.saturating_sub(nanos(zero - moment)),
    }
}

/// The time that was sent as `nanoseconds`; `None` if it cannot be represented.
pub fn instant(nanoseconds: u64) -> Option<Instant> {
    let (zero, at_zero) = zero();
    match nanoseconds.checked_sub(at_zero) {
        Some(after) => zero.checked_add(Duration::from_nanos(after)),
        None => zero.checked_sub(Duration::from_nanos(at_zero - nanoseconds)),
    }
}

/// One moment on both clocks. [`Instant`] is CLOCK_MONOTONIC too, but does not expose its value, so one pair is
/// valid for ever. Of several pairs the closest is taken, because the thread may be preempted between two readings.
fn zero() -> (Instant, u64) {
    static ZERO: OnceLock<(Instant, u64)> = OnceLock::new();
    *ZERO.get_or_init(|| {
        let pair = || {
            let before = Instant::now();
            let time = clock_gettime(ClockId::Monotonic);
            (before.elapsed(), before, time)
        };
        let pairs = std::iter::repeat_with(pair).take(8);
        let (_, moment, time) = pairs.min_by_key(|(apart, ..)| *apart).unwrap_or_else(pair);
        let nanos = u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000;
        (moment, nanos + u64::try_from(time.tv_nsec).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Order, Report};
    use super::*;

    #[test]
    fn a_header_is_parsed_as_it_was_written() {
        for kind in MessageKind::ALL {
            let header =
                Header { kind, is_key: true, rendition: 7, length: 12_345, number: 99, captured: u64::MAX - 3 };
            assert_eq!(Header::parse(&header.bytes()), Ok(header));
        }
    }

    #[test]
    fn an_invalid_header_is_refused() {
        let good = Header::message(MessageKind::Report, 3).bytes();
        for kind in [0, 5, 255] {
            let mut bytes = good;
            bytes[0] = kind;
            assert_eq!(Header::parse(&bytes), Err(HeaderError::Kind(kind)));
        }
        for kind in MessageKind::ALL {
            let most = Header::message(kind, kind.most() as u32);
            assert_eq!(Header::parse(&most.bytes()), Ok(most));
            let more = Header { length: most.length + 1, ..most };
            assert!(matches!(Header::parse(&more.bytes()), Err(HeaderError::Length { .. })), "{kind:?}");
        }
    }

    #[test]
    fn messages_are_read_in_order_and_the_end_is_no_error() {
        let first = message(MessageKind::Order, &Order::Close { attempt: 3 }).unwrap();
        let second = message(MessageKind::Report, &Report::Closed { attempt: 3 }).unwrap();
        let both = [first, second].concat();
        let mut rest = &both[..];
        let (header, body) = read(&mut rest).unwrap().unwrap();
        assert_eq!(header.kind, MessageKind::Order);
        assert_eq!(serde_json::from_slice::<Order>(&body).unwrap(), Order::Close { attempt: 3 });
        let (header, body) = read(&mut rest).unwrap().unwrap();
        assert_eq!(header.kind, MessageKind::Report);
        assert_eq!(serde_json::from_slice::<Report>(&body).unwrap(), Report::Closed { attempt: 3 });
        assert_eq!(read(&mut rest).unwrap(), None);
        for cut in [1, HEADER - 1, HEADER, HEADER + 2] {
            assert_eq!(read(&mut &both[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let long = "x".repeat(MessageKind::Report.most());
        assert!(message(MessageKind::Report, &long).unwrap_err().to_string().contains("the limit is 1048576"));
    }

    #[test]
    fn times_survive_the_conversion_and_absurd_ones_do_not_panic() {
        let now = Instant::now();
        for moment_there in [now, now + Duration::from_secs(7), now.checked_sub(Duration::from_millis(3)).unwrap()] {
            assert_eq!(instant(nanoseconds(moment_there)), Some(moment_there));
        }
        let clock = clock_gettime(ClockId::Monotonic);
        let there = nanoseconds(Instant::now());
        let apart = there.abs_diff(clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64);
        assert!(apart < 50_000_000, "{apart} ns apart");
        // Whether these can be represented depends on the system.
        for absurd in [0, u64::MAX, i64::MAX as u64] {
            _ = instant(absurd);
        }
    }
}
