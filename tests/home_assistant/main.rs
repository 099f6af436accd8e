//! The shipped binary in the real Home Assistant: the device that it announces, seen and used there.

mod assistant;

use anyhow::{Result, ensure};
use assistant::Assistant;
use serde_json::json;
use testkit::board::Board;
use testkit::broker::{Broker, Listener, Listeners};
use testkit::document;

/// The board's tables for a broker, with its device in Home Assistant or without.
fn tables(broker: &Broker, is_enabled: bool) -> String {
    format!("[device]\nid = \"porch\"\n{}\n[home_assistant]\nenabled = {is_enabled}\n", broker.table(Listener::Plain))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_works_in_home_assistant_and_disappears_when_disabled() -> Result<()> {
    // The test acts as an operator with access to the topics of home automations.
    let acl = document::block("peercam.acl")?;
    let acl = format!(
        "{acl}\nuser operator\ntopic readwrite test/#\ntopic read homeassistant/#\nuser homeassistant\ntopic readwrite test/#\n"
    );
    let listeners = Listeners::default()
        .user("porch", "the board's")
        .user(assistant::USER, assistant::PASSWORD)
        .user("operator", "the operator's")
        .acl(&acl);
    let broker = Broker::start(listeners).await?;
    let mut assistant = Assistant::start(&broker).await?;
    let mut board = Board::start(&tables(&broker, true)).await?;

    assistant.wait_for("number.porch_bitrate", "800").await?;
    assistant.wait_for("sensor.porch_viewers", "0").await?;

    assistant.act("number.set_value", "number.porch_bitrate", json!({ "value": 1200 })).await?;
    assistant.wait_for("number.porch_bitrate", "1200").await?;

    assistant.wait_for("switch.porch_privacy", "off").await?;
    assistant.act("switch.turn_on", "switch.porch_privacy", json!({})).await?;
    assistant.wait_for("switch.porch_privacy", "on").await?;
    assistant.act("switch.turn_off", "switch.porch_privacy", json!({})).await?;
    assistant.wait_for("switch.porch_privacy", "off").await?;

    // The picture that the button asks for is the one that the camera shows.
    assistant.act("button.press", "button.porch_snapshot", json!({})).await?;
    assistant.wait_until("the button was pressed", |states| states["button.porch_snapshot"] != "unknown").await?;
    let picture = assistant.picture("camera.porch").await?;
    ensure!(picture.starts_with(&[0xff, 0xd8]), "no JPEG but {} bytes", picture.len());

    board.kill()?;
    assistant.wait_for("number.porch_bitrate", "unavailable").await?;
    board.start_again().await?;
    assistant.wait_for("number.porch_bitrate", "1200").await?;
    ensure!(assistant.complaints()?.is_empty(), "{:#?}", assistant.complaints()?);
    drop(board);

    let _board = Board::start(&tables(&broker, false)).await?;
    assistant.wait_until("nothing is left of the board", |states| !states.keys().any(|id| id.contains("porch"))).await
}
