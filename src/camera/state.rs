//! A source's life as a pure table: what happens and what is to be done about it.

use serde::Serialize;

/// Where a source is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody watches; the device is closed.
    #[default]
    Idle,
    /// A pipeline is being started.
    Starting,
    /// Frames flow.
    Live,
    /// It failed and is tried again soon; the status says why.
    Waiting,
    /// Privacy is on: the device is closed to everybody.
    Private,
}

/// What happens to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody watches.
    Wanted,
    /// Nobody watches, and has not for the time of grace.
    Unwanted,
    /// The first frame of a pipeline came.
    FirstFrame,
    /// The pipeline could not start, reported an error, or brought no first frame.
    Failed,
    /// Frames stopped coming without any error.
    Stalled,
    /// The pause after a failure is over.
    RetryDue,
    /// Another pipeline is wanted in the place of the running one.
    Renewed,
    /// Privacy is switched on.
    Hidden,
    /// Privacy is switched off.
    Shown,
}

/// What is to be done.
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
    /// The attempt succeeded: forget how often it failed.
    Settle,
}

impl State {
    /// The next state, and what to do on the way.
    pub(super) fn on(self, event: Event) -> (Self, Action) {
        match (self, event) {
            (Self::Idle, Event::Wanted) | (Self::Waiting, Event::RetryDue) => (Self::Starting, Action::Start),
            (Self::Starting, Event::FirstFrame) => (Self::Live, Action::Settle),
            (Self::Starting | Self::Live, Event::Failed) | (Self::Starting, Event::Stalled) => {
                (Self::Waiting, Action::Pause)
            }
            // What stopped once is most likely well after a restart; if not, starting fails next.
            (Self::Live, Event::Stalled) => (Self::Starting, Action::Restart),
            (Self::Starting | Self::Live | Self::Waiting, Event::Unwanted) => (Self::Idle, Action::Stop),
            (Self::Starting | Self::Live | Self::Waiting, Event::Renewed) => (Self::Starting, Action::Restart),
            (_, Event::Hidden) => (Self::Private, Action::Stop),
            (Self::Private, Event::Shown) => (Self::Idle, Action::Stop),
            (state, _) => (state, Action::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_knows_what_to_do_about_every_event() {
        use {Action as A, Event as E, State as S};
        let table = [
            (S::Idle, E::Wanted, S::Starting, A::Start),
            (S::Idle, E::Unwanted, S::Idle, A::Nothing),
            (S::Idle, E::FirstFrame, S::Idle, A::Nothing),
            (S::Idle, E::Failed, S::Idle, A::Nothing),
            (S::Idle, E::Stalled, S::Idle, A::Nothing),
            (S::Idle, E::RetryDue, S::Idle, A::Nothing),
            (S::Starting, E::Wanted, S::Starting, A::Nothing),
            (S::Starting, E::Unwanted, S::Idle, A::Stop),
            (S::Starting, E::FirstFrame, S::Live, A::Settle),
            (S::Starting, E::Failed, S::Waiting, A::Pause),
            (S::Starting, E::Stalled, S::Waiting, A::Pause),
            (S::Starting, E::RetryDue, S::Starting, A::Nothing),
            (S::Live, E::Wanted, S::Live, A::Nothing),
            (S::Live, E::Unwanted, S::Idle, A::Stop),
            (S::Live, E::FirstFrame, S::Live, A::Nothing),
            (S::Live, E::Failed, S::Waiting, A::Pause),
            (S::Live, E::Stalled, S::Starting, A::Restart),
            (S::Live, E::RetryDue, S::Live, A::Nothing),
            (S::Waiting, E::Wanted, S::Waiting, A::Nothing),
            (S::Waiting, E::Unwanted, S::Idle, A::Stop),
            (S::Waiting, E::FirstFrame, S::Waiting, A::Nothing),
            (S::Waiting, E::Failed, S::Waiting, A::Nothing),
            (S::Waiting, E::Stalled, S::Waiting, A::Nothing),
            (S::Waiting, E::RetryDue, S::Starting, A::Start),
            (S::Idle, E::Renewed, S::Idle, A::Nothing),
            (S::Starting, E::Renewed, S::Starting, A::Restart),
            (S::Live, E::Renewed, S::Starting, A::Restart),
            (S::Waiting, E::Renewed, S::Starting, A::Restart),
            (S::Idle, E::Hidden, S::Private, A::Stop),
            (S::Starting, E::Hidden, S::Private, A::Stop),
            (S::Live, E::Hidden, S::Private, A::Stop),
            (S::Waiting, E::Hidden, S::Private, A::Stop),
            (S::Private, E::Hidden, S::Private, A::Stop),
            (S::Idle, E::Shown, S::Idle, A::Nothing),
            (S::Live, E::Shown, S::Live, A::Nothing),
            (S::Private, E::Shown, S::Idle, A::Stop),
            (S::Private, E::Wanted, S::Private, A::Nothing),
            (S::Private, E::Unwanted, S::Private, A::Nothing),
            (S::Private, E::FirstFrame, S::Private, A::Nothing),
            (S::Private, E::Failed, S::Private, A::Nothing),
            (S::Private, E::Stalled, S::Private, A::Nothing),
            (S::Private, E::RetryDue, S::Private, A::Nothing),
            (S::Private, E::Renewed, S::Private, A::Nothing),
        ];
        for (state, event, next, action) in table {
            assert_eq!(state.on(event), (next, action), "{state:?} on {event:?}");
        }
    }
}
