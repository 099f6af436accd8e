//! From what the file says to the board's files that have to change.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, value};

use super::Refusal;
use super::changes::Change;
use super::file::Found;
use super::joining;
use super::places::{Joiner, Places};
use super::wanted::Wanted;
use super::wifi::Wifi;
use super::zones::ZONES;
use crate::config::Config;
use crate::durable::Readers;

/// [`crate::config::USUAL_FILE`], below any root.
const CONFIGURATION: &str = "etc/peercam/peercam.toml";
/// One that could not be used.
const SET_ASIDE: &str = "etc/peercam/peercam.toml.bad";
/// What packages and images ship, by which the page is open to the network.
const SHIPPED: &str = include_str!("../../packaging/peercam.toml");
/// systemd.exec(5), LoadCredential=: where the service's unit finds them.
const SECRET: &str = "etc/credstore/peercam-secret";
const MQTT_PASSWORD: &str = "etc/credstore/peercam-mqtt-password";
/// The network that was set and has not been joined yet; see [`super::joining`].
pub(super) const UNPROVEN: &str = "etc/peercam/wifi-to-join";
/// Has udev leave the kernel's name to a radio.
const LINK: &str = "etc/systemd/network/70-peercam-wifi.link";

/// What hosts(5) has where nobody has written one.
const USUAL_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// Debian policy's own address for the host's name (Debian reference, section 5.1.1): no network knows the name yet.
const OWN_ADDRESS: &str = "127.0.1.1";

/// All that has to change, and the configuration that comes out.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order in which they are made.
    pub changes: Vec<Change>,
    /// What the service will begin with.
    pub config: Config,
    /// What is lost by them, in a sentence.
    pub loss: Option<String>,
}

/// The board's configuration as it is to be.
struct Edited {
    text: String,
    config: Config,
}

impl Plan {
    /// What it takes to have what is `wanted` by the file that was `found` and has this `text`.
    ///
    /// # Errors
    ///
    /// When the board's own files cannot be read.
    pub fn make(found: &Found, text: &str, wanted: &Wanted, places: &Places) -> Result<Self, Refusal> {
        let (mut changes, config, loss) = configuration(text, wanted, places)?;
        if let Some(password) = &wanted.password {
            changes.push(secret(places.at(SECRET), password.reveal()));
        }
        match &wanted.mqtt_password {
            Some(password) => changes.push(secret(places.at(MQTT_PASSWORD), password.reveal())),
            // One for an earlier broker is none of this one's business.
            None if wanted.tables.iter().any(|table| table == "mqtt") => {
                changes.push(Change::Remove { file: places.at(MQTT_PASSWORD) })
            }
            None => {}
        }
        if let Some(zone) = &wanted.time_zone {
            changes.extend(time_zone(zone, places));
        }
        if let Some(wifi) = &wanted.wifi {
            changes.extend(join(wifi, places));
            let kept = joining::unproven(&wifi.ssid, found.place());
            changes.push(public(places.at(UNPROVEN), kept));
        }
        if let Some(name) = &wanted.name {
            changes.extend(host_name(name, places)?);
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

/// The board's configuration with the file's tables in place of its own. One that is broken is set aside, and what was
/// shipped takes its place: nobody can log in and mend it.
fn configuration(
    text: &str,
    wanted: &Wanted,
    places: &Places,
) -> Result<(Vec<Change>, Config, Option<String>), Refusal> {
    let file = places.at(CONFIGURATION);
    let before = read(&file)?.unwrap_or_default();
    let edited = match str::from_utf8(&before) {
        Ok(before) => edit(before, text, wanted),
        Err(_) => Err("It is not UTF-8.".into()),
    };
    match edited {
        Ok(Edited { text, config }) => {
            let change = (text.as_bytes() != before).then(|| configured(file, text));
            Ok((change.into_iter().collect(), config, None))
        }
        Err(fault) => {
            // The file's own tables were read without a mistake, and so was what is shipped.
            let Edited { text, config } = edit(SHIPPED, text, wanted).map_err(Refusal::of_mistakes)?;
            let aside = places.at(SET_ASIDE);
            let loss = format!(
                "{} on the board was broken and a new one begun; the old one is {}. {fault}",
                file.display(),
                aside.display()
            );
            // It may have secrets.
            let kept = Change::Write { file: aside, content: before, readers: Readers::Owner };
            Ok((vec![kept, configured(file, text)], config, Some(loss)))
        }
    }
}

fn configured(file: PathBuf, text: String) -> Change {
    Change::Write { file, content: text.into(), readers: Readers::AsBefore }
}

/// Puts the tables of the file, which has the text `given`, into a configuration. What is wrong with that, if anything,
/// is in sentences which quote nothing: it may be a secret.
fn edit(before: &str, given: &str, wanted: &Wanted) -> Result<Edited, String> {
    let mut document: DocumentMut = before.parse().map_err(|_| "It is not TOML.".to_owned())?;
    let given: DocumentMut = given.parse().map_err(|_| "The file is not TOML.".to_owned())?;
    for (name, item) in wanted.tables.iter().filter_map(|name| given.get_key_value(name)) {
        replace(&mut document, name, item.clone());
    }
    if wanted.mqtt_password.is_some() {
        remove(&mut document, "mqtt", "password");
    }
    if wanted.password.is_some() {
        // They would come before the credential.
        remove(&mut document, "web", "secret");
        remove(&mut document, "web", "secret_file");
    }
    if let Some(name) = &wanted.name {
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

/// A table keeps its place among the others, and the comment above it.
fn replace(document: &mut DocumentMut, name: &str, mut item: Item) {
    let before = document.get(name);
    match &mut item {
        Item::Table(table) => {
            let before = before.and_then(Item::as_table);
            // Positions are those of the file it came in; one without is written after the table before it.
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

fn time_zone(zone: &str, places: &Places) -> Vec<Change> {
    // localtime(5): relative, so that it leads to the same in a root that is mounted elsewhere.
    let target = Path::new("..").join(ZONES).join(zone);
    let mut changes = vec![Change::Link { link: places.at("etc/localtime"), target }];
    // Debian's own, up to 12.
    let file = places.at("etc/timezone");
    if file.exists() {
        changes.push(public(file, format!("{zone}\n")));
    }
    changes
}

fn host_name(name: &str, places: &Places) -> Result<Vec<Change>, Refusal> {
    let hosts = places.at("etc/hosts");
    let before = read(&hosts)?.unwrap_or_else(|| USUAL_HOSTS.into());
    let before = String::from_utf8_lossy(&before);
    let is_own = |line: &&str| line.split_whitespace().next() == Some(OWN_ADDRESS);
    let others: String = before.lines().filter(|line| !is_own(line)).map(|line| format!("{line}\n")).collect();
    Ok(vec![
        public(hosts, format!("{others}{OWN_ADDRESS}\t{name}\n")),
        public(places.at("etc/hostname"), format!("{name}\n")),
    ])
}

fn join(wifi: &Wifi, places: &Places) -> Vec<Change> {
    let mut changes = match places.joiner() {
        Some(Joiner::NetworkManager) => by_network_manager(wifi, places),
        Some(Joiner::WpaSupplicant) => by_supplicant(wifi, places),
        None => Vec::new(),
    };
    changes.extend(unblock(places));
    changes
}

fn by_network_manager(wifi: &Wifi, places: &Places) -> Vec<Change> {
    let keyfile = places.at("etc/NetworkManager/system-connections/peercam.nmconnection");
    let mut changes = vec![
        Change::Write { file: keyfile, content: wifi.keyfile().into(), readers: Readers::Owner },
        // NetworkManager leaves the country to others. Where cfg80211 is loaded already, `iw` tells it; see `effects`.
        public(
            places.at("etc/modprobe.d/peercam-wifi.conf"),
            format!(
                "# Written by peercam from its provisioning file.\noptions cfg80211 ieee80211_regdom={}\n",
                wifi.country()
            ),
        ),
    ];
    // Raspberry Pi OS ships it with the radio off, until somebody names a country.
    let state = places.at("var/lib/NetworkManager/NetworkManager.state");
    if let Ok(before) = fs::read_to_string(&state) {
        let after = before.replace("WirelessEnabled=false", "WirelessEnabled=true");
        changes.push(public(state, after));
    }
    changes
}

fn by_supplicant(wifi: &Wifi, places: &Places) -> Vec<Change> {
    let radio = places.radio();
    let file = places.at(&format!("etc/wpa_supplicant/wpa_supplicant-{radio}.conf"));
    let unit = |place: &&str| places.at(place).join("wpa_supplicant@.service").exists();
    // What `systemctl enable` would make; it leads to where the unit is.
    let home = ["usr/lib/systemd/system", "lib/systemd/system"].into_iter().find(unit).unwrap_or("etc/systemd/system");
    let wants = format!("etc/systemd/system/multi-user.target.wants/wpa_supplicant@{radio}.service");
    vec![
        Change::Write { file, content: wifi.supplicant().into(), readers: Readers::Owner },
        // A name that udev or somebody else has given is the same at each start, unless ours keeps it from it.
        match places.has_kernels_name() {
            true => public(places.at(LINK), KERNELS_NAME),
            false => Change::Remove { file: places.at(LINK) },
        },
        public(places.at("etc/systemd/network/70-peercam-wifi.network"), NETWORK),
        Change::Link { link: places.at(&wants), target: Path::new("/").join(home).join("wpa_supplicant@.service") },
    ]
}

/// systemd.link(5): udev gives a radio that appears, or that it finds at a start, no other name.
const KERNELS_NAME: &str = "\
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

/// systemd-rfkill(8) would block the radio again at each start if it was blocked at the last; see `effects` for now.
fn unblock(places: &Places) -> Vec<Change> {
    let entries = fs::read_dir(places.at("var/lib/systemd/rfkill")).into_iter().flatten().flatten();
    let radios = entries.filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b":wlan"));
    radios.map(|entry| public(entry.path(), "0\n")).collect()
}
