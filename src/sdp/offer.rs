//! A viewer's offer, decided upon: which sections are served, over which transports, and why others are not.

use std::net::SocketAddr;

use sdp_types::Session;

use super::Error;
use super::bundle::{At, Bundle, Channel, Named, Served, Share, Tracks};
use super::codec::{self, Media};
use super::line::{self, Section};
use super::rejection;
use super::transport::{Credentials, Role};
use crate::media::H264Profile;

/// What the board has to send.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// The profile of its pictures.
    pub profile: H264Profile,
    /// Whether there is sound at the moment.
    pub has_sound: bool,
    /// Whether this viewer has a way to make further offers, which may ask for more.
    pub takes_more: bool,
}

/// An offer that can be answered.
#[derive(Clone, Debug)]
pub struct Offer {
    pub(super) sections: Vec<Decided>,
    pub(super) served: Served,
    /// Its transports, that of the picture first; without a picture that of the sound.
    pub(super) bundles: Vec<Bundle>,
}

/// One section, as its answer needs it.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) kind: String,
    pub(super) protocol: String,
    pub(super) formats: String,
    pub(super) mid: Option<String>,
    pub(super) has_mux: bool,
    pub(super) has_reduced_size: bool,
    /// The transport that carries it.
    pub(super) bundle: usize,
    pub(super) verdict: Verdict,
    /// Whether the offer before did not have it, or had it rejected.
    pub(super) is_new: bool,
    /// Why it is rejected, where the viewer itself does not reject it: ".. the section ..".
    pub(super) reason: Option<String>,
}

/// What becomes of a section.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The board's picture or sound is sent.
    Sent(Media),
    /// It is agreed upon, but nothing is sent: the viewer does not want it, or the board has none (RFC 3264, section
    /// 6.1).
    Silent(Media),
    /// It carries the data channel.
    Channel,
    /// It is of no use here.
    Rejected,
}

impl Offer {
    /// Reads a first offer and decides on each section. The first video section that can be served is.
    ///
    /// # Errors
    ///
    /// [`Error::NoCommonCodec`] where only the codec is in the way, and [`Error::Unusable`] for anything else. An offer
    /// that wants a picture and cannot have it is refused, also where it wants sound: who waits for a picture has to be
    /// told that none comes. So is one of which nothing would ever be served.
    pub fn read(text: &str, board: Board) -> Result<Self, Error> {
        let session = line::parse(text)?;
        let groups = line::groups(&session);
        let sections = sections(&session, &groups)?;
        let mut refusal = None;
        let is_video = |section: &Section<'_>| section.media.media == "video" && !section.is_rejected();
        let videos = || (0..sections.len()).filter(|index| is_video(&sections[*index]));
        for index in videos().filter(|index| sections[*index].wants()) {
            match Self::first(&sections, Some(index), board) {
                Ok(offer) => return Ok(offer),
                // Of several sections the first tells most, unless a later one lacked nothing but a codec.
                Err(error @ Error::NoCommonCodec(_)) => refusal = Some(error),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            // A further offer may want one.
            None => {
                let inactive = videos().find(|index| sections[*index].is_inactive());
                Self::first(&sections, inactive.or(videos().next()), board)
            }
        }
    }

    /// The decision on a first offer, with the picture in the section of this `index`: it wants one, or may later.
    fn first(sections: &[Section<'_>], picture: Option<usize>, board: Board) -> Result<Self, Error> {
        let mut served = Served::default();
        let mut fault = None;
        if let Some(index) = picture {
            match picture_of(sections[index], board, None) {
                Ok(media) => served.video = Some(At::new(index, sections[index], media)),
                Err(error) if sections[index].wants() => return Err(error),
                Err(error) => fault = Some(error),
            }
        }
        let found = |kind: &str| {
            let all = sections.iter().copied().enumerate();
            all.filter(move |(_, section)| section.media.media == *kind && section.check().is_ok()).collect::<Vec<_>>()
        };
        let sounds = found("audio").into_iter().filter_map(|(index, section)| {
            Some(At::new(index, section, served.sound(index, section, None)?)).map(|at| (section.wants(), at))
        });
        // One that wants sound, or else the first: the stack has a track for it, so that a further offer can bring sound.
        let sound = sounds.reduce(|first, next| if next.0 && !first.0 { next } else { first });
        served.audio = sound.map(|(_, at)| at);
        let channels = found("application").into_iter();
        served.channel =
            channels.filter_map(|(index, section)| Some(At::new(index, section, Channel::read(section)?))).next();

        let mut bundles: Vec<Bundle> = Vec::new();
        let verdicts = |served: &Served| -> Vec<_> {
            let all = sections.iter().copied().enumerate();
            all.map(|(index, section)| served.verdict(index, section, board, None)).collect()
        };
        for index in served.indices() {
            let share = Share::of(sections[index], index);
            if bundles.iter().any(|bundle| bundle.share == share) {
                continue;
            }
            match Bundle::read(sections, &verdicts(&served), index, board) {
                Ok(bundle) => bundles.push(Bundle { number: bundles.len() as u64, ..bundle }),
                Err(error) if picture == Some(index) && sections[index].wants() => return Err(error),
                Err(error) => {
                    served.remove(index);
                    fault = fault.or(Some(error));
                }
            }
        }
        served.assign(&mut bundles);
        let offer = Self::new(sections, verdicts(&served), served, bundles, board);
        if offer.is_of_use(sections, board) {
            Ok(offer)
        } else {
            Err(fault.unwrap_or_else(|| nothing(sections, board)))
        }
    }

    /// Whether something is served, or will be as soon as the viewer asks for it.
    fn is_of_use(&self, sections: &[Section<'_>], board: Board) -> bool {
        let Served { video, audio, channel, .. } = &self.served;
        let is_asked_for = |index: usize| sections[index].wants() || sections[index].is_inactive();
        let has_sound = audio.as_ref().is_some_and(|audio| board.has_sound && is_asked_for(audio.index));
        channel.is_some() || has_sound || video.as_ref().is_some_and(|video| is_asked_for(video.index))
    }

    /// The offer, in which what has no transport is rejected.
    pub(super) fn new(
        sections: &[Section<'_>],
        verdicts: Vec<Verdict>,
        served: Served,
        mut bundles: Vec<Bundle>,
        board: Board,
    ) -> Self {
        if let Some(At { bundle, what, .. }) = &served.channel {
            bundles[*bundle].channel.get_or_insert_with(|| what.clone());
        }
        let decided = sections.iter().copied().zip(verdicts).enumerate().map(|(index, (section, verdict))| {
            let share = Share::of(section, index);
            let bundle = bundles.iter().position(|bundle| bundle.share == share);
            let verdict = if bundle.is_some() { verdict } else { Verdict::Rejected };
            let is_rejected = verdict == Verdict::Rejected && !section.is_rejected();
            Decided {
                is_new: false,
                reason: is_rejected.then(|| rejection::reason(section, &served, &bundles, board)),
                kind: section.media.media.clone(),
                protocol: section.media.proto.clone(),
                formats: section.media.fmt.clone(),
                mid: section.first("mid").map(str::to_owned),
                // Who can do nothing else is answered so, too (RFC 8858, section 3).
                has_mux: section.has("rtcp-mux") || section.has("rtcp-mux-only"),
                has_reduced_size: section.has("rtcp-rsize"),
                bundle: bundle.unwrap_or_default(),
                verdict,
            }
        });
        let mut offer = Self { sections: decided.collect(), served, bundles };
        let sent = offer.sent();
        let named = offer.served.named.iter_mut().zip(sent);
        named.for_each(|(named, sent)| *named = sent.map_or(*named, |index| named.sent(index)));
        offer
    }

    /// The sections in which picture and sound are sent.
    fn sent(&self) -> [Option<usize>; 2] {
        let is_sent = |index: &usize| matches!(self.sections[*index].verdict, Verdict::Sent(_));
        let Served { video, audio, .. } = &self.served;
        [video, audio].map(|at| at.as_ref().map(|at| at.index).filter(is_sent))
    }

    /// Whether the sources that are sent in a section are named there. Those that have moved are known by its tag where
    /// the viewer reads it: Chromium refuses an answer that names a source in one section while it has it in a later
    /// one.
    pub(super) fn names_sources_in(&self, index: usize) -> bool {
        let Verdict::Sent(media) = &self.sections[index].verdict else { return false };
        media.mid.is_none() || self.served.named.contains(&Named::In(index))
    }

    /// Whether pictures are to flow, and sound: a viewer may pause each.
    pub fn flows(&self) -> (bool, bool) {
        let [video, audio] = self.sent().map(|section| section.is_some());
        (video, audio)
    }

    /// Where the picture is sent, by the index and the tag of its section; `None` while it is not.
    pub fn place_of_picture(&self) -> Option<(usize, Option<&str>)> {
        let [video, _] = self.sent();
        video.map(|index| (index, self.sections[index].mid.as_deref()))
    }

    /// How to send H.264; `None` where the offer has no section for it.
    pub fn video(&self) -> Option<&Media> {
        self.served.video.as_ref().map(|video| &video.what)
    }

    /// How to send Opus; `None` where the offer has no section for it.
    pub fn audio(&self) -> Option<&Media> {
        self.served.audio.as_ref().map(|audio| &audio.what)
    }

    /// How many transports there are, one to three.
    pub fn transports(&self) -> usize {
        self.bundles.len()
    }

    /// Tells a transport from others that had or will have its place.
    pub fn number(&self, transport: usize) -> u64 {
        self.bundles[transport].number
    }

    /// The transport on which the viewer's life depends: that of the picture, or else of the sound, or else of the data
    /// channel. `None` while nothing is served.
    pub fn main(&self) -> Option<usize> {
        self.served.indices().find_map(|index| self.served.bundle_of(index))
    }

    /// The tracks that the connection of a transport has. Each of picture and sound has one somewhere, also before the
    /// viewer wants it.
    pub fn tracks_of(&self, transport: usize) -> Tracks {
        self.bundles[transport].tracks
    }

    /// Whether a transport has come to an end while the viewer goes on.
    pub fn is_lost(&self, transport: usize) -> bool {
        self.bundles[transport].is_lost
    }

    /// The transport on which the picture goes.
    pub fn home_of_video(&self) -> usize {
        self.served.homes.video
    }

    /// The transport on which sound goes.
    pub fn home_of_audio(&self) -> usize {
        self.served.homes.audio
    }

    /// Whether something that is served is on a transport.
    pub fn is_used(&self, transport: usize) -> bool {
        self.served.indices().any(|index| self.served.bundle_of(index) == Some(transport))
    }

    /// The viewer's ICE credentials on one transport, which name the generation (RFC 8839, section 5.4).
    pub fn credentials(&self, transport: usize) -> &Credentials {
        &self.bundles[transport].transport.credentials
    }

    /// Whether the board begins the DTLS handshake on one transport (RFC 5763, section 5).
    pub fn begins_handshake(&self, transport: usize) -> bool {
        self.bundles[transport].transport.role == Role::Active
    }

    /// The viewer's addresses on one transport, as far as the offer names them.
    pub fn addresses(&self, transport: usize) -> impl Iterator<Item = SocketAddr> {
        let candidates = self.bundles[transport].transport.candidates.iter();
        candidates.map(|candidate| SocketAddr::new(candidate.address, candidate.port))
    }

    /// Where candidates of one transport belong: the section that speaks for it, by index and tag.
    pub fn tagged(&self, transport: usize) -> (usize, Option<&str>) {
        let index = self.bundles[transport].tagged;
        (index, self.sections[index].mid.as_deref())
    }

    /// The transport that a candidate of the viewer's belongs to (RFC 8838, section 9): by the tag of a section, or else
    /// by its index, or else by the user name fragment; the first where it names nothing. `None` where it belongs to a
    /// section that is rejected.
    ///
    /// # Errors
    ///
    /// Where there is no such section.
    pub fn transport_of(
        &self,
        mid: Option<&str>,
        index: Option<usize>,
        ufrag: Option<&str>,
    ) -> Result<Option<usize>, String> {
        let section = match (mid.filter(|mid| !mid.is_empty()), index) {
            (Some(mid), _) if self.sections.iter().any(|section| section.mid.is_some()) => {
                let found = self.sections.iter().find(|section| section.mid.as_deref() == Some(mid));
                Some(found.ok_or_else(|| format!("there is no section with a=mid:{}", head(mid)))?)
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
        let is_carried = section.verdict != Verdict::Rejected && !self.bundles[section.bundle].is_lost;
        Ok(is_carried.then_some(section.bundle))
    }

    /// One transport has come to an end, while the viewer goes on.
    pub fn lose(&mut self, transport: usize) {
        self.bundles[transport].is_lost = true;
    }

    /// One transport has come to an end. Whether it is begun again, under the credentials of both sides that there are:
    /// when the section that speaks for a transport is stopped, Chromium gives the transport up and begins another one
    /// with what its offer says of the first (RFC 9143, section 7.5 has it go on).
    pub fn begin_again(&mut self, transport: usize) -> bool {
        let number = self.next_number();
        let bundle = &mut self.bundles[transport];
        let begins = std::mem::take(&mut bundle.has_moved) && !bundle.is_lost;
        if begins {
            bundle.number = number;
        }
        begins
    }

    /// One that no transport has had.
    pub(super) fn next_number(&self) -> u64 {
        self.bundles.iter().map(|bundle| bundle.number + 1).max().unwrap_or_default()
    }
}

/// The sections, whose tags have to differ (RFC 5888, section 4).
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

/// How to send a picture in a section, under the payload type that was agreed upon before, if it is still offered.
pub(super) fn picture_of(section: Section<'_>, board: Board, agreed: Option<u8>) -> Result<Media, Error> {
    section.check().map_err(|what| Error::Unusable(format!("the offer's video section {what}")))?;
    let stays = agreed.and_then(|agreed| codec::h264(section, board.profile, Some(agreed)));
    stays.or_else(|| codec::h264(section, board.profile, None)).ok_or_else(|| no_codec("H.264", section))
}

fn no_codec(sent: &str, section: Section<'_>) -> Error {
    let offered = codec::names(section);
    let offered = if offered.is_empty() { "no codecs".into() } else { offered.join(", ") };
    Error::NoCommonCodec(format!("this board sends {sent}; the offer has {offered}"))
}

/// Why an offer is refused of which nothing can be served, though no single thing in it is wrong.
fn nothing(sections: &[Section<'_>], board: Board) -> Error {
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
            Ok(()) if codec::opus(audio, None).is_none() => return no_codec("sound as Opus", audio),
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

/// Enough of a word of the viewer's to find it by.
pub(super) fn head(word: &str) -> String {
    word.chars().take(20).collect()
}
