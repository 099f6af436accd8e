//! Tests of candidates: usable ones, and their priorities.

use super::*;

#[test]
fn unusable_candidates_are_left_out() {
    let usable = [
        "1 1 udp 5 192.0.2.7 4000 typ host",
        "a=candidate:1 1 udp 5 192.0.2.7 4000 typ host generation 0 ufrag aB+/ network-id 1 network-cost 10\r\n",
        "candidate:1 1 udp 1677729535 192.0.2.7 4000 typ srflx",
        "candidate:a 1 UDP 9 2001:db8::1 1 typ relay raddr x rport y z",
    ];
    for text in usable {
        assert!(Candidate::read(text).unwrap().is_some(), "{text}");
    }
    let unreadable = [
        "",
        "candidate:",
        "1 1 udp 5 192.0.2.7 4000 typ",
        "1 1 udp x 192.0.2.7 1 typ host",
        "1 1 udp 5 192.0.2.7 70000 typ host",
    ];
    for text in unreadable {
        assert!(Candidate::read(text).is_err(), "{text}");
    }
    let odd = [
        "1 2 udp 5 192.0.2.7 4000 typ host",
        "1 1 tcp 5 192.0.2.7 9 typ host tcptype active",
        "1 1 ssltcp 5 192.0.2.7 443 typ host",
        "1 1 udp 5 0a1b.local 4000 typ host",
        "1 1 udp 5 host.example 4000 typ host",
        "1 1 udp 5 fe80::1%eth0 4000 typ host",
        "1 1 udp 5 fe80::1 4000 typ host",
        "1 1 udp 99999999999 192.0.2.7 4000 typ host",
        "1 1 udp 5 192.0.2.7 0 typ host",
        "1 1 udp 5 239.1.1.1 4000 typ host",
        "1 1 udp 5 255.255.255.255 4000 typ host",
        "1 1 udp 5 0.0.0.0 4000 typ host",
        "1 1 udp 5 192.0.2.7 4000 typ other",
    ];
    for text in odd {
        assert_eq!(Candidate::read(text), Ok(None), "{text}");
    }
    let many: String = (0..40u8).map(|n| format!("a=candidate:1 1 udp {n} 192.0.2.{n} 4000 typ host\r\n")).collect();
    let text = offer().replace(
        "a=mid:1\r\n",
        &format!("a=mid:1\r\n{many}a=candidate:{}\r\n", [&unreadable[..], &odd[..]].concat().join("\r\na=candidate:")),
    );
    let stack_offer = Offer::read(&text, BOARD).unwrap().stack_offer(0);
    assert_eq!(stack_offer.matches("a=candidate:").count(), 32);
    assert!(
        stack_offer.contains("192.0.2.39") && !stack_offer.contains("192.0.2.7 "),
        "the best are kept: {stack_offer}"
    );
}

#[test]
fn ranked_candidates_have_different_priorities() {
    let host = Candidate::read("1 1 udp 5 192.0.2.7 4000 typ host").unwrap().unwrap();
    assert_eq!(host.clone().ranked(0).to_string(), "1 1 udp 2130706431 192.0.2.7 4000 typ host");
    assert_eq!(host.clone().ranked(1).priority, host.clone().ranked(0).priority - 256);
    assert_eq!(host.ranked(1 << 20).priority, (126 << 24) + 255);
    let relayed =
        Candidate::read("1 1 udp 5 192.0.2.7 4000 typ relay raddr 10.0.0.1 rport 1").unwrap().unwrap().ranked(0);
    assert_eq!(relayed.to_string(), "1 1 udp 16777215 192.0.2.7 4000 typ relay raddr 0.0.0.0 rport 0");
}
