//! What the crate is told of the codecs: just what is sent to one viewer, under its own payload types.

use rtc::peer_connection::configuration::media_engine::MIME_TYPE_RTX;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind,
};
use webrtc::peer_connection::MediaEngine;

use super::{Error, rtp};
use crate::sdp::Media;

/// Registers what is sent on one connection.
pub fn media_engine(video: Option<&Media>, audio: Option<&Media>) -> Result<MediaEngine, Error> {
    let mut engine = MediaEngine::default();
    let register = |engine: &mut MediaEngine, rtp_codec, payload_type, kind| {
        engine.register_codec(RTCRtpCodecParameters { rtp_codec, payload_type }, kind)
    };
    if let Some(media) = video {
        let feedback = media.feedback.iter().map(|feedback| feedback.words());
        let video = RTCRtpCodec {
            rtcp_feedback: feedback
                .map(|(typ, parameter)| RTCPFeedback { typ: typ.into(), parameter: parameter.into() })
                .collect(),
            ..rtp::video_codec()
        };
        register(&mut engine, video, media.payload_type, RtpCodecKind::Video)?;
        if let Some(payload_type) = media.retransmission {
            let rtx = RTCRtpCodec {
                mime_type: MIME_TYPE_RTX.to_owned(),
                clock_rate: 90_000,
                channels: 0,
                sdp_fmtp_line: format!("apt={}", media.payload_type),
                rtcp_feedback: vec![],
            };
            register(&mut engine, rtx, payload_type, RtpCodecKind::Video)?;
        }
        extend(&mut engine, media, RtpCodecKind::Video)?;
    }
    if let Some(audio) = audio {
        register(&mut engine, rtp::audio_codec(), audio.payload_type, RtpCodecKind::Audio)?;
        extend(&mut engine, audio, RtpCodecKind::Audio)?;
    }
    Ok(engine)
}

/// The crate drops packets that have an extension which it does not know of.
fn extend(engine: &mut MediaEngine, media: &Media, kind: RtpCodecKind) -> Result<(), Error> {
    for (_, uri) in media.extensions() {
        engine.register_header_extension(RTCRtpHeaderExtensionCapability { uri: uri.into() }, kind, None)?;
    }
    Ok(())
}
