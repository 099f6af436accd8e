//! Commands from operators and their outcomes: the messages that every transport shares.
//!
//! A command is received over MQTT, the WebSocket or a data channel as JSON text. Its [`Sender`] submits it to the
//! [`CommandQueue`], which makes it a [`Request`]; the request gives one or two [`Outcome`]s. This module does not know
//! how it is executed.

mod allowance;
mod parse;
mod properties;
mod queue;
mod request;
mod schema;
#[cfg(test)]
mod tests;
mod values;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::json;

pub use parse::{Rejection, id_of, names, parse};
pub use properties::Resource;
pub use queue::{CommandQueue, Requests, Sender, SenderGroup};
pub use request::{Request, SenderId};
pub use schema::*;
pub use values::Text;

/// The longest command that is read, in bytes. The largest is a configuration; a kilobyte is usual.
pub const MOST_BYTES: usize = 64 * 1024;

/// Characters of the reason of a failure on a transport that does not accept all of it.
const SHORTENED: [usize; 2] = [240, 80];

/// Why a command fails if its sender exceeds its rate.
pub const TOO_MANY: &str = "too many commands at once; wait for the outcome of one before the next";

/// Why a command that switches privacy off fails if it still waits when privacy is switched on.
pub const SUPERSEDED: &str = "privacy was switched on before this command had its turn";

/// Why a command fails that arrives during shutdown.
pub const STOPPING: &str = "the board shuts down";

/// The transport on which a command was received, and its outcome goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The broker, whose access control authorized it.
    Broker,
    /// A WebSocket whose client knew the secret.
    WebSocket,
    /// The data channel of a viewer that knew the secret.
    DataChannel,
    /// A plain value from a home automation, which the board turned into a command.
    HomeAutomation,
}

/// The address of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The response topic.
    pub topic: String,
    /// The correlation data (MQTT 5, section 3.3.2.3.6).
    pub correlation: Option<Bytes>,
}

/// Whether the type of a message is `command`, on a transport that has other messages too.
pub fn is_command(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind<'t> {
        #[serde(rename = "type", borrow)]
        name: Cow<'t, str>,
    }
    serde_json::from_str::<Kind<'_>>(text).is_ok_and(|kind| kind.name == "command")
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The command's id; empty if it had none that could be read.
    pub id: String,
    /// Its progress.
    pub status: Status,
    /// Why it failed: the mistake, its place, and the allowed values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Whether the command only reads and has changed nothing: without its result it has failed.
    #[serde(skip)]
    pub is_answer: bool,
}

/// The progress of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was understood and is being executed.
    Executing,
    /// It was executed.
    Successful,
    /// It was not executed; nothing has changed.
    Failed,
}

impl Outcome {
    /// It is being executed.
    pub fn executing(id: impl Into<String>) -> Self {
        Self { id: id.into(), status: Status::Executing, reason: None, result: None, is_answer: false }
    }

    /// It was executed.
    pub fn successful(id: impl Into<String>, result: Option<Value>) -> Self {
        Self { id: id.into(), status: Status::Successful, reason: None, result, is_answer: false }
    }

    /// It was not executed.
    pub fn failed(id: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { id: id.into(), status: Status::Failed, reason: Some(reason.into()), result: None, is_answer: false }
    }

    /// The result of a command that changes nothing.
    pub fn answer(id: impl Into<String>, result: Option<Value>) -> Self {
        Self { is_answer: true, ..Self::successful(id, result) }
    }

    /// The longest form whose JSON text has at most `most` bytes, otherwise the shortest.
    pub fn within(self, most: usize) -> Self {
        let mut forms = self.forms(Some(most));
        let fitting = forms.iter().position(|form| form.text().len() <= most).unwrap_or(forms.len() - 1);
        forms.swap_remove(fitting)
    }

    /// The outcome, and shorter forms for a transport with a size limit, each shorter than the one before. `most` is
    /// the limit in bytes, if it is known. A command that was executed stays successful; a command that only reads
    /// fails if its result cannot be sent.
    fn forms(self, most: Option<usize>) -> Vec<Self> {
        let bytes = self.text().len();
        let limit = most.map_or("this way does not take as many".into(), |most| format!("this way takes {most}"));
        let left_out = format!("the result has {bytes} bytes and {limit}");
        let ask = format!("{left_out}; ask for it in another way");
        let (id, status) = (self.id.clone(), self.status);
        let mut forms = vec![self];
        match (status, &forms[0].result, &forms[0].reason) {
            (Status::Successful, Some(_), _) if forms[0].is_answer => {
                forms.extend([Self::failed(&id, ask), Self::failed(&id, left_out)]);
                forms.push(Self { reason: None, ..Self::failed(&id, "") });
            }
            (Status::Successful, Some(result), _) => {
                let with = |warning: String| Self::successful(&id, Some(json!({ "warning": warning })));
                let own = result["warning"].as_str().map(|own| with(format!("{own}; {left_out}, so it is left out")));
                let short = with(format!("{left_out}, so it is left out"));
                forms.extend(own.into_iter().chain([short, Self::successful(&id, None)]));
            }
            (Status::Failed, _, Some(reason)) => {
                let cut = SHORTENED.map(|most| Self::failed(&id, parse::shortened(reason.clone(), most)));
                forms.extend(cut);
                forms.push(Self { reason: None, ..Self::failed(&id, "") });
            }
            _ => {}
        }
        let mut shortest = usize::MAX;
        forms.retain(|form| {
            let bytes = form.text().len();
            let is_shorter = bytes < shortest;
            shortest = shortest.min(bytes);
            is_shorter
        });
        forms
    }

    /// The JSON texts of its forms, for a transport whose limit is known only later: the longest first, each shorter
    /// than the one before. `most` is the limit in bytes, if it is known.
    pub fn texts(self, most: Option<usize>) -> Vec<Bytes> {
        self.forms(most).iter().map(|form| Bytes::from(form.text())).collect()
    }

    /// As JSON text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("an outcome can be written as JSON")
    }

    /// As JSON text for transports that have other messages too: with `"type":"outcome"`.
    pub fn message(&self) -> String {
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Message<'o> {
            Outcome(&'o Outcome),
        }
        serde_json::to_string(&Message::Outcome(self)).expect("an outcome can be written as JSON")
    }
}
