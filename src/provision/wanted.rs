//! What a provisioning file says, checked as far as that goes without changing anything.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::places::Places;
use super::wifi::Wifi;
use super::zones;
use crate::config::{Config, Faults, Mistake, Reader, Section, keys};
use crate::secret::Secret;

/// A DNS label has at most 63 (RFC 1035, section 2.3.4); Linux would take one more.
const LONGEST_NAME: usize = 63;

/// What the file has besides the configuration's tables.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// How host and device are called.
    pub name: Option<String>,
    /// What viewers must know.
    pub password: Option<Secret>,
    /// As zoneinfo(5) calls it.
    pub time_zone: Option<String>,
    /// The network to join.
    pub wifi: Option<Wifi>,
    /// What the broker must be told.
    pub mqtt_password: Option<Secret>,
    /// The configuration's tables that are there.
    pub tables: Vec<String>,
}

impl Wanted {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// All mistakes that could be found at once. None of them quotes a secret.
    pub fn read(text: &str, places: &Places) -> Result<Self, Vec<Mistake>> {
        let others: [Section; 4] = [("name", &[]), ("password", &[]), ("time_zone", &[]), ("wifi", keys::<Wifi>())];
        let (config, mut wanted) =
            Config::parse_beside(text, &others, |reader, root| Self::read_own(reader, root, places))?;
        wanted.mqtt_password = config.mqtt.password;
        // The same by another name, and kept in the same place.
        wanted.password = wanted.password.or(config.web.secret);
        Ok(wanted)
    }

    /// What there is, for whoever looks on; nothing of it is secret.
    pub fn in_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.name.as_ref().map(|name| format!("name {name}")));
        words.extend(self.password.as_ref().map(|_| "password".into()));
        words.extend(self.time_zone.as_ref().map(|zone| format!("time zone {zone}")));
        words.extend(self.wifi.as_ref().map(|wifi| format!("Wi-Fi {:?}", wifi.ssid)));
        words.extend(self.tables.iter().map(|table| format!("[{table}]")));
        words
    }

    fn read_own<'t>(reader: &mut Reader<'t>, root: &DeTable<'t>, places: &Places) -> Self {
        if root.is_empty() {
            reader.note(0..0, "there is nothing in it that could be set; lines that begin with # do not count".into());
        }
        let own = ["name", "password", "time_zone", "wifi"];
        let tables = root.keys().map(|key| key.get_ref().to_string()).filter(|key| !own.contains(&key.as_str()));
        let mut wanted = Self { tables: tables.collect(), ..Self::default() };
        if let Some(name) = root.get("name") {
            wanted.name = sound(reader, "name", name, |name: &String| name_fault(name));
        }
        if let Some(password) = root.get("password") {
            wanted.password =
                sound(reader, "password", password, |given: &Secret| Config::secret_fault(given.reveal()));
        }
        if let Some(zone) = root.get("time_zone") {
            wanted.time_zone = sound(reader, "time_zone", zone, |zone: &String| zones::fault(zone, places));
        }
        if let Some(wifi) = root.get("wifi") {
            wanted.wifi = Some(Self::read_wifi(reader, wifi, places));
        }
        if let Some(mqtt) = root.get("mqtt") {
            check_mqtt(reader, mqtt);
        }
        refuse_doubles(reader, root);
        wanted
    }

    fn read_wifi<'t>(reader: &mut Reader<'t>, value: &Spanned<DeValue<'t>>, places: &Places) -> Wifi {
        let wifi = reader.table("wifi", value, |wifi: &Wifi| -> Faults { wifi.faults(places) });
        for (key, what) in [("ssid", "the name of the network"), ("country", "such as \"DE\", where the board stands")]
        {
            let is_empty = |given: &Spanned<DeValue<'_>>| given.get_ref().as_str() == Some("");
            if value.get_ref().is_table() && within(value, key).is_none_or(is_empty) {
                reader.note(value.span(), format!("`wifi.{key}`: is missing; {what}"));
            }
        }
        if let Some(fault) = places.wifi_fault() {
            reader.note(value.span(), format!("`wifi`: {fault}"));
        }
        wifi
    }
}

/// What the configuration's own checks do not know: that the password becomes a file of one line.
fn check_mqtt<'t>(reader: &mut Reader<'t>, mqtt: &Spanned<DeValue<'t>>) {
    let Some(password) = within(mqtt, "password") else { return };
    let is_odd = |text: &str| text.is_empty() || text.contains(['\n', '\r', '\0']);
    if password.get_ref().as_str().is_some_and(is_odd) {
        reader.note(password.span(), "`mqtt.password`: is empty, or longer than one line".into());
    }
    if within(mqtt, "url").is_none() {
        reader.note(mqtt.span(), "`mqtt.url`: is missing; without it there is no broker to tell the password".into());
    }
}

/// Two that say the same thing are refused rather than one of them passed over.
fn refuse_doubles<'t>(reader: &mut Reader<'t>, root: &DeTable<'t>) {
    for (key, table, inner) in
        [("name", "device", "id"), ("password", "web", "secret"), ("password", "web", "secret_file")]
    {
        let inside = root.get(table).and_then(|table| within(table, inner));
        if let Some(inside) = inside.filter(|_| root.contains_key(key)) {
            reader
                .note(inside.span(), format!("`{table}.{inner}`: is what `{key}` sets already; leave one of them out"));
        }
    }
}

fn within<'v, 't>(table: &'v Spanned<DeValue<'t>>, key: &str) -> Option<&'v Spanned<DeValue<'t>>> {
    table.get_ref().as_table()?.get(key)
}

fn sound<'t, T: DeserializeOwned>(
    reader: &mut Reader<'t>,
    name: &str,
    value: &Spanned<DeValue<'t>>,
    fault: impl Fn(&T) -> Option<String>,
) -> Option<T> {
    let read = reader.value::<T>(name, value)?;
    if let Some(fault) = fault(&read) {
        reader.note(value.span(), format!("`{name}`: {fault}"));
    }
    Some(read)
}

fn name_fault(name: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_label = (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(is_plain)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        let what = "letters, digits and `-` (without accents, blanks and dots), and no `-` at its ends";
        return Some(format!("is not 1 to {LONGEST_NAME} {what}"));
    }
    // RFC 6761, section 6.3: every machine calls itself so, and none can be reached by it.
    name.eq_ignore_ascii_case("localhost").then(|| "is what every machine calls itself; take another one".into())
}
