//! Applies settings to the running board at once, instead of at its next start.
//!
//! Failures are no errors: the files take effect at the next start.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use super::paths::{Joiner, Paths};
use super::settings::FileSettings;
use super::wifi::Wifi;

/// linux/rfkill.h, struct rfkill_event: index (unused here), type 1 (WLAN), operation 3 (all of that type, also later
/// ones), not blocked.
const UNBLOCK_WLAN: [u8; 8] = [0, 0, 0, 0, 1, 3, 0, 0];

/// Applies the settings. Returns the steps that could not be done, for the log.
pub(super) fn apply_now(settings: &FileSettings, paths: &Paths) -> Vec<String> {
    let mut not_done = Vec::new();
    if !paths.is_running() {
        return not_done;
    }
    if let Some(name) = &settings.name {
        let set = rustix::system::sethostname(name.as_bytes());
        not_done.extend(set.err().map(|error| format!("the host's name holds from the next start on ({error})")));
    }
    if let Some(wifi) = &settings.wifi {
        not_done.extend(join(wifi, paths));
    }
    not_done
}

fn join(wifi: &Wifi, paths: &Paths) -> Vec<String> {
    let mut not_done = Vec::new();
    let rfkill = paths.at("dev/rfkill");
    if rfkill.exists() {
        let done = fs::write(rfkill, UNBLOCK_WLAN);
        not_done.extend(done.err().map(|error| format!("the radio is unblocked from the next start on ({error})")));
    }
    match paths.joiner() {
        // It reads its files when it starts, which is after this. If cfg80211 is loaded already, the country in
        // its options has no effect; without `iw`, the next start does it.
        Some(Joiner::NetworkManager) => not_done.extend(run("iw", &["reg", "set", &wifi.country()])),
        Some(Joiner::WpaSupplicant) => {
            let unit = format!("wpa_supplicant@{}.service", paths.radio());
            // systemd determined the jobs of this boot before the unit was enabled. Do not wait for it: it is ordered
            // after units that are ordered after us.
            not_done.extend(run("systemctl", &["--no-block", "restart", &unit]));
        }
        None => {}
    }
    not_done
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let command = format!("{program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("{command}: {error}")),
    }
}

/// The page's address for a browser, if it is open to the network.
pub(super) fn address(name: &str, listen: SocketAddr) -> Option<String> {
    match listen.ip() {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) if !ip.is_unspecified() => Some(format!("http://{listen}")),
        IpAddr::V6(ip) if !ip.is_unspecified() => Some(format!("http://{listen}")),
        _ => Some(format!("http://{name}.local:{}", listen.port())),
    }
}
