//! The sandboxes of the two units, tested from inside: the service has the network and its files and no device, the
//! capture process has the devices and neither network nor files.

use anyhow::{Result, ensure};

use crate::board::Board;
use testkit::tap_network::HOST;

/// Tries each access and prints the result. `bash` connects by itself.
const PROBE: &str = r#"
    try() { name=$1; shift; if "$@" 2>/dev/null; then echo "$name: yes"; else echo "$name: no"; fi; }
    opens() { exec 9<"$1" && exec 9<&-; }
    connects() { timeout 3 bash -c "exec 9<>/dev/tcp/$1"; }
    try camera opens /dev/video0
    try sound opens /dev/snd/controlC0
    try page connects 127.0.0.1/8080
    try outside connects HOST/PORT
    try configuration test -r /etc/peercam/peercam.toml
    try state test -w /var/lib/peercam/
    try runs timeout 3 bash -c true
    try resolver test -r /run/systemd/resolve/probe
    try bus test -r /run/dbus/probe
    try code eval 'cp /bin/true /var/cache/peercam/code && /var/cache/peercam/code'
    try disk opens /dev/vda
    try memory opens /dev/mem
"#;

/// How the probe runs in the place of a unit's own program.
const INSTEAD: &str = "-e 's#^ExecStart=.*#ExecStart=/bin/bash /run/probe#' -e 's/^Type=.*/Type=oneshot/' \
    -e 's/^StandardInput=.*/StandardInput=null/' -e 's/^StandardOutput=.*/StandardOutput=journal/' \
    -e '/^WatchdogSec\\|^Restart\\|^NotifyAccess\\|^Wants\\|^After/d'";

pub async fn the_service_has_the_network_and_the_capture_process_has_the_devices(board: &mut Board) -> Result<()> {
    // A host outside of the board: this machine.
    let listener = tokio::net::TcpListener::bind((HOST, 0)).await?;
    let port = listener.local_addr()?.port().to_string();
    let probe = PROBE.replace("HOST", &HOST.to_string()).replace("PORT", &port);
    board.must(&format!("cat > /run/probe <<'PROBE'\n{probe}\nPROBE")).await?;
    board.must("mkdir -p /run/systemd/resolve /run/dbus && touch /run/systemd/resolve/probe /run/dbus/probe").await?;
    let unconfined = board.must("bash /run/probe").await?;
    for name in
        ["camera", "sound", "page", "outside", "configuration", "state", "runs", "resolver", "bus", "code", "disk"]
    {
        ensure!(unconfined.contains(&format!("{name}: yes")), "the probe itself: {unconfined}");
    }
    let service = within(board, "peercam.service").await?;
    let capture = within(board, "peercam-capture@.service").await?;
    for (name, of_service) in [
        ("camera", false),
        ("sound", false),
        ("page", true),
        ("outside", true),
        ("configuration", true),
        ("state", true),
    ] {
        let is = |told: &str, can: bool| told.contains(&format!("{name}: {}", if can { "yes" } else { "no" }));
        ensure!(is(&service, of_service), "{name} from within the service:\n{service}");
        ensure!(is(&capture, !of_service), "{name} from within what captures:\n{capture}");
    }
    for (name, of_service) in [("runs", true), ("resolver", true), ("bus", true), ("disk", false), ("memory", false)] {
        let is = |told: &str, can: bool| told.contains(&format!("{name}: {}", if can { "yes" } else { "no" }));
        ensure!(is(&service, of_service), "{name} from within the service:\n{service}");
        ensure!(is(&capture, name == "runs"), "{name} from within what captures:\n{capture}");
    }
    ensure!(capture.contains("code: no"), "what one process writes the next may run:\n{capture}");
    Ok(())
}

/// The output of the probe in the sandbox of `unit`.
async fn within(board: &mut Board, unit: &str) -> Result<String> {
    let probe = format!("probe-{}", unit.replace('@', ""));
    board
        .must(&format!(
            "mkdir -p /run/systemd/system
             sed {INSTEAD} '/usr/lib/systemd/system/{unit}' > /run/systemd/system/{probe}
             systemctl daemon-reload
             systemctl start {probe}
             journalctl --sync
             journalctl --output=cat --boot --unit={probe}
             rm /run/systemd/system/{probe}"
        ))
        .await
}
