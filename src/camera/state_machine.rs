//! The state machine of a source: a pure function from state and event to state and action.

use serde::Serialize;

/// State of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody watches, and the device is closed.
    #[default]
    Idle,
    /// A pipeline is starting.
    Starting,
    /// Frames flow.
    Live,
    /// It failed and will be tried again; the status has the reason.
    Waiting,
    /// Privacy is on, and the device is closed.
    Private,
}

/// An event that may change the state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// There are readers.
    DemandStarted,
    /// There were no readers during the grace period.
    DemandEnded,
    /// The first frame of a pipeline came.
    FirstFrame,
    /// The pipeline could not start, reported an error, or delivered no first frame.
    Failed,
    /// Frames stopped without an error.
    Stalled,
    /// The pause after a failure is over.
    RetryDue,
    /// Another pipeline is to replace the running one.
    RestartRequested,
    /// Privacy is switched on.
    PrivacyOn,
    /// Privacy is switched off.
    PrivacyOff,
}

/// The action of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Open the device and start a pipeline.
    Start,
    /// Stop the pipeline and start another at once.
    Restart,
    /// Stop the pipeline, if there is one.
    Stop,
    /// Stop the pipeline, if there is one, and start another after a pause.
    Pause,
    /// The attempt succeeded: reset the pause after failures.
    MarkLive,
}

impl State {
    /// The next state, and what to do on the way.
    pub(super) fn on(self, trigger: Trigger) -> (Self, Action) {
        match (self, trigger) {
            (Self::Idle, Trigger::DemandStarted) | (Self::Waiting, Trigger::RetryDue) => {
                (Self::Starting, Action::Start)
            }
            (Self::Starting, Trigger::FirstFrame) => (Self::Live, Action::MarkLive),
            (Self::Starting | Self::Live, Trigger::Failed) | (Self::Starting, Trigger::Stalled) => {
                (Self::Waiting, Action::Pause)
            }
            // A stalled pipeline most likely works after a restart; if not, the start fails next.
            (Self::Live, Trigger::Stalled) => (Self::Starting, Action::Restart),
            (Self::Starting | Self::Live | Self::Waiting, Trigger::DemandEnded) => (Self::Idle, Action::Stop),
            (Self::Starting | Self::Live | Self::Waiting, Trigger::RestartRequested) => {
                (Self::Starting, Action::Restart)
            }
            (_, Trigger::PrivacyOn) => (Self::Private, Action::Stop),
            (Self::Private, Trigger::PrivacyOff) => (Self::Idle, Action::Stop),
            (state, _) => (state, Action::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_handles_every_trigger() {
        use {Action as A, State as S, Trigger as T};
        let table = [
            (S::Idle, T::DemandStarted, S::Starting, A::Start),
            (S::Idle, T::DemandEnded, S::Idle, A::Nothing),
            (S::Idle, T::FirstFrame, S::Idle, A::Nothing),
            (S::Idle, T::Failed, S::Idle, A::Nothing),
            (S::Idle, T::Stalled, S::Idle, A::Nothing),
            (S::Idle, T::RetryDue, S::Idle, A::Nothing),
            (S::Starting, T::DemandStarted, S::Starting, A::Nothing),
            (S::Starting, T::DemandEnded, S::Idle, A::Stop),
            (S::Starting, T::FirstFrame, S::Live, A::MarkLive),
            (S::Starting, T::Failed, S::Waiting, A::Pause),
            (S::Starting, T::Stalled, S::Waiting, A::Pause),
            (S::Starting, T::RetryDue, S::Starting, A::Nothing),
            (S::Live, T::DemandStarted, S::Live, A::Nothing),
            (S::Live, T::DemandEnded, S::Idle, A::Stop),
            (S::Live, T::FirstFrame, S::Live, A::Nothing),
            (S::Live, T::Failed, S::Waiting, A::Pause),
            (S::Live, T::Stalled, S::Starting, A::Restart),
            (S::Live, T::RetryDue, S::Live, A::Nothing),
            (S::Waiting, T::DemandStarted, S::Waiting, A::Nothing),
            (S::Waiting, T::DemandEnded, S::Idle, A::Stop),
            (S::Waiting, T::FirstFrame, S::Waiting, A::Nothing),
            (S::Waiting, T::Failed, S::Waiting, A::Nothing),
            (S::Waiting, T::Stalled, S::Waiting, A::Nothing),
            (S::Waiting, T::RetryDue, S::Starting, A::Start),
            (S::Idle, T::RestartRequested, S::Idle, A::Nothing),
            (S::Starting, T::RestartRequested, S::Starting, A::Restart),
            (S::Live, T::RestartRequested, S::Starting, A::Restart),
            (S::Waiting, T::RestartRequested, S::Starting, A::Restart),
            (S::Idle, T::PrivacyOn, S::Private, A::Stop),
            (S::Starting, T::PrivacyOn, S::Private, A::Stop),
            (S::Live, T::PrivacyOn, S::Private, A::Stop),
            (S::Waiting, T::PrivacyOn, S::Private, A::Stop),
            (S::Private, T::PrivacyOn, S::Private, A::Stop),
            (S::Idle, T::PrivacyOff, S::Idle, A::Nothing),
            (S::Live, T::PrivacyOff, S::Live, A::Nothing),
            (S::Private, T::PrivacyOff, S::Idle, A::Stop),
            (S::Private, T::DemandStarted, S::Private, A::Nothing),
            (S::Private, T::DemandEnded, S::Private, A::Nothing),
            (S::Private, T::FirstFrame, S::Private, A::Nothing),
            (S::Private, T::Failed, S::Private, A::Nothing),
            (S::Private, T::Stalled, S::Private, A::Nothing),
            (S::Private, T::RetryDue, S::Private, A::Nothing),
            (S::Private, T::RestartRequested, S::Private, A::Nothing),
        ];
        for (state, trigger, next, action) in table {
            assert_eq!(state.on(trigger), (next, action), "{state:?} on {trigger:?}");
        }
    }
}
