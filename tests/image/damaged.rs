//! A board with a destroyed data partition and an invalid file on its boot partition. Then it gets a valid file, which
//! is all that it has at each start.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::api_client::ApiClient;
use crate::card::{self, Card};
use crate::environment::{Board, Environment};
use crate::machine::{Firmware, Machine};

const BOARD: Board = Board { name: "damaged", firmware: Firmware::Efi, mac: "52:54:00:77:00:03", clock: "utc" };
/// The name in the valid file.
const NAME: &str = "back-door";
const SECRET: &str = "battery horse correct";

/// The tests, in order.
pub async fn run(environment: &mut Environment) -> Result<()> {
    let card = environment.card(BOARD.name)?;
    card.put("peercam.toml", b"\x00\x01\x02 this is no file of a person \xff\xfe")?;
    let data = card::partitions(&environment.image)?.pop().context("the image has no partitions")?;
    card.destroy(data)?;
    let mut machine = environment.power_on(&card, &BOARD).await?;
    let secret = machine.secret_on_console().await?;
    let api = environment.api(&BOARD, &secret).await?;
    machine.wait_until_up().await?;
    test!(machine, without_a_data_partition_the_board_works_and_reports_the_loss(&mut machine, &api));
    test!(machine, a_binary_file_at_the_first_start_leaves_the_board_reachable(&mut machine, &api));
    machine.must("sync").await?;
    machine.cut().await?;
    the_mistake_can_be_read_with_the_card_in_a_computer(&card)?;
    card.put("peercam.toml", format!("name = \"{NAME}\"\npassword = \"{SECRET}\"\n").as_bytes())?;
    // For the network it is a new board each time, because it stores nothing.
    for mac in ["52:54:00:77:00:04", "52:54:00:77:00:05"] {
        let board = Board { mac, ..BOARD };
        let mut machine = environment.power_on(&card, &board).await?;
        let api = environment.api(&board, SECRET).await?;
        machine.wait_until_up().await?;
        test!(machine, a_valid_file_sets_up_a_board_without_storage_and_stays_for_the_next_start(&mut machine, &api));
        machine.must("sync").await?;
        machine.cut().await?;
    }
    ensure!(card.get("peercam-error.txt")?.is_none(), "what was said of the file before is still on the card");
    Ok(())
}

async fn without_a_data_partition_the_board_works_and_reports_the_loss(
    machine: &mut Machine,
    api: &ApiClient,
) -> Result<()> {
    api.picture().await?;
    let notice = api.notice("data-partition").await?.context("there is no notice")?;
    ensure!(machine.console()?.contains(&notice), "not on the console: {notice}");
    // In memory, since there is nothing else.
    let set = api.commands().await?.done("set", "set-video", json!({ "bitrate": 800 })).await?;
    ensure!(set["bitrate"] == 800, "{set}");
    Ok(())
}

async fn a_binary_file_at_the_first_start_leaves_the_board_reachable(
    machine: &mut Machine,
    api: &ApiClient,
) -> Result<()> {
    let notice = api.notice("provisioning").await?.context("there is no notice")?;
    ensure!(notice.contains("text"), "{notice}");
    ensure!(machine.console()?.contains("not text"), "it is not on the console");
    Ok(())
}

async fn a_valid_file_sets_up_a_board_without_storage_and_stays_for_the_next_start(
    machine: &mut Machine,
    api: &ApiClient,
) -> Result<()> {
    api.picture().await?;
    ensure!(api.status().await?["device"] == NAME, "the name");
    machine.must("test -e /run/peercam-forgets && test -e /boot/firmware/peercam.toml").await?;
    let notice = api.notice("provisioning").await?.context("there is no notice")?;
    ensure!(notice.contains("each start sets it up again"), "{notice}");
    ensure!(machine.console()?.contains(&notice), "not on the console: {notice}");
    let unit = machine.must("systemctl is-active peercam-provision").await?;
    ensure!(unit.trim() == "active", "{unit}");
    Ok(())
}

fn the_mistake_can_be_read_with_the_card_in_a_computer(card: &Card) -> Result<()> {
    let told = card.get("peercam-error.txt")?.context("there is no peercam-error.txt on the card")?;
    ensure!(told.contains("not text"), "{told}");
    Ok(())
}
