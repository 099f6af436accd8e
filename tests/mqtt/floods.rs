//! Operators beside floods through the broker, by clients that do nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use peercam::tasks::Group;
use serde_json::{Value, json};
use tokio::time::sleep;

use testkit::board::Board;
use testkit::broker::{Broker, Client, Listener, Listeners};
use testkit::headless::Headless;
use testkit::operator::{COMMAND, Ended, Operator};
use testkit::starvation::unless_starved;

const TABLES: &str = "[device]\nid = \"door\"\n[home_assistant]\nenabled = true\n";

/// Messages that a flood sends each 10 ms.
const BATCH: u32 = 50;

/// Messages that the board may have yet to acknowledge. mosquitto keeps 1,000 for each client and drops what is beyond,
/// an operator's too, which no board can do anything about.
const UNREAD: u32 = 500;

/// How soon an operator's command is carried out beside what others send.
const SOON: Duration = Duration::from_secs(1);

/// Publishes until it is dropped: 5,000 messages a second, or as many as the board reads.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    group: Group,
}

impl Flood {
    async fn begin(broker: &Broker, topic: &'static str, payload: fn(u32) -> String) -> Result<Self> {
        let client = broker.client().await?;
        let read = Acknowledged::by_the_board(broker)?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let group = Group::new();
        group.spawn(run(client, read, topic, payload, stop.clone(), sent.clone()));
        sleep(Duration::from_millis(500)).await;
        Ok(Self { stop, sent, group })
    }

    async fn end(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        ensure!(self.group.close(Duration::from_secs(5)).await, "the flood does not end");
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

async fn run(
    mut client: Client,
    mut read: Acknowledged,
    topic: &'static str,
    payload: fn(u32) -> String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            if client.send(topic, payload(number)).await.is_err() {
                return;
            }
        }
        sleep(Duration::from_millis(10)).await;
        while !stop.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) > read.count() + UNREAD {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Counts what the board acknowledges to the broker, by the broker's log.
struct Acknowledged {
    log: BufReader<File>,
    line: String,
    count: u32,
}

impl Acknowledged {
    /// From now on.
    fn by_the_board(broker: &Broker) -> Result<Self> {
        let mut log = File::open(broker.file("log"))?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self { log: BufReader::new(log), line: String::new(), count: 0 })
    }

    fn count(&mut self) -> u32 {
        // The log may end with an incomplete line, whose rest is read the next time.
        while self.log.read_line(&mut self.line).is_ok() && self.line.ends_with('\n') {
            self.count += u32::from(self.line.starts_with("Received PUBACK from peercam-door "));
            self.line.clear();
        }
        self.count
    }
}

/// Sixteen commands of an operator beside a flood on `topic`.
async fn operator_is_answered_during(topic: &'static str, payload: fn(u32) -> String) -> Result<()> {
    unless_starved(async || operator_is_answered_once_during(topic, payload).await).await
}

async fn operator_is_answered_once_during(topic: &'static str, payload: fn(u32) -> String) -> Result<()> {
    let broker = Broker::start(Listeners::default().setting("set_tcp_nodelay true")).await?;
    let mut board = Board::start(&format!("{TABLES}{}", broker.table(Listener::Plain))).await?;
    let mut operator = Operator::apart(&broker, "replies/owner").await?;
    let flood = Flood::begin(&broker, topic, payload).await?;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 0..8 {
        let hide = json!({ "on": round % 2 == 0 });
        for (command, arguments) in [("privacy", hide), ("get-config", json!({}))] {
            let Ended { outcome, took, .. } =
                operator.asks(command, arguments).await.with_context(|| format!("round {round}"))?;
            ensure!(outcome["status"] == "successful", "round {round}: {outcome}");
            ensure!(took <= SOON, "round {round}: {command} took {took:?}");
            slowest = slowest.max(took);
        }
        sleep(Duration::from_millis(300)).await;
    }
    let lasted = began.elapsed();
    let sent = flood.end().await?;
    println!("{topic}: {sent} messages in {lasted:?}; 16 of 16 carried out, the slowest after {slowest:?}");
    ensure!(board.runs()?, "the board has ended");
    let status = board.status().await?;
    ensure!(status["privacy"] == false, "{status:#}");
    let lines = board.log()?.lines().count();
    ensure!(lines < 500, "the flood has written {lines} lines into the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_during_a_flood_of_commands() -> Result<()> {
    operator_is_answered_during(COMMAND, |number| format!(r#"{{"id":"f{number}","command":"get-status"}}"#)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_during_a_flood_of_commands_that_change_the_camera() -> Result<()> {
    operator_is_answered_during(COMMAND, |number| {
        let bitrate = 500 + number % 500;
        format!(r#"{{"id":"f{number}","command":"set-video","args":{{"bitrate":{bitrate}}}}}"#)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_during_a_flood_of_invalid_commands() -> Result<()> {
    operator_is_answered_during(COMMAND, |number| format!("{{\"privacy\": {number}, [[[")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_during_a_flood_of_home_automation_values() -> Result<()> {
    operator_is_answered_during("peercam/door/set/main_bitrate", |number| format!("{}", 500 + number % 500)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_during_a_flood_of_values_for_unknown_entities() -> Result<()> {
    operator_is_answered_during("peercam/door/set/nothing", |number| number.to_string()).await
}

/// A client on the topics of a flood without an answer topic cannot be told apart from it, but its urgent commands are
/// executed.
async fn privacy_is_executed_during(
    flooded: &'static str,
    payload: fn(u32) -> String,
    topic: &str,
    says: fn(u32, bool) -> String,
) -> Result<()> {
    unless_starved(async || privacy_is_executed_once_during(flooded, payload, topic, says).await).await
}

async fn privacy_is_executed_once_during(
    flooded: &'static str,
    payload: fn(u32) -> String,
    topic: &str,
    says: fn(u32, bool) -> String,
) -> Result<()> {
    let broker = Broker::start(Listeners::default().setting("set_tcp_nodelay true")).await?;
    let board = Board::start(&format!("{TABLES}{}", broker.table(Listener::Plain))).await?;
    Operator::apart(&broker, "replies/owner").await?;
    let mut owner = broker.client().await?;
    let flood = Flood::begin(&broker, flooded, payload).await?;
    for round in 0..8 {
        let is_on = round % 2 == 0;
        let began = Instant::now();
        owner.publish(topic, says(round, is_on)).await?;
        while board.status().await?["privacy"] != is_on {
            ensure!(began.elapsed() <= SOON, "round {round}: not within {SOON:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    flood.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privacy_is_executed_during_a_flood_on_the_same_topic() -> Result<()> {
    let says =
        |round, is_on| json!({ "id": format!("p{round}"), "command": "privacy", "args": { "on": is_on } }).to_string();
    let flood = |number| format!(r#"{{"id":"f{number}","command":"get-status"}}"#);
    privacy_is_executed_during(COMMAND, flood, COMMAND, says).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privacy_is_executed_during_a_flood_of_other_urgent_commands() -> Result<()> {
    let says =
        |round, is_on| json!({ "id": format!("p{round}"), "command": "privacy", "args": { "on": is_on } }).to_string();
    let flood = |number| format!(r#"{{"id":"f{number}","command":"dismiss-viewer","args":{{"viewer":"v{number}"}}}}"#);
    privacy_is_executed_during(COMMAND, flood, COMMAND, says).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_privacy_switch_of_home_automation_works_during_a_flood_of_its_other_values() -> Result<()> {
    let says = |_, is_on| if is_on { "ON".to_owned() } else { "OFF".to_owned() };
    let flood = |number| format!("{}", 500 + number % 500);
    privacy_is_executed_during("peercam/door/set/main_bitrate", flood, "peercam/door/set/privacy", says).await
}

/// Made-up senders, each with a response topic of its own, want the same as the owner, or the opposite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privacy_and_dismissals_are_executed_during_a_flood_of_the_same_from_made_up_senders() -> Result<()> {
    let broker = Broker::start(Listeners::default().setting("set_tcp_nodelay true")).await?;
    let board = Board::start(&format!("{TABLES}{}", broker.table(Listener::Plain))).await?;
    let mut owner = Operator::apart(&broker, "replies/owner").await?;
    let (show, hide) = (json!({ "on": false }), json!({ "on": true }));
    let nobody = |number: u32| json!({ "viewer": format!("made-up-{number}") });
    for (flooded, command) in [("privacy", "show"), ("privacy", "hide"), ("dismiss-viewer", "dismiss")] {
        let (mut flooder, group) = (broker.client().await?, Group::new());
        let stop = group.clone();
        let shown = show.clone();
        let mut read = Acknowledged::by_the_board(&broker)?;
        group.spawn(async move {
            for number in 0_u32.. {
                let args = if flooded == "privacy" { shown.clone() } else { nobody(number) };
                let text = json!({ "id": format!("{command}-{number}"), "command": flooded, "args": args });
                let replies = format!("replies/{command}-{number}");
                if stop.is_stopped() || flooder.request(COMMAND, text.to_string(), &replies, b"1").await.is_err() {
                    return;
                }
                if number % 20 == 0 {
                    sleep(Duration::from_millis(10)).await;
                    while !stop.is_stopped() && number > read.count() + UNREAD {
                        sleep(Duration::from_millis(2)).await;
                    }
                }
            }
        });
        // What one sender, and all of them together, may send at once is used up.
        sleep(Duration::from_secs(2)).await;
        for round in 0..6 {
            let (command, arguments) = match command {
                "show" => ("privacy", show.clone()),
                "hide" => ("privacy", hide.clone()),
                _ => ("dismiss-viewer", nobody(round)),
            };
            let Ended { outcome, took, .. } = owner.asks(command, arguments).await?;
            let reason = outcome["reason"].as_str().unwrap_or_default();
            let is_done = outcome["status"] == "successful" || reason.starts_with("no viewer is called");
            ensure!(is_done && took <= SOON, "round {round}: {outcome} after {took:?}");
            sleep(Duration::from_millis(200)).await;
        }
        ensure!(group.close(Duration::from_secs(5)).await, "the flood does not end");
    }
    let lines = board.log()?.lines().count();
    ensure!(lines < 1000, "the flood has written {lines} lines into the log");
    Ok(())
}

/// An offer without a client behind it.
fn offer(number: u32) -> String {
    let fingerprint = ["A1"; 32].join(":");
    let sdp = format!(
        "v=0\r\no=- {number} 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=recvonly\r\na=setup:actpass\r\n\
         a=ice-ufrag:four\r\na=ice-pwd:0123456789abcdef01234567\r\na=fingerprint:sha-256 {fingerprint}\r\n\
         a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id=42e01f\r\n"
    );
    json!({ "type": "offer", "sdp": sdp }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_offers_over_mqtt_do_not_block_other_viewers() -> Result<()> {
    let broker = Broker::start(Listeners::default().setting("set_tcp_nodelay true")).await?;
    let board = Board::start(&format!("{TABLES}{}", broker.table(Listener::Plain))).await?;
    Operator::apart(&broker, "replies/owner").await?;
    let mut flood = broker.client().await?;
    let mut joined = Vec::new();
    for round in 0..3 {
        for number in 0..60 {
            let topic = format!("peercam/door/viewer/flood-{round}-{number}/to-device");
            flood.send(&topic, offer(round * 100 + number)).await?;
        }
        board.wait_for_count("/viewers/count", 20).await?;
        let began = Instant::now();
        joined.push(Headless::join(&board.url).await.with_context(|| format!("round {round}"))?);
        println!("round {round}: joined beside 60 unfinished calls after {:?}", began.elapsed());
    }
    let status = board.status().await?;
    let list = status.pointer("/viewers/list").and_then(Value::as_array).context("no viewer list")?;
    let watching = list.iter().filter(|viewer| viewer["state"] == "watching").count();
    ensure!(watching == 3 && list.len() <= 20, "{list:?}");
    for viewer in joined {
        viewer.leave().await?;
    }
    Ok(())
}
