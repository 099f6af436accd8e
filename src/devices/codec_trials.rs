//! Results of trying encoders and decoders: each has to work in a trial before it is used, and one that fails in
//! use is skipped for a while.

use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;
use peercam::media::Resolution;
use peercam::tasks::catch_panic;
use serde::{Deserialize, Serialize};

use crate::encoder::EncoderKind;
use crate::source::since_boot;
use crate::step_reporter::StepReporter;

/// Most pictures that an element may hold back: hardware delays by one or two.
pub const MAX_HELD: usize = 8;

/// Time limit for one picture. Known bugs make an element hang for ever; firmware loads in far less.
pub const PICTURE_LIMIT: Duration = Duration::from_secs(2);

/// How long an element is skipped that failed in use, which a trial does not show, or that a process died of, which
/// may have had another cause on the board.
const SKIP_TIME: Duration = Duration::from_secs(600);

/// Most findings that are kept: there are some for each size and rate that users configure.
const MAX_RESULTS: usize = 128;

/// Most characters of a reason that are kept.
const MAX_REASON: usize = 300;

/// An element that works.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkingCodec {
    /// How long the trial took.
    pub took: Duration,
    /// Whether an encoder makes a key frame on demand; `false` for a decoder.
    pub has_key_frames_on_demand: bool,
}

/// All results. They are valid for the life of the service, because hardware does not change. Only if nothing works
/// are failures tried again the next time: a board that is busy starting can be too slow for every element.
#[derive(Debug)]
pub struct CodecTrials {
    results: TrialResults,
    /// The trials whose failure was logged last.
    failing: Vec<TrialKey>,
    reporter: StepReporter,
}

/// All results, to be passed to the next process.
pub type TrialResults = Vec<TrialResult>;

/// Identifies a trial: an element with a kind of picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialKey {
    element: String,
    /// Size, and the bits of the frame rate; `None` means all.
    work: Option<(Resolution, u64)>,
}

/// The result of one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    trial: TrialKey,
    outcome: Result<WorkingCodec, String>,
    /// Time since the board's start until which it is valid; `None` means for ever.
    until: Option<Duration>,
}

impl TrialKey {
    /// The trial of this element for pictures of this size and rate.
    pub fn of(element: &str, resolution: Resolution, fps: f64) -> Self {
        Self { element: element.to_owned(), work: Some((resolution, fps.to_bits())) }
    }

    /// Whether the element is a software encoder.
    pub fn is_of_software(&self) -> bool {
        EncoderKind::named(&self.element).is_ok_and(|kind| !kind.is_hardware)
    }

    fn covers(&self, other: &Self) -> bool {
        self.element == other.element && (self.work.is_none() || self.work == other.work)
    }
}

impl CodecTrials {
    /// No results yet. `reporter` reports each trial.
    pub fn new(reporter: StepReporter) -> Self {
        Self { results: Vec::new(), failing: Vec::new(), reporter }
    }

    /// All results so far.
    pub fn results(&self) -> &TrialResults {
        &self.results
    }

    /// Restores the results of an earlier process.
    pub fn restore(&mut self, results: TrialResults) {
        self.results = results;
    }

    /// The outcome of `trial`, which is made unless it is known, and whether that differs from the last time.
    pub fn outcome(
        &mut self,
        trial: TrialKey,
        try_out: impl FnOnce() -> Result<bool, Error>,
    ) -> (Result<WorkingCodec, String>, bool) {
        let now = since_boot();
        self.results.retain(|result| result.until.is_none_or(|until| now < until));
        if let Some(known) = self.known(&trial) {
            return (known.outcome.clone(), false);
        }
        let found = self.reporter.with_trial_permit(&trial.element, || {
            let begun = Instant::now();
            // A panic of an element is its failure; the next one may work.
            let has_key_frames_on_demand = catch_panic(try_out).unwrap_or_else(|panic| Err(Error::Panicked(panic)))?;
            Ok(WorkingCodec { took: begun.elapsed(), has_key_frames_on_demand })
        });
        let found = found.map_err(|error: Error| failed(&trial.element, &error.to_string()));
        let is_news = is_news(&mut self.failing, &trial, found.is_ok());
        self.add(TrialResult { trial, outcome: found.clone(), until: None });
        (found, is_news)
    }

    /// Whether `trial` was not made yet, and its element replaces one that failed in use.
    pub fn is_untested_replacement(&self, trial: &TrialKey) -> bool {
        let failed_in_use = |result: &TrialResult| {
            result.until.is_some() && result.trial.work.is_none_or(|work| Some(work) == trial.work)
        };
        self.results.iter().any(failed_in_use) && self.known(trial).is_none()
    }

    fn known(&self, trial: &TrialKey) -> Option<&TrialResult> {
        // Of the same trial a failure counts more than a success, because it is newer.
        let known = || self.results.iter().filter(|result| result.trial.covers(trial));
        known().find(|result| result.outcome.is_err()).or_else(|| known().next())
    }

    /// Forgets all failures, because nothing works: they are tried again the next time.
    pub fn forget_failures(&mut self) {
        self.results.retain(|result| result.outcome.is_ok());
    }

    /// Records that the element failed in use.
    pub fn record_failure(&mut self, trial: TrialKey, why: &str) {
        tracing::warn!(element = trial.element, why, "it failed in use, the next is used");
        let outcome = Err(failed(&trial.element, why));
        self.add(TrialResult { trial, outcome, until: Some(since_boot() + SKIP_TIME) });
    }

    /// Records that a process died of trying the element.
    pub fn record_crash(&mut self, element: &str, how: &str) {
        tracing::warn!(element, why = how, "a capture process died while trying it");
        let trial = TrialKey { element: element.to_owned(), work: None };
        let outcome = Err(failed(element, how));
        self.add(TrialResult { trial, outcome, until: Some(since_boot() + SKIP_TIME) });
    }

    fn add(&mut self, result: TrialResult) {
        if self.results.len() >= MAX_RESULTS {
            self.results.remove(0);
        }
        self.results.push(result);
    }
}

fn failed(element: &str, why: &str) -> String {
    format!("{element} failed: {}", why.chars().take(MAX_REASON).collect::<String>())
}

/// Whether the outcome of a trial differs from the last one: if nothing works, all elements are tried again and
/// again, and fail for the same reasons. `failing` has the trials that failed last.
fn is_news(failing: &mut Vec<TrialKey>, trial: &TrialKey, works: bool) -> bool {
    let known = failing.iter().position(|known| known == trial);
    match known {
        Some(at) if works => drop(failing.swap_remove(at)),
        None if !works => failing.push(trial.clone()),
        _ => return false,
    }
    true
}

/// A pipeline that is stopped when it is dropped.
pub struct TrialPipeline(pub gst::Pipeline);

impl TrialPipeline {
    /// Links these elements into a pipeline.
    pub fn of(elements: &[gst::Element]) -> Result<Self, Error> {
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(elements).map_err(Error::broken)?;
        gst::Element::link_many(elements).map_err(Error::broken)?;
        Ok(Self(pipeline))
    }

    /// The error that an element has reported, which is more specific than a missing picture.
    pub fn failure(&self) -> Option<Error> {
        let message = self.0.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => Some(Error::broken(error.error())),
            _ => None,
        }
    }
}

impl Drop for TrialPipeline {
    fn drop(&mut self) {
        // Only a trial: an error at the stop does not matter.
        self.0.set_state(gst::State::Null).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_new_once_for_each_size_and_rate_and_again_after_a_success() {
        let trial = |width, fps| TrialKey::of("x264enc", Resolution { width, height: 66 }, fps);
        let mut failing = Vec::new();
        let mut is_news = |trial, works| is_news(&mut failing, &trial, works);
        assert!(is_news(trial(66, 30.0), false));
        assert!(!is_news(trial(66, 30.0), false));
        assert!(is_news(trial(68, 30.0), false), "another size");
        assert!(is_news(trial(66, 15.0), false), "another rate");
        assert!(is_news(trial(66, 30.0), true));
        assert!(is_news(trial(66, 30.0), false), "it worked in between");
    }
}
