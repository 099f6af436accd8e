//! The camera room with real GStreamer and its test picture.

use std::time::Duration;

use super::*;

fn config(width: u32, height: u32, fps: u32) -> Config {
    Config { source: "test".into(), width, height, fps, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_flow_and_begin_with_a_key_frame() {
    let group = Group::new();
    let camera = Camera::open(config(1280, 720, 30), &group);
    let mut viewer = camera.feed().subscribe();
    let first = viewer.next().await;
    assert!(first.is_key);
    assert!(first.captured.elapsed() < Duration::from_secs(1));
    let mut last = first.captured;
    for _ in 0..30 {
        let frame = viewer.next().await;
        assert!(frame.captured > last, "captured goes forward only");
        last = frame.captured;
    }
    let status = camera.status().borrow().clone();
    assert_eq!((status.state, status.encoder_starts, status.encoders_running), (State::Live, 1, 1));
    assert_eq!(*camera.profile().borrow(), H264Profile::CONSTRAINED_BASELINE);
    assert!(group.close(Duration::from_secs(3)).await);
}
