//! A wireless network, and the files with which NetworkManager or wpa_supplicant join it.

use serde::Deserialize;

use super::paths::Paths;
use super::zones;
use crate::config::Faults;
use crate::secret::Secret;

/// IEEE 802.11-2020, section 9.4.2.2: an SSID is up to 32 bytes of any value.
const LONGEST_SSID: usize = 32;
/// IEEE 802.11-2020, annex J.4: a pass phrase has 8 to 63 printable ASCII characters; a key is 256 bits.
const PASS_PHRASE: std::ops::RangeInclusive<usize> = 8..=63;
const KEY_DIGITS: usize = 64;

/// The id of this connection in NetworkManager. The same on all boards: it has to be unique on one board only.
pub(super) const CONNECTION: &str = "f0c84c5e-6a0c-4c41-9d7b-7d0e1c2f9b35";

/// The `[wifi]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wifi {
    /// The network's name.
    pub ssid: String,
    /// Pass phrase or key; `None` for an open network.
    pub password: Option<Secret>,
    /// The country that the board is in.
    pub country: String,
    /// Whether the network does not broadcast its name.
    pub hidden: bool,
}

impl Wifi {
    /// The keys with invalid values. Missing keys are checked elsewhere.
    pub fn faults(&self, paths: &Paths) -> Faults {
        let mut faults = Faults::new();
        if self.ssid.len() > LONGEST_SSID {
            faults
                .push(("ssid", format!("has {} bytes; a network's name has at most {LONGEST_SSID}", self.ssid.len())));
        }
        // No real network has one in its name, and in a file of lines it would begin another line.
        if self.ssid.contains(['\0', '\n', '\r']) {
            faults.push(("ssid", "has a line's end or a zero in it".into()));
        }
        if self
            .password
            .as_ref()
            .is_some_and(|password| !is_pass_phrase(password.reveal()) && !is_key(password.reveal()))
        {
            let what = "is neither 8 to 63 characters (ASCII letters, digits, signs, blanks) nor 64 hexadecimal digits";
            faults.push(("password", format!("{what}; leave it out for an open network")));
        }
        if !self.country.is_empty() {
            faults.extend(zones::country_fault(&self.country, paths).map(|fault| ("country", fault)));
        }
        faults
    }

    /// ISO 3166, in capitals.
    pub fn country(&self) -> String {
        self.country.to_ascii_uppercase()
    }

    /// nm-settings-keyfile(5). `wpa-psk` is WPA2 and WPA3 alike (nm-settings-nmcli(5), `key-mgmt`).
    pub fn keyfile(&self) -> String {
        let hidden = self.hidden;
        let ssid = keyfile_ssid(&self.ssid);
        let mut text = format!(
            "# Written by peercam from its provisioning file.\n[connection]\nid=peercam\nuuid={CONNECTION}\ntype=wifi\n\n\
             [wifi]\nmode=infrastructure\nssid={ssid}\nhidden={hidden}\n\n"
        );
        if let Some(password) = &self.password {
            let password = keyfile_text(password.reveal());
            text.push_str(&format!("[wifi-security]\nkey-mgmt=wpa-psk\npsk={password}\n\n"));
        }
        text.push_str("[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n");
        text
    }

    /// wpa_supplicant.conf(5). wpa_supplicant skips SAE (WPA3) by itself if a radio does not support it.
    pub fn supplicant(&self) -> String {
        let (country, ssid) = (self.country(), hex::encode(self.ssid.as_bytes()));
        let mut text = format!(
            "# Written by peercam from its provisioning file.\nctrl_interface=/run/wpa_supplicant\ncountry={country}\n\n\
             network={{\n\tssid={ssid}\n"
        );
        if self.hidden {
            text.push_str("\tscan_ssid=1\n");
        }
        match self.password.as_ref().map(Secret::reveal) {
            None => text.push_str("\tkey_mgmt=NONE\n"),
            // SAE derives its keys from the pass phrase, which is not known if a key is given.
            Some(key) if is_key(key) => {
                text.push_str(&format!("\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tieee80211w=1\n\tpsk={key}\n"))
            }
            Some(phrase) => {
                text.push_str(&format!("\tkey_mgmt=WPA-PSK WPA-PSK-SHA256 SAE\n\tieee80211w=1\n\tpsk=\"{phrase}\"\n"));
            }
        }
        text.push_str("}\n");
        text
    }
}

fn is_pass_phrase(text: &str) -> bool {
    PASS_PHRASE.contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')
}

fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// GLib's key files write `\s` for a blank, which at either end would be dropped, and `\\` for a backslash.
fn keyfile_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace(' ', "\\s")
}

/// A plain name is written unchanged, for people that read the file; any other as the numbers of its bytes, each with a
/// semicolon (nm-settings-keyfile(5), `ssid`), so that no character in it has a special meaning.
fn keyfile_ssid(ssid: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match ssid.chars().all(is_plain) && ssid.contains(|c: char| c.is_ascii_alphabetic()) {
        true => ssid.to_owned(),
        false => ssid.bytes().map(|byte| format!("{byte};")).collect(),
    }
}
