//! Devices become encoded frames. The only room that knows GStreamer, V4L2 and ALSA.

mod limits;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::media::{Bitrate, Feed, H264Profile, Resolution};
use crate::tasks::Group;

/// One `[[camera]]` table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// How viewers and status name it.
    pub name: String,
    /// `auto`, `test`, a V4L2 device by path or by-id or by-path name, or `libcamera[:id]`.
    pub source: String,
    /// Wanted width in pixels.
    pub width: u32,
    /// Wanted height in pixels.
    pub height: u32,
    /// Wanted frames per second.
    pub fps: u32,
    /// Ceiling of the encoder's bitrate in kbit/s.
    pub bitrate: u32,
    /// Seconds between key frames that nobody asked for.
    pub key_frame_interval: u32,
    /// Keep encoding when nobody watches.
    pub keep_warm: bool,
    /// `auto` or the GStreamer name of an encoder.
    pub encoder: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "main".into(),
            source: "auto".into(),
            width: 1280,
            height: 720,
            fps: 30,
            bitrate: 2000,
            key_frame_interval: 10,
            keep_warm: false,
            encoder: "auto".into(),
        }
    }
}

/// The `[audio]` table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct AudioConfig {
    /// `auto`, `off`, `test`, or an ALSA device name.
    pub capture: String,
    /// 1 or 2.
    pub channels: u8,
    /// kbit/s of the Opus encoder.
    pub bitrate: u32,
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { capture: "auto".into(), channels: 1, bitrate: 48 }
    }
}

/// Where a source is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody watches; the device is closed.
    #[default]
    Idle,
    /// A pipeline is being started.
    Starting,
    /// Frames flow.
    Live,
    /// It failed and is tried again soon; `reason` says why.
    Waiting,
}

/// What a camera or microphone is doing, for status, health and the page's state pill.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The camera's name; `microphone` for the microphone.
    pub name: String,
    /// Where it is in its life.
    pub state: State,
    /// Why there is no picture, when there is none and somebody wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The device in use, in words: `vivid (/dev/video0)`, `test picture`.
    pub device: String,
    /// What is captured: `YUYV 1280x720 at 30 fps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The encoder in use; `passthrough` for a camera that encodes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// How many encoders were started since the process began.
    pub encoder_starts: u64,
    /// How many encoders run now: 0 or 1.
    pub encoders_running: u32,
}

/// A capture mode as chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mode {
    /// `YUYV`, `NV12`, `I420`, `MJPEG`, `H264`.
    pub format: String,
    /// Picture size.
    #[serde(flatten)]
    pub resolution: Resolution,
    /// Frames per second.
    pub fps: f64,
}

/// What the camera room cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No picture came in time.
    #[error("no picture came from {device} within {} s{}", .waited.as_secs(), .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    NoPicture {
        /// The device in words.
        device: String,
        /// How long was waited.
        waited: Duration,
        /// What the camera is waiting for.
        reason: Option<String>,
    },
}

/// A handle to one camera. A clone is the same camera.
#[derive(Clone, Debug)]
pub struct Camera {
    feed: Feed,
    status: watch::Receiver<Status>,
}

impl Camera {
    /// Starts the camera's actor in `group`. Devices are opened when somebody watches (or at once, to keep warm).
    pub fn open(config: Config, _group: &Group) -> Self {
        Self { feed: Feed::new(), status: watch::channel(Status { name: config.name, ..Status::default() }).1 }
    }

    /// The encoded pictures.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// The profile that its H.264 has now.
    pub fn profile(&self) -> watch::Receiver<H264Profile> {
        watch::channel(H264Profile::CONSTRAINED_BASELINE).1
    }

    /// What it is doing, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Another ceiling of the bitrate, applied to the running encoder.
    pub fn set_bitrate(&self, _bitrate: Bitrate) {}

    /// One current picture as JPEG. Starts the camera if nobody watches, and lets it stop afterwards.
    pub async fn snapshot(&self) -> Result<Bytes, Error> {
        unreachable!("written by the camera room")
    }
}

/// A handle to the microphone.
#[derive(Clone, Debug)]
pub struct Microphone {
    feed: Feed,
    status: watch::Receiver<Status>,
}

impl Microphone {
    /// Starts the microphone's actor; `None` when audio is off.
    pub fn open(_config: AudioConfig, _cameras: &[Config], _group: &Group) -> Option<Self> {
        Some(Self { feed: Feed::new(), status: watch::channel(Status::default()).1 })
    }

    /// The Opus packets of 20 ms.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// What it is doing, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}
