//! A further offer of a viewer, which is decided upon in the light of the one before.

use super::Error;
use super::bundle::{At, Bundle, Channel, MOST_TRANSPORTS, Served, Share};
use super::codec::Media;
use super::line::{self, Section};
use super::offer::{Board, Decided, Offer, Verdict, head, picture_of, sections};
use super::transport::credentials;

impl Offer {
    /// Reads a further offer on the same connections: an ICE restart, a viewer that pauses or resumes something, or one
    /// that asks in another section, new or used again (RFC 3264, section 8), on a transport that there is or on another.
    ///
    /// # Errors
    ///
    /// [`Error`] where that cannot be; the connection goes on as it was.
    pub fn again(&self, text: &str, board: Board) -> Result<Self, Error> {
        let session = line::parse(text)?;
        let groups = line::groups(&session);
        let sections = sections(&session, &groups)?;
        let mut kept = self.clone();
        kept.take_back(&sections);
        kept.follow(&sections, board)
    }

    /// Leaves out sections that this offer has added and another does not have: the viewer took it back, although it was
    /// answered (RFC 9429, section 5.7).
    fn take_back(&mut self, sections: &[Section<'_>]) {
        for (index, decided) in self.sections.iter_mut().enumerate().filter(|(_, decided)| decided.is_new) {
            if sections.get(index).is_none_or(|section| decided.stays(index, *section).is_err()) {
                decided.verdict = Verdict::Rejected;
                self.served.remove(index);
            }
        }
        let is_gone = |(index, decided): &(usize, &Decided)| *index >= sections.len() && decided.is_new;
        let gone = self.sections.iter().enumerate().rev().take_while(is_gone).count();
        self.sections.truncate(self.sections.len() - gone);
    }

    /// The decision on an offer that comes after this one, of which nothing was taken back.
    fn follow(&self, sections: &[Section<'_>], board: Board) -> Result<Self, Error> {
        if sections.len() < self.sections.len() {
            let reason = "a further offer has all sections of the first, in the same order (RFC 3264, section 8)";
            return Err(Error::Unusable(reason.into()));
        }
        for (index, (section, earlier)) in sections.iter().zip(&self.sections).enumerate() {
            earlier.stays(index, *section)?;
        }
        let (shares, lost) = self.shares(sections)?;
        let mut served = self.serve(sections, &shares, &lost, board)?;
        let decide = |served: &Served| -> Vec<_> {
            let all = sections.iter().copied().enumerate();
            all.map(|(index, section)| served.verdict(index, section, board, self.agreed(index))).collect()
        };
        let verdicts = decide(&served);
        let mut bundles = Vec::new();
        for (at, earlier) in self.bundles.iter().enumerate() {
            let is_carried = |index: &usize| {
                verdicts[*index] != Verdict::Rejected && shares[at] == Some(Share::of(sections[*index], *index))
            };
            bundles.push(match served.indices().chain(0..sections.len()).find(is_carried) {
                Some(index) => {
                    let mut bundle = Bundle::read(sections, &verdicts, index, board)?;
                    let followed = bundle.transport.follow(&earlier.transport);
                    followed.map_err(|what| Error::Unusable(what.into()))?;
                    bundle.channel.clone_from(&earlier.channel);
                    (bundle.number, bundle.tracks) = (earlier.number, earlier.tracks);
                    bundle.has_moved = earlier.has_moved || bundle.tags.first() != earlier.tags.first();
                    bundle
                }
                // The stack keeps it as it is.
                None => {
                    let tagged = sections.get(earlier.tagged);
                    let is_ended = !earlier.is_lost || tagged.is_none_or(|section| section.is_rejected());
                    Bundle { share: Share::Nobody, has_ended: earlier.has_ended || is_ended, ..earlier.clone() }
                }
            });
        }
        let over: Vec<_> = (0..shares.len()).filter(|at| shares[*at].is_none()).collect();
        let (mut free, mut begun) = (over.iter().copied(), Vec::new());
        for index in served.indices() {
            let share = Share::of(sections[index], index);
            if bundles.iter().any(|bundle| bundle.share == share) {
                continue;
            }
            let number = bundles.iter().map(|bundle| bundle.number + 1).max().unwrap_or_default();
            // The place of one that is over is used as late as can be: its viewer may take its offer back.
            let place = if bundles.len() < MOST_TRANSPORTS { Some(bundles.len()) } else { free.next() };
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
            decided.is_new = self.sections.get(index).is_none_or(|earlier| earlier.verdict == Verdict::Rejected);
        }
        Ok(offer)
    }

    /// What shares each transport in a further offer: what shares it with the sections that it carried. Where they have
    /// all come to an end, what has its credentials in the place of the one that spoke for it, since the viewer took its
    /// offer back. Then what shares the transports that were lost.
    fn shares(&self, sections: &[Section<'_>]) -> Result<(Vec<Option<Share>>, Vec<Share>), Error> {
        let (mut shares, mut lost): (Vec<Option<Share>>, Vec<Share>) = Default::default();
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
            let share = share.map(|index| Share::of(sections[index], index));
            lost.extend(share.filter(|_| bundle.is_lost));
            shares.push(share.filter(|share| !bundle.is_lost && !shares.contains(&Some(*share))));
        }
        for index in self.served.indices() {
            let (section, Decided { bundle, kind, .. }) = (sections[index], &self.sections[index]);
            let is_there = section.check().is_ok() && section.media.media == *kind && !self.bundles[*bundle].is_lost;
            if is_there && shares[*bundle] != Some(Share::of(section, index)) {
                let reason = format!("the offer moves its {kind} section to another transport; begin a new session");
                return Err(Error::Unusable(reason));
            }
        }
        Ok((shares, lost))
    }

    /// What is served of a further offer, where the transports of this one are shared so. Each track stays on its
    /// transport, and goes to the section there that wants it; of several to the one where it was. Where there is none,
    /// it goes to one on a transport that begins.
    fn serve(
        &self,
        sections: &[Section<'_>],
        shares: &[Option<Share>],
        lost: &[Share],
        board: Board,
    ) -> Result<Served, Error> {
        let Served { homes, named, .. } = self.served;
        let mut served = Served { homes, named, ..Served::default() };
        let former = self.served.video.as_ref().map(|video| video.index);
        if let Some(section) = former.map(|index| sections[index])
            && section.media.media == "video"
            && section.check().is_ok()
        {
            picture_of(section, board, None)?;
        }
        let here = |bundle: usize, kind: &'static str| {
            let share = shares[bundle];
            let all = sections.iter().copied().enumerate();
            all.filter(move |(index, section)| {
                let is_here = share == Some(Share::of(*section, *index));
                is_here && section.media.media == *kind && section.check().is_ok()
            })
        };
        let beginning = |kind: &'static str| {
            let all = sections.iter().copied().enumerate();
            all.filter(move |(index, section)| {
                let share = Share::of(*section, *index);
                let is_known = shares.contains(&Some(share)) || lost.contains(&share);
                !is_known && section.media.media == *kind && section.check().is_ok()
            })
        };
        let videos = here(homes.video, "video").filter_map(|(index, section)| {
            let media = picture_of(section, board, self.agreed(index)).ok()?;
            Some((section.wants(), At { bundle: homes.video, ..At::new(index, section, media) }))
        });
        let others = beginning("video").filter_map(|(index, section)| {
            Some((section.wants(), At::new(index, section, picture_of(section, board, None).ok()?)))
        });
        served.video = best(videos, former).or_else(|| best(others, None));
        let audios = here(homes.audio, "audio").filter_map(|(index, section)| {
            let media = served.sound(index, section, self.agreed(index))?;
            Some((section.wants(), At { bundle: homes.audio, ..At::new(index, section, media) }))
        });
        let others = beginning("audio").filter_map(|(index, section)| {
            Some((section.wants(), At::new(index, section, served.sound(index, section, None)?)))
        });
        let former = self.served.audio.as_ref().map(|audio| audio.index);
        served.audio = best(audios, former).or_else(|| best(others, None));
        let channels = (0..self.bundles.len())
            .flat_map(|bundle| here(bundle, "application").map(move |(index, section)| (bundle, index, section)));
        let mut channels = channels.filter_map(|(bundle, index, section)| {
            let was = self.sections.get(index).is_some_and(|earlier| earlier.verdict == Verdict::Channel);
            let may_be = was || self.bundles[bundle].may_begin_channel();
            Some(At { bundle, ..At::new(index, section, Channel::read(section).filter(|_| may_be)?) })
        });
        let mut others = beginning("application")
            .filter_map(|(index, section)| Some(At::new(index, section, Channel::read(section)?)));
        served.channel = channels.next().or_else(|| others.next());
        Ok(served)
    }

    /// The payload type that was agreed upon for a section.
    fn agreed(&self, index: usize) -> Option<u8> {
        match &self.sections.get(index)?.verdict {
            Verdict::Sent(media) | Verdict::Silent(media) => Some(media.payload_type),
            Verdict::Channel | Verdict::Rejected => None,
        }
    }
}

impl Decided {
    /// Whether this transport carries it.
    fn is_on(&self, bundle: usize) -> bool {
        self.bundle == bundle && self.verdict != Verdict::Rejected
    }

    /// Whether a further offer has this section where it was.
    fn stays(&self, index: usize, section: Section<'_>) -> Result<(), Error> {
        let mid = section.first("mid");
        let is_other = self.mid.as_deref().zip(mid).is_some_and(|(earlier, mid)| earlier != mid);
        if self.verdict == Verdict::Rejected || (self.kind == section.media.media && !is_other) {
            return Ok(());
        }
        let named = |kind: &str, mid: Option<&str>| {
            mid.map_or(kind.to_owned(), |mid| format!("{kind} with a=mid:{}", head(mid)))
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

/// Of sections of one kind the one that is served: one that wants it comes first, then the one where it was.
fn best(all: impl Iterator<Item = (bool, At<Media>)>, former: Option<usize>) -> Option<At<Media>> {
    let best = all.min_by_key(|(wants, at)| (!wants, Some(at.index) != former));
    best.map(|(_, at)| at)
}
