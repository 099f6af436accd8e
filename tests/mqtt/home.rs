//! The board as Home Assistant meets it at the broker. `tests/home_assistant` has the real one.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use testkit::board::Board;
use testkit::broker::{Broker, Client, Listener, Listeners};

const CONFIG: &str = "homeassistant/device/peercam-porch/config";
const STATUS: &str = "peercam/porch/status";

fn tables(broker: &Broker, home_assistant: &str) -> String {
    let table = broker.table(Listener::Plain);
    format!("[device]\nid = \"porch\"\n{table}\n[home_assistant]\n{home_assistant}\n")
}

async fn start(home_assistant: &str) -> Result<(Broker, Board, Client)> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut home = broker.client().await?;
    home.subscribe("#").await?;
    let board = Board::start_beside_others(&tables(&broker, home_assistant)).await?;
    Ok((broker, board, home))
}

/// The topic that an announced entity takes values on.
fn command_topic<'c>(config: &'c Value, entity: &str) -> &'c str {
    config["components"][entity]["command_topic"].as_str().unwrap_or_default()
}

async fn status_where(home: &mut Client, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    home.next_where(STATUS, |message| message.json().is_ok_and(|status| is_wanted(&status))).await?.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_entities_show_the_board_and_work() -> Result<()> {
    let (broker, _board, mut home) = start("enabled = true").await?;
    let config = home.next_on(CONFIG).await?.json()?;
    ensure!(config["device"]["name"] == "porch" && config["state_topic"] == STATUS, "{config:#}");
    let mut late = broker.client().await?;
    late.subscribe(CONFIG).await?;
    ensure!(late.next_on(CONFIG).await?.is_retained, "Home Assistant may start later");

    home.publish(command_topic(&config, "main_bitrate"), "1200").await?;
    status_where(&mut home, |status| status["cameras"][0]["settings"]["bitrate"] == 1200).await?;
    home.publish(command_topic(&config, "main_size"), "320x180").await?;
    status_where(&mut home, |status| status["cameras"][0]["settings"]["width"] == 320).await?;
    home.publish(command_topic(&config, "main_snapshot"), "PRESS").await?;
    let topic = config["components"]["main_still"]["topic"].as_str().unwrap_or_default();
    let still = home.next_on(topic).await?;
    ensure!(still.payload.starts_with(&[0xff, 0xd8]), "{} bytes are no JPEG", still.payload.len());
    home.publish(command_topic(&config, "microphone"), "OFF").await?;
    status_where(&mut home, |status| status["microphone"]["settings"]["on"] == false).await?;
    home.publish(command_topic(&config, "privacy"), "ON").await?;
    status_where(&mut home, |status| status["privacy"] == true && status["cameras"][0]["state"] == "private").await?;
    home.publish(command_topic(&config, "privacy"), "OFF").await?;
    status_where(&mut home, |status| status["privacy"] == false).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_value_is_reported_on_the_outcome_topic_and_has_no_effect() -> Result<()> {
    let (_broker, board, mut home) = start("enabled = true").await?;
    home.next_on(CONFIG).await?;
    let cases: [(&str, &[u8], &str); 6] = [
        ("main_bitrate", b"lots", "no whole number"),
        ("main_bitrate", b"1", "50"),
        ("privacy", b"maybe", "not one of OFF, ON"),
        ("privacy", b"\xff\xfe", "not one of OFF, ON"),
        ("main_size", b"641x481", "not one of"),
        ("nothing", b"ON", "no entity is called `nothing`"),
    ];
    for (entity, payload, reason) in cases {
        home.publish(&format!("peercam/porch/set/{entity}"), payload.to_vec()).await?;
        let outcome = home.next_where("peercam/porch/outcome", |message| message.text().contains("failed")).await?;
        let outcome = outcome.json()?;
        let found = outcome["reason"].as_str().unwrap_or_default();
        ensure!(outcome["status"] == "failed" && found.contains(reason), "{entity}: {outcome:#}");
    }
    // One that the broker keeps would come again at each connection.
    home.retain("peercam/porch/set/privacy", "ON").await?;
    let mut again = home.until_silence(Duration::from_secs(1)).await?;
    again.retain(|message| message.topic == "peercam/porch/outcome");
    let settings = json!({ "width": 640, "height": 360, "fps": 30, "bitrate": 800, "key_frame_interval": 10 });
    let status = board.status().await?;
    ensure!(status["cameras"][0]["settings"] == settings, "{status:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_is_announced_again_when_home_assistant_starts() -> Result<()> {
    let (_broker, _board, mut home) = start("enabled = true\ndiscovery_prefix = \"house/discovery\"").await?;
    let topic = "house/discovery/device/peercam-porch/config";
    let first = home.next_on(topic).await?.json()?;
    home.until_silence(Duration::from_secs(1)).await?;
    home.publish("house/discovery/status", "offline").await?;
    home.publish("house/discovery/status", "online").await?;
    let again = home.next_on(topic).await?.json()?;
    ensure!(first["components"] == again["components"], "{first:#}\n{again:#}");
    home.next_on(STATUS).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_announcement_is_removed_when_disabled_and_never_sent_without_one() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut home = broker.client().await?;
    home.subscribe("homeassistant/#").await?;
    let never = Board::start_beside_others(&tables(&broker, "enabled = false")).await?;
    ensure!(home.until_silence(Duration::from_secs(2)).await?.is_empty(), "there is nothing to say");
    drop(never);
    let on = Board::start_beside_others(&tables(&broker, "enabled = true")).await?;
    home.next_where(CONFIG, |message| !message.payload.is_empty()).await?;
    drop(on);
    let _off = Board::start_beside_others(&tables(&broker, "enabled = false")).await?;
    home.next_where(CONFIG, |message| message.payload.is_empty()).await?;
    let mut late = broker.client().await?;
    late.subscribe("homeassistant/#").await?;
    late.subscribe("peercam/porch/home-assistant").await?;
    ensure!(late.until_silence(Duration::from_secs(1)).await?.is_empty(), "nothing is left of it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_entity_that_no_longer_exists_is_removed() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut home = broker.client().await?;
    // As an earlier start has left it, under another prefix, with a control that its camera had.
    let earlier = "other/device/peercam-porch/config";
    home.retain(earlier, "{}").await?;
    let marker = json!({ "topic": earlier, "entities": { "main_control_gain": "number", "main_bitrate": "number" } });
    home.retain("peercam/porch/home-assistant", marker.to_string()).await?;
    home.subscribe("#").await?;
    let _board = Board::start_beside_others(&tables(&broker, "enabled = true")).await?;
    home.next_where(earlier, |message| message.payload.is_empty()).await?;
    let is_gone = |config: &Value| config["components"]["main_control_gain"] == json!({ "platform": "number" });
    let config =
        home.next_where(CONFIG, |message| message.json().is_ok_and(|config| is_gone(&config))).await?.json()?;
    ensure!(config["components"]["main_bitrate"]["command_topic"].is_string(), "{config:#}");
    Ok(())
}
