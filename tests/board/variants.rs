//! Webcams of other kinds, plugged in one after the other: microphones of every shape, cameras that encode by
//! themselves, sizes and rates, and a webcam that comes back at another plug.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::BARE_CONFIG;
use crate::board::Board;
use crate::usb::{Camera, Format, Microphone, Size, TONE, Webcam};
use testkit::page_viewer::Viewer;
use testkit::tap_network::HOST;

/// The port of the next cable; webcam.rs uses 3240, the default of `usbip`.
static PORT: AtomicU16 = AtomicU16::new(3241);

/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(40);

/// Pictures of a recording; at 30 a second it lasts 2 s.
const PICTURES: usize = 60;

/// A webcam and its cable.
struct Plugged {
    webcam: Arc<Webcam>,
    port: u16,
}

impl Plugged {
    fn new(
        camera: Camera,
        microphone: Option<Microphone>,
        frames: impl Fn(Format, &Size, u64) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<Self> {
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let listener = TcpListener::bind((HOST, port)).context("the USB cable's end")?;
        Ok(Self { webcam: Webcam::offered_at(listener, camera, microphone, Box::new(frames)), port })
    }

    async fn plug_in(&self, board: &mut Board) -> Result<()> {
        board.must("modprobe vhci-hcd").await?;
        board.must(&format!("usbip --tcp-port {} attach --remote={HOST} --busid=1-1 2>&1", self.port)).await?;
        Ok(())
    }

    /// Pulls the plug; returns when its nodes are gone.
    async fn pull(&self, board: &mut Board, name: &str) -> Result<()> {
        self.webcam.unplug();
        let gone = format!(
            "for i in $(seq 200); do grep -qs '{name}' /sys/class/video4linux/*/name || exit 0; sleep 0.05; done; exit 1"
        );
        board.must(&gone).await?;
        Ok(())
    }
}

fn sizes(sizes: &[(u16, u16, &[u32])]) -> Vec<Size> {
    sizes.iter().map(|&(width, height, rates)| Size { width, height, rates: rates.to_vec() }).collect()
}

/// Grey that moves, as YUYV.
fn raw(size: &Size, number: u64) -> Vec<u8> {
    let line: Vec<u8> = (0..usize::from(size.width)).flat_map(|x| [(x as u64 + 4 * number) as u8, 128]).collect();
    line.repeat(usize::from(size.height))
}

/// Waits until the status has a live camera or microphone with this name.
async fn live(viewer: &Viewer<'_>, which: &str, name: &str) -> Result<Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = viewer.status().await?;
        let source = status.pointer(which).cloned().unwrap_or_default();
        if source["state"] == "live" && source["device"].as_str().is_some_and(|device| device.contains(name)) {
            return Ok(source);
        }
        ensure!(Instant::now() < deadline, "no live {name} at {which}: {status:#}");
        sleep(Duration::from_millis(200)).await;
    }
}

pub async fn microphones_with_any_rate_channels_and_width_work(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    for (name, rate, channels, bytes) in [
        ("Stereo 44100", 44_100, 2, 2),
        ("Mono of 32 bits", 48_000, 1, 4),
        ("Array of four", 16_000, 4, 2),
        ("Array of six", 16_000, 6, 2),
    ] {
        let camera = Camera { name, formats: vec![(Format::Yuyv, sizes(&[(320, 240, &[10])]))] };
        let plugged =
            Plugged::new(camera, Some(Microphone { rate, channels, bytes }), |_, size, number| raw(size, number))?;
        plugged.plug_in(board).await?;
        live(viewer, "/microphone", name).await.context(name)?;
        viewer.unmute().await?;
        // The spectrum is that of the last moment.
        sleep(Duration::from_secs(2)).await;
        let tone = viewer.loudest_frequency().await?;
        // A bin of the spectrum is 6 Hz wide.
        ensure!((tone - TONE).abs() < 12.0, "{name}: heard {tone} Hz where {TONE} Hz are played");
        plugged.pull(board, name).await?;
    }
    Ok(())
}

/// The stream of a camera that encodes by itself.
struct Recording {
    /// Of the encoder.
    settings: &'static str,
    /// The types of units that it leaves out: 7 and 8 are the parameter sets (H.264, table 7-1).
    without: &'static [u8],
}

impl Recording {
    /// Access units in the order of sending, which begin with a key frame.
    fn made(&self) -> Result<Vec<Vec<u8>>> {
        gst::init()?;
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers={PICTURES} pattern=smpte ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 ! \
             x264enc bitrate=800 {} ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out sync=false",
            self.settings
        ))?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| anyhow::anyhow!("no pipeline"))?;
        let sink =
            pipeline.by_name("out").and_then(|sink| sink.downcast::<gst_app::AppSink>().ok()).context("no sink")?;
        pipeline.set_state(gst::State::Playing)?;
        let mut units = Vec::new();
        while let Ok(sample) = sink.pull_sample() {
            let unit = sample.buffer().context("no picture")?.map_readable()?.to_vec();
            units.push(if self.without.is_empty() { unit } else { without(&unit, self.without) });
        }
        pipeline.set_state(gst::State::Null)?;
        ensure!(units.len() == PICTURES, "{} pictures", units.len());
        Ok(units)
    }
}

/// An access unit in Annex B without the units of these kinds.
fn without(unit: &[u8], kinds: &[u8]) -> Vec<u8> {
    let starts: Vec<usize> = (0..unit.len().saturating_sub(3)).filter(|&at| unit[at..at + 3] == [0, 0, 1]).collect();
    let mut kept = Vec::new();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(unit.len());
        if !kinds.contains(&(unit[start + 3] & 31)) {
            kept.push(0);
            kept.extend(&unit[start..end]);
        }
    }
    kept
}

fn encoding(name: &'static str, recording: &Recording) -> Result<Plugged> {
    let units = recording.made()?;
    let camera = Camera { name, formats: vec![(Format::H264, sizes(&[(320, 240, &[30])]))] };
    Plugged::new(camera, None, move |_, _, number| units[number as usize % units.len()].clone())
}

pub async fn h264_of_a_camera_is_shown_and_unusable_streams_are_reported(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let baseline = "tune=zerolatency speed-preset=ultrafast key-int-max=60";
    for (name, settings) in [
        // A key frame each two seconds, and none on request.
        ("Encodes as it likes", baseline),
        // With delimiters and another profile, as from some cameras.
        (
            "Encodes with delimiters",
            "aud=true cabac=false bframes=0 speed-preset=ultrafast tune=zerolatency key-int-max=30",
        ),
    ] {
        let plugged = encoding(name, &Recording { settings, without: &[] })?;
        plugged.plug_in(board).await?;
        let camera = live(viewer, "/cameras/0", name).await?;
        ensure!(camera["mode"]["format"] == "H264" && camera["encoder"] == "passthrough", "{camera:#}");
        ensure!(camera["key_frames_on_demand"] == false, "{camera:#}");
        viewer.wait_for_picture(320, 240).await.context(name)?;
        let frames = viewer.counters().await?.frames_decoded;
        viewer.wait_for_frames_after(frames + 60.0).await.context(name)?;
        plugged.pull(board, name).await?;
    }

    for (name, settings, without, reason) in [
        ("Encodes without parameters", baseline, &[7, 8][..], "a key frame with SPS and PPS is missing"),
        (
            "Encodes out of order",
            "bframes=2 b-adapt=false speed-preset=ultrafast key-int-max=30",
            &[],
            "sends B-frames",
        ),
    ] {
        let plugged = encoding(name, &Recording { settings, without })?;
        plugged.plug_in(board).await?;
        viewer.wait_for_reason(reason).await.context(name)?;
        plugged.pull(board, name).await?;
    }
    Ok(())
}

pub async fn the_requested_size_and_rate_are_used(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    let name = "Many sizes";
    let all = sizes(&[(640, 480, &[5]), (640, 360, &[10, 5]), (320, 240, &[15, 10]), (160, 120, &[30, 15])]);
    let camera = Camera { name, formats: vec![(Format::Yuyv, all)] };
    let plugged = Plugged::new(camera, None, |_, size, number| raw(size, number))?;
    plugged.plug_in(board).await?;
    live(viewer, "/cameras/0", name).await?;
    for (width, height, fps, found) in [(160, 120, 30, 30.0), (320, 240, 10, 10.0), (320, 240, 30, 15.0)] {
        let outcome = viewer.command("set-video", json!({ "width": width, "height": height, "fps": fps })).await?;
        ensure!(outcome["status"] == "successful", "{outcome:#}");
        viewer.wait_for_picture(width, height).await?;
        let camera = live(viewer, "/cameras/0", name).await?;
        ensure!(camera["mode"]["fps"] == found && camera["mode"]["width"] == width, "{camera:#}");
    }
    plugged.pull(board, name).await
}

pub async fn a_webcam_replugged_at_another_port_comes_back_to_the_same_viewer(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let webcam = |name| {
        let camera = Camera { name, formats: vec![(Format::Yuyv, sizes(&[(320, 240, &[10])]))] };
        Plugged::new(camera, None, |_, size, number| raw(size, number))
    };
    let (watched, other) = (webcam("Watched webcam")?, webcam("Other webcam")?);
    watched.plug_in(board).await?;
    let config = BARE_CONFIG.replace("source = \"test\"", "source = \"usb-Board_Watched_webcam_0001-video-index0\"");
    board.configure(&config.replace("capture = \"auto\"", "capture = \"test\"")).await?;
    live(viewer, "/cameras/0", "Watched webcam (/dev/video0)").await?;
    viewer.wait_for_picture(320, 240).await?;
    viewer.remember_connection().await?;
    watched.pull(board, "Watched webcam").await?;
    viewer.wait_for_loss().await?;
    // Takes its plug and its number.
    other.plug_in(board).await?;
    board.must("for i in $(seq 200); do test -e /dev/video0 && exit 0; sleep 0.05; done; exit 1").await?;
    watched.plug_in(board).await?;
    live(viewer, "/cameras/0", "Watched webcam (/dev/video2)").await?;
    viewer.wait_for_picture(320, 240).await?;
    ensure!(viewer.has_remembered_connection().await?, "the page made a new peer connection");
    watched.pull(board, "Watched webcam").await?;
    other.pull(board, "Other webcam").await
}
