//! Calls that come to a board with few places. No call here gets as far as an offer.

use crate::ice::Servers;
use crate::media::{Feed, H264Profile};
use crate::signalling::Line;
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
            video: Feed::new(),
            audio: None,
            has_sound: watch::channel(Some(false)).1,
            profile: watch::channel(H264Profile::CONSTRAINED_BASELINE).1,
            picture: watch::channel(Picture::default()).1,
        };
        let config = Config { max, servers: Servers::default() };
        let (calls, incoming) = mpsc::channel(64);
        let viewers = Viewers::open(&config, vec![source], incoming, Desk::new(1).0, &group).unwrap();
        Self { viewers, calls, group }
    }

    async fn call(&self, way: Way) -> Line {
        let (call, line) = call(way, None, None);
        self.calls.send(call).await.unwrap();
        line
    }

    /// How many places each way has.
    fn held(&self, way: Way) -> usize {
        self.viewers.list().iter().filter(|viewer| viewer.way == way).count()
    }
}

async fn reason(line: &mut Line) -> String {
    match line.to_viewer.recv().await {
        Some(Signal::Bye { reason, .. } | Signal::Error { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_by_the_broker_that_never_finish_keep_nobody_out() {
    let board = Board::with_places(6);
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(board.call(Way::Mqtt).await);
    }
    assert!(reason(&mut flood[59]).await.contains("all 6 places are taken"));
    let mut guests = vec![board.call(Way::WebSocket).await, board.call(Way::Whep).await];
    for (line, way) in guests.iter_mut().zip([Way::WebSocket, Way::Whep]) {
        for _ in 0..10 {
            flood.push(board.call(Way::Mqtt).await);
        }
        line.to_device.send(Signal::Candidate { candidate: None }).await.unwrap();
        assert!(reason(&mut flood.pop().unwrap()).await.contains("all 6 places are taken"));
        assert_eq!(board.held(way), 1);
    }
    assert!(reason(&mut flood[0]).await.contains("others wait"), "the oldest gives way, and is told so");
    assert_eq!(board.held(Way::Mqtt), 4);
    drop((guests, flood));
    // Who gave its place away has ended too, and is counted once.
    assert!(board.group.close(Duration::from_secs(5)).await);
    assert_eq!(board.viewers.shared.leaving.load(Ordering::Relaxed), 0);
    assert_eq!(*board.viewers.count().borrow(), 0);
}

#[tokio::test]
async fn totals_count_who_is_watching_and_who_has_left() {
    let board = Board::with_places(2);
    let line = board.call(Way::WebSocket).await;
    while board.held(Way::WebSocket) == 0 {
        tokio::task::yield_now().await;
    }
    for member in board.viewers.shared.sessions().values() {
        member.progress.frames.store(7, Ordering::Relaxed);
    }
    assert_eq!(board.viewers.totals().frames, 7);
    drop(line);
    while board.held(Way::WebSocket) == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!((board.viewers.totals().frames, board.viewers.totals().admitted), (7, 1));
    assert!(board.group.close(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn who_is_dismissed_goes_however_often_the_board_showed_itself() {
    let board = Board::with_places(2);
    let mut line = board.call(Way::WebSocket).await;
    while board.held(Way::WebSocket) == 0 {
        tokio::task::yield_now().await;
    }
    // Not a moment in between in which the session could take them.
    for _ in 0..100 {
        board.viewers.identify(Duration::from_secs(1));
    }
    let name = board.viewers.list()[0].viewer.clone();
    assert!(board.viewers.dismiss(&name, "enough"));
    assert_eq!(reason(&mut line).await, "enough");
}
