//! Further offers on a connection: what stays, what is added, and what may not change.

use super::*;

#[test]
fn transports_restart_one_by_one_and_none_is_exchanged_for_another() {
    let first = Offer::read(&apart(), BOARD).unwrap();
    let again = first.again(&apart().replace("ufrag:audio", "ufrag:fresh"), BOARD).unwrap();
    let ufrags: Vec<_> = (0..3).map(|at| again.credentials(at).ufrag.as_str()).collect();
    assert_eq!(ufrags, ["video", "fresh", "data"]);
    let bundled = apart().replace("t=0 0\r\n", "t=0 0\r\na=group:BUNDLE 0 1 2\r\n");
    let refusal = first.again(&bundled, BOARD).unwrap_err().to_string();
    assert!(refusal.contains("audio section to another transport"), "{refusal}");
    let refusal = Offer::read(&offer(), BOARD).unwrap().again(&apart(), BOARD).unwrap_err().to_string();
    assert!(refusal.contains("to another transport"), "{refusal}");
}

#[test]
fn a_transport_that_was_lost_is_not_served_again() {
    let mut first = Offer::read(&apart(), BOARD).unwrap();
    first.lose(1);
    assert_eq!(first.transport_of(Some("1"), None, None), Ok(None));
    let again = first.again(&apart(), BOARD).unwrap();
    assert_eq!(again.flows(), (true, false));
    let answered = answer_of(&again);
    assert_eq!(sections(&answered)[1].0, "audio 0 UDP/TLS/RTP/SAVPF 111");
    assert_eq!(answer_of(&again.again(&apart(), BOARD).unwrap()), answered);
}

#[test]
fn video_that_is_inactive_at_first_is_served_when_it_is_wanted() {
    let only_video = |text: String| text.split("m=audio").next().unwrap().replace("BUNDLE 0 1 2", "BUNDLE 0");
    for text in [only_video(offer()), offer(), apart()] {
        let inactive = text.replacen("a=recvonly", "a=inactive", 1);
        let first = Offer::read(&inactive, BOARD).unwrap();
        assert!(!first.flows().0);
        let (line, rest) = (answer_of(&first), "a=inactive\r\n");
        assert!(sections(&line)[0].0.starts_with("video 9 ") && sections(&line)[0].1.contains(rest), "{line}");
        assert!(first.reduced(0).contains("m=video"), "the stack has a track for it");
        let later = first.again(&text, BOARD).unwrap();
        assert!(later.flows().0 && sections(&answer_of(&later))[0].1.contains("a=sendonly\r\n"));
    }
    assert!(refusal(&only_video(offer()).replace("a=recvonly", "a=inactive").replace("H264", "VP9")).contains("VP9"));
}

#[test]
fn a_section_may_come_to_an_end_and_be_asked_for_again() {
    let first = Offer::read(&apart(), BOARD).unwrap();
    let ended = apart().replacen("m=audio 9", "m=audio 0", 1);
    let again = first.again(&ended, BOARD).unwrap();
    assert_eq!(again.flows(), (true, false));
    assert_eq!(sections(&answer_of(&again))[1].0, "audio 0 UDP/TLS/RTP/SAVPF 111");
    assert!(again.reduced(1).contains("m=audio"), "the stack keeps it");
    assert_eq!(again.again(&apart(), BOARD).unwrap().flows(), (true, true));
    let both = ended.replacen("m=video 9", "m=video 0", 1);
    let over = again.again(&both, BOARD).unwrap();
    assert_eq!(over.flows(), (false, false));
    // Its place is free for something else (RFC 3264, section 8.1), of which there is no track.
    let other = both.replacen("m=video 0", "m=audio 9", 1);
    assert_eq!(over.again(&other, BOARD).unwrap().flows(), (false, false));
}

#[test]
fn a_data_channel_that_a_further_offer_adds_is_served_where_the_stack_can_wait_for_it() {
    let first = Offer::read(&only(&["video", "audio"]), BOARD).unwrap();
    let later = first.again(&offer(), BOARD).unwrap();
    assert_eq!(verdicts(&later), ["video sendonly", "audio sendonly", "application rejected"]);
    let passive = |text: String| text.replace("a=setup:actpass", "a=setup:active");
    let first = Offer::read(&passive(only(&["video", "audio"])), BOARD).unwrap();
    let later = first.again(&passive(offer()), BOARD).unwrap();
    assert_eq!(verdicts(&later)[2], "application channel");
    assert!(later.reduced(0).contains("BUNDLE video audio data\r\n"), "{}", later.reduced(0));
    // Its association ends with the section.
    let ended = later.again(&passive(offer()).replace("m=application 9", "m=application 0"), BOARD).unwrap();
    assert_eq!(verdicts(&ended.again(&passive(offer()), BOARD).unwrap())[2], "application rejected");
    let apart = passive(offer()).replace("BUNDLE 0 1 2", "BUNDLE 0 1");
    let apart = first.again(&apart, BOARD).unwrap();
    assert_eq!((verdicts(&apart)[2].as_str(), apart.transports()), ("application channel", 2), "on another transport");
    assert_eq!(later.rejections(), None);
    let reasons = ended_channel(&first, &passive(offer())).rejections().unwrap();
    assert!(reasons.starts_with("section 3 comes after a DTLS handshake"), "{reasons}");
}

/// A further offer that has a data channel again after one that ended it.
fn ended_channel(first: &Offer, text: &str) -> Offer {
    let later = first.again(text, BOARD).unwrap();
    let ended = later.again(&text.replace("m=application 9", "m=application 0"), BOARD).unwrap();
    assert_eq!(ended.rejections(), None, "the viewer ended it itself");
    ended.again(text, BOARD).unwrap()
}

#[test]
fn who_may_offer_a_data_channel_later_begins_the_handshake() {
    let more = Board { takes_more: true, ..BOARD };
    let part = |text: &str, board| Offer::read(text, board).unwrap().begins_handshake(0);
    let without = only(&["video", "audio"]);
    assert!(part(&without, BOARD) && part(&offer(), more), "it costs time, which is for something");
    assert!(!part(&without, more));
    assert!(part(&without.replace("actpass", "passive"), more) && !part(&offer().replace("actpass", "active"), BOARD));
    let later = Offer::read(&without, more).unwrap().again(&offer(), more).unwrap();
    assert_eq!(verdicts(&later)[2], "application channel");
    assert!(!later.begins_handshake(0) && answer_of(&later).contains("a=setup:passive\r\n"));
}

#[test]
fn what_had_a_transport_of_its_own_is_served_again_on_another() {
    for (place, kind, name) in [(0, "video", "video"), (1, "audio", "audio")] {
        let first = Offer::read(&apart(), BOARD).unwrap();
        let mut ended =
            first.again(&apart().replacen(&format!("m={kind} 9"), &format!("m={kind} 0"), 1), BOARD).unwrap();
        assert_eq!((ended.is_used(place), ended.main()), (false, Some(1 - place)));
        // Taken back: it goes on where it was.
        let back = ended.again(&apart(), BOARD).unwrap();
        assert_eq!((back.number(place), back.flows()), (first.number(place), (true, true)));
        // Chromium closes the transport, and may begin the next one with the same credentials.
        ended.lose(place);
        for name in [name, "other"] {
            let text = apart()
                .replace(&format!("a=mid:{place}"), "a=mid:7")
                .replace(&format!("ufrag:{kind}"), &format!("ufrag:{name}"));
            let again = ended.again(&text, BOARD).unwrap();
            assert_eq!((again.flows(), again.transports(), again.is_lost(place)), ((true, true), 3, false), "{name}");
            assert_ne!(again.number(place), first.number(place));
            assert!(again.reduced(place).contains(&format!("a=group:BUNDLE {kind}\r\n")), "{}", again.reduced(place));
            assert_eq!(again.transport_of(Some("7"), None, None), Ok(Some(place)));
        }
        // What was lost before it was ended is not served until it is ended.
        let mut lost = first.clone();
        lost.lose(place);
        let ended = lost.again(&apart().replacen(&format!("m={kind} 9"), &format!("m={kind} 0"), 1), BOARD).unwrap();
        assert_eq!(ended.again(&apart(), BOARD).unwrap().flows(), (true, true));
    }
}

#[test]
fn all_may_end_and_begin_again() {
    let text = only(&["video"]).replace("BUNDLE 0 1 2", "BUNDLE 0");
    let first = Offer::read(&text, BOARD).unwrap();
    let mut ended = first.again(&text.replace("m=video 9", "m=video 0").replace("BUNDLE 0", "BUNDLE"), BOARD).unwrap();
    assert_eq!((ended.main(), ended.flows()), (None, (false, false)));
    ended.lose(0);
    let again = ended.again(&text.replace("a=mid:0", "a=mid:1").replace("BUNDLE 0", "BUNDLE 1"), BOARD).unwrap();
    assert!(again.flows().0 && again.main().is_some_and(|main| again.number(main) > first.number(0)));
}

#[test]
fn sections_that_were_added_are_taken_back_with_their_offer() {
    let begin = only(&["audio"]).replace("BUNDLE 0 1 2", "BUNDLE 1");
    let first = Offer::read(&begin, BOARD).unwrap();
    let part = &offer()[offer().find("m=video").unwrap()..offer().find("m=audio").unwrap()];
    for groups in ["BUNDLE 1 7", "BUNDLE 1"] {
        let with = |part: &str| format!("{begin}{part}").replace("BUNDLE 1", groups);
        let added = first.again(&with(&part.replace("a=mid:0", "a=mid:7")), BOARD).unwrap();
        assert_eq!(added.flows(), (true, true), "{groups}");
        let back = added.again(&begin, BOARD).unwrap();
        assert_eq!((verdicts(&back).len(), back.flows(), back.number(0)), (1, (false, true), first.number(0)));
        // Chromium counts its tags on.
        let other = added.again(&with(&part.replace("a=mid:0", "a=mid:8")).replace("1 7", "1 8"), BOARD).unwrap();
        assert_eq!((other.flows(), other.place_of_picture()), ((true, true), Some((1, Some("8")))), "{groups}");
        // What stood through another offer stays.
        let stood = added.again(&with(&part.replace("a=mid:0", "a=mid:7")), BOARD).unwrap();
        assert!(stood.again(&begin, BOARD).unwrap_err().to_string().contains("same order"));
    }
}

#[test]
fn a_transport_of_which_another_section_speaks_may_begin_again() {
    let mut first = Offer::read(&offer(), BOARD).unwrap();
    assert!(!first.begin_again(0), "it is the viewer that leaves");
    let stopped = offer().replace("m=video 9", "m=video 0").replace("BUNDLE 0 1 2", "BUNDLE 1 2");
    let mut moved = first.again(&stopped, BOARD).unwrap();
    assert_eq!((moved.number(0), moved.tagged(0)), (first.number(0), (1, Some("1"))), "it may go on, too");
    let mut later = moved.again(&stopped, BOARD).unwrap();
    for moved in [&mut moved, &mut later] {
        assert!(moved.begin_again(0) && !moved.begin_again(0), "once");
        assert!(moved.number(0) > first.number(0) && moved.reduced(0).contains("BUNDLE video audio data\r\n"));
        assert_eq!(moved.credentials(0), first.credentials(0));
    }
    // A new section speaks for it in the place of the old one.
    let text = offer().replace("a=mid:0", "a=mid:5").replace("BUNDLE 0 1 2", "BUNDLE 5 1 2");
    assert!(moved.again(&text, BOARD).unwrap().begin_again(0));
}

#[test]
fn picture_and_sound_that_a_further_offer_adds_are_served_on_a_transport_that_there_is() {
    for kinds in [&["video"][..], &["video", "application"], &["audio", "application"], &["application"]] {
        let begin = only(kinds);
        let first = Offer::read(&begin, BOARD).unwrap();
        let added = offer()[offer().find("m=video").unwrap()..offer().find("m=application").unwrap()].to_owned();
        let added = added.replace("a=mid:0", "a=mid:7").replace("a=mid:1", "a=mid:8");
        let text = format!("{begin}{added}").replace("BUNDLE 0 1 2", "BUNDLE 0 1 2 7 8");
        let later = first.again(&text, BOARD).unwrap();
        assert_eq!(later.flows(), (true, true), "{kinds:?}: {:?}", verdicts(&later));
        let quiet = first.again(&text, SILENT).unwrap();
        assert_eq!(quiet.flows(), (true, false), "{kinds:?}");
        assert_eq!(quiet.again(&text, BOARD).unwrap().flows(), (true, true), "{kinds:?}");
        let apart = first.again(&text.replace(" 7 8", ""), BOARD).unwrap();
        // Sections by themselves have transports of their own.
        let there = kinds.iter().filter(|kind| **kind != "application").count();
        assert_eq!((apart.flows(), apart.transports()), ((true, true), 3 - there), "{kinds:?}");
    }
}

#[test]
fn of_two_sections_the_one_that_wants_is_served_and_the_other_stays() {
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
        assert_eq!(verdicts(&first)[1..], [silent.clone(), sent.clone()]);
        let same = first.again(&both("recvonly", "recvonly"), BOARD).unwrap();
        assert_eq!(verdicts(&same)[1..], [silent.clone(), sent.clone()], "it stays where it was");
        let swapped = same.again(&both("recvonly", "inactive"), BOARD).unwrap();
        assert_eq!(verdicts(&swapped)[1..], [sent.clone(), silent.clone()]);
        let paused = swapped.again(&both("inactive", "inactive"), BOARD).unwrap();
        assert_eq!(verdicts(&paused)[1..], [silent.clone(), silent.clone()]);
        assert_eq!(verdicts(&paused.again(&both("inactive", "recvonly"), BOARD).unwrap())[1..], [silent, sent]);
    }
}

#[test]
fn a_source_that_moves_to_another_section_is_known_by_its_tag() {
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
        let moved = first.again(&both("recvonly", "inactive"), BOARD).unwrap();
        let answer = answer_of(&moved);
        assert_eq!(sections(&answer)[0].1.contains("a=ssrc:1 "), is_named, "{answer}");
        assert!(sections(&answer)[0].1.contains("a=msid:peercam video\r\n"), "{answer}");
        let back = moved.again(&both("inactive", "recvonly"), BOARD).unwrap();
        // Chromium takes its name in neither: it has the source in both.
        assert_eq!(sections(&answer_of(&back))[1].1.contains("a=ssrc:1 "), is_named);
    }
}

#[test]
fn a_section_that_is_used_again_is_sent_under_its_new_tag_and_numbers() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let ended = first.again(&offer().replace("m=video 9", "m=video 0"), BOARD).unwrap();
    assert_eq!(verdicts(&ended), ["video rejected", "audio sendonly", "application channel"]);
    let mid = format!("a=mid:3\r\na=extmap:4 {}", codec::MID);
    let again = offer().replace("a=mid:0", &mid).replace("BUNDLE 0", "BUNDLE 3").replace("extmap:5", "extmap:6");
    let again = ended.again(&again.replace("109", "112"), BOARD).unwrap();
    assert_eq!(again.flows(), (true, true));
    let media = again.video().unwrap();
    assert_eq!((media.payload_type, media.playout_delay.unwrap().id), (112, 6));
    assert_eq!(media.mid.as_ref().map(|(_, mid)| mid.as_str()), Some("3"));
}

#[test]
fn a_payload_type_stays_while_it_is_offered_and_may_change_with_the_offer() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let high = Board { profile: H264Profile { idc: 0x64, constraints: 0 }, ..BOARD };
    assert_eq!(first.again(&offer(), high).unwrap().video().unwrap().payload_type, 109);
    let changed = first.again(&offer().replace("109", "112").replace("111", "115"), BOARD).unwrap();
    assert_eq!((changed.video().unwrap().payload_type, changed.audio().unwrap().payload_type), (112, 115));
    assert_eq!((changed.flows(), changed.reduced(0)), ((true, true), first.reduced(0)));
}

#[test]
fn sections_that_change_places_are_refused_for_that_reason() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let text = offer();
    let (video, audio) = (text.find("m=video").unwrap(), text.find("m=audio").unwrap());
    let data = text.find("m=application").unwrap();
    let swapped = [&text[..video], &text[audio..data], &text[video..audio], &text[data..]].concat();
    let error = first.again(&swapped, BOARD).unwrap_err();
    assert!(matches!(error, Error::Unusable(_)));
    let reason = error.to_string();
    assert!(
        reason.contains("section 1") && reason.contains("audio with a=mid:1 where it was video with a=mid:0"),
        "{reason}"
    );
    let renamed = first.again(&text.replace("a=mid:1", "a=mid:4").replace("0 1 2", "0 4 2"), BOARD).unwrap_err();
    assert!(renamed.to_string().contains("a=mid:4"), "{renamed}");
    // A section that was rejected is free for something else (RFC 3264, section 8.1).
    let rejected = Offer::read(&offer().replace("opus", "PCMU"), BOARD).unwrap();
    assert!(rejected.again(&offer().replace("m=audio", "m=text"), BOARD).is_ok());
}

#[test]
fn a_further_offer_keeps_what_was_agreed_upon() {
    let first = Offer::read(&offer(), BOARD).unwrap();
    let restart = offer().replace("abcd\r\n", "efgh\r\n").replace("a=setup:actpass", "a=setup:passive");
    let again = first.again(&restart, SILENT).unwrap();
    assert_eq!(again.credentials(0).ufrag, "efgh");
    assert_eq!(again.flows(), (true, false), "sound was switched off meanwhile");
    assert!(again.reduced(0).contains("m=audio"), "the stack's sections stay");
    assert!(again.again(&restart, BOARD).unwrap().flows().1, "and on again");
    let paused = first.again(&offer().replace("a=recvonly", "a=inactive"), BOARD).unwrap();
    assert_eq!(paused.flows(), (false, false));
    assert!(sections(&answer_of(&paused))[0].1.contains("a=inactive"));
    let refusal = |text: String| first.again(&text, BOARD).unwrap_err().to_string();
    assert!(refusal(offer().replace("A9:61", "A9:62")).contains("new session"));
    assert!(refusal(offer().replace("a=setup:actpass", "a=setup:active")).contains("new session"));
    assert!(refusal(offer().split("m=application").next().unwrap().into()).contains("same order"));
    assert!(refusal(offer().replace("H264", "VP9")).contains("this board sends H.264"));
}
