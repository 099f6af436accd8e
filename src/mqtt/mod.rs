//! The one connection to the MQTT broker. It reconnects by itself, and no other part of the service waits for it.
//!
//! *Retained* messages are the board's state: the newest value of each topic is published when it changes and again at
//! each connection, so that a broker with an empty database gets all of it at once. *Published* messages are events and
//! are sent once.

mod acl_audit;
mod actor;
mod backoff;
mod capabilities;
mod certificate_verifier;
mod client_id_conflict;
mod config;
mod credentials;
mod delivery_fallback;
mod disconnect_causes;
mod happy_eyeballs;
mod limits;
mod log_throttle;
mod outbox;
mod pem;
mod probe;
mod self_check;
mod session;
mod subscriptions;
mod tls;
mod topics;
mod url;
mod wire;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::command::Reply;
use crate::tasks::Group;
use actor::Actor;
use client_id_conflict::ClientIdConflict;
use delivery_fallback::DeliveryFallback;
use disconnect_causes::DisconnectCauses;
use log_throttle::LogThrottle;
use outbox::Outbox;
use subscriptions::Subscriptions;

pub use config::{Config, Version};
pub use limits::Limits;
pub use probe::{Found, probe};
pub use topics::Topics;
pub use url::{Scheme, Url, UrlError};

/// The state of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not connected yet, or not any more.
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

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic on which it was published.
    pub topic: String,
    /// The content, at most [`MAX_BYTES`] long.
    pub payload: Bytes,
    /// Whether it is a retained message from earlier.
    pub is_retained: bool,
    /// The response topic, if the answer is wanted there instead of on the usual topic (MQTT 5, section 3.3.2.3.5).
    pub reply: Option<Reply>,
}

/// The largest packet in either direction: any session description fits.
pub const MAX_BYTES: usize = 256 * 1024;

/// How many messages of one subscription may wait to be read: enough for viewers that all arrive together, and for a
/// burst of a thousand commands, each of which gets an answer.
const UNREAD: usize = 1024;

/// A handle to the connection. A clone is the same connection.
#[derive(Clone, Debug)]
pub struct Broker {
    topics: Topics,
    state: watch::Receiver<State>,
    limits: watch::Receiver<Limits>,
    actor: mpsc::UnboundedSender<ActorRequest>,
}

#[derive(Debug)]
enum ActorRequest {
    Publish { reply: Option<Reply>, topic: String, forms: Vec<Bytes> },
    Retain { topic: String, payload: Bytes, done: Option<oneshot::Sender<Result<(), String>>> },
    Subscribe { filter: String, messages: mpsc::Sender<Message> },
}

impl Broker {
    /// The device's topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// The state of the connection, now and as it changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Limits of the broker, as far as known on this connection.
    pub fn limits(&self) -> Limits {
        self.limits.borrow().clone()
    }

    /// Publishes once. Without a connection it is kept for a few seconds, then dropped.
    pub fn publish(&self, topic: String, payload: Bytes) {
        self.actor.send(ActorRequest::Publish { reply: None, topic, forms: vec![payload] }).ok();
    }

    /// Publishes an answer: on the response topic of `reply`, otherwise on `topic`. It also goes to `topic` if the
    /// broker does not let the board publish on the response topic. `forms` are forms of the answer, each shorter than
    /// the one before; the first that the broker accepts is sent.
    pub fn answer(&self, reply: Option<&Reply>, topic: String, forms: Vec<Bytes>) {
        self.actor.send(ActorRequest::Publish { reply: reply.cloned(), topic, forms }).ok();
    }

    /// Makes `payload` the retained message of `topic`, now and after each connection. An empty one removes it.
    pub fn retain(&self, topic: String, payload: Bytes) {
        self.actor.send(ActorRequest::Retain { topic, payload, done: None }).ok();
    }

    /// The same as [`Broker::retain`], and waits until the broker has it, however long that takes.
    ///
    /// # Errors
    ///
    /// Why the broker does not accept it.
    pub async fn retain_acknowledged(&self, topic: String, payload: Bytes) -> Result<(), String> {
        let (done, result) = oneshot::channel();
        self.actor.send(ActorRequest::Retain { topic, payload, done: Some(done) }).ok();
        result.await.unwrap_or_else(|_| Err("the board is shutting down".into()))
    }

    /// The messages of `filter`, from now on and through all connections. If they are not read, the newest are lost.
    pub fn subscribe(&self, filter: String) -> mpsc::Receiver<Message> {
        let (messages, coming) = mpsc::channel(UNREAD);
        self.actor.send(ActorRequest::Subscribe { filter, messages }).ok();
        coming
    }

    /// Connects to the configured broker, for as long as the group lives; `None` if none is configured.
    ///
    /// When the group stops, it publishes what is queued and disconnects, which takes a second at most.
    pub fn open(config: &Config, device: &str, group: &Group) -> Option<Self> {
        let url = config.url.clone()?;
        let topics = Topics::new(&config.prefix, device);
        let (state, states) = watch::channel(State::default());
        let (limits, known_limits) = watch::channel(Limits::default());
        // Unbounded, because publishers must never wait; the actor takes requests at once and bounds what it keeps.
        let (requests, inbox) = mpsc::unbounded_channel();
        let actor = Actor {
            config: config.clone(),
            url,
            client_id: config.client_id(device),
            topics: topics.clone(),
            requests: inbox,
            state,
            limits,
            group: group.clone(),
            outbox: Outbox::default(),
            subscriptions: Subscriptions::default(),
            awaited: Vec::new(),
            log_throttle: LogThrottle::default(),
            delivery_fallback: DeliveryFallback::default(),
            disconnect_causes: DisconnectCauses::default(),
            client_id_conflict: ClientIdConflict::default(),
            logged_limits: Limits::default(),
            credentials: None,
            is_unanswered: false,
            has_warned_of_self_check: false,
        };
        group.keep("the connection to the broker", actor, |actor| Box::pin(actor.run()));
        Some(Self { topics, state: states, limits: known_limits, actor: requests })
    }
}
