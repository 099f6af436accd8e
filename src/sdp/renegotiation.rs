//! Renegotiation: further offers of a viewer, evaluated against the previous offer.

use super::Error;
use super::attributes::{self, Section};
use super::bundle::{Bundle, Channel, InSection, MAX_TRANSPORTS, Served, TransportKey};
use super::codec::Media;
use super::decision::{Board, Decision, video_media};
use super::offer::{DecidedSection, Offer, excerpt, sections};
use super::transport::credentials;

impl Offer {
    /// Reads a further offer on the same connections: an ICE restart, an offer that pauses or resumes something, or one
    /// that asks for something in another section, new or reused (RFC 3264, section 8), on an existing or a new
    /// transport.
    ///
    /// # Errors
    ///
    /// [`Error`] if the offer cannot be accepted; the connection goes on unchanged.
    pub fn renegotiate(&self, text: &str, board: Board) -> Result<Self, Error> {
        let session = attributes::parse(text)?;
        let groups = attributes::groups(&session);
        let sections = sections(&session, &groups)?;
        let mut kept = self.clone();
        kept.rollback(&sections);
        kept.follow(&sections, board)
    }

    /// Removes the sections that this offer has added and the next one lacks: the viewer has rolled its offer back,
    /// although it was answered (RFC 9429, section 5.7).
    fn rollback(&mut self, sections: &[Section<'_>]) {
        for (index, decided) in self.sections.iter_mut().enumerate().filter(|(_, decided)| decided.is_new) {
            if sections.get(index).is_none_or(|section| decided.check_unchanged(index, *section).is_err()) {
                decided.decision = Decision::Rejected;
                self.served.remove(index);
            }
        }
        let is_gone = |(index, decided): &(usize, &DecidedSection)| *index >= sections.len() && decided.is_new;
        let gone = self.sections.iter().enumerate().rev().take_while(is_gone).count();
        self.sections.truncate(self.sections.len() - gone);
    }

    /// Decides on the next offer, after [`rollback`](Self::rollback).
    fn follow(&self, sections: &[Section<'_>], board: Board) -> Result<Self, Error> {
        if sections.len() < self.sections.len() {
            let reason = "a further offer has all sections of the first, in the same order (RFC 3264, section 8)";
            return Err(Error::Unusable(reason.into()));
        }
        for (index, (section, earlier)) in sections.iter().zip(&self.sections).enumerate() {
            earlier.check_unchanged(index, *section)?;
        }
        let (shares, lost) = self.shares(sections)?;
        let mut served = self.serve(sections, &shares, &lost, board)?;
        let decide = |served: &Served| -> Vec<_> {
            let all = sections.iter().copied().enumerate();
            all.map(|(index, section)| served.decision(index, section, board, self.agreed(index))).collect()
        };
        let decisions = decide(&served);
        let mut bundles = Vec::new();
        for (at, earlier) in self.bundles.iter().enumerate() {
            let is_carried = |index: &usize| {
                decisions[*index] != Decision::Rejected
                    && shares[at] == Some(TransportKey::of(sections[*index], *index))
            };
            bundles.push(match served.indices().chain(0..sections.len()).find(is_carried) {
                Some(index) => {
                    let mut bundle = Bundle::read(sections, &decisions, index, board)?;
                    let followed = bundle.transport.follow(&earlier.transport);
                    followed.map_err(|what| Error::Unusable(what.into()))?;
                    bundle.channel.clone_from(&earlier.channel);
                    (bundle.number, bundle.tracks) = (earlier.number, earlier.tracks);
                    bundle.has_moved = earlier.has_moved || bundle.tags.first() != earlier.tags.first();
                    bundle
                }
                // The stack keeps the transport unchanged.
                None => {
                    let tagged = sections.get(earlier.tagged);
                    let is_ended = !earlier.is_lost || tagged.is_none_or(|section| section.is_rejected());
                    Bundle { share: TransportKey::Unused, has_ended: earlier.has_ended || is_ended, ..earlier.clone() }
                }
            });
        }
        let over: Vec<_> = (0..shares.len()).filter(|at| shares[*at].is_none()).collect();
        let (mut free, mut begun) = (over.iter().copied(), Vec::new());
        for index in served.indices() {
            let share = TransportKey::of(sections[index], index);
            if bundles.iter().any(|bundle| bundle.share == share) {
                continue;
            }
            let number = bundles.iter().map(|bundle| bundle.number + 1).max().unwrap_or_default();
            // The place of an ended transport is reused as late as possible: its viewer may roll its offer back.
            let place = if bundles.len() < MAX_TRANSPORTS { Some(bundles.len()) } else { free.next() };
            match Bundle::read(sections, &decide(&served), index, board) {
                Ok(bundle) => match place {
                    Some(at) => {
                        begun.push(at);
                        bundles.splice(at..bundles.len().min(at + 1), [Bundle { number, ..bundle }]);
                    }
                    None => served.remove(index),
                },
                Err(error) if sections[index].media.media == "video" && sections[index].wants() => return Err(error),
                Err(_) => served.remove(index),
            }
        }
        served.assign_again(&mut bundles, &over, &begun);
        let mut offer = Self::new(sections, decide(&served), served, bundles, board);
        for (index, decided) in offer.sections.iter_mut().enumerate() {
            decided.is_new = self.sections.get(index).is_none_or(|earlier| earlier.decision == Decision::Rejected);
        }
        Ok(offer)
    }

    /// Finds the group or section that uses each transport in a further offer: the one that the transport's served
    /// sections belong to, or else its other sections. If all of them have ended, it is the former tagged section if it
    /// still has the transport's credentials, because then the viewer has rolled its offer back. The second list has
    /// the groups or sections that use lost transports.
    fn shares(&self, sections: &[Section<'_>]) -> Result<(Vec<Option<TransportKey>>, Vec<TransportKey>), Error> {
        let (mut shares, mut lost): (Vec<Option<TransportKey>>, Vec<TransportKey>) = Default::default();
        for (at, bundle) in self.bundles.iter().enumerate() {
            let served = self.served.indices().filter(|index| self.served.bundle_of(*index) == Some(at));
            let others = self.sections.iter().enumerate().filter(|(_, earlier)| earlier.is_on(at));
            let is_same = |index: &usize| {
                let is_over = bundle.is_lost && bundle.has_ended;
                let theirs = sections.get(*index).and_then(|section| credentials(*section));
                !is_over && theirs.as_ref() == Some(&bundle.transport.credentials)
            };
            let same = Some(bundle.tagged).filter(is_same);
            let mut all = served.chain(others.map(|(index, _)| index)).chain(same);
            let share = all.find(|index| sections[*index].check().is_ok());
            let share = share.map(|index| TransportKey::of(sections[index], index));
            lost.extend(share.filter(|_| bundle.is_lost));
            shares.push(share.filter(|share| !bundle.is_lost && !shares.contains(&Some(*share))));
        }
        for index in self.served.indices() {
            let (section, DecidedSection { bundle, kind, .. }) = (sections[index], &self.sections[index]);
            let is_there = section.check().is_ok() && section.media.media == *kind && !self.bundles[*bundle].is_lost;
            if is_there && shares[*bundle] != Some(TransportKey::of(section, index)) {
                let reason = format!("the offer moves its {kind} section to another transport; begin a new session");
                return Err(Error::Unusable(reason));
            }
        }
        Ok((shares, lost))
    }

    /// Decides what is served of a further offer; `shares` and `lost` come from [`shares`](Self::shares). Each track
    /// stays on its transport and goes to the section there that wants it; if several want it, to the one it is in now.
    /// If there is none, it goes to a section on a new transport.
    fn serve(
        &self,
        sections: &[Section<'_>],
        shares: &[Option<TransportKey>],
        lost: &[TransportKey],
        board: Board,
    ) -> Result<Served, Error> {
        let Served { media_transports, named, .. } = self.served;
        let mut served = Served { media_transports, named, ..Served::default() };
        let former = self.served.video.as_ref().map(|video| video.index);
        if let Some(section) = former.map(|index| sections[index])
            && section.media.media == "video"
            && section.check().is_ok()
        {
            video_media(section, board, None)?;
        }
        let here = |bundle: usize, kind: &'static str| {
            let share = shares[bundle];
            let all = sections.iter().copied().enumerate();
            all.filter(move |(index, section)| {
                let is_here = share == Some(TransportKey::of(*section, *index));
                is_here && section.media.media == *kind && section.check().is_ok()
            })
        };
        let beginning = |kind: &'static str| {
            let all = sections.iter().copied().enumerate();
            all.filter(move |(index, section)| {
                let share = TransportKey::of(*section, *index);
                let is_known = shares.contains(&Some(share)) || lost.contains(&share);
                !is_known && section.media.media == *kind && section.check().is_ok()
            })
        };
        let videos = here(media_transports.video, "video").filter_map(|(index, section)| {
            let media = video_media(section, board, self.agreed(index)).ok()?;
            Some((
                section.wants(),
                InSection { bundle: media_transports.video, ..InSection::new(index, section, media) },
            ))
        });
        let others = beginning("video").filter_map(|(index, section)| {
            Some((section.wants(), InSection::new(index, section, video_media(section, board, None).ok()?)))
        });
        served.video = best(videos, former).or_else(|| best(others, None));
        let audios = here(media_transports.audio, "audio").filter_map(|(index, section)| {
            let media = served.audio_media(index, section, self.agreed(index))?;
            Some((
                section.wants(),
                InSection { bundle: media_transports.audio, ..InSection::new(index, section, media) },
            ))
        });
        let others = beginning("audio").filter_map(|(index, section)| {
            Some((section.wants(), InSection::new(index, section, served.audio_media(index, section, None)?)))
        });
        let former = self.served.audio.as_ref().map(|audio| audio.index);
        served.audio = best(audios, former).or_else(|| best(others, None));
        let channels = (0..self.bundles.len())
            .flat_map(|bundle| here(bundle, "application").map(move |(index, section)| (bundle, index, section)));
        let mut channels = channels.filter_map(|(bundle, index, section)| {
            let was = self.sections.get(index).is_some_and(|earlier| earlier.decision == Decision::Channel);
            let has_payload_type = was || self.bundles[bundle].may_begin_channel();
            Some(InSection {
                bundle,
                ..InSection::new(index, section, Channel::read(section).filter(|_| has_payload_type)?)
            })
        });
        let mut others = beginning("application")
            .filter_map(|(index, section)| Some(InSection::new(index, section, Channel::read(section)?)));
        served.channel = channels.next().or_else(|| others.next());
        Ok(served)
    }

    /// The payload type agreed before for a section.
    fn agreed(&self, index: usize) -> Option<u8> {
        match &self.sections.get(index)?.decision {
            Decision::Sent(media) | Decision::Silent(media) => Some(media.payload_type),
            Decision::Channel | Decision::Rejected => None,
        }
    }
}

impl DecidedSection {
    /// Whether the given transport carries it.
    fn is_on(&self, bundle: usize) -> bool {
        self.bundle == bundle && self.decision != Decision::Rejected
    }

    /// Checks that a further offer keeps this section in its place.
    fn check_unchanged(&self, index: usize, section: Section<'_>) -> Result<(), Error> {
        let mid = section.first("mid");
        let is_other = self.mid.as_deref().zip(mid).is_some_and(|(earlier, mid)| earlier != mid);
        if self.decision == Decision::Rejected || (self.kind == section.media.media && !is_other) {
            return Ok(());
        }
        let named = |kind: &str, mid: Option<&str>| {
            mid.map_or(kind.to_owned(), |mid| format!("{kind} with a=mid:{}", excerpt(mid)))
        };
        Err(Error::Unusable(format!(
            "section {} of the further offer is {} where it was {}; sections keep their order and their a=mid \
             (RFC 3264, section 8)",
            index + 1,
            named(&section.kind(), mid),
            named(&self.kind, self.mid.as_deref())
        )))
    }
}

/// Selects the served section of one kind: one that wants media comes first, then the one served before.
fn best(all: impl Iterator<Item = (bool, InSection<Media>)>, former: Option<usize>) -> Option<InSection<Media>> {
    let best = all.min_by_key(|(wants, at)| (!wants, Some(at.index) != former));
    best.map(|(_, at)| at)
}
