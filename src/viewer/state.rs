//! One viewer's life as a pure table: what happened, what follows.

use std::time::Duration;

use serde::Serialize;

/// How long a call may take to send its offer. A page makes it within 50 ms.
const OFFER_WITHIN: Duration = Duration::from_secs(10);

/// How long ICE and DTLS may take: over a relay across the world, with losses, about five seconds.
const CONNECTED_WITHIN: Duration = Duration::from_secs(15);

/// How long a path may stay silent once that is noticed, which takes three seconds: well within ten a vanished viewer is
/// freed, and an outage of five is survived.
const SILENT_FOR: Duration = Duration::from_secs(4);

/// Where a viewer is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It called; its offer is not answered yet.
    #[default]
    Negotiating,
    /// It has our answer; ICE and DTLS are at work.
    Connecting,
    /// Pictures flow.
    Watching,
    /// It watched, and its path has gone silent for a moment.
    Interrupted,
}

/// What can happen to a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its offer was answered.
    Answered,
    /// Media can flow.
    Connected,
    /// The path is silent.
    Disconnected,
    /// The path is lost, or the viewer closed it.
    Closed,
    /// The viewer closed it to begin another.
    BegunAgain,
    /// One side refused the DTLS handshake.
    Refused,
    /// The viewer ended all that it asked for.
    Idle,
    /// It said goodbye.
    Bye,
    /// Its signalling connection ended.
    LineClosed,
    /// It did not go on in time.
    TooLate,
    /// The board shuts down.
    Stopping,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Send pictures and sound from now on.
    Stream,
    /// End the conversation, for this reason.
    Part(&'static str),
}

impl State {
    /// What follows from an event.
    pub fn on(self, event: Event) -> (Self, Action) {
        use {Action::*, Event::*, State::*};
        match (self, event) {
            (_, Bye) => (self, Part("the viewer left")),
            (_, Stopping) => (self, Part("the board shuts down")),
            (Negotiating, Answered) => (Connecting, Wait),
            (Negotiating, LineClosed) => (self, Part("the viewer left without an offer")),
            (Negotiating, TooLate) => (self, Part("no offer came within 10 s")),
            (Negotiating | Connecting, Closed) => (self, Part("no path to the viewer was found")),
            (Watching | Interrupted, TooLate) => (self, Part("the path to the viewer is lost")),
            (Connecting, TooLate) => (self, Part("no path to the viewer was found within 15 s")),
            (Connecting, Connected) => (Watching, Stream),
            (Interrupted, Connected) => (Watching, Wait),
            (Watching | Interrupted, BegunAgain) => (Connecting, Wait),
            (_, Idle) => (Negotiating, Wait),
            (_, Refused) => (self, Part("the DTLS handshake failed; is a=fingerprint that of the certificate?")),
            (Watching, Disconnected) => (Interrupted, Wait),
            (Watching | Interrupted, Closed) => (self, Part("the path to the viewer is lost")),
            // The signalling connection may end once media flows: some players close it then on purpose.
            _ => (self, Wait),
        }
    }

    /// How long a viewer may stay in this state.
    pub fn patience(self) -> Option<Duration> {
        match self {
            Self::Negotiating => Some(OFFER_WITHIN),
            Self::Connecting => Some(CONNECTED_WITHIN),
            Self::Interrupted => Some(SILENT_FOR),
            Self::Watching => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_s_life_follows_the_table() {
        use {Event::*, State::*};
        let table = [
            (Negotiating, Answered, Connecting, Action::Wait),
            (Connecting, Answered, Connecting, Action::Wait),
            (Connecting, Connected, Watching, Action::Stream),
            (Connecting, LineClosed, Connecting, Action::Wait),
            (Watching, LineClosed, Watching, Action::Wait),
            (Watching, Disconnected, Interrupted, Action::Wait),
            (Watching, BegunAgain, Connecting, Action::Wait),
            (Watching, Idle, Negotiating, Action::Wait),
            (Negotiating, Idle, Negotiating, Action::Wait),
            (Interrupted, BegunAgain, Connecting, Action::Wait),
            (Connecting, BegunAgain, Connecting, Action::Wait),
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
                assert!(matches!(state.on(event), (_, Action::Part(_))), "{state:?} on {event:?}");
            }
        }
        for state in [State::Negotiating, State::Connecting, State::Interrupted] {
            assert!(state.patience().is_some());
            assert!(matches!(state.on(Event::TooLate), (_, Action::Part(_))));
        }
        assert!(matches!(State::Negotiating.on(Event::LineClosed), (_, Action::Part(_))));
    }
}
