//! Tests of renegotiation: kept, added and invalid changes.

use super::*;

#[test]
fn transports_restart_independently_and_cannot_be_exchanged() {
    let first = Offer::read(&apart(), BOARD).unwrap();
    let renegotiated = first.renegotiate(&apart().replace("ufrag:audio", "ufrag:fresh"), BOARD).unwrap();
    let ufrags: Vec<_> = (0..3).map(|at| renegotiated.credentials(at).ufrag.as_str()).collect();
    assert_eq!(ufrags, ["video", "fresh", "data"]);
    let bundled = apart().replace("t=0 0\r\n", "t=0 0\r\na=group:BUNDLE 0 1 2\r\n");
    let refusal = first.renegotiate(&bundled, BOARD).unwrap_err().to_string();
    assert!(refusal.contains("audio section to another transport"), "{refusal}");
    let refusal = Offer::read(&offer(), BOARD).unwrap().renegotiate(&apart(), BOARD).unwrap_err().to_string();
    assert!(refusal.contains("to another transport"), "{refusal}");
}

#[test]
fn a_transport_that_was_lost_is_not_served_again() {
    let mut first = Offer::read(&apart(), BOARD).unwrap();
    first.mark_lost(1);
    assert_eq!(first.transport_of(Some("1"), None, None), Ok(None));
    let renegotiated = first.renegotiate(&apart(), BOARD).unwrap();
    assert_eq!(renegotiated.sending(), (true, false));
    let answered = answer_of(&renegotiated);
    assert_eq!(sections(&answered)[1].0, "audio 0 UDP/TLS/RTP/SAVPF 111");
    assert_eq!(answer_of(&renegotiated.renegotiate(&apart(), BOARD).unwrap()), answered);
}

#[test]
fn video_that_is_inactive_at_first_is_served_on_request() {
    let only_video = |text: String| text.split("m=audio").next().unwrap().replace("BUNDLE 0 1 2", "BUNDLE 0");
    for text in [only_video(offer()), offer(), apart()] {
        let inactive = text.replacen("a=recvonly", "a=inactive", 1);
        let first = Offer::read(&inactive, BOARD).unwrap();
        assert!(!first.sending().0);
        let (line, rest) = (answer_of(&first), "a=inactive\r\n");
        assert!(sections(&line)[0].0.starts_with("video 9 ") && sections(&line)[0].1.contains(rest), "{line}");
        assert!(first.stack_offer(0).contains("m=video"), "the stack has a track for it");
        let later = first.renegotiate(&text, BOARD).unwrap();
        assert!(later.sending().0 && sections(&answer_of(&later))[0].1.contains("a=sendonly\r\n"));
    }
    assert!(refusal(&only_video(offer()).replace("a=recvonly", "a=inactive").replace("H264", "VP9")).contains("VP9"));
}

#[test]
fn a_section_may_end_and_be_requested_again() {
    let first = Offer::read(&apart(), BOARD).unwrap();
    let ended = apart().replacen("m=audio 9", "m=audio 0", 1);
    let renegotiated = first.renegotiate(&ended, BOARD).unwrap();
    assert_eq!(renegotiated.sending(), (true, false));
    assert_eq!(sections(&answer_of(&renegotiated))[1].0, "audio 0 UDP/TLS/RTP/SAVPF 111");
    assert!(renegotiated.stack_offer(1).contains("m=audio"), "the stack keeps it");
    assert_eq!(renegotiated.renegotiate(&apart(), BOARD).unwrap().sending(), (true, true));
    let both = ended.replacen("m=video 9", "m=video 0", 1);
    let over = renegotiated.renegotiate(&both, BOARD).unwrap();
    assert_eq!(over.sending(), (false, false));
    // Its place is free for another section (RFC 3264, section 8.1), for which there is no track.
    let other = both.replacen("m=video 0", "m=audio 9", 1);
    assert_eq!(over.renegotiate(&other, BOARD).unwrap().sending(), (false, false));
}

#[test]
fn a_data_channel_added_later_is_served_if_the_stack_can_accept_it() {
    let first = Offer::read(&only(&["video", "audio"]), BOARD).unwrap();
    let later = first.renegotiate(&offer(), BOARD).unwrap();
    assert_eq!(decisions(&later), ["video sendonly", "audio sendonly", "application rejected"]);
    let passive = |text: String| text.replace("a=setup:actpass", "a=setup:active");
    let first = Offer::read(&passive(only(&["video", "audio"])), BOARD).unwrap();
    let later = first.renegotiate(&passive(offer()), BOARD).unwrap();
    assert_eq!(decisions(&later)[2], "application channel");
    assert!(later.stack_offer(0).contains("BUNDLE video audio data\r\n"), "{}", later.stack_offer(0));
    // The SCTP association ends with the section.
    let ended = later.renegotiate(&passive(offer()).replace("m=application 9", "m=application 0"), BOARD).unwrap();
    assert_eq!(decisions(&ended.renegotiate(&passive(offer()), BOARD).unwrap())[2], "application rejected");
    let apart = passive(offer()).replace("BUNDLE 0 1 2", "BUNDLE 0 1");
    let apart = first.renegotiate(&apart, BOARD).unwrap();
    assert_eq!((decisions(&apart)[2].as_str(), apart.transports()), ("application channel", 2), "on another transport");
    assert_eq!(later.rejections(), None);
    let reasons = ended_channel(&first, &passive(offer())).rejections().unwrap();
    assert!(reasons.starts_with("section 3 comes after a DTLS handshake"), "{reasons}");
}

/// A further offer that asks for a data channel again after an offer that ended it.
fn ended_channel(first: &Offer, text: &str) -> Offer {
    let later = first.renegotiate(text, BOARD).unwrap();
    let ended = later.renegotiate(&text.replace("m=application 9", "m=application 0"), BOARD).unwrap();
    assert_eq!(ended.rejections(), None, "the viewer ended it itself");
    ended.renegotiate(text, BOARD).unwrap()
}

#[test]
fn a_viewer_that_may_add_a_data_channel_later_is_the_dtls_client() {
    let more = Board { can_renegotiate: true, ..BOARD };
    let part = |text: &str, board| Offer::read(text, board).unwrap().is_dtls_client(0);
    let without = only(&["video", "audio"]);
    assert!(part(&without, BOARD) && part(&offer(), more), "it costs time, which is for something");
    assert!(!part(&without, more));
    assert!(part(&without.replace("actpass", "passive"), more) && !part(&offer().replace("actpass", "active"), BOARD));
    let later = Offer::read(&without, more).unwrap().renegotiate(&offer(), more).unwrap();
    assert_eq!(decisions(&later)[2], "application channel");
    assert!(!later.is_dtls_client(0) && answer_of(&later).contains("a=setup:passive\r\n"));
}

#[test]
fn media_of_an_ended_transport_is_served_again_on_another() {
    for (place, kind, name) in [(0, "video", "video"), (1, "audio", "audio")] {
        let first = Offer::read(&apart(), BOARD).unwrap();
        let mut ended =
            first.renegotiate(&apart().replacen(&format!("m={kind} 9"), &format!("m={kind} 0"), 1), BOARD).unwrap();
        assert_eq!((ended.is_used(place), ended.main_transport()), (false, Some(1 - place)));
        // If the offer is rolled back, the media goes on where it was.
        let back = ended.renegotiate(&apart(), BOARD).unwrap();
        assert_eq!((back.number(place), back.sending()), (first.number(place), (true, true)));
        // Chromium closes the transport, and may start the next one with the same credentials.
        ended.mark_lost(place);
        for name in [name, "other"] {
            let text = apart()
                .replace(&format!("a=mid:{place}"), "a=mid:7")
                .replace(&format!("ufrag:{kind}"), &format!("ufrag:{name}"));
            let renegotiated = ended.renegotiate(&text, BOARD).unwrap();
            assert_eq!(
                (renegotiated.sending(), renegotiated.transports(), renegotiated.is_lost(place)),
                ((true, true), 3, false),
                "{name}"
            );
            assert_ne!(renegotiated.number(place), first.number(place));
            assert!(
                renegotiated.stack_offer(place).contains(&format!("a=group:BUNDLE {kind}\r\n")),
                "{}",
                renegotiated.stack_offer(place)
            );
            assert_eq!(renegotiated.transport_of(Some("7"), None, None), Ok(Some(place)));
        }
        // A transport that was lost before its section ended is not served until the section has ended.
        let mut lost = first.clone();
        lost.mark_lost(place);
        let ended =
            lost.renegotiate(&apart().replacen(&format!("m={kind} 9"), &format!("m={kind} 0"), 1), BOARD).unwrap();
        assert_eq!(ended.renegotiate(&apart(), BOARD).unwrap().sending(), (true, true));
    }
}

#[test]
fn all_media_may_end_and_start_again() {
    let text = only(&["video"]).replace("BUNDLE 0 1 2", "BUNDLE 0");
    let first = Offer::read(&text, BOARD).unwrap();
    let mut ended =
        first.renegotiate(&text.replace("m=video 9", "m=video 0").replace("BUNDLE 0", "BUNDLE"), BOARD).unwrap();
    assert_eq!((ended.main_transport(), ended.sending()), (None, (false, false)));
    ended.mark_lost(0);
    let renegotiated =
        ended.renegotiate(&text.replace("a=mid:0", "a=mid:1").replace("BUNDLE 0", "BUNDLE 1"), BOARD).unwrap();
    assert!(
        renegotiated.sending().0
            && renegotiated.main_transport().is_some_and(|main| renegotiated.number(main) > first.number(0))
    );
}

#[test]
fn sections_of_a_rolled_back_offer_are_removed() {
    let begin = only(&["audio"]).replace("BUNDLE 0 1 2", "BUNDLE 1");
    let first = Offer::read(&begin, BOARD).unwrap();
    let part = &offer()[offer().find("m=video").unwrap()..offer().find("m=audio").unwrap()];
    for groups in ["BUNDLE 1 7", "BUNDLE 1"] {
        let with = |part: &str| format!("{begin}{part}").replace("BUNDLE 1", groups);
        let added = first.renegotiate(&with(&part.replace("a=mid:0", "a=mid:7")), BOARD).unwrap();
        assert_eq!(added.sending(), (true, true), "{groups}");
        let back = added.renegotiate(&begin, BOARD).unwrap();
        assert_eq!((decisions(&back).len(), back.sending(), back.number(0)), (1, (false, true), first.number(0)));
        // Chromium does not reuse mids.
        let other = added.renegotiate(&with(&part.replace("a=mid:0", "a=mid:8")).replace("1 7", "1 8"), BOARD).unwrap();
        assert_eq!((other.sending(), other.video_section()), ((true, true), Some((1, Some("8")))), "{groups}");
        // A section that was in two offers cannot be rolled back.
        let stood = added.renegotiate(&with(&part.replace("a=mid:0", "a=mid:7")), BOARD).unwrap();
        assert!(stood.renegotiate(&begin, BOARD).unwrap_err().to_string().contains("same order"));
    }
}

#[test]
fn a_transport_whose_tagged_section_changed_may_restart() {
    let mut first = Offer::read(&offer(), BOARD).unwrap();
    assert!(!first.restart_transport(0), "it is the viewer that leaves");
    let stopped = offer().replace("m=video 9", "m=video 0").replace("BUNDLE 0 1 2", "BUNDLE 1 2");
    let mut moved = first.renegotiate(&stopped, BOARD).unwrap();
    assert_eq!((moved.number(0), moved.tagged_section(0)), (first.number(0), (1, Some("1"))), "it may go on, too");
    let mut later = moved.renegotiate(&stopped, BOARD).unwrap();
    for moved in [&mut moved, &mut later] {
        assert!(moved.restart_transport(0) && !moved.restart_transport(0), "once");
        assert!(moved.number(0) > first.number(0) && moved.stack_offer(0).contains("BUNDLE video audio data\r\n"));
        assert_eq!(moved.credentials(0), first.credentials(0));
    }
    // A new section becomes the tagged one in place of the old one.
    let text = offer().replace("a=mid:0", "a=mid:5").replace("BUNDLE 0 1 2", "BUNDLE 5 1 2");
    assert!(moved.renegotiate(&text, BOARD).unwrap().restart_transport(0));
}

#[test]
fn video_and_audio_added_later_are_served_on_an_existing_transport() {
    for kinds in [&["video"][..], &["video", "application"], &["audio", "application"], &["application"]] {
        let begin = only(kinds);
        let first = Offer::read(&begin, BOARD).unwrap();
        let added = offer()[offer().find("m=video").unwrap()..offer().find("m=application").unwrap()].to_owned();
        let added = added.replace("a=mid:0", "a=mid:7").replace("a=mid:1", "a=mid:8");
        let text = format!("{begin}{added}").replace("BUNDLE 0 1 2", "BUNDLE 0 1 2 7 8");
        let later = first.renegotiate(&text, BOARD).unwrap();
        assert_eq!(later.sending(), (true, true), "{kinds:?}: {:?}", decisions(&later));
        let quiet = first.renegotiate(&text, SILENT).unwrap();
        assert_eq!(quiet.sending(), (true, false), "{kinds:?}");
        assert_eq!(quiet.renegotiate(&text, BOARD).unwrap().sending(), (true, true), "{kinds:?}");
        let apart = first.renegotiate(&text.replace(" 7 8", ""), BOARD).unwrap();
        // Sections outside a group have their own transports.
        let there = kinds.iter().filter(|kind| **kind != "application").count();
        assert_eq!((apart.sending(), apart.transports()), ((true, true), 3 - there), "{kinds:?}");
    }
}

#[test]
fn of_two_sections_the_requesting_one_is_served_and_the_other_stays_accepted() {
    for kind in ["video", "audio"] {
        let part = only(&[kind]);
        let part = &part[part.find("m=").unwrap()..];
        let tag = part.split("a=mid:").nth(1).unwrap().split("\r\n").next().unwrap();
        let second = part.replace(&format!("a=mid:{tag}"), "a=mid:5");
        let other = only(&["application"]);
        let both = |first: &str, then: &str| {
            let (first, second) = (part.replace("recvonly", first), second.replace("recvonly", then));
            format!("{other}{first}{second}").replace("BUNDLE 0 1 2", "BUNDLE 0 1 2 5")
        };
        let (sent, silent) = (format!("{kind} sendonly"), format!("{kind} inactive"));
        let first = Offer::read(&both("inactive", "recvonly"), BOARD).unwrap();
        assert_eq!(decisions(&first)[1..], [silent.clone(), sent.clone()]);
        let same = first.renegotiate(&both("recvonly", "recvonly"), BOARD).unwrap();
        assert_eq!(decisions(&same)[1..], [silent.clone(), sent.clone()], "it stays where it was");
        let swapped = same.renegotiate(&both("recvonly", "inactive"), BOARD).unwrap();
        assert_eq!(decisions(&swapped)[1..], [sent.clone(), silent.clone()]);
        let paused = swapped.renegotiate(&both("inactive", "inactive"), BOARD).unwrap();
        assert_eq!(decisions(&paused)[1..], [silent.clone(), silent.clone()]);
        assert_eq!(decisions(&paused.renegotiate(&both("inactive", "recvonly"), BOARD).unwrap())[1..], [silent, sent]);
    }
}

#[test]
fn a_source_that_moves_to_another_section_is_identified_by_mid() {
    let part = &only(&["video"])[offer().find("m=video").unwrap()..];
    let tagged = part.replace("a=mid:0\r\n", &format!("a=mid:0\r\na=extmap:4 {}\r\n", codec::MID));
    for (part, is_named) in [(part, true), (&tagged, false)] {
        let second = part.replace("a=mid:0", "a=mid:5");
        let both = |first: &str, then: &str| {
            let sections = part.replace("recvonly\r\na=rtcp-mux", &format!("{first}\r\na=rtcp-mux"));
            let second = second.replace("recvonly\r\na=rtcp-mux", &format!("{then}\r\na=rtcp-mux"));
            format!("{}{sections}{second}", only(&[])).replace("BUNDLE 0 1 2", "BUNDLE 0 5")
        };
        let first = Offer::read(&both("inactive", "recvonly"), BOARD).unwrap();
        assert!(sections(&answer_of(&first))[1].1.contains("a=ssrc:1 "));
        let moved = first.renegotiate(&both("recvonly", "inactive"), BOARD).unwrap();
        let answer = answer_of(&moved);
        assert_eq!(sections(&answer)[0].1.contains("a=ssrc:1 "), is_named, "{answer}");
        assert!(sections(&answer)[0].1.contains("a=msid:peercam video\r\n"), "{answer}");
        let back = moved.renegotiate(&both("inactive", "recvonly"), BOARD).unwrap();
        // Chromium accepts `a=ssrc` for the source in neither section: it has the source in both.
        assert_eq!(sections(&answer_of(&back))[1].1.contains("a=ssrc:1 "), is_named);
    }
}

#[test]
fn a_reused_section_has_its_new_mid_and_payload_types() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let ended = first.renegotiate(&offer().replace("m=video 9", "m=video 0"), BOARD).unwrap();
    assert_eq!(decisions(&ended), ["video rejected", "audio sendonly", "application channel"]);
    let mid = format!("a=mid:3\r\na=extmap:4 {}", codec::MID);
    let renegotiated = offer().replace("a=mid:0", &mid).replace("BUNDLE 0", "BUNDLE 3").replace("extmap:5", "extmap:6");
    let renegotiated = ended.renegotiate(&renegotiated.replace("109", "112"), BOARD).unwrap();
    assert_eq!(renegotiated.sending(), (true, true));
    let media = renegotiated.video().unwrap();
    assert_eq!((media.payload_type, media.playout_delay.unwrap().id), (112, 6));
    assert_eq!(media.mid.as_ref().map(|(_, mid)| mid.as_str()), Some("3"));
}

#[test]
fn a_payload_type_stays_while_it_is_offered() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let high = Board { profile: H264Profile { idc: 0x64, constraints: 0 }, ..BOARD };
    assert_eq!(first.renegotiate(&offer(), high).unwrap().video().unwrap().payload_type, 109);
    let changed = first.renegotiate(&offer().replace("109", "112").replace("111", "115"), BOARD).unwrap();
    assert_eq!((changed.video().unwrap().payload_type, changed.audio().unwrap().payload_type), (112, 115));
    assert_eq!((changed.sending(), changed.stack_offer(0)), ((true, true), first.stack_offer(0)));
}

#[test]
fn reordered_sections_are_refused_with_that_reason() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let text = offer();
    let (video, audio) = (text.find("m=video").unwrap(), text.find("m=audio").unwrap());
    let data = text.find("m=application").unwrap();
    let swapped = [&text[..video], &text[audio..data], &text[video..audio], &text[data..]].concat();
    let error = first.renegotiate(&swapped, BOARD).unwrap_err();
    assert!(matches!(error, Error::Unusable(_)));
    let reason = error.to_string();
    assert!(
        reason.contains("section 1") && reason.contains("audio with a=mid:1 where it was video with a=mid:0"),
        "{reason}"
    );
    let renamed = first.renegotiate(&text.replace("a=mid:1", "a=mid:4").replace("0 1 2", "0 4 2"), BOARD).unwrap_err();
    assert!(renamed.to_string().contains("a=mid:4"), "{renamed}");
    // The place of a rejected section is free for another section (RFC 3264, section 8.1).
    let rejected = Offer::read(&offer().replace("opus", "PCMU"), BOARD).unwrap();
    assert!(rejected.renegotiate(&offer().replace("m=audio", "m=text"), BOARD).is_ok());
}

#[test]
fn a_further_offer_keeps_the_agreed_parameters() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let restart = offer().replace("abcd\r\n", "efgh\r\n").replace("a=setup:actpass", "a=setup:passive");
    let renegotiated = first.renegotiate(&restart, SILENT).unwrap();
    assert_eq!(renegotiated.credentials(0).ufrag, "efgh");
    assert_eq!(renegotiated.sending(), (true, false), "sound was switched off meanwhile");
    assert!(renegotiated.stack_offer(0).contains("m=audio"), "the stack's sections stay");
    assert!(renegotiated.renegotiate(&restart, BOARD).unwrap().sending().1, "and on again");
    let paused = first.renegotiate(&offer().replace("a=recvonly", "a=inactive"), BOARD).unwrap();
    assert_eq!(paused.sending(), (false, false));
    assert!(sections(&answer_of(&paused))[0].1.contains("a=inactive"));
    let refusal = |text: String| first.renegotiate(&text, BOARD).unwrap_err().to_string();
    assert!(refusal(offer().replace("A9:61", "A9:62")).contains("new session"));
    assert!(refusal(offer().replace("a=setup:actpass", "a=setup:active")).contains("new session"));
    assert!(refusal(offer().split("m=application").next().unwrap().into()).contains("same order"));
    assert!(refusal(offer().replace("H264", "VP9")).contains("this board sends H.264"));
}
