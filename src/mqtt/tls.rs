//! The TLS configuration for the broker: which certificates the board trusts, and the one that it presents itself.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::Error;
use rustls::InconsistentKeys;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate_verifier::CertificateVerifier;
use super::config::Config;
use super::pem;
use super::url::Url;
use crate::durable;

/// The longest file that is read, in bytes. All certificates of a platform together have a quarter of it.
const MAX_BYTES: usize = 1024 * 1024;

/// Loads the TLS configuration from its files, which may have changed since the last time. Takes milliseconds and
/// blocks.
///
/// # Errors
///
/// The key, the file, and its fault.
pub fn load(config: &Config, url: &Url) -> Result<Arc<ClientConfig>, String> {
    // Named here rather than taken from the process: another user of rustls may have installed another one, or none.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let host = ServerName::try_from(url.host().to_owned())
        .map_err(|_| "the host in `mqtt.url` is no name that a certificate could be for".to_owned())?;
    let certificate_verifier = certificate_verifier(config.ca_file.as_deref(), host, &provider)?;
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    // `CertificateVerifier` leaves every check to rustls and webpki, except for a certificate that is itself in
    // `ca_file`.
    let trusting = versions.dangerous().with_custom_certificate_verifier(Arc::new(certificate_verifier));
    let (Some(certificate), Some(key)) = (&config.certificate_file, &config.key_file) else {
        return Ok(Arc::new(trusting.with_no_client_auth()));
    };
    let chain = certificates("mqtt.certificate_file", certificate)?;
    let wrong = |what: String| format!("`mqtt.key_file` {}: {what}", key.display());
    let secret = read(key).and_then(|content| pem::key(&content)).map_err(wrong)?;
    let shown = trusting.with_client_auth_cert(chain, secret);
    shown.map(Arc::new).map_err(|error| wrong(why_not_shown(&error)))
}

fn certificate_verifier(
    file: Option<&Path>,
    host: ServerName<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<CertificateVerifier, String> {
    let mut authorities = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        authorities.add_parsable_certificates(found.certs);
        return match authorities.is_empty() {
            true => Err("the platform trusts no certificates: install ca-certificates, or set mqtt.ca_file".into()),
            false => CertificateVerifier::new(authorities, Vec::new(), host, provider),
        };
    };
    let wrong = |what: String| format!("`mqtt.ca_file` {}: {what}", file.display());
    let known = certificates("mqtt.ca_file", file)?;
    for (number, certificate) in known.iter().enumerate() {
        // A certificate that cannot be an authority may still be the broker's own.
        if let Err(error) = authorities.add(certificate.clone())
            && X509Certificate::from_der(certificate).is_err()
        {
            return Err(wrong(format!("certificate {} of it cannot be read ({error}): take it out", number + 1)));
        }
    }
    CertificateVerifier::new(authorities, known, host, provider).map_err(wrong)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |what: String| format!("`{key}` {}: {what}", file.display());
    read(file).and_then(|content| pem::certificates(&content)).map_err(wrong)
}

/// Why certificate and key cannot be used. The library's text for errors other than these contains nothing of a key.
fn why_not_shown(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "is not the key of the first certificate in `mqtt.certificate_file`, which has to be the board's own".into()
        }
        Error::General(_) => {
            "holds a key of a kind that cannot be used: take RSA, ECDSA on P-256 or P-384, or Ed25519".into()
        }
        other => other.to_string(),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    durable::read(file, MAX_BYTES).map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_without_a_valid_certificate_is_reported_with_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let made = rcgen::generate_simple_self_signed(vec!["broker".into()]).unwrap();
        fs::write(at("good.pem"), made.cert.pem()).unwrap();
        fs::write(at("good.key"), made.signing_key.serialize_pem()).unwrap();
        fs::write(at("other.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        fs::write(at("empty.pem"), "nothing").unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe.pem"), fifo, 0o600.into(), 0).unwrap();
        fs::File::create(at("huge.pem")).unwrap().set_len(1 << 40).unwrap();

        let with = |ca: &str, certificate: &str, key: &str| {
            let file = |name: &str| (!name.is_empty()).then(|| at(name));
            let (ca_file, certificate_file, key_file) = (file(ca), file(certificate), file(key));
            let config = Config { ca_file, certificate_file, key_file, ..Config::default() };
            load(&config, &"mqtts://broker".parse().unwrap()).map(drop)
        };
        assert_eq!(with("good.pem", "", ""), Ok(()));
        assert_eq!(with("good.pem", "good.pem", "good.key"), Ok(()));
        for (ca, certificate, key, says) in [
            ("absent.pem", "", "", "mqtt.ca_file"),
            ("pipe.pem", "", "", "a pipe"),
            ("huge.pem", "", "", "more than 1048576 bytes"),
            ("good.pem", "good.pem", "pipe.pem", "a pipe"),
            ("empty.pem", "", "", "has no certificate"),
            ("good.pem", "empty.pem", "good.key", "mqtt.certificate_file"),
            ("good.pem", "good.pem", "empty.pem", "mqtt.key_file"),
            ("good.pem", "good.pem", "other.key", "mqtt.key_file"),
        ] {
            let error = with(ca, certificate, key).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
