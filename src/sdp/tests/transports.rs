//! Tests of transports: which sections share one, with and without BUNDLE, and what each transport contains.

use super::*;

#[test]
fn without_bundle_each_section_has_its_own_transport() {
    let read = Offer::read(&apart(), BOARD).unwrap();
    assert_eq!(read.transports(), 3);
    let answer = answer_of(&read);
    assert!(!answer.contains("a=group"), "{answer}");
    let lines = ["video 9 UDP/TLS/RTP/SAVPF 109 110", "audio 9 UDP/TLS/RTP/SAVPF 111", "application 9 UDP/DTLS/SCTP"];
    for (at, ((line, rest), expected)) in sections(&answer).into_iter().zip(lines).enumerate() {
        assert!(line.starts_with(expected), "{answer}");
        assert_eq!(rest.contains("a=sctp-port:5000\r\na=max-message-size:"), at == 2, "{answer}");
        assert!(rest.contains(&format!("a=ice-ufrag:board{at}\r\n")) && rest.contains("a=setup:active"), "{answer}");
        assert_eq!(rest.matches("a=candidate:").count(), 1, "{answer}");
    }
    for (at, name) in ["video", "audio", "data"].into_iter().enumerate() {
        let stack_offer = read.stack_offer(at);
        assert!(stack_offer.contains(&format!("a=group:BUNDLE {name}\r\n")), "{stack_offer}");
        assert!(
            stack_offer.contains(&format!("a=ice-ufrag:{name}\r\n")) && stack_offer.contains(&candidate(name)),
            "{stack_offer}"
        );
        assert_eq!(
            (stack_offer.matches("m=").count(), stack_offer.matches("a=candidate:").count()),
            (1, 1),
            "{stack_offer}"
        );
        assert_eq!(read.tagged_section(at), (at, Some(["0", "1", "2"][at])));
    }
}

#[test]
fn only_the_sections_of_a_partial_group_share_a_transport() {
    for (groups, transports) in [
        ("a=group:BUNDLE 0 2", vec![("0", "video data"), ("1", "audio")]),
        ("a=group:BUNDLE 2 0", vec![("2", "video data"), ("1", "audio")]),
        ("a=group:BUNDLE 0 1", vec![("0", "video audio"), ("2", "data")]),
        ("a=group:BUNDLE 1 2", vec![("0", "video"), ("1", "audio data")]),
        ("a=group:BUNDLE 1", vec![("0", "video"), ("1", "audio"), ("2", "data")]),
        ("a=group:BUNDLE 0\r\na=group:BUNDLE 1 2", vec![("0", "video"), ("1", "audio data")]),
    ] {
        let text = apart().replace("t=0 0\r\n", &format!("t=0 0\r\n{groups}\r\n"));
        let read = Offer::read(&text, BOARD).unwrap();
        assert_eq!(read.transports(), transports.len(), "{groups}");
        for (at, (tag, carried)) in transports.into_iter().enumerate() {
            assert_eq!(read.tagged_section(at).1, Some(tag), "{groups}");
            let stack_offer = read.stack_offer(at);
            assert!(stack_offer.contains(&format!("a=group:BUNDLE {carried}\r\n")), "{groups}: {stack_offer}");
        }
        let answer = answer_of(&read);
        let answered: Vec<_> = answer.lines().filter(|line| line.starts_with("a=group")).collect();
        let mut offered: Vec<_> = groups.split("\r\n").collect();
        offered.sort_by_key(|group| !answered.contains(group));
        assert_eq!(answered, offered, "{answer}");
    }
}

#[test]
fn a_flood_of_groups_costs_no_more_than_other_lines() {
    let many = "a=group:BUNDLE x\r\n".repeat(12_000);
    let long = format!("a=group:BUNDLE {}0 1 2\r\n", "x ".repeat(115_000));
    for groups in [many, long] {
        let crowd = "m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=x\r\n".repeat(28);
        let text = apart().replace("t=0 0\r\n", &format!("t=0 0\r\n{groups}")) + &crowd;
        assert!(text.len() < 256 * 1024, "what a message may have");
        let time = |text: &str| {
            let began = std::time::Instant::now();
            let read = Offer::read(text, BOARD).unwrap();
            answer_of(&read.renegotiate(text, BOARD).unwrap());
            began.elapsed()
        };
        // Groups with other semantics are parsed, too.
        let (bundled, other) = (time(&text), time(&text.replace("BUNDLE", "FINITE")));
        println!("{} bytes of groups take {bundled:?}, and {other:?} where they are others", groups.len());
        assert!(bundled < 10 * other, "{bundled:?}, and {other:?} where the groups are others");
    }
}

#[test]
fn an_unusable_transport_loses_only_its_own_media() {
    let without = |name: &str| {
        let text = apart();
        let at = text.find(&format!("a=ice-ufrag:{name}")).unwrap();
        text[..at].to_owned() + &text[at..].replacen("a=fingerprint:sha-256", "a=x-fingerprint:", 1)
    };
    let answered = answer(&without("audio"), BOARD);
    assert_eq!(sections(&answered)[1].0, "audio 0 UDP/TLS/RTP/SAVPF 111");
    let read = Offer::read(&without("audio"), BOARD).unwrap();
    assert_eq!((read.transports(), read.audio(), read.tagged_section(1).1), (2, None, Some("2")));
    assert_eq!(sections(&answer(&without("data"), BOARD))[2].0, "application 0 UDP/DTLS/SCTP webrtc-datachannel");
    assert!(refusal(&without("video")).contains("video section has no fingerprint"));
    let unmuxed = apart();
    let at = unmuxed.find("m=audio").unwrap();
    let unmuxed = unmuxed[..at].to_owned() + &unmuxed[at..].replace("a=rtcp-mux\r\n", "");
    assert_eq!(sections(&answer(&unmuxed, BOARD))[1].0, "audio 0 UDP/TLS/RTP/SAVPF 111");
}

#[test]
fn the_same_payload_type_is_distinguished_by_transport() {
    let same = |text: String| text.replace(" 111 63", " 109 63").replace("rtpmap:111", "rtpmap:109");
    assert_eq!(sections(&answer(&same(apart()), BOARD))[1].0, "audio 9 UDP/TLS/RTP/SAVPF 109");
    assert_eq!(sections(&answer(&same(offer()), BOARD))[1].0, "audio 0 UDP/TLS/RTP/SAVPF 109");
}

#[test]
fn a_candidate_goes_to_the_transport_of_its_section() {
    let read = Offer::read(&apart(), BOARD).unwrap();
    let of = |mid, index, ufrag| read.transport_of(mid, index, ufrag);
    assert_eq!(of(Some("1"), Some(0), None), Ok(Some(1)), "the tag comes before the index");
    assert_eq!(of(None, Some(2), Some("video")), Ok(Some(2)));
    assert_eq!((of(Some(""), None, Some("audio")), of(None, None, None)), (Ok(Some(1)), Ok(Some(0))));
    assert!(of(Some("7"), Some(0), None).unwrap_err().contains("a=mid:7"));
    assert!(of(None, Some(3), None).unwrap_err().contains("index 3"));
    let untagged = Offer::read(&apart().replace("a=mid:", "a=x-mid:"), BOARD).unwrap();
    assert_eq!(untagged.transport_of(Some("audio"), Some(1), None), Ok(Some(1)));
    let rejected = Offer::read(&offer().replace("opus", "PCMU"), BOARD).unwrap();
    assert_eq!(rejected.transport_of(Some("1"), None, None), Ok(None));
}

#[test]
fn the_first_accepted_section_of_a_group_has_the_transport_and_candidates() {
    // Audio is the first section of the group; its credentials are used for all.
    let text = offer().replace("BUNDLE 0 1 2", "BUNDLE 1 0");
    let text = text.replace(
        "ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=ice-options:trickle\r\na=fingerprint:sha-256",
        "X",
    );
    assert!(refusal(&text).contains("ICE credentials"));
    let [video, rest] = offer().split("m=audio").map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    let [audio, data] = rest.split("m=application").map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    let other = audio.replace("abcd\r\n", "wxyz\r\n");
    let text = format!("{video}m=audio{other}m=application{data}");
    let first = text.replace("BUNDLE 0 1 2", "BUNDLE 1 0");
    let read = Offer::read(&first, BOARD).unwrap();
    assert_eq!((read.credentials(0).ufrag.as_str(), read.tagged_section(0)), ("wxyz", (1, Some("1"))));
    let answered = answer_of(&read);
    assert_eq!(read.tagged_section(1), (2, Some("2")), "not in the group");
    assert!(sections(&answered)[1].1.contains("a=candidate:"), "{answered}");
    // If audio cannot be served at all, the video section is the tagged one.
    let read = Offer::read(&first.replace("opus/48000/2", "PCMU/8000"), BOARD).unwrap();
    assert_eq!((read.credentials(0).ufrag.as_str(), read.tagged_section(0)), ("abcd", (0, Some("0"))));
    assert!(answer_of(&read).contains("a=group:BUNDLE 0\r\n"));
}

#[test]
fn the_dtls_role_matches_the_viewer_s() {
    for (offered, answered, told) in
        [("active", "passive", "active"), ("passive", "active", "passive"), ("actpass", "active", "passive")]
    {
        let text = offer().replace("a=setup:actpass", &format!("a=setup:{offered}"));
        let read = Offer::read(&text, BOARD).unwrap();
        assert_eq!(answer_of(&read).matches(&format!("a=setup:{answered}\r\n")).count(), 3);
        assert_eq!(read.stack_offer(0).matches(&format!("a=setup:{told}\r\n")).count(), 3);
    }
    let text = offer().replace("a=setup:actpass\r\n", "");
    assert_eq!(answer(&text, BOARD).matches("a=setup:passive\r\n").count(), 3, "RFC 4145: none is active");
    assert!(refusal(&offer().replace("a=setup:actpass", "a=setup:holdconn")).contains("holdconn"));
}

#[test]
fn duplicates_count_once_or_not_at_all() {
    let twice = offer().replace("BUNDLE 0 1 2", "BUNDLE 0 1 1 2\r\na=group:BUNDLE 1 0");
    let answered = answer(&twice, BOARD);
    assert_eq!(answered.matches("a=group").count(), 1, "{answered}");
    assert!(answered.contains("a=group:BUNDLE 0 1 2\r\n"), "{answered}");
    let shared = offer().replace("a=extmap:13/recvonly", "a=extmap:5");
    assert!(!answer(&shared, BOARD).contains("a=extmap"), "an id for two extensions");
    let only = offer().replace("a=group:BUNDLE 0 1 2\r\n", "").replace("a=rtcp-mux", "a=rtcp-mux-only");
    assert_eq!(answer(&only, BOARD).matches("a=rtcp-mux\r\n").count(), 2);
}
