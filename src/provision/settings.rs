//! The settings of a provisioning file, checked as far as possible without changes.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::paths::Paths;
use super::wifi::Wifi;
use super::zones;
use crate::config::{Config, Faults, Mistake, Reader, Section};
use crate::names;
use crate::secret::Secret;

/// A DNS label has at most 63 bytes (RFC 1035, section 2.3.4); Linux would accept one more.
const LONGEST_NAME: usize = 63;

/// The settings of the file besides the configuration's tables.
#[derive(Debug, Default)]
pub(super) struct FileSettings {
    /// The name of host and device.
    pub name: Option<String>,
    /// The secret for viewers.
    pub password: Option<Secret>,
    /// As zoneinfo(5) names it.
    pub time_zone: Option<String>,
    /// The network to join.
    pub wifi: Option<Wifi>,
    /// The password for the broker.
    pub mqtt_password: Option<Secret>,
    /// The configuration's tables that the file has.
    pub tables: Vec<String>,
}

impl FileSettings {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// All mistakes that could be found at once. None of them quotes a secret.
    pub fn read(text: &str, paths: &Paths) -> Result<Self, Vec<Mistake>> {
        let others: [Section; 4] =
            [("name", &[]), ("password", &[]), ("time_zone", &[]), ("wifi", names::of::<Wifi>())];
        let (config, mut settings) =
            Config::parse_with_sections(text, &others, |reader, root| Self::read_own(reader, root, paths))?;
        settings.mqtt_password = config.mqtt.password;
        // The same setting under another name, stored in the same file.
        settings.password = settings.password.or(config.web.secret);
        Ok(settings)
    }

    /// The settings as text, without secrets.
    pub fn in_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.name.as_ref().map(|name| format!("name {name}")));
        words.extend(self.password.as_ref().map(|_| "password".into()));
        words.extend(self.time_zone.as_ref().map(|zone| format!("time zone {zone}")));
        words.extend(self.wifi.as_ref().map(|wifi| format!("Wi-Fi {:?}", wifi.ssid)));
        words.extend(self.tables.iter().map(|table| format!("[{table}]")));
        words
    }

    fn read_own<'t>(reader: &mut Reader<'t>, root: &DeTable<'t>, paths: &Paths) -> Self {
        if root.is_empty() {
            reader.note(0..0, "there is nothing in it that could be set; lines that begin with # do not count".into());
        }
        let own = ["name", "password", "time_zone", "wifi"];
        let tables = root.keys().map(|key| key.get_ref().to_string()).filter(|key| !own.contains(&key.as_str()));
        let mut settings = Self { tables: tables.collect(), ..Self::default() };
        if let Some(name) = root.get("name") {
            settings.name = checked(reader, "name", name, |name: &String| name_fault(name));
        }
        if let Some(password) = root.get("password") {
            settings.password =
                checked(reader, "password", password, |given: &Secret| Config::secret_fault(given.reveal()));
        }
        if let Some(zone) = root.get("time_zone") {
            settings.time_zone = checked(reader, "time_zone", zone, |zone: &String| zones::fault(zone, paths));
        }
        if let Some(wifi) = root.get("wifi") {
            settings.wifi = Some(Self::read_wifi(reader, wifi, paths));
        }
        if let Some(mqtt) = root.get("mqtt") {
            check_mqtt(reader, mqtt);
        }
        refuse_duplicates(reader, root);
        settings
    }

    fn read_wifi<'t>(reader: &mut Reader<'t>, value: &Spanned<DeValue<'t>>, paths: &Paths) -> Wifi {
        let wifi = reader.table("wifi", value, |wifi: &Wifi| -> Faults { wifi.faults(paths) });
        for (key, what) in [("ssid", "the name of the network"), ("country", "such as \"DE\", where the board stands")]
        {
            let is_empty = |given: &Spanned<DeValue<'_>>| given.get_ref().as_str() == Some("");
            if value.get_ref().is_table() && within(value, key).is_none_or(is_empty) {
                reader.note(value.span(), format!("`wifi.{key}`: is missing; {what}"));
            }
        }
        if let Some(fault) = paths.wifi_fault() {
            reader.note(value.span(), format!("`wifi`: {fault}"));
        }
        wifi
    }
}

/// Checks that the password fits into a file of one line, which the configuration's own checks do not require.
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

/// Refuses two keys for the same setting, instead of ignoring one of them.
fn refuse_duplicates<'t>(reader: &mut Reader<'t>, root: &DeTable<'t>) {
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

fn checked<'t, T: DeserializeOwned>(
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
    // RFC 6761, section 6.3: each machine uses this name for itself, and cannot be reached by it.
    name.eq_ignore_ascii_case("localhost").then(|| "is what every machine calls itself; take another one".into())
}
