//! The file `upkeep.json` and how it changes: each method is one step, written to the disk as a whole.

use serde::{Deserialize, Serialize};

use super::{Digest, Due, Entrusted, Pending, Restart};

/// Outcomes that wait to be told. One restart owes one; more wait only where no broker could be reached since.
pub(super) const MOST_OWED: usize = 16;

/// The fields of [`Ledger`] in version 0.1.
pub(super) const FIELDS: [&str; 3] = ["applied", "trial", "owed"];

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ledger {
    /// The confirmed configuration that stands in for the file.
    pub(super) applied: Option<Applied>,
    /// The one that has yet to prove itself.
    pub(super) trial: Option<Trial>,
    owed: Vec<Owed>,
}

/// A configuration that a command brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) toml: String,
    /// Of the file that it stands in for. Once that has another, somebody wrote it later, and the file wins.
    pub(super) base: Digest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// Handed to the one process that tries it. Any other that finds it knows that the trial was cut off.
    pub(super) token: String,
    pub(super) configuration: Applied,
    /// Seconds.
    pub(super) within: u64,
    pub(super) pending: Pending,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Owed {
    /// Depends on how the next start finds the board. `boot` is which of its boots the command came in.
    Restart { pending: Pending, what: Restart, boot: Option<String> },
    /// Only has to be told.
    Outcome(Due),
}

/// Which text is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The file's, or the built-in defaults where there is none.
    File,
    /// The one that a command brought and that proved itself.
    Applied,
    /// The one that a command brought and that has yet to prove itself.
    Trial,
}

/// What the start did besides reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The trial ended without proof.
    TrialEnded(String),
    /// The file was written after the applied configuration, which is this text.
    Overruled(String),
}

impl Ledger {
    /// Decides what a process begins with. `base` is of the file as it is now, `token` what this process was handed.
    pub(super) fn start(&mut self, base: &Digest, token: Option<&str>, boot: Option<&str>) -> (Source, Vec<Change>) {
        let mut changes = Vec::new();
        self.settle_restarts(boot);
        if let Some(trial) = &self.trial {
            let obstacle = if trial.configuration.base != *base {
                Some("the configuration file was written in the meantime, and holds instead")
            } else if token != Some(&trial.token) {
                Some("the service or the board went down before the configuration was confirmed")
            } else {
                None
            };
            let Some(reason) = obstacle else { return (Source::Trial, changes) };
            self.refuse_trial(reason);
            changes.push(Change::TrialEnded(reason.into()));
        }
        match self.applied.take_if(|applied| applied.base != *base) {
            Some(overruled) => changes.push(Change::Overruled(overruled.toml)),
            None if self.applied.is_some() => return (Source::Applied, changes),
            None => {}
        }
        (Source::File, changes)
    }

    /// A restart was asked for.
    pub(super) fn owe_restart(&mut self, pending: Pending, what: Restart, boot: Option<String>) {
        self.push(Owed::Restart { pending, what, boot });
    }

    /// The trial proved itself.
    pub(super) fn confirm_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            // Whoever applies the file's own text goes back to the file.
            let is_another = Digest::of(&trial.configuration.toml) != trial.configuration.base;
            self.applied = is_another.then_some(trial.configuration);
            self.push(Owed::Outcome(trial.pending.successful()));
        }
    }

    /// The trial did not.
    pub(super) fn refuse_trial(&mut self, reason: &str) {
        if let Some(trial) = self.trial.take() {
            let reason = format!("{reason}; the earlier configuration is in effect again");
            self.push(Owed::Outcome(trial.pending.failed(reason)));
        }
    }

    /// The restart that command `id` asked for did not come.
    pub(super) fn refuse_restart(&mut self, id: &str, reason: &str) {
        for owed in &mut self.owed {
            if let Owed::Restart { pending, .. } = owed
                && pending.id == id
            {
                *owed = Owed::Outcome(pending.failed(reason.into()));
            }
        }
    }

    /// The restart that command `id` asked for could not be begun, and the command was told so.
    pub(super) fn forget_restart(&mut self, id: &str) {
        self.owed.retain(|owed| !matches!(owed, Owed::Restart { pending, .. } if pending.id == id));
    }

    /// Whether one was asked for and has not come yet.
    pub(super) fn owes_restart(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Restart { .. }))
    }

    /// What can be told.
    pub(super) fn dues(&self) -> Vec<Due> {
        let due = |owed: &Owed| match owed {
            Owed::Outcome(due) => Some(due.clone()),
            Owed::Restart { .. } => None,
        };
        self.owed.iter().filter_map(due).collect()
    }

    /// All commands that are waiting for a restart, for the end of the trial, or to be told.
    pub(super) fn entrusted(&self) -> Vec<Entrusted> {
        let owed = self.owed.iter().map(|owed| match owed {
            Owed::Restart { pending, .. } => Entrusted { pending: pending.clone(), outcome: None },
            Owed::Outcome(due) => Entrusted { pending: due.pending.clone(), outcome: Some(due.outcome.clone()) },
        });
        let trial = self.trial.iter().map(|trial| Entrusted { pending: trial.pending.clone(), outcome: None });
        owed.chain(trial).collect()
    }

    /// It was told.
    pub(super) fn told(&mut self, told: &[Due]) {
        self.owed.retain(|owed| !matches!(owed, Owed::Outcome(due) if told.contains(due)));
    }

    fn settle_restarts(&mut self, boot: Option<&str>) {
        for owed in &mut self.owed {
            if let Owed::Restart { pending, what, boot: before } = owed {
                // Where the system does not tell its boots apart, a new process is all that can be seen.
                let is_same_boot = boot.is_some() && before.as_deref() == boot;
                *owed = Owed::Outcome(match what {
                    Restart::Board if is_same_boot => pending.failed("only the service restarted".into()),
                    Restart::Board | Restart::Service => pending.successful(),
                });
            }
        }
    }

    fn push(&mut self, owed: Owed) {
        self.owed.push(owed);
        let beyond = self.owed.len().saturating_sub(MOST_OWED);
        self.owed.drain(..beyond);
    }
}
