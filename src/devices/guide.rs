//! What the parent is told of the steps of an attempt, and the leave that it gives.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use peercam::capture::{Report, Step};

use crate::output::Output;

/// Tells the parent what is done, and waits for its leave where that is needed. A clone is the same.
#[derive(Clone, Debug)]
pub struct Guide {
    /// None where nobody is told.
    output: Option<Output>,
    /// What is done now.
    step: Arc<Mutex<Step>>,
    /// Whether leave was given that nobody has taken yet.
    leave: Arc<(Mutex<bool>, Condvar)>,
}

impl Guide {
    /// Tells by `output`.
    pub fn new(output: Output) -> Self {
        Self::by(Some(output))
    }

    /// Tells nobody, and needs no leave.
    #[cfg(test)]
    pub fn alone() -> Self {
        Self::by(None)
    }

    fn by(output: Option<Output>) -> Self {
        Self { output, step: Arc::new(Mutex::new(Step::Resting)), leave: Arc::default() }
    }

    /// What is done from now on.
    pub fn doing(&self, step: Step) {
        let mut now = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone_from(&step);
        if let Some(output) = &self.output {
            output.report(&Report::Doing(step));
        }
    }

    /// Does `trial` of an encoder once it may be tried: two processes must not try one at once and find it busy.
    pub fn trying<T>(&self, encoder: &str, trial: impl FnOnce() -> T) -> T {
        let before = self.step.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.doing(Step::Waiting);
        self.wait_for_leave();
        self.doing(Step::Trying { encoder: encoder.to_owned() });
        let outcome = trial();
        self.doing(before);
        outcome
    }

    fn wait_for_leave(&self) {
        if self.output.is_none() {
            return;
        }
        let given = self.given();
        let waited = self.leave.1.wait_while(given, |given| !*given);
        *waited.unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// The parent gives leave.
    pub fn give_leave(&self) {
        *self.given() = true;
        self.leave.1.notify_one();
    }

    fn given(&self) -> MutexGuard<'_, bool> {
        self.leave.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
