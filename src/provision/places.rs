//! Where things are on a board, and what it joins wireless networks by.

use std::fs;
use std::path::{Path, PathBuf};

/// Where units are that came with packages, and those that somebody wrote.
const UNITS: [&str; 3] = ["usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"];

/// What a kernel without names by place calls the first; of a board that has not seen its radio yet.
const FIRST_RADIO: &str = "wlan0";

/// A board's files: those of the running one, or of one whose root is mounted somewhere.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

/// What joins wireless networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joiner {
    /// Raspberry Pi OS, and most desktops.
    NetworkManager,
    /// With systemd-networkd for the addresses.
    WpaSupplicant,
}

impl Places {
    /// The board whose root is here.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether this is the board that runs, and not one that lies on a disk.
    pub(super) fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A path that is given without its leading slash.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What joins wireless networks here, if anything does.
    pub(super) fn joiner(&self) -> Option<Joiner> {
        let has = |unit: &str| UNITS.iter().any(|directory| self.at(directory).join(unit).exists());
        if has("NetworkManager.service") {
            return Some(Joiner::NetworkManager);
        }
        has("wpa_supplicant@.service").then_some(Joiner::WpaSupplicant)
    }

    /// Why no wireless network could ever be joined, if none could.
    pub(super) fn wifi_fault(&self) -> Option<String> {
        let missing = self.joiner().is_none();
        missing.then(|| "cannot be joined: this system has neither NetworkManager nor wpa_supplicant".into())
    }

    /// The wireless interfaces that the kernel has, by name.
    pub(super) fn radios(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("sys/class/net")).into_iter().flatten().flatten();
        // cfg80211 gives each of its interfaces this link to the radio.
        let radios = entries.filter(|entry| entry.path().join("phy80211").exists());
        let mut names: Vec<String> = radios.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The wireless interface to use.
    pub(super) fn radio(&self) -> String {
        self.radios().into_iter().next().unwrap_or_else(|| FIRST_RADIO.into())
    }
}
