//! The status document: what `GET /api/status` gives and the broker keeps.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::board::Telemetry;
use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::mqtt;
use crate::notices::Notice;
use crate::viewer;
use crate::viewer::Viewers;

/// The whole of it. Nothing in it is a secret, an address or a session description; notices are what others wrote.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// How the board calls itself.
    pub device: String,
    /// Of the software.
    pub versions: Versions,
    /// The name under which it is found on its own networks, such as `front-door.local`, where it is announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_name: Option<String>,
    /// Seconds since the process began.
    pub uptime: u64,
    /// `ok`, or why viewers have no picture.
    pub health: String,
    /// What an operator should know besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
    /// Whether all cameras are closed to everybody.
    pub privacy: bool,
    /// Each camera, in the configured order.
    pub cameras: Vec<CameraStatus>,
    /// Whether who calls now gets sound with the picture.
    pub sound: bool,
    /// The microphone, unless sound is off in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microphone: Option<MicrophoneStatus>,
    /// Who watches.
    pub viewers: Watching,
    /// The connection to the broker, where one is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerStatus>,
    /// Figures of the board.
    #[serde(flatten)]
    pub telemetry: Telemetry,
}

/// Versions of what runs.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// Of peercam.
    pub peercam: &'static str,
    /// Of the kernel.
    pub kernel: String,
}

/// One camera.
#[derive(Clone, Debug, Serialize)]
pub struct CameraStatus {
    /// What it does.
    #[serde(flatten)]
    pub source: camera::Status,
    /// What is wanted of it; `mode` is what the device made of that.
    pub settings: VideoSettings,
    /// Sizes that its device has, once that was looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<String>,
    /// Values of its controls, once they were listed or set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub controls: BTreeMap<String, i64>,
}

/// The settings of a camera, as in its `[[camera]]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VideoSettings {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// kbit/s at most.
    pub bitrate: u32,
    /// Seconds between key frames that nobody asked for.
    pub key_frame_interval: u32,
}

impl CameraStatus {
    pub(super) fn of(camera: &Camera) -> Self {
        let config = camera.config();
        let known = camera.adjustments().borrow().clone();
        Self {
            source: camera.status().borrow().clone(),
            settings: VideoSettings {
                width: config.width,
                height: config.height,
                fps: config.fps,
                bitrate: config.bitrate,
                key_frame_interval: config.key_frame_interval,
            },
            sizes: known.sizes.iter().map(ToString::to_string).collect(),
            controls: known.controls,
        }
    }
}

/// The microphone.
#[derive(Clone, Debug, Serialize)]
pub struct MicrophoneStatus {
    /// What it does.
    #[serde(flatten)]
    pub source: camera::Status,
    /// What is wanted of it.
    pub settings: AudioSettings,
}

/// The settings of sound, as in the `[audio]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AudioSettings {
    /// Whether there is any.
    pub on: bool,
    /// 1 or 2.
    pub channels: u8,
    /// kbit/s.
    pub bitrate: u32,
}

impl MicrophoneStatus {
    pub(super) fn of(microphone: &Microphone) -> Self {
        let config = microphone.config();
        let source = microphone.status().borrow().clone();
        let on = source.state != camera::State::Private;
        Self { source, settings: AudioSettings { on, channels: config.channels, bitrate: config.bitrate } }
    }
}

/// The viewers part of [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct Watching {
    /// How many there are.
    pub count: usize,
    /// bit/s to all of them together.
    pub bitrate: u64,
    /// Each of them.
    pub list: Vec<viewer::Summary>,
    /// Counts since the process began.
    pub totals: viewer::Totals,
    /// Why the board got no relay when a viewer last needed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_fault: Option<String>,
    /// Tasks that run for them: sessions, and the drivers of their peer connections. One where nobody watches.
    pub tasks: usize,
}

impl Watching {
    pub(super) fn of(viewers: &Viewers) -> Self {
        let list = viewers.list();
        let bitrate = list.iter().map(|viewer| viewer.bitrate.as_bps()).sum();
        let (totals, relay_fault, tasks) = (viewers.totals(), viewers.relay_fault(), viewers.tasks());
        Self { count: list.len(), bitrate, list, totals, relay_fault, tasks }
    }
}

/// How the connection to the broker stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokerStatus {
    /// `connecting`, `online` or `offline`.
    pub state: &'static str,
    /// Why it is offline; what the broker does not do where it is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BrokerStatus {
    /// That of `broker`.
    pub fn of(broker: &mqtt::Broker) -> Self {
        match &*broker.state().borrow() {
            mqtt::State::Connecting => Self { state: "connecting", reason: None },
            mqtt::State::Online => Self { state: "online", reason: broker.limits().in_words() },
            mqtt::State::Offline { reason } => Self { state: "offline", reason: Some(reason.clone()) },
        }
    }
}
