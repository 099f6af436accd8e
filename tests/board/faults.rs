//! Faults under a viewer whose page is neither reloaded nor clicked: an encoder that fails or hangs, memory that runs
//! out, a clock that is set; and an hour without any.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::encoder::{NAME, set};
use crate::process;
use crate::webcam::Cable;
use testkit::page_viewer::Viewer;
use testkit::playback_gaps::{judge, median_and_95th, watch_on};

/// Milliseconds from the fault to the picture of the next encoder: what is to be reached by 95 of 100, and what an
/// emulated processor may take at most.
const CHANGE: f64 = 2000.0;
const LONGEST_CHANGE: f64 = 3000.0;

/// The encoder of the board fails or hangs under a viewer so often, each way in turn, and the next takes its place;
/// gives how long the picture stood still each time, in milliseconds.
async fn changes(board: &mut Board, viewer: &Viewer<'_>, count: usize) -> Result<Vec<f64>> {
    let mut breaks = Vec::new();
    for number in 0..count {
        let parameter = ["fails_after", "hangs_after"][number % 2];
        // An encoder that failed in use is skipped for ten minutes, or until the service restarts.
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

/// The camera's encoder in the status.
async fn encoder(viewer: &Viewer<'_>) -> Result<String> {
    Ok(viewer.status().await?["cameras"][0]["encoder"].as_str().unwrap_or_default().to_owned())
}

pub async fn an_encoder_that_fails_or_hangs_under_a_viewer_is_replaced(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let breaks = changes(board, viewer, 2).await?;
    eprint!("breaks of {breaks:.0?} ms ... ");
    ensure!(breaks.iter().all(|gap| *gap < LONGEST_CHANGE));
    Ok(())
}

/// The long form.
pub async fn an_encoder_that_fails_or_hangs_twenty_times_is_replaced_each_time(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let (median, most) = median_and_95th(changes(board, viewer, 20).await?);
    eprint!("breaks of {median:.0} ms, 95th {most:.0} ms ... ");
    ensure!(most < CHANGE);
    Ok(())
}

pub async fn an_encoder_that_hangs_at_its_start_is_skipped(board: &mut Board, viewer: &Viewer<'_>) -> Result<()> {
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
    // The kernel counts the memory in use already, and kills the process when it needs more.
    board
        .must(
            "for pid in $(pidof peercam-capture); do
                 ls -l /proc/$pid/fd | grep -q /dev/video0 || continue
                 group=/sys/fs/cgroup$(cut -d : -f 3 /proc/$pid/cgroup)
                 for setting in memory.swap.max memory.max; do echo 0 > $group/$setting || true; done
             done",
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

pub async fn setting_the_clock_years_ahead_and_back_disturbs_nothing(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    let before = process(board).await?;
    watch_on(viewer.browser()).await?;
    for step in ["5 years", "8 years ago", "3 years"] {
        board.must(&format!("date --set \"$(date --date '{step}')\"")).await?;
        sleep(Duration::from_secs(4)).await;
        let judged = judge(viewer.browser()).await?;
        ensure!(judged.is_same && judged.is_live && judged.longest() < 1000.0, "{step}: {judged:?}");
    }
    // What has an end by the clock, such as a login, may be over.
    let after = process(board).await?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

/// Memory of the service and all capture processes, in KiB.
async fn memory(board: &mut Board) -> Result<f64> {
    let sum = "ps -o rss= -C peercam,peercam-capture | awk '{ sum += $1 } END { print sum }'";
    Ok(board.must(sum).await?.trim().parse()?)
}

/// KiB per hour by which one value a minute grows: the least squares' line.
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let (mut over, mut under) = (0.0, 0.0);
    for (minute, value) in values.iter().enumerate() {
        let away = minute as f64 - middle;
        over += away * (value - mean);
        under += away * away;
    }
    60.0 * over / under
}

pub async fn a_webcam_plays_for_an_hour_without_a_freeze(
    board: &mut Board,
    cable: &Cable,
    viewer: &Viewer<'_>,
) -> Result<()> {
    cable.plug_in(board).await?;
    viewer.wait_for_picture(320, 240).await?;
    viewer.unmute().await?;
    sleep(Duration::from_secs(5)).await;
    let before = viewer.counters().await?;
    watch_on(viewer.browser()).await?;
    let (mut held, mut longest) = (Vec::new(), 0.0_f64);
    for minute in 1..=60 {
        let (given, seen) = (cable.shown(), viewer.counters().await?.frames_decoded);
        sleep(Duration::from_secs(60)).await;
        let (given, seen) = (cable.shown() - given, viewer.counters().await?.frames_decoded - seen);
        // The browser does not count a longer gap as a freeze.
        let judged = judge(viewer.browser()).await?;
        ensure!(judged.is_same && judged.is_live, "minute {minute}: {judged:?}");
        longest = longest.max(judged.longest());
        // Of those on their way at either end some belong to the other minute.
        ensure!(given > 570 && seen >= given as f64 - 5.0, "minute {minute}: {seen} of {given} pictures were shown");
        held.push(memory(board).await?);
        if minute % 5 == 0 {
            let (frozen, held) =
                (viewer.counters().await?.freezes - before.freezes, held.last().context("one a minute")?);
            eprintln!(
                "minute {minute}: {seen} of {given} pictures, frozen for {frozen:.1} s, longest gap {longest:.0} ms, {held:.0} KiB"
            );
        }
    }
    let after = viewer.counters().await?;
    // The allocators have taken by then what they need.
    let (grown, frozen) = (slope(&held[10..]), after.freezes - before.freezes);
    eprint!("frozen for {frozen:.1} s, longest gap {longest:.0} ms, memory grows by {grown:.0} KiB an hour ... ");
    ensure!(frozen == 0.0 && longest < 1000.0 && grown < 1024.0);
    Ok(())
}
