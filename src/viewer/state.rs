//! The state machine of one viewer's session: a pure table from state and event to next state and action.

use std::time::Duration;

use serde::Serialize;

/// Time limit for a call to send its offer. A page sends it within 50 ms.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for ICE and DTLS: over a relay across the world, with losses, they take about five seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a path may stay silent after the interruption is detected, which takes three seconds. The place of a
/// vanished viewer is freed well within ten seconds, and an outage of five seconds is survived.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(4);

/// State of a viewer's session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The viewer has called; its offer is not answered yet.
    #[default]
    Negotiating,
    /// The viewer has the answer; ICE and DTLS are in progress.
    Connecting,
    /// Media is being sent.
    Watching,
    /// The viewer was watching, and its path is silent at the moment.
    Interrupted,
}

/// Events that change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its offer was answered.
    Answered,
    /// Media can flow.
    Connected,
    /// Nothing is received on the path.
    Disconnected,
    /// The path is lost, or the viewer closed it.
    Closed,
    /// The viewer closed a transport to restart it.
    TransportRestarted,
    /// One side refused the DTLS handshake.
    Refused,
    /// The viewer stopped all media and data that it had asked for.
    Idle,
    /// The viewer sent `bye`.
    Bye,
    /// The viewer's signalling connection ended.
    SignallingClosed,
    /// The time limit of the state has passed.
    TimedOut,
    /// The board shuts down.
    Stopping,
}

/// What the session does in response to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Start to send video and audio.
    Stream,
    /// End the session, for this reason.
    Close(&'static str),
}

impl State {
    /// The next state and the action for an event.
    pub fn on(self, event: Event) -> (Self, Action) {
        use {Action::*, Event::*, State::*};
        match (self, event) {
            (_, Bye) => (self, Close("the viewer left")),
            (_, Stopping) => (self, Close("the board shuts down")),
            (Negotiating, Answered) => (Connecting, Wait),
            (Negotiating, SignallingClosed) => (self, Close("the viewer left without an offer")),
            (Negotiating, TimedOut) => (self, Close("no offer came within 10 s")),
            (Negotiating | Connecting, Closed) => (self, Close("no path to the viewer was found")),
            (Watching | Interrupted, TimedOut) => (self, Close("the path to the viewer is lost")),
            (Connecting, TimedOut) => (self, Close("no path to the viewer was found within 15 s")),
            (Connecting, Connected) => (Watching, Stream),
            (Interrupted, Connected) => (Watching, Wait),
            (Watching | Interrupted, TransportRestarted) => (Connecting, Wait),
            (_, Idle) => (Negotiating, Wait),
            (_, Refused) => (self, Close("the DTLS handshake failed; is a=fingerprint that of the certificate?")),
            (Watching, Disconnected) => (Interrupted, Wait),
            (Watching | Interrupted, Closed) => (self, Close("the path to the viewer is lost")),
            // The signalling connection may end once media flows: some players close it then on purpose.
            _ => (self, Wait),
        }
    }

    /// Time limit of this state; `None` if there is none.
    pub fn time_limit(self) -> Option<Duration> {
        match self {
            Self::Negotiating => Some(OFFER_TIMEOUT),
            Self::Connecting => Some(CONNECT_TIMEOUT),
            Self::Interrupted => Some(SILENCE_TIMEOUT),
            Self::Watching => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_session_follow_the_table() {
        use {Event::*, State::*};
        let table = [
            (Negotiating, Answered, Connecting, Action::Wait),
            (Connecting, Answered, Connecting, Action::Wait),
            (Connecting, Connected, Watching, Action::Stream),
            (Connecting, SignallingClosed, Connecting, Action::Wait),
            (Watching, SignallingClosed, Watching, Action::Wait),
            (Watching, Disconnected, Interrupted, Action::Wait),
            (Watching, TransportRestarted, Connecting, Action::Wait),
            (Watching, Idle, Negotiating, Action::Wait),
            (Negotiating, Idle, Negotiating, Action::Wait),
            (Interrupted, TransportRestarted, Connecting, Action::Wait),
            (Connecting, TransportRestarted, Connecting, Action::Wait),
            (Interrupted, Connected, Watching, Action::Wait),
            (Watching, Answered, Watching, Action::Wait),
            (Watching, Connected, Watching, Action::Wait),
        ];
        for (state, event, next, action) in table {
            assert_eq!(state.on(event), (next, action), "{state:?} on {event:?}");
        }
    }

    #[test]
    fn every_state_can_be_left() {
        for state in [State::Negotiating, State::Connecting, State::Watching, State::Interrupted] {
            for event in [Event::Bye, Event::Stopping, Event::Closed, Event::Refused] {
                assert!(matches!(state.on(event), (_, Action::Close(_))), "{state:?} on {event:?}");
            }
        }
        for state in [State::Negotiating, State::Connecting, State::Interrupted] {
            assert!(state.time_limit().is_some());
            assert!(matches!(state.on(Event::TimedOut), (_, Action::Close(_))));
        }
        assert!(matches!(State::Negotiating.on(Event::SignallingClosed), (_, Action::Close(_))));
    }
}
