//! What the board has, as a capture process sees it that captures nothing.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::capture::{Answer, AudioConfig, Config, Error, Question, Role, Survey};
use crate::media::Feed;
use crate::tasks::Group;

use super::device::Device;
use super::host::{Heard, Host, Killing};
use super::launcher::Launcher;
use super::process::Sink;
use super::questions::Asker;

/// What its process has to do with, in words.
const BOARD: &str = "the board";

/// How often is looked whether the process hangs.
const CHECK: Duration = Duration::from_millis(200);

/// How long all of it may take: eight encoders of 10 s each, and the devices.
const LIMIT: Duration = Duration::from_secs(120);

/// Looks at everything. Takes seconds; devices in use are not disturbed. What hangs is passed over and named.
pub async fn survey(cameras: &[Config], audio: &AudioConfig, launcher: &Launcher) -> Survey {
    let group = Group::new();
    let sink = Sink { feed: Feed::new(), profile: None };
    let mut host = Host::new(launcher.clone(), "survey", sink, || Role::Survey, None);
    let begun = Instant::now();
    let survey = loop {
        let late = || Error::Ended { device: BOARD.into(), how: format!("it took more than {LIMIT:?}") };
        let attempt = tokio::time::timeout(LIMIT, attempt(cameras, audio, &mut host, &group)).await;
        match attempt.unwrap_or_else(|_| Err(late())) {
            Ok(survey) => break survey,
            // What it died of is held against that, so that the next comes further.
            Err(_) if host.has_something_to_pass_over() && begun.elapsed() < LIMIT => {}
            Err(error) => break Survey { failure: Some(error.to_string()), ..Survey::default() },
        }
    };
    host.leave();
    group.close(Duration::from_secs(2)).await;
    survey
}

async fn attempt(cameras: &[Config], audio: &AudioConfig, host: &mut Host, group: &Group) -> Result<Survey, Error> {
    let (asker, mut answer) = oneshot::channel();
    let question = Question::Survey { cameras: cameras.to_vec(), audio: audio.clone() };
    host.ask_patiently(question, Asker::Answer(asker), LIMIT, group);
    let mut ticks = tokio::time::interval(CHECK);
    loop {
        tokio::select! {
            answered = &mut answer => return match answered {
                Ok(Ok(Answer::Survey(survey))) => Ok(*survey),
                Ok(Ok(_)) | Err(_) => Err(Error::other_answer(BOARD)),
                Ok(Err(error)) => Err(error),
            },
            heard = host.heard(BOARD) => {
                if let Heard::Ended(_, error) = heard {
                    return Err(match error {
                        Error::Stuck { device, .. } if device == BOARD => {
                            Error::Ended { device, how: "it hung, and was killed".into() }
                        }
                        other => other,
                    });
                }
            }
            _ = ticks.tick() => {
                if host.hangs(&Device::Closed, Duration::ZERO) {
                    host.kill(Killing::Hangs("it hung"));
                }
            }
        }
    }
}
