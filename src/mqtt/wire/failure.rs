//! The reasons why a connection ended, with instructions, and what has to change before the next attempt.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use crate::mqtt::certificate_verifier::CertificateFault;

/// For brokers of either version.
pub const BAD_PASSWORD: &str =
    "the broker does not accept this user and password: see mqtt.user and mqtt.password_file";

/// See [`BAD_PASSWORD`].
pub const BAD_CLIENT_ID: &str = "the broker does not accept this board's client id: set mqtt.client_id, to at most 23 \
                                 letters and digits or to what the broker expects, or to \"\" to be given one";

/// Part of a reason that the path requested over HTTP may have caused.
const SEE_PATH: &str = "see the path in mqtt.url";

/// A possible cause of bytes that are not MQTT.
pub const ANOTHER_PROTOCOL: &str = "is it a broker, and does it expect TLS at this port (mqtts://)?";

/// What has to change before an attempt can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The broker or the network has to come back.
    Unavailable,
    /// The connection was closed without a reason: the broker or the network went away, or the broker does not allow a
    /// request. MQTT 3.1.1 cannot report that, and some brokers do not in MQTT 5.
    Closed,
    /// The broker closed the connection and reported that it does not allow a request.
    Disallowed,
    /// The broker reported that a packet is too large for it.
    TooLarge,
    /// Another client has the same client id: one of them needs another id.
    ClientIdConflict,
    /// Somebody has to change something, here or at the broker.
    Refused,
    /// Most likely the clock has to be set.
    Clock,
}

impl Kind {
    /// The coarser kind, for callers that only need to know whether a person has to act.
    pub fn coarse(self) -> Self {
        match self {
            Self::Closed => Self::Unavailable,
            Self::Disallowed | Self::TooLarge => Self::Refused,
            kind => kind,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What has to change.
    pub kind: Kind,
    /// The reason, as text for people.
    pub reason: String,
}

impl Failure {
    /// The broker or the network cannot be reached.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Unavailable, reason: reason.into() }
    }

    /// The other side closed the connection without a reason.
    pub fn closed() -> Self {
        Self { kind: Kind::Closed, reason: "the connection was closed".into() }
    }

    /// The broker does not allow the last request.
    pub fn disallowed(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Disallowed, reason: reason.into() }
    }

    /// A packet is too large for the broker.
    pub fn too_large() -> Self {
        Self { kind: Kind::TooLarge, reason: "the broker reports that a message is too large for it".into() }
    }

    /// The broker refuses the connection as it is configured.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, reason: reason.into() }
    }

    /// The failure for an error of the transport: TCP, TLS or a WebSocket.
    pub fn of_transport(error: &(dyn Error + 'static)) -> Self {
        for cause in causes(error) {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls);
            }
        }
        // An error of the WebSocket handshake has no cause in the network: it is a wrong path, a proxy, or no broker.
        match causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()) {
            Some(io) if is_closing(io) => Self::closed(),
            Some(io) => Self::unavailable(describe(io)),
            None => Self::of_websocket(&error.to_string()),
        }
    }

    /// The failure for an error of the WebSocket handshake. The library's errors are of a version that this crate
    /// cannot name, so only their text distinguishes them.
    fn of_websocket(words: &str) -> Self {
        let status = words.split_once("HTTP error: ").map(|(_, status)| status);
        let code = status.and_then(|status| status.get(..3)?.parse::<u16>().ok());
        let status = status.unwrap_or_default();
        match code {
            Some(500..) => Self::unavailable(format!("a proxy before the broker answers {status}")),
            Some(401 | 403) => Self::refused(format!(
                "the server there answers {status} before MQTT begins: a proxy that asks for a login keeps boards out"
            )),
            Some(300..=399) => Self::refused(format!(
                "the server there answers {status}: mqtt.url has to be the final URL, with wss:// if that uses TLS"
            )),
            Some(_) => Self::refused(format!(
                "the server there opens no WebSocket ({status}): {SEE_PATH}; brokers have /mqtt, /ws or \
                 /, and a proxy has to pass on `Upgrade`"
            )),
            None if words.contains("SubProtocol") => Self::refused(
                "the server there does not choose the subprotocol `mqtt`: is it a broker? A proxy has to pass on \
                 `Sec-WebSocket-Protocol`",
            ),
            None => Self::refused(format!("the server there is not an MQTT broker: {words}")),
        }
    }

    /// Adds the context of the attempt: the path that was `asked` for over HTTP, if that may be the reason, and whether
    /// there was a user.
    pub fn with_connect_context(mut self, asked: Option<&str>, has_user: bool) -> Self {
        if let Some(asked) = asked.filter(|_| self.reason.contains(SEE_PATH)) {
            self.reason = format!("{}; {asked}", self.reason);
        }
        if self.reason == BAD_PASSWORD && !has_user {
            self.reason =
                "the broker does not accept clients without a user: set mqtt.user and mqtt.password_file, or let it \
                           take boards without (mosquitto: allow_anonymous true)"
                    .into();
        }
        self
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(wrong) => match fault_of(wrong) {
                Some(CertificateFault { is_of_time: true, reason }) => {
                    Self { kind: Kind::Clock, reason: reason.clone() }
                }
                Some(CertificateFault { is_of_time: false, reason }) => Self::refused(reason),
                None => Self::refused(format!("the broker's certificate cannot be trusted: {wrong}")),
            },
            rustls::Error::AlertReceived(alert) => Self::refused(format!(
                "the broker ended TLS ({alert:?}): does it want a certificate (mqtt.certificate_file), or another one?"
            )),
            rustls::Error::InvalidMessage(_) => Self::refused(
                "the server there does not speak TLS: is it a port without it (mqtt:// or ws:// in mqtt.url)?",
            ),
            other => Self::refused(format!("the server there does not speak TLS with this board: {other}")),
        }
    }
}

/// The verdict of [`crate::mqtt::certificate_verifier`].
fn fault_of(error: &CertificateError) -> Option<&CertificateFault> {
    match error {
        CertificateError::Other(other) => other.0.downcast_ref(),
        _ => None,
    }
}

/// An error and its causes.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

/// `source` of an I/O error does not return the error that it wraps.
fn cause_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// Whether an error means that the other side closed the connection, in any form in which the network reports it.
fn is_closing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => true,
        // Within a packet; `tokio-util` reports it like this, without a kind.
        Kind::Other => error.get_ref().is_some_and(|inner| inner.to_string() == "bytes remaining on stream"),
        _ => false,
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(error: rustls::Error) -> Failure {
        // As tokio-rustls returns it.
        Failure::of_transport(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_certificate_outside_its_validity_period_waits_for_the_clock_and_another_fault_for_the_operator() {
        let fault = |is_of_time| CertificateFault { is_of_time, reason: "as it is".into() };
        assert_eq!(tls(fault(true).into()), Failure { kind: Kind::Clock, reason: "as it is".into() });
        assert_eq!(tls(fault(false).into()), Failure::refused("as it is"));
        assert_eq!(tls(CertificateError::UnknownIssuer.into()).kind, Kind::Refused);
    }

    #[test]
    fn the_requested_http_path_is_reported_if_no_broker_answers() {
        let usual: crate::mqtt::Url = "ws://broker".parse().unwrap();
        let written: crate::mqtt::Url = "wss://broker/secret-token?x=1".parse().unwrap();
        let not_found = || Failure::of_websocket("HTTP error: 404 Not Found");
        let reason = not_found().with_connect_context(usual.http_path_hint(), true).reason;
        assert!(reason.contains(SEE_PATH) && reason.contains("asked for /mqtt,"), "{reason}");
        let reason = not_found().with_connect_context(written.http_path_hint(), true).reason;
        assert!(reason.contains("that stands there") && !reason.contains("token"), "{reason}");
        assert_eq!(Failure::closed().with_connect_context(usual.http_path_hint(), true), Failure::closed());
        assert_eq!("mqtt://broker".parse::<crate::mqtt::Url>().unwrap().http_path_hint(), None);
    }

    #[test]
    fn a_client_without_a_user_does_not_get_a_wrong_password_message() {
        let refused = || Failure::refused(BAD_PASSWORD);
        assert_eq!(refused().with_connect_context(None, true), refused());
        assert!(refused().with_connect_context(None, false).reason.contains("does not accept clients without a user"));
    }

    #[test]
    fn network_errors_are_described_in_text() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(Failure::of_transport(&refused), Failure::unavailable("connection refused"));
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(Failure::of_transport(&reset), Failure::closed());
        assert_eq!(Failure::of_transport(&io::Error::other("bytes remaining on stream")), Failure::closed());
    }

    #[test]
    fn a_proxy_without_its_broker_is_retried_soon_and_other_http_answers_are_explained() {
        let of = |words: &str| Failure::of_websocket(&format!("Websocket: {words}"));
        for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
            assert_eq!(of(&format!("HTTP error: {status}")).kind, Kind::Unavailable, "{status}");
        }
        for (words, expected) in [
            ("HTTP error: 403 Forbidden", "a login"),
            ("HTTP error: 308 Permanent Redirect", "wss://"),
            ("HTTP error: 400 Bad Request", "the path in mqtt.url"),
            ("WebSocket protocol error: SubProtocol error: Server sent no subprotocol", "subprotocol `mqtt`"),
            ("HTTP format error", "is not an MQTT broker"),
        ] {
            let failure = of(words);
            assert!(failure.kind == Kind::Refused && failure.reason.contains(expected), "{words}: {}", failure.reason);
        }
    }
}
