//! Cameras and the microphone for the rest of the service: their frames, their status, and handles to control them.
//!
//! The devices are in other processes (see [`capture`](crate::capture)). This module starts those processes, checks
//! what they report, and keeps feeds and settings while one process ends and the next begins.

mod actor;
mod device_state;
mod inventory;
mod keyframe_throttle;
mod launcher;
mod pending_questions;
mod process;
mod settings;
mod state_machine;
mod status;
mod supervisor;
mod timers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::{Answer, ControlAccess, ControlKind, Mistake, Question, Role};
pub use crate::capture::{
    AudioConfig, AxisMotion, CaptureConfig, Config, Control, Error, Inventory, KnownDevice, LogSettings, PtzMovement,
    RECEIVER, Sizes,
};
use crate::media::{Codec, Feed, Format, H264Profile, Purpose};
use crate::tasks::Group;

use actor::{Actor, Command};
pub use inventory::take_inventory;
pub use launcher::Launcher;
use pending_questions::Responder;
pub use state_machine::State;
pub use status::Status;
use supervisor::Supervisor;
use timers::LastCheck;

/// Time limit of a snapshot: cold cameras need a few seconds to measure light, and on the slowest boards their
/// capture process takes one or two to start.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(8);

/// Whether the device is kept closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privacy {
    /// It is closed, and stays closed until privacy is switched off.
    On,
    /// It is opened when somebody watches.
    #[default]
    Off,
}

/// A camera's initial state besides its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preset {
    /// Applies from the start, so that a private camera is never opened.
    pub privacy: Privacy,
    /// Values of controls that are set each time the device is opened.
    pub controls: BTreeMap<String, i64>,
}

/// A handle to one camera. Clones refer to the same camera.
#[derive(Clone, Debug)]
pub struct Camera {
    feed: Feed,
    status: watch::Receiver<Status>,
    config: watch::Receiver<Config>,
    actor: mpsc::UnboundedSender<Command<Config>>,
    known_device: watch::Receiver<KnownDevice>,
    kept: KeptControls,
    last_check: LastCheck,
}

/// Values of controls that an operator has set; each capture process sets them again.
type KeptControls = Arc<Mutex<BTreeMap<String, i64>>>;

impl Camera {
    /// Starts the camera's actor in `group`. Its capture process starts when somebody watches, or at once if the
    /// camera is kept warm.
    pub fn open(config: Config, launcher: &Launcher, group: &Group) -> Self {
        Self::open_with(config, Preset::default(), launcher, group)
    }

    /// Like [`Self::open`], with the state that an operator has set before.
    pub fn open_with(config: Config, preset: Preset, launcher: &Launcher, group: &Group) -> Self {
        let feed = Feed::new(Format::of(Codec::H264(H264Profile::CONSTRAINED_BASELINE)));
        let (status, statuses) =
            watch::channel(Status { name: config.name.clone(), device: config.source.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let told = KnownDevice { controls: preset.controls.clone(), ..KnownDevice::default() };
        let (known_device, known_devices) = watch::channel(told);
        let kept = KeptControls::new(Mutex::new(preset.controls));
        let role = {
            let kept = kept.clone();
            move || Role::Camera { kept: kept.lock().unwrap_or_else(PoisonError::into_inner).clone() }
        };
        let (task, name) = (format!("camera {}", config.name), config.name.clone());
        let (settings, configs) = watch::channel(config);
        let last_check = LastCheck::default();
        let actor = Actor {
            last_check: last_check.clone(),
            supervisor: Supervisor::new(launcher.clone(), &name, feed.clone(), role, Some(known_device)),
            settings,
            privacy: preset.privacy,
            status,
            inbox,
            group: group.clone(),
        };
        group.keep(task, actor, |actor| Box::pin(actor.run()));
        let (status, config, known_device) = (statuses, configs, known_devices);
        Self { feed, status, config, actor: sender, known_device, kept, last_check }
    }

    /// The encoded pictures.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Its status, as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The configuration in effect.
    pub fn config(&self) -> Config {
        self.config.borrow().clone()
    }

    /// The configuration in effect, as it changes.
    pub fn configs(&self) -> watch::Receiver<Config> {
        self.config.clone()
    }

    /// When the arrival of frames was last checked; `None` if there was never a reader.
    pub fn last_check(&self) -> Option<Instant> {
        self.last_check.get()
    }

    /// Puts another configuration into effect; viewers stay connected.
    ///
    /// The running encoder changes its bitrate, and if it supports that, its key-frame interval; otherwise the
    /// interval applies from the encoder's next start. All other settings restart the pipeline. This returns when
    /// the first picture is there. It returns at once if nobody watches, privacy is on or the device is missing;
    /// then only the values themselves were checked.
    ///
    /// # Errors
    ///
    /// When the values are invalid, or the device or encoder does not support them; the former configuration is
    /// then restored.
    pub async fn configure(&self, config: Config) -> Result<(), Error> {
        let mut mistakes = config.check();
        if config.name != self.config.borrow().name {
            mistakes.push(("name", "cannot be changed while the camera runs".into()));
        }
        configure(&self.actor, config, mistakes).await
    }

    /// Requests a key frame from the encoder, for a viewer that cannot decode without one.
    pub fn key_frame(&self) {
        self.feed.request_key_frame();
    }

    /// Stops the pipeline, if one runs, and starts another. Viewers stay connected.
    pub fn restart(&self) {
        // Fails only after the camera was closed, when there is nothing to restart.
        self.actor.send(Command::Restart).ok();
    }

    /// Switches privacy. With `On`, the device is closed, and nothing of it is shown or sent once this returns,
    /// which is within a second.
    ///
    /// # Errors
    ///
    /// When the device hangs and may still be open. Privacy is on nevertheless.
    pub async fn set_privacy(&self, privacy: Privacy) -> Result<(), Error> {
        set_privacy(&self.actor, privacy).await
    }

    /// Starts the capture process without opening a device, because a viewer is likely to come soon.
    pub fn prewarm(&self) {
        // Fails only after the camera was closed.
        self.actor.send(Command::Prewarm).ok();
    }

    /// The device's controls with their present values.
    ///
    /// # Errors
    ///
    /// When there is no such device, it cannot be opened, or privacy is on.
    pub async fn controls(&self) -> Result<Vec<Control>, Error> {
        match ask(&self.actor, Question::Controls(self.config())).await? {
            Answer::Controls(controls) => Ok(controls),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets a control by its name, now and each time the device is opened.
    ///
    /// # Errors
    ///
    /// The allowed values, or why the driver refuses.
    pub async fn set_control(&self, name: &str, value: i64) -> Result<Control, Error> {
        let question = Question::SetControl { config: self.config(), name: name.to_owned(), value };
        let control = match ask(&self.actor, question).await? {
            Answer::Control(control) => control,
            other => return Err(unexpected(&other)),
        };
        if control.kind != ControlKind::Button && control.access != ControlAccess::ReadOnly {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value);
        }
        Ok(control)
    }

    /// The values known without asking the capture process, as they change.
    pub fn known_device(&self) -> watch::Receiver<KnownDevice> {
        self.known_device.clone()
    }

    /// Moves the camera.
    ///
    /// # Errors
    ///
    /// When it cannot move in this way, or the driver refuses.
    pub async fn move_ptz(&self, movement: PtzMovement) -> Result<(), Error> {
        match ask(&self.actor, Question::Move { config: self.config(), movement }).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// One current picture as JPEG. Starts the camera if nobody watches, and lets it stop afterwards.
    pub async fn snapshot(&self) -> Result<Bytes, Error> {
        let mut status = self.status.clone();
        // Held until the picture is there, so that the camera runs.
        let _reader = self.feed.subscribe(Purpose::Snapshot);
        let taken = async {
            tokio::select! {
                biased;
                Ok(_) = status.wait_for(|status| status.state == State::Private) => Err(Error::Private),
                picture = self.picture() => picture,
            }
        };
        match tokio::time::timeout(SNAPSHOT_LIMIT, taken).await {
            Ok(jpeg) => jpeg,
            Err(_) => {
                let status = self.status.borrow();
                Err(Error::NoPicture {
                    device: status.device.clone(),
                    waited: SNAPSHOT_LIMIT,
                    reason: status.reason.clone(),
                })
            }
        }
    }

    async fn picture(&self) -> Result<Bytes, Error> {
        let (responder, taken) = oneshot::channel();
        let is_open = self.actor.send(Command::Ask(Question::Snapshot, Responder::Picture(responder))).is_ok();
        match (is_open, taken.await) {
            (true, Ok(picture)) => picture,
            // The camera was closed: no picture will come.
            _ => std::future::pending().await,
        }
    }
}

/// Asks the capture process.
async fn ask<S>(actor: &mpsc::UnboundedSender<Command<S>>, question: Question) -> Result<Answer, Error> {
    let (responder, answer) = oneshot::channel();
    actor.send(Command::Ask(question, Responder::Answer(responder))).map_err(|_| Error::Closed)?;
    answer.await.unwrap_or(Err(Error::Closed))
}

fn unexpected(answer: &Answer) -> Error {
    tracing::debug!(?answer, "the answer does not match the question");
    Error::other_answer("the camera")
}

/// A handle to the microphone.
#[derive(Clone, Debug)]
pub struct Microphone {
    feed: Feed,
    status: watch::Receiver<Status>,
    config: watch::Receiver<AudioConfig>,
    actor: mpsc::UnboundedSender<Command<AudioConfig>>,
}

impl Microphone {
    /// Starts the microphone's actor; `None` when audio is off.
    ///
    /// `auto` is the first capture device. Without one it is the test tone if one of `cameras` shows the test
    /// picture, else silence until a microphone is plugged in.
    pub fn open(config: AudioConfig, cameras: &[Config], launcher: &Launcher, group: &Group) -> Option<Self> {
        Self::open_with(config, cameras, Privacy::Off, launcher, group)
    }

    /// Like [`Self::open`], with the state that an operator has set before.
    pub fn open_with(
        config: AudioConfig,
        cameras: &[Config],
        privacy: Privacy,
        launcher: &Launcher,
        group: &Group,
    ) -> Option<Self> {
        if config.capture == "off" {
            return None;
        }
        let feed = Feed::new(Format::of(Codec::Opus));
        let (status, statuses) =
            watch::channel(Status { name: "microphone".into(), device: config.capture.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let (settings, configs) = watch::channel(config);
        let cameras = cameras.to_vec();
        let role = move || Role::Microphone { cameras: cameras.clone() };
        let actor = Actor {
            last_check: LastCheck::default(),
            supervisor: Supervisor::new(launcher.clone(), "microphone", feed.clone(), role, None),
            settings,
            privacy,
            status,
            inbox,
            group: group.clone(),
        };
        group.keep("microphone", actor, |actor| Box::pin(actor.run()));
        Some(Self { feed, status: statuses, config: configs, actor: sender })
    }

    /// The Opus packets of 20 ms.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Its status, as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether there is a microphone, as far as is known without opening it.
    ///
    /// # Errors
    ///
    /// When the capture process cannot answer.
    pub async fn is_there(&self) -> Result<bool, Error> {
        match ask(&self.actor, Question::HasSound(self.config())).await? {
            Answer::HasSound(is_there) => Ok(is_there),
            other => Err(unexpected(&other)),
        }
    }

    /// The configuration in effect.
    pub fn config(&self) -> AudioConfig {
        self.config.borrow().clone()
    }

    /// The configuration in effect, as it changes.
    pub fn configs(&self) -> watch::Receiver<AudioConfig> {
        self.config.clone()
    }

    /// Puts another configuration into effect, like [`Camera::configure`]. Only a change of bitrate needs no restart.
    ///
    /// # Errors
    ///
    /// Like [`Camera::configure`].
    pub async fn configure(&self, config: AudioConfig) -> Result<(), Error> {
        let mut mistakes = config.check();
        if config.capture == "off" {
            mistakes.push(("capture", "cannot become \"off\" while the service runs; switch privacy on".into()));
        }
        configure(&self.actor, config, mistakes).await
    }

    /// Switches privacy, like [`Camera::set_privacy`].
    ///
    /// # Errors
    ///
    /// Like [`Camera::set_privacy`].
    pub async fn set_privacy(&self, privacy: Privacy) -> Result<(), Error> {
        set_privacy(&self.actor, privacy).await
    }
}

async fn configure<S>(
    actor: &mpsc::UnboundedSender<Command<S>>,
    settings: S,
    mistakes: Vec<Mistake>,
) -> Result<(), Error> {
    if !mistakes.is_empty() {
        return Err(Error::Mistaken(mistakes));
    }
    let (done, outcome) = oneshot::channel();
    actor.send(Command::Configure(settings, done)).map_err(|_| Error::Closed)?;
    outcome.await.unwrap_or(Err(Error::Closed))
}

async fn set_privacy<S>(actor: &mpsc::UnboundedSender<Command<S>>, privacy: Privacy) -> Result<(), Error> {
    let (done, outcome) = oneshot::channel();
    match actor.send(Command::Privacy(privacy, done)) {
        Ok(()) => outcome.await.unwrap_or(Ok(())),
        // The source was closed: no device is open.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
