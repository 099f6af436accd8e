//! Measures the connection to the MQTT broker: `scripts/bench mqtt`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use peercam::config::Config;
use peercam::mqtt;
use peercam::mqtt::State;
use peercam::tasks::Group;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::board::Board;
use crate::{SETTLE, median, milliseconds, percentile, row};
use testkit::broker::{Broker, Client, Listener, Listeners};
use testkit::browser::Browser;
use testkit::page::Page;

/// How often the broker is killed and restarted.
const RESTARTS: usize = 30;

/// How long undisturbed video is watched for comparison: a busy machine has freezes of its own.
const QUIET: Duration = Duration::from_secs(60);

/// Number of commands over which the median of the round trip is taken.
const ROUND_TRIPS: usize = 200;

/// Number of starts over which the median of memory is taken: starts differ by some 100 KB.
const STARTS: usize = 5;

/// Number of devices on one broker.
const FLEET: usize = 200;

/// Time limit for anything that is waited for.
const LIMIT: Duration = Duration::from_secs(20);

const ROOT: &str = "peercam/bench";

/// Runs all measurements.
pub async fn all() -> Result<()> {
    restarts().await?;
    round_trip().await?;
    memory().await?;
    fleet().await
}

fn tables(broker: &Broker) -> String {
    // These lines follow the camera's lines and come before the broker's table.
    format!("[device]\nid = \"bench\"\n{}", broker.table(Listener::Plain))
}

/// Kills the broker and restarts it with an empty database while a browser watches.
async fn restarts() -> Result<()> {
    let mut broker = Broker::start(listeners()).await?;
    let board = Board::start(&tables(&broker))?;
    board.served().await?;
    let browser = Browser::start().await?;
    let page = Page::watch(&browser, &board.url).await?;
    sleep(SETTLE).await;
    let quiet = page.counted(QUIET).await?;
    let before = page.counters().await?;
    let mut answered = vec![];
    for _ in 0..RESTARTS {
        broker.kill()?;
        // A restart takes this long; the board's pauses between attempts have their full length by then.
        sleep(Duration::from_secs(3)).await;
        broker.start_again().await?;
        let opened = Instant::now();
        let mut client = broker.client().await?;
        client.subscribe(&format!("{ROOT}/outcome")).await?;
        // Sends again and again, like an impatient operator: the broker keeps no command for a device that has not
        // subscribed yet.
        while !client_answered(&mut client, Duration::from_millis(50)).await? {
            ensure!(opened.elapsed() < LIMIT, "no answer {LIMIT:?} after the broker's return");
        }
        answered.push(milliseconds(opened.elapsed()));
    }
    let after = page.counters().await?;
    let frozen = (after.freezes - before.freezes) / (after.seconds - before.seconds);
    row(
        &format!(
            "broker killed and restarted with an empty database, {RESTARTS} times: port open to command answered, median / 95th"
        ),
        "3 s (95th)",
        &format!("{:.2} / {:.2} s", median(&mut answered) / 1000.0, percentile(&mut answered, 0.95) / 1000.0),
    );
    row(
        "meanwhile in Chromium: share of time frozen; in a minute before that",
        "0; 0",
        &format!("{:.2} %; {:.2} %", frozen * 100.0, quiet.freezes / quiet.seconds * 100.0),
    );
    Ok(())
}

/// Sends one command; returns whether its outcome arrives within `patience`.
async fn client_answered(client: &mut Client, patience: Duration) -> Result<bool> {
    let id = command(client).await?;
    let answer = async {
        loop {
            let message = client.next(LIMIT).await?;
            if message.topic.ends_with("/outcome") && message.json()?["id"] == id {
                return anyhow::Ok(());
            }
        }
    };
    Ok(timeout(patience, answer).await.is_ok())
}

/// Publishes a command that changes nothing; returns its id.
async fn command(client: &mut Client) -> Result<String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let id = format!("bench-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let text = json!({ "id": id, "command": "list-viewers" }).to_string();
    client.send(&format!("{ROOT}/command"), text).await?;
    Ok(id)
}

/// Without `TCP_NODELAY` mosquitto itself holds an answer back until the previous packet is acknowledged.
fn listeners() -> Listeners {
    Listeners::default().setting("set_tcp_nodelay true")
}

async fn round_trip() -> Result<()> {
    let broker = Broker::start(listeners()).await?;
    let board = Board::start(&tables(&broker))?;
    board.served().await?;
    let mut client = broker.client().await?;
    client.subscribe(&format!("{ROOT}/outcome")).await?;
    while !client_answered(&mut client, Duration::from_millis(200)).await? {}
    client.until_silence(Duration::from_millis(500)).await?;
    let mut times = vec![];
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        ensure!(client_answered(&mut client, LIMIT).await?, "a command was not answered");
        times.push(milliseconds(begun.elapsed()));
        // This rate is below all limits.
        sleep(Duration::from_millis(100)).await;
    }
    row(
        &format!("command round trip on loopback, median / 95th of {ROUND_TRIPS}"),
        "5 ms (median)",
        &format!("{:.1} / {:.1} ms", median(&mut times), percentile(&mut times, 0.95)),
    );
    Ok(())
}

async fn memory() -> Result<()> {
    let broker = Broker::start(Listeners::of(&[Listener::Plain, Listener::Tls])).await?;
    let mut client = broker.client().await?;
    client.subscribe(&format!("{ROOT}/availability")).await?;
    let (mut none, mut plain, mut tls) = (vec![], vec![], vec![]);
    for _ in 0..STARTS {
        for (listener, memory) in
            [(None, &mut none), (Some(Listener::Plain), &mut plain), (Some(Listener::Tls), &mut tls)]
        {
            let table = listener.map(|listener| broker.table(listener)).unwrap_or_default();
            let board = Board::start(&format!("[device]\nid = \"bench\"\n{table}"))?;
            board.served().await?;
            if listener.is_some() {
                client.next_where(&format!("{ROOT}/availability"), |message| message.text() == "online").await?;
            }
            sleep(SETTLE).await;
            memory.push(board.memory()?.service / 1e6);
        }
    }
    let (none, plain, tls) = (median(&mut none), median(&mut plain), median(&mut tls));
    row("memory with the broker connection idle, more than without", "1 MB", &format!("{:.2} MB", plain - none));
    row("the same on TLS", "", &format!("{:.2} MB", tls - none));
    Ok(())
}

/// Measures many devices of this process on one broker: one command to each, at the same time.
async fn fleet() -> Result<()> {
    let broker = Broker::start(listeners()).await?;
    let group = Group::new();
    let config = Config::parse(&broker.table(Listener::Plain)).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let begun = Instant::now();
    let devices: Vec<_> =
        (0..FLEET).filter_map(|number| mqtt::Broker::open(&config.mqtt, &format!("fleet-{number}"), &group)).collect();
    try_join_all(devices.iter().map(async |device| {
        let mut commands = device.subscribe(device.topics().command());
        let answering = device.clone();
        group.spawn(async move {
            while let Some(command) = commands.recv().await {
                let id = serde_json::from_slice::<Value>(&command.payload).map(|command| command["id"].clone());
                let outcome = json!({ "id": id.unwrap_or_default(), "status": "successful" });
                answering.publish(answering.topics().outcome(), Bytes::from(outcome.to_string()));
            }
        });
        let mut state = device.state();
        timeout(LIMIT, state.wait_for(|state| *state == State::Online)).await.context("not online")??;
        anyhow::Ok(())
    }))
    .await?;
    let connected = begun.elapsed();
    let mut client = broker.client().await?;
    client.subscribe("peercam/+/outcome").await?;
    let begun = Instant::now();
    for device in &devices {
        client.send(&device.topics().command(), json!({ "id": "1", "command": "list-viewers" }).to_string()).await?;
    }
    for _ in &devices {
        client.next(LIMIT).await?;
    }
    row(
        &format!("{FLEET} devices of one process on one mosquitto: a command to each, the last answer after"),
        "2 s",
        &format!("{:.2} s (all connected after {:.2} s)", begun.elapsed().as_secs_f64(), connected.as_secs_f64()),
    );
    group.close(Duration::from_secs(5)).await;
    Ok(())
}
