//! The table `[mqtt]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::url::Url;
use crate::secret::Secret;

/// The `[mqtt]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// The broker's URL; `None` for no broker.
    pub url: Option<Url>,
    /// The MQTT version to use.
    pub version: Version,
    /// What all topics begin with.
    pub prefix: String,
    /// The MQTT client id: `peercam-` and the device's id if this is `None`; the broker assigns one if it is empty.
    pub client_id: Option<String>,
    /// The user name.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The file that holds the password, instead of `password`.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that may sign the broker's, instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// The board's own certificate (PEM), and the intermediate ones up to the trusted authority.
    pub certificate_file: Option<PathBuf>,
    /// The key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// After this many seconds of silence either side asks whether the other is still there.
    pub keep_alive: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            version: Version::default(),
            prefix: "peercam".into(),
            client_id: None,
            user: None,
            password: None,
            password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            // The broker publishes the last will after one and a half times this: 45 s (MQTT 5, section 3.1.2.10).
            keep_alive: 30,
        }
    }
}

/// The MQTT version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written")]
pub enum Version {
    /// MQTT 5.0
    #[default]
    #[serde(rename = "5")]
    Five,
    /// MQTT 3.1.1
    #[serde(rename = "3.1.1")]
    ThreeOneOne,
}

/// A version as people write it, with or without quotes.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"5\" or \"3.1.1\"")]
enum Written {
    Text(String),
    Number(i64),
}

impl TryFrom<Written> for Version {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(5) => Ok(Self::Five),
            // 4 is the level of MQTT 3.1.1 on the wire, 3 is what people call it (section 3.1.2.2).
            Written::Number(number @ (3 | 4)) => Err(format!("{number} is not known; MQTT 3.1.1 is \"3.1.1\" here")),
            Written::Text(text) if text == "5" => Ok(Self::Five),
            Written::Text(text) if text == "3.1.1" => Ok(Self::ThreeOneOne),
            Written::Text(text) => Err(format!("`{text}` is neither \"5\" nor \"3.1.1\"")),
            Written::Number(number) => Err(format!("{number} is neither \"5\" nor \"3.1.1\"")),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Five => "MQTT 5",
            Self::ThreeOneOne => "MQTT 3.1.1",
        })
    }
}

impl Config {
    /// Below, one lost packet ends the connection; above, a dead board counts as alive for half an hour.
    const KEEP_ALIVE: std::ops::RangeInclusive<u16> = 5..=1200;

    /// A topic has at most 65535 bytes; a prefix needs few of them.
    const MAX_PREFIX: usize = 128;

    /// The limit of AWS IoT. A broker has to accept 23 letters and digits (MQTT 5, section 3.1.3.1), and may accept
    /// more.
    const MAX_CLIENT_ID: usize = 128;

    /// The keys with invalid values, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if let Some(fault) = self.prefix_fault() {
            wrong.push(("prefix", fault.into()));
        }
        let is_plain = |id: &String| id.len() <= Self::MAX_CLIENT_ID && id.chars().all(|c| c.is_ascii_graphic());
        if self.client_id.as_ref().is_some_and(|id| !is_plain(id)) {
            wrong.push(("client_id", "is not at most 128 ASCII letters, digits and signs without a blank".into()));
        }
        if !Self::KEEP_ALIVE.contains(&self.keep_alive) {
            let (least, most) = (Self::KEEP_ALIVE.start(), Self::KEEP_ALIVE.end());
            wrong.push(("keep_alive", format!("{} s is not within {least} to {most}", self.keep_alive)));
        }
        if self.password.is_some() && self.password_file.is_some() {
            wrong.push(("password_file", "is set as well as `password`; only one of them is allowed".into()));
        }
        let of_a_broker = [
            ("user", self.user.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("certificate_file", self.certificate_file.is_some()),
        ];
        if self.url.is_none() {
            let set = of_a_broker.into_iter().filter(|(_, is_set)| *is_set);
            wrong.extend(set.map(|(key, _)| (key, "is of use only with `url`, which says where the broker is".into())));
        }
        if self.user.is_none() && (self.password.is_some() || self.password_file.is_some()) {
            let key = if self.password.is_some() { "password" } else { "password_file" };
            wrong.push((key, "needs `user`".into()));
        }
        // MQTT 5, section 1.5.4: a string has at most 65535 bytes and no U+0000.
        if self.user.as_ref().is_some_and(|user| user.is_empty() || user.len() > 1024 || user.contains('\0')) {
            wrong.push(("user", "is not 1 to 1024 bytes of text".into()));
        }
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => wrong.push(("certificate_file", "needs `key_file`".into())),
            (None, Some(_)) => wrong.push(("key_file", "needs `certificate_file`".into())),
            _ => {}
        }
        if self.url.as_ref().is_some_and(|url| !url.scheme().is_encrypted()) {
            for (key, value) in [("ca_file", &self.ca_file), ("certificate_file", &self.certificate_file)] {
                if value.is_some() {
                    wrong.push((key, "is of use only with mqtts:// and wss://".into()));
                }
            }
        }
        wrong
    }

    fn prefix_fault(&self) -> Option<&'static str> {
        let is_odd = |c: char| c.is_control() || "+#".contains(c);
        match self.prefix.as_str() {
            long if long.len() > Self::MAX_PREFIX => Some("is longer than 128 bytes"),
            prefix if prefix.contains(is_odd) => Some("has a wildcard (+ or #) or a control character in it"),
            // A broker's own topics begin with it, and wildcards do not match them (MQTT 5, section 4.7.2).
            prefix if prefix.starts_with('$') => Some("begins with $, which is reserved for the broker"),
            prefix if prefix.split('/').any(str::is_empty) => Some("is empty, or has an empty part between slashes"),
            _ => None,
        }
    }

    /// The device's MQTT client id. The broker ends the connection of an earlier client with the same id.
    pub fn client_id(&self, device: &str) -> String {
        self.client_id.clone().unwrap_or_else(|| format!("peercam-{device}"))
    }

    /// Whether the broker assigns the client id.
    pub fn leaves_client_id(&self) -> bool {
        self.client_id.as_ref().is_some_and(String::is_empty)
    }

    /// See [`Config::keep_alive`].
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).unwrap();
        config.check().into_iter().map(|(key, fault)| format!("{key}: {fault}")).collect()
    }

    #[test]
    fn keys_that_belong_together_are_required_together() {
        assert_eq!(faults("password = \"p\""), ["password: needs `user`"]);
        assert_eq!(faults("password_file = \"/p\""), ["password_file: needs `user`"]);
        let to_b = |text: &str| faults(&format!("url = \"mqtts://b\"\n{text}"));
        assert_eq!(to_b("certificate_file = \"/c\""), ["certificate_file: needs `key_file`"]);
        assert_eq!(faults("key_file = \"/k\""), ["key_file: needs `certificate_file`"]);
        assert!(to_b("user = \"u\"\npassword = \"p\"\npassword_file = \"/p\"")[0].contains("only one"));
        for alone in ["user = \"u\"", "ca_file = \"/c\""] {
            assert!(faults(alone)[0].contains("of use only with `url`"), "{alone}");
        }
        assert!(faults("url = \"mqtt://a\"\nca_file = \"/c\"")[0].contains("only with mqtts://"));
        assert_eq!(faults("url = \"mqtts://a\"\nca_file = \"/c\"\nuser = \"u\"\npassword = \"p\""), [""; 0]);
    }

    #[test]
    fn a_prefix_that_would_not_be_part_of_a_topic_is_refused() {
        for prefix in ["", "/", "a/", "/a", "a//b", "+", "a/#", "$SYS", "a\\nb"] {
            assert!(faults(&format!("prefix = \"{prefix}\""))[0].starts_with("prefix: "), "{prefix}");
        }
        assert_eq!(faults("prefix = \"home/cameras\""), [""; 0]);
    }

    #[test]
    fn a_client_id_has_allowed_characters_or_is_left_to_the_broker() {
        for id in ["a b", "ü", "a\\u0000", "a\\n", &"x".repeat(129)] {
            let said = faults(&format!("client_id = \"{id}\""));
            assert!(said.len() == 1 && said[0].starts_with("client_id: is not"), "{id}: {said:?}");
        }
        for (id, given) in [("", ""), ("frontdoor1", "frontdoor1"), ("d:org:type:7", "d:org:type:7")] {
            assert_eq!(faults(&format!("client_id = \"{id}\"")), [""; 0]);
            assert_eq!(Config { client_id: Some(id.into()), ..Config::default() }.client_id("door"), given);
        }
        assert_eq!(Config::default().client_id("door"), "peercam-door");
    }

    #[test]
    fn versions_are_read_as_people_write_them() {
        let version = |text: &str| toml::from_str::<Config>(&format!("version = {text}")).map(|config| config.version);
        assert_eq!(version("\"5\"").unwrap(), Version::Five);
        assert_eq!(version("5").unwrap(), Version::Five);
        assert_eq!(version("\"3.1.1\"").unwrap(), Version::ThreeOneOne);
        for wrong in ["4", "\"3.1\"", "5.0", "true"] {
            let error = version(wrong).unwrap_err().to_string();
            assert!(error.contains("3.1.1"), "{wrong}: {error}");
        }
        assert!(faults("keep_alive = 4")[0].contains("4 s is not within 5 to 1200"));
    }
}
