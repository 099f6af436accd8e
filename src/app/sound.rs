//! Reports whether the board has sound at present, from the state of its microphone.

use std::time::Duration;

use tokio::sync::watch;

use crate::camera::{Microphone, State};
use crate::tasks::{Backoff, Group};

/// Pauses before a microphone is asked again after a failed attempt. When a slow board starts, its capture process
/// may take longer than the time limit of an answer; if no process can be started, trying is cheap.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Whether there is sound, as it changes; `None` until the microphone has answered. Without a microphone,
/// `Some(false)`.
pub fn watch(microphone: Option<&Microphone>, group: &Group) -> watch::Receiver<Option<bool>> {
    let (sender, has_sound) = watch::channel(None);
    let Some(microphone) = microphone.cloned() else {
        sender.send_replace(Some(false));
        return has_sound;
    };
    let (mut statuses, stop) = (microphone.status(), group.clone());
    group.spawn(async move {
        let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
        loop {
            let mut pause = None;
            let state = statuses.borrow_and_update().state;
            let sound = match state {
                State::Live => Some(true),
                State::Private | State::Waiting => Some(false),
                // A device that fails repeatedly counts as present only once it delivers data.
                State::Starting => None,
                State::Idle => match microphone.is_there().await {
                    Ok(is_there) => {
                        backoff.reset();
                        Some(is_there)
                    }
                    Err(error) => {
                        tracing::debug!(reason = %error, "cannot find out whether there is sound");
                        pause = Some(backoff.pause());
                        None
                    }
                },
            };
            if sound.is_some() {
                sender.send_if_modified(|before| std::mem::replace(before, sound) != sound);
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

    use crate::camera::{AudioConfig, Launcher, LogSettings};
    use crate::capture::wire::{self, MessageKind};
    use crate::capture::{Answer, Report};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_query_of_the_microphone_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        // Exits at once the first time; the second time it answers the second question.
        let (program, words) = (folder.path().join("program"), folder.path().join("words"));
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit\n[ -e again ] && exec tail -f words >&0\n: > again\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let hello = Report::Hello { version: wire::VERSION };
        let answer = Report::Answer { request: 2, answer: Ok(Answer::HasSound(true)) };
        let messages = [hello, answer].map(|report| wire::message(MessageKind::Report, &report).unwrap());
        fs::write(words, messages.concat()).unwrap();
        let group = Group::new();
        let launcher = Launcher::with_program(program, LogSettings::default(), Duration::from_secs(60));
        let microphone = Microphone::open(AudioConfig::default(), &[], &launcher, &group);
        let mut has_sound = watch(microphone.as_ref(), &group);
        assert_eq!(*has_sound.borrow(), None);
        let found = has_sound.wait_for(|has_sound| *has_sound == Some(true));
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap().unwrap();
        assert!(group.close(Duration::from_secs(5)).await);
    }
}
