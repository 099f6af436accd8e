//! The image on a board that starts by U-Boot, and nothing on it but the image.

use anyhow::{Result, ensure};

use crate::machine::{Firmware, Machine};
use crate::place::{Board, Place};
use crate::visitor::Visitor;

const BOARD: Board =
    Board { name: "u_boot", firmware: Firmware::UBoot, mac: "52:54:00:77:00:06", clock: "2026-05-01T10:00:00" };

/// The tests, in order.
pub async fn run(place: &mut Place) -> Result<()> {
    let card = place.card(BOARD.name)?;
    let machine = place.power_on(&card, &BOARD).await?;
    let secret = machine.secret_on_console().await?;
    let visitor = place.visitor(&BOARD, &secret).await?;
    test!(machine, the_kernel_is_started_by_extlinux_conf(&machine));
    test!(machine, without_a_camera_the_test_picture_is_served(&visitor));
    machine.cut().await
}

async fn the_kernel_is_started_by_extlinux_conf(machine: &Machine) -> Result<()> {
    let console = machine.console()?;
    // U-Boot can start EFI programs too, and would take that one if it found nothing else.
    ensure!(console.contains("Found /extlinux/extlinux.conf") && !console.contains("BOOTAA64"), "{console}");
    Ok(())
}

async fn without_a_camera_the_test_picture_is_served(visitor: &Visitor) -> Result<()> {
    visitor.picture().await?;
    let status = visitor.status().await?;
    ensure!(status["cameras"][0]["device"] == "test picture", "{status:#}");
    Ok(())
}
