//! Where the secret comes from: the configuration, a credential, or a file of our own that is made once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Config, Error};
use crate::web;

/// Of which made secrets are: what can be told apart on a screen and typed on any keyboard.
const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Four groups of four of 31 letters are 79 bits: more than guessing over a network ever gets through.
const GROUPS: usize = 4;
const GROUP: usize = 4;

/// The file's name, in the credentials directory and in the state directory.
const CREDENTIAL: &str = "peercam-secret";
const STATE: &str = "secret";

/// Directories that the surroundings give.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Where systemd puts credentials.
    pub credentials: Option<PathBuf>,
    /// Where what must survive a restart is kept.
    pub state: Option<PathBuf>,
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
    /// As systemd (systemd.exec(5): CREDENTIALS_DIRECTORY, STATE_DIRECTORY) or the XDG base directories say.
    pub fn from_environment() -> Self {
        let directory = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || {
            let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")))?;
            Some(state.join("peercam"))
        };
        // Several state directories are separated by colons; the first is the service's own.
        let service = directory("STATE_DIRECTORY")
            .and_then(|list| list.to_str().and_then(|list| list.split(':').next()).map(PathBuf::from));
        Self { credentials: directory("CREDENTIALS_DIRECTORY"), state: service.or_else(user) }
    }
}

impl Config {
    /// Puts the secret into `self.web.secret`, wherever it comes from, if one is needed or given.
    ///
    /// # Errors
    ///
    /// When the secret cannot be read, kept, or is too short.
    pub fn settle_secret(&mut self, places: &Places) -> Result<SecretOrigin, Error> {
        if self.web.secret.is_some() {
            return Ok(SecretOrigin::Configured);
        }
        if let Some(file) = self.web.secret_file.clone() {
            self.web.secret = Some(read(&file)?.into());
            return Ok(SecretOrigin::Configured);
        }
        if let Some(file) = places.credentials.as_ref().map(|directory| directory.join(CREDENTIAL))
            && file.exists()
        {
            self.web.secret = Some(read(&file)?.into());
            return Ok(SecretOrigin::Credential);
        }
        if self.web.listen.ip().is_loopback() {
            return Ok(SecretOrigin::NotNeeded);
        }
        let Some(directory) = &places.state else {
            let reason = "there is no place to keep one: set `web.secret`, or STATE_DIRECTORY, or HOME".into();
            return Err(Error::Secret { file: STATE.into(), reason });
        };
        let file = directory.join(STATE);
        if file.exists() {
            self.web.secret = Some(read(&file)?.into());
            return Ok(SecretOrigin::Kept(file));
        }
        let secret = make();
        keep(directory, &secret).map_err(|error| Error::Secret {
            file: file.clone(),
            reason: format!("cannot be kept ({error}); make the directory writable or set `web.secret`"),
        })?;
        self.web.secret = Some(secret.into());
        Ok(SecretOrigin::Made(file))
    }

    /// Reads the files that `[ice]` names into the secrets that they hold.
    ///
    /// # Errors
    ///
    /// When one cannot be read or is empty.
    pub fn settle_ice_secrets(&mut self) -> Result<(), Error> {
        for server in &mut self.ice.servers {
            let files = [(&server.credential_file, &mut server.credential), (&server.secret_file, &mut server.secret)];
            for (file, secret) in files {
                let Some(file) = file else { continue };
                let text = read_text(file)?;
                if text.is_empty() {
                    let reason = "is empty; write what the relay was given".into();
                    return Err(Error::Secret { file: file.clone(), reason });
                }
                *secret = Some(text.into());
            }
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, Error> {
    let secret = read_text(file)?;
    match web::Config::secret_fault(&secret) {
        None => Ok(secret),
        Some(fault) => {
            let reason = format!("{fault}; write a better one there, or remove the file");
            Err(Error::Secret { file: file.to_owned(), reason })
        }
    }
}

/// What a file holds, without the line break that editors put at its end.
fn read_text(file: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::Secret { file: file.to_owned(), reason: format!("cannot be read: {error}") })?;
    Ok(text.trim().to_owned())
}

fn make() -> String {
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    let groups: Vec<String> = (0..GROUPS).map(|_| (0..GROUP).map(|_| letter()).collect()).collect();
    groups.join("-")
}

/// Writes the file whole or not at all: a power cut at first start must not leave an empty secret.
fn keep(directory: &Path, secret: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let draft = directory.join(format!("{STATE}.{}", std::process::id()));
    // Left by a process of the same number that was cut off.
    if draft.exists() {
        fs::remove_file(&draft)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    fs::rename(&draft, directory.join(STATE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open_to_the_network() -> Config {
        Config::parse("[web]\nlisten = \"0.0.0.0:8080\"").unwrap()
    }

    fn places(directory: &Path) -> Places {
        Places { credentials: Some(directory.join("credentials")), state: Some(directory.join("state/peercam")) }
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
    fn a_draft_that_a_power_cut_left_is_neither_taken_for_the_secret_nor_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/peercam");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join(format!("{STATE}.{}", std::process::id())), "half").unwrap();
        let mut config = open_to_the_network();
        let origin = config.settle_secret(&places(directory.path())).unwrap();
        assert_eq!(origin, SecretOrigin::Made(state.join(STATE)));
        let names: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [STATE], "only the secret itself is left");
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
        for (content, fault) in [(None, "cannot be read"), (Some("\n"), "is empty")] {
            let error = settle(content).unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains(file.to_str().unwrap()), "{error}");
        }
        assert_eq!(settle(Some("north\n")).unwrap(), "north");
    }

    #[test]
    fn made_secrets_differ() {
        assert_ne!(make(), make());
    }
}
