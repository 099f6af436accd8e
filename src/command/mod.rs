//! What operators want done, and what becomes of it: the words that every way in shares.
//!
//! A command comes over MQTT, the WebSocket or a data channel as JSON text, is put on the [`Desk`], and gives one or
//! two [`Outcome`]s. Who carries it out is not known here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

/// The longest command that is read. The largest is a configuration; a kilobyte is usual.
pub const MOST_BYTES: usize = 64 * 1024;

/// Which way a command came, for logs, and for what must come back the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The broker, whose access control decided.
    Broker,
    /// A WebSocket whose opener knew the secret.
    WebSocket,
    /// The data channel of a viewer that knew the secret.
    DataChannel,
    /// A home automation's plain value, put into a command by ourselves.
    HomeAutomation,
}

/// A command on its way to be carried out.
#[derive(Debug)]
pub struct Order {
    /// The JSON text, as it came.
    pub text: Bytes,
    /// The way it came.
    pub origin: Origin,
    /// Where an answer is wanted over MQTT, kept through a restart; `None` for the usual topic or another way in.
    pub reply: Option<crate::mqtt::Reply>,
    /// Takes each outcome.
    pub outcomes: mpsc::Sender<Outcome>,
}

/// What became of a command so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The command's; empty where it had none that could be read.
    pub id: String,
    /// How far it is.
    pub status: Status,
    /// Why it failed: what, where, and what is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was understood and is being carried out.
    Executing,
    /// It was carried out.
    Successful,
    /// It was not; nothing has changed.
    Failed,
}

/// Where commands are handed in. A clone is the same desk.
#[derive(Clone, Debug)]
pub struct Desk {
    orders: mpsc::Sender<Order>,
}

impl Desk {
    /// A desk, and where its orders come out. At most `waiting` wait; further ones fail at once.
    pub fn new(waiting: usize) -> (Self, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel(waiting);
        (Self { orders }, inbox)
    }

    /// Hands in a command. Its outcomes come until the last one, `successful` or `failed`.
    pub fn hand_in(&self, text: Bytes, origin: Origin) -> mpsc::Receiver<Outcome> {
        self.hand_in_for(text, origin, None)
    }

    /// The same for one whose answer is wanted at another topic.
    pub fn hand_in_for(
        &self,
        text: Bytes,
        origin: Origin,
        reply: Option<crate::mqtt::Reply>,
    ) -> mpsc::Receiver<Outcome> {
        // `executing` and the last one.
        let (outcomes, coming) = mpsc::channel(2);
        let order = Order { text, origin, reply, outcomes };
        if let Err(mpsc::error::TrySendError::Full(order) | mpsc::error::TrySendError::Closed(order)) =
            self.orders.try_send(order)
        {
            let failed = Outcome {
                id: String::new(),
                status: Status::Failed,
                reason: Some("too many commands at once; send them one after the other".into()),
                result: None,
            };
            // The channel was made above and is empty.
            order.outcomes.try_send(failed).ok();
        }
        coming
    }
}
