//! The package under a running systemd: tests/package has the tests that do not need one.
//!
//! Before this, the board has the files of the package without an entry in dpkg's database.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::board::{ADDRESS, Board};
use crate::config;

/// Finds files with the product's name, on disk and in /run, except those of these tests: packages, and a unit that the
/// kernel's command line requests.
const REMAINS: &str =
    "find / /run -xdev -name '*peercam*' -not -path '/packages/*' -not -path '/run/systemd/generator.early/*'";
/// Belongs to the board and not to the package: its Wi-Fi, which was set up at the first boot.
const STAYS: [&str; 2] = ["/etc/systemd/network/70-peercam-wifi.link", "/etc/systemd/network/70-peercam-wifi.network"];

pub async fn the_package_is_installed_upgraded_and_purged_while_the_board_runs(board: &mut Board) -> Result<()> {
    // As on a board that has never had it, but for the files that dpkg is about to write.
    board
        .must(
            "systemctl stop peercam-reboot.path
             systemctl disable --quiet --now peercam.service peercam-provision.service peercam-wifi.service
             rm -r /etc/peercam /etc/credstore/peercam-* /var/lib/private/peercam /var/lib/peercam",
        )
        .await?;
    installing_starts_the_service_with_the_page_open_to_the_network(board).await?;
    upgrading_keeps_the_configuration_and_restarts_the_service(board).await?;
    purging_leaves_nothing_but_the_boards_network(board).await?;
    // For the next tests.
    board.must("dpkg --install /packages/peercam.deb && systemctl enable --now peercam-reboot.path").await?;
    board.configure(&config(640, 360)).await
}

async fn installing_starts_the_service_with_the_page_open_to_the_network(board: &mut Board) -> Result<()> {
    let told = board.must("dpkg --install /packages/peercam.deb").await?;
    let page = format!("the page is at http://{ADDRESS}:8080");
    ensure!(told.contains(&page), "{told}");
    board.must("systemctl is-active peercam && systemctl is-enabled peercam peercam-provision peercam-wifi").await?;
    // The board's kernel command line wants it, which systemd calls enabled-runtime.
    let reboot = board.run("systemctl is-active peercam-reboot.path; systemctl is-enabled peercam-reboot.path").await?;
    ensure!(reboot.text == "inactive\nenabled-runtime\n", "{}", reboot.text);
    // Its secret is in the documented place, and opens the page.
    let secret = board.must("cat /var/lib/peercam/secret").await?;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let page = format!("http://{ADDRESS}:8080/api/status");
    let refused = client.get(&page).send().await?;
    ensure!(refused.status() == 401, "{} without a secret", refused.status());
    client.get(&page).bearer_auth(secret.trim()).send().await?.error_for_status()?;
    Ok(())
}

async fn upgrading_keeps_the_configuration_and_restarts_the_service(board: &mut Board) -> Result<()> {
    board.configure(&config(320, 180)).await?;
    let state = "sha256sum /etc/peercam/peercam.toml; cat /var/lib/peercam/secret";
    let process = "systemctl is-active peercam && systemctl show -P MainPID peercam";
    let (kept, before) = (board.must(state).await?, board.must(process).await?);
    board.must("dpkg --install /packages/peercam-next.deb < /dev/null").await?;
    ensure!(board.must(state).await? == kept, "the configuration or the secret is another");
    ensure!(board.must(process).await? != before, "the service is still that of the version before");
    Ok(())
}

async fn purging_leaves_nothing_but_the_boards_network(board: &mut Board) -> Result<()> {
    // In two steps, each within the time that a command has: Debian's helpers have systemd read all units again a dozen
    // times.
    board.must("dpkg --remove peercam").await?;
    board.must("dpkg --purge peercam").await?;
    let left = board.must(REMAINS).await?;
    let mut left: Vec<_> = left.lines().collect();
    left.sort_unstable();
    ensure!(left == STAYS, "{left:?}");
    let units = board.must("systemctl list-units --all --state=loaded --plain --no-legend 'peercam*'").await?;
    ensure!(units.is_empty(), "{units}");
    Ok(())
}
