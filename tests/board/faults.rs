//! Faults under a viewer whose page is neither reloaded nor clicked: an encoder that fails or hangs, memory that runs out,
//! a clock that is set.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::breaks::{judge, median_and_95th, watch_on};
use crate::encoder::{NAME, set};
use crate::process;
use crate::watching::Viewer;

/// Milliseconds from the fault to the picture of the next encoder. On hardware it is to be 2000; the emulated processor
/// needs most of that to try an encoder of software.
const LONGEST_CHANGE: f64 = 5000.0;

/// The encoder of the board fails or hangs under a viewer so often, each way in turn, and the next takes its place; gives
/// how long the picture stood still each time, in milliseconds.
async fn changes(board: &mut Board, viewer: &Viewer<'_>, count: usize) -> Result<Vec<f64>> {
    let mut breaks = Vec::new();
    for number in 0..count {
        let parameter = ["fails_after", "hangs_after"][number % 2];
        // What failed in use is passed over for ten minutes, or until the service starts.
        board.must("systemctl restart peercam").await?;
        let deadline = Instant::now() + Duration::from_secs(40);
        while encoder(viewer).await.ok().as_deref() != Some(NAME) {
            ensure!(Instant::now() < deadline, "{NAME} is not used: {:#}", viewer.status().await?["cameras"]);
            sleep(Duration::from_millis(200)).await;
        }
        viewer.wait_for_picture(640, 368).await?;
        sleep(Duration::from_secs(2)).await;
        watch_on(viewer.browser()).await?;
        set(board, parameter, "1").await?;
        sleep(Duration::from_secs(6)).await;
        let judged = judge(viewer.browser()).await?;
        set(board, parameter, "0").await?;
        ensure!(judged.is_same && judged.is_live, "{parameter}: {judged:?}");
        let now = encoder(viewer).await?;
        ensure!(now != NAME && !now.is_empty(), "{parameter}: {now} is used");
        breaks.push(judged.longest());
    }
    Ok(breaks)
}

/// What the status says of the camera's encoder.
async fn encoder(viewer: &Viewer<'_>) -> Result<String> {
    Ok(viewer.status().await?["cameras"][0]["encoder"].as_str().unwrap_or_default().to_owned())
}

pub async fn an_encoder_that_fails_or_hangs_while_it_is_watched_is_replaced_by_the_next(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let breaks = changes(board, viewer, 2).await?;
    eprint!("breaks of {breaks:.0?} ms ... ");
    ensure!(breaks.iter().all(|gap| *gap < LONGEST_CHANGE));
    Ok(())
}

/// The long form.
pub async fn twenty_times_an_encoder_that_fails_or_hangs_is_replaced_by_the_next(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let (median, most) = median_and_95th(changes(board, viewer, 20).await?);
    eprint!("breaks of {median:.0} ms, 95th {most:.0} ms ... ");
    ensure!(most < LONGEST_CHANGE);
    Ok(())
}

pub async fn an_encoder_that_hangs_at_its_start_is_passed_over(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
    set(board, "hangs_at_start", "Y").await?;
    board.must("systemctl restart peercam").await?;
    viewer.wait_for_picture(640, 368).await?;
    let now = encoder(viewer).await?;
    set(board, "hangs_at_start", "N").await?;
    ensure!(now != NAME && !now.is_empty(), "{now} is used");
    Ok(())
}

pub async fn a_capture_process_that_runs_out_of_memory_is_replaced(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let before = process(board).await?;
    watch_on(viewer.browser()).await?;
    // The kernel counts what is there already, and ends the process for more.
    board
        .must(
            "unit=$(systemctl list-units --plain --no-legend 'peercam-capture@*' | awk 'NR == 1 { print $1 }')
             group=/sys/fs/cgroup$(systemctl show -P ControlGroup \"$unit\")
             for setting in memory.swap.max memory.max; do echo 0 > \"$group/$setting\" || true; done",
        )
        .await?;
    sleep(Duration::from_secs(8)).await;
    let killed = board.must("journalctl --dmesg --output=cat --boot | grep -c 'Memory cgroup out of memory'").await?;
    let judged = judge(viewer.browser()).await?;
    eprint!("a break of {:.0} ms ... ", judged.longest());
    ensure!(judged.is_same && judged.is_live, "{killed} kills, {judged:?}");
    let after = process(board).await?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

pub async fn a_clock_that_is_set_years_ahead_and_back_disturbs_nothing(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    watch_on(viewer.browser()).await?;
    for step in ["5 years", "8 years ago", "3 years"] {
        board.must(&format!("date --set \"$(date --date '{step}')\"")).await?;
        sleep(Duration::from_secs(4)).await;
        let judged = judge(viewer.browser()).await?;
        ensure!(judged.is_same && judged.is_live && judged.longest() < 1000.0, "{step}: {judged:?}");
    }
    let status: Value = viewer.status().await?;
    ensure!(status["health"] == "ok", "{status:#}");
    Ok(())
}
