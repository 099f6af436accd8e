//! The HTTP front: page, secret, and the paths that lead to the other rooms.
//!
//! Every request passes, from outside to inside: limits of its connection (`listener`), the check of `Host` and
//! `Origin` (`origin`), and, but for what is public, the check of what it may do (`guard`).
//! TLS will come where `listener` accepts, links and rights where `guard` makes an [`Access`].

mod api;
mod assets;
mod attempts;
mod credential;
mod crowd;
mod ended;
mod guard;
mod headers;
mod key;
mod listener;
mod origin;
mod parting;
mod refusal;
mod session;
mod tally;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::net::TcpListener;

use crate::control::Control;
use crate::secret::Secret;
use crate::signalling::Reception;
use guard::Guard;

pub use guard::Access;

/// The shortest secret that is accepted. Wrong attempts are slowed down so far that a random one of this length
/// holds; a word of a dictionary is the owner's own risk.
const LEAST_SECRET: usize = 8;

/// The longest secret: it fits into the body of a login, a header and a query, also where each of its characters is
/// written as two or three.
const MOST_SECRET: usize = 4096;

const USUAL_PORT: u16 = 8080;

/// Characters of a wrong address that are repeated: more than any address has.
const MOST_QUOTED: usize = 64;

/// The `[web]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Address and port.
    #[serde(deserialize_with = "place")]
    pub listen: SocketAddr,
    /// What a viewer must know. Needed where `listen` is not loopback.
    pub secret: Option<Secret>,
    /// Whether the board made it, by chance. One that somebody chose may be guessed.
    #[serde(skip)]
    pub is_secret_made: bool,
    /// A file that holds it.
    pub secret_file: Option<PathBuf>,
    /// Other origins whose pages may use this board: `https://home.example`.
    pub allowed_origins: Vec<String>,
    /// Names under which the board is reached where no secret is needed, besides loopback's.
    pub allowed_hosts: Vec<String>,
}

/// Where to listen. Names are not looked up: what they stand for may change while the service runs.
fn place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    text.parse().map_err(|_| match bare {
        Ok(ip) => D::Error::custom(format!("`{text}` has no port; write \"{}\"", SocketAddr::new(ip, USUAL_PORT))),
        Err(_) => D::Error::custom(format!(
            "`{}` is no address with a port, such as 127.0.0.1:8080 or [::]:8080",
            text.chars().take(MOST_QUOTED).collect::<String>()
        )),
    })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, USUAL_PORT).into(),
            secret: None,
            is_secret_made: false,
            secret_file: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

impl Config {
    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if let Some(fault) = self.secret.as_ref().and_then(|secret| Self::secret_fault(secret.reveal())) {
            wrong.push(("secret", fault));
        }
        if self.secret.is_some() && self.secret_file.is_some() {
            wrong.push(("secret_file", "stands beside `secret`; keep one of them".into()));
        }
        for origin in self.allowed_origins.iter().filter(|origin| !origin::is_origin(origin)) {
            wrong.push((
                "allowed_origins",
                format!("`{origin}` is not like https://home.example or http://10.0.0.2:81"),
            ));
        }
        for host in self.allowed_hosts.iter().filter(|host| !origin::is_host(host)) {
            wrong.push(("allowed_hosts", format!("`{host}` is not a name or address alone, like camera.example")));
        }
        wrong
    }

    /// Why `secret` cannot be one.
    pub fn secret_fault(secret: &str) -> Option<String> {
        if secret.trim().chars().count() < LEAST_SECRET {
            return Some(format!("is empty or too short; it needs at least {LEAST_SECRET} characters"));
        }
        if secret.len() > MOST_SECRET {
            return Some(format!("has {} characters; a login carries {MOST_SECRET} at most", secret.len()));
        }
        // What Authorization can carry (RFC 9110, section 5.5): the secret must work there as in the page.
        let fault = "has characters that HTTP cannot carry; use ASCII letters, digits and signs in one line, without spaces at the ends";
        let is_sound = secret.chars().all(|c| c.is_ascii_graphic() || c == ' ') && secret.trim() == secret;
        (!is_sound).then(|| fault.into())
    }
}

/// What the HTTP front cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not there to listen on.
    #[error("cannot listen on {address} ({cause}); {}", advice(.cause))]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// There is no thread to serve on.
    #[error(
        "cannot serve HTTP ({0}); more threads or files have to be allowed (`ulimit -u`, `ulimit -n`; TasksMax, LimitNOFILE of the unit)"
    )]
    Thread(#[source] std::io::Error),
    /// The configuration would let everybody on the network watch.
    #[error("{address} can be reached from the network, which needs a secret; set `web.secret` or listen on 127.0.0.1")]
    Open {
        /// As configured.
        address: SocketAddr,
    },
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program uses this port: stop it (`ss -tlnp` shows which), or set another `web.listen`"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: set a higher port in `web.listen`"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: set one it has in `web.listen`, or 0.0.0.0 for all"
        }
        _ => "set another `web.listen`",
    }
}

/// A bound listener. Connections wait in the kernel until [`Front::serve`].
#[derive(Debug)]
pub struct Front {
    listener: TcpListener,
    config: Config,
}

impl Front {
    /// Takes the port, before slower things start.
    ///
    /// # Errors
    ///
    /// When the port cannot be had, or would be open to the network without a secret.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let address = config.listen;
        if !address.ip().is_loopback() && config.secret.is_none() {
            return Err(Error::Open { address });
        }
        let listener = TcpListener::bind(address).await.map_err(|cause| Error::Bind { address, cause })?;
        Ok(Self { listener, config })
    }

    /// Where it listens; with port 0 configured, the port that the kernel chose.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    /// Serves in the reception's group, until that stops. What has to outlive a restart is kept in `state`.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn serve(self, control: Control, reception: Reception, state: Option<&Path>) -> Result<(), Error> {
        let group = reception.group.clone();
        let guard = Arc::new(Guard::new(&self.config, self.address().port(), state));
        let (telling, stop) = (guard.clone(), group.clone());
        group.spawn(async move { telling.tally().tell_each_minute(&stop).await });
        let router = api::router(guard, control, reception);
        listener::start(self.listener, router, &group).map_err(Error::Thread)
    }
}
