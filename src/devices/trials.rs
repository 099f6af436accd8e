//! What was found out about encoders and decoders by trying them: each shows that it works before it is used, and one
//! that fails in use is passed over for a while.

use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;
use peercam::media::Resolution;
use peercam::tasks::caught;
use serde::{Deserialize, Serialize};

use crate::encoder::Kind;
use crate::guide::Guide;
use crate::source::uptime;

/// How many pictures an element may hold back: hardware delays by one or two.
pub const MOST_HELD: usize = 8;

/// How long one picture may take. Known bugs make an element hang for ever; firmware is loaded in far less.
pub const LIMIT: Duration = Duration::from_secs(2);

/// How long an element is passed over that failed while people watched, of which a trial shows nothing, or that a process
/// died of, which the board may have had a part in.
const PASSED_OVER: Duration = Duration::from_secs(600);

/// Findings that are kept: some for each size and rate that people set.
const MOST_FINDINGS: usize = 128;

/// Characters of a reason that are kept.
const MOST_REASON: usize = 300;

/// An element that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// How long the trial took.
    pub took: Duration,
    /// Whether an encoder makes a key frame when it is asked for one; a decoder does not.
    pub has_key_frames_on_demand: bool,
}

/// All that was found out. It holds for the life of the service, since hardware does not change. Only where nothing works
/// is it tried again the next time: a board that is busy starting can be too slow for every element.
#[derive(Debug)]
pub struct Trials {
    findings: Findings,
    /// What failed last, as far as the log was told.
    failing: Vec<Trial>,
    guide: Guide,
}

/// What was found out, for a process after this one.
pub type Findings = Vec<Finding>;

/// What is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    element: String,
    /// Size, and pictures per second as bits; none: whatever they are.
    work: Option<(Resolution, u64)>,
}

/// One thing that was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    trial: Trial,
    outcome: Result<Found, String>,
    /// Since the board started; none for ever.
    until: Option<Duration>,
}

impl Trial {
    /// Of this element, for pictures of this size and rate.
    pub fn of(element: &str, resolution: Resolution, fps: f64) -> Self {
        Self { element: element.to_owned(), work: Some((resolution, fps.to_bits())) }
    }

    /// Whether it is of an element that uses no hardware.
    pub fn is_of_software(&self) -> bool {
        Kind::named(&self.element).is_ok_and(|kind| !kind.is_hardware)
    }

    fn covers(&self, other: &Self) -> bool {
        self.element == other.element && (self.work.is_none() || self.work == other.work)
    }
}

impl Trials {
    /// None so far. `guide` hears of each.
    pub fn new(guide: Guide) -> Self {
        Self { findings: Vec::new(), failing: Vec::new(), guide }
    }

    /// What was found out so far.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Takes what a process before this one had found out.
    pub fn recall(&mut self, findings: Findings) {
        self.findings = findings;
    }

    /// What the trial showed, or shows now, and whether that is another outcome than last time.
    pub fn outcome(
        &mut self,
        trial: Trial,
        try_out: impl FnOnce() -> Result<bool, Error>,
    ) -> (Result<Found, String>, bool) {
        let now = uptime();
        self.findings.retain(|finding| finding.until.is_none_or(|until| now < until));
        if let Some(known) = self.known(&trial) {
            return (known.outcome.clone(), false);
        }
        let found = self.guide.trying(&trial.element, || {
            let begun = Instant::now();
            // What an element panics at is a failure of that element; the next may do.
            let has_key_frames_on_demand = caught(try_out).unwrap_or_else(|panic| Err(Error::Panicked(panic)))?;
            Ok(Found { took: begun.elapsed(), has_key_frames_on_demand })
        });
        let found = found.map_err(|error: Error| failed(&trial.element, &error.to_string()));
        let is_news = is_news(&mut self.failing, &trial, found.is_ok());
        self.add(Finding { trial, outcome: found.clone(), until: None });
        (found, is_news)
    }

    /// Whether `trial` was not made yet, and is of an element that takes the place of one that failed in use.
    pub fn is_of_a_replacement(&self, trial: &Trial) -> bool {
        let failed_in_use = |finding: &Finding| {
            finding.until.is_some() && finding.trial.work.is_none_or(|work| Some(work) == trial.work)
        };
        self.findings.iter().any(failed_in_use) && self.known(trial).is_none()
    }

    fn known(&self, trial: &Trial) -> Option<&Finding> {
        // A failure stands before a success of the same trial, which it came after.
        let known = || self.findings.iter().filter(|finding| finding.trial.covers(trial));
        known().find(|finding| finding.outcome.is_err()).or_else(|| known().next())
    }

    /// Nothing works: what failed is tried again the next time.
    pub fn forget_failures(&mut self) {
        self.findings.retain(|finding| finding.outcome.is_ok());
    }

    /// The element failed while it was in use.
    pub fn fail(&mut self, trial: Trial, why: &str) {
        tracing::warn!(element = trial.element, why, "it failed in use, the next is used");
        let outcome = Err(failed(&trial.element, why));
        self.add(Finding { trial, outcome, until: Some(uptime() + PASSED_OVER) });
    }

    /// A process died of trying the element.
    pub fn blame(&mut self, element: &str, how: &str) {
        tracing::warn!(element, why = how, "it does not work");
        let trial = Trial { element: element.to_owned(), work: None };
        let outcome = Err(failed(element, how));
        self.add(Finding { trial, outcome, until: Some(uptime() + PASSED_OVER) });
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() >= MOST_FINDINGS {
            self.findings.remove(0);
        }
        self.findings.push(finding);
    }
}

fn failed(element: &str, why: &str) -> String {
    format!("{element} failed: {}", why.chars().take(MOST_REASON).collect::<String>())
}

/// Whether a trial ended otherwise than the last one: where nothing works, all is tried again and again, and fails for
/// the same reasons. `failing` is what failed last.
fn is_news(failing: &mut Vec<Trial>, trial: &Trial, works: bool) -> bool {
    let known = failing.iter().position(|known| known == trial);
    match known {
        Some(at) if works => drop(failing.swap_remove(at)),
        None if !works => failing.push(trial.clone()),
        _ => return false,
    }
    true
}

/// A pipeline that is stopped when it is dropped.
pub struct Tried(pub gst::Pipeline);

impl Tried {
    /// These elements, one behind the other.
    pub fn of(elements: &[gst::Element]) -> Result<Self, Error> {
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(elements).map_err(Error::broken)?;
        gst::Element::link_many(elements).map_err(Error::broken)?;
        Ok(Self(pipeline))
    }

    /// What an element has reported. It says more than that nothing came.
    pub fn failure(&self) -> Option<Error> {
        let message = self.0.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => Some(Error::broken(error.error())),
            _ => None,
        }
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        // Only a trial: how it stops says nothing more.
        self.0.set_state(gst::State::Null).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_for_each_size_and_rate_once_and_again_after_it_worked() {
        let trial = |width, fps| Trial::of("x264enc", Resolution { width, height: 66 }, fps);
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
