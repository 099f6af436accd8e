//! A viewer's offer, decided upon: which sections are served, over which transport, and why others are not.

use sdp_types::{Group, Session};

use super::Error;
use super::codec::{self, Media};
use super::line::{self, Lines, Section};
use super::transport::{Credentials, Transport};
use crate::media::H264Profile;

/// What the board has to send.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// The profile of its pictures.
    pub profile: H264Profile,
    /// Whether there is sound at the moment.
    pub has_sound: bool,
}

/// An offer that can be answered.
#[derive(Clone, Debug)]
pub struct Offer {
    pub(super) sections: Vec<Decided>,
    /// Tags of the BUNDLE group that the picture is in, as offered.
    pub(super) group: Option<Vec<String>>,
    pub(super) transport: Transport,
    pub(super) served: Served,
}

/// What the stack is told of.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) video: At<Media>,
    pub(super) audio: Option<At<Media>>,
    pub(super) channel: Option<At<Channel>>,
}

/// Something in one section.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    /// Of the section, from 0.
    pub(super) index: usize,
    pub(super) what: T,
}

/// A data channel's end (RFC 8841).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channel {
    /// The viewer's SCTP port.
    pub(super) port: u16,
    /// In the viewer's largest message, bytes; 0 is without bound.
    pub(super) most_bytes: u32,
}

/// The largest message of who does not say (RFC 8841, section 6.1).
const USUAL_MESSAGE: u32 = 65_536;

/// One section, as its answer needs it.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) kind: String,
    pub(super) protocol: String,
    pub(super) formats: String,
    pub(super) mid: Option<String>,
    pub(super) has_mux: bool,
    pub(super) has_reduced_size: bool,
    pub(super) verdict: Verdict,
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
    /// [`Error::NoCommonCodec`] where only the codec is in the way, and [`Error::Unusable`] for anything else, which
    /// includes an offer without a section that wants a picture.
    pub fn read(text: &str, board: Board) -> Result<Self, Error> {
        let session = line::parse(text)?;
        let sections = sections(&session)?;
        let mut refusal = None;
        for index in (0..sections.len()).filter(|index| sections[*index].media.media == "video") {
            match Self::decide(&sections, index, board, None) {
                Ok(offer) => return Ok(offer),
                // Of several sections the first tells most, unless a later one lacked nothing but a codec.
                Err(error @ Error::NoCommonCodec(_)) => refusal = Some(error),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        let none = "the offer has no video section; add a recvonly video transceiver";
        Err(refusal.unwrap_or_else(|| Error::Unusable(none.into())))
    }

    /// Reads a further offer on the same connection: an ICE restart, or a viewer that pauses. What is sent stays in the
    /// section it was in (RFC 3264, section 8), on the same DTLS association.
    ///
    /// # Errors
    ///
    /// [`Error::Unusable`] where that cannot be; the connection goes on as it was.
    pub fn again(&self, text: &str, board: Board) -> Result<Self, Error> {
        let session = line::parse(text)?;
        let sections = sections(&session)?;
        if sections.len() < self.sections.len() {
            let reason = "a further offer has all sections of the first, in the same order (RFC 3264, section 8)";
            return Err(Error::Unusable(reason.into()));
        }
        Self::decide(&sections, self.served.video.index, board, Some(self))
    }

    /// The decision if the picture is sent in the section of this `index`.
    fn decide(sections: &[Section<'_>], index: usize, board: Board, earlier: Option<&Self>) -> Result<Self, Error> {
        let picture = sections[index];
        let group = bundle(picture);
        let unusable = |what: String| Error::Unusable(format!("the offer's video section {what}"));
        check(picture, group.is_some()).map_err(unusable)?;
        if earlier.is_none() && !picture.wants() {
            return Err(unusable("does not receive; make its transceiver recvonly".into()));
        }
        let fixed = earlier.map(|earlier| earlier.video().payload_type);
        let video = codec::h264(picture, board.profile, fixed).ok_or_else(|| no_codec(picture))?;

        let mut served = Served { video: At { index, what: video.clone() }, audio: None, channel: None };
        let mut decided = Vec::new();
        for (at, section) in sections.iter().copied().enumerate() {
            let shares = is_in(group.as_deref(), section) && check(section, true).is_ok();
            let verdict = match &*section.media.media {
                "video" if at == index && section.wants() => Verdict::Sent(video.clone()),
                "video" if at == index => Verdict::Silent(video.clone()),
                _ if !shares => Verdict::Rejected,
                "video" if !section.wants() => {
                    codec::h264(section, board.profile, None).map_or(Verdict::Rejected, Verdict::Silent)
                }
                "audio" => served.sound(at, section, board, earlier),
                "application" if served.channel.is_none() => {
                    served.channel = channel(section).map(|what| At { index: at, what });
                    if served.channel.is_some() { Verdict::Channel } else { Verdict::Rejected }
                }
                _ => Verdict::Rejected,
            };
            decided.push(Decided::new(section, verdict));
        }
        let tagged = sections[tagged(group.as_deref(), &decided, index)];
        let sharing: Vec<_> = sections.iter().copied().filter(|section| is_in(group.as_deref(), *section)).collect();
        // The tagged section speaks for all (RFC 9143, section 7.3.1); where it says nothing, the picture's does.
        let carrier = if tagged.has("ice-ufrag") { tagged } else { picture };
        let mut transport = Transport::read(carrier, &sharing).map_err(|what| {
            let kind: String = carrier.media.media.chars().take(20).collect();
            Error::Unusable(format!("the offer's {kind} section {what}"))
        })?;
        if let Some(earlier) = earlier {
            transport.follow(&earlier.transport).map_err(|what| Error::Unusable(what.into()))?;
            // The stack knows of the first; what has come to an end is not sent, and what is new has no track.
            served = Served { channel: earlier.served.channel.clone().or(served.channel), ..earlier.served.clone() };
        }
        Ok(Self { sections: decided, group, transport, served })
    }

    /// Whether pictures are to flow, and sound: a viewer may pause each.
    pub fn flows(&self) -> (bool, bool) {
        let is_sent = |index: usize| matches!(self.sections[index].verdict, Verdict::Sent(_));
        (is_sent(self.served.video.index), self.served.audio.as_ref().is_some_and(|audio| is_sent(audio.index)))
    }

    /// How to send H.264.
    pub fn video(&self) -> &Media {
        &self.served.video.what
    }

    /// How to send Opus; `None` where the offer has no section for it.
    pub fn audio(&self) -> Option<&Media> {
        self.served.audio.as_ref().map(|audio| &audio.what)
    }

    /// The viewer's ICE credentials, which name the generation (RFC 8839, section 5.4).
    pub fn credentials(&self) -> &Credentials {
        &self.transport.credentials
    }

    /// Where candidates belong: the section that speaks for the transport of all that are served, by index and tag.
    pub fn tagged(&self) -> (usize, Option<&str>) {
        let index = tagged(self.group.as_deref(), &self.sections, self.served.video.index);
        (index, self.sections[index].mid.as_deref())
    }

    /// The offer for the stack: only what is served, each under a tag of ours, on one transport.
    pub fn reduced(&self) -> String {
        let Served { video, audio, channel } = &self.served;
        let transport = &self.transport;
        let mut lines = Lines::default();
        let tags = ["video"].into_iter().chain(audio.as_ref().map(|_| "audio")).chain(channel.as_ref().map(|_| "data"));
        lines.push("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0");
        lines.push(format_args!("a=group:BUNDLE {}", tags.collect::<Vec<_>>().join(" ")));
        if transport.is_lite {
            lines.push("a=ice-lite");
        }
        let Media { payload_type, retransmission, .. } = &video.what;
        let rtx = retransmission.map(|rtx| rtx.to_string()).unwrap_or_default();
        lines.push(format_args!("m=video 9 UDP/TLS/RTP/SAVPF {payload_type} {rtx}"));
        lines.push(format_args!("a=mid:video\r\na=recvonly\r\na=rtcp-mux"));
        lines.push(format_args!("a=rtpmap:{payload_type} H264/90000\r\na=fmtp:{payload_type} {STACK_H264}"));
        for feedback in &video.what.feedback {
            let (kind, parameter) = feedback.words();
            lines.push(format_args!("a=rtcp-fb:{payload_type} {kind} {parameter}"));
        }
        if let Some(rtx) = retransmission {
            lines.push(format_args!("a=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={payload_type}"));
        }
        write_extensions(&mut lines, &video.what);
        transport.write_reduced(&mut lines);
        // One transport, so that its candidates stand once.
        for candidate in &transport.candidates {
            lines.push(format_args!("a=candidate:{candidate}"));
        }
        if let Some(At { what: media, .. }) = audio {
            let payload_type = media.payload_type;
            lines.push(format_args!("m=audio 9 UDP/TLS/RTP/SAVPF {payload_type}"));
            lines.push(format_args!("a=mid:audio\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:{payload_type} opus/48000/2"));
            write_extensions(&mut lines, media);
            transport.write_reduced(&mut lines);
        }
        if let Some(At { what: Channel { port, most_bytes }, .. }) = channel {
            lines.push("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:data");
            lines.push(format_args!("a=sctp-port:{port}\r\na=max-message-size:{most_bytes}"));
            transport.write_reduced(&mut lines);
        }
        lines.finish()
    }
}

impl Served {
    fn sound(&mut self, at: usize, section: Section<'_>, board: Board, earlier: Option<&Offer>) -> Verdict {
        let known = earlier.and_then(|earlier| earlier.served.audio.as_ref()).filter(|known| known.index == at);
        let is_first = self.audio.is_none() && (earlier.is_none() || known.is_some());
        // Two streams of one payload type could not be told apart (RFC 9143, section 9.1).
        let opus = codec::opus(section, known.map(|known| known.what.payload_type))
            .filter(|opus| opus.payload_type != self.video.what.payload_type);
        let Some(opus) = opus else { return Verdict::Rejected };
        if is_first {
            // The stack has a track for it in any case, so that a further offer can bring sound.
            self.audio = Some(At { index: at, what: opus.clone() });
        }
        if is_first && section.wants() && board.has_sound { Verdict::Sent(opus) } else { Verdict::Silent(opus) }
    }
}

fn write_extensions(lines: &mut Lines, media: &Media) {
    for (extension, name) in media.extensions() {
        lines.push(format_args!("a=extmap:{} {name}", extension.id));
    }
}

/// H.264's parameters as the stack is told them, which compares them literally; it cuts no packets itself.
pub const STACK_H264: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

impl Decided {
    fn new(section: Section<'_>, verdict: Verdict) -> Self {
        Self {
            kind: section.media.media.clone(),
            protocol: section.media.proto.clone(),
            formats: section.media.fmt.clone(),
            mid: section.first("mid").map(str::to_owned),
            has_mux: section.has("rtcp-mux"),
            has_reduced_size: section.has("rtcp-rsize"),
            verdict,
        }
    }
}

/// The sections, whose tags have to differ (RFC 5888, section 4).
fn sections(session: &Session) -> Result<Vec<Section<'_>>, Error> {
    let sections: Vec<_> = session.medias.iter().map(|media| Section { session, media }).collect();
    for (at, section) in sections.iter().enumerate() {
        let mid = section.first("mid");
        if mid.is_some() && sections[..at].iter().any(|earlier| earlier.first("mid") == mid) {
            return Err(Error::Unusable("two of the offer's sections have the same a=mid".into()));
        }
    }
    Ok(sections)
}

/// The tags of the BUNDLE group that a section is in (RFC 9143).
fn bundle(section: Section<'_>) -> Option<Vec<String>> {
    let mid = section.first("mid")?;
    let groups = section.session.attributes.iter().filter(|attribute| attribute.attribute == "group");
    let mut groups = groups.filter_map(|attribute| attribute.value.as_deref()?.parse::<Group>().ok());
    let group = groups.find(|group| {
        group.semantics.as_str().eq_ignore_ascii_case("BUNDLE") && group.mid_tags.iter().any(|tag| tag == mid)
    })?;
    Some(group.mid_tags)
}

fn is_in(group: Option<&[String]>, section: Section<'_>) -> bool {
    section.first("mid").is_some_and(|mid| group.into_iter().flatten().any(|tag| tag == mid))
}

/// The first section of the group that is not rejected; the picture's where there is no group.
fn tagged(group: Option<&[String]>, sections: &[Decided], picture: usize) -> usize {
    let stays = |section: &&Decided| section.verdict != Verdict::Rejected;
    let of_tag =
        |tag: &String| sections.iter().position(|section| section.mid.as_ref() == Some(tag) && stays(&section));
    group.into_iter().flatten().find_map(of_tag).unwrap_or(picture)
}

/// Whether a section can carry anything. The error completes the sentence "the section ..".
fn check(section: Section<'_>, is_bundled: bool) -> Result<(), String> {
    // Of a bundled section the port may be another's (RFC 9143, section 6).
    if section.media.port == 0 && !(is_bundled && section.has("bundle-only")) {
        return Err("is rejected by the offer itself (port 0)".into());
    }
    if !matches!(&*section.media.media, "audio" | "video") {
        return Ok(());
    }
    // Which of the profiles it names is of no matter (RFC 9429, section 5.1.2): the fingerprint decides.
    let is_known = ["AVP", "AVPF", "SAVP", "SAVPF"].iter().any(|profile| {
        section.media.proto.strip_suffix(profile).is_some_and(|rest| rest == "RTP/" || rest.ends_with("/RTP/"))
    });
    if !is_known {
        let protocol: String = section.media.proto.chars().take(40).collect();
        return Err(format!("is for {protocol}; this board sends UDP/TLS/RTP/SAVPF"));
    }
    // BUNDLE has it that RTCP comes on the same port (RFC 9143, section 9.3).
    if !is_bundled && !section.has("rtcp-mux") && !section.has("rtcp-mux-only") {
        return Err("has no a=rtcp-mux; this board sends RTP and RTCP on one port only".into());
    }
    Ok(())
}

fn no_codec(section: Section<'_>) -> Error {
    let offered = codec::names(section);
    Error::NoCommonCodec(format!(
        "this board sends H.264 with packetization-mode 1; the offer has {}",
        if offered.is_empty() { "no codecs".into() } else { offered.join(", ") }
    ))
}

/// The data channel of a section, in the form of RFC 8841 or in that of its drafts, where the format is the port.
fn channel(section: Section<'_>) -> Option<Channel> {
    let (protocol, format) = (&section.media.proto, section.media.fmt.trim());
    let port = match format {
        "webrtc-datachannel" => section.first("sctp-port").map_or(Some(5000), |port| port.parse().ok()),
        port => port.parse().ok(),
    };
    let most_bytes = section.first("max-message-size").and_then(|bytes| bytes.parse().ok()).unwrap_or(USUAL_MESSAGE);
    port.filter(|port| *port != 0 && protocol.ends_with("DTLS/SCTP")).map(|port| Channel { port, most_bytes })
}
