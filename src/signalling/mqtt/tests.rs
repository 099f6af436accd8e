//! Tests of the pure part: messages in, calls and replies out.

use super::*;
use crate::command::Desk;
use crate::ice::Servers;
use crate::signalling::{Call, Rights};
use crate::tasks::Group;

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n";

/// An exchange whose calls nobody answers but the test.
struct House {
    exchange: Exchange,
    calls: mpsc::Receiver<Call>,
    replied: mpsc::Receiver<Reply>,
    now: Instant,
}

impl House {
    fn new(most_lines: usize) -> Self {
        let (sender, calls) = mpsc::channel(4);
        let (replies, replied) = mpsc::channel(WAITING);
        let reception =
            Reception { calls: sender, desk: Desk::new(1).0, servers: Servers::default(), group: Group::new() };
        let exchange = Exchange::new(reception, replies, most_lines);
        let now = exchange.lost_at + Duration::from_secs(1);
        Self { exchange, calls, replied, now }
    }

    fn message(payload: impl Into<Bytes>) -> Message {
        Message { topic: String::new(), payload: payload.into(), is_retained: false, reply: None }
    }

    /// What is said in answer to a message of a viewer.
    fn hears(&mut self, name: &str, payload: impl Into<Bytes>) -> Vec<(String, Signal)> {
        self.exchange.take(Some(name), &Self::message(payload), self.now);
        std::mem::take(&mut self.exchange.said)
    }

    fn offers(&mut self, name: &str, sdp: &str) -> Vec<(String, Signal)> {
        self.hears(name, Signal::Offer { sdp: sdp.into(), camera: None }.text())
    }

    fn candidate(&mut self, name: &str, number: usize) -> Vec<(String, Signal)> {
        let candidate = Some(Candidate { candidate: number.to_string(), ..Candidate::default() });
        self.hears(name, Signal::Candidate { candidate }.text())
    }

    /// The next call and what it holds so far, which begins with an offer.
    fn call(&mut self) -> (Call, Vec<Signal>) {
        let mut call = self.calls.try_recv().expect("somebody called");
        let signals: Vec<_> = std::iter::from_fn(|| call.incoming.try_recv().ok()).collect();
        assert!(matches!(signals.first(), Some(Signal::Offer { .. })), "{signals:?}");
        (call, signals)
    }

    fn nobody_calls(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// Passes on what the lines say next.
    async fn reply(&mut self) -> Vec<(String, Signal)> {
        let Reply { name, line, signal } = self.replied.recv().await.unwrap();
        self.exchange.pass_on(name, line, signal);
        std::mem::take(&mut self.exchange.said)
    }
}

fn code(said: &[(String, Signal)]) -> Refusal {
    match said {
        [(_, Signal::Error { code, .. })] => *code,
        other => panic!("not one error: {other:?}"),
    }
}

#[tokio::test]
async fn an_offer_becomes_a_call_that_may_only_watch_and_its_answer_goes_to_that_viewer() {
    let mut house = House::new(4);
    let offer = Signal::Offer { sdp: OFFER.into(), camera: Some("yard".into()) };
    assert_eq!(house.hears("anna", offer.text()), []);
    let (call, _) = house.call();
    assert_eq!((call.way, call.rights, call.camera.as_deref()), (Way::Mqtt, Rights::Watch, Some("yard")));
    let answer = Signal::Answer { sdp: "v=0".into() };
    call.outgoing.try_send(answer.clone()).unwrap();
    assert_eq!(house.reply().await, [("anna".to_owned(), answer)]);
}

#[tokio::test]
async fn candidates_before_the_offer_are_kept_in_order_and_take_no_viewer_s_place() {
    let mut house = House::new(4);
    for number in 0..MOST_EARLY {
        assert_eq!(house.candidate("anna", number), []);
    }
    assert_eq!(code(&house.candidate("anna", 99)), Refusal::BadCandidate);
    assert!(house.nobody_calls());
    house.offers("anna", OFFER);
    let (_call, signals) = house.call();
    assert_eq!(signals.len(), 1 + MOST_EARLY);
    let Signal::Candidate { candidate: Some(last) } = &signals[MOST_EARLY] else { panic!("{signals:?}") };
    assert_eq!(last.candidate, (MOST_EARLY - 1).to_string());
}

#[tokio::test]
async fn candidates_whose_offer_never_comes_are_let_go() {
    let mut house = House::new(4);
    house.candidate("anna", 0);
    house.now += EARLY + Duration::from_secs(1);
    house.offers("anna", OFFER);
    assert_eq!(house.call().1.len(), 1);
}

#[tokio::test]
async fn a_repeated_offer_is_answered_once_but_again_after_an_outage_and_after_a_minute() {
    let mut house = House::new(4);
    house.offers("anna", OFFER);
    let (mut call, _) = house.call();
    assert_eq!(house.offers("anna", OFFER), []);
    assert!(house.nobody_calls() && call.incoming.try_recv().is_err());

    house.now += Duration::from_secs(1);
    house.exchange.lost_connection(house.now);
    house.now += Duration::from_secs(1);
    house.offers("anna", OFFER);
    assert!(matches!(call.incoming.try_recv(), Ok(Signal::Offer { .. })), "the answer may have been lost");
    house.offers("anna", OFFER);
    assert!(call.incoming.try_recv().is_err());

    house.now += REPEAT;
    house.offers("anna", OFFER);
    assert!(matches!(call.incoming.try_recv(), Ok(Signal::Offer { .. })));
    assert!(house.nobody_calls());
}

#[tokio::test]
async fn a_refused_offer_may_be_repeated_at_once() {
    let mut house = House::new(4);
    house.offers("anna", OFFER);
    let (call, _) = house.call();
    call.outgoing.try_send(Signal::error(Refusal::TooManyViewers, "full")).unwrap();
    drop(call);
    assert_eq!(code(&house.reply().await), Refusal::TooManyViewers);
    assert_eq!(house.reply().await, []);
    house.offers("anna", OFFER);
    house.call();
}

#[tokio::test]
async fn a_further_offer_of_the_same_connection_restarts_it_and_one_of_another_replaces_it() {
    let mut house = House::new(4);
    house.offers("anna", OFFER);
    let (mut first, _) = house.call();
    house.offers("anna", &OFFER.replace("1 2 IN", "1 3 IN"));
    assert!(matches!(first.incoming.try_recv(), Ok(Signal::Offer { .. })));
    assert!(house.nobody_calls());

    house.offers("anna", &OFFER.replace("1 2 IN", "7 2 IN"));
    assert!(matches!(first.incoming.try_recv(), Ok(Signal::Bye { .. })));
    let (second, _) = house.call();
    first.outgoing.try_send(Signal::bye("the viewer left")).unwrap();
    assert_eq!(house.reply().await, [], "what the old line says is not for the new connection");
    drop(first);
    assert_eq!(house.reply().await, []);
    second.outgoing.try_send(Signal::bye("shutting down")).unwrap();
    assert_eq!(house.reply().await.len(), 1);
}

#[tokio::test]
async fn after_the_end_of_a_call_a_new_offer_opens_another() {
    let mut house = House::new(1);
    house.offers("anna", OFFER);
    drop(house.call());
    assert_eq!(house.reply().await, []);
    assert_eq!(house.exchange.open_lines(), 0);
    house.offers("anna", &OFFER.replace("1 2 IN", "1 3 IN"));
    house.call();
}

#[tokio::test]
async fn too_many_lines_are_refused_explicitly() {
    let mut house = House::new(1);
    house.offers("anna", OFFER);
    let _call = house.call();
    assert_eq!(code(&house.offers("ben", OFFER)), Refusal::TooManyViewers);
    assert!(house.nobody_calls());
}

#[tokio::test]
async fn a_burst_of_calls_that_cannot_be_taken_is_refused_and_not_waited_for() {
    let mut house = House::new(100);
    let said: Vec<_> = (0..6).flat_map(|number| house.offers(&format!("v{number}"), OFFER)).collect();
    assert_eq!(said.len(), 2, "the calls' queue holds four");
    assert!(said.iter().all(|(_, signal)| matches!(signal, Signal::Error { code: Refusal::Internal, .. })));
}

#[tokio::test]
async fn what_makes_no_sense_gets_an_error_and_changes_nothing() {
    let mut house = House::new(4);
    house.offers("anna", OFFER);
    let (mut call, _) = house.call();
    let nested = "[".repeat(100_000);
    let long = format!("{{\"type\":\"offer\",\"sdp\":\"{}\"}}", "x".repeat(crate::signalling::MOST_BYTES));
    let bad: [&[u8]; 8] = [
        b"",
        b"hello",
        b"\xff\xfe",
        b"{\"type\":\"dance\"}",
        b"{\"type\":\"offer\"}",
        b"null",
        nested.as_bytes(),
        long.as_bytes(),
    ];
    for payload in bad {
        let said = house.hears("anna", payload.to_vec());
        assert_eq!(code(&said), Refusal::BadMessage);
    }
    assert!(call.incoming.try_recv().is_err() && house.nobody_calls());
    house.candidate("anna", 1);
    assert!(matches!(call.incoming.try_recv(), Ok(Signal::Candidate { .. })), "the line is as it was");
}

#[tokio::test]
async fn who_only_talks_nonsense_is_not_answered_for_ever_and_nor_are_many_together() {
    let mut house = House::new(4);
    let answered = (0..50).filter(|_| !house.hears("anna", "?").is_empty()).count();
    assert_eq!(answered, 10);
    house.now += Duration::from_secs(10);
    let answered = (0..500).filter(|number| !house.hears(&format!("v{number}"), "?").is_empty()).count();
    assert_eq!(answered, 100);
}

#[tokio::test]
async fn names_that_cannot_be_and_retained_messages_are_ignored() {
    let mut house = House::new(4);
    let long = "a".repeat(LONGEST_NAME + 1);
    for name in ["", "a b", "a.b", "é", "+", "#", "$SYS", &long] {
        assert_eq!(house.offers(name, OFFER), [], "{name}");
    }
    let kept =
        Message { is_retained: true, ..House::message(Signal::Offer { sdp: OFFER.into(), camera: None }.text()) };
    house.exchange.take(Some("anna"), &kept, house.now);
    assert!(house.nobody_calls() && house.exchange.viewers.is_empty() && house.exchange.said.is_empty());
}

#[tokio::test]
async fn names_without_a_line_are_bounded_and_those_with_one_are_kept() {
    let mut house = House::new(4);
    house.offers("anna", OFFER);
    let _call = house.call();
    for number in 0..1000 {
        house.candidate(&format!("v{number}"), 0);
        house.now += Duration::from_millis(1);
    }
    assert!(house.exchange.viewers.len() <= MOST_WAITING + 1);
    assert!(house.exchange.viewers.contains_key("anna"));
    house.now += REPEAT;
    house.candidate("ben", 0);
    assert_eq!(house.exchange.viewers.len(), 2);
}

#[tokio::test]
async fn servers_are_told_without_a_call() {
    let mut house = House::new(4);
    let said = house.hears("anna", r#"{"type":"ice-servers"}"#);
    assert_eq!(said, [("anna".to_owned(), Signal::IceServers { servers: vec![], lifetime: None })]);
    assert!(house.nobody_calls());
}
