//! What an offer's transports carry (RFC 9143), and what the stack is told of each, which has a connection for it.

use super::Error;
use super::codec::{self, ABS_CAPTURE_TIME, Feedback, MID, Media, PLAYOUT_DELAY};
use super::line::{Lines, Section};
use super::offer::{Board, Offer, Verdict, picture_of};
use super::transport::{Role, Transport};

/// Transports of one offer that are served: the picture's, the sound's and the data channel's.
pub const MOST_TRANSPORTS: usize = 3;

/// By what sections of one offer share a transport.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Share {
    /// They are in the group of this number.
    Group(usize),
    /// The section of this index is in none, and has a transport of its own.
    Alone(usize),
    /// Nothing shares it any more: what did has come to an end.
    Nobody,
}

impl Share {
    /// That of the section with this index.
    pub(super) fn of(section: Section<'_>, index: usize) -> Self {
        section.group.map_or(Self::Alone(index), |(number, _)| Self::Group(number))
    }
}

/// A transport, and the sections that share it.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    /// Tells the transports of a viewer apart, also one that is begun again.
    pub(super) number: u64,
    pub(super) share: Share,
    /// Of the group that shares it, as offered; none without one.
    pub(super) tags: Vec<String>,
    pub(super) transport: Transport,
    /// The index of the section that speaks for it.
    pub(super) tagged: usize,
    /// Whether the stack has the tracks of picture and of sound here. They stay, also when those go another way.
    pub(super) tracks: Tracks,
    /// The data channel that the stack knows of here, also after it has come to an end.
    pub(super) channel: Option<Channel>,
    /// Whether it came to an end while another goes on.
    pub(super) is_lost: bool,
    /// Whether the viewer has ended all that it carried.
    pub(super) has_ended: bool,
    /// Whether a further offer has another section speak for it.
    pub(super) has_moved: bool,
}

/// For which of picture and sound there is a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    /// The picture.
    pub video: bool,
    /// The sound.
    pub audio: bool,
}

impl Bundle {
    /// The transport of the section with this `index`, if the sections have these `verdicts`.
    pub(super) fn read(
        sections: &[Section<'_>],
        verdicts: &[Verdict],
        index: usize,
        board: Board,
    ) -> Result<Self, Error> {
        let share = Share::of(sections[index], index);
        let shares = |at: &usize| Share::of(sections[*at], *at) == share;
        let members: Vec<_> = (0..sections.len()).filter(shares).collect();
        // The first tag of a section that is not rejected.
        let of_tag = |tag: &String| {
            let mut staying = members.iter().copied().filter(|at| verdicts[*at] != Verdict::Rejected);
            staying.find(|at| sections[*at].first("mid") == Some(tag))
        };
        let tags = sections[index].group.map_or(&[][..], |(_, tags)| tags);
        let tagged = tags.iter().find_map(of_tag).unwrap_or(index);
        // It speaks for all (RFC 9143, section 7.3.1); where it says nothing, what is carried does.
        let carrier = sections[if sections[tagged].has("ice-ufrag") { tagged } else { index }];
        let sharing: Vec<_> = members.iter().map(|at| sections[*at]).collect();
        // To begin saves the time in which the answer is on its way, and the round trip of DTLS's cookie. But where the
        // board began, the stack serves no data channel that is added later.
        let may_come_later = board.takes_more && !verdicts.contains(&Verdict::Channel);
        let choice = if may_come_later { Role::Passive } else { Role::Active };
        let transport = Transport::read(carrier, &sharing, choice)
            .map_err(|what| Error::Unusable(format!("the offer's {} section {what}", carrier.kind())))?;
        let (tags, tracks) = (tags.to_vec(), Tracks::default());
        let (number, channel, [is_lost, has_ended, has_moved]) = Default::default();
        Ok(Self { number, share, tags, transport, tagged, tracks, channel, is_lost, has_ended, has_moved })
    }

    /// Whether a further offer can bring a data channel. The stack opens one when the DTLS handshake ends, or waits for
    /// the viewer's where that began the handshake.
    pub(super) fn may_begin_channel(&self) -> bool {
        self.channel.is_none() && self.transport.role == Role::Passive
    }
}

/// What is served, each at most once. So there are three transports at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    pub(super) homes: Homes,
    /// In which sections the sources of picture and sound are named.
    pub(super) named: [Named; 2],
    pub(super) video: Option<At<Media>>,
    pub(super) audio: Option<At<Media>>,
    pub(super) channel: Option<At<Channel>>,
}

/// In which section a source is named (`a=ssrc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named {
    /// It was not sent yet.
    #[default]
    Nowhere,
    /// In that with this index, where it was sent first.
    In(usize),
    /// It has moved, and is known by the tag of its section.
    ByTag,
}

impl Named {
    /// It is sent in the section with this index now.
    pub(super) fn sent(self, index: usize) -> Self {
        match self {
            Self::Nowhere => Self::In(index),
            Self::In(first) if first == index => self,
            Self::In(_) | Self::ByTag => Self::ByTag,
        }
    }
}

/// The transports on which picture and sound go. They stay there while there is a section for them, and also while no
/// section asks for them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Homes {
    pub(super) video: usize,
    pub(super) audio: usize,
}

/// Something in one section.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    /// Of the section, from 0.
    pub(super) index: usize,
    pub(super) share: Share,
    /// The transport that carries it.
    pub(super) bundle: usize,
    pub(super) what: T,
}

/// A data channel's end (RFC 8841).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channel {
    /// The viewer's SCTP port.
    port: u16,
    /// In the viewer's largest message, bytes; 0 is without bound.
    most_bytes: u32,
}

/// The largest message of who does not say (RFC 8841, section 6.1).
const USUAL_MESSAGE: u32 = 65_536;

/// H.264's parameters as the stack is told them, which compares them literally; it cuts no packets itself.
pub const STACK_H264: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

/// The payload types that the stack is told of.
pub const STACK_VIDEO: u8 = 96;
/// That of retransmissions of the picture.
pub const STACK_RTX: u8 = 97;
/// That of sound.
pub const STACK_AUDIO: u8 = 98;
/// The header extensions that the stack is told of, of both kinds.
pub const STACK_EXTENSIONS: [(u8, &str); 3] = [(1, PLAYOUT_DELAY), (2, ABS_CAPTURE_TIME), (3, MID)];

impl<T> At<T> {
    pub(super) fn new(index: usize, section: Section<'_>, what: T) -> Self {
        Self { index, share: Share::of(section, index), bundle: 0, what }
    }
}

impl Served {
    /// The sections, the most important first.
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> + use<> {
        let video = self.video.as_ref().map(|video| video.index);
        let audio = self.audio.as_ref().map(|audio| audio.index);
        let channel = self.channel.as_ref().map(|channel| channel.index);
        [video, audio, channel].into_iter().flatten()
    }

    /// The transport of the section with this index, where it is served.
    pub(super) fn bundle_of(&self, index: usize) -> Option<usize> {
        let video = self.video.iter().map(|video| (video.index, video.bundle));
        let audio = self.audio.iter().map(|audio| (audio.index, audio.bundle));
        let channel = self.channel.iter().map(|channel| (channel.index, channel.bundle));
        video.chain(audio).chain(channel).find(|(at, _)| *at == index).map(|(_, bundle)| bundle)
    }

    /// Puts each on its transport; a track that nothing asks for yet on the first.
    pub(super) fn assign(&mut self, bundles: &mut [Bundle]) {
        let bundle_of = |share: &Share| bundles.iter().position(|bundle| bundle.share == *share).unwrap_or_default();
        self.video.iter_mut().for_each(|video| video.bundle = bundle_of(&video.share));
        self.audio.iter_mut().for_each(|audio| audio.bundle = bundle_of(&audio.share));
        self.channel.iter_mut().for_each(|channel| channel.bundle = bundle_of(&channel.share));
        let [video, audio] = [&self.video, &self.audio].map(|at| at.as_ref().map(|at| at.bundle).unwrap_or_default());
        self.homes = Homes { video, audio };
        if let Some(bundle) = bundles.get_mut(video) {
            bundle.tracks.video = true;
        }
        if let Some(bundle) = bundles.get_mut(audio) {
            bundle.tracks.audio = true;
        }
    }

    /// Puts each on its transport after a further offer, by which the last of them are `begun`. A track whose transport
    /// is `over` goes to one that begins.
    pub(super) fn assign_again(&mut self, bundles: &mut [Bundle], over: &[usize], begun: &[usize]) {
        let bundle_of = |share: &Share| bundles.iter().position(|bundle| bundle.share == *share);
        let place = |at: &mut usize, share| *at = bundle_of(share).unwrap_or(*at);
        self.video.iter_mut().for_each(|video| place(&mut video.bundle, &video.share));
        self.audio.iter_mut().for_each(|audio| place(&mut audio.bundle, &audio.share));
        self.channel.iter_mut().for_each(|channel| place(&mut channel.bundle, &channel.share));
        let home = |served: Option<usize>, home: usize| {
            let fresh = begun.first().copied().filter(|_| over.contains(&home));
            served.or(fresh).unwrap_or(home)
        };
        let Homes { video, audio } = self.homes;
        let video = home(self.video.as_ref().map(|video| video.bundle), video);
        let audio = home(self.audio.as_ref().map(|audio| audio.bundle), audio);
        self.homes = Homes { video, audio };
        for at in begun {
            bundles[*at].tracks = Tracks { video: video == *at, audio: audio == *at };
        }
    }

    /// Leaves a section out.
    pub(super) fn remove(&mut self, index: usize) {
        self.video.take_if(|video| video.index == index);
        self.audio.take_if(|audio| audio.index == index);
        self.channel.take_if(|channel| channel.index == index);
    }

    /// What becomes of a section, if its transport can be had. One for which a payload type was `agreed` upon is not
    /// rejected for what the viewer wants to receive now.
    pub(super) fn verdict(&self, index: usize, section: Section<'_>, board: Board, agreed: Option<u8>) -> Verdict {
        let here = |at: &Option<At<Media>>| at.as_ref().filter(|at| at.index == index).map(|at| at.what.clone());
        let (video, audio) = (here(&self.video), here(&self.audio));
        let is_channel = self.channel.as_ref().is_some_and(|channel| channel.index == index);
        let is_sent = section.wants() && (video.is_some() || audio.is_some() && board.has_sound);
        let media = match &*section.media.media {
            _ if section.check().is_err() => None,
            "application" if is_channel => return Verdict::Channel,
            "video" if video.is_some() || agreed.is_some() || !section.wants() => {
                video.or_else(|| picture_of(section, board, agreed).ok())
            }
            "audio" => audio.or_else(|| self.sound(index, section, agreed)),
            _ => None,
        };
        match media {
            Some(media) if is_sent => Verdict::Sent(media),
            Some(media) => Verdict::Silent(media),
            None => Verdict::Rejected,
        }
    }

    /// How to send sound in a section, under the payload type that was `agreed` upon, if it is still offered.
    pub(super) fn sound(&self, index: usize, section: Section<'_>, agreed: Option<u8>) -> Option<Media> {
        let share = Share::of(section, index);
        let video = self.video.as_ref().filter(|video| video.share == share);
        let stays = agreed.and_then(|agreed| codec::opus(section, Some(agreed)));
        // Two streams of one payload type could not be told apart on one transport (RFC 9143, section 9.1).
        stays
            .or_else(|| codec::opus(section, None))
            .filter(|opus| video.is_none_or(|video| opus.payload_type != video.what.payload_type))
    }
}

impl Channel {
    /// The data channel of a section, in the form of RFC 8841 or in that of its drafts, where the format is the port.
    pub(super) fn read(section: Section<'_>) -> Option<Self> {
        let (protocol, format) = (&section.media.proto, section.media.fmt.trim());
        let port = match format {
            "webrtc-datachannel" => section.first("sctp-port").map_or(Some(5000), |port| port.parse().ok()),
            port => port.parse().ok(),
        };
        let most_bytes = section.first("max-message-size").and_then(|bytes| bytes.parse().ok());
        let channel = Self { port: port?, most_bytes: most_bytes.unwrap_or(USUAL_MESSAGE) };
        Some(channel).filter(|channel| channel.port != 0 && protocol.ends_with("DTLS/SCTP"))
    }
}

impl Offer {
    /// The offer of one transport for the stack: what it has tracks for there, each under a tag and numbers of ours.
    /// Those stay whatever the viewer's are, which its packets get on their way out.
    pub fn reduced(&self, bundle: usize) -> String {
        let Bundle { transport, channel, .. } = &self.bundles[bundle];
        let Tracks { video: has_video, audio: has_audio } = self.bundles[bundle].tracks;
        let mut lines = Lines::default();
        let tags = [("video", has_video), ("audio", has_audio), ("data", channel.is_some())];
        let tags: Vec<_> = tags.into_iter().filter(|(_, is_there)| *is_there).map(|(tag, _)| tag).collect();
        lines.push("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0");
        lines.push(format_args!("a=group:BUNDLE {}", tags.join(" ")));
        if transport.is_lite {
            lines.push("a=ice-lite");
        }
        // One transport, so that its candidates stand once.
        let mut candidates = transport.candidates.iter();
        let mut write_transport = |lines: &mut Lines| {
            transport.write_reduced(lines);
            candidates.by_ref().for_each(|candidate| lines.push(format_args!("a=candidate:{candidate}")));
        };
        if has_video {
            lines.push(format_args!("m=video 9 UDP/TLS/RTP/SAVPF {STACK_VIDEO} {STACK_RTX}"));
            lines.push("a=mid:video\r\na=recvonly\r\na=rtcp-mux");
            lines.push(format_args!("a=rtpmap:{STACK_VIDEO} H264/90000\r\na=fmtp:{STACK_VIDEO} {STACK_H264}"));
            for (kind, parameter) in Feedback::ALL.map(Feedback::words) {
                lines.push(format_args!("a=rtcp-fb:{STACK_VIDEO} {kind} {parameter}"));
            }
            lines.push(format_args!("a=rtpmap:{STACK_RTX} rtx/90000\r\na=fmtp:{STACK_RTX} apt={STACK_VIDEO}"));
            write_extensions(&mut lines);
            write_transport(&mut lines);
        }
        if has_audio {
            lines.push(format_args!("m=audio 9 UDP/TLS/RTP/SAVPF {STACK_AUDIO}"));
            lines.push(format_args!("a=mid:audio\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:{STACK_AUDIO} opus/48000/2"));
            write_extensions(&mut lines);
            write_transport(&mut lines);
        }
        if let Some(Channel { port, most_bytes }) = channel {
            lines.push("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:data");
            lines.push(format_args!("a=sctp-port:{port}\r\na=max-message-size:{most_bytes}"));
            write_transport(&mut lines);
        }
        lines.finish()
    }
}

fn write_extensions(lines: &mut Lines) {
    for (id, name) in STACK_EXTENSIONS {
        lines.push(format_args!("a=extmap:{id} {name}"));
    }
}
