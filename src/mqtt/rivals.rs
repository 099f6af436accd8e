//! Two clients with one client id: the broker ends the connection of each when the other comes (MQTT 5, section 3.1.4).
//!
//! A broker of MQTT 3.1.1 does so without a word, and mosquitto closes the connection before its word is read. What
//! is left to see: the broker takes us and closes the connection soon after, again and again.

use std::time::Duration;

use super::wire::Kind;

/// So often in a row. Less may be a broker that is started again some times.
const MANY: u32 = 5;

/// As long as we come back within 2 s, and the other does too, no turn lasts longer.
const TURN: Duration = Duration::from_secs(10);

/// Once it is known, each of us waits up to 30 s before it comes back.
const LONGEST_TURN: Duration = Duration::from_secs(45);

/// Counts turns.
#[derive(Debug, Default)]
pub struct Rivals {
    turns: u32,
}

impl Rivals {
    /// A connection ended, `lasted` after the broker had taken it, or without that. `was_idle`: nothing was asked of
    /// the broker. Whether another client is likely to have our client id.
    pub fn ended(&mut self, kind: Kind, lasted: Option<Duration>, was_idle: bool) -> bool {
        let longest = if self.turns < MANY { TURN } else { LONGEST_TURN };
        self.turns = match (kind, lasted) {
            (Kind::Rival, _) => MANY,
            (Kind::Closed, Some(lasted)) if lasted < longest && was_idle => (self.turns + 1).min(MANY),
            _ => 0,
        };
        self.is_likely()
    }

    /// Whether the last connections ended so.
    pub fn is_likely(&self) -> bool {
        self.turns >= MANY
    }
}

/// What people are told.
pub fn in_words(client_id: &str) -> String {
    format!(
        "another client seems to have the client id {client_id:?} too: the broker closes this board's connection soon \
         after it has taken it, again and again; give each board a device.id (or mqtt.client_id) of its own"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_secs(1));

    #[test]
    fn a_broker_that_takes_us_and_closes_soon_after_again_and_again_has_another_of_our_name() {
        let mut rivals = Rivals::default();
        let told: Vec<_> = (0..7).map(|_| rivals.ended(Kind::Closed, SOON, true)).collect();
        assert_eq!(told, [false, false, false, false, true, true, true]);
        assert!(rivals.ended(Kind::Closed, Some(Duration::from_secs(40)), true), "both wait longer by then");
        assert!(!rivals.ended(Kind::Closed, Some(Duration::from_secs(50)), true));
    }

    #[test]
    fn a_broker_that_is_away_in_between_or_was_asked_for_something_is_no_sign_of_it() {
        for (kind, lasted, was_idle) in
            [(Kind::Away, None, true), (Kind::Closed, None, true), (Kind::Closed, SOON, false)]
        {
            let mut rivals = Rivals::default();
            let told = (0..20).any(|turn| match turn % 4 {
                3 => rivals.ended(kind, lasted, was_idle),
                _ => rivals.ended(Kind::Closed, SOON, true),
            });
            assert!(!told, "{kind:?}");
        }
        assert!(Rivals::default().ended(Kind::Rival, SOON, false), "the broker says so itself");
    }
}
