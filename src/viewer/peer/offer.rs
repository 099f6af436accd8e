//! What a browser's offer lets us send: payload types, retransmission, header extensions.
//!
//! The crate matches H.264 by the literal bytes of profile-level-id among what is registered beforehand, and takes
//! the first match. Reading the offer first lets us register exactly the one codec we send, under the browser's own
//! payload type, whichever browser it is.

use std::io::Cursor;

use rtc::sdp::description::media::MediaDescription;
use rtc::sdp::description::session::SessionDescription;

use super::Error;
use crate::media::H264Profile;

/// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`: lets the sender bound the receiver's jitter buffer.
pub const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
/// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`: the wall-clock time a frame was captured.
pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";

/// One-byte header extensions end at 14 (RFC 8285, section 4.2).
const LAST_ONE_BYTE_ID: u8 = 14;

/// What of an offer we use.
#[derive(Debug, PartialEq)]
pub struct Offer {
    /// How to send H.264.
    pub video: Media,
    /// How to send Opus; `None` when the offer has no use for sound.
    pub audio: Option<Media>,
}

/// How to send to one media section.
#[derive(Debug, PartialEq)]
pub struct Media {
    /// The browser's payload type for the codec.
    pub payload_type: u8,
    /// The browser's format parameters for it.
    pub parameters: String,
    /// The payload type of retransmissions of it (RFC 4588), where offered.
    pub retransmission: Option<u8>,
    /// Id of the playout-delay extension, where offered.
    pub playout_delay: Option<u8>,
    /// Id of the abs-capture-time extension, where offered.
    pub abs_capture_time: Option<u8>,
}

/// The ICE generation of an offer: its user name fragment (RFC 8839, section 5.4).
pub fn generation(sdp: &str) -> Option<String> {
    sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).map(|ufrag| ufrag.trim_end().to_owned())
}

impl Offer {
    /// Reads an offer and picks the H.264 payload type that suits `profile` best.
    ///
    /// # Errors
    ///
    /// [`Error::BadOffer`] when it is not SDP or does not want to receive video, [`Error::NoCommonCodec`] when it
    /// wants only video that we do not send.
    pub fn read(sdp: &str, profile: H264Profile) -> Result<Self, Error> {
        let description = SessionDescription::unmarshal(&mut Cursor::new(sdp.as_bytes()))
            .map_err(|error| Error::BadOffer(format!("the offer is not a session description: {error}")))?;
        let sections = |kind: &'static str| {
            description.media_descriptions.iter().filter(move |media| media.media_name.media == kind)
        };
        if sections("video").next().is_none() {
            return Err(Error::BadOffer("the offer has no video section; add a recvonly video transceiver".into()));
        }
        let video = sections("video").find(|media| is_wanted(media)).ok_or_else(|| {
            Error::BadOffer("the offer's video section does not receive; make its transceiver recvonly".into())
        })?;
        let audio = sections("audio").find(|media| is_wanted(media)).and_then(read_opus);
        Ok(Self { video: read_h264(video, profile)?, audio })
    }
}

/// Whether the browser means to receive in this section (RFC 8829, section 5.3.1; port 0 rejects it).
fn is_wanted(media: &MediaDescription) -> bool {
    let is_rejected = media.media_name.port.value == 0 && media.attribute("bundle-only").is_none();
    !is_rejected && media.attribute("sendonly").is_none() && media.attribute("inactive").is_none()
}

fn read_h264(media: &MediaDescription, profile: H264Profile) -> Result<Media, Error> {
    let candidates = codecs(media).filter(|codec| codec.name.eq_ignore_ascii_case("H264/90000"));
    let best = candidates
        .filter(|codec| parameter(&codec.parameters, "packetization-mode") == Some("1"))
        .min_by_key(|codec| distance(offered_profile(&codec.parameters), profile));
    let Some(codec) = best else {
        let offered: Vec<_> = codecs(media).map(|codec| codec.name).collect();
        return Err(Error::NoCommonCodec(format!(
            "this board sends H.264 with packetization-mode 1; the offer has {}",
            if offered.is_empty() { "no codecs".into() } else { offered.join(", ") }
        )));
    };
    let apt = codec.payload_type.to_string();
    let retransmission = codecs(media)
        .find(|rtx| rtx.name.eq_ignore_ascii_case("rtx/90000") && parameter(&rtx.parameters, "apt") == Some(&*apt))
        .map(|rtx| rtx.payload_type);
    Ok(Media::new(media, codec, retransmission))
}

fn read_opus(media: &MediaDescription) -> Option<Media> {
    let opus = codecs(media).find(|codec| codec.name.eq_ignore_ascii_case("opus/48000/2"))?;
    Some(Media::new(media, opus, None))
}

impl Media {
    fn new(media: &MediaDescription, codec: Codec, retransmission: Option<u8>) -> Self {
        Self {
            payload_type: codec.payload_type,
            parameters: codec.parameters,
            retransmission,
            playout_delay: extension(media, PLAYOUT_DELAY),
            abs_capture_time: extension(media, ABS_CAPTURE_TIME),
        }
    }
}

/// One `a=rtpmap` with its `a=fmtp`.
struct Codec {
    payload_type: u8,
    /// `H264/90000`
    name: String,
    parameters: String,
}

/// The codecs of a section in the browser's order of preference.
fn codecs(media: &MediaDescription) -> impl Iterator<Item = Codec> {
    let lines = |key: &'static str| {
        media
            .attributes
            .iter()
            .filter(move |attribute| attribute.key == key)
            .filter_map(|attribute| attribute.value.as_deref()?.split_once(' '))
    };
    media.media_name.formats.iter().filter_map(move |format| {
        let name = lines("rtpmap").find(|(payload_type, _)| payload_type == format)?.1.trim().to_owned();
        let parameters = lines("fmtp").find(|(payload_type, _)| payload_type == format);
        let parameters = parameters.map(|(_, text)| text.trim().to_owned()).unwrap_or_default();
        // Dynamic and static payload types are seven bits (RFC 3550, section 5.1).
        let payload_type = format.parse().ok().filter(|number| *number < 128)?;
        Some(Codec { payload_type, name, parameters })
    })
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// The profile of profile-level-id; baseline where it is absent or unreadable (RFC 6184, section 8.1).
fn offered_profile(parameters: &str) -> H264Profile {
    let bytes = parameter(parameters, "profile-level-id").and_then(|hex| u32::from_str_radix(hex.get(..4)?, 16).ok());
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
    Main,
    High,
}

impl Family {
    fn of(profile: H264Profile) -> Self {
        let is_set1 = profile.constraints & 0x40 != 0;
        let is_set0 = profile.constraints & 0x80 != 0;
        match profile.idc {
            0x42 if is_set1 => Self::ConstrainedBaseline,
            0x4d if is_set0 => Self::ConstrainedBaseline,
            0x42 => Self::Baseline,
            0x4d => Self::Main,
            _ => Self::High,
        }
    }
}

fn extension(media: &MediaDescription, uri: &str) -> Option<u8> {
    let lines = media.attributes.iter().filter(|attribute| attribute.key == "extmap");
    lines.filter_map(|attribute| attribute.value.as_deref()?.split_once(' ')).find_map(|(id, offered)| {
        let is_it = offered.split(' ').next() == Some(uri);
        let id = id.split('/').next()?.parse().ok()?;
        (is_it && (1..=LAST_ONE_BYTE_ID).contains(&id)).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: H264Profile = H264Profile { idc: 0x64, constraints: 0 };

    /// An offer with the given lines of its video section, and an audio section with Opus.
    fn offer(formats: &str, lines: &[&str]) -> String {
        let head = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
        let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\na=recvonly\r\n";
        let video: String = lines.iter().map(|line| format!("a={line}\r\n")).collect();
        format!("{head}{audio}m=video 9 UDP/TLS/RTP/SAVPF {formats}\r\n{video}")
    }

    fn chosen(sdp: &str, profile: H264Profile) -> u8 {
        Offer::read(sdp, profile).unwrap().video.payload_type
    }

    /// The H.264 lines that Chromium 156, Firefox 140 and Safari 18 put into an offer.
    fn chromium() -> String {
        let h264 = |pt: u8, mode: u8, profile: &str| {
            [
                format!("rtpmap:{pt} H264/90000"),
                format!("fmtp:{pt} level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"),
                format!("rtpmap:{} rtx/90000", pt + 1),
                format!("fmtp:{} apt={pt}", pt + 1),
            ]
        };
        let codecs = [
            h264(103, 1, "42001f"),
            h264(107, 0, "42001f"),
            h264(109, 1, "42e01f"),
            h264(115, 0, "42e01f"),
            h264(117, 1, "4d001f"),
            h264(39, 1, "64001f"),
        ];
        let mut lines: Vec<&str> = codecs.iter().flatten().map(String::as_str).collect();
        lines.extend(["rtpmap:96 VP8/90000", "recvonly"]);
        lines.push("extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay");
        lines.push("extmap:13/recvonly http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time");
        offer("96 103 104 107 108 109 110 115 116 117 118 39 40", &lines)
    }

    #[test]
    fn the_profile_that_is_sent_is_picked_for_each_browser() {
        assert_eq!(chosen(&chromium(), H264Profile::CONSTRAINED_BASELINE), 109);
        assert_eq!(chosen(&chromium(), HIGH), 39);
        let firefox = offer(
            "126 127 97 98",
            &[
                "rtpmap:97 H264/90000",
                "fmtp:97 profile-level-id=42e01f;level-asymmetry-allowed=1",
                "rtpmap:126 H264/90000",
                "fmtp:126 profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1",
            ],
        );
        assert_eq!(chosen(&firefox, H264Profile::CONSTRAINED_BASELINE), 126);
        let safari = offer(
            "96 98",
            &[
                "rtpmap:96 H264/90000",
                "fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f",
                "rtpmap:98 H264/90000",
                "fmtp:98 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
            ],
        );
        assert_eq!(chosen(&safari, H264Profile::CONSTRAINED_BASELINE), 98);
        assert_eq!(chosen(&safari, HIGH), 96);
    }

    #[test]
    fn a_decoder_of_a_higher_profile_serves_where_the_very_one_is_not_offered() {
        let only_high = offer("39", &["rtpmap:39 H264/90000", "fmtp:39 packetization-mode=1;profile-level-id=64001f"]);
        assert_eq!(chosen(&only_high, H264Profile::CONSTRAINED_BASELINE), 39);
    }

    #[test]
    fn retransmission_and_header_extensions_are_read_from_the_offer() {
        let read = Offer::read(&chromium(), H264Profile::CONSTRAINED_BASELINE).unwrap();
        assert_eq!(read.video.retransmission, Some(110));
        assert_eq!((read.video.playout_delay, read.video.abs_capture_time), (Some(5), Some(13)));
        let audio = read.audio.unwrap();
        assert_eq!((audio.payload_type, audio.playout_delay), (111, None));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_what_to_do() {
        let refusal = |sdp: &str| Offer::read(sdp, H264Profile::CONSTRAINED_BASELINE).unwrap_err().to_string();
        assert!(refusal("hello").contains("not a session description"));
        assert!(refusal("").contains("not a session description") || refusal("").contains("no video section"));
        let head = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
        assert!(refusal(head).contains("no video section"));
        assert!(refusal(&offer("96", &["rtpmap:96 VP8/90000"])).contains("VP8/90000"));
        assert!(refusal(&offer("96", &["rtpmap:96 H264/90000", "sendonly"])).contains("recvonly"));
        let mode_0 = offer("96", &["rtpmap:96 H264/90000", "fmtp:96 packetization-mode=0"]);
        assert!(refusal(&mode_0).contains("packetization-mode 1"));
    }

    #[test]
    fn a_section_without_a_codec_we_know_is_no_reason_to_fail_for_sound() {
        let sdp = chromium().replace("opus/48000/2", "PCMU/8000");
        assert_eq!(Offer::read(&sdp, H264Profile::CONSTRAINED_BASELINE).unwrap().audio, None);
    }
}
