//! One connection to the broker, from dialling to its end; the only place that knows `rumqttc`.
//!
//! Each attempt has a client of its own, so that nothing is left of the one before: `rumqttc` would reconnect at once
//! by itself, without end, and send again what it had, however old.

mod failure;
mod five;
mod three;

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

/// Name resolution, TCP, TLS and the broker's answer together take at most this.
pub const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// Publications that the broker has not acknowledged yet, at most. Mosquitto takes 20 at a time by default, and below
/// that `rumqttc` never meets a packet number that is still in use. One exchange of signals has about ten.
const WINDOW: u16 = 16;

/// `rumqttc` keeps a slot for each publication that may be under way; by default 65535 of them, which are 10 MB.
const SLOTS: u16 = 2 * WINDOW;

/// Requests handed to `rumqttc` that it has not taken yet: a whole window, subscriptions, and the goodbye.
const REQUESTS: usize = 2 * WINDOW as usize;

/// Letters of a reason that are repeated: a broker chose them.
const LONGEST_REASON: usize = 200;

/// What is needed to connect.
pub struct Dial<'a> {
    /// Version, user and keep-alive.
    pub config: &'a Config,
    /// Where to.
    pub url: &'a Url,
    /// Who we are to the broker, which gives our place to a later client of the same name. Where this is empty the
    /// broker gives a name.
    pub client_id: &'a str,
    /// The topic where `offline` is published when we vanish, and how.
    pub will: Option<(&'a str, Delivery)>,
    /// The user's password, and what TLS needs.
    pub credentials: Credentials,
    /// The address of the URL's host to connect to; any where there is none.
    pub address: Option<IpAddr>,
    /// All of it together takes at most this.
    pub limit: Duration,
}

/// What happens on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker took us.
    Accepted(Accepted),
    /// It has answered a subscription: for each filter, why it is not granted where it is not.
    Granted(Vec<Result<(), String>>),
    /// The publication handed over the longest ago went out under this number, which is 0 where none is acknowledged.
    Sent(u16),
    /// It has the publication with this number.
    Acknowledged {
        /// See [`Event::Sent`].
        number: u16,
        /// Why it will not pass it on (MQTT 5).
        refusal: Option<String>,
    },
    /// A message came.
    Came(Message),
    /// Our goodbye went out.
    Ended,
    /// Something else was heard: the broker lives.
    Alive,
}

/// What the broker said when it took us (MQTT 5, section 3.2.2.3); MQTT 3.1.1 has no words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Publications that it takes before it has acknowledged the first of them.
    pub window: usize,
    /// The largest packet that it takes, in bytes, where it said so.
    pub most_bytes: Option<usize>,
    /// What publications may have.
    pub best: Delivery,
    /// Whether a filter may have wildcards.
    pub has_wildcards: bool,
    /// The name that it gave us.
    pub client_id: Option<String>,
}

/// How the broker delivers a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whether it acknowledges it (QoS 1) or not (QoS 0).
    pub is_acknowledged: bool,
    /// Whether it is kept for those who come later, in place of the one before.
    pub is_retained: bool,
}

impl Delivery {
    /// What is wanted of a broker.
    pub const BEST: Self = Self { is_acknowledged: true, is_retained: true };

    /// What both allow.
    pub fn within(self, other: Self) -> Self {
        Self {
            is_acknowledged: self.is_acknowledged && other.is_acknowledged,
            is_retained: self.is_retained && other.is_retained,
        }
    }
}

/// It is not taken now; nothing was sent.
#[derive(Debug)]
pub struct NotTaken;

/// A connection, or the attempt to get one.
pub struct Line {
    requests: Requests,
    events: BoxStream<'static, Result<Event, Failure>>,
}

enum Requests {
    Five(rumqttc::v5::AsyncClient),
    ThreeOneOne(rumqttc::AsyncClient),
}

impl Line {
    /// Begins to connect as soon as [`Line::next`] is awaited.
    pub fn dial(dial: &Dial<'_>) -> Self {
        let (asked, has_user) = (dial.url.asked(), dial.config.user.is_some());
        match dial.config.version {
            Version::Five => {
                let (client, poll) = rumqttc::v5::AsyncClient::new(five::options(dial), REQUESTS);
                let (keep_alive, limit) = (dial.config.keep_alive(), dial.limit);
                let events = stream::unfold(poll, move |mut poll| async move {
                    loop {
                        let event = match contained(poll.poll()).await {
                            Ok(Ok(event)) => {
                                // A broker that wants none (0) would be asked for a sign of life without a pause.
                                if poll.options.keep_alive().is_zero() {
                                    poll.options.set_keep_alive(keep_alive);
                                }
                                five::event(event).map(Ok)
                            }
                            Ok(Err(error)) => {
                                let elsewhere = five::other_server(&poll.state.events);
                                Some(
                                    Err(five::failure(error, elsewhere.as_deref(), limit).of_dialling(asked, has_user)),
                                )
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
                let (client, mut poll) = rumqttc::AsyncClient::new(three::options(dial), REQUESTS);
                poll.set_network_options(network(dial.limit));
                let limit = dial.limit;
                let has_own_id = !dial.client_id.is_empty();
                let events = stream::unfold(poll, move |mut poll| async move {
                    loop {
                        let event = match contained(poll.poll()).await {
                            Ok(Ok(event)) => three::event(event).map(Ok),
                            Ok(Err(error)) => {
                                Some(Err(three::failure(error, has_own_id, limit).of_dialling(asked, has_user)))
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

    /// What happens next. After a failure the line is dead. Nothing is lost where this is not awaited to its end.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        self.events.next().await.unwrap_or_else(|| Err(Failure::away("the connection has ended")))
    }

    /// Hands a publication over.
    pub fn publish(
        &self,
        topic: &str,
        payload: &Bytes,
        delivery: Delivery,
        correlation: Option<&Bytes>,
    ) -> Result<(), NotTaken> {
        match &self.requests {
            Requests::Five(client) => five::publish(client, topic, payload, delivery, correlation),
            // MQTT 3.1.1 has no place for correlation data.
            Requests::ThreeOneOne(client) => three::publish(client, topic, payload, delivery),
        }
    }

    /// Asks for the messages of filters, at QoS 1.
    pub fn subscribe(&self, filters: &[String]) -> Result<(), NotTaken> {
        match &self.requests {
            Requests::Five(client) => five::subscribe(client, filters),
            Requests::ThreeOneOne(client) => three::subscribe(client, filters),
        }
    }

    /// Says goodbye, after which the broker does not publish the last will.
    pub fn hang_up(&self) -> Result<(), NotTaken> {
        match &self.requests {
            Requests::Five(client) => client.try_disconnect().map_err(|_| NotTaken),
            Requests::ThreeOneOne(client) => client.try_disconnect().map_err(|_| NotTaken),
        }
    }
}

/// A panic in what reads the broker's bytes ends this connection rather than all reach of the board: `rumqttc` and its
/// WebSocket have `unwrap`s of which not each can be seen to be safe from here.
async fn contained<T>(poll: impl Future<Output = T>) -> Result<T, Failure> {
    let caught = |_: Box<dyn Any + Send>| Failure::away("the MQTT client could not bear what the broker sent");
    AssertUnwindSafe(poll).catch_unwind().await.map_err(caught)
}

/// Without `TCP_NODELAY` an answer waits for the acknowledgement of the packet before: 40 ms on Linux.
fn network(limit: Duration) -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options.set_connection_timeout(limit.as_secs());
    options
}

/// What a broker said besides its reason, as a part of a message.
fn quoted(said: &str) -> String {
    format!("{:?}", said.chars().take(LONGEST_REASON).collect::<String>())
}

/// The host as `rumqttc` wants it: a WebSocket's is a whole URL.
///
/// With an address TLS does not tell the broker by which name it is called. The certificate is compared with the name
/// all the same, see [`crate::mqtt::trust`].
fn host(dial: &Dial<'_>) -> String {
    let url = dial.url;
    match (url.scheme(), dial.address) {
        (Scheme::Mqtt | Scheme::Mqtts, None) => url.host().to_owned(),
        (Scheme::Mqtt | Scheme::Mqtts, Some(address)) => address.to_string(),
        (Scheme::Ws | Scheme::Wss, None) => url.in_full(),
        (Scheme::Ws | Scheme::Wss, Some(address)) => url.at(address).in_full(),
    }
}

/// What a WebSocket at an address asks for: the broker by its name, as it does without.
fn named(url: &Url) -> impl Fn(Request<()>) -> Ready<Request<()>> + Send + Sync + use<> {
    let (target, authority) = (url.in_full(), url.authority());
    move |mut request: Request<()>| {
        if let (Ok(target), Ok(authority)) = (target.parse(), authority.parse()) {
            *request.uri_mut() = target;
            request.headers_mut().insert(HOST, authority);
        }
        ready(request)
    }
}

fn transport(dial: &Dial<'_>) -> Transport {
    let tls = || dial.credentials.tls.clone().map(TlsConfiguration::Rustls);
    match (dial.url.scheme(), tls()) {
        (Scheme::Mqtts, Some(tls)) => Transport::Tls(tls),
        (Scheme::Wss, Some(tls)) => Transport::Wss(tls),
        (Scheme::Ws, _) => Transport::Ws,
        (Scheme::Mqtt, _) => Transport::Tcp,
        (Scheme::Mqtts | Scheme::Wss, None) => unreachable!("who dials an encrypted URL has loaded what TLS needs"),
    }
}

/// The last will, and what is published on a clean goodbye.
pub const OFFLINE: &str = "offline";

/// What [`OFFLINE`] is not.
pub const ONLINE: &str = "online";
