//! A capture process that is killed, crashes or hangs: the viewer sees a short gap, on the same connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use testkit::board::{Board, ENCODER_STARTS};
use testkit::browser::Browser;
use testkit::capture_processes::{capture_of, strike};
use testkit::headless::Headless;
use testkit::playback_gaps::{judge, median_and_95th, watch};

fn capture(board: &Board) -> Result<Pid> {
    capture_of(board.process(), "main").context("the camera has no capture process")
}

/// Kills the capture process `count` times while three viewers watch; returns the gaps that they saw, in milliseconds.
async fn kills(count: usize, pause: Duration) -> Result<Vec<f64>> {
    let board = Board::start("").await?;
    let browsers = [Browser::start().await?, Browser::start().await?, Browser::start().await?];
    for browser in &browsers {
        watch(browser, &board.url).await?;
    }
    let mut breaks = Vec::new();
    for _ in 0..count {
        sleep(pause).await;
        for browser in &browsers {
            judge(browser).await?;
        }
        kill_process(capture(&board)?, Signal::KILL)?;
        sleep(Duration::from_millis(2500)).await;
        for browser in &browsers {
            let judged = judge(browser).await?;
            let is_well = judged.is_same && judged.is_live && judged.frames() > 10;
            ensure!(is_well, "{judged:?} after kill {}", breaks.len() / browsers.len() + 1);
            breaks.push(judged.longest());
        }
    }
    ensure!(board.count(ENCODER_STARTS).await? == count as u64 + 1, "each kill ended one encoder");
    Ok(breaks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_capture_process_interrupts_three_viewers_for_less_than_a_second() -> Result<()> {
    let (median, most) = median_and_95th(kills(4, Duration::from_millis(500)).await?);
    println!("breaks of {median:.0} ms, {most:.0} ms at most");
    ensure!(most < 1000.0, "a break of {most:.0} ms");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --test e2e fifty_kills -- --ignored --nocapture"]
async fn fifty_kills_interrupt_three_viewers_for_less_than_a_second_each() -> Result<()> {
    let breaks = kills(50, Duration::from_millis(500)).await?;
    let count = breaks.len();
    let (median, most) = median_and_95th(breaks);
    println!("{count} breaks: median {median:.0} ms, 95th {most:.0} ms");
    ensure!(most < 1000.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_calls_right_after_the_start_has_sound() -> Result<()> {
    for _ in 0..3 {
        let board = Board::start("").await?;
        // By WHEP, where nothing is offered a second time.
        let viewer = Headless::join(&board.url).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while board.status().await?["microphone"]["state"] != "live" {
            ensure!(Instant::now() < deadline, "no sound: {:#}", board.status().await?);
            sleep(Duration::from_millis(50)).await;
        }
        viewer.leave().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_a_stopped_process_and_a_stopped_service_cause_a_gap_and_keep_the_connection() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    watch(&browser, &board.url).await?;
    // How long the break may be, in milliseconds. A process that is stopped is noticed after 1.2 s at most.
    for (signal, limit) in [(Signal::SEGV, 1000.0), (Signal::STOP, 3000.0), (Signal::TERM, 1000.0)] {
        sleep(Duration::from_secs(1)).await;
        judge(&browser).await?;
        strike(capture(&board)?, signal);
        sleep(Duration::from_secs(4)).await;
        let judged = judge(&browser).await?;
        println!("{signal:?}: a break of {:.0} ms", judged.longest());
        ensure!(judged.is_same && judged.is_live && judged.longest() < limit, "{signal:?}: {judged:?}");
    }
    // The service itself stands still for 5 s: the capture process waits for it.
    let pid = capture(&board)?;
    let service = i32::try_from(board.process()).ok().and_then(Pid::from_raw).context("no process")?;
    kill_process(service, Signal::STOP)?;
    sleep(Duration::from_secs(5)).await;
    kill_process(service, Signal::CONT)?;
    let woken = Instant::now();
    sleep(Duration::from_secs(3)).await;
    let judged = judge(&browser).await?;
    println!("stopped for 5 s: a break of {:.0} ms", judged.longest());
    ensure!(
        judged.is_same && judged.is_live && judged.longest() < 6500.0,
        "{judged:?}, {:?} after the service went on",
        woken.elapsed()
    );
    ensure!(capture(&board)? == pid, "the capture process was taken for one that hangs");
    Ok(())
}
