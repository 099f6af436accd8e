//! Whether frames flow where somebody wants them.

use std::time::{Duration, Instant};

use crate::camera::State;

/// How old the newest frame may be: at one frame per second, the slowest that is configurable, two are late.
const FLOWING: Duration = Duration::from_secs(3);

/// How long a camera may take to give its first frame before it counts as failed. USB cameras take up to two
/// seconds, a camera that is being looked for again up to four.
const STARTING: Duration = Duration::from_secs(5);

/// How long ago the camera's task may have looked after its capture process, which it does five times a second.
const LOOKED_AFTER: Duration = Duration::from_secs(5);

/// How long wanted frames may be absent, and nobody look after that, before the process is taken for stuck.
const STUCK: Duration = Duration::from_secs(30);

/// One camera at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// How many want its frames.
    pub wanted_by: usize,
    /// What it says of itself.
    pub state: State,
    /// Why it waits.
    pub reason: Option<String>,
    /// Age of its newest frame.
    pub newest: Option<Duration>,
    /// How long ago its task looked whether frames come.
    pub looked: Option<Duration>,
}

/// What several looks at one camera have shown.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    /// Since when frames are wanted and absent.
    dry_since: Option<Instant>,
    /// Since when that is so, and nobody looks after it.
    stuck_since: Option<Instant>,
}

impl Pulse {
    /// Takes another look.
    pub fn observe(&mut self, look: &Look, now: Instant) {
        // Privacy is an answer, not a fault.
        let is_private = look.state == State::Private;
        let flows = look.wanted_by == 0 || is_private || look.newest.is_some_and(|age| age <= FLOWING);
        let is_looked_after = look.looked.is_some_and(|ago| ago <= LOOKED_AFTER);
        let explained = look.state == State::Waiting || is_looked_after;
        self.dry_since = if flows { None } else { self.dry_since.or(Some(now)) };
        self.stuck_since = if flows || explained { None } else { self.stuck_since.or(Some(now)) };
    }

    /// Why viewers have no picture, if they have none and that is not just the camera starting.
    pub fn health(&self, look: &Look, now: Instant) -> Result<(), String> {
        let Some(since) = self.dry_since else { return Ok(()) };
        match (look.state, &look.reason) {
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

    fn look(wanted_by: usize, state: State, newest: Option<u64>) -> Look {
        let reason = (state == State::Waiting).then(|| "no camera is plugged in".to_owned());
        Look { wanted_by, state, reason, newest: newest.map(Duration::from_secs), looked: Some(Duration::from_secs(9)) }
    }

    /// The same of a camera whose task has looked after it just now.
    fn looked_after(look: Look) -> Look {
        Look { looked: Some(Duration::from_millis(200)), ..look }
    }

    /// What is said when `look` was seen for `seconds`: healthy, alive.
    fn after(look: &Look, seconds: u64) -> (bool, bool) {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        let now = start + Duration::from_secs(seconds);
        pulse.observe(look, start);
        pulse.observe(look, now);
        (pulse.health(look, now).is_ok(), pulse.is_alive(now))
    }

    #[test]
    fn health_asks_for_frames_and_the_watchdog_for_an_explanation() {
        let cases = [
            (look(0, State::Idle, None), 60, (true, true)),
            (look(1, State::Live, Some(0)), 60, (true, true)),
            (look(1, State::Starting, None), 2, (true, true)),
            (look(1, State::Starting, None), 20, (false, true)),
            (look(1, State::Starting, None), 60, (false, false)),
            (look(1, State::Live, Some(9)), 60, (false, false)),
            (looked_after(look(1, State::Starting, None)), 600, (false, true)),
            (looked_after(look(1, State::Live, Some(9))), 600, (false, true)),
            (look(1, State::Waiting, None), 0, (false, true)),
            (look(1, State::Waiting, None), 600, (false, true)),
            (look(1, State::Private, None), 600, (true, true)),
        ];
        for (look, seconds, expected) in cases {
            assert_eq!(after(&look, seconds), expected, "{look:?} for {seconds} s");
        }
    }

    #[test]
    fn frames_that_come_again_end_the_complaint() {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        let later = start + Duration::from_secs(100);
        pulse.observe(&look(1, State::Starting, None), start);
        let live = look(1, State::Live, Some(0));
        pulse.observe(&live, later);
        assert_eq!((pulse.health(&live, later), pulse.is_alive(later)), (Ok(()), true));
    }
}
