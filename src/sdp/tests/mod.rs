//! Tests of offers that differ from a browser's in one detail, and of their answers.

mod candidates;
mod codecs;
mod renegotiation;
mod transports;

use super::*;
use crate::media::H264Profile;

const BOARD: Board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true, can_renegotiate: false };
const SILENT: Board = Board { has_sound: false, ..BOARD };

/// The stack's answer to a offer, shortened to the lines that are read.
const OURS: &str = "v=0\r\no=- 77 3 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 \
    00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 109\r\nc=IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:board\r\na=ice-pwd:boardboardboardboardboard\r\n\
    a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n\
    a=candidate:1 2 udp 2130706431 192.0.2.1 5000 typ host\r\n\
    a=end-of-candidates\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=sctp-port:5000\r\na=max-message-size:1073741823\r\n";

const FINGERPRINT: &str =
    "A9:61:8B:C1:D6:B0:0E:F5:C7:EE:89:0D:49:3B:57:4E:50:A6:D9:A2:3F:2C:8D:6F:A5:F3:91:1C:0B:28:BE:9F";

/// Chromium's offer, shortened: video with two profiles and an unsupported codec, audio, data.
fn offer() -> String {
    let transport = format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:actpass\r\n"
    );
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\na=extmap-allow-mixed\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 96 103 104 109 110\r\n{transport}a=mid:0\r\n\
         a=extmap:5 {}\r\na=extmap:13/recvonly {}\r\na=recvonly\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
         a=rtpmap:96 VP8/90000\r\na=rtpmap:103 H264/90000\r\na=rtcp-fb:103 nack\r\n\
         a=fmtp:103 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f\r\n\
         a=rtpmap:104 rtx/90000\r\na=fmtp:104 apt=103\r\na=rtpmap:109 H264/90000\r\n\
         a=rtcp-fb:109 goog-remb\r\na=rtcp-fb:109 nack\r\na=rtcp-fb:109 nack pli\r\na=rtcp-fb:* ccm fir\r\n\
         a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
         a=rtpmap:110 rtx/90000\r\na=fmtp:110 apt=109\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\n{transport}a=mid:1\r\na=recvonly\r\na=rtcp-mux\r\n\
         a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n{transport}a=mid:2\r\n\
         a=sctp-port:5000\r\na=max-message-size:262144\r\n",
        codec::PLAYOUT_DELAY,
        codec::ABS_CAPTURE_TIME
    )
}

fn answer_of(offer: &Offer) -> String {
    let video = offer.video().map(|media| Sources { ssrc: 1, retransmission: media.retransmission.map(|_| 2) });
    let audio = offer.audio().map(|_| Sources { ssrc: 3, retransmission: None });
    let ours = |at: usize| {
        let (media, channel) = OURS.split_once("m=application").unwrap();
        let stack_offer = offer.stack_offer(at);
        let text = match (
            stack_offer.contains("m=video") || stack_offer.contains("m=audio"),
            stack_offer.contains("m=application"),
        ) {
            (true, true) => OURS.to_owned(),
            (true, false) => media.to_owned(),
            // The stack's answer for a data channel that has its own transport.
            (false, _) => {
                let (media, channel) = (media.replace("m=video 9 UDP/TLS/RTP/SAVPF 109", "m=application"), channel);
                let (line, rest) = channel.split_once("\r\n").unwrap();
                media.replace("m=application", &format!("m=application{line}")) + rest
            }
        };
        LocalTransport::read(&text.replace("ufrag:board", &format!("ufrag:board{at}"))).unwrap()
    };
    offer.answer(&(0..offer.transports()).map(ours).collect::<Vec<_>>(), video, audio)
}

fn answer(text: &str, board: Board) -> String {
    answer_of(&Offer::read(text, board).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

fn refusal(text: &str) -> String {
    match Offer::read(text, BOARD) {
        Ok(offer) => panic!("served: {}", answer_of(&offer)),
        Err(error) => error.to_string(),
    }
}

/// The sections of an answer: the `m=` line and the rest.
fn sections(answer: &str) -> Vec<(&str, &str)> {
    answer.split("\r\nm=").skip(1).map(|section| section.split_once("\r\n").unwrap()).collect()
}

#[test]
fn each_section_is_answered_in_its_place() {
    let answer = answer(&offer(), BOARD);
    let sections = sections(&answer);
    assert_eq!(
        sections.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
        [
            "video 9 UDP/TLS/RTP/SAVPF 109 110",
            "audio 9 UDP/TLS/RTP/SAVPF 111",
            "application 9 UDP/DTLS/SCTP webrtc-datachannel"
        ],
    );
    assert!(
        answer.starts_with("v=0\r\no=- 77 3 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n"),
        "{answer}"
    );
    for line in [
        "a=sendonly",
        "a=rtcp-rsize",
        "a=extmap:13/sendonly http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        "a=rtcp-fb:109 ccm fir",
        "a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        "a=ssrc-group:FID 1 2",
        "a=msid:peercam video",
        "a=setup:active",
        "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host",
        "a=end-of-candidates",
    ] {
        assert!(sections[0].1.lines().any(|have| have == line), "no {line} in {answer}");
    }
    assert!(!answer.contains("goog-remb") && !answer.contains("VP8") && !answer.contains("1 2 udp"), "{answer}");
    assert_eq!(answer.matches("a=candidate").count(), 1, "candidates stand once: {answer}");
}

#[test]
fn the_stack_s_offer_has_only_the_served_media() {
    let odd = offer()
        .replace("a=mid:0", "a=mid:0\r\na=candidate:1 1 ssltcp 1 192.0.2.9 1 typ host\r\na=simulcast:recv a;b")
        .replace("m=application", "m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:9\r\nm=application");
    let stack_offer = Offer::read(&odd, BOARD).unwrap().stack_offer(0);
    assert!(stack_offer.contains("a=group:BUNDLE video audio data\r\n"), "{stack_offer}");
    for word in ["VP8", "ssltcp", "simulcast", "text", "red/", "sendrecv"] {
        assert!(!stack_offer.contains(word), "{word} in {stack_offer}");
    }
    assert_eq!(stack_offer.matches("a=setup:passive").count(), 3, "the viewer is passive where the board is active");
}

#[test]
fn directions_are_answered_from_the_board_s_side() {
    let swapped = |offered: &str| answer(&offer().replacen("a=recvonly", offered, 1), BOARD);
    assert!(sections(&swapped("a=sendrecv"))[0].1.contains("a=sendonly\r\n"));
    assert!(sections(&swapped("a=x-nothing"))[0].1.contains("a=sendonly\r\n"));
    let sound =
        |offered: &str| answer(&offer().replace("a=mid:1\r\na=recvonly", &format!("a=mid:1\r\n{offered}")), BOARD);
    for (offered, answered) in
        [("a=sendrecv", "a=sendonly"), ("a=sendonly", "a=inactive"), ("a=inactive", "a=inactive")]
    {
        let answer = sound(offered);
        let (line, rest) = sections(&answer)[1];
        assert_eq!(line, "audio 9 UDP/TLS/RTP/SAVPF 111", "{answer}");
        assert!(rest.contains(answered), "{offered}: {answer}");
    }
    let session = offer().replace("a=recvonly\r\n", "").replacen("t=0 0\r\n", "t=0 0\r\na=recvonly\r\n", 1);
    assert_eq!(answer(&session, BOARD).matches("a=sendonly").count(), 2);
}

#[test]
fn a_board_without_sound_answers_audio_as_inactive() {
    let answer = answer(&offer(), SILENT);
    let (line, rest) = sections(&answer)[1];
    assert_eq!(line, "audio 9 UDP/TLS/RTP/SAVPF 111");
    assert!(rest.contains("a=inactive") && !rest.contains("a=ssrc") && !rest.contains("a=msid"), "{answer}");
    assert!(answer.contains("a=group:BUNDLE 0 1 2\r\n"), "{answer}");
    let read = Offer::read(&offer(), SILENT).unwrap();
    assert_eq!(read.sending(), (true, false));
    assert_eq!(
        read.renegotiate(&offer(), BOARD).unwrap().sending(),
        (true, true),
        "sound that is switched on later is heard"
    );
}

/// The offer of a viewer that has a port for each of the three sections.
fn apart() -> String {
    let mut parts = offer().replace("a=group:BUNDLE 0 1 2\r\n", "");
    for name in ["video", "audio", "data"] {
        parts =
            parts.replacen("a=ice-ufrag:abcd", &format!("a=ice-ufrag:{name}\r\na=candidate:{}", candidate(name)), 1);
    }
    parts
}

/// The candidate of a section of [`apart`].
fn candidate(name: &str) -> String {
    format!("1 1 udp 5 192.0.2.{} 4000 typ host", 10 + name.len() * 10 + usize::from(name == "audio"))
}

/// The offer without its video section.
fn without_video(offer: &str) -> String {
    let (excerpt, tail) = (offer.find("m=video").unwrap(), offer.find("m=audio").unwrap());
    format!("{}{}", &offer[..excerpt], &offer[tail..]).replace("BUNDLE 0 1 2", "BUNDLE 1 2")
}

#[test]
fn audio_alone_is_served_if_the_board_has_sound() {
    for text in [offer(), apart()] {
        let sound = without_video(&text).split("m=application").next().unwrap().to_owned();
        let read = Offer::read(&sound, BOARD).unwrap();
        assert_eq!((read.sending(), read.video().is_some(), read.transports()), ((false, true), false, 1));
        assert!(sections(&answer_of(&read))[0].1.contains("a=sendonly\r\n"));
        assert!(read.stack_offer(0).contains("BUNDLE video audio\r\n"), "a further offer may ask for a picture");
        let refused = Offer::read(&sound, SILENT).unwrap_err().to_string();
        assert!(refused.contains("this board has no sound"), "{refused}");
        assert!(refusal(&sound.replace("a=recvonly", "a=sendonly")).contains("audio section does not receive"));
        let other = Offer::read(&sound.replace("opus", "PCMU"), BOARD).unwrap_err();
        assert!(matches!(&other, Error::NoCommonCodec(reason) if reason.contains("Opus") && reason.contains("PCMU")));
    }
    let both = without_video(&offer());
    assert_eq!(
        Offer::read(&both, SILENT).unwrap().sending(),
        (false, false),
        "the channel is of use, and sound may come"
    );
}

#[test]
fn a_data_channel_alone_is_served() {
    let text = offer();
    let data = format!(
        "{}m=application{}",
        &text[..text.find("m=video").unwrap()],
        text.split("m=application").nth(1).unwrap()
    );
    let data = data.replace("BUNDLE 0 1 2", "BUNDLE 2");
    for board in [BOARD, SILENT] {
        let read = Offer::read(&data, board).unwrap();
        assert_eq!((read.transports(), read.sending()), (1, (false, false)));
        assert!(read.stack_offer(0).contains("a=group:BUNDLE video audio data\r\n"));
        assert!(answer_of(&read).contains("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"));
    }
    // A viewer that only sends gets no video; the data channel is useful all the same.
    let sends = Offer::read(&offer().replace("a=recvonly", "a=sendonly"), BOARD).unwrap();
    assert_eq!(sends.sending(), (false, false));
    assert!(sends.renegotiate(&offer(), BOARD).unwrap().sending().0, "it may change its mind");
    let nothing_served_error =
        offer().replace("a=recvonly", "a=sendonly").split("m=application").next().unwrap().to_owned();
    assert!(refusal(&nothing_served_error).contains("recvonly"));
}

#[test]
fn an_offer_with_unusable_video_is_refused_although_audio_is_usable() {
    assert!(refusal(&offer().replace("H264", "VP9")).contains("this board sends H.264"));
}

/// The sections of an answer: media type and decision.
fn decisions(offer: &Offer) -> Vec<String> {
    let answer = answer_of(offer);
    let all = sections(&answer).into_iter().map(|(line, rest)| {
        let kind = line.split(' ').next().unwrap();
        let direction = ["sendonly", "inactive"].iter().find(|word| rest.contains(&format!("a={word}\r\n")));
        let rejected = line.contains(" 0 ").then_some("rejected");
        format!("{kind} {}", rejected.or(direction.copied()).unwrap_or("channel"))
    });
    all.collect()
}

/// The offer, reduced to the sections with these media types.
fn only(kinds: &[&str]) -> String {
    let text = offer();
    let mut parts = text.split("m=");
    let excerpt = parts.next().unwrap().to_owned();
    let left = parts.filter(|part| kinds.iter().any(|kind| part.starts_with(kind)));
    excerpt + &left.map(|part| format!("m={part}")).collect::<String>()
}

#[test]
fn the_mid_extension_is_sent_if_offered_and_short_enough() {
    let with = |mid: &str| {
        let text = offer().replace("a=mid:0\r\n", &format!("a=mid:{mid}\r\na=extmap:4 {}\r\n", codec::MID));
        text.replace("BUNDLE 0", &format!("BUNDLE {mid}"))
    };
    for mid in ["0", "video0"] {
        let read = Offer::read(&with(mid), BOARD).unwrap();
        assert_eq!(
            read.video().unwrap().mid.as_ref().map(|(extension, mid)| (extension.id, mid.as_str())),
            Some((4, mid))
        );
        assert!(answer_of(&read).contains("a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n"));
    }
    assert!(!answer(&with("a-long-tag"), BOARD).contains("sdes:mid"));
    assert_eq!(Offer::read(&offer(), BOARD).unwrap().video().unwrap().mid, None);
}

#[test]
fn the_first_usable_video_section_is_served() {
    let text = offer().replace(
        "m=video",
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:7\r\na=recvonly\r\na=rtcp-mux\r\n\
         a=rtpmap:96 VP8/90000\r\nm=video",
    );
    let answer = answer(&text.replace("BUNDLE 0", "BUNDLE 7 0"), BOARD);
    assert_eq!(sections(&answer)[0].0, "video 0 UDP/TLS/RTP/SAVPF 96");
    assert_eq!(sections(&answer)[1].0, "video 9 UDP/TLS/RTP/SAVPF 109 110");
    assert!(answer.contains("a=group:BUNDLE 0 1 2\r\n"), "{answer}");
}

#[test]
fn mids_are_optional_and_must_differ() {
    let text = offer();
    let video = &text[..text.find("m=audio").unwrap()];
    let without = video.replace("a=group:BUNDLE 0 1 2\r\n", "").replace("a=mid:0\r\n", "");
    let answered = answer(&without, BOARD);
    assert!(!answered.contains("a=mid") && !answered.contains("a=group"), "{answered}");
    assert!(refusal(&text.replace("a=mid:1", "a=mid:0")).contains("a=mid"));
}

#[test]
fn credentials_of_invalid_length_are_refused_and_not_quoted() {
    let with = |fragment: &str, password: &str| {
        let text = offer().replace("a=ice-ufrag:abcd", &format!("a=ice-ufrag:{fragment}"));
        text.replace("abcdefghijklmnopqrstuvwx", password)
    };
    for (fragment, password, words) in [
        ("abc", "0123456789abcdefghijkl", "a=ice-ufrag of 3 characters; it has 4 to 256"),
        ("abcd", "0123456789abcdefghijk", "a=ice-pwd of 21 characters; it has 22 to 256"),
        (&*"u".repeat(257), "0123456789abcdefghijkl", "a=ice-ufrag of 257 characters"),
        ("abcd", &*"p".repeat(257), "a=ice-pwd of 257 characters"),
        ("ab d", "0123456789abcdefghijkl", "a=ice-ufrag with characters"),
        ("abcd", "0123456789abcdefghijké", "a=ice-pwd with characters"),
    ] {
        let refused = refusal(&with(fragment, password));
        assert!(refused.contains(words) && !refused.contains(password), "{refused}");
    }
    for (fragment, password) in [("ab+/", "0123456789abcdefghijk-"), (&"u".repeat(256), &"p".repeat(256))] {
        assert!(Offer::read(&with(fragment, password), BOARD).is_ok());
    }
    let offer = Offer::read(&offer(), BOARD).unwrap();
    assert!(offer.renegotiate(&with("wxyz", "short"), BOARD).unwrap_err().to_string().contains("5 characters"));
}

#[test]
fn missing_ice_or_dtls_attributes_are_refused_with_a_reason() {
    let with = |fingerprint: &str| offer().replace(&format!("a=fingerprint:sha-256 {FINGERPRINT}\r\n"), fingerprint);
    assert!(refusal(&with("")).contains("a=fingerprint"));
    assert!(refusal(&with("a=fingerprint:sha-1 00:01\r\n")).contains("sha-256"));
    assert!(refusal(&with("a=fingerprint:sha-256 00:01\r\n")).contains("sha-256"));
    assert!(refusal(&with("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\n")).contains("SDES"));
    let both = format!("a=fingerprint:sha-1 00:01\r\na=fingerprint:SHA-256 {}\r\n", FINGERPRINT.to_lowercase());
    assert!(Offer::read(&with(&both), BOARD).unwrap().stack_offer(0).contains(&format!("sha-256 {FINGERPRINT}")));
    let one = offer().replacen("A9:61", "A9:62", 1);
    assert!(refusal(&one).contains("another fingerprint"));
    assert!(refusal(&offer().replace("a=ice-pwd:abcdefghijklmnopqrstuvwx\r\n", "")).contains("ICE credentials"));
}

#[test]
fn an_invalid_offer_is_refused_with_advice() {
    assert!(refusal("hello").contains("not a session description"));
    assert!(refusal("").contains("not a session description"));
    assert!(
        refusal("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n").contains("nothing that this board could serve")
    );
    let no_h264 = offer().replace("H264/90000", "VP9/90000");
    assert!(refusal(&no_h264).contains("VP8, VP9"), "{}", refusal(&no_h264));
    let alone = offer().replace("a=group:BUNDLE 0 1 2\r\n", "").replace("a=rtcp-mux\r\n", "");
    assert!(refusal(&alone).contains("rtcp-mux"));
    assert!(refusal(&offer().replace("m=video 9 UDP/TLS/RTP/SAVPF", "m=video 9 udp")).contains("UDP/TLS/RTP/SAVPF"));
    assert!(refusal(&format!("v=0\r\n{}", "m=x 9 y z\r\n".repeat(33))).contains("at most 32"));
}

#[test]
fn unknown_lines_are_ignored() {
    let odd = offer()
        .replace("o=- 1 2 IN IP4 127.0.0.1", "o=bad\r\ni=\r\ny=9")
        .replace("t=0 0", "t=now\r\nb=AS:many")
        .replace("a=mid:0\r\n", "a=mid:0\r\n\r\nnonsense\r\na=rtpmap\r\na=fmtp:x\r\na=extmap:0 y\r\n")
        .replace("c=IN IP4 0.0.0.0", "c=IN IP4 my-phone.local")
        .replace("\r\n", "\n");
    assert!(answer(&odd, BOARD).contains("a=rtpmap:109 H264/90000\r\n"));
    let static_and_dynamic = offer().replace(" 103 104", " 0 72 abc 300");
    assert!(answer(&static_and_dynamic, BOARD).contains("video 9 UDP/TLS/RTP/SAVPF 109 110\r\n"));
}

#[test]
fn a_data_channel_in_the_draft_form_is_answered_in_that_form() {
    let draft = offer()
        .replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5001")
        .replace("a=sctp-port:5000", "a=sctpmap:5001 webrtc-datachannel 256");
    let answered = answer(&draft, BOARD);
    assert_eq!(sections(&answered)[2].0, "application 9 DTLS/SCTP 5000");
    assert!(sections(&answered)[2].1.contains("a=sctpmap:5000 webrtc-datachannel 1024"), "{answered}");
    assert!(Offer::read(&draft, BOARD).unwrap().stack_offer(0).contains("a=sctp-port:5001"));
    let other = offer().replace("UDP/DTLS/SCTP webrtc-datachannel", "UDP/BFCP *");
    assert_eq!(sections(&answer(&other, BOARD))[2].0, "application 0 UDP/BFCP *");
}

#[test]
fn different_fingerprints_are_refused_and_a_repeated_one_is_not() {
    let line = format!("a=fingerprint:sha-256 {FINGERPRINT}\r\n");
    let other = line.replace("A9:61", "A9:62");
    assert!(refusal(&offer().replace(&line, &format!("{other}{line}"))).contains("several sha-256 fingerprints"));
    answer(&offer().replace(&line, &format!("{line}{line}")), BOARD);
}

#[test]
fn a_section_rejected_by_the_offer_does_not_matter() {
    let rejected = offer().replacen("m=video 9", "m=video 0", 1);
    let answered = answer(&rejected, BOARD);
    assert!(sections(&answered)[0].0.starts_with("video 0 ") && sections(&answered)[1].1.contains("a=sendonly"));
    let alone = rejected.split("m=audio").next().unwrap().to_owned();
    assert!(refusal(&alone).contains("rejected by the offer itself"), "{}", refusal(&alone));
    let data = |from: &str, to: &str| {
        let text = offer();
        let (excerpt, data) = (text.find("m=video").unwrap(), text.find("m=application").unwrap());
        refusal(&format!("{}{}", &text[..excerpt], &text[data..]).replace("BUNDLE 0 1 2", "BUNDLE 2").replace(from, to))
    };
    assert!(data("sctp-port:5000", "sctp-port:0").contains("no data channel"));
    assert!(data("webrtc-datachannel", "chat").contains("no data channel"));
}
