//! Where things are on a board, and what it joins wireless networks by.

use std::fs;
use std::path::{Path, PathBuf};

/// Where units are that came with packages, and those that somebody wrote.
const UNITS: [&str; 3] = ["usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"];

/// A board may have it and use another: only one that is enabled joins anything.
const NETWORK_MANAGER: &str = "NetworkManager.service";

/// What whoever lays out the board's storage leaves where that is memory only; see `image/` and `yocto/`.
const FORGETS: &str = "run/peercam-forgets";

/// What the kernel calls a radio before anybody gives it another name, and the first of them.
const KERNELS_NAME: &str = "wlan";
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

    /// What is above all else on it.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether all that is written now is gone at the next start.
    pub(super) fn forgets(&self) -> bool {
        self.at(FORGETS).exists()
    }

    /// A path that is given without its leading slash.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What joins wireless networks here, if anything does.
    pub(super) fn joiner(&self) -> Option<Joiner> {
        let places = |unit: &str| UNITS.map(|directory| self.at(directory).join(unit));
        // systemd.unit(5): a unit that leads there cannot be started.
        let is_masked = |file: &PathBuf| fs::read_link(file).is_ok_and(|target| target == Path::new("/dev/null"));
        let has = |unit: &str| places(unit).iter().any(|file| file.exists()) && !places(unit).iter().any(is_masked);
        // A link, whose target is absolute: it may lead nowhere in a root that is mounted elsewhere.
        let is_wanted =
            |unit: &str| places(&format!("multi-user.target.wants/{unit}")).iter().any(|file| file.is_symlink());
        if has(NETWORK_MANAGER) && is_wanted(NETWORK_MANAGER) {
            return Some(Joiner::NetworkManager);
        }
        has("wpa_supplicant@.service").then_some(Joiner::WpaSupplicant)
    }

    /// Why no wireless network could ever be joined, if none could.
    pub(super) fn wifi_fault(&self) -> Option<String> {
        let missing = self.joiner().is_none();
        missing.then(|| {
            "cannot be joined: this system has neither NetworkManager nor wpa_supplicant, or they are switched off"
                .into()
        })
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

    /// Whether the radio to use has its name from the kernel, or will have: it is not there yet, or udev has not come to
    /// it, which would give it a name by its place.
    pub(super) fn has_kernels_name(&self) -> bool {
        self.radio().starts_with(KERNELS_NAME)
    }

    /// The wireless interface to use.
    pub(super) fn radio(&self) -> String {
        self.radios().into_iter().next().unwrap_or_else(|| FIRST_RADIO.into())
    }
}
