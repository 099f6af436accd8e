//! Resources of viewers that have left are freed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::sleep;

use crate::socket::{Socket, offer};
use testkit::board::{Board, Usage, VIEWERS};
use testkit::headless::Headless;

/// Viewers at once. The encoder stops between two such groups, so that it comes and goes as well.
const GROUP: usize = 10;
/// Groups before the first count: thread pools, caches and the allocator have grown to their size by then.
const WARM_UP: usize = 20;
/// Groups that are counted: 500 joins and leaves.
const GROUPS: usize = 50;

/// Memory per join and leave, in KiB. Over 1300 of them it was about 0.5, and 0.1 is the aim, which 500 cannot show:
/// the allocator grows by steps of up to 3 MiB, 6 KiB for each of 500. A peer connection that is not freed has 1000.
const MOST_MEMORY: f64 = 12.0;

/// Groups at the beginning and at the end of the count whose highest memory is compared.
const EDGE: usize = 10;

/// tokio's pool keeps a thread for 10 s after its last task, GLib's, of which GStreamer's are, for 15 s and half a
/// second (`g_thread_pool_set_max_idle_time`).
const THREADS_END: Duration = Duration::from_secs(17);

/// After this everything of a viewer that vanished has to be free, the encoder's time of grace included.
const FREED_WITHIN: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_resources_of_five_hundred_viewers_are_freed() -> Result<()> {
    let board = Board::start("").await?;
    vanish(&board).await?;
    for group in 0..WARM_UP {
        come_and_go(&board, group).await?;
    }
    let before = usage_when_idle(&board).await?;
    let began = Instant::now();
    vanish(&board).await?;
    let mut memory = vec![];
    for group in 1..GROUPS {
        come_and_go(&board, group).await?;
        memory.push(board.usage()?.memory);
    }
    let took = began.elapsed();
    let after = usage_when_idle(&board).await?;

    // Compared while it works: an idle process gives back more or less, by chance.
    let highest = |readings: &[i64]| readings.iter().copied().max().unwrap_or_default();
    let (early, late) = (highest(&memory[..EDGE]), highest(&memory[memory.len() - EDGE..]));
    let slope = (late - early) as f64 / ((memory.len() - EDGE) * GROUP) as f64;
    println!("{} viewers in {took:?}: {early} KiB, then {late}; {slope:.2} KiB each", GROUPS * GROUP);
    assert_eq!(after.descriptors.len(), before.descriptors.len(), "descriptors: {before:?}, then {after:?}");
    assert_eq!(after.threads.len(), before.threads.len(), "threads: {before:?}, then {after:?}");
    // Waited for, since a connection closes in a task of its own: one is left, which admits viewers.
    board.wait_for_count("/viewers/tasks", 1).await?;
    assert!(slope < MOST_MEMORY, "{slope:.2} KiB are left of each viewer");
    assert!(!board.log()?.contains("panicked"));
    Ok(())
}

/// One group of viewers that vanish, as when a laptop is closed.
async fn vanish(board: &Board) -> Result<()> {
    try_join_all((0..GROUP).map(|_| async { Headless::join(&board.url).await?.vanish().await })).await?;
    let began = Instant::now();
    board.wait_until_idle().await?;
    ensure!(began.elapsed() < FREED_WITHIN, "freed after {:?}", began.elapsed());
    Ok(())
}

/// One group of viewers, which leave in different ways.
async fn come_and_go(board: &Board, group: usize) -> Result<()> {
    let ways = (0..GROUP).map(|place| async move {
        match place {
            0 => Socket::open(board).await.map(drop),
            1 => leave_with_bye(board).await,
            2 => refused(board).await,
            _ => Headless::join(&board.url).await?.leave().await,
        }
    });
    try_join_all(ways).await?;
    // Every fifth group ends with the encoder's end.
    if group % 5 == 4 { board.wait_until_idle().await } else { board.wait_for_count(VIEWERS, 0).await }
}

async fn leave_with_bye(board: &Board) -> Result<()> {
    let mut socket = Socket::open(board).await?;
    socket.offer(&offer("H264")).await?;
    socket.receive(&["answer"]).await?;
    socket.send(json!({ "type": "bye" })).await?;
    socket.closed().await.map(drop)
}

async fn refused(board: &Board) -> Result<()> {
    let mut socket = Socket::open(board).await?;
    socket.offer(&offer("VP8")).await?;
    ensure!(socket.refusal().await? == "no-common-codec");
    Ok(())
}

/// The resources of the process some time after the last viewer left.
async fn usage_when_idle(board: &Board) -> Result<Usage> {
    board.wait_until_idle().await?;
    sleep(THREADS_END).await;
    board.usage()
}
