//! Devices become encoded frames. The only room that knows GStreamer, V4L2 and ALSA.

mod actor;
mod capture;
mod clock;
mod device;
mod encoder;
mod error;
mod even;
mod h264;
mod microphone;
mod mode;
mod paced;
mod pipeline;
mod plugins;
mod snapshot;
mod state;
mod survey;
mod test_picture;
mod test_tone;
pub mod time_code;
mod trial;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::media::{Bitrate, Feed, H264Profile, Resolution, Subscription};
use crate::tasks::Group;

use actor::{Actor, Command, Warmth};
use capture::Capture;
pub use device::{Audio, Control, Video};
pub use error::Error;
use microphone::Sound;
pub use mode::{Format, Offer, Rate, Sizes};
use pipeline::Sink;
use snapshot::Picture;
pub use state::State;
pub use survey::{EncoderTrial, Survey, survey};

/// What `encoder` and status call a camera that encodes by itself.
pub(crate) const PASSTHROUGH: &str = "passthrough";

/// How long a snapshot may take: cold cameras need a few seconds to measure light.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(5);

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
    /// `auto`, the GStreamer name of an encoder, or `passthrough` for the camera's own H.264.
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

/// Something in a configuration that cannot be right: the key, and what to do.
pub type Mistake = (&'static str, String);

impl Config {
    /// The mistakes in these values. Whether the device can do them is another question.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut require = |key, is_right: bool, what: String| {
            if !is_right {
                mistakes.push((key, what));
            }
        };
        let is_even_within = |value: u32, least: u32| (least..=4096).contains(&value) && value.is_multiple_of(2);
        let least = time_code::LEAST;
        // It stands in addresses, topics and menus.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_name = (1..=64).contains(&self.name.len()) && self.name.chars().all(is_plain);
        require("name", is_name, "is not 1 to 64 letters, digits, `-` or `_` (without accents)".into());
        require("source", !self.source.trim().is_empty(), "use \"auto\", \"test\", a device or \"libcamera\"".into());
        let size = |value, least| format!("{value} is no even number from {least} to 4096");
        require("width", is_even_within(self.width, least.width), size(self.width, least.width));
        require("height", is_even_within(self.height, least.height), size(self.height, least.height));
        require("fps", (1..=240).contains(&self.fps), format!("{} is not from 1 to 240", self.fps));
        let bitrates = 50..=100_000;
        require(
            "bitrate",
            bitrates.contains(&self.bitrate),
            format!("{} kbit/s is not from 50 to 100000", self.bitrate),
        );
        let intervals = 1..=3600;
        let interval = self.key_frame_interval;
        require("key_frame_interval", intervals.contains(&interval), format!("{interval} s is not from 1 to 3600"));
        let is_known = ["auto", PASSTHROUGH].contains(&self.encoder.as_str());
        if let (false, Err(error)) = (is_known, encoder::Kind::named(&self.encoder)) {
            require("encoder", false, error.to_string());
        }
        mistakes
    }

    fn resolution(&self) -> Resolution {
        Resolution { width: self.width, height: self.height }
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

impl AudioConfig {
    /// The mistakes in these values.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.capture.trim().is_empty() {
            mistakes.push(("capture", "use \"auto\", \"off\", \"test\" or an ALSA device".into()));
        }
        if !(1..=2).contains(&self.channels) {
            mistakes.push(("channels", format!("{} is neither 1 nor 2", self.channels)));
        }
        if !(6..=510).contains(&self.bitrate) {
            mistakes.push(("bitrate", format!("{} kbit/s is not from 6 to 510 (RFC 6716)", self.bitrate)));
        }
        mistakes
    }
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

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {} fps", self.format, self.resolution, (self.fps * 100.0).round() / 100.0)
    }
}

/// A builder for an element, or what to install where GStreamer does not have it.
fn element(name: &str) -> Result<gst::element_factory::ElementBuilder<'_>, Error> {
    match gst::ElementFactory::find(name) {
        Some(_) => Ok(gst::ElementFactory::make(name)),
        None => Err(Error::MissingElement { element: name.to_owned(), package: plugins::package(name) }),
    }
}

/// A handle to one camera. A clone is the same camera.
#[derive(Clone, Debug)]
pub struct Camera {
    feed: Feed,
    profile: watch::Receiver<H264Profile>,
    status: watch::Receiver<Status>,
    actor: mpsc::UnboundedSender<Command>,
    group: Group,
}

impl Camera {
    /// Starts the camera's actor in `group`. Devices are opened when somebody watches (or at once, to keep warm).
    pub fn open(config: Config, group: &Group) -> Self {
        let feed = Feed::new();
        let (profile, profiles) = watch::channel(H264Profile::CONSTRAINED_BASELINE);
        let (status, statuses) =
            watch::channel(Status { name: config.name.clone(), device: config.source.clone(), ..Status::default() });
        let (sender, inbox) = mpsc::unbounded_channel();
        let bitrate = Bitrate::kbps(u64::from(config.bitrate));
        let warmth = if config.keep_warm { Warmth::Kept } else { Warmth::Closed };
        let mut capture = Capture::new(config);
        let actor = Actor {
            open: Box::new(move |bitrate| capture.open(bitrate)),
            sink: Sink { feed: feed.clone(), profile: Some(profile) },
            bitrate,
            warmth,
            status,
            inbox,
            group: group.clone(),
        };
        group.spawn(actor.run());
        Self { feed, profile: profiles, status: statuses, actor: sender, group: group.clone() }
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

    /// Another ceiling of the bitrate, applied to the running encoder and to those after it.
    pub fn set_bitrate(&self, bitrate: Bitrate) {
        // Refused only when the camera was closed, when there is no encoder any more.
        self.actor.send(Command::SetBitrate(bitrate)).ok();
    }

    /// One current picture as JPEG. Starts the camera if nobody watches, and lets it stop afterwards.
    pub async fn snapshot(&self) -> Result<Bytes, Error> {
        // Kept until the picture is there, so that the camera runs for it.
        let mut viewer = self.feed.subscribe();
        match tokio::time::timeout(SNAPSHOT_LIMIT, self.picture(&mut viewer)).await {
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
}

impl Microphone {
    /// Starts the microphone's actor; `None` when audio is off.
    ///
    /// `auto` is the first capture device. Where there is none, it is the test tone if one of `cameras` shows the
    /// test picture, else silence until a microphone is plugged in.
    pub fn open(config: AudioConfig, cameras: &[Config], group: &Group) -> Option<Self> {
        if config.capture == "off" {
            return None;
        }
        let feed = Feed::new();
        let (status, statuses) =
            watch::channel(Status { name: "microphone".into(), device: config.capture.clone(), ..Status::default() });
        let bitrate = Bitrate::kbps(u64::from(config.bitrate));
        let mut sound = Sound::new(config, cameras);
        let actor = Actor {
            open: Box::new(move |bitrate| sound.open(bitrate)),
            sink: Sink { feed: feed.clone(), profile: None },
            bitrate,
            warmth: Warmth::Closed,
            status,
            inbox: mpsc::unbounded_channel().1,
            group: group.clone(),
        };
        group.spawn(actor.run());
        Some(Self { feed, status: statuses })
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

#[cfg(test)]
mod tests;
