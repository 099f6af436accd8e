//! Commands through a real broker to the shipped binary: valid, repeated, invalid, too many, and their outcomes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::viewer::Viewer;
use testkit::board::Board;
use testkit::broker::{Broker, Listener, Listeners};
use testkit::browser::Browser;
use testkit::operator::{COMMAND, Ended, OUTCOME, Operator};
use testkit::page::Page;

const DEVICE: &str = "[device]\nid = \"door\"\n";

/// A topic without a message for this long stays quiet.
const SILENCE: Duration = Duration::from_millis(700);

async fn started(tables: &str) -> Result<(Broker, Board)> {
    let broker = Broker::start(Listeners::default().setting("set_tcp_nodelay true")).await?;
    let board = Board::start(&format!("{DEVICE}{}{tables}", broker.table(Listener::Plain))).await?;
    Ok((broker, board))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_has_its_outcome_and_its_effect() -> Result<()> {
    let (broker, board) = started("").await?;
    let mut operator = Operator::of(&broker).await?;

    let status = operator.gets("get-status", json!({})).await?;
    assert_eq!(status["device"], "door");
    assert_eq!(status["versions"], board.status().await?["versions"]);

    let video = json!({ "camera": "main", "width": 320, "height": 240, "fps": 15, "bitrate": 300 });
    let set = operator.gets("set-video", video).await?;
    assert_eq!((&set["width"], &set["fps"], &set["key_frame_interval"]), (&json!(320), &json!(15), &json!(10)));
    assert_eq!(set.get("warning"), None, "{set}");
    let config = operator.gets("get-config", json!({})).await?;
    assert_eq!(config.pointer("/configuration/camera/0/width"), Some(&json!(320)), "{config:#}");
    let nothing = operator.fails("set-video", json!({ "camera": "main" })).await?;
    assert!(nothing.contains("nothing to change"), "{nothing}");
    let elsewhere = operator.fails("set-video", json!({ "camera": "yard", "fps": 10 })).await?;
    assert!(elsewhere.contains("no camera is called `yard`; there is: main"), "{elsewhere}");

    let Ended { outcome, has_begun, .. } = operator.asks("snapshot", json!({})).await?;
    assert!(has_begun, "it takes time");
    let jpeg = outcome["result"]["jpeg"].as_str().context("no picture")?;
    // The first three bytes of a JPEG file.
    assert!(jpeg.starts_with("/9j/"), "{jpeg:.20}");
    let taken = operator.gets("snapshot", json!({ "to": "topic" })).await?;
    assert_eq!(taken["topic"], "peercam/door/snapshot/main");
    let mut other = broker.client().await?;
    other.subscribe("peercam/door/snapshot/+").await?;
    let kept = other.next_on("peercam/door/snapshot/main").await?;
    assert!(kept.is_retained && kept.payload.starts_with(&[0xff, 0xd8]), "no JPEG is retained");
    assert_eq!(taken["bytes"], kept.payload.len());

    let sound = operator.gets("set-audio", json!({ "on": false, "bitrate": 32 })).await?;
    assert_eq!(sound, json!({ "on": false, "bitrate": 32, "channels": 1 }));
    assert_eq!(board.status().await?["microphone"]["state"], "private");
    operator.gets("set-audio", json!({ "on": true })).await?;

    operator.gets("privacy", json!({ "on": true })).await?;
    let status = board.status().await?;
    assert_eq!(
        (&status["cameras"][0]["state"], &status["microphone"]["state"]),
        (&json!("private"), &json!("private"))
    );
    other.next_where("peercam/door/snapshot/main", |message| message.payload.is_empty()).await?;
    let hidden = operator.fails("snapshot", json!({})).await?;
    assert!(hidden.contains("privacy is on"), "{hidden}");
    operator.gets("privacy", json!({ "on": false })).await?;
    assert_eq!(board.status().await?["cameras"][0]["state"], "idle");

    // The test source has no controls and cannot move.
    for (command, arguments) in [
        ("list-controls", json!({})),
        ("set-control", json!({ "control": "brightness", "value": 1 })),
        ("ptz", json!({ "move": "left" })),
        ("ptz", json!({ "move": "stop" })),
        ("ptz", json!({ "move": "home" })),
    ] {
        let outcome = operator.asks(command, arguments).await?.outcome;
        let is_empty = outcome.pointer("/result/controls").is_some_and(|controls| controls == &json!([]));
        assert!(outcome["status"] == "failed" || is_empty, "{command}: {outcome}");
    }
    operator.gets("key-frame", json!({})).await?;
    assert_eq!(operator.gets("list-viewers", json!({})).await?, json!({ "viewers": [] }));
    let nobody = operator.fails("dismiss-viewer", json!({ "viewer": "3f2a90c1" })).await?;
    assert!(nobody.contains("nobody watches"), "{nobody}");

    sleep(Duration::from_secs(1)).await; // The rate of commands allows for ten a second.
    let silly = operator.fails("set-log-level", json!({ "level": "peercam=loud" })).await?;
    assert!(silly.contains("`args.level`") && silly.contains("debug"), "{silly}");
    operator.gets("set-log-level", json!({ "level": "debug" })).await?;
    operator.gets("get-status", json!({})).await?;
    assert!(board.log()?.contains("DEBUG"), "nothing was logged at the new level");

    let report = operator.gets("doctor", json!({})).await?;
    assert!(report["items"].as_array().is_some_and(|items| items.iter().any(|item| item["topic"] == "encoder")));
    let shown = operator.gets("identify", json!({ "seconds": 1 })).await?;
    assert_eq!(shown["seconds"], 1);
    operator.gets("restart", json!({ "what": "pipeline" })).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_in_effect_after_a_restart() -> Result<()> {
    let (broker, mut board) = started("").await?;
    let mut operator = Operator::of(&broker).await?;
    operator.gets("set-video", json!({ "bitrate": 700, "fps": 20 })).await?;
    operator.gets("privacy", json!({ "on": true })).await?;
    operator.gets("set-log-level", json!({ "level": "info,peercam::control=debug" })).await?;
    board.kill()?;
    board.start_again().await?;
    operator.client.next_where("peercam/door/availability", |message| message.text() == "online").await?;
    let config = operator.gets("get-config", json!({})).await?;
    let camera = &config["configuration"]["camera"][0];
    assert_eq!((&camera["bitrate"], &camera["fps"], &camera["width"]), (&json!(700), &json!(20), &json!(640)));
    assert_eq!(config["configuration"]["log"]["level"], "info,peercam::control=debug");
    assert_eq!(board.status().await?["cameras"][0]["state"], "private");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_goes_to_the_response_topic_with_its_correlation_data() -> Result<()> {
    let (broker, _board) = started("").await?;
    let mut operator = Operator::of(&broker).await?;
    let mut asker = broker.client().await?;
    asker.subscribe("replies/asker").await?;
    let command = |id: &str| json!({ "id": id, "command": "snapshot", "args": { "to": "topic" } }).to_string();
    asker.request(COMMAND, command("1"), "replies/asker", b"\x00\xff17").await?;
    for status in ["executing", "successful"] {
        let answer = asker.next_on("replies/asker").await?;
        assert_eq!(answer.json()?["status"], status);
        assert_eq!(answer.correlation.as_deref(), Some(&b"\x00\xff17"[..]));
        assert!(!answer.is_retained);
    }
    let received = operator.client.until_silence(SILENCE).await?;
    assert!(received.iter().all(|message| message.topic != OUTCOME), "it was answered twice: {received:?}");

    // With a response topic on which it would be mistaken for another message, the outcome goes to the usual topic.
    for wrong in ["$SYS/broker", "peercam/door/status", "peercam/door/command"] {
        asker.request(COMMAND, command("2"), wrong, b"2").await?;
        let outcome = operator.outcome("2").await.with_context(|| wrong.to_owned())?.outcome;
        assert!(outcome["reason"].as_str().is_some_and(|reason| reason.contains("response topic")), "{outcome}");
    }
    // A retained command would be executed at each connection.
    asker.retain(COMMAND, json!({ "id": "3", "command": "key-frame" }).to_string()).await?;
    let outcome = operator.outcome("3").await?.outcome;
    assert_eq!(outcome["status"], "successful", "it is a command when it is published: {outcome}");
    asker.retain(COMMAND, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_command_is_refused_when_the_board_connects() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut early = broker.client().await?;
    early.subscribe(OUTCOME).await?;
    early.retain(COMMAND, json!({ "id": "old", "command": "privacy", "args": { "on": true } }).to_string()).await?;
    let board = Board::start(&format!("{DEVICE}{}", broker.table(Listener::Plain))).await?;
    let outcome = early.next_on(OUTCOME).await?.json()?;
    assert_eq!((&outcome["id"], &outcome["status"]), (&json!("old"), &json!("failed")));
    assert!(outcome["reason"].as_str().is_some_and(|reason| reason.contains("retained")), "{outcome}");
    assert_ne!(board.status().await?["cameras"][0]["state"], "private");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_received_twice_is_executed_once() -> Result<()> {
    let (broker, _board) = started("").await?;
    let mut operator = Operator::of(&broker).await?;
    let command = json!({ "id": "x", "command": "snapshot", "args": { "to": "topic" } }).to_string();
    operator.client.publish(COMMAND, command.clone()).await?;
    let first = operator.outcome("x").await?.outcome;
    // The picture is published before its outcome. All pictures of the test source differ, so a second one would be
    // seen.
    operator.client.publish(COMMAND, command).await?;
    let Ended { outcome: second, has_begun, .. } = operator.outcome("x").await?;
    assert_eq!(first, second);
    assert!(!has_begun, "the outcome was there");
    let received = operator.client.until_silence(SILENCE).await?;
    assert!(received.iter().all(|message| !message.topic.contains("snapshot")), "a second picture was taken");

    let other = json!({ "id": "x", "command": "key-frame" }).to_string();
    operator.client.publish(COMMAND, other).await?;
    let outcome = operator.outcome("x").await?.outcome;
    assert!(outcome["reason"].as_str().is_some_and(|reason| reason.contains("another command had `x`")), "{outcome}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_command_fails_with_a_reason_and_has_no_effect() -> Result<()> {
    let listeners = Listeners::default().setting("max_packet_size 20971520");
    let broker = Broker::start(listeners).await?;
    let board = Board::start(&format!("{DEVICE}{}", broker.table(Listener::Plain))).await?;
    let mut operator = Operator::of(&broker).await?;
    let long = json!({ "id": "1", "command": "set-log-level", "args": { "level": "x".repeat(100_000) } });
    let cases = [
        (b"off".to_vec(), "is not JSON"),
        (b" ".to_vec(), "is not JSON"),
        (b"\xff\xfe\x00".to_vec(), "is not UTF-8"),
        (b"[]".to_vec(), "is not an object"),
        ("[".repeat(60_000).into_bytes(), "recursion limit"),
        (br#"{"command":"get-status"}"#.to_vec(), "`id` is missing"),
        (br#"{"id":5,"command":"get-status"}"#.to_vec(), "`id` is not a text"),
        (long.to_string().into_bytes(), "at most 65536 are read"),
    ];
    // It gets no answer: the doctor probes the topic with it.
    operator.client.publish(COMMAND, "").await?;
    for (text, reason) in cases {
        let found = operator.nameless(text).await?;
        assert!(found.contains(reason), "{found:?} instead of {reason:?}");
    }
    let fails = [
        ("set-video", json!({ "widht": 640 }), "unknown field `widht`, expected one of `camera`, `width`"),
        (
            "set-video",
            json!({ "width": "wide" }),
            "`args.width`: invalid type: string \"wide\", expected an even number",
        ),
        ("set-video", json!({ "fps": 0 }), "a whole number from 1 to 240"),
        ("set-vidoe", json!({}), "is `set-video` meant?"),
        ("ptz", json!({}), "missing field `move`"),
        ("get-status", json!([1]), "`args` of get-status is not an object"),
    ];
    for (command, arguments, reason) in fails {
        let found = operator.fails(command, arguments).await?;
        assert!(found.contains(reason), "{found:?} instead of {reason:?}");
    }
    // More than a device accepts in one packet: the broker drops it, and the connection stays.
    let large = tempfile::NamedTempFile::new()?;
    std::fs::write(large.path(), vec![b'x'; 10 * 1024 * 1024])?;
    let address = broker.address(Listener::Plain);
    let published = tokio::process::Command::new("mosquitto_pub")
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-q", "1", "-t", COMMAND, "-f"])
        .arg(large.path())
        .status()
        .await?;
    assert!(published.success(), "{published}");
    operator.gets("get-status", json!({})).await?;
    assert!(!board.log()?.contains("panicked"));
    assert_eq!(broker.log()?.matches("as peercam-door ").count(), 1, "the connection was lost:\n{}", broker.log()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_over_mqtt_may_watch_but_not_send_commands() -> Result<()> {
    let (broker, board) = started("").await?;
    Operator::of(&broker).await?;
    let browser = Browser::start().await?;
    let mut viewer = Viewer::new(&browser, &board, &broker, "anna").await?;
    let offer: Value = viewer
        .ask(
            "prepare();
             window.heard = [];
             window.control = connection.createDataChannel('control');
             control.onmessage = ({ data }) => heard.push(JSON.parse(data));
             return offer();",
        )
        .await?;
    viewer.say(&offer).await?;
    viewer.accept().await?;
    let outcome: Value = viewer
        .ask(
            "const pause = () => new Promise((done) => setTimeout(done, 10));
             while (control.readyState !== 'open') await pause();
             control.send(JSON.stringify({ type: 'command', id: 'x', command: 'privacy', args: { on: true } }));
             while (!heard.some(({ type }) => type === 'outcome')) await pause();
             return heard.find(({ type }) => type === 'outcome');",
        )
        .await?;
    assert_eq!((&outcome["id"], &outcome["status"]), (&json!("x"), &json!("failed")));
    assert!(outcome["reason"].as_str().is_some_and(|reason| reason.contains("command topic")), "{outcome}");
    assert_eq!(board.status().await?["cameras"][0]["state"], "live");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_thousand_commands_in_a_burst_is_answered_without_a_freeze() -> Result<()> {
    let (broker, board) = started("").await?;
    let mut operator = Operator::of(&broker).await?;
    let browser = Browser::start().await?;
    let page = Page::watch(&browser, &board.url).await?;
    sleep(Duration::from_secs(2)).await; // The jitter buffer of a new connection settles.
    let before = page.counters().await?;
    for number in 0..1000 {
        operator
            .client
            .send(COMMAND, json!({ "id": format!("b{number}"), "command": "get-status" }).to_string())
            .await?;
    }
    let mut ends = BTreeMap::new();
    while ends.len() < 1000 {
        let outcome = operator.client.next_on(OUTCOME).await.with_context(|| format!("{} have ended", ends.len()))?;
        let outcome = outcome.json()?;
        let id = outcome["id"].as_str().context("no id")?.to_owned();
        let before = ends.insert(id, outcome["status"].as_str().context("no status")?.to_owned());
        ensure!(before.is_none(), "a second outcome: {outcome}");
    }
    let done = ends.values().filter(|status| *status == "successful").count();
    println!("of 1000 commands in a burst {done} were carried out");
    assert!((8..200).contains(&done), "{done} were executed");
    sleep(Duration::from_secs(2)).await;
    let after = page.counters().await?;
    assert_eq!(after.freezes, before.freezes, "the picture froze");
    operator.gets("get-status", json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_answered_within_milliseconds() -> Result<()> {
    let (broker, _board) = started("").await?;
    let mut operator = Operator::of(&broker).await?;
    let mut took = Vec::new();
    for _ in 0..50 {
        sleep(Duration::from_millis(110)).await; // Ten a second are allowed.
        let begun = Instant::now();
        operator.gets("list-viewers", json!({})).await?;
        took.push(begun.elapsed());
    }
    took.sort();
    println!("command round trip: median {:?}, 95th {:?}, longest {:?}", took[25], took[47], took[49]);
    assert!(took[25] < Duration::from_millis(5), "{:?}", took[25]);
    Ok(())
}
