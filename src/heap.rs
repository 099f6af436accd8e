//! Returns memory that viewers needed to the system once the last viewer is gone.
//!
//! glibc returns what is free at the end of its heap. Free pages between allocations that remain stay with the
//! process: 8 MB after 21 viewers (docs/measurements.md). malloc_trim(3) returns them.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::tasks::Group;

/// Time without viewers after which memory is returned. A page that is reloaded needs it again at once.
const PAUSE: Duration = Duration::from_secs(5);

/// Returns memory a while after the last of `viewers` has gone.
pub fn trim_when_idle(viewers: watch::Receiver<usize>, group: &Group) {
    let stop = group.clone();
    group.keep("heap trimming", viewers, move |viewers| {
        let stop = stop.clone();
        Box::pin(async move {
            tokio::select! {
                () = stop.stopped() => {}
                () = after_each_last(viewers, trim) => {}
            }
        })
    });
}

/// Calls `then` each time that viewers were there and have been gone for [`PAUSE`]. Returns when the sender of
/// `viewers` is dropped.
async fn after_each_last(viewers: &mut watch::Receiver<usize>, mut then: impl FnMut()) {
    while viewers.wait_for(|count| *count > 0).await.is_ok() {
        loop {
            if viewers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            tokio::select! {
                () = sleep(PAUSE) => break,
                came = viewers.wait_for(|count| *count > 0) => if came.is_err() { return },
            }
        }
        then();
    }
}

/// Takes some milliseconds, during which no thread can allocate.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no kept crate wraps this one call")]
fn trim() {
    // malloc_trim(3): 0 leaves nothing to spare at the end of the heap. It takes no pointers, and locks each arena.
    let is_less = unsafe { libc::malloc_trim(0) } == 1;
    tracing::debug!(is_less, "memory returned to the system");
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_returned_once_after_each_pause_without_viewers() {
        let (count, mut viewers) = watch::channel(0);
        let given = AtomicUsize::new(0);
        let keeper = after_each_last(&mut viewers, || {
            given.fetch_add(1, Ordering::Relaxed);
        });
        let people = async {
            let after = async |viewers: usize, time: Duration| {
                count.send_replace(viewers);
                sleep(time).await;
                given.load(Ordering::Relaxed)
            };
            assert_eq!(after(0, PAUSE * 10).await, 0, "nobody has been there");
            assert_eq!(after(2, PAUSE * 10).await, 0);
            assert_eq!(after(0, PAUSE / 2).await, 0);
            assert_eq!(after(1, PAUSE * 10).await, 0, "somebody came back in time");
            assert_eq!(after(0, PAUSE * 10).await, 1, "once");
            assert_eq!(after(1, PAUSE).await, 1);
            assert_eq!(after(0, PAUSE * 2).await, 2, "and again");
        };
        tokio::select! {
            () = keeper => panic!("the count has not ended"),
            () = people => {}
        }
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn free_pages_between_allocations_are_returned_to_the_system() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        // 40 MB in pieces below the mmap threshold, of which every tenth stays.
        let mut pieces: Vec<Vec<u8>> = (0..4000).map(|_| vec![1; 10_000]).collect();
        let mut at = 0;
        pieces.retain(|_| {
            at += 1;
            at % 10 == 0
        });
        let before = resident();
        trim();
        let after = resident();
        assert!(after + 15_000 < before, "{before} KiB before, {after} KiB after");
        drop(pieces);
    }
}
