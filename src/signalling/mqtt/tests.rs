//! Tests without I/O: messages in, calls and replies out.

use super::*;
use crate::command::CommandQueue;
use crate::ice::Servers;
use crate::signalling::Call;
use crate::tasks::Group;

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n";

/// MQTT signalling whose calls only the test answers.
struct Fixture {
    signalling: MqttSignalling,
    calls: mpsc::Receiver<Call>,
    replied: mpsc::Receiver<Reply>,
    now: Instant,
}

impl Fixture {
    fn new(max_channels: usize) -> Self {
        let (sender, calls) = mpsc::channel(4);
        let (replies, replied) = mpsc::channel(REPLY_QUEUE);
        let signalling_context = SignallingContext {
            calls: sender,
            commands: CommandQueue::new(1).0,
            servers: Servers::default(),
            group: Group::new(),
        };
        let signalling = MqttSignalling::new(signalling_context, replies, max_channels);
        let now = signalling.lost_at + Duration::from_secs(1);
        Self { signalling, calls, replied, now }
    }

    fn message(payload: impl Into<Bytes>) -> Message {
        Message { topic: String::new(), payload: payload.into(), is_retained: false, reply: None }
    }

    /// The signals that answer a viewer's message.
    fn receives(&mut self, name: &str, payload: impl Into<Bytes>) -> Vec<(String, Signal)> {
        self.signalling.handle_message(Some(name), &Self::message(payload), self.now);
        std::mem::take(&mut self.signalling.outbox)
    }

    fn offers(&mut self, name: &str, sdp: &str) -> Vec<(String, Signal)> {
        self.receives(name, Signal::Offer { sdp: sdp.into(), camera: None }.text())
    }

    fn candidate(&mut self, name: &str, number: usize) -> Vec<(String, Signal)> {
        let candidate = Some(Candidate { candidate: number.to_string(), ..Candidate::default() });
        self.receives(name, Signal::Candidate { candidate }.text())
    }

    /// The next call and its signals so far, which begin with an offer.
    fn call(&mut self) -> (Call, Vec<Signal>) {
        let mut call = self.calls.try_recv().expect("somebody called");
        let signals: Vec<_> = std::iter::from_fn(|| call.incoming.try_recv().ok()).collect();
        assert!(matches!(signals.first(), Some(Signal::Offer { .. })), "{signals:?}");
        (call, signals)
    }

    fn has_no_call(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// Forwards the next signal from a channel.
    async fn reply(&mut self) -> Vec<(String, Signal)> {
        let Reply { name, channel, signal } = self.replied.recv().await.unwrap();
        self.signalling.pass_on(name, channel, signal);
        std::mem::take(&mut self.signalling.outbox)
    }
}

fn code(outbox: &[(String, Signal)]) -> ErrorCode {
    match outbox {
        [(_, Signal::Error { code, .. })] => *code,
        other => panic!("not one error: {other:?}"),
    }
}

#[tokio::test]
async fn an_offer_becomes_a_call_that_may_only_watch_and_its_answer_goes_to_that_viewer() {
    let mut fixture = Fixture::new(4);
    let offer = Signal::Offer { sdp: OFFER.into(), camera: Some("yard".into()) };
    assert_eq!(fixture.receives("anna", offer.text()), []);
    let (call, _) = fixture.call();
    assert_eq!(
        (call.transport, &call.grant, call.camera.as_deref()),
        (Transport::Mqtt, &Grant::broker_viewer(), Some("yard"))
    );
    let answer = Signal::Answer { sdp: "v=0".into() };
    call.outgoing.try_send(answer.clone()).unwrap();
    assert_eq!(fixture.reply().await, [("anna".to_owned(), answer)]);
}

#[tokio::test]
async fn candidates_before_the_offer_are_kept_in_order_and_occupy_no_place() {
    let mut fixture = Fixture::new(4);
    for number in 0..MAX_EARLY {
        assert_eq!(fixture.candidate("anna", number), []);
    }
    assert_eq!(code(&fixture.candidate("anna", 99)), ErrorCode::BadCandidate);
    assert!(fixture.has_no_call());
    fixture.offers("anna", OFFER);
    let (_call, signals) = fixture.call();
    assert_eq!(signals.len(), 1 + MAX_EARLY);
    let Signal::Candidate { candidate: Some(last) } = &signals[MAX_EARLY] else { panic!("{signals:?}") };
    assert_eq!(last.candidate, (MAX_EARLY - 1).to_string());
}

#[tokio::test]
async fn candidates_without_an_offer_are_dropped() {
    let mut fixture = Fixture::new(4);
    fixture.candidate("anna", 0);
    fixture.now += EARLY_TIMEOUT + Duration::from_secs(1);
    fixture.offers("anna", OFFER);
    assert_eq!(fixture.call().1.len(), 1);
}

#[tokio::test]
async fn a_repeated_offer_is_answered_once_but_again_after_an_outage_and_after_a_minute() {
    let mut fixture = Fixture::new(4);
    fixture.offers("anna", OFFER);
    let (mut call, _) = fixture.call();
    assert_eq!(fixture.offers("anna", OFFER), []);
    assert!(fixture.has_no_call() && call.incoming.try_recv().is_err());

    fixture.now += Duration::from_secs(1);
    fixture.signalling.connection_lost(fixture.now);
    fixture.now += Duration::from_secs(1);
    fixture.offers("anna", OFFER);
    assert!(matches!(call.incoming.try_recv(), Ok(Signal::Offer { .. })), "the answer may have been lost");
    fixture.offers("anna", OFFER);
    assert!(call.incoming.try_recv().is_err());

    fixture.now += REPEAT_WINDOW;
    fixture.offers("anna", OFFER);
    assert!(matches!(call.incoming.try_recv(), Ok(Signal::Offer { .. })));
    assert!(fixture.has_no_call());
}

#[tokio::test]
async fn a_refused_offer_may_be_repeated_at_once() {
    let mut fixture = Fixture::new(4);
    fixture.offers("anna", OFFER);
    let (call, _) = fixture.call();
    call.outgoing.try_send(Signal::error(ErrorCode::TooManyViewers, "full")).unwrap();
    drop(call);
    assert_eq!(code(&fixture.reply().await), ErrorCode::TooManyViewers);
    assert_eq!(fixture.reply().await, []);
    fixture.offers("anna", OFFER);
    fixture.call();
}

#[tokio::test]
async fn a_further_offer_of_the_same_connection_goes_to_its_call_and_another_replaces_it() {
    let mut fixture = Fixture::new(4);
    fixture.offers("anna", OFFER);
    let (mut first, _) = fixture.call();
    fixture.offers("anna", &OFFER.replace("1 2 IN", "1 3 IN"));
    assert!(matches!(first.incoming.try_recv(), Ok(Signal::Offer { .. })));
    assert!(fixture.has_no_call());

    fixture.offers("anna", &OFFER.replace("1 2 IN", "7 2 IN"));
    assert!(matches!(first.incoming.try_recv(), Ok(Signal::Bye { .. })));
    let (second, _) = fixture.call();
    first.outgoing.try_send(Signal::bye("the viewer left")).unwrap();
    assert_eq!(fixture.reply().await, [], "what the old line says is not for the new connection");
    drop(first);
    assert_eq!(fixture.reply().await, []);
    second.outgoing.try_send(Signal::bye("shutting down")).unwrap();
    assert_eq!(fixture.reply().await.len(), 1);
}

#[tokio::test]
async fn after_the_end_of_a_call_a_new_offer_opens_another() {
    let mut fixture = Fixture::new(1);
    fixture.offers("anna", OFFER);
    drop(fixture.call());
    assert_eq!(fixture.reply().await, []);
    assert_eq!(fixture.signalling.open_channels(), 0);
    fixture.offers("anna", &OFFER.replace("1 2 IN", "1 3 IN"));
    fixture.call();
}

#[tokio::test]
async fn too_many_calls_are_refused_explicitly() {
    let mut fixture = Fixture::new(1);
    fixture.offers("anna", OFFER);
    let _call = fixture.call();
    assert_eq!(code(&fixture.offers("ben", OFFER)), ErrorCode::TooManyViewers);
    assert!(fixture.has_no_call());
}

#[tokio::test]
async fn a_burst_of_calls_beyond_the_queue_is_refused_without_waiting() {
    let mut fixture = Fixture::new(100);
    let outbox: Vec<_> = (0..6).flat_map(|number| fixture.offers(&format!("v{number}"), OFFER)).collect();
    assert_eq!(outbox.len(), 2, "the calls' queue holds four");
    assert!(outbox.iter().all(|(_, signal)| matches!(signal, Signal::Error { code: ErrorCode::Internal, .. })));
}

#[tokio::test]
async fn invalid_messages_get_an_error_and_change_nothing() {
    let mut fixture = Fixture::new(4);
    fixture.offers("anna", OFFER);
    let (mut call, _) = fixture.call();
    let nested = "[".repeat(100_000);
    let long = format!("{{\"type\":\"offer\",\"sdp\":\"{}\"}}", "x".repeat(crate::signalling::MAX_BYTES));
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
        let outbox = fixture.receives("anna", payload.to_vec());
        assert_eq!(code(&outbox), ErrorCode::BadMessage);
    }
    assert!(call.incoming.try_recv().is_err() && fixture.has_no_call());
    fixture.candidate("anna", 1);
    assert!(matches!(call.incoming.try_recv(), Ok(Signal::Candidate { .. })), "the line is as it was");
}

#[tokio::test]
async fn error_replies_are_limited_per_viewer_and_in_total() {
    let mut fixture = Fixture::new(4);
    let answered = (0..50).filter(|_| !fixture.receives("anna", "?").is_empty()).count();
    assert_eq!(answered, 10);
    fixture.now += Duration::from_secs(10);
    let answered = (0..500).filter(|number| !fixture.receives(&format!("v{number}"), "?").is_empty()).count();
    assert_eq!(answered, 100);
}

#[tokio::test]
async fn invalid_names_and_retained_messages_are_ignored() {
    let mut fixture = Fixture::new(4);
    let long = "a".repeat(MAX_NAME + 1);
    for name in ["", "a b", "a.b", "é", "+", "#", "$SYS", &long] {
        assert_eq!(fixture.offers(name, OFFER), [], "{name}");
    }
    let kept =
        Message { is_retained: true, ..Fixture::message(Signal::Offer { sdp: OFFER.into(), camera: None }.text()) };
    fixture.signalling.handle_message(Some("anna"), &kept, fixture.now);
    assert!(fixture.has_no_call() && fixture.signalling.viewers.is_empty() && fixture.signalling.outbox.is_empty());
}

#[tokio::test]
async fn viewers_without_a_call_are_limited_and_those_with_one_are_kept() {
    let mut fixture = Fixture::new(4);
    fixture.offers("anna", OFFER);
    let _call = fixture.call();
    for number in 0..1000 {
        fixture.candidate(&format!("v{number}"), 0);
        fixture.now += Duration::from_millis(1);
    }
    assert!(fixture.signalling.viewers.len() <= MAX_WITHOUT_CHANNEL + 1);
    assert!(fixture.signalling.viewers.contains_key("anna"));
    fixture.now += REPEAT_WINDOW;
    fixture.candidate("ben", 0);
    assert_eq!(fixture.signalling.viewers.len(), 2);
}

#[tokio::test]
async fn ice_servers_are_sent_without_a_call() {
    let mut fixture = Fixture::new(4);
    let outbox = fixture.receives("anna", r#"{"type":"ice-servers"}"#);
    assert_eq!(outbox, [("anna".to_owned(), Signal::IceServers { servers: vec![], lifetime: None })]);
    assert!(fixture.has_no_call());
}
