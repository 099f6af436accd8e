//! A board with a provisioning file on the card: from the first boot on, through reboots and power cuts.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api_client::ApiClient;
use crate::card::{self, Extent};
use crate::environment::{self, Board, Environment};
use crate::machine::{Firmware, Machine};
use crate::power_cuts::{Saved, settings_are_old_or_new_after_a_power_cut_at_any_moment};
use crate::test_disk::TONE;
use testkit::broker::{Client, Listener};
use testkit::browser::Browser;
use testkit::page_viewer::Viewer;
use testkit::starvation;

const NAME: &str = environment::DEVICE.0;
const SECRET: &str = "correct horse battery";
const TIME_ZONE: &str = "Europe/Berlin";
const BOARD: Board = Board { name: "provisioned", firmware: Firmware::Efi, mac: "52:54:00:77:00:01", clock: "utc" };

/// The bitrate that is set before the reboots, in kbit/s.
const BITRATE: u64 = 700;
/// For how many minutes nothing may be written, unless the suite's own time is enough.
const IDLE_MINUTES: &str = "PEERCAM_IDLE_MINUTES";
/// Of what may be written in an idle day (100 KB), this is 139 bytes: less than the least that can be written.
const IDLE: Duration = Duration::from_secs(120);
/// Time after which the last write is complete: ext4 closes a transaction after 5 s (`commit=` in
/// Documentation/admin-guide/ext4.rst).
const SETTLING: Duration = Duration::from_secs(12);
/// The board reboots after it has notified the viewers and the broker.
const REBOOT_LIMIT: Duration = Duration::from_secs(60);
/// systemd feeds the watchdog twice in the 15 s that it was set to; QEMU's has two stages of that time.
const WATCHDOG_LIMIT: Duration = Duration::from_secs(60);

/// The tests, in order.
pub async fn run(environment: &mut Environment) -> Result<()> {
    let card = environment.card(BOARD.name)?;
    card.put("peercam.toml", file(environment).as_bytes())?;
    let begun = Instant::now();
    let mut machine = environment.power_on(&card, &BOARD).await?;
    let api = environment.api(&BOARD, SECRET).await?;
    api.picture().await.with_context(|| machine.logs())?;
    eprintln!(
        "figure: {:.1} s from power on to the first picture, a first boot with a file",
        begun.elapsed().as_secs_f64()
    );
    machine.wait_until_up().await?;

    test!(machine, the_file_is_applied_and_removed(&mut machine, &api));
    let address = format!("http://{NAME}.local:{}", environment::PORT);
    let browser = Browser::start_at(&environment.lan.browsers_place()).await?;
    let viewer = Viewer::log_in(&browser, &address, SECRET).await.with_context(|| machine.logs())?;
    test!(machine, the_page_at_the_boards_name_has_20_s_of_picture_and_sound_without_a_freeze(&mut machine, &viewer));
    test!(machine, one_viewer_fits_into_the_memory_of_a_small_board(&mut machine));
    let mut operator = operator(environment).await?;
    test!(machine, a_command_over_mqtt_is_answered(&mut operator));
    drop(browser);
    test!(machine, the_root_is_read_only_and_state_is_on_the_data_partition(&mut machine));
    test!(machine, the_firmware_of_common_wifi_chips_is_installed_with_its_licences(&mut machine));
    test!(machine, a_reboot_by_command_keeps_settings_name_secret_and_identity(&mut machine, &mut operator, &api));

    let saved = save(environment, &mut machine, &card).await?;
    let quiet = async {
        test!(machine, an_idle_board_does_not_write_to_the_card(&mut machine));
        anyhow::Ok(())
    };
    let cuts = async {
        test!(Cuts, settings_are_old_or_new_after_a_power_cut_at_any_moment(&saved));
        anyhow::Ok(())
    };
    // In parallel, because the former mostly waits.
    tokio::try_join!(quiet, cuts)?;

    test!(machine, on_a_full_data_partition_the_board_works_and_reports_the_loss(&mut machine, &api));
    test!(machine, a_board_with_a_frozen_systemd_is_restarted_by_its_watchdog(&mut machine, &api));
    test!(machine, nothing_panicked_and_systemd_never_had_to_restart_the_service(&machine));
    test!(machine, no_password_is_in_the_journal_or_on_the_console(&machine));
    machine.cut().await
}

/// The provisioning file.
fn file(environment: &Environment) -> String {
    format!(
        r#"
        name = "{NAME}"
        password = "{SECRET}"
        time_zone = "{TIME_ZONE}"

        [mqtt]
        url = "{}"
        user = "{}"
        password = "{}"

        # The rate that two cores bear, being the board and the browser in one.
        [[camera]]
        name = "main"
        width = 640
        height = 360
        fps = 15
        "#,
        environment.broker.url(Listener::Plain),
        environment::DEVICE.0,
        environment::DEVICE.1,
    )
}

/// A client at the broker that receives the outcomes of commands.
async fn operator(environment: &Environment) -> Result<Client> {
    let mut client = environment.broker.client().await?;
    client.subscribe(&format!("peercam/{NAME}/outcome")).await?;
    Ok(client)
}

/// Sends a command that has to succeed, and returns its result.
async fn done(operator: &mut Client, id: &str, command: &str, arguments: Value) -> Result<Value> {
    let text = json!({ "id": id, "command": command, "args": arguments }).to_string();
    operator.publish(&format!("peercam/{NAME}/command"), text).await?;
    last(operator, id).await
}

/// The last outcome of a command, which has to be a success.
async fn last(operator: &mut Client, id: &str) -> Result<Value> {
    let is_last = |outcome: &Value| outcome["id"] == id && outcome["status"] != "executing";
    let topic = format!("peercam/{NAME}/outcome");
    let message = operator.next_where(&topic, |message| message.json().is_ok_and(|outcome| is_last(&outcome))).await?;
    let outcome = message.json()?;
    ensure!(outcome["status"] == "successful", "{outcome}");
    Ok(outcome["result"].clone())
}

async fn the_file_is_applied_and_removed(machine: &mut Machine, api: &ApiClient) -> Result<()> {
    let state = machine.run("systemctl is-system-running --wait").await?;
    let failed = machine.must("systemctl --failed --no-legend").await?;
    ensure!(state.text.trim() == "running", "{}: {failed}", state.text.trim());
    let left = machine.must("ls /boot/firmware").await?;
    ensure!(
        !left.split_whitespace().any(|name| name.starts_with("peercam.toml") && !name.ends_with("example")),
        "{left}"
    );
    ensure!(!left.contains("peercam-error"), "{left}");
    ensure!(machine.must("hostname").await?.trim() == NAME, "the host name");
    let zone = machine.must("readlink -f /etc/localtime").await?;
    ensure!(zone.trim().ends_with(TIME_ZONE), "{zone}");
    let status = api.status().await?;
    ensure!(status["device"] == NAME && status["cameras"][0]["settings"]["width"] == 640, "{status:#}");
    // The page requires the password of the file.
    ensure!(api.without_secret("/api/status").await? == 401, "the page is open to everybody");
    Ok(())
}

async fn the_page_at_the_boards_name_has_20_s_of_picture_and_sound_without_a_freeze(
    machine: &mut Machine,
    viewer: &Viewer<'_>,
) -> Result<()> {
    // Without the devices the test picture and tone would be sent.
    machine.must("test -e /dev/video0 && grep -q Loopback /proc/asound/cards").await?;
    viewer.wait_for_picture(640, 360).await?;
    viewer.unmute().await?;
    // The first second is left out: the jitter buffer and the decoder settle.
    sleep(Duration::from_secs(1)).await;
    starvation::unless_starved(async || {
        let before = viewer.counters().await?;
        sleep(Duration::from_secs(20)).await;
        let after = viewer.counters().await?;
        let rate = (after.frames_decoded - before.frames_decoded) / (after.seconds - before.seconds);
        eprintln!("figure: {rate:.1} frames per second in Chromium");
        // A tenth less than the camera's 15, or more: the board's timers are those of an emulated machine.
        ensure!((13.5..16.5).contains(&rate), "{rate:.1} frames per second of the camera's 15");
        let frozen = after.freezes - before.freezes;
        ensure!(frozen == 0.0, "frozen for {frozen} s of 20");
        let concealed = (after.audio_concealed - before.audio_concealed) / (after.audio_samples - before.audio_samples);
        ensure!(concealed < 0.05, "{:.1} % of the sound was missing", concealed * 100.0);
        Ok(())
    })
    .await?;
    let tone = viewer.loudest_frequency().await?;
    // A bin of the spectrum is 6 Hz wide.
    ensure!((tone - TONE).abs() < 12.0, "heard {tone} Hz where {TONE} Hz are played");
    Ok(())
}

async fn one_viewer_fits_into_the_memory_of_a_small_board(machine: &mut Machine) -> Result<()> {
    let script =
        "sed -n 's/^VmRSS:[[:space:]]*\\([0-9]*\\) kB/\\1/p' /proc/$(systemctl show -P MainPID peercam)/status";
    // The kernel's kB are 1024 bytes.
    let memory: f64 = machine.must(script).await?.trim().parse().context("VmRSS")?;
    let memory = memory * 1024.0 / 1e6;
    eprintln!("figure: {memory:.1} MB of memory with one viewer of 640x360");
    ensure!(memory < 60.0, "{memory:.1} MB with one viewer of 640x360");
    Ok(())
}

async fn a_command_over_mqtt_is_answered(operator: &mut Client) -> Result<()> {
    let status = done(operator, "a", "get-status", json!({})).await?;
    ensure!(status["device"] == NAME, "{status:#}");
    Ok(())
}

async fn the_root_is_read_only_and_state_is_on_the_data_partition(machine: &mut Machine) -> Result<()> {
    let attempt = machine.run("LC_ALL=C touch /usr/attempt").await?;
    ensure!(attempt.code != 0 && attempt.text.contains("Read-only file system"), "{}", attempt.text);
    let root = machine.must("findmnt -n -o FSTYPE,OPTIONS --target /usr").await?;
    ensure!(
        root.split_whitespace().nth(1).is_some_and(|options| options.split(',').any(|word| word == "ro")),
        "{root}"
    );
    let boot = machine.must("findmnt -n -o FSTYPE,OPTIONS --target /boot/firmware").await?;
    ensure!(boot.starts_with("vfat ro,"), "{boot}");
    for directory in ["/data", "/var/lib/private/peercam"] {
        let kind = machine.must(&format!("findmnt -n -o FSTYPE --target {directory}")).await?;
        ensure!(kind.trim() == "ext4", "{directory} is on {kind}");
    }
    // The card has 8 GB, of which the image takes less than one.
    let size: u64 = machine.must("df --block-size=1M --output=size /data | tail -n 1").await?.trim().parse()?;
    ensure!(size > 6000, "the data partition has {size} MB of the card's 8192");
    Ok(())
}

/// Files that the kernel's drivers name (`modinfo --field firmware`), of chips on boards and in USB adapters.
const WIFI_FIRMWARE: [&str; 11] = [
    // Raspberry Pi 3 B, Zero W; 3 B+, 4, 5; and what sets their antennas up.
    "brcm/brcmfmac43430-sdio.bin",
    "brcm/brcmfmac43455-sdio.bin",
    "brcm/brcmfmac43455-sdio.raspberrypi,4-model-b.txt",
    // USB adapters: of MediaTek and Ralink, of Realtek.
    "mediatek/mt7610u.bin",
    "mediatek/mt7601u.bin",
    "rt2870.bin",
    "rtlwifi/rtl8192cufw_TMSC.bin",
    "rtlwifi/rtl8188eufw.bin",
    "rtw88/rtw8822b_fw.bin",
    // M.2 cards.
    "rtw89/rtw8852b_fw-1.bin",
    "ath10k/QCA6174/hw3.0/firmware-6.bin",
];

async fn the_firmware_of_common_wifi_chips_is_installed_with_its_licences(machine: &mut Machine) -> Result<()> {
    for file in WIFI_FIRMWARE {
        let size: u64 = machine.must(&format!("stat -L -c %s '/usr/lib/firmware/{file}'")).await?.trim().parse()?;
        ensure!(size > 0, "{file} is empty");
    }
    // A link whose target was left out would be firmware that the kernel does not find.
    let broken = machine.must("find /usr/lib/firmware -xtype l").await?;
    ensure!(broken.trim().is_empty(), "links to files that are not there: {broken}");
    machine.must("ls /usr/share/doc/firmware-{atheros,brcm80211,mediatek,realtek}/copyright").await?;
    Ok(())
}

async fn a_reboot_by_command_keeps_settings_name_secret_and_identity(
    machine: &mut Machine,
    operator: &mut Client,
    api: &ApiClient,
) -> Result<()> {
    let identity = "cat /etc/machine-id; hostname; readlink /etc/localtime";
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = [machine.must(identity).await?, machine.must(boot).await?];
    let set = done(operator, "set", "set-video", json!({ "bitrate": BITRATE })).await?;
    ensure!(set["warning"].is_null(), "{set}");
    let restart = json!({ "id": "again", "command": "restart", "args": { "what": "board" } });
    operator.publish(&format!("peercam/{NAME}/command"), restart.to_string()).await?;
    machine.wait_for_reset(REBOOT_LIMIT).await?;
    let begun = Instant::now();
    // With the secret and the address from before.
    let status = api.status().await?;
    eprintln!("figure: {:.1} s from the board's reset to its page", begun.elapsed().as_secs_f64());
    ensure!(status["device"] == NAME && status["cameras"][0]["settings"]["bitrate"] == BITRATE, "{status:#}");
    machine.wait_until_up().await?;
    let after = [machine.must(identity).await?, machine.must(boot).await?];
    ensure!(before[0] == after[0], "{before:?} became {after:?}");
    ensure!(before[1] != after[1], "it did not reboot");
    last(operator, "again").await?;
    Ok(())
}

/// Saves the board as it is now, with no viewer, for the power cuts.
async fn save(environment: &Environment, machine: &mut Machine, card: &card::Card) -> Result<Saved> {
    let script = "cd /sys/class/block/$(basename $(findmnt -n -o SOURCE /data)) && cat start size";
    let sectors = machine.must(script).await?;
    let mut numbers = sectors.split_whitespace().map(str::parse);
    let (Some(start), Some(size)) = (numbers.next(), numbers.next()) else { anyhow::bail!("{sectors}") };
    let data = Extent::of_sectors(start?, size?);
    // All writes so far are on the card first.
    machine.must("sync").await?;
    let state = environment.file("state");
    machine.save(&state, &environment.file("later.qcow2")).await?;
    Ok(Saved {
        card: card.clone(),
        state,
        equipment: environment.equipment.clone(),
        address: environment.lan.known(BOARD.mac)?,
        mac: BOARD.mac.into(),
        secret: SECRET.into(),
        data,
        old: BITRATE,
    })
}

/// Sectors of 512 bytes that were written to the card since the boot (Documentation/block/stat.rst).
async fn written(machine: &mut Machine) -> Result<u64> {
    let script = "awk '{ print $7 }' /sys/class/block/$(basename $(readlink -f /dev/disk/by-id/virtio-card))/stat";
    machine.must(script).await?.trim().parse().context("sectors written")
}

async fn an_idle_board_does_not_write_to_the_card(machine: &mut Machine) -> Result<()> {
    let time = match std::env::var(IDLE_MINUTES) {
        Ok(minutes) => Duration::from_secs(60 * minutes.parse::<u64>().with_context(|| IDLE_MINUTES)?),
        Err(_) => IDLE,
    };
    machine.must("sync").await?;
    sleep(SETTLING).await;
    let before = written(machine).await?;
    sleep(time).await;
    let bytes = 512 * (written(machine).await? - before);
    let a_day = bytes as f64 * 86_400.0 / time.as_secs_f64();
    eprintln!("figure: {bytes} bytes were written to the card in {time:?}, {:.0} KB a day", a_day / 1000.0);
    ensure!(a_day < 100_000.0, "{bytes} bytes in {time:?} are {:.0} KB a day", a_day / 1000.0);
    Ok(())
}

async fn on_a_full_data_partition_the_board_works_and_reports_the_loss(
    machine: &mut Machine,
    api: &ApiClient,
) -> Result<()> {
    // First most of the space at once, then the rest that the file system reserves and rounds.
    let fill = "fallocate -l $(( ($(stat -f -c %f /data) - 2048) * $(stat -f -c %S /data) )) /data/full
                cat /dev/zero > /data/fuller
                sync";
    machine.run(fill).await?;
    let room = machine.run("LC_ALL=C dd if=/dev/zero of=/data/more bs=4096 count=2 conv=fsync; rm /data/more").await?;
    ensure!(room.text.contains("No space left"), "there is room left: {}", room.text);
    let mut commands = api.commands().await?;
    let set = commands.done("full", "set-video", json!({ "bitrate": BITRATE + 1 })).await?;
    ensure!(set["warning"].is_string(), "no warning of the loss: {set}");
    let notice = api.notice("settings").await?.context("no notice of the loss")?;
    ensure!(notice.contains("lost at the next restart"), "{notice}");
    api.picture().await
}

async fn a_board_with_a_frozen_systemd_is_restarted_by_its_watchdog(
    machine: &mut Machine,
    api: &ApiClient,
) -> Result<()> {
    let armed = machine.must("cat /sys/class/watchdog/watchdog0/state").await?;
    ensure!(armed.trim() == "active", "the watchdog is {armed}");
    // Everything else continues: only the watchdog can detect this.
    machine.must("echo 1 > /sys/fs/cgroup/init.scope/cgroup.freeze").await?;
    machine.monitor.wait_for_event("WATCHDOG", WATCHDOG_LIMIT).await?;
    machine.wait_until_up().await?;
    // The data partition is still full. The settings from before remain.
    let status = api.status().await?;
    ensure!(status["device"] == NAME && status["cameras"][0]["settings"]["bitrate"] == BITRATE, "{status:#}");
    machine.must("rm /data/full /data/fuller && sync").await?;
    let set = api.commands().await?.done("room", "set-video", json!({ "bitrate": BITRATE })).await?;
    ensure!(set["warning"].is_null(), "{set}");
    ensure!(api.notice("settings").await?.is_none(), "nothing is lost any more");
    Ok(())
}

async fn nothing_panicked_and_systemd_never_had_to_restart_the_service(machine: &Machine) -> Result<()> {
    let journal = machine.journal()?;
    ensure!(journal.contains("peercam.service"), "the journal does not come through, so nothing would be seen in it");
    let bad = ["panicked at", "peercam.service: Scheduled restart job", "peercam.service: Watchdog timeout"];
    let found: Vec<&str> = journal.lines().filter(|line| bad.iter().any(|bad| line.contains(bad))).collect();
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

async fn no_password_is_in_the_journal_or_on_the_console(machine: &Machine) -> Result<()> {
    for secret in [SECRET, environment::DEVICE.1] {
        ensure!(!machine.journal()?.contains(secret), "{secret:?} is in the journal");
        ensure!(!machine.console()?.contains(secret), "{secret:?} is on the console");
    }
    Ok(())
}

/// The logs of a test with several boards.
struct Cuts;

impl Cuts {
    fn logs(&self) -> String {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-cut-console.log").display().to_string()
    }
}
