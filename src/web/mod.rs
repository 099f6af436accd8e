//! The HTTP server: the pages, authentication, and the routes to the other parts of the service.
//!
//! Every request passes, from outside to inside: limits of its connection (`listener`), the check of `Host` and
//! `Origin` (`origin`), and, unless its path is public, authorization (`authorizer`).
//! TLS will be added where `listener` accepts, links where `authorizer` makes a [`Grant`](crate::access::Grant).

mod api;
mod assets;
mod attempts;
mod authorizer;
mod connection_limiter;
mod credential;
mod headers;
mod key;
mod lingering_close;
mod listener;
mod origin;
mod refusal;
mod refusal_log;
mod revoked_logins;
mod session;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::net::TcpListener;

use crate::secret::Secret;
use crate::signalling::SignallingContext;
use crate::status::Monitor;
use authorizer::Authorizer;

/// The shortest secret that is accepted. Wrong attempts are slowed down so far that a random one of this length is
/// safe; a dictionary word is not.
const MIN_SECRET: usize = 8;

/// The longest secret: it fits into the body of a login, a header and a query, even if each of its characters is
/// encoded as two or three.
const MAX_SECRET: usize = 4096;

const DEFAULT_PORT: u16 = 8080;

/// The most characters of an invalid address that are quoted: more than any address has.
const MAX_QUOTED: usize = 64;

/// The `[web]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// The address and port to listen on.
    #[serde(deserialize_with = "socket_address")]
    pub listen: SocketAddr,
    /// The secret that a viewer must know. Needed unless `listen` is loopback.
    pub secret: Option<Secret>,
    /// Whether the board generated the secret at random. A chosen one may be guessed.
    #[serde(skip)]
    pub is_secret_generated: bool,
    /// A file that holds the secret.
    pub secret_file: Option<PathBuf>,
    /// Other origins whose pages may use this board: `https://home.example`.
    pub allowed_origins: Vec<String>,
    /// Host names of the board if no secret is needed, besides those of loopback.
    pub allowed_hosts: Vec<String>,
}

/// The address to listen on. Names are not looked up: their addresses may change while the service runs.
fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    text.parse().map_err(|_| match bare {
        Ok(ip) => D::Error::custom(format!("`{text}` has no port; write \"{}\"", SocketAddr::new(ip, DEFAULT_PORT))),
        Err(_) => D::Error::custom(format!(
            "`{}` is no address with a port, such as 127.0.0.1:8080 or [::]:8080",
            text.chars().take(MAX_QUOTED).collect::<String>()
        )),
    })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            secret: None,
            is_secret_generated: false,
            secret_file: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

impl Config {
    /// The keys with invalid values, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if let Some(fault) = self.secret.as_ref().and_then(|secret| Self::secret_fault(secret.reveal())) {
            wrong.push(("secret", fault));
        }
        if self.secret.is_some() && self.secret_file.is_some() {
            wrong.push(("secret_file", "is set as well as `secret`; keep one of them".into()));
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

    /// Why `secret` cannot be used.
    pub fn secret_fault(secret: &str) -> Option<String> {
        if secret.trim().chars().count() < MIN_SECRET {
            return Some(format!("is empty or too short; it needs at least {MIN_SECRET} characters"));
        }
        if secret.len() > MAX_SECRET {
            return Some(format!("has {} characters; a login carries {MAX_SECRET} at most", secret.len()));
        }
        // The characters that Authorization can carry (RFC 9110, section 5.5): the secret must work there as in the
        // page.
        let fault = "has characters that HTTP cannot carry; use ASCII letters, digits and signs in one line, without spaces at the ends";
        let is_valid = secret.chars().all(|c| c.is_ascii_graphic() || c == ' ') && secret.trim() == secret;
        (!is_valid).then(|| fault.into())
    }
}

/// The errors of the HTTP server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({cause}); {}", advice(.cause))]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// The thread that serves HTTP cannot be started.
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

/// A bound listener. Connections wait in the kernel until [`HttpServer::serve`].
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    config: Config,
}

impl HttpServer {
    /// Binds the port, before slower things start.
    ///
    /// # Errors
    ///
    /// If the port is not available, or would be open to the network without a secret.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let address = config.listen;
        if !address.ip().is_loopback() && config.secret.is_none() {
            return Err(Error::Open { address });
        }
        let listener = TcpListener::bind(address).await.map_err(|cause| Error::Bind { address, cause })?;
        Ok(Self { listener, config })
    }

    /// The address it listens on; with port 0 configured, the port that the kernel chose.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    /// Serves in the context's group until it stops. State that survives a restart is kept in `state`.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn serve(
        self,
        monitor: Monitor,
        signalling_context: SignallingContext,
        state: Option<&Path>,
    ) -> Result<(), Error> {
        let group = signalling_context.group.clone();
        let authorizer = Arc::new(Authorizer::new(&self.config, self.address().port(), state));
        let (logging, stop) = (authorizer.clone(), group.clone());
        group.spawn(async move { logging.refusal_log().log_each_minute(&stop).await });
        let router = api::router(authorizer, monitor, signalling_context);
        listener::start(self.listener, router, &group).map_err(Error::Thread)
    }
}
