//! What operators want done, and what becomes of it: the words that every way in shares.
//!
//! A command comes over MQTT, the WebSocket or a data channel as JSON text, is handed in at the [`Desk`] by its
//! [`Sender`], and gives one or two [`Outcome`]s. Who carries it out is not known here.

mod desk;
mod parse;
mod schema;
mod terms;
#[cfg(test)]
mod tests;
mod values;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use desk::{Crowd, Desk, Order, Orders, Sender, SenderId};
pub use parse::{Rejection, Request, id_of, names, parse};
pub use schema::*;
pub use terms::{Subject, WITHOUT_A_WORD};
pub use values::{Text, Within};

/// The longest command that is read. The largest is a configuration; a kilobyte is usual.
pub const MOST_BYTES: usize = 64 * 1024;

/// Why a command fails whose sender sends too many.
pub const TOO_MANY: &str = "too many commands at once; wait for the outcome of one before the next";

/// Why a command fails that comes too late.
pub const STOPPING: &str = "the board shuts down";

/// Which way a command came, for logs, and for what must come back the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Whether a message is a command, on a way on which there are others: whether it says so of itself.
pub fn is_command(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind<'t> {
        #[serde(rename = "type", borrow)]
        name: Cow<'t, str>,
    }
    serde_json::from_str::<Kind<'_>>(text).is_ok_and(|kind| kind.name == "command")
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

impl Outcome {
    /// It is being carried out.
    pub fn executing(id: impl Into<String>) -> Self {
        Self { id: id.into(), status: Status::Executing, reason: None, result: None }
    }

    /// It was carried out.
    pub fn successful(id: impl Into<String>, result: Option<Value>) -> Self {
        Self { id: id.into(), status: Status::Successful, reason: None, result }
    }

    /// It was not.
    pub fn failed(id: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { id: id.into(), status: Status::Failed, reason: Some(reason.into()), result: None }
    }

    /// Itself where its JSON text has at most `most` bytes; else a failure that says so.
    pub fn within(self, most: usize) -> Self {
        let length = self.text().len();
        if length <= most {
            return self;
        }
        Self::failed(
            self.id,
            format!("the result has {length} bytes and this way takes {most}; ask for it in another way"),
        )
    }

    /// As JSON text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("outcomes hold nothing that JSON cannot")
    }

    /// As JSON text for ways on which there are other messages too: with `"type":"outcome"`.
    pub fn message(&self) -> String {
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Message<'o> {
            Outcome(&'o Outcome),
        }
        serde_json::to_string(&Message::Outcome(self)).expect("outcomes hold nothing that JSON cannot")
    }
}
