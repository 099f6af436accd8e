//! The connection to the broker: all ways to establish it, to lose it, and to recover.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use peercam::config::Config;
use peercam::mqtt;
use peercam::mqtt::{MAX_BYTES, State};
use peercam::tasks::Group;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::tcp_proxy::{TcpProxy, Weather};
use testkit::board::Board;
use testkit::broker::{ALL, Authority, Broker, Listener, Listeners};

/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(20);

const AVAILABILITY: &str = "peercam/door/availability";
const DEVICE: &str = "[device]\nid = \"door\"\n";

/// A device's connection within this process, for what needs many of them or a look inside.
pub struct Device {
    /// Its connection.
    pub broker: mqtt::Broker,
    group: Group,
}

impl Device {
    /// Connects as `name` with a table `[mqtt]`.
    pub fn open(name: &str, table: &str) -> Result<Self> {
        let config = Config::parse(table).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
        let group = Group::new();
        let broker = mqtt::Broker::open(&config.mqtt, name, &group).context("the table has no url")?;
        Ok(Self { broker, group })
    }

    /// The same to an address, without encryption or password.
    pub fn open_at(name: &str, address: SocketAddr, more: &str) -> Result<Self> {
        Self::open(name, &format!("[mqtt]\nurl = \"mqtt://{address}\"\n{more}"))
    }

    /// Waits for a state; how long that took.
    pub async fn wait_for(&self, what: &str, is_wanted: impl Fn(&State) -> bool) -> Result<Duration> {
        let (begun, mut state) = (Instant::now(), self.broker.state());
        let reached = timeout(LIMIT, state.wait_for(|state| is_wanted(state))).await;
        let last = self.broker.state().borrow().clone();
        reached.with_context(|| format!("waited in vain for {what}; it is {last:?}"))??;
        Ok(begun.elapsed())
    }

    /// Waits until it is online; how long that took.
    pub async fn online(&self) -> Result<Duration> {
        self.wait_for("online", |state| *state == State::Online).await
    }

    /// Waits until it is offline; why it is.
    pub async fn offline(&self) -> Result<String> {
        self.wait_for("offline", |state| matches!(state, State::Offline { .. })).await?;
        match self.broker.state().borrow().clone() {
            State::Offline { reason } => Ok(reason),
            other => anyhow::bail!("it is {other:?}"),
        }
    }

    /// Says goodbye.
    pub async fn close(self) -> Result<()> {
        ensure!(self.group.close(Duration::from_secs(2)).await, "it does not end");
        Ok(())
    }
}

/// Waits until the board's log has this many lines with all of these words.
async fn lines(board: &Board, words: &[&str], count: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        let log = board.log()?;
        let found: Vec<_> = log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
        if found.len() >= count {
            return Ok(found.into_iter().map(str::to_owned).collect());
        }
        ensure!(Instant::now() < deadline, "there are not {count} lines with {words:?}: {found:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn warnings(board: &Board) -> Result<Vec<String>> {
    Ok(board.log()?.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_connects_with_every_kind_of_url_and_both_protocol_versions() -> Result<()> {
    let broker = Broker::start(Listeners::of(&ALL).user("door", "pass word").user("operator", "operator's")).await?;
    for version in ["5", "3.1.1"] {
        for listener in ALL {
            let table = format!("{DEVICE}{}version = \"{version}\"", broker.table(listener));
            let mut client = broker.client().await?;
            client.subscribe(AVAILABILITY).await?;
            let mut board = Board::start_beside_others(&table).await?;
            let online = client.next_where(AVAILABILITY, |message| message.text() == "online");
            online.await.with_context(|| format!("{listener:?}, version {version}"))?;
            board.signal("TERM")?;
            client.next_where(AVAILABILITY, |message| message.text() == "offline").await?;
            ensure!(board.ended(LIMIT).await?.success(), "it did not end well");
            assert_eq!(warnings(&board)?, [""; 0], "{listener:?}, version {version}");
        }
    }
    let log = broker.log()?;
    assert_eq!(log.matches("Received DISCONNECT from peercam-door").count(), 10, "each said goodbye");
    assert!(log.contains("(p2, c1, k30, u'door')") && log.contains("(p5, c1, k30, u'device')"), "version and user");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_will_of_a_killed_board_reports_it_offline() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut client = broker.client().await?;
    client.subscribe(AVAILABILITY).await?;
    let mut board = Board::start_beside_others(&format!("{DEVICE}{}", broker.table(Listener::Plain))).await?;
    client.next_where(AVAILABILITY, |message| message.text() == "online").await?;
    board.kill()?;
    client.next_where(AVAILABILITY, |message| message.text() == "offline").await?;
    // Retained, for clients that subscribe later.
    let mut later = broker.client().await?;
    later.subscribe(AVAILABILITY).await?;
    let message = later.next_on(AVAILABILITY).await?;
    assert_eq!((message.text(), message.is_retained), ("offline", true));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_one_warning_and_the_right_one_is_used_without_a_restart() -> Result<()> {
    let broker = Broker::start(Listeners::default().user("door", "wrong").user("operator", "o")).await?;
    broker.set_password("door", "right")?;
    for version in ["5", "3.1.1"] {
        let table = format!("{DEVICE}{}version = \"{version}\"", broker.table(Listener::Plain));
        let board = Board::start_beside_others(&table).await?;
        let before = broker.log()?.matches("Sending CONNACK to").count();
        while broker.log()?.matches("Sending CONNACK to").count() < before + 3 {
            sleep(Duration::from_millis(50)).await;
        }
        let logged = warnings(&board)?;
        assert!(logged.len() == 1 && logged[0].contains("mqtt.user and mqtt.password_file"), "{logged:#?}");
        assert!(!board.log()?.contains("wrong"), "the password is in the log");
        assert_eq!(board.status().await?["cameras"].as_array().map(Vec::len), Some(1), "the rest works");
        broker.set_password("door", "wrong")?;
        lines(&board, &["INFO", "connected to the broker"], 1).await?;
        assert_eq!(warnings(&board)?.len(), 1);
        broker.set_password("door", "right")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_is_one_warning_and_the_right_authority_is_used_without_a_restart() -> Result<()> {
    let broker = Broker::start(Listeners::of(&[Listener::Plain, Listener::Tls, Listener::WebSocketTls])).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("ca.pem");
    for listener in [Listener::Tls, Listener::WebSocketTls] {
        fs::write(&file, Authority::new()?.certificate())?;
        let url = broker.url(listener);
        let board = Board::start_beside_others(&format!("{DEVICE}[mqtt]\nurl = \"{url}\"\nca_file = {file:?}")).await?;
        let logged = lines(&board, &["WARN"], 1).await?;
        assert!(logged[0].contains("set mqtt.ca_file"), "{logged:?}");
        fs::copy(broker.file("ca.pem"), &file)?;
        lines(&board, &["INFO", "connected to the broker"], 1).await?;
        assert_eq!(warnings(&board)?.len(), 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_or_from_an_unknown_authority_is_refused() -> Result<()> {
    let listeners = Listeners::of(&[Listener::Tls, Listener::ClientCertificate]).at("0.0.0.0".parse()?);
    let broker = Broker::start(listeners).await?;
    let port = broker.address(Listener::Tls).port();
    let ca = broker.file("ca.pem");
    // All of 127/8 is this machine, and the certificate is for another address and localhost.
    let stranger = Device::open("door", &format!("[mqtt]\nurl = \"mqtts://127.0.0.2:{port}\"\nca_file = {ca:?}"))?;
    assert!(stranger.offline().await?.contains("another name"), "{:?}", stranger.broker.state().borrow());
    let platform = Device::open("roof", &format!("[mqtt]\nurl = \"{}\"", broker.url(Listener::Tls)))?;
    assert!(platform.offline().await?.contains("signed by nobody"), "the platform's authorities did not sign it");
    let port = broker.address(Listener::ClientCertificate).port();
    let bare = Device::open("wall", &format!("[mqtt]\nurl = \"mqtts://localhost:{port}\"\nca_file = {ca:?}"))?;
    assert!(bare.offline().await?.contains("mqtt.certificate_file"), "{:?}", bare.broker.state().borrow());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broker_outage_is_one_warning_and_all_state_is_published_again() -> Result<()> {
    let mut broker = Broker::start(Listeners::default()).await?;
    let device = Device::open("door", &broker.table(Listener::Plain))?;
    device.broker.retain("peercam/door/status".into(), "state".into());
    device.broker.retain("peercam/door/gone".into(), "soon".into());
    let mut commands = device.broker.subscribe("peercam/door/command".into());
    device.online().await?;
    device.broker.retain("peercam/door/gone".into(), Bytes::new());
    for round in 0..4 {
        broker.kill()?;
        device.offline().await?;
        broker.start_again().await?;
        let took = device.online().await?;
        assert!(took < Duration::from_secs(3), "round {round}: {took:?} after the broker's return");
        let mut client = broker.client().await?;
        client.subscribe("peercam/#").await?;
        client.next_where("peercam/door/status", |message| message.text() == "state").await?;
        client.publish("peercam/door/command", "hello").await?;
        let message = timeout(LIMIT, commands.recv()).await?.context("no subscription any more")?;
        assert_eq!(&message.payload[..], b"hello", "it has subscribed again");
        let rest = client.until_silence(Duration::from_millis(200)).await?;
        assert!(!rest.iter().any(|message| message.topic.ends_with("gone")), "what was removed is not there");
    }
    device.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_one_warning_for_any_number_of_attempts() -> Result<()> {
    let mut broker = Broker::start(Listeners::default()).await?;
    let board = Board::start_beside_others(&format!("{DEVICE}{}", broker.table(Listener::Plain))).await?;
    lines(&board, &["INFO", "connected to the broker"], 1).await?;
    broker.kill()?;
    lines(&board, &["WARN", "no connection to the broker"], 1).await?;
    // With pauses of at most 2 s this is time for several attempts. No event shows that none of them is logged.
    sleep(Duration::from_secs(7)).await;
    broker.start_again().await?;
    lines(&board, &["INFO", "connected to the broker"], 2).await?;
    assert_eq!(warnings(&board)?.len(), 1, "{:#?}", warnings(&board)?);

    drop(board);
    let nowhere = Board::start_beside_others(&format!("{DEVICE}[mqtt]\nurl = \"mqtt://broker.invalid\"")).await?;
    let logged = lines(&nowhere, &["WARN"], 1).await?;
    assert!(logged[0].contains("mqtt://broker.invalid:1883"), "{logged:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_delivers_nothing_is_detected_and_an_access_list_without_the_check_is_reported_once()
-> Result<()> {
    let open = "topic readwrite #\n";
    let broker = Broker::start(Listeners::default().acl(open)).await?;
    let board = Board::start_beside_others(&format!("{DEVICE}{}keep_alive = 5", broker.table(Listener::Plain))).await?;
    let self_check = |count| {
        let broker = &broker;
        async move {
            let deadline = Instant::now() + LIMIT;
            while broker.log()?.matches("Sending PUBLISH to peercam-door (d0, q1, r0").count() < count {
                ensure!(Instant::now() < deadline, "no message to itself");
                sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        }
    };
    self_check(1).await?;
    // Publications are accepted and pings answered, but no message of a subscription arrives.
    broker.set_acl("topic write #\n")?;
    let deaf = lines(&board, &["WARN", "no connection to the broker"], 1).await?;
    assert!(deaf[0].contains("no longer delivers"), "{deaf:?}");
    let logged = lines(&board, &["WARN", "does the broker's access list"], 1).await?;
    assert!(logged[0].contains("peercam/door/self-check"), "{logged:?}");
    assert_eq!(lines(&board, &["INFO", "connected to the broker"], 2).await?.len(), 2);
    // Longer than the next check takes: the state stays, and nothing more is logged.
    sleep(Duration::from_secs(11)).await;
    assert_eq!(warnings(&board)?.len(), 2, "{:#?}", warnings(&board)?);
    let before = broker.log()?.matches("Sending PUBLISH to peercam-door (d0, q1, r0").count();
    broker.set_acl(open)?;
    self_check(before + 1).await?;
    assert_eq!(warnings(&board)?.len(), 2, "{:#?}", warnings(&board)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_broker_is_detected_and_reconnected() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let device = Device::open("door", &format!("{}keep_alive = 5", broker.table(Listener::Plain)))?;
    device.online().await?;
    broker.signal("STOP")?;
    device.offline().await?;
    broker.signal("CONT")?;
    device.online().await?;
    device.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_reconnects_after_an_end_anywhere_within_a_packet() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let address = broker.address(Listener::Plain);
    for more in ["", "version = \"3.1.1\""] {
        let mut devices = Vec::new();
        // Acceptance, subscription, check, and three publications are within these.
        for bytes in (1..=60).chain((64..400).step_by(16)) {
            let proxy = TcpProxy::open(address, vec![Weather::CutDown(bytes), Weather::CutUp(bytes)]).await?;
            let device = Device::open_at(&format!("cut-{bytes}"), proxy.address, more)?;
            device.broker.retain(device.broker.topics().status(), "state".into());
            device.broker.publish(device.broker.topics().event(), "once".into());
            devices.push((device, proxy));
        }
        // One for all: those that neither send nor get enough to be cut stay at their first connection.
        let deadline = Instant::now() + LIMIT;
        for (device, proxy) in &devices {
            // The third connection is the first that is not cut.
            while proxy.accepted() < 2 && Instant::now() < deadline {
                sleep(Duration::from_millis(20)).await;
            }
            device.online().await?;
        }
        let mut client = broker.client().await?;
        client.subscribe("peercam/+/status").await?;
        let mut known = std::collections::BTreeSet::new();
        while known.len() < devices.len() {
            known.insert(client.next(LIMIT).await?.topic);
        }
        for (device, _) in devices {
            device.close().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_reconnects_after_any_bytes_from_a_broker() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let address = broker.address(Listener::Plain);
    let mut random = SmallRng::seed_from_u64(7);
    for more in ["", "version = \"3.1.1\""] {
        let payloads: Vec<_> = (0..150).map(|_| nonsense(&mut random)).collect();
        try_join_all(payloads.into_iter().enumerate().map(async |(number, bytes)| {
            let proxy = TcpProxy::open(address, vec![Weather::Nonsense(bytes)]).await?;
            let device = Device::open_at(&format!("told-{number}"), proxy.address, more)?;
            device.online().await?;
            // Where it made sense by chance, or waits for the rest of it, nothing has ended; then this ends it.
            proxy.set(Weather::Closed);
            let reason = device.offline().await?;
            ensure!(!reason.contains("the MQTT client failed on"), "the client panicked: {reason}");
            proxy.set(Weather::Fair);
            device.online().await?;
            device.close().await
        }))
        .await?;
    }
    Ok(())
}

/// A packet of any kind, whose length may be right, with anything in it; or anything at all.
fn nonsense(random: &mut SmallRng) -> Vec<u8> {
    let length = random.random_range(0..40_u8);
    let body = (0..length).map(|_| if random.random() { random.random() } else { random.random_range(0..4) });
    let mut packet: Vec<u8> = body.collect();
    match random.random_range(0..4) {
        0 => {}
        1 => packet.splice(0..0, [random.random(), random.random()]).for_each(drop),
        _ => {
            packet.splice(0..0, [random.random_range(0..16_u8) << 4 | random.random_range(0..4), length]).for_each(drop)
        }
    }
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_becomes_valid_is_accepted_within_ten_seconds() -> Result<()> {
    // Whole seconds: a certificate's times have no finer ones. To the board it is as if its clock were behind.
    let valid = SystemTime::UNIX_EPOCH
        + Duration::from_secs(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + 9);
    let authority = Arc::new(Authority::new()?.valid_from(valid));
    let listeners = Listeners::of(&[Listener::Tls, Listener::WebSocketTls]).certified_by(&authority);
    let broker = Broker::start(listeners).await?;
    let devices = [Listener::Tls, Listener::WebSocketTls].map(|listener| Device::open("door", &broker.table(listener)));
    for device in devices {
        let device = device?;
        if SystemTime::now() < valid {
            let reason = device.offline().await?;
            assert!(reason.contains("not valid yet"), "{reason}");
        }
        device.online().await?;
        let late = SystemTime::now().duration_since(valid).context("it was taken before it was valid")?;
        eprintln!("online {late:?} after the certificate became valid");
        assert!(late < Duration::from_secs(10), "{late:?}");
        device.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_session_description_fits_and_a_flood_of_bytes_is_survived() -> Result<()> {
    let broker = Broker::start(Listeners::of(&[Listener::Plain, Listener::WebSocket])).await?;
    for (listener, more) in [(Listener::Plain, ""), (Listener::Plain, "version = \"3.1.1\""), (Listener::WebSocket, "")]
    {
        let device = Device::open("door", &format!("{}{more}", broker.table(listener)))?;
        let mut commands = device.broker.subscribe("peercam/door/command".into());
        device.online().await?;
        let mut client = broker.client().await?;
        client.subscribe("peercam/door/+").await?;
        let large = Bytes::from(vec![b'x'; 200 * 1024]);
        client.publish("peercam/door/command", large.clone()).await?;
        assert_eq!(timeout(LIMIT, commands.recv()).await?.context("it ended")?.payload, large);
        device.broker.publish("peercam/door/outcome".into(), large.clone());
        client.next_where("peercam/door/outcome", |message| message.payload == large).await?;
        // It logs that, keeps the connection, and continues.
        device.broker.publish("peercam/door/outcome".into(), Bytes::from(vec![b'x'; MAX_BYTES]));
        device.broker.publish("peercam/door/outcome".into(), "next".into());
        client.next_where("peercam/door/outcome", |message| message.text() == "next").await?;
        // The broker does not forward it to an MQTT 5 client; a 3.1.1 client disconnects and reconnects.
        client.publish("peercam/door/command", vec![b'x'; 10_000_000]).await?;
        timeout(LIMIT, async {
            loop {
                client.publish("peercam/door/command", "small").await?;
                if let Ok(Some(message)) = timeout(Duration::from_millis(500), commands.recv()).await {
                    ensure!(&message.payload[..] == b"small", "a message of {} bytes", message.payload.len());
                    break anyhow::Ok(());
                }
            }
        })
        .await??;
        device.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_short_outage_are_published_once_after_it_and_those_of_a_long_one_are_dropped() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let proxy = TcpProxy::open(broker.address(Listener::Plain), Vec::new()).await?;
    let device = Device::open_at("door", proxy.address, "")?;
    device.online().await?;
    let mut client = broker.client().await?;
    client.subscribe("peercam/door/event").await?;
    for (outage, expected) in [(Duration::from_millis(500), vec!["a", "b"]), (Duration::from_secs(11), vec![])] {
        proxy.set(Weather::Closed);
        device.offline().await?;
        device.broker.publish("peercam/door/event".into(), "a".into());
        device.broker.publish("peercam/door/event".into(), "b".into());
        sleep(outage).await;
        proxy.set(Weather::Fair);
        device.online().await?;
        let came = client.until_silence(Duration::from_secs(1)).await?;
        assert_eq!(came.iter().map(|message| message.text()).collect::<Vec<_>>(), expected, "{outage:?}");
    }
    device.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tries_the_broker() -> Result<()> {
    let acl = "user door\ntopic readwrite peercam/door/#\nuser deaf\ntopic write #\n";
    let listeners = Listeners::default().user("door", "right").user("deaf", "right").acl(acl);
    let mut broker = Broker::start(listeners).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("peercam.toml");
    let found = |table: String| {
        let file = &file;
        async move {
            fs::write(file, format!("{DEVICE}{table}\n[[camera]]\nsource = \"test\"\n[audio]\ncapture = \"off\""))?;
            let mut doctor = Command::new(env!("CARGO_BIN_EXE_peercam"));
            let output = doctor.args(["doctor", "--json", "--config"]).arg(file).kill_on_drop(true).output();
            let report: Value = serde_json::from_slice(&timeout(LIMIT, output).await??.stdout)?;
            let items = report["items"].as_array().context("no items")?;
            let item = items.iter().find(|item| item["topic"] == "broker").context("nothing of the broker")?;
            anyhow::Ok((item["level"].as_str().unwrap_or_default().to_owned(), item["found"].to_string()))
        }
    };
    let table = broker.table(Listener::Plain);
    let (level, text) = found(table.clone()).await?;
    assert!(level == "ok" && text.contains("a message to itself took"), "{text}");
    let (level, text) = found(table.replace("right", "wrong")).await?;
    assert!(level == "problem" && text.contains("mqtt.password_file"), "{text}");
    let (level, text) = found(table.replace("door", "deaf")).await?;
    assert!(level == "problem" && text.contains("peercam/door/self-check"), "{text}");
    broker.kill()?;
    let (level, text) = found(table).await?;
    assert!(level == "problem" && text.contains("connection refused"), "{text}");
    Ok(())
}
