//! Detects two clients with one client id: the broker ends the connection of each when the other connects (MQTT 5,
//! section 3.1.4).
//!
//! A broker of MQTT 3.1.1 gives no reason, and mosquitto closes the connection before its reason is read. The only
//! visible sign: the broker accepts us and closes the connection soon after, repeatedly.

use std::time::Duration;

use super::wire::Kind;

/// Turns in a row that count as a conflict. Fewer may be a broker that restarts a few times.
const CONFLICT_AFTER: u32 = 5;

/// The longest turn while both clients reconnect within 2 s.
const MAX_TURN: Duration = Duration::from_secs(10);

/// The longest turn once a conflict is known: each client then waits up to 30 s before it reconnects.
const MAX_TURN_IN_CONFLICT: Duration = Duration::from_secs(45);

/// Counts turns: connections in a row that the broker closed soon after it accepted them.
#[derive(Debug, Default)]
pub struct ClientIdConflict {
    turns: u32,
}

impl ClientIdConflict {
    /// A connection ended, `lasted` after the broker accepted it; `None` if it did not. `was_idle`: no request was
    /// open. Returns whether another client is likely to have our client id.
    pub fn connection_ended(&mut self, kind: Kind, lasted: Option<Duration>, was_idle: bool) -> bool {
        let longest = if self.turns < CONFLICT_AFTER { MAX_TURN } else { MAX_TURN_IN_CONFLICT };
        self.turns = match (kind, lasted) {
            (Kind::ClientIdConflict, _) => CONFLICT_AFTER,
            (Kind::Closed, Some(lasted)) if lasted < longest && was_idle => (self.turns + 1).min(CONFLICT_AFTER),
            _ => 0,
        };
        self.is_likely()
    }

    /// Whether the last connections ended that way.
    pub fn is_likely(&self) -> bool {
        self.turns >= CONFLICT_AFTER
    }
}

/// The explanation for the operator.
pub fn describe(client_id: &str) -> String {
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
    fn repeated_closing_soon_after_acceptance_means_a_client_id_conflict() {
        let mut client_id_conflict = ClientIdConflict::default();
        let results: Vec<_> = (0..7).map(|_| client_id_conflict.connection_ended(Kind::Closed, SOON, true)).collect();
        assert_eq!(results, [false, false, false, false, true, true, true]);
        assert!(
            client_id_conflict.connection_ended(Kind::Closed, Some(Duration::from_secs(40)), true),
            "both clients wait longer by then"
        );
        assert!(!client_id_conflict.connection_ended(Kind::Closed, Some(Duration::from_secs(50)), true));
    }

    #[test]
    fn an_outage_in_between_or_an_open_request_means_no_conflict() {
        for (kind, lasted, was_idle) in
            [(Kind::Unavailable, None, true), (Kind::Closed, None, true), (Kind::Closed, SOON, false)]
        {
            let mut client_id_conflict = ClientIdConflict::default();
            let results = (0..20).any(|turn| match turn % 4 {
                3 => client_id_conflict.connection_ended(kind, lasted, was_idle),
                _ => client_id_conflict.connection_ended(Kind::Closed, SOON, true),
            });
            assert!(!results, "{kind:?}");
        }
        assert!(
            ClientIdConflict::default().connection_ended(Kind::ClientIdConflict, SOON, false),
            "the broker reports it"
        );
    }
}
