//! Brokers that do less than a board would like: as people set them up, and as clouds have them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use peercam::config::Config;
use peercam::doctor;
use peercam::mqtt;
use peercam::mqtt::{Limits, State};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::connection::Device;
use crate::scripted::{Scripted, packet};
use testkit::board::Board;
use testkit::broker::{Broker, Listener, Listeners};

const VERSIONS: [&str; 2] = ["5", "3.1.1"];

const ROOT: &str = "peercam/door";

/// Board and its configuration behind a broker, with a version.
async fn board(broker: &Broker, version: &str) -> Result<Board> {
    let table = broker.table(Listener::Plain);
    Board::start_beside_others(&format!("[device]\nid = \"door\"\n{table}version = \"{version}\"")).await
}

fn connections(broker: &Broker) -> Result<usize> {
    Ok(broker
        .log()?
        .lines()
        .filter(|line| line.contains("New client connected") && line.contains("peercam-door"))
        .count())
}

/// Sends a command and gives its last outcome.
async fn outcome(client: &mut testkit::broker::Client, id: &str, command: &Value) -> Result<Value> {
    client.publish(&format!("{ROOT}/command"), command.to_string()).await?;
    let is_last = |message: &testkit::broker::Received| {
        message.json().is_ok_and(|outcome| outcome["id"] == id && outcome["status"] != "executing")
    };
    client.next_where(&format!("{ROOT}/outcome"), is_last).await?.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_retained_messages_is_used_without_them() -> Result<()> {
    for version in VERSIONS {
        let broker = Broker::start(Listeners::default().setting("retain_available false")).await?;
        let mut client = broker.client().await?;
        client.subscribe(&format!("{ROOT}/#")).await?;
        let mut board = board(&broker, version).await?;
        // From when it serves on: before, it may have waited for its turn.
        let begun = Instant::now();
        let availability = format!("{ROOT}/availability");
        client.next_where(&availability, |message| message.text() == "online").await?;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let status = outcome(&mut client, "1", &json!({ "id": "1", "command": "get-status" })).await?;
        let reason = status["result"]["broker"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("no retained messages"), "{version}: {status}");
        let log = board.log()?;
        assert_eq!(log.matches("no retained messages").count(), 1, "{version}: {log}");
        assert!(!log.contains("no connection to the broker"), "{version}: {log}");
        board.kill()?;
        client.next_where(&availability, |message| message.text() == "offline").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_for_the_broker_is_sent_at_most_once_and_its_command_fails_with_the_size() -> Result<()> {
    for version in VERSIONS {
        let broker = Broker::start(Listeners::default().setting("max_packet_size 20000")).await?;
        let mut client = broker.client().await?;
        client.subscribe(&format!("{ROOT}/#")).await?;
        let board = board(&broker, version).await?;
        client.next_where(&format!("{ROOT}/availability"), |message| message.text() == "online").await?;
        for (id, to) in [("1", "topic"), ("2", "result"), ("3", "topic"), ("4", "result")] {
            let command = json!({ "id": id, "command": "snapshot", "args": { "to": to } });
            let failed = outcome(&mut client, id, &command).await?;
            let reason = failed["reason"].as_str().unwrap_or_default();
            assert!(failed["status"] == "failed" && reason.contains(" bytes"), "{version}, {to}: {failed}");
            ensure!(version == "3.1.1" || reason.contains("20000") || reason.contains("18976"), "{failed}");
        }
        let good = outcome(&mut client, "5", &json!({ "id": "5", "command": "get-status" })).await?;
        assert_eq!(good["status"], "successful", "{good}");
        // The first picture showed that it is too large; nothing of its size went out again.
        let most = if version == "5" { 1 } else { 2 };
        assert!(connections(&broker)? <= most, "{version}: {}", connections(&broker)?);
        let reason = good["result"]["broker"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("bytes at most"), "{version}: {good}");
        drop(board);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_command_is_successful_with_a_small_message_limit() -> Result<()> {
    let broker = Broker::start(Listeners::default().setting("max_packet_size 300")).await?;
    let mut client = broker.client().await?;
    client.subscribe(&format!("{ROOT}/#")).await?;
    let _board = board(&broker, "5").await?;
    client.next_where(&format!("{ROOT}/availability"), |message| message.text() == "online").await?;
    for (id, command, arguments) in [
        ("1", "privacy", json!({ "on": true })),
        ("2", "set-video", json!({ "bitrate": 333 })),
        ("3", "set-log-level", json!({ "level": "info" })),
        ("4", "identify", json!({ "seconds": 1 })),
    ] {
        let done = outcome(&mut client, id, &json!({ "id": id, "command": command, "args": arguments })).await?;
        assert_eq!(done["status"], "successful", "{command}: {done}");
    }
    let failed = outcome(&mut client, "5", &json!({ "id": "5", "command": "get-status" })).await?;
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(failed["status"] == "failed" && reason.contains("300"), "{failed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unannounced_message_limit_is_learned() -> Result<()> {
    for (version, limit) in [("5", "message_size_limit 600"), ("3.1.1", "max_packet_size 600")] {
        let broker = Broker::start(Listeners::default().setting(limit)).await?;
        let mut client = broker.client().await?;
        client.subscribe(&format!("{ROOT}/outcome")).await?;
        let board = board(&broker, version).await?;
        let deadline = Instant::now() + Duration::from_secs(20);
        // The status is too large, which takes some connections to find out.
        while board.status().await?["broker"]["state"] != "online" || connections(&broker)? < 2 {
            ensure!(Instant::now() < deadline, "{version}: {}", board.status().await?["broker"]);
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_secs(3)).await;
        let done = json!({ "id": "1", "command": "set-log-level", "args": { "level": "info" } });
        assert_eq!(outcome(&mut client, "1", &done).await?["status"], "successful", "{version}");
        let failed = outcome(&mut client, "2", &json!({ "id": "2", "command": "get-status" })).await?;
        assert_eq!(failed["status"], "failed", "{version}: {failed}");
        let before = connections(&broker)?;
        for id in ["3", "4"] {
            let failed = outcome(&mut client, id, &json!({ "id": id, "command": "get-status" })).await?;
            assert_eq!(failed["status"], "failed", "{version}: {failed}");
        }
        assert_eq!(connections(&broker)?, before, "{version}: it is not tried again");
        let status = board.status().await?;
        let reason = status["broker"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("bytes at most"), "{version}: {reason}");
        let log = board.log()?;
        // In words, not by MQTT's number for it. Times and ports may have the same digits.
        let reasons: Vec<_> =
            log.lines().filter_map(|line| line.split_once("reason=")).map(|(_, reason)| reason).collect();
        let is_number = |reason: &&str| reason.split(|c: char| !c.is_ascii_digit()).any(|number| number == "149");
        assert!(!reasons.is_empty() && !reasons.iter().any(is_number), "{version}: {log}");
        assert!(!log.contains("is it a broker"), "{version}: {log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_with_a_forbidden_response_topic_goes_to_the_usual_topic() -> Result<()> {
    let broker = Broker::start(Listeners::default().acl(&format!("topic readwrite {ROOT}/#\n"))).await?;
    let mut client = broker.client().await?;
    client.subscribe(&format!("{ROOT}/outcome")).await?;
    let _board = board(&broker, "5").await?;
    let command = json!({ "id": "1", "command": "key-frame" }).to_string();
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        client.request(&format!("{ROOT}/command"), command.clone(), "elsewhere/1", b"7").await?;
        match timeout(Duration::from_secs(1), client.next_on(&format!("{ROOT}/outcome"))).await {
            Ok(answer) => return answer?.json().map(|answer| assert_eq!(answer["status"], "successful")),
            Err(_) => ensure!(Instant::now() < deadline, "nothing comes at the usual topic"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_the_access_list_forbids_are_reported() -> Result<()> {
    let acl =
        format!("topic read {ROOT}/command\ntopic write {ROOT}/availability\ntopic readwrite {ROOT}/self-check\n");
    let broker = Broker::start(Listeners::default().acl(&acl)).await?;
    for version in VERSIONS {
        let device = Device::open("door", &format!("{}version = \"{version}\"", broker.table(Listener::Plain)))?;
        let _viewers = device.broker.subscribe(device.broker.topics().from_viewers());
        device.broker.retain(device.broker.topics().status(), "{}".into());
        device.online().await?;
        // Only MQTT 5 reports the result of a publication.
        let words: &[&str] = if version == "5" { &["status"] } else { &[] };
        lacks(&device, words).await?;
        device.close().await?;
    }
    Ok(())
}

/// Waits until the limits name all of these.
async fn lacks(device: &Device, words: &[&str]) -> Result<Limits> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let limits = device.broker.limits();
        let text = limits.describe().unwrap_or_default();
        if words.iter().all(|word| text.contains(word)) {
            return Ok(limits);
        }
        ensure!(Instant::now() < deadline, "{words:?} are not in: {text}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Which user may do what, in mosquitto's words: all that the service needs, and no more.
const SUFFICIENT: [&str; 8] = [
    "topic readwrite peercam/door/self-check",
    "topic read peercam/door/command",
    "topic read peercam/door/viewer/+/to-device",
    "topic write peercam/door/viewer/+/to-viewer",
    "topic write peercam/door/status",
    "topic write peercam/door/outcome",
    "topic write peercam/door/event",
    "topic write peercam/door/snapshot/+",
];

async fn probed(broker: &Broker, version: &str) -> Result<mqtt::Found> {
    let table = format!("{}version = \"{version}\"", broker.table(Listener::Plain));
    let config = Config::parse(&table).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    mqtt::probe(&config.mqtt, "door").await.map_err(anyhow::Error::msg)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_reports_topics_that_the_access_list_forbids_and_the_line_that_permits_them() -> Result<()> {
    let broker = Broker::start(Listeners::default().acl(&SUFFICIENT.join("\n"))).await?;
    let sufficient = probed(&broker, "5").await?;
    ensure!(!sufficient.is_forbidden && sufficient.permissions.is_empty(), "{sufficient:?}");
    for line in SUFFICIENT {
        // The doctor has to publish a topic to find out that it cannot be read.
        let others =
            SUFFICIENT.iter().filter(|other| **other != line).map(|line| line.replace(" read ", " readwrite "));
        let instead = line.strip_prefix("topic read ").map(|topic| format!("topic write {topic}"));
        broker.set_acl(&others.chain(instead).map(|line| line + "\n").collect::<String>())?;
        let topic = line.rsplit(' ').next().context("no topic")?;
        let found = probed(&broker, "5").await?;
        ensure!(found.is_forbidden && found.text.contains(topic), "{line}: {found:?}");
        ensure!(found.permissions.iter().any(|permission| permission.ends_with(topic)), "{line}: {found:?}");
        if line.contains(" write ") {
            ensure!(found.permissions == [line], "{line}: {found:?}");
        }
    }
    for forbidden in SUFFICIENT {
        // One of the returned messages is dropped silently.
        let others = SUFFICIENT.iter().filter(|other| **other != forbidden);
        let others = others.map(|line| line.replace(" read ", " readwrite ").replace(" write ", " readwrite ") + "\n");
        broker.set_acl(&others.collect::<String>())?;
        let topic = forbidden.rsplit(' ').next().context("no topic")?;
        let found = probed(&broker, "3.1.1").await?;
        ensure!(found.permissions.len() == 1 && found.permissions[0].ends_with(topic), "{forbidden}: {found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_advice_of_the_doctor_the_board_receives_commands_and_logs_no_repeated_warning() -> Result<()> {
    for version in VERSIONS {
        let broker = Broker::start(Listeners::default().acl("topic read nothing\n")).await?;
        let table = format!("{}version = \"{version}\"", broker.table(Listener::Plain));
        let config = Config::parse(&table).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
        let denied = doctor::broker(&config.mqtt, "door").await.context("no broker")?;
        assert_eq!(denied.level, doctor::Level::Problem, "{version}: {denied:?}");
        let advice = denied.advice.context("no advice")?;
        for permission in ["topic read peercam/door/command", "topic read peercam/door/viewer/+/to-device"] {
            assert!(advice.contains(permission), "{version}: {permission} is not in: {advice}");
        }
        broker.set_acl(&broker_lines(&advice))?;
        let followed = doctor::broker(&config.mqtt, "door").await.context("no broker")?;
        // Where a publication is refused with a word it is known that reading was not tried.
        let level = if version == "5" { doctor::Level::Warning } else { doctor::Level::Ok };
        assert_eq!(followed.level, level, "{version}: {followed:?}");
        let device = Device::open("door", &table)?;
        let mut commands = device.broker.subscribe(device.broker.topics().command());
        device.online().await?;
        broker.set_acl(&(broker_lines(&advice) + "topic write peercam/door/command\n"))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        // The broker may take a while to read its list again.
        while commands.try_recv().is_err() {
            ensure!(Instant::now() < deadline, "{version}: it is deaf");
            device.broker.publish(device.broker.topics().command(), "heard".into());
            sleep(Duration::from_millis(200)).await;
        }
        device.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_warns_of_a_broker_that_refuses_a_status() -> Result<()> {
    let broker = Broker::start(Listeners::default().setting("max_packet_size 600")).await?;
    let config = Config::parse(&broker.table(Listener::Plain)).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let found = doctor::broker(&config.mqtt, "door").await.context("no broker")?;
    assert_eq!(found.level, doctor::Level::Warning, "{found:?}");
    assert!(found.found.contains("600 bytes") && found.advice.is_some_and(|advice| advice.contains("max_packet_size")));
    Ok(())
}

/// The lines that an advice has.
fn broker_lines(advice: &str) -> String {
    advice.split(" | ").filter_map(|line| line.find("topic ").map(|at| format!("{}\n", &line[at..]))).collect()
}

/// With MQTT 3.1.1 a broker cannot report it; with MQTT 5 it does not report messages that it drops silently.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_measures_the_limits_of_a_broker_with_messages_to_itself() -> Result<()> {
    let cases = [
        ("max_qos 0", Some("QoS 0 only"), false),
        ("retain_available false", Some("no retained messages"), false),
        ("max_packet_size 20000", Some("20000 bytes at most|a message of 65536 bytes does not come back"), false),
        ("max_packet_size 2000", Some("2000 bytes at most|a message of 4096 bytes does not come back"), true),
        ("message_size_limit 3000", Some("a message of 4096 bytes does not come back, while one of 1024 does"), true),
        ("message_size_limit 100000", Some("a message of 261120 bytes does not come back"), false),
        ("", None, false),
    ];
    for (setting, words, has_advice) in cases {
        let listeners = Listeners::default();
        let is_of_listener = setting.starts_with("max_qos");
        let broker =
            Broker::start(if is_of_listener { listeners.each(setting) } else { listeners.setting(setting) }).await?;
        let mut watcher = broker.client().await?;
        for version in VERSIONS {
            let found = probed(&broker, version).await?;
            match words {
                Some(words) => {
                    let is_told = words.split('|').any(|words| found.text.contains(words));
                    ensure!(is_told, "{setting}, {version}: {found:?}");
                }
                None => ensure!(!found.text.contains("but"), "{version}: {found:?}"),
            }
            ensure!(found.advice.is_some() == has_advice && !found.is_forbidden, "{setting}, {version}: {found:?}");
        }
        // Nothing of it is left at the broker.
        watcher.subscribe("peercam/#").await?;
        let left = watcher.next(Duration::from_millis(500)).await;
        ensure!(left.is_err(), "{setting}: {left:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_accepts_a_broker_that_disconnects_only_on_unused_features() -> Result<()> {
    for version in VERSIONS {
        // A policy as on AWS IoT: a board may publish its own topics and receive the others.
        let cloud = Scripted::start(|sent| match sent {
            packet::SUBSCRIBE => Some("status"),
            packet::PUBLISH => Some("command"),
            _ => None,
        })
        .await?;
        let table = format!("[mqtt]\nurl = \"mqtt://{}\"\nversion = \"{version}\"", cloud.address);
        let config = Config::parse(&table).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
        let found = mqtt::probe(&config.mqtt, "door").await.map_err(anyhow::Error::msg)?;
        ensure!(!found.is_forbidden && found.permissions.is_empty(), "{version}: {found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_any_limits_of_the_broker_the_board_is_online_and_receives_commands() -> Result<()> {
    let limits = [
        "max_qos 0",
        "max_qos 1",
        "max_keepalive 10",
        "max_inflight_messages 1",
        "max_inflight_bytes 1000",
        "max_queued_messages 1",
        "max_queued_bytes 1000",
        "max_packet_size 20000",
        "message_size_limit 20000",
        "upgrade_outgoing_qos true",
        "retain_available false",
        "max_topic_alias 0",
        "queue_qos0_messages true",
    ];
    let cases = VERSIONS.into_iter().flat_map(|version| limits.map(|limit| (version, limit)));
    try_join_all(cases.map(async |(version, limit)| {
        let is_of_listener = ["max_qos", "max_topic_alias"].iter().any(|name| limit.starts_with(name));
        let listeners = Listeners::default();
        let broker =
            Broker::start(if is_of_listener { listeners.each(limit) } else { listeners.setting(limit) }).await?;
        let device = Device::open("door", &format!("{}version = \"{version}\"", broker.table(Listener::Plain)))?;
        let mut commands = device.broker.subscribe(device.broker.topics().command());
        device.broker.retain(device.broker.topics().status(), "{}".into());
        device.online().await.with_context(|| format!("{version}, {limit}"))?;
        let mut client = broker.client().await?;
        client.subscribe(&format!("{ROOT}/event")).await?;
        for number in 0..20 {
            // By the device itself, since other clients would break on some of these.
            device.broker.publish(device.broker.topics().command(), number.to_string().into());
            device.broker.publish(device.broker.topics().event(), number.to_string().into());
            let came = timeout(Duration::from_secs(10), commands.recv()).await;
            let came = came.with_context(|| format!("{version}, {limit}: command {number} is lost"))?;
            ensure!(came.is_some_and(|message| message.payload == number.to_string()), "{version}, {limit}");
        }
        client.next_where(&format!("{ROOT}/event"), |message| message.text() == "19").await?;
        device.close().await
    }))
    .await
    .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_assigns_no_client_ids_is_reported() -> Result<()> {
    for version in VERSIONS {
        let broker = Broker::start(Listeners::default().each("allow_zero_length_clientid false")).await?;
        let table = format!("{}version = \"{version}\"\nclient_id = \"\"", broker.table(Listener::Plain));
        let device = Device::open("door", &table)?;
        let reason = device.offline().await?;
        ensure!(reason.contains("mqtt.client_id") && !reason.contains("to \"\""), "{version}: {reason}");
        device.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_for_tls_on_a_port_without_it_is_reported_and_vice_versa() -> Result<()> {
    let broker = Broker::start(Listeners::of(&[Listener::Plain, Listener::Tls])).await?;
    let (plain, tls) = (broker.address(Listener::Plain), broker.address(Listener::Tls));
    let ca = broker.file("ca.pem");
    for version in VERSIONS {
        for (url, words) in [
            (format!("mqtt://{tls}"), "expect TLS at this port (mqtts://)"),
            (format!("ws://{tls}/mqtt"), "expect TLS at this port (wss://)"),
            (format!("mqtts://{plain}"), "(mqtt://)"),
            (format!("wss://{plain}/mqtt"), "(ws://)"),
        ] {
            let is_encrypted = ["mqtts", "wss"].iter().any(|scheme| url.starts_with(scheme));
            let ca = if is_encrypted { format!("ca_file = {ca:?}") } else { String::new() };
            let device = Device::open("door", &format!("[mqtt]\nurl = \"{url}\"\nversion = \"{version}\"\n{ca}"))?;
            let reason = device.offline().await?;
            ensure!(reason.contains(words), "{version}, {url}: {reason}");
            device.close().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_disconnects_on_one_topic_is_used_without_it() -> Result<()> {
    let forbidden =
        [("subscribe", "self-check"), ("subscribe", "command"), ("publish", "status"), ("publish", "self-check")];
    let cases = VERSIONS.into_iter().flat_map(|version| forbidden.map(|(what, topic)| (version, what, topic)));
    try_join_all(cases.map(async |(version, what, topic)| {
        let cloud = Scripted::start(move |sent| match sent {
            packet::SUBSCRIBE if what == "subscribe" => Some(topic),
            packet::PUBLISH if what == "publish" => Some(topic),
            _ => None,
        })
        .await?;
        let device = Device::open_at("door", cloud.address, &format!("version = \"{version}\""))?;
        let _commands = device.broker.subscribe(device.broker.topics().command());
        device.broker.retain(device.broker.topics().status(), "{}".into());
        lacks(&device, &[topic]).await.with_context(|| format!("{version}, {what} {topic}"))?;
        device.online().await?;
        let settled = cloud.accepted();
        ensure!(settled <= 6, "{version}, {what} {topic}: {settled} connections");
        // It has settled: more than the longest pause brings no further connection.
        sleep(Duration::from_secs(3)).await;
        ensure!(cloud.accepted() == settled, "{version}, {what} {topic}");
        device.close().await
    }))
    .await
    .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_boards_with_one_id_report_it_and_reconnect_more_and_more_slowly() -> Result<()> {
    try_join_all(VERSIONS.map(async |version| {
        let broker = Broker::start(Listeners::default()).await?;
        let table = format!("{}version = \"{version}\"", broker.table(Listener::Plain));
        let twins = [Device::open("door", &table)?, Device::open("door", &table)?];
        // Each receives the other's offline status; each is notified after a while.
        for twin in &twins {
            let is_told = |state: &State| match state {
                State::Offline { reason } => reason.contains("\"peercam-door\"") && reason.contains("device.id"),
                _ => false,
            };
            twin.wait_for("the reason", is_told).await?;
        }
        let before = connections(&broker)?;
        sleep(Duration::from_secs(6)).await;
        let turns = connections(&broker)? - before;
        ensure!(turns <= 6, "{version}: {turns} turns in 6 s");
        let [one, other] = twins;
        one.close().await?;
        other.close().await
    }))
    .await
    .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_in_a_brokers_connack_are_respected() -> Result<()> {
    // Receive maximum 1, maximum QoS 0, no retained messages, no wildcards, topic alias maximum 0, server keep-alive 0,
    // a client id, 200 bytes at most.
    let wishes: &[u8] =
        &[0x21, 0, 1, 0x24, 0, 0x25, 0, 0x28, 0, 0x22, 0, 0, 0x13, 0, 0, 0x12, 0, 2, b'x', b'7', 0x27, 0, 0, 0, 200];
    let modest = Scripted::start(|_| None).await?;
    modest.accept_with(wishes);
    let device = Device::open_at("door", modest.address, "client_id = \"\"")?;
    let _viewers = device.broker.subscribe(device.broker.topics().from_viewers());
    device.online().await?;
    device.broker.retain(device.broker.topics().status(), "y".repeat(1000).into());
    device.broker.retain(device.broker.topics().home_assistant(), "small".into());
    let limits = lacks(&device, &["no retained messages", "QoS 0", "wildcards", "200 bytes"]).await?;
    assert_eq!(limits.most_bytes, 200);
    modest.wait_for("home-assistant").await?;
    // Pings without a pause would end it: rumqttc takes a second one before the first is answered for a dead broker.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(modest.accepted(), 1);
    for (flags, topic, bytes) in modest.published() {
        assert!(flags & 0b111 == 0 && bytes <= 200, "{topic}: flags {flags:#b}, {bytes} bytes");
        assert!(!topic.ends_with("/status"), "1000 bytes were sent");
    }
    device.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_id_and_a_redirect_to_another_server_are_reported() -> Result<()> {
    for (version, answer, words) in [
        ("3.1.1", &[0x20, 2, 0, 2][..], &["mqtt.client_id", "mqtt.keep_alive"][..]),
        ("5", &[0x20, 3, 0, 0x85, 0], &["mqtt.client_id"]),
        ("5", &[0x20, 3, 0, 0x9d, 0], &["another server", "mqtt.url"]),
        ("5", &[0x20, 3, 0, 0, 0, 0xe0, 8, 0x9c, 6, 0x1c, 0, 3, b'b', b'.', b'c'], &["\"b.c\"", "mqtt.url"]),
        // As a port with TLS answers what is none: an alert.
        ("5", &[0x15, 3, 1, 0, 2, 2, 0x46], &["sent no MQTT 5", "mqtts://"]),
        ("3.1.1", &[0x15, 3, 1, 0, 2, 2, 0x46], &["sent no MQTT 3.1.1", "mqtts://"]),
        ("5", &[], &["mqtt.version", "peercam-door", "door/availability"]),
        ("3.1.1", &[], &["mqtt.version", "peercam-door", "door/availability"]),
    ] {
        let broker = Scripted::answering(answer).await?;
        let device = Device::open_at("door", broker.address, &format!("version = \"{version}\""))?;
        let reason = device.offline().await?;
        assert!(words.iter().all(|word| reason.contains(word)), "{version}, {answer:?}: {reason}");
        device.close().await?;
    }
    let sites = [
        ("502 Bad Gateway", "a proxy before the broker answers 502"),
        ("401 Unauthorized", "a login"),
        ("301 Moved Permanently", "mqtt.url has to be the final URL"),
        ("404 Not Found", "see the path in mqtt.url"),
        ("200 OK", "`Upgrade`"),
    ];
    for (status, words) in sites {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let site = Scripted::answering(answer.as_bytes()).await?;
        let device = Device::open("door", &format!("[mqtt]\nurl = \"WS://{}/mqtt\"", site.address))?;
        let reason = device.offline().await?;
        assert!(reason.contains(words), "{status}: {reason}");
        device.close().await?;
    }
    let only = Scripted::start(|_| None).await?;
    for (table, sent) in [("client_id = \"frontdoor1\"", "frontdoor1"), ("client_id = \"\"", ""), ("", "peercam-door")]
    {
        let device = Device::open_at("door", only.address, table)?;
        device.online().await?;
        assert_eq!(only.client_ids().last().map(String::as_str), Some(sent), "{table}");
        device.close().await?;
    }
    Ok(())
}
