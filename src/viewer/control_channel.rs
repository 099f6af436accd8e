//! Messages on the data channel `control` of each viewer: clock comparison, events and commands, as JSON text.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Picture;
use crate::access::Grant;
use crate::command::CommandQueue;
use crate::command::Origin;
use crate::command::Outcome;
use crate::command::Sender;
use crate::signalling::CloseReason;

/// Outcomes that may wait for the channel: two for each command that may be in progress, and a burst of refusals.
const OUTCOMES: usize = 64;

/// The longest message that every browser accepts (RFC 8841, section 6.1: the default if the SDP states no size).
const MAX_BYTES: usize = 64 * 1024;

/// Bytes that `"type":"outcome",` adds to a message.
const KIND: usize = 32;

/// A message from the viewer's page.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Request {
    /// Asks for the time of the board's clock.
    Ping {
        /// The page's clock in milliseconds; the reply returns it unchanged.
        sent: f64,
    },
    /// The page leaves.
    Bye {},
    /// A command; its whole text is passed to the command queue.
    Command {},
}

/// A message to the viewer's page.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Reply<'a> {
    /// The time of the board's clock.
    Pong {
        /// The value from the ping.
        sent: f64,
        /// The board's monotonic clock in milliseconds.
        board: f64,
        /// RTP timestamp that a frame captured at that moment would have; `None` if the offer has no section for video.
        #[serde(skip_serializing_if = "Option::is_none")]
        rtp: Option<u32>,
    },
    /// Something changed.
    Event(Event<'a>),
    /// The board ends the session.
    Bye {
        /// Why.
        reason: &'a str,
        /// The reason as a code for programs.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<CloseReason>,
    },
    /// A message was not understood.
    Error {
        /// What is wrong with it.
        reason: String,
    },
}

/// Changes that pages are notified of.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// State of the camera's picture.
    Camera(&'a Picture),
    /// Whether the board has sound. A viewer whose audio is inactive in the answer sends another offer to get it.
    Sound {
        /// Whether it has sound.
        on: bool,
    },
    /// Number of viewers.
    Viewers {
        /// This viewer is included.
        viewers: usize,
    },
    /// An operator identifies this board: the page makes itself noticeable.
    Identify {
        /// For this many seconds.
        seconds: u64,
    },
}

/// The commands of one viewer.
#[derive(Debug)]
pub struct Commands {
    sender: Sender,
    outcomes: mpsc::Sender<Outcome>,
    coming: mpsc::Receiver<Outcome>,
}

impl Commands {
    /// The commands of a viewer with this `grant`.
    pub fn new(commands: &CommandQueue, grant: Grant) -> Self {
        let (outcomes, coming) = mpsc::channel(OUTCOMES);
        Self { sender: commands.sender(Origin::DataChannel, grant), outcomes, coming }
    }

    /// Accepts the text of a command. Returns whether the session may continue: it ends if the viewer sends a flood of
    /// commands.
    pub fn take(&mut self, text: &str) -> bool {
        self.sender.submit_to(text.as_bytes(), &self.outcomes);
        !self.sender.is_flooding()
    }

    /// Waits for the next outcome of any of the commands.
    pub async fn outcome(&mut self) -> Outcome {
        self.coming.recv().await.expect("the channel is open: `self.outcomes` is a sender")
    }

    /// The outcome as text for the channel.
    pub fn message(outcome: Outcome) -> String {
        outcome.within(MAX_BYTES - KIND).message()
    }
}

impl Reply<'_> {
    /// The message as text for the channel.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("every value of these types can be written as JSON")
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
                Reply::Bye { reason: "r", code: Some(CloseReason::Dismissed) },
                r#"{"type":"bye","reason":"r","code":"dismissed"}"#,
            ),
            (Reply::Event(Event::Identify { seconds: 5 }), r#"{"type":"event","event":"identify","seconds":5}"#),
        ];
        for (reply, text) in texts {
            assert_eq!(reply.text(), text);
        }
    }
}
