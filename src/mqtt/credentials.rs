//! What the board shows to its broker, and whom it trusts to be the broker.

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
    /// For encrypted URLs.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Credentials {
    /// As the files are now: they may have changed since the last time. Takes milliseconds, since TLS has some hundred
    /// certificates, and blocks.
    ///
    /// # Errors
    ///
    /// The key, the file, and what is wrong with it.
    pub fn load(config: &Config, url: &Url) -> Result<Self, String> {
        let tls = if url.scheme().is_encrypted() { Some(tls::load(config, url)?) } else { None };
        Ok(Self { password: Self::password(config)?, tls })
    }

    /// The password alone.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_file_is_its_line_and_shows_nowhere() {
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
