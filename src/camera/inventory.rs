//! Takes an inventory of the board, through a capture process that captures nothing.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::capture::{Answer, AudioConfig, Config, Error, Inventory, Question, Role};
use crate::media::{Codec, Feed, Format};
use crate::tasks::Group;

use super::device_state::DeviceState;
use super::launcher::Launcher;
use super::pending_questions::Responder;
use super::supervisor::{KillReason, Supervisor, SupervisorEvent};

/// The device of this process, for error texts.
const BOARD: &str = "the board";

/// How often to check whether the process hangs.
const CHECK: Duration = Duration::from_millis(200);

/// Time limit of the inventory: eight encoders of 10 s each, and the devices.
const LIMIT: Duration = Duration::from_secs(120);

/// Examines all devices and encoders. Takes seconds; devices in use are not disturbed. A device that hangs is skipped
/// and named.
pub async fn take_inventory(cameras: &[Config], audio: &AudioConfig, launcher: &Launcher) -> Inventory {
    let group = Group::new();
    let feed = Feed::new(Format::of(Codec::Opus));
    let mut supervisor = Supervisor::new(launcher.clone(), "survey", feed, || Role::Inventory, None);
    let begun = Instant::now();
    let inventory = loop {
        let late = || Error::Ended { device: BOARD.into(), how: format!("it took more than {LIMIT:?}") };
        let attempt = tokio::time::timeout(LIMIT, attempt(cameras, audio, &mut supervisor, &group)).await;
        match attempt.unwrap_or_else(|_| Err(late())) {
            Ok(inventory) => break inventory,
            // The next process skips what this one died of, so it gets further.
            Err(_) if supervisor.has_step_to_skip() && begun.elapsed() < LIMIT => {}
            Err(error) => break Inventory { failure: Some(error.to_string()), ..Inventory::default() },
        }
    };
    supervisor.end_process();
    group.close(Duration::from_secs(2)).await;
    inventory
}

async fn attempt(
    cameras: &[Config],
    audio: &AudioConfig,
    supervisor: &mut Supervisor,
    group: &Group,
) -> Result<Inventory, Error> {
    let (responder, mut answer) = oneshot::channel();
    let question = Question::Inventory { cameras: cameras.to_vec(), audio: audio.clone() };
    supervisor.ask_with_limit(question, Responder::Answer(responder), LIMIT, group);
    let mut ticks = tokio::time::interval(CHECK);
    loop {
        tokio::select! {
            answered = &mut answer => return match answered {
                Ok(Ok(Answer::Inventory(inventory))) => Ok(*inventory),
                Ok(Ok(_)) | Err(_) => Err(Error::other_answer(BOARD)),
                Ok(Err(error)) => Err(error),
            },
            event = supervisor.next_event(BOARD) => {
                if let SupervisorEvent::Ended(_, error) = event {
                    return Err(match error {
                        Error::Stuck { device, .. } if device == BOARD => {
                            Error::Ended { device, how: "it hung and was killed".into() }
                        }
                        other => other,
                    });
                }
            }
            _ = ticks.tick() => {
                if supervisor.hangs(&DeviceState::Closed, Duration::ZERO) {
                    supervisor.kill(KillReason::Hangs("it hung"));
                }
            }
        }
    }
}
