//! Where the secret comes from: the configuration, a credential, or a file of our own that is made once.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Config, Error};
use crate::durable;
use crate::web;

/// Of which made secrets are: what can be told apart on a screen and typed on any keyboard.
const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Four groups of four of 31 letters are 79 bits: more than guessing over a network ever gets through.
const GROUPS: usize = 4;
const GROUP: usize = 4;

/// The file's name, in the credentials directory and in the state directory.
const CREDENTIAL: &str = "peercam-secret";
/// The broker's password, in the credentials directory.
const PASSWORD_CREDENTIAL: &str = "peercam-mqtt-password";
const STATE: &str = "secret";

/// Directories that the surroundings give.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Where systemd puts credentials.
    pub credentials: Option<PathBuf>,
    /// Where what must survive a restart is kept.
    pub state: Option<PathBuf>,
    /// Where other services look for what the board asks of them.
    pub runtime: Option<PathBuf>,
    /// Below which the kernel's `proc` and `sys` are read for figures of the board, and `run` for notices; `/` but for
    /// tests.
    pub root: Option<PathBuf>,
}

/// Where the secret came from.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretOrigin {
    /// Only this machine is listened to, and none is configured.
    NotNeeded,
    /// The configuration names it.
    Configured,
    /// systemd passed it.
    Credential,
    /// An earlier start made it.
    Kept(PathBuf),
    /// This start made it: to be shown, once.
    Made(PathBuf),
}

impl Places {
    /// As systemd (systemd.exec(5): CREDENTIALS_DIRECTORY, STATE_DIRECTORY, RUNTIME_DIRECTORY) or the XDG base
    /// directories say.
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

    /// Below which the system's own files are read.
    pub fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| "/".into())
    }
}

/// What is there of a secret before one is made.
enum Found {
    /// It stays as it is.
    Settled(SecretOrigin),
    /// It was read.
    Read(String, SecretOrigin),
    /// One is to be made and kept here.
    Missing(PathBuf),
}

impl Config {
    /// Puts the secret into `self.web.secret`, wherever it comes from, if one is needed or given.
    ///
    /// # Errors
    ///
    /// When the secret cannot be read, kept, or is too short.
    pub fn settle_secret(&mut self, places: &Places) -> Result<SecretOrigin, Error> {
        let (secret, origin) = match self.find_secret(places)? {
            Found::Settled(origin) => return Ok(origin),
            Found::Read(secret, origin) => (secret, origin),
            Found::Missing(file) => {
                let secret = make();
                durable::write(&file, format!("{secret}\n").as_bytes()).map_err(|error| Error::Secret {
                    file: file.clone(),
                    reason: format!("cannot be kept ({error}); make the directory writable or set `web.secret`"),
                })?;
                (secret, SecretOrigin::Made(file))
            }
        };
        self.web.secret = Some(secret.into());
        Ok(origin)
    }

    /// Whether [`Config::settle_secret`] would find what it needs. Makes nothing.
    ///
    /// # Errors
    ///
    /// When the secret cannot be read, is too short, or could not be kept.
    pub fn check_secret(&self, places: &Places) -> Result<(), Error> {
        self.find_secret(places).map(drop)
    }

    fn find_secret(&self, places: &Places) -> Result<Found, Error> {
        if self.web.secret.is_some() {
            return Ok(Found::Settled(SecretOrigin::Configured));
        }
        if let Some(file) = &self.web.secret_file {
            return Ok(Found::Read(read(file)?, SecretOrigin::Configured));
        }
        if let Some(file) = places.credentials.as_ref().map(|directory| directory.join(CREDENTIAL))
            && file.exists()
        {
            return Ok(Found::Read(read(&file)?, SecretOrigin::Credential));
        }
        if self.web.listen.ip().is_loopback() {
            return Ok(Found::Settled(SecretOrigin::NotNeeded));
        }
        let Some(directory) = &places.state else {
            let reason = "there is no place to keep one: set `web.secret`, or STATE_DIRECTORY, or HOME".into();
            return Err(Error::Secret { file: STATE.into(), reason });
        };
        let file = directory.join(STATE);
        if file.exists() {
            return Ok(Found::Read(read(&file)?, SecretOrigin::Kept(file)));
        }
        Ok(Found::Missing(file))
    }

    /// Reads the files that `[ice]` names into the secrets that they hold.
    ///
    /// # Errors
    ///
    /// When one cannot be read, or is none.
    pub fn settle_ice_secrets(&mut self) -> Result<(), Error> {
        for server in &mut self.ice.servers {
            let files = [(&server.credential_file, &mut server.credential), (&server.secret_file, &mut server.secret)];
            for (file, secret) in files {
                let Some(file) = file else { continue };
                *secret = Some(read_password(file)?.into());
            }
        }
        Ok(())
    }

    /// Puts the broker's password into `self.mqtt.password`, wherever it comes from, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn settle_password(&mut self, places: &Places) -> Result<(), Error> {
        let configured = self.mqtt.password_file.clone();
        let credential = places.credentials.as_ref().map(|directory| directory.join(PASSWORD_CREDENTIAL));
        let is_wanted = self.mqtt.url.is_some() && self.mqtt.user.is_some() && self.mqtt.password.is_none();
        let file = configured.or_else(|| credential.filter(|file| file.exists()));
        if let Some(file) = file.filter(|_| is_wanted) {
            self.mqtt.password = Some(read_password(&file)?.into());
        }
        Ok(())
    }
}

/// A password may begin or end with a blank, but for the line's end that editors add.
fn read_password(file: &Path) -> Result<String, Error> {
    let wrong = |reason| Error::Secret { file: file.to_owned(), reason };
    let text = fs::read_to_string(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.contains(['\n', '\0']) {
        return Err(wrong("is not one line with a password".into()));
    }
    Ok(password.to_owned())
}

fn read(file: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::Secret { file: file.to_owned(), reason: format!("cannot be read: {error}") })?;
    let secret = text.trim().to_owned();
    match web::Config::secret_fault(&secret) {
        None => Ok(secret),
        Some(fault) => {
            let reason = format!("{fault}; write a better one there, or remove the file");
            Err(Error::Secret { file: file.to_owned(), reason })
        }
    }
}

fn make() -> String {
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    let groups: Vec<String> = (0..GROUPS).map(|_| (0..GROUP).map(|_| letter()).collect()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open_to_the_network() -> Config {
        Config::parse("[web]\nlisten = \"0.0.0.0:8080\"").unwrap()
    }

    fn places(directory: &Path) -> Places {
        let (credentials, state) = (directory.join("credentials"), directory.join("state/peercam"));
        Places { credentials: Some(credentials), state: Some(state), runtime: None, root: None }
    }

    #[test]
    fn on_loopback_no_secret_is_needed_and_none_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        assert_eq!(config.settle_secret(&places(directory.path())).unwrap(), SecretOrigin::NotNeeded);
        assert!(config.web.secret.is_none());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_first_start_on_a_network_makes_a_secret_that_only_the_owner_can_read_and_the_next_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/peercam/secret");
        let mut first = open_to_the_network();
        assert_eq!(first.settle_secret(&places(directory.path())).unwrap(), SecretOrigin::Made(file.clone()));
        let made = first.web.secret.unwrap().reveal().to_owned();
        assert_eq!(made.len(), 19);
        assert!(made.split('-').all(|group| group.len() == 4 && group.bytes().all(|c| LETTERS.contains(&c))));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

        let mut second = open_to_the_network();
        assert_eq!(second.settle_secret(&places(directory.path())).unwrap(), SecretOrigin::Kept(file));
        assert_eq!(second.web.secret.unwrap().reveal(), made);
    }

    #[test]
    fn a_credential_comes_before_the_kept_secret_and_the_configuration_before_both() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("credentials")).unwrap();
        fs::write(directory.path().join("credentials").join(CREDENTIAL), "from the credential\n").unwrap();
        let mut config = open_to_the_network();
        assert_eq!(config.settle_secret(&places(directory.path())).unwrap(), SecretOrigin::Credential);
        assert_eq!(config.web.secret.unwrap().reveal(), "from the credential");
        let mut config = open_to_the_network();
        config.web.secret = Some("from the configuration".to_owned().into());
        assert_eq!(config.settle_secret(&places(directory.path())).unwrap(), SecretOrigin::Configured);
    }

    #[test]
    fn an_empty_or_short_secret_file_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        for text in ["", "\n", "short"] {
            fs::write(&file, text).unwrap();
            let mut config = open_to_the_network();
            config.web.secret_file = Some(file.clone());
            let error = config.settle_secret(&Places::default()).unwrap_err().to_string();
            assert!(error.contains(file.to_str().unwrap()) && error.contains("at least 8"), "{error}");
        }
    }

    #[test]
    fn the_secrets_of_relays_are_read_from_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("turn");
        let text = format!("[ice]\nservers = [{{ urls = \"turn:a\", secret_file = {file:?} }}]");
        let settle = |content: Option<&str>| {
            content.into_iter().for_each(|content| fs::write(&file, content).unwrap());
            let mut config = Config::parse(&text).unwrap();
            config.settle_ice_secrets().map(|()| config.ice.servers[0].secret.clone().unwrap().reveal().to_owned())
        };
        for (content, fault) in [(None, "cannot be read"), (Some("\n"), "one line")] {
            let error = settle(content).unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains(file.to_str().unwrap()), "{error}");
        }
        assert_eq!(settle(Some("north\n")).unwrap(), "north");
    }

    #[test]
    fn the_brokers_password_comes_from_a_file_or_a_credential_and_shows_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = places(directory.path()).credentials.unwrap();
        fs::create_dir_all(&credentials).unwrap();
        fs::write(credentials.join(PASSWORD_CREDENTIAL), "from credential").unwrap();
        let file = directory.path().join("password");
        fs::write(&file, " with blanks \r\n").unwrap();
        let settled = |more: &str| {
            let mut config = Config::parse(&format!("[mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\n{more}")).unwrap();
            config.settle_password(&places(directory.path())).unwrap();
            assert!(!format!("{config:?}").contains("blanks"));
            config.mqtt.password.unwrap().reveal().to_owned()
        };
        assert_eq!(settled(""), "from credential");
        assert_eq!(settled(&format!("password_file = {file:?}")), " with blanks ");
        assert_eq!(settled("password = \"configured\""), "configured");

        for text in ["", "\n", "two\nlines"] {
            fs::write(&file, text).unwrap();
            let mut config = Config::default();
            config.mqtt.url = Some("mqtt://broker".parse().unwrap());
            config.mqtt.user = Some("u".into());
            config.mqtt.password_file = Some(file.clone());
            let error = config.settle_password(&Places::default()).unwrap_err().to_string();
            assert!(error.contains(file.to_str().unwrap()) && error.contains("one line"), "{error}");
        }
    }

    #[test]
    fn made_secrets_differ() {
        assert_ne!(make(), make());
    }
}
