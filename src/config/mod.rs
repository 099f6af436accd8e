//! The TOML file: the sum of the rooms' configurations. The only room that reads files and the environment for it.

mod confined;
mod read;
mod secret;
#[cfg(test)]
mod tests;
mod wording;

use std::fmt;
use std::path::{Path, PathBuf};

use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::de::DeTable;
use tracing::level_filters::LevelFilter;

use crate::camera;
use crate::control;
use crate::durable;
use crate::home;
use crate::ice;
use crate::mdns;
use crate::mqtt;
use crate::viewer;
use crate::web;

pub use read::{Faults, Mistake, Reader, Section, keys};
pub use secret::{Places, SecretOrigin};

/// Every key with its default and what it means; what `peercam config --default` prints.
pub const DEFAULT: &str = include_str!("default.toml");

/// Where the file is looked for unless the command line names another.
pub const USUAL_FILE: &str = "/etc/peercam/peercam.toml";

/// The longest file that is read: the one that explains every key has 10 KiB, a command brings 64 at most.
const MOST_BYTES: usize = 256 * 1024;

/// Cameras that a board may have: as many as it has plugs for, with room to spare.
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
    pub status: control::StatusConfig,
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
            status: control::StatusConfig::default(),
            mqtt: mqtt::Config::default(),
            log: LogConfig::default(),
        }
    }
}

/// The `[device]` table.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct DeviceConfig {
    /// How the board calls itself; `None` has one made from the machine id.
    pub id: Option<String>,
}

/// The `[log]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// What is written, in `tracing`'s filter language.
    pub level: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text that suits where it goes: a terminal, the journal, or a file.
    #[default]
    Auto,
    /// Text with time.
    Text,
    /// One JSON object for each line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into() }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {cause}", .file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file has mistakes.
    #[error("{}", Listed(.file, .mistakes))]
    Mistaken {
        /// Which one.
        file: PathBuf,
        /// From its top to its end.
        mistakes: Vec<Mistake>,
    },
    /// A file that holds a secret cannot be used.
    #[error("{what} {}: {reason}", .file.display())]
    File {
        /// The key that names it, or what it is for.
        what: &'static str,
        /// Which one.
        file: PathBuf,
        /// What is wrong and what to do.
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

/// A configuration as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Empty stands for the built-in defaults.
    pub toml: String,
    /// Where it was read, if there was a file.
    pub file: Option<PathBuf>,
}

impl Text {
    /// The text of the named file, or of [`USUAL_FILE`] if there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not text, or is longer than any configuration.
    pub fn read(file: Option<&Path>) -> Result<Self, Error> {
        let (path, is_wanted) = match file {
            Some(file) => (file, true),
            None => (Path::new(USUAL_FILE), false),
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

    /// What it says.
    ///
    /// # Errors
    ///
    /// When it has mistakes.
    pub fn parse(&self) -> Result<Config, Error> {
        let file = || self.file.clone().unwrap_or_default();
        Config::parse(&self.toml).map_err(|mistakes| Error::Mistaken { file: file(), mistakes })
    }
}

impl Text {
    /// `said`, which is about the value of `key`, with where that stands.
    pub fn located(&self, key: &str, said: &str) -> String {
        match (read::line_of_key(&self.toml, key), &self.file) {
            (Some(line), Some(file)) => format!("{}:{line}: {said}", file.display()),
            (Some(line), None) => format!("line {line}: {said}"),
            (None, _) => said.to_owned(),
        }
    }
}

impl Config {
    /// The named file, or [`USUAL_FILE`] if there is one, or the built-in defaults.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or has mistakes.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        Text::read(file)?.parse()
    }

    /// A file's text.
    ///
    /// # Errors
    ///
    /// All mistakes that could be found at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        Self::parse_beside(text, &[], |_, _| ()).map(|(config, ())| config)
    }

    /// A text in which `others` may stand beside the configuration's tables; `read` reads those.
    ///
    /// # Errors
    ///
    /// All mistakes that could be found at once, in either.
    pub fn parse_beside<T>(
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

    /// What is wrong with a secret that viewers are to know, if anything is.
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
            config.status = reader.table("status", status, control::StatusConfig::check);
        }
        if let Some(mqtt) = root.get("mqtt") {
            config.mqtt = reader.table("mqtt", mqtt, mqtt::Config::check);
        }
        if let Some(log) = root.get("log") {
            config.log = reader.table("log", log, LogConfig::check);
        }
        config
    }

    /// What was written down and does nothing as things are, each with its key and what to do.
    pub fn idle(&self) -> Vec<(&'static str, &'static str)> {
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
        all.into_iter().filter(|(is_idle, ..)| *is_idle).map(|(_, key, what)| (key, what)).collect()
    }

    /// All tables and keys with their values, secrets as `***`.
    pub fn shown(&self) -> Value {
        let mut shown = serde_json::to_value(self).expect("keys are text, and numbers are finite");
        // The id that the board makes for itself is as good as a configured one.
        shown["device"]["id"] = self.device_id().into();
        shown
    }

    /// How the board calls itself: as configured, else made from the machine id, else the host's name.
    pub fn device_id(&self) -> String {
        let made = || {
            let machine = std::fs::read_to_string("/etc/machine-id").ok()?;
            let machine = machine.trim();
            // "uninitialized" and nothing are what machine-id(5) has before the first boot is over.
            (machine.len() == 32).then(|| device_id_of(machine))
        };
        let host = || device_id_of_host(&std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?);
        self.device.id.clone().or_else(made).or_else(host).unwrap_or_else(|| "peercam".into())
    }
}

/// The host's name without its domain, if it can be a device's. The kernel's own word for no name, and what a system
/// without a name of its own is called, are none.
fn device_id_of_host(name: &str) -> Option<String> {
    let id = name.trim().split('.').next().unwrap_or_default();
    (is_device_id(id) && id != "localhost").then(|| id.to_owned())
}

/// 64: it becomes part of topics and of file names. Where it becomes a host's name, which is shorter, it is cut.
fn is_device_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !id.is_empty() && id.len() <= 64 && id.chars().all(is_plain)
}

/// A name that stays the same on one machine and does not give its machine id away, as machine-id(5) demands.
fn device_id_of(machine: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, machine.as_bytes());
    let tag = hmac::sign(&key, b"peercam device id");
    let digits: String = tag.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("peercam-{digits}")
}

/// Every table and its keys.
fn sections() -> [Section; 12] {
    [
        ("device", keys::<DeviceConfig>()),
        ("web", keys::<web::Config>()),
        ("camera", keys::<camera::Config>()),
        ("audio", keys::<camera::AudioConfig>()),
        ("capture", keys::<camera::CaptureConfig>()),
        ("viewers", keys::<viewer::LimitsConfig>()),
        ("ice", keys::<ice::Config>()),
        ("home_assistant", keys::<home::HomeConfig>()),
        ("mdns", keys::<mdns::Config>()),
        ("status", keys::<control::StatusConfig>()),
        ("mqtt", keys::<mqtt::Config>()),
        ("log", keys::<LogConfig>()),
    ]
}

/// The cameras whose name an earlier one has.
fn repeated(cameras: &[camera::Config]) -> Vec<usize> {
    let is_again = |at: &usize| cameras[..*at].iter().any(|other| other.name == cameras[*at].name);
    (0..cameras.len()).filter(is_again).collect()
}

impl DeviceConfig {
    fn check(&self) -> Faults {
        match &self.id {
            Some(id) if !is_device_id(id) => {
                vec![("id", "is not 1 to 64 letters, digits, `-` or `_` (without accents)".into())]
            }
            _ => Vec::new(),
        }
    }
}

impl LogConfig {
    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        // The filter takes a word that is no level for the name of a module, of which alone it then lets lines pass.
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

    /// What capture processes are told of it.
    pub fn of_capture(&self, is_terminal: bool) -> camera::Log {
        let to_journal = self.goes_to_journal();
        camera::Log {
            filter: self.filter().to_string(),
            is_json: self.format == LogFormat::Json,
            has_time: self.format == LogFormat::Text || !to_journal,
            has_colours: is_terminal && !(self.format == LogFormat::Auto && to_journal),
        }
    }

    /// The filter: `RUST_LOG` where it is set and sound, else the configured level.
    pub fn filter(&self) -> tracing_subscriber::EnvFilter {
        tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(&self.level))
    }

    /// Whether lines go to systemd's journal, which adds the time by itself (systemd.exec(5), JOURNAL_STREAM).
    pub fn goes_to_journal(&self) -> bool {
        std::env::var_os("JOURNAL_STREAM").is_some()
    }
}
