//! The transports of an offer and the media of each (RFC 9143). The stack has one connection per transport.

use super::Error;
use super::attributes::Section;
use super::codec::{self, Media};
use super::decision::{Board, Decision, video_media};
use super::transport::{Role, Transport};

/// Maximum number of served transports of one offer: one each for video, audio and the data channel.
pub const MAX_TRANSPORTS: usize = 3;

/// Identifies the transport of sections in one offer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TransportKey {
    /// They are in the BUNDLE group with this number.
    Group(usize),
    /// The section with this index is in no group and has its own transport.
    Alone(usize),
    /// No section uses the transport any more: those that did have ended.
    Unused,
}

impl TransportKey {
    /// The value for the section with this index.
    pub(super) fn of(section: Section<'_>, index: usize) -> Self {
        section.group.map_or(Self::Alone(index), |(number, _)| Self::Group(number))
    }
}

/// A transport, and the sections that share it.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    /// Distinguishes the transports of a viewer, including restarted ones.
    pub(super) number: u64,
    pub(super) share: TransportKey,
    /// The mids of its BUNDLE group, as offered; empty without a group.
    pub(super) tags: Vec<String>,
    pub(super) transport: Transport,
    /// The index of its tagged section (RFC 9143).
    pub(super) tagged: usize,
    /// Which tracks the stack has here. They stay here even when the media moves to another transport.
    pub(super) tracks: Tracks,
    /// The data channel that the stack has here, even after it has ended.
    pub(super) channel: Option<Channel>,
    /// Whether it has ended while another transport goes on.
    pub(super) is_lost: bool,
    /// Whether the viewer has ended everything that it carried.
    pub(super) has_ended: bool,
    /// Whether a further offer has changed its tagged section.
    pub(super) has_moved: bool,
}

/// The tracks that exist on a transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    /// Video.
    pub video: bool,
    /// Audio.
    pub audio: bool,
}

impl Bundle {
    /// Reads the transport of the section with this `index`; `decisions` are the decisions on the sections.
    pub(super) fn read(
        sections: &[Section<'_>],
        decisions: &[Decision],
        index: usize,
        board: Board,
    ) -> Result<Self, Error> {
        let share = TransportKey::of(sections[index], index);
        let shares = |at: &usize| TransportKey::of(sections[*at], *at) == share;
        let members: Vec<_> = (0..sections.len()).filter(shares).collect();
        // The section with this mid, unless it is rejected.
        let of_tag = |tag: &String| {
            let mut staying = members.iter().copied().filter(|at| decisions[*at] != Decision::Rejected);
            staying.find(|at| sections[*at].first("mid") == Some(tag))
        };
        let tags = sections[index].group.map_or(&[][..], |(_, tags)| tags);
        let tagged = tags.iter().find_map(of_tag).unwrap_or(index);
        // The tagged section has the transport's attributes for all (RFC 9143, section 7.3.1); if it has none, the
        // served section is used.
        let carrier = sections[if sections[tagged].has("ice-ufrag") { tagged } else { index }];
        let sharing: Vec<_> = members.iter().map(|at| sections[*at]).collect();
        // Starting the handshake saves the time the answer takes to arrive, and the round trip of the DTLS cookie. But
        // if the board started it, the stack cannot serve a data channel that is added later.
        let may_come_later = board.can_renegotiate && !decisions.contains(&Decision::Channel);
        let choice = if may_come_later { Role::Passive } else { Role::Active };
        let transport = Transport::read(carrier, &sharing, choice)
            .map_err(|what| Error::Unusable(format!("the offer's {} section {what}", carrier.kind())))?;
        let (tags, tracks) = (tags.to_vec(), Tracks::default());
        let (number, channel, [is_lost, has_ended, has_moved]) = Default::default();
        Ok(Self { number, share, tags, transport, tagged, tracks, channel, is_lost, has_ended, has_moved })
    }

    /// Whether a further offer can add a data channel. The stack opens one when the DTLS handshake ends, or waits for
    /// the viewer's if the viewer started the handshake.
    pub(super) fn may_begin_channel(&self) -> bool {
        self.channel.is_none() && self.transport.role == Role::Passive
    }
}

/// The served media and data, each at most once. So there are at most three transports.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    pub(super) media_transports: MediaTransports,
    /// The sections in which the sources of video and audio are named.
    pub(super) named: [SourceNaming; 2],
    pub(super) video: Option<InSection<Media>>,
    pub(super) audio: Option<InSection<Media>>,
    pub(super) channel: Option<InSection<Channel>>,
}

/// The section in which a source is named (`a=ssrc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SourceNaming {
    /// The source was not sent yet.
    #[default]
    NotSent,
    /// In the section with this index, in which it was first sent.
    In(usize),
    /// It has moved and is identified by the mid of its section.
    ByMid,
}

impl SourceNaming {
    /// The value after the source is sent in the section with this index.
    pub(super) fn sent(self, index: usize) -> Self {
        match self {
            Self::NotSent => Self::In(index),
            Self::In(first) if first == index => self,
            Self::In(_) | Self::ByMid => Self::ByMid,
        }
    }
}

/// The transports that carry video and audio. Each stays on its transport while there is a section for it, and also
/// while no section asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MediaTransports {
    pub(super) video: usize,
    pub(super) audio: usize,
}

/// Something that is served in one section.
#[derive(Clone, Debug)]
pub(super) struct InSection<T> {
    /// Index of the section, from 0.
    pub(super) index: usize,
    pub(super) share: TransportKey,
    /// The transport that carries it.
    pub(super) bundle: usize,
    pub(super) what: T,
}

/// The viewer's end of a data channel (RFC 8841).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channel {
    /// The viewer's SCTP port.
    pub(super) port: u16,
    /// Size of the largest message that the viewer accepts, in bytes; 0 is unlimited.
    pub(super) most_bytes: u32,
}

/// The largest message that a viewer accepts if its offer does not state one (RFC 8841, section 6.1).
const DEFAULT_MESSAGE_SIZE: u32 = 65_536;

impl<T> InSection<T> {
    pub(super) fn new(index: usize, section: Section<'_>, what: T) -> Self {
        Self { index, share: TransportKey::of(section, index), bundle: 0, what }
    }
}

impl Served {
    /// Indices of the served sections, the most important first.
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> + use<> {
        let video = self.video.as_ref().map(|video| video.index);
        let audio = self.audio.as_ref().map(|audio| audio.index);
        let channel = self.channel.as_ref().map(|channel| channel.index);
        [video, audio, channel].into_iter().flatten()
    }

    /// The transport of the section with this index, if it is served.
    pub(super) fn bundle_of(&self, index: usize) -> Option<usize> {
        let video = self.video.iter().map(|video| (video.index, video.bundle));
        let audio = self.audio.iter().map(|audio| (audio.index, audio.bundle));
        let channel = self.channel.iter().map(|channel| (channel.index, channel.bundle));
        video.chain(audio).chain(channel).find(|(at, _)| *at == index).map(|(_, bundle)| bundle)
    }

    /// Assigns each to its transport; a track that nothing asks for yet is assigned to the first transport.
    pub(super) fn assign(&mut self, bundles: &mut [Bundle]) {
        let bundle_of =
            |share: &TransportKey| bundles.iter().position(|bundle| bundle.share == *share).unwrap_or_default();
        self.video.iter_mut().for_each(|video| video.bundle = bundle_of(&video.share));
        self.audio.iter_mut().for_each(|audio| audio.bundle = bundle_of(&audio.share));
        self.channel.iter_mut().for_each(|channel| channel.bundle = bundle_of(&channel.share));
        let [video, audio] = [&self.video, &self.audio].map(|at| at.as_ref().map(|at| at.bundle).unwrap_or_default());
        self.media_transports = MediaTransports { video, audio };
        if let Some(bundle) = bundles.get_mut(video) {
            bundle.tracks.video = true;
        }
        if let Some(bundle) = bundles.get_mut(audio) {
            bundle.tracks.audio = true;
        }
    }

    /// Assigns each to its transport after a further offer that has added the transports in `begun`. A track whose
    /// transport is in `over` goes to a new one.
    pub(super) fn assign_again(&mut self, bundles: &mut [Bundle], over: &[usize], begun: &[usize]) {
        let bundle_of = |share: &TransportKey| bundles.iter().position(|bundle| bundle.share == *share);
        let place = |at: &mut usize, share| *at = bundle_of(share).unwrap_or(*at);
        self.video.iter_mut().for_each(|video| place(&mut video.bundle, &video.share));
        self.audio.iter_mut().for_each(|audio| place(&mut audio.bundle, &audio.share));
        self.channel.iter_mut().for_each(|channel| place(&mut channel.bundle, &channel.share));
        let home = |served: Option<usize>, home: usize| {
            let fresh = begun.first().copied().filter(|_| over.contains(&home));
            served.or(fresh).unwrap_or(home)
        };
        let MediaTransports { video, audio } = self.media_transports;
        let video = home(self.video.as_ref().map(|video| video.bundle), video);
        let audio = home(self.audio.as_ref().map(|audio| audio.bundle), audio);
        self.media_transports = MediaTransports { video, audio };
        for at in begun {
            bundles[*at].tracks = Tracks { video: video == *at, audio: audio == *at };
        }
    }

    /// Removes a section from what is served.
    pub(super) fn remove(&mut self, index: usize) {
        self.video.take_if(|video| video.index == index);
        self.audio.take_if(|audio| audio.index == index);
        self.channel.take_if(|channel| channel.index == index);
    }

    /// Decides on a section, provided that its transport is usable. A section with an `agreed` payload type is not
    /// rejected because of what the viewer wants to receive now.
    pub(super) fn decision(&self, index: usize, section: Section<'_>, board: Board, agreed: Option<u8>) -> Decision {
        let here = |at: &Option<InSection<Media>>| at.as_ref().filter(|at| at.index == index).map(|at| at.what.clone());
        let (video, audio) = (here(&self.video), here(&self.audio));
        let is_channel = self.channel.as_ref().is_some_and(|channel| channel.index == index);
        let is_sent = section.wants() && (video.is_some() || audio.is_some() && board.has_sound);
        let media = match &*section.media.media {
            _ if section.check().is_err() => None,
            "application" if is_channel => return Decision::Channel,
            "video" if video.is_some() || agreed.is_some() || !section.wants() => {
                video.or_else(|| video_media(section, board, agreed).ok())
            }
            "audio" => audio.or_else(|| self.audio_media(index, section, agreed)),
            _ => None,
        };
        match media {
            Some(media) if is_sent => Decision::Sent(media),
            Some(media) => Decision::Silent(media),
            None => Decision::Rejected,
        }
    }

    /// How to send audio in a section. The `agreed` payload type is kept if it is still offered.
    pub(super) fn audio_media(&self, index: usize, section: Section<'_>, agreed: Option<u8>) -> Option<Media> {
        let share = TransportKey::of(section, index);
        let video = self.video.as_ref().filter(|video| video.share == share);
        let kept = agreed.and_then(|agreed| codec::opus(section, Some(agreed)));
        // Two streams with the same payload type cannot be distinguished on one transport (RFC 9143, section 9.1).
        kept.or_else(|| codec::opus(section, None))
            .filter(|opus| video.is_none_or(|video| opus.payload_type != video.what.payload_type))
    }
}

impl Channel {
    /// Reads the data channel of a section, in the form of RFC 8841 or of its drafts, in which the format is the port.
    pub(super) fn read(section: Section<'_>) -> Option<Self> {
        let (protocol, format) = (&section.media.proto, section.media.fmt.trim());
        let port = match format {
            "webrtc-datachannel" => section.first("sctp-port").map_or(Some(5000), |port| port.parse().ok()),
            port => port.parse().ok(),
        };
        let most_bytes = section.first("max-message-size").and_then(|bytes| bytes.parse().ok());
        let channel = Self { port: port?, most_bytes: most_bytes.unwrap_or(DEFAULT_MESSAGE_SIZE) };
        Some(channel).filter(|channel| channel.port != 0 && protocol.ends_with("DTLS/SCTP"))
    }
}
