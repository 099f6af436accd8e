//! A microphone whose clock is off: `snd-aloop` shifts the rate of its card.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::board::Board;
use crate::starvation;
use crate::watching::Viewer;

/// A picture that costs little, so that the emulated processor has time for the sound. Once a minute the log has the drift.
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

/// What the control is set to, and by how many millionths the card's samples last longer then.
const RATES: [(u32, f64); 2] = [(100_020, 200.0), (99_980, -200.0)];

/// After so long the drift is known to a tenth.
const MINUTES: Duration = Duration::from_secs(190);

/// How far what is found may be from what was set, in millionths. The stamps of an emulated card waver by its ticks of 4 ms.
const NEAR: f64 = 50.0;

/// How far sound may be from the card's stamps, in milliseconds.
const MOST_OFF: f64 = 10.0;

/// In so long no step is heard.
const LISTENED: Duration = Duration::from_secs(20);

/// Some minutes with a card that is too slow.
pub async fn sound_of_a_card_that_is_200_ppm_slow_is_followed(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    is_followed(board, viewer, RATES[0], MINUTES).await
}

/// An hour with one that is too slow, and one with one that is too fast.
pub async fn sound_of_a_card_that_is_200_ppm_off_is_followed_for_an_hour(
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
    // An overrun, as of a board that is too busy, is a step too.
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

/// What the service has said since it was started.
async fn journal(board: &mut Board) -> Result<String> {
    let service = "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID peercam)";
    board.must(&format!("journalctl --output=cat --no-pager {service}")).await
}

/// How often samples were missing.
fn steps(log: &str) -> usize {
    log.lines().filter(|line| line.contains("are not of one line")).count()
}

/// The drift in millionths and the error in milliseconds that a line of the log tells of.
fn told(line: &str) -> Option<(f64, f64)> {
    let number = |name| line.split(name).nth(1)?.split_whitespace().next()?.parse().ok();
    number("drift_ppm=").zip(number("error_ms="))
}
