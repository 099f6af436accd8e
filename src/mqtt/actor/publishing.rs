//! What goes out: orders of the handles, in the size and the manner that the broker takes.

use std::time::Instant;

use super::Actor;
use crate::mqtt::outbox::{Item, Once, packet_size};
use crate::mqtt::session::{Session, request_of, too_large};
use crate::mqtt::suspects::{LARGE, Open, Request};
use crate::mqtt::wire::{Delivery, Failure};
use crate::mqtt::{MOST_BYTES, Order};

impl Actor {
    /// The broker has a publication, or nobody will say whether it has.
    pub(super) fn done(&mut self, item: Item, refusal: Option<String>, session: &mut Session, now: Instant) {
        match &item {
            Item::Check(_) => session.check.iter_mut().for_each(|check| check.acknowledged(now)),
            Item::Kept(topic) if !self.outbox.has_newer(topic) => {
                let told = refusal.as_ref().map_or(Ok(()), |why| Err(format!("the broker refuses it ({why})")));
                self.resolve(topic, told);
            }
            Item::Kept(_) | Item::Once(_) => {}
        }
        let Some(why) = refusal else { return self.settle(session) };
        match item {
            Item::Once(once) if once.elsewhere.is_some() => {
                tracing::debug!(topic = once.topic, why, "an answer is not passed on where it is wanted");
                once.elsewhere().into_iter().for_each(|once| self.outbox.say(once));
            }
            // It is told of where it does not come back.
            Item::Check(_) => {}
            Item::Once(Once { topic, .. }) | Item::Kept(topic) => {
                self.lack(format!("it does not pass on what this board publishes on {topic} ({why})"))
            }
        }
        self.settle(session);
    }

    fn settle(&self, session: &mut Session) {
        if session.online.is_some() && self.outbox.is_empty() {
            session.is_careful = false;
        }
    }

    pub(super) fn resolve(&mut self, topic: &str, told: Result<(), String>) {
        for (_, heard) in self.awaited.extract_if(.., |(awaited, _)| awaited == topic) {
            // Who asked may not wait any more.
            heard.send(told.clone()).ok();
        }
    }

    /// Does what the handles want.
    pub(super) fn obey(&mut self, order: Order, session: Option<&mut Session>) -> Result<(), Failure> {
        match order {
            Order::Publish { reply, topic, mut forms } => {
                forms.reverse();
                let Some(payload) = forms.pop() else { return Ok(()) };
                let (topic, elsewhere, correlation) = match reply {
                    Some(reply) if reply.topic != topic => (reply.topic, Some(topic), reply.correlation),
                    reply => (topic, None, reply.and_then(|reply| reply.correlation)),
                };
                let once = Once { topic, payload, correlation, shorter: forms, elsewhere, since: Instant::now() };
                if let Some(once) = fitting(once, MOST_BYTES) {
                    self.outbox.say(once);
                }
            }
            Order::Retain { topic, payload, heard } => {
                let bytes = packet_size(&topic, &payload, None);
                self.awaited.retain(|(_, heard)| !heard.is_closed());
                self.awaited.extend(heard.map(|heard| (topic.clone(), heard)));
                if bytes > MOST_BYTES {
                    self.not_sent(&topic, bytes, MOST_BYTES);
                } else {
                    self.outbox.keep(topic, payload);
                }
            }
            Order::Subscribe { filter, messages } => {
                // One before the broker has taken us is asked for with all others then.
                if let Some(session) = session.filter(|session| session.accepted.is_some()) {
                    self.want(filter.clone(), session, Instant::now());
                    session.ask()?;
                }
                self.subscriptions.add(filter, messages);
            }
        }
        Ok(())
    }

    fn not_sent(&mut self, topic: &str, bytes: usize, most: usize) {
        // A status is too large at each change.
        self.lack(format!("what this board publishes on {topic} needs more than the {most} bytes that it takes"));
        tracing::debug!(topic, bytes, most, "too large a message for the broker; it is not published");
        self.resolve(topic, Err(too_large(bytes, most)));
    }

    fn bytes_of(&self, item: &Item) -> usize {
        match item {
            Item::Once(once) => once.bytes(),
            Item::Kept(topic) => packet_size(topic, &self.outbox.value(topic), None),
            Item::Check(payload) => packet_size(&self.topics.self_check(), payload, None),
        }
    }

    pub(super) fn open(&self, item: &Item) -> Open {
        Open { request: request_of(item, &self.topics.self_check()), bytes: self.bytes_of(item) }
    }

    /// Hands over what may go out. What is large goes alone, so that it is known what the broker hung up on.
    pub(super) fn hand_over(&mut self, session: &mut Session) {
        if session.online.is_none() {
            return;
        }
        let now = Instant::now();
        let most = session.most_bytes.min(self.suspects.most_bytes(now).unwrap_or(MOST_BYTES));
        let window = if session.is_careful { 1 } else { session.window };
        while !self.outbox.open().any(|item| self.bytes_of(item) >= LARGE)
            && let Some(item) = self.outbox.next(window)
        {
            let Some(item) = self.allowed(item, most, now) else { continue };
            if self.bytes_of(&item) >= LARGE && self.outbox.open().next().is_some() {
                self.outbox.not_taken(item);
                break;
            }
            let once = Delivery { is_retained: false, ..session.delivery };
            let own;
            let kept;
            let (topic, payload, delivery, correlation) = match &item {
                Item::Once(said) => (&said.topic, &said.payload, once, said.correlation.as_ref()),
                Item::Kept(topic) => {
                    kept = self.outbox.value(topic);
                    (topic, &kept, session.delivery, None)
                }
                Item::Check(payload) => {
                    own = self.topics.self_check();
                    (&own, payload, once, None)
                }
            };
            match session.line.publish(topic, payload, delivery, correlation) {
                Ok(()) => self.outbox.handed(item),
                Err(_) => {
                    self.outbox.not_taken(item);
                    break;
                }
            }
        }
    }

    /// The publication, or what is said in its place, if the broker takes it.
    fn allowed(&mut self, item: Item, most: usize, now: Instant) -> Option<Item> {
        let Open { request, bytes } = self.open(&item);
        let Request::Publication(topic) = &request else { return None };
        if self.suspects.is_barred(&request, now) {
            self.resolve(topic, Err(format!("the broker hangs up when this board publishes on {topic}")));
            return match item {
                Item::Once(once) => self.allowed(Item::Once(once.elsewhere()?), most, now),
                Item::Kept(_) | Item::Check(_) => None,
            };
        }
        if bytes <= most {
            return Some(item);
        }
        match item {
            Item::Once(once) => {
                self.lack(format!("some answers and signals need more than the {most} bytes that it takes"));
                fitting(once, most).map(Item::Once)
            }
            Item::Kept(_) | Item::Check(_) => {
                self.not_sent(topic, bytes, most);
                self.outbox.forget(topic);
                None
            }
        }
    }
}

/// The publication where its packet has at most `most` bytes; else what is said in its place.
fn fitting(once: Once, most: usize) -> Option<Once> {
    let (topic, bytes) = (once.topic.clone(), once.bytes());
    if bytes > most {
        tracing::debug!(topic, bytes, most, "too large a message for the broker; it is shortened or not published");
    }
    once.fitting(most)
}
