//! What a starting process remembers, before there is a log or anything else to fail.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file;
use super::keeper::Keeper;
use super::ledger::{self, Change, Ledger, Source};
use super::reentry::{self, Program};
use super::settings::{self, Kept, Settings};
use super::{Check, Digest, OnTrial, Upkeep};
use crate::durable;
use crate::tasks::Group;

/// The names in the state directory.
pub(super) const LEDGER: &str = "upkeep.json";
pub(super) const SETTINGS: &str = "settings.json";
/// The longest file that is read. Two configurations of 64 KiB, written as JSON, and outcomes fit several times over.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What an applied configuration is called once the file was written after it.
pub(super) const OVERRULED: &str = "applied-before.toml";

/// What a process has around it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where what must survive is kept. With `None` nothing can be.
    pub state: Option<PathBuf>,
    /// The file that asks for a reboot of the board; with `None` nobody would notice one.
    pub reboot: Option<PathBuf>,
    /// Which of the board's boots this is.
    pub boot: Option<String>,
    pub(super) token: Option<String>,
    pub(super) program: Program,
}

impl Surroundings {
    /// Those of this process, with the directories that it was given.
    pub fn of_process(state: Option<PathBuf>, runtime: Option<&Path>) -> Self {
        // The unit passes it on, since it has most of /proc hidden.
        let told = std::env::var("PEERCAM_BOOT").ok();
        let boot = told.or_else(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok());
        Self {
            state,
            reboot: runtime.map(|directory| directory.join("reboot")),
            boot: boot.map(|boot| boot.trim().to_owned()).filter(|boot| !boot.is_empty()),
            token: reentry::token(),
            program: Program::current(),
        }
    }
}

/// What is remembered. It becomes an [`Upkeep`] once the configuration could be read.
#[derive(Debug)]
pub struct Memory {
    pub(super) begun: Instant,
    pub(super) surroundings: Surroundings,
    base: String,
    pub(super) ledger: Ledger,
    pub(super) kept: Kept,
    pub(super) source: Source,
    /// Files that were there and could not be read, as sentences.
    pub(super) losses: Losses,
    notes: Vec<Note>,
}

/// What was kept and is lost, each with what became of its file; `None` where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// What commands had set.
    pub settings: Option<String>,
    /// The applied configuration, the one on trial, and outcomes that were owed.
    pub ledger: Option<String>,
}

/// What will be logged once there is a log.
#[derive(Debug)]
enum Note {
    Unreadable(String),
    Unwritten(io::Error),
    TrialEnded(String),
    Overruled,
    Rejected(String),
    Dropped,
}

impl Memory {
    /// Looks up what was kept. `base` is the text of the configuration file, empty where there is none.
    ///
    /// Never fails: what cannot be read is set aside, and what cannot be written is tried again later.
    pub fn recall(surroundings: Surroundings, base: String) -> Self {
        let mut notes = Vec::new();
        let state = surroundings.state.as_deref();
        let mut losses = Losses::default();
        let mut ledger: Ledger = read(state, LEDGER, &ledger::FIELDS).unwrap_or_else(|lost| {
            losses.ledger = Some(lost);
            Ledger::default()
        });
        let kept = read(state, SETTINGS, &settings::FIELDS).unwrap_or_else(|lost| {
            losses.settings = Some(lost);
            Kept::unread()
        });
        // For the next start, which finds no file any more.
        if losses.ledger.is_some() {
            notes.extend(keep(state, LEDGER, &ledger).err().map(Note::Unwritten));
        }
        if losses.settings.is_some() {
            notes.extend(keep(state, SETTINGS, &kept).err().map(Note::Unwritten));
        }
        notes.extend([&losses.ledger, &losses.settings].into_iter().flatten().cloned().map(Note::Unreadable));
        let before = ledger.clone();
        let (source, changes) =
            ledger.start(&Digest::of(&base), surroundings.token.as_deref(), surroundings.boot.as_deref());
        let mut memory = Self { begun: Instant::now(), surroundings, base, ledger, kept, source, losses, notes };
        for change in changes {
            memory.note(change);
        }
        if memory.ledger != before {
            memory.keep_ledger();
        }
        memory
    }

    /// The text of the configuration to begin with.
    pub fn text(&self) -> &str {
        match (self.source, &self.ledger.applied, &self.ledger.trial) {
            (Source::Applied, Some(applied), _) => &applied.toml,
            (Source::Trial, _, Some(trial)) => &trial.configuration.toml,
            _ => &self.base,
        }
    }

    /// Where that text is from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// That text cannot be used. Returns whether there is another one.
    pub fn reject(&mut self, reason: &str) -> bool {
        match self.source {
            Source::Trial => {
                self.ledger.refuse_trial(reason);
                self.notes.push(Note::TrialEnded(reason.into()));
                self.keep_ledger();
                self.source = if self.ledger.applied.is_some() { Source::Applied } else { Source::File };
                true
            }
            // Kept all the same: another version of the program, which an update brings back, could read it.
            Source::Applied => {
                self.notes.push(Note::Rejected(reason.into()));
                self.source = Source::File;
                true
            }
            Source::File => false,
        }
    }

    /// What commands have set upon that text.
    pub fn settings(&self) -> Settings {
        self.kept.upon(&Digest::of(self.text()))
    }

    /// Logs what was noted so far.
    pub fn report(&mut self) {
        for note in self.notes.drain(..) {
            note.log();
        }
    }

    /// Keeps it all from here on. `check` is asked about configurations that are to be applied.
    pub fn open(mut self, check: Box<Check>, group: &Group) -> Upkeep {
        let configuration = Digest::of(self.text());
        if self.is_settled() && self.kept.has_others_than(&configuration) {
            self.kept = Kept::only(&configuration, self.kept.upon(&configuration));
            self.notes.push(Note::Dropped);
            let kept = keep(self.surroundings.state.as_deref(), SETTINGS, &self.kept);
            self.notes.extend(kept.err().map(Note::Unwritten));
        }
        self.report();
        Upkeep { keeper: Arc::new(Keeper::new(self, check)), group: group.clone() }
    }

    /// Whether no other configuration may come back, whose settings would be missed then.
    fn is_settled(&self) -> bool {
        match self.source {
            Source::File => self.ledger.applied.is_none(),
            Source::Applied => true,
            Source::Trial => false,
        }
    }

    pub(super) fn base_digest(&self) -> Digest {
        Digest::of(&self.base)
    }

    pub(super) fn on_trial(&self) -> Option<OnTrial> {
        let trial = self.ledger.trial.as_ref().filter(|_| self.source == Source::Trial)?;
        let deadline = self.begun + Duration::from_secs(trial.within);
        Some(OnTrial { origin: trial.pending.origin, deadline })
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::TrialEnded(reason) => self.notes.push(Note::TrialEnded(reason)),
            Change::Overruled(toml) => {
                self.notes.push(Note::Overruled);
                let Some(state) = &self.surroundings.state else { return };
                let written = durable::write(&state.join(OVERRULED), toml.as_bytes());
                self.notes.extend(written.err().map(Note::Unwritten));
            }
        }
    }

    fn keep_ledger(&mut self) {
        let kept = keep(self.surroundings.state.as_deref(), LEDGER, &self.ledger);
        self.notes.extend(kept.err().map(Note::Unwritten));
    }
}

impl Note {
    fn log(self) {
        match self {
            Self::Unreadable(what) => tracing::warn!(what, "what was kept cannot be read, and is left out"),
            Self::Unwritten(error) => tracing::warn!(%error, "the state directory cannot be written"),
            Self::TrialEnded(reason) => tracing::warn!(reason, "the configuration on trial was given up"),
            Self::Overruled => tracing::warn!(
                kept_as = OVERRULED,
                "the configuration file was written after the applied configuration, and holds"
            ),
            Self::Rejected(reason) => {
                tracing::warn!(reason, "the applied configuration cannot be used; the configuration file holds");
            }
            Self::Dropped => {
                tracing::info!("the configuration was written after commands changed settings, and holds");
            }
        }
    }
}

/// Makes `content` the file `name` of the state directory.
pub(super) fn keep(state: Option<&Path>, name: &str, content: &impl Serialize) -> io::Result<()> {
    let state = state.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "there is no place to keep anything: set STATE_DIRECTORY, or HOME")
    })?;
    let content = file::text(content)?;
    let file = state.join(name);
    durable::write(&file, content.as_bytes())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display())))
}

/// What the file holds; the default where there never was one.
///
/// # Errors
///
/// Why it cannot be read, and where it is now. So is one that was set aside before, and has no successor: the power
/// went in between.
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
