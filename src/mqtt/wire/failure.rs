//! Why a connection ended, in words that say what to do, and how soon it is worth another attempt.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use crate::mqtt::trust::Distrust;

/// For brokers of either version.
pub const BAD_PASSWORD: &str =
    "the broker does not accept this user and password: see mqtt.user and mqtt.password_file";

/// See [`BAD_PASSWORD`].
pub const BAD_CLIENT_ID: &str = "the broker does not accept this board's client id: set mqtt.client_id, to at most 23 \
                                 letters and digits or to what the broker expects, or to \"\" to be given one";

/// Where what is asked for over HTTP may not be the broker's.
const SEE_PATH: &str = "see the path in mqtt.url";

/// What may stand behind bytes that are no MQTT.
pub const ANOTHER_PROTOCOL: &str = "is it a broker, and does it expect TLS at this port (mqtts://)?";

/// What has to change before an attempt can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The broker has to be there, and the network.
    Away,
    /// The connection was closed without a word: the broker or the network went, or it was asked for what the broker
    /// does not allow. MQTT 3.1.1 has no words for that, and some brokers do not use those of MQTT 5.
    Closed,
    /// The broker closed the connection and said that it does not allow what it was asked for.
    Objected,
    /// The broker said that what it was sent is too large for it.
    TooLarge,
    /// Another client with the same client id has to go, or to be renamed.
    Rival,
    /// Somebody has to change something, here or at the broker.
    Refused,
    /// The clock has to be set, most likely.
    Clock,
}

impl Kind {
    /// The same for those who are only told whether somebody has to do something.
    pub fn in_short(self) -> Self {
        match self {
            Self::Closed => Self::Away,
            Self::Objected | Self::TooLarge => Self::Refused,
            kind => kind,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What has to change.
    pub kind: Kind,
    /// For people.
    pub reason: String,
}

impl Failure {
    /// The broker or the network is not there.
    pub fn away(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Away, reason: reason.into() }
    }

    /// The other side closed the connection and said nothing.
    pub fn closed() -> Self {
        Self { kind: Kind::Closed, reason: "the connection was closed".into() }
    }

    /// The broker does not allow what it was asked for last.
    pub fn objected(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Objected, reason: reason.into() }
    }

    /// What the broker was sent is too large for it.
    pub fn too_large() -> Self {
        Self { kind: Kind::TooLarge, reason: "the broker says that a message is larger than it takes".into() }
    }

    /// The broker does not want it so.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, reason: reason.into() }
    }

    /// What an error of the transport means: TCP's, TLS's, or a WebSocket's.
    pub fn of_transport(error: &(dyn Error + 'static)) -> Self {
        for cause in causes(error) {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls);
            }
        }
        // What a WebSocket's handshake complains of has no cause in the network: another path, a proxy, no broker.
        match causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()) {
            Some(io) if is_closing(io) => Self::closed(),
            Some(io) => Self::away(in_words(io)),
            None => Self::of_websocket(&error.to_string()),
        }
    }

    /// What a WebSocket's handshake complains of. The library's errors are of a version that is not ours to name, so that
    /// only their words tell them apart.
    fn of_websocket(words: &str) -> Self {
        let status = words.split_once("HTTP error: ").map(|(_, status)| status);
        let code = status.and_then(|status| status.get(..3)?.parse::<u16>().ok());
        let status = status.unwrap_or_default();
        match code {
            Some(500..) => Self::away(format!("a proxy before the broker says {status}")),
            Some(401 | 403) => Self::refused(format!(
                "what answers there says {status} before MQTT begins: a proxy that asks for a login keeps boards out"
            )),
            Some(300..=399) => Self::refused(format!(
                "what answers there says {status}: mqtt.url has to name the place itself, with wss:// where that has TLS"
            )),
            Some(_) => Self::refused(format!(
                "what answers there gives no WebSocket ({status}): {SEE_PATH}; brokers have /mqtt, /ws or \
                 /, and a proxy has to pass on `Upgrade`"
            )),
            None if words.contains("SubProtocol") => Self::refused(
                "what answers there does not choose the subprotocol `mqtt`: is it a broker? A proxy has to pass on \
                 `Sec-WebSocket-Protocol`",
            ),
            None => Self::refused(format!("what answers there is no broker: {words}")),
        }
    }

    /// The same in view of what was dialled: what was `asked` for over HTTP, where that may be the reason, and whether
    /// there was a user.
    pub fn of_dialling(mut self, asked: Option<&str>, has_user: bool) -> Self {
        if let Some(asked) = asked.filter(|_| self.reason.contains(SEE_PATH)) {
            self.reason = format!("{}; {asked}", self.reason);
        }
        if self.reason == BAD_PASSWORD && !has_user {
            self.reason = "the broker lets nobody in without a user: set mqtt.user and mqtt.password_file, or let it \
                           take boards without (mosquitto: allow_anonymous true)"
                .into();
        }
        self
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(wrong) => match distrust(wrong) {
                Some(Distrust { is_of_time: true, reason }) => Self { kind: Kind::Clock, reason: reason.clone() },
                Some(Distrust { is_of_time: false, reason }) => Self::refused(reason),
                None => Self::refused(format!("the broker's certificate cannot be trusted: {wrong}")),
            },
            rustls::Error::AlertReceived(alert) => Self::refused(format!(
                "the broker ended TLS ({alert:?}): does it want a certificate (mqtt.certificate_file), or another one?"
            )),
            rustls::Error::InvalidMessage(_) => Self::refused(
                "what answers there does not speak TLS: is it a port without it (mqtt:// or ws:// in mqtt.url)?",
            ),
            other => Self::refused(format!("what answers there does not speak TLS with this board: {other}")),
        }
    }
}

/// What [`crate::mqtt::trust`] said.
fn distrust(error: &CertificateError) -> Option<&Distrust> {
    match error {
        CertificateError::Other(other) => other.0.downcast_ref(),
        _ => None,
    }
}

/// An error and what it was made of.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

/// An I/O error hides what it wraps from `source`.
fn cause_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// Whether an error is the other side's end, in whichever way the network tells of it.
fn is_closing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => true,
        // Within a packet, as `tokio-util` says it, without a kind.
        Kind::Other => error.get_ref().is_some_and(|inner| inner.to_string() == "bytes remaining on stream"),
        _ => false,
    }
}

fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(error: rustls::Error) -> Failure {
        // As tokio-rustls gives it.
        Failure::of_transport(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_certificate_out_of_its_time_is_the_clocks_and_another_is_the_operators() {
        let distrust = |is_of_time| Distrust { is_of_time, reason: "as it is".into() };
        assert_eq!(tls(distrust(true).into()), Failure { kind: Kind::Clock, reason: "as it is".into() });
        assert_eq!(tls(distrust(false).into()), Failure::refused("as it is"));
        assert_eq!(tls(CertificateError::UnknownIssuer.into()).kind, Kind::Refused);
    }

    #[test]
    fn what_was_asked_for_over_http_is_told_where_no_broker_answers() {
        let usual: crate::mqtt::Url = "ws://broker".parse().unwrap();
        let written: crate::mqtt::Url = "wss://broker/secret-token?x=1".parse().unwrap();
        let not_found = || Failure::of_websocket("HTTP error: 404 Not Found");
        let told = not_found().of_dialling(usual.asked(), true).reason;
        assert!(told.contains(SEE_PATH) && told.contains("asked for /mqtt,"), "{told}");
        let told = not_found().of_dialling(written.asked(), true).reason;
        assert!(told.contains("that stands there") && !told.contains("token"), "{told}");
        assert_eq!(Failure::closed().of_dialling(usual.asked(), true), Failure::closed());
        assert_eq!("mqtt://broker".parse::<crate::mqtt::Url>().unwrap().asked(), None);
    }

    #[test]
    fn who_has_no_user_is_not_told_that_the_password_is_wrong() {
        let refused = || Failure::refused(BAD_PASSWORD);
        assert_eq!(refused().of_dialling(None, true), refused());
        assert!(refused().of_dialling(None, false).reason.contains("nobody in without a user"));
    }

    #[test]
    fn what_the_network_says_is_said_in_words() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(Failure::of_transport(&refused), Failure::away("connection refused"));
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(Failure::of_transport(&reset), Failure::closed());
        assert_eq!(Failure::of_transport(&io::Error::other("bytes remaining on stream")), Failure::closed());
    }

    #[test]
    fn a_proxy_whose_broker_is_away_is_asked_again_soon_and_other_answers_of_the_web_are_explained() {
        let of = |words: &str| Failure::of_websocket(&format!("Websocket: {words}"));
        for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
            assert_eq!(of(&format!("HTTP error: {status}")).kind, Kind::Away, "{status}");
        }
        for (words, said) in [
            ("HTTP error: 403 Forbidden", "a login"),
            ("HTTP error: 308 Permanent Redirect", "wss://"),
            ("HTTP error: 400 Bad Request", "the path in mqtt.url"),
            ("WebSocket protocol error: SubProtocol error: Server sent no subprotocol", "subprotocol `mqtt`"),
            ("HTTP format error", "there is no broker"),
        ] {
            let failure = of(words);
            assert!(failure.kind == Kind::Refused && failure.reason.contains(said), "{words}: {}", failure.reason);
        }
    }
}
