//! The file on the boot partition, under the real systemd: a second disk has it, on FAT and mounted read-only as on a
//! card. And a network to join: the kernel's simulated radios (mac80211_hwsim), one with hostapd in a network namespace
//! of its own, the other with the board's wpa_supplicant.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::process::Command;
use tokio::time::sleep;

use crate::board::{Board, must_run};
use crate::{SECRET, Viewer};

const SSID: &str = "upstairs";
const PASSWORD: &str = "battery staple";
const ERROR: &str = "/boot/firmware/peercam-error.txt";

/// The radio gives up after 90 s, most of which has passed during other tests.
const PATIENCE: Duration = Duration::from_secs(150);
const INTERVAL: Duration = Duration::from_secs(1);

/// Makes the disk that simulates a card's boot partition. FAT16 has at least 4085 clusters, which need 16 MiB.
pub async fn make_card(directory: &Path) -> Result<PathBuf> {
    let (file, card) = (directory.join("peercam.toml"), directory.join("card.img"));
    let text = format!(
        "name = \"front-door\"\r\npassword = \"{SECRET}\"\r\ntime_zone = \"Europe/Berlin\"\r\n\
         [wifi]\r\nssid = \"{SSID}\"\r\npassword = \"{PASSWORD}\"\r\ncountry = \"DE\"\r\n"
    );
    // As Windows' editor writes it.
    fs::write(&file, format!("\u{feff}{text}"))?;
    // Debian has these where root looks only.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    must_run(Command::new("mkfs.vfat").env("PATH", &path).args(["-C", "-n", "BOOT"]).arg(&card).arg("16384")).await?;
    must_run(Command::new("mcopy").arg("-i").arg(&card).arg(&file).arg("::peercam.toml")).await?;
    Ok(card)
}

pub async fn a_file_on_the_boot_partition_sets_the_board_up_before_the_service_starts(board: &mut Board) -> Result<()> {
    for unit in ["peercam-provision.service", "peercam-wifi.service"] {
        board.must(&format!("systemd-analyze verify {unit}")).await?;
        // Ten times the exposure level. The rest is root's right to mount and to set the host name.
        board.must(&format!("systemd-analyze security --offline=yes --threshold=25 --no-pager {unit}")).await?;
    }
    board.must("systemctl is-active peercam-provision").await?;
    for (what, expected) in [
        ("hostname", "front-door"),
        ("cat /etc/hostname", "front-door"),
        ("grep ^127.0.1.1 /etc/hosts", "127.0.1.1\tfront-door"),
        ("readlink -f /etc/localtime", "/usr/share/zoneinfo/Europe/Berlin"),
        ("cat /etc/credstore/peercam-secret", SECRET),
        ("stat -c %a /etc/credstore/peercam-secret /etc/credstore", "600\n700"),
        ("grep -A1 '^.device' /etc/peercam/peercam.toml", "[device]\nid = \"front-door\""),
        ("ls /boot/firmware", ""),
        ("findmnt -no OPTIONS /boot/firmware | cut -d , -f 1", "ro"),
        ("stat -c %a /etc/wpa_supplicant/wpa_supplicant-wlan0.conf", "600"),
    ] {
        let found = board.must(what).await?;
        ensure!(found.trim() == expected, "{what} gives {found:?}");
    }
    let console = board.console()?;
    let said = "set up from /boot/firmware/peercam.toml: name front-door, password, time zone Europe/Berlin, Wi-Fi \"upstairs\"";
    ensure!(console.contains(said), "the console does not say how it went");
    for secret in [SECRET, PASSWORD] {
        ensure!(!console.contains(secret), "a secret is on the console");
    }
    let order = "systemctl show -P ActiveEnterTimestampMonotonic peercam-provision
                 systemctl show -P ExecMainStartTimestampMonotonic peercam";
    let order = board.must(order).await?;
    let times: Vec<u64> = order.lines().map(|line| line.trim().parse()).collect::<Result<_, _>>()?;
    ensure!(times[0] < times[1], "the service started before the board was set up: {order}");
    Ok(())
}

pub async fn a_file_with_a_mistake_changes_nothing_and_an_error_file_appears_beside_it(
    board: &mut Board,
) -> Result<()> {
    let state = "cat /etc/hostname /etc/peercam/peercam.toml | sha256sum";
    let before = board.must(state).await?;
    let output = board.run(&with_file("nmae = \"back-door\"\n[wifi]\nssid = \"x\"\n")).await?;
    ensure!(output.code != 0, "a file with mistakes is a success: {}", output.text);
    for told in [ERROR, "/run/peercam-notices/provisioning"] {
        let text = board.must(&format!("cat {told}")).await?;
        for part in ["line 1: `nmae`", "did you mean `name`?", "line 2: `wifi.country`: is missing"] {
            ensure!(text.contains(part), "{part} is not in {told}: {text}");
        }
    }
    ensure!(before == board.must(state).await?, "something was changed");
    board.must("systemctl is-active peercam").await?;

    board.must(&with_file("time_zone = \"Europe/London\"\n")).await?;
    board.must(&format!("! test -e {ERROR} && ! test -e /run/peercam-notices/provisioning")).await?;
    let zone = board.must("readlink /etc/localtime").await?;
    ensure!(zone.contains("Europe/London"), "{zone}");
    Ok(())
}

/// Puts a file onto the card and runs the provisioning as at a start.
fn with_file(text: &str) -> String {
    format!(
        "mount -o remount,rw /boot/firmware && printf '%s' '{text}' > /boot/firmware/peercam.toml &&
         mount -o remount,ro /boot/firmware && systemctl restart peercam-provision"
    )
}

/// Switches an access point on, which has this password.
async fn switch_on(board: &mut Board, password: &str) -> Result<()> {
    board
        .must(&format!(
            "set -e
             systemctl stop access-point 2>/dev/null || true
             ip netns list | grep -q upstairs || {{
                 # The agent takes commands before all modules are loaded.
                 until test -e /sys/class/net/wlan1; do sleep 0.1; done
                 ip netns add upstairs && iw phy $(cat /sys/class/net/wlan1/phy80211/name) set netns name upstairs
             }}
             cat > /run/access-point.conf <<'END'
interface=wlan1
driver=nl80211
ssid={SSID}
hw_mode=g
channel=6
wpa=2
wpa_key_mgmt=WPA-PSK
rsn_pairwise=CCMP
wpa_passphrase={password}
END
             systemd-run --quiet --unit=access-point -p NetworkNamespacePath=/run/netns/upstairs \
                 hostapd /run/access-point.conf"
        ))
        .await?;
    Ok(())
}

pub async fn a_network_appears_with_another_password(board: &mut Board) -> Result<()> {
    switch_on(board, "not battery staple").await
}

pub async fn a_wifi_that_cannot_be_joined_is_reported_until_it_is_joined(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    // The board stays reachable through its cable.
    viewer.status().await?;
    let wrong = "grep -q 'password is wrong'";
    for told in [ERROR, "/run/peercam-notices/wifi"] {
        wait_for(board, &format!("{wrong} {told}")).await?;
    }
    switch_on(board, PASSWORD).await?;
    // After each failure wpa_supplicant waits longer, by now a minute, before it tries again by itself.
    board.must("wpa_cli -i wlan0 bssid_ignore clear && wpa_cli -i wlan0 select_network 0").await?;
    wait_for(board, &format!("! test -e {ERROR} && ! test -e /run/peercam-notices/wifi")).await?;
    board.must("test $(cat /sys/class/net/wlan0/operstate) = up && ! test -e /etc/peercam/wifi-to-join").await?;
    let country = board.must("iw reg get | grep -m 1 country").await?;
    ensure!(country.contains("DE"), "{country}");
    Ok(())
}

async fn wait_for(board: &mut Board, condition: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while board.run(condition).await?.code != 0 {
        if Instant::now() > deadline {
            let logs = "journalctl -b --no-pager -u peercam-wifi -u wpa_supplicant@wlan0 -u access-point | tail -n 60";
            ensure!(false, "{condition}\nis not so after {PATIENCE:?}:\n{}", board.must(logs).await?);
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}
