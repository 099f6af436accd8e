//! The board's credentials for its broker, and the certificates that it trusts.

use std::sync::Arc;

use rustls::ClientConfig;

use super::config::Config;
use super::tls;
use super::url::Url;
use crate::secret::Secret;

/// Read from the configuration and the files that it names.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user's password, where there is one.
    pub password: Option<Secret>,
    /// For encrypted URLs, the certificates and the key.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Credentials {
    /// Loads the files as they are now: they may have changed since the last time. It blocks, and takes milliseconds,
    /// because TLS has some hundred certificates.
    ///
    /// # Errors
    ///
    /// The key, the file, and its fault.
    pub fn load(config: &Config, url: &Url) -> Result<Self, String> {
        let tls = if url.scheme().is_encrypted() { Some(tls::load(config, url)?) } else { None };
        Ok(Self { password: Self::password(config)?, tls })
    }

    /// Loads only the password.
    ///
    /// # Errors
    ///
    /// As [`Credentials::load`].
    pub fn password(config: &Config) -> Result<Option<Secret>, String> {
        let Some(file) = config.password_file.as_ref().filter(|_| config.user.is_some()) else {
            return Ok(config.password.clone());
        };
        let read = Secret::read(file).map(Some);
        read.map_err(|why| format!("`mqtt.password_file` {}: {why}", file.display()))
    }
}

impl Config {
    /// Faults of the files that are named here, each with its key.
    pub fn file_faults(&self) -> Vec<String> {
        let Some(url) = &self.url else { return Vec::new() };
        let has_tls_files = [&self.ca_file, &self.certificate_file].iter().any(|file| file.is_some());
        let password = Credentials::password(self).err();
        let tls = (url.scheme().is_encrypted() && has_tls_files).then(|| tls::load(self, url).err()).flatten();
        password.into_iter().chain(tls).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_holds_one_line_which_debug_output_does_not_show() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        let config = Config { user: Some("u".into()), password_file: Some(file.clone()), ..Config::default() };
        std::fs::write(&file, " with blanks \r\n").unwrap();
        let password = Credentials::password(&config).unwrap().unwrap();
        assert_eq!(password.reveal(), " with blanks ");
        assert!(!format!("{password:?}").contains("blanks"));
        for text in ["", "\n", "two\nlines"] {
            std::fs::write(&file, text).unwrap();
            let fault = Credentials::password(&config).unwrap_err();
            assert!(fault.starts_with("`mqtt.password_file` /") && fault.contains("one line"), "{fault}");
        }
    }
}
