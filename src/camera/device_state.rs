//! The device of a source, between closed and open: the state that its actor tracks, and the time limits of the
//! capture process.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::capture::{Built, Error, Step};

/// How long privacy waits for the device to close before it reports that the device may still be open: the answer
/// must come within a second.
const PRIVACY_LIMIT: Duration = Duration::from_millis(900);

/// Time limit for closing a device if a request or an attempt waits for it. The process is then killed, which closes
/// the device.
const AWAITED_CLOSE: Duration = Duration::from_millis(600);

/// The same limit if nothing waits.
const UNAWAITED_CLOSE: Duration = Duration::from_secs(5);

/// Time limit for a process's first report. On the slowest boards its libraries are read from a card while all
/// others of the system start too.
const HELLO_LIMIT: Duration = Duration::from_secs(15);

/// Time limit for examining devices: some answer slowly about their input.
const EXAMINE_LIMIT: Duration = Duration::from_secs(15);

/// Time limit for loading GStreamer: the very first process lists hundreds of plugins, read from a card, and others
/// wait for it.
const LOAD_LIMIT: Duration = Duration::from_secs(90);

/// Time limit for the trial of one encoder, which ends by itself after 2 s without a picture.
pub(super) const TRIAL_LIMIT: Duration = Duration::from_secs(10);

/// Time limit for starting a graph.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Longest time that a process may claim to wait for a frame: for the first one of a camera that was often silent,
/// or for each one of a camera that makes one in ten minutes.
const MAX_PATIENCE: Duration = Duration::from_secs(2400);

/// How late the process's own check of its frames may be on a busy board.
const LATE: Duration = Duration::from_millis(400);

/// Requests that wait for the device to be closed for privacy.
pub(super) struct PrivacyRequests {
    /// When they are answered with what is known.
    pub(super) limit: Instant,
    pub(super) waiting: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Default for PrivacyRequests {
    fn default() -> Self {
        Self { limit: Instant::now() + PRIVACY_LIMIT, waiting: Vec::new() }
    }
}

impl PrivacyRequests {
    /// Answers them: whether the device is closed.
    pub(super) fn answer(self, closing: Option<&Closing>) {
        for waiting in self.waiting {
            // The receiver is gone only if it no longer wants the answer.
            waiting.send(closing.map_or(Ok(()), |closing| Err(closing.may_be_open_error()))).ok();
        }
    }
}

/// State of a device. It is opened once at a time.
#[derive(Debug)]
pub(super) enum DeviceState {
    /// The process has no device open, or does not run.
    Closed,
    /// The process was asked to open it.
    Opening {
        /// Number of the attempt.
        attempt: u32,
    },
    /// The graph is built, and runs or starts.
    Open {
        /// Number of the attempt.
        attempt: u32,
        /// Description of the graph.
        built: Built,
    },
    /// The process was asked to close it.
    Closing(Closing),
}

/// A device that is not closed yet.
#[derive(Debug)]
pub(super) struct Closing {
    /// The number of its attempt.
    pub(super) attempt: u32,
    device: String,
    /// The action that does not finish: `opened` or `closed`.
    verb: &'static str,
    /// When its process is killed; `None` after that.
    pub(super) limit: Option<Instant>,
    /// Whether the process was killed and is still there.
    pub(super) is_unkillable: bool,
}

/// Whether a request or an attempt waits for the device to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Awaited,
    Unawaited,
}

impl DeviceState {
    /// The attempt whose reports count.
    pub(super) fn attempt(&self) -> Option<u32> {
        match self {
            Self::Closed => None,
            Self::Opening { attempt } | Self::Open { attempt, .. } => Some(*attempt),
            Self::Closing(closing) => Some(closing.attempt),
        }
    }

    /// The graph that runs or starts.
    pub(super) fn built(&self) -> Option<&Built> {
        match self {
            Self::Open { built, .. } => Some(built),
            _ => None,
        }
    }

    /// The device that is not closed yet.
    pub(super) fn closing(&self) -> Option<&Closing> {
        match self {
            Self::Closing(closing) => Some(closing),
            _ => None,
        }
    }

    /// Marks that its process was killed and is still there.
    pub(super) fn mark_unkillable(&mut self, device: String) {
        self.begin_closing(device, Urgency::Unawaited);
        if let Self::Closing(closing) = self {
            (closing.limit, closing.is_unkillable) = (None, true);
        }
    }

    /// Starts closing it. Returns the attempt to close, unless the process was asked to already.
    pub(super) fn begin_closing(&mut self, device: String, urgency: Urgency) -> Option<u32> {
        let verb = if matches!(self, Self::Opening { .. }) { "opened" } else { "closed" };
        let patience = if urgency == Urgency::Awaited { AWAITED_CLOSE } else { UNAWAITED_CLOSE };
        let limit = Instant::now() + patience;
        match self {
            Self::Closed => None,
            Self::Closing(closing) => {
                closing.limit = closing.limit.map(|before| before.min(limit));
                None
            }
            Self::Opening { attempt } | Self::Open { attempt, .. } => {
                let attempt = *attempt;
                let closing = Closing { attempt, device, verb, limit: Some(limit), is_unkillable: false };
                *self = Self::Closing(closing);
                Some(attempt)
            }
        }
    }
}

impl Closing {
    /// The error if it hangs.
    pub(super) fn stuck_error(&self) -> Error {
        Error::Stuck { device: self.device.clone(), verb: self.verb.into() }
    }

    /// The error if it should be closed for privacy.
    pub(super) fn may_be_open_error(&self) -> Error {
        Error::MaybeOpen { device: self.device.clone() }
    }
}

/// The step that a process has reported, and since when.
#[derive(Debug)]
pub(super) struct CurrentStep {
    /// `None` before its first report.
    pub(super) step: Option<Step>,
    pub(super) since: Instant,
}

impl CurrentStep {
    /// A process that was just launched.
    pub(super) fn at_launch() -> Self {
        Self { step: None, since: Instant::now() }
    }

    /// In words.
    pub(super) fn in_words(&self) -> String {
        self.step.as_ref().map_or_else(|| "starting".into(), Step::to_string)
    }

    /// Time limit of the present step. While a graph runs, its frames are checked instead.
    fn limit(&self, device: &DeviceState) -> Option<Duration> {
        match self.step {
            None => Some(HELLO_LIMIT),
            Some(Step::Resting) if matches!(device, DeviceState::Opening { .. }) => Some(EXAMINE_LIMIT),
            Some(Step::Loading) => Some(LOAD_LIMIT),
            Some(Step::Looking { .. }) => Some(EXAMINE_LIMIT),
            Some(Step::Trying { .. }) => Some(TRIAL_LIMIT),
            Some(Step::Starting { .. }) => Some(START_LIMIT),
            // It reports running, but has not built a graph.
            Some(Step::Running { .. }) if matches!(device, DeviceState::Opening { .. }) => Some(START_LIMIT),
            // While it waits, other processes try encoders, with their own limit.
            Some(Step::Resting | Step::Waiting | Step::Running { .. } | Step::Stopping { .. }) => None,
        }
    }

    /// Whether the process hangs: a step takes too long, or a graph delivers no frames and the process does not
    /// report it. No frame has come for `silence`.
    pub(super) fn hangs(&self, device: &DeviceState, has_frames: bool, silence: Duration) -> bool {
        let waited = self.since.elapsed();
        let DeviceState::Open { built, .. } = device else {
            return self.limit(device).is_some_and(|limit| waited > limit);
        };
        let patience = |reported: Duration| reported.min(MAX_PATIENCE) + LATE;
        let (first, next) = (patience(built.patience.first), patience(built.patience.next));
        match &self.step {
            // Whatever step it reports.
            _ if has_frames => silence > next,
            Some(Step::Running { .. }) if silence.min(waited) > first => true,
            _ => silence > START_LIMIT + first || self.limit(device).is_some_and(|limit| waited > limit),
        }
    }
}
