//! Tests of admission: calls to a board with few places. None of these calls sends an offer.

use crate::access::Grant;
use crate::ice::Servers;
use crate::media::{Codec, Feed, Format, H264Profile};
use crate::signalling::SignallingChannel;
use crate::signalling::call;

use super::*;

struct Board {
    viewers: Viewers,
    calls: mpsc::Sender<Call>,
    group: Group,
}

impl Board {
    fn with_places(max: usize) -> Self {
        let group = Group::new();
        let source = Source {
            name: "main".into(),
            video: Feed::new(Format::of(Codec::H264(H264Profile::CONSTRAINED_BASELINE))),
            audio: None,
            has_sound: watch::channel(Some(false)).1,
            picture: watch::channel(Picture::default()).1,
        };
        let config = Config { max, servers: Servers::default() };
        let (calls, incoming) = mpsc::channel(64);
        let viewers = Viewers::open(&config, vec![source], incoming, CommandQueue::new(1).0, &group).unwrap();
        Self { viewers, calls, group }
    }

    async fn call(&self, transport: Transport) -> SignallingChannel {
        let (call, channel) = call(transport, Grant::secret(), None, None);
        self.calls.send(call).await.unwrap();
        channel
    }

    /// The number of places that viewers by `transport` hold.
    fn held(&self, transport: Transport) -> usize {
        self.viewers.list().iter().filter(|viewer| viewer.transport == transport).count()
    }
}

async fn reason(channel: &mut SignallingChannel) -> String {
    match channel.to_viewer.recv().await {
        Some(Signal::Bye { reason, .. } | Signal::Error { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unfinished_mqtt_calls_do_not_block_other_transports() {
    let board = Board::with_places(6);
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(board.call(Transport::Mqtt).await);
    }
    assert!(reason(&mut flood[59]).await.contains("all 6 places are taken"));
    let mut guests = vec![board.call(Transport::WebSocket).await, board.call(Transport::Whep).await];
    for (channel, transport) in guests.iter_mut().zip([Transport::WebSocket, Transport::Whep]) {
        for _ in 0..10 {
            flood.push(board.call(Transport::Mqtt).await);
        }
        channel.to_device.send(Signal::Candidate { candidate: None }).await.unwrap();
        assert!(reason(&mut flood.pop().unwrap()).await.contains("all 6 places are taken"));
        assert_eq!(board.held(transport), 1);
    }
    assert!(reason(&mut flood[0]).await.contains("others wait"), "the oldest gives way, and is told so");
    assert_eq!(board.held(Transport::Mqtt), 4);
    drop((guests, flood));
    // The sessions that gave up their place have ended too, and are counted once.
    assert!(board.group.close(Duration::from_secs(5)).await);
    assert_eq!(board.viewers.shared.leaving.load(Ordering::Relaxed), 0);
    assert_eq!(*board.viewers.count().borrow(), 0);
}

#[tokio::test]
async fn totals_include_present_and_former_viewers() {
    let board = Board::with_places(2);
    let channel = board.call(Transport::WebSocket).await;
    while board.held(Transport::WebSocket) == 0 {
        tokio::task::yield_now().await;
    }
    for member in board.viewers.shared.sessions().values() {
        member.stats.frames.store(7, Ordering::Relaxed);
    }
    assert_eq!(board.viewers.totals().frames, 7);
    drop(channel);
    while board.held(Transport::WebSocket) == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!((board.viewers.totals().frames, board.viewers.totals().admitted), (7, 1));
    assert!(board.group.close(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_dismissed_viewer_ends_despite_queued_identify_notices() {
    let board = Board::with_places(2);
    let mut channel = board.call(Transport::WebSocket).await;
    while board.held(Transport::WebSocket) == 0 {
        tokio::task::yield_now().await;
    }
    // Without an await in between, the session cannot take any of them.
    for _ in 0..100 {
        board.viewers.identify(Duration::from_secs(1));
    }
    let name = board.viewers.list()[0].viewer.clone();
    assert!(board.viewers.dismiss(&name, "enough"));
    assert_eq!(reason(&mut channel).await, "enough");
}

#[tokio::test]
async fn a_call_is_limited_by_its_grant() {
    let board = Board::with_places(2);
    let cases = [
        (Grant::broker_operator(), None, ErrorCode::NotAllowed, "may not see pictures"),
        (Grant::secret().until(Instant::now()), None, ErrorCode::NotAllowed, "has ended"),
        (Grant::secret().of_camera("door"), Some("main"), ErrorCode::NotAllowed, "for the camera `door` only"),
        // Without a camera name it asks for the grant's camera, which does not exist.
        (Grant::secret().of_camera("door"), None, ErrorCode::UnknownCamera, "there is: main"),
    ];
    for (grant, camera, expected, words) in cases {
        let (call, mut channel) = call(Transport::WebSocket, grant, camera.map(str::to_owned), None);
        board.calls.send(call).await.unwrap();
        match channel.to_viewer.recv().await {
            Some(Signal::Error { code, reason }) => {
                assert!(code == expected && reason.contains(words), "{code:?} {reason}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_ends_with_its_grant() {
    let board = Board::with_places(2);
    let grant = Grant::secret().until(Instant::now() + Duration::from_millis(50));
    let (call, mut channel) = call(Transport::WebSocket, grant, None, None);
    board.calls.send(call).await.unwrap();
    match channel.to_viewer.recv().await {
        Some(Signal::Bye { reason, code }) => {
            assert_eq!(
                (reason.as_str(), code),
                ("this access has ended", Some(crate::signalling::CloseReason::Dismissed))
            );
        }
        other => panic!("{other:?}"),
    }
}
