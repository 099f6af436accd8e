//! How a browser reaches us: every way in becomes a stream of [`Call`]s, as a listener gives TCP streams.
//!
//! A WebSocket, a WHEP resource and a pair of MQTT topics each carry one call. Who answers a call cannot
//! tell which it was. SDP is an opaque string here but for the ICE lines that WHEP's PATCH needs.

mod manners;
mod mqtt;
mod websocket;
mod whep;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::command::Desk;
use crate::ice::IceServer;
use crate::ice::Servers;
use crate::tasks::Group;

pub use mqtt::serve as serve_mqtt;
pub use websocket::serve as serve_websocket;
pub use websocket::{MOST_FRAME, Purpose};
pub use whep::router as whep_router;
pub use whep::{Admitted, Reached};

/// The largest signalling message that is read. A Chromium offer with all its codecs is about 8 KiB;
/// MQTT's usual packet limit is 256 KiB.
pub const MOST_BYTES: usize = 256 * 1024;

/// How many signals may wait in each direction of a call. A browser trickles about ten candidates.
const QUEUE: usize = 64;

/// Names one viewer from its first message to its last. Unguessable, since WHEP puts it into a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ViewerId(String);

impl ViewerId {
    /// A new name: 128 random bits in hexadecimal.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Only the beginning, which tells viewers apart in a log without giving away a WHEP session.
impl fmt::Display for ViewerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[..8])
    }
}

/// Where the ways in bring their calls, and what they need for it. A clone is the same.
#[derive(Clone, Debug)]
pub struct Reception {
    /// Takes the calls.
    pub calls: mpsc::Sender<Call>,
    /// Takes the commands of those who may give some.
    pub desk: Desk,
    /// What viewers are told of STUN and TURN servers.
    pub servers: Servers,
    /// In which the ways in run.
    pub group: Group,
}

/// One viewer's conversation with the board.
///
/// It ends when either side drops its channel.
#[derive(Debug)]
pub struct Call {
    /// Who calls.
    pub viewer: ViewerId,
    /// Which way the call came, for status and logs.
    pub way: Way,
    /// What the viewer may do besides watching.
    pub rights: Rights,
    /// The camera asked for by name; `None` is the first one.
    pub camera: Option<String>,
    /// The address of the board at which the viewer has reached it, where the call came over no broker.
    pub reached: Option<IpAddr>,
    /// What the viewer sends.
    pub incoming: mpsc::Receiver<Signal>,
    /// What the viewer gets.
    pub outgoing: mpsc::Sender<Signal>,
}

/// The other end of a [`Call`], held by the way in.
#[derive(Debug)]
pub struct Line {
    /// The call's viewer.
    pub viewer: ViewerId,
    /// Towards whoever answers.
    pub to_device: mpsc::Sender<Signal>,
    /// From whoever answers.
    pub to_viewer: mpsc::Receiver<Signal>,
}

/// Opens a call and its other end.
pub fn call(way: Way, camera: Option<String>, reached: Option<IpAddr>) -> (Call, Line) {
    let viewer = ViewerId::random();
    let (to_device, incoming) = mpsc::channel(QUEUE);
    let (outgoing, to_viewer) = mpsc::channel(QUEUE);
    let rights = way.rights();
    let call = Call { viewer: viewer.clone(), way, rights, camera, reached, incoming, outgoing };
    (call, Line { viewer, to_device, to_viewer })
}

/// The ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// `/api/signal`
    WebSocket,
    /// `/whep`
    Whep,
    /// The broker.
    Mqtt,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Whep, Self::Mqtt];

    /// Who comes over HTTP has passed its guard and holds the secret. The broker lets viewers pass whom it would not
    /// let command: that is what its access control is for, and it knows topics only, not data channels.
    fn rights(self) -> Rights {
        match self {
            Self::WebSocket | Self::Whep => Rights::Manage,
            Self::Mqtt => Rights::Watch,
        }
    }
}

/// What a viewer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Watch, and command.
    Manage,
    /// Watch only.
    Watch,
}

/// A signalling message. The same JSON on every way in; unknown fields are ignored, unknown types refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Signal {
    /// The viewer's session description.
    Offer {
        /// RFC 8866 text.
        sdp: String,
        /// The camera wanted, where the way in has no other place to say so: on MQTT. The first one without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        camera: Option<String>,
    },
    /// The board's session description.
    Answer {
        /// RFC 8866 text.
        sdp: String,
    },
    /// One ICE candidate; `null` ends them.
    Candidate {
        /// As the browser's `RTCIceCandidate.toJSON()` gives it.
        candidate: Option<Candidate>,
    },
    /// The viewer asks for STUN and TURN servers; the board tells them.
    #[serde(rename = "ice-servers")]
    IceServers {
        /// As RTCConfiguration.iceServers takes them. Empty in the question.
        #[serde(default)]
        servers: Vec<IceServer>,
        /// Seconds for which credentials among them are good, where they end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lifetime: Option<u64>,
    },
    /// Something the other side said cannot be done.
    Error {
        /// A stable word for programs.
        #[serde(default)]
        code: Refusal,
        /// A sentence for people: what, where, and what to do.
        reason: String,
    },
    /// The conversation ends.
    Bye {
        /// Why.
        #[serde(default)]
        reason: String,
        /// A stable word for programs, where they should know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Farewell>,
    },
}

/// Why a conversation ends, where a program should act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Farewell {
    /// An operator ended it: do not come back without being told to by a person.
    Dismissed,
}

impl Signal {
    /// An error to the viewer.
    pub fn error(code: Refusal, reason: impl Into<String>) -> Self {
        Self::Error { code, reason: reason.into() }
    }

    /// The end of a conversation.
    pub fn bye(reason: impl Into<String>) -> Self {
        Self::Bye { reason: reason.into(), code: None }
    }

    /// The servers for a viewer, with credentials made now.
    fn ice_servers(servers: &Servers) -> Self {
        Self::IceServers {
            servers: servers.for_viewer(),
            lifetime: servers.lifetime().map(|lifetime| lifetime.as_secs()),
        }
    }

    /// As JSON text.
    fn text(&self) -> String {
        serde_json::to_string(self).expect("signals hold nothing that JSON cannot")
    }
}

/// RTCIceCandidateInit (W3C WebRTC, section 4.8.1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The candidate-attribute (RFC 8839, section 5.1); empty ends the candidates of a generation.
    pub candidate: String,
    /// The media section's identification tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdp_mid: Option<String>,
    /// The media section's index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdp_m_line_index: Option<u16>,
    /// The ICE generation it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

/// Why something was refused, in a word that programs can rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Not JSON, a wrong type, an unknown message, too long, or out of turn.
    #[default]
    BadMessage,
    /// The offer is not SDP, or nothing that can be answered.
    BadOffer,
    /// The offer is sound but has no codec that this board sends.
    NoCommonCodec,
    /// The candidate cannot be read.
    BadCandidate,
    /// No camera of that name.
    UnknownCamera,
    /// The camera gives no picture at the moment.
    NoPicture,
    /// As many viewers as the configuration admits are watching.
    TooManyViewers,
    /// The board itself failed.
    Internal,
}

/// Reads one message from text. The error says what is wrong with it, for the one who sent it.
pub fn parse(text: &str) -> Result<Signal, String> {
    if text.len() > MOST_BYTES {
        return Err(format!("the message has {} bytes; at most {MOST_BYTES} are read", text.len()));
    }
    const WANTED: &str = "send {\"type\":\"offer\"|\"candidate\"|\"ice-servers\"|\"bye\", ..}";
    // The library's words for JSON that is no object name types of ours.
    if !text.trim_start().starts_with('{') {
        return Err(format!("not a signalling message (no JSON object); {WANTED}"));
    }
    serde_json::from_str(text).map_err(|error| format!("not a signalling message ({error}); {WANTED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_and_write_as_documented() {
        let cases = [
            (r#"{"type":"offer","sdp":"v=0"}"#, Signal::Offer { sdp: "v=0".into(), camera: None }),
            (
                r#"{"type":"offer","sdp":"v=0","camera":"yard"}"#,
                Signal::Offer { sdp: "v=0".into(), camera: Some("yard".into()) },
            ),
            (r#"{"type":"candidate","candidate":null}"#, Signal::Candidate { candidate: None }),
            (
                r#"{"type":"candidate","candidate":{"candidate":"c","sdpMid":"0","sdpMLineIndex":0}}"#,
                Signal::Candidate {
                    candidate: Some(Candidate {
                        candidate: "c".into(),
                        sdp_mid: Some("0".into()),
                        sdp_m_line_index: Some(0),
                        username_fragment: None,
                    }),
                },
            ),
            (
                r#"{"type":"ice-servers","servers":[{"urls":["stun:a"]}],"lifetime":60}"#,
                Signal::IceServers {
                    servers: vec![IceServer { urls: vec!["stun:a".into()], username: None, credential: None }],
                    lifetime: Some(60),
                },
            ),
            (r#"{"type":"bye","reason":"done"}"#, Signal::bye("done")),
            (
                r#"{"type":"bye","reason":"done","code":"dismissed"}"#,
                Signal::Bye { reason: "done".into(), code: Some(Farewell::Dismissed) },
            ),
            (r#"{"type":"error","code":"bad-offer","reason":"r"}"#, Signal::error(Refusal::BadOffer, "r")),
        ];
        for (text, signal) in cases {
            assert_eq!(parse(text).unwrap(), signal);
            assert_eq!(serde_json::to_string(&signal).unwrap(), text);
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_types_refused() {
        assert!(parse(r#"{"type":"offer","sdp":"v=0","colour":"red"}"#).is_ok());
        assert!(parse(r#"{"type":"ice-servers"}"#).is_ok());
        assert!(parse(r#"{"type":"dance"}"#).unwrap_err().contains("unknown variant `dance`"));
        assert!(parse(r#"{"type":"offer","sdp":5}"#).unwrap_err().contains("expected a string"));
        assert!(parse("[[[[").is_err());
        assert!(parse(&" ".repeat(MOST_BYTES + 1)).unwrap_err().contains("bytes"));
    }

    /// The inputs that the fuzzer begins with.
    #[test]
    fn the_fuzzer_s_inputs_are_read_or_refused_and_what_is_read_stays_the_same() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/signal");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            let is_sound = !file.file_name().unwrap().to_str().unwrap().starts_with("bad-");
            let text = String::from_utf8(std::fs::read(&file).unwrap());
            let signal = text.map_err(|error| error.to_string()).and_then(|text| parse(&text));
            assert_eq!(signal.is_ok(), is_sound, "{}: {signal:?}", file.display());
            if let Ok(signal) = signal {
                assert_eq!(parse(&serde_json::to_string(&signal).unwrap()), Ok(signal));
                read += 1;
            }
        }
        assert!(read >= 6, "only {read} sound inputs were found");
    }

    #[test]
    fn a_viewer_is_logged_by_the_beginning_of_its_name_only() {
        let viewer = ViewerId::random();
        assert_eq!(viewer.to_string().len(), 8);
        assert_eq!(viewer.as_str().len(), 32);
    }
}
