//! The unmodified image on a board that starts by U-Boot.

use anyhow::{Result, ensure};

use crate::api_client::ApiClient;
use crate::environment::{Board, Environment};
use crate::machine::{Firmware, Machine};

const BOARD: Board =
    Board { name: "u_boot", firmware: Firmware::UBoot, mac: "52:54:00:77:00:06", clock: "2026-05-01T10:00:00" };

/// The tests, in order.
pub async fn run(environment: &mut Environment) -> Result<()> {
    let card = environment.card(BOARD.name)?;
    let machine = environment.power_on(&card, &BOARD).await?;
    let secret = machine.secret_on_console().await?;
    let api = environment.api(&BOARD, &secret).await?;
    test!(machine, the_kernel_is_started_by_extlinux_conf(&machine));
    test!(machine, without_a_camera_the_test_picture_is_served(&api));
    machine.cut().await
}

async fn the_kernel_is_started_by_extlinux_conf(machine: &Machine) -> Result<()> {
    let console = machine.console()?;
    // U-Boot can start EFI programs too, and would use the image's boot loader if it found nothing else.
    ensure!(console.contains("Found /extlinux/extlinux.conf") && !console.contains("BOOTAA64"), "{console}");
    Ok(())
}

async fn without_a_camera_the_test_picture_is_served(api: &ApiClient) -> Result<()> {
    api.picture().await?;
    let status = api.status().await?;
    ensure!(status["cameras"][0]["device"] == "test picture", "{status:#}");
    Ok(())
}
