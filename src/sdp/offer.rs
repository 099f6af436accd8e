//! A viewer's offer and the decisions on it: which sections are served, on which transports, and why others are
//! rejected.

use std::net::SocketAddr;

use sdp_types::Session;

use super::Error;
use super::attributes::{self, Section};
use super::bundle::{Bundle, Channel, InSection, Served, SourceNaming, Tracks, TransportKey};
use super::codec::{self, Media};
use super::decision::{Board, Decision, no_codec_error, video_media};
use super::rejection;
use super::transport::{Credentials, Role};

/// Maximum number of sections whose reasons are reported: as many as a browser has, and few enough for one line.
const MAX_REASONS: usize = 4;

/// An offer that can be answered.
#[derive(Clone, Debug)]
pub struct Offer {
    pub(super) sections: Vec<DecidedSection>,
    pub(super) served: Served,
    /// Its transports. The first one carries video; without video, audio.
    pub(super) bundles: Vec<Bundle>,
}

/// One section, with what its answer needs.
#[derive(Clone, Debug)]
pub(super) struct DecidedSection {
    pub(super) kind: String,
    pub(super) protocol: String,
    pub(super) formats: String,
    pub(super) mid: Option<String>,
    pub(super) has_mux: bool,
    pub(super) has_reduced_size: bool,
    /// The transport that carries it.
    pub(super) bundle: usize,
    pub(super) decision: Decision,
    /// Whether the previous offer did not have it, or had it rejected.
    pub(super) is_new: bool,
    /// Why it is rejected, if the viewer itself does not reject it; completes the sentence "the section ..".
    pub(super) reason: Option<String>,
}

impl Offer {
    /// Reads a first offer and decides on each section. The first video section that can be served is served.
    ///
    /// # Errors
    ///
    /// [`Error::NoCommonCodec`] if only the codec is the obstacle, and [`Error::Unusable`] for anything else. An offer
    /// that wants video which cannot be served is refused, even if it also wants audio: a viewer that waits for video
    /// needs to know that none comes. An offer of which nothing can ever be served is refused too.
    pub fn read(text: &str, board: Board) -> Result<Self, Error> {
        let session = attributes::parse(text)?;
        let groups = attributes::groups(&session);
        let sections = sections(&session, &groups)?;
        let mut refusal = None;
        let is_video = |section: &Section<'_>| section.media.media == "video" && !section.is_rejected();
        let videos = || (0..sections.len()).filter(|index| is_video(&sections[*index]));
        for index in videos().filter(|index| sections[*index].wants()) {
            match Self::first(&sections, Some(index), board) {
                Ok(offer) => return Ok(offer),
                // Of several sections, the error of the first is the most helpful, unless a later one lacks only a
                // codec.
                Err(error @ Error::NoCommonCodec(_)) => refusal = Some(error),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            // No section wants video, but a further offer may.
            None => {
                let inactive = videos().find(|index| sections[*index].is_inactive());
                Self::first(&sections, inactive.or(videos().next()), board)
            }
        }
    }

    /// Decides on a first offer. `picture` is the index of the section for video, which wants it now or may want it
    /// later.
    fn first(sections: &[Section<'_>], picture: Option<usize>, board: Board) -> Result<Self, Error> {
        let mut served = Served::default();
        let mut fault = None;
        if let Some(index) = picture {
            match video_media(sections[index], board, None) {
                Ok(media) => served.video = Some(InSection::new(index, sections[index], media)),
                Err(error) if sections[index].wants() => return Err(error),
                Err(error) => fault = Some(error),
            }
        }
        let found = |kind: &str| {
            let all = sections.iter().copied().enumerate();
            all.filter(move |(_, section)| section.media.media == *kind && section.check().is_ok()).collect::<Vec<_>>()
        };
        let sounds = found("audio").into_iter().filter_map(|(index, section)| {
            Some(InSection::new(index, section, served.audio_media(index, section, None)?))
                .map(|at| (section.wants(), at))
        });
        // A section that wants audio, or else the first: the stack has a track for it, so that a further offer can turn
        // audio on.
        let audio_media = sounds.reduce(|first, next| if next.0 && !first.0 { next } else { first });
        served.audio = audio_media.map(|(_, at)| at);
        let channels = found("application").into_iter();
        served.channel = channels
            .filter_map(|(index, section)| Some(InSection::new(index, section, Channel::read(section)?)))
            .next();

        let mut bundles: Vec<Bundle> = Vec::new();
        let decisions = |served: &Served| -> Vec<_> {
            let all = sections.iter().copied().enumerate();
            all.map(|(index, section)| served.decision(index, section, board, None)).collect()
        };
        for index in served.indices() {
            let share = TransportKey::of(sections[index], index);
            if bundles.iter().any(|bundle| bundle.share == share) {
                continue;
            }
            match Bundle::read(sections, &decisions(&served), index, board) {
                Ok(bundle) => bundles.push(Bundle { number: bundles.len() as u64, ..bundle }),
                Err(error) if picture == Some(index) && sections[index].wants() => return Err(error),
                Err(error) => {
                    served.remove(index);
                    fault = fault.or(Some(error));
                }
            }
        }
        served.assign(&mut bundles);
        let offer = Self::new(sections, decisions(&served), served, bundles, board);
        if offer.serves_anything(sections, board) {
            Ok(offer)
        } else {
            Err(fault.unwrap_or_else(|| nothing_served_error(sections, board)))
        }
    }

    /// Whether anything is served, or will be as soon as the viewer requests it.
    fn serves_anything(&self, sections: &[Section<'_>], board: Board) -> bool {
        let Served { video, audio, channel, .. } = &self.served;
        let is_asked_for = |index: usize| sections[index].wants() || sections[index].is_inactive();
        let has_sound = audio.as_ref().is_some_and(|audio| board.has_sound && is_asked_for(audio.index));
        channel.is_some() || has_sound || video.as_ref().is_some_and(|video| is_asked_for(video.index))
    }

    /// Builds the offer. Sections without a transport are rejected.
    pub(super) fn new(
        sections: &[Section<'_>],
        decisions: Vec<Decision>,
        served: Served,
        mut bundles: Vec<Bundle>,
        board: Board,
    ) -> Self {
        if let Some(InSection { bundle, what, .. }) = &served.channel {
            bundles[*bundle].channel.get_or_insert_with(|| what.clone());
        }
        let decided = sections.iter().copied().zip(decisions).enumerate().map(|(index, (section, decision))| {
            let share = TransportKey::of(section, index);
            let bundle = bundles.iter().position(|bundle| bundle.share == share);
            let decision = if bundle.is_some() { decision } else { Decision::Rejected };
            let is_rejected = decision == Decision::Rejected && !section.is_rejected();
            DecidedSection {
                is_new: false,
                reason: is_rejected.then(|| rejection::reason(section, &served, &bundles, board)),
                kind: section.media.media.clone(),
                protocol: section.media.proto.clone(),
                formats: section.media.fmt.clone(),
                mid: section.first("mid").map(str::to_owned),
                // Viewers that support nothing else get the same answer (RFC 8858, section 3).
                has_mux: section.has("rtcp-mux") || section.has("rtcp-mux-only"),
                has_reduced_size: section.has("rtcp-rsize"),
                bundle: bundle.unwrap_or_default(),
                decision,
            }
        });
        let mut offer = Self { sections: decided.collect(), served, bundles };
        let sent = offer.sent();
        let named = offer.served.named.iter_mut().zip(sent);
        named.for_each(|(named, sent)| *named = sent.map_or(*named, |index| named.sent(index)));
        offer
    }

    /// The sections in which video and audio are sent.
    fn sent(&self) -> [Option<usize>; 2] {
        let is_sent = |index: &usize| matches!(self.sections[*index].decision, Decision::Sent(_));
        let Served { video, audio, .. } = &self.served;
        [video, audio].map(|at| at.as_ref().map(|at| at.index).filter(is_sent))
    }

    /// Whether the section's answer has `a=ssrc` lines for the sources sent in it. Sources that have moved to another
    /// section are identified by the mid extension if the viewer supports it: Chromium refuses an answer that names a
    /// source in one section while it has the source in a later one.
    pub(super) fn names_sources_in(&self, index: usize) -> bool {
        let Decision::Sent(media) = &self.sections[index].decision else { return false };
        media.mid.is_none() || self.served.named.contains(&SourceNaming::In(index))
    }

    /// The sections that are rejected although the viewer does not reject them, with the reasons, as text for a log.
    pub fn rejections(&self) -> Option<String> {
        let rejected = self
            .sections
            .iter()
            .enumerate()
            .filter_map(|(index, section)| Some(format!("section {} {}", index + 1, section.reason.as_ref()?)));
        let reasons: Vec<_> = rejected.take(MAX_REASONS).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Whether video is to be sent, and whether audio is: a viewer may pause each.
    pub fn sending(&self) -> (bool, bool) {
        let [video, audio] = self.sent().map(|section| section.is_some());
        (video, audio)
    }

    /// The section in which video is sent: its index and its `a=mid`; `None` while no video is sent.
    pub fn video_section(&self) -> Option<(usize, Option<&str>)> {
        let [video, _] = self.sent();
        video.map(|index| (index, self.sections[index].mid.as_deref()))
    }

    /// How to send H.264; `None` if the offer has no section for it.
    pub fn video(&self) -> Option<&Media> {
        self.served.video.as_ref().map(|video| &video.what)
    }

    /// How to send Opus; `None` if the offer has no section for it.
    pub fn audio(&self) -> Option<&Media> {
        self.served.audio.as_ref().map(|audio| &audio.what)
    }

    /// Number of transports, one to three.
    pub fn transports(&self) -> usize {
        self.bundles.len()
    }

    /// Number that distinguishes a transport from earlier and later ones at the same index.
    pub fn number(&self, transport: usize) -> u64 {
        self.bundles[transport].number
    }

    /// The transport on which the session depends: the one that carries video, or else audio, or else the data channel.
    /// `None` while nothing is served.
    pub fn main_transport(&self) -> Option<usize> {
        self.served.indices().find_map(|index| self.served.bundle_of(index))
    }

    /// The tracks of a transport's connection. Video and audio each have a track on one transport, even before the
    /// viewer wants them.
    pub fn tracks_on(&self, transport: usize) -> Tracks {
        self.bundles[transport].tracks
    }

    /// Whether a transport has ended while the viewer's session goes on.
    pub fn is_lost(&self, transport: usize) -> bool {
        self.bundles[transport].is_lost
    }

    /// The transport that carries video.
    pub fn video_transport(&self) -> usize {
        self.served.media_transports.video
    }

    /// The transport that carries audio.
    pub fn audio_transport(&self) -> usize {
        self.served.media_transports.audio
    }

    /// Whether a transport carries anything that is served.
    pub fn is_used(&self, transport: usize) -> bool {
        self.served.indices().any(|index| self.served.bundle_of(index) == Some(transport))
    }

    /// The viewer's ICE credentials on one transport; they identify the ICE generation (RFC 8839, section 5.4).
    pub fn credentials(&self, transport: usize) -> &Credentials {
        &self.bundles[transport].transport.credentials
    }

    /// Whether the board starts the DTLS handshake on one transport (RFC 5763, section 5).
    pub fn is_dtls_client(&self, transport: usize) -> bool {
        self.bundles[transport].transport.role == Role::Active
    }

    /// The viewer's addresses on one transport, as far as the offer contains them.
    pub fn addresses(&self, transport: usize) -> impl Iterator<Item = SocketAddr> {
        let candidates = self.bundles[transport].transport.candidates.iter();
        candidates.map(|candidate| SocketAddr::new(candidate.address, candidate.port))
    }

    /// The tagged section of one transport (RFC 9143), to which its candidates belong: index and `a=mid`.
    pub fn tagged_section(&self, transport: usize) -> (usize, Option<&str>) {
        let index = self.bundles[transport].tagged;
        (index, self.sections[index].mid.as_deref())
    }

    /// The transport that a candidate of the viewer belongs to (RFC 8838, section 9): selected by the mid of a section,
    /// or else by its index, or else by the user name fragment; the first transport if the candidate names none of
    /// them. `None` if it belongs to a rejected section.
    ///
    /// # Errors
    ///
    /// When there is no such section.
    pub fn transport_of(
        &self,
        mid: Option<&str>,
        index: Option<usize>,
        ufrag: Option<&str>,
    ) -> Result<Option<usize>, String> {
        let section = match (mid.filter(|mid| !mid.is_empty()), index) {
            (Some(mid), _) if self.sections.iter().any(|section| section.mid.is_some()) => {
                let found = self.sections.iter().find(|section| section.mid.as_deref() == Some(mid));
                Some(found.ok_or_else(|| format!("there is no section with a=mid:{}", excerpt(mid)))?)
            }
            (_, Some(index)) => {
                Some(self.sections.get(index).ok_or_else(|| format!("there is no section of index {index}"))?)
            }
            (_, None) => None,
        };
        let Some(section) = section else {
            let of_fragment = |bundle: &Bundle| Some(&*bundle.transport.credentials.ufrag) == ufrag;
            return Ok(Some(self.bundles.iter().position(of_fragment).unwrap_or_default()));
        };
        let is_carried = section.decision != Decision::Rejected && !self.bundles[section.bundle].is_lost;
        Ok(is_carried.then_some(section.bundle))
    }

    /// Marks a transport as ended while the viewer's session goes on.
    pub fn mark_lost(&mut self, transport: usize) {
        self.bundles[transport].is_lost = true;
    }

    /// Called when a transport has ended. Returns whether it is restarted, with the same credentials on both sides:
    /// when the tagged section of a transport is stopped, Chromium closes the transport and starts another one with the
    /// credentials of the first (by RFC 9143, section 7.5 the transport goes on).
    pub fn restart_transport(&mut self, transport: usize) -> bool {
        let number = self.next_number();
        let bundle = &mut self.bundles[transport];
        let begins = std::mem::take(&mut bundle.has_moved) && !bundle.is_lost;
        if begins {
            bundle.number = number;
        }
        begins
    }

    /// A number that no transport has had.
    pub(super) fn next_number(&self) -> u64 {
        self.bundles.iter().map(|bundle| bundle.number + 1).max().unwrap_or_default()
    }
}

/// The sections; their mids have to differ (RFC 5888, section 4).
pub(super) fn sections<'a>(session: &'a Session, groups: &'a [Vec<String>]) -> Result<Vec<Section<'a>>, Error> {
    let sections: Vec<_> = session.medias.iter().map(|media| Section::new(session, media, groups)).collect();
    for (at, section) in sections.iter().enumerate() {
        let mid = section.first("mid");
        if mid.is_some() && sections[..at].iter().any(|earlier| earlier.first("mid") == mid) {
            return Err(Error::Unusable("two of the offer's sections have the same a=mid".into()));
        }
    }
    Ok(sections)
}

/// The error for an offer of which nothing can be served, although no single part of it is wrong.
fn nothing_served_error(sections: &[Section<'_>], board: Board) -> Error {
    let of_kind = |kind: &str| {
        let mut all = sections.iter().copied().filter(|section| section.media.media == *kind);
        all.clone().find(|section| !section.is_rejected()).or_else(|| all.next())
    };
    let reason = match (of_kind("video"), of_kind("audio")) {
        (Some(video), None) if video.is_rejected() => {
            "the offer's video section is rejected by the offer itself (port 0)"
        }
        (Some(video), _) if !video.is_rejected() => {
            "the offer's video section does not receive; make its transceiver recvonly"
        }
        (_, Some(audio)) => match audio.check() {
            Err(what) => return Error::Unusable(format!("the offer's audio section {what}")),
            Ok(()) if codec::opus(audio, None).is_none() => return no_codec_error("sound as Opus", audio),
            Ok(()) if !board.has_sound => {
                "this board has no sound, and the offer wants nothing else; add a recvonly video transceiver"
            }
            Ok(()) => "the offer's audio section does not receive; make its transceiver recvonly",
        },
        _ if of_kind("application").is_some() => {
            "the offer's application section is no data channel; it has to be UDP/DTLS/SCTP webrtc-datachannel with a port \
             other than 0, and a=sctp-port from 1 to 65535 (RFC 8841)"
        }
        _ => "the offer has nothing that this board could serve; add a recvonly video transceiver",
    };
    Error::Unusable(reason.into())
}

/// The first characters of a word from the viewer, enough to find it by.
pub(super) fn excerpt(word: &str) -> String {
    word.chars().take(20).collect()
}
