//! The offer of one transport in the form for the WebRTC stack.

use super::attributes::Lines;
use super::bundle::{Bundle, Channel, Tracks};
use super::codec::{ABS_CAPTURE_TIME, Feedback, MID, PLAYOUT_DELAY};
use super::offer::Offer;

/// The H.264 parameters for the stack, which compares them literally; it does not packetise itself.
pub const STACK_H264: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

/// Payload type of video in offers for the stack.
pub const STACK_VIDEO: u8 = 96;
/// Payload type of video retransmissions in offers for the stack.
pub const STACK_RTX: u8 = 97;
/// Payload type of audio in offers for the stack.
pub const STACK_AUDIO: u8 = 98;
/// Header extensions in offers for the stack, for video and audio: id and URI.
pub const STACK_EXTENSIONS: [(u8, &str); 3] = [(1, PLAYOUT_DELAY), (2, ABS_CAPTURE_TIME), (3, MID)];

impl Offer {
    /// The offer of one transport for the stack: the tracks that it has there, each with a mid and payload types of our
    /// own. These stay the same whatever the viewer's are; packets get the viewer's numbers when they are sent.
    pub fn stack_offer(&self, bundle: usize) -> String {
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
        // All sections share one transport, so its candidates are written once.
        let mut candidates = transport.candidates.iter();
        let mut write_transport = |lines: &mut Lines| {
            transport.write_stack_lines(lines);
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
