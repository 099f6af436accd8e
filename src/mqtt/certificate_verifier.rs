//! Decides whether a broker's certificate is accepted, and if not, explains why and how to make a good one.
//!
//! A certificate that is itself in `ca_file` is accepted if its name and its dates are right: the person who put it
//! there has compared it, so no authority needs to sign it. This is how people run a broker with one self-signed
//! certificate. Any other certificate has to pass the checks of rustls and webpki.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::OtherError;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_PKCS1_SHA1WITHRSA;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{X509Name, X509Version};

/// Bits of an RSA key below which no signature is accepted (NIST SP 800-131A); the TLS library has the same bound.
const MIN_RSA_BITS: usize = 2048;

/// The most characters of a name in a certificate that a message repeats: the peer chose them.
const MAX_NAME: usize = 80;

/// The most names of a certificate that a message repeats, for the same reason.
const MAX_NAMES: usize = 4;

/// Decides whether the certificate that a broker presents is accepted.
#[derive(Debug)]
pub struct CertificateVerifier {
    /// `None` if there are no authorities.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// The host of `mqtt.url`, which the certificate has to be for, whichever of its addresses is connected to.
    host: ServerName<'static>,
    /// The certificates in `ca_file`.
    known: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFault {
    /// Whether it would be accepted at another time, or with the right clock.
    pub is_of_time: bool,
    /// What is wrong and what to do, as text for people.
    pub reason: String,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for CertificateFault {}

impl From<CertificateFault> for rustls::Error {
    fn from(fault: CertificateFault) -> Self {
        CertificateError::Other(OtherError(Arc::new(fault))).into()
    }
}

impl CertificateVerifier {
    /// Accepts, for the broker at `host`, certificates signed by `authorities`, and each certificate that is itself one
    /// of `known`.
    ///
    /// # Errors
    ///
    /// What is wrong with the authorities.
    pub fn new(
        authorities: RootCertStore,
        known: Vec<CertificateDer<'static>>,
        host: ServerName<'static>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let verifier = match authorities.is_empty() {
            true => None,
            false => {
                let builder = WebPkiServerVerifier::builder_with_provider(authorities.into(), provider.clone());
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(Self { authorities: verifier, host, known, algorithms: provider.signature_verification_algorithms })
    }

    fn is_known(&self, certificate: &CertificateDer<'_>) -> bool {
        self.known.iter().any(|known| known.as_ref() == certificate.as_ref())
    }
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let server_name = &self.host;
        let vouched = match &self.authorities {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map(drop)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        let Ok((_, certificate)) = X509Certificate::from_der(end_entity) else {
            return vouched.map(|()| ServerCertVerified::assertion());
        };
        let presented = PresentedCertificate { encoded: end_entity, certificate, host: server_name, now };
        let fault = match vouched {
            _ if presented.has_weak_key() => Some(presented.weak_key()),
            Ok(()) => None,
            Err(_) if self.is_known(end_entity) => presented.fault_of_time().or_else(|| presented.fault_of_name()),
            Err(refused) => Some(presented.fault(&refused)),
        };
        match fault {
            None => Ok(ServerCertVerified::assertion()),
            Some(fault) => Err(fault.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    /// webpki cannot read a certificate of version 1; only its key is needed here.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match X509Certificate::from_der(certificate) {
            Ok((_, read)) if read.version() == X509Version::V1 && self.is_known(certificate) => {
                let key = SubjectPublicKeyInfoDer::from(read.public_key().raw);
                verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
            }
            _ => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A certificate that a broker presents.
struct PresentedCertificate<'c> {
    encoded: &'c CertificateDer<'c>,
    certificate: X509Certificate<'c>,
    /// The host of `mqtt.url`.
    host: &'c ServerName<'c>,
    now: UnixTime,
}

impl PresentedCertificate<'_> {
    /// Why it is not accepted, after webpki refused it. Faults of the certificate itself come before its signer: only a
    /// new certificate fixes them.
    fn fault(&self, refused: &rustls::Error) -> CertificateFault {
        use CertificateError as Wrong;
        if self.certificate.version() == X509Version::V1 {
            let what = "is of version 1, which has no subjectAltName: ";
            return new_fault(format!("{what}{}", self.how_to_make_one()));
        }
        if let Some(fault) = self.fault_of_time() {
            return fault;
        }
        let rustls::Error::InvalidCertificate(wrong) = refused else {
            return new_fault(format!("cannot be trusted: {refused}"));
        };
        match wrong {
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } | Wrong::Expired | Wrong::ExpiredContext { .. } => {
                CertificateFault {
                    is_of_time: true,
                    reason: "the certificate that signed the broker's is not valid yet or has expired, or this \
                             board's clock is wrong"
                        .into(),
                }
            }
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                self.fault_of_name().unwrap_or_else(|| new_fault(format!("cannot be trusted: {wrong}")))
            }
            _ if self.is_signed_by_sha1() => new_fault(format!(
                "is signed with SHA-1, which is not safe any more: make a new one with `openssl … -sha256`{}",
                self.alternatives()
            )),
            // The latter: the signer has the same name as a trusted authority.
            Wrong::UnknownIssuer | Wrong::BadSignature => self.unknown_issuer(),
            _ if self.certificate.is_ca() => new_fault(
                "says that it is an authority (CA:TRUE), as `openssl req -x509` makes it: set mqtt.ca_file to a copy \
                 of this very certificate, or have it sign another one for the broker"
                    .into(),
            ),
            Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => new_fault(format!(
                "is not for servers (its extendedKeyUsage lacks serverAuth): {}",
                self.how_to_make_one()
            )),
            other => new_fault(format!("cannot be trusted: {other}")),
        }
    }

    fn fault_of_time(&self) -> Option<CertificateFault> {
        let (from, until) = (self.certificate.validity().not_before, self.certificate.validity().not_after);
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        let what = if now < from.timestamp() {
            format!("is not valid yet, but from {} on", from.to_datetime().date())
        } else if now > until.timestamp() {
            format!("has expired on {}", until.to_datetime().date())
        } else {
            return None;
        };
        let reason = format!("the broker's certificate {what}, or this board's clock is wrong");
        Some(CertificateFault { is_of_time: true, reason })
    }

    /// The fault of being for another host, if it is. Without a subjectAltName the common name counts, which only
    /// matters for a certificate that is known: webpki has refused all others by then.
    fn fault_of_name(&self) -> Option<CertificateFault> {
        let names = self.names();
        if names.is_empty() {
            let common = self.common_name();
            if common.as_deref().is_some_and(|common| self.is_host(common)) && self.is_alone() {
                return None;
            }
            let what = match common.filter(|_| self.is_alone()) {
                Some(common) => format!(
                    "is for another name than the one in mqtt.url: for {}, not for {}",
                    shortened(&common, MAX_NAME),
                    self.host.to_str()
                ),
                None => "has no subjectAltName (its common name does not count)".into(),
            };
            return Some(new_fault(format!("{what}: {}", self.how_to_make_one())));
        }
        let parsed = ParsedCertificate::try_from(self.encoded);
        if parsed.is_ok_and(|parsed| verify_server_name(&parsed, self.host).is_ok()) {
            return None;
        }
        let host = self.host.to_str();
        let hint = match names.iter().any(|name| self.is_host(name.trim_start_matches("DNS:"))) {
            true => "; an address has to stand there as an IP address and not as a name",
            false => "",
        };
        Some(new_fault(format!(
            "is for another name than the one in mqtt.url: for {}, not for {host}{hint}. {}",
            shortened(&names.join(", "), MAX_NAME * MAX_NAMES),
            capitalised(&self.how_to_make_one())
        )))
    }

    /// Whether it is self-signed: then the person who compared it has compared its common name too.
    fn is_alone(&self) -> bool {
        self.certificate.issuer() == self.certificate.subject()
    }

    fn unknown_issuer(&self) -> CertificateFault {
        new_fault(if self.is_alone() {
            "is signed by nobody that this board trusts, but by itself: set mqtt.ca_file to a copy of it".into()
        } else {
            format!(
                "is signed by nobody that this board trusts: set mqtt.ca_file to the certificate of {}, or have the \
                 broker send the intermediate certificates",
                shortened(&self.certificate.issuer().to_string(), MAX_NAME)
            )
        })
    }

    fn has_weak_key(&self) -> bool {
        self.rsa_bits().is_some_and(|bits| bits < MIN_RSA_BITS)
    }

    fn weak_key(&self) -> CertificateFault {
        let bits = self.rsa_bits().unwrap_or_default();
        let what = format!("has an RSA key of {bits} bits, and less than {MIN_RSA_BITS} are not safe: ");
        new_fault(format!("{what}{}", self.how_to_make_one()))
    }

    fn rsa_bits(&self) -> Option<usize> {
        match self.certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(key.key_size()),
            _ => None,
        }
    }

    fn is_signed_by_sha1(&self) -> bool {
        self.certificate.signature_algorithm.algorithm == OID_PKCS1_SHA1WITHRSA
    }

    /// The hosts in its subjectAltName, as `openssl` writes them.
    fn names(&self) -> Vec<String> {
        let Ok(Some(extension)) = self.certificate.subject_alternative_name() else { return Vec::new() };
        let written = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| format!("IP:{address}")),
            _ => None,
        };
        extension.value.general_names.iter().filter_map(written).take(MAX_NAMES).collect()
    }

    fn common_name(&self) -> Option<String> {
        common_name(self.certificate.subject())
    }

    fn is_host(&self, name: &str) -> bool {
        match self.host {
            ServerName::DnsName(host) => host.as_ref().eq_ignore_ascii_case(name),
            ServerName::IpAddress(host) => name.parse::<IpAddr>().is_ok_and(|name| name == IpAddr::from(*host)),
            _ => false,
        }
    }

    /// What `subjectAltName` has to contain for this host.
    fn requested(&self) -> String {
        match self.host {
            ServerName::IpAddress(_) => format!("IP:{}", self.host.to_str()),
            _ => format!("DNS:{}", self.host.to_str()),
        }
    }

    /// How to make a certificate that is accepted, in the way in which this one seems to have been made.
    fn how_to_make_one(&self) -> String {
        let (host, requested) = (self.host.to_str(), self.requested());
        match self.is_alone() {
            true => format!(
                "make one with `openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj \"/CN={host}\" -addext \
                 \"subjectAltName={requested}\" -keyout server.key -out server.crt` and set mqtt.ca_file to a copy of it"
            ),
            false => format!(
                "have it signed again by `openssl x509 -req … -extfile names.txt`, where names.txt has the line \
                 `subjectAltName={requested}`{}",
                self.alternatives()
            ),
        }
    }

    fn alternatives(&self) -> &'static str {
        "; docs/operating.md has all the lines"
    }
}

fn new_fault(what: String) -> CertificateFault {
    CertificateFault { is_of_time: false, reason: format!("the broker's certificate {what}") }
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// Text from a peer, for a message: at most `most` characters, and no control characters.
fn shortened(text: &str, most: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(most).collect();
    if text.chars().count() > most { format!("{clean}…") } else { clean }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn params(names: &[&str]) -> CertificateParams {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY).into();
        params
    }

    /// The verdict on a certificate for `host`, with `known` in `ca_file`.
    fn verdict_on(
        known: &rcgen::Certificate,
        presented: &rcgen::Certificate,
        host: &str,
    ) -> Result<(), CertificateFault> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut authorities = RootCertStore::empty();
        authorities.add(known.der().clone()).unwrap();
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let certificate_verifier =
            CertificateVerifier::new(authorities, vec![known.der().clone()], host, &provider).unwrap();
        let connected_to = ServerName::try_from("192.0.2.7").unwrap();
        match certificate_verifier.verify_server_cert(presented.der(), &[], &connected_to, &[], UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                Err(other.0.downcast_ref::<CertificateFault>().expect("each refusal is in words").clone())
            }
            Err(other) => panic!("not in words: {other}"),
        }
    }

    fn alone(params: &CertificateParams) -> rcgen::Certificate {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_in_the_file_is_accepted_if_its_name_and_dates_are_right() {
        let mut made = params(&["broker.example", "192.0.2.7"]);
        made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let good = alone(&made);
        assert_eq!(verdict_on(&good, &good, "broker.example"), Ok(()));
        assert_eq!(verdict_on(&good, &good, "192.0.2.7"), Ok(()));
        let other = verdict_on(&good, &good, "other.example").unwrap_err();
        assert!(!other.is_of_time && other.reason.contains("another name"), "{other}");
        assert!(other.reason.contains("DNS:broker.example") && other.reason.contains("DNS:other.example"), "{other}");

        made.not_after = (SystemTime::now() - DAY / 2).into();
        let old = alone(&made);
        let expired = verdict_on(&old, &old, "broker.example").unwrap_err();
        assert!(expired.is_of_time && expired.reason.contains("has expired on 20"), "{expired}");
    }

    #[test]
    fn a_copy_with_another_key_is_not_accepted() {
        let mut made = params(&["broker.example"]);
        made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        made.distinguished_name.push(rcgen::DnType::CommonName, "broker.example");
        let (known, twin) = (alone(&made), alone(&made));
        let refused = verdict_on(&known, &twin, "broker.example").unwrap_err();
        assert!(refused.reason.contains("a copy of this very certificate"), "{refused}");
        made.is_ca = IsCa::NoCa;
        let (known, twin) = (alone(&made), alone(&made));
        let refused = verdict_on(&known, &twin, "broker.example").unwrap_err();
        assert!(refused.reason.contains("signed by nobody"), "{refused}");
    }

    #[test]
    fn a_common_name_counts_only_in_a_certificate_that_is_in_the_file() {
        let mut made = params(&[]);
        made.distinguished_name.push(rcgen::DnType::CommonName, "broker.example");
        made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let known = made.self_signed(&key).unwrap();
        assert_eq!(verdict_on(&known, &known, "broker.example"), Ok(()));
        let other = verdict_on(&known, &known, "other.example").unwrap_err().reason;
        assert!(other.contains("for broker.example, not for other.example") && !other.contains("has no"), "{other}");
        let issuer = Issuer::new(made.clone(), key);
        let mut signed = params(&[]);
        signed.distinguished_name.push(rcgen::DnType::CommonName, "broker.example");
        signed.distinguished_name.push(rcgen::DnType::OrganizationName, "home");
        let signed = signed.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let refused = verdict_on(&known, &signed, "broker.example").unwrap_err();
        assert!(
            refused.reason.contains("no subjectAltName") && refused.reason.contains("DNS:broker.example"),
            "{refused}"
        );

        let mut client = params(&["broker.example"]);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = client.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert!(verdict_on(&known, &client, "broker.example").unwrap_err().reason.contains("not for servers"));
    }

    #[test]
    fn an_address_listed_as_a_dns_name_is_reported() {
        let mut made = params(&[]);
        made.subject_alt_names = vec![rcgen::SanType::DnsName("192.0.2.7".try_into().unwrap())];
        let known = alone(&made);
        let refused = verdict_on(&known, &known, "192.0.2.7").unwrap_err();
        assert!(refused.reason.contains("has to stand there as an IP address"), "{refused}");
        assert!(refused.reason.contains("subjectAltName=IP:192.0.2.7"), "{refused}");
    }

    #[test]
    fn a_peer_s_text_is_shortened_and_has_no_control_characters() {
        assert_eq!(shortened("a\u{1b}[31m\nb", 4), "a?[3…");
        assert_eq!(shortened("ab", 2), "ab");
    }
}
