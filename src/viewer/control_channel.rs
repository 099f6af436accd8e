//! What is said on the data channel `control` of each viewer: clock comparison, events and commands, as JSON text.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Picture;
use crate::command;
use crate::command::Desk;
use crate::command::Origin;
use crate::command::Outcome;
use crate::command::Sender;
use crate::signalling::{Farewell, Rights};

/// Outcomes that wait for the channel: two of each command that may be under way, and a burst of refusals.
const OUTCOMES: usize = 64;

/// The longest message that every browser takes (RFC 8841, section 6.1: what is meant where nothing is said).
const MOST_BYTES: usize = 64 * 1024;

/// What the words `"type":"outcome",` add.
const KIND: usize = 32;

/// A message from the page.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Request {
    /// Asks what the board's clock shows.
    Ping {
        /// The page's clock in milliseconds, returned as it is.
        sent: f64,
    },
    /// The page leaves.
    Bye {},
    /// It wants something done; the whole text is for the desk.
    Command {},
}

/// A message to the page.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Reply<'a> {
    /// What the board's clock shows.
    Pong {
        /// As in the ping.
        sent: f64,
        /// The board's monotonic clock in milliseconds.
        board: f64,
        /// What the RTP timestamp of a picture captured at that moment would be, where the viewer has a place for pictures.
        #[serde(skip_serializing_if = "Option::is_none")]
        rtp: Option<u32>,
    },
    /// Something changed.
    Event(Event<'a>),
    /// The board ends the conversation.
    Bye {
        /// Why.
        reason: &'a str,
        /// A word for programs.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Farewell>,
    },
    /// A message was not understood.
    Error {
        /// What is wrong with it.
        reason: String,
    },
}

/// What pages are told as it changes.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// Whether there is a picture.
    Camera(&'a Picture),
    /// Whether the board has sound. A viewer that gets it inactive makes another offer to hear it.
    Sound {
        /// Whether it has.
        on: bool,
    },
    /// How many are watching.
    Viewers {
        /// This viewer included.
        viewers: usize,
    },
    /// An operator seeks this board: the page shall be seen.
    Identify {
        /// For how long.
        seconds: u64,
    },
}

/// The commands of one viewer.
#[derive(Debug)]
pub struct Commands {
    sender: Sender,
    rights: Rights,
    outcomes: mpsc::Sender<Outcome>,
    coming: mpsc::Receiver<Outcome>,
}

impl Commands {
    /// Of a viewer that has these rights.
    pub fn new(desk: &Desk, rights: Rights) -> Self {
        let (outcomes, coming) = mpsc::channel(OUTCOMES);
        Self { sender: desk.sender(Origin::DataChannel), rights, outcomes, coming }
    }

    /// Takes the text of a command. Returns whether the viewer may stay: who floods is parted with.
    pub fn take(&mut self, text: &str) -> bool {
        match self.rights {
            Rights::Manage => self.sender.hand_in_among(text.as_bytes(), &self.outcomes),
            Rights::Watch if self.sender.may_be_told() => {
                let reason = "this viewer may watch only; send commands to the command topic";
                // Who sends more than the channel takes loses the answers.
                self.outcomes.try_send(Outcome::failed(command::id_of(text.as_bytes()), reason)).ok();
            }
            Rights::Watch => {}
        }
        !self.sender.is_flooding()
    }

    /// The next outcome of any of them.
    pub async fn outcome(&mut self) -> Outcome {
        self.coming.recv().await.expect("a sender is kept above")
    }

    /// An outcome as text for the channel.
    pub fn message(outcome: Outcome) -> String {
        outcome.within(MOST_BYTES - KIND).message()
    }
}

impl Reply<'_> {
    /// As text for the channel.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("these types hold nothing that JSON cannot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_documented() {
        let ping: Request = serde_json::from_str(r#"{"type":"ping","sent":12.5}"#).unwrap();
        assert_eq!(ping, Request::Ping { sent: 12.5 });
        let texts = [
            (Reply::Pong { sent: 1.5, board: 2.5, rtp: Some(7) }, r#"{"type":"pong","sent":1.5,"board":2.5,"rtp":7}"#),
            (Reply::Event(Event::Viewers { viewers: 2 }), r#"{"type":"event","event":"viewers","viewers":2}"#),
            (
                Reply::Event(Event::Camera(&Picture { state: "waiting", reason: Some("unplugged".into()) })),
                r#"{"type":"event","event":"camera","state":"waiting","reason":"unplugged"}"#,
            ),
            (Reply::Bye { reason: "r", code: None }, r#"{"type":"bye","reason":"r"}"#),
            (
                Reply::Bye { reason: "r", code: Some(Farewell::Dismissed) },
                r#"{"type":"bye","reason":"r","code":"dismissed"}"#,
            ),
            (Reply::Event(Event::Identify { seconds: 5 }), r#"{"type":"event","event":"identify","seconds":5}"#),
        ];
        for (reply, text) in texts {
            assert_eq!(reply.text(), text);
        }
    }
}
