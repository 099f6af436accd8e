//! Damaged offers: none causes a panic, and each answer is valid.

use std::io::Cursor;

use peercam::sdp::Offer;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::{Case, cases, outcome};

/// Fragments to insert.
const ODD: [&str; 14] = [
    "",
    "0",
    "-1",
    "65536",
    "99999999999999999999",
    "a=mid:0",
    "m=video 9 UDP/TLS/RTP/SAVPF 96",
    "a=group:BUNDLE",
    "\u{0}",
    "é\u{2028}",
    "a=fmtp:96 ;;==;",
    "a=candidate:1 1 udp 1 ::ffff:1.2.3.4 1 typ host",
    "\r",
    "%s%n",
];

/// A case's offer after one to eight random changes.
fn damaged(cases: &[Case], random: &mut SmallRng) -> String {
    let pick = |random: &mut SmallRng| cases.choose(random).expect("there are cases").offer.clone();
    let mut text = pick(random);
    for _ in 0..random.random_range(1..=8) {
        let mut lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
        let at = random.random_range(0..lines.len());
        let to = random.random_range(0..lines.len());
        match random.random_range(0..10) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(to, lines[at].clone()),
            2 => lines.swap(at, to),
            3 => lines.truncate(at + 1),
            4 => lines[at] = ODD.choose(random).expect("there are some").to_string(),
            5 => {
                let other = pick(random);
                let others: Vec<_> = other.split("\r\n").collect();
                lines.insert(to, others.choose(random).expect("it has lines").to_string());
            }
            6 => {
                let mut words: Vec<_> = lines[at].split(' ').map(str::to_owned).collect();
                let word = random.random_range(0..words.len());
                words[word] = ODD.choose(random).expect("there are some").to_string();
                lines[at] = words.join(" ");
            }
            7 => lines[at] = lines[at].replace(':', ODD.choose(random).expect("there are some")),
            _ => {
                let mut letters: Vec<char> = lines[at].chars().collect();
                if !letters.is_empty() {
                    let letter = random.random_range(0..letters.len());
                    letters[letter] = char::from(random.random_range(0x20..0x7f_u8));
                    lines[at] = letters.into_iter().collect();
                }
            }
        }
        text = lines.join("\r\n");
    }
    text
}

fn survive(count: u32, seed: u64) {
    let (cases, mut random) = (cases(), SmallRng::seed_from_u64(seed));
    let (mut answered, mut bytes) = (0, 0);
    for number in 0..count {
        let text = damaged(&cases, &mut random);
        bytes += text.len();
        let board = cases[number as usize % cases.len()].board;
        match outcome(&text, board) {
            Ok(answer) => {
                answered += 1;
                let offer = Offer::read(&text, board).expect("it was answered");
                for reduced in (0..offer.transports()).map(|transport| offer.stack_offer(transport)) {
                    let taken = rtc::sdp::SessionDescription::unmarshal(&mut Cursor::new(reduced.as_bytes()));
                    assert!(taken.is_ok(), "{number}: the stack does not read {reduced}");
                }
                assert!(answer.starts_with("v=0\r\n") && answer.len() < 10 * text.len() + 1000, "{number}: {answer}");
                let sections = |text: &str| text.lines().filter(|line| line.trim().starts_with("m=")).count();
                assert_eq!(sections(&answer), sections(&text), "{number}: {text}\n{answer}");
                let is_served = |line: &str| line.starts_with("m=") && !line.contains(" 0 ");
                assert!(answer.lines().any(is_served), "{number}: a session with nothing in it");
                assert!((1..=3).contains(&offer.transports()), "{number}: {answer}");
            }
            Err(refusal) => assert!((30..1000).contains(&refusal.len()), "{number}: {refusal}"),
        }
    }
    println!("{count} damaged offers, {bytes} bytes: {answered} answered, the others refused");
    assert!(answered > count / 10 && answered < count, "{answered} of {count} were answered: they are hardly damaged");
}

#[test]
fn twenty_thousand_damaged_offers_are_answered_or_refused() {
    survive(20_000, 1);
}

/// For a long run: `cargo test --release --test offers -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn two_million_damaged_offers_are_answered_or_refused() {
    survive(2_000_000, rand::random());
}
