//! A device between closed and open, as the actor of a source sees it: its capture process, and what that is told.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::capture::{Built, Error, Step};

/// How long privacy waits for the device to close before it says that it may still be open: the answer is to be there
/// within a second.
const PROMPT: Duration = Duration::from_millis(900);

/// How long a device may take to close that somebody waits for. The process is killed then, which closes it.
const AWAITED: Duration = Duration::from_millis(600);

/// The same where nobody waits.
const UNAWAITED: Duration = Duration::from_secs(5);

/// How long a process may take to say its first word. On the slowest boards its libraries are read from a card at the
/// same time as all others of the system's start.
const HELLO: Duration = Duration::from_secs(15);

/// How long it may look at devices: some answer questions about their input slowly.
const LOOKING: Duration = Duration::from_secs(15);

/// How long a process may take to load GStreamer: the first one of all lists hundreds of plugins, read from a card, and
/// others wait for it.
const LOADING: Duration = Duration::from_secs(90);

/// How long the trial of one encoder may take, which gives up by itself after 2 s without a picture.
pub(super) const TRYING: Duration = Duration::from_secs(10);

/// How long a graph may take to start.
const STARTING: Duration = Duration::from_secs(10);

/// How long a process may wait for a frame by its own account: the first one of a camera that was silent often, or each
/// one of a camera that brings one in ten minutes.
const MOST_PATIENCE: Duration = Duration::from_secs(2400);

/// What the process's own watch over its frames may be late, on a busy board.
const LATE: Duration = Duration::from_millis(400);

/// Those who wait for the device to be closed to everybody.
pub(super) struct Hiding {
    /// When they are told what is known.
    pub(super) limit: Instant,
    pub(super) told: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Default for Hiding {
    fn default() -> Self {
        Self { limit: Instant::now() + PROMPT, told: Vec::new() }
    }
}

impl Hiding {
    /// Tells them whether it is closed.
    pub(super) fn answer(self, closing: Option<&Closing>) {
        for told in self.told {
            // Nobody waits only where the request was given up.
            told.send(closing.map_or(Ok(()), |closing| Err(closing.may_be_open()))).ok();
        }
    }
}

/// Where a device is. It is opened once at a time.
#[derive(Debug)]
pub(super) enum Device {
    /// The process has none open, or does not run.
    Closed,
    /// The process was told to open it.
    Opening {
        /// Its number.
        attempt: u32,
    },
    /// The graph is built, and runs or starts.
    Open {
        /// Its number.
        attempt: u32,
        /// What it is built of.
        built: Built,
    },
    /// The process was told to close it.
    Closing(Closing),
}

/// A device that has not been let go yet.
#[derive(Debug)]
pub(super) struct Closing {
    /// The number of its attempt.
    pub(super) attempt: u32,
    device: String,
    /// What it should let itself be: `opened` or `closed`.
    verb: &'static str,
    /// When its process is killed; `None` once it was.
    pub(super) limit: Option<Instant>,
    /// Even that did not end it.
    pub(super) remains: bool,
}

/// Whether somebody waits for the device to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Somebody,
    Nobody,
}

impl Device {
    /// The attempt whose reports count.
    pub(super) fn attempt(&self) -> Option<u32> {
        match self {
            Self::Closed => None,
            Self::Opening { attempt } | Self::Open { attempt, .. } => Some(*attempt),
            Self::Closing(closing) => Some(closing.attempt),
        }
    }

    /// What runs, or starts.
    pub(super) fn built(&self) -> Option<&Built> {
        match self {
            Self::Open { built, .. } => Some(built),
            _ => None,
        }
    }

    /// What is not closed yet.
    pub(super) fn closing(&self) -> Option<&Closing> {
        match self {
            Self::Closing(closing) => Some(closing),
            _ => None,
        }
    }

    /// Its process was killed, and is still there.
    pub(super) fn remains(&mut self, device: String) {
        self.let_go(device, Wait::Nobody);
        if let Self::Closing(closing) = self {
            (closing.limit, closing.remains) = (None, true);
        }
    }

    /// It is to be closed. The attempt to be told, if it was not yet.
    pub(super) fn let_go(&mut self, device: String, wait: Wait) -> Option<u32> {
        let verb = if matches!(self, Self::Opening { .. }) { "opened" } else { "closed" };
        let patience = if wait == Wait::Somebody { AWAITED } else { UNAWAITED };
        let limit = Instant::now() + patience;
        match self {
            Self::Closed => None,
            Self::Closing(closing) => {
                closing.limit = closing.limit.map(|before| before.min(limit));
                None
            }
            Self::Opening { attempt } | Self::Open { attempt, .. } => {
                let attempt = *attempt;
                let closing = Closing { attempt, device, verb, limit: Some(limit), remains: false };
                *self = Self::Closing(closing);
                Some(attempt)
            }
        }
    }
}

impl Closing {
    /// What to say of it where it hangs.
    pub(super) fn hangs(&self) -> Error {
        Error::Stuck { device: self.device.clone(), verb: self.verb.into() }
    }

    /// What to say of it where it ought to be closed to everybody.
    pub(super) fn may_be_open(&self) -> Error {
        Error::MaybeOpen { device: self.device.clone() }
    }
}

/// What a process is doing, as it said, and since when.
#[derive(Debug)]
pub(super) struct Doing {
    /// None before its first word.
    pub(super) step: Option<Step>,
    pub(super) since: Instant,
}

impl Doing {
    /// A process that was just launched.
    pub(super) fn begun() -> Self {
        Self { step: None, since: Instant::now() }
    }

    /// In words.
    pub(super) fn in_words(&self) -> String {
        self.step.as_ref().map_or_else(|| "starting".into(), Step::to_string)
    }

    /// How long it may go on so. While a graph runs, its frames say whether it does.
    fn limit(&self, device: &Device) -> Option<Duration> {
        match self.step {
            None => Some(HELLO),
            Some(Step::Resting) if matches!(device, Device::Opening { .. }) => Some(LOOKING),
            Some(Step::Loading) => Some(LOADING),
            Some(Step::Looking { .. }) => Some(LOOKING),
            Some(Step::Trying { .. }) => Some(TRYING),
            Some(Step::Starting { .. }) => Some(STARTING),
            // It says that what it has not built runs.
            Some(Step::Running { .. }) if matches!(device, Device::Opening { .. }) => Some(STARTING),
            // While it waits others try encoders, for which they have a limit.
            Some(Step::Resting | Step::Waiting | Step::Running { .. } | Step::Stopping { .. }) => None,
        }
    }

    /// Whether it hangs: that takes too long, or a graph brings no frame and the process says nothing of it. No frame
    /// has come for `silence`.
    pub(super) fn hangs(&self, device: &Device, has_frames: bool, silence: Duration) -> bool {
        let waited = self.since.elapsed();
        let Device::Open { built, .. } = device else { return self.limit(device).is_some_and(|limit| waited > limit) };
        let patience = |told: Duration| told.min(MOST_PATIENCE) + LATE;
        let (first, next) = (patience(built.patience.first), patience(built.patience.next));
        match &self.step {
            // Whatever it says that it does.
            _ if has_frames => silence > next,
            Some(Step::Running { .. }) if silence.min(waited) > first => true,
            _ => silence > STARTING + first || self.limit(device).is_some_and(|limit| waited > limit),
        }
    }
}
