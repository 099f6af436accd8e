//! State that survives a restart: settings, the applied configuration and its trial, and owed outcomes.
//!
//! Two files in the state directory hold all of it; each is replaced atomically (`durable`). `settings.json` holds the
//! settings that commands made over the configuration. `upkeep.json` is the applied configuration, the one on trial,
//! and the outcomes to report after the restart: they share one file, since the end of a trial changes all three at
//! once.

mod file;
mod loaded;
mod pending;
mod record;
mod reexec;
mod settings;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::command::Origin;
use crate::tasks::Group;
use store::Store;

pub use loaded::{Environment, Loaded, Losses};
pub use pending::{KnownCommand, OwedOutcome, PendingCommand};
pub use record::Source;
pub use reexec::Reexec;
pub use settings::{AudioSettings, CameraSettings, Closed, Settings};

/// The shortest trial of a configuration: a slow board takes 8 s to serve.
pub const MIN_TRIAL: Duration = Duration::from_secs(10);
/// The trial unless the command sets a time: a Wi-Fi that has to be rejoined takes up to 30 s.
pub const DEFAULT_TRIAL: Duration = Duration::from_secs(60);
/// The longest trial: after a mistake, the operator waits this long for the board.
pub const MAX_TRIAL: Duration = Duration::from_secs(600);

/// The time from requesting a reboot until the service is stopped. systemd reacts to a path within milliseconds;
/// stopping other services first may take a while.
const REBOOT_LIMIT: Duration = Duration::from_secs(30);

/// Checks a candidate configuration: returns how the board could be reached with it, or why it is refused. The second
/// argument states whether it may name other files than the configuration in effect.
pub type Check = dyn Fn(&str, bool) -> Result<Reach, String> + Send + Sync;

/// How a board with a candidate configuration can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A broker is configured, and must accept the board.
    Broker,
    /// No broker is configured.
    LocalOnly,
}

/// A configuration that a command applies.
#[derive(Clone)]
pub struct Candidate {
    /// Its text.
    pub toml: String,
    /// The time in which the board must be reached with it.
    pub within: Duration,
    /// Whether it may name other files of the board than the configuration in effect.
    pub may_name_files: bool,
    /// The command, whose outcome is reported after the trial.
    pub pending: PendingCommand,
}

/// A trial of a configuration that is in progress.
#[derive(Clone, Copy, Debug)]
pub struct ActiveTrial {
    /// The transport on which the board has to be reached: the one on which the command was received.
    pub origin: Origin,
    /// The deadline.
    pub deadline: Instant,
}

/// The target of a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// This process.
    Service,
    /// The board.
    Board,
}

/// Why a configuration is not applied, or nothing restarts. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has mistakes, or the service would not start with it.
    #[error("the configuration is refused: {0}")]
    Refused(String),
    /// There would be no way to confirm that it works.
    #[error("this configuration has no broker, so the board could not confirm it to you: set `mqtt.url`")]
    WithoutBroker,
    /// The time for confirmation is out of range.
    #[error("a configuration may have from {} to {} s to be confirmed", MIN_TRIAL.as_secs(), MAX_TRIAL.as_secs())]
    OutOfRange,
    /// Another restart or trial is in progress.
    #[error("{0}; send this again afterwards")]
    Busy(&'static str),
    /// The state that must survive the restart could not be written.
    #[error("nothing was done, because the state could not be saved: {0}")]
    NotSaved(io::Error),
    /// Nothing on the board would act on a reboot request.
    #[error("this board's service manager offers no reboot; install peercam-reboot.path")]
    NoReboot,
    /// The reboot request could not be written.
    #[error("the reboot cannot be requested: {0}")]
    Reboot(io::Error),
}

/// The SHA-256 of a text, which identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Digest(String);

impl Digest {
    fn of(text: &str) -> Self {
        Self(hex::encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes())))
    }
}

/// A handle to the state that survives restarts. Clones share it.
#[derive(Clone)]
pub struct SavedState {
    store: Arc<Store>,
    group: Group,
}

impl SavedState {
    /// Saves all changes from here on. `check` checks candidate configurations.
    pub fn open(mut loaded: Loaded, check: Box<Check>, group: &Group) -> Self {
        loaded.drop_stale_settings();
        Self { store: Arc::new(Store::new(loaded, check)), group: group.clone() }
    }

    /// Settings that commands made, whether or not they could be written.
    pub fn settings(&self) -> Settings {
        self.store.settings.borrow().clone()
    }

    /// Changes the settings, and writes the change with all earlier ones that could not be written.
    ///
    /// # Errors
    ///
    /// When a change cannot be written: it is lost at the next restart, unless a later change can be written.
    pub async fn change(&self, alter: impl FnOnce(&mut Settings) + Send + 'static) -> io::Result<()> {
        self.blocking(|store| store.change(alter)).await
    }

    /// Restarts the service with another configuration, which is confirmed once the board was reached with it in time,
    /// on the transport of the command. Otherwise the configuration now in effect comes back.
    ///
    /// The command's outcome is reported afterwards, unless this fails.
    ///
    /// # Errors
    ///
    /// When the configuration, the time, or the moment is wrong, or nothing can be written.
    pub async fn apply(&self, candidate: Candidate) -> Result<(), Error> {
        self.blocking(move |store| store.apply(candidate)).await
    }

    /// Restarts the service or the board. The outcome of `pending` is reported afterwards, unless this fails.
    ///
    /// # Errors
    ///
    /// When it is not possible, or cannot be written.
    pub async fn restart(&self, what: Restart, pending: PendingCommand) -> Result<(), Error> {
        let id = pending.id.clone();
        self.blocking(move |store| store.restart(what, pending)).await?;
        if what == Restart::Board {
            let state = self.clone();
            self.group.spawn(async move {
                tokio::select! {
                    () = state.group.stopped() => {}
                    () = tokio::time::sleep(REBOOT_LIMIT) => state.blocking(move |store| store.cancel_reboot(&id)).await,
                }
            });
        }
        Ok(())
    }

    /// Completes when the service has to close and then restart.
    pub async fn restart_requested(&self) -> Reexec {
        let mut restart = self.store.restart.subscribe();
        match restart.wait_for(Option::is_some).await.map(|requested| requested.clone()) {
            Ok(Some(reexec)) => reexec,
            // The sender lives in `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Saved state that could not be read at the start.
    pub fn losses(&self) -> Losses {
        self.store.losses.clone()
    }

    /// The source of the configuration in effect.
    pub fn source(&self) -> Source {
        *self.store.source.borrow()
    }

    /// The trial, as long as it lasts.
    pub fn active_trial(&self) -> Option<ActiveTrial> {
        self.store.trial.filter(|_| self.source() == Source::Trial)
    }

    /// Confirms the configuration on trial. If that cannot be written, the trial is aborted.
    pub async fn confirm_trial(&self) {
        let confirmed = self.blocking(|store| store.confirm_trial()).await;
        if let Err(error) = confirmed {
            self.abort_trial(format!("it worked, but could not be kept: {error}")).await;
        }
    }

    /// The configuration on trial failed: the service restarts with the earlier one.
    pub async fn abort_trial(&self, reason: String) {
        self.blocking(move |store| store.abort_trial(&reason)).await;
    }

    /// The command `id`, if its outcome is or was reported after a restart: a broker delivers the command again after
    /// the restart if it was not acknowledged.
    pub fn known_command(&self, id: &str) -> Option<KnownCommand> {
        self.store.known_command(id)
    }

    /// The outcomes that are not reported yet, now and as they change.
    pub fn owed_outcomes(&self) -> watch::Receiver<Vec<OwedOutcome>> {
        self.store.owed_outcomes.subscribe()
    }

    /// These outcomes were reported.
    pub async fn remove_reported(&self, reported: Vec<OwedOutcome>) {
        let removed = self.blocking(move |store| store.update_record(|record| record.remove_reported(&reported))).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "an outcome will be reported again after the next restart");
        }
    }

    /// Runs on a thread that may block on the disk, and to its end even if the caller is gone.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Store) -> T + Send + 'static) -> T {
        let store = self.store.clone();
        let (done, ended) = tokio::sync::oneshot::channel();
        self.group.spawn_blocking(move || {
            // The caller may be gone.
            done.send(work(&store)).ok();
        });
        ended.await.expect("the work above does not panic")
    }
}

impl fmt::Debug for SavedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Configurations contain passwords.
        f.debug_struct("SavedState").field("source", &self.source()).finish_non_exhaustive()
    }
}

/// Whether commands of this origin are received through the broker.
fn needs_broker(origin: Origin) -> bool {
    match origin {
        Origin::Broker | Origin::HomeAutomation => true,
        Origin::WebSocket | Origin::DataChannel => false,
    }
}

impl ActiveTrial {
    /// Whether the trial requires that the broker accepts the board; otherwise its page has to be served.
    pub fn needs_broker(&self) -> bool {
        needs_broker(self.origin)
    }
}
