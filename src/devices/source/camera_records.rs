//! The record of each camera that was tried: which one `auto` tries next, in which format, how long its first
//! picture may take, and the real size of its JPEGs.

use std::time::{Duration, Instant};

use peercam::capture::wire;
use peercam::capture::{CaptureFormat, Error, V4l2Camera};
use peercam::media::Resolution;
use serde::{Deserialize, Serialize};

use crate::graph_builder::AttemptOutcome;

/// So many silent attempts without a single picture make a camera mute: with growing patience these took 4, 8 and 16 s.
const MAX_SILENCES: u32 = 3;

/// More than a board has cameras, even if each port makes a new entry.
const MAX_ENTRIES: usize = 16;

/// Most characters of a reason that are kept.
const MAX_REASON: usize = 400;

/// Failures of a camera are forgotten after this time: the fault may have been repaired.
const EXPIRY: Duration = Duration::from_secs(600);

/// Field orders to request for interlaced pictures. Without one, v4l2src (1.22) treats a driver that has a field
/// order as one without fields.
const FIELDS: [&str; 3] = ["", ",field-order=top-field-first", ",field-order=bottom-field-first"];

/// The records of all cameras.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct CameraRecords {
    entries: Vec<CameraRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CameraRecord {
    video: V4l2Camera,
    /// Time of the last outcome, since the board's start.
    last: Duration,
    /// Number of failures since it last worked.
    failures: u32,
    /// Number of those in which it delivered nothing, or stopped.
    silences: u32,
    has_worked: bool,
    /// The agreed size, and the real size of its JPEGs.
    size: Option<(Resolution, Resolution)>,
    /// Index of the requested field order in [`FIELDS`].
    fields: usize,
    formats: Vec<FormatRecord>,
}

/// The record of a format of a camera.
#[derive(Debug, Serialize, Deserialize)]
struct FormatRecord {
    format: CaptureFormat,
    /// Number of failures, and the reason of the last one. A format that has worked never fails: the fault is then
    /// elsewhere.
    failures: u32,
    why: String,
    has_worked: bool,
}

impl CameraRecords {
    /// Forgets old failures. The real size of JPEGs is kept, because it does not change with time.
    pub fn expire(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| since_boot().saturating_sub(entry.last) > EXPIRY) {
            (entry.failures, entry.silences) = (0, 0);
            entry.formats.retain(|tried| tried.has_worked);
        }
        if self.entries.len() > MAX_ENTRIES {
            self.entries.remove(0);
        }
    }

    /// Adds the outcome of an attempt, with its format if it got that far.
    pub fn add(&mut self, video: &V4l2Camera, format: Option<CaptureFormat>, outcome: AttemptOutcome<'_>) {
        let entry = self.entry(video);
        if let Some(format) = format {
            entry.add_to(format, outcome);
        }
        entry.last = since_boot();
        match outcome {
            AttemptOutcome::Works => (entry.failures, entry.silences, entry.has_worked) = (0, 0, true),
            AttemptOutcome::Stalled { .. } | AttemptOutcome::Failed { error: Error::Silent { .. }, .. } => {
                entry.failures += 1;
                entry.silences += 1;
            }
            AttemptOutcome::Failed { error: Error::OtherFields { .. }, .. } => {
                entry.fields = (entry.fields + 1) % FIELDS.len()
            }
            AttemptOutcome::Failed { error: Error::OtherSize { agreed, found, .. }, .. } => {
                entry.size = Some((*agreed, *found))
            }
            // It may be back at the next look.
            AttemptOutcome::Failed { error, .. } if error.is_absence() => {}
            AttemptOutcome::Failed { .. } => entry.failures += 1,
        }
    }

    /// Records that a process died with this camera and format: this counts as a failure even if the format has worked.
    pub fn record_crash(&mut self, video: &V4l2Camera, format: Option<CaptureFormat>, how: &str) {
        let entry = self.entry(video);
        (entry.last, entry.failures) = (since_boot(), entry.failures + 1);
        let Some(format) = format else { return };
        let tried = entry.tried(format);
        (tried.failures, tried.has_worked) = (tried.failures + 1, false);
        tried.why = how.chars().take(MAX_REASON).collect();
    }

    /// Number of failures since it last worked.
    pub fn failures(&self, video: &V4l2Camera) -> u32 {
        self.find(video).map_or(0, |entry| entry.failures)
    }

    /// Number of failures of the format, and the reason of the last one.
    pub fn failures_of(&self, video: &V4l2Camera, format: CaptureFormat) -> (u32, &str) {
        self.tried(video, format).map_or((0, ""), |tried| (tried.failures, &tried.why))
    }

    /// Whether the format was not tried yet.
    pub fn is_untried(&self, video: &V4l2Camera, format: CaptureFormat) -> bool {
        self.tried(video, format).is_none()
    }

    fn tried(&self, video: &V4l2Camera, format: CaptureFormat) -> Option<&FormatRecord> {
        self.find(video)?.formats.iter().find(|tried| tried.format == format)
    }

    /// Number of silent attempts since it last worked.
    pub fn silences(&self, video: &V4l2Camera) -> u32 {
        self.find(video).map_or(0, |entry| entry.silences)
    }

    /// Whether `auto` ignores it.
    pub fn is_mute(&self, video: &V4l2Camera) -> bool {
        self.find(video).is_some_and(|entry| entry.silences >= MAX_SILENCES && !entry.has_worked)
    }

    /// The real size of its JPEGs if `agreed` was agreed.
    pub fn size(&self, video: &V4l2Camera, agreed: Resolution) -> Resolution {
        let known = self.find(video).and_then(|entry| entry.size);
        known.filter(|(known, _)| *known == agreed).map_or(agreed, |(_, found)| found)
    }

    /// The field order to request, as a part of caps.
    pub fn fields(&self, video: &V4l2Camera) -> &'static str {
        FIELDS[self.find(video).map_or(0, |entry| entry.fields)]
    }

    fn find(&self, video: &V4l2Camera) -> Option<&CameraRecord> {
        self.entries.iter().find(|entry| is_same_node(&entry.video, video))
    }

    fn entry(&mut self, video: &V4l2Camera) -> &mut CameraRecord {
        let known = self.entries.iter().position(|entry| is_same_node(&entry.video, video));
        let place = known.unwrap_or_else(|| {
            let entry = CameraRecord {
                video: video.identity(),
                last: since_boot(),
                failures: 0,
                silences: 0,
                has_worked: false,
                size: None,
                fields: 0,
                formats: vec![],
            };
            self.entries.push(entry);
            self.entries.len() - 1
        });
        &mut self.entries[place]
    }
}

impl CameraRecord {
    fn tried(&mut self, format: CaptureFormat) -> &mut FormatRecord {
        let known = self.formats.iter().position(|tried| tried.format == format);
        let place = known.unwrap_or_else(|| {
            self.formats.push(FormatRecord { format, failures: 0, why: String::new(), has_worked: false });
            self.formats.len() - 1
        });
        &mut self.formats[place]
    }

    fn add_to(&mut self, format: CaptureFormat, outcome: AttemptOutcome<'_>) {
        let tried = self.tried(format);
        let why: String = match outcome {
            AttemptOutcome::Works => {
                (tried.failures, tried.has_worked) = (0, true);
                return;
            }
            AttemptOutcome::Stalled { .. } => "frames stopped coming".into(),
            AttemptOutcome::Failed { error, .. } if error.is_of_format() => error.to_string(),
            AttemptOutcome::Failed { .. } => return,
        };
        // The pictures before these could be shown.
        let is_reordered = matches!(outcome, AttemptOutcome::Failed { error: Error::Reordered { .. }, .. });
        if !tried.has_worked || is_reordered {
            (tried.failures, tried.why) = (tried.failures + 1, why.chars().take(MAX_REASON).collect());
        }
    }
}

/// Time since the board's start: what one process learns is valid in the next.
pub fn since_boot() -> Duration {
    Duration::from_nanos(wire::nanoseconds(Instant::now()))
}

/// A device can have several nodes, one of them mute.
fn is_same_node(one: &V4l2Camera, other: &V4l2Camera) -> bool {
    one.path == other.path && one.is_same_as(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph_builder::GraphPart;

    fn camera(number: u32) -> V4l2Camera {
        V4l2Camera {
            path: format!("/dev/video{number}").into(),
            card: "camera".into(),
            bus: "usb-1".into(),
            names: vec![],
            modes: vec![],
            unused_formats: vec![],
            is_receiver: false,
            fault: None,
        }
    }

    fn failed(error: &Error) -> AttemptOutcome<'_> {
        AttemptOutcome::Failed { error, part: GraphPart::Device }
    }

    fn silent() -> Error {
        Error::Silent { device: "camera".into(), waited: Duration::from_secs(4), fault: None }
    }

    #[test]
    fn a_camera_that_is_silent_three_times_and_never_worked_is_ignored() {
        let mut record = CameraRecords::default();
        let (one, other) = (camera(0), camera(1));
        for _ in 0..3 {
            assert!(!record.is_mute(&one));
            record.add(&one, None, failed(&silent()));
        }
        assert!(record.is_mute(&one) && !record.is_mute(&other));
        assert_eq!((record.failures(&one), record.failures(&other)), (3, 0));
        record.add(&other, None, AttemptOutcome::Works);
        for _ in 0..9 {
            record.add(&other, None, failed(&silent()));
        }
        assert!(!record.is_mute(&other), "it worked once");
        record.add(&one, None, AttemptOutcome::Works);
        assert_eq!((record.failures(&one), record.silences(&one)), (0, 0));
    }

    #[test]
    fn a_busy_camera_fails_without_counting_as_silent_and_a_missing_one_does_not_fail() {
        let mut record = CameraRecords::default();
        let one = camera(0);
        record.add(&one, None, failed(&Error::Busy { device: "camera".into() }));
        record.add(&one, None, failed(&Error::Gone { device: "camera".into() }));
        assert_eq!((record.failures(&one), record.silences(&one)), (1, 0));
    }

    #[test]
    fn the_real_size_of_jpegs_is_recorded_for_the_agreed_size() {
        let mut record = CameraRecords::default();
        let (agreed, found) = (Resolution { width: 640, height: 480 }, Resolution { width: 640, height: 464 });
        let error = Error::OtherSize { device: "camera".into(), agreed, found };
        record.add(&camera(0), None, failed(&error));
        assert_eq!(record.size(&camera(0), agreed), found);
        assert_eq!(record.size(&camera(0), found), found);
        assert_eq!(record.size(&camera(1), agreed), agreed);
        assert_eq!(record.failures(&camera(0)), 0, "it is no failure of the camera");
    }

    #[test]
    fn a_format_fails_until_it_has_worked() {
        let mut record = CameraRecords::default();
        let (video, format) = (camera(0), CaptureFormat::MJPEG);
        record.add(&video, Some(format), failed(&Error::Busy { device: "camera".into() }));
        record.add(&video, Some(format), failed(&Error::Gone { device: "camera".into() }));
        assert_eq!(record.failures_of(&video, format), (0, ""), "that is not of the format");
        record.add(&video, Some(format), AttemptOutcome::Stalled { part: GraphPart::Device });
        record.add(&video, Some(format), failed(&silent()));
        assert_eq!(record.failures_of(&video, format), (2, "camera delivered no frame within 4 s"));
        assert_eq!(record.failures_of(&video, CaptureFormat::H264), (0, ""));
        record.add(&video, Some(format), AttemptOutcome::Works);
        record.add(&video, Some(format), failed(&silent()));
        assert_eq!(record.failures_of(&video, format).0, 0);
    }
}
