//! HTTP connections: their limit, and their priority.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::socket::Socket;
use testkit::board::Board;

/// Connections that a board has at once.
const MOST: usize = 512;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_count_as_connections_until_they_close() -> Result<()> {
    let board = Board::start("").await?;
    let url = format!("{}?for=commands", board.signal_url());
    let mut sockets = Vec::new();
    while let Ok(socket) = Socket::open_at(&url, None).await {
        sockets.push(socket);
        ensure!(sockets.len() <= MOST, "there are more WebSockets than places");
    }
    ensure!(sockets.len() > MOST - 16, "there are only {} WebSockets", sockets.len());
    ensure!(board.status().await.is_err(), "all places are taken");
    sockets.truncate(MOST / 2);
    let began = Instant::now();
    while board.status().await.is_err() {
        ensure!(began.elapsed() < Duration::from_secs(5), "the places do not come back");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A burst of HTTP takes no processor time from video: only the HTTP thread has a low priority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_is_served_by_one_thread_of_low_priority() -> Result<()> {
    let board = Board::start("").await?;
    board.status().await?;
    let mut http = Vec::new();
    let mut others = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", board.process()))? {
        let task = task?.path();
        let stat = fs::read_to_string(task.join("stat"))?;
        // The name may have blanks and brackets; the nice value is the 17th field behind it (proc(5)).
        let (name, rest) = stat.rsplit_once(") ").context("no name")?;
        let nice: i32 = rest.split(' ').nth(16).context("no nice value")?.parse()?;
        if name.ends_with("(http") { http.push(nice) } else { others.push(nice) }
    }
    ensure!(http.len() == 1 && !others.is_empty(), "{http:?}, {others:?}");
    ensure!(others.iter().all(|other| http[0] == (other + 10).min(19)), "{http:?}, {others:?}");
    Ok(())
}
