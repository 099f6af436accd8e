//! Executes each command: one match over all commands, which calls the modules that do the work.

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

use super::dispatcher::Completion;
use super::led::Led;
use super::ptz;
use crate::access::Right;
use crate::announce::{Announcements, Event};
use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::command::ApplyConfig;
use crate::command::Command;
use crate::command::Destination;
use crate::command::DismissViewer;
use crate::command::Identify;
use crate::command::Name;
use crate::command::Request;
use crate::command::SetAudio;
use crate::command::SetControl;
use crate::command::SetVideo;
use crate::command::Snapshot;
use crate::command::What;
use crate::mqtt::Broker;
use crate::settings::VideoPatch;
use crate::state;
use crate::state::Candidate;
use crate::state::Closed;
use crate::state::PendingCommand;
use crate::state::SavedState;
use crate::state::Settings;
use crate::status::Monitor;
use crate::tasks::Group;

/// How long the broker may take to acknowledge a picture: a second or two on a slow uplink, and within the
/// command's 8 s after a picture for which a cold camera needs 5 s.
const PUBLISHING: Duration = Duration::from_millis(2500);

/// How long the LED blinks unless the command sets a time: long enough for somebody who walks past the shelf.
const IDENTIFY: Duration = Duration::from_secs(10);

/// Subject of the notice about settings that cannot be saved.
const NOT_SAVED: &str = "settings";

/// Subject of the notice about privacy that no command has set.
const CLOSED: &str = "privacy";

/// Subject of the notice about a lost configuration.
const LOST: &str = "configuration";

/// Dependencies of commands that no other module provides.
pub struct Tools {
    /// Saves changes, and restarts.
    pub state: SavedState,
    /// The configuration that the process started with, without its secrets, and its source.
    pub config: Value,
    /// Examines the board, which takes seconds.
    pub doctor: Box<dyn Fn() -> Examination + Send + Sync>,
    /// Changes the log level.
    pub set_log_level: Box<SetLogLevel>,
    /// `/sys/class/leds`, or its replacement in tests.
    pub leds: PathBuf,
}

/// Changes the log level, or returns why the level is invalid.
pub type SetLogLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// A running examination of the board: its report, or why there is none.
pub type Examination = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// Executes commands.
pub struct Effects {
    monitor: Monitor,
    announcements: Announcements,
    tools: Tools,
    led: Led,
    /// Held by commands that open or close the microphone until the change is saved: whether it is open depends on
    /// settings of two commands, which do not wait for each other.
    sound: Mutex<()>,
}

/// A result, or why there is none.
type CommandResult = Result<Option<Value>, String>;

impl Effects {
    /// With the parts of `monitor`, and work in `group`.
    pub fn new(monitor: Monitor, announcements: Announcements, tools: Tools, group: &Group) -> Self {
        let led = Led::find(&tools.leds, group);
        Self { monitor, announcements, tools, led, sound: Mutex::default() }
    }

    /// Reports saved state that could not be read, and the consequences.
    pub fn report_losses(&self) {
        let notices = &self.monitor.parts().notices;
        let losses = self.tools.state.losses();
        if self.tools.state.settings().closed == Some(Closed::Unread) {
            let lost = losses.settings.map(|loss| format!(" ({loss})")).unwrap_or_default();
            let text = format!(
                "What commands had set could not be read{lost}. Privacy may have been on in it, so nothing is shown or \
                 heard until the command `privacy` says otherwise."
            );
            notices.set(CLOSED, text);
        }
        if let Some(loss) = losses.record {
            let text = format!(
                "A configuration that was applied by command, if there was one, could not be read and does not hold \
                 ({loss})."
            );
            notices.set(LOST, text);
        }
    }

    /// Executes a command.
    pub fn execute(self: Arc<Self>, request: Request) -> Pin<Box<dyn Future<Output = Completion> + Send>> {
        Box::pin(async move {
            let result = match request.command {
                Command::GetStatus {} => Ok(Some(json_of(&self.monitor.status()))),
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
                Command::ListViewers {} => Ok(Some(json!({ "viewers": self.monitor.parts().viewers.list() }))),
                Command::DismissViewer(wanted) => self.dismiss(&wanted),
                Command::Privacy(wanted) => self.privacy(privacy(wanted.on)).await,
                Command::ApplyConfig(ref config) => {
                    let candidate = candidate(config, &request);
                    return after_restart(self.tools.state.apply(candidate).await);
                }
                Command::Restart(ref wanted) => match wanted.what {
                    What::Pipeline => {
                        self.cameras().iter().for_each(|(_, camera)| camera.restart());
                        Ok(None)
                    }
                    What::Service => {
                        let pending = PendingCommand::from(&request);
                        return after_restart(self.tools.state.restart(state::Restart::Service, pending).await);
                    }
                    What::Board => {
                        let pending = PendingCommand::from(&request);
                        return after_restart(self.tools.state.restart(state::Restart::Board, pending).await);
                    }
                },
                Command::SetLogLevel(wanted) => self.set_log_level(wanted.level.as_str()).await,
                Command::Doctor {} => (self.tools.doctor)().await.map(Some),
                Command::Identify(wanted) => self.identify(&wanted),
            };
            Completion::Now(result)
        })
    }

    fn cameras(&self) -> &[(String, Camera)] {
        &self.monitor.parts().cameras
    }

    fn broker(&self) -> Option<&Broker> {
        self.monitor.parts().broker.as_ref()
    }

    /// The camera of that name, or the first.
    fn camera(&self, wanted: Option<&Name>) -> Result<(&str, &Camera), String> {
        self.monitor.camera(wanted.map(Name::as_str)).map_err(|error| error.to_string())
    }

    /// The configuration that the process started with, and changes by commands.
    fn config(&self) -> Value {
        let mut config = self.tools.config.clone();
        let source = self.tools.state.source();
        if source != state::Source::File {
            config["from"] = json_of(&source);
        }
        let shown = &mut config["configuration"];
        shown["camera"] = self.cameras().iter().map(|(_, camera)| json_of(&camera.config())).collect();
        if let Some(microphone) = self.microphone() {
            shown["audio"] = json_of(&microphone.config());
        }
        if let Some(level) = self.tools.state.settings().log_level {
            shown["log"]["level"] = level.into();
        }
        config
    }

    async fn set_video(&self, wanted: SetVideo) -> CommandResult {
        let patch = wanted.patch();
        let (name, camera) = self.camera(wanted.camera.as_ref())?;
        if patch == VideoPatch::default() {
            let names: Vec<_> = VideoPatch::NAMES.iter().map(|name| format!("`{name}`")).collect();
            let (last, others) = names.split_last().expect("there are settings");
            return Err(format!("nothing to change; give {} or {last}", others.join(", ")));
        }
        let before = camera.config();
        let video = before.video().with(patch);
        camera.configure(before.with_video(video)).await.map_err(|error| error.to_string())?;
        let kept = name.to_owned();
        let warning = self
            .save(move |settings| {
                let kept = settings.cameras.entry(kept).or_default();
                kept.video = patch.over(kept.video);
            })
            .await;
        let mut result = json_of(&camera.config().video());
        result["camera"] = name.into();
        Ok(Some(with(result, warning)))
    }

    async fn set_audio(&self, wanted: SetAudio) -> CommandResult {
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
        let mut settings = self.tools.state.settings();
        settings.audio.on = wanted.on.or(settings.audio.on);
        let closed = microphone.set_privacy(self.privacy_of_microphone(&settings)).await;
        let not_saved = self
            .save(move |settings| {
                let kept = &mut settings.audio;
                kept.on = wanted.on.or(kept.on);
                kept.bitrate = bitrate.or(kept.bitrate);
                kept.channels = channels.or(kept.channels);
            })
            .await;
        let warning = joined([closed.err().map(|error| error.to_string()), not_saved]);
        let now = microphone.config();
        let on = settings.audio.on.unwrap_or(true);
        Ok(Some(with(json!({ "on": on, "bitrate": now.bitrate, "channels": now.channels }), warning)))
    }

    fn microphone(&self) -> Option<&Microphone> {
        self.monitor.parts().microphone.as_ref()
    }

    fn privacy_of_microphone(&self, settings: &Settings) -> camera::Privacy {
        let names: Vec<_> = self.cameras().iter().map(|(name, _)| name.as_str()).collect();
        microphone_privacy(settings, &names)
    }

    async fn privacy(&self, wanted: camera::Privacy) -> CommandResult {
        let is_on = wanted == camera::Privacy::On;
        let names: Vec<_> = self.cameras().iter().map(|(name, _)| name.clone()).collect();
        let set = move |settings: &mut Settings| settings.set_privacy(&names, is_on);
        let sound_and_disk = async {
            let _sound = self.sound.lock().await;
            let mut settings = self.tools.state.settings();
            set(&mut settings);
            let sound = async {
                let microphone = self.microphone()?;
                let closed = microphone.set_privacy(self.privacy_of_microphone(&settings)).await;
                closed.err().map(|error| error.to_string())
            };
            join(sound, self.save(set.clone())).await
        };
        // All at once: a device that is slow to close delays neither the others nor the write.
        let cameras = self.cameras().iter().map(|(name, camera)| self.set_privacy(name, camera, wanted));
        let (open_cameras, (open_microphone, not_saved)) = join(join_all(cameras), sound_and_disk).await;
        let warning = joined(open_cameras.into_iter().chain([open_microphone, not_saved]));
        self.monitor.parts().notices.clear(CLOSED);
        Ok(Some(with(json!({ "on": is_on }), warning)))
    }

    /// Reports a camera that may still be open.
    async fn set_privacy(&self, name: &str, camera: &Camera, wanted: camera::Privacy) -> Option<String> {
        let closed = camera.set_privacy(wanted).await;
        if let (camera::Privacy::On, Some(broker)) = (wanted, self.broker()) {
            // The last picture must not stay visible.
            broker.retain(broker.topics().snapshot(name), Bytes::new());
        }
        closed.err().map(|error| error.to_string())
    }

    async fn list_controls(&self, camera: Option<Name>) -> CommandResult {
        let (name, camera) = self.camera(camera.as_ref())?;
        let controls = camera.controls().await.map_err(|error| error.to_string())?;
        Ok(Some(json!({ "camera": name, "controls": controls })))
    }

    async fn set_control(&self, wanted: SetControl) -> CommandResult {
        let (name, camera) = self.camera(wanted.camera.as_ref())?;
        let control = camera.set_control(wanted.control.as_str(), wanted.value).await;
        let control = control.map_err(|error| error.to_string())?;
        let (kept, set, value) = (name.to_owned(), control.name.clone(), control.value.unwrap_or(wanted.value));
        let set = move |settings: &mut Settings| {
            settings.cameras.entry(kept).or_default().controls.insert(set, value);
        };
        let warning = self.save(set).await;
        Ok(Some(with(json_of(&control), warning)))
    }

    async fn ptz(&self, wanted: crate::command::Ptz) -> CommandResult {
        let (_, camera) = self.camera(wanted.camera.as_ref())?;
        ptz::execute(camera, wanted.direction, wanted.steps).await.map_err(|error| error.to_string())?;
        Ok(None)
    }

    async fn snapshot(&self, wanted: Snapshot) -> CommandResult {
        let (name, camera) = self.camera(wanted.camera.as_ref())?;
        let jpeg = camera.snapshot().await.map_err(|error| error.to_string())?;
        let mut result = json!({ "camera": name, "bytes": jpeg.len() });
        match (wanted.to.unwrap_or_default(), self.broker()) {
            (Destination::Result, _) => result["jpeg"] = STANDARD.encode(&jpeg).into(),
            (Destination::Topic, None) => return Err("there is no broker; use \"to\":\"result\"".into()),
            // It was closed while the picture was being sent; the broker has removed the one before.
            (Destination::Topic, Some(_)) if camera.status().borrow().state == camera::State::Private => {
                return Err("privacy is on".into());
            }
            (Destination::Topic, Some(broker)) => {
                let topic = broker.topics().snapshot(name);
                result["topic"] = topic.clone().into();
                let there = timeout(PUBLISHING, broker.retain_acknowledged(topic, jpeg)).await;
                match there {
                    Ok(published) => published.map_err(|why| format!("the picture was not published: {why}"))?,
                    Err(_) => result["warning"] = "the broker has not acknowledged the picture so far".into(),
                }
            }
        }
        Ok(Some(result))
    }

    fn dismiss(&self, wanted: &DismissViewer) -> CommandResult {
        let reason = wanted.reason.as_ref().map_or("an operator ended the conversation", |reason| reason.as_str());
        let viewers = &self.monitor.parts().viewers;
        if viewers.dismiss(wanted.viewer.as_str(), reason) {
            return Ok(None);
        }
        let known: Vec<_> = viewers.list().into_iter().map(|viewer| viewer.viewer).collect();
        let known = if known.is_empty() { "nobody watches".into() } else { format!("there is: {}", known.join(", ")) };
        Err(format!("no viewer is called `{}`; {known}", wanted.viewer.as_str()))
    }

    async fn set_log_level(&self, level: &str) -> CommandResult {
        (self.tools.set_log_level)(level).map_err(|wrong| format!("`args.level`: {wrong}"))?;
        let kept = level.to_owned();
        let warning = self.save(move |settings| settings.log_level = Some(kept)).await;
        Ok(Some(with(json!({ "level": level }), warning)))
    }

    fn identify(&self, wanted: &Identify) -> CommandResult {
        let time = wanted.seconds.map_or(IDENTIFY, |seconds| Duration::from_secs(seconds.get().into()));
        self.monitor.parts().viewers.identify(time);
        let lamp = self.led.blink(time);
        self.announcements.publish(&Event::Identify { seconds: time.as_secs() });
        Ok(Some(json!({ "seconds": time.as_secs(), "lamp": lamp })))
    }

    /// Saves a change for the time after a restart; returns why that failed. The change itself is in effect.
    async fn save(&self, alter: impl FnOnce(&mut Settings) + Send + 'static) -> Option<String> {
        let notices = &self.monitor.parts().notices;
        let Err(error) = self.tools.state.change(alter).await else {
            notices.clear(NOT_SAVED);
            return None;
        };
        notices.set(
            NOT_SAVED,
            format!("What was set last is lost at the next restart, because it cannot be kept: {error}"),
        );
        Some(format!("this is lost at the next restart: {error}"))
    }
}

/// The microphone is closed if sound is switched off, or if none of the cameras may be used.
pub fn microphone_privacy(settings: &Settings, cameras: &[&str]) -> camera::Privacy {
    privacy(cameras.iter().all(|camera| settings.is_private(camera)) || settings.audio.on == Some(false))
}

fn privacy(is_on: bool) -> camera::Privacy {
    if is_on { camera::Privacy::On } else { camera::Privacy::Off }
}

fn candidate(config: &ApplyConfig, request: &Request) -> Candidate {
    let within = config.confirm_within.map(|seconds| Duration::from_secs(seconds.get().into()));
    Candidate {
        toml: config.toml.clone(),
        within: within.unwrap_or(state::DEFAULT_TRIAL),
        may_name_files: request.grant.includes(Right::NameFiles),
        pending: request.into(),
    }
}

fn after_restart(requested: Result<(), state::Error>) -> Completion {
    match requested {
        Ok(()) => Completion::AfterRestart,
        Err(error) => Completion::Now(Err(error.to_string())),
    }
}

fn json_of(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("these types hold nothing that JSON cannot")
}

/// Joins all warnings into one.
fn joined(warnings: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let all: Vec<_> = warnings.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn with(mut result: Value, warning: Option<String>) -> Value {
    if let Some(warning) = warning {
        result["warning"] = warning.into();
    }
    result
}
