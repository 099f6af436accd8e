//! Tasks that stop together, and the pauses between attempts.
//!
//! Every task of the product lives in a [`Group`], so that shutting down means stopping groups, not hoping.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks that are told to stop together and waited for together.
///
/// A clone is the same group; [`Group::child`] is a group of its own that also stops when its parent does.
#[derive(Clone, Debug, Default)]
pub struct Group {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Group {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group whose stop follows this one's, and which can be stopped alone.
    ///
    /// Its tasks are waited for by the parent too.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), tasks: self.tasks.clone() }
    }

    /// Runs `task` in this group. The task watches [`Group::stopped`] itself.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Runs blocking work on a thread of the blocking pool, counted as a task of this group.
    pub fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.tasks.spawn_blocking(work);
    }

    /// Completes once the group was told to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the group was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells all tasks to stop, without waiting for them.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Tells all tasks to stop and waits for them, at most for `grace`. Returns whether all ended in time.
    pub async fn close(&self, grace: Duration) -> bool {
        self.stop();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }

    /// How many tasks run at the moment.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Pauses between attempts: doubling from `first` to `most`, each shortened by up to a quarter at random,
/// so that a fleet of boards does not knock in step after a power cut.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to at most `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The pause to make now; the one after it is twice as long.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.most);
        pause.mul_f64(1.0 - rand::random::<f64>() / 4.0)
    }

    /// The attempt succeeded: begin again with the shortest pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let bounds = [(75, 100), (150, 200), (262, 350), (262, 350)];
        for (least, most) in bounds {
            let pause = backoff.pause().as_millis();
            assert!((least..=most).contains(&pause), "{pause} is not within {least}..={most}");
        }
        backoff.reset();
        assert!(backoff.pause().as_millis() <= 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_waits_for_its_tasks_and_for_those_of_its_children() {
        let group = Group::new();
        let child = group.child();
        let inner = child.clone();
        child.spawn(async move { inner.stopped().await });
        assert_eq!(group.len(), 1);
        assert!(group.close(Duration::from_secs(1)).await);
        assert!(group.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_reported() {
        let group = Group::new();
        group.spawn(std::future::pending());
        assert!(!group.close(Duration::from_secs(1)).await);
    }
}
