//! A device between closed and open. Some devices hang when they are opened, others when they are closed, so both happen
//! on threads of their own, and the one who waits for it is free to do something else meanwhile.

use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::tasks::{self, Group};

use super::complaints;
use super::opener::{Settings, Shared, locked};
use super::pipeline::{Event, Pipeline, Sink};
use super::{Error, Status};

/// How long a device may take to open. Where no encoder is known yet, each of the table may take 2 s of it.
const OPENING: Duration = Duration::from_secs(30);

/// How long a device may take to close: the kernel gives up waiting for sound after ten seconds.
const CLOSING: Duration = Duration::from_secs(11);

/// How long privacy waits for the device to close before it says that it may still be open: the answer is to be there
/// within a second.
const PROMPT: Duration = Duration::from_millis(500);

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

/// Where a device is. It is opened once at a time: attempts must not pile up behind one that hangs.
pub(super) enum Device<S> {
    Closed,
    Opening(Opening<S>),
    Open(Box<Pipeline>),
    Closing(Closing),
}

/// What a device brings about by itself.
pub(super) enum Told {
    Opened(Result<Box<Pipeline>, Error>),
    Reported(Event),
    Closed,
}

impl<S: Settings> Device<S> {
    /// What happens next. Cancelling the wait loses nothing.
    pub(super) async fn told(&mut self) -> Told {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(opening) => Told::Opened(opening.opened().await.map(Box::new)),
            Self::Open(pipeline) => Told::Reported(pipeline.event().await),
            Self::Closing(closing) => {
                closing.closed().await;
                Told::Closed
            }
        }
    }

    /// When it counts as hanging, as far as it does not yet.
    pub(super) fn limit(&self) -> Option<Instant> {
        match self {
            Self::Opening(opening) => Some(opening.limit),
            Self::Closing(closing) => closing.limit,
            Self::Closed | Self::Open(_) => None,
        }
    }

    /// What runs.
    pub(super) fn pipeline(&self) -> Option<&Pipeline> {
        match self {
            Self::Open(pipeline) => Some(pipeline),
            _ => None,
        }
    }

    /// What does not let itself be closed yet.
    pub(super) fn closing(&self) -> Option<&Closing> {
        match self {
            Self::Closing(closing) => Some(closing),
            _ => None,
        }
    }

    /// What it is being opened with, if it is. It counts as closed then.
    pub(super) fn begun_with(&mut self) -> Option<S> {
        match mem::replace(self, Self::Closed) {
            Self::Opening(opening) => Some(opening.settings),
            _ => None,
        }
    }

    /// Has it closed; nothing of it is published any more. `status` has words for what is being opened.
    pub(super) fn let_go(&mut self, status: &Status, group: &Group) {
        *self = match mem::replace(self, Self::Closed) {
            Self::Opening(opening) => {
                Self::Closing(opening.give_up(format!("{} ({})", status.name, status.device), group))
            }
            Self::Open(pipeline) => Self::Closing(Closing::begin(*pipeline, group)),
            other => other,
        };
    }

    /// From now on it counts as hanging, if it does not open or close; gives the words for it.
    pub(super) fn hangs(&mut self) -> Option<Error> {
        match self {
            Self::Closing(closing) => {
                closing.limit = None;
                Some(closing.hangs())
            }
            _ => None,
        }
    }
}

/// Whether frames of an attempt are published. It is shut before the attempt is stopped: one that hangs may go on.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    is_shut: Arc<Mutex<bool>>,
}

impl Gate {
    /// Lets `publish` happen unless the gate is shut; says whether it did.
    pub(super) fn pass(&self, publish: impl FnOnce()) -> bool {
        // Held meanwhile, so that nothing is published after `shut` has returned. Nobody else wants it until then.
        let is_shut = self.is_shut.lock().expect("lock is never poisoned: no panic while held");
        if !*is_shut {
            publish();
        }
        !*is_shut
    }

    /// From now on nothing passes.
    fn shut(&self) {
        *self.is_shut.lock().expect("lock is never poisoned: no panic while held") = true;
    }
}

/// A source that is being opened.
pub(super) struct Opening<S> {
    settings: S,
    /// When it counts as hanging.
    limit: Instant,
    gate: Gate,
    outcome: oneshot::Receiver<Result<Pipeline, Error>>,
    /// Ends when the thread does.
    ended: oneshot::Receiver<()>,
}

impl<S: Settings> Opening<S> {
    /// Begins on a thread of `group`.
    pub(super) fn begin(source: Shared<S>, sink: Sink, settings: S, group: &Group) -> Self {
        let (gate, taken) = (Gate::default(), settings.clone());
        let ((done, outcome), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let passed = gate.clone();
        group.spawn_blocking(move || {
            let opened = tasks::caught(|| {
                complaints::init()?;
                let graph = locked(&source).open(&taken)?;
                Pipeline::run(graph, sink, passed)
            });
            let opened = opened.unwrap_or_else(|panic| Err(Error::Panicked(panic)));
            // What nobody wants any more is closed here.
            drop(done.send(opened));
            drop::<oneshot::Sender<()>>(end);
        });
        Self { settings, limit: Instant::now() + OPENING, gate, outcome, ended }
    }

    /// What became of it.
    async fn opened(&mut self) -> Result<Pipeline, Error> {
        (&mut self.outcome).await.unwrap_or(Err(Error::Closed))
    }

    /// Gives it up: if it succeeds all the same, it is closed at once. `device` is what is opened, in words.
    fn give_up(mut self, device: String, group: &Group) -> Closing {
        self.gate.shut();
        self.outcome.close();
        match self.outcome.try_recv() {
            Ok(Ok(pipeline)) => Closing::begin(pipeline, group),
            _ => Closing::of(device, "opened", self.ended),
        }
    }
}

/// A device that has not been let go yet.
pub(super) struct Closing {
    device: String,
    /// What it should let itself be: `opened` or `closed`.
    verb: &'static str,
    closed: oneshot::Receiver<()>,
    /// When it counts as hanging; `None` once it does.
    pub(super) limit: Option<Instant>,
}

impl Closing {
    /// Stops `pipeline` on a thread of `group`; nothing of it is published any more.
    fn begin(pipeline: Pipeline, group: &Group) -> Self {
        pipeline.gate().shut();
        let device = pipeline.graph().device.clone();
        let (done, closed) = oneshot::channel::<()>();
        group.spawn_blocking(move || {
            drop(pipeline);
            drop(done);
        });
        Self::of(device, "closed", closed)
    }

    fn of(device: String, verb: &'static str, closed: oneshot::Receiver<()>) -> Self {
        Self { device, verb, closed, limit: Some(Instant::now() + CLOSING) }
    }

    /// Returns when the device is closed.
    async fn closed(&mut self) {
        // Nothing is ever sent: the thread drops the other end.
        (&mut self.closed).await.ok();
    }

    /// What to say of it where it hangs.
    pub(super) fn hangs(&self) -> Error {
        Error::Stuck { device: self.device.clone(), verb: self.verb }
    }

    /// What to say of it where it ought to be closed to everybody.
    pub(super) fn may_be_open(&self) -> Error {
        Error::MaybeOpen { device: self.device.clone() }
    }
}
