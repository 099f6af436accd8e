//! Whether the board has sound at the moment, as its microphone tells.

use tokio::sync::{oneshot, watch};

use crate::camera::{Microphone, State};
use crate::tasks::Group;

/// Whether there is sound, now and as it changes. Without a microphone there never is.
pub fn watch(microphone: Option<&Microphone>, group: &Group) -> watch::Receiver<bool> {
    let (told, has_sound) = watch::channel(false);
    let Some(microphone) = microphone.cloned() else { return has_sound };
    let (mut statuses, stop, probing) = (microphone.status(), group.clone(), group.clone());
    group.spawn(async move {
        loop {
            let state = statuses.borrow_and_update().state;
            let now = match state {
                State::Live => Some(true),
                State::Private | State::Waiting => Some(false),
                // A device that fails again and again is there no sooner than it brings something.
                State::Starting => None,
                State::Idle => is_there(microphone.clone(), &probing).await,
            };
            if let Some(now) = now {
                told.send_if_modified(|before| std::mem::replace(before, now) != now);
            }
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                changed = statuses.changed() => if changed.is_err() { break },
            }
        }
    });
    has_sound
}

/// Looks for the device; `None` while the service ends.
async fn is_there(microphone: Microphone, group: &Group) -> Option<bool> {
    let (told, found) = oneshot::channel();
    group.spawn_blocking(move || {
        // Nobody waits where the service ends.
        told.send(microphone.is_there()).ok();
    });
    found.await.ok()
}
