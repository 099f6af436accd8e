//! The state that a starting process loads, before there is a log or anything else that can fail.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file;
use super::record::{self, Change, Record, Source};
use super::reexec::{self, Program};
use super::settings::{self, PersistedSettings, Settings};
use super::{ActiveTrial, Digest};
use crate::durable;

/// The file names in the state directory.
pub(super) const RECORD: &str = "upkeep.json";
pub(super) const SETTINGS: &str = "settings.json";
/// The longest file that is read. Two configurations of 64 KiB, written as JSON, and outcomes fit several times over.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Name of an applied configuration once the file was edited after it.
pub(super) const OVERRIDDEN: &str = "applied-before.toml";

/// The environment of a process.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The state directory. With `None` nothing can be saved.
    pub state: Option<PathBuf>,
    /// The file that requests a reboot of the board; with `None` nothing would act on it.
    pub reboot: Option<PathBuf>,
    /// Identifies the current boot of the board.
    pub boot: Option<String>,
    pub(super) token: Option<String>,
    pub(super) program: Program,
}

impl Environment {
    /// The environment of this process, with the directories that it was given.
    pub fn of_process(state: Option<PathBuf>, runtime: Option<&Path>) -> Self {
        // The unit passes it in, since it hides most of /proc.
        let passed = std::env::var("PEERCAM_BOOT").ok();
        let boot = passed.or_else(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok());
        Self {
            state,
            reboot: runtime.map(|directory| directory.join("reboot")),
            boot: boot.map(|boot| boot.trim().to_owned()).filter(|boot| !boot.is_empty()),
            token: reexec::token(),
            program: Program::current(),
        }
    }
}

/// The loaded state. It becomes a [`SavedState`](super::SavedState) once the configuration could be read.
#[derive(Debug)]
pub struct Loaded {
    pub(super) started: Instant,
    pub(super) environment: Environment,
    base: String,
    pub(super) record: Record,
    pub(super) persisted: PersistedSettings,
    pub(super) source: Source,
    pub(super) losses: Losses,
    notes: Vec<Note>,
}

/// Files that existed and could not be read: for each, what happened to it, as a sentence; `None` where nothing is
/// lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Settings that commands made.
    pub settings: Option<String>,
    /// The applied configuration, the one on trial, and owed outcomes.
    pub record: Option<String>,
}

/// Logged once there is a log.
#[derive(Debug)]
enum Note {
    Unreadable(String),
    NotSaved(io::Error),
    TrialFailed(String),
    Overridden,
    Rejected(String),
    SettingsDropped,
}

impl Loaded {
    /// Loads the state. `base` is the text of the configuration file, empty where there is no file.
    ///
    /// Never fails: files that cannot be read are set aside, and files that cannot be written are tried again later.
    pub fn load(environment: Environment, base: String) -> Self {
        let mut notes = Vec::new();
        let state = environment.state.as_deref();
        let mut losses = Losses::default();
        let mut record: Record = read(state, RECORD, &record::FIELDS).unwrap_or_else(|loss| {
            losses.record = Some(loss);
            Record::default()
        });
        let persisted = read(state, SETTINGS, &settings::FIELDS).unwrap_or_else(|loss| {
            losses.settings = Some(loss);
            PersistedSettings::unreadable()
        });
        // For the next start, which no longer finds a file.
        if losses.record.is_some() {
            notes.extend(save(state, RECORD, &record).err().map(Note::NotSaved));
        }
        if losses.settings.is_some() {
            notes.extend(save(state, SETTINGS, &persisted).err().map(Note::NotSaved));
        }
        notes.extend([&losses.record, &losses.settings].into_iter().flatten().cloned().map(Note::Unreadable));
        let before = record.clone();
        let (source, changes) =
            record.start(&Digest::of(&base), environment.token.as_deref(), environment.boot.as_deref());
        let mut loaded = Self { started: Instant::now(), environment, base, record, persisted, source, losses, notes };
        for change in changes {
            loaded.note(change);
        }
        if loaded.record != before {
            loaded.save_record();
        }
        loaded
    }

    /// The text of the configuration to start with.
    pub fn text(&self) -> &str {
        match (self.source, &self.record.applied, &self.record.trial) {
            (Source::Applied, Some(applied), _) => &applied.toml,
            (Source::Trial, _, Some(trial)) => &trial.configuration.toml,
            _ => &self.base,
        }
    }

    /// The source of that text.
    pub fn source(&self) -> Source {
        self.source
    }

    /// That text cannot be used. Returns whether there is another one.
    pub fn reject(&mut self, reason: &str) -> bool {
        match self.source {
            Source::Trial => {
                self.record.fail_trial(reason);
                self.notes.push(Note::TrialFailed(reason.into()));
                self.save_record();
                self.source = if self.record.applied.is_some() { Source::Applied } else { Source::File };
                true
            }
            // It stays in the file: another version of the program, which an update brings back, could read it.
            Source::Applied => {
                self.notes.push(Note::Rejected(reason.into()));
                self.source = Source::File;
                true
            }
            Source::File => false,
        }
    }

    /// Settings that commands made over that text.
    pub fn settings(&self) -> Settings {
        self.persisted.of(&Digest::of(self.text()))
    }

    /// Logs the notes so far.
    pub fn report(&mut self) {
        for note in self.notes.drain(..) {
            note.log();
        }
    }

    /// Removes settings of configurations that cannot return, and logs the notes.
    pub(super) fn drop_stale_settings(&mut self) {
        let configuration = Digest::of(self.text());
        if self.is_final() && self.persisted.has_others_than(&configuration) {
            self.persisted = PersistedSettings::only(&configuration, self.persisted.of(&configuration));
            self.notes.push(Note::SettingsDropped);
            let saved = save(self.environment.state.as_deref(), SETTINGS, &self.persisted);
            self.notes.extend(saved.err().map(Note::NotSaved));
        }
        self.report();
    }

    /// Whether no other configuration can return, which would need its settings then.
    fn is_final(&self) -> bool {
        match self.source {
            Source::File => self.record.applied.is_none(),
            Source::Applied => true,
            Source::Trial => false,
        }
    }

    pub(super) fn base_digest(&self) -> Digest {
        Digest::of(&self.base)
    }

    pub(super) fn active_trial(&self) -> Option<ActiveTrial> {
        let trial = self.record.trial.as_ref().filter(|_| self.source == Source::Trial)?;
        let deadline = self.started + Duration::from_secs(trial.within);
        Some(ActiveTrial { origin: trial.pending.origin, deadline })
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::TrialFailed(reason) => self.notes.push(Note::TrialFailed(reason)),
            Change::Overridden(toml) => {
                self.notes.push(Note::Overridden);
                let Some(state) = &self.environment.state else { return };
                let written = durable::write(&state.join(OVERRIDDEN), toml.as_bytes());
                self.notes.extend(written.err().map(Note::NotSaved));
            }
        }
    }

    fn save_record(&mut self) {
        let saved = save(self.environment.state.as_deref(), RECORD, &self.record);
        self.notes.extend(saved.err().map(Note::NotSaved));
    }
}

impl Note {
    fn log(self) {
        match self {
            Self::Unreadable(what) => tracing::warn!(what, "kept state cannot be read, and is ignored"),
            Self::NotSaved(error) => tracing::warn!(%error, "the state directory cannot be written"),
            Self::TrialFailed(reason) => tracing::warn!(reason, "the configuration on trial was given up"),
            Self::Overridden => tracing::warn!(
                kept_as = OVERRIDDEN,
                "the configuration file was written after the applied configuration, and takes precedence"
            ),
            Self::Rejected(reason) => {
                tracing::warn!(reason, "the applied configuration cannot be used; the configuration file is in effect");
            }
            Self::SettingsDropped => {
                tracing::info!("the configuration was written after commands changed settings, and takes precedence");
            }
        }
    }
}

/// Writes `content` to the file `name` in the state directory.
pub(super) fn save(state: Option<&Path>, name: &str, content: &impl Serialize) -> io::Result<()> {
    let state = state.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "there is no place to keep anything: set STATE_DIRECTORY, or HOME")
    })?;
    let content = file::text(content)?;
    let file = state.join(name);
    durable::write(&file, content.as_bytes())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display())))
}

/// The content of the file; the default if the file never existed.
///
/// # Errors
///
/// Why it cannot be read, and where it is now. Also for a file that was set aside earlier and not replaced: the power
/// was lost in between.
fn read<T: DeserializeOwned + Default>(state: Option<&Path>, name: &str, fields: &[&str]) -> Result<T, String> {
    let Some(path) = state.map(|state| state.join(name)) else { return Ok(T::default()) };
    if matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        let was_set_aside = durable::was_set_aside(&path);
        return if was_set_aside { Err(format!("{name} is missing beside {name}.bad")) } else { Ok(T::default()) };
    }
    let read = durable::read(&path, MOST_BYTES).map_err(|error| error.to_string());
    read.and_then(|bytes| file::parse(&bytes, fields)).map_err(|reason| {
        let name_of = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match durable::set_aside(&path).map(name_of) {
            Ok(aside) => format!("{name}: {reason}; it is {aside} now"),
            Err(error) => format!("{name}: {reason}; nor can it be renamed: {error}"),
        }
    })
}
