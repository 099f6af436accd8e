//! Builds the configuration that a process starts with, from the configuration file and the saved state.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{Config, Directories, Error, Text};
use crate::state::{Environment, Loaded, Reach, SavedState, Settings, Source};
use crate::tasks::Group;

/// The configuration and state that a process starts with.
#[derive(Debug)]
pub struct Start {
    /// Includes settings that commands made.
    pub config: Config,
    /// Directories that the environment sets.
    pub directories: Directories,
    /// The source of `config`.
    pub text: Text,
    file: Text,
    loaded: Loaded,
    left_out: Vec<String>,
}

impl Start {
    /// Reads the named configuration file, or the default one, and the saved state.
    ///
    /// # Errors
    ///
    /// When the file is the one to use, and cannot be read or has mistakes.
    pub fn prepare(file: Option<&Path>) -> Result<Self, Error> {
        let (file, directories) = (Text::read(file)?, Directories::from_environment());
        let environment = Environment::of_process(directories.state.clone(), directories.runtime.as_deref());
        let mut loaded = Loaded::load(environment, file.toml.clone());
        let (mut config, text) = loop {
            let text = match loaded.source() {
                Source::File => file.clone(),
                Source::Applied | Source::Trial => Text { toml: loaded.text().to_owned(), file: None },
            };
            match text.parse() {
                Ok(config) => break (config, text),
                Err(error) if !loaded.reject(&in_one_line(&error)) => return Err(error),
                Err(_) => {}
            }
        };
        let left_out = apply_settings(&mut config, &loaded.settings());
        Ok(Self { config, directories, text, file, loaded, left_out })
    }

    /// Logs the findings, and saves changes of the state from here on.
    pub fn open(self, group: &Group) -> SavedState {
        for mistake in self.left_out {
            tracing::warn!(mistake, "a setting that a command made cannot be used any more");
        }
        let (directories, current) = (self.directories, self.config);
        let check = move |toml: &str, may_name_files: bool| {
            check_candidate(toml, &directories, (!may_name_files).then_some(&current))
        };
        SavedState::open(self.loaded, Box::new(check), group)
    }

    /// The configuration without its secrets, and its source, unless a command applied it.
    pub fn redacted_config(&self) -> Value {
        let from = if self.file.file.is_some() { "file" } else { "defaults" };
        json!({ "from": from, "file": self.file.file, "configuration": self.config.redacted() })
    }
}

/// Checks whether a start with this text would get as far as its listener, and how the board could be reached then.
/// `current` is the configuration in effect, if the text may name no other files than that.
fn check_candidate(toml: &str, directories: &Directories, current: Option<&Config>) -> Result<Reach, String> {
    let text = Text { toml: toml.to_owned(), file: None };
    let mut config = text.parse().map_err(|error| in_one_line(&error))?;
    // Checked before any file is opened.
    let forbidden = current.map(|current| config.forbidden_to_pages(current, directories)).unwrap_or_default();
    if !forbidden.is_empty() {
        let forbidden = forbidden.join("; ");
        return Err(format!("{forbidden}; only the configuration file and the broker's command topic may say so"));
    }
    config.check_secret(directories).map_err(|error| in_one_line(&error))?;
    config.find_password(directories);
    let faults = config.file_faults(&text);
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    Ok(if config.mqtt.url.is_some() { Reach::Broker } else { Reach::LocalOnly })
}

/// Applies settings that commands made to the configuration. Returns the mistakes of those that cannot be applied and
/// are left out: values outside the limits of another version, or of a camera that has been replaced.
fn apply_settings(config: &mut Config, settings: &Settings) -> Vec<String> {
    let mut left_out = Vec::new();
    for camera in &mut config.cameras {
        let Some(set) = settings.cameras.get(&camera.name) else { continue };
        let before = camera.clone();
        *camera = camera.clone().with_video(camera.video().with(set.video));
        let mistakes = camera.check();
        if !mistakes.is_empty() {
            left_out.extend(mistakes.into_iter().map(|(key, what)| format!("`camera.{key}`: {what}")));
            *camera = before;
        }
    }
    let before = config.audio.clone();
    config.audio.bitrate = settings.audio.bitrate.unwrap_or(before.bitrate);
    config.audio.channels = settings.audio.channels.unwrap_or(before.channels);
    let mistakes = config.audio.check();
    if !mistakes.is_empty() {
        left_out.extend(mistakes.into_iter().map(|(key, what)| format!("`audio.{key}`: {what}")));
        config.audio = before;
    }
    if let Some(level) = &settings.log_level {
        let before = std::mem::replace(&mut config.log.level, level.clone());
        if let Some((key, what)) = config.log.check().into_iter().next() {
            left_out.push(format!("`log.{key}`: {what}"));
            config.log.level = before;
        }
    }
    left_out
}

fn in_one_line(error: &Error) -> String {
    match error {
        Error::Mistaken { mistakes, .. } => mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Error::Files(faults) => faults.join("; "),
        Error::Unreadable { .. } | Error::File { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: Value) -> Settings {
        serde_json::from_value(json).unwrap()
    }

    /// Written by the version of 2026-11-29: a configuration, one that a command applied, and a setting upon that.
    #[test]
    fn state_and_configuration_of_the_earlier_version_are_used() {
        let former = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/former");
        let state = tempfile::tempdir().unwrap();
        for name in ["settings.json", "upkeep.json"] {
            std::fs::copy(former.join(name), state.path().join(name)).unwrap();
        }
        let file = Text::read(Some(&former.join("peercam.toml"))).unwrap();
        assert_eq!(file.parse().unwrap().status.interval, 15);
        let environment = Environment::of_process(Some(state.path().to_owned()), None);
        let loaded = Loaded::load(environment, file.toml);
        assert_eq!(loaded.source(), Source::Applied);
        let mut config = Config::parse(loaded.text()).unwrap();
        assert_eq!(apply_settings(&mut config, &loaded.settings()), Vec::<String>::new());
        let main = &config.cameras[0];
        assert_eq!((config.status.interval, main.width, main.fps, config.cameras[1].bitrate), (20, 640, 20, 800));
        assert!(!loaded.settings().is_private("main"));
    }

    #[test]
    fn settings_of_commands_override_the_configuration() {
        let mut config = Config::parse("[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\nfps = 5").unwrap();
        let set = settings(json!({
            "cameras": { "b": { "width": 640, "height": 360, "bitrate": 700 }, "gone": { "bitrate": 1 } },
            "audio": { "bitrate": 24, "channels": 2 },
            "log_level": "debug",
        }));
        assert_eq!(apply_settings(&mut config, &set), Vec::<String>::new());
        let b = &config.cameras[1];
        assert_eq!((b.width, b.height, b.fps, b.bitrate), (640, 360, 5, 700));
        assert_eq!(config.cameras[0].bitrate, 2000);
        assert_eq!((config.audio.bitrate, config.audio.channels, config.log.level.as_str()), (24, 2, "debug"));
    }

    #[test]
    fn invalid_settings_are_left_out_and_named() {
        let mut config = Config::default();
        let set = settings(json!({
            "cameras": { "main": { "width": 641, "bitrate": 700 } },
            "audio": { "channels": 9 },
            "log_level": "",
        }));
        let left_out = apply_settings(&mut config, &set);
        assert_eq!(left_out.len(), 3, "{left_out:?}");
        assert!(left_out[0].contains("camera.width") && left_out[1].contains("audio.channels"), "{left_out:?}");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn a_candidate_that_a_start_would_refuse_is_refused_before() {
        let directories = Directories::default();
        assert_eq!(check_candidate("", &directories, None), Ok(Reach::LocalOnly));
        assert_eq!(check_candidate("[mqtt]\nurl = \"mqtt://broker\"", &directories, None), Ok(Reach::Broker));
        let refused = [
            ("[web]\nlisten = 1\n[viewers]\nmax = 0", "line 2: `web.listen`"),
            ("[web]\nlisten = 1\n[viewers]\nmax = 0", "; line 4: `viewers.max`"),
            ("[web]\nsecret_file = \"/nowhere\"", "/nowhere"),
            ("[web]\nlisten = \"0.0.0.0:80\"", "STATE_DIRECTORY"),
            ("[mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\npassword_file = \"/nowhere\"", "/nowhere"),
        ];
        for (toml, reason) in refused {
            let refusal = check_candidate(toml, &directories, None).unwrap_err();
            assert!(refusal.contains(reason) && !refusal.contains('\n'), "{refusal}");
        }
    }

    #[test]
    fn a_page_learns_nothing_about_files_that_it_names() {
        let current = Config::default();
        for file in ["/nowhere", "/etc/hostname", "/dev/zero"] {
            let toml = format!("[mqtt]\nurl = \"mqtt://evil\"\nuser = \"u\"\npassword_file = {file:?}");
            let refusal = check_candidate(&toml, &Directories::default(), Some(&current)).unwrap_err();
            assert!(refusal.contains("`mqtt.password_file` names a file") && !refusal.contains(file), "{refusal}");
        }
    }
}
