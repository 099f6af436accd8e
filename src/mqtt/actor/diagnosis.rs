//! Evaluates connections: records what the broker does not support or allow, and adapts the next attempt after a
//! failure.

use std::time::Instant;

use super::{Actor, End};
use crate::mqtt::client_id_conflict;
use crate::mqtt::delivery_fallback::DeliveryFallback;
use crate::mqtt::disconnect_causes::{DisconnectCauses, Finding, OpenRequest, Request};
use crate::mqtt::session::{Session, describe, named, no_reason_given};
use crate::mqtt::wire::{Failure, Kind};

impl Actor {
    /// Queues a subscription to `filter`, unless the broker does not allow it.
    pub(super) fn want(&mut self, filter: String, session: &mut Session, now: Instant) {
        let why = if !session.has_wildcards && filter.contains(['+', '#']) {
            "it has no wildcards"
        } else if self.disconnect_causes.is_blocked(&Request::Subscribe(filter.clone()), now) {
            "it hangs up when it is asked"
        } else {
            return session.to_subscribe.push_back(filter);
        };
        self.not_granted(&filter, why, session);
    }

    pub(super) fn not_granted(&mut self, filter: &str, why: &str, session: &mut Session) {
        if filter == self.topics.self_check() {
            return self.without_check(session, why);
        }
        self.add_unsupported(format!("it does not let this board subscribe to {filter} ({why})"));
    }

    pub(super) fn without_check(&mut self, session: &mut Session, why: &str) {
        session.check = None;
        let topic = self.topics.self_check();
        self.add_unsupported(format!(
            "it does not let this board use {topic} ({why}), so the board does not notice if it stops delivering \
             messages"
        ));
    }

    /// Records and logs a feature that the broker does not support.
    pub(super) fn add_unsupported(&mut self, line: String) {
        if self.logged_limits.add_unsupported(line.clone()) {
            tracing::warn!(broker = %self.url, "the broker has a limitation: {line}");
        }
        self.limits.send_modify(|limits| _ = limits.add_unsupported(line));
    }

    /// Adapts the next attempt to a failure.
    pub(super) fn failed(&mut self, mut failure: Failure, mut session: Session) -> End {
        let now = Instant::now();
        let Some(accepted) = session.accepted else {
            self.client_id_conflict.connection_ended(failure.kind, None, true);
            if failure.kind == Kind::Unavailable {
                // When the broker is back it may be a different one, or configured differently.
                self.disconnect_causes = DisconnectCauses::default();
            }
            let is_another = self.delivery_fallback.failed(failure.kind);
            match self.delivery_fallback {
                DeliveryFallback::Known(_) if is_another => return End::RetryNow,
                DeliveryFallback::Trying(_) if is_another && failure.kind == Kind::Disallowed => return End::RetryNow,
                DeliveryFallback::Trying(_) if is_another => return End::RetryWithFallback(failure.kind),
                _ => {}
            }
            if failure.kind == Kind::Closed {
                let will = self.topics.availability();
                failure.reason = no_reason_given(&self.config, &self.url, &self.client_id, Some(&will));
            }
            return End::Failed(failure, None);
        };
        let mut open = session.open(now);
        open.extend(self.outbox.open().map(|item| self.open(item)));
        let is_conflict = self.client_id_conflict.connection_ended(failure.kind, Some(now - accepted), open.is_empty());
        if is_conflict {
            failure = Failure { kind: Kind::ClientIdConflict, reason: client_id_conflict::describe(&self.client_id) };
        } else if matches!(failure.kind, Kind::Closed | Kind::Disallowed | Kind::TooLarge) {
            self.blame(&mut failure, open, now);
        }
        End::Failed(failure, session.online.map(|since| since.elapsed()))
    }

    /// Finds the request on which the broker hung up, and adds it to the reason.
    fn blame(&mut self, failure: &mut Failure, open: Vec<OpenRequest>, now: Instant) {
        let finding = match failure.kind {
            Kind::TooLarge => self.disconnect_causes.reported_too_large(&open, now),
            _ => self.disconnect_causes.broker_hung_up(open, now),
        };
        let more = match finding {
            Finding::Nothing => return,
            Finding::OneOf(requests) => format!("after it was asked {}", named(requests.iter())),
            Finding::TooLarge(OpenRequest { request, bytes }) => {
                self.outbox.drop_large(bytes);
                if let Request::Publish(topic) = &request {
                    self.resolve(topic, Err(format!("the broker hung up when it was sent a packet of {bytes} bytes")));
                }
                let what = describe(&request);
                let line = format!(
                    "it hung up when it was asked {what} with {bytes} bytes, so at most half of that is sent for an hour"
                );
                self.add_unsupported(line);
                format!("when it was asked {what} with {bytes} bytes, which are not sent again")
            }
            Finding::Blocked(OpenRequest { request, bytes }) => {
                let what = describe(&request);
                self.add_unsupported(format!(
                    "it hangs up when it is asked {what}, which this board does without for an hour"
                ));
                format!(
                    "when it was asked {what} with {bytes} bytes, which this board does without for an hour; does its \
                     access list allow it, and does it take as many?"
                )
            }
        };
        failure.reason = format!("{} {more}", failure.reason);
    }
}
