//! What each command does: one match over all of them, and the rooms that each is passed on to.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::intake::{Ended, Task};
use super::lamp::Lamp;
use super::{Control, Event, ptz};
use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::command::Command;
use crate::command::Destination;
use crate::command::DismissViewer;
use crate::command::Identify;
use crate::command::Name;
use crate::command::SetAudio;
use crate::command::SetControl;
use crate::command::SetVideo;
use crate::command::Snapshot;
use crate::command::What;
use crate::mqtt::Broker;
use crate::tasks::Group;
use crate::upkeep;
use crate::upkeep::Closed;
use crate::upkeep::Pending;
use crate::upkeep::Settings;
use crate::upkeep::Upkeep;

/// How long the broker may take to say that it has a picture: a second or two on a slow uplink, and within the
/// command's 8 s after a picture for which a cold camera needs 5 s.
const PUBLISHING: Duration = Duration::from_millis(2500);

/// How long a board shows itself unless the command says otherwise: somebody walks past the shelf.
const IDENTIFY: Duration = Duration::from_secs(10);

/// What the notice about settings that cannot be kept is about.
const UNKEPT: &str = "settings";

/// What the notice about privacy that nobody has set is about.
const CLOSED: &str = "privacy";

/// What the notice about a lost configuration is about.
const LOST: &str = "configuration";

/// What commands need that no room gives.
pub struct Tools {
    /// Keeps what was changed, and restarts.
    pub upkeep: Upkeep,
    /// The configuration that the process began with, without its secrets, and where it is from.
    pub config: Value,
    /// Looks at the board, which takes seconds.
    pub doctor: Box<dyn Fn() -> Examination + Send + Sync>,
    /// Changes what is logged, or says what is wrong with the level.
    pub set_log_level: Box<SetLogLevel>,
    /// `/sys/class/leds`, or what stands for it.
    pub leds: PathBuf,
}

/// Changes how much is logged, or says what is wrong with what is wanted.
pub type SetLogLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// A look at the board under way: its report, or why there is none.
pub type Examination = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// Carries commands out.
pub struct Effects {
    control: Control,
    tools: Tools,
    lamp: Lamp,
    /// Held by what opens or closes the microphone until it is kept: whether it is open depends on settings of two
    /// commands, which do not wait for each other.
    sound: Mutex<()>,
}

/// A result, or why there is none.
type Done = Result<Option<Value>, String>;

impl Effects {
    /// With the parts that `control` knows, and work in `group`.
    pub fn new(control: Control, tools: Tools, group: &Group) -> Self {
        let lamp = Lamp::find(&tools.leds, group);
        Self { control, tools, lamp, sound: Mutex::default() }
    }

    /// Says what was kept and could not be read, and what follows from that.
    pub fn tell_losses(&self) {
        let notices = &self.control.parts().notices;
        let losses = self.tools.upkeep.losses();
        if self.tools.upkeep.settings().closed == Some(Closed::Unread) {
            let lost = losses.settings.map(|lost| format!(" ({lost})")).unwrap_or_default();
            let text = format!(
                "What commands had set could not be read{lost}. Privacy may have been on in it, so nothing is shown or \
                 heard until the command `privacy` says otherwise."
            );
            notices.tell(CLOSED, text);
        }
        if let Some(lost) = losses.ledger {
            let text = format!(
                "A configuration that was applied by command, if there was one, could not be read and does not hold \
                 ({lost})."
            );
            notices.tell(LOST, text);
        }
    }

    /// Does what a command says.
    pub fn carry_out(self: Arc<Self>, task: Task) -> Pin<Box<dyn Future<Output = Ended> + Send>> {
        Box::pin(async move {
            let pending = Pending {
                id: task.id,
                command: task.command.name().into(),
                fingerprint: task.fingerprint,
                origin: task.origin,
                reply: task.reply,
            };
            let done = match task.command {
                Command::GetStatus {} => Ok(Some(written(&self.control.status()))),
                Command::GetConfig {} => Ok(Some(self.config())),
                Command::SetVideo(wanted) => self.set_video(wanted).await,
                Command::SetAudio(wanted) => self.set_audio(wanted).await,
                Command::ListControls(which) => self.list_controls(which.camera).await,
                Command::SetControl(wanted) => self.set_control(wanted).await,
                Command::Ptz(wanted) => self.ptz(wanted).await,
                Command::Snapshot(wanted) => self.snapshot(wanted).await,
                Command::KeyFrame(which) => self.camera(which.camera.as_ref()).map(|(_, camera)| {
                    camera.key_frame();
                    None
                }),
                Command::ListViewers {} => Ok(Some(json!({ "viewers": self.control.parts().viewers.list() }))),
                Command::DismissViewer(whom) => self.dismiss(&whom),
                Command::Privacy(wanted) => self.privacy(privacy(wanted.on)).await,
                Command::ApplyConfig(config) => {
                    let within = config.confirm_within.map(|seconds| Duration::from_secs(seconds.get().into()));
                    let within = within.unwrap_or(upkeep::USUAL_TRIAL);
                    return after_restart(self.tools.upkeep.apply(config.toml, pending, within).await);
                }
                Command::Restart(wanted) => match wanted.what {
                    What::Pipeline => {
                        self.cameras().iter().for_each(|(_, camera)| camera.restart());
                        Ok(None)
                    }
                    What::Service => {
                        return after_restart(self.tools.upkeep.restart(upkeep::Restart::Service, pending).await);
                    }
                    What::Board => {
                        return after_restart(self.tools.upkeep.restart(upkeep::Restart::Board, pending).await);
                    }
                },
                Command::SetLogLevel(wanted) => self.set_log_level(wanted.level.as_str()).await,
                Command::Doctor {} => (self.tools.doctor)().await.map(Some),
                Command::Identify(wanted) => self.identify(&wanted),
            };
            Ended::Now(done)
        })
    }

    fn cameras(&self) -> &[(String, Camera)] {
        &self.control.parts().cameras
    }

    fn broker(&self) -> Option<&Broker> {
        self.control.parts().broker.as_ref()
    }

    /// The camera of that name, or the first.
    fn camera(&self, wanted: Option<&Name>) -> Result<(&str, &Camera), String> {
        self.control.camera(wanted.map(Name::as_str)).map_err(|error| error.to_string())
    }

    /// What the process began with, and what commands have made of it.
    fn config(&self) -> Value {
        let mut config = self.tools.config.clone();
        let source = self.tools.upkeep.source();
        if source != upkeep::Source::File {
            config["from"] = written(&source);
        }
        let shown = &mut config["configuration"];
        shown["camera"] = self.cameras().iter().map(|(_, camera)| written(&camera.config())).collect();
        if let Some(microphone) = self.microphone() {
            shown["audio"] = written(&microphone.config());
        }
        if let Some(level) = self.tools.upkeep.settings().log_level {
            shown["log"]["level"] = level.into();
        }
        config
    }

    async fn set_video(&self, wanted: SetVideo) -> Done {
        let SetVideo { camera, width, height, fps, bitrate, key_frame_interval } = wanted;
        let (name, camera) = self.camera(camera.as_ref())?;
        let (width, height) = (width.map(|width| width.get()), height.map(|height| height.get()));
        let (fps, bitrate) = (fps.map(|fps| fps.get()), bitrate.map(|bitrate| bitrate.get()));
        let interval = key_frame_interval.map(|seconds| seconds.get());
        if [width, height, fps, bitrate, interval].iter().all(Option::is_none) {
            return Err("nothing to change; give `width`, `height`, `fps`, `bitrate` or `key_frame_interval`".into());
        }
        let before = camera.config();
        let after = camera::Config {
            width: width.unwrap_or(before.width),
            height: height.unwrap_or(before.height),
            fps: fps.unwrap_or(before.fps),
            bitrate: bitrate.unwrap_or(before.bitrate),
            key_frame_interval: interval.unwrap_or(before.key_frame_interval),
            ..before
        };
        camera.configure(after).await.map_err(|error| error.to_string())?;
        let kept = name.to_owned();
        let warning = self
            .keep(move |settings| {
                let kept = settings.cameras.entry(kept).or_default();
                kept.width = width.or(kept.width);
                kept.height = height.or(kept.height);
                kept.fps = fps.or(kept.fps);
                kept.bitrate = bitrate.or(kept.bitrate);
                kept.key_frame_interval = interval.or(kept.key_frame_interval);
            })
            .await;
        let now = camera.config();
        let result = json!({
            "camera": name, "width": now.width, "height": now.height, "fps": now.fps, "bitrate": now.bitrate,
            "key_frame_interval": now.key_frame_interval,
        });
        Ok(Some(with(result, warning)))
    }

    async fn set_audio(&self, wanted: SetAudio) -> Done {
        let microphone =
            self.microphone().ok_or("there is no sound: `capture` is \"off\" in the configuration's [audio]")?;
        let bitrate = wanted.bitrate.map(|bitrate| bitrate.get());
        // 1 or 2.
        let channels = wanted.channels.map(|channels| channels.get() as u8);
        if wanted.on.is_none() && bitrate.is_none() && channels.is_none() {
            return Err("nothing to change; give `on`, `bitrate` or `channels`".into());
        }
        let before = microphone.config();
        let after = camera::AudioConfig {
            bitrate: bitrate.unwrap_or(before.bitrate),
            channels: channels.unwrap_or(before.channels),
            ..before.clone()
        };
        if after != before {
            microphone.configure(after).await.map_err(|error| error.to_string())?;
        }
        let _sound = self.sound.lock().await;
        let mut settings = self.tools.upkeep.settings();
        settings.audio.on = wanted.on.or(settings.audio.on);
        let closed = microphone.set_privacy(self.of_microphone(&settings)).await;
        let unkept = self
            .keep(move |settings| {
                let kept = &mut settings.audio;
                kept.on = wanted.on.or(kept.on);
                kept.bitrate = bitrate.or(kept.bitrate);
                kept.channels = channels.or(kept.channels);
            })
            .await;
        let warning = one_of([closed.err().map(|error| error.to_string()), unkept]);
        let now = microphone.config();
        let on = settings.audio.on.unwrap_or(true);
        Ok(Some(with(json!({ "on": on, "bitrate": now.bitrate, "channels": now.channels }), warning)))
    }

    fn microphone(&self) -> Option<&Microphone> {
        self.control.parts().microphone.as_ref()
    }

    fn of_microphone(&self, settings: &Settings) -> camera::Privacy {
        let names: Vec<_> = self.cameras().iter().map(|(name, _)| name.as_str()).collect();
        privacy_of_sound(settings, &names)
    }

    async fn privacy(&self, wanted: camera::Privacy) -> Done {
        let is_on = wanted == camera::Privacy::On;
        let names: Vec<_> = self.cameras().iter().map(|(name, _)| name.clone()).collect();
        let set = move |settings: &mut Settings| settings.set_privacy(&names, is_on);
        let sound_and_disk = async {
            let _sound = self.sound.lock().await;
            let mut settings = self.tools.upkeep.settings();
            set(&mut settings);
            let sound = async {
                let microphone = self.microphone()?;
                let closed = microphone.set_privacy(self.of_microphone(&settings)).await;
                closed.err().map(|error| error.to_string())
            };
            join(sound, self.keep(set.clone())).await
        };
        // All at once: a device that is slow to close keeps neither the others open nor the change from the disk.
        let cameras = self.cameras().iter().map(|(name, camera)| self.set_privacy(name, camera, wanted));
        let (open_cameras, (open_microphone, unkept)) = join(join_all(cameras), sound_and_disk).await;
        let warning = one_of(open_cameras.into_iter().chain([open_microphone, unkept]));
        self.control.parts().notices.withdraw(CLOSED);
        Ok(Some(with(json!({ "on": is_on }), warning)))
    }

    /// Says what there is to know of a camera that may still be open.
    async fn set_privacy(&self, name: &str, camera: &Camera, wanted: camera::Privacy) -> Option<String> {
        let closed = camera.set_privacy(wanted).await;
        if let (camera::Privacy::On, Some(broker)) = (wanted, self.broker()) {
            // The last picture must not go on being shown.
            broker.retain(broker.topics().snapshot(name), Bytes::new());
        }
        closed.err().map(|error| error.to_string())
    }

    async fn list_controls(&self, camera: Option<Name>) -> Done {
        let (name, camera) = self.camera(camera.as_ref())?;
        let controls = camera.controls().await.map_err(|error| error.to_string())?;
        Ok(Some(json!({ "camera": name, "controls": controls })))
    }

    async fn set_control(&self, wanted: SetControl) -> Done {
        let (name, camera) = self.camera(wanted.camera.as_ref())?;
        let control = camera.set_control(wanted.control.as_str(), wanted.value).await;
        let control = control.map_err(|error| error.to_string())?;
        let (kept, set, value) = (name.to_owned(), control.name.clone(), control.value.unwrap_or(wanted.value));
        let keep = move |settings: &mut Settings| {
            settings.cameras.entry(kept).or_default().controls.insert(set, value);
        };
        let warning = self.keep(keep).await;
        Ok(Some(with(written(&control), warning)))
    }

    async fn ptz(&self, wanted: crate::command::Ptz) -> Done {
        let (_, camera) = self.camera(wanted.camera.as_ref())?;
        ptz::carry_out(camera, wanted.direction, wanted.steps).await.map_err(|error| error.to_string())?;
        Ok(None)
    }

    async fn snapshot(&self, wanted: Snapshot) -> Done {
        let (name, camera) = self.camera(wanted.camera.as_ref())?;
        let jpeg = camera.snapshot().await.map_err(|error| error.to_string())?;
        let mut result = json!({ "camera": name, "bytes": jpeg.len() });
        match (wanted.to.unwrap_or_default(), self.broker()) {
            (Destination::Result, _) => result["jpeg"] = STANDARD.encode(&jpeg).into(),
            (Destination::Topic, None) => return Err("there is no broker; use \"to\":\"result\"".into()),
            // It was closed while the picture was on its way; the broker was told to forget the one before.
            (Destination::Topic, Some(_)) if camera.status().borrow().state == camera::State::Private => {
                return Err("privacy is on".into());
            }
            (Destination::Topic, Some(broker)) => {
                let topic = broker.topics().snapshot(name);
                result["topic"] = topic.clone().into();
                let there = timeout(PUBLISHING, broker.retain_there(topic, jpeg)).await;
                match there {
                    Ok(told) => told.map_err(|why| format!("the picture was not published: {why}"))?,
                    Err(_) => result["warning"] = "the broker has not said so far that it has the picture".into(),
                }
            }
        }
        Ok(Some(result))
    }

    fn dismiss(&self, whom: &DismissViewer) -> Done {
        let reason = whom.reason.as_ref().map_or("an operator ended the conversation", |reason| reason.as_str());
        let viewers = &self.control.parts().viewers;
        if viewers.dismiss(whom.viewer.as_str(), reason) {
            return Ok(None);
        }
        let known: Vec<_> = viewers.list().into_iter().map(|viewer| viewer.viewer).collect();
        let known = if known.is_empty() { "nobody watches".into() } else { format!("there is: {}", known.join(", ")) };
        Err(format!("no viewer is called `{}`; {known}", whom.viewer.as_str()))
    }

    async fn set_log_level(&self, level: &str) -> Done {
        (self.tools.set_log_level)(level).map_err(|wrong| format!("`args.level`: {wrong}"))?;
        let kept = level.to_owned();
        let warning = self.keep(move |settings| settings.log_level = Some(kept)).await;
        Ok(Some(with(json!({ "level": level }), warning)))
    }

    fn identify(&self, wanted: &Identify) -> Done {
        let time = wanted.seconds.map_or(IDENTIFY, |seconds| Duration::from_secs(seconds.get().into()));
        self.control.parts().viewers.identify(time);
        let lamp = self.lamp.blink(time);
        self.control.tell(&Event::Identify { seconds: time.as_secs() });
        Ok(Some(json!({ "seconds": time.as_secs(), "lamp": lamp })))
    }

    /// Keeps a change for the time after a restart; why that was not possible. The change itself is in effect.
    async fn keep(&self, alter: impl FnOnce(&mut Settings) + Send + 'static) -> Option<String> {
        let notices = &self.control.parts().notices;
        let Err(error) = self.tools.upkeep.change(alter).await else {
            notices.withdraw(UNKEPT);
            return None;
        };
        notices
            .tell(UNKEPT, format!("What was set last is lost at the next restart, because it cannot be kept: {error}"));
        Some(format!("this is lost at the next restart: {error}"))
    }
}

/// The microphone is closed where the sound is switched off, and where none of the cameras may be used.
pub fn privacy_of_sound(settings: &Settings, cameras: &[&str]) -> camera::Privacy {
    privacy(cameras.iter().all(|camera| settings.is_private(camera)) || settings.audio.on == Some(false))
}

fn privacy(is_on: bool) -> camera::Privacy {
    if is_on { camera::Privacy::On } else { camera::Privacy::Off }
}

fn after_restart(asked: Result<(), upkeep::Error>) -> Ended {
    match asked {
        Ok(()) => Ended::AfterRestart,
        Err(error) => Ended::Now(Err(error.to_string())),
    }
}

fn written(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("these types hold nothing that JSON cannot")
}

/// All warnings in one.
fn one_of(warnings: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let all: Vec<_> = warnings.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn with(mut result: Value, warning: Option<String>) -> Value {
    if let Some(warning) = warning {
        result["warning"] = warning.into();
    }
    result
}
