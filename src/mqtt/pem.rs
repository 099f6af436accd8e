//! Reads certificates and keys from PEM files (RFC 7468), and reports what is wrong with other files.
//!
//! Any line ends, a byte order mark and indentation are accepted. A file may hold a key, so no part of its content gets
//! into an error, not even the library's message about a line that cannot be parsed.

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The label of certificates in RFC 7468, section 5.1, and the one of older programs.
const CERTIFICATE: &str = "CERTIFICATE";
const OLD_CERTIFICATE: &str = "X509 CERTIFICATE";

/// The certificates of a file, at least one.
///
/// # Errors
///
/// What is wrong with the file, and what to do. It completes the sentence "the file ..".
pub fn certificates(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(content)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("has no certificate in PEM{}", instead(&text, content)))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(damaged(&error, &text)),
    }
}

/// The first key of a file.
///
/// # Errors
///
/// As [`certificates`].
pub fn key(content: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let text = text(content)?;
    let is_encrypted = text.lines().any(|line| line == "Proc-Type: 4,ENCRYPTED");
    if is_encrypted || labels(&text).any(|label| label == "ENCRYPTED PRIVATE KEY") {
        return Err(
            "is encrypted, and the board has no password for it: `openssl pkey -in … -out …` decrypts it".into()
        );
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        Error::NoItemsFound => format!("has no key in PEM{}", instead(&text, content)),
        error => damaged(&error, &text),
    })
}

/// The file's lines, in the form that the library accepts.
fn text(content: &[u8]) -> Result<String, String> {
    if content.starts_with(&[0xff, 0xfe]) || content.starts_with(&[0xfe, 0xff]) {
        return Err("is in UTF-16, as Windows writes it: save it as UTF-8 or ASCII".into());
    }
    // Files were joined, and the first one had no line end after its last line.
    let text = String::from_utf8_lossy(content).replace("----------BEGIN ", "-----\n-----BEGIN ");
    let lines = text.trim_start_matches('\u{feff}').split(['\r', '\n']).map(str::trim);
    let old = format!(" {OLD_CERTIFICATE}-----");
    let tidy = |line: &str| if line.ends_with(&old) { line.replace(OLD_CERTIFICATE, CERTIFICATE) } else { line.into() };
    Ok(lines.filter(|line| !line.is_empty()).map(tidy).collect::<Vec<_>>().join("\n"))
}

/// The text after each `BEGIN`. Only lines of RFC 7468's form, since another may hold the key itself.
fn labels(text: &str) -> impl Iterator<Item = &str> {
    let is_letter = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ';
    let labels = text.lines().filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    labels.filter(move |label| label.bytes().all(is_letter))
}

/// What a file holds instead of what is expected, as the end of a sentence.
fn instead(text: &str, content: &[u8]) -> String {
    let first = labels(text).next();
    match first {
        _ if text.is_empty() => ": it is empty".into(),
        Some("TRUSTED CERTIFICATE") => ", but in OpenSSL's own form: `openssl x509 -in … -out …` writes the usual one".into(),
        Some("PKCS7") => ", but PKCS #7: `openssl pkcs7 -print_certs -in … -out …` writes PEM".into(),
        Some("OPENSSH PRIVATE KEY") => ", but one of SSH: make one with `openssl genpkey -algorithm RSA -out …`".into(),
        Some(label) => format!(", but a {label}: is it another file that was meant?"),
        None if content.starts_with(&[0x30]) => {
            "; one in DER becomes PEM by `openssl x509 -inform der -in … -out …` (a key: `openssl pkey`), one in PKCS #12 \
             by `openssl pkcs12 -nodes -in … -out …`"
                .into()
        }
        None => ", which begins with a line `-----BEGIN …-----`".into(),
    }
}

fn damaged(error: &Error, text: &str) -> String {
    let is_on_one_line = text.lines().any(|line| line.contains("-----BEGIN ") && line.contains("-----END "));
    match error {
        _ if is_on_one_line => "has all on one line: PEM needs its line ends".into(),
        Error::MissingSectionEnd { .. } => "is cut off: the line `-----END …-----` is missing".into(),
        Error::IllegalSectionStart { .. } => "is damaged: a line `-----BEGIN …-----` is not whole".into(),
        Error::Base64Decode(_) => "is damaged: not all between `BEGIN` and `END` is base64".into(),
        _ => "is no PEM".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["broker".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn utf16(text: &str) -> Vec<u8> {
        [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn the_format_of_a_file_does_not_matter() {
        let (certificate, secret) = made();
        let (sound, known) = (certificates(certificate.as_bytes()).unwrap(), key(secret.as_bytes()).unwrap());
        let shapes: [fn(&str) -> String; 8] = [
            |text| text.replace("\r\n", "\n"),
            |text| text.replace("\r\n", "\n").replace('\n', "\r\n"),
            |text| text.replace("\r\n", "\n").replace('\n', "\r"),
            |text| format!("\u{feff}{text}"),
            |text| text.lines().map(|line| format!("    {line} \n")).collect(),
            |text| format!("# the broker in the cellar\n\n{text}\nand no more"),
            |text| text.trim_end().to_owned(),
            |text| text.replace(" CERTIFICATE-", " X509 CERTIFICATE-"),
        ];
        for shape in shapes {
            assert_eq!(certificates(shape(&certificate).as_bytes()), Ok(sound.clone()));
            assert_eq!(key(shape(&secret).as_bytes()), Ok(known.clone_key()));
        }
        // Both in one file, in either order, and two without a line end between.
        for both in [format!("{certificate}{secret}"), format!("{secret}{certificate}")] {
            assert_eq!(
                (certificates(both.as_bytes()), key(both.as_bytes())),
                (Ok(sound.clone()), Ok(known.clone_key()))
            );
        }
        assert_eq!(certificates(certificate.trim_end().repeat(2).as_bytes()).map(|all| all.len()), Ok(2));
    }

    #[test]
    fn a_fault_is_reported_without_any_part_of_the_key() {
        let (certificate, secret) = made();
        let on_one_line = secret.replace(['\r', '\n'], "");
        let cut = secret.split("-----END").next().unwrap().to_owned();
        let encrypted = secret.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let old = secret.replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1);
        let half = secret.replace("PRIVATE KEY-----", "PRIVATE KEY--");
        let broken = secret.replacen('M', "!", 2);
        for (content, words) in [
            (Vec::new(), "empty"),
            (on_one_line.clone().into(), "on one line"),
            (cut.into(), "cut off"),
            (half.into(), "not whole"),
            (broken.into(), "base64"),
            (encrypted.into(), "openssl pkey"),
            (old.into(), "openssl pkey"),
            (utf16(&secret), "UTF-16"),
            (certificate.clone().into(), "a CERTIFICATE"),
            (secret.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY").into(), "SSH"),
            (vec![0x30, 0x82, 1, 2, 0xff], "DER"),
            (b"hello".to_vec(), "BEGIN"),
        ] {
            let error = key(&content).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
            let body = &secret.lines().nth(1).unwrap()[..12];
            let numbers = format!("{:?}", body.as_bytes());
            assert!(!error.contains(body) && !error.contains(numbers.trim_matches(['[', ']'])), "{error}");
        }
        for (content, words) in [
            (secret.into_bytes(), "a PRIVATE KEY"),
            (certificate.replace("CERTIFICATE", "TRUSTED CERTIFICATE").into(), "openssl x509"),
            (certificate.replace("CERTIFICATE", "PKCS7").into(), "openssl pkcs7"),
            (format!("{certificate}-----BEGIN CERTIFICATE-----\nMIIB").into(), "cut off"),
            (format!("{certificate}-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----").into(), "base64"),
            (on_one_line.into(), "on one line"),
        ] {
            let error = certificates(&content).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
