//! What became of each camera that was tried: which one `auto` tries next, in which of its formats, how long its first
//! picture may take, and the size that its JPEGs really have.

use std::time::{Duration, Instant};

use peercam::capture::wire;
use peercam::capture::{Error, Format, Video};
use peercam::media::Resolution;
use serde::{Deserialize, Serialize};

use crate::opener::Outcome;

/// A camera that was silent so often, and never brought a picture, is none: with patience that grows these were 4, 8
/// and 16 s.
const MUTE: u32 = 3;

/// As many as a board has cameras, also where each plug makes a new one.
const MOST_ENTRIES: usize = 16;

/// Characters of a reason that are kept.
const MOST_REASON: usize = 400;

/// After so long nothing is held against a camera any more: what was wrong may have been mended.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What can be asked of a camera about the fields of interlaced pictures. Without an order, v4l2src (1.22) takes a driver
/// that has one for a driver without fields.
const FIELDS: [&str; 3] = ["", ",field-order=top-field-first", ",field-order=bottom-field-first"];

/// What is known of each camera.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    video: Video,
    /// When something became of it last, since the board started.
    last: Duration,
    /// How often it failed since it last worked.
    failures: u32,
    /// How often of these it only brought nothing, or stopped.
    silences: u32,
    has_worked: bool,
    /// What its JPEGs have in the place of the size that was agreed.
    size: Option<(Resolution, Resolution)>,
    /// Which of [`FIELDS`] it is asked for.
    fields: usize,
    formats: Vec<Tried>,
}

/// What is known of a format of a camera.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    format: Format,
    /// How often it failed, and why at last. One that has worked never fails: what fails then is not the format.
    failures: u32,
    why: String,
    has_worked: bool,
}

impl Record {
    /// Forgets what is long ago. The size of JPEGs does not change by waiting.
    pub fn forget(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| uptime().saturating_sub(entry.last) > FORGOTTEN) {
            (entry.failures, entry.silences) = (0, 0);
            entry.formats.retain(|tried| tried.has_worked);
        }
        if self.entries.len() > MOST_ENTRIES {
            self.entries.remove(0);
        }
    }

    /// Adds what became of an attempt, which was made in this format if it came so far.
    pub fn add(&mut self, video: &Video, format: Option<Format>, outcome: Outcome<'_>) {
        let entry = self.entry(video);
        if let Some(format) = format {
            entry.add_to(format, outcome);
        }
        entry.last = uptime();
        match outcome {
            Outcome::Works => (entry.failures, entry.silences, entry.has_worked) = (0, 0, true),
            Outcome::Stalled { .. } | Outcome::Failed { error: Error::Silent { .. }, .. } => {
                entry.failures += 1;
                entry.silences += 1;
            }
            Outcome::Failed { error: Error::OtherFields { .. }, .. } => {
                entry.fields = (entry.fields + 1) % FIELDS.len()
            }
            Outcome::Failed { error: Error::OtherSize { agreed, found, .. }, .. } => {
                entry.size = Some((*agreed, *found))
            }
            // It may be there again with the next look.
            Outcome::Failed { error, .. } if error.is_absence() => {}
            Outcome::Failed { .. } => entry.failures += 1,
        }
    }

    /// A process died over it: it fails as often as that, whatever it did before.
    pub fn blame(&mut self, video: &Video, format: Option<Format>, how: &str) {
        let entry = self.entry(video);
        (entry.last, entry.failures) = (uptime(), entry.failures + 1);
        let Some(format) = format else { return };
        let tried = entry.tried(format);
        (tried.failures, tried.has_worked) = (tried.failures + 1, false);
        tried.why = how.chars().take(MOST_REASON).collect();
    }

    /// How often it failed since it last worked.
    pub fn failures(&self, video: &Video) -> u32 {
        self.find(video).map_or(0, |entry| entry.failures)
    }

    /// How often the format failed, and why at last.
    pub fn failures_of(&self, video: &Video, format: Format) -> (u32, &str) {
        self.tried(video, format).map_or((0, ""), |tried| (tried.failures, &tried.why))
    }

    /// Whether nothing is known of the format.
    pub fn is_untried(&self, video: &Video, format: Format) -> bool {
        self.tried(video, format).is_none()
    }

    fn tried(&self, video: &Video, format: Format) -> Option<&Tried> {
        self.find(video)?.formats.iter().find(|tried| tried.format == format)
    }

    /// How often it was silent since it last worked.
    pub fn silences(&self, video: &Video) -> u32 {
        self.find(video).map_or(0, |entry| entry.silences)
    }

    /// Whether it is for `auto` as if it were not there.
    pub fn is_mute(&self, video: &Video) -> bool {
        self.find(video).is_some_and(|entry| entry.silences >= MUTE && !entry.has_worked)
    }

    /// The size that its JPEGs have where `agreed` was agreed.
    pub fn size(&self, video: &Video, agreed: Resolution) -> Resolution {
        let known = self.find(video).and_then(|entry| entry.size);
        known.filter(|(known, _)| *known == agreed).map_or(agreed, |(_, found)| found)
    }

    /// What to ask of it about the fields of its pictures, as a part of caps.
    pub fn fields(&self, video: &Video) -> &'static str {
        FIELDS[self.find(video).map_or(0, |entry| entry.fields)]
    }

    fn find(&self, video: &Video) -> Option<&Entry> {
        self.entries.iter().find(|entry| is_same_node(&entry.video, video))
    }

    fn entry(&mut self, video: &Video) -> &mut Entry {
        let known = self.entries.iter().position(|entry| is_same_node(&entry.video, video));
        let place = known.unwrap_or_else(|| {
            let entry = Entry {
                video: video.identity(),
                last: uptime(),
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

impl Entry {
    fn tried(&mut self, format: Format) -> &mut Tried {
        let known = self.formats.iter().position(|tried| tried.format == format);
        let place = known.unwrap_or_else(|| {
            self.formats.push(Tried { format, failures: 0, why: String::new(), has_worked: false });
            self.formats.len() - 1
        });
        &mut self.formats[place]
    }

    fn add_to(&mut self, format: Format, outcome: Outcome<'_>) {
        let tried = self.tried(format);
        let why: String = match outcome {
            Outcome::Works => {
                (tried.failures, tried.has_worked) = (0, true);
                return;
            }
            Outcome::Stalled { .. } => "frames stopped coming".into(),
            Outcome::Failed { error, .. } if error.is_of_format() => error.to_string(),
            Outcome::Failed { .. } => return,
        };
        // These come behind pictures that could be shown.
        let is_reordered = matches!(outcome, Outcome::Failed { error: Error::Reordered { .. }, .. });
        if !tried.has_worked || is_reordered {
            (tried.failures, tried.why) = (tried.failures + 1, why.chars().take(MOST_REASON).collect());
        }
    }
}

/// How long the board runs: what this process has learned is of use to one after it.
pub fn uptime() -> Duration {
    Duration::from_nanos(wire::nanoseconds(Instant::now()))
}

/// One device can have several nodes, of which one is mute.
fn is_same_node(one: &Video, other: &Video) -> bool {
    one.path == other.path && one.is_same_as(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opener::Part;

    fn camera(number: u32) -> Video {
        Video {
            path: format!("/dev/video{number}").into(),
            card: "camera".into(),
            bus: "usb-1".into(),
            names: vec![],
            offers: vec![],
            unused_formats: vec![],
            is_receiver: false,
            fault: None,
        }
    }

    fn failed(error: &Error) -> Outcome<'_> {
        Outcome::Failed { error, part: Part::Device }
    }

    fn silent() -> Error {
        Error::Silent { device: "camera".into(), waited: Duration::from_secs(4), fault: None }
    }

    #[test]
    fn a_camera_that_is_silent_three_times_and_never_worked_is_mute() {
        let mut record = Record::default();
        let (one, other) = (camera(0), camera(1));
        for _ in 0..3 {
            assert!(!record.is_mute(&one));
            record.add(&one, None, failed(&silent()));
        }
        assert!(record.is_mute(&one) && !record.is_mute(&other));
        assert_eq!((record.failures(&one), record.failures(&other)), (3, 0));
        record.add(&other, None, Outcome::Works);
        for _ in 0..9 {
            record.add(&other, None, failed(&silent()));
        }
        assert!(!record.is_mute(&other), "it worked once");
        record.add(&one, None, Outcome::Works);
        assert_eq!((record.failures(&one), record.silences(&one)), (0, 0));
    }

    #[test]
    fn what_is_busy_fails_without_being_silent_and_what_is_gone_does_not_fail() {
        let mut record = Record::default();
        let one = camera(0);
        record.add(&one, None, failed(&Error::Busy { device: "camera".into() }));
        record.add(&one, None, failed(&Error::Gone { device: "camera".into() }));
        assert_eq!((record.failures(&one), record.silences(&one)), (1, 0));
    }

    #[test]
    fn the_size_of_jpegs_is_known_for_the_size_that_was_agreed() {
        let mut record = Record::default();
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
        let mut record = Record::default();
        let (video, format) = (camera(0), Format::MJPEG);
        record.add(&video, Some(format), failed(&Error::Busy { device: "camera".into() }));
        record.add(&video, Some(format), failed(&Error::Gone { device: "camera".into() }));
        assert_eq!(record.failures_of(&video, format), (0, ""), "that is not of the format");
        record.add(&video, Some(format), Outcome::Stalled { part: Part::Device });
        record.add(&video, Some(format), failed(&silent()));
        assert_eq!(record.failures_of(&video, format), (2, "camera brought no frame within 4 s"));
        assert_eq!(record.failures_of(&video, Format::H264), (0, ""));
        record.add(&video, Some(format), Outcome::Works);
        record.add(&video, Some(format), failed(&silent()));
        assert_eq!(record.failures_of(&video, format).0, 0);
    }
}
