//! The one that writes: each step goes to the disk first, then to memory. Only settings are in effect before they are
//! kept, so those that cannot be are remembered, and written with the next. All of it may block.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::ledger::{Applied, Ledger, MOST_OWED, Source, Trial};
use super::memory::{LEDGER, Losses, Memory, SETTINGS, Surroundings, keep};
use super::settings::Kept;
use super::{
    Check, Digest, Due, Entrusted, Error, LEAST_TRIAL, MOST_TRIAL, OnTrial, Pending, Prospect, REBOOT_LIMIT, Reentry,
    Restart, Settings, needs_broker,
};

/// Twice what the ledger can hold: what is in it, and as much that was told.
const MOST_ENTRUSTED: usize = 2 * MOST_OWED;

pub(super) struct Keeper {
    surroundings: Surroundings,
    configuration: Digest,
    base: Digest,
    check: Box<Check>,
    /// Held while a file is written and until memory agrees with it: one writer at a time.
    disk: Mutex<Held>,
    pub(super) source: watch::Sender<Source>,
    /// What commands have set, on the disk or not.
    pub(super) settings: watch::Sender<Settings>,
    pub(super) dues: watch::Sender<Vec<Due>>,
    /// Commands that were in the ledger at some time since the process began, the oldest first.
    entrusted: Mutex<Vec<Entrusted>>,
    pub(super) restart: watch::Sender<Option<Reentry>>,
    pub(super) on_trial: Option<OnTrial>,
    pub(super) losses: Losses,
}

/// What the files hold.
struct Held {
    ledger: Ledger,
    kept: Kept,
}

impl Keeper {
    /// Goes on from what a start remembers.
    pub(super) fn new(memory: Memory, check: Box<Check>) -> Self {
        let configuration = Digest::of(memory.text());
        Self {
            entrusted: Mutex::new(memory.ledger.entrusted()),
            on_trial: memory.on_trial(),
            losses: memory.losses.clone(),
            base: memory.base_digest(),
            settings: watch::Sender::new(memory.settings()),
            dues: watch::Sender::new(memory.ledger.dues()),
            source: watch::Sender::new(memory.source()),
            restart: watch::Sender::new(None),
            disk: Mutex::new(Held { ledger: memory.ledger, kept: memory.kept }),
            surroundings: memory.surroundings,
            configuration,
            check,
        }
    }

    pub(super) fn entrusted(&self, id: &str) -> Option<Entrusted> {
        self.entrusted.lock().expect("nobody panics with it").iter().rfind(|known| known.pending.id == id).cloned()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.disk.lock().expect("nobody panics with it")
    }

    fn state(&self) -> Option<&Path> {
        self.surroundings.state.as_deref()
    }

    pub(super) fn change(&self, alter: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut held = self.held();
        self.settings.send_modify(alter);
        let wanted = self.settings.borrow().clone();
        if wanted == held.kept.upon(&self.configuration) {
            return Ok(());
        }
        // Another configuration may come back, after a trial or with another version, and wants its own then.
        let is_settled = match *self.source.borrow() {
            Source::File => held.ledger.applied.is_none(),
            Source::Applied => true,
            Source::Trial => false,
        };
        let kept = match is_settled {
            true => Kept::only(&self.configuration, wanted),
            false => held.kept.clone().also(&self.configuration, wanted),
        };
        keep(self.state(), SETTINGS, &kept)?;
        held.kept = kept;
        Ok(())
    }

    pub(super) fn apply(&self, toml: String, pending: Pending, within: Duration) -> Result<(), Error> {
        if !(LEAST_TRIAL..=MOST_TRIAL).contains(&within) {
            return Err(Error::Within);
        }
        let prospect = (self.check)(&toml, pending.origin).map_err(Error::Refused)?;
        if prospect == Prospect::LocalOnly && needs_broker(pending.origin) {
            return Err(Error::WithoutBroker);
        }
        let token = format!("{:032x}", rand::random::<u128>());
        let trial = Trial {
            token: token.clone(),
            configuration: Applied { toml, base: self.base.clone() },
            within: within.as_secs(),
            pending,
        };
        let mut held = self.held();
        self.ensure_free(&held.ledger)?;
        self.alter(&mut held, |ledger| ledger.trial = Some(trial)).map_err(Error::Unkept)?;
        self.begin_anew(Some(token));
        Ok(())
    }

    pub(super) fn restart(&self, what: Restart, pending: Pending) -> Result<(), Error> {
        let reboot = match (what, &self.surroundings.reboot) {
            (Restart::Board, None) => return Err(Error::NoReboot),
            (Restart::Board, reboot) => reboot.as_deref(),
            (Restart::Service, _) => None,
        };
        let mut held = self.held();
        self.ensure_free(&held.ledger)?;
        let (id, boot) = (pending.id.clone(), self.surroundings.boot.clone());
        self.alter(&mut held, |ledger| ledger.owe_restart(pending, what, boot)).map_err(Error::Unkept)?;
        match reboot {
            None => self.begin_anew(None),
            Some(file) => {
                if let Err(error) = fs::write(file, "") {
                    self.alter(&mut held, |ledger| ledger.forget_restart(&id)).map_err(Error::Unkept)?;
                    return Err(Error::Reboot(error));
                }
                tracing::info!("a reboot of the board was asked for");
            }
        }
        Ok(())
    }

    /// Whether something is under way that would be cut off.
    fn ensure_free(&self, ledger: &Ledger) -> Result<(), Error> {
        match ledger {
            _ if ledger.trial.is_some() => Err(Error::Busy("a configuration is on trial")),
            _ if ledger.owes_restart() => Err(Error::Busy("a restart is under way")),
            _ => Ok(()),
        }
    }

    fn begin_anew(&self, trial: Option<String>) {
        self.restart.send_replace(Some(Reentry { program: self.surroundings.program.clone(), trial }));
    }

    pub(super) fn give_reboot_up(&self, id: &str) {
        if let Some(file) = &self.surroundings.reboot {
            // Whoever comes late shall not find it.
            fs::remove_file(file).ok();
        }
        let reason = format!(
            "the board did not begin to restart within {} s; is peercam-reboot.path enabled?",
            REBOOT_LIMIT.as_secs()
        );
        if let Err(error) = self.alter_ledger(|ledger| ledger.refuse_restart(id, &reason)) {
            tracing::warn!(%error, reason, "the board does not restart, and that cannot be kept");
        }
    }

    pub(super) fn confirm_trial(&self) -> io::Result<()> {
        if *self.source.borrow() != Source::Trial {
            return Ok(());
        }
        let mut held = self.held();
        self.alter(&mut held, Ledger::confirm_trial)?;
        self.source.send_replace(if held.ledger.applied.is_some() { Source::Applied } else { Source::File });
        tracing::info!("the applied configuration is confirmed");
        if held.kept.has_others_than(&self.configuration) {
            let kept = Kept::only(&self.configuration, held.kept.upon(&self.configuration));
            match keep(self.state(), SETTINGS, &kept) {
                Ok(()) => held.kept = kept,
                // They are left out at the next start all the same.
                Err(error) => tracing::warn!(%error, "settings of the earlier configuration are left in the file"),
            }
        }
        Ok(())
    }

    pub(super) fn give_trial_up(&self, reason: &str) {
        if *self.source.borrow() != Source::Trial || self.restart.borrow().is_some() {
            return;
        }
        tracing::warn!(reason, "the configuration on trial is given up");
        if let Err(error) = self.alter_ledger(|ledger| ledger.refuse_trial(reason)) {
            // The next start finds a trial that it was not handed, and ends it.
            tracing::warn!(%error, "why cannot be kept");
        }
        self.begin_anew(None);
    }

    /// One step of the ledger, on the disk first.
    pub(super) fn alter_ledger(&self, alter: impl FnOnce(&mut Ledger)) -> io::Result<()> {
        self.alter(&mut self.held(), alter)
    }

    fn alter(&self, held: &mut Held, alter: impl FnOnce(&mut Ledger)) -> io::Result<()> {
        let mut ledger = held.ledger.clone();
        alter(&mut ledger);
        if ledger == held.ledger {
            return Ok(());
        }
        keep(self.state(), LEDGER, &ledger)?;
        held.ledger = ledger;
        let dues = held.ledger.dues();
        self.note(held.ledger.entrusted());
        self.dues.send_if_modified(|before| (*before != dues).then(|| *before = dues).is_some());
        Ok(())
    }

    fn note(&self, now: Vec<Entrusted>) {
        let mut entrusted = self.entrusted.lock().expect("nobody panics with it");
        // What was told is known further on; what was taken back is not.
        entrusted.retain(|known| known.outcome.is_some() && !now.iter().any(|other| other.pending == known.pending));
        entrusted.extend(now);
        let beyond = entrusted.len().saturating_sub(MOST_ENTRUSTED);
        entrusted.drain(..beyond);
    }
}
