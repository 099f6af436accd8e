//! Faults of cameras, each measured in a browser page that is neither reloaded nor clicked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::devices::Devices;
use testkit::browser::Browser;
use testkit::page::Page;
use testkit::playback_gaps::{Judged, judge, median_and_95th, watch, watch_on};

/// A camera of 30 frames a second, to which faults are added.
const NODE: &str = "card Odd camera\nformat YUYV\nsize 320x240\nrate 30/1\nfps 30\n";

/// One camera, without sound.
const CAMERA: &str = "[audio]\ncapture = \"off\"\n[[camera]]\nname = \"main\"\nsource = \"/dev/video0\"\nwidth = 320\nheight = 240\nfps = 30\n";

const DAY: f64 = 86_400_000.0;

/// Times of the log lines with these words, in milliseconds since midnight, UTC.
fn logged(log: &str, words: &str) -> Vec<f64> {
    let time = |line: &str| {
        let mut parts = line.split_once('T')?.1.split_once('Z')?.0.split(':').map(|part| part.parse::<f64>().ok());
        let [hours, minutes, seconds] = [parts.next()??, parts.next()??, parts.next()??];
        Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1000.0)
    };
    log.lines().filter(|line| line.contains(words)).filter_map(time).collect()
}

/// Lets a camera fall silent so often: five seconds of frames, then none until it is reopened. Returns after how many
/// milliseconds that was noticed, and for how many the picture was frozen.
async fn silences(count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let devices = Devices::new(&[format!("{NODE}silent 150")], "")?;
    let watched = devices.watch(CAMERA).await?;
    let browser = Browser::start().await?;
    watch(&browser, &watched.url).await?;
    let (mut noticed, mut breaks) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20 + 9 * count as u64);
    while breaks.len() < count {
        ensure!(Instant::now() < deadline, "{} breaks only", breaks.len());
        sleep(Duration::from_secs(1)).await;
        let judged = judge(&browser).await?;
        ensure!(judged.is_same, "the page made a new peer connection");
        // The last one may not have ended yet.
        let (_, whole) = judged.gaps.split_last().context("no frame")?;
        breaks.extend(whole.iter().filter(|(_, gap)| *gap > 500.0));
    }
    let log = watched.end().await?;
    let stalls = logged(&log, "no frames any more");
    for (began, gap) in &breaks {
        let since = |stall: &f64| (stall - began % DAY + DAY) % DAY;
        let first = stalls.iter().map(since).filter(|since| since < gap).fold(f64::INFINITY, f64::min);
        ensure!(first.is_finite(), "a break of {gap:.0} ms without a line in the log:\n{log}");
        noticed.push(first);
    }
    Ok((noticed, breaks.into_iter().map(|(_, gap)| gap).collect()))
}

async fn silences_are_short(count: usize) -> Result<()> {
    let (noticed, breaks) = silences(count).await?;
    let ((noticed, noticed_95th), (gap, gap_95th)) = (median_and_95th(noticed), median_and_95th(breaks));
    println!(
        "{count} silences: noticed after {noticed:.0} ms, 95th {noticed_95th:.0} ms; \
         breaks of {gap:.0} ms, 95th {gap_95th:.0} ms"
    );
    ensure!(noticed_95th < 1000.0 && gap_95th < 3000.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_camera_is_noticed_within_a_second_and_restarted_within_three() -> Result<()> {
    silences_are_short(4).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --test cameras fifty_silences -- --ignored --nocapture"]
async fn fifty_silences_are_noticed_within_a_second_and_over_within_three() -> Result<()> {
    silences_are_short(50).await
}

/// Waits until the camera is live in the page and returns the measurements so far.
async fn live_again(browser: &Browser, limit: Duration) -> Result<Judged> {
    let deadline = Instant::now() + limit;
    let mut seen = judge(browser).await?;
    while !(seen.is_live && seen.frames() > 5) {
        ensure!(Instant::now() < deadline, "no picture within {limit:?}");
        sleep(Duration::from_millis(100)).await;
        let more = judge(browser).await?;
        ensure!(more.is_same, "the page made a new peer connection");
        seen = Judged { gaps: seen.gaps.into_iter().chain(more.gaps).collect(), ..more };
    }
    Ok(seen)
}

/// Unplugs and replugs the camera under a viewer so often; returns the milliseconds from the replug to the picture.
async fn replugs(count: usize) -> Result<Vec<f64>> {
    let devices = Devices::new(&[NODE], "")?;
    let watched = devices.watch(CAMERA).await?;
    let browser = Browser::start().await?;
    watch(&browser, &watched.url).await?;
    let mut took = Vec::new();
    for number in 0..count {
        devices.unplug(0)?;
        Page::of(&browser).wait_until("the loss to be shown", "viewer.state === 'waiting'").await?;
        // At a random phase of the search for the camera.
        sleep(Duration::from_millis(700 + 130 * (number as u64 % 10))).await;
        judge(&browser).await?;
        devices.plug(0, NODE)?;
        let plugged = Instant::now();
        live_again(&browser, Duration::from_secs(10)).await?;
        took.push(plugged.elapsed().as_secs_f64() * 1000.0);
    }
    watched.end().await?;
    Ok(took)
}

async fn replugs_are_short(count: usize) -> Result<()> {
    let (median, most) = median_and_95th(replugs(count).await?);
    println!("{count} times unplugged: picture {median:.0} ms after the plug, 95th {most:.0} ms");
    ensure!(most < 2000.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replugged_camera_is_shown_within_two_seconds() -> Result<()> {
    replugs_are_short(3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --test cameras fifty_times -- --ignored --nocapture"]
async fn a_camera_that_is_plugged_in_fifty_times_is_seen_within_two_seconds() -> Result<()> {
    replugs_are_short(50).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_camera_is_shown_once_the_other_program_releases_it() -> Result<()> {
    let devices = Devices::new(&[format!("{NODE}streamon 16")], "")?;
    let watched = devices.watch(CAMERA).await?;
    let browser = Browser::start().await?;
    let page = Page::open(&browser, &watched.url).await?;
    let says = "JSON.stringify(viewer.situation).includes('another program uses it')";
    page.wait_until("the reason", says).await?;
    watch_on(&browser).await?;
    devices.plug(0, NODE)?;
    live_again(&browser, Duration::from_secs(10)).await?;
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_that_fails_each_second_is_shown_between_failures_and_after_them() -> Result<()> {
    let devices = Devices::new(&[format!("{NODE}gone 30")], "")?;
    let watched = devices.watch(CAMERA).await?;
    let browser = Browser::start().await?;
    watch(&browser, &watched.url).await?;
    sleep(Duration::from_secs(15)).await;
    let judged = judge(&browser).await?;
    let starts = watched.status().await?["cameras"][0]["encoder_starts"].as_u64().context("no count")?;
    ensure!(judged.is_same, "the page made a new peer connection");
    // It is tried again, with pauses.
    ensure!((3..=15).contains(&starts) && judged.frames() > 60, "{starts} starts, {} frames", judged.frames());
    devices.plug(0, NODE)?;
    live_again(&browser, Duration::from_secs(10)).await?;
    sleep(Duration::from_secs(3)).await;
    let judged = judge(&browser).await?;
    ensure!(judged.is_same && judged.is_live && judged.longest() < 500.0, "{:.0} ms", judged.longest());
    watched.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_stamps_that_wrap_or_jump_do_not_stop_the_picture() -> Result<()> {
    for stamps in ["wrap", "back", "same"] {
        let devices = Devices::new(&[format!("{NODE}stamps {stamps}")], "")?;
        let watched = devices.watch(CAMERA).await?;
        let browser = Browser::start().await?;
        watch(&browser, &watched.url).await?;
        sleep(Duration::from_secs(4)).await;
        let judged = judge(&browser).await?;
        let told = format!("{stamps}: {} frames, a break of {:.0} ms", judged.frames(), judged.longest());
        println!("{told}");
        ensure!(judged.is_same && judged.is_live && judged.frames() > 90 && judged.longest() < 500.0, "{told}");
        watched.end().await?;
    }
    Ok(())
}
