//! A board that has nothing to rely on: its data partition is destroyed, and the file on its boot partition is none.
//! Then it is given a good one, which is all that it has at each start.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::card::{self, Card};
use crate::machine::{Firmware, Machine};
use crate::place::{Board, Place};
use crate::visitor::Visitor;

const BOARD: Board = Board { name: "damaged", firmware: Firmware::Efi, mac: "52:54:00:77:00:03", clock: "utc" };
/// What the good file gives it.
const NAME: &str = "back-door";
const SECRET: &str = "battery horse correct";

/// The tests, in order.
pub async fn run(place: &mut Place) -> Result<()> {
    let card = place.card(BOARD.name)?;
    card.put("peercam.toml", b"\x00\x01\x02 this is no file of a person \xff\xfe")?;
    let data = card::partitions(&place.image)?.pop().context("the image has no partitions")?;
    card.destroy(data)?;
    let mut machine = place.power_on(&card, &BOARD).await?;
    let secret = machine.secret_on_console().await?;
    let visitor = place.visitor(&BOARD, &secret).await?;
    machine.wait_until_up().await?;
    test!(machine, without_a_data_partition_the_board_works_and_says_what_is_lost(&mut machine, &visitor));
    test!(machine, a_file_that_is_no_text_at_the_first_start_leaves_the_board_reachable(&mut machine, &visitor));
    machine.must("sync").await?;
    machine.cut().await?;
    the_mistake_can_be_read_with_the_card_in_a_computer(&card)?;
    card.put("peercam.toml", format!("name = \"{NAME}\"\npassword = \"{SECRET}\"\n").as_bytes())?;
    // It is a new one to the network each time, as it keeps nothing of what it told the network before.
    for mac in ["52:54:00:77:00:04", "52:54:00:77:00:05"] {
        let board = Board { mac, ..BOARD };
        let mut machine = place.power_on(&card, &board).await?;
        let visitor = place.visitor(&board, SECRET).await?;
        machine.wait_until_up().await?;
        test!(
            machine,
            a_good_file_sets_up_a_board_that_keeps_nothing_and_stays_for_the_next_start(&mut machine, &visitor)
        );
        machine.must("sync").await?;
        machine.cut().await?;
    }
    ensure!(card.get("peercam-error.txt")?.is_none(), "what was said of the file before is still on the card");
    Ok(())
}

async fn without_a_data_partition_the_board_works_and_says_what_is_lost(
    machine: &mut Machine,
    visitor: &Visitor,
) -> Result<()> {
    visitor.picture().await?;
    let notice = visitor.notice("data-partition").await?.context("there is no notice")?;
    ensure!(machine.console()?.contains(&notice), "the console does not say: {notice}");
    // In memory, since there is nothing else.
    let set = visitor.commands().await?.done("set", "set-video", json!({ "bitrate": 800 })).await?;
    ensure!(set["bitrate"] == 800, "{set}");
    Ok(())
}

async fn a_file_that_is_no_text_at_the_first_start_leaves_the_board_reachable(
    machine: &mut Machine,
    visitor: &Visitor,
) -> Result<()> {
    let notice = visitor.notice("provisioning").await?.context("there is no notice")?;
    ensure!(notice.contains("text"), "{notice}");
    ensure!(machine.console()?.contains("not text"), "the console says nothing of it");
    Ok(())
}

async fn a_good_file_sets_up_a_board_that_keeps_nothing_and_stays_for_the_next_start(
    machine: &mut Machine,
    visitor: &Visitor,
) -> Result<()> {
    visitor.picture().await?;
    ensure!(visitor.status().await?["device"] == NAME, "the name");
    machine.must("test -e /run/peercam-forgets && test -e /boot/firmware/peercam.toml").await?;
    let notice = visitor.notice("provisioning").await?.context("there is no notice")?;
    ensure!(notice.contains("each start sets it up again"), "{notice}");
    ensure!(machine.console()?.contains(&notice), "the console does not say: {notice}");
    let unit = machine.must("systemctl is-active peercam-provision").await?;
    ensure!(unit.trim() == "active", "{unit}");
    Ok(())
}

fn the_mistake_can_be_read_with_the_card_in_a_computer(card: &Card) -> Result<()> {
    let told = card.get("peercam-error.txt")?.context("there is no peercam-error.txt on the card")?;
    ensure!(told.contains("not text"), "{told}");
    Ok(())
}
