//! The messages. They are rare, and therefore JSON; frames have a form of their own, see [`wire`](super::wire).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::media::{Bitrate, Resolution};

use super::{AudioConfig, Config, Control, Error, Mode, Movement, Survey};

/// What the parent orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Comes first, once.
    Begin(Begin),
    /// Open the device, build the graph and send frames of it until [`Order::Close`]. It is closed when this comes.
    Open {
        /// Counted by the parent; frames and reports carry it.
        attempt: u32,
        /// What to open.
        settings: Settings,
    },
    /// Stop the attempt, whatever it is doing, and report [`Report::Closed`].
    Close {
        /// The attempt.
        attempt: u32,
    },
    /// Settings that the running graph can take as it is.
    Tune(Settings),
    /// Make a key frame of the next picture.
    KeyFrame {
        /// Which of the camera's encodings; 0 is the one that the settings describe.
        rendition: u16,
    },
    /// Begin or end one more encoding of what is captured, beside that of the settings. It lasts until the attempt ends.
    Rendition {
        /// From 1 to [`MOST_RENDITIONS`]; its frames carry it.
        number: u16,
        /// How it is encoded; none ends it.
        wanted: Option<Rendition>,
    },
    /// Log more, or less, from now on.
    Log {
        /// As in [`Log`].
        filter: String,
    },
    /// The leave to try an encoder that [`Step::Waiting`] asks for: of all capture processes one tries at a time.
    Try,
    /// A question beside the pictures.
    Ask {
        /// Counted by the parent; the answer carries it.
        request: u32,
        /// The question.
        question: Question,
    },
}

/// How a capture process begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// [`VERSION`](super::wire::VERSION) of the parent.
    pub version: u32,
    /// What it captures.
    pub role: Role,
    /// How log lines are written.
    pub log: Log,
    /// What a process before this one reported last by [`Report::Remember`].
    pub memory: Memory,
    /// What the process before this one died of, where that was no accident.
    pub blame: Option<Blame>,
}

/// What a capture process captures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A camera.
    Camera {
        /// Values of controls, set whenever the device is opened.
        kept: BTreeMap<String, i64>,
    },
    /// The microphone.
    Microphone {
        /// The cameras of the board: of several microphones that of a camera comes first.
        cameras: Vec<Config>,
    },
    /// Nothing: it only looks at what there is.
    Survey,
}

/// How log lines are written, which go to standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// As in the configuration: `info`, or a list of targets.
    pub filter: String,
    /// As JSON.
    pub is_json: bool,
    /// With the time.
    pub has_time: bool,
    /// With colours.
    pub has_colours: bool,
}

/// What a capture process has learned about devices and encoders. The parent keeps it and reads nothing of it.
pub type Memory = Value;

/// What a process died of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// What it was doing.
    pub step: Step,
    /// How it ended: `it hung`, `it crashed (SIGSEGV)`.
    pub how: String,
}

/// What is captured, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settings {
    /// Of a camera.
    Camera(Config),
    /// Of the microphone.
    Microphone(AudioConfig),
}

/// One more encoding of what a camera captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// Size of its pictures, both sides even. What is captured is scaled to it.
    pub resolution: Resolution,
    /// Ceiling of its bitrate.
    pub bitrate: Bitrate,
}

/// Encodings beside that of the settings: more than that no board has encoders for.
pub const MOST_RENDITIONS: u16 = 7;

/// A question beside the pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// One current picture as JPEG. It comes as [`wire::Kind::Picture`](super::wire::Kind), a failure as an answer.
    Snapshot,
    /// What can be adjusted at the camera of this configuration.
    Controls(Config),
    /// Sets a control, and again whenever the device is opened.
    SetControl {
        /// Which camera.
        config: Config,
        /// The control.
        name: String,
        /// What to set it to.
        value: i64,
    },
    /// Moves the camera.
    Move {
        /// Which camera.
        config: Config,
        /// Where to.
        movement: Movement,
    },
    /// Whether there is something to hear with, as far as can be told without opening it.
    HasSound(AudioConfig),
    /// What the board has.
    Survey {
        /// The cameras as configured.
        cameras: Vec<Config>,
        /// The microphone as configured.
        audio: AudioConfig,
    },
}

/// What a question is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// To [`Question::Controls`].
    Controls(Vec<Control>),
    /// To [`Question::SetControl`]: the control as it is now.
    Control(Control),
    /// To [`Question::HasSound`].
    HasSound(bool),
    /// To [`Question::Survey`].
    Survey(Box<Survey>),
}

/// What a capture process reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// Comes first, once.
    Hello {
        /// [`VERSION`](super::wire::VERSION) of the capture process.
        version: u32,
    },
    /// What it does from now on. Where a step takes too long, the parent ends the process.
    Doing(Step),
    /// The graph is built, and its first frame is waited for.
    Built {
        /// The attempt.
        attempt: u32,
        /// What it is built of.
        built: Built,
    },
    /// A rendition began, or why it did not or ended by itself. The others go on.
    Rendition {
        /// The attempt.
        attempt: u32,
        /// The rendition.
        number: u16,
        /// Its encoder, or why there is none of it.
        outcome: Result<String, Error>,
    },
    /// The attempt cannot go on. It is to be closed.
    Failed {
        /// The attempt.
        attempt: u32,
        /// Why.
        error: Error,
    },
    /// Frames came, and then none; the next attempt may go well. It is to be closed.
    Stalled {
        /// The attempt.
        attempt: u32,
    },
    /// What is shown stands in for a device, and there may be one now.
    Outdated {
        /// The attempt.
        attempt: u32,
    },
    /// The device is closed.
    Closed {
        /// The attempt.
        attempt: u32,
    },
    /// What to hand to the next process.
    Remember(Memory),
    /// The values that the device's controls have now, by name.
    Controls(BTreeMap<String, i64>),
    /// The sizes that the device has, the smallest first.
    Sizes(Vec<Resolution>),
    /// To a question.
    Answer {
        /// The question's number.
        request: u32,
        /// The answer.
        answer: Result<Answer, Error>,
    },
}

/// What a capture process is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Nothing that takes time.
    Resting,
    /// It loads GStreamer, which lists its plugins at the first start of all.
    Loading,
    /// It looks at devices.
    Looking {
        /// The node, while it is open for that.
        at: Option<String>,
    },
    /// It wants to try an encoder; see [`Order::Try`].
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
        /// The camera's node and its format, where it is a V4L2 camera.
        format: Option<String>,
        /// The encoder, where there is one.
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
    /// Whether drivers and libraries are at work that people's devices and encoders bring along.
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

/// What a graph is built of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// The device in words.
    pub device: String,
    /// What is captured; none for sound.
    pub mode: Option<Mode>,
    /// The encoder; none for a camera that encodes by itself.
    pub encoder: Option<String>,
    /// Whether a key frame comes when it is asked for; none for sound.
    pub key_frames_on_demand: Option<bool>,
    /// How long its frames may take.
    pub patience: Patience,
}

/// How long frames may take before the device counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// The first one: sensors measure light first, and some encoders load firmware.
    pub first: Duration,
    /// Each one after it.
    pub next: Duration,
}
