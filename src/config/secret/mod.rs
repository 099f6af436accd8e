//! Finds the secret: in the configuration, in a credential, or in a file that the board generates once.

use std::io;
use std::path::{Path, PathBuf};

use super::{Config, Error, Text};
use crate::durable;
use crate::secret::Secret;
use crate::web;

/// The characters of generated secrets: easy to distinguish on a screen and to type on any keyboard.
const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Four groups of four out of 31 characters are 79 bits: more than an attacker can guess over a network.
const GROUPS: usize = 4;
const GROUP: usize = 4;

/// The file's name, in the credentials directory and in the state directory.
const CREDENTIAL: &str = "peercam-secret";
/// The broker's password, in the credentials directory.
const PASSWORD_CREDENTIAL: &str = "peercam-mqtt-password";
const STATE: &str = "secret";

/// Directories from the environment.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    /// Credentials from systemd.
    pub credentials: Option<PathBuf>,
    /// State that must survive a restart.
    pub state: Option<PathBuf>,
    /// Requests of the board to other services.
    pub runtime: Option<PathBuf>,
    /// The root below which the kernel's `proc` and `sys` are read for figures of the board, and `run` for notices; `/`
    /// except in tests.
    pub root: Option<PathBuf>,
}

/// The source of the secret.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretOrigin {
    /// The board listens on loopback only, and no secret is configured.
    NotNeeded,
    /// The configuration has it or names its file.
    Configured,
    /// systemd passed it.
    Credential,
    /// An earlier start generated it.
    Stored(PathBuf),
    /// This start generated it; it must be shown once.
    Generated {
        /// The file that stores it, or why it could not be stored and is valid only until the next start.
        stored: Result<PathBuf, String>,
        /// Why the secret that was stored before could not be used, if there was one.
        replaced: Option<String>,
    },
}

impl Directories {
    /// The directories from systemd (systemd.exec(5): CREDENTIALS_DIRECTORY, STATE_DIRECTORY, RUNTIME_DIRECTORY) or
    /// from the XDG base directories.
    pub fn from_environment() -> Self {
        let directory = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || {
            let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")))?;
            Some(state.join("peercam"))
        };
        // Several directories of a kind are separated by colons; the first is the service's own.
        let of_service = |name| {
            directory(name).and_then(|list| list.to_str().and_then(|list| list.split(':').next()).map(PathBuf::from))
        };
        Self {
            credentials: directory("CREDENTIALS_DIRECTORY"),
            state: of_service("STATE_DIRECTORY").or_else(user),
            runtime: of_service("RUNTIME_DIRECTORY"),
            root: directory("PEERCAM_ROOT"),
        }
    }

    /// Whether systemd passed a password for the broker.
    pub(super) fn has_password(&self) -> bool {
        self.password().is_some()
    }

    fn password(&self) -> Option<PathBuf> {
        let file = self.credentials.as_ref()?.join(PASSWORD_CREDENTIAL);
        file.exists().then_some(file)
    }

    /// The root below which the system's own files are read.
    pub fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| "/".into())
    }
}

/// The result of the search for a secret.
enum Found {
    /// It is in the configuration, or not needed.
    Resolved(SecretOrigin),
    /// It was read.
    Read(String, SecretOrigin),
    /// A secret has to be generated and stored in this file.
    Missing(PathBuf),
    /// This file has no usable secret, for this reason; a new one has to replace it.
    Unusable(PathBuf, String),
    /// A secret has to be generated, and there is no place to store it.
    NoPlace,
}

/// The message if there is no state directory.
const NO_PLACE: &str = "there is no place to keep one: set STATE_DIRECTORY or HOME";

impl Config {
    /// Sets `self.web.secret` from its source, if a secret is needed or configured.
    ///
    /// A generated secret that cannot be stored is valid until the next start: the camera is served nevertheless, and
    /// only a person that reads the secret on the console can log in.
    ///
    /// # Errors
    ///
    /// If a chosen secret cannot be read, or is too short.
    pub fn resolve_secret(&mut self, directories: &Directories) -> Result<SecretOrigin, Error> {
        let (secret, origin) = match self.find_secret(directories)? {
            Found::Resolved(origin) => return Ok(origin),
            Found::Read(secret, origin) => (secret, origin),
            Found::Missing(file) => {
                let secret = generate();
                let written = durable::write(&file, format!("{secret}\n").as_bytes());
                let stored = written.map(|()| file).map_err(|error| error.to_string());
                (secret, SecretOrigin::Generated { stored, replaced: None })
            }
            Found::Unusable(file, reason) => replace(file, reason),
            Found::NoPlace => (generate(), SecretOrigin::Generated { stored: Err(NO_PLACE.into()), replaced: None }),
        };
        // The file may have been written by hand.
        self.web.is_secret_generated =
            matches!(origin, SecretOrigin::Stored(_) | SecretOrigin::Generated { .. }) && is_generated(&secret);
        self.web.secret = Some(secret.into());
        Ok(origin)
    }

    /// Checks whether [`Config::resolve_secret`] would find a secret, or a place to store one. Generates nothing.
    ///
    /// # Errors
    ///
    /// If the secret cannot be read or is too short, or there is no place for one.
    pub fn check_secret(&self, directories: &Directories) -> Result<(), Error> {
        match self.find_secret(directories)? {
            Found::NoPlace => Err(Error::File {
                what: "the secret",
                file: STATE.into(),
                reason: format!("{NO_PLACE}, or `web.secret`"),
            }),
            Found::Resolved(_) | Found::Read(..) | Found::Missing(_) | Found::Unusable(..) => Ok(()),
        }
    }

    fn find_secret(&self, directories: &Directories) -> Result<Found, Error> {
        if self.web.secret.is_some() {
            return Ok(Found::Resolved(SecretOrigin::Configured));
        }
        if let Some(file) = &self.web.secret_file {
            return Ok(Found::Read(read("`web.secret_file`", file)?, SecretOrigin::Configured));
        }
        if let Some(file) = directories.credentials.as_ref().map(|directory| directory.join(CREDENTIAL))
            && file.exists()
        {
            return Ok(Found::Read(read("the credential", &file)?, SecretOrigin::Credential));
        }
        if self.web.listen.ip().is_loopback() {
            return Ok(Found::Resolved(SecretOrigin::NotNeeded));
        }
        let Some(directory) = &directories.state else { return Ok(Found::NoPlace) };
        let file = directory.join(STATE);
        if matches!(file.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(Found::Missing(file));
        }
        // A damaged file of the board's own must not keep it from starting.
        Ok(match read_secret(&file, "") {
            Ok(secret) => Found::Read(secret, SecretOrigin::Stored(file)),
            Err(reason) => Found::Unusable(file, reason),
        })
    }

    /// Reads the secrets from the files that `[ice]` names. A relay whose file cannot be read is left out, since most
    /// viewers do not need it. Returns the reason for each.
    pub fn load_relay_secrets(&mut self) -> Vec<String> {
        self.relay_faults().into_iter().map(|(_, fault)| fault).collect()
    }

    /// The same, each with the key that names the file.
    fn relay_faults(&mut self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut number = 0;
        self.ice.servers.retain_mut(|server| {
            number += 1;
            let files = [
                ("credential_file", &server.credential_file, &mut server.credential),
                ("secret_file", &server.secret_file, &mut server.secret),
            ];
            for (key, file, secret) in files {
                let Some(file) = file else { continue };
                match Secret::read(file) {
                    Ok(read) => *secret = Some(read),
                    Err(why) => {
                        let fault = format!("`{key}` of server {number} in `ice.servers`, {}: {why}", file.display());
                        faults.push((format!("ice.servers.{}.{key}", number - 1), fault));
                        return false;
                    }
                }
            }
            true
        });
        faults
    }

    /// Uses the broker's password from systemd if the configuration has none.
    pub fn find_password(&mut self, directories: &Directories) {
        let mqtt = &mut self.mqtt;
        if mqtt.url.is_some() && mqtt.user.is_some() && mqtt.password.is_none() && mqtt.password_file.is_none() {
            mqtt.password_file = directories.password();
        }
    }

    /// The faults of files that the configuration names, each with its key and its place in `text`, the source of the
    /// configuration.
    pub fn file_faults(&self, text: &Text) -> Vec<String> {
        let secret = self.web.secret_file.as_ref().and_then(|file| read("`web.secret_file`", file).err());
        let mut faults: Vec<_> = secret.iter().map(|fault| ("web.secret_file".into(), fault.to_string())).collect();
        faults.extend(self.clone().relay_faults());
        let key_of = |fault: &str| fault.split('`').nth(1).unwrap_or_default().to_owned();
        faults.extend(self.mqtt.file_faults().into_iter().map(|fault| (key_of(&fault), fault)));
        let in_full = |fault: &str| match fault.contains(" ~/") {
            true => format!("{fault}; `~` stands for no directory here: write all of the path"),
            false => fault.to_owned(),
        };
        faults.iter().map(|(key, fault)| text.located(key, &in_full(fault))).collect()
    }
}

/// Generates a secret in place of one that cannot be used, whose file is set aside.
fn replace(file: PathBuf, reason: String) -> (String, SecretOrigin) {
    let secret = generate();
    let result = durable::set_aside(&file).and_then(|aside| {
        durable::write(&file, format!("{secret}\n").as_bytes())?;
        Ok(aside)
    });
    let replaced = match &result {
        Ok(aside) => format!("{reason}; it is {} now", aside.display()),
        Err(_) => reason,
    };
    let stored = result.map(|_| file).map_err(|error| error.to_string());
    (secret, SecretOrigin::Generated { stored, replaced: Some(replaced) })
}

fn read(what: &'static str, file: &Path) -> Result<String, Error> {
    let advice = "; write another one there, in one line";
    read_secret(file, advice).map_err(|reason| Error::File { what, file: file.to_owned(), reason })
}

/// `advice` is appended to the fault of a secret that can be read.
fn read_secret(file: &Path, advice: &str) -> Result<String, String> {
    let secret = Secret::read_text(file)?.trim().to_owned();
    match web::Config::secret_fault(&secret) {
        None => Ok(secret),
        Some(fault) => Err(format!("{fault}{advice}")),
    }
}

/// Whether it has the form of a secret from [`generate`].
fn is_generated(secret: &str) -> bool {
    let is_group = |group: &str| group.len() == GROUP && group.bytes().all(|letter| LETTERS.contains(&letter));
    secret.split('-').count() == GROUPS && secret.split('-').all(is_group)
}

fn generate() -> String {
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    let groups: Vec<String> = (0..GROUPS).map(|_| (0..GROUP).map(|_| letter()).collect()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests;
