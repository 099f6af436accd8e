//! Writes the state files: each step is written to the disk first, then to memory. Only settings take effect before
//! they are written; a change that cannot be written is written with the next one. All of it may block.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use super::loaded::{Environment, Loaded, Losses, RECORD, SETTINGS, save};
use super::record::{Applied, MOST_OWED, Record, Source, Trial};
use super::settings::PersistedSettings;
use super::{
    ActiveTrial, Candidate, Check, Digest, Error, KnownCommand, MAX_TRIAL, MIN_TRIAL, OwedOutcome, PendingCommand,
    REBOOT_LIMIT, Reach, Reexec, Restart, Settings, needs_broker,
};

/// Twice the capacity of the record: its entries, and as many that were already reported.
const MOST_KNOWN: usize = 2 * MOST_OWED;

/// Expectation of each lock.
const UNPOISONED: &str = "lock is never poisoned: no panic while held";

pub(super) struct Store {
    environment: Environment,
    configuration: Digest,
    base: Digest,
    check: Box<Check>,
    /// Held from before a file is written until memory matches it: one writer at a time.
    files: Mutex<Files>,
    pub(super) source: watch::Sender<Source>,
    /// Settings made by commands, whether written to the disk or not.
    pub(super) settings: watch::Sender<Settings>,
    pub(super) owed_outcomes: watch::Sender<Vec<OwedOutcome>>,
    /// Commands that have been in the record since the process started, oldest first.
    known_commands: Mutex<Vec<KnownCommand>>,
    pub(super) restart: watch::Sender<Option<Reexec>>,
    pub(super) trial: Option<ActiveTrial>,
    pub(super) losses: Losses,
}

/// The content of the files.
struct Files {
    record: Record,
    settings: PersistedSettings,
}

impl Store {
    /// Continues from the state that a start loaded.
    pub(super) fn new(loaded: Loaded, check: Box<Check>) -> Self {
        let configuration = Digest::of(loaded.text());
        Self {
            known_commands: Mutex::new(loaded.record.known_commands()),
            trial: loaded.active_trial(),
            losses: loaded.losses.clone(),
            base: loaded.base_digest(),
            settings: watch::Sender::new(loaded.settings()),
            owed_outcomes: watch::Sender::new(loaded.record.owed_outcomes()),
            source: watch::Sender::new(loaded.source()),
            restart: watch::Sender::new(None),
            files: Mutex::new(Files { record: loaded.record, settings: loaded.persisted }),
            environment: loaded.environment,
            configuration,
            check,
        }
    }

    pub(super) fn known_command(&self, id: &str) -> Option<KnownCommand> {
        self.known_commands.lock().expect(UNPOISONED).iter().rfind(|known| known.pending.id == id).cloned()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().expect(UNPOISONED)
    }

    fn directory(&self) -> Option<&Path> {
        self.environment.state.as_deref()
    }

    pub(super) fn change(&self, alter: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut files = self.files();
        self.settings.send_modify(alter);
        let wanted = self.settings.borrow().clone();
        if wanted == files.settings.of(&self.configuration) {
            return Ok(());
        }
        // Another configuration may return, after a trial or with another version, and then needs its own settings.
        let is_final = match *self.source.borrow() {
            Source::File => files.record.applied.is_none(),
            Source::Applied => true,
            Source::Trial => false,
        };
        let settings = match is_final {
            true => PersistedSettings::only(&self.configuration, wanted),
            false => files.settings.clone().with(&self.configuration, wanted),
        };
        save(self.directory(), SETTINGS, &settings)?;
        files.settings = settings;
        Ok(())
    }

    pub(super) fn apply(&self, candidate: Candidate) -> Result<(), Error> {
        let Candidate { toml, within, may_name_files, pending } = candidate;
        if !(MIN_TRIAL..=MAX_TRIAL).contains(&within) {
            return Err(Error::OutOfRange);
        }
        let reach = (self.check)(&toml, may_name_files).map_err(Error::Refused)?;
        if reach == Reach::LocalOnly && needs_broker(pending.origin) {
            return Err(Error::WithoutBroker);
        }
        let token = format!("{:032x}", rand::random::<u128>());
        let trial = Trial {
            token: token.clone(),
            configuration: Applied { toml, base: self.base.clone() },
            within: within.as_secs(),
            pending,
        };
        let mut files = self.files();
        self.ensure_free(&files.record)?;
        self.update(&mut files, |record| record.trial = Some(trial)).map_err(Error::NotSaved)?;
        self.request_reexec(Some(token));
        Ok(())
    }

    pub(super) fn restart(&self, what: Restart, pending: PendingCommand) -> Result<(), Error> {
        let reboot = match (what, &self.environment.reboot) {
            (Restart::Board, None) => return Err(Error::NoReboot),
            (Restart::Board, reboot) => reboot.as_deref(),
            (Restart::Service, _) => None,
        };
        let mut files = self.files();
        self.ensure_free(&files.record)?;
        let (id, boot) = (pending.id.clone(), self.environment.boot.clone());
        self.update(&mut files, |record| record.add_restart(pending, what, boot)).map_err(Error::NotSaved)?;
        match reboot {
            None => self.request_reexec(None),
            Some(file) => {
                if let Err(error) = fs::write(file, "") {
                    self.update(&mut files, |record| record.remove_restart(&id)).map_err(Error::NotSaved)?;
                    return Err(Error::Reboot(error));
                }
                tracing::info!("a reboot of the board was requested");
            }
        }
        Ok(())
    }

    /// Fails if something is in progress that a restart would interrupt.
    fn ensure_free(&self, record: &Record) -> Result<(), Error> {
        match record {
            _ if record.trial.is_some() => Err(Error::Busy("a configuration is on trial")),
            _ if record.awaits_restart() => Err(Error::Busy("a restart is under way")),
            _ => Ok(()),
        }
    }

    fn request_reexec(&self, trial: Option<String>) {
        self.restart.send_replace(Some(Reexec { program: self.environment.program.clone(), trial }));
    }

    pub(super) fn cancel_reboot(&self, id: &str) {
        if let Some(file) = &self.environment.reboot {
            // A late reboot must not find the request.
            fs::remove_file(file).ok();
        }
        let reason = format!(
            "the board did not begin to restart within {} s; is peercam-reboot.path enabled?",
            REBOOT_LIMIT.as_secs()
        );
        if let Err(error) = self.update_record(|record| record.fail_restart(id, &reason)) {
            tracing::warn!(%error, reason, "the board does not restart, and this cannot be written");
        }
    }

    pub(super) fn confirm_trial(&self) -> io::Result<()> {
        if *self.source.borrow() != Source::Trial {
            return Ok(());
        }
        let mut files = self.files();
        self.update(&mut files, Record::confirm_trial)?;
        self.source.send_replace(if files.record.applied.is_some() { Source::Applied } else { Source::File });
        tracing::info!("the applied configuration is confirmed");
        if files.settings.has_others_than(&self.configuration) {
            let settings = PersistedSettings::only(&self.configuration, files.settings.of(&self.configuration));
            match save(self.directory(), SETTINGS, &settings) {
                Ok(()) => files.settings = settings,
                // They are left out at the next start in any case.
                Err(error) => tracing::warn!(%error, "settings of the earlier configuration are left in the file"),
            }
        }
        Ok(())
    }

    pub(super) fn abort_trial(&self, reason: &str) {
        if *self.source.borrow() != Source::Trial || self.restart.borrow().is_some() {
            return;
        }
        tracing::warn!(reason, "the configuration on trial is given up");
        if let Err(error) = self.update_record(|record| record.fail_trial(reason)) {
            // The next start is not passed the trial's token, and ends the trial.
            tracing::warn!(%error, "the reason cannot be written");
        }
        self.request_reexec(None);
    }

    /// One step of the record, written to the disk first.
    pub(super) fn update_record(&self, update: impl FnOnce(&mut Record)) -> io::Result<()> {
        self.update(&mut self.files(), update)
    }

    fn update(&self, files: &mut Files, update: impl FnOnce(&mut Record)) -> io::Result<()> {
        let mut record = files.record.clone();
        update(&mut record);
        if record == files.record {
            return Ok(());
        }
        save(self.directory(), RECORD, &record)?;
        files.record = record;
        let owed = files.record.owed_outcomes();
        self.remember(files.record.known_commands());
        self.owed_outcomes.send_if_modified(|before| (*before != owed).then(|| *before = owed).is_some());
        Ok(())
    }

    fn remember(&self, current: Vec<KnownCommand>) {
        let mut known = self.known_commands.lock().expect(UNPOISONED);
        // Commands whose outcome was reported stay known; commands that were withdrawn do not.
        known.retain(|one| one.outcome.is_some() && !current.iter().any(|other| other.pending == one.pending));
        known.extend(current);
        let excess = known.len().saturating_sub(MOST_KNOWN);
        known.drain(..excess);
    }
}
