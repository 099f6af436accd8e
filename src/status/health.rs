//! Judges whether frames flow where they are wanted.

use std::time::{Duration, Instant};

use crate::camera::State;

/// How old the newest frame may be: at one frame per second, the slowest that is configurable, two are late.
const FLOWING: Duration = Duration::from_secs(3);

/// How long a camera may take to deliver its first frame before it counts as failed. USB cameras take up to two
/// seconds, a camera that is being looked for again up to four.
const STARTING: Duration = Duration::from_secs(5);

/// How long ago the camera's task may have checked its capture process, which it does five times a second.
const CHECKED_AFTER: Duration = Duration::from_secs(5);

/// How long wanted frames may be absent without a check by the task before the process counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// One camera at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Number of its readers.
    pub wanted_by: usize,
    /// The state that it reports.
    pub state: State,
    /// Why it waits.
    pub reason: Option<String>,
    /// Age of its newest frame.
    pub newest: Option<Duration>,
    /// How long ago its task checked whether frames arrive.
    pub last_check: Option<Duration>,
}

/// The result of several observations of one camera.
#[derive(Clone, Debug, Default)]
pub struct HealthCheck {
    /// Since when frames are wanted and absent.
    absent_since: Option<Instant>,
    /// Since when that is so without a check by its task.
    stuck_since: Option<Instant>,
}

impl HealthCheck {
    /// Adds an observation.
    pub fn observe(&mut self, observation: &Observation, now: Instant) {
        // Privacy is intended, not a fault.
        let is_private = observation.state == State::Private;
        let flows = observation.wanted_by == 0 || is_private || observation.newest.is_some_and(|age| age <= FLOWING);
        let is_checked = observation.last_check.is_some_and(|ago| ago <= CHECKED_AFTER);
        let explained = observation.state == State::Waiting || is_checked;
        self.absent_since = if flows { None } else { self.absent_since.or(Some(now)) };
        self.stuck_since = if flows || explained { None } else { self.stuck_since.or(Some(now)) };
    }

    /// Why viewers have no picture, if they have none and that is not just the camera starting.
    pub fn health(&self, observation: &Observation, now: Instant) -> Result<(), String> {
        let Some(since) = self.absent_since else { return Ok(()) };
        match (observation.state, &observation.reason) {
            (State::Waiting, Some(reason)) => Err(reason.clone()),
            (State::Waiting, None) => Err("the camera failed and is tried again".into()),
            _ if now.saturating_duration_since(since) > STARTING => {
                Err(format!("no frame has come for {} s", now.saturating_duration_since(since).as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a restart of the process could help. It cannot where the camera's task works: an unplugged camera comes
    /// back by itself, a capture process that hangs is replaced, and viewers stay connected meanwhile.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.stuck_since.is_none_or(|since| now.saturating_duration_since(since) <= STUCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(wanted_by: usize, state: State, newest: Option<u64>) -> Observation {
        let reason = (state == State::Waiting).then(|| "no camera is plugged in".to_owned());
        Observation {
            wanted_by,
            state,
            reason,
            newest: newest.map(Duration::from_secs),
            last_check: Some(Duration::from_secs(9)),
        }
    }

    /// The same for a camera whose task has checked it just now.
    fn checked(observation: Observation) -> Observation {
        Observation { last_check: Some(Duration::from_millis(200)), ..observation }
    }

    /// The result when `observation` was seen for `seconds`: healthy, alive.
    fn after(observation: &Observation, seconds: u64) -> (bool, bool) {
        let (mut check, start) = (HealthCheck::default(), Instant::now());
        let now = start + Duration::from_secs(seconds);
        check.observe(observation, start);
        check.observe(observation, now);
        (check.health(observation, now).is_ok(), check.is_alive(now))
    }

    #[test]
    fn health_requires_frames_and_the_watchdog_requires_a_reason() {
        let cases = [
            (observation(0, State::Idle, None), 60, (true, true)),
            (observation(1, State::Live, Some(0)), 60, (true, true)),
            (observation(1, State::Starting, None), 2, (true, true)),
            (observation(1, State::Starting, None), 20, (false, true)),
            (observation(1, State::Starting, None), 60, (false, false)),
            (observation(1, State::Live, Some(9)), 60, (false, false)),
            (checked(observation(1, State::Starting, None)), 600, (false, true)),
            (checked(observation(1, State::Live, Some(9))), 600, (false, true)),
            (observation(1, State::Waiting, None), 0, (false, true)),
            (observation(1, State::Waiting, None), 600, (false, true)),
            (observation(1, State::Private, None), 600, (true, true)),
        ];
        for (observation, seconds, expected) in cases {
            assert_eq!(after(&observation, seconds), expected, "{observation:?} for {seconds} s");
        }
    }

    #[test]
    fn the_camera_is_healthy_once_frames_flow_again() {
        let (mut check, start) = (HealthCheck::default(), Instant::now());
        let later = start + Duration::from_secs(100);
        check.observe(&observation(1, State::Starting, None), start);
        let live = observation(1, State::Live, Some(0));
        check.observe(&live, later);
        assert_eq!((check.health(&live, later), check.is_alive(later)), (Ok(()), true));
    }
}
