//! The shipped binary with cameras and sound cards as users have them, simulated in user space by two C files.

mod devices;
mod drift;
mod drivers;
mod faults;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio::time::Instant;

use devices::Devices;
use testkit::player::{AUDIO, Bundling, Player, VIDEO};
use testkit::starvation::unless_starved;

/// Time limit of most waits: nothing has to time out first.
const LIMIT: Duration = Duration::from_secs(25);

/// Number of boards that run in parallel if they mostly wait.
const BESIDE: usize = 4;

const SILENT: &str = "[audio]\ncapture = \"off\"\n";

/// One camera by `auto`, kept warm.
const AUTO: &str =
    "[audio]\ncapture = \"off\"\n[[camera]]\nname = \"main\"\nkeep_warm = true\nwidth = 320\nheight = 240\nfps = 15\n";

/// The sound card called `card`, beside the test picture.
const CARD: &str =
    "[audio]\ncapture = \"card\"\n[[camera]]\nname = \"main\"\nsource = \"test\"\nwidth = 320\nheight = 180\n";

/// As many cameras as nodes, each by its name and kept warm.
fn one_each(count: usize) -> String {
    (0..count).fold(SILENT.to_owned(), |mut text, number| {
        write!(
            text,
            "[[camera]]\nname = \"c{number}\"\nsource = \"/dev/video{number}\"\nkeep_warm = true\n\
             width = 320\nheight = 240\nfps = 15\n"
        )
        .expect("writing to a string never fails");
        text
    })
}

fn is_live(camera: &Value) -> bool {
    camera["state"] == "live" && camera["device"] != "test picture"
}

/// Width and height of a JPEG, from a separate decoder.
fn size_of(jpeg: Vec<u8>) -> Result<(i32, i32)> {
    gst::init()?;
    let pipeline = gst::parse::launch("appsrc name=in ! jpegdec ! appsink name=out sync=false")?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().ok().context("no pipeline")?;
    let source =
        pipeline.by_name("in").and_then(|found| found.downcast::<gst_app::AppSrc>().ok()).context("no source")?;
    let sink =
        pipeline.by_name("out").and_then(|found| found.downcast::<gst_app::AppSink>().ok()).context("no sink")?;
    source.set_caps(Some(&"image/jpeg".parse()?));
    pipeline.set_state(gst::State::Playing)?;
    source.push_buffer(gst::Buffer::from_slice(jpeg))?;
    source.end_of_stream()?;
    let sample = sink.try_pull_sample(gst::ClockTime::from_seconds(10)).context("no picture")?;
    let caps = sample.caps_owned().context("no caps")?;
    pipeline.set_state(gst::State::Null)?;
    let structure = caps.structure(0).context("no structure")?;
    Ok((structure.get("width")?, structure.get("height")?))
}

/// `count` JPEGs of one size.
fn jpegs(width: u32, height: u32, count: u32) -> Result<Vec<Vec<u8>>> {
    encoded(&format!(
        "videotestsrc num-buffers={count} ! video/x-raw,format=I420,width={width},height={height} ! jpegenc ! \
         appsink name=out sync=false"
    ))
}

/// The buffers at the end of a pipeline.
fn encoded(pipeline: &str) -> Result<Vec<Vec<u8>>> {
    gst::init()?;
    let pipeline = gst::parse::launch(pipeline)?.downcast::<gst::Pipeline>().ok().context("no pipeline")?;
    let sink =
        pipeline.by_name("out").and_then(|found| found.downcast::<gst_app::AppSink>().ok()).context("no sink")?;
    pipeline.set_state(gst::State::Playing)?;
    let mut found = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(10)) {
        found.push(sample.buffer().context("no buffer")?.map_readable()?.to_vec());
    }
    pipeline.set_state(gst::State::Null)?;
    Ok(found)
}

/// A film for `frames`.
fn film(jpegs: &[Vec<u8>]) -> Vec<u8> {
    jpegs.iter().flat_map(|jpeg| [format!("{}\n", jpeg.len()).as_bytes(), jpeg].concat()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cameras_with_any_raw_format_several_planes_or_odd_sizes_deliver_pictures() -> Result<()> {
    let raw = ["UYVY", "YVYU", "NV21", "GREY", "BGR3", "RGB3", "BGR4", "YV12", "NV16", "Y16 ", "NV24", "422P", "XR24"];
    let mut nodes: Vec<String> =
        raw.iter().map(|code| format!("format {code}\nsize 320x240\nrate 15/1\nfps 15\n")).collect();
    let raws = nodes.len();
    nodes.extend(
        [
            "format YUYV\nsize 322x241\nrate 15/1\nfps 15",
            "format YUYV\nsize 641x481\nrate 15/1\nfps 15",
            "format NV12\nsize 81x63\nrate 15/1\nfps 15",
            // Several planes, from a driver with no other formats.
            "caps 04201000\nformat NV12\nsize 320x240\nrate 15/1\nfps 15",
            // An HDMI receiver has no list of sizes or rates.
            "format UYVY\nfps 15",
            "format YUYV\nsize 320x240\nrate 1/2\nfps 0.5",
            "format NV12\nrange 2 8192 2 2 8192 2\nrates 1/60 1/1 1/60\nfps 15",
            "format NV12\ncontinuous 16 4000000000 16 4000000000\nfps 15",
        ]
        .map(str::to_owned),
    );
    // A board has sixteen cameras at most.
    {
        let some = &nodes[raws - 1..];
        let devices = Devices::new(some, "")?;
        let watched = devices.watch(&one_each(some.len())).await?;
        watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
        for (camera, size) in [("c1", (322, 241)), ("c2", (641, 481)), ("c3", (81, 63))] {
            ensure!(size_of(watched.snapshot(camera).await?)? == size, "{camera}");
        }
        watched.end().await?;
    }
    let devices = Devices::new(&nodes[..raws], "")?;
    let watched = devices.watch(&one_each(raws)).await?;
    let cameras = watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    for (camera, code) in cameras.iter().zip(raw) {
        let name = match code {
            "BGR4" | "XR24" => "BGRX",
            code => code.trim(),
        };
        ensure!(camera["mode"]["format"] == name, "{code}: {camera:#}");
    }
    ensure!(size_of(watched.snapshot("c0").await?)? == (320, 240));
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_skips_cameras_that_are_silent_or_refuse() -> Result<()> {
    let nodes = [
        "card Silent\nformat YUYV\nsize 320x240\nrate 15/1\nfirst -1",
        "card Refusing\nformat YUYV\nsize 320x240\nrate 15/1\nstreamon 5",
        "card Busy\nformat YUYV\nsize 320x240\nrate 15/1\nsfmt 16",
        "card Good\nformat YUYV\nsize 320x240\nrate 15/1\nfps 15",
    ];
    let devices = Devices::new(&nodes, "")?;
    let watched = devices.watch_beside(AUTO).await?;
    let live = |cameras: &[Value]| cameras[0]["device"] == "Good (/dev/video3)" && is_live(&cameras[0]);
    watched.cameras_are(LIMIT, live).await?;
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_shows_the_test_picture_if_no_node_is_a_camera_and_logs_the_reasons() -> Result<()> {
    let format = "format YUYV\nsize 640x480\nrate 30/1\nfirst -1";
    let nodes = [
        (format!("driver bcm2835-isp\ncard bcm2835-isp\n{format}"), "a part of the board's image processor"),
        (format!("driver bcm2835-codec\ncard bcm2835-codec-isp\ncaps 04008000\n{format}"), "it converts"),
        (format!("driver unicam\ncard unicam\n{format}"), "the receiver of a camera"),
        (format!("driver rp1-cfe\ncard rp1-cfe\n{format}"), "the receiver of a camera"),
        (format!("driver pispbe\ncard pispbe\n{format}"), "a part of the board's image processor"),
        (format!("card codec\ncaps 04004000\n{format}"), "it converts"),
        ("card screen\ncaps 04000002".into(), "it accepts pictures and delivers none"),
        ("card metadata\ncaps 04800000".into(), "it has data about pictures"),
        ("card teletext\ncaps 04000010".into(), "it has a TV signal's text only"),
        ("card radio\ncaps 00050000".into(), "it is a radio"),
        (format!("card pad\ncaps 14000001\n{format}"), "it is a touch pad"),
        (format!("card graph\ncaps 24200001\n{format}"), "the receiver of a camera"),
        ("card sensor\nformat BA81\nsize 640x480".into(), "has no format that can be used (it has BA81)"),
    ];
    let described: Vec<&String> = nodes.iter().map(|(node, _)| node).collect();
    let devices = Devices::new(&described, "")?;
    let watched = devices.watch_beside(AUTO).await?;
    let shown = |cameras: &[Value]| cameras[0]["device"] == "test picture" && cameras[0]["state"] == "live";
    watched.cameras_are(LIMIT, shown).await?;
    let log = watched.end().await?;
    let doctor = devices.doctor(&[])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    for (number, (_, why)) in nodes.iter().enumerate() {
        let node = format!("(/dev/video{number})");
        let said = |text: &str| text.lines().any(|line| line.contains(&node) && line.contains(why));
        ensure!(said(&log), "not in the log: {node}: {why}\n{log}");
        ensure!(number == 12 || said(&doctor), "not in the doctor's report: {node}: {why}\n{doctor}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_first_pictures_and_slow_rates_get_enough_time() -> Result<()> {
    let nodes = [
        "card Late\nformat YUYV\nsize 320x240\nrate 15/1\nfps 15\nfirst 6",
        "card Slow\nformat YUYV\nsize 320x240\nrate 1/10\nfps 0.1\nfirst 9",
    ];
    let devices = Devices::new(&nodes, "")?;
    let watched = devices.watch_beside(&one_each(2)).await?;
    let cameras = watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    ensure!(cameras[0]["encoder_starts"] == 2, "four seconds, then eight: {cameras:#?}");
    ensure!(cameras[1]["encoder_starts"] == 1, "some frame intervals at least: {cameras:#?}");
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_any_bytes_are_shown_with_the_replacement_character() -> Result<()> {
    // Cut within a character of three bytes, as by the field of 32 bytes; not UTF-8; with a terminal's escape sequence;
    // full to the last byte; none.
    let names: [(&[u8], &str); 5] = [
        (b"A camera with a name that en\xe2\x82", "A camera with a name that en\u{fffd}"),
        (b"\xff\xfe\x80 cam", "\u{fffd}\u{fffd}\u{fffd} cam"),
        (b"cam\x1b[31m", "cam\u{fffd}[31m"),
        (b"0123456789012345678901234567890123456789", "01234567890123456789012345678901"),
        (b"", "unnamed"),
    ];
    let camera = b"\nformat YUYV\nsize 320x240\nrate 15/1\nfps 15\n";
    let number = b"control 0x980900 1 0 255 1 128 0 Bright\xe2\x82\n";
    let node = |name: &[u8]| [b"card ", name, camera, number].concat();
    let devices = Devices::new(&names.map(|(name, _)| node(name)), "")?;
    let doctor = devices.doctor(&[])?;
    let complaints = String::from_utf8_lossy(&doctor.stderr);
    ensure!(!complaints.contains("panic"), "{complaints}");
    let said = String::from_utf8(doctor.stdout)?;
    for (number, (_, shown)) in names.iter().enumerate() {
        ensure!(said.contains(&format!("{shown} (/dev/video{number}): YUYV 320x240; 1 controls")), "{shown}: {said}");
    }
    let watched = devices.watch(&one_each(names.len())).await?;
    watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    let log = watched.end().await?;
    ensure!(!log.contains("panic"), "an expected panic is logged: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jpegs_of_another_size_or_with_damage_do_no_harm() -> Result<()> {
    let devices = Devices::new(&[""; 0], "")?;
    let lower = devices.file("lower", &film(&jpegs(320, 232, 5)?))?;
    let whole = jpegs(320, 240, 4)?;
    let mut cut_header = whole[0].clone();
    let header = cut_header.windows(2).position(|pair| pair == [0xff, 0xc0]).context("no frame header")?;
    cut_header[header + 6] = 200;
    let mixed =
        [whole[0].clone(), cut_header.clone(), whole[1].clone(), whole[2][..700].to_vec(), whole[3].clone(), vec![]];
    let mixed = devices.file("mixed", &film(&mixed))?;
    let rubbish = devices.file("rubbish", &film(&[vec![0x55; 4000], whole[0][2..].to_vec()]))?;
    for (number, frames) in [lower, mixed, rubbish].iter().enumerate() {
        let node = format!("format MJPG\nsize 320x240\nrate 15/1\nfps 15\nframes {}", frames.display());
        devices.plug(number, node)?;
    }
    let watched = devices.watch(&one_each(3)).await?;
    let as_wanted = |cameras: &[Value]| {
        let damaged = cameras[2]["reason"].as_str().is_some_and(|why| why.contains("all of them damaged"));
        is_live(&cameras[0]) && is_live(&cameras[1]) && damaged
    };
    let cameras = watched.cameras_are(LIMIT, as_wanted).await?;
    ensure!(
        (&cameras[0]["mode"]["width"], &cameras[0]["mode"]["height"]) == (&320.into(), &232.into()),
        "{cameras:#?}"
    );
    ensure!(size_of(watched.snapshot("c0").await?)? == (320, 232));
    // Damage causes no restart.
    ensure!(cameras[1]["encoder_starts"] == 1, "{cameras:#?}");
    ensure!(size_of(watched.snapshot("c1").await?)? == (320, 240));
    watched.end().await?;
    Ok(())
}

/// H.264 as a camera encodes it, a film of access units.
fn h264(width: u32, height: u32, count: u32) -> Result<Vec<Vec<u8>>> {
    encoded(&format!(
        "videotestsrc num-buffers={count} ! video/x-raw,format=I420,width={width},height={height},framerate=15/1 ! \
         x264enc tune=zerolatency key-int-max=5 ! video/x-h264,stream-format=byte-stream,alignment=au ! \
         appsink name=out sync=false"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_format_replaces_one_without_pictures_and_the_log_has_the_reason() -> Result<()> {
    let devices = Devices::new(&[""; 0], "")?;
    let rubbish = devices.file("rubbish", &film(&[vec![0x55; 4000]]))?;
    let film = devices.file("film", &film(&h264(320, 240, 30)?))?;
    let (mjpeg, yuyv) = ("format MJPG\nsize 320x240", "format YUYV\nsize 160x120");
    let nodes = [
        // No picture of the first can be decoded; the second is smaller.
        (format!("{mjpeg}\n{yuyv}\nframes {}", rubbish.display()), "YUYV", "format=\"MJPEG\"", "all of them damaged"),
        // The bus has no room for it, as where two cameras share it (ENOSPC).
        (
            format!("{yuyv}\nformat MJPG\nsize 160x120\nfails YUYV 28\nframes FILM"),
            "MJPEG",
            "format=\"YUYV\"",
            "no room",
        ),
        // It starts and never delivers anything.
        (format!("format NV12\nsize 320x240\n{yuyv}\nfails NV12 0"), "YUYV", "format=\"NV12\"", "no frame within"),
        // The camera's own H.264 comes last.
        (
            format!(
                "{yuyv}\nformat NV12\nsize 320x240\nformat H264\nsize 320x240\nfails YUYV 5\nfails NV12 5\nframes {}",
                film.display()
            ),
            "H264",
            "format=\"NV12\"",
            "another format",
        ),
    ];
    let whole = devices.file("whole", &self::film(&jpegs(160, 120, 5)?))?;
    for (number, (node, ..)) in nodes.iter().enumerate() {
        let node = node.replace("FILM", &whole.display().to_string());
        devices.plug(number, format!("{node}\nrate 15/1\nfps 15"))?;
    }
    let watched = devices.watch_beside(&one_each(nodes.len())).await?;
    let cameras = watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_live)).await?;
    for (camera, (_, format, ..)) in cameras.iter().zip(&nodes) {
        ensure!(camera["mode"]["format"] == *format, "{camera:#}");
    }
    ensure!(size_of(watched.snapshot("c3").await?)? == (320, 240), "a snapshot from the camera's own H.264");
    let log = watched.end().await?;
    for (number, (_, instead, first, why)) in nodes.iter().enumerate() {
        let node = format!("(/dev/video{number})");
        let told = |line: &&str| line.contains("another format of the camera is tried") && line.contains(&node);
        let lines: Vec<&str> = log.lines().filter(told).collect();
        let expected = if number == 3 { 2 } else { 1 };
        ensure!(lines.len() == expected, "of {node}: {lines:#?}\n{log}");
        let last = lines[expected - 1];
        let says_all = [*first, *why, &format!("instead=\"{instead}\"")].iter().all(|part| last.contains(part));
        ensure!(says_all, "{last}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_unplugged_while_capturing_comes_back() -> Result<()> {
    let node = "card Loose\nformat YUYV\nsize 320x240\nrate 15/1\nfps 15";
    let devices = Devices::new(&[format!("{node}\ngone 20")], "")?;
    let watched = devices.watch(AUTO).await?;
    watched.cameras_are(LIMIT, |cameras| is_live(&cameras[0])).await?;
    devices.unplug(0)?;
    let waits = |cameras: &[Value]| cameras[0]["state"] == "waiting" && cameras[0]["reason"].is_string();
    let cameras = watched.cameras_are(LIMIT, waits).await?;
    ensure!(cameras[0]["device"] != "test picture", "the test picture would hide that it is gone: {cameras:#?}");
    devices.plug(0, node)?;
    watched.cameras_are(LIMIT, |cameras| is_live(&cameras[0])).await?;
    watched.end().await?;
    Ok(())
}

/// Pseudo-random numbers, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A node with invalid answers.
fn odd_node(chance: &mut Chance) -> Vec<u8> {
    let numbers = [
        "0",
        "1",
        "2",
        "3",
        "15",
        "16",
        "17",
        "63",
        "241",
        "322",
        "640",
        "4096",
        "4097",
        "65535",
        "2147483647",
        "4294967295",
    ];
    let codes = ["YUYV", "NV12", "MJPG", "H264", "GREY", "BA81", "XXXX", "UYVY", "\u{1}\u{2}", "RGB3", "NV12", "YUYV"];
    let mut node = Vec::new();
    let mut line = |bytes: &[u8]| node.extend_from_slice(&[bytes, b"\n"].concat());
    if chance.below(3) == 0 {
        let name: Vec<u8> =
            (0..chance.below(40)).map(|_| chance.one(&[b'a', 0xff, 0xe2, 0x82, 0x1b, b' ', b'%'])).collect();
        line(&[b"card ", name.as_slice()].concat());
    }
    if chance.below(4) == 0 {
        let caps =
            ["0", "1", "04000000", "04200001", "04201000", "04201001", "04008000", "14200001", "24200001", "ffffffff"];
        line(format!("caps {}", chance.one(&caps)).as_bytes());
    }
    if chance.below(6) == 0 {
        line(
            format!(
                "{} {}",
                chance.one(&["open", "querycap", "sfmt", "streamon"]),
                chance.one(&[5, 16, 13, 19, 22, 25, 110, 12])
            )
            .as_bytes(),
        );
    }
    for _ in 0..chance.below(3) {
        line(format!("format {}", chance.one(&codes)).as_bytes());
        for _ in 0..chance.below(3) {
            let mut number = || chance.one(&numbers);
            let [a, b, c, d, e, f] = std::array::from_fn(|_| number());
            line(
                match chance.below(3) {
                    0 => format!("size {a}x{b}"),
                    1 => format!("range {a} {b} {c} {d} {e} {f}"),
                    _ => format!("continuous {a} {b} {c} {d}"),
                }
                .as_bytes(),
            );
        }
    }
    for _ in 0..chance.below(3) {
        let [a, b, c, d, e, f] = std::array::from_fn(|_| chance.one(&numbers));
        line(
            if chance.below(3) == 0 { format!("rates {a}/{b} {c}/{d} {e}/{f}") } else { format!("rate {a}/{b}") }
                .as_bytes(),
        );
    }
    for number in 0..chance.below(4) {
        let kind = chance.one(&["1", "2", "3", "4", "5", "6", "7", "8", "9", "256", "263", "999"]);
        let limits = ["0", "-1", "255", "9223372036854775807", "-9223372036854775808", "3"];
        let [least, most, normal] = std::array::from_fn(|_| chance.one(&limits));
        let step = chance.one(&["0", "1", "7", "18446744073709551615"]);
        let flags = chance.one(&["0", "4", "0x40", "0x100", "-1"]);
        let name: &[u8] =
            chance.one(&[b"Brightness".as_slice(), b"\xff\xfe", b"", b"12345678901234567890123456789012"]);
        let id = 0x98_0900 + number;
        line(&[format!("control {id:#x} {kind} {least} {most} {step} {normal} {flags} ").as_bytes(), name].concat());
        line(format!("menu {id:#x} 0 Manual").as_bytes());
    }
    if chance.below(12) == 0 {
        line(format!("endless {}", chance.one(&["formats", "sizes", "rates", "controls"])).as_bytes());
    }
    match chance.below(6) {
        0 => line(b"first -1"),
        1 => line(b"bytes 1"),
        2 => line(b"gone 3"),
        _ => {}
    }
    line(b"fps 15");
    node
}

/// The number of cameras of a board with such nodes, and of those that deliver pictures.
async fn before_odd_nodes(nodes: &[Vec<u8>]) -> Result<(usize, usize)> {
    let devices = Devices::new(nodes, "")?;
    let doctor = block_in_place(|| devices.doctor(&[]))?;
    let complaints = String::from_utf8_lossy(&doctor.stderr);
    let described = || nodes.iter().map(|node| String::from_utf8_lossy(node)).collect::<Vec<_>>().join("---\n");
    // The doctor reports a problem; an exit by a signal has no code.
    let is_well = doctor.status.code().is_some_and(|code| code < 3) && !complaints.contains("panicked");
    ensure!(is_well, "{}\n{complaints}\n{}", doctor.status, described());
    let watched = devices.watch_beside(&one_each(nodes.len())).await?;
    // A camera that reports less than one picture a second gets more time than this test takes.
    let is_slow = |camera: &Value| camera["mode"]["fps"].as_f64().is_some_and(|fps| fps < 1.0);
    let is_settled = |camera: &Value| is_live(camera) || camera["reason"].is_string() || is_slow(camera);
    let settled = watched.cameras_are(LIMIT, |cameras| cameras.iter().all(is_settled)).await;
    let cameras = settled.with_context(described)?;
    watched.end().await?;
    Ok((cameras.len(), cameras.iter().filter(|camera| is_live(camera)).count()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_odd_devices_do_no_harm() -> Result<()> {
    let mut chance = Chance(7);
    // As many nodes as a board may have cameras. Silent ones cause waits, so several boards fit beside each other.
    let boards: Vec<Vec<Vec<u8>>> = (0..32).map(|_| (0..16).map(|_| odd_node(&mut chance)).collect()).collect();
    let outcomes = stream::iter(boards.iter().map(|nodes| before_odd_nodes(nodes))).buffer_unordered(BESIDE);
    let lived: Vec<(usize, usize)> = outcomes.try_collect().await?;
    let (seen, live) = lived.iter().fold((0, 0), |(seen, live), (more, alive)| (seen + more, live + alive));
    ensure!(seen >= 500);
    println!("{seen} devices, of which {live} deliver pictures");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_cards_with_any_rate_format_and_channel_count_work() -> Result<()> {
    let cards = [
        "channels 3",
        "channels 5",
        "channels 6",
        "channels 7",
        "channels 8",
        "channels 16",
        "rate 11025 format S24_3LE channels 2",
        "rate 192000 format S32_LE",
        "rate 8000 format U8",
        "rate 44100 format FLOAT_LE channels 2",
    ];
    let heard = cards.map(async |card: &str| {
        let devices = Devices::new(&[""; 0], &format!("pcm.card {{ type peercam {card} }}"))?;
        let watched = devices.watch_beside(CARD).await?;
        let listener = Player::join(&watched.url, &[VIDEO, AUDIO], Bundling::All).await?;
        let heard = |found: &[Value]| found[0]["state"] == "live";
        watched.are("microphone", LIMIT, heard).await.with_context(|| card.to_owned())?;
        listener.wait_for(|seen| seen.loud > 0).await.with_context(|| card.to_owned())?;
        listener.leave().await?;
        watched.end().await
    });
    let logs: Vec<String> = stream::iter(heard).buffer_unordered(BESIDE).try_collect().await?;
    ensure!(logs.len() == cards.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_missing_or_silent_sound_cards_are_reported_and_pictures_continue() -> Result<()> {
    let faults = [("busy", "busy"), ("absent", "card"), ("mute", "delivered no frame")];
    let told = faults.map(async |(fault, why): (&str, &str)| {
        let devices = Devices::new(&[""; 0], &format!("pcm.card {{ type peercam fault {fault} }}"))?;
        let watched = devices.watch_beside(CARD).await?;
        let _listener = Player::join(&watched.url, &[VIDEO, AUDIO], Bundling::All).await?;
        let told = |found: &[Value]| found[0]["reason"].as_str().is_some_and(|reason| reason.contains(why));
        watched.are("microphone", LIMIT, told).await.with_context(|| fault.to_owned())?;
        watched.cameras_are(LIMIT, |cameras| cameras[0]["state"] == "live").await?;
        watched.end().await
    });
    let logs: Vec<String> = stream::iter(told).buffer_unordered(BESIDE).try_collect().await?;
    ensure!(logs.len() == faults.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_card_that_hangs_is_reopened_repeatedly_and_pictures_continue() -> Result<()> {
    let devices = Devices::new(&[""; 0], "pcm.card { type peercam fault gone }")?;
    let watched = devices.watch(CARD).await?;
    let _listener = Player::join(&watched.url, &[VIDEO, AUDIO], Bundling::All).await?;
    // Each time its capture process has to be killed.
    let again = |found: &[Value]| found[0]["encoder_starts"].as_u64().is_some_and(|starts| starts >= 4);
    watched.are("microphone", LIMIT, again).await?;
    watched.cameras_are(LIMIT, |cameras| cameras[0]["state"] == "live" && cameras[0]["encoder_starts"] == 1).await?;
    watched.end().await?;
    Ok(())
}

/// Privacy beside a sound card with this fault, which is in the state `state` before.
async fn privacy_beside(fault: &str, state: &str) -> Result<()> {
    let devices = Devices::new(&[""; 0], &format!("pcm.card {{ type peercam fault {fault} }}"))?;
    let watched = devices.watch(CARD).await?;
    let _listener = Player::join(&watched.url, &[VIDEO, AUDIO], Bundling::All).await?;
    watched.are("microphone", LIMIT, |found| found[0]["state"] == state).await?;
    let begun = Instant::now();
    let outcome = watched.command("privacy", json!({ "on": true })).await?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(1) && outcome["status"] == "successful", "{outcome} after {took:?}");
    ensure!(outcome["result"] == json!({ "on": true }), "the device is closed: {outcome}");
    let status = watched.status().await?;
    for source in [&status["microphone"], &status["cameras"][0]] {
        ensure!(source["state"] == "private" && source["reason"] == "privacy is on", "{status:#}");
    }
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privacy_closes_a_sound_card_that_hangs_within_a_second() -> Result<()> {
    for (fault, state) in [("closing", "live"), ("opening", "starting")] {
        unless_starved(|| privacy_beside(fault, state)).await.with_context(|| fault)?;
    }
    Ok(())
}
