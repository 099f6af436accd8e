//! Viewers that send invalid messages, too many, or none. Each gets an error, and a watching viewer is not affected.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::socket::{Socket, offer};
use testkit::board::{Board, ENCODER_STARTS, ENCODERS, VIEWERS};
use testkit::browser::Browser;
use testkit::headless::Headless;
use testkit::page::Page;

/// Larger than any message may be.
const MEGABYTE: usize = 1024 * 1024;

/// The refusal of this table's size: a healthy viewer, and those whose sockets a test has open at once.
const TABLES: &str = "[viewers]\nmax = 8";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_a_clear_error_and_the_healthy_viewer_plays_on() -> Result<()> {
    let (board, browser) = (Board::start(TABLES).await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let () = page.ask("window.same = viewer.peerConnection").await?;
    let before = page.counters().await?;

    unanswerable_offers(&board).await.context("offers")?;
    candidates_at_the_wrong_time(&board).await.context("candidates")?;
    invalid_messages(&board).await.context("messages")?;
    an_offer_sent_twice_gets_the_same_answer(&board).await.context("an offer sent twice")?;
    a_message_of_a_megabyte(&board).await.context("a message of a megabyte")?;
    a_flood(&board).await.context("a flood")?;
    a_silent_socket(&board).await.context("a silent socket")?;

    // An answered viewer without a path is given up after 15 s.
    board.wait_for_count(VIEWERS, 1).await?;
    let after = page.counters().await?;
    assert!(page.ask::<bool>("return viewer.state === 'live' && viewer.peerConnection === window.same").await?);
    assert_eq!(after.freezes, before.freezes, "the healthy viewer's picture froze");
    let rate = (after.frames_decoded - before.frames_decoded) / (after.seconds - before.seconds);
    assert!(rate > 28.0, "the healthy viewer saw {rate:.1} frames per second");
    assert_eq!(board.count(ENCODERS).await?, 1);
    assert_eq!(board.count(ENCODER_STARTS).await?, 1);
    let log = board.log()?;
    assert!(!log.contains("panicked"));
    assert!(!log.contains("a=ice-pwd") && !log.contains("m=video"), "a session description is in the log");
    Ok(())
}

async fn unanswerable_offers(board: &Board) -> Result<()> {
    let good = offer("H264");
    let without_video = good[..good.find("m=video").context("no video")?].to_owned();
    let not_receiving = good.replace("a=recvonly", "a=sendonly");
    let without_credentials: String =
        good.split_inclusive('\n').filter(|line| !line.starts_with("a=ice-") && !line.starts_with("a=fing")).collect();
    let cases = [
        ("", "bad-offer"),
        ("hello", "bad-offer"),
        ("v=0\r\n", "bad-offer"),
        (&without_video, "bad-offer"),
        (&not_receiving, "bad-offer"),
        (&without_credentials, "bad-offer"),
        (&offer("VP8"), "no-common-codec"),
    ];
    let mut socket = Socket::open(board).await?;
    for (sdp, code) in cases {
        socket.offer(sdp).await?;
        let refused = socket.refusal().await.with_context(|| format!("{sdp:?}"))?;
        ensure!(refused == code, "{refused} instead of {code} for {sdp:?}");
    }
    // The same viewer may still send a valid offer.
    socket.offer(&good).await?;
    socket.receive(&["answer"]).await?;
    socket.send(json!({ "type": "bye" })).await?;

    let client = reqwest::Client::builder().no_proxy().build()?;
    for (sdp, status) in [("hello".to_owned(), 400), (offer("VP8"), 406), ("v".repeat(MEGABYTE), 413)] {
        let request = client.post(format!("{}/whep", board.url)).header("Content-Type", "application/sdp");
        let response = request.body(sdp).send().await?;
        ensure!(response.status() == status, "{} instead of {status}", response.status());
    }
    Ok(())
}

async fn candidates_at_the_wrong_time(board: &Board) -> Result<()> {
    let candidate = |text: &str| json!({ "type": "candidate", "candidate": { "candidate": text, "sdpMid": "0" } });
    let sound = "candidate:1 1 udp 2122260223 192.0.2.7 40000 typ host";
    let mut socket = Socket::open(board).await?;
    // Before the offer: kept for it, which an error would belie.
    socket.send(candidate(sound)).await?;
    socket.offer(&offer("H264")).await?;
    let answer = socket.receive(&["answer", "error"]).await?;
    ensure!(answer["type"] == "answer", "{answer}");
    for malformed in ["candidate:1 1 udp", "nonsense", "candidate:1 1 udp x 192.0.2.7 99999 typ host"] {
        socket.send(candidate(malformed)).await?;
        let code = socket.refusal().await.with_context(|| malformed.to_owned())?;
        ensure!(code == "bad-candidate", "{code} for {malformed:?}");
    }
    socket.send(json!({ "type": "candidate", "candidate": null })).await?;
    socket.send(candidate(sound)).await?;
    let code = socket.refusal().await.context("after the end of candidates")?;
    ensure!(code == "bad-candidate", "{code} after the end of candidates");
    socket.send(json!({ "type": "bye" })).await
}

async fn invalid_messages(board: &Board) -> Result<()> {
    let wrong = [
        r#"{"type":"offer","sdp":5}"#,
        r#"{"type":"offer"}"#,
        r#"{"type":"dance"}"#,
        r#"{"type":"answer","sdp":"v=0"}"#,
        r#"{"type":"candidate","candidate":"host"}"#,
        "[]",
        "{",
        "",
    ];
    let mut socket = Socket::open(board).await?;
    for text in wrong {
        socket.send_raw(text).await?;
        let code = socket.refusal().await.with_context(|| text.to_owned())?;
        ensure!(code == "bad-message", "{code} for {text:?}");
    }
    socket.send_raw(vec![0_u8, 159, 146, 150]).await?;
    let code = socket.refusal().await.context("binary")?;
    ensure!(code == "bad-message", "{code} for binary");
    // A client that repeats this is disconnected.
    for _ in 0..20 {
        if socket.send_raw("nonsense").await.is_err() {
            break;
        }
    }
    socket.closed().await?;
    Ok(())
}

async fn an_offer_sent_twice_gets_the_same_answer(board: &Board) -> Result<()> {
    let mut socket = Socket::open(board).await?;
    let mut answers: Vec<Value> = vec![];
    for _ in 0..2 {
        socket.offer(&offer("H264")).await?;
        answers.push(socket.receive(&["answer", "error"]).await?);
    }
    ensure!(answers[0]["type"] == "answer" && answers[0] == answers[1], "{answers:?}");
    socket.send(json!({ "type": "bye" })).await
}

async fn a_message_of_a_megabyte(board: &Board) -> Result<()> {
    let mut socket = Socket::open(board).await?;
    // The board may close while we still send.
    socket.offer(&"v".repeat(MEGABYTE)).await.ok();
    socket.closed().await?;
    Ok(())
}

async fn a_flood(board: &Board) -> Result<()> {
    let mut socket = Socket::open(board).await?;
    socket.offer(&offer("H264")).await?;
    socket.receive(&["answer"]).await?;
    let candidate = json!({ "type": "candidate", "candidate": { "candidate": "", "sdpMid": "0" } });
    for _ in 0..5000 {
        if socket.send(candidate.clone()).await.is_err() {
            break;
        }
    }
    socket.closed().await?;
    Ok(())
}

async fn a_silent_socket(board: &Board) -> Result<()> {
    let began = Instant::now();
    let mut socket = Socket::open(board).await?;
    socket.closed().await?;
    let took = began.elapsed().as_secs_f64();
    ensure!((9.0..12.0).contains(&took), "closed after {took:.1} s");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_beyond_the_limit_is_refused_at_once_and_admitted_when_a_place_is_free() -> Result<()> {
    let board = Board::start("[viewers]\nmax = 2").await?;
    // A watching viewer keeps its place; an incomplete call would be replaced by one over another transport.
    let (first, _second) = (Headless::join(&board.url).await?, Headless::join(&board.url).await?);
    board.wait_for_count(VIEWERS, 2).await?;
    let began = Instant::now();
    let mut third = Socket::open(&board).await?;
    let code = third.refusal().await?;
    let took = began.elapsed();
    assert_eq!(code, "too-many-viewers");
    assert!(took < Duration::from_millis(500), "refused after {took:?}");
    third.closed().await?;

    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.post(format!("{}/whep", board.url)).header("Content-Type", "application/sdp");
    let response = request.body(offer("H264")).send().await?;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("Retry-After"));

    first.leave().await?;
    board.wait_for_count(VIEWERS, 1).await?;
    let mut fourth = Socket::open(&board).await?;
    fourth.offer(&offer("H264")).await?;
    fourth.receive(&["answer"]).await?;
    Ok(())
}
