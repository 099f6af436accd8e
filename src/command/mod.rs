//! What operators want done, and what becomes of it: the words that every way in shares.
//!
//! A command comes over MQTT, the WebSocket or a data channel as JSON text, is handed in at the [`Desk`] by its
//! [`Sender`], and gives one or two [`Outcome`]s. Who carries it out is not known here.

mod allowance;
mod desk;
mod parse;
mod schema;
mod terms;
#[cfg(test)]
mod tests;
mod values;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::json;

pub use allowance::{Allowance, Rate};
pub use desk::{Crowd, Desk, Order, Orders, Sender, SenderId};
pub use parse::{Rejection, Request, id_of, names, parse};
pub use schema::*;
pub use terms::{Subject, WITHOUT_A_WORD};
pub use values::{Text, Within};

/// The longest command that is read. The largest is a configuration; a kilobyte is usual.
pub const MOST_BYTES: usize = 64 * 1024;

/// Characters of the reason of a failure on a way that does not take all of it.
const SHORTENED: [usize; 2] = [240, 80];

/// Why a command fails whose sender sends too many.
pub const TOO_MANY: &str = "too many commands at once; wait for the outcome of one before the next";

/// Why a `privacy` that switches it off fails whose turn has not come when it is switched on.
pub const HIDDEN: &str = "privacy was switched on before this command had its turn";

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
    /// Whether the command was to read and has changed nothing: without its result it has failed.
    #[serde(skip)]
    pub is_answer: bool,
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
        Self { id: id.into(), status: Status::Executing, reason: None, result: None, is_answer: false }
    }

    /// It was carried out.
    pub fn successful(id: impl Into<String>, result: Option<Value>) -> Self {
        Self { id: id.into(), status: Status::Successful, reason: None, result, is_answer: false }
    }

    /// It was not.
    pub fn failed(id: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { id: id.into(), status: Status::Failed, reason: Some(reason.into()), result: None, is_answer: false }
    }

    /// What a command read that changes nothing.
    pub fn answer(id: impl Into<String>, result: Option<Value>) -> Self {
        Self { is_answer: true, ..Self::successful(id, result) }
    }

    /// The fullest form of it whose JSON text has at most `most` bytes, else the shortest.
    pub fn within(self, most: usize) -> Self {
        let mut forms = self.forms(Some(most));
        let fitting = forms.iter().position(|form| form.text().len() <= most).unwrap_or(forms.len() - 1);
        forms.swap_remove(fitting)
    }

    /// Itself, and what is said in its place on a way that does not take as much, each shorter than the one before.
    /// `most` are the bytes that the way takes, where that is known. What was carried out stays successful; what was to be read and cannot be told
    /// has failed.
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

    /// The JSON texts of its forms, for a way that says or shows only later how much it takes: the fullest, and what is
    /// said in its place, each shorter than the one before. `most` are the bytes that the way takes, where that is known.
    pub fn texts(self, most: Option<usize>) -> Vec<Bytes> {
        self.forms(most).iter().map(|form| Bytes::from(form.text())).collect()
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
