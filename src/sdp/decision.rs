//! The decision on a single section of an offer.

use super::Error;
use super::attributes::Section;
use super::codec::{self, Media};
use crate::media::H264Profile;

/// The media that the board can send.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// The profile of its video.
    pub profile: H264Profile,
    /// Whether there is sound at the moment.
    pub has_sound: bool,
    /// Whether this viewer can send further offers, which may request more.
    pub can_renegotiate: bool,
}

/// The decision on a section.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// Video or audio is sent in it.
    Sent(Media),
    /// It is accepted, but nothing is sent: the viewer does not want it, or the board has none (RFC 3264, section 6.1).
    Silent(Media),
    /// It carries the data channel.
    Channel,
    /// It is rejected.
    Rejected,
}

/// How to send video in a section. The payload type agreed before is kept if it is still offered.
pub(super) fn video_media(section: Section<'_>, board: Board, agreed: Option<u8>) -> Result<Media, Error> {
    section.check().map_err(|what| Error::Unusable(format!("the offer's video section {what}")))?;
    let kept = agreed.and_then(|agreed| codec::h264(section, board.profile, Some(agreed)));
    kept.or_else(|| codec::h264(section, board.profile, None)).ok_or_else(|| no_codec_error("H.264", section))
}

/// The error for a section without a codec that the board sends.
pub(super) fn no_codec_error(sent: &str, section: Section<'_>) -> Error {
    let offered = codec::names(section);
    let offered = if offered.is_empty() { "no codecs".into() } else { offered.join(", ") };
    Error::NoCommonCodec(format!("this board sends {sent}; the offer has {offered}"))
}
