//! Whether the board has sound at the moment, as its microphone tells.

use std::time::Duration;

use tokio::sync::watch;

use crate::camera::{Microphone, State};
use crate::tasks::{Backoff, Group};

/// Pauses before a microphone is asked again that could not be: at the start of a slow board its capture process may take
/// longer than an answer is waited for, and where none can be started it is cheap to try.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether there is sound, now and as it changes; none until the microphone has told. Without one there never is.
pub fn watch(microphone: Option<&Microphone>, group: &Group) -> watch::Receiver<Option<bool>> {
    let (told, has_sound) = watch::channel(None);
    let Some(microphone) = microphone.cloned() else {
        told.send_replace(Some(false));
        return has_sound;
    };
    let (mut statuses, stop) = (microphone.status(), group.clone());
    group.spawn(async move {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let mut pause = None;
            let state = statuses.borrow_and_update().state;
            let now = match state {
                State::Live => Some(true),
                State::Private | State::Waiting => Some(false),
                // A device that fails again and again is there no sooner than it brings something.
                State::Starting => None,
                State::Idle => match microphone.is_there().await {
                    Ok(is_there) => {
                        pauses.reset();
                        Some(is_there)
                    }
                    Err(error) => {
                        tracing::debug!(reason = %error, "whether there is sound is not known");
                        pause = Some(pauses.pause());
                        None
                    }
                },
            };
            if now.is_some() {
                told.send_if_modified(|before| std::mem::replace(before, now) != now);
            }
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                changed = statuses.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    });
    has_sound
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use crate::camera::{AudioConfig, Launcher, Log};
    use crate::capture::wire::{self, Kind};
    use crate::capture::{Answer, Report};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_microphone_that_could_not_be_asked_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        // Ends at once the first time, and then answers the second question.
        let (program, words) = (folder.path().join("program"), folder.path().join("words"));
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit\n[ -e again ] && exec tail -f words >&0\n: > again\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let hello = Report::Hello { version: wire::VERSION };
        let answer = Report::Answer { request: 2, answer: Ok(Answer::HasSound(true)) };
        let said = [hello, answer].map(|report| wire::message(Kind::Report, &report).unwrap());
        fs::write(words, said.concat()).unwrap();
        let group = Group::new();
        let launcher = Launcher::of_program(program, Log::default(), Duration::from_secs(60));
        let microphone = Microphone::open(AudioConfig::default(), &[], &launcher, &group);
        let mut has_sound = watch(microphone.as_ref(), &group);
        assert_eq!(*has_sound.borrow(), None);
        let found = has_sound.wait_for(|has_sound| *has_sound == Some(true));
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap().unwrap();
        assert!(group.close(Duration::from_secs(5)).await);
    }
}
