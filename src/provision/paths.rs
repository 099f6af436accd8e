//! The paths on a board, and the program that joins wireless networks there.

use std::fs;
use std::path::{Path, PathBuf};

/// The directories of units that came with packages, and of those that an operator wrote.
const UNITS: [&str; 3] = ["usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"];

/// It joins networks only if it is enabled: a board may have it and use another program.
const NETWORK_MANAGER: &str = "NetworkManager.service";

/// The file that marks a board whose storage is memory only; see `image/` and `yocto/`.
const VOLATILE_MARKER: &str = "run/peercam-forgets";

/// The prefix of the kernel's names for radios, before udev renames them, and the first such name.
const KERNEL_NAME: &str = "wlan";
const FIRST_RADIO: &str = "wlan0";

/// A board's files: those of the running one, or of one whose root is mounted somewhere.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

/// The program that joins wireless networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joiner {
    /// Raspberry Pi OS, and most desktops.
    NetworkManager,
    /// wpa_supplicant, with systemd-networkd for the addresses.
    WpaSupplicant,
}

impl Paths {
    /// The board with this root directory.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether this is the running board, and not one on a mounted disk.
    pub(super) fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The root directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the storage is memory only: everything written is lost at the next start.
    pub(super) fn is_volatile(&self) -> bool {
        self.at(VOLATILE_MARKER).exists()
    }

    /// The path below the root, given without its leading slash.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The program that joins wireless networks here, if there is one.
    pub(super) fn joiner(&self) -> Option<Joiner> {
        let files = |unit: &str| UNITS.map(|directory| self.at(directory).join(unit));
        // systemd.unit(5): a unit that links to /dev/null cannot be started.
        let is_masked = |file: &PathBuf| fs::read_link(file).is_ok_and(|target| target == Path::new("/dev/null"));
        let has = |unit: &str| files(unit).iter().any(|file| file.exists()) && !files(unit).iter().any(is_masked);
        // The link may dangle: its target is absolute, and the root may be mounted elsewhere.
        let is_wanted =
            |unit: &str| files(&format!("multi-user.target.wants/{unit}")).iter().any(|file| file.is_symlink());
        if has(NETWORK_MANAGER) && is_wanted(NETWORK_MANAGER) {
            return Some(Joiner::NetworkManager);
        }
        has("wpa_supplicant@.service").then_some(Joiner::WpaSupplicant)
    }

    /// Why no wireless network can be joined, if none can.
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

    /// Whether the radio to use has its name from the kernel, or will have: it is not there yet, or udev, which would
    /// name it by its place, has not renamed it yet.
    pub(super) fn has_kernel_name(&self) -> bool {
        self.radio().starts_with(KERNEL_NAME)
    }

    /// The wireless interface to use.
    pub(super) fn radio(&self) -> String {
        self.radios().into_iter().next().unwrap_or_else(|| FIRST_RADIO.into())
    }
}
