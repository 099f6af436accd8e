//! Undocumented behaviour of drivers in use: layouts, sizes, errors, time stamps and controls.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::devices::Devices;
use crate::{AUTO, BESIDE, CARD, LIMIT, film, h264, is_live, one_each};
use testkit::player::{AUDIO, Bundling, Player, VIDEO};

const YUYV: &str = "format YUYV\nsize 320x240\nrate 15/1\nfps 15\n";
const NV12: &str = "format NV12\nsize 320x240\nrate 15/1\nfps 15\n";

/// The size of a JPEG, and whether it is white on the left and black on the right all the way down.
fn halves(jpeg: Vec<u8>) -> Result<(i32, i32, bool)> {
    gst::init()?;
    let text = "appsrc name=in ! jpegdec ! videoconvert ! video/x-raw,format=GRAY8 ! appsink name=out sync=false";
    let pipeline = gst::parse::launch(text)?.downcast::<gst::Pipeline>().ok().context("no pipeline")?;
    let source =
        pipeline.by_name("in").and_then(|found| found.downcast::<gst_app::AppSrc>().ok()).context("no source")?;
    let sink =
        pipeline.by_name("out").and_then(|found| found.downcast::<gst_app::AppSink>().ok()).context("no sink")?;
    source.set_caps(Some(&"image/jpeg".parse()?));
    pipeline.set_state(gst::State::Playing)?;
    source.push_buffer(gst::Buffer::from_slice(jpeg))?;
    source.end_of_stream()?;
    let sample = sink.try_pull_sample(gst::ClockTime::from_seconds(10)).context("no picture")?;
    pipeline.set_state(gst::State::Null)?;
    let caps = sample.caps_owned().context("no caps")?;
    let structure = caps.structure(0).context("no structure")?;
    let (width, height): (i32, i32) = (structure.get("width")?, structure.get("height")?);
    let grey = sample.buffer().context("no buffer")?.map_readable()?.to_vec();
    let line = (width as usize).next_multiple_of(4);
    let at = |x: i32, y: i32| grey[y as usize * line + x as usize];
    let is_right = |y: i32| {
        let (left, right) = ([8, width / 2 - 8], [width / 2 + 8, width - 8]);
        left.iter().all(|x| at(*x, y) > 200) && right.iter().all(|x| at(*x, y) < 50)
    };
    Ok((width, height, [4, height / 3, height / 2, height - 4].into_iter().all(is_right)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_are_complete_with_any_stride_field_order_and_size() -> Result<()> {
    let nodes = [
        // Lines that end with padding, also where it is odd.
        (format!("{YUYV}halves\nstride 704"), (320, 240)),
        (format!("{NV12}halves\nstride 384"), (320, 240)),
        (format!("{NV12}halves\nstride 333"), (320, 240)),
        ("format GREY\nsize 320x240\nrate 15/1\nfps 15\nhalves\nstride 352".into(), (320, 240)),
        // Two fields in one picture, as analogue receivers send them.
        (format!("{YUYV}halves\nfield 4"), (320, 240)),
        (format!("{NV12}halves\nfield 8"), (320, 240)),
        (format!("{NV12}halves\nfield 9\nstride 352"), (320, 240)),
        // Another size is set than was requested.
        (format!("{YUYV}size 640x480\nhalves\nmoves 640x480"), (640, 480)),
        ("format YUYV\nrange 2 8192 2 2 8192 2\nrates 1/60 1/1 1/60\nfps 15\nhalves\nmoves 720x576".into(), (720, 576)),
        // An HDMI receiver has no list of sizes; its size is that of its input.
        ("format YUYV\nfps 15\nhalves\ntimings 0".into(), (1280, 720)),
    ];
    let devices = Devices::new(&nodes.each_ref().map(|(node, _)| node), "")?;
    let watched = devices.watch(&one_each(nodes.len())).await?;
    watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    for (number, (node, (width, height))) in nodes.iter().enumerate() {
        let found = halves(watched.snapshot(&format!("c{number}")).await?)?;
        ensure!(found == (*width, *height, true), "{node}\n{found:?}");
    }
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_time_stamps_flags_rates_and_buffer_counts_do_no_harm() -> Result<()> {
    let odd = [
        "stamps zero",
        "stamps real",
        "stamps same",
        "stamps back",
        "stamps ahead",
        "sparm 25",
        "sparm 16",
        "gparm 0/0",
        "gparm 4294967295/1",
        "colours 99 77",
        "colours 1 1",
        "image 1",
        "buffers 2",
        "flagged 2",
        "skips 7",
        // The driver reports an error every two seconds.
        "dqbuf 30 5 1",
    ];
    let devices = Devices::new(&odd.map(|odd| format!("{YUYV}{odd}")), "")?;
    let watched = devices.watch(&one_each(odd.len())).await?;
    let cameras = watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    for (camera, odd) in cameras.iter().zip(odd) {
        ensure!(odd.starts_with("dqbuf") || camera["encoder_starts"] == 1, "{odd}: {camera:#}");
    }
    let broke_off = |cameras: &[Value]| cameras[15]["encoder_starts"].as_u64().is_some_and(|starts| starts > 1);
    watched.cameras_are(LIMIT, |cameras| broke_off(cameras) && cameras.iter().all(is_live)).await?;
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unusable_camera_is_reported_with_reason_and_advice() -> Result<()> {
    let devices = Devices::new(&[""; 0], "")?;
    // A camera that sends SPS and PPS only on a vendor-specific request.
    let is_set = |unit: &&[u8]| matches!(unit.first().map(|first| first & 31), Some(7 | 8));
    let without_sets = |unit: Vec<u8>| {
        let units = split(&unit).into_iter().filter(|unit| !is_set(unit));
        units.flat_map(|unit| [&[0, 0, 0, 1], unit].concat()).collect::<Vec<u8>>()
    };
    let bare: Vec<Vec<u8>> = h264(320, 240, 30)?.into_iter().map(without_sets).collect();
    let bare = devices.file("bare", &film(&bare))?;
    let cases = [
        ("streamon 28".to_owned(), "the USB bus has no room"),
        ("streamon 12".to_owned(), "no memory for its pictures"),
        ("streamon 16".to_owned(), "another program uses it"),
        ("streamon 71".to_owned(), "does not begin to send"),
        ("streamon 67".to_owned(), "no signal"),
        ("reqbufs 12".to_owned(), "no memory for its pictures"),
        ("buffers 1".to_owned(), "fewer than two buffers"),
        ("input 2\nfirst -1".to_owned(), "no signal"),
        ("timings 67\nfirst -1".to_owned(), "no signal"),
        ("timings 37\nfirst -1".to_owned(), "unstable"),
        ("timings 34\nfirst -1".to_owned(), "exceeds its limits"),
        ("input 0x2000000\nfirst -1".to_owned(), "protected from being copied"),
        ("field 7".to_owned(), "set the sending device to progressive pictures"),
        ("moves 640x480".to_owned(), "which is none of its sizes"),
    ];
    let mut nodes: Vec<String> = cases.iter().map(|(fault, _)| format!("{YUYV}{fault}")).collect();
    nodes.push(format!("format H264\nsize 320x240\nrate 15/1\nfps 15\nframes {}", bare.display()));
    for (number, node) in nodes.iter().enumerate() {
        devices.plug(number, node)?;
    }
    let watched = devices.watch_beside(&one_each(nodes.len())).await?;
    let whys: Vec<&str> =
        cases.iter().map(|(_, why)| *why).chain(["a key frame with SPS and PPS is missing"]).collect();
    let told = |camera: &Value, why: &str| camera["reason"].as_str().is_some_and(|reason| reason.contains(why));
    let all_told = |cameras: &[Value]| cameras.iter().zip(&whys).all(|(camera, why)| told(camera, why));
    watched.cameras_are(LIMIT, all_told).await?;
    watched.end().await?;
    let doctor = devices.doctor(&[])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    let is_warned =
        |line: &str| line.starts_with("warning") && line.contains("/dev/video8") && line.contains("no signal");
    ensure!(doctor.lines().any(is_warned), "{doctor}");
    Ok(())
}

/// The units of an access unit in Annex B.
fn split(unit: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (0..unit.len()).filter(|&place| unit[place..].starts_with(&[0, 0, 1])).collect();
    let ends = starts.iter().skip(1).copied().chain([unit.len()]);
    let units = starts.iter().zip(ends).map(|(start, end)| &unit[start + 3..end]);
    units.map(|unit| unit.strip_suffix(&[0]).unwrap_or(unit)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loopback_camera_is_used_as_soon_as_a_program_feeds_it() -> Result<()> {
    let fed = |caps: &str, name: &str| format!("driver v4l2 loopback\ncard {name}\ncaps {caps}\n{YUYV}");
    let nodes = [
        fed("05208001", "Dummy video device (0x0000)"),
        fed("05200003", "OBS Virtual Camera"),
        fed("05200001", "exclusive"),
        fed("05200002", "idle"),
    ];
    let devices = Devices::new(&nodes, "")?;
    let watched = devices.watch(&one_each(nodes.len())).await?;
    let as_wanted = |cameras: &[Value]| {
        let says =
            cameras[3]["reason"].as_str().is_some_and(|reason| reason.contains("no program gives it pictures yet"));
        says && cameras[..3].iter().all(is_live)
    };
    watched.cameras_are(LIMIT, as_wanted).await?;
    devices.plug(3, fed("05200001", "idle"))?;
    watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_names_are_unique_and_menus_have_titles() -> Result<()> {
    let controls: &[u8] = b"card odd\n\
        control 0x980900 1 0 100 3 50 0 Off its grid\n\
        control 0x980901 3 0 3 1 0 0 Mode\nmenu 0x980901 0 Man\xe2\x82\nmenu 0x980901 1 Auto\n\
        menu 0x980901 3 0123456789012345678901234567890\xe2\n\
        control 0x980902 2 0 1 1 0 0 Mode\n\
        control 0x980903 1 0 10 1 5 0 \xe4\xba\xae\xe5\xba\xa6\n\
        control 0x980904 5 0 99999999999 1 5 0 Wide\n\
        control 0x980905 9 0 2 1 0 0 Number\nmenu 0x980905 0 AAAAAAAA\nmenu 0x980905 2 BBBBBBBB\n\
        control 0x980906 3 5 3 1 0 0 Empty menu\n\
        control 0x980907 3 -1 2 1 0 0 Negative menu\n\
        control 0x980908 3 0 1 1 0 0x40 Only to write\nmenu 0x980908 0 a\nmenu 0x980908 1 b\n\
        control 0x980909 1 10 0 1 5 0 Backwards\n";
    let devices = Devices::new(&[[controls, YUYV.as_bytes()].concat()], "")?;
    let watched = devices.watch(AUTO).await?;
    watched.cameras_are(LIMIT, |cameras| is_live(&cameras[0])).await?;
    let listed = watched.command("list-controls", json!({ "camera": "main" })).await?;
    let listed = listed["result"]["controls"].as_array().context("no list")?;
    let names: Vec<&str> = listed.iter().filter_map(|control| control["name"].as_str()).collect();
    let expected = ["off_its_grid", "mode", "mode_980902", "control_980903", "wide", "number", "only_to_write"];
    ensure!(names == expected, "{names:?}");
    let titles =
        |place: usize| listed[place]["menu"].as_array().map(|menu| menu.iter().map(|m| m["title"].clone()).collect());
    let titles = |place| -> Vec<Value> { titles(place).unwrap_or_default() };
    ensure!(titles(1) == ["Man\u{fffd}", "Auto", "0123456789012345678901234567890\u{fffd}"], "{:#}", listed[1]);
    ensure!(titles(5).len() == 2 && titles(6).len() == 2, "{listed:#?}");
    ensure!(listed[3]["title"] == "\u{4eae}\u{5ea6}" && listed[4]["value"] == 5, "{listed:#?}");
    for (control, value) in
        [("off_its_grid", 50_i64), ("mode_980902", 1), ("control_980903", 7), ("wide", 88_888_888_888)]
    {
        let set =
            watched.command("set-control", json!({ "camera": "main", "control": control, "value": value })).await?;
        ensure!(set["status"] == "successful" && set["result"]["value"] == value, "{control}: {set:#}");
    }
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_continues_after_delays_overruns_and_interruptions_of_the_card() -> Result<()> {
    let cards = [
        "late 6",
        "fault xrun",
        "fault asleep",
        "fault breaks",
        "fault stalls",
        // Cards with only these formats work through ALSA's own conversion.
        "format MU_LAW rate 8000",
        "format A_LAW rate 8000 channels 2",
        "format S20_3LE channels 2",
        "period 12345 rate 44100",
        "period 64 rate 16000",
        "rate { a 8000 b 192000 } channels { a 2 b 8 }",
    ];
    let heard = cards.map(async |card: &str| {
        let devices = Devices::new(&[""; 0], &format!("pcm.card {{ type peercam {card} }}"))?;
        let watched = devices.watch_beside(CARD).await?;
        let listener = Player::join(&watched.url, &[VIDEO, AUDIO], Bundling::All).await?;
        let is_heard = |found: &[Value]| found[0]["state"] == "live";
        watched.are("microphone", LIMIT, is_heard).await.with_context(|| card.to_owned())?;
        if card.starts_with("fault") {
            // After its fault, which comes after half a second.
            sleep(Duration::from_secs(2)).await;
            watched.are("microphone", LIMIT, is_heard).await.with_context(|| card.to_owned())?;
            listener.begin();
        }
        listener.wait_for(|seen| seen.loud > 0).await.with_context(|| card.to_owned())?;
        listener.leave().await?;
        watched.end().await
    });
    let logs: Vec<String> = stream::iter(heard).buffer_unordered(BESIDE).try_collect().await?;
    ensure!(logs.len() == cards.len());
    Ok(())
}

/// Two cameras of one kind; the second is the first card.
const TWINS: &str = "C920_1|HD Pro Webcam C920|HD Pro Webcam C920 at usb-0000:01:00.0-1.2, high speed\n\
     PCH|HDA Intel PCH|HDA Intel PCH at 0xa1230000 irq 30|-\n\
     C920|HD Pro Webcam C920|HD Pro Webcam C920 at usb-0000:01:00.0-1.1, high speed\n";

/// The microphone in the status with these cards.
async fn heard_of(cards: &str, capture: &str) -> Result<String> {
    let twin = |plug: &str| format!("card HD Pro Webcam C920\nbus usb-0000:01:00.0-{plug}\n{YUYV}");
    let devices = Devices::new(&[twin("1.1"), twin("1.2")], "")?;
    devices.cards(cards)?;
    let camera = |number: u32| {
        let shape = "width = 320\nheight = 240\nfps = 15";
        format!("[[camera]]\nname = \"c{number}\"\nsource = \"/dev/video{number}\"\n{shape}\n")
    };
    let text = format!("[audio]\ncapture = \"{capture}\"\n{}{}", camera(0), camera(1));
    let watched = devices.watch_beside(&text).await?;
    let _listener = Player::join(&watched.url, &[VIDEO, AUDIO], Bundling::All).await?;
    let found = watched.are("microphone", LIMIT, |found| found[0]["state"] == "live").await?;
    let device = found[0]["device"].as_str().context("no device")?.to_owned();
    let doctor = devices.doctor(&[])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    ensure!(doctor.lines().any(|line| line.starts_with("ok       microphone") && line.contains(&device)), "{doctor}");
    watched.end().await?;
    Ok(device)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_equal_cameras_the_microphone_of_the_first_is_used_in_any_order_of_cards() -> Result<()> {
    let turned: Vec<&str> = TWINS.lines().rev().collect();
    let turned = turned.join("\n");
    for cards in [TWINS, &turned] {
        let first = heard_of(cards, "auto").await?;
        ensure!(first == "HD Pro Webcam C920 (hw:CARD=C920,DEV=0 at usb-0000:01:00.0-1.1)", "{cards}: {first}");
    }
    let second = heard_of(TWINS, "usb-0000:01:00.0-1.2").await?;
    ensure!(second == "HD Pro Webcam C920 (hw:CARD=C920_1,DEV=0 at usb-0000:01:00.0-1.2)", "{second}");
    let other = heard_of("USB|USB Mic|Some USB Mic at usb-0000:01:00.0-1.4, full speed\n", "auto").await?;
    ensure!(other.contains("USB Mic"), "the first card, if no camera has one: {other}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_plugged_in_after_the_start_replaces_the_test_picture() -> Result<()> {
    let devices = Devices::new(&[""; 0], "")?;
    let watched = devices.watch_beside(AUTO).await?;
    watched
        .cameras_are(LIMIT, |cameras| cameras[0]["device"] == "test picture" && cameras[0]["state"] == "live")
        .await?;
    // A node that may be opened only after a while.
    devices.plug(0, format!("card Late\nopen 13\n{YUYV}"))?;
    sleep(Duration::from_millis(2500)).await;
    watched
        .cameras_are(LIMIT, |cameras| cameras[0]["device"] == "test picture" && cameras[0]["state"] == "live")
        .await?;
    devices.plug(0, format!("card Late\n{YUYV}"))?;
    watched.cameras_are(LIMIT, |cameras| cameras[0]["device"] == "Late (/dev/video0)" && is_live(&cameras[0])).await?;
    watched.end().await?;
    Ok(())
}
