//! Publications of the board: the retained status, figures, and events.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use testkit::board::Board;
use testkit::broker::{Broker, Client, Listener, Listeners, Received};
use testkit::headless::Headless;

const STATUS: &str = "peercam/porch/status";
const EVENT: &str = "peercam/porch/event";

/// A camera that is not there stands beside the test picture.
const TABLES: &str = "
    [device]
    id = \"porch\"
    [[camera]]
    name = \"yard\"
    source = \"/dev/video987\"
    [status]
    interval = 5
";

/// The files of a Raspberry Pi's kernel.
struct Kernel {
    root: TempDir,
}

impl Kernel {
    const TEMPERATURE: &'static str = "sys/class/thermal/thermal_zone0/temp";
    const THROTTLED: &'static str = "sys/devices/platform/soc/soc:firmware/get_throttled";

    fn new() -> Result<Self> {
        let kernel = Self { root: tempfile::tempdir()? };
        let wireless =
            "Inter-|\n face |\n wlan0: 0000   54.  -56.  -256        0      0      0      0      0        0\n";
        for (file, text) in [
            (Self::TEMPERATURE, "48123\n"),
            (Self::THROTTLED, "0\n"),
            ("proc/self/net/wireless", wireless),
            ("proc/meminfo", "MemTotal: 2000000 kB\nMemAvailable: 1500000 kB\n"),
        ] {
            kernel.write(file, text)?;
        }
        Ok(kernel)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let file = self.root.path().join(file);
        fs::create_dir_all(file.parent().context("a file of the kernel's is in a directory")?)?;
        Ok(fs::write(file, text)?)
    }

    fn path(&self) -> &Path {
        self.root.path()
    }
}

async fn start() -> Result<(Broker, Board, Client, Kernel)> {
    let broker = Broker::start(Listeners::default()).await?;
    let kernel = Kernel::new()?;
    let mut operator = broker.client().await?;
    operator.subscribe("peercam/porch/#").await?;
    let board = Board::start_below(kernel.path(), &format!("{TABLES}{}", broker.table(Listener::Plain))).await?;
    Ok((broker, board, operator, kernel))
}

/// The next status of which this holds.
async fn status_where(operator: &mut Client, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let holds = |message: &Received| message.json().is_ok_and(|status| is_wanted(&status));
    operator.next_where(STATUS, holds).await?.json()
}

/// The next event of this name.
async fn event(operator: &mut Client, name: &str) -> Result<Value> {
    let holds = |message: &Received| message.json().is_ok_and(|event| event["event"] == name);
    let event = operator.next_where(EVENT, holds).await?;
    ensure!(!event.is_retained, "an event happens once: {}", event.text());
    event.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_retained_and_complete() -> Result<()> {
    let (broker, board, mut operator, _kernel) = start().await?;
    let first = status_where(&mut operator, |_| true).await?;
    ensure!(first["device"] == "porch" && first["health"] == "ok" && first["privacy"] == false, "{first:#}");
    let figures = json!([first["temperature"], first["throttling"], first["wifi"], first["memory"]["available"]]);
    let wifi = json!({ "interface": "wlan0", "signal": -56, "quality": 54.0 });
    let expected = json!([48.123, { "now": [], "since_start": [] }, wifi, 1_536_000_000_u64]);
    ensure!(figures == expected, "{figures:#}");
    let settings = json!({ "width": 640, "height": 360, "fps": 30, "bitrate": 800, "key_frame_interval": 10 });
    ensure!(first["cameras"][0]["settings"] == settings, "{first:#}");

    let mut late = broker.client().await?;
    late.subscribe(STATUS).await?;
    let kept = late.next_on(STATUS).await?;
    ensure!(kept.is_retained, "later subscribers get it at once");
    let (kept, asked) = (kept.json()?, board.status().await?);
    let keys = |status: &Value| status.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
    ensure!(keys(&kept) == keys(&asked), "{kept:#}\n{asked:#}");
    ensure!(asked["broker"] == json!({ "state": "online" }), "{asked:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_that_join_or_leave_are_reported_at_once_and_in_the_status() -> Result<()> {
    let (_broker, board, mut operator, _kernel) = start().await?;
    status_where(&mut operator, |status| status["viewers"]["count"] == 0).await?;
    let viewer = Headless::join(&board.url).await?;
    let joined = event(&mut operator, "viewer-joined").await?;
    ensure!(joined["camera"] == "main" && joined["time"].is_u64(), "{joined:#}");
    let watched = |status: &Value| status["viewers"]["count"] == 1 && status["cameras"][0]["state"] == "live";
    let status = status_where(&mut operator, watched).await?;
    ensure!(status["viewers"]["list"][0]["viewer"] == joined["viewer"], "{status:#}");
    viewer.leave().await?;
    let left = event(&mut operator, "viewer-left").await?;
    ensure!(left["viewer"] == joined["viewer"], "{left:#}");
    status_where(&mut operator, |status| status["viewers"]["count"] == 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_camera_and_under_voltage_are_events() -> Result<()> {
    let (_broker, board, mut operator, kernel) = start().await?;
    let answer = reqwest::get(format!("{}/snapshot.jpg?camera=yard", board.url)).await?;
    ensure!(answer.status() == 409 || answer.status() == 503, "{}", answer.status());
    let lost = event(&mut operator, "camera-lost").await?;
    let reason = lost["reason"].as_str().context("no reason")?;
    ensure!(lost["camera"] == "yard" && reason.contains("/dev/video987 does not exist"), "{lost:#}");

    kernel.write(Kernel::THROTTLED, "50005\n")?;
    kernel.write(Kernel::TEMPERATURE, "81000\n")?;
    let throttled = event(&mut operator, "throttling").await?;
    ensure!(throttled["now"] == json!(["under-voltage", "throttled"]), "{throttled:#}");
    let hot = status_where(&mut operator, |status| status["temperature"] == 81.0).await?;
    ensure!(hot["throttling"]["now"] == throttled["now"], "{hot:#}");
    let metrics = reqwest::get(format!("{}/metrics", board.url)).await?.text().await?;
    for line in
        ["peercam_temperature_celsius 81", "peercam_throttled{reason=\"under-voltage\"} 1", "peercam_broker_online 1"]
    {
        ensure!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_changes_the_status_is_published_at_its_interval() -> Result<()> {
    let (_broker, _board, mut operator, _kernel) = start().await?;
    status_where(&mut operator, |_| true).await?;
    // What belongs to the start.
    operator.until_silence(Duration::from_secs(2)).await?;
    let begun = tokio::time::Instant::now();
    let mut statuses = 0;
    while let Some(left) = Duration::from_secs(11).checked_sub(begun.elapsed()) {
        if let Ok(message) = operator.next(left).await {
            ensure!(message.topic != EVENT, "{}", message.text());
            statuses += u32::from(message.topic == STATUS);
        }
    }
    ensure!((2..=3).contains(&statuses), "{statuses} statuses in 11 s at an interval of 5 s");
    Ok(())
}
