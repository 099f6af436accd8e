//! Registers the codecs that are sent with the crate, with payload types of our own.

use rtc::peer_connection::configuration::media_engine::MIME_TYPE_RTX;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind,
};
use webrtc::peer_connection::MediaEngine;

use super::{Error, rtp};
use crate::sdp::{Feedback, STACK_AUDIO, STACK_EXTENSIONS, STACK_RTX, STACK_VIDEO};

/// Creates a media engine with the codecs and header extensions that are sent.
pub fn media_engine() -> Result<MediaEngine, Error> {
    let mut engine = MediaEngine::default();
    let mut register =
        |rtp_codec, payload_type, kind| engine.register_codec(RTCRtpCodecParameters { rtp_codec, payload_type }, kind);
    let feedback = Feedback::ALL.map(Feedback::words).into_iter();
    let video = RTCRtpCodec {
        rtcp_feedback: feedback
            .map(|(typ, parameter)| RTCPFeedback { typ: typ.into(), parameter: parameter.into() })
            .collect(),
        ..rtp::video_codec()
    };
    register(video, STACK_VIDEO, RtpCodecKind::Video)?;
    let rtx = RTCRtpCodec {
        mime_type: MIME_TYPE_RTX.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: format!("apt={STACK_VIDEO}"),
        rtcp_feedback: vec![],
    };
    register(rtx, STACK_RTX, RtpCodecKind::Video)?;
    register(rtp::audio_codec(), STACK_AUDIO, RtpCodecKind::Audio)?;
    // The crate drops packets with an extension that is not registered.
    for (_, uri) in STACK_EXTENSIONS {
        for kind in [RtpCodecKind::Video, RtpCodecKind::Audio] {
            engine.register_header_extension(RTCRtpHeaderExtensionCapability { uri: uri.into() }, kind, None)?;
        }
    }
    Ok(engine)
}
