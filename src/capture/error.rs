//! Errors of devices and encoders; their texts include advice.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::media::Resolution;

/// A fault of a camera, a microphone or an encoder.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// No picture came in time.
    #[error("no picture came from {device} within {} s{}", .waited.as_secs(), .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    NoPicture {
        /// The device in words.
        device: String,
        /// The time limit.
        waited: Duration,
        /// The reason in the camera's status.
        reason: Option<String>,
    },
    /// The configuration names an encoder that is not in the table.
    #[error("no encoder is called {name:?}; use \"auto\" or one of {}", super::config::ENCODERS.join(", "))]
    UnknownEncoder {
        /// The configured name.
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
        /// The configured name.
        device: String,
    },
    /// The system denies access to the device.
    #[error("no permission to open {device}; add the user to the groups video and audio")]
    Denied {
        /// The device in words.
        device: String,
    },
    /// The device is not a camera.
    #[error("{device} is no capture device; see which are with `peercam doctor`")]
    NoCapture {
        /// The device in words.
        device: String,
    },
    /// The device is related to video, but is not a camera.
    #[error("{device} is no camera: {why}; see which are with `peercam doctor`")]
    NoCamera {
        /// The device in words.
        device: String,
        /// The reason.
        why: Cow<'static, str>,
    },
    /// The driver's lists are endless.
    #[error("the driver of {device} lists formats, sizes or rates without end; choose another camera")]
    Endless {
        /// The device in words.
        device: String,
    },
    /// The device has no usable format.
    #[error(
        "{device} has no format that can be used (it has {formats}); choose another camera, or another `encoder` if that is \"passthrough\""
    )]
    NoMode {
        /// The device in words.
        device: String,
        /// The formats it has.
        formats: String,
    },
    /// No encoder works.
    #[error("no encoder works here: {tried}")]
    NoEncoder {
        /// The tried encoders, each with its failure.
        tried: String,
    },
    /// Another program has the device open.
    #[error("{device} is busy: another program uses it; stop that program")]
    Busy {
        /// The device in words.
        device: String,
    },
    /// The device disappeared while it was in use.
    #[error("{device} is gone; waiting for it to come back")]
    Gone {
        /// The device in words.
        device: String,
    },
    /// The device runs but delivers no frames.
    #[error("{device} delivered no frame within {} s{}", .waited.as_secs_f64(), .fault.as_deref().map(|f| format!("; {f}")).unwrap_or_default())]
    Silent {
        /// The device in words.
        device: String,
        /// The time limit.
        waited: Duration,
        /// The fault of its input, as reported by the device.
        fault: Option<String>,
    },
    /// The device sends its own H.264, and no picture of it can be shown.
    #[error(
        "{device} sent {pictures} pictures within {} s, of which none can be shown: a key frame with SPS and PPS is missing; \
         try another size",
        .waited.as_secs_f64()
    )]
    Unshowable {
        /// The device in words.
        device: String,
        /// Number of pictures that came.
        pictures: u64,
        /// The time limit.
        waited: Duration,
    },
    /// The device encodes pictures out of order, so no viewer can show them as they come.
    #[error(
        "{device} sends B-frames, which cannot be shown without delay; switch them off with the camera maker's program"
    )]
    Reordered {
        /// The device in words.
        device: String,
    },
    /// The device sends pictures, all of them damaged.
    #[error(
        "{device} sent {pictures} pictures within {} s, all of them damaged; try another cable, plug or size",
        .waited.as_secs_f64()
    )]
    Damaged {
        /// The device in words.
        device: String,
        /// Number of pictures that came.
        pictures: u64,
        /// The time limit.
        waited: Duration,
    },
    /// The device's JPEGs have another size than it agreed to.
    #[error("{device} agreed to {agreed} and sends {found}, which is used instead")]
    OtherSize {
        /// The device in words.
        device: String,
        /// The negotiated size.
        agreed: Resolution,
        /// The size in its pictures.
        found: Resolution,
    },
    /// The device has another field order than was requested.
    #[error("{device} sends the fields of its pictures in another order, which is tried next")]
    OtherFields {
        /// The device in words.
        device: String,
    },
    /// The device sets another size than it agreed to, one that it does not list.
    #[error(
        "{device} agreed to {agreed} and sends {found}, which is none of its sizes; choose another `width` and `height`"
    )]
    UnlistedSize {
        /// The device in words.
        device: String,
        /// The negotiated size.
        agreed: Resolution,
        /// The size that it set.
        found: Resolution,
    },
    /// An encoder's trial does not end.
    #[error("{encoder} hangs and is skipped from now on")]
    EncoderHangs {
        /// The encoder.
        encoder: String,
    },
    /// The capture process exited on its own, or another program ended it.
    #[error("the capture process of {device} ended: {how}")]
    Ended {
        /// The device in words.
        device: String,
        /// Its signal or exit code, if known.
        how: String,
    },
    /// The capture process does not run, or has another protocol version.
    #[error("the capture process does not start: {why}{advice}")]
    NotStarted {
        /// The system's error text.
        why: String,
        /// Advice, as a suffix, or nothing.
        advice: Cow<'static, str>,
    },
    /// The capture process violates the protocol.
    #[error("the capture process of {device} was stopped: {why}")]
    Misbehaved {
        /// The device in words.
        device: String,
        /// The violation.
        why: String,
    },
    /// Questions are asked faster than they can be answered.
    #[error("too many questions at once; ask again later")]
    TooMany,
    /// The device does not respond while it is opened or closed.
    #[error("{device} hangs: it cannot be {verb}; unplug it, or restart the board")]
    Stuck {
        /// The device in words.
        device: String,
        /// `opened` or `closed`.
        verb: Cow<'static, str>,
    },
    /// Privacy is on, and the device does not respond.
    #[error(
        "{}: nothing of {device} is sent, but it hangs and may still be open; unplug it, or restart the board",
        super::PRIVACY
    )]
    MaybeOpen {
        /// The device in words.
        device: String,
    },
    /// A library panicked over data from the device.
    #[error("this software cannot handle the device's data: {0}")]
    Panicked(String),
    /// GStreamer reported a failure.
    #[error("{device}: {why}{}", .cause.as_deref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Failed {
        /// The device in words.
        device: String,
        /// GStreamer's message.
        why: String,
        /// The underlying cause.
        cause: Option<String>,
    },
    /// Invalid settings, found before they are sent to a device.
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
    /// The source has no controls.
    #[error("{device} has no controls")]
    NoControls {
        /// The device in words.
        device: String,
    },
    /// The camera has no control of this name.
    #[error("no control is called `{name}`; there is: {known}")]
    UnknownControl {
        /// The requested name.
        name: String,
        /// The controls that exist.
        known: String,
    },
    /// The control does not have this value.
    #[error("`{name}`: {value} is not {allowed}")]
    OutOfRange {
        /// The control.
        name: String,
        /// The requested value.
        value: i64,
        /// The allowed values, as a suffix to "is not".
        allowed: String,
    },
    /// The driver rejects the value.
    #[error("the driver refuses {value} for `{name}`: {why}")]
    Refused {
        /// The control.
        name: String,
        /// The requested value.
        value: i64,
        /// The driver's reason.
        why: String,
    },
    /// The camera cannot move in this way.
    #[error("this camera cannot {verb}{hint}")]
    Immovable {
        /// `pan`, `tilt` or `zoom`, and how.
        verb: Cow<'static, str>,
        /// Other movements that it supports, as a suffix, or nothing.
        hint: Cow<'static, str>,
    },
    /// GStreamer failed to build what works elsewhere.
    #[error("GStreamer: {0}")]
    Broken(String),
}

impl Error {
    /// The capture process answered with the wrong type.
    pub fn other_answer(device: &str) -> Self {
        Self::Misbehaved { device: device.to_owned(), why: "its answer does not match the question".into() }
    }

    /// An error of GStreamer.
    pub fn broken(error: impl fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }

    /// Whether the device is missing, so that looking for it again is cheap.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Absent { .. })
    }

    /// Whether the error is due to the settings of the attempt.
    pub fn is_of_settings(&self) -> bool {
        use Error::{EncoderHangs, Ended, Misbehaved, NotStarted, OtherFields, OtherSize, Stuck};
        // The next capture process skips what this one died of.
        let is_of_process =
            matches!(self, EncoderHangs { .. } | Ended { .. } | Misbehaved { .. } | NotStarted { .. } | Stuck { .. });
        !self.is_absence() && !is_of_process && !matches!(self, OtherFields { .. } | OtherSize { .. })
    }

    /// Whether the camera may work in another of its formats.
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
