//! Tests of the stack: answers here, whole connections in [`joins`].

mod attacks;
mod joins;
mod network;

use std::net::ToSocketAddrs;
use std::time::Duration;

use super::interfaces::Interfaces;
use super::*;
use crate::media::H264Profile;

const BOARD: Board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true, can_renegotiate: false };

/// An offer as Chromium makes it when a page asks for abs-capture-time, shortened to the lines that are read.
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
async fn an_answer_has_the_offered_features_and_the_board_s_addresses() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let (peer, answer) = stack.answer(OFFER, BOARD, Gathering::Trickle).await.unwrap();
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
    // Loopback is offered only if the machine has nothing else.
    let bound: Vec<_> = Interfaces::one_of(1, None).to_socket_addrs().unwrap().map(|one| one.ip()).collect();
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
    let (_peer, answer) = stack.answer(&offer, BOARD, Gathering::Trickle).await.unwrap();
    assert!(!answer.contains("a=extmap:13"), "{answer}");
}

/// The offer with a transport for each section.
fn apart() -> String {
    let offer = OFFER.replace("a=group:BUNDLE 0 1\r\n", "");
    let (picture, sound) = offer.split_once("m=audio").unwrap();
    format!("{picture}m=audio{}", sound.replace("ufrag:abcd", "ufrag:wxyz"))
}

/// The user name fragments of an answer's sections.
fn fragments(answer: &str) -> Vec<String> {
    answer.lines().filter_map(|line| line.strip_prefix("a=ice-ufrag:")).map(str::to_owned).collect()
}

#[tokio::test]
async fn one_transport_of_a_viewer_restarts_and_the_other_keeps_its_generation() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let (mut peer, answer) = stack.answer(&apart(), BOARD, Gathering::Trickle).await.unwrap();
    let sections: Vec<_> = answer.split("\r\nm=").skip(1).collect();
    assert!(sections.iter().all(|section| section.contains("a=candidate:")), "{answer}");
    let first = fragments(&answer);
    assert_ne!(first[0], first[1], "{answer}");

    let restarted = peer.negotiate(&apart().replace("ufrag:wxyz", "ufrag:stuv"), BOARD).await.unwrap();
    let second = fragments(&restarted);
    assert!(second[0] == first[0] && second[1] != first[1], "{first:?}, then {second:?}");
    let both = apart().replace("ufrag:wxyz", "ufrag:rstu").replace("ufrag:abcd", "ufrag:efgh");
    let third = fragments(&peer.negotiate(&both, BOARD).await.unwrap());
    assert!(third[0] != first[0] && third[1] != second[1], "{second:?}, then {third:?}");
    drop(peer);
    assert!(group.close(Duration::from_secs(2)).await, "both connections are closed");
}

#[tokio::test]
async fn candidates_name_the_section_of_their_transport_and_end_once() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let (mut peer, _) = stack.answer(&apart(), BOARD, Gathering::Trickle).await.unwrap();
    let mut sections = Vec::new();
    let ends = loop {
        match tokio::time::timeout(Duration::from_secs(5), peer.event()).await.expect("the last candidate") {
            Event::Candidate(Some(candidate)) => {
                sections.push((candidate.sdp_mid.unwrap(), candidate.sdp_m_line_index))
            }
            Event::Candidate(None) => break 1 + usize::from(has_another_end(&mut peer).await),
            _ => {}
        }
    };
    sections.sort();
    sections.dedup();
    assert_eq!(sections, [("0".to_owned(), Some(0)), ("1".to_owned(), Some(1))]);
    assert_eq!(ends, 1, "after the end no candidate is taken");

    let theirs = |mid: &str| Candidate {
        candidate: "candidate:1 1 udp 5 127.0.0.1 4000 typ host".into(),
        sdp_mid: Some(mid.to_owned()),
        sdp_m_line_index: None,
        username_fragment: None,
    };
    assert!(peer.add_candidate(theirs("1")).await.is_ok());
    assert!(peer.add_candidate(theirs("7")).await.unwrap_err().to_string().contains("a=mid:7"));
}

async fn has_another_end(peer: &mut Peer) -> bool {
    let end = async { while !matches!(peer.event().await, Event::Candidate(None)) {} };
    tokio::time::timeout(Duration::from_millis(500), end).await.is_ok()
}

#[tokio::test]
async fn the_transports_of_a_viewer_share_the_limits_of_one_viewer() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let (_one, _) = stack.answer(OFFER, BOARD, Gathering::Trickle).await.unwrap();
    let (two, answer) = stack.answer(&apart(), BOARD, Gathering::Trickle).await.unwrap();
    let candidates = answer.matches("a=candidate:").count();
    assert!(candidates <= 8, "{candidates} sockets for one viewer");
    let (first, second) = (two.shared.guard.additional(), two.shared.guard.additional());
    let addresses = guard::Addresses::default();
    let check = stun::tests::message(stun::BINDING_REQUEST, &[(stun::USERNAME, b"theirs:ours")]);
    // At most one check every 20 ms over all connections.
    let sends = |guard: &Guard, port: u16| {
        let to = std::net::SocketAddr::from(([198, 51, 100, 1], port));
        guard.on_send(&addresses, "192.0.2.1:5000".parse().unwrap(), to, &check, Instant::now())
    };
    let sent = [sends(&first, 1), sends(&second, 2), sends(&first, 3)];
    assert_eq!(sent.iter().filter(|one| **one != guard::SendVerdict::HeldBack).count(), 1, "{sent:?}");
}

/// tests/offers checks its cases without the stack; here the stack answers the same offers.
#[tokio::test]
async fn the_stack_accepts_each_offer_in_its_own_form() {
    let group = Group::new();
    let stack = Stack::new(Servers::default(), group.clone()).unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offers/cases");
    let mut answered = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let (offer, expected) = text.split_once("=>\n").unwrap();
        let offer: Vec<_> = offer.lines().filter(|line| !line.starts_with('#')).collect();
        let board = Board { has_sound: !text.contains("no sound"), ..BOARD };
        match stack.answer(&offer.join("\r\n"), board, Gathering::Trickle).await {
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
