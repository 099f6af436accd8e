//! Features of the kernel's `vivid` besides a simple camera: buffers for each plane, nodes that are not cameras, and
//! injected errors.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::{BAR_CENTRES, BAR_HEIGHT, ensure_bars, process};
use testkit::page_viewer::Viewer;

/// The camera that has a buffer for each plane.
pub const PLANES: &str = "/dev/video10";

/// Time limit from an error to the next picture, on an emulated machine.
const RECOVERY: Duration = Duration::from_secs(20);

/// Checks that the doctor's report names the camera, and has the reasons for the second driver's other nodes.
pub fn ensure_told(report: &Value) -> Result<()> {
    let mut texts = Vec::new();
    gather(report, &mut texts);
    for (node, said) in [
        (PLANES, ""),
        ("/dev/video11", "it accepts pictures and delivers none"),
        ("/dev/video12", "it has data about pictures, but no pictures"),
        ("/dev/video13", "it has data about pictures, but no pictures"),
    ] {
        let is_told = texts.iter().any(|text| text.contains(node) && text.contains(said));
        ensure!(is_told, "nothing like {said:?} of {node} in {report:#}");
    }
    Ok(())
}

/// All texts within a value.
fn gather<'v>(value: &'v Value, texts: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| gather(value, texts)),
        Value::Object(fields) => fields.values().for_each(|value| gather(value, texts)),
        _ => {}
    }
}

pub async fn a_camera_with_a_buffer_for_each_plane_shows_its_colours(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let capabilities = board.must(&format!("v4l2-ctl -d {PLANES} --info")).await?;
    ensure!(capabilities.contains("Video Capture Multiplanar"), "{capabilities}");
    // An emulated board may need longer to start a second camera than the time limit of a snapshot.
    has_picture(viewer).await?;
    let (size, colours) = viewer.snapshot_colours("planes", &BAR_CENTRES, BAR_HEIGHT).await?;
    ensure!(size == (320, 180), "the snapshot is {size:?}");
    ensure_bars(&colours)
}

pub async fn errors_and_drops_of_the_driver_are_reported_or_recovered(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let before = process(board).await?;
    for refused in ["reqbufs", "qbuf", "streamon"] {
        is_cold(viewer).await?;
        board.must(&format!("v4l2-ctl -d {PLANES} -c inject_vidioc_{refused}_error=1")).await?;
        has_picture(viewer).await.with_context(|| format!("{refused} was refused once"))?;
    }
    is_cold(viewer).await?;
    board.must(&format!("v4l2-ctl -d {PLANES} -c percentage_of_dropped_buffers=100")).await?;
    let outcome = picture(viewer).await?;
    let reason = outcome["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(PLANES) && reason.contains("no "), "{outcome}");
    board.must(&format!("v4l2-ctl -d {PLANES} -c percentage_of_dropped_buffers=0")).await?;
    has_picture(viewer).await.context("its first picture came late")?;

    // The same to the camera that is watched.
    viewer.remember_connection().await?;
    for fault in [
        "inject_fatal_streaming_error=1",
        "inject_v4l2_buf_flag_error=1",
        "inject_vidioc_qbuf_error=1",
        // These are refused when it is started again, for which the last one is.
        "inject_vidioc_reqbufs_error=1,inject_fatal_streaming_error=1",
        "inject_vidioc_streamon_error=1,inject_fatal_streaming_error=1",
    ] {
        board.must(&format!("v4l2-ctl -d /dev/video0 -c {fault}")).await?;
        let frames = viewer.counters().await?.frames_decoded;
        viewer.wait_for_frames_after(frames + 30.0).await.with_context(|| fault)?;
    }
    board.must("v4l2-ctl -d /dev/video0 -c percentage_of_dropped_buffers=100").await?;
    viewer.wait_for_loss().await?;
    board.must("v4l2-ctl -d /dev/video0 -c percentage_of_dropped_buffers=0").await?;
    let frames = viewer.counters().await?.frames_decoded;
    viewer.wait_for_frames_after(frames).await?;
    ensure!(viewer.has_remembered_connection().await?, "the page made a new peer connection");
    let after = process(board).await?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

async fn picture(viewer: &Viewer<'_>) -> Result<Value> {
    viewer.command("snapshot", json!({ "camera": "planes", "to": "result" })).await
}

/// Checks that a picture of the second camera comes in time, after any number of requests.
async fn has_picture(viewer: &Viewer<'_>) -> Result<()> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let outcome = picture(viewer).await?;
        if outcome["status"] == "successful" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{outcome}");
    }
}

/// Nobody uses the second camera any more.
async fn is_cold(viewer: &Viewer<'_>) -> Result<()> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let status = viewer.status().await?;
        if status["cameras"][1]["state"] == "idle" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{status:#}");
        sleep(Duration::from_millis(200)).await;
    }
}
