//! The board's shutdown and return, and a hidden page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::socket::{Socket, offer};
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;
use testkit::page::Page;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_that_the_board_is_gone_and_reconnects_within_two_seconds_of_its_return() -> Result<()> {
    let (mut board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    let () = page.ask("window.page = 'the same'").await?;
    board.kill()?;
    page.wait_until("the page to notice", "viewer.state === 'offline'").await?;
    let situation: Value = page.ask("return viewer.situation").await?;
    assert!(situation["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{situation}");
    let pill = "return viewer.shadowRoot.querySelector('[part~=pill]').textContent";
    let pill: String = page.ask(pill).await?;
    assert!(pill.contains("Offline"), "the pill says {pill:?}");

    // Away for longer than one attempt takes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    board.start_again().await?;
    let back = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0;
    page.wait_for_picture().await?;
    let (tried, seen): (f64, f64) = page
        .ask(
            "const at = (name) => performance.timeOrigin + performance.getEntriesByName(`peercam:${name}`)[0].startTime;
             return [at('created'), at('first-frame')];",
        )
        .await?;
    println!("tried {:.0} ms after the return, picture after {:.0} ms", tried - back, seen - back);
    assert!(tried - back < 2000.0, "tried {:.0} ms after the board was back", tried - back);
    assert!(seen - back < 3500.0, "the picture came {:.0} ms after the board was back", seen - back);
    assert_eq!(page.ask::<String>("return window.page").await?, "the same", "the page was loaded again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_page_releases_the_camera_and_resumes_when_visible() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    browser.look_away().await?;
    page.wait_until("the page to be hidden", "document.hidden").await?;
    // A viewer that looks away for a moment does not lose it.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(board.count(VIEWERS).await?, 1);
    board.wait_for_count(VIEWERS, 0).await?;
    let situation: Value = page.ask("return viewer.situation").await?;
    assert_eq!(situation["state"], "paused", "{situation}");
    browser.look_back().await?;
    page.wait_for_picture().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sigterm_viewers_are_notified_and_the_process_ends_in_time() -> Result<()> {
    let (mut board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    let mut socket = Socket::open(&board).await?;
    socket.offer(&offer("H264")).await?;
    socket.receive(&["answer"]).await?;
    board.signal("TERM")?;
    let bye = socket.receive(&["bye"]).await?;
    assert!(bye["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{bye}");
    // Two seconds for viewers, one for cameras, half a second for connections.
    let status = board.ended(Duration::from_secs(4)).await?;
    assert_eq!(status.code(), Some(0), "{status}");
    page.wait_until("the page to say so", "viewer.state === 'offline'").await?;
    let log = board.log()?;
    assert!(!log.contains("did not end in time"));
    assert!(!log.contains("panicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_process_at_once() -> Result<()> {
    let mut board = Board::start("").await?;
    // A viewer that does not react.
    let mut socket = Socket::open(&board).await?;
    socket.send(json!({ "type": "candidate", "candidate": null })).await?;
    board.wait_for_count(VIEWERS, 1).await?;
    board.signal("TERM")?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    // It may have ended already.
    board.signal("TERM").ok();
    let status = board.ended(Duration::from_millis(500)).await.context("after the second signal")?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}
