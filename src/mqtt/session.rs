//! The state of one connection, from its acceptance to its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::MAX_BYTES;
use super::config::Config;
use super::disconnect_causes::{OpenRequest, Request};
use super::outbox::Item;
use super::self_check::SelfCheck;
use super::url::{Scheme, Url};
use super::wire::{Connection, Delivery, Event, Failure};

/// How long the broker may take from its acceptance of us, or from its last answer, to answer a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a publication without acknowledgement counts as one that the broker may have hung up on.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(2);

/// The deadline if there are no self-check messages: rumqttc's own pings have to suffice.
const NO_SELF_CHECK: Duration = Duration::from_secs(3600);

/// How long sending our DISCONNECT may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection.
pub struct Session {
    pub connection: Connection,
    /// Filters that are still to be requested: one after the other if the broker hung up on one of several.
    pub to_subscribe: VecDeque<String>,
    /// Filters of subscriptions that the broker has not answered, in their order.
    pub asked: VecDeque<Vec<String>>,
    /// When the latest subscription was requested.
    pub subscribed_at: Instant,
    pub window: usize,
    pub most_bytes: usize,
    pub delivery: Delivery,
    pub has_wildcards: bool,
    /// Whether requests are made one after the other, so that it is known which one the broker hangs up on.
    pub is_careful: bool,
    /// When the broker accepted us.
    pub accepted: Option<Instant>,
    /// When the broker had answered our subscriptions.
    pub online: Option<Instant>,
    /// `None` if the broker does not deliver our own messages to us.
    pub check: Option<SelfCheck>,
    /// What was sent lately with QoS 0, and so is never acknowledged.
    unacknowledged: VecDeque<(OpenRequest, Instant)>,
}

impl Session {
    /// A session that begins to connect.
    pub fn new(connection: Connection, keep_alive: Duration, now: Instant) -> Self {
        Self {
            connection,
            to_subscribe: VecDeque::new(),
            asked: VecDeque::new(),
            subscribed_at: now,
            window: 0,
            most_bytes: MAX_BYTES,
            delivery: Delivery::BEST,
            has_wildcards: true,
            is_careful: false,
            accepted: None,
            online: None,
            check: Some(SelfCheck::new(keep_alive, now)),
            unacknowledged: VecDeque::new(),
        }
    }

    /// When to check next whether the connection still works.
    pub fn deadline(&self) -> Instant {
        match (self.accepted, self.online, &self.check) {
            (Some(_), None, _) => self.subscribed_at + SUBSCRIBE_TIMEOUT,
            (_, _, Some(check)) => check.deadline(),
            (_, _, None) => self.subscribed_at + NO_SELF_CHECK,
        }
    }

    /// Requests the queued subscriptions: all at once, or only one if the session is careful.
    pub fn ask(&mut self) -> Result<(), Failure> {
        if self.to_subscribe.is_empty() || self.is_careful && !self.asked.is_empty() {
            return Ok(());
        }
        let count = if self.is_careful { 1 } else { self.to_subscribe.len() };
        let filters: Vec<_> = self.to_subscribe.drain(..count).collect();
        let too_many = |_| Failure::unavailable("the MQTT client takes no more subscriptions");
        self.connection.subscribe(&filters).map_err(too_many)?;
        self.asked.push_back(filters);
        self.subscribed_at = Instant::now();
        Ok(())
    }

    /// Whether all subscriptions are answered.
    pub fn has_all_answers(&self) -> bool {
        self.to_subscribe.is_empty() && self.asked.is_empty()
    }

    /// All subscriptions are answered: self-checks begin now.
    pub fn begin_checks(&mut self, keep_alive: Duration, now: Instant) {
        self.online = Some(now);
        self.check = self.check.take().map(|_| SelfCheck::new(keep_alive, now));
    }

    /// Disconnects for another attempt, which may begin before the broker has received the DISCONNECT.
    pub async fn leave(&mut self) {
        if self.connection.disconnect().is_ok() {
            let leaving =
                async { while !matches!(self.connection.next().await, Ok(Event::DisconnectSent) | Err(_)) {} };
            timeout(DISCONNECT_TIMEOUT, leaving).await.ok();
        }
    }

    /// A publication was sent that the broker does not acknowledge.
    pub fn sent_unacknowledged(&mut self, open: OpenRequest, now: Instant) {
        self.forget_old(now);
        self.unacknowledged.push_back((open, now));
    }

    fn forget_old(&mut self, now: Instant) {
        self.unacknowledged.retain(|(_, since)| now - *since < UNACKNOWLEDGED_FOR);
    }

    /// The requests that the broker has not answered, besides the publications that it has to acknowledge.
    pub fn open(&mut self, now: Instant) -> Vec<OpenRequest> {
        self.forget_old(now);
        let filters = self.asked.drain(..).flatten();
        let asked = filters.map(|filter| OpenRequest { bytes: filter.len(), request: Request::Subscribe(filter) });
        asked.chain(self.unacknowledged.drain(..).map(|(open, _)| open)).collect()
    }
}

/// The request that a publication makes. A self-check message goes to `self_check`.
pub fn request_for(item: &Item, self_check: &str) -> Request {
    Request::Publish(match item {
        Item::OneTimeMessage(once) => once.topic.clone(),
        Item::Retained(topic) => topic.clone(),
        Item::Check(_) => self_check.to_owned(),
    })
}

/// Open requests as text for the log: at most three of them.
pub fn named<'r>(requests: impl ExactSizeIterator<Item = &'r Request>) -> String {
    let count = requests.len();
    let mut all: Vec<_> = requests.take(3).map(describe).collect();
    if count > 3 {
        all.push(format!("{} more", count - 3));
    }
    all.join(", ")
}

/// One request as text for people.
pub fn describe(request: &Request) -> String {
    match request {
        Request::Subscribe(filter) => format!("for the messages of {filter}"),
        Request::Publish(topic) => format!("to publish on {topic}"),
    }
}

/// Why a packet is not sent.
pub fn too_large(bytes: usize, most: usize) -> String {
    format!("it needs a packet of {bytes} bytes, and the broker takes {most} at most")
}

/// The possible reasons of a broker that hangs up instead of answering CONNECT.
pub fn no_reason_given(config: &Config, url: &Url, client_id: &str, will: Option<&str>) -> String {
    let will = will.map(|topic| format!(", a last will on {topic}")).unwrap_or_default();
    let tls = match url.scheme() {
        Scheme::Mqtt => ", expect TLS at this port (mqtts://)",
        Scheme::Ws => ", expect TLS at this port (wss://)",
        Scheme::Mqtts => ", not expect TLS at this port (mqtt://)",
        Scheme::Wss => ", not expect TLS at this port (ws://)",
    };
    format!(
        "the broker closed the connection instead of answering: it may not allow this user, the client id \
         {client_id:?}{will}, not speak {} (mqtt.version){tls}, or not be ready",
        config.version
    )
}
