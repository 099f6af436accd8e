//! What a connection and its end tell of the broker, and what is done differently from then on.

use std::time::Instant;

use super::{Actor, End};
use crate::mqtt::rivals;
use crate::mqtt::session::{Session, in_words, named, without_a_word};
use crate::mqtt::suspects::{Finding, Open, Request, Suspects};
use crate::mqtt::terms::Terms;
use crate::mqtt::wire::{Failure, Kind};

impl Actor {
    /// Has a filter asked for, unless the broker does not allow that.
    pub(super) fn want(&mut self, filter: String, session: &mut Session, now: Instant) {
        let why = if !session.has_wildcards && filter.contains(['+', '#']) {
            "it has no wildcards"
        } else if self.suspects.is_barred(&Request::Messages(filter.clone()), now) {
            "it hangs up when it is asked"
        } else {
            return session.to_ask.push_back(filter);
        };
        self.not_granted(&filter, why, session);
    }

    pub(super) fn not_granted(&mut self, filter: &str, why: &str, session: &mut Session) {
        if filter == self.topics.self_check() {
            return self.without_check(session, why);
        }
        self.lack(format!("it does not let this board subscribe to {filter} ({why})"));
    }

    pub(super) fn without_check(&mut self, session: &mut Session, why: &str) {
        session.check = None;
        let topic = self.topics.self_check();
        self.lack(format!("it does not let this board use {topic} ({why}), so a deaf connection is not noticed"));
    }

    /// Tells of something that the broker does not do.
    pub(super) fn lack(&mut self, line: String) {
        if self.told.lack(line.clone()) {
            tracing::warn!(broker = %self.url, "the broker does not give all: {line}");
        }
        self.limits.send_modify(|limits| _ = limits.lack(line));
    }

    /// Draws from a failure what the next attempt has to do differently.
    pub(super) fn failed(&mut self, mut failure: Failure, mut session: Session) -> End {
        let now = Instant::now();
        let Some(accepted) = session.accepted else {
            self.rivals.ended(failure.kind, None, true);
            if failure.kind == Kind::Away {
                // When it is back it may be another one, or set up in another way.
                self.suspects = Suspects::default();
            }
            let is_another = self.terms.failed(failure.kind);
            match self.terms {
                Terms::Known(_) if is_another => return End::Again,
                Terms::Trying(_) if is_another && failure.kind == Kind::Objected => return End::Again,
                Terms::Trying(_) if is_another => return End::Differently(failure.kind),
                _ => {}
            }
            if failure.kind == Kind::Closed {
                let will = self.topics.availability();
                failure.reason = without_a_word(&self.config, &self.url, &self.client_id, Some(&will));
            }
            return End::Failed(failure, None);
        };
        let mut open = session.open(now);
        open.extend(self.outbox.open().map(|item| self.open(item)));
        let is_rival = self.rivals.ended(failure.kind, Some(now - accepted), open.is_empty());
        if is_rival {
            failure = Failure { kind: Kind::Rival, reason: rivals::in_words(&self.client_id) };
        } else if matches!(failure.kind, Kind::Closed | Kind::Objected | Kind::TooLarge) {
            self.blame(&mut failure, open, now);
        }
        End::Failed(failure, session.online.map(|since| since.elapsed()))
    }

    /// Finds out what the broker hung up on, and says so.
    fn blame(&mut self, failure: &mut Failure, open: Vec<Open>, now: Instant) {
        let finding = match failure.kind {
            Kind::TooLarge => self.suspects.said_too_large(&open, now),
            _ => self.suspects.hung_up(open, now),
        };
        let more = match finding {
            Finding::Nothing => return,
            Finding::OneOf(requests) => format!("after it was asked {}", named(requests.iter())),
            Finding::TooLarge(Open { request, bytes }) => {
                self.outbox.give_up(bytes);
                if let Request::Publication(topic) = &request {
                    self.resolve(topic, Err(format!("the broker hung up when it was sent a packet of {bytes} bytes")));
                }
                let what = in_words(&request);
                let line = format!(
                    "it hung up when it was asked {what} with {bytes} bytes, so at most half of that is sent for an hour"
                );
                self.lack(line);
                format!("when it was asked {what} with {bytes} bytes, which are not sent again")
            }
            Finding::Barred(Open { request, bytes }) => {
                let what = in_words(&request);
                self.lack(format!("it hangs up when it is asked {what}, which this board does without for an hour"));
                format!(
                    "when it was asked {what} with {bytes} bytes, which this board does without for an hour; does its \
                     access list allow it, and does it take as many?"
                )
            }
        };
        failure.reason = format!("{} {more}", failure.reason);
    }
}
