//! Tasks: groups that stop together, recovery from panics, waits for a time that may never come, and pauses between
//! attempts.
//!
//! Every task of the product belongs to a [`Group`], so that shutting down means stopping groups. No panic ends the
//! process or goes unnoticed: a task of [`Group::spawn`] ends alone, one of [`Group::keep`] is started again.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic;
use std::panic::{AssertUnwindSafe, Location, PanicHookInfo, catch_unwind};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause before a task that panicked is started again. An operator's command waits at most this long after the
/// first panic.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause: a task that panics at once each time then writes two log lines a minute.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A task that ran for this long works: its next panic counts as its first.
const WORKS: Duration = Duration::from_secs(60);

/// Most characters of a panic message that are logged; the source location has the rest.
pub const MAX_MESSAGE: usize = 300;

/// Tasks that are asked to stop together and waited for together.
///
/// A clone is the same group; [`Group::child`] is a separate group that also stops when its parent does.
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

    /// A group that stops when this one does, and can also be stopped alone.
    ///
    /// The parent waits for its tasks too.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), tasks: self.tasks.clone() }
    }

    /// Runs `task` in this group. The task watches [`Group::stopped`] itself.
    ///
    /// A panic is logged with the place of this call, and everything the task held is dropped: `spawn` is for tasks
    /// that serve one viewer, connection or command. Work that must go on belongs in [`Group::keep`].
    #[track_caller]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = Location::caller();
        self.tasks.spawn(async move {
            // Everything the task held is dropped here, and nothing else can see it.
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                tracing::error!(task = %place, panic = panic_message(&*panic), "a task panicked and ended");
            }
        });
    }

    /// Runs `task` over `state` in this group until it returns. A panic is logged with `name` and the place of this
    /// call; after a pause `task` starts again, with `state` as the panic left it.
    ///
    /// The state holds data that must not be lost, such as the receiving end of a channel; data that `task` can build
    /// from it belongs in `task`. The task watches [`Group::stopped`] itself:
    ///
    /// ```
    /// # use peercam::tasks::Group;
    /// # async fn example(group: Group, orders: tokio::sync::mpsc::Receiver<u32>) {
    /// let stop = group.clone();
    /// group.keep("orders", orders, move |orders| {
    ///     let stop = stop.clone();
    ///     Box::pin(async move {
    ///         loop {
    ///             tokio::select! {
    ///                 () = stop.stopped() => break,
    ///                 order = orders.recv() => match order {
    ///                     Some(order) => println!("{order}"),
    ///                     None => break,
    ///                 },
    ///             }
    ///         }
    ///     })
    /// });
    /// # }
    /// ```
    #[track_caller]
    pub fn keep<S, T>(&self, name: impl Into<String>, mut state: S, mut task: T)
    where
        S: Send + 'static,
        T: for<'s> FnMut(&'s mut S) -> BoxFuture<'s, ()> + Send + 'static,
    {
        let (place, name, stop) = (Location::caller(), name.into(), self.clone());
        self.tasks.spawn(async move {
            let mut pauses = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
            loop {
                let begun = Instant::now();
                // Catches panics of the call itself too, before there is a future.
                let run = async { task(&mut state).await };
                let Err(panic) = AssertUnwindSafe(run).catch_unwind().await else { return };
                if begun.elapsed() >= WORKS {
                    pauses.reset();
                }
                let pause = pauses.pause();
                let pause_ms = pause.as_millis() as u64;
                let panic = panic_message(&*panic);
                tracing::error!(task = name, %place, panic, pause_ms, "a task panicked and is started again");
                tokio::select! {
                    () = stop.stopped() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    /// Runs blocking work on a thread of the blocking pool, counted as a task of this group. A panic is logged as
    /// by [`Group::spawn`].
    #[track_caller]
    pub fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        let place = Location::caller();
        self.tasks.spawn_blocking(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                tracing::error!(task = %place, panic = panic_message(&*panic), "a task panicked and ended");
            }
        });
    }

    /// Completes once the group was asked to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the group was asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Asks all tasks to stop, without waiting for them.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks all tasks to stop and waits for them, at most for `grace`. Returns whether all ended in time.
    pub async fn close(&self, grace: Duration) -> bool {
        self.stop();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }

    /// Number of tasks that run at present.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Returns at `due`; with `None`, never.
pub async fn sleep_until(due: Option<impl Into<tokio::time::Instant>>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The message of a panic, shortened for the log.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(MAX_MESSAGE).collect()
}

thread_local! {
    /// Place of the last panic within [`catch_panic`]; `None` outside of it.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work` and turns a panic in it into an error with its message and place. The panic is not reported
/// otherwise, because the caller reports it: libraries panic on unexpected data from devices.
///
/// # Errors
///
/// The message and place of the panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = PLACE.replace(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let place = PLACE.replace(outer).unwrap_or_default();
    outcome.map_err(|panic| format!("{} ({place})", panic_message(&*panic)))
}

/// Reports all panics through `report`, except those that are [`catch_panic`].
pub fn report_panics(report: impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |panic| {
        let is_caught = PLACE.with_borrow_mut(|place| {
            let found = panic.location().map(ToString::to_string).unwrap_or_default();
            place.as_mut().map(|place| *place = found).is_some()
        });
        if !is_caught {
            report(panic);
        }
    }));
}

/// Pauses between attempts: doubling from `first` to `max`, each shortened by up to a quarter at random, so that a
/// fleet of boards does not retry in step after a power cut.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to at most `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The pause to make now; the one after it is twice as long.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause.mul_f64(1.0 - rand::random::<f64>() / 4.0)
    }

    /// The attempt succeeded: begin again with the shortest pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex, Once};

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_short_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let bounds = [(75, 100), (150, 200), (262, 350), (262, 350)];
        for (least, max) in bounds {
            let pause = backoff.pause().as_millis();
            assert!((least..=max).contains(&pause), "{pause} is not within {least}..={max}");
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

    /// The log lines written while it is followed.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        fn follow(&self) -> tracing::subscriber::DefaultGuard {
            // tracing caches for all threads whether anyone wants a log line: a test beside this one that logs the
            // same line without a subscriber would suppress it here. With a global subscriber, every line is wanted.
            static FOR_ALL: Once = Once::new();
            FOR_ALL.call_once(|| tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap());
            let log = self.clone();
            let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone());
            tracing::subscriber::set_default(lines.finish())
        }
    }

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_that_panics_is_logged_and_continues_with_its_queue() {
        let (log, group) = (Log::default(), Group::new());
        let _followed = log.follow();
        let (orders, inbox) = mpsc::channel(8);
        let (done, mut results) = mpsc::channel(8);
        let stop = group.clone();
        group.keep("orders", inbox, move |inbox: &mut mpsc::Receiver<u32>| {
            let (stop, done) = (stop.clone(), done.clone());
            Box::pin(async move {
                loop {
                    tokio::select! {
                        () = stop.stopped() => break,
                        Some(order) = inbox.recv() => {
                            assert_ne!(order, 13, "the unlucky number");
                            done.send(order).await.unwrap();
                        }
                    }
                }
            })
        });
        for order in [1, 13, 2, 13, 3] {
            orders.send(order).await.unwrap();
        }
        for expected in 1..=3 {
            assert_eq!(results.recv().await, Some(expected));
        }
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains("a task panicked and is started again")).count();
        assert!(lines == 2 && text.contains("task=\"orders\"") && text.contains("src/tasks.rs:"), "{text}");
        assert!(text.contains("the unlucky number"), "{text}");
        assert!(group.close(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_that_always_panics_restarts_with_growing_pauses_and_stops_with_its_group() {
        let group = Group::new();
        let runs = Arc::new(AtomicU32::new(0));
        group.keep("broken", runs.clone(), |runs| {
            runs.fetch_add(1, Ordering::Relaxed);
            panic!("before there is a future")
        });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let ran = runs.load(Ordering::Relaxed);
        assert!((100..=200).contains(&ran), "{ran} times in an hour");
        assert!(group.close(Duration::from_secs(1)).await, "a pause does not hold up the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_logged_with_its_place_and_its_state_is_dropped() {
        let (log, group) = (Log::default(), Group::new());
        let _followed = log.follow();
        let (held, mut released) = oneshot::channel::<()>();
        let line = line!() + 1;
        group.spawn(async move {
            let _held = held;
            panic!("{}", "x".repeat(100_000));
        });
        assert!((&mut released).await.is_err());
        assert!(group.close(Duration::from_secs(1)).await);
        let text = log.text();
        assert!(text.contains(&format!("task=src/tasks.rs:{line}:")) && text.len() < 1000, "{text}");
    }

    #[tokio::test]
    async fn blocking_work_that_panics_is_waited_for_like_any_other() {
        let group = Group::new();
        group.spawn_blocking(|| panic!("in a thread"));
        assert!(group.close(Duration::from_secs(5)).await);
    }

    #[test]
    fn a_caught_panic_is_reported_with_its_place_to_the_caller_only() {
        static REPORTED: AtomicU32 = AtomicU32::new(0);
        report_panics(|panic| {
            // Other tests panic at the same time.
            let is_ours = panic.payload_as_str().is_some_and(|said| said.starts_with("caught or not"));
            REPORTED.fetch_add(u32::from(is_ours), Ordering::Relaxed);
        });
        let line = line!() + 1;
        let inner = || catch_panic(|| panic!("caught or not: {}", 13));
        let outer = catch_panic(|| {
            assert!(inner().is_err_and(|said: String| said.contains(&format!("13 (src/tasks.rs:{line}:"))));
            panic!("caught or not")
        });
        assert!(outer.is_err_and(|said: String| said.starts_with("caught or not (src/tasks.rs:")));
        assert_eq!(REPORTED.load(Ordering::Relaxed), 0);
        assert!(catch_unwind(|| panic!("caught or not")).is_err());
        assert_eq!(REPORTED.load(Ordering::Relaxed), 1);
        assert_eq!(catch_panic(|| 7), Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_reported() {
        let group = Group::new();
        group.spawn(std::future::pending());
        assert!(!group.close(Duration::from_secs(1)).await);
    }
}
