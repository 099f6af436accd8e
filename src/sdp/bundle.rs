//! What an offer's transports carry (RFC 9143), and what the stack is told of each, which has a connection for it.

use super::Error;
use super::codec::{self, Media};
use super::line::{Lines, Section};
use super::offer::{Board, Offer, Verdict};
use super::transport::Transport;

/// By what sections of one offer share a transport.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Share {
    /// They are in the group of this number.
    Group(usize),
    /// The section of this index is in none, and has a transport of its own.
    Alone(usize),
    /// Nothing shares it any more.
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
    pub(super) share: Share,
    /// Of the group that shares it, as offered; none without one.
    pub(super) tags: Vec<String>,
    pub(super) transport: Transport,
    /// The index of the section that speaks for it.
    pub(super) tagged: usize,
    /// Whether it came to an end while another goes on.
    pub(super) is_lost: bool,
}

impl Bundle {
    /// The transport of the section with this `index`, if the sections that share it have these `verdicts`.
    pub(super) fn read(sections: &[Section<'_>], verdicts: &[Verdict], index: usize) -> Result<Self, Error> {
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
        let transport = Transport::read(carrier, &sharing)
            .map_err(|what| Error::Unusable(format!("the offer's {} section {what}", carrier.kind())))?;
        Ok(Self { share, tags: tags.to_vec(), transport, tagged, is_lost: false })
    }
}

/// What the stack is told of, each at most once. So there are three transports at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    pub(super) video: Option<At<Media>>,
    pub(super) audio: Option<At<Media>>,
    pub(super) channel: Option<At<Channel>>,
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

    /// Learns what shares a transport with each in another offer.
    pub(super) fn find(&mut self, sections: &[Section<'_>]) {
        let share = |index: usize| Share::of(sections[index], index);
        self.video.iter_mut().for_each(|video| video.share = share(video.index));
        self.audio.iter_mut().for_each(|audio| audio.share = share(audio.index));
        self.channel.iter_mut().for_each(|channel| channel.share = share(channel.index));
    }

    /// Puts each on its transport.
    pub(super) fn assign(&mut self, bundles: &[Bundle]) {
        let bundle_of = |share: &Share| bundles.iter().position(|bundle| bundle.share == *share).unwrap_or_default();
        self.video.iter_mut().for_each(|video| video.bundle = bundle_of(&video.share));
        self.audio.iter_mut().for_each(|audio| audio.bundle = bundle_of(&audio.share));
        self.channel.iter_mut().for_each(|channel| channel.bundle = bundle_of(&channel.share));
    }

    /// Leaves a section out.
    pub(super) fn remove(&mut self, index: usize) {
        self.video.take_if(|video| video.index == index);
        self.audio.take_if(|audio| audio.index == index);
        self.channel.take_if(|channel| channel.index == index);
    }

    /// What becomes of a section, if its transport can be had.
    pub(super) fn verdict(&self, index: usize, section: Section<'_>, board: Board) -> Verdict {
        let here = |at: &At<Media>| (at.index == index).then_some(at.what.payload_type);
        let (video, audio) = (self.video.as_ref().and_then(here), self.audio.as_ref().and_then(here));
        let is_channel = self.channel.as_ref().is_some_and(|channel| channel.index == index);
        let (media, is_sent) = match &*section.media.media {
            _ if section.check().is_err() => return Verdict::Rejected,
            "application" if is_channel => return Verdict::Channel,
            // In a further offer a section that had come to an end may be of another kind.
            "video" if self.bundle_of(index).is_some() != video.is_some() => return Verdict::Rejected,
            "audio" if self.bundle_of(index).is_some() != audio.is_some() => return Verdict::Rejected,
            "video" if video.is_some() || !section.wants() => {
                (codec::h264(section, board.profile, video), video.is_some() && section.wants())
            }
            "audio" => (self.sound(index, section, audio), audio.is_some() && section.wants() && board.has_sound),
            _ => return Verdict::Rejected,
        };
        match media {
            Some(media) if is_sent => Verdict::Sent(media),
            Some(media) => Verdict::Silent(media),
            None => Verdict::Rejected,
        }
    }

    /// How to send sound in a section, `fixed` being the payload type that was agreed upon.
    pub(super) fn sound(&self, index: usize, section: Section<'_>, fixed: Option<u8>) -> Option<Media> {
        let share = Share::of(section, index);
        let video = self.video.as_ref().filter(|video| video.share == share);
        // Two streams of one payload type could not be told apart on one transport (RFC 9143, section 9.1).
        codec::opus(section, fixed)
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
    /// The offer of one transport for the stack: only what is served there, each under a tag of ours.
    pub fn reduced(&self, bundle: usize) -> String {
        let transport = &self.bundles[bundle].transport;
        let (video, audio) = self.media_of(bundle);
        let channel = self.served.channel.as_ref().filter(|channel| channel.bundle == bundle);
        let mut lines = Lines::default();
        let tags = video.map(|_| "video").into_iter().chain(audio.map(|_| "audio")).chain(channel.map(|_| "data"));
        lines.push("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0");
        lines.push(format_args!("a=group:BUNDLE {}", tags.collect::<Vec<_>>().join(" ")));
        if transport.is_lite {
            lines.push("a=ice-lite");
        }
        // One transport, so that its candidates stand once.
        let mut candidates = transport.candidates.iter();
        let mut write_transport = |lines: &mut Lines| {
            transport.write_reduced(lines);
            candidates.by_ref().for_each(|candidate| lines.push(format_args!("a=candidate:{candidate}")));
        };
        if let Some(media) = video {
            let Media { payload_type, retransmission, .. } = media;
            let rtx = retransmission.map(|rtx| rtx.to_string()).unwrap_or_default();
            lines.push(format_args!("m=video 9 UDP/TLS/RTP/SAVPF {payload_type} {rtx}"));
            lines.push("a=mid:video\r\na=recvonly\r\na=rtcp-mux");
            lines.push(format_args!("a=rtpmap:{payload_type} H264/90000\r\na=fmtp:{payload_type} {STACK_H264}"));
            for feedback in &media.feedback {
                let (kind, parameter) = feedback.words();
                lines.push(format_args!("a=rtcp-fb:{payload_type} {kind} {parameter}"));
            }
            if let Some(rtx) = retransmission {
                lines.push(format_args!("a=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={payload_type}"));
            }
            write_extensions(&mut lines, media);
            write_transport(&mut lines);
        }
        if let Some(media) = audio {
            let payload_type = media.payload_type;
            lines.push(format_args!("m=audio 9 UDP/TLS/RTP/SAVPF {payload_type}"));
            lines.push(format_args!("a=mid:audio\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:{payload_type} opus/48000/2"));
            write_extensions(&mut lines, media);
            write_transport(&mut lines);
        }
        if let Some(At { what: Channel { port, most_bytes }, .. }) = channel {
            lines.push("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:data");
            lines.push(format_args!("a=sctp-port:{port}\r\na=max-message-size:{most_bytes}"));
            write_transport(&mut lines);
        }
        lines.finish()
    }
}

fn write_extensions(lines: &mut Lines, media: &Media) {
    for (extension, name) in media.extensions() {
        lines.push(format_args!("a=extmap:{} {name}", extension.id));
    }
}
