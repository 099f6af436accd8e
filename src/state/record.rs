//! The file `upkeep.json` and its changes: each method is one step, after which the whole file is written.

use serde::{Deserialize, Serialize};

use super::{Digest, KnownCommand, OwedOutcome, PendingCommand, Restart};

/// Outcomes that wait to be reported. A restart adds one; more accumulate only while no broker can be reached.
pub(super) const MOST_OWED: usize = 16;

/// The fields of [`Record`] in version 0.1.
pub(super) const FIELDS: [&str; 3] = ["applied", "trial", "owed"];

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The confirmed configuration that replaces the configuration file.
    pub(super) applied: Option<Applied>,
    /// The configuration on trial.
    pub(super) trial: Option<Trial>,
    owed: Vec<Owed>,
}

/// A configuration that a command applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) toml: String,
    /// Hash of the file that it replaces. If the file's hash differs, the file was edited later and takes precedence.
    pub(super) base: Digest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// Passed to the one process that runs the trial. A process without it knows that the trial was interrupted.
    pub(super) token: String,
    pub(super) configuration: Applied,
    /// Seconds.
    pub(super) within: u64,
    pub(super) pending: PendingCommand,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Owed {
    /// Depends on the boot that the next start runs in. `boot` is the boot in which the command was received.
    Restart { pending: PendingCommand, what: Restart, boot: Option<String> },
    /// Only has to be reported.
    Outcome(OwedOutcome),
}

/// Which configuration text is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The file's, or the built-in defaults where there is no file.
    File,
    /// The one that a command applied and that is confirmed.
    Applied,
    /// The one that a command applied and that is still on trial.
    Trial,
}

/// A change that the start made to the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The trial ended without confirmation, for this reason.
    TrialFailed(String),
    /// The file was edited after the applied configuration, whose text this is.
    Overridden(String),
}

impl Record {
    /// Decides which text a process starts with. `base` is of the current file, `token` was passed to this process.
    pub(super) fn start(&mut self, base: &Digest, token: Option<&str>, boot: Option<&str>) -> (Source, Vec<Change>) {
        let mut changes = Vec::new();
        self.resolve_restarts(boot);
        if let Some(trial) = &self.trial {
            let obstacle = if trial.configuration.base != *base {
                Some("the configuration file was written in the meantime, and takes precedence")
            } else if token != Some(&trial.token) {
                Some("the service or the board went down before the configuration was confirmed")
            } else {
                None
            };
            let Some(reason) = obstacle else { return (Source::Trial, changes) };
            self.fail_trial(reason);
            changes.push(Change::TrialFailed(reason.into()));
        }
        match self.applied.take_if(|applied| applied.base != *base) {
            Some(overridden) => changes.push(Change::Overridden(overridden.toml)),
            None if self.applied.is_some() => return (Source::Applied, changes),
            None => {}
        }
        (Source::File, changes)
    }

    /// A restart was requested.
    pub(super) fn add_restart(&mut self, pending: PendingCommand, what: Restart, boot: Option<String>) {
        self.push(Owed::Restart { pending, what, boot });
    }

    /// The trial was confirmed.
    pub(super) fn confirm_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            // Applying the file's own text switches back to the file.
            let is_another = Digest::of(&trial.configuration.toml) != trial.configuration.base;
            self.applied = is_another.then_some(trial.configuration);
            self.push(Owed::Outcome(trial.pending.successful()));
        }
    }

    /// The trial failed.
    pub(super) fn fail_trial(&mut self, reason: &str) {
        if let Some(trial) = self.trial.take() {
            let reason = format!("{reason}; the earlier configuration is in effect again");
            self.push(Owed::Outcome(trial.pending.failed(reason)));
        }
    }

    /// The restart that command `id` requested did not happen.
    pub(super) fn fail_restart(&mut self, id: &str, reason: &str) {
        for owed in &mut self.owed {
            if let Owed::Restart { pending, .. } = owed
                && pending.id == id
            {
                *owed = Owed::Outcome(pending.failed(reason.into()));
            }
        }
    }

    /// The restart that command `id` requested could not be started, and the command has failed already.
    pub(super) fn remove_restart(&mut self, id: &str) {
        self.owed.retain(|owed| !matches!(owed, Owed::Restart { pending, .. } if pending.id == id));
    }

    /// Whether a restart was requested and has not happened yet.
    pub(super) fn awaits_restart(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Restart { .. }))
    }

    /// The outcomes that can be reported.
    pub(super) fn owed_outcomes(&self) -> Vec<OwedOutcome> {
        let outcome = |owed: &Owed| match owed {
            Owed::Outcome(owed) => Some(owed.clone()),
            Owed::Restart { .. } => None,
        };
        self.owed.iter().filter_map(outcome).collect()
    }

    /// All commands that wait for a restart, for the end of the trial, or for the report of their outcome.
    pub(super) fn known_commands(&self) -> Vec<KnownCommand> {
        let owed = self.owed.iter().map(|owed| match owed {
            Owed::Restart { pending, .. } => KnownCommand { pending: pending.clone(), outcome: None },
            Owed::Outcome(owed) => KnownCommand { pending: owed.pending.clone(), outcome: Some(owed.outcome.clone()) },
        });
        let trial = self.trial.iter().map(|trial| KnownCommand { pending: trial.pending.clone(), outcome: None });
        owed.chain(trial).collect()
    }

    /// These outcomes were reported.
    pub(super) fn remove_reported(&mut self, reported: &[OwedOutcome]) {
        self.owed.retain(|owed| !matches!(owed, Owed::Outcome(owed) if reported.contains(owed)));
    }

    fn resolve_restarts(&mut self, boot: Option<&str>) {
        for owed in &mut self.owed {
            if let Owed::Restart { pending, what, boot: before } = owed {
                // Without a boot id, a new process is the only sign of a restart.
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
        let excess = self.owed.len().saturating_sub(MOST_OWED);
        self.owed.drain(..excess);
    }
}
