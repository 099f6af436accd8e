//! Commands without a broker: over the WebSocket and over a viewer's data channel, by those who hold the secret.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::socket::Socket;
use crate::whep_viewer::WhepViewer;
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;
use testkit::page::Page;

/// The last outcome of a command on a WebSocket.
async fn ask(socket: &mut Socket, id: &str, command: &str, arguments: Value) -> Result<Value> {
    socket.send(json!({ "type": "command", "id": id, "command": command, "args": arguments })).await?;
    loop {
        let outcome = socket.receive(&["outcome"]).await?;
        ensure!(outcome["id"] == id, "{outcome}");
        if outcome["status"] != "executing" {
            return Ok(outcome);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_for_commands_occupies_no_viewer_s_place() -> Result<()> {
    let board = Board::start("[viewers]\nmax = 1").await?;
    let mut operator = Socket::open_at(&format!("{}?for=commands", board.signal_url()), None).await?;
    let status = ask(&mut operator, "1", "get-status", json!({})).await?;
    assert_eq!(status["result"]["viewers"]["count"], 0, "{status:#}");
    let picture = ask(&mut operator, "2", "snapshot", json!({})).await?;
    assert!(picture["result"]["jpeg"].as_str().is_some_and(|jpeg| jpeg.starts_with("/9j/")), "{picture:.200}");
    let nowhere = ask(&mut operator, "3", "snapshot", json!({ "to": "topic" })).await?;
    assert!(nowhere["reason"].as_str().is_some_and(|reason| reason.contains("no broker")), "{nowhere}");
    let wrong = ask(&mut operator, "4", "set-video", json!({ "fps": 1000 })).await?;
    assert!(wrong["reason"].as_str().is_some_and(|reason| reason.contains("`args.fps`")), "{wrong}");
    operator.send(json!({ "type": "command", "command": "get-status" })).await?;
    let nameless = operator.receive(&["outcome"]).await?;
    assert_eq!((&nameless["id"], &nameless["status"]), (&json!(""), &json!("failed")));
    operator.send(json!({ "type": "offer", "sdp": "v=0" })).await?;
    assert_eq!(operator.refusal().await?, "bad-message");

    // While somebody watches, and nobody else may.
    let mut viewer = Socket::open(&board).await?;
    board.wait_for_count(VIEWERS, 1).await?;
    let listed = ask(&mut operator, "5", "list-viewers", json!({})).await?;
    assert_eq!(listed["result"]["viewers"].as_array().map(Vec::len), Some(1), "{listed}");
    // The viewer's own socket takes commands beside its signals.
    let same = ask(&mut viewer, "5", "list-viewers", json!({})).await?;
    assert_eq!(same["status"], "successful", "{same}");
    let schema: Value = reqwest::get(format!("{}/api/command-schema", board.url)).await?.json().await?;
    assert_eq!(schema["title"], "A command to a peercam");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_s_data_channel_accepts_commands() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    viewer_page.join().await?;
    viewer_page.wait_until("the channel", "control.readyState === 'open'").await?;
    let command = |id: &str, command: &str, arguments: Value| {
        let text = json!({ "type": "command", "id": id, "command": command, "args": arguments });
        format!("control.send(JSON.stringify({text})); return true")
    };
    let ended = |id: &str| {
        format!(
            "heard.some(({{ type, id, status }}) => type === 'outcome' && id === '{id}' && status === 'successful')"
        )
    };
    viewer_page.ask::<bool>(&command("1", "set-video", json!({ "bitrate": 500 }))).await?;
    viewer_page.wait_until("the outcome of set-video", &ended("1")).await?;
    assert_eq!(board.status().await?.pointer("/cameras/0/settings/bitrate"), Some(&json!(500)));
    viewer_page.ask::<bool>(&command("2", "identify", json!({ "seconds": 3 }))).await?;
    viewer_page.wait_until("the outcome of identify", &ended("2")).await?;
    viewer_page
        .wait_until("the event", "heard.some(({ event, seconds }) => event === 'identify' && seconds === 3)")
        .await?;
    viewer_page.ask::<bool>("control.send('{\"type\":\"command\"}'); return true").await?;
    let failed = "heard.some(({ type, id, status }) => type === 'outcome' && id === '' && status === 'failed')";
    viewer_page.wait_until("the failure", failed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dismissed_page_shows_the_reason_and_reconnects_only_on_request() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    let mut operator = Socket::open_at(&format!("{}?for=commands", board.signal_url()), None).await?;
    let () = page.ask("viewer.addEventListener('identify', ({ detail }) => (window.shown = detail))").await?;
    ask(&mut operator, "1", "identify", json!({ "seconds": 2 })).await?;
    page.wait_until("the board's call", "window.shown === 2").await?;

    let listed = ask(&mut operator, "2", "list-viewers", json!({})).await?;
    let name = listed.pointer("/result/viewers/0/viewer").and_then(Value::as_str).context("nobody is listed")?;
    let words = json!({ "viewer": name, "reason": "the line is needed" });
    let dismissed = ask(&mut operator, "3", "dismiss-viewer", words.clone()).await?;
    assert_eq!(dismissed["status"], "successful", "{dismissed}");
    let ended = "viewer.state === 'paused' && viewer.situation.code === 'dismissed' \
                 && viewer.situation.reason === 'the line is needed'";
    page.wait_until("the end", ended).await?;
    board.wait_until_idle().await?;
    // Longer than a page waits that lost its board.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(board.count(VIEWERS).await?, 0, "it came back by itself");
    let gone = ask(&mut operator, "4", "dismiss-viewer", words).await?;
    assert!(gone["reason"].as_str().is_some_and(|reason| reason.contains("nobody watches")), "{gone}");
    let () = page.ask("viewer.play()").await?;
    page.wait_for_picture().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_reports_whether_there_is_sound() -> Result<()> {
    let board = Board::start("").await?;
    let comes_to = async |is_there: bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while board.status().await?["sound"] != is_there {
            ensure!(std::time::Instant::now() < deadline, "{:#}", board.status().await?);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    comes_to(true).await.context("the test tone")?;
    let mut operator = Socket::open_at(&format!("{}?for=commands", board.signal_url()), None).await?;
    for (id, is_on) in [("1", false), ("2", true)] {
        ask(&mut operator, id, "set-audio", json!({ "on": is_on })).await?;
        comes_to(is_on).await?;
    }
    ask(&mut operator, "3", "privacy", json!({ "on": true })).await?;
    comes_to(false).await.context("privacy")
}
