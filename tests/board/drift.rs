//! A microphone whose clock is off: `snd-aloop` shifts the rate of its card.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::board::Board;
use testkit::page_viewer::Viewer;
use testkit::starvation;

/// A cheap picture, so that the emulated processor has time for the sound. The log has the drift once a minute.
pub const CONFIG: &str = r#"
    [web]
    listen = "0.0.0.0:8080"
    secret = "a-secret-for-the-virtual-board"

    [log]
    level = "info,peercam_capture::drift=debug"

    [[camera]]
    name = "main"
    source = "test"
    width = 320
    height = 180
    fps = 5

    [audio]
    capture = "auto"
"#;

/// Values of the control, and by how many ppm the card's samples then last longer.
const RATES: [(u32, f64); 2] = [(100_020, 200.0), (99_980, -200.0)];

/// After so long the drift is known to a tenth.
const MINUTES: Duration = Duration::from_secs(190);

/// Allowed error of the estimated drift, in ppm. The stamps of an emulated card jitter by its ticks of 4 ms.
const NEAR: f64 = 50.0;

/// How far sound may be from the card's stamps, in milliseconds.
const MOST_OFF: f64 = 10.0;

/// For so long there must be no audible step.
const LISTENED: Duration = Duration::from_secs(20);

/// Some minutes with a card that is too slow.
pub async fn sound_of_a_card_that_is_200_ppm_slow_stays_in_step(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    is_followed(board, viewer, RATES[0], MINUTES).await
}

/// An hour with one that is too slow, and one with one that is too fast.
pub async fn sound_of_a_card_that_is_200_ppm_off_stays_in_step_for_an_hour(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    for rate in RATES {
        is_followed(board, viewer, rate, Duration::from_secs(3600)).await?;
    }
    Ok(())
}

async fn is_followed(board: &mut Board, viewer: &Viewer<'_>, (shift, slow): (u32, f64), span: Duration) -> Result<()> {
    // Each of the card's devices has one.
    let set = format!("amixer --quiet --card Loopback cset \"$id\" {shift} || exit");
    let all = "amixer --card Loopback controls | grep 'PCM Rate Shift' | cut -d, -f1";
    board.must(&format!("{all} | while read id; do {set}; done && systemctl restart peercam")).await?;
    viewer.wait_for_picture(320, 180).await?;
    viewer.unmute().await?;
    // An overrun of a busy board is a step too.
    starvation::unless_starved(async || {
        sleep(span).await;
        let log = journal(board).await?;
        let told: Vec<(f64, f64)> = log.lines().filter_map(told).collect();
        let (drift, _) = *told.last().with_context(|| format!("no drift in:\n{log}"))?;
        // While the drift is learned sound is some milliseconds off.
        let off = told.iter().map(|(_, error)| error.abs()).fold(0.0, f64::max);
        eprint!("{slow} ppm slow: found {drift} ppm, at most {off} ms off, {} steps ... ", steps(&log));
        ensure!((drift - slow).abs() < NEAR && off < MOST_OFF, "{told:?}");
        let (before, heard) = (steps(&log), viewer.counters().await?);
        sleep(LISTENED).await;
        let (after, then) = (steps(&journal(board).await?), viewer.counters().await?);
        ensure!(before == after, "{} steps in {LISTENED:?}", after - before);
        let concealed = (then.audio_concealed - heard.audio_concealed) / (then.audio_samples - heard.audio_samples);
        ensure!(concealed < 0.05, "{:.1} % of the sound was missing", concealed * 100.0);
        ensure!(then.audio_energy > heard.audio_energy, "the sound has no energy");
        Ok(())
    })
    .await?;
    let tone = viewer.loudest_frequency().await?;
    ensure!((tone - 480.0).abs() < 12.0, "heard {tone} Hz where 480 Hz are played");
    Ok(())
}

/// The log of the service since its start.
async fn journal(board: &mut Board) -> Result<String> {
    let service = "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID peercam)";
    board.must(&format!("journalctl --output=cat --no-pager {service}")).await
}

/// How often samples were missing.
fn steps(log: &str) -> usize {
    log.lines().filter(|line| line.contains("do not match its time stamps")).count()
}

/// The drift in ppm and the error in milliseconds in a line of the log.
fn told(line: &str) -> Option<(f64, f64)> {
    let number = |name| line.split(name).nth(1)?.split_whitespace().next()?.parse().ok();
    number("drift_ppm=").zip(number("error_ms="))
}
