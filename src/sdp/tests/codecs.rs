//! Tests of codecs: their selection, their parameters, and refusals.

use super::*;

#[test]
fn packetization_mode_1_is_preferred_then_none_then_0_and_2_is_unusable() {
    let chosen = |text: String| Offer::read(&text, BOARD).map(|offer| offer.video().unwrap().payload_type);
    assert_eq!(chosen(offer()), Ok(109));
    let none = offer().replace("packetization-mode=1;", "");
    assert_eq!(chosen(none.clone()), Ok(109));
    assert!(answer(&none, BOARD).contains("a=fmtp:109 level-asymmetry-allowed=1;profile-level-id=42e01f\r\n"));
    let only_high = offer().replace("1;packetization-mode=1;profile-level-id=42e01f", "1");
    assert_eq!(chosen(only_high), Ok(103), "mode 1 comes before the very profile");
    let zero = offer().replace("packetization-mode=1", "packetization-mode=0");
    assert_eq!(chosen(zero.clone()), Ok(109));
    assert!(answer(&zero, BOARD).contains("packetization-mode=0;profile-level-id=42e01f\r\n"), "as offered");
    let one_zero = offer().replace("1;packetization-mode=1;profile-level-id=42e01f", "1;packetization-mode=0");
    assert_eq!(chosen(one_zero), Ok(103), "mode 1 comes before the very profile");
    let two = Offer::read(&offer().replace("packetization-mode=1", "packetization-mode=2"), BOARD).unwrap_err();
    assert!(matches!(&two, Error::NoCommonCodec(reason) if reason.contains("H264 with packetization-mode 2")), "{two}");
    let bare =
        offer().replace("a=fmtp:109", "a=x-fmtp:109").replace("H264/90000\r\na=rtcp-fb:103", "X/1\r\na=rtcp-fb:103");
    assert!(!answer(&bare, BOARD).contains("a=fmtp:109"));
}

#[test]
fn opus_is_recognised_with_and_without_channels() {
    for name in ["opus/48000/2", "OPUS/48000", "Opus/48000/2"] {
        let answer = answer(&offer().replace("opus/48000/2", name), BOARD);
        assert!(answer.contains("a=rtpmap:111 opus/48000/2\r\n"), "{name}: {answer}");
    }
}

#[test]
fn an_answer_has_only_the_board_s_parameters() {
    let odd = offer()
        .replace("profile-level-id=42e01f", "profile-level-id=42e01f0;max-br=99;sprop-parameter-sets=AA;x=<y>")
        .replace("level-asymmetry-allowed=1", "level-asymmetry-allowed=yes")
        .replace("profile-level-id=64001f", "profile-level-id=+4001f")
        .replace("useinbandfec=1", "useinbandfec=1;maxaveragebitrate=-1;stereo=\u{1f50a}");
    let answered = answer(&odd, BOARD);
    let parameters: Vec<_> = answered.lines().filter(|line| line.starts_with("a=fmtp:")).collect();
    assert_eq!(parameters, ["a=fmtp:103 packetization-mode=1;profile-level-id=42e01f", "a=fmtp:104 apt=103"]);
    let other = answer(&offer().replace("42e01f", "42E00A"), BOARD);
    assert!(other.contains("profile-level-id=42E00A\r\n"), "the viewer's level is its own, letter for letter: {other}");
}

#[test]
fn the_reason_names_the_offered_codecs() {
    let with = |from: &str, to: &str| refusal(&offer().replace("H264", "VP9").replace(from, to));
    for (formats, said) in [
        ("0 8", "PCMU, PCMA"),
        ("72", "payload type 72 without a=rtpmap"),
        ("300 x", "payload type 300, which has to be within 0 to 127, payload type x"),
    ] {
        let reason = with("SAVPF 96 103 104 109 110", &format!("SAVPF {formats}"));
        assert!(reason.contains(said), "{reason}");
    }
    let at = |payload_type: &str| {
        let line = format!("SAVPF {payload_type}\r\na=rtpmap:{payload_type} H264/90000");
        refusal(&offer().replace("SAVPF 96 103 104 109 110", &line))
    };
    assert!(at("72").contains("H264 at payload type 72, which RTP and RTCP on one port exclude"), "{}", at("72"));
    let clock = refusal(&offer().replace("H264/90000", "H264/8000"));
    assert!(clock.contains("H264 at 8000 Hz instead of 90000"), "{clock}");
}
