//! Tests of sessions with a test peer: each state, and what can go wrong in it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::access::Grant;
use crate::command::{CommandQueue, Requests};
use crate::media::{Bitrate, Codec, Feed, Format, H264Profile};
use crate::signalling::{SignallingChannel, call};
use crate::viewer::peer::test_peer::{self, Done, Remote};

/// One session, and the other ends of all its channels.
struct Fixture {
    channel: SignallingChannel,
    stack: test_peer::Stack,
    peers: mpsc::UnboundedReceiver<Remote>,
    video: Feed,
    audio: Feed,
    notices: mpsc::Sender<Notice>,
    stats: Arc<SessionStats>,
    requests: Requests,
    group: Group,
}

impl Fixture {
    fn begin(transport: Transport) -> Self {
        let group = Group::new();
        let video = Feed::new(Format::of(Codec::H264(H264Profile::CONSTRAINED_BASELINE)));
        let audio = Feed::new(Format::of(Codec::Opus));
        let source = Source {
            name: "main".into(),
            video: video.clone(),
            audio: Some(audio.clone()),
            has_sound: watch::channel(Some(true)).1,
            picture: watch::channel(Picture { state: "live", reason: None }).1,
        };
        let (call, channel) = call(transport, Grant::secret(), None, None);
        let (stack, peers) = test_peer::Stack::new();
        let stats = Arc::new(SessionStats::new(transport, "main".into()));
        let (queue, requests) = CommandQueue::new(8);
        let (notices, noticed) = mpsc::channel(4);
        let commands = Commands::new(&queue, Grant::secret());
        let own = Stack::Test(stack.clone());
        let session = Session::new(call, source, own, stats.clone(), Instant::now(), commands, noticed);
        let (count, stop) = (watch::channel(1).1, group.clone());
        group.spawn(session.run(count, stop));
        Self { channel, stack, peers, video, audio, notices, stats, requests, group }
    }

    /// A session whose first offer was answered.
    async fn answered(transport: Transport) -> (Self, Remote) {
        let mut fixture = Self::begin(transport);
        fixture.offers("first").await;
        assert_eq!(fixture.next_signal().await, Signal::Answer { sdp: "answer to first".into() });
        let remote = fixture.peers.recv().await.unwrap();
        (fixture, remote)
    }

    /// A session whose viewer is watching.
    async fn watching() -> (Self, Remote) {
        let (fixture, remote) = Self::answered(Transport::WebSocket).await;
        remote.trigger(PeerEvent::PathFound);
        remote.trigger(PeerEvent::Connected);
        fixture.reaches(State::Watching).await;
        (fixture, remote)
    }

    async fn says(&self, signal: Signal) {
        self.channel.to_device.send(signal).await.unwrap();
    }

    async fn offers(&self, sdp: &str) {
        self.says(Signal::Offer { sdp: sdp.into(), camera: None }).await;
    }

    async fn next_signal(&mut self) -> Signal {
        let sent_text = tokio::time::timeout(Duration::from_secs(5), self.channel.to_viewer.recv()).await;
        sent_text.expect("a signal arrives in time").expect("the session goes on")
    }

    async fn reaches(&self, state: State) {
        while *self.stats.state.lock().unwrap() != state {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the end of the session and returns its reason.
    async fn ends(mut self) -> String {
        let reason = match self.next_signal().await {
            Signal::Bye { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert!(self.channel.to_viewer.recv().await.is_none(), "nothing follows the goodbye");
        assert!(self.group.close(Duration::from_secs(5)).await);
        assert_eq!((self.video.demand().now().readers(), self.audio.demand().now().readers()), (0, 0));
        reason
    }
}

/// Waits for the next actions of the session.
async fn done(remote: &Remote) -> Vec<Done> {
    loop {
        let done = remote.take_done();
        if !done.is_empty() {
            return done;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits for the next frame that the session sends, and skips its messages.
async fn sent(remote: &Remote) -> (Kind, Vec<u8>) {
    loop {
        let sent = done(remote).await.into_iter().find_map(|done| match done {
            Done::Sent(kind, bytes) => Some((kind, bytes)),
            _ => None,
        });
        if let Some(sent) = sent {
            return sent;
        }
    }
}

/// Waits for the next message that the session sends on the data channel, as JSON.
async fn sent_text(remote: &Remote) -> Value {
    loop {
        let sent_text = done(remote).await.into_iter().find_map(|done| match done {
            Done::PageEvent(text) => Some(text),
            _ => None,
        });
        if let Some(text) = sent_text {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn candidate(text: &str) -> Signal {
    Signal::Candidate { candidate: Some(Candidate { candidate: text.into(), ..Candidate::default() }) }
}

fn frame(bytes: &'static [u8]) -> Frame {
    Frame::new(Bytes::from_static(bytes), Instant::now(), true)
}

#[tokio::test]
async fn video_and_audio_are_sent_once_the_viewer_is_connected() {
    let (fixture, remote) = Fixture::answered(Transport::WebSocket).await;
    assert_eq!(fixture.video.demand().now().viewers, 1, "the camera starts while ICE is at work");
    fixture.video.publish(frame(b"early"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(remote.take_done(), []);
    remote.trigger(PeerEvent::Connected);
    assert_eq!(sent(&remote).await, (Kind::Video, b"early".to_vec()), "it is fresh enough to begin with");
    fixture.reaches(State::Watching).await;
    while fixture.audio.demand().now().viewers == 0 {
        tokio::task::yield_now().await;
    }
    fixture.audio.publish(frame(b"sound"));
    assert_eq!(sent(&remote).await, (Kind::Audio, b"sound".to_vec()));
    fixture.says(Signal::bye("done")).await;
    assert_eq!(fixture.ends().await, "the viewer left");
}

#[tokio::test]
async fn a_repeated_offer_gets_the_same_answer_and_another_is_negotiated() {
    let (mut fixture, remote) = Fixture::answered(Transport::WebSocket).await;
    fixture.offers("first").await;
    assert_eq!(fixture.next_signal().await, Signal::Answer { sdp: "answer to first".into() });
    assert_eq!(remote.take_done(), []);
    fixture.offers("second").await;
    assert_eq!(fixture.next_signal().await, Signal::Answer { sdp: "answer to second".into() });
    assert_eq!(remote.take_done(), [Done::Negotiated("second".into())]);
}

#[tokio::test]
async fn an_offer_that_cannot_be_answered_is_refused_and_a_better_one_is_answered() {
    let mut fixture = Fixture::begin(Transport::WebSocket);
    let failures = [
        (Error::BadOffer("no section".into()), ErrorCode::BadOffer),
        (Error::NoCommonCodec("no H.264".into()), ErrorCode::NoCommonCodec),
        (Error::Stack("no socket".into()), ErrorCode::Internal),
    ];
    for (failure, expected) in failures {
        let words = failure.to_string();
        fixture.stack.fail(failure);
        fixture.offers("first").await;
        assert_eq!(fixture.next_signal().await, Signal::error(expected, words));
    }
    fixture.offers("first").await;
    assert_eq!(fixture.next_signal().await, Signal::Answer { sdp: "answer to first".into() });
}

#[tokio::test]
async fn candidates_before_the_offer_are_kept_and_those_after_the_end_of_candidates_are_refused() {
    let mut fixture = Fixture::begin(Transport::WebSocket);
    fixture.says(candidate("one")).await;
    fixture.says(candidate("two")).await;
    fixture.offers("first").await;
    assert!(matches!(fixture.next_signal().await, Signal::Answer { .. }));
    let remote = fixture.peers.recv().await.unwrap();
    fixture.says(candidate("three")).await;
    let mut found = Vec::new();
    while found.len() < 3 {
        found.extend(done(&remote).await);
    }
    assert_eq!(found, ["one", "two", "three"].map(|text| Done::Candidate(text.into())));
    fixture.stack.fail(Error::BadCandidate("no port".into()));
    fixture.says(candidate("odd")).await;
    assert!(matches!(fixture.next_signal().await, Signal::Error { code: ErrorCode::BadCandidate, .. }));
    fixture.says(Signal::Candidate { candidate: None }).await;
    fixture.says(candidate("late")).await;
    assert!(matches!(fixture.next_signal().await, Signal::Error { code: ErrorCode::BadCandidate, .. }));
}

#[tokio::test]
async fn the_number_of_candidates_kept_before_an_offer_is_limited() {
    let mut fixture = Fixture::begin(Transport::WebSocket);
    for _ in 0..=EARLY_CANDIDATES {
        fixture.says(candidate("one")).await;
    }
    assert!(matches!(fixture.next_signal().await, Signal::Error { code: ErrorCode::BadCandidate, .. }));
}

#[tokio::test]
async fn the_board_s_candidates_are_sent_in_order() {
    let (mut fixture, remote) = Fixture::answered(Transport::WebSocket).await;
    remote.trigger(PeerEvent::Candidate(Some(Candidate { candidate: "ours".into(), ..Candidate::default() })));
    remote.trigger(PeerEvent::Candidate(None));
    assert_eq!(fixture.next_signal().await, candidate("ours"));
    assert_eq!(fixture.next_signal().await, Signal::Candidate { candidate: None });
}

#[tokio::test]
async fn a_key_frame_request_is_passed_to_the_camera() {
    let (fixture, remote) = Fixture::watching().await;
    let before = fixture.video.demand().now().key_frames;
    remote.trigger(PeerEvent::KeyFrameWanted);
    while fixture.video.demand().now().key_frames == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_estimated_bitrate_is_passed_to_the_camera() {
    let (fixture, remote) = Fixture::watching().await;
    remote.trigger(PeerEvent::Estimate(Bitrate::kbps(600)));
    while fixture.video.demand().now().bitrate != Some(Bitrate::kbps(600)) {
        tokio::task::yield_now().await;
    }
    // Media from viewers is not accepted.
    remote.trigger(PeerEvent::Inbound(Kind::Audio, frame(b"hello")));
    fixture.video.publish(frame(b"next"));
    assert_eq!(sent(&remote).await, (Kind::Video, b"next".to_vec()));
}

#[tokio::test]
async fn a_viewer_that_pauses_video_lets_the_camera_stop() {
    let (mut fixture, remote) = Fixture::watching().await;
    remote.set_sending((false, true));
    fixture.offers("second").await;
    assert!(matches!(fixture.next_signal().await, Signal::Answer { .. }));
    assert_eq!((fixture.video.demand().now().viewers, fixture.audio.demand().now().viewers), (0, 1));
    remote.set_sending((true, false));
    fixture.offers("third").await;
    assert!(matches!(fixture.next_signal().await, Signal::Answer { .. }));
    assert_eq!((fixture.video.demand().now().viewers, fixture.audio.demand().now().viewers), (1, 0));
}

#[tokio::test]
async fn a_silent_path_interrupts_the_session_and_video_resumes_afterwards() {
    let (fixture, remote) = Fixture::watching().await;
    remote.trigger(PeerEvent::Disconnected);
    fixture.reaches(State::Interrupted).await;
    remote.trigger(PeerEvent::Connected);
    fixture.reaches(State::Watching).await;
    remote.trigger(PeerEvent::Disconnected);
    fixture.reaches(State::Interrupted).await;
    remote.trigger(PeerEvent::Closed);
    assert_eq!(fixture.ends().await, "the path to the viewer is lost");
}

#[tokio::test]
async fn a_connection_that_accepts_no_frames_ends_the_session() {
    let (fixture, _remote) = Fixture::watching().await;
    fixture.stack.fail(Error::Stack("closed".into()));
    fixture.video.publish(frame(b"next"));
    assert_eq!(fixture.ends().await, "the path to the viewer is lost");
}

#[tokio::test]
async fn a_session_sends_the_reason_for_its_end() {
    let cases: [(PeerEvent, &str); 4] = [
        (PeerEvent::Closed, "no path to the viewer was found; no relay answers"),
        (PeerEvent::ViewerClosed, "the viewer left; no relay answers"),
        (PeerEvent::Refused("bad certificate".into()), "the DTLS handshake failed; is a=fingerprint"),
        (PeerEvent::Message(r#"{"type":"bye"}"#.into()), "the viewer left; no relay answers"),
    ];
    for (event, expected) in cases {
        let (fixture, remote) = Fixture::answered(Transport::WebSocket).await;
        remote.trigger(event);
        let reason = fixture.ends().await;
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[tokio::test]
async fn closed_signalling_ends_the_session_only_before_the_offer() {
    let Fixture { channel, group, .. } = Fixture::begin(Transport::WebSocket);
    drop(channel);
    assert!(group.close(Duration::from_secs(5)).await);
    let (fixture, remote) = Fixture::watching().await;
    let Fixture { channel, video, .. } = fixture;
    drop(channel);
    video.publish(frame(b"next"));
    assert_eq!(sent(&remote).await, (Kind::Video, b"next".to_vec()));
}

#[tokio::test]
async fn a_session_dismissed_by_an_operator_has_a_code_against_reconnecting() {
    let (mut fixture, remote) = Fixture::watching().await;
    fixture.notices.send(Notice::Dismissed("enough".into())).await.unwrap();
    let expected = Signal::Bye { reason: "enough".into(), code: Some(CloseReason::Dismissed) };
    assert_eq!(fixture.next_signal().await, expected);
    let bye = loop {
        let sent_text = sent_text(&remote).await;
        if sent_text["type"] == "bye" {
            break sent_text;
        }
    };
    assert_eq!(bye, json!({ "type": "bye", "reason": "enough", "code": "dismissed" }));
}

#[tokio::test]
async fn a_shutdown_is_sent_to_the_viewer() {
    let (fixture, _remote) = Fixture::watching().await;
    let Fixture { mut channel, group, .. } = fixture;
    assert!(group.close(Duration::from_secs(5)).await);
    assert_eq!(channel.to_viewer.recv().await, Some(Signal::bye("the board shuts down")));
}

#[tokio::test]
async fn a_restarted_transport_goes_on_and_a_failed_restart_ends_the_session() {
    let (fixture, remote) = Fixture::watching().await;
    remote.trigger(PeerEvent::TransportClosed { transport: 0, is_main: true });
    fixture.reaches(State::Connecting).await;
    assert!(done(&remote).await.contains(&Done::TransportRestarted(0)));
    remote.trigger(PeerEvent::Connected);
    fixture.reaches(State::Watching).await;
    fixture.stack.fail(Error::Stack("no socket".into()));
    remote.trigger(PeerEvent::TransportClosed { transport: 0, is_main: true });
    assert_eq!(fixture.ends().await, "the path to the viewer is lost");
}

#[tokio::test]
async fn audio_on_its_own_transport_is_lost_without_ending_the_session() {
    let (fixture, remote) = Fixture::watching().await;
    while fixture.audio.demand().now().viewers == 0 {
        tokio::task::yield_now().await;
    }
    remote.trigger(PeerEvent::TransportLost("sound"));
    while fixture.audio.demand().now().viewers == 1 {
        tokio::task::yield_now().await;
    }
    fixture.video.publish(frame(b"next"));
    assert_eq!(sent(&remote).await, (Kind::Video, b"next".to_vec()));
}

#[tokio::test]
async fn a_viewer_that_has_stopped_all_media_may_send_another_offer() {
    let (fixture, remote) = Fixture::watching().await;
    remote.trigger(PeerEvent::Idle);
    fixture.reaches(State::Negotiating).await;
    fixture.offers("second").await;
    fixture.reaches(State::Connecting).await;
}

#[tokio::test]
async fn the_data_channel_answers_pings_accepts_commands_and_reports_invalid_messages() {
    let (mut fixture, remote) = Fixture::watching().await;
    remote.trigger(PeerEvent::ControlOpened);
    let first = sent_text(&remote).await;
    assert_eq!((&first["event"], &first["state"]), (&json!("camera"), &json!("live")));
    remote.take_done();
    remote.trigger(PeerEvent::Message(r#"{"type":"ping","sent":5}"#.into()));
    let pong = loop {
        let sent_text = sent_text(&remote).await;
        if sent_text["type"] == "pong" {
            break sent_text;
        }
    };
    assert_eq!((&pong["sent"], &pong["rtp"]), (&json!(5.0), &json!(7)));
    remote.trigger(PeerEvent::Message(r#"{"type":"command","id":"1","command":"key-frame"}"#.into()));
    assert_eq!(fixture.requests.next().await.unwrap().0.id, "1");
    remote.trigger(PeerEvent::Message("[[".into()));
    assert_eq!(sent_text(&remote).await["type"], "error");
}
