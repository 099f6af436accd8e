//! Measures the table of `docs/measurements.md`: times and resources of the whole product, with the shipped binary.
//!
//! `scripts/bench` runs it. The browser, the headless viewers and the board share the machine, so the machine should be
//! idle, and medians are used; the table has the target beside each measured value.

mod board;
mod hosted;
mod mqtt;

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use board::Board;
use testkit::browser::Browser;
use testkit::headless::Headless;

/// Number of joins over which the median of the time to the first frame is taken.
const JOINS: usize = 20;

/// Number of further headless viewers when the cost of each further viewer is measured.
const CROWD: usize = 20;

/// How long a load is measured; one tick of 10 ms is then 0.05 % of a core.
const SPAN: Duration = Duration::from_secs(20);

/// x264 needs about two seconds to compensate for a forced key frame, so loads are measured after that.
const SETTLE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without measuring.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    // Parts can be named: `cargo bench --bench table -- crowd`.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    println!("| what | reach | measured |\n|---|---|---|");
    if is_wanted("start") {
        start().await?;
    }
    if is_wanted("idle") {
        idle().await?;
    }
    if is_wanted("crowd") {
        crowd().await?;
    }
    if is_wanted("chromium") {
        chromium().await?;
    }
    if is_wanted("hosted") {
        hosted::measure().await?;
    }
    if is_wanted("mqtt") {
        mqtt::all().await?;
    }
    Ok(())
}

fn row(what: &str, reach: &str, measured: &str) {
    println!("| {what} | {reach} | {measured} |");
}

/// Process start to the page, and to the first frame.
async fn start() -> Result<()> {
    let (mut served, mut encoded) = (vec![], vec![]);
    for _ in 0..10 {
        let board = Board::start("keep_warm = true")?;
        served.push(milliseconds(board.served().await?));
        encoded.push(milliseconds(board.encoded().await?));
    }
    let (served, encoded) = (median(&mut served), median(&mut encoded));
    row("process start to page served, median of 10", "200 ms", &format!("{served:.0} ms"));
    row("process start to first frame encoded, median of 10", "500 ms", &format!("{encoded:.0} ms"));
    Ok(())
}

async fn idle() -> Result<()> {
    let board = Board::start("")?;
    board.served().await?;
    tokio::time::sleep(SETTLE).await;
    let load = board.load(SPAN).await? * 100.0;
    let memory = board.memory()?.all / 1e6;
    row("no viewer, none before: CPU", "0.5 % of a core", &format!("{load:.2} %"));
    row("no viewer, none before: memory", "30 MB RSS", &format!("{memory:.1} MB"));
    Ok(())
}

/// One viewer against many, and how many encoders run.
async fn crowd() -> Result<()> {
    let board = Board::start("")?;
    board.served().await?;
    let first = Headless::join(&board.url).await?;
    tokio::time::sleep(SETTLE).await;
    let (one_load, one_memory) = (board.load(SPAN).await?, board.memory()?.all);
    let one_encoders = encoders(&board).await?;
    let encoder = board.status().await?["cameras"][0]["encoder"].to_string();
    row("the encoder that was chosen", "x264", &encoder);
    let mut others = vec![];
    for _ in 0..CROWD {
        others.push(Headless::join(&board.url).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let (many_load, many_memory) = (board.load(SPAN).await?, board.memory()?.all);
    let many_encoders = encoders(&board).await?;
    let each = CROWD as f64;
    let (load, memory) = ((many_load - one_load) / each * 100.0, (many_memory - one_memory) / each / 1e6);
    row("one viewer, encoder included: CPU", "", &format!("{:.1} %", one_load * 100.0));
    row("one viewer, encoder included: memory", "", &format!("{:.1} MB", one_memory / 1e6));
    row(&format!("each of {CROWD} further viewers: CPU"), "0.3 % of a core", &format!("{load:.2} %"));
    row(&format!("each of {CROWD} further viewers: memory"), "1.2 MB", &format!("{memory:.2} MB"));
    let running = format!("{one_encoders} and {many_encoders}");
    row(&format!("encoders running with 1 and with {} viewers", CROWD + 1), "1 and 1", &running);
    for viewer in others.into_iter().chain([first]) {
        viewer.leave().await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory = board.memory()?;
    let both = format!("{:.1} MB, {:.1} MB", memory.service / 1e6, memory.all / 1e6);
    row("no viewer any more: memory of the service, with the capture processes that linger", "", &both);
    board.is_alone().await?;
    let (load, memory) = (board.load(SPAN).await? * 100.0, board.memory()?.all / 1e6);
    row("no viewer any more, capture processes ended: CPU", "0.5 % of a core", &format!("{load:.2} %"));
    row("no viewer any more, capture processes ended: memory", "16 MB RSS", &format!("{memory:.1} MB"));
    Ok(())
}

async fn encoders(board: &Board) -> Result<u64> {
    let status = board.status().await?;
    let cameras = status["cameras"].as_array().context("status lists no cameras")?;
    Ok(cameras.iter().filter_map(|camera| camera["encoders_running"].as_u64()).sum())
}

/// Measures in Chromium: the time to the first frame of a join, and the age of the video.
async fn chromium() -> Result<()> {
    let board = Board::start("")?;
    board.served().await?;
    let browser = Browser::start().await?;
    browser.open(&board.url).await?;
    let keep = Headless::join(&board.url).await?;
    let joins: Joins = serde_json::from_value(browser.run(&script(JOINS, SHORT_PAUSE)).await?)?;
    let mut total = joins.first_frame.clone();
    row(
        &format!("`new RTCPeerConnection` to first rendered frame in Chromium, median of {JOINS}"),
        "140 ms",
        &format!("{:.0} ms (95th {:.0})", median(&mut total), percentile(&mut total, 0.95)),
    );
    let stage = |mut times: Vec<f64>| median(&mut times);
    row(
        "of which: offer made, answer back, connected",
        "25, 40, 127 ms",
        &format!("{:.0}, {:.0}, {:.0} ms", stage(joins.offer), stage(joins.answer), stage(joins.connected)),
    );
    keep.leave().await?;
    let cold: Joins = serde_json::from_value(browser.run(&script(JOINS / 2, LONG_PAUSE)).await?)?;
    let mut total = cold.first_frame;
    row("the same with the encoder stopped before, median of 10", "", &format!("{:.0} ms", median(&mut total)));
    let ending = Board::start_lingering(0, "")?;
    ending.served().await?;
    browser.open(&ending.url).await?;
    let cold: Joins = serde_json::from_value(browser.run(&script(JOINS / 2, LONG_PAUSE)).await?)?;
    let mut total = cold.first_frame;
    let measured = format!("{:.0} ms (95th {:.0})", median(&mut total), percentile(&mut total, 0.95));
    row("the same with the capture process ended before, median of 10", "250 ms", &measured);
    drop(ending);
    browser.open(&board.url).await?;
    let mut ages: Ages = serde_json::from_value(browser.run(AGES).await?)?;
    let both = |ages: &mut [f64]| format!("{:.0} / {:.0} ms", median(ages), percentile(ages, 0.95));
    let frames = ages.callback.len();
    row(
        &format!(
            "capture to render by the time code in Chromium, median / 95th of {frames} frames, at the frame callback"
        ),
        "35 / 50 ms",
        &both(&mut ages.callback),
    );
    row("the same at the time that Chromium expects the frame on the screen", "", &both(&mut ages.display));
    let mut overlay: Vec<f64> = serde_json::from_value(browser.run(OVERLAY).await?)?;
    row("the same as the page's own overlay says, median", "", &format!("{:.0} ms", median(&mut overlay)));
    Ok(())
}

/// Milliseconds since `new RTCPeerConnection` of each join.
#[derive(Deserialize)]
struct Joins {
    offer: Vec<f64>,
    answer: Vec<f64>,
    connected: Vec<f64>,
    first_frame: Vec<f64>,
}

/// Milliseconds from the time code to two moments that may be called rendering.
#[derive(Deserialize)]
struct Ages {
    callback: Vec<f64>,
    display: Vec<f64>,
}

/// Replaces the page's viewer with a new one, again and again, and reads the marks that each leaves.
const JOIN: &str = "
    const pause = (ms) => new Promise((done) => setTimeout(done, ms));
    const names = { offer: 'offer', answer: 'answer', connected: 'connected', first_frame: 'first-frame' };
    const times = { offer: [], answer: [], connected: [], first_frame: [] };
    for (let join = 0; join < JOINS; join++) {
        let viewer = document.querySelector('peercam-viewer');
        const next = viewer.cloneNode();
        viewer.remove();
        PAUSE
        document.body.append(next);
        const mark = (name) => performance.getEntriesByName(`peercam:${name}`)[0]?.startTime;
        for (let wait = 0; mark('first-frame') === undefined || next.state !== 'live'; wait++) {
            if (wait > 1000) throw new Error(`no first frame: ${JSON.stringify(next.situation)}`);
            await pause(10);
        }
        for (const [key, name] of Object.entries(names)) times[key].push(mark(name) - mark('created'));
    }
    return times;";

fn script(joins: usize, pause: &str) -> String {
    JOIN.replace("JOINS", &joins.to_string()).replace("PAUSE", pause)
}

/// A pause between two joins; another viewer keeps the encoder running.
const SHORT_PAUSE: &str = "await pause(1000 + 37 * (join % 9));";

/// A pause that lasts until the encoder has stopped.
const LONG_PAUSE: &str = "
        for (let wait = 0; ; wait++) {
            const { cameras } = await (await fetch('/api/status')).json();
            if (cameras.every((camera) => camera.encoders_running === 0)) break;
            if (wait > 150) throw new Error('the encoder does not stop');
            await pause(100);
        }";

/// The age of each frame's time code, during twenty seconds after two seconds of settling.
const AGES: &str = "
    const { readTimeCode, ageOf } = await import('/time-code.js');
    const video = document.querySelector('peercam-viewer').video;
    const ages = { callback: [], display: [] };
    const begin = performance.now() + 2000;
    return new Promise((done) => {
        const look = (now, { expectedDisplayTime }) => {
            const called = performance.now();
            const code = readTimeCode(video);
            if (now > begin && code !== null) {
                ages.callback.push(ageOf(code, performance.timeOrigin + called));
                ages.display.push(ageOf(code, performance.timeOrigin + expectedDisplayTime));
            }
            if (now > begin + 20000) done(ages);
            else video.requestVideoFrameCallback(look);
        };
        video.requestVideoFrameCallback(look);
    });";

/// The latency that the page's overlay shows, sampled for five seconds.
const OVERLAY: &str = "
    const viewer = document.querySelector('peercam-viewer');
    const latencies = [];
    for (let second = 0; second < 5; second++) {
        await new Promise((done) => setTimeout(done, 1000));
        latencies.push(viewer.statistics.latencyMs);
    }
    return latencies;";

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
