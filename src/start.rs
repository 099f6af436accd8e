//! From what is configured and what was kept to the configuration that a process begins with.

use std::path::Path;

use serde_json::{Value, json};

use crate::command::Origin;
use crate::config::{Config, Error, Places, Text};
use crate::tasks::Group;
use crate::upkeep::{Memory, Prospect, Settings, Source, Surroundings, Upkeep};

/// What a process begins with.
#[derive(Debug)]
pub struct Start {
    /// With what commands have set laid over it.
    pub config: Config,
    /// Directories that the surroundings give.
    pub places: Places,
    /// What `config` was read from.
    pub text: Text,
    file: Text,
    memory: Memory,
    left_out: Vec<String>,
}

impl Start {
    /// Reads the named configuration file, or the usual one, and what was kept.
    ///
    /// # Errors
    ///
    /// When the file is the one to use, and cannot be read or has mistakes.
    pub fn prepare(file: Option<&Path>) -> Result<Self, Error> {
        let (file, places) = (Text::read(file)?, Places::from_environment());
        let surroundings = Surroundings::of_process(places.state.clone(), places.runtime.as_deref());
        let mut memory = Memory::recall(surroundings, file.toml.clone());
        let (mut config, text) = loop {
            let text = match memory.source() {
                Source::File => file.clone(),
                Source::Applied | Source::Trial => Text { toml: memory.text().to_owned(), file: None },
            };
            match text.parse() {
                Ok(config) => break (config, text),
                Err(error) if !memory.reject(&in_one_line(&error)) => return Err(error),
                Err(_) => {}
            }
        };
        let left_out = lay_over(&mut config, &memory.settings());
        Ok(Self { config, places, text, file, memory, left_out })
    }

    /// Says in the log what was found, and keeps it from here on.
    pub fn open(self, group: &Group) -> Upkeep {
        for mistake in self.left_out {
            tracing::warn!(mistake, "a setting that a command made cannot be used any more");
        }
        let (places, current) = (self.places, self.config);
        let check = move |toml: &str, origin: Origin| prospect(toml, &places, may_watch(origin).then_some(&current));
        self.memory.open(Box::new(check), group)
    }

    /// The configuration without its secrets, and where it is from, unless a command brought it.
    pub fn shown(&self) -> Value {
        let from = if self.file.file.is_some() { "file" } else { "defaults" };
        json!({ "from": from, "file": self.file.file, "configuration": self.config.shown() })
    }
}

/// Whether who commands this way knows no more than viewers do. Who may publish to the command topic owns the board.
fn may_watch(origin: Origin) -> bool {
    match origin {
        Origin::WebSocket | Origin::DataChannel => true,
        Origin::Broker | Origin::HomeAutomation => false,
    }
}

/// Whether a start with this text would get as far as its listener, and what it would have. Where it comes from a page,
/// `current` is the configuration in effect.
fn prospect(toml: &str, places: &Places, current: Option<&Config>) -> Result<Prospect, String> {
    let text = Text { toml: toml.to_owned(), file: None };
    let mut config = text.parse().map_err(|error| in_one_line(&error))?;
    // Before any file is looked at.
    let beyond = current.map(|current| config.beyond_a_page(current, places)).unwrap_or_default();
    if !beyond.is_empty() {
        let beyond = beyond.join("; ");
        return Err(format!("{beyond}; only the configuration file and the broker's command topic may say so"));
    }
    config.check_secret(places).map_err(|error| in_one_line(&error))?;
    config.find_password(places);
    let faults = config.file_faults(&text);
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    Ok(if config.mqtt.url.is_some() { Prospect::Broker } else { Prospect::LocalOnly })
}

/// Puts what commands have set over the configuration. Returns what cannot be, which is left out: the limits of
/// another version, or of a camera that is another one by now.
fn lay_over(config: &mut Config, settings: &Settings) -> Vec<String> {
    let mut left_out = Vec::new();
    for camera in &mut config.cameras {
        let Some(set) = settings.cameras.get(&camera.name) else { continue };
        let before = camera.clone();
        camera.width = set.width.unwrap_or(camera.width);
        camera.height = set.height.unwrap_or(camera.height);
        camera.fps = set.fps.unwrap_or(camera.fps);
        camera.bitrate = set.bitrate.unwrap_or(camera.bitrate);
        camera.key_frame_interval = set.key_frame_interval.unwrap_or(camera.key_frame_interval);
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

    #[test]
    fn what_commands_have_set_lies_over_the_configuration() {
        let mut config = Config::parse("[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\nfps = 5").unwrap();
        let set = settings(json!({
            "cameras": { "b": { "width": 640, "height": 360, "bitrate": 700 }, "gone": { "bitrate": 1 } },
            "audio": { "bitrate": 24, "channels": 2 },
            "log_level": "debug",
        }));
        assert_eq!(lay_over(&mut config, &set), Vec::<String>::new());
        let b = &config.cameras[1];
        assert_eq!((b.width, b.height, b.fps, b.bitrate), (640, 360, 5, 700));
        assert_eq!(config.cameras[0].bitrate, 2000);
        assert_eq!((config.audio.bitrate, config.audio.channels, config.log.level.as_str()), (24, 2, "debug"));
    }

    #[test]
    fn settings_that_cannot_be_are_left_out_and_named() {
        let mut config = Config::default();
        let set = settings(json!({
            "cameras": { "main": { "width": 641, "bitrate": 700 } },
            "audio": { "channels": 9 },
            "log_level": "",
        }));
        let left_out = lay_over(&mut config, &set);
        assert_eq!(left_out.len(), 3, "{left_out:?}");
        assert!(left_out[0].contains("camera.width") && left_out[1].contains("audio.channels"), "{left_out:?}");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn what_a_start_would_refuse_is_refused_before() {
        let places = Places::default();
        assert_eq!(prospect("", &places, None), Ok(Prospect::LocalOnly));
        assert_eq!(prospect("[mqtt]\nurl = \"mqtt://broker\"", &places, None), Ok(Prospect::Broker));
        let refused = [
            ("[web]\nlisten = 1\n[viewers]\nmax = 0", "line 2: `web.listen`"),
            ("[web]\nlisten = 1\n[viewers]\nmax = 0", "; line 4: `viewers.max`"),
            ("[web]\nsecret_file = \"/nowhere\"", "/nowhere"),
            ("[web]\nlisten = \"0.0.0.0:80\"", "STATE_DIRECTORY"),
            ("[mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\npassword_file = \"/nowhere\"", "/nowhere"),
        ];
        for (toml, reason) in refused {
            let said = prospect(toml, &places, None).unwrap_err();
            assert!(said.contains(reason) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_page_learns_nothing_of_files_that_it_names() {
        let current = Config::default();
        for file in ["/nowhere", "/etc/hostname", "/dev/zero"] {
            let toml = format!("[mqtt]\nurl = \"mqtt://evil\"\nuser = \"u\"\npassword_file = {file:?}");
            let said = prospect(&toml, &Places::default(), Some(&current)).unwrap_err();
            assert!(said.contains("`mqtt.password_file` names a file") && !said.contains(file), "{said}");
        }
    }
}
