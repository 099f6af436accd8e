//! Tests of provisioning on made-up boards.

mod applying;
mod joined;
mod mistakes;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Outcome, Paths, provision};

/// The configuration that a package ships, with something that an operator wrote.
const SHIPPED: &str = "# Ours.\n[web]\nlisten = \"[::]:8080\" # all\n\n# The one above the door.\n[[camera]]\nname = \"main\"\n\n# None yet.\n[mqtt]\nprefix = \"home\"\n";

/// All the keys of its own that a file can have, with a broker.
const FULL: &str = r#"
name = "front-door"
password = "correct horse"
time_zone = "Europe/Berlin"
[wifi]
ssid = "home"
password = "battery staple"
country = "DE"
[mqtt]
url = "mqtts://broker.example:8883"
user = "front-door"
password = "broker's word"
"#;

/// A board's root in a directory.
struct Board {
    root: TempDir,
}

impl Board {
    /// Like our image: wpa_supplicant and systemd-networkd.
    fn new() -> Self {
        let board = Self { root: tempfile::tempdir().unwrap() };
        for zone in ["Europe/Berlin", "UTC"] {
            board.put(&format!("usr/share/zoneinfo/{zone}"), "TZif2");
        }
        board.put("usr/share/zoneinfo/iso3166.tab", "# comment\nDE\tGermany\nGB\tBritain (UK)\n");
        board.put("usr/lib/systemd/system/wpa_supplicant@.service", "");
        board.put("etc/hostname", "debian\n");
        board.put("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n");
        board.put("etc/peercam/peercam.toml", SHIPPED);
        fs::create_dir_all(board.at("boot/firmware")).unwrap();
        symlink("/usr/share/zoneinfo/UTC", board.at("etc/localtime")).unwrap();
        board
    }

    /// Like Raspberry Pi OS: NetworkManager, and the radio off.
    fn raspberry() -> Self {
        let board = Self::new();
        board.put("usr/lib/systemd/system/NetworkManager.service", "");
        let wants = board.at("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink("/usr/lib/systemd/system/NetworkManager.service", wants.join("NetworkManager.service")).unwrap();
        board.put("var/lib/NetworkManager/NetworkManager.state", "[main]\nWirelessEnabled=false\n");
        board.put("var/lib/systemd/rfkill/platform-fe300000.mmcnr:wlan", "1\n");
        board.put("var/lib/systemd/rfkill/platform-soc:bluetooth", "1\n");
        board.put("etc/timezone", "Europe/London\n");
        board
    }

    fn paths(&self) -> Paths {
        Paths::below(self.root.path())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.at(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A start of the board with this file on its boot partition.
    fn start_with(&self, file: impl AsRef<[u8]>) -> Outcome {
        self.put("boot/firmware/peercam.toml", file);
        provision(&self.paths())
    }

    /// All files where something may be set, with their contents and permissions, and links with their targets.
    fn kept(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for place in ["etc", "var"].map(|place| self.at(place)).iter().filter(|place| place.exists()) {
            gather(place, &mut found);
        }
        found.sort();
        found
    }
}

fn gather(directory: &Path, found: &mut Vec<(String, String)>) {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            gather(&path, found);
        } else if data.is_symlink() {
            found.push((path.display().to_string(), fs::read_link(&path).unwrap().display().to_string()));
        } else {
            let content = fs::read_to_string(&path).unwrap();
            found.push((path.display().to_string(), format!("{:o} {content}", data.permissions().mode())));
        }
    }
}
