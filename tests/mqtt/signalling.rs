//! Signalling over MQTT: Chromium watches, and all its messages go through the broker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::tcp_proxy::{TcpProxy, Weather};
use crate::viewer::Viewer;
use testkit::board::{Board, VIEWERS};
use testkit::broker::{Broker, Listener, Listeners};
use testkit::browser::Browser;

/// Long enough for an answer that must not come: answers take a few milliseconds.
const SILENCE: Duration = Duration::from_millis(700);

async fn start(more: &str) -> Result<(Broker, Board, Browser)> {
    let broker = Broker::start(Listeners::default()).await?;
    let board = start_board(&broker.table(Listener::Plain), more).await?;
    wait_until_online(&broker).await?;
    Ok((broker, board, Browser::start().await?))
}

async fn start_board(mqtt: &str, more: &str) -> Result<Board> {
    Board::start(&format!("[device]\nid = \"door\"\n{mqtt}\n{more}")).await
}

async fn wait_until_online(broker: &Broker) -> Result<()> {
    let mut client = broker.client().await?;
    client.subscribe("peercam/door/availability").await?;
    client.next_where("peercam/door/availability", |message| message.payload == "online").await.map(drop)
}

fn kinds(messages: &[Value]) -> Vec<&str> {
    messages.iter().filter_map(|message| message["type"].as_str()).filter(|kind| *kind != "candidate").collect()
}

#[tokio::test]
async fn a_viewer_gets_servers_and_a_picture_through_the_broker_and_leaves() -> Result<()> {
    let (broker, board, browser) = start("[ice]\nservers = [{ urls = \"stun:127.0.0.1:9\" }]").await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    viewer.say(&json!({ "type": "ice-servers" })).await?;
    let servers = viewer.hear("ice-servers").await?;
    ensure!(servers["servers"] == json!([{ "urls": ["stun:127.0.0.1:9"] }]), "{servers}");
    ensure!(board.count(VIEWERS).await? == 0, "asking for servers took a viewer's place");

    viewer.join().await?;
    let status = board.status().await?;
    ensure!(status.pointer("/viewers/list/0/way") == Some(&json!("mqtt")), "{status:#}");
    viewer.say(&json!({ "type": "bye" })).await?;
    viewer.hear("bye").await?;
    board.wait_for_count(VIEWERS, 0).await?;
    ensure!(!board.log()?.contains("a=candidate"), "SDP is in the log");
    Ok(())
}

#[tokio::test]
async fn candidates_before_their_offer_are_kept_and_count_as_no_viewer() -> Result<()> {
    let (broker, board, browser) = start("[viewers]\nmax = 1").await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    let offer = viewer.offer().await?;
    for candidate in viewer.candidates().await? {
        viewer.say(&candidate).await?;
    }
    ensure!(board.count(VIEWERS).await? == 0, "candidates took a viewer's place");
    viewer.say(&offer).await?;
    // More than one viewer would be refused.
    viewer.accept().await?;
    ensure!(board.count(VIEWERS).await? == 1);
    Ok(())
}

#[tokio::test]
async fn an_offer_that_is_repeated_is_answered_once_and_makes_one_viewer() -> Result<()> {
    let (broker, board, browser) = start("").await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    let offer = viewer.offer().await?;
    for _ in 0..5 {
        viewer.say(&offer).await?;
    }
    let messages = viewer.until_silence(SILENCE).await?;
    ensure!(kinds(&messages) == ["answer"], "{messages:?}");
    ensure!(board.count("/viewers/totals/admitted").await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_reloaded_page_with_the_same_name_watches_again_at_once() -> Result<()> {
    let (broker, board, browser) = start("[viewers]\nmax = 2").await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    viewer.join().await?;
    // Without a goodbye: the old connection is still there for the board.
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    viewer.join().await?;
    ensure!(
        viewer.until_silence(SILENCE).await?.iter().all(|message| message["type"] != "bye"),
        "the old one's goodbye"
    );
    board.wait_for_count(VIEWERS, 1).await
}

#[tokio::test]
async fn invalid_messages_get_an_error_and_have_no_effect() -> Result<()> {
    let (broker, board, browser) = start("").await?;
    let mut watching = Viewer::new(&browser, &board, &broker, "watching").await?;
    watching.join().await?;

    // One name for each: a viewer that only talks nonsense is not answered for ever.
    let bad: [(Vec<u8>, &str, &str); 11] = [
        (b"hello".to_vec(), "bad-message", "not a signalling message"),
        (b"".to_vec(), "bad-message", "not a signalling message"),
        (b"\xff\xfe{}".to_vec(), "bad-message", "utf-8"),
        ("[".repeat(100_000).into(), "bad-message", "not a signalling message"),
        (format!("{{\"type\":\"offer\",\"sdp\":{}1", "[".repeat(1000)).into(), "bad-message", "not a signalling"),
        (br#"{"type":"dance"}"#.to_vec(), "bad-message", "unknown variant `dance`"),
        (br#"{"type":"offer"}"#.to_vec(), "bad-message", "missing field `sdp`"),
        (br#"{"type":"offer","sdp":7}"#.to_vec(), "bad-message", "expected a string"),
        (br#"{"type":"offer","sdp":"not sdp"}"#.to_vec(), "bad-offer", ""),
        (format!("{{\"type\":\"offer\",\"sdp\":\"{}\"}}", "x".repeat(200_000)).into(), "bad-offer", ""),
        (br#"{"type":"offer","sdp":"v=0","camera":"attic"}"#.to_vec(), "unknown-camera", "main"),
    ];
    for (number, (payload, code, words)) in bad.into_iter().enumerate() {
        let mut viewer = Viewer::silent(&browser, &broker, &format!("bad-{number}")).await?;
        viewer.say_raw(payload).await?;
        let error = viewer.hear("error").await.with_context(|| format!("the message {number}"))?;
        let reason = error["reason"].as_str().unwrap_or_default();
        ensure!(error["code"] == code && reason.to_lowercase().contains(words), "{number}: {error}");
    }

    // Nobody to answer: names that are none, what the broker kept, and what no device takes.
    for name in ["a.b", "a b", "é", &"a".repeat(65)] {
        let mut viewer = Viewer::silent(&browser, &broker, name).await?;
        viewer.say(&json!({ "type": "dance" })).await?;
        ensure!(viewer.until_silence(SILENCE / 4).await?.is_empty(), "{name} was answered");
    }
    let mut viewer = Viewer::silent(&browser, &broker, "kept").await?;
    viewer.retain(&json!({ "type": "dance" })).await?;
    // Current subscribers receive it like any other message.
    viewer.hear("error").await?;
    let mut viewer = Viewer::silent(&browser, &broker, "long").await?;
    viewer.say_raw(vec![b' '; 600 * 1024]).await?;
    ensure!(viewer.until_silence(SILENCE / 4).await?.is_empty(), "it gets no answer");

    // Offers that cannot be answered leave a viewer some time for a better one.
    let frames = watching.counters().await?.frames;
    watching.watch(frames + 30).await?;
    board.wait_for_count(VIEWERS, 1).await
}

#[tokio::test]
async fn retained_messages_open_no_call() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let browser = Browser::start().await?;
    let mut viewer = Viewer::silent(&browser, &broker, "anna").await?;
    let offer = viewer.offer().await?;
    viewer.retain(&offer).await?;
    let board = start_board(&broker.table(Listener::Plain), "").await?;
    wait_until_online(&broker).await?;
    let messages = viewer.until_silence(SILENCE).await?;
    ensure!(messages.iter().all(|message| message == &offer), "{messages:?}");
    ensure!(board.count("/viewers/totals/admitted").await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_vanished_viewer_is_removed_and_its_name_can_be_used_again() -> Result<()> {
    let (broker, board, browser) = start("[viewers]\nmax = 1").await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    viewer.join().await?;
    drop(viewer);
    drop(browser);
    board.wait_for_count(VIEWERS, 0).await?;
    let browser = Browser::start().await?;
    Viewer::new(&browser, &board, &broker, "anna").await?.join().await
}

#[tokio::test]
async fn viewers_keep_watching_during_a_broker_outage_and_signalling_recovers() -> Result<()> {
    let (mut broker, board, browser) = start("").await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    viewer.join().await?;
    // Past what a stream stumbles over at its beginning.
    viewer.watch(60).await?;
    let before = viewer.counters().await?;
    broker.kill()?;
    viewer.watch(before.frames + 90).await?;
    broker.start_again().await?;
    viewer.reconnect(&broker).await?;
    wait_until_online(&broker).await?;
    let after = viewer.counters().await?;
    ensure!(after.freezes == before.freezes, "{before:?}, {after:?}");

    // The line is as it was: a new path for the same connection.
    let offer = viewer.restart().await?;
    viewer.say(&offer).await?;
    viewer.accept().await?;
    ensure!(board.count("/viewers/totals/admitted").await? == 1);

    viewer.say(&json!({ "type": "bye" })).await?;
    board.wait_for_count(VIEWERS, 0).await
}

#[tokio::test]
async fn an_interrupted_offer_is_answered_when_it_is_repeated() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    // An offer of Chromium has several kilobytes; the packets before it have a few hundred bytes.
    let relay = TcpProxy::open(broker.address(Listener::Plain), vec![Weather::CutDown(1500)]).await?;
    let board = start_board(&format!("[mqtt]\nurl = \"mqtt://{}\"\n", relay.address), "").await?;
    wait_until_online(&broker).await?;
    let browser = Browser::start().await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    let offer = viewer.offer().await?;
    viewer.say(&offer).await?;
    timeout(Duration::from_secs(15), async {
        while relay.accepted() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .context("the connection was not cut")?;
    wait_until_online(&broker).await?;
    viewer.say(&offer).await?;
    viewer.accept().await?;
    ensure!(board.count("/viewers/totals/admitted").await? == 1);
    Ok(())
}
