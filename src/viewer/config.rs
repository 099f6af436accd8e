//! The tables `[viewers]` and `[ice]`.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The `[viewers]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// How many may watch at once.
    pub max: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max: 20 }
    }
}

impl LimitsConfig {
    /// The most that can be asked for: beyond, the sockets alone exceed the usual limit of 1024 open files.
    const MOST: usize = 500;

    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        if (1..=Self::MOST).contains(&self.max) {
            return Vec::new();
        }
        vec![("max", format!("{} is not within 1 to {}", self.max, Self::MOST))]
    }
}

/// The `[ice]` table.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct IceConfig {
    /// STUN and TURN servers, as RTCConfiguration.iceServers (W3C WebRTC, section 4.2.1).
    pub servers: Vec<IceServerConfig>,
}

/// One entry of `ice.servers`, as RTCIceServer (W3C WebRTC, section 4.2.2).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct IceServerConfig {
    /// One URL or several.
    pub urls: Urls,
    /// TURN's user name.
    pub username: Option<String>,
    /// TURN's password.
    pub credential: Option<Secret>,
}

/// `urls` as the browser takes it: a string or a list of strings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a URL or a list of URLs")]
pub enum Urls {
    /// A single one.
    One(String),
    /// Several ways to one server.
    Many(Vec<String>),
}

impl Default for Urls {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Urls {
    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Many(urls) => urls,
        }
    }
}

impl IceConfig {
    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        for (server, number) in self.servers.iter().zip(1..) {
            let urls = server.urls.as_slice();
            if urls.is_empty() {
                wrong.push(("servers", format!("server {number} has no `urls`")));
            }
            for url in urls {
                match url.split_once(':').map(|(scheme, _)| scheme) {
                    Some("stun" | "stuns") => {}
                    Some("turn" | "turns") if server.username.is_some() && server.credential.is_some() => {}
                    Some("turn" | "turns") => {
                        wrong.push(("servers", format!("{url} needs `username` and `credential`")));
                    }
                    _ => wrong.push(("servers", format!("{url} does not begin with stun:, stuns:, turn: or turns:"))),
                }
            }
        }
        wrong
    }
}
