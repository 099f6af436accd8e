//! What must survive a restart: settings, the applied configuration and its trial, and outcomes that are still owed.
//!
//! Two files of the state directory, each replaced in one step (`durable`), hold all of it. `settings.json` is what
//! commands have set over the configuration. `upkeep.json` is the applied configuration, the one on trial, and what
//! has to be said once the board is back: in one file, since a trial ends by changing all three at once.

mod ledger;
mod memory;
mod reentry;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::command::{Origin, Outcome};
use crate::mqtt::Reply;
use crate::tasks::Group;
use ledger::{Applied, Ledger, Trial};
use memory::{LEDGER, SETTINGS, keep};
use settings::Kept;

pub use ledger::Source;
pub use memory::{Memory, Surroundings};
pub use reentry::Reentry;
pub use settings::{AudioSettings, CameraSettings, Settings};

/// The shortest time in which an applied configuration may have to prove itself: a slow board takes 8 s to serve.
pub const LEAST_TRIAL: Duration = Duration::from_secs(10);
/// How long it has unless the command says otherwise: a Wi-Fi that has to be joined anew takes up to 30 s.
pub const USUAL_TRIAL: Duration = Duration::from_secs(60);
/// The longest: whoever made a mistake waits so long for the board.
pub const MOST_TRIAL: Duration = Duration::from_secs(600);

/// The time from asking for a reboot until we are told to stop. systemd acts on a path within milliseconds;
/// shutting other services down first may take a while.
const REBOOT_LIMIT: Duration = Duration::from_secs(30);

/// What `peercam` would say of a configuration that is to be applied: why it refuses it, or what it would have.
pub type Check = dyn Fn(&str) -> Result<Prospect, String> + Send + Sync;

/// What a configuration would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// A broker, which must accept the board.
    Broker,
    /// No broker.
    LocalOnly,
}

/// A command whose last outcome comes after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The command's.
    pub id: String,
    /// Its name, for the log.
    pub command: String,
    /// By which the same command is known if it is delivered once more, after the restart.
    pub fingerprint: String,
    /// The way it came.
    pub origin: Origin,
    /// Where its answer is wanted.
    #[serde(default, with = "reply", skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// An outcome that has yet to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Due {
    /// Whose it is.
    pub pending: Pending,
    /// `successful` or `failed`.
    pub outcome: Outcome,
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
    inner: Arc<Inner>,
}

struct Inner {
    surroundings: Surroundings,
    configuration: Digest,
    base: Digest,
    check: Box<Check>,
    /// Held while a file is written and until memory agrees with it: one writer at a time.
    disk: Mutex<Held>,
    source: watch::Sender<Source>,
    settings: watch::Sender<Settings>,
    dues: watch::Sender<Vec<Due>>,
    restart: watch::Sender<Option<Reentry>>,
    on_trial: Option<OnTrial>,
    group: Group,
}

/// What the files hold.
struct Held {
    ledger: Ledger,
    kept: Kept,
}

impl Upkeep {
    fn new(memory: Memory, configuration: Digest, check: Box<Check>, group: &Group) -> Self {
        let inner = Inner {
            on_trial: memory.on_trial(),
            base: memory.base_digest(),
            settings: watch::Sender::new(memory.kept.upon(&configuration)),
            dues: watch::Sender::new(memory.ledger.dues()),
            source: watch::Sender::new(memory.source),
            restart: watch::Sender::new(None),
            disk: Mutex::new(Held { ledger: memory.ledger, kept: memory.kept }),
            surroundings: memory.surroundings,
            group: group.clone(),
            configuration,
            check,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What commands have set.
    pub fn settings(&self) -> Settings {
        self.inner.settings.borrow().clone()
    }

    /// Changes what commands have set, on the disk first.
    ///
    /// # Errors
    ///
    /// When it cannot be kept; then nothing has changed.
    pub async fn change(&self, alter: impl FnOnce(&mut Settings) + Send + 'static) -> io::Result<()> {
        self.blocking(|inner| inner.change(alter)).await
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
        self.blocking(move |inner| inner.apply(toml, pending, within)).await
    }

    /// Restarts the service or the board; `pending` has its last outcome afterwards, unless this fails.
    ///
    /// # Errors
    ///
    /// When it is not possible, or cannot be remembered.
    pub async fn restart(&self, what: Restart, pending: Pending) -> Result<(), Error> {
        let id = pending.id.clone();
        self.blocking(move |inner| inner.restart(what, pending)).await?;
        if what == Restart::Board {
            let upkeep = self.clone();
            self.inner.group.spawn(async move {
                tokio::select! {
                    () = upkeep.inner.group.stopped() => {}
                    () = tokio::time::sleep(REBOOT_LIMIT) => upkeep.blocking(move |inner| inner.give_reboot_up(&id)).await,
                }
            });
        }
        Ok(())
    }

    /// Completes when the service is to close and then begin anew.
    pub async fn restart_asked(&self) -> Reentry {
        let mut restart = self.inner.restart.subscribe();
        match restart.wait_for(Option::is_some).await.map(|asked| asked.clone()) {
            Ok(Some(reentry)) => reentry,
            // Its sender is part of ourselves.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Where the configuration in effect is from.
    pub fn source(&self) -> Source {
        *self.inner.source.borrow()
    }

    /// The trial, as long as it lasts.
    pub fn on_trial(&self) -> Option<OnTrial> {
        self.inner.on_trial.filter(|_| self.source() == Source::Trial)
    }

    /// The configuration on trial proved itself. If that cannot be kept, it is given up.
    pub async fn confirm_trial(&self) {
        let confirmed = self.blocking(|inner| inner.confirm_trial()).await;
        if let Err(error) = confirmed {
            self.give_trial_up(format!("it worked, but could not be kept: {error}")).await;
        }
    }

    /// The configuration on trial did not prove itself: the service restarts with the earlier one.
    pub async fn give_trial_up(&self, reason: String) {
        self.blocking(move |inner| inner.give_trial_up(&reason)).await;
    }

    /// The outcomes that have yet to be told, now and as that changes.
    pub fn dues(&self) -> watch::Receiver<Vec<Due>> {
        self.inner.dues.subscribe()
    }

    /// These were told.
    pub async fn told(&self, dues: Vec<Due>) {
        let forgotten = self.blocking(move |inner| inner.alter_ledger(|ledger| ledger.told(&dues))).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, "an outcome will be told once more after the next restart");
        }
    }

    /// On a thread that may wait for the disk, and to its end even if nobody waits for that.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = self.inner.clone();
        let (done, ended) = tokio::sync::oneshot::channel();
        self.inner.group.spawn_blocking(move || {
            // Whoever asked may have gone.
            done.send(work(&inner)).ok();
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

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.disk.lock().expect("nobody panics with it")
    }

    fn state(&self) -> Option<&Path> {
        self.surroundings.state.as_deref()
    }

    fn change(&self, alter: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut held = self.held();
        let before = self.settings.borrow().clone();
        let mut after = before.clone();
        alter(&mut after);
        if after == before {
            return Ok(());
        }
        // Another configuration may come back, after a trial or with another version, and wants its own then.
        let is_settled = match *self.source.borrow() {
            Source::File => held.ledger.applied.is_none(),
            Source::Applied => true,
            Source::Trial => false,
        };
        let kept = match is_settled {
            true => Kept::only(&self.configuration, after.clone()),
            false => held.kept.clone().also(&self.configuration, after.clone()),
        };
        keep(self.state(), SETTINGS, &kept)?;
        held.kept = kept;
        self.settings.send_replace(after);
        Ok(())
    }

    fn apply(&self, toml: String, pending: Pending, within: Duration) -> Result<(), Error> {
        if !(LEAST_TRIAL..=MOST_TRIAL).contains(&within) {
            return Err(Error::Within);
        }
        let prospect = (self.check)(&toml).map_err(Error::Refused)?;
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

    fn restart(&self, what: Restart, pending: Pending) -> Result<(), Error> {
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

    fn give_reboot_up(&self, id: &str) {
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

    fn confirm_trial(&self) -> io::Result<()> {
        if *self.source.borrow() != Source::Trial {
            return Ok(());
        }
        self.alter_ledger(Ledger::confirm_trial)?;
        self.source.send_replace(Source::Applied);
        tracing::info!("the applied configuration is confirmed");
        let mut held = self.held();
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

    fn give_trial_up(&self, reason: &str) {
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
    fn alter_ledger(&self, alter: impl FnOnce(&mut Ledger)) -> io::Result<()> {
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
        self.dues.send_if_modified(|before| (*before != dues).then(|| *before = dues).is_some());
        Ok(())
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

/// [`Reply`] in a file: its correlation data is bytes of any kind.
mod reply {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::mqtt::Reply;

    #[derive(Serialize, Deserialize)]
    struct Kept {
        topic: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        correlation: Option<String>,
    }

    pub fn serialize<S: Serializer>(reply: &Option<Reply>, serializer: S) -> Result<S::Ok, S::Error> {
        let kept = reply.as_ref().map(|reply| Kept {
            topic: reply.topic.clone(),
            correlation: reply.correlation.as_ref().map(|data| STANDARD.encode(data)),
        });
        kept.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reply>, D::Error> {
        let Some(kept) = Option::<Kept>::deserialize(deserializer)? else { return Ok(None) };
        let correlation = kept.correlation.map(|data| STANDARD.decode(data).map(Bytes::from)).transpose();
        Ok(Some(Reply { topic: kept.topic, correlation: correlation.map_err(D::Error::custom)? }))
    }
}
