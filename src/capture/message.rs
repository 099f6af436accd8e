//! The messages of the capture protocol. They are rare, and therefore JSON; frames have their own format, see
//! [`wire`](super::wire).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::media::{Bitrate, Resolution};

use super::{ActiveMode, AudioConfig, Config, Control, Error, Inventory, PtzMovement};

/// An order from the parent to a capture process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The first order, sent once.
    Begin(Begin),
    /// Open the device, build the graph and send its frames until [`Order::Close`]. No device is open when this is
    /// sent.
    Open {
        /// Number of the attempt, assigned by the parent; frames and reports carry it.
        attempt: u32,
        /// The settings of the source.
        settings: Settings,
    },
    /// Stop the attempt, whatever it is doing, and report [`Report::Closed`].
    Close {
        /// The attempt.
        attempt: u32,
    },
    /// Apply settings that the running graph can change.
    Tune(Settings),
    /// Make the next frame a key frame.
    KeyFrame {
        /// Which of the camera's encodings; 0 is the one that the settings describe.
        rendition: u16,
    },
    /// Start or end one more encoding of the captured picture, beside that of the settings. It lasts until the
    /// attempt ends.
    Rendition {
        /// From 1 to [`MAX_RENDITIONS`]; its frames carry it.
        number: u16,
        /// How it is encoded; `None` ends it.
        wanted: Option<Rendition>,
    },
    /// Change the log level from now on.
    Log {
        /// As in [`LogSettings`].
        filter: String,
    },
    /// Permission to try an encoder, as requested by [`Step::Waiting`]: only one capture process tries at a time.
    Try,
    /// Answer a question, independently of the frames.
    Ask {
        /// Number of the question, assigned by the parent; the answer carries it.
        request: u32,
        /// The question.
        question: Question,
    },
}

/// The first settings of a capture process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// [`VERSION`](super::wire::VERSION) of the parent.
    pub version: u32,
    /// The source that it captures.
    pub role: Role,
    /// Its log settings.
    pub log: LogSettings,
    /// The learned state that an earlier process reported last ([`Report::Remember`]).
    pub memory: LearnedState,
    /// The cause of the previous process's end, unless that was an accident.
    pub blame: Option<Blame>,
}

/// The role of a capture process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A camera.
    Camera {
        /// Values of controls that are set each time the device is opened.
        kept: BTreeMap<String, i64>,
    },
    /// The microphone.
    Microphone {
        /// The cameras of the board: a microphone that belongs to one of them is preferred.
        cameras: Vec<Config>,
    },
    /// Nothing: it only lists the devices of the board.
    #[serde(rename = "survey")]
    Inventory,
}

/// Log settings; log lines go to standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// As in the configuration: `info`, or a list of targets.
    pub filter: String,
    /// As JSON.
    pub is_json: bool,
    /// With the time.
    pub has_time: bool,
    /// With colours.
    pub has_colours: bool,
}

/// Results about devices and encoders that a capture process has learned. The parent stores it without reading it.
pub type LearnedState = Value;

/// The cause of a process's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// Its step at that time.
    pub step: Step,
    /// How it ended: `it hung`, `it crashed (SIGSEGV)`.
    pub how: String,
}

/// The settings of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settings {
    /// Settings of a camera.
    Camera(Config),
    /// Settings of the microphone.
    Microphone(AudioConfig),
}

/// One more encoding of a camera's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// Size of its pictures, both sides even. The captured picture is scaled to it.
    pub resolution: Resolution,
    /// Highest bitrate.
    pub bitrate: Bitrate,
}

/// Most encodings beside that of the settings: no board has encoders for more.
pub const MAX_RENDITIONS: u16 = 7;

/// A question that is independent of the frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// One current picture as JPEG. It is sent as [`Picture`](super::wire::MessageKind::Picture), a failure as an
    /// answer.
    Snapshot,
    /// The controls of the camera with this configuration.
    Controls(Config),
    /// Sets a control now, and again each time the device is opened.
    SetControl {
        /// Which camera.
        config: Config,
        /// The control.
        name: String,
        /// The new value.
        value: i64,
    },
    /// Moves the camera.
    Move {
        /// Which camera.
        config: Config,
        /// The movement.
        movement: PtzMovement,
    },
    /// Whether there is a microphone, as far as is known without opening it.
    HasSound(AudioConfig),
    /// Everything the board has.
    #[serde(rename = "survey")]
    Inventory {
        /// The cameras as configured.
        cameras: Vec<Config>,
        /// The microphone as configured.
        audio: AudioConfig,
    },
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The action is done.
    Done,
    /// To [`Question::Controls`].
    Controls(Vec<Control>),
    /// To [`Question::SetControl`]: the control as it is now.
    Control(Control),
    /// To [`Question::HasSound`].
    HasSound(bool),
    /// To [`Question::Inventory`].
    #[serde(rename = "survey")]
    Inventory(Box<Inventory>),
}

/// A report from a capture process to its parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// The first report, sent once.
    Hello {
        /// [`VERSION`](super::wire::VERSION) of the capture process.
        version: u32,
    },
    /// The process begins this step. If a step takes too long, the parent ends the process.
    Doing(Step),
    /// The graph is built and waits for its first frame.
    Built {
        /// The attempt.
        attempt: u32,
        /// Its description.
        built: Built,
    },
    /// A rendition has begun, or the reason why it did not begin or ended on its own. The others continue.
    Rendition {
        /// The attempt.
        attempt: u32,
        /// The rendition.
        number: u16,
        /// Its encoder, or why there is none.
        outcome: Result<String, Error>,
    },
    /// The attempt cannot continue. The parent is to close it.
    Failed {
        /// The attempt.
        attempt: u32,
        /// Why.
        error: Error,
    },
    /// Frames came and then stopped; the next attempt may succeed. The parent is to close this one.
    Stalled {
        /// The attempt.
        attempt: u32,
    },
    /// A substitute for the device is captured, and the device may be there now.
    Outdated {
        /// The attempt.
        attempt: u32,
    },
    /// The device is closed.
    Closed {
        /// The attempt.
        attempt: u32,
    },
    /// The learned state, to be passed to the next process.
    Remember(LearnedState),
    /// The present values of the device's controls, by name.
    Controls(BTreeMap<String, i64>),
    /// The sizes that the device has, in ascending order.
    Sizes(Vec<Resolution>),
    /// The answer to a question.
    Answer {
        /// The question's number.
        request: u32,
        /// The answer.
        answer: Result<Answer, Error>,
    },
}

/// The step of a capture process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Nothing that takes time.
    Resting,
    /// It loads GStreamer, which builds its plugin list at the very first start.
    Loading,
    /// It examines devices.
    Looking {
        /// The device node that is open for that, if any.
        at: Option<String>,
    },
    /// It waits for permission to try an encoder; see [`Order::Try`].
    Waiting,
    /// It tries an encoder.
    Trying {
        /// The encoder.
        encoder: String,
    },
    /// It starts a graph.
    Starting {
        /// The device in words.
        device: String,
        /// Format of a V4L2 camera, with its node; `None` for other devices.
        format: Option<String>,
        /// The encoder, if there is one.
        encoder: Option<String>,
    },
    /// The graph runs.
    Running {
        /// As for [`Step::Starting`].
        device: String,
        /// As for [`Step::Starting`].
        format: Option<String>,
        /// As for [`Step::Starting`].
        encoder: Option<String>,
    },
    /// It stops a graph.
    Stopping {
        /// The device in words.
        device: String,
    },
}

impl Step {
    /// Whether a driver or library that depends on the user's devices and encoders is at work in this step.
    pub fn may_crash(&self) -> bool {
        matches!(self, Self::Looking { at: Some(_) } | Self::Trying { .. } | Self::Starting { .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resting => f.write_str("at rest"),
            Self::Loading => f.write_str("loading GStreamer"),
            Self::Looking { at: None } => f.write_str("looking at devices"),
            Self::Looking { at: Some(node) } => write!(f, "looking at {node}"),
            Self::Waiting => f.write_str("waiting to try an encoder"),
            Self::Trying { encoder } => write!(f, "trying {encoder}"),
            Self::Starting { device, .. } => write!(f, "starting {device}"),
            Self::Running { device, .. } => write!(f, "capturing from {device}"),
            Self::Stopping { device } => write!(f, "stopping {device}"),
        }
    }
}

/// Description of a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// The device in words.
    pub device: String,
    /// The capture mode; `None` for sound.
    pub mode: Option<ActiveMode>,
    /// The encoder; `None` for a camera that encodes by itself.
    pub encoder: Option<String>,
    /// Whether the encoder makes a key frame on demand; `None` for sound.
    pub key_frames_on_demand: Option<bool>,
    /// Time limits of its frames.
    pub patience: Patience,
}

/// Time without a frame after which the device counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Before the first frame: sensors measure light first, and some encoders load firmware.
    pub first: Duration,
    /// Before each frame after it.
    pub next: Duration,
}
