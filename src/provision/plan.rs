//! Plans the changes of the board's files for the settings of the provisioning file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, value};

use super::Refusal;
use super::changes::Change;
use super::file::ProvisioningFile;
use super::joining;
use super::paths::{Joiner, Paths};
use super::settings::FileSettings;
use super::wifi::Wifi;
use super::zones::ZONES;
use crate::config::Config;
use crate::durable::Readers;

/// [`crate::config::DEFAULT_FILE`], below any root.
const CONFIGURATION: &str = "etc/peercam/peercam.toml";
/// The path to which an unusable configuration is moved.
const SET_ASIDE: &str = "etc/peercam/peercam.toml.bad";
/// The configuration that packages and images ship, which opens the page to the network.
const SHIPPED: &str = include_str!("../../packaging/peercam.toml");
/// systemd.exec(5), LoadCredential=: where the service's unit finds credentials.
const SECRET: &str = "etc/credstore/peercam-secret";
const MQTT_PASSWORD: &str = "etc/credstore/peercam-mqtt-password";
/// Makes udev keep the kernel's name of a radio.
const LINK: &str = "etc/systemd/network/70-peercam-wifi.link";

/// The usual content of hosts(5), if there is no file.
const DEFAULT_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// Debian policy's own address for the host name (Debian reference, section 5.1.1): no network knows the name yet.
const OWN_ADDRESS: &str = "127.0.1.1";

/// All changes, and the resulting configuration.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order in which they are made.
    pub changes: Vec<Change>,
    /// The configuration that the service will start with.
    pub config: Config,
    /// Content that they discard, as a sentence.
    pub loss: Option<String>,
}

/// The board's configuration with the file's settings.
struct Edited {
    text: String,
    config: Config,
}

impl Plan {
    /// The changes for the `settings` of the file `found`, which has this `text`.
    ///
    /// # Errors
    ///
    /// If the board's own files cannot be read.
    pub fn make(found: &ProvisioningFile, text: &str, settings: &FileSettings, paths: &Paths) -> Result<Self, Refusal> {
        let (mut changes, config, loss) = configuration(text, settings, paths)?;
        if let Some(password) = &settings.password {
            changes.push(secret(paths.at(SECRET), password.reveal()));
        }
        match &settings.mqtt_password {
            Some(password) => changes.push(secret(paths.at(MQTT_PASSWORD), password.reveal())),
            // A password for an earlier broker must not go to this one.
            None if settings.tables.iter().any(|table| table == "mqtt") => {
                changes.push(Change::Remove { file: paths.at(MQTT_PASSWORD) })
            }
            None => {}
        }
        if let Some(zone) = &settings.time_zone {
            changes.extend(time_zone(zone, paths));
        }
        if let Some(wifi) = &settings.wifi {
            changes.extend(join(wifi, paths));
            let kept = joining::pending_file(&wifi.ssid, found.place());
            changes.push(public(paths.at(joining::PENDING), kept));
        }
        if let Some(name) = &settings.name {
            changes.extend(host_name(name, paths)?);
        }
        Ok(Self { changes, config, loss })
    }
}

fn public(file: PathBuf, content: impl Into<Vec<u8>>) -> Change {
    Change::Write { file, content: content.into(), readers: Readers::All }
}

fn secret(file: PathBuf, content: &str) -> Change {
    Change::Write { file, content: format!("{content}\n").into(), readers: Readers::Owner }
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    match fs::read(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Refusal::of_board(format!("{} on the board cannot be read: {error}", file.display()))),
    }
}

/// The board's configuration with the file's tables in place of its own. A broken configuration is set aside and
/// replaced by the shipped one, since without a login no person can repair it.
fn configuration(
    text: &str,
    settings: &FileSettings,
    paths: &Paths,
) -> Result<(Vec<Change>, Config, Option<String>), Refusal> {
    let file = paths.at(CONFIGURATION);
    let before = read(&file)?.unwrap_or_default();
    let edited = match str::from_utf8(&before) {
        Ok(before) => edit(before, text, settings),
        Err(_) => Err("It is not UTF-8.".into()),
    };
    match edited {
        Ok(Edited { text, config }) => {
            let change = (text.as_bytes() != before).then(|| configuration_file(file, text));
            Ok((change.into_iter().collect(), config, None))
        }
        Err(fault) => {
            // The file's own tables were read without a mistake, and so was the shipped configuration.
            let Edited { text, config } = edit(SHIPPED, text, settings).map_err(Refusal::of_mistakes)?;
            let aside = paths.at(SET_ASIDE);
            let loss = format!(
                "{} on the board was broken and a new one begun; the old one is {}. {fault}",
                file.display(),
                aside.display()
            );
            // It may contain secrets.
            let kept = Change::Write { file: aside, content: before, readers: Readers::Owner };
            Ok((vec![kept, configuration_file(file, text)], config, Some(loss)))
        }
    }
}

fn configuration_file(file: PathBuf, text: String) -> Change {
    Change::Write { file, content: text.into(), readers: Readers::AsBefore }
}

/// Puts the tables of the file, whose text is `given`, into a configuration. The error states the mistakes, and
/// quotes no values, which may be secret.
fn edit(before: &str, given: &str, settings: &FileSettings) -> Result<Edited, String> {
    let mut document: DocumentMut = before.parse().map_err(|_| "It is not TOML.".to_owned())?;
    let given: DocumentMut = given.parse().map_err(|_| "The file is not TOML.".to_owned())?;
    for (name, item) in settings.tables.iter().filter_map(|name| given.get_key_value(name)) {
        replace(&mut document, name, item.clone());
    }
    if settings.mqtt_password.is_some() {
        remove(&mut document, "mqtt", "password");
    }
    if settings.password.is_some() {
        // They would take precedence over the credential.
        remove(&mut document, "web", "secret");
        remove(&mut document, "web", "secret_file");
    }
    if let Some(name) = &settings.name {
        let device = document.entry("device").or_insert_with(|| Item::Table(Table::new()));
        if let Some(device) = device.as_table_like_mut() {
            device.insert("id", value(name));
        }
    }
    let text = document.to_string();
    let config = Config::parse(&text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
        format!("It had mistakes:{}", lines.concat())
    })?;
    Ok(Edited { text, config })
}

/// Replaces a table, which keeps its place among the others, and the comment above it.
fn replace(document: &mut DocumentMut, name: &str, mut item: Item) {
    let before = document.get(name);
    match &mut item {
        Item::Table(table) => {
            let before = before.and_then(Item::as_table);
            // Positions are those of the file that it comes from; a table without one is written after the table before
            // it.
            table.set_position(before.and_then(Table::position));
            match before {
                Some(before) => *table.decor_mut() = before.decor().clone(),
                None => table.decor_mut().set_prefix("\n"),
            }
        }
        Item::ArrayOfTables(tables) => {
            let first = before.and_then(Item::as_array_of_tables).and_then(|tables| tables.get(0)?.position());
            tables.iter_mut().for_each(|table| table.set_position(first));
        }
        Item::None | Item::Value(_) => {}
    }
    document.insert(name, item);
}

fn remove(document: &mut DocumentMut, table: &str, key: &str) {
    if let Some(table) = document.get_mut(table).and_then(Item::as_table_like_mut) {
        table.remove(key);
    }
}

fn time_zone(zone: &str, paths: &Paths) -> Vec<Change> {
    // localtime(5): relative, so that it leads to the same file in a root that is mounted elsewhere.
    let target = Path::new("..").join(ZONES).join(zone);
    let mut changes = vec![Change::Link { link: paths.at("etc/localtime"), target }];
    // Debian's own file, up to Debian 12.
    let file = paths.at("etc/timezone");
    if file.exists() {
        changes.push(public(file, format!("{zone}\n")));
    }
    changes
}

fn host_name(name: &str, paths: &Paths) -> Result<Vec<Change>, Refusal> {
    let hosts = paths.at("etc/hosts");
    let before = read(&hosts)?.unwrap_or_else(|| DEFAULT_HOSTS.into());
    let before = String::from_utf8_lossy(&before);
    let is_own = |line: &&str| line.split_whitespace().next() == Some(OWN_ADDRESS);
    let others: String = before.lines().filter(|line| !is_own(line)).map(|line| format!("{line}\n")).collect();
    Ok(vec![
        public(hosts, format!("{others}{OWN_ADDRESS}\t{name}\n")),
        public(paths.at("etc/hostname"), format!("{name}\n")),
    ])
}

fn join(wifi: &Wifi, paths: &Paths) -> Vec<Change> {
    let mut changes = match paths.joiner() {
        Some(Joiner::NetworkManager) => by_network_manager(wifi, paths),
        Some(Joiner::WpaSupplicant) => by_supplicant(wifi, paths),
        None => Vec::new(),
    };
    changes.extend(unblock(paths));
    changes
}

fn by_network_manager(wifi: &Wifi, paths: &Paths) -> Vec<Change> {
    let keyfile = paths.at("etc/NetworkManager/system-connections/peercam.nmconnection");
    let mut changes = vec![
        Change::Write { file: keyfile, content: wifi.keyfile().into(), readers: Readers::Owner },
        // NetworkManager does not set the country. If cfg80211 is loaded already, `iw` sets it; see `effects`.
        public(
            paths.at("etc/modprobe.d/peercam-wifi.conf"),
            format!(
                "# Written by peercam from its provisioning file.\noptions cfg80211 ieee80211_regdom={}\n",
                wifi.country()
            ),
        ),
    ];
    // Raspberry Pi OS ships with the radio off until a country is set.
    let state = paths.at("var/lib/NetworkManager/NetworkManager.state");
    if let Ok(before) = fs::read_to_string(&state) {
        let after = before.replace("WirelessEnabled=false", "WirelessEnabled=true");
        changes.push(public(state, after));
    }
    changes
}

fn by_supplicant(wifi: &Wifi, paths: &Paths) -> Vec<Change> {
    let radio = paths.radio();
    let file = paths.at(&format!("etc/wpa_supplicant/wpa_supplicant-{radio}.conf"));
    let unit = |place: &&str| paths.at(place).join("wpa_supplicant@.service").exists();
    // The link that `systemctl enable` would create.
    let home = ["usr/lib/systemd/system", "lib/systemd/system"].into_iter().find(unit).unwrap_or("etc/systemd/system");
    let wants = format!("etc/systemd/system/multi-user.target.wants/wpa_supplicant@{radio}.service");
    vec![
        Change::Write { file, content: wifi.supplicant().into(), readers: Readers::Owner },
        // A name from udev or from an operator is the same at each start, unless our file prevents that.
        match paths.has_kernel_name() {
            true => public(paths.at(LINK), KERNEL_NAME),
            false => Change::Remove { file: paths.at(LINK) },
        },
        public(paths.at("etc/systemd/network/70-peercam-wifi.network"), NETWORK),
        Change::Link { link: paths.at(&wants), target: Path::new("/").join(home).join("wpa_supplicant@.service") },
    ]
}

/// systemd.link(5): udev does not rename a radio that appears, or that it finds at a start.
const KERNEL_NAME: &str = "\
# Written by peercam from its provisioning file: the settings of wpa_supplicant are filed under this name.
[Match]
Type=wlan

[Link]
NamePolicy=keep
";

/// systemd.network(5).
const NETWORK: &str = "\
# Written by peercam from its provisioning file.
[Match]
Type=wlan
WLANInterfaceType=station

[Link]
# A board that has a cable too is online by that.
RequiredForOnline=no

[Network]
DHCP=yes
# The time that it takes to be handed from one access point to another.
IgnoreCarrierLoss=3s

[DHCPv4]
# Above the cable's 1024: where both lead to the same, the cable is taken.
RouteMetric=2048
";

/// systemd-rfkill(8) would block the radio at each start if it was blocked at the last one; `effects` unblocks it now.
fn unblock(paths: &Paths) -> Vec<Change> {
    let entries = fs::read_dir(paths.at("var/lib/systemd/rfkill")).into_iter().flatten().flatten();
    let radios = entries.filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b":wlan"));
    radios.map(|entry| public(entry.path(), "0\n")).collect()
}
