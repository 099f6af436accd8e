//! What must survive a restart: settings, the applied configuration and its trial, and outcomes that are still owed.
//!
//! Two files of the state directory, each replaced in one step (`durable`), hold all of it. `settings.json` is what
//! commands have set over the configuration. `upkeep.json` is the applied configuration, the one on trial, and what
//! has to be said once the board is back: in one file, since a trial ends by changing all three at once.

mod file;
mod keeper;
mod ledger;
mod memory;
mod pending;
mod reentry;
mod settings;
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
use keeper::Keeper;

pub use ledger::Source;
pub use memory::{Losses, Memory, Surroundings};
pub use pending::{Due, Entrusted, Pending};
pub use reentry::Reentry;
pub use settings::{AudioSettings, CameraSettings, Closed, Settings};

/// The shortest time in which an applied configuration may have to prove itself: a slow board takes 8 s to serve.
pub const LEAST_TRIAL: Duration = Duration::from_secs(10);
/// How long it has unless the command says otherwise: a Wi-Fi that has to be joined anew takes up to 30 s.
pub const USUAL_TRIAL: Duration = Duration::from_secs(60);
/// The longest: whoever made a mistake waits so long for the board.
pub const MOST_TRIAL: Duration = Duration::from_secs(600);

/// The time from asking for a reboot until we are told to stop. systemd acts on a path within milliseconds;
/// shutting other services down first may take a while.
const REBOOT_LIMIT: Duration = Duration::from_secs(30);

/// What `peercam` would say of a configuration that is to be applied by a command that came this way: why it refuses it,
/// or what it would have.
pub type Check = dyn Fn(&str, Origin) -> Result<Prospect, String> + Send + Sync;

/// What a configuration would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// A broker, which must accept the board.
    Broker,
    /// No broker.
    LocalOnly,
}

/// A configuration that has yet to prove itself.
#[derive(Clone, Copy, Debug)]
pub struct OnTrial {
    /// The way on which the board has to be reached: that on which the command came.
    pub origin: Origin,
    /// By when.
    pub deadline: Instant,
}

/// What is started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// This process.
    Service,
    /// The machine.
    Board,
}

/// Why a configuration was not applied, or nothing restarts. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has mistakes, or no service would start with it.
    #[error("the configuration is refused: {0}")]
    Refused(String),
    /// There would be no way to say that it works.
    #[error("this configuration has no broker, so the board could not confirm it to you: set `mqtt.url`")]
    WithoutBroker,
    /// The time to prove itself is out of range.
    #[error("a configuration may have from {} to {} s to be confirmed", LEAST_TRIAL.as_secs(), MOST_TRIAL.as_secs())]
    Within,
    /// One thing after the other.
    #[error("{0}; send this again afterwards")]
    Busy(&'static str),
    /// What must survive the restart could not be written.
    #[error("nothing was done, because it could not be remembered: {0}")]
    Unkept(io::Error),
    /// Nobody would reboot the board.
    #[error("this board's service manager offers no reboot; install peercam-reboot.path")]
    NoReboot,
    /// The request for a reboot could not be left.
    #[error("the reboot cannot be asked for: {0}")]
    Reboot(io::Error),
}

/// The SHA-256 of a text, by which it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Digest(String);

impl Digest {
    fn of(text: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        Self(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A handle to what survives restarts. A clone is the same.
#[derive(Clone)]
pub struct Upkeep {
    keeper: Arc<Keeper>,
    group: Group,
}

impl Upkeep {
    /// What commands have set, whether or not it could be kept.
    pub fn settings(&self) -> Settings {
        self.keeper.settings.borrow().clone()
    }

    /// Changes what commands have set, and keeps it with all that could not be kept before.
    ///
    /// # Errors
    ///
    /// When something of it cannot be kept: it is lost at the next restart, unless a later change can be.
    pub async fn change(&self, alter: impl FnOnce(&mut Settings) + Send + 'static) -> io::Result<()> {
        self.blocking(|keeper| keeper.change(alter)).await
    }

    /// Has the service restart with another configuration, which counts once the board was reached with it on the way
    /// on which the command came, `within` that time. Else the one in effect now comes back.
    ///
    /// `pending` has its last outcome afterwards, unless this fails.
    ///
    /// # Errors
    ///
    /// When the configuration, the time, or the moment is wrong, or nothing can be kept.
    pub async fn apply(&self, toml: String, pending: Pending, within: Duration) -> Result<(), Error> {
        self.blocking(move |keeper| keeper.apply(toml, pending, within)).await
    }

    /// Restarts the service or the board; `pending` has its last outcome afterwards, unless this fails.
    ///
    /// # Errors
    ///
    /// When it is not possible, or cannot be remembered.
    pub async fn restart(&self, what: Restart, pending: Pending) -> Result<(), Error> {
        let id = pending.id.clone();
        self.blocking(move |keeper| keeper.restart(what, pending)).await?;
        if what == Restart::Board {
            let upkeep = self.clone();
            self.group.spawn(async move {
                tokio::select! {
                    () = upkeep.group.stopped() => {}
                    () = tokio::time::sleep(REBOOT_LIMIT) => upkeep.blocking(move |keeper| keeper.give_reboot_up(&id)).await,
                }
            });
        }
        Ok(())
    }

    /// Completes when the service is to close and then begin anew.
    pub async fn restart_asked(&self) -> Reentry {
        let mut restart = self.keeper.restart.subscribe();
        match restart.wait_for(Option::is_some).await.map(|asked| asked.clone()) {
            Ok(Some(reentry)) => reentry,
            // Its sender is part of ourselves.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// What was kept and could not be read at the start.
    pub fn losses(&self) -> Losses {
        self.keeper.losses.clone()
    }

    /// Where the configuration in effect is from.
    pub fn source(&self) -> Source {
        *self.keeper.source.borrow()
    }

    /// The trial, as long as it lasts.
    pub fn on_trial(&self) -> Option<OnTrial> {
        self.keeper.on_trial.filter(|_| self.source() == Source::Trial)
    }

    /// The configuration on trial proved itself. If that cannot be kept, it is given up.
    pub async fn confirm_trial(&self) {
        let confirmed = self.blocking(|keeper| keeper.confirm_trial()).await;
        if let Err(error) = confirmed {
            self.give_trial_up(format!("it worked, but could not be kept: {error}")).await;
        }
    }

    /// The configuration on trial did not prove itself: the service restarts with the earlier one.
    pub async fn give_trial_up(&self, reason: String) {
        self.blocking(move |keeper| keeper.give_trial_up(&reason)).await;
    }

    /// The command `id`, if its last outcome was left to us, lately: a broker delivers it once more after the restart,
    /// if nobody confirmed it to have come.
    pub fn entrusted(&self, id: &str) -> Option<Entrusted> {
        self.keeper.entrusted(id)
    }

    /// The outcomes that have yet to be told, now and as that changes.
    pub fn dues(&self) -> watch::Receiver<Vec<Due>> {
        self.keeper.dues.subscribe()
    }

    /// These were told.
    pub async fn told(&self, dues: Vec<Due>) {
        let forgotten = self.blocking(move |keeper| keeper.alter_ledger(|ledger| ledger.told(&dues))).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, "an outcome will be told once more after the next restart");
        }
    }

    /// On a thread that may wait for the disk, and to its end even if nobody waits for that.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Keeper) -> T + Send + 'static) -> T {
        let keeper = self.keeper.clone();
        let (done, ended) = tokio::sync::oneshot::channel();
        self.group.spawn_blocking(move || {
            // Whoever asked may have gone.
            done.send(work(&keeper)).ok();
        });
        ended.await.expect("the work above does not panic")
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Configurations have passwords.
        f.debug_struct("Upkeep").field("source", &self.source()).finish_non_exhaustive()
    }
}

/// Whether commands of this origin come through the broker.
fn needs_broker(origin: Origin) -> bool {
    match origin {
        Origin::Broker | Origin::HomeAutomation => true,
        Origin::WebSocket | Origin::DataChannel => false,
    }
}

impl OnTrial {
    /// Whether the broker has to accept the board, or else its page has to be served.
    pub fn needs_broker(&self) -> bool {
        needs_broker(self.origin)
    }
}
