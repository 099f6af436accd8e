//! Reports the steps of an attempt to the parent, and waits for its permission to try encoders.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use peercam::capture::{Report, Step};

use crate::output::Output;

/// Reports steps to the parent, and waits for its permission where that is needed. Clones share their state.
#[derive(Clone, Debug)]
pub struct StepReporter {
    /// `None` to report to nobody.
    output: Option<Output>,
    /// The present step.
    step: Arc<Mutex<Step>>,
    /// Whether there is a permission that is not used yet.
    permit: Arc<(Mutex<bool>, Condvar)>,
}

impl StepReporter {
    /// Reports to `output`.
    pub fn new(output: Output) -> Self {
        Self::by(Some(output))
    }

    /// Reports to nobody, and needs no permission.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self::by(None)
    }

    fn by(output: Option<Output>) -> Self {
        Self { output, step: Arc::new(Mutex::new(Step::Resting)), permit: Arc::default() }
    }

    /// Reports the step from now on.
    pub fn doing(&self, step: Step) {
        let mut now = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone_from(&step);
        if let Some(output) = &self.output {
            output.report(&Report::Doing(step));
        }
    }

    /// Runs the `trial` of an encoder once that is permitted: two processes must not try one at once and find it busy.
    pub fn with_trial_permit<T>(&self, encoder: &str, trial: impl FnOnce() -> T) -> T {
        let before = self.step.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.doing(Step::Waiting);
        self.wait_for_permit();
        self.doing(Step::Trying { encoder: encoder.to_owned() });
        let outcome = trial();
        self.doing(before);
        outcome
    }

    fn wait_for_permit(&self) {
        if self.output.is_none() {
            return;
        }
        let granted = self.granted();
        let waited = self.permit.1.wait_while(granted, |granted| !*granted);
        *waited.unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Gives the parent's permission.
    pub fn grant_permit(&self) {
        *self.granted() = true;
        self.permit.1.notify_one();
    }

    fn granted(&self) -> MutexGuard<'_, bool> {
        self.permit.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
