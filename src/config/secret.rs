//! Where the secret comes from: the configuration, a credential, or a file of our own that is made once.

use std::io;
use std::path::{Path, PathBuf};

use super::{Config, Error, Text};
use crate::durable;
use crate::secret::Secret;
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
    Made {
        /// Where it is kept, or why it is not, and holds until the next start only.
        kept: Result<PathBuf, String>,
        /// Why the one that was kept could not be used, if there was one.
        instead: Option<String>,
    },
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

    /// Whether systemd keeps a password for the broker.
    pub(super) fn has_password(&self) -> bool {
        self.password().is_some()
    }

    fn password(&self) -> Option<PathBuf> {
        let file = self.credentials.as_ref()?.join(PASSWORD_CREDENTIAL);
        file.exists().then_some(file)
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
    /// What is kept here is none, for this reason: another is to take its place.
    Lost(PathBuf, String),
    /// One is to be made, and there is no place to keep it.
    Homeless,
}

/// What is said where there is no state directory.
const NO_PLACE: &str = "there is no place to keep one: set STATE_DIRECTORY or HOME";

impl Config {
    /// Puts the secret into `self.web.secret`, wherever it comes from, if one is needed or given.
    ///
    /// One that is made and cannot be kept holds until the next start: the camera is served all the same, and nobody
    /// gets in who has not read it on the console.
    ///
    /// # Errors
    ///
    /// When the secret that somebody chose cannot be read, or is too short.
    pub fn settle_secret(&mut self, places: &Places) -> Result<SecretOrigin, Error> {
        let (secret, origin) = match self.find_secret(places)? {
            Found::Settled(origin) => return Ok(origin),
            Found::Read(secret, origin) => (secret, origin),
            Found::Missing(file) => {
                let secret = make();
                let written = durable::write(&file, format!("{secret}\n").as_bytes());
                let kept = written.map(|()| file).map_err(|error| error.to_string());
                (secret, SecretOrigin::Made { kept, instead: None })
            }
            Found::Lost(file, reason) => replace(file, reason),
            Found::Homeless => (make(), SecretOrigin::Made { kept: Err(NO_PLACE.into()), instead: None }),
        };
        // The file may have been written by hand.
        self.web.is_secret_made =
            matches!(origin, SecretOrigin::Kept(_) | SecretOrigin::Made { .. }) && is_made(&secret);
        self.web.secret = Some(secret.into());
        Ok(origin)
    }

    /// Whether [`Config::settle_secret`] would find a secret, or a place to keep one. Makes nothing.
    ///
    /// # Errors
    ///
    /// When the secret cannot be read or is too short, or there is no place for one.
    pub fn check_secret(&self, places: &Places) -> Result<(), Error> {
        match self.find_secret(places)? {
            Found::Homeless => Err(Error::File {
                what: "the secret",
                file: STATE.into(),
                reason: format!("{NO_PLACE}, or `web.secret`"),
            }),
            Found::Settled(_) | Found::Read(..) | Found::Missing(_) | Found::Lost(..) => Ok(()),
        }
    }

    fn find_secret(&self, places: &Places) -> Result<Found, Error> {
        if self.web.secret.is_some() {
            return Ok(Found::Settled(SecretOrigin::Configured));
        }
        if let Some(file) = &self.web.secret_file {
            return Ok(Found::Read(read("`web.secret_file`", file)?, SecretOrigin::Configured));
        }
        if let Some(file) = places.credentials.as_ref().map(|directory| directory.join(CREDENTIAL))
            && file.exists()
        {
            return Ok(Found::Read(read("the credential", &file)?, SecretOrigin::Credential));
        }
        if self.web.listen.ip().is_loopback() {
            return Ok(Found::Settled(SecretOrigin::NotNeeded));
        }
        let Some(directory) = &places.state else { return Ok(Found::Homeless) };
        let file = directory.join(STATE);
        if matches!(file.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(Found::Missing(file));
        }
        // What the board keeps for itself never keeps it from starting.
        Ok(match read_secret(&file, "") {
            Ok(secret) => Found::Read(secret, SecretOrigin::Kept(file)),
            Err(reason) => Found::Lost(file, reason),
        })
    }

    /// Reads the files that `[ice]` names into the secrets that they hold. A relay whose file cannot be read is left
    /// out, since most viewers do without one. Returns why, for each.
    pub fn settle_relay_secrets(&mut self) -> Vec<String> {
        self.relay_faults().into_iter().map(|(_, fault)| fault).collect()
    }

    /// The same, each with the key behind which the file stands.
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

    /// Has the broker's password come from systemd where the configuration names none.
    pub fn find_password(&mut self, places: &Places) {
        let mqtt = &mut self.mqtt;
        if mqtt.url.is_some() && mqtt.user.is_some() && mqtt.password.is_none() && mqtt.password_file.is_none() {
            mqtt.password_file = places.password();
        }
    }

    /// What is wrong with the files that the configuration names, each with its key and where it stands in `text`, which
    /// the configuration was read from.
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

/// Makes a secret in the place of one that cannot be used, which is set aside.
fn replace(file: PathBuf, reason: String) -> (String, SecretOrigin) {
    let secret = make();
    let replaced = durable::set_aside(&file).and_then(|aside| {
        durable::write(&file, format!("{secret}\n").as_bytes())?;
        Ok(aside)
    });
    let instead = match &replaced {
        Ok(aside) => format!("{reason}; it is {} now", aside.display()),
        Err(_) => reason,
    };
    let kept = replaced.map(|_| file).map_err(|error| error.to_string());
    (secret, SecretOrigin::Made { kept, instead: Some(instead) })
}

fn read(what: &'static str, file: &Path) -> Result<String, Error> {
    let advice = "; write another one there, in one line";
    read_secret(file, advice).map_err(|reason| Error::File { what, file: file.to_owned(), reason })
}

/// `advice` follows what is wrong with one that can be read.
fn read_secret(file: &Path, advice: &str) -> Result<String, String> {
    let secret = Secret::read_text(file)?.trim().to_owned();
    match web::Config::secret_fault(&secret) {
        None => Ok(secret),
        Some(fault) => Err(format!("{fault}{advice}")),
    }
}

/// Whether it looks like one of [`make`].
fn is_made(secret: &str) -> bool {
    let is_group = |group: &str| group.len() == GROUP && group.bytes().all(|letter| LETTERS.contains(&letter));
    secret.split('-').count() == GROUPS && secret.split('-').all(is_group)
}

fn make() -> String {
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    let groups: Vec<String> = (0..GROUPS).map(|_| (0..GROUP).map(|_| letter()).collect()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use std::fs;
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
        let made = SecretOrigin::Made { kept: Ok(file.clone()), instead: None };
        assert_eq!(first.settle_secret(&places(directory.path())).unwrap(), made);
        let made = first.web.secret.unwrap().reveal().to_owned();
        assert_eq!(made.len(), 19);
        assert!(first.web.is_secret_made && is_made(&made));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

        let mut second = open_to_the_network();
        assert_eq!(second.settle_secret(&places(directory.path())).unwrap(), SecretOrigin::Kept(file));
        assert!(second.web.is_secret_made);
        assert_eq!(second.web.secret.unwrap().reveal(), made);

        fs::write(directory.path().join("state/peercam/secret"), "chosen by hand").unwrap();
        let mut third = open_to_the_network();
        third.settle_secret(&places(directory.path())).unwrap();
        assert!(!third.web.is_secret_made, "it may be guessed");
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

    /// Damage of the disk, by hand, and by programs that put something else there.
    #[test]
    fn a_kept_secret_that_cannot_be_used_is_set_aside_and_another_is_made() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 7] = [
            ("too short", |file| fs::write(file, "").unwrap()),
            ("characters that HTTP cannot carry", |file| fs::write(file, [0; 19]).unwrap()),
            ("not text", |file| fs::write(file, [0xff; 19]).unwrap()),
            ("more than 4096 bytes", |file| fs::File::create(file).unwrap().set_len(1 << 40).unwrap()),
            ("a directory", |file| fs::create_dir_all(file.join("within")).unwrap()),
            ("a pipe", |file| {
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, file, fifo, 0o600.into(), 0).unwrap();
            }),
            ("No such file", |file| std::os::unix::fs::symlink("/nowhere", file).unwrap()),
        ];
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let file = places.state.clone().unwrap().join(STATE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (fault, damage) in damages {
            damage(&file);
            let mut config = open_to_the_network();
            config.check_secret(&places).unwrap();
            let origin = config.settle_secret(&places).unwrap();
            let SecretOrigin::Made { kept, instead: Some(reason) } = origin else { panic!("{fault}: {origin:?}") };
            assert!(reason.contains(fault) && reason.contains("secret.bad"), "{fault}: {reason}");
            let made = config.web.secret.unwrap().reveal().to_owned();
            assert_eq!((made.len(), kept), (19, Ok(file.clone())), "{fault}");
            let mut next = open_to_the_network();
            assert_eq!(next.settle_secret(&places).unwrap(), SecretOrigin::Kept(file.clone()), "{fault}");
            assert_eq!(next.web.secret.unwrap().reveal(), made);
            fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn however_the_kept_secret_is_damaged_the_board_has_one() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let file = places.state.clone().unwrap().join(STATE);
        let mut another = 0;
        for seed in 0..500_u32 {
            open_to_the_network().settle_secret(&places).unwrap();
            let mut bytes = fs::read(&file).unwrap();
            // A third each: some bytes of any value, an end that is missing, zeros to the end.
            let mut numbers = (1..).map(|number: u32| seed.wrapping_mul(7919).wrapping_add(number * 104_729) >> 3);
            let mut below = |most: usize| numbers.next().unwrap() as usize % most;
            let at = below(bytes.len());
            match seed % 3 {
                0 => (0..=below(4)).for_each(|_| bytes[below(20)] = below(256) as u8),
                1 => bytes.truncate(at),
                _ => bytes[at..].fill(0),
            }
            fs::write(&file, bytes).unwrap();
            let mut config = open_to_the_network();
            let origin = config.settle_secret(&places).unwrap();
            another += u32::from(matches!(origin, SecretOrigin::Made { instead: Some(_), .. }));
            assert!(config.web.secret.is_some_and(|secret| secret.reveal().len() >= 8), "{seed}: {origin:?}");
        }
        assert!((250..500).contains(&another), "{another} were set aside");
    }

    #[test]
    fn a_secret_is_made_for_one_start_where_neither_the_old_one_can_be_read_nor_another_kept() {
        let directory = tempfile::tempdir().unwrap();
        // A file where the directory should be fails for root too, unlike missing rights.
        fs::write(directory.path().join("state"), "").unwrap();
        let mut config = open_to_the_network();
        let origin = config.settle_secret(&places(directory.path())).unwrap();
        let SecretOrigin::Made { kept: Err(reason), instead: Some(_) } = &origin else { panic!("{origin:?}") };
        assert!(reason.contains("Not a directory"), "{reason}");
        assert!(config.web.secret.is_some());
    }

    #[test]
    fn a_secret_is_made_for_one_start_where_none_can_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("state"), "").unwrap();
        let nowhere = Places::default();
        for (places, why) in [(&places(directory.path()), "Not a directory"), (&nowhere, "STATE_DIRECTORY")] {
            let mut config = open_to_the_network();
            let origin = config.settle_secret(places).unwrap();
            let SecretOrigin::Made { kept: Err(reason), .. } = &origin else { panic!("{origin:?}") };
            assert!(reason.contains(why), "{reason}");
            assert_eq!(config.web.secret.unwrap().reveal().len(), 19, "never open");
        }
    }

    #[test]
    fn only_a_small_regular_file_is_read_for_a_password() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("long");
        fs::write(&long, "x".repeat(4097)).unwrap();
        for (file, fault) in [("/dev/zero", "a device"), ("/tmp", "a directory"), (long.to_str().unwrap(), "4096")] {
            let config = Config::parse(&format!(
                "[mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\npassword_file = {file:?}\n[web]\nsecret_file = {file:?}\n\
                 [[ice.servers]]\nurls = \"turn:a\"\nsecret_file = {file:?}"
            ))
            .unwrap();
            let faults = config.file_faults(&Text::default());
            assert_eq!(faults.len(), 3, "{faults:?}");
            for (said, key) in
                faults.iter().zip(["web.secret_file", "`secret_file` of server 1 in `ice", "mqtt.password_file"])
            {
                assert!(said.contains(key) && said.contains(file) && said.contains(fault), "{said}");
            }
            assert_eq!(config.check_secret(&Places::default()).unwrap_err().to_string(), faults[0]);
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_with_the_line_that_names_it() {
        let text = Text {
            toml: "[web]\nlisten = \"0.0.0.0:80\"\nsecret_file = \"/absent/s\"\n\
                   [[ice.servers]]\nurls = \"turn:a\"\nsecret = \"s\"\n\
                   [[ice.servers]]\nurls = \"turn:b\"\nsecret_file = \"~/t\"\n\
                   [mqtt]\nurl = \"mqtts://broker\"\nca_file = \"/absent/ca\"\n"
                .into(),
            file: None,
        };
        let faults = text.parse().unwrap().file_faults(&text);
        let expected = [
            ("line 3: `web.secret_file` /absent/s: cannot be read", "directory"),
            ("line 9: `secret_file` of server 2 in `ice.servers`, ~/t: cannot", "write all of the path"),
            ("line 12: `mqtt.ca_file` /absent/ca: cannot", "directory"),
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, (start, within)) in faults.iter().zip(expected) {
            assert!(fault.starts_with(start) && fault.contains(within), "{fault}");
        }
        let text = Text { file: Some("/etc/p.toml".into()), ..text };
        assert!(text.parse().unwrap().file_faults(&text)[0].starts_with("/etc/p.toml:3: `web.secret_file`"));
        assert_eq!(text.located("mqtt.password_file", "a credential"), "a credential", "which is in no line");
    }

    #[test]
    fn what_is_advised_of_a_secret_depends_on_whose_file_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/peercam/secret");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "short").unwrap();
        let mut chosen = open_to_the_network();
        chosen.web.secret_file = Some(file.clone());
        let error = chosen.settle_secret(&places(directory.path())).unwrap_err().to_string();
        assert!(error.contains("write another one there") && !error.contains("remove"), "{error}");
        let origin = open_to_the_network().settle_secret(&places(directory.path())).unwrap();
        let SecretOrigin::Made { instead: Some(told), .. } = origin else { panic!("{origin:?}") };
        assert!(told.contains("at least 8") && told.contains("secret.bad now") && !told.contains("write"), "{told}");
    }

    #[test]
    fn the_secrets_of_relays_are_read_from_their_files_and_a_relay_without_its_own_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("turn");
        let text =
            format!("[ice]\nservers = [{{ urls = \"turn:a\", secret_file = {file:?} }}, {{ urls = \"stun:b\" }}]");
        let settle = |content: Option<&str>| {
            content.into_iter().for_each(|content| fs::write(&file, content).unwrap());
            let mut config = Config::parse(&text).unwrap();
            (config.settle_relay_secrets(), config.ice.servers)
        };
        for (content, fault) in [(None, "cannot be read"), (Some("\n"), "one line")] {
            let (faults, servers) = settle(content);
            assert!(faults[0].contains(fault) && faults[0].contains(file.to_str().unwrap()), "{faults:?}");
            assert_eq!(servers.iter().map(|server| server.urls.as_slice()).collect::<Vec<_>>(), [["stun:b"]]);
        }
        let (faults, servers) = settle(Some("north\n"));
        assert_eq!((faults.len(), servers[0].secret.as_ref().unwrap().reveal()), (0, "north"));
    }

    #[test]
    fn the_brokers_password_comes_from_its_file_or_else_from_a_credential() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = places(directory.path()).credentials.unwrap();
        fs::create_dir_all(&credentials).unwrap();
        let credential = credentials.join(PASSWORD_CREDENTIAL);
        fs::write(&credential, "from credential").unwrap();
        let found = |more: &str| {
            let mut config = Config::parse(&format!("[mqtt]\nurl = \"mqtt://broker\"\n{more}")).unwrap();
            config.find_password(&places(directory.path()));
            config.mqtt.password_file
        };
        assert_eq!(found("user = \"u\""), Some(credential));
        assert_eq!(found("user = \"u\"\npassword_file = \"/p\""), Some("/p".into()));
        for without in ["user = \"u\"\npassword = \"configured\"", ""] {
            assert_eq!(found(without), None, "{without}");
        }
    }

    #[test]
    fn made_secrets_differ() {
        assert_ne!(make(), make());
    }
}
