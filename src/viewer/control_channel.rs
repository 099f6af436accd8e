//! What is said on the data channel `control` of each viewer: clock comparison and events, as JSON text.

use serde::{Deserialize, Serialize};

use super::Picture;

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
        /// What the RTP timestamp of a picture captured at that moment would be.
        rtp: u32,
    },
    /// Something changed.
    Event(Event<'a>),
    /// The board ends the conversation.
    Bye {
        /// Why.
        reason: &'a str,
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
    /// How many are watching.
    Viewers {
        /// This viewer included.
        viewers: usize,
    },
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
            (Reply::Pong { sent: 1.5, board: 2.5, rtp: 7 }, r#"{"type":"pong","sent":1.5,"board":2.5,"rtp":7}"#),
            (Reply::Event(Event::Viewers { viewers: 2 }), r#"{"type":"event","event":"viewers","viewers":2}"#),
            (
                Reply::Event(Event::Camera(&Picture { state: "waiting", reason: Some("unplugged".into()) })),
                r#"{"type":"event","event":"camera","state":"waiting","reason":"unplugged"}"#,
            ),
            (Reply::Bye { reason: "r" }, r#"{"type":"bye","reason":"r"}"#),
        ];
        for (reply, text) in texts {
            assert_eq!(reply.text(), text);
        }
    }
}
