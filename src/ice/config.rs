//! The table `[ice]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::credential::Login;
use super::url::ServerUrl;
use crate::secret::Secret;

/// The `[ice]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// STUN and TURN servers, as RTCConfiguration.iceServers (W3C WebRTC, section 4.2.1).
    pub servers: Vec<ServerConfig>,
    /// How long credentials made from a secret are valid, in seconds.
    pub lifetime: u32,
}

/// One entry of `ice.servers`, as RTCIceServer (W3C WebRTC, section 4.2.2), or with a secret instead of a password.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ServerConfig {
    /// One URL or several.
    pub urls: Urls,
    /// TURN's user name.
    pub username: Option<String>,
    /// TURN's password.
    pub credential: Option<Secret>,
    /// A file that holds the password.
    pub credential_file: Option<PathBuf>,
    /// The secret that the relay shares with the board, so that the board can make user names and passwords that
    /// expire.
    pub secret: Option<Secret>,
    /// A file that holds the secret.
    pub secret_file: Option<PathBuf>,
}

/// `urls` as the browser takes it: a string or a list of strings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a URL or a list of URLs")]
pub enum Urls {
    /// A single URL.
    One(String),
    /// Several URLs of one server.
    Many(Vec<String>),
}

impl Default for Config {
    fn default() -> Self {
        // Half a day: longer than one watches in one session, and leaked credentials are worthless the next day.
        Self { servers: Vec::new(), lifetime: 12 * 60 * 60 }
    }
}

impl Default for Urls {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Urls {
    /// All URLs.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Many(urls) => urls,
        }
    }
}

impl Config {
    /// With less, a slow viewer could not use its credentials in time.
    const MIN_LIFETIME: u32 = 10;
    /// A week: credentials that live longer are a password, and should be configured as one.
    const MAX_LIFETIME: u32 = 7 * 24 * 60 * 60;

    /// The keys with invalid values, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if !(Self::MIN_LIFETIME..=Self::MAX_LIFETIME).contains(&self.lifetime) {
            let (least, most) = (Self::MIN_LIFETIME, Self::MAX_LIFETIME);
            wrong.push(("lifetime", format!("{} is not from {least} to {most} seconds", self.lifetime)));
        }
        wrong
    }
}

impl ServerConfig {
    /// The faults of the entry, each as the rest of a sentence that begins with its name.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let urls: Vec<_> = self.urls.as_slice().iter().map(|url| ServerUrl::parse(url)).collect();
        if urls.is_empty() {
            faults.push("has no `urls`".into());
        }
        let is_relay = urls.iter().flatten().any(|url| url.is_relay);
        faults.extend(urls.into_iter().filter_map(Result::err).map(|fault| format!("has a wrong URL: {fault}")));
        let given = [
            ("credential", self.credential.is_some()),
            ("credential_file", self.credential_file.is_some()),
            ("secret", self.secret.is_some()),
            ("secret_file", self.secret_file.is_some()),
        ];
        let given: Vec<_> = given.iter().filter(|(_, is_given)| *is_given).map(|(key, _)| *key).collect();
        match (&given[..], &self.username) {
            ([], None) if !is_relay => {}
            ([], _) => faults
                .push("needs `username` and `credential`, or a `secret`; each can be a file: `secret_file`".into()),
            (["credential" | "credential_file"], Some(_)) => {}
            (["credential" | "credential_file"], None) => faults.push("needs `username`".into()),
            (["secret" | "secret_file"], None) => {}
            (["secret" | "secret_file"], Some(_)) => {
                faults.push("has a `username` beside its secret, from which user names are made; take one away".into())
            }
            (several, _) => faults.push(format!("has `{}`; keep one of them", several.join("` and `"))),
        }
        let texts = [self.username.as_deref(), self.credential.as_ref().map(Secret::reveal)];
        if texts.into_iter().flatten().chain(self.secret.as_ref().map(Secret::reveal)).any(str::is_empty) {
            faults.push("has an empty user name, credential or secret".into());
        }
        faults
    }

    /// How to log in, once files have been read.
    pub(super) fn login(&self) -> Login {
        match (&self.secret, &self.username, &self.credential) {
            (Some(secret), _, _) => Login::Generated(secret.clone()),
            (None, Some(username), Some(credential)) => {
                Login::Fixed { username: username.clone(), credential: credential.clone() }
            }
            _ => Login::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(toml: &str) -> Vec<String> {
        let config: Config = toml::from_str(toml).unwrap();
        let of_servers = config.servers.iter().flat_map(ServerConfig::check);
        config.check().into_iter().map(|(key, fault)| format!("{key}: {fault}")).chain(of_servers).collect()
    }

    #[test]
    fn a_relay_needs_exactly_one_login() {
        let cases = [
            ("urls = \"stun:a\"", None),
            ("urls = \"turn:a\", username = \"u\", credential = \"c\"", None),
            ("urls = \"turn:a\", username = \"u\", credential_file = \"/c\"", None),
            ("urls = \"turn:a\", secret = \"s\"", None),
            ("urls = \"turn:a\", secret_file = \"/s\"", None),
            ("urls = \"turn:a\"", Some("needs `username` and `credential`, or a `secret`")),
            ("urls = \"turn:a\", username = \"u\"", Some("needs `username` and `credential`")),
            ("urls = \"turn:a\", credential = \"c\"", Some("needs `username`")),
            ("urls = \"turn:a\", secret = \"s\", username = \"u\"", Some("take one away")),
            ("urls = \"turn:a\", secret = \"s\", secret_file = \"/s\"", Some("`secret` and `secret_file`; keep one")),
            ("urls = \"turn:a\", username = \"u\", credential = \"\"", Some("empty")),
            ("urls = []", Some("has no `urls`")),
            ("urls = \"turn://a\", secret = \"s\"", Some("without //")),
        ];
        for (server, fault) in cases {
            let found = faults(&format!("servers = [{{ {server} }}]"));
            match fault {
                None => assert_eq!(found, Vec::<String>::new(), "{server}"),
                Some(fault) => assert!(found.len() == 1 && found[0].contains(fault), "{server}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_lifetime_is_from_ten_seconds_to_a_week() {
        for (lifetime, is_fine) in [(9, false), (10, true), (604_800, true), (604_801, false)] {
            assert_eq!(faults(&format!("lifetime = {lifetime}")).is_empty(), is_fine, "{lifetime}");
        }
    }
}
