//! Tests of the boundary: answers here, whole connections in [`joins`].

mod joins;
mod network;

use std::net::ToSocketAddrs;
use std::time::Duration;

use super::interfaces::Interfaces;
use super::*;
use crate::media::H264Profile;

/// As Chromium makes it when a page has asked for abs-capture-time, cut down to what is read.
const BOARD: Board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true };

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 109 110\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 \
    A9:61:8B:C1:D6:B0:0E:F5:C7:EE:89:0D:49:3B:57:4E:50:A6:D9:A2:3F:2C:8D:6F:A5:F3:91:1C:0B:28:BE:9F\r\n\
    a=setup:actpass\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n\
    a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay\r\n\
    a=extmap:13 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r\n\
    a=rtpmap:109 H264/90000\r\na=rtcp-fb:109 nack\r\na=rtcp-fb:109 nack pli\r\n\
    a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=rtpmap:110 rtx/90000\r\na=fmtp:110 apt=109\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 \
    A9:61:8B:C1:D6:B0:0E:F5:C7:EE:89:0D:49:3B:57:4E:50:A6:D9:A2:3F:2C:8D:6F:A5:F3:91:1C:0B:28:BE:9F\r\n\
    a=setup:actpass\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n";

#[tokio::test]
async fn an_answer_has_what_was_offered_and_the_board_s_addresses() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let (peer, answer) = stack.answer(OFFER, BOARD, Later::Trickled).await.unwrap();
    for line in [
        "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
        "a=extmap:13 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        "a=rtpmap:109 H264/90000",
        "a=fmtp:110 apt=109",
        "a=rtcp-fb:109 nack pli",
        "a=msid:peercam video",
        "a=msid:peercam audio",
    ] {
        assert!(answer.lines().any(|have| have == line), "no {line} in {answer}");
    }
    // Loopback only where the machine has nothing else.
    let bound: Vec<_> = Interfaces::one_of(1).to_socket_addrs().unwrap().map(|one| one.ip()).collect();
    let candidates: Vec<_> =
        answer.lines().filter_map(|line| sdp::Candidate::read(line.strip_prefix("a=")?).ok()?).collect();
    assert_eq!(candidates.iter().map(|candidate| candidate.address).collect::<Vec<_>>(), bound, "{answer}");
    assert!(!answer.contains(".local"), "{answer}");
    drop(peer);
    assert!(group.close(Duration::from_secs(2)).await, "a connection that is dropped is closed");
}

#[tokio::test]
async fn an_extension_that_was_not_offered_is_not_answered() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let offer = OFFER.replace("abs-capture-time", "something-else");
    let (_peer, answer) = stack.answer(&offer, BOARD, Later::Trickled).await.unwrap();
    assert!(!answer.contains("a=extmap:13"), "{answer}");
}

/// What tests/offers says of its files, of which the stack has no part.
#[tokio::test]
async fn the_stack_takes_what_is_left_of_each_offer() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offers/cases");
    let mut answered = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let (offer, expected) = text.split_once("=>\n").unwrap();
        let offer: Vec<_> = offer.lines().filter(|line| !line.starts_with('#')).collect();
        let board = Board { has_sound: !text.contains("no sound"), ..BOARD };
        match stack.answer(&offer.join("\r\n"), board, Later::Trickled).await {
            Ok((mut peer, answer)) => {
                let sections = |text: &str| -> Vec<String> {
                    text.lines().filter(|line| line.starts_with("m=")).map(|line| line.trim_end().into()).collect()
                };
                assert_eq!(sections(&answer), sections(expected));
                let again = peer.negotiate(&offer.join("\r\n"), board).await.unwrap();
                assert_eq!(sections(&again), sections(expected));
                let origin = |text: &str, word| text.lines().nth(1).unwrap().split(' ').nth(word).unwrap().to_owned();
                assert_eq!(origin(&answer, 1), origin(&again, 1));
                assert_eq!([origin(&answer, 2), origin(&again, 2)], ["1", "2"]);
                answered += 1;
            }
            Err(error) => {
                assert!(expected.starts_with("refused") && expected.contains(&error.to_string()), "{error}")
            }
        }
    }
    assert!(answered >= 60, "only {answered} were answered");
    assert!(group.close(Duration::from_secs(5)).await);
}
