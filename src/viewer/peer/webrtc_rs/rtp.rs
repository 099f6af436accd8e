//! Turns frames into RTP packets: payloads once for all viewers, headers for each viewer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rtc::media_stream::MediaStreamTrack;
use rtc::rtp;
use rtc::rtp::codec::h264::H264Payloader;
use rtc::rtp::packetizer::Payloader;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RTCRtpRtxParameters, RtpCodecKind,
};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;

use super::payloads::{Packetisation, Payloads};
use super::rtp_mapping::RtpMapping;
use crate::media::Frame;
use crate::sdp::{Media, STACK_AUDIO, STACK_EXTENSIONS, STACK_H264, STACK_VIDEO, STREAM, Sources};

/// Largest RTP payload. IPv6 guarantees 1280 bytes a packet (RFC 8200, section 5); less 40 for IPv6, 8 for UDP,
/// 4 for TURN's channel header, 12 for RTP, 24 for header extensions, 2 for RTX and 16 for the SRTP tag.
const MAX_PAYLOAD: usize = 1280 - 40 - 8 - 4 - 12 - 24 - 2 - 16;

/// Seconds from NTP's era to Unix's (RFC 5905, figure 4).
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// Relates capture time to RTP time and wall-clock time for one stream.
///
/// Wall-clock time is read once, when the viewer joins: setting the clock later must not put audio and video out of
/// sync.
#[derive(Clone, Copy, Debug)]
pub struct RtpClock {
    ssrc: u32,
    rate: u32,
    /// The RTP timestamp at `epoch`; random, as required by RFC 3550, section 5.1.
    base: u32,
    epoch: Instant,
    /// NTP time at `epoch`: seconds in the upper, fraction in the lower 32 bits.
    epoch_ntp: u64,
}

impl RtpClock {
    /// A clock of `rate` ticks a second for a new stream. Streams of one viewer share `epoch` and `wall`.
    pub fn new(rate: u32, epoch: Instant, wall: SystemTime) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch_ntp = ((since.as_secs() + NTP_TO_UNIX) << 32) | ntp_fraction(since);
        Self { ssrc: rand::random(), rate, base: rand::random(), epoch, epoch_ntp }
    }

    /// The stream's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// RTP timestamp of something captured `at`. Frames may be older than the viewer.
    pub fn timestamp(&self, at: Instant) -> u32 {
        let ticks = |span: Duration| (span.as_nanos() * u128::from(self.rate) / 1_000_000_000) as u32;
        match at.checked_duration_since(self.epoch) {
            Some(after) => self.base.wrapping_add(ticks(after)),
            None => self.base.wrapping_sub(ticks(self.epoch - at)),
        }
    }

    /// NTP time (RFC 5905, section 6) at an instant.
    pub fn ntp(&self, at: Instant) -> u64 {
        let span = |span: Duration| (span.as_secs() << 32) | ntp_fraction(span);
        match at.checked_duration_since(self.epoch) {
            Some(after) => self.epoch_ntp.wrapping_add(span(after)),
            None => self.epoch_ntp.wrapping_sub(span(self.epoch - at)),
        }
    }
}

fn ntp_fraction(span: Duration) -> u64 {
    (u64::from(span.subsec_nanos()) << 32) / 1_000_000_000
}

/// The properties of a stream for the interceptor [`ViewerInterceptor`](super::interceptor::ViewerInterceptor).
#[derive(Clone)]
pub struct Stream {
    /// Its clock, which has its SSRC.
    pub clock: RtpClock,
    /// SSRC of its retransmissions.
    pub retransmission: Option<u32>,
    /// The viewer's payload types and extension ids.
    pub rtp_mapping: Arc<RtpMapping>,
}

/// Splits a frame into payloads of at most that many bytes.
type Packetise = fn(&Bytes, usize) -> Vec<Bytes>;

/// One stream to one viewer.
pub struct Track {
    local: Arc<TrackLocalStaticRTP>,
    /// The description of the track for a peer connection.
    described: MediaStreamTrack,
    stream: Stream,
    payload_type: u8,
    /// The mid of the viewer's section, if packets carry it.
    mid: Bytes,
    sequence: u16,
    packetiser: &'static str,
    packetise: Packetise,
    kind: RtpCodecKind,
    /// Whether the viewer has paused the stream.
    pub is_paused: bool,
    /// When header extensions were last sent.
    extended: Option<Instant>,
}

/// How often the header extensions are sent: a browser keeps their values, and extrapolates the capture time. They are
/// not sent with each frame, because packets of equal size can be passed to the kernel together.
const EXTEND_EVERY: Duration = Duration::from_secs(1);

/// Minimum and maximum delay, twelve bits each, in 10 ms: 0 to 500 ms.
///
/// With a minimum of 0 and a maximum of up to 500 ms, Chromium shows each frame as soon as it is decoded. A maximum of
/// 0 would do that too, but Chromium would then neither delay video for audio that is late, nor use the jitter buffer
/// that a page asks for on a bad path.
const PLAYOUT_DELAY: [u8; 3] = [0, 0, 50];

impl Track {
    /// An H.264 stream.
    pub fn video(clock: RtpClock) -> Self {
        let rtx = Some(rand::random());
        Self::new(RtpCodecKind::Video, video_codec(), STACK_VIDEO, clock, rtx, ("H264", packetise_h264))
    }

    /// An Opus stream.
    pub fn audio(clock: RtpClock) -> Self {
        // RFC 7587, section 4.2: one Opus packet is one RTP payload.
        Self::new(
            RtpCodecKind::Audio,
            audio_codec(),
            STACK_AUDIO,
            clock,
            None,
            ("opus", |packet, _| vec![packet.clone()]),
        )
    }

    fn new(
        kind: RtpCodecKind,
        codec: RTCRtpCodec,
        payload_type: u8,
        clock: RtpClock,
        retransmission: Option<u32>,
        (packetiser, packetise): (&'static str, Packetise),
    ) -> Self {
        let label = kind.to_string();
        let rtx = retransmission.map(|ssrc| RTCRtpRtxParameters { ssrc });
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(clock.ssrc), rtx, ..Default::default() },
            codec,
            ..Default::default()
        };
        let track = MediaStreamTrack::new(STREAM.into(), label.clone(), label, kind, vec![encoding]);
        Self {
            local: Arc::new(TrackLocalStaticRTP::new(track.clone())),
            described: track,
            stream: Stream { clock, retransmission, rtp_mapping: Arc::default() },
            payload_type,
            mid: Bytes::new(),
            sequence: rand::random(),
            packetiser,
            packetise,
            kind,
            is_paused: true,
            extended: None,
        }
    }

    /// Sends according to the section in the viewer's latest offer; `None` if the offer has no section for the stream.
    pub fn follow(&mut self, media: Option<&Media>) {
        self.stream.rtp_mapping.follow(media);
        let mid = media.and_then(|media| media.mid.as_ref());
        self.mid = mid.map(|(_, mid)| Bytes::copy_from_slice(mid.as_bytes())).unwrap_or_default();
        self.extended = None;
    }

    /// Moves the track to another peer connection, which still has to add it: the crate's part can belong to only one.
    pub fn leaves(&mut self) {
        self.local = Arc::new(TrackLocalStaticRTP::new(self.described.clone()));
    }

    /// The crate's part of the track, for the peer connection to add.
    pub fn local(&self) -> Arc<dyn TrackLocal> {
        self.local.clone()
    }

    /// The stream's clock.
    pub fn clock(&self) -> RtpClock {
        self.stream.clock
    }

    /// What [`ViewerInterceptor`](super::interceptor::ViewerInterceptor).
    pub fn stream(&self) -> Stream {
        self.stream.clone()
    }

    /// The stream's SSRCs.
    pub fn sources(&self) -> Sources {
        Sources { ssrc: self.stream.clock.ssrc, retransmission: self.stream.retransmission }
    }

    /// Sends one frame. Waits while the connection's queue is full; fails once it is closed.
    pub async fn send(&mut self, frame: &Arc<Frame>, payloads: &Payloads) -> Result<(), webrtc::error::Error> {
        if self.is_paused {
            return Ok(());
        }
        let cut = Packetisation { packetiser: self.packetiser, most: MAX_PAYLOAD };
        let payloads = payloads.of(frame, cut, self.packetise);
        let timestamp = self.stream.clock.timestamp(frame.captured);
        let last = payloads.len().saturating_sub(1);
        for (index, payload) in payloads.iter().enumerate() {
            let mut header = rtp::header::Header {
                version: 2,
                // Marks the last packet of an access unit (RFC 6184, section 5.1); without meaning for Opus that has no
                // pauses (RFC 7587, section 4.1).
                marker: index == last && self.kind == RtpCodecKind::Video,
                payload_type: self.payload_type,
                sequence_number: self.sequence,
                timestamp,
                ssrc: self.stream.clock.ssrc,
                ..Default::default()
            };
            self.sequence = self.sequence.wrapping_add(1);
            if index == 0 && self.is_extension_due(frame) {
                self.extend(&mut header, frame.captured)?;
            }
            self.local.write_rtp(rtp::Packet { header, payload: payload.clone() }).await?;
        }
        Ok(())
    }

    fn is_extension_due(&mut self, frame: &Frame) -> bool {
        let is_new = |at: Instant| frame.captured.saturating_duration_since(at) < EXTEND_EVERY;
        let is_first_of_picture = frame.is_key && self.kind == RtpCodecKind::Video;
        let is_due = is_first_of_picture || !self.extended.is_some_and(is_new);
        if is_due {
            self.extended = Some(frame.captured);
        }
        is_due
    }

    /// Adds the extensions to a frame's first packet, where browsers look for them.
    fn extend(&self, header: &mut rtp::header::Header, captured: Instant) -> Result<(), webrtc::error::Error> {
        let captured = self.stream.clock.ntp(captured).to_be_bytes();
        let contents = [&PLAYOUT_DELAY[..], &captured, &self.mid];
        for ((id, _), content) in STACK_EXTENSIONS.into_iter().zip(contents) {
            if self.stream.rtp_mapping.has(id) {
                header.set_extension(id, Bytes::copy_from_slice(content))?;
            }
        }
        Ok(())
    }
}

/// The codec as the crate knows it.
pub fn video_codec() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: rtc::peer_connection::configuration::media_engine::MIME_TYPE_H264.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: STACK_H264.to_owned(),
        rtcp_feedback: vec![],
    }
}

/// The codec as the crate knows it.
pub fn audio_codec() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: rtc::peer_connection::configuration::media_engine::MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        // Always two in SDP, whatever is encoded (RFC 7587, section 7).
        channels: 2,
        sdp_fmtp_line: String::new(),
        rtcp_feedback: vec![],
    }
}

/// Packetises an access unit by RFC 6184: single NAL units, STAP-A for SPS and PPS, FU-A for units that are too large.
fn packetise_h264(access_unit: &Bytes, most: usize) -> Vec<Bytes> {
    // A new payloader each time: it keeps SPS and PPS for the next unit, but each of our key frames has its own.
    H264Payloader::default().payload(most, access_unit).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtp_and_ntp_time_advance_together_before_and_after_the_epoch() {
        let (epoch, wall) = (Instant::now() + Duration::from_secs(1), UNIX_EPOCH + Duration::from_millis(1500));
        let clock = RtpClock::new(90_000, epoch, wall);
        let (before, after) = (epoch - Duration::from_millis(500), epoch + Duration::from_millis(250));
        assert_eq!(clock.timestamp(after).wrapping_sub(clock.timestamp(before)), 67_500);
        assert_eq!(clock.ntp(epoch), ((NTP_TO_UNIX + 1) << 32) | 1 << 31);
        assert_eq!(clock.ntp(before), (NTP_TO_UNIX + 1) << 32);
        assert_eq!(clock.ntp(after), ((NTP_TO_UNIX + 1) << 32) | 3 << 30);
    }

    #[test]
    fn an_access_unit_is_split_into_payloads_that_fit_without_loss() {
        let mut unit = vec![0, 0, 0, 1, 0x67, 1, 2, 3, 0, 0, 0, 1, 0x68, 4, 5, 0, 0, 0, 1, 0x65];
        unit.extend((0..5000u32).map(|n| (n % 251) as u8 | 1));
        let payloads = packetise_h264(&Bytes::from(unit.clone()), MAX_PAYLOAD);
        assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
        assert_eq!(payloads[0][0] & 0x1f, 24, "SPS and PPS travel in one STAP-A");
        let fragments: Vec<u8> = payloads[1..].iter().flat_map(|payload| payload[2..].to_vec()).collect();
        assert_eq!(fragments, unit[20..]);
    }

    #[test]
    fn the_first_packet_of_a_frame_has_the_mid_and_room_for_all_extensions() {
        let extension = |id| Some(crate::sdp::Extension { id, is_one_way: false });
        let media = Media {
            payload_type: 96,
            parameters: String::new(),
            retransmission: None,
            feedback: Vec::new(),
            playout_delay: extension(5),
            abs_capture_time: extension(13),
            mid: Some((extension(9).unwrap(), "video0".into())),
        };
        let mut track = Track::video(RtpClock::new(90_000, Instant::now(), SystemTime::now()));
        track.follow(Some(&media));
        let mut header = rtp::header::Header::default();
        track.extend(&mut header, Instant::now()).unwrap();
        let mut packet = rtp::Packet { header, payload: Bytes::from(vec![0; MAX_PAYLOAD]) };
        assert!(track.stream().rtp_mapping.stamp(&mut packet, None));
        assert_eq!((packet.header.payload_type, packet.header.extensions.len()), (96, 3));
        assert_eq!(packet.header.get_extension(9).as_deref(), Some(&b"video0"[..]));
        // The room that MAX_PAYLOAD leaves: the 1280 bytes of IPv6 less those of IPv6, UDP, TURN, RTX and the SRTP
        // tag.
        let size = rtc::shared::marshal::MarshalSize::marshal_size(&packet);
        assert!(size <= 1280 - 40 - 8 - 4 - 2 - 16, "{size} bytes");
    }
}
