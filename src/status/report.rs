//! The status document, as returned by `GET /api/status` and retained at the broker.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::board::Telemetry;
use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::mqtt;
use crate::notices::Notice;
use crate::settings::VideoSettings;
use crate::viewer;
use crate::viewer::Viewers;

/// The whole status. It contains no secret, address or session description; notices are texts of other modules.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The name of the board.
    pub device: String,
    /// Versions of the software.
    pub versions: Versions,
    /// The name on its local networks, such as `front-door.local`, where it is announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_name: Option<String>,
    /// Seconds since the process began.
    pub uptime: u64,
    /// `ok`, or why viewers have no picture.
    pub health: String,
    /// Notices for the operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
    /// Whether all cameras are closed to everybody.
    pub privacy: bool,
    /// Each camera, in the configured order.
    pub cameras: Vec<CameraStatus>,
    /// Whether a new viewer gets sound with the picture.
    pub sound: bool,
    /// The microphone, unless sound is off in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microphone: Option<MicrophoneStatus>,
    /// The viewers.
    pub viewers: ViewersStatus,
    /// The connection to the broker, where one is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerStatus>,
    /// Figures of the board.
    #[serde(flatten)]
    pub telemetry: Telemetry,
}

/// Versions of the running software.
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
    /// The state of the camera.
    #[serde(flatten)]
    pub source: camera::Status,
    /// The requested settings; `mode` has what the device delivers.
    pub settings: VideoSettings,
    /// Sizes of its device, once it was examined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<String>,
    /// Values of its controls, once they were listed or set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub controls: BTreeMap<String, i64>,
}

impl CameraStatus {
    /// The status of a camera now.
    pub fn of(camera: &Camera) -> Self {
        let config = camera.config();
        let known = camera.known_device().borrow().clone();
        Self {
            source: camera.status().borrow().clone(),
            settings: config.video(),
            sizes: known.sizes.iter().map(ToString::to_string).collect(),
            controls: known.controls,
        }
    }
}

/// The microphone.
#[derive(Clone, Debug, Serialize)]
pub struct MicrophoneStatus {
    /// The state of the microphone.
    #[serde(flatten)]
    pub source: camera::Status,
    /// The requested settings.
    pub settings: AudioSettings,
}

/// The settings of sound, as in the `[audio]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AudioSettings {
    /// Whether sound is on.
    pub on: bool,
    /// 1 or 2.
    pub channels: u8,
    /// kbit/s.
    pub bitrate: u32,
}

impl MicrophoneStatus {
    /// The status of the microphone now.
    pub fn of(microphone: &Microphone) -> Self {
        let config = microphone.config();
        let source = microphone.status().borrow().clone();
        let on = source.state != camera::State::Private;
        Self { source, settings: AudioSettings { on, channels: config.channels, bitrate: config.bitrate } }
    }
}

/// The viewers part of [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct ViewersStatus {
    /// Their number.
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
    /// Tasks that run for them: sessions, and the drivers of their peer connections. One where there is no viewer.
    pub tasks: usize,
}

impl ViewersStatus {
    /// The viewers now.
    pub fn of(viewers: &Viewers) -> Self {
        let list = viewers.list();
        let bitrate = list.iter().map(|viewer| viewer.bitrate.as_bps()).sum();
        let (totals, relay_fault, tasks) = (viewers.totals(), viewers.relay_fault(), viewers.tasks());
        Self { count: list.len(), bitrate, list, totals, relay_fault, tasks }
    }
}

/// State of the connection to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokerStatus {
    /// `connecting`, `online` or `offline`.
    pub state: &'static str,
    /// Why it is offline; where it is online, what the broker does not support.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BrokerStatus {
    /// The state of the connection to `broker`.
    pub fn of(broker: &mqtt::Broker) -> Self {
        match &*broker.state().borrow() {
            mqtt::State::Connecting => Self { state: "connecting", reason: None },
            mqtt::State::Online => Self { state: "online", reason: broker.limits().describe() },
            mqtt::State::Offline { reason } => Self { state: "offline", reason: Some(reason.clone()) },
        }
    }
}
