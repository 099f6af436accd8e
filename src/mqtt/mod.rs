//! The one connection to the broker: it comes back by itself, and nobody else waits for it.
//!
//! What is *retained* is the board's state: the newest value of each topic is published when it changes and again at
//! each connection, so that a broker with an empty database knows all of it at once. What is *published* happens once.

mod actor;
mod audit;
mod capacity;
mod check;
mod config;
mod credentials;
mod limits;
mod outage;
mod outbox;
mod pauses;
mod pem;
mod probe;
mod reach;
mod rivals;
mod session;
mod subscriptions;
mod suspects;
mod terms;
mod tls;
mod topics;
mod trust;
mod url;
mod wire;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::tasks::Group;
use actor::Actor;
use outage::Outage;
use outbox::Outbox;
use rivals::Rivals;
use subscriptions::Subscriptions;
use suspects::Suspects;
use terms::Terms;

pub use config::{Config, Version};
pub use limits::Limits;
pub use probe::{Found, probe};
pub use topics::Topics;
pub use url::{Scheme, Url, UrlError};

/// How the connection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not yet, or not any more; the reason where there was an attempt.
    #[default]
    Connecting,
    /// The broker accepted us and our subscriptions.
    Online,
    /// The latest attempt failed.
    Offline {
        /// Why, and what to do.
        reason: String,
    },
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// What it says. At most [`MOST_BYTES`] long.
    pub payload: Bytes,
    /// Whether the broker had kept it from earlier.
    pub is_retained: bool,
    /// Where an answer is wanted instead of the usual topic (MQTT 5, section 3.3.2.3.5).
    pub reply: Option<Reply>,
}

/// Where an answer is wanted, and what it shall carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The response topic.
    pub topic: String,
    /// The correlation data (MQTT 5, section 3.3.2.3.6).
    pub correlation: Option<Bytes>,
}

/// The largest packet in either direction: any session description fits.
pub const MOST_BYTES: usize = 256 * 1024;

/// Messages of one subscription that wait to be read: more than comes at once of viewers that all arrive together, and
/// a burst of a thousand commands, each of which is told what became of it.
const UNREAD: usize = 1024;

/// A handle to the connection. A clone is the same connection.
#[derive(Clone, Debug)]
pub struct Broker {
    topics: Topics,
    state: watch::Receiver<State>,
    limits: watch::Receiver<Limits>,
    actor: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Publish { reply: Option<Reply>, topic: String, forms: Vec<Bytes> },
    Retain { topic: String, payload: Bytes, heard: Option<oneshot::Sender<Result<(), String>>> },
    Subscribe { filter: String, messages: mpsc::Sender<Message> },
}

impl Broker {
    /// The device's topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// How the connection stands, now and as it changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What the broker does not do, as far as it turned out on this connection.
    pub fn limits(&self) -> Limits {
        self.limits.borrow().clone()
    }

    /// Publishes once. Without a connection it is kept for a few seconds, then dropped.
    pub fn publish(&self, topic: String, payload: Bytes) {
        self.actor.send(Order::Publish { reply: None, topic, forms: vec![payload] }).ok();
    }

    /// Publishes an answer: where it is wanted, else on `topic`, and there too where the broker does not let the board
    /// publish where it is wanted. Of its `forms`, each of them shorter than the one before, the first goes that the
    /// broker takes.
    pub fn answer(&self, reply: Option<&Reply>, topic: String, forms: Vec<Bytes>) {
        self.actor.send(Order::Publish { reply: reply.cloned(), topic, forms }).ok();
    }

    /// Makes `payload` the retained message of `topic`, now and after each connection. An empty one removes it.
    pub fn retain(&self, topic: String, payload: Bytes) {
        self.actor.send(Order::Retain { topic, payload, heard: None }).ok();
    }

    /// The same, and waits until the broker has it, however long that takes.
    ///
    /// # Errors
    ///
    /// Why the broker does not take it.
    pub async fn retain_there(&self, topic: String, payload: Bytes) -> Result<(), String> {
        let (heard, told) = oneshot::channel();
        self.actor.send(Order::Retain { topic, payload, heard: Some(heard) }).ok();
        told.await.unwrap_or_else(|_| Err("the board is shutting down".into()))
    }

    /// The messages of `filter`, from now on and through all connections. Who does not read them loses the newest.
    pub fn subscribe(&self, filter: String) -> mpsc::Receiver<Message> {
        let (messages, coming) = mpsc::channel(UNREAD);
        self.actor.send(Order::Subscribe { filter, messages }).ok();
        coming
    }

    /// Connects to the configured broker, for as long as the group lives; `None` where none is configured.
    ///
    /// Told to stop, it says goodbye before it goes, which takes a second at most.
    pub fn open(config: &Config, device: &str, group: &Group) -> Option<Self> {
        let url = config.url.clone()?;
        let topics = Topics::new(&config.prefix, device);
        let (state, states) = watch::channel(State::default());
        let (limits, known_limits) = watch::channel(Limits::default());
        // Unbounded for those who publish, who must never wait; the actor takes orders at once and bounds what it keeps.
        let (orders, inbox) = mpsc::unbounded_channel();
        let actor = Actor {
            config: config.clone(),
            url,
            client_id: config.client_id(device),
            topics: topics.clone(),
            orders: inbox,
            state,
            limits,
            group: group.clone(),
            outbox: Outbox::default(),
            subscriptions: Subscriptions::default(),
            awaited: Vec::new(),
            outage: Outage::default(),
            terms: Terms::default(),
            suspects: Suspects::default(),
            rivals: Rivals::default(),
            told: Limits::default(),
            credentials: None,
            is_unanswered: false,
            has_warned_of_check: false,
        };
        group.keep("the connection to the broker", actor, |actor| Box::pin(actor.run()));
        Some(Self { topics, state: states, limits: known_limits, actor: orders })
    }
}
