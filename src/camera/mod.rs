//! Cameras and the microphone as the rest of the service has them: their frames, their status, and what they are told.
//!
//! The devices are in other processes (see [`capture`](crate::capture)). What is here starts these, judges what they
//! report, and keeps feeds and settings while one process ends and the next begins.

mod actor;
mod device;
mod due;
mod host;
mod launcher;
mod process;
mod questions;
mod settings;
mod state;
mod status;
mod survey;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::{Access, Answer, Kind, Mistake, Question, Role};
pub use crate::capture::{
    Adjustments, AudioConfig, CaptureConfig, Config, Control, Error, Log, Motion, Movement, RECEIVER, Sizes, Survey,
};
use crate::media::{Feed, H264Profile};
use crate::tasks::Group;

use actor::{Actor, Command};
use due::Looked;
use host::Host;
pub use launcher::Launcher;
use process::Sink;
use questions::Asker;
pub use state::State;
pub use status::Status;
pub use survey::survey;

/// How long a snapshot may take: cold cameras need a few seconds to measure light, and their capture process one or two to
/// start on the slowest boards.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(8);

/// Whether the device is closed to everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privacy {
    /// It is closed, and stays so until this is switched off.
    On,
    /// It is opened for those who watch.
    #[default]
    Off,
}

/// What a camera begins with besides its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preset {
    /// From the first moment on, so that a private camera is never opened at a start.
    pub privacy: Privacy,
    /// Values of controls, set whenever the device is opened.
    pub controls: BTreeMap<String, i64>,
}

/// A handle to one camera. A clone is the same camera.
#[derive(Clone, Debug)]
pub struct Camera {
    feed: Feed,
    profile: watch::Receiver<H264Profile>,
    status: watch::Receiver<Status>,
    config: watch::Receiver<Config>,
    actor: mpsc::UnboundedSender<Command<Config>>,
    adjustments: watch::Receiver<Adjustments>,
    kept: Kept,
    looked: Looked,
}

/// Values of controls that an operator has set, and that are therefore set again by each capture process.
type Kept = Arc<Mutex<BTreeMap<String, i64>>>;

impl Camera {
    /// Starts the camera's actor in `group`. Its capture process is started when somebody watches (or at once, to keep
    /// warm).
    pub fn open(config: Config, launcher: &Launcher, group: &Group) -> Self {
        Self::open_with(config, Preset::default(), launcher, group)
    }

    /// The same with what an operator has set before.
    pub fn open_with(config: Config, preset: Preset, launcher: &Launcher, group: &Group) -> Self {
        let feed = Feed::new();
        let (profile, profiles) = watch::channel(H264Profile::CONSTRAINED_BASELINE);
        let (status, statuses) =
            watch::channel(Status { name: config.name.clone(), device: config.source.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let told = Adjustments { controls: preset.controls.clone(), ..Adjustments::default() };
        let (adjustments, adjusted) = watch::channel(told);
        let kept = Kept::new(Mutex::new(preset.controls));
        let role = {
            let kept = kept.clone();
            move || Role::Camera { kept: kept.lock().unwrap_or_else(PoisonError::into_inner).clone() }
        };
        let (task, name) = (format!("camera {}", config.name), config.name.clone());
        let (settings, configs) = watch::channel(config);
        let sink = Sink { feed: feed.clone(), profile: Some(profile) };
        let looked = Looked::default();
        let actor = Actor {
            looked: looked.clone(),
            host: Host::new(launcher.clone(), &name, sink, role, Some(adjustments)),
            settings,
            privacy: preset.privacy,
            status,
            inbox,
            group: group.clone(),
        };
        group.keep(task, actor, |actor| Box::pin(actor.run()));
        let (profile, status, config, adjustments) = (profiles, statuses, configs, adjusted);
        Self { feed, profile, status, config, actor: sender, adjustments, kept, looked }
    }

    /// The encoded pictures.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// The profile that its H.264 has now.
    pub fn profile(&self) -> watch::Receiver<H264Profile> {
        self.profile.clone()
    }

    /// What it is doing, now and as it changes.
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

    /// When it was looked last at whether its frames come; `None` if nobody ever wanted any.
    pub fn looked(&self) -> Option<Instant> {
        self.looked.last()
    }

    /// Puts another configuration into effect; viewers stay connected.
    ///
    /// Another bitrate is taken by the running encoder, as is another time between key frames where the encoder can
    /// change it while it runs; else that holds from its next start on. Anything else starts the pipeline anew. This
    /// returns when its first picture is there; at once where nobody watches, privacy is on or the device is not
    /// there, when only the values themselves could be checked.
    ///
    /// # Errors
    ///
    /// When the values cannot be, or device or encoder do not do them: then the former configuration is back in effect.
    pub async fn configure(&self, config: Config) -> Result<(), Error> {
        let mut mistakes = config.check();
        if config.name != self.config.borrow().name {
            mistakes.push(("name", "cannot be changed while the camera runs".into()));
        }
        configure(&self.actor, config, mistakes).await
    }

    /// Asks the encoder for a key frame, as a viewer that cannot go on does.
    pub fn key_frame(&self) {
        self.feed.want_key_frame();
    }

    /// Stops the pipeline, if one runs, and starts another. Viewers stay connected.
    pub fn restart(&self) {
        // Refused only when the camera was closed, when there is nothing to restart.
        self.actor.send(Command::Restart).ok();
    }

    /// Switches privacy. With `On`, nothing of the device is shown or sent from the moment at which this returns, which
    /// is within a second, and the device is closed.
    ///
    /// # Errors
    ///
    /// When the device hangs, so that it may still be open. Privacy is on all the same.
    pub async fn set_privacy(&self, privacy: Privacy) -> Result<(), Error> {
        set_privacy(&self.actor, privacy).await
    }

    /// Somebody is likely to watch soon: the capture process is started, without a device being opened.
    pub fn prepare(&self) {
        // Refused only when the camera was closed.
        self.actor.send(Command::Prepare).ok();
    }

    /// What can be adjusted at the device, with the values that it has now.
    ///
    /// # Errors
    ///
    /// When there is no such device, or it cannot be opened, or privacy is on.
    pub async fn controls(&self) -> Result<Vec<Control>, Error> {
        match ask(&self.actor, Question::Controls(self.config())).await? {
            Answer::Controls(controls) => Ok(controls),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets a control by its name, now and whenever the device is opened.
    ///
    /// # Errors
    ///
    /// What is allowed, or why the driver refuses.
    pub async fn set_control(&self, name: &str, value: i64) -> Result<Control, Error> {
        let question = Question::SetControl { config: self.config(), name: name.to_owned(), value };
        let control = match ask(&self.actor, question).await? {
            Answer::Control(control) => control,
            other => return Err(unexpected(&other)),
        };
        if control.kind != Kind::Button && control.access != Access::ReadOnly {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value);
        }
        Ok(control)
    }

    /// What is known of the device without asking it, now and as it changes.
    pub fn adjustments(&self) -> watch::Receiver<Adjustments> {
        self.adjustments.clone()
    }

    /// Moves the camera.
    ///
    /// # Errors
    ///
    /// When it cannot move so, or the driver refuses.
    pub async fn move_by(&self, movement: Movement) -> Result<(), Error> {
        match ask(&self.actor, Question::Move { config: self.config(), movement }).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// One current picture as JPEG. Starts the camera if nobody watches, and lets it stop afterwards.
    pub async fn snapshot(&self) -> Result<Bytes, Error> {
        let mut status = self.status.clone();
        // Kept until the picture is there, so that the camera runs for it.
        let _viewer = self.feed.subscribe();
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
        let (asker, taken) = oneshot::channel();
        let is_open = self.actor.send(Command::Ask(Question::Snapshot, Asker::Picture(asker))).is_ok();
        match (is_open, taken.await) {
            (true, Ok(picture)) => picture,
            // The camera was closed: nothing will come.
            _ => std::future::pending().await,
        }
    }
}

/// Asks the capture process.
async fn ask<S>(actor: &mpsc::UnboundedSender<Command<S>>, question: Question) -> Result<Answer, Error> {
    let (asker, answer) = oneshot::channel();
    actor.send(Command::Ask(question, Asker::Answer(asker))).map_err(|_| Error::Closed)?;
    answer.await.unwrap_or(Err(Error::Closed))
}

fn unexpected(answer: &Answer) -> Error {
    tracing::debug!(?answer, "an answer to something else");
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
    /// `auto` is the first capture device. Where there is none, it is the test tone if one of `cameras` shows the
    /// test picture, else silence until a microphone is plugged in.
    pub fn open(config: AudioConfig, cameras: &[Config], launcher: &Launcher, group: &Group) -> Option<Self> {
        Self::open_with(config, cameras, Privacy::Off, launcher, group)
    }

    /// The same with what an operator has set before.
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
        let feed = Feed::new();
        let (status, statuses) =
            watch::channel(Status { name: "microphone".into(), device: config.capture.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let (settings, configs) = watch::channel(config);
        let cameras = cameras.to_vec();
        let role = move || Role::Microphone { cameras: cameras.clone() };
        let sink = Sink { feed: feed.clone(), profile: None };
        let actor = Actor {
            looked: Looked::default(),
            host: Host::new(launcher.clone(), "microphone", sink, role, None),
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

    /// What it is doing, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether there is something to hear with, as far as can be told without opening it.
    ///
    /// # Errors
    ///
    /// When the capture process cannot be asked: then it is not known.
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

    /// Puts another configuration into effect, as [`Camera::configure`] does. Only another bitrate needs no restart.
    ///
    /// # Errors
    ///
    /// As [`Camera::configure`].
    pub async fn configure(&self, config: AudioConfig) -> Result<(), Error> {
        let mut mistakes = config.check();
        if config.capture == "off" {
            mistakes.push(("capture", "cannot become \"off\" while the service runs; switch privacy on".into()));
        }
        configure(&self.actor, config, mistakes).await
    }

    /// Switches privacy, as [`Camera::set_privacy`] does.
    ///
    /// # Errors
    ///
    /// As [`Camera::set_privacy`].
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
        // The source was closed: no device is open any more.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
