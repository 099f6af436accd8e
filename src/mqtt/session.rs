//! What belongs to one connection, from its acceptance to its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::MOST_BYTES;
use super::check::SelfCheck;
use super::config::Config;
use super::outbox::Item;
use super::suspects::{Open, Request};
use super::url::{Scheme, Url};
use super::wire::{Delivery, Event, Failure, Line};

/// How long the broker may take from its acceptance of us, or from its last answer, to the answer to a subscription.
const SUBSCRIBING: Duration = Duration::from_secs(5);

/// How long a publication that is not acknowledged counts as what the broker may have hung up on.
const UNPROVEN: Duration = Duration::from_secs(2);

/// So far without a message to oneself: rumqttc's own pings have to do.
const UNCHECKED: Duration = Duration::from_secs(3600);

/// How long our goodbye may take to leave.
const LEAVING: Duration = Duration::from_secs(1);

/// One connection.
pub struct Session {
    pub line: Line,
    /// Filters that are still to be asked for: one after the other where the broker hung up on one of several.
    pub to_ask: VecDeque<String>,
    /// Filters of subscriptions that the broker has not answered, in their order.
    pub asked: VecDeque<Vec<String>>,
    /// Since when the latest subscription waits for its answer.
    pub asked_at: Instant,
    pub window: usize,
    pub most_bytes: usize,
    pub delivery: Delivery,
    pub has_wildcards: bool,
    /// Whether requests are made one after the other, so that it is known which one the broker hangs up on.
    pub is_careful: bool,
    /// Since when the broker has accepted us.
    pub accepted: Option<Instant>,
    /// Since when it has answered our subscriptions.
    pub online: Option<Instant>,
    /// `None` where the broker does not let us hear ourselves.
    pub check: Option<SelfCheck>,
    /// What went out and is not acknowledged because nothing is.
    unproven: VecDeque<(Open, Instant)>,
}

impl Session {
    /// One that begins to connect.
    pub fn new(line: Line, keep_alive: Duration, now: Instant) -> Self {
        Self {
            line,
            to_ask: VecDeque::new(),
            asked: VecDeque::new(),
            asked_at: now,
            window: 0,
            most_bytes: MOST_BYTES,
            delivery: Delivery::BEST,
            has_wildcards: true,
            is_careful: false,
            accepted: None,
            online: None,
            check: Some(SelfCheck::new(keep_alive, now)),
            unproven: VecDeque::new(),
        }
    }

    /// When to look whether it is still good for something.
    pub fn deadline(&self) -> Instant {
        match (self.accepted, self.online, &self.check) {
            (Some(_), None, _) => self.asked_at + SUBSCRIBING,
            (_, _, Some(check)) => check.deadline(),
            (_, _, None) => self.asked_at + UNCHECKED,
        }
    }

    /// Asks for what is to be asked for: for all at once, or for one thing where it is careful.
    pub fn ask(&mut self) -> Result<(), Failure> {
        if self.to_ask.is_empty() || self.is_careful && !self.asked.is_empty() {
            return Ok(());
        }
        let count = if self.is_careful { 1 } else { self.to_ask.len() };
        let filters: Vec<_> = self.to_ask.drain(..count).collect();
        let too_many = |_| Failure::away("the MQTT client takes no more subscriptions");
        self.line.subscribe(&filters).map_err(too_many)?;
        self.asked.push_back(filters);
        self.asked_at = Instant::now();
        Ok(())
    }

    /// Whether all subscriptions are answered.
    pub fn has_asked_all(&self) -> bool {
        self.to_ask.is_empty() && self.asked.is_empty()
    }

    /// All subscriptions are answered: what the board hears of itself is looked at from now on.
    pub fn begin_checks(&mut self, keep_alive: Duration, now: Instant) {
        self.online = Some(now);
        self.check = self.check.take().map(|_| SelfCheck::new(keep_alive, now));
    }

    /// Says goodbye for another attempt, which may begin without the broker's having heard it.
    pub async fn leave(&mut self) {
        if self.line.hang_up().is_ok() {
            let leaving = async { while !matches!(self.line.next().await, Ok(Event::Ended) | Err(_)) {} };
            timeout(LEAVING, leaving).await.ok();
        }
    }

    /// Something went out that the broker does not acknowledge.
    pub fn went_out(&mut self, open: Open, now: Instant) {
        self.forget_proven(now);
        self.unproven.push_back((open, now));
    }

    fn forget_proven(&mut self, now: Instant) {
        self.unproven.retain(|(_, since)| now - *since < UNPROVEN);
    }

    /// What the broker was asked for and has not answered, besides the publications that it is to acknowledge.
    pub fn open(&mut self, now: Instant) -> Vec<Open> {
        self.forget_proven(now);
        let filters = self.asked.drain(..).flatten();
        let asked = filters.map(|filter| Open { bytes: filter.len(), request: Request::Messages(filter) });
        asked.chain(self.unproven.drain(..).map(|(open, _)| open)).collect()
    }
}

/// What a publication asks of the broker. A message to oneself goes to `self_check`.
pub fn request_of(item: &Item, self_check: &str) -> Request {
    Request::Publication(match item {
        Item::Once(once) => once.topic.clone(),
        Item::Kept(topic) => topic.clone(),
        Item::Check(_) => self_check.to_owned(),
    })
}

/// What a reader of the log is told of open requests: at most three of them.
pub fn named<'r>(requests: impl ExactSizeIterator<Item = &'r Request>) -> String {
    let count = requests.len();
    let mut all: Vec<_> = requests.take(3).map(in_words).collect();
    if count > 3 {
        all.push(format!("{} more", count - 3));
    }
    all.join(", ")
}

/// One request for people.
pub fn in_words(request: &Request) -> String {
    match request {
        Request::Messages(filter) => format!("for the messages of {filter}"),
        Request::Publication(topic) => format!("to publish on {topic}"),
    }
}

/// Why a packet is not sent.
pub fn too_large(bytes: usize, most: usize) -> String {
    format!("it needs a packet of {bytes} bytes, and the broker takes {most} at most")
}

/// What a broker that hangs up instead of an answer to CONNECT may not want.
pub fn without_a_word(config: &Config, url: &Url, client_id: &str, will: Option<&str>) -> String {
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
