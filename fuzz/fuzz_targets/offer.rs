//! Text as an offer: refused in words, or answered with one section for each that was offered, and a picture.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::media::H264Profile;
use peercam::sdp::{Board, Offer, Ours, Sources};

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true };
    match Offer::read(text, board) {
        Ok(offer) => {
            // The stack's answer has the form of an offer of its own.
            let ours = Ours::read(&offer.reduced()).expect("a reduced offer is whole");
            let sources = Sources { ssrc: 1, retransmission: Some(2) };
            let answer = offer.answer(&ours, sources, Some(sources));
            assert!(answer.contains("a=sendonly\r\n"), "{answer}");
            let sections = |text: &str| text.lines().filter(|line| line.trim().starts_with("m=")).count();
            assert_eq!(sections(&answer), sections(text), "{answer}");
            offer.again(text, board).expect("the same offer again is no other");
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
});
