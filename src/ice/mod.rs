//! STUN and TURN servers: the configured ones, and the credentials that each side gets.
//!
//! Board and viewers use the same servers. Credentials are either as configured, or made at each use from a secret
//! shared with the relay (draft-uberti-behave-turn-rest-00), so that a viewer's credentials expire by themselves. No
//! I/O here.

mod config;
mod credential;
mod url;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

pub use config::{Config, ServerConfig, Urls};
pub use credential::Credential;
use credential::Login;
use url::ServerUrl;

/// The part of a lifetime after which credentials are renewed: the rest is for a viewer that is about to use them.
const RENEWAL: f64 = 0.75;

/// How often the wall clock is compared with the monotonic one while credentials wait to be renewed.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// A difference between the two clocks that is a correction and not drift: a board without a real-time clock starts in
/// 1970, and credentials made then have long expired for the relay.
const CLOCK_JUMP: Duration = Duration::from_secs(60);

/// One server, as RTCIceServer (W3C WebRTC, section 4.2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IceServer {
    /// The URLs of the server.
    pub urls: Vec<String>,
    /// TURN's user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// TURN's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
}

/// The configured servers. A clone is the same servers.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Vec<Entry>,
    lifetime: Duration,
    /// The part of generated user names that identifies the board to the relay's operator.
    device: String,
}

#[derive(Debug)]
struct Entry {
    urls: Vec<String>,
    /// The `urls` that the board's own WebRTC stack can use.
    usable: Vec<String>,
    login: Login,
}

/// When credentials were given to a client that stays.
#[derive(Clone, Copy, Debug)]
pub struct Issued {
    at: Instant,
    clock: SystemTime,
}

impl Issued {
    /// Just now.
    pub fn now() -> Self {
        Self { at: Instant::now(), clock: SystemTime::now() }
    }
}

impl Servers {
    /// The servers of a checked configuration whose secrets have been read, for the board called `device`.
    ///
    /// Logs which URLs only viewers can use.
    pub fn new(config: &Config, device: &str) -> Self {
        let entry = |server: &ServerConfig| {
            let urls = server.urls.as_slice().to_vec();
            let usable: Vec<_> = urls.iter().filter(|url| is_usable(url)).cloned().collect();
            Entry { urls, usable, login: server.login() }
        };
        let lifetime = Duration::from_secs(config.lifetime.into());
        let entries = config.servers.iter().map(entry).collect();
        Self { shared: Arc::new(Shared { entries, lifetime, device: device.to_owned() }) }
    }

    /// The servers for the board's own candidates, with credentials made now: STUN and TURN over UDP.
    pub fn for_board(&self) -> Vec<IceServer> {
        self.list(|entry| &entry.usable)
    }

    /// The servers for a viewer, with credentials made now.
    pub fn for_viewer(&self) -> Vec<IceServer> {
        self.list(|entry| &entry.urls)
    }

    /// Whether the board has a relay that it could use.
    pub fn has_relay(&self) -> bool {
        self.shared.entries.iter().flat_map(|entry| &entry.usable).any(|url| url.starts_with("turn"))
    }

    /// How long credentials made now are valid; `None` if they do not expire.
    pub fn lifetime(&self) -> Option<Duration> {
        let makes = self.shared.entries.iter().any(|entry| matches!(entry.login, Login::Generated(_)));
        makes.then_some(self.shared.lifetime)
    }

    /// How long after they were given credentials should be renewed; `None` if they do not expire.
    pub fn renew_after(&self) -> Option<Duration> {
        self.lifetime().map(|lifetime| lifetime.mul_f64(RENEWAL))
    }

    /// Waits until the given credentials have to be renewed, because of their age or because the clock was wrong then.
    pub async fn outdated(&self, issued: Issued) {
        let Some(after) = self.renew_after() else { return std::future::pending().await };
        loop {
            let age = issued.at.elapsed();
            let clock_age = SystemTime::now().duration_since(issued.clock).unwrap_or_default();
            if age >= after || clock_age.abs_diff(age) > CLOCK_JUMP {
                return;
            }
            tokio::time::sleep((after - age).min(CLOCK_CHECK)).await;
        }
    }

    fn list(&self, urls: impl Fn(&Entry) -> &Vec<String>) -> Vec<IceServer> {
        let Shared { entries, lifetime, device } = &*self.shared;
        let now = SystemTime::now();
        let entries = entries.iter().filter(|entry| !urls(entry).is_empty());
        let server = |entry: &Entry| {
            let (username, credential) = entry.login.at(now, *lifetime, device).unzip();
            IceServer { urls: urls(entry).clone(), username, credential }
        };
        entries.map(server).collect()
    }
}

/// Whether the board can use a server by this URL, which has been checked; logs the reason if it cannot.
fn is_usable(url: &str) -> bool {
    let fault = ServerUrl::parse(url).map_or_else(Some, |url| url.board_limitation().map(str::to_owned));
    if let Some(reason) = &fault {
        tracing::info!(url, reason, "only viewers use this ICE server");
    }
    fault.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(toml: &str) -> Servers {
        let config: Config = toml::from_str(toml).unwrap();
        assert_eq!(config.check(), []);
        Servers::new(&config, "front-door")
    }

    #[test]
    fn both_sides_get_the_servers_and_the_board_only_those_that_it_can_use() {
        let servers = servers(
            "servers = [{ urls = \"stun:a.example\" },
             { urls = [\"turn:b.example\", \"turn:b.example?transport=tcp\", \"turns:b.example\"], username = \"u\", credential = \"c\" },
             { urls = \"turns:c.example\", username = \"u\", credential = \"c\" }]",
        );
        let urls = |list: Vec<IceServer>| list.into_iter().flat_map(|server| server.urls).collect::<Vec<_>>();
        assert_eq!(urls(servers.for_board()), ["stun:a.example", "turn:b.example"]);
        assert_eq!(urls(servers.for_viewer()).len(), 5);
        assert!(servers.has_relay());
        assert_eq!(servers.renew_after(), None, "configured credentials do not expire");
        let json = serde_json::to_value(&servers.for_viewer()[..2]).unwrap();
        assert_eq!(
            json,
            serde_json::json!([
                { "urls": ["stun:a.example"] },
                { "urls": ["turn:b.example", "turn:b.example?transport=tcp", "turns:b.example"], "username": "u", "credential": "c" },
            ])
        );
    }

    #[test]
    fn generated_credentials_expire_and_are_hidden_in_debug_output() {
        let servers =
            servers("lifetime = 100\nservers = [{ urls = \"turn:b.example\", secret = \"north of the wall\" }]");
        assert_eq!(servers.lifetime(), Some(Duration::from_secs(100)));
        assert_eq!(servers.renew_after(), Some(Duration::from_secs(75)));
        let given = &servers.for_viewer()[0];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let (expiry, device) = given.username.as_deref().unwrap().split_once(':').unwrap();
        assert!((now + 99..=now + 101).contains(&expiry.parse::<u64>().unwrap()) && device == "front-door");
        let credential = given.credential.as_ref().unwrap().reveal();
        assert!(!format!("{given:?} {servers:?}").contains(credential));
        assert!(!format!("{servers:?}").contains("wall"));
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_outdated_by_age_or_by_a_clock_that_was_wrong() {
        let servers =
            servers("lifetime = 10\nservers = [{ urls = \"turn:b.example\", secret = \"north of the wall\" }]");
        let wrong_clock = Issued { clock: SystemTime::UNIX_EPOCH, ..Issued::now() };
        servers.outdated(wrong_clock).await;
        let old = Issued {
            at: Instant::now() - Duration::from_millis(7_500),
            clock: SystemTime::now() - Duration::from_millis(7_500),
        };
        servers.outdated(old).await;
        let fresh = tokio::time::timeout(Duration::from_millis(50), servers.outdated(Issued::now()));
        assert!(fresh.await.is_err());
    }
}
