//! A board without a provisioning file, without a network at first, and with a clock that begins in 1970. Then files
//! with mistakes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tokio::time::sleep;

use crate::api_client::ApiClient;
use crate::environment::{self, Board, Environment};
use crate::lan::Lan;
use crate::machine::{Firmware, Machine};
use testkit::avahi::Family;
use testkit::browser::Browser;

const BOARD: Board =
    Board { name: "unprovisioned", firmware: Firmware::Efi, mac: "52:54:00:77:00:02", clock: "1970-01-01T00:00:00" };

/// A name is announced within some seconds (RFC 6762, 8.3) after the board has an address.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(30);
/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(100);

/// Files that cannot be applied, the fault of each, and a part of the expected message.
const BAD_FILES: [(&str, &[u8], &str); 6] = [
    ("no TOML", b"name = \"front-door", "line 1"),
    ("an unknown key", b"nmae = \"front-door\"\n", "nmae"),
    ("a Wi-Fi password that is too short", b"[wifi]\nssid = \"home\"\npassword = \"short\"\n", "password"),
    ("nothing in it", b"", "empty"),
    ("a picture instead of text", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "text"),
    ("a table that the configuration refuses", b"[[camera]]\nname = \"main\"\nfps = 0\n", "fps"),
];

/// The tests, in order.
pub async fn run(environment: &mut Environment) -> Result<()> {
    let card = environment.card(BOARD.name)?;
    let mut machine = environment.power_on(&card, &BOARD).await?;
    machine.unplug().await?;
    let secret = machine.secret_on_console().await?;
    machine.wait_until_up().await?;
    test!(machine, without_a_network_and_in_1970_the_service_runs(&mut machine));
    machine.plug_in().await?;
    let api = environment.api(&BOARD, &secret).await?;
    test!(machine, with_a_network_the_name_and_the_camera_are_announced(&api, &mut environment.lan));
    let browser = Browser::start_at(&environment.lan.browsers_place()).await?;
    test!(machine, only_the_secret_on_the_console_opens_the_page(&api, &browser, &secret));
    test!(machine, the_secret_is_shown_on_the_console_once_and_not_in_the_journal(&mut machine, &secret));
    drop(browser);
    test!(machine, a_file_with_a_mistake_changes_nothing_and_is_reported_on_card_console_and_page(&mut machine, &api));
    test!(machine, a_valid_file_clears_the_reports_about_invalid_ones(&mut machine, environment));
    machine.cut().await
}

async fn without_a_network_and_in_1970_the_service_runs(machine: &mut Machine) -> Result<()> {
    machine.wait_for("systemctl is-active peercam").await?;
    let year: i32 = machine.must("date +%Y").await?.trim().parse()?;
    eprintln!("figure: the year is {year} for a board without a clock");
    let restarts = machine.must("systemctl show -P NRestarts peercam").await?;
    ensure!(restarts.trim() == "0", "the service was restarted {restarts} times");
    ensure!(!machine.journal()?.contains("panicked at"), "it panicked");
    Ok(())
}

async fn with_a_network_the_name_and_the_camera_are_announced(api: &ApiClient, lan: &mut Lan) -> Result<()> {
    let address = lan.address(BOARD.mac).await?.to_string();
    let name = name(api).await?;
    let deadline = Instant::now() + ANNOUNCE_LIMIT;
    loop {
        let found = lan.computer.addresses(Family::V4, &name)?;
        if found == [address.as_str()] {
            break;
        }
        ensure!(Instant::now() < deadline, "{name} is {found:?}, the board is at {address}");
        sleep(INTERVAL).await;
    }
    for kind in ["_http._tcp", "_peercam._tcp"] {
        let found = lan.computer.services(kind)?;
        // Name and address, and the port of the shipped configuration: columns 7 to 9 of avahi-browse(1).
        let wanted = [name.as_str(), &address, "8080"];
        ensure!(
            found.iter().any(|service| service.get(6..9).is_some_and(|found| found == wanted)),
            "{kind}: {found:?}"
        );
    }
    Ok(())
}

/// The name that the board has in the network.
async fn name(api: &ApiClient) -> Result<String> {
    let is_there = |status: &Value| status["local_name"].is_string();
    let status = api.status_where("a name in the network", is_there).await?;
    Ok(status["local_name"].as_str().unwrap_or_default().to_owned())
}

async fn only_the_secret_on_the_console_opens_the_page(api: &ApiClient, browser: &Browser, secret: &str) -> Result<()> {
    ensure!(api.without_secret("/api/status").await? == 401, "the page is open to everybody");
    api.picture().await?;
    browser.open(&format!("http://{}:{}/", name(api).await?, environment::PORT)).await?;
    browser.enter("#secret", secret).await?;
    // After the login the viewer's page is shown.
    let deadline = Instant::now() + ANNOUNCE_LIMIT;
    while browser.run("return document.querySelector('peercam-viewer') !== null").await.ok() != Some(true.into()) {
        ensure!(Instant::now() < deadline, "the secret of the console does not open the page");
        sleep(INTERVAL).await;
    }
    Ok(())
}

async fn the_secret_is_shown_on_the_console_once_and_not_in_the_journal(
    machine: &mut Machine,
    secret: &str,
) -> Result<()> {
    ensure!(machine.console()?.matches(secret).count() == 1, "the console shows the secret again and again");
    let count = |text: &str| format!("journalctl --boot | grep --count --fixed-strings '{text}' || true");
    let told = machine.must(&count("a secret was made")).await?;
    ensure!(told.trim() == "1", "the journal reports {told} times that a secret was made");
    let shown = machine.must(&count(secret)).await?;
    ensure!(shown.trim() == "0", "the secret is in {shown} lines of the journal");
    Ok(())
}

/// Puts a file on the boot partition and runs the provisioning as at a start.
async fn provision(machine: &mut Machine, content: &[u8]) -> Result<()> {
    let content = BASE64.encode(content);
    machine
        .must(&format!(
            "mount -o remount,rw /boot/firmware
             base64 -d <<< '{content}' > /boot/firmware/peercam.toml
             mount -o remount,ro /boot/firmware
             systemctl restart peercam-provision || true"
        ))
        .await?;
    Ok(())
}

async fn a_file_with_a_mistake_changes_nothing_and_is_reported_on_card_console_and_page(
    machine: &mut Machine,
    api: &ApiClient,
) -> Result<()> {
    let state =
        "cat /etc/hostname /etc/peercam/peercam.toml; ls -R /etc/credstore /etc/wpa_supplicant 2>/dev/null; true";
    let before = machine.must(state).await?;
    for (what, content, words) in BAD_FILES {
        let said = machine.console()?.len();
        provision(machine, content).await?;
        let told = machine.must("cat /boot/firmware/peercam-error.txt").await.with_context(|| what)?;
        ensure!(told.contains(words), "{what}: peercam-error.txt has no {words:?}: {told}");
        let console = machine.console()?;
        ensure!(console[said..].contains(words), "{what}: the console has no {words:?}: {}", &console[said..]);
        let told = |status: &Value| status["notices"].to_string().contains(words);
        api.status_where(&format!("a notice with {words:?} about {what}"), told).await?;
        let after = machine.must(state).await?;
        ensure!(before == after, "{what}: {before} became {after}");
    }
    api.picture().await
}

async fn a_valid_file_clears_the_reports_about_invalid_ones(
    machine: &mut Machine,
    environment: &mut Environment,
) -> Result<()> {
    let secret = "battery horse correct";
    provision(machine, format!("name = \"back-door\"\npassword = \"{secret}\"\n").as_bytes()).await?;
    machine.must("test ! -e /boot/firmware/peercam-error.txt && test ! -e /boot/firmware/peercam.toml").await?;
    machine.must("systemctl restart peercam").await?;
    let api = environment.api(&BOARD, secret).await?;
    ensure!(api.notice("provisioning").await?.is_none(), "the notice is still there");
    ensure!(api.status().await?["device"] == "back-door", "the name");
    Ok(())
}
