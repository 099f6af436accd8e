//! What an actor has to do when: key frames that are wished for, and how long no frame has come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause between forced key frames: each costs as much as ten frames or more, and a flood of wishes would
/// make every viewer's picture worse.
const KEY_FRAME_PAUSE: Duration = Duration::from_millis(500);

/// When to do what next.
#[derive(Debug, Default)]
pub(super) struct Timers {
    pub(super) leave: Option<Instant>,
    pub(super) retry: Option<Instant>,
    pub(super) check: Option<Instant>,
    pub(super) key_frame: Option<Instant>,
    /// When a process ends that nobody needs.
    pub(super) end: Option<Instant>,
}

impl Timers {
    pub(super) fn next(&self) -> Option<Instant> {
        [self.leave, self.retry, self.check, self.key_frame, self.end].into_iter().flatten().min()
    }
}

/// Returns when `timer` is due: never without one.
pub(super) async fn sleep_until(timer: Option<Instant>) {
    match timer {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Which wishes for a key frame are fulfilled when.
#[derive(Debug, Default)]
pub(super) struct KeyFrames {
    last: Option<Instant>,
}

impl KeyFrames {
    /// When a wish made `now` is fulfilled: at once, or at the end of the pause together with others.
    pub(super) fn wish(&self, now: Instant) -> Option<Instant> {
        Some(self.last.map_or(now, |last| now.max(last + KEY_FRAME_PAUSE)))
    }

    pub(super) fn forced(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

/// Since when no frame came.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) published: u64,
    pub(super) since: Option<Instant>,
}

impl Progress {
    pub(super) fn silence(&mut self, published: u64, now: Instant) -> Duration {
        if published != self.published {
            *self = Self { published, since: Some(now) };
        }
        now - *self.since.get_or_insert(now)
    }
}

/// When an actor looked last at what it takes care of. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked(Arc<Mutex<Option<Instant>>>);

impl Looked {
    pub(super) fn at(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// When it did; `None` if it never had a reason to.
    pub(super) fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_wish_is_fulfilled_at_once_and_a_flood_at_most_twice_a_second() {
        let zero = Instant::now();
        let mut gate = KeyFrames::default();
        assert_eq!(gate.wish(zero), Some(zero));
        gate.forced(zero);
        let mut forced = 1;
        let mut due = None;
        for millis in 1..=3000 {
            let now = zero + Duration::from_millis(millis);
            due = due.or(gate.wish(now));
            if due.is_some_and(|due| due <= now) {
                gate.forced(now);
                due = None;
                forced += 1;
            }
        }
        assert_eq!(forced, 7, "one at once, then one every 500 ms for 3 s");
        let later = zero + Duration::from_secs(10);
        assert_eq!(gate.wish(later), Some(later));
    }

    #[test]
    fn silence_is_counted_from_the_last_frame_on() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let mut progress = Progress { published: 0, since: Some(zero) };
        assert_eq!(progress.silence(0, at(100)), Duration::from_millis(100));
        assert_eq!(progress.silence(5, at(200)), Duration::ZERO);
        assert_eq!(progress.silence(5, at(1000)), Duration::from_millis(800));
    }
}
