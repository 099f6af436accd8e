//! The board's end and return, and a page that nobody looks at.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::board::{Board, VIEWERS};
use crate::browser::Browser;
use crate::page::Page;
use crate::socket::{Socket, offer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_that_the_board_is_gone_and_tries_again_within_two_seconds_of_its_return() -> Result<()> {
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
async fn a_page_that_nobody_looks_at_lets_the_camera_go_and_comes_back_when_seen() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    browser.look_away().await?;
    page.wait_until("the page to be hidden", "document.hidden").await?;
    // Whoever looks away for a moment only, does not lose it.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(board.count(VIEWERS).await?, 1);
    board.wait_for_count(VIEWERS, 0).await?;
    let situation: Value = page.ask("return viewer.situation").await?;
    assert_eq!(situation["state"], "paused", "{situation}");
    browser.look_back().await?;
    page.wait_for_picture().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sigterm_viewers_are_told_and_the_process_ends_in_time() -> Result<()> {
    let (mut board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    let mut socket = Socket::open(&board).await?;
    socket.offer(&offer("H264")).await?;
    socket.hear(&["answer"]).await?;
    board.signal("TERM")?;
    let bye = socket.hear(&["bye"]).await?;
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
    // A viewer that does not take its leave.
    let mut socket = Socket::open(&board).await?;
    socket.say(json!({ "type": "candidate", "candidate": null })).await?;
    board.wait_for_count(VIEWERS, 1).await?;
    board.signal("TERM")?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    // It may have ended already.
    board.signal("TERM").ok();
    let status = board.ended(Duration::from_millis(500)).await.context("after the second signal")?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}
