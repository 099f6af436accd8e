//! What an actor has to know of settings, what it opens, and the threads on which it does so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::oneshot;

use crate::tasks::{self, Group};

use super::Error;
use super::pipeline::{Graph, Pipeline};

/// The configuration of a camera or of the microphone, as far as their actor has to understand it.
pub(super) trait Settings: Clone + PartialEq + Send + Sync + 'static {
    /// Whether a pipeline that was started with `running` only needs to be tuned.
    fn suits(&self, running: &Self) -> bool;
    /// Turns what can be turned while it runs.
    fn tune(&self, pipeline: &Pipeline);
    /// What happens when nobody watches.
    fn warmth(&self) -> Warmth;
}

/// What happens to a source that nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warmth {
    /// It runs on.
    Kept,
    /// Its device is closed.
    Closed,
}

/// The way from settings to a graph, which learns by what becomes of each.
pub(super) trait Opener<S>: Send {
    /// Describes the graph to run for the next attempt. Blocks.
    fn open(&mut self, settings: &S) -> Result<Graph, Error>;

    /// What became of the last attempt.
    fn learn(&mut self, outcome: Outcome<'_>);
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// Frames come and go on.
    Works,
    /// Some frames came, and then none.
    Stalled,
    /// It could not start, reported an error or brought no first frame.
    Failed(&'a Error),
}

/// A source that is shared with the thread that opens it. What a panic in it leaves is as good as before: each attempt
/// begins from the start.
pub(super) type Shared<S> = Arc<Mutex<dyn Opener<S>>>;

pub(super) fn locked<S>(source: &Shared<S>) -> MutexGuard<'_, dyn Opener<S> + 'static> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same; `None` where it is in use, as by a thread that hangs within a device's driver.
pub(super) fn unless_in_use<T: ?Sized>(shared: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match shared.try_lock() {
        Ok(found) => Some(found),
        Err(TryLockError::Poisoned(found)) => Some(found.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Runs what may block on a thread for such work. A panic in it is an error: devices say what libraries did not expect.
pub(super) async fn blocking<T: Send + 'static>(
    group: &Group,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, outcome) = oneshot::channel();
    group.spawn_blocking(move || {
        let outcome = tasks::caught(work).unwrap_or_else(|panic| Err(Error::Panicked(panic)));
        // Nobody takes the outcome only when the process ends.
        done.send(outcome).ok();
    });
    outcome.await.unwrap_or(Err(Error::Closed))
}
