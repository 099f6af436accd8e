//! What holds at once on the board that runs, rather than from its next start on.
//!
//! All of it is only sooner than it would be: the files are what holds, so that nothing here is an error.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use super::places::{Joiner, Places};
use super::wanted::Wanted;
use super::wifi::Wifi;

/// linux/rfkill.h, struct rfkill_event: index (of no meaning here), type 1 (WLAN), operation 3 (all of that type, and
/// those that come later), not blocked.
const UNBLOCK_WLAN: [u8; 8] = [0, 0, 0, 0, 1, 3, 0, 0];

/// Makes what was written hold now. Returns what could not be done, for the log.
pub(super) fn bring_about(wanted: &Wanted, places: &Places) -> Vec<String> {
    let mut left = Vec::new();
    if !places.is_running() {
        return left;
    }
    if let Some(name) = &wanted.name {
        let set = rustix::system::sethostname(name.as_bytes());
        left.extend(set.err().map(|error| format!("the host's name holds from the next start on ({error})")));
    }
    if let Some(wifi) = &wanted.wifi {
        left.extend(join(wifi, places));
    }
    left
}

fn join(wifi: &Wifi, places: &Places) -> Vec<String> {
    let mut left = Vec::new();
    let rfkill = places.at("dev/rfkill");
    if rfkill.exists() {
        let done = fs::write(rfkill, UNBLOCK_WLAN);
        left.extend(done.err().map(|error| format!("the radio is unblocked from the next start on ({error})")));
    }
    match places.joiner() {
        // It reads its files when it starts, which is after this. Of the country cfg80211 was told too late, if it
        // is loaded already; where there is no `iw`, the next start does it.
        Some(Joiner::NetworkManager) => left.extend(run("iw", &["reg", "set", &wifi.country()])),
        Some(Joiner::WpaSupplicant) => {
            let unit = format!("wpa_supplicant@{}.service", places.radio());
            // What this start of the system brings up was settled before the unit was wanted. It is not waited for:
            // it comes after all that comes after us.
            left.extend(run("systemctl", &["--no-block", "restart", &unit]));
        }
        None => {}
    }
    left
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let command = format!("{program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("{command}: {error}")),
    }
}

/// Where a browser finds the page, if it is open to the network.
pub(super) fn address(name: &str, listen: SocketAddr) -> Option<String> {
    match listen.ip() {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) if !ip.is_unspecified() => Some(format!("http://{listen}")),
        IpAddr::V6(ip) if !ip.is_unspecified() => Some(format!("http://{listen}")),
        _ => Some(format!("http://{name}.local:{}", listen.port())),
    }
}
