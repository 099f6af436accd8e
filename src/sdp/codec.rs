//! How a section lets us send: payload types, retransmission, feedback, header extensions.

use sdp_types::{Direction, ExtMap, Fmtp, RtcpFb, RtcpFbCcm, RtcpFbNack, RtcpFbPt, RtcpFbVal, RtpMap};

use super::line::Section;
use crate::media::H264Profile;

/// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`: lets the sender bound the receiver's jitter buffer.
pub const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
/// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`: the wall-clock time a frame was captured.
pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";

/// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143, section 15): the tag of the section that a stream belongs to.
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// The longest tag for which a packet has room beside the other extensions (RFC 9429, section 5.2.1 has three bytes for
/// a long one; GStreamer's have six).
const MOST_MID: usize = 6;

/// One-byte header extensions end at 14 (RFC 8285, section 4.2).
const LAST_ONE_BYTE_ID: u8 = 14;

/// How to send to one media section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// The viewer's payload type for the codec.
    pub payload_type: u8,
    /// Ours for the format (RFC 6184, section 8.2.2), as far as the viewer's call for any; empty where they do not.
    pub parameters: String,
    /// The payload type of retransmissions of it (RFC 4588), where offered.
    pub retransmission: Option<u8>,
    /// The feedback that we act on, where offered.
    pub feedback: Vec<Feedback>,
    /// Id of the playout-delay extension, where offered.
    pub playout_delay: Option<Extension>,
    /// Id of the abs-capture-time extension, where offered.
    pub abs_capture_time: Option<Extension>,
    /// Id of the extension that names the section, where offered, and the section's tag.
    pub mid: Option<(Extension, String)>,
}

/// What a viewer may ask for by RTCP (RFC 4585, section 4.2; RFC 5104, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// Packets again.
    Nack,
    /// A key frame, because a picture was lost.
    PictureLoss,
    /// A key frame.
    FullIntra,
}

impl Feedback {
    /// Those there are.
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
    /// Whether the offer restricts it to one direction, so that the answer has to (RFC 8285, section 6).
    pub is_one_way: bool,
}

/// The H.264 entry that suits a stream of `profile` best. Packetization mode 1 comes before an entry that says nothing,
/// and that before one that says 0, which both mean mode 0 (RFC 6184, section 8.1). In mode 0 nothing may be divided that
/// does not fit a packet, and all viewers share one encoder; yet receivers put fragments together without a look at the
/// mode, as every WebRTC endpoint has to (RFC 7742, section 6.2). Mode 2 is another order of packets, which few know.
/// A level is no reason to refuse: players name one by habit and decode more.
///
/// `fixed` is the payload type that was agreed upon before, where one was.
pub fn h264(section: Section<'_>, profile: H264Profile, fixed: Option<u8>) -> Option<Media> {
    let entries = entries(section).filter(|entry| entry.is("H264", 90_000) && entry.may_be(fixed));
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

/// What an answer says of H.264 (RFC 6184, section 8.2.2): the entry's configuration, word for word, since GStreamer
/// compares text. What else a viewer says of itself (`max-br`, `sprop-parameter-sets`) is not the board's to repeat.
fn h264_parameters(entry: &Entry, sent: H264Profile) -> String {
    let level = entry.parameter("profile-level-id").map(|level| match has_six_digits(level) {
        true => level.to_owned(),
        // What is sent, at the level that players name by habit.
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

/// Whether it is the three bytes in hexadecimal that a `profile-level-id` has to be (RFC 6184, section 8.1).
fn has_six_digits(level: &str) -> bool {
    level.len() == 6 && level.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// The Opus entry, `fixed` as above. The `/2` is a must (RFC 7587, section 7) that GStreamer leaves out. All parameters
/// of Opus say what their writer likes to receive or sends (RFC 7587, section 7.1): the board receives nothing, and sends
/// what every decoder takes.
pub fn opus(section: Section<'_>, fixed: Option<u8>) -> Option<Media> {
    let mut entries = entries(section).filter(|entry| entry.is("opus", 48_000) && entry.may_be(fixed));
    let entry = entries.find(|entry| matches!(entry.map.encoding_params.as_deref(), None | Some("2")))?;
    Some(Media::new(section, entry, String::new()))
}

/// The names of what is offered, for who wonders why it is refused.
pub fn names(section: Section<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut known: Vec<_> = entries(section).collect();
    for format in section.media.fmt.split_whitespace() {
        let payload_type = format.parse::<u8>().ok();
        let entry = known.iter().position(|entry| Some(entry.map.payload_type) == payload_type);
        let name = match entry.map(|at| known.swap_remove(at)) {
            Some(entry) => entry.in_words(),
            None => missing(section, format, payload_type),
        };
        if !names.contains(&name) {
            names.push(name);
        }
        // What a browser offers is less.
        if names.len() == MOST_NAMES {
            break;
        }
    }
    names
}

/// Names of codecs that a refusal lists.
const MOST_NAMES: usize = 10;

/// Why a format of the section is none that could be sent.
fn missing(section: Section<'_>, format: &str, payload_type: Option<u8>) -> String {
    let format: String = format.chars().take(20).collect();
    let name = match payload_type {
        Some(128..) | None => return format!("payload type {format}, which has to be within 0 to 127"),
        // Those that need no line to say so (RFC 3551, section 6).
        Some(0) => "PCMU".into(),
        Some(8) => "PCMA".into(),
        Some(9) => "G722".into(),
        Some(payload_type) => {
            let map = section.typed::<RtpMap>().find(|map| map.payload_type == payload_type);
            let Some(map) = map else { return format!("payload type {format} without a=rtpmap") };
            map.encoding_name.chars().take(20).collect::<String>()
        }
    };
    if payload_type.is_some_and(is_like_rtcp) {
        return format!(
            "{name} at payload type {format}, which RTP and RTCP on one port exclude (RFC 5761, section 4)"
        );
    }
    name
}

/// From 64 to 95 a payload type with its marker looks like RTCP on the same port (RFC 5761, section 4).
fn is_like_rtcp(payload_type: u8) -> bool {
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
                .zip(section.first("mid").filter(|mid| mid.len() <= MOST_MID).map(str::to_owned)),
        }
    }

    /// The extensions that are sent, with their names.
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

    fn may_be(&self, fixed: Option<u8>) -> bool {
        fixed.is_none_or(|fixed| fixed == self.map.payload_type)
    }

    /// For who wonders why it is refused.
    fn in_words(&self) -> String {
        let name: String = self.map.encoding_name.chars().take(20).collect();
        let usual = if name.eq_ignore_ascii_case("opus") { 48_000 } else { 90_000 };
        let is_ours = ["opus", "h264"].iter().any(|ours| name.eq_ignore_ascii_case(ours));
        if is_ours && self.map.clock_rate != usual {
            return format!("{name} at {} Hz instead of {usual}", self.map.clock_rate);
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

/// What can be sent in a section, in the viewer's order of preference.
fn entries<'a>(section: Section<'a>) -> impl Iterator<Item = Entry> + 'a {
    let formats = section.media.fmt.split_whitespace().filter_map(|format| format.parse::<u8>().ok());
    formats.filter(|format| *format < 128 && !is_like_rtcp(*format)).filter_map(move |format| {
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
    // An id that stands for two extensions stands for none (RFC 8285, section 6).
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

/// How badly a decoder for `offered` suits a stream of `sent`: 0 the very profile, 1 one that contains it,
/// 2 one that is not promised to decode it but in practice does (browsers' decoders are not split by profile).
fn distance(offered: H264Profile, sent: H264Profile) -> u8 {
    let (offered, sent) = (Family::of(offered), Family::of(sent));
    match () {
        () if offered == sent => 0,
        () if offered > sent => 1,
        () => 2,
    }
}

/// Profiles by what they can decode (RFC 6184, table 5): each decodes the ones before it, near enough for WebRTC.
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
