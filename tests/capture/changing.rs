//! Changes of settings by an operator while there are viewers.

use super::*;
use peercam::media::Purpose;

/// The size of the picture that a key frame holds.
fn size_of(frame: &Frame) -> (u32, u32) {
    let pictures = decoded("h264parse ! openh264dec", H264, std::slice::from_ref(&frame.data));
    (pictures[0].info.width(), pictures[0].info.height())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_reaches_the_viewers_and_begins_with_a_key_frame() {
    let group = Group::new();
    let camera = Camera::open(config(640, 360, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    assert_eq!(size_of(&frames(&mut viewer, 3).await[0]), (640, 360));
    let wanted = Config { width: 320, height: 180, fps: 15, ..camera.config() };
    in_time(camera.configure(wanted.clone())).await.unwrap();
    let status = camera.status().borrow().clone();
    assert_eq!((status.state, status.encoder_starts, status.encoders_running), (State::Live, 2, 1));
    assert_eq!(camera.config(), wanted);
    let first = in_time(viewer.next()).await;
    assert!(first.is_key, "frames from before cannot be continued");
    assert_eq!(size_of(&first), (320, 180));
    assert_eq!(camera.feed().demand().now().readers(), 1, "the viewer stayed subscribed");
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_work_are_refused_and_the_former_ones_restored() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    frames(&mut viewer, 3).await;
    let former = camera.config();
    // This machine has no such encoder, which only the attempt shows.
    let wanted = Config { encoder: "nvh264enc".into(), ..former.clone() };
    let error = in_time(camera.configure(wanted)).await.unwrap_err().to_string();
    assert!(error.contains("no encoder works here: nvh264enc"), "{error}");
    assert_eq!(camera.config(), former);
    let mut status = camera.status();
    in_time(status.wait_for(|status| status.state == State::Live && status.reason.is_none())).await.unwrap();
    assert!(in_time(viewer.next()).await.is_key);
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_values_are_named_before_anything_changes() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let wanted = Config { width: 321, bitrate: 1, name: "other".into(), ..camera.config() };
    let error = camera.configure(wanted).await.unwrap_err().to_string();
    for key in ["`width`: 321 is no even number", "`bitrate`: 1 kbit/s is not from 50", "`name`: cannot be changed"] {
        assert!(error.contains(key), "{error}");
    }
    for (width, height, is_possible) in
        [(4096, 4096, false), (4096, 2306, false), (4096, 2304, true), (2304, 4096, true)]
    {
        let wanted = Config { width, height, ..camera.config() };
        let told =
            wanted.check().iter().any(|(key, why)| *key == "height" && why.contains("larger picture than 4096x2304"));
        assert_eq!(told, !is_possible, "{width}x{height}: {:?}", wanted.check());
    }
    let microphone =
        Microphone::open(AudioConfig { capture: "test".into(), ..AudioConfig::default() }, &[], &launcher(), &group);
    let wanted = AudioConfig { capture: "off".into(), channels: 3, ..AudioConfig::default() };
    let error = microphone.unwrap().configure(wanted).await.unwrap_err().to_string();
    assert!(error.contains("`channels`: 3 is neither") && error.contains("`capture`: cannot become"), "{error}");
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_without_viewers_apply_from_the_next_start() {
    let group = Group::new();
    let camera = Camera::open(config(640, 360, 30), &launcher(), &group);
    in_time(camera.configure(config(320, 180, 30))).await.unwrap();
    assert_eq!(camera.status().borrow().encoder_starts, 0);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    assert_eq!(size_of(&*in_time(viewer.next()).await), (320, 180));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_concurrent_settings_the_later_apply_and_the_earlier_are_rejected() {
    let group = Group::new();
    let camera = Camera::open(config(640, 360, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    frames(&mut viewer, 3).await;
    let (earlier, later) =
        in_time(async { tokio::join!(camera.configure(config(320, 240, 30)), camera.configure(config(320, 180, 30))) })
            .await;
    // The earlier settings may or may not have been in effect before the later came; their request is answered either
    // way.
    assert!(earlier.is_ok() || matches!(earlier, Err(Error::Superseded)), "{earlier:?}");
    later.unwrap();
    assert_eq!(camera.config(), config(320, 180, 30));
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_closes_the_device_and_viewers_stay_subscribed() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    let last = frames(&mut viewer, 3).await[2].captured;
    camera.set_privacy(Privacy::On).await.unwrap();
    let status = camera.status().borrow().clone();
    assert_eq!((status.state, status.encoders_running), (State::Private, 0));
    assert_eq!(status.reason.as_deref(), Some("privacy is on"));
    assert_eq!(camera.feed().newest(), None, "earlier frames are not shown either");
    let begun = Instant::now();
    assert!(matches!(camera.snapshot().await, Err(Error::Private)));
    assert!(matches!(camera.controls().await, Err(Error::Private)));
    assert!(begun.elapsed() < Duration::from_secs(1), "a refusal is not waited for");
    // Key frame requests, new viewers and a restart do not open it.
    camera.key_frame();
    camera.restart();
    let _another = camera.feed().subscribe(Purpose::Viewer);
    in_time(camera.configure(config(640, 360, 30))).await.unwrap();
    assert_eq!(camera.status().borrow().encoder_starts, 1);
    camera.set_privacy(Privacy::Off).await.unwrap();
    let frame = in_time(viewer.next()).await;
    assert!(frame.is_key && frame.captured > last);
    assert_eq!(size_of(&frame), (640, 360), "the size that was set meanwhile");
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_begins_private_is_not_opened_even_with_keep_warm() {
    let group = Group::new();
    let preset = Preset { privacy: Privacy::On, ..Preset::default() };
    let camera = Camera::open_with(Config { keep_warm: true, ..config(320, 180, 30) }, preset, &launcher(), &group);
    let mut status = camera.status();
    in_time(status.wait_for(|status| status.state == State::Private)).await.unwrap();
    assert_eq!(status.borrow().encoder_starts, 0);
    camera.set_privacy(Privacy::Off).await.unwrap();
    in_time(status.wait_for(|status| status.state == State::Live)).await.unwrap();
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_viewers_and_replaces_the_pipeline() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let mut viewer = camera.feed().subscribe(Purpose::Viewer);
    frames(&mut viewer, 3).await;
    let mut status = camera.status();
    camera.restart();
    in_time(status.wait_for(|status| status.encoder_starts == 2 && status.state == State::Live)).await.unwrap();
    while !in_time(viewer.next()).await.is_key {}
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_microphone_changes_its_bitrate_while_running_and_its_channels_by_a_restart() {
    let group = Group::new();
    let test = AudioConfig { capture: "test".into(), bitrate: 16, ..AudioConfig::default() };
    let microphone = Microphone::open(test.clone(), &[], &launcher(), &group).unwrap();
    let mut listener = microphone.feed().subscribe(Purpose::Viewer);
    // Over a second each: the tone beeps for a tenth of it.
    let mut loudest = async || frames(&mut listener, 60).await.iter().map(|packet| packet.data.len()).max().unwrap();
    let thrifty = loudest().await;
    in_time(microphone.configure(AudioConfig { bitrate: 256, ..test.clone() })).await.unwrap();
    let generous = loudest().await;
    assert!(generous > 2 * thrifty, "{generous} bytes after {thrifty}");
    assert_eq!(microphone.status().borrow().encoder_starts, 1);
    in_time(microphone.configure(AudioConfig { channels: 2, ..test })).await.unwrap();
    assert_eq!((microphone.status().borrow().encoder_starts, microphone.config().channels), (2, 2));
    microphone.set_privacy(Privacy::On).await.unwrap();
    assert_eq!(microphone.status().borrow().state, State::Private);
    close(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_picture_has_no_controls_and_cannot_move() {
    let group = Group::new();
    let camera = Camera::open(config(320, 180, 30), &launcher(), &group);
    let pan = PtzMovement { pan: Some(AxisMotion::By(0.1)), ..PtzMovement::default() };
    for error in [camera.controls().await.unwrap_err(), camera.set_control("gain", 1).await.unwrap_err()] {
        assert_eq!(error.to_string(), "the test picture has no controls");
    }
    assert_eq!(camera.move_ptz(pan).await.unwrap_err().to_string(), "this camera cannot pan");
    close(group).await;
}
