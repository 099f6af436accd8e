//! Signalling: every transport turns its viewers into a stream of [`Call`]s, as a listener yields TCP streams.
//!
//! A WebSocket, a WHEP resource and a pair of MQTT topics each carry one call. The code that answers a call does not
//! depend on its transport. SDP is an opaque string here, except for the ICE lines that WHEP's PATCH needs.

mod limits;
mod mqtt;
mod websocket;
mod whep;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::access::Grant;
use crate::command::CommandQueue;
use crate::ice::IceServer;
use crate::ice::Servers;
use crate::tasks::Group;

pub use mqtt::serve as serve_mqtt;
pub use websocket::serve as serve_websocket;
pub use websocket::{MAX_FRAME, Purpose};
pub use whep::router as whep_router;
pub use whep::{Authorized, Reached};

/// The largest signalling message that is read. A Chromium offer with all its codecs is about 8 KiB;
/// MQTT's usual packet limit is 256 KiB.
pub const MAX_BYTES: usize = 256 * 1024;

/// How many signals may wait in each direction of a call. A browser trickles about ten candidates.
const QUEUE: usize = 64;

/// Identifies one viewer from its first message to its last. Unguessable, since WHEP puts it into a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ViewerId(String);

impl ViewerId {
    /// A new id: 128 random bits in hexadecimal.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Only the start, which distinguishes viewers in a log without revealing a WHEP session.
impl fmt::Display for ViewerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[..8])
    }
}

/// The channels and services that the transports of signalling use. A clone is the same context.
#[derive(Clone, Debug)]
pub struct SignallingContext {
    /// The channel for calls.
    pub calls: mpsc::Sender<Call>,
    /// Accepts the commands of clients.
    pub commands: CommandQueue,
    /// The STUN and TURN servers for viewers.
    pub servers: Servers,
    /// The task group in which the transports run.
    pub group: Group,
}

/// One viewer's conversation with the board.
///
/// It ends when either side drops its channel.
#[derive(Debug)]
pub struct Call {
    /// The viewer that calls.
    pub viewer: ViewerId,
    /// The transport of the call, for status and logs.
    pub transport: Transport,
    /// What the viewer may do.
    pub grant: Grant,
    /// The requested camera; `None` is the first one.
    pub camera: Option<String>,
    /// The board's address that the viewer connected to; `None` for a call through the broker.
    pub reached: Option<IpAddr>,
    /// The signals from the viewer.
    pub incoming: mpsc::Receiver<Signal>,
    /// The signals to the viewer.
    pub outgoing: mpsc::Sender<Signal>,
}

/// The transport's end of a [`Call`].
#[derive(Debug)]
pub struct SignallingChannel {
    /// The call's viewer.
    pub viewer: ViewerId,
    /// To the board's session.
    pub to_device: mpsc::Sender<Signal>,
    /// From the board's session.
    pub to_viewer: mpsc::Receiver<Signal>,
}

/// Opens a call and its other end.
pub fn call(
    transport: Transport,
    grant: Grant,
    camera: Option<String>,
    reached: Option<IpAddr>,
) -> (Call, SignallingChannel) {
    let viewer = ViewerId::random();
    let (to_device, incoming) = mpsc::channel(QUEUE);
    let (outgoing, to_viewer) = mpsc::channel(QUEUE);
    let call = Call { viewer: viewer.clone(), transport, grant, camera, reached, incoming, outgoing };
    (call, SignallingChannel { viewer, to_device, to_viewer })
}

/// The transports of signalling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// `/api/signal`
    WebSocket,
    /// `/whep`
    Whep,
    /// The MQTT broker.
    Mqtt,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Whep, Self::Mqtt];
}

/// A signalling message. The same JSON on every transport; unknown fields are ignored, unknown types refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Signal {
    /// The viewer's session description.
    Offer {
        /// RFC 8866 text.
        sdp: String,
        /// The requested camera, if the transport has no other place for it, as MQTT. The first one if absent.
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
    /// The viewer requests STUN and TURN servers; the board sends them.
    #[serde(rename = "ice-servers")]
    IceServers {
        /// As RTCConfiguration.iceServers takes them. Empty in the request.
        #[serde(default)]
        servers: Vec<IceServer>,
        /// How long credentials among them are valid, in seconds, if they expire.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lifetime: Option<u64>,
    },
    /// A message of the other side cannot be processed.
    Error {
        /// A stable code for programs.
        #[serde(default)]
        code: ErrorCode,
        /// A sentence for people: the fault, its place, and advice.
        reason: String,
    },
    /// The conversation ends.
    Bye {
        /// Why.
        #[serde(default)]
        reason: String,
        /// A stable code for programs, if they should act on it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<CloseReason>,
    },
}

/// The reason why a conversation ends, if a program should act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// An operator ended it: do not reconnect unless a person asks for it.
    Dismissed,
}

impl Signal {
    /// An error to the viewer.
    pub fn error(code: ErrorCode, reason: impl Into<String>) -> Self {
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
        serde_json::to_string(self).expect("every signal can be written as JSON")
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

/// The stable code of a refusal, for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Not JSON, a wrong type, an unknown message, too long, or at the wrong time.
    #[default]
    BadMessage,
    /// The offer is not SDP, or cannot be answered.
    BadOffer,
    /// The offer is sound but has no codec that this board sends.
    NoCommonCodec,
    /// The candidate cannot be read.
    BadCandidate,
    /// No camera of that name.
    UnknownCamera,
    /// The camera gives no picture at the moment.
    NoPicture,
    /// The viewer may not do this: its access does not include it, or has ended.
    NotAllowed,
    /// As many viewers as the configuration admits are watching.
    TooManyViewers,
    /// The board itself failed.
    Internal,
}

/// Parses one message. The error states the fault, for the sender.
pub fn parse(text: &str) -> Result<Signal, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the message has {} bytes; at most {MAX_BYTES} are read", text.len()));
    }
    const WANTED: &str = "send {\"type\":\"offer\"|\"candidate\"|\"ice-servers\"|\"bye\", ..}";
    // For JSON that is not an object, the library's error would name types of ours.
    if !text.trim_start().starts_with('{') {
        return Err(format!("not a signalling message (no JSON object); {WANTED}"));
    }
    serde_json::from_str(text).map_err(|error| format!("not a signalling message ({error}); {WANTED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_form() {
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
                Signal::Bye { reason: "done".into(), code: Some(CloseReason::Dismissed) },
            ),
            (r#"{"type":"error","code":"bad-offer","reason":"r"}"#, Signal::error(ErrorCode::BadOffer, "r")),
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
        assert!(parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err().contains("bytes"));
    }

    /// The inputs that the fuzzer begins with.
    #[test]
    fn the_fuzzer_s_inputs_are_refused_or_survive_writing() {
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
    fn the_log_shows_only_the_start_of_a_viewer_id() {
        let viewer = ViewerId::random();
        assert_eq!(viewer.to_string().len(), 8);
        assert_eq!(viewer.as_str().len(), 32);
    }
}
