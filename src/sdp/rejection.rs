//! Reasons for rejected sections, as text for the board's log.

use super::attributes::Section;
use super::bundle::{Bundle, Channel, Served};
use super::codec;
use super::decision::{Board, video_media};

/// The reason why a section is rejected that the offer does not reject. The text completes the sentence "the section
/// ..".
pub(super) fn reason(section: Section<'_>, served: &Served, bundles: &[Bundle], board: Board) -> String {
    // The offer is not quoted, because strangers could write into the log that way.
    if section.check().is_err() {
        return "cannot be carried as it is offered (its profile, or no a=rtcp-mux)".into();
    }
    let another = |is_served: bool, what: &str| {
        let lost = bundles.iter().any(|bundle| bundle.is_lost);
        match (is_served, lost) {
            (true, _) => format!("has no place: another section has the {what}, and there is one of it"),
            (false, true) => format!("cannot have the {what}, whose transport was lost; begin a new session"),
            (false, false) => format!("cannot have the {what} on its transport; begin a new session"),
        }
    };
    match &*section.media.media {
        "video" if video_media(section, board, None).is_err() => "has no H.264 that this board sends".into(),
        "video" => another(served.video.is_some(), "picture"),
        "audio" if codec::opus(section, None).is_none() => "has no Opus".into(),
        "audio" => another(served.audio.is_some(), "sound"),
        "application" if Channel::read(section).is_none() => "is no data channel (RFC 8841)".into(),
        "application" if served.channel.is_none() && bundles.iter().all(|bundle| !bundle.may_begin_channel()) => {
            "comes after a DTLS handshake that the board began, or after a data channel that ended; offer a data channel \
             at first, or a=setup:active"
                .into()
        }
        "application" => another(served.channel.is_some(), "data channel"),
        _ => "is of a kind that this board does not serve".into(),
    }
}
