//! A further offer of a viewer, which is decided upon in the light of the one before.

use super::Error;
use super::bundle::{At, Bundle, Channel, Served, Share};
use super::codec::Media;
use super::line::{self, Section};
use super::offer::{Board, Decided, Offer, Verdict, head, picture_of, sections};

impl Offer {
    /// Reads a further offer on the same connections: an ICE restart, a viewer that pauses or resumes something, or one
    /// that asks in another section, new or used again (RFC 3264, section 8), on a transport that there is.
    ///
    /// # Errors
    ///
    /// [`Error`] where that cannot be; the connection goes on as it was.
    pub fn again(&self, text: &str, board: Board) -> Result<Self, Error> {
        let session = line::parse(text)?;
        let groups = line::groups(&session);
        let sections = sections(&session, &groups)?;
        if sections.len() < self.sections.len() {
            let reason = "a further offer has all sections of the first, in the same order (RFC 3264, section 8)";
            return Err(Error::Unusable(reason.into()));
        }
        for (index, (section, earlier)) in sections.iter().zip(&self.sections).enumerate() {
            earlier.stays(index, *section)?;
        }
        let shares = self.shares(&sections)?;
        let served = self.serve(&sections, &shares, board)?;
        let all = sections.iter().copied().enumerate();
        let verdicts: Vec<_> =
            all.map(|(index, section)| served.verdict(index, section, board, self.agreed(index))).collect();
        let mut bundles = Vec::new();
        for (at, earlier) in self.bundles.iter().enumerate() {
            let is_carried = |index: &usize| {
                verdicts[*index] != Verdict::Rejected && shares[at] == Some(Share::of(sections[*index], *index))
            };
            bundles.push(match served.indices().chain(0..sections.len()).find(is_carried) {
                Some(index) => {
                    let mut bundle = Bundle::read(&sections, &verdicts, index)?;
                    let followed = bundle.transport.follow(&earlier.transport);
                    followed.map_err(|what| Error::Unusable(what.into()))?;
                    bundle.channel.clone_from(&earlier.channel);
                    bundle
                }
                // The stack keeps it as it is.
                None => Bundle { share: Share::Nobody, ..earlier.clone() },
            });
        }
        Ok(Self::new(&sections, verdicts, served, bundles))
    }

    /// What shares each transport in a further offer: what shares it with the sections that it carried. Where they have
    /// all come to an end, what uses the place of the one that spoke for it.
    fn shares(&self, sections: &[Section<'_>]) -> Result<Vec<Option<Share>>, Error> {
        let mut shares: Vec<Option<Share>> = Vec::new();
        for (at, bundle) in self.bundles.iter().enumerate() {
            let served = self.served.indices().filter(|index| self.served.bundle_of(*index) == Some(at));
            let others = self.sections.iter().enumerate().filter(|(_, earlier)| earlier.is_on(at));
            let mut all = served.chain(others.map(|(index, _)| index)).chain([bundle.tagged]);
            let share = all.find(|index| sections[*index].check().is_ok());
            let share = share.map(|index| Share::of(sections[index], index)).filter(|_| !bundle.is_lost);
            shares.push(share.filter(|share| !shares.contains(&Some(*share))));
        }
        for index in self.served.indices() {
            let (section, Decided { bundle, kind, .. }) = (sections[index], &self.sections[index]);
            let is_there = section.check().is_ok() && section.media.media == *kind && !self.bundles[*bundle].is_lost;
            if is_there && shares[*bundle] != Some(Share::of(section, index)) {
                let reason = format!("the offer moves its {kind} section to another transport; begin a new session");
                return Err(Error::Unusable(reason));
            }
        }
        Ok(shares)
    }

    /// What is served of a further offer, where the transports of this one are shared so. Each track stays on its
    /// transport, and goes to the section there that wants it; of several to the one where it was.
    fn serve(&self, sections: &[Section<'_>], shares: &[Option<Share>], board: Board) -> Result<Served, Error> {
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
        let videos = here(homes.video, "video").filter_map(|(index, section)| {
            let media = picture_of(section, board, self.agreed(index)).ok()?;
            Some((section.wants(), At { bundle: homes.video, ..At::new(index, section, media) }))
        });
        served.video = best(videos, former);
        let audios = here(homes.audio, "audio").filter_map(|(index, section)| {
            let media = served.sound(index, section, self.agreed(index))?;
            Some((section.wants(), At { bundle: homes.audio, ..At::new(index, section, media) }))
        });
        let audio = best(audios, self.served.audio.as_ref().map(|audio| audio.index));
        served.audio = audio;
        let channels = (0..self.bundles.len())
            .flat_map(|bundle| here(bundle, "application").map(move |(index, section)| (bundle, index, section)));
        let mut channels = channels.filter_map(|(bundle, index, section)| {
            let was = self.sections.get(index).is_some_and(|earlier| earlier.verdict == Verdict::Channel);
            let may_be = was || self.bundles[bundle].may_begin_channel();
            Some(At { bundle, ..At::new(index, section, Channel::read(section).filter(|_| may_be)?) })
        });
        served.channel = channels.next();
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
