//! Why a section is rejected, for who reads the log of a board.

use super::bundle::{Bundle, Channel, Served};
use super::codec;
use super::line::Section;
use super::offer::{Board, Offer, picture_of};

/// Sections of which a reason is told: as many as a browser has, and few enough for one line.
const MOST_REASONS: usize = 4;

/// Why a section is rejected that the viewer does not reject itself. It completes the sentence "the section ..".
pub(super) fn reason(section: Section<'_>, served: &Served, bundles: &[Bundle], board: Board) -> String {
    // Nothing is quoted, which would give strangers a say in the log.
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
        "video" if picture_of(section, board, None).is_err() => "has no H.264 that this board sends".into(),
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

impl Offer {
    /// Which sections are rejected that the viewer does not reject itself, and why: in words for a log.
    pub fn rejections(&self) -> Option<String> {
        let rejected = self
            .sections
            .iter()
            .enumerate()
            .filter_map(|(index, section)| Some(format!("section {} {}", index + 1, section.reason.as_ref()?)));
        let reasons: Vec<_> = rejected.take(MOST_REASONS).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}
