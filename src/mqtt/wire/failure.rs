//! Why a connection ended, in words that say what to do, and how soon it is worth another attempt.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// What has to change before an attempt can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The broker has to be there, and the network.
    Away,
    /// Somebody has to change something, here or at the broker.
    Refused,
    /// The clock has to be set, most likely.
    Clock,
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
            Some(io) => Self::away(in_words(io)),
            None => Self::refused(format!("what answers there is no broker: {error}")),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        use CertificateError as Wrong;
        let clock = |reason: &str| Self { kind: Kind::Clock, reason: reason.into() };
        match error {
            rustls::Error::InvalidCertificate(Wrong::NotValidYet | Wrong::NotValidYetContext { .. }) => {
                clock("the broker's certificate is not valid yet, or this board's clock is wrong")
            }
            rustls::Error::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. }) => {
                clock("the broker's certificate has expired, or this board's clock is wrong")
            }
            // The latter: by somebody of the same name as one who is trusted.
            rustls::Error::InvalidCertificate(Wrong::UnknownIssuer | Wrong::BadSignature) => {
                Self::refused("the broker's certificate is signed by nobody whom this board trusts: set mqtt.ca_file")
            }
            rustls::Error::InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) => {
                Self::refused("the broker's certificate is for another name than the one in mqtt.url")
            }
            rustls::Error::InvalidCertificate(wrong) => {
                Self::refused(format!("the broker's certificate cannot be trusted: {wrong}"))
            }
            rustls::Error::AlertReceived(alert) => Self::refused(format!(
                "the broker ended TLS ({alert:?}): does it want a certificate (mqtt.certificate_file), or another one?"
            )),
            other => Self::refused(format!("what answers there does not speak TLS with this board: {other}")),
        }
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

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the connection was closed".into()
        }
        kind if error.raw_os_error().is_some() => kind.to_string(),
        _ => error.to_string(),
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
        assert_eq!(tls(CertificateError::NotValidYet.into()).kind, Kind::Clock);
        assert_eq!(tls(CertificateError::Expired.into()).kind, Kind::Clock);
        let unknown = tls(CertificateError::UnknownIssuer.into());
        assert_eq!(unknown.kind, Kind::Refused);
        assert!(unknown.reason.contains("mqtt.ca_file"), "{}", unknown.reason);
    }

    #[test]
    fn what_the_network_says_is_said_in_words() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(Failure::of_transport(&refused), Failure::away("connection refused"));
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(Failure::of_transport(&reset), Failure::away("the connection was closed"));
    }
}
