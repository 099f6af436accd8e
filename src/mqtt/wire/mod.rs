//! One connection to the broker, from the attempt to its end. No other module uses `rumqttc`.
//!
//! Each attempt has its own client, so that nothing of the previous one remains: `rumqttc` would reconnect at once by
//! itself, without end, and send its queue again, however old.

mod failure;
mod v3;
mod v5;

use std::any::Any;
use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use futures_util::{FutureExt, stream};
use http::Request;
use http::header::HOST;
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use super::Message;
use super::config::{Config, Version};
use super::credentials::Credentials;
use super::url::{Scheme, Url};

pub use failure::{Failure, Kind};

/// The time limit for name resolution, TCP, TLS and the broker's answer together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most publications that the broker has not acknowledged yet. Mosquitto accepts 20 at a time by default, and below
/// that `rumqttc` never reaches a packet number that is still in use. A call has about ten signals.
const WINDOW: u16 = 16;

/// `rumqttc` keeps a slot for each publication that may be under way; by default 65535, which need 10 MB.
const MAX_IN_FLIGHT: u16 = 2 * WINDOW;

/// The most requests handed to `rumqttc` that it has not processed: a whole window, subscriptions, and the DISCONNECT.
const REQUESTS: usize = 2 * WINDOW as usize;

/// The most characters of a reason that are repeated: the broker chose them.
const MAX_REASON: usize = 200;

/// Parameters of an attempt to connect.
pub struct ConnectOptions<'a> {
    /// Version, user and keep-alive.
    pub config: &'a Config,
    /// The broker.
    pub url: &'a Url,
    /// Our client id. The broker ends our connection when a later client has the same id. It assigns an id if this is
    /// empty.
    pub client_id: &'a str,
    /// The topic on which the broker publishes `offline` when we vanish, and the delivery.
    pub will: Option<(&'a str, Delivery)>,
    /// The user's password, and the TLS configuration.
    pub credentials: Credentials,
    /// The address of the URL's host to connect to; any of them if it is `None`.
    pub address: Option<IpAddr>,
    /// The time limit for the whole attempt.
    pub limit: Duration,
}

/// An event on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker accepted us.
    Accepted(Accepted),
    /// It answered a subscription: for each filter, why it is not granted, if it is not.
    Granted(Vec<Result<(), String>>),
    /// The publication that was handed over first was sent under this packet number; it is 0 if there is no
    /// acknowledgement.
    Sent(u16),
    /// It acknowledged the publication with this number.
    Acknowledged {
        /// See [`Event::Sent`].
        number: u16,
        /// Why it does not pass it on (MQTT 5).
        refusal: Option<String>,
    },
    /// A message arrived.
    Received(Message),
    /// Our DISCONNECT was sent.
    DisconnectSent,
    /// Another packet arrived: the broker is alive.
    OtherPacket,
}

/// Parameters that the broker reported when it accepted us (MQTT 5, section 3.2.2.3); MQTT 3.1.1 cannot report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How many publications it accepts before it has acknowledged the first of them.
    pub window: usize,
    /// The largest packet that it accepts, in bytes, if it reported that.
    pub most_bytes: Option<usize>,
    /// The best delivery that it supports.
    pub best: Delivery,
    /// Whether a filter may have wildcards.
    pub has_wildcards: bool,
    /// The client id that it assigned.
    pub client_id: Option<String>,
}

/// How the broker delivers a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whether it acknowledges it (QoS 1) or not (QoS 0).
    pub is_acknowledged: bool,
    /// Whether it is retained for later subscribers, in place of the one before.
    pub is_retained: bool,
}

impl Delivery {
    /// The delivery that the board prefers.
    pub const BEST: Self = Self { is_acknowledged: true, is_retained: true };

    /// The delivery that both allow.
    pub fn within(self, other: Self) -> Self {
        Self {
            is_acknowledged: self.is_acknowledged && other.is_acknowledged,
            is_retained: self.is_retained && other.is_retained,
        }
    }
}

/// The client's queue is full; nothing was sent.
#[derive(Debug)]
pub struct QueueFull;

/// A connection, or the attempt to get one.
pub struct Connection {
    requests: Requests,
    events: BoxStream<'static, Result<Event, Failure>>,
}

enum Requests {
    Five(rumqttc::v5::AsyncClient),
    ThreeOneOne(rumqttc::AsyncClient),
}

impl Connection {
    /// Begins to connect as soon as [`Connection::next`] is awaited.
    pub fn open(settings: &ConnectOptions<'_>) -> Self {
        let (asked, has_user) = (settings.url.http_path_hint(), settings.config.user.is_some());
        match settings.config.version {
            Version::Five => {
                let (client, poll) = rumqttc::v5::AsyncClient::new(v5::options(settings), REQUESTS);
                let (keep_alive, limit) = (settings.config.keep_alive(), settings.limit);
                let events = stream::unfold(poll, move |mut poll| async move {
                    loop {
                        let event = match catch_panic(poll.poll()).await {
                            Ok(Ok(event)) => {
                                // A broker may set 0 (none); `rumqttc` would then send pings without a pause.
                                if poll.options.keep_alive().is_zero() {
                                    poll.options.set_keep_alive(keep_alive);
                                }
                                v5::event(event).map(Ok)
                            }
                            Ok(Err(error)) => {
                                let elsewhere = v5::server_reference(&poll.state.events);
                                Some(Err(v5::failure(error, elsewhere.as_deref(), limit)
                                    .with_connect_context(asked, has_user)))
                            }
                            Err(failure) => Some(Err(failure)),
                        };
                        if let Some(event) = event {
                            break Some((event, poll));
                        }
                    }
                });
                Self { requests: Requests::Five(client), events: events.boxed() }
            }
            Version::ThreeOneOne => {
                let (client, mut poll) = rumqttc::AsyncClient::new(v3::options(settings), REQUESTS);
                poll.set_network_options(network(settings.limit));
                let limit = settings.limit;
                let has_own_id = !settings.client_id.is_empty();
                let events = stream::unfold(poll, move |mut poll| async move {
                    loop {
                        let event = match catch_panic(poll.poll()).await {
                            Ok(Ok(event)) => v3::event(event).map(Ok),
                            Ok(Err(error)) => {
                                Some(Err(v3::failure(error, has_own_id, limit).with_connect_context(asked, has_user)))
                            }
                            Err(failure) => Some(Err(failure)),
                        };
                        if let Some(event) = event {
                            break Some((event, poll));
                        }
                    }
                });
                Self { requests: Requests::ThreeOneOne(client), events: events.boxed() }
            }
        }
    }

    /// The next event. After a failure the connection is over. Dropping the future early loses nothing.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        self.events.next().await.unwrap_or_else(|| Err(Failure::unavailable("the connection has ended")))
    }

    /// Queues a publication at the client.
    pub fn publish(
        &self,
        topic: &str,
        payload: &Bytes,
        delivery: Delivery,
        correlation: Option<&Bytes>,
    ) -> Result<(), QueueFull> {
        match &self.requests {
            Requests::Five(client) => v5::publish(client, topic, payload, delivery, correlation),
            // MQTT 3.1.1 has no correlation data.
            Requests::ThreeOneOne(client) => v3::publish(client, topic, payload, delivery),
        }
    }

    /// Subscribes to filters, at QoS 1.
    pub fn subscribe(&self, filters: &[String]) -> Result<(), QueueFull> {
        match &self.requests {
            Requests::Five(client) => v5::subscribe(client, filters),
            Requests::ThreeOneOne(client) => v3::subscribe(client, filters),
        }
    }

    /// Sends DISCONNECT, after which the broker does not publish the last will.
    pub fn disconnect(&self) -> Result<(), QueueFull> {
        match &self.requests {
            Requests::Five(client) => client.try_disconnect().map_err(|_| QueueFull),
            Requests::ThreeOneOne(client) => client.try_disconnect().map_err(|_| QueueFull),
        }
    }
}

/// A panic while the broker's bytes are read ends this connection rather than all access to the board: `rumqttc` and
/// its WebSocket library have `unwrap`s, and not all of them can be verified to be safe.
async fn catch_panic<T>(poll: impl Future<Output = T>) -> Result<T, Failure> {
    let caught = |_: Box<dyn Any + Send>| Failure::unavailable("the MQTT client failed on what the broker sent");
    AssertUnwindSafe(poll).catch_unwind().await.map_err(caught)
}

/// Without `TCP_NODELAY` an answer waits for the acknowledgement of the packet before: 40 ms on Linux.
fn network(limit: Duration) -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options.set_connection_timeout(limit.as_secs());
    options
}

/// A broker's reason text, quoted as part of a message.
fn quoted(said: &str) -> String {
    format!("{:?}", said.chars().take(MAX_REASON).collect::<String>())
}

/// The host as `rumqttc` expects it: for a WebSocket it is a whole URL.
///
/// With an address, TLS does not send the name (SNI) to the broker. The certificate is compared with the name all the
/// same, see [`crate::mqtt::certificate_verifier`].
fn host(settings: &ConnectOptions<'_>) -> String {
    let url = settings.url;
    match (url.scheme(), settings.address) {
        (Scheme::Mqtt | Scheme::Mqtts, None) => url.host().to_owned(),
        (Scheme::Mqtt | Scheme::Mqtts, Some(address)) => address.to_string(),
        (Scheme::Ws | Scheme::Wss, None) => url.in_full(),
        (Scheme::Ws | Scheme::Wss, Some(address)) => url.at(address).in_full(),
    }
}

/// Makes a WebSocket request to an address name the broker, as a request without an address does.
fn with_host_name(url: &Url) -> impl Fn(Request<()>) -> Ready<Request<()>> + Send + Sync + use<> {
    let (target, authority) = (url.in_full(), url.authority());
    move |mut request: Request<()>| {
        if let (Ok(target), Ok(authority)) = (target.parse(), authority.parse()) {
            *request.uri_mut() = target;
            request.headers_mut().insert(HOST, authority);
        }
        ready(request)
    }
}

fn transport(settings: &ConnectOptions<'_>) -> Transport {
    let tls = || settings.credentials.tls.clone().map(TlsConfiguration::Rustls);
    match (settings.url.scheme(), tls()) {
        (Scheme::Mqtts, Some(tls)) => Transport::Tls(tls),
        (Scheme::Wss, Some(tls)) => Transport::Wss(tls),
        (Scheme::Ws, _) => Transport::Ws,
        (Scheme::Mqtt, _) => Transport::Tcp,
        (Scheme::Mqtts | Scheme::Wss, None) => unreachable!("an encrypted URL is dialled with a TLS configuration"),
    }
}

/// The last will, and the payload published before a clean disconnect.
pub const OFFLINE: &str = "offline";

/// The payload published while connected.
pub const ONLINE: &str = "online";
