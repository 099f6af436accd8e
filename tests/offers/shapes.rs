//! Formatting of offers: line ends, blanks and marks of other programs, which do not matter.

use peercam::sdp::{Error, Offer};

use crate::{answer, cases, outcome};

/// A program, and its formatting of an offer whose lines end with CR LF.
type Shape = (&'static str, fn(&str) -> String);

const SHAPES: [Shape; 11] = [
    ("LF alone: AMWA-TV/sdpoker 16", |offer| offer.replace("\r\n", "\n")),
    ("CR alone: ireader/media-server 376, the other way round", |offer| offer.replace("\r\n", "\r")),
    ("CR CR LF, of a text that was converted twice", |offer| offer.replace('\n', "\r\n")),
    ("both: mixed by hand", |offer| offer.replacen("\r\n", "\n", 7)),
    ("blanks at the ends: pjsip/pjproject 64, tschiemer/aes67 2", |offer| offer.replace("\r\n", " \t\r\n")),
    ("empty lines: sipwise/rtpengine 77, pjsip/pjproject 666", |offer| offer.replace("\r\n", "\r\n\r\n") + "\r\n"),
    ("no end of the last line: AMWA-TV/sdpoker 17", |offer| offer.trim_end().to_owned()),
    ("a byte order mark", |offer| format!("\u{feff}{offer}")),
    ("two blanks between words: sony/nmos-cpp 44", |offer| offer.replace(' ', "  ")),
    ("a blank behind the equals sign", |offer| offer.replace("\na=", "\na= ").replace("\nm=", "\nm= ")),
    ("ten thousand letters of what nobody knows", |offer| format!("{offer}a=x:{}\r\n", "y".repeat(10_000))),
];

#[test]
fn formatting_of_an_offer_does_not_matter() {
    let mut compared = 0;
    for case in cases() {
        let Ok(expected) = outcome(&case.offer, case.board) else { continue };
        for (what, shape) in SHAPES {
            let found = Offer::read(&shape(&case.offer), case.board).map(|offer| answer(&offer));
            assert_eq!(found, Ok(expected.clone()), "{}: {what}", case.name());
            compared += 1;
        }
    }
    assert!(compared >= 600, "only {compared} were compared");
}

/// Texts that people send by mistake instead of the offer.
#[test]
fn a_text_that_is_no_session_description_is_refused_with_its_kind() {
    let case = cases().into_iter().find(|case| case.name() == "real-chromium-page").expect("it is there");
    let escaped = case.offer.replace("\r\n", "\\r\\n");
    for (text, words) in [
        (String::new(), "empty"),
        (format!("{{\"type\":\"offer\",\"sdp\":\"{escaped}\"}}"), "JSON"),
        (format!("\"{escaped}\""), "JSON"),
        (escaped, "true line ends"),
        (case.offer.replace("v=0\r\n", ""), "no line `v=0`"),
        (case.offer.replace("v=0", "v=7"), "version"),
        (case.offer.replace("m=video 9 ", "m=video nine "), "\"m=video nine UDP/TLS/RTP/SAVPF"),
    ] {
        let Err(Error::Unusable(reason)) = Offer::read(&text, case.board) else { panic!("{words}: it is answered") };
        assert!(reason.contains(words) && reason.len() < 300, "{words}: {reason}");
    }
}
