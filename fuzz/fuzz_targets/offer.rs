//! Fuzzes offers: each is refused with a text, or answered with one section for each offered section, at least one of
//! which is served.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::media::H264Profile;
use peercam::sdp::{Board, Offer, LocalTransport, Sources};

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true, can_renegotiate: false };
    match Offer::read(text, board) {
        Ok(offer) => {
            // The stack's answer has the same form as an offer.
            let ours = |transport| LocalTransport::read(&offer.stack_offer(transport)).expect("the stack's offer is complete");
            let ours: Vec<_> = (0..offer.transports()).map(ours).collect();
            assert!((1..=3).contains(&ours.len()));
            let sources = Some(Sources { ssrc: 1, retransmission: Some(2) });
            let answer = offer.answer(&ours, sources, sources);
            let is_served = |line: &str| line.starts_with("m=") && !line.contains(" 0 ");
            assert!(answer.lines().any(is_served), "{answer}");
            let sections = |text: &str| text.lines().filter(|line| line.trim().starts_with("m=")).count();
            assert_eq!(sections(&answer), sections(text), "{answer}");
            offer.renegotiate(text, board).expect("the same offer is accepted again");
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
});
