//! The configuration file (TOML): the sum of all modules' configurations. Only this module reads files and the
//! environment for it.

mod device;
mod messages;
mod page_restrictions;
mod read;
mod secret;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::de::DeTable;
use tracing::level_filters::LevelFilter;

use crate::camera;
use crate::durable;
use crate::home;
use crate::ice;
use crate::mdns;
use crate::mqtt;
use crate::names;
use crate::status;
use crate::viewer;
use crate::web;

pub use device::DeviceConfig;
pub use messages::Faults;
pub use read::{Mistake, Reader, Section};
pub use secret::{Directories, SecretOrigin};

/// Every key with its default and meaning, as `peercam config --default` prints it.
pub const DEFAULT: &str = include_str!("default.toml");

/// The path of the file, unless the command line names another.
pub const DEFAULT_FILE: &str = "/etc/peercam/peercam.toml";

/// The longest file that is read, in bytes: [`DEFAULT`] has 10 KiB, and a command contains at most 64 KiB.
const MOST_BYTES: usize = 256 * 1024;

/// The most cameras of a board: more than it has connectors.
const MOST_CAMERAS: usize = 16;

/// The whole configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// `[device]`
    pub device: DeviceConfig,
    /// `[web]`
    pub web: web::Config,
    /// `[[camera]]`, at least one.
    #[serde(rename = "camera")]
    pub cameras: Vec<camera::Config>,
    /// `[audio]`
    pub audio: camera::AudioConfig,
    /// `[capture]`
    pub capture: camera::CaptureConfig,
    /// `[viewers]`
    pub viewers: viewer::LimitsConfig,
    /// `[ice]`
    pub ice: ice::Config,
    /// `[home_assistant]`
    pub home_assistant: home::HomeConfig,
    /// `[mdns]`
    pub mdns: mdns::Config,
    /// `[status]`
    pub status: status::StatusConfig,
    /// `[mqtt]`
    pub mqtt: mqtt::Config,
    /// `[log]`
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device: DeviceConfig::default(),
            web: web::Config::default(),
            cameras: vec![camera::Config::default()],
            audio: camera::AudioConfig::default(),
            capture: camera::CaptureConfig::default(),
            viewers: viewer::LimitsConfig::default(),
            ice: ice::Config::default(),
            home_assistant: home::HomeConfig::default(),
            mdns: mdns::Config::default(),
            status: status::StatusConfig::default(),
            mqtt: mqtt::Config::default(),
            log: LogConfig::default(),
        }
    }
}

/// The `[log]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct LogConfig {
    /// The format of lines.
    pub format: LogFormat,
    /// The level, in `tracing`'s filter language.
    pub level: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text that suits its destination: a terminal, the journal, or a file.
    #[default]
    Auto,
    /// Text with the time.
    Text,
    /// One JSON object for each line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into() }
    }
}

/// The errors of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file has mistakes.
    #[error("{}", Listed(.file, .mistakes))]
    Mistaken {
        /// The file.
        file: PathBuf,
        /// In the order of their lines.
        mistakes: Vec<Mistake>,
    },
    /// A file that holds a secret cannot be used.
    #[error("{what} {}: {reason}", .file.display())]
    File {
        /// The key that names it, or its purpose.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// The fault, and the remedy.
        reason: String,
    },
    /// Files that the configuration names cannot be used.
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
}

struct Listed<'a>(&'a Path, &'a [Mistake]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.1.iter().enumerate() {
            let end = if number + 1 < self.1.len() { "\n" } else { "" };
            write!(f, "{}:{}: {}{end}", self.0.display(), mistake.line, mistake.message)?;
        }
        Ok(())
    }
}

/// The text of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Empty means the built-in defaults.
    pub toml: String,
    /// The file that it was read from, if any.
    pub file: Option<PathBuf>,
}

impl Text {
    /// The text of the named file, or of [`DEFAULT_FILE`] if there is one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is not text, or is longer than any configuration.
    pub fn read(file: Option<&Path>) -> Result<Self, Error> {
        let (path, is_wanted) = match file {
            Some(file) => (file, true),
            None => (Path::new(DEFAULT_FILE), false),
        };
        let file = path.to_owned();
        match durable::read(path, MOST_BYTES).map(String::from_utf8) {
            Ok(Ok(toml)) => Ok(Self { toml, file: Some(file) }),
            Ok(Err(error)) => {
                let mistakes = vec![Mistake::not_text(error.as_bytes(), error.utf8_error().valid_up_to())];
                Err(Error::Mistaken { file, mistakes })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_wanted => Ok(Self::default()),
            Err(cause) => Err(Error::Unreadable { file, cause }),
        }
    }

    /// Parses the text.
    ///
    /// # Errors
    ///
    /// If it has mistakes.
    pub fn parse(&self) -> Result<Config, Error> {
        let file = || self.file.clone().unwrap_or_default();
        Config::parse(&self.toml).map_err(|mistakes| Error::Mistaken { file: file(), mistakes })
    }
}

impl Text {
    /// The `message` about the value of `key`, with the place of that value.
    pub fn located(&self, key: &str, message: &str) -> String {
        match (read::line_of_key(&self.toml, key), &self.file) {
            (Some(line), Some(file)) => format!("{}:{line}: {message}", file.display()),
            (Some(line), None) => format!("line {line}: {message}"),
            (None, _) => message.to_owned(),
        }
    }
}

impl Config {
    /// Loads the named file, or [`DEFAULT_FILE`] if there is one, or the built-in defaults.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has mistakes.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        Text::read(file)?.parse()
    }

    /// Parses a file's text.
    ///
    /// # Errors
    ///
    /// All mistakes that could be found at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        Self::parse_with_sections(text, &[], |_, _| ()).map(|(config, ())| config)
    }

    /// Parses a text that may have `others` besides the configuration's tables, which `read` reads.
    ///
    /// # Errors
    ///
    /// All mistakes that could be found at once, in either.
    pub fn parse_with_sections<T>(
        text: &str,
        others: &[Section],
        read: impl for<'t> FnOnce(&mut Reader<'t>, &DeTable<'t>) -> T,
    ) -> Result<(Self, T), Vec<Mistake>> {
        let sections: Vec<Section> = sections().into_iter().chain(others.iter().copied()).collect();
        let (mut reader, root) = Reader::new(text, &sections)?;
        let other = read(&mut reader, &root);
        let config = Self::read(&mut reader, &root);
        let mistakes = reader.finish();
        if mistakes.is_empty() { Ok((config, other)) } else { Err(mistakes) }
    }

    /// The fault of a secret for viewers, if it has one.
    pub fn secret_fault(secret: &str) -> Option<String> {
        web::Config::secret_fault(secret)
    }

    fn read<'t>(reader: &mut Reader<'t>, root: &DeTable<'t>) -> Self {
        let mut config = Self::default();
        if let Some(device) = root.get("device") {
            config.device = reader.table("device", device, DeviceConfig::check);
        }
        if let Some(web) = root.get("web") {
            config.web = reader.table("web", web, web::Config::check);
        }
        if let Some(cameras) = root.get("camera").filter(|cameras| reader.has_at_most(MOST_CAMERAS, "camera", cameras))
        {
            config.cameras = reader.tables("camera", cameras, camera::Config::check);
            if config.cameras.is_empty() {
                config.cameras.push(camera::Config::default());
            }
            let tables = cameras.get_ref().as_array();
            for at in repeated(&config.cameras) {
                let name = &config.cameras[at].name;
                let table = tables.and_then(|tables| tables.get(at)).unwrap_or(cameras);
                let written = table.get_ref().as_table().and_then(|table| table.get("name")).unwrap_or(table);
                reader.note(written.span(), format!("`camera.name`: two cameras are called `{name}`"));
            }
        }
        if let Some(audio) = root.get("audio") {
            config.audio = reader.table("audio", audio, camera::AudioConfig::check);
        }
        if let Some(capture) = root.get("capture") {
            config.capture = reader.table("capture", capture, camera::CaptureConfig::check);
        }
        if let Some(viewers) = root.get("viewers") {
            config.viewers = reader.table("viewers", viewers, viewer::LimitsConfig::check);
        }
        if let Some(ice) = root.get("ice") {
            config.ice = reader.table("ice", ice, ice::Config::check);
            if let Some(servers) = ice.get_ref().get("servers") {
                reader.unknown_keys_within::<ice::ServerConfig>("ice.servers", servers);
                let written = servers.get_ref().as_array().into_iter().flat_map(|all| all.iter());
                for ((server, written), number) in config.ice.servers.iter().zip(written).zip(1..) {
                    for fault in server.check() {
                        reader.note(written.span(), format!("`ice.servers`: server {number} {fault}"));
                    }
                }
            }
        }
        if let Some(home) = root.get("home_assistant") {
            config.home_assistant = reader.table("home_assistant", home, home::HomeConfig::check);
        }
        if let Some(mdns) = root.get("mdns") {
            config.mdns = reader.table("mdns", mdns, |_: &mdns::Config| Vec::new());
        }
        if let Some(status) = root.get("status") {
            config.status = reader.table("status", status, status::StatusConfig::check);
        }
        if let Some(mqtt) = root.get("mqtt") {
            config.mqtt = reader.table("mqtt", mqtt, mqtt::Config::check);
        }
        if let Some(log) = root.get("log") {
            config.log = reader.table("log", log, LogConfig::check);
        }
        config
    }

    /// The keys that have no effect in this configuration, each with a message.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let (has_broker, has_secret) = (self.mqtt.url.is_some(), self.web.secret.is_some());
        let has_secret = has_secret || self.web.secret_file.is_some() || !self.web.listen.ip().is_loopback();
        let all = [
            (
                self.home_assistant.enabled && !has_broker,
                "home_assistant.enabled",
                "does nothing without `mqtt.url`: name there the broker that Home Assistant uses",
            ),
            (
                self.mqtt.client_id.is_some() && !has_broker,
                "mqtt.client_id",
                "does nothing without `mqtt.url`, which says where the broker is",
            ),
            (
                !self.web.allowed_hosts.is_empty() && has_secret,
                "web.allowed_hosts",
                "does nothing where a secret is asked for: any name reaches the board then",
            ),
        ];
        all.into_iter().filter(|(has_no_effect, ..)| *has_no_effect).map(|(_, key, what)| (key, what)).collect()
    }

    /// All tables and keys with their values, secrets as `***`.
    pub fn redacted(&self) -> Value {
        let mut redacted = serde_json::to_value(self).expect("keys are text, and numbers are finite");
        // A derived id is shown like a configured one.
        redacted["device"]["id"] = self.device_id().into();
        redacted
    }

    /// The device's id: as configured, otherwise derived from the machine id, otherwise the host name.
    pub fn device_id(&self) -> String {
        self.device.id.clone().unwrap_or_else(device::derived_id)
    }
}

/// Every table and its keys.
fn sections() -> [Section; 12] {
    [
        ("device", names::of::<DeviceConfig>()),
        ("web", names::of::<web::Config>()),
        ("camera", names::of::<camera::Config>()),
        ("audio", names::of::<camera::AudioConfig>()),
        ("capture", names::of::<camera::CaptureConfig>()),
        ("viewers", names::of::<viewer::LimitsConfig>()),
        ("ice", names::of::<ice::Config>()),
        ("home_assistant", names::of::<home::HomeConfig>()),
        ("mdns", names::of::<mdns::Config>()),
        ("status", names::of::<status::StatusConfig>()),
        ("mqtt", names::of::<mqtt::Config>()),
        ("log", names::of::<LogConfig>()),
    ]
}

/// The cameras with the name of an earlier one.
fn repeated(cameras: &[camera::Config]) -> Vec<usize> {
    let is_again = |at: &usize| cameras[..*at].iter().any(|other| other.name == cameras[*at].name);
    (0..cameras.len()).filter(is_again).collect()
}

impl LogConfig {
    /// The keys with invalid values, each with the fault and the allowed values.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        // The filter takes a word that is not a level as the name of a module, and then logs only that module.
        let has_level = |part: &str| {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
            !level.is_empty() && level.parse::<LevelFilter>().is_ok()
        };
        match tracing_subscriber::EnvFilter::try_new(&self.level) {
            Ok(_) if self.level.split(',').all(has_level) => Vec::new(),
            _ => vec![(
                "level",
                format!("`{}` is not error, warn, info, debug or trace, or a list like info,peercam=debug", self.level),
            )],
        }
    }

    /// The log settings for capture processes.
    pub fn for_capture(&self, is_terminal: bool) -> camera::LogSettings {
        let to_journal = self.goes_to_journal();
        camera::LogSettings {
            filter: self.filter().to_string(),
            is_json: self.format == LogFormat::Json,
            has_time: self.format == LogFormat::Text || !to_journal,
            has_colours: is_terminal && !(self.format == LogFormat::Auto && to_journal),
        }
    }

    /// The filter: `RUST_LOG` if it is set and valid, otherwise the configured level.
    pub fn filter(&self) -> tracing_subscriber::EnvFilter {
        tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(&self.level))
    }

    /// Whether log lines go to systemd's journal, which adds the time by itself (systemd.exec(5), JOURNAL_STREAM).
    pub fn goes_to_journal(&self) -> bool {
        std::env::var_os("JOURNAL_STREAM").is_some()
    }
}
