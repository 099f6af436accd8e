//! How media can be sent in a section: payload types, retransmission, feedback, header extensions.

use sdp_types::{Direction, ExtMap, Fmtp, RtcpFb, RtcpFbCcm, RtcpFbNack, RtcpFbPt, RtcpFbVal, RtpMap};

use super::attributes::Section;
use crate::media::H264Profile;

/// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`: lets the sender bound the receiver's jitter buffer.
pub const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
/// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`: the wall-clock time a frame was captured.
pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";

/// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143, section 15): the `a=mid` of the section that a stream belongs to.
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// The longest mid that fits into a packet beside the other extensions (RFC 9429, section 5.2.1 recommends at most
/// three bytes; GStreamer's have six).
const MAX_MID: usize = 6;

/// One-byte header extensions end at 14 (RFC 8285, section 4.2).
const LAST_ONE_BYTE_ID: u8 = 14;

/// How to send to one media section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// The viewer's payload type for the codec.
    pub payload_type: u8,
    /// The board's format parameters (RFC 6184, section 8.2.2), as far as the offer's parameters require any; empty if
    /// not.
    pub parameters: String,
    /// Payload type of its retransmissions (RFC 4588), if offered.
    pub retransmission: Option<u8>,
    /// The RTCP feedback that the board acts on, if offered.
    pub feedback: Vec<Feedback>,
    /// Id of the playout-delay extension, if offered.
    pub playout_delay: Option<Extension>,
    /// Id of the abs-capture-time extension, if offered.
    pub abs_capture_time: Option<Extension>,
    /// Id of the mid extension, if offered, and the section's `a=mid`.
    pub mid: Option<(Extension, String)>,
}

/// RTCP feedback with which a viewer requests something (RFC 4585, section 4.2; RFC 5104, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// Requests packets again.
    Nack,
    /// Requests a key frame, because a frame was lost (PLI).
    PictureLoss,
    /// Requests a key frame (FIR).
    FullIntra,
}

impl Feedback {
    /// All kinds of feedback.
    pub const ALL: [Self; 3] = [Self::Nack, Self::PictureLoss, Self::FullIntra];

    /// Type and parameter in `a=rtcp-fb`.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Nack => ("nack", ""),
            Self::PictureLoss => ("nack", "pli"),
            Self::FullIntra => ("ccm", "fir"),
        }
    }

    fn read(value: &RtcpFbVal) -> Option<Self> {
        match value {
            RtcpFbVal::Nack(None) => Some(Self::Nack),
            RtcpFbVal::Nack(Some(RtcpFbNack::Pli)) => Some(Self::PictureLoss),
            RtcpFbVal::Ccm(RtcpFbCcm::Fir) => Some(Self::FullIntra),
            _ => None,
        }
    }
}

/// A header extension as it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its id in packets.
    pub id: u8,
    /// Whether the offer restricts it to one direction; then the answer has to as well (RFC 8285, section 6).
    pub is_one_way: bool,
}

/// Selects the H.264 entry that fits a stream of `profile` best. Packetization mode 1 is preferred to an entry without
/// a mode, and that to one with mode 0; both of these mean mode 0 (RFC 6184, section 8.1). In mode 0 a NAL unit that
/// does not fit a packet must not be fragmented, and all viewers share one encoder; but receivers reassemble fragments
/// whatever the mode is, as every WebRTC endpoint has to (RFC 7742, section 6.2). Mode 2 sends packets in another
/// order, which few receivers support. The level is never a reason to refuse: players name a usual one and decode more.
///
/// `fixed` is the payload type agreed before, if any.
pub fn h264(section: Section<'_>, profile: H264Profile, fixed: Option<u8>) -> Option<Media> {
    let entries = entries(section).filter(|entry| entry.is("H264", 90_000) && entry.has_payload_type(fixed));
    let entries = entries.filter_map(|entry| {
        let mode = match entry.parameter("packetization-mode") {
            Some(mode) if mode.parse() == Ok(1) => 0,
            None => 1,
            Some(mode) if mode.parse() == Ok(0) => 2,
            Some(_) => return None,
        };
        let distance = distance(offered_profile(&entry), profile);
        Some(((mode, distance), entry))
    });
    let (_, entry) = entries.min_by_key(|(rank, _)| *rank)?;
    let parameters = h264_parameters(&entry, profile);
    Some(Media::new(section, entry, parameters))
}

/// The H.264 parameters of an answer (RFC 6184, section 8.2.2): the entry's configuration, word for word, since
/// GStreamer compares text. The board does not repeat what a viewer states about itself (`max-br`,
/// `sprop-parameter-sets`).
fn h264_parameters(entry: &Entry, sent: H264Profile) -> String {
    let level = entry.parameter("profile-level-id").map(|level| match has_six_digits(level) {
        true => level.to_owned(),
        // The profile that is sent, at the level that players usually name.
        false => format!("{:02x}{:02x}1f", sent.idc, sent.constraints),
    });
    let mode = entry.parameter("packetization-mode").and_then(|mode| mode.parse::<u8>().ok());
    let words = [
        entry
            .parameter("level-asymmetry-allowed")
            .filter(|allowed| *allowed == "1")
            .map(|_| "level-asymmetry-allowed=1".into()),
        mode.map(|mode| format!("packetization-mode={mode}")),
        level.map(|level| format!("profile-level-id={level}")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(";")
}

/// Whether it consists of three bytes in hexadecimal, as a `profile-level-id` has to (RFC 6184, section 8.1).
fn has_six_digits(level: &str) -> bool {
    level.len() == 6 && level.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Selects the Opus entry; `fixed` as in [`h264`]. The `/2` is mandatory (RFC 7587, section 7), but GStreamer leaves it
/// out. All parameters of Opus state what their writer prefers to receive or sends (RFC 7587, section 7.1): the board
/// receives nothing, and sends what every decoder supports.
pub fn opus(section: Section<'_>, fixed: Option<u8>) -> Option<Media> {
    let mut entries = entries(section).filter(|entry| entry.is("opus", 48_000) && entry.has_payload_type(fixed));
    let entry = entries.find(|entry| matches!(entry.map.encoding_params.as_deref(), None | Some("2")))?;
    Some(Media::new(section, entry, String::new()))
}

/// The names of the offered codecs, for the text of a refusal.
pub fn names(section: Section<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut known: Vec<_> = entries(section).collect();
    for format in section.media.fmt.split_whitespace() {
        let payload_type = format.parse::<u8>().ok();
        let entry = known.iter().position(|entry| Some(entry.map.payload_type) == payload_type);
        let name = match entry.map(|at| known.swap_remove(at)) {
            Some(entry) => entry.describe(),
            None => unusable_format(section, format, payload_type),
        };
        if !names.contains(&name) {
            names.push(name);
        }
        // A browser offers fewer.
        if names.len() == MAX_NAMES {
            break;
        }
    }
    names
}

/// Maximum number of codec names in a refusal.
const MAX_NAMES: usize = 10;

/// Describes a format of the section that cannot be used.
fn unusable_format(section: Section<'_>, format: &str, payload_type: Option<u8>) -> String {
    let format: String = format.chars().take(20).collect();
    let name = match payload_type {
        Some(128..) | None => return format!("payload type {format}, which has to be within 0 to 127"),
        // Static payload types, which need no `a=rtpmap` (RFC 3551, section 6).
        Some(0) => "PCMU".into(),
        Some(8) => "PCMA".into(),
        Some(9) => "G722".into(),
        Some(payload_type) => {
            let map = section.typed::<RtpMap>().find(|map| map.payload_type == payload_type);
            let Some(map) = map else { return format!("payload type {format} without a=rtpmap") };
            map.encoding_name.chars().take(20).collect::<String>()
        }
    };
    if payload_type.is_some_and(collides_with_rtcp) {
        return format!(
            "{name} at payload type {format}, which RTP and RTCP on one port exclude (RFC 5761, section 4)"
        );
    }
    name
}

/// From 64 to 95 a payload type with its marker looks like RTCP on the same port (RFC 5761, section 4).
fn collides_with_rtcp(payload_type: u8) -> bool {
    (64..96).contains(&payload_type)
}

impl Media {
    fn new(section: Section<'_>, entry: Entry, parameters: String) -> Self {
        let payload_type = entry.map.payload_type;
        let apt = payload_type.to_string();
        let retransmission = entries(section)
            .find(|rtx| rtx.is("rtx", 90_000) && rtx.parameter("apt") == Some(&*apt))
            .map(|rtx| rtx.map.payload_type);
        let wanted: Vec<_> = section
            .typed::<RtcpFb>()
            .filter(|feedback| matches!(feedback.pt, RtcpFbPt::Wildcard) || feedback.pt == RtcpFbPt::Fmt(payload_type))
            .filter_map(|feedback| Feedback::read(&feedback.val))
            .collect();
        Self {
            payload_type,
            parameters,
            retransmission,
            feedback: Feedback::ALL.into_iter().filter(|feedback| wanted.contains(feedback)).collect(),
            playout_delay: extension(section, PLAYOUT_DELAY),
            abs_capture_time: extension(section, ABS_CAPTURE_TIME),
            mid: extension(section, MID)
                .zip(section.first("mid").filter(|mid| mid.len() <= MAX_MID).map(str::to_owned)),
        }
    }

    /// The header extensions that are sent, with their URIs.
    pub fn extensions(&self) -> impl Iterator<Item = (Extension, &'static str)> {
        let mid = self.mid.as_ref().map(|(extension, _)| *extension);
        let all = [(self.playout_delay, PLAYOUT_DELAY), (self.abs_capture_time, ABS_CAPTURE_TIME), (mid, MID)];
        all.into_iter().filter_map(|(extension, name)| Some((extension?, name)))
    }
}

/// One `a=rtpmap` with its `a=fmtp`.
struct Entry {
    map: RtpMap,
    parameters: String,
}

impl Entry {
    fn is(&self, name: &str, rate: u32) -> bool {
        self.map.encoding_name.eq_ignore_ascii_case(name) && self.map.clock_rate == rate
    }

    fn has_payload_type(&self, fixed: Option<u8>) -> bool {
        fixed.is_none_or(|fixed| fixed == self.map.payload_type)
    }

    /// A description for the text of a refusal.
    fn describe(&self) -> String {
        let name: String = self.map.encoding_name.chars().take(20).collect();
        let expected = if name.eq_ignore_ascii_case("opus") { 48_000 } else { 90_000 };
        let is_ours = ["opus", "h264"].iter().any(|ours| name.eq_ignore_ascii_case(ours));
        if is_ours && self.map.clock_rate != expected {
            return format!("{name} at {} Hz instead of {expected}", self.map.clock_rate);
        }
        match self.parameter("packetization-mode") {
            Some(mode) => format!("{name} with packetization-mode {}", mode.chars().take(4).collect::<String>()),
            None => name,
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// The usable entries of a section, in the viewer's order of preference.
fn entries<'a>(section: Section<'a>) -> impl Iterator<Item = Entry> + 'a {
    let formats = section.media.fmt.split_whitespace().filter_map(|format| format.parse::<u8>().ok());
    formats.filter(|format| *format < 128 && !collides_with_rtcp(*format)).filter_map(move |format| {
        let map = section.typed::<RtpMap>().find(|map| map.payload_type == format)?;
        let parameters = section.typed::<Fmtp>().filter(|parameters| parameters.fmt == format);
        let parameters = parameters.flat_map(|parameters| parameters.format_specific_params);
        let words = parameters.map(|parameter| match parameter.val {
            Some(value) => format!("{}={}", parameter.param.trim(), value.trim()),
            None => parameter.param.trim().to_owned(),
        });
        let parameters = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(";");
        Some(Entry { map, parameters })
    })
}

fn extension(section: Section<'_>, name: &str) -> Option<Extension> {
    let mut maps = section.typed::<ExtMap>().filter(|map| map.uri == name);
    let map = maps.find(|map| (1..=LAST_ONE_BYTE_ID).contains(&map.id))?;
    // An id used for two extensions is not valid for either (RFC 8285, section 6).
    if section.typed::<ExtMap>().any(|other| other.id == map.id && other.uri != map.uri) {
        return None;
    }
    match map.direction {
        None | Some(Direction::SendRecv) => Some(Extension { id: map.id, is_one_way: false }),
        Some(Direction::RecvOnly) => Some(Extension { id: map.id, is_one_way: true }),
        Some(Direction::SendOnly | Direction::Inactive) => None,
    }
}

/// The profile of profile-level-id; baseline where it is absent or unreadable (RFC 6184, section 8.1).
fn offered_profile(entry: &Entry) -> H264Profile {
    let level = entry.parameter("profile-level-id").filter(|level| has_six_digits(level));
    let bytes = level.and_then(|hex| u32::from_str_radix(hex.get(..4)?, 16).ok());
    let bytes = bytes.unwrap_or(0x4200);
    H264Profile { idc: (bytes >> 8) as u8, constraints: bytes as u8 }
}

/// How far a decoder for `offered` is from a stream of `sent`: 0 if the profile is the same, 1 if it contains the
/// stream's profile, 2 if it is not guaranteed to decode the stream but does in practice (browsers' decoders are not
/// split by profile).
fn distance(offered: H264Profile, sent: H264Profile) -> u8 {
    let (offered, sent) = (Family::of(offered), Family::of(sent));
    match () {
        () if offered == sent => 0,
        () if offered > sent => 1,
        () => 2,
    }
}

/// Profiles, ordered by what they can decode (RFC 6184, table 5): each decodes the ones before it, which is accurate
/// enough for WebRTC.
#[derive(PartialEq, PartialOrd)]
enum Family {
    ConstrainedBaseline,
    Baseline,
    Extended,
    Main,
    High,
}

impl Family {
    fn of(profile: H264Profile) -> Self {
        let is_set0 = profile.constraints & 0x80 != 0;
        let is_set1 = profile.constraints & 0x40 != 0;
        match profile.idc {
            0x42 | 0x58 if is_set1 && (is_set0 || profile.idc == 0x42) => Self::ConstrainedBaseline,
            0x4d if is_set0 => Self::ConstrainedBaseline,
            0x42 => Self::Baseline,
            0x58 if is_set0 => Self::Baseline,
            0x58 => Self::Extended,
            0x4d => Self::Main,
            _ => Self::High,
        }
    }
}
