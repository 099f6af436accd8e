//! A CSI camera through libcamera: the kernel's `vimc` has a sensor, an image processor for its raw data, and the media
//! graph between them, which libcamera sets up like that of a board.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::board::{Board, must_run};
use crate::{BAR_CENTRES, BAR_HEIGHT, BARE_CONFIG, ensure_bars};
use testkit::page_viewer::Viewer;
use testkit::starvation;

/// Its name in libcamera.
const NAME: &str = "platform/vimc.0 Sensor B";

/// Its nodes: two bring what a sensor sees, one what is made of it, each only once the graph is set up.
const NODES: [&str; 3] = ["/dev/video0", "/dev/video1", "/dev/video2"];

/// Both are multiples of six: libcamera's part for vimc has no others.
const SIZE: (u32, u32) = (300, 180);

/// What capture processes are started with. libcamera's part for vimc (up to 0.7.2 at least) asks a request for its
/// number after it has given it back; where the other thread was faster, the request is gone: SIGSEGV. No other part of
/// libcamera does so. The number is for its log and for a control algorithm that does nothing, so that one for all will
/// do.
const NUMBER: &str = "unsigned _ZNK9libcamera7Request8sequenceEv(const void *request) { (void)request; return 0; }";

/// The sensor's test pattern that is all red, and that of colour bars.
const RED: u32 = 7;
const BARS: u32 = 0;

/// Sets the test pattern of the sensor: VIDIOC_S_CTRL (linux/videodev2.h) of VIMC_CID_TEST_PATTERN (vimc-common.h).
/// `v4l2-ctl` of Debian 13 wants a later kernel for that.
async fn set_pattern(board: &mut Board, pattern: u32) -> Result<()> {
    control(board, 0xc008_561c, 0x00f0_f000, pattern).await.map(drop)
}

/// The brightness that the sensor has: VIDIOC_G_CTRL of V4L2_CID_BRIGHTNESS, from 0 to 255.
async fn brightness_of_sensor(board: &mut Board) -> Result<u32> {
    control(board, 0xc008_561b, 0x0098_0900, 0).await
}

/// Makes an ioctl; returns the value of the sensor's control after it.
async fn control(board: &mut Board, call: u32, id: u32, value: u32) -> Result<u32> {
    let sensor = "$(grep -l 'Sensor B' /sys/class/video4linux/v4l-subdev*/name | cut -d/ -f5)";
    let program = format!(
        "open F, \"+<\", $ARGV[0] or die $!; $c = pack \"II\", {id}, {value}; ioctl F, {call}, $c or die $!; \
         print((unpack \"II\", $c)[1])"
    );
    Ok(board.must(&format!("perl -e '{program}' /dev/{sensor}")).await?.trim().parse()?)
}

/// Has the service start capture processes that libcamera's part for vimc does not end.
pub async fn settle(board: &mut Board) -> Result<()> {
    board.must("modprobe vimc && udevadm settle && ls /dev/media0").await?;
    let directory = tempfile::tempdir()?;
    let (source, library) = (directory.path().join("number.c"), directory.path().join("number.so"));
    fs::write(&source, NUMBER)?;
    must_run(Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source)).await?;
    let library = BASE64.encode(fs::read(&library)?);
    board.must(&format!("base64 -d <<<{library} > /usr/lib/number.so")).await?;
    board
        .must(
            "mkdir -p /run/systemd/system/peercam-capture@.service.d && cd /run/systemd/system/peercam-capture@.service.d && \
             printf '[Service]\nEnvironment=LD_PRELOAD=/usr/lib/number.so\n' > vimc.conf && \
             systemctl daemon-reload && systemctl restart peercam",
        )
        .await?;
    Ok(())
}

pub async fn doctor_names_a_csi_camera_and_auto_does_not_use_its_nodes(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let report = board.must("peercam doctor --json 2>/dev/null").await?;
    let report: Value = serde_json::from_str(&report).with_context(|| report.clone())?;
    let items = report["items"].as_array().context("items")?;
    let is_told = |topic: &str, part: &str, what: &str| {
        let says =
            |item: &&Value| item["found"].as_str().is_some_and(|text| text.contains(part) && text.contains(what));
        items.iter().filter(|item| item["topic"] == topic).any(|item| says(&item))
    };
    ensure!(is_told("camera", NAME, "source = \"libcamera"), "{report:#}");
    for node in NODES {
        ensure!(is_told("video node", node, "use \"libcamera\""), "nothing of {node} in {report:#}");
    }
    ensure!(!is_told("camera", "/dev/video", ""), "a node that has to be set up is called a camera: {report:#}");
    // As long as it takes `auto` to look for a camera again, and more.
    sleep(Duration::from_secs(5)).await;
    let status = viewer.status().await?;
    ensure!(!status["cameras"][0].to_string().contains("vimc"), "{status:#}");
    Ok(())
}

pub async fn a_csi_camera_is_shown_through_libcamera(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    let (width, height) = SIZE;
    let config = BARE_CONFIG.replace("\"test\"", "\"libcamera\"").replace("640", "300").replace("368", "180");
    let config = config.replace("capture = \"auto\"", "capture = \"test\"");
    board.configure(&config).await?;
    viewer.wait_for_picture(width, height).await?;
    // It began as another process did, for which the page may still be about to make way.
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match viewer.status().await {
            Ok(status) if status["cameras"][0]["state"] == "live" => break status,
            other => ensure!(Instant::now() < deadline, "{other:?}, {}", board.must("dmesg | tail -n 5").await?),
        }
        sleep(Duration::from_millis(200)).await;
    };
    let camera = &status["cameras"][0];
    ensure!(camera["device"].as_str().is_some_and(|device| device.contains(NAME)), "{camera:#}");
    // The only formats that vimc has by libcamera are RGB ones.
    ensure!(camera["mode"]["format"] == "RGB", "{camera:#}");
    starvation::unless_starved(async || {
        let (before, seconds) = (viewer.counters().await?, Duration::from_secs(5));
        sleep(seconds).await;
        let after = viewer.counters().await?;
        let rate = (after.frames_decoded - before.frames_decoded) / (after.seconds - before.seconds);
        eprint!("{rate:.1} fps ... ");
        // The sensor has no rate: it brings pictures as fast as the processor makes them, here 30 where it is quiet.
        ensure!(rate > 10.0, "{rate:.1} frames per second");
        Ok(())
    })
    .await?;
    let (_, colours) = viewer.video_colours(&BAR_CENTRES, BAR_HEIGHT).await?;
    ensure_bars(&colours).context("the sensor's colour bars")?;

    // The page shows the present picture of the sensor.
    set_pattern(board, RED).await?;
    let changed = Instant::now();
    loop {
        let (_, colours) = viewer.video_colours(&BAR_CENTRES, BAR_HEIGHT).await?;
        if colours.iter().all(|[red, green, blue]| *red > 200 && *green < 60 && *blue < 60) {
            return Ok(());
        }
        ensure!(changed.elapsed() < Duration::from_secs(5), "red was not shown: {colours:?}");
    }
}

/// By libcamera 0.4 and later.
pub async fn the_controls_of_a_csi_camera_are_listed_and_set(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    // Colour bars, of which a change of brightness is seen.
    set_pattern(board, BARS).await?;
    let listed = viewer.command("list-controls", json!({})).await?;
    let controls = listed["result"]["controls"].as_array().context("controls")?;
    let brightness = controls.iter().find(|control| control["name"] == "brightness");
    let brightness = brightness.with_context(|| format!("{listed:#}"))?;
    ensure!(brightness["minimum"] == -1000 && brightness["maximum"] == 1000, "{brightness:#}");
    let (_, before) = viewer.video_colours(&BAR_CENTRES, BAR_HEIGHT).await?;
    let set = viewer.command("set-control", json!({ "control": "brightness", "value": -600 })).await?;
    ensure!(set["status"] == "successful" && set["result"]["value"] == -600, "{set:#}");
    let changed = Instant::now();
    loop {
        let (_, colours) = viewer.video_colours(&BAR_CENTRES, BAR_HEIGHT).await?;
        if sum(&colours) * 4 < sum(&before) * 3 {
            break;
        }
        let sensor = brightness_of_sensor(board).await?;
        ensure!(changed.elapsed() < Duration::from_secs(5), "brightness {sensor}: {before:?} became {colours:?}");
    }
    let refused = viewer.command("set-control", json!({ "control": "lens_position", "value": 1000 })).await?;
    let reason = refused["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("this camera does not have it"), "{refused:#}");
    Ok(())
}

/// The total brightness.
fn sum(colours: &[[u8; 3]]) -> u32 {
    colours.iter().flatten().map(|part| u32::from(*part)).sum()
}
