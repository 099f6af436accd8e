//! Timers of an actor: the times of its next actions, the time since the last frame, and the time of its last check.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The times of the next actions.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// When to stop a source that nobody watches.
    pub(super) stop_source: Option<Instant>,
    pub(super) retry: Option<Instant>,
    pub(super) check: Option<Instant>,
    pub(super) key_frame: Option<Instant>,
    /// When to end a process that is not needed.
    pub(super) end_process: Option<Instant>,
}

impl Timers {
    pub(super) fn next(&self) -> Option<Instant> {
        [self.stop_source, self.retry, self.check, self.key_frame, self.end_process].into_iter().flatten().min()
    }
}

/// Measures the time since the last frame.
#[derive(Debug, Default)]
pub(super) struct SilenceTimer {
    pub(super) published: u64,
    pub(super) since: Option<Instant>,
}

impl SilenceTimer {
    pub(super) fn silence(&mut self, published: u64, now: Instant) -> Duration {
        if published != self.published {
            *self = Self { published, since: Some(now) };
        }
        now - *self.since.get_or_insert(now)
    }
}

/// When an actor last checked its source. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LastCheck(Arc<Mutex<Option<Instant>>>);

impl LastCheck {
    pub(super) fn set(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Time of the last check; `None` if there was never a reason for one.
    pub(super) fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_frame() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let mut timer = SilenceTimer { published: 0, since: Some(zero) };
        assert_eq!(timer.silence(0, at(100)), Duration::from_millis(100));
        assert_eq!(timer.silence(5, at(200)), Duration::ZERO);
        assert_eq!(timer.silence(5, at(1000)), Duration::from_millis(800));
    }
}
