//! Devices become encoded frames. The only room that knows GStreamer, V4L2 and ALSA.

mod actor;
mod agreed;
mod attempt;
mod capture;
mod clock;
mod complaints;
mod config;
mod controls;
mod device;
mod due;
mod encoder;
mod error;
mod even;
mod extended;
mod h264;
mod jpeg;
mod microphone;
mod mode;
mod movement;
mod newcomer;
mod node;
mod opener;
mod paced;
mod pipeline;
mod plugins;
mod record;
mod snapshot;
mod state;
mod status;
mod survey;
mod test_picture;
mod test_tone;
pub mod time_code;
mod trial;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use tokio::sync::{mpsc, oneshot, watch};

use crate::media::{Feed, H264Profile, Subscription};
use crate::tasks::Group;

use actor::{Actor, Command};
use capture::Capture;
pub use config::{AudioConfig, Config, Mistake};
use controls::Adjusted;
pub use controls::{Access, Adjustments, Choice, Control, Kind};
pub use device::{Audio, RECEIVER, Video};
pub use error::Error;
use microphone::Sound;
pub use mode::{Format, Offer, Rate, Sizes};
pub use movement::{Motion, Movement};
use opener::{blocking, unless_in_use};
use pipeline::Sink;
use snapshot::Picture;
pub use state::State;
pub use status::{Mode, Status};
pub use survey::{EncoderTrial, Survey, survey};

/// What `encoder` and status call a camera that encodes by itself.
pub(crate) const PASSTHROUGH: &str = "passthrough";

/// What status and refusals say while privacy is on.
const PRIVACY: &str = "privacy is on";

/// How long a snapshot may take: cold cameras need a few seconds to measure light.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(5);

/// A builder for an element, or what to install where GStreamer does not have it.
fn element(name: &str) -> Result<gst::element_factory::ElementBuilder<'_>, Error> {
    match gst::ElementFactory::find(name) {
        Some(_) => Ok(gst::ElementFactory::make(name)),
        None => Err(Error::MissingElement { element: name.to_owned(), package: plugins::package(name) }),
    }
}

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
    adjusted: Adjusted,
    group: Group,
}

impl Camera {
    /// Starts the camera's actor in `group`. Devices are opened when somebody watches (or at once, to keep warm).
    pub fn open(config: Config, group: &Group) -> Self {
        Self::open_with(config, Preset::default(), group)
    }

    /// The same with what an operator has set before.
    pub fn open_with(config: Config, preset: Preset, group: &Group) -> Self {
        let feed = Feed::new();
        let (profile, profiles) = watch::channel(H264Profile::CONSTRAINED_BASELINE);
        let (status, statuses) =
            watch::channel(Status { name: config.name.clone(), device: config.source.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let adjusted = Adjusted::new(preset.controls);
        let capture = Capture::new(config.clone(), adjusted.clone());
        let task = format!("camera {}", config.name);
        let (settings, configs) = watch::channel(config);
        let actor = Actor {
            source: Arc::new(Mutex::new(capture)),
            sink: Sink { feed: feed.clone(), profile: Some(profile) },
            settings,
            privacy: preset.privacy,
            status,
            inbox,
            group: group.clone(),
        };
        group.keep(task, actor, |actor| Box::pin(actor.run()));
        Self {
            feed,
            profile: profiles,
            status: statuses,
            config: configs,
            actor: sender,
            adjusted,
            group: group.clone(),
        }
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

    /// What can be adjusted at the device, with the values that it has now.
    ///
    /// # Errors
    ///
    /// When there is no such device, or it cannot be opened, or privacy is on.
    pub async fn controls(&self) -> Result<Vec<Control>, Error> {
        self.at_the_device(|adjusted, node| adjusted.list(&node)).await
    }

    /// Sets a control by its name, now and whenever the device is opened.
    ///
    /// # Errors
    ///
    /// What is allowed, or why the driver refuses.
    pub async fn set_control(&self, name: &str, value: i64) -> Result<Control, Error> {
        let name = name.to_owned();
        self.at_the_device(move |adjusted, node| adjusted.set(&node, &name, value)).await
    }

    /// What is known of the device without asking it, now and as it changes.
    pub fn adjustments(&self) -> watch::Receiver<Adjustments> {
        self.adjusted.told()
    }

    /// Moves the camera.
    ///
    /// # Errors
    ///
    /// When it cannot move so, or the driver refuses.
    pub async fn move_by(&self, movement: Movement) -> Result<(), Error> {
        match self.at_the_device(move |_, node| movement::carry_out(&node, movement)).await {
            Err(Error::NoControls { .. }) => Err(movement::refusal(movement)),
            moved => moved,
        }
    }

    /// Does what takes the device's node, beside the pipeline: V4L2 lets several have a device open.
    async fn at_the_device<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Adjusted, PathBuf) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.status.borrow().state == State::Private {
            return Err(Error::Private);
        }
        let (adjusted, config) = (self.adjusted.clone(), self.config());
        blocking(&self.group, move || {
            let node = adjusted.node(&config)?;
            work(&adjusted, node)
        })
        .await
    }

    /// One current picture as JPEG. Starts the camera if nobody watches, and lets it stop afterwards.
    pub async fn snapshot(&self) -> Result<Bytes, Error> {
        let mut status = self.status.clone();
        // Kept until the picture is there, so that the camera runs for it.
        let mut viewer = self.feed.subscribe();
        let taken = async {
            tokio::select! {
                biased;
                Ok(_) = status.wait_for(|status| status.state == State::Private) => Err(Error::Private),
                picture = self.picture(&mut viewer) => picture,
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

    async fn picture(&self, viewer: &mut Subscription) -> Result<Bytes, Error> {
        let (taker, taken) = oneshot::channel();
        let is_open = self.actor.send(Command::Snapshot(taker)).is_ok();
        match (is_open, taken.await) {
            (true, Ok(Picture::Raw(sample))) => snapshot::jpeg(&self.group, snapshot::Still::Raw(sample)).await,
            (true, Ok(Picture::Encoded)) => {
                snapshot::jpeg(&self.group, snapshot::Still::KeyFrame(viewer.next().await)).await
            }
            // The camera was closed: nothing will come.
            _ => std::future::pending().await,
        }
    }
}

/// A handle to the microphone.
#[derive(Clone, Debug)]
pub struct Microphone {
    feed: Feed,
    status: watch::Receiver<Status>,
    config: watch::Receiver<AudioConfig>,
    actor: mpsc::UnboundedSender<Command<AudioConfig>>,
    sound: Arc<Mutex<Sound>>,
}

impl Microphone {
    /// Starts the microphone's actor; `None` when audio is off.
    ///
    /// `auto` is the first capture device. Where there is none, it is the test tone if one of `cameras` shows the
    /// test picture, else silence until a microphone is plugged in.
    pub fn open(config: AudioConfig, cameras: &[Config], group: &Group) -> Option<Self> {
        Self::open_with(config, cameras, Privacy::Off, group)
    }

    /// The same with what an operator has set before.
    pub fn open_with(config: AudioConfig, cameras: &[Config], privacy: Privacy, group: &Group) -> Option<Self> {
        if config.capture == "off" {
            return None;
        }
        let feed = Feed::new();
        let (status, statuses) =
            watch::channel(Status { name: "microphone".into(), device: config.capture.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let sound = Arc::new(Mutex::new(Sound::new(cameras)));
        let (settings, configs) = watch::channel(config);
        let actor = Actor {
            source: sound.clone(),
            sink: Sink { feed: feed.clone(), profile: None },
            settings,
            privacy,
            status,
            inbox,
            group: group.clone(),
        };
        group.keep("microphone", actor, |actor| Box::pin(actor.run()));
        Some(Self { sound, feed, status: statuses, config: configs, actor: sender })
    }

    /// The Opus packets of 20 ms.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// What it is doing, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether there is something to hear with, as far as can be told without opening it. Blocks for some milliseconds.
    pub fn is_there(&self) -> bool {
        let config = self.config.borrow().clone();
        // A device that is being opened, and hangs, brings nothing.
        unless_in_use(&self.sound).is_some_and(|mut sound| sound.is_there(&config))
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
