//! What can go wrong with devices and encoders, in words that say what to do.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::media::Resolution;

/// What cameras, microphones and encoders cannot do.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
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
    /// The configuration names an encoder that is not in the table.
    #[error("no encoder is called {name:?}; use \"auto\" or one of {}", super::config::ENCODERS.join(", "))]
    UnknownEncoder {
        /// What was configured.
        name: String,
    },
    /// GStreamer lacks an element.
    #[error("GStreamer has no element {element}; install {package}")]
    MissingElement {
        /// The element.
        element: String,
        /// The Debian package that has it.
        package: Cow<'static, str>,
    },
    /// There is no such device.
    #[error("{device} does not exist; plug it in, or see what there is with `peercam doctor`")]
    Absent {
        /// What was configured.
        device: String,
    },
    /// The system does not let us open the device.
    #[error("no permission to open {device}; add the user to the groups video and audio")]
    Denied {
        /// The device in words.
        device: String,
    },
    /// The device is something else than a camera.
    #[error("{device} is no capture device; see which are with `peercam doctor`")]
    NoCapture {
        /// The device in words.
        device: String,
    },
    /// The device has to do with video, and is no camera.
    #[error("{device} is no camera: {why}; see which are with `peercam doctor`")]
    NoCamera {
        /// The device in words.
        device: String,
        /// What it is instead.
        why: Cow<'static, str>,
    },
    /// The driver's answers have no end.
    #[error("the driver of {device} lists formats, sizes or rates without an end; choose another camera")]
    Endless {
        /// The device in words.
        device: String,
    },
    /// The device has nothing that can be used.
    #[error(
        "{device} has no format that can be used (it has {formats}); choose another camera, or another `encoder` if that is \"passthrough\""
    )]
    NoMode {
        /// The device in words.
        device: String,
        /// The formats it has.
        formats: String,
    },
    /// No encoder can do the work.
    #[error("no encoder works here: {tried}")]
    NoEncoder {
        /// What was tried, and why it did not work.
        tried: String,
    },
    /// Another program has the device open.
    #[error("{device} is busy: another program uses it; stop that program")]
    Busy {
        /// The device in words.
        device: String,
    },
    /// The device went away while it was in use.
    #[error("{device} is gone; waiting for it to come back")]
    Gone {
        /// The device in words.
        device: String,
    },
    /// The device runs but brings nothing.
    #[error("{device} brought no frame within {} s{}", .waited.as_secs_f64(), .fault.as_deref().map(|f| format!("; {f}")).unwrap_or_default())]
    Silent {
        /// The device in words.
        device: String,
        /// How long was waited.
        waited: Duration,
        /// What it says of its input.
        fault: Option<String>,
    },
    /// The device brings what it has encoded itself, and nothing of it can be shown.
    #[error(
        "{device} sent {pictures} pictures within {} s, of which none can be shown: a key frame with SPS and PPS is missing; \
         try another size",
        .waited.as_secs_f64()
    )]
    Unshowable {
        /// The device in words.
        device: String,
        /// How many came.
        pictures: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The device encodes pictures out of order, which no viewer can show as they come.
    #[error(
        "{device} sends B-frames, which cannot be shown at once; switch them off at the camera, by its maker's program"
    )]
    Reordered {
        /// The device in words.
        device: String,
    },
    /// The device brings pictures, and none of them is whole.
    #[error(
        "{device} sent {pictures} pictures within {} s, all of them damaged; try another cable, plug or size",
        .waited.as_secs_f64()
    )]
    Damaged {
        /// The device in words.
        device: String,
        /// How many came.
        pictures: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The device's JPEGs have another size than it agreed to.
    #[error("{device} agreed to {agreed} and sends {found}, which is taken instead")]
    OtherSize {
        /// The device in words.
        device: String,
        /// What it agreed to.
        agreed: Resolution,
        /// What its pictures say.
        found: Resolution,
    },
    /// The device has another order of fields than was asked for.
    #[error("{device} sends the fields of its pictures in another order, which is tried next")]
    OtherFields {
        /// The device in words.
        device: String,
    },
    /// The device sets another size than it agreed to, and does not list it.
    #[error(
        "{device} agreed to {agreed} and sends {found}, which is none of its sizes; choose another `width` and `height`"
    )]
    UnlistedSize {
        /// The device in words.
        device: String,
        /// What it agreed to.
        agreed: Resolution,
        /// What was set.
        found: Resolution,
    },
    /// An encoder does not end its trial.
    #[error("{encoder} hangs, and is passed over from now on")]
    EncoderHangs {
        /// The encoder.
        encoder: String,
    },
    /// The process that captures ended by itself, or was ended by another program.
    #[error("the capture process of {device} ended: {how}")]
    Ended {
        /// The device in words.
        device: String,
        /// Its signal or exit code, as far as is known.
        how: String,
    },
    /// The process that captures does not run, or speaks another version.
    #[error("the capture process does not start: {why}{advice}")]
    NotStarted {
        /// The system's words.
        why: String,
        /// What to do, in words that follow, or nothing.
        advice: Cow<'static, str>,
    },
    /// The process that captures sends what it must not.
    #[error("the capture process of {device} was stopped: {why}")]
    Misbehaved {
        /// The device in words.
        device: String,
        /// What it did.
        why: String,
    },
    /// Questions are asked faster than they can be answered.
    #[error("too many questions at once; ask again later")]
    TooMany,
    /// The device was told to begin or to stop, and does not answer.
    #[error("{device} hangs: it does not let itself be {verb}; unplug it, or restart the board")]
    Stuck {
        /// The device in words.
        device: String,
        /// `opened` or `closed`.
        verb: Cow<'static, str>,
    },
    /// Privacy is on, and the device does not answer.
    #[error(
        "{}: nothing of {device} is sent, but it hangs and may still be open; unplug it, or restart the board",
        super::PRIVACY
    )]
    MaybeOpen {
        /// The device in words.
        device: String,
    },
    /// A library panicked over what the device says.
    #[error("what the device says is too much for this software: {0}")]
    Panicked(String),
    /// GStreamer reported a failure.
    #[error("{device}: {why}{}", .cause.as_deref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Failed {
        /// The device in words.
        device: String,
        /// GStreamer's message.
        why: String,
        /// What is behind it.
        cause: Option<String>,
    },
    /// Settings that cannot be. Found before they are sent to a device.
    #[serde(skip)]
    #[error("{}", .0.iter().map(|(key, what)| format!("`{key}`: {what}")).collect::<Vec<_>>().join("; "))]
    Mistaken(Vec<super::Mistake>),
    /// Privacy is on.
    #[error("{}", super::PRIVACY)]
    Private,
    /// Other settings came before these were in effect.
    #[error("other settings came before these were in effect")]
    Superseded,
    /// The camera was closed because the service stops.
    #[error("the camera was closed: the service stops")]
    Closed,
    /// What is shown has nothing to adjust.
    #[error("{device} has no controls")]
    NoControls {
        /// The device in words.
        device: String,
    },
    /// The camera has no control of this name.
    #[error("no control is called `{name}`; there is: {known}")]
    UnknownControl {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The control does not have this value.
    #[error("`{name}`: {value} is not {allowed}")]
    OutOfRange {
        /// The control.
        name: String,
        /// What was asked for.
        value: i64,
        /// What there is, in words that follow "is not".
        allowed: String,
    },
    /// The driver does not do it now.
    #[error("the driver refuses {value} for `{name}`: {why}")]
    Refused {
        /// The control.
        name: String,
        /// What was asked for.
        value: i64,
        /// The driver's reason.
        why: String,
    },
    /// The camera cannot move in this way.
    #[error("this camera cannot {verb}{hint}")]
    Immovable {
        /// `pan`, `tilt` or `zoom`, and how.
        verb: Cow<'static, str>,
        /// What it can do instead, or nothing.
        hint: Cow<'static, str>,
    },
    /// GStreamer refused to build what works elsewhere.
    #[error("GStreamer: {0}")]
    Broken(String),
}

impl Error {
    /// A capture process does not keep to its protocol.
    pub fn other_answer(device: &str) -> Self {
        Self::Misbehaved { device: device.to_owned(), why: "it answers something else than was asked".into() }
    }

    /// GStreamer's words.
    pub fn broken(error: impl fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }

    /// Whether the device is not there, so that looking for it again is cheap.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Absent { .. })
    }

    /// Whether it says anything about the settings that the attempt was made with.
    pub fn is_of_settings(&self) -> bool {
        use Error::{EncoderHangs, Ended, Misbehaved, NotStarted, OtherFields, OtherSize, Stuck};
        // The next capture process goes on without what this one died of.
        let is_of_process =
            matches!(self, EncoderHangs { .. } | Ended { .. } | Misbehaved { .. } | NotStarted { .. } | Stuck { .. });
        !self.is_absence() && !is_of_process && !matches!(self, OtherFields { .. } | OtherSize { .. })
    }

    /// Whether a camera may do better in another of its formats.
    pub fn is_of_format(&self) -> bool {
        use Error::{Broken, Damaged, Failed, MissingElement, Reordered, Silent, UnlistedSize, Unshowable};
        matches!(
            self,
            Broken(_)
                | Damaged { .. }
                | Failed { .. }
                | MissingElement { .. }
                | Reordered { .. }
                | Silent { .. }
                | UnlistedSize { .. }
                | Unshowable { .. }
        )
    }
}
