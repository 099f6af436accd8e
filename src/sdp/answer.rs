//! Writes the answer to an offer, for the viewer.

use sdp_types::{Fingerprint, Session};

use super::attributes::{Lines, Section};
use super::candidate::Candidate;
use super::codec::Media;
use super::decision::Decision;
use super::offer::{DecidedSection, Offer};
use super::transport::{Credentials, Role, credentials};

/// Id of the board's media stream (RFC 8830). Audio and video are tracks of the same stream, so that a browser plays
/// them in sync.
pub const STREAM: &str = "peercam";

/// Connection line for sections whose port and address have no meaning (RFC 9429, section 5.2.1): the ICE candidates
/// have the addresses.
const NOWHERE: &str = "c=IN IP4 0.0.0.0";

/// SSRCs of one stream (RFC 3550, section 3).
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// SSRC of the first transmissions.
    pub ssrc: u32,
    /// SSRC of the retransmissions.
    pub retransmission: Option<u32>,
}

/// The board's side of a transport: the values that only the stack knows.
#[derive(Clone, Debug)]
pub struct LocalTransport {
    /// The session id, which stays the same (RFC 3264, section 8).
    pub session: String,
    /// Version of the answer, one more than that of the previous answer (RFC 3264, section 8).
    pub version: u64,
    credentials: Credentials,
    fingerprint: Fingerprint,
    channel: Option<(u16, u32)>,
    /// The board's candidates so far.
    pub candidates: Vec<Candidate>,
    /// Whether there will be no more candidates.
    pub is_complete: bool,
}

impl LocalTransport {
    /// Reads the needed values from the stack's answer to its [offer](Offer::stack_offer). `None` if one is missing,
    /// which is an error of the stack.
    pub fn read(text: &str) -> Option<Self> {
        let session = Session::parse(text.as_bytes()).ok()?;
        let mut sections = session.medias.iter().map(|media| Section::new(&session, media, &[]));
        let first = sections.clone().next()?;
        let channel = sections.find(|section| section.media.media == "application").and_then(|section| {
            let port = section.first("sctp-port")?.parse().ok()?;
            Some((port, section.first("max-message-size")?.parse().ok()?))
        });
        Some(Self {
            credentials: credentials(first)?,
            fingerprint: first.typed().next()?,
            channel,
            candidates: Candidate::usable(first.all("candidate")).collect(),
            is_complete: first.has("end-of-candidates"),
            version: session.origin.sess_version,
            session: session.origin.sess_id.clone(),
        })
    }

    /// The board's ICE credentials; they identify its ICE generation.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

impl Offer {
    /// The answer for the viewer: one section for each offered section, in the same order (RFC 3264, section 6). `ours`
    /// has one entry per [transport](Self::transports).
    pub fn answer(&self, ours: &[LocalTransport], video: Option<Sources>, audio: Option<Sources>) -> String {
        let mut lines = Lines::default();
        let (id, version) = (&ours[0].session, ours[0].version);
        lines.push(format_args!("v=0\r\no=- {id} {version} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0"));
        let is_kept = |section: &&DecidedSection| section.decision != Decision::Rejected;
        for bundle in &self.bundles {
            let tags = bundle
                .tags
                .iter()
                .filter(|tag| self.sections.iter().filter(is_kept).any(|section| section.mid.as_ref() == Some(*tag)));
            let tags: Vec<_> = tags.cloned().collect();
            if !tags.is_empty() {
                lines.push(format_args!("a=group:BUNDLE {}", tags.join(" ")));
            }
        }
        if self.bundles.iter().all(|bundle| bundle.transport.is_trickling) {
            lines.push("a=ice-options:trickle");
        }
        // All transports use the same certificate.
        lines.push(format_args!("a=msid-semantic:WMS *\r\na=fingerprint:{}", ours[0].fingerprint));
        for (index, section) in self.sections.iter().enumerate() {
            let (bundle, ours) = (&self.bundles[section.bundle], &ours[section.bundle]);
            write_section(&mut lines, section, bundle.transport.role, ours);
            match &section.decision {
                Decision::Sent(media) => {
                    lines.push("a=sendonly");
                    write_media(&mut lines, section, media);
                    let sources = if section.kind == "video" { video } else { audio };
                    lines.push(format_args!("a=msid:{STREAM} {}", section.kind));
                    if let Some(Sources { ssrc, retransmission }) = sources.filter(|_| self.names_sources_in(index)) {
                        let retransmission = retransmission.filter(|_| media.retransmission.is_some());
                        write_sources(&mut lines, &section.kind, Sources { ssrc, retransmission });
                    }
                }
                Decision::Silent(media) => {
                    lines.push("a=inactive");
                    write_media(&mut lines, section, media);
                }
                Decision::Channel => write_channel(&mut lines, section, ours),
                Decision::Rejected => {
                    lines.push("a=inactive");
                    // aiortc refuses the whole answer if any section, even a rejected one, does not have it.
                    if section.has_mux {
                        lines.push("a=rtcp-mux");
                    }
                }
            }
            if index == bundle.tagged && section.decision != Decision::Rejected {
                for candidate in &ours.candidates {
                    lines.push(format_args!("a=candidate:{candidate}"));
                }
                if ours.is_complete {
                    lines.push("a=end-of-candidates");
                }
            }
        }
        lines.finish()
    }
}

/// Writes the first lines of a section. A rejected section has the ICE lines too: GStreamer up to 1.22 refuses an
/// answer without them.
fn write_section(lines: &mut Lines, section: &DecidedSection, role: Role, ours: &LocalTransport) {
    let DecidedSection { kind, protocol, formats, mid, decision, .. } = section;
    match decision {
        // The first offered format, since there has to be one (RFC 3264, section 6).
        Decision::Rejected => {
            let format = formats.split_whitespace().next().unwrap_or("0");
            lines.push(format_args!("m={kind} 0 {protocol} {format}"));
        }
        Decision::Sent(Media { payload_type, retransmission, .. })
        | Decision::Silent(Media { payload_type, retransmission, .. }) => {
            let rtx = retransmission.map(|rtx| rtx.to_string()).unwrap_or_default();
            lines.push(format_args!("m={kind} 9 {protocol} {payload_type} {rtx}"));
        }
        Decision::Channel => {
            let port = ours.channel.map_or(5000, |(port, _)| port);
            let format = if is_draft(section) { port.to_string() } else { formats.clone() };
            lines.push(format_args!("m={kind} 9 {protocol} {format}"));
        }
    }
    lines.push(NOWHERE);
    if let Some(mid) = mid {
        lines.push(format_args!("a=mid:{mid}"));
    }
    let Credentials { ufrag, password } = &ours.credentials;
    lines.push(format_args!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=setup:{}", role.word()));
}

fn write_channel(lines: &mut Lines, section: &DecidedSection, ours: &LocalTransport) {
    let Some((port, most_bytes)) = ours.channel else { return };
    if is_draft(section) {
        lines.push(format_args!("a=sctpmap:{port} webrtc-datachannel 1024"));
    } else {
        lines.push(format_args!("a=sctp-port:{port}"));
    }
    lines.push(format_args!("a=max-message-size:{most_bytes}"));
}

/// Whether a data channel's section has the form of the drafts before RFC 8841, with the port as its format.
fn is_draft(section: &DecidedSection) -> bool {
    section.formats.trim() != "webrtc-datachannel"
}

fn write_media(lines: &mut Lines, section: &DecidedSection, media: &Media) {
    if section.has_mux {
        lines.push("a=rtcp-mux");
    }
    if section.has_reduced_size {
        lines.push("a=rtcp-rsize");
    }
    let payload_type = media.payload_type;
    let name = if section.kind == "video" { "H264/90000" } else { "opus/48000/2" };
    lines.push(format_args!("a=rtpmap:{payload_type} {name}"));
    for feedback in &media.feedback {
        let (kind, parameter) = feedback.words();
        lines.push(format_args!("a=rtcp-fb:{payload_type} {kind} {parameter}"));
    }
    if !media.parameters.is_empty() {
        lines.push(format_args!("a=fmtp:{payload_type} {}", media.parameters));
    }
    if let Some(rtx) = media.retransmission {
        lines.push(format_args!("a=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={payload_type}"));
    }
    for (extension, name) in media.extensions() {
        let direction = if extension.is_one_way { "/sendonly" } else { "" };
        lines.push(format_args!("a=extmap:{}{direction} {name}", extension.id));
    }
}

fn write_sources(lines: &mut Lines, label: &str, sources: Sources) {
    let Sources { ssrc, retransmission } = sources;
    if let Some(rtx) = retransmission {
        lines.push(format_args!("a=ssrc-group:FID {ssrc} {rtx}"));
    }
    for ssrc in [Some(ssrc), retransmission].into_iter().flatten() {
        // The second line is the form used before `a=msid`, which older endpoints read.
        lines.push(format_args!("a=ssrc:{ssrc} cname:{STREAM}\r\na=ssrc:{ssrc} msid:{STREAM} {label}"));
    }
}
