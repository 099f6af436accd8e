//! Publishing: carries out the requests of the handles, in a size and with a delivery that the broker accepts.

use std::time::Instant;

use super::Actor;
use crate::mqtt::disconnect_causes::{LARGE, OpenRequest, Request};
use crate::mqtt::outbox::{Item, OneTimeMessage, packet_size};
use crate::mqtt::session::{Session, request_for, too_large};
use crate::mqtt::wire::{Delivery, Failure};
use crate::mqtt::{ActorRequest, MAX_BYTES};

impl Actor {
    /// The broker acknowledged a publication, or it was sent and no acknowledgement will come.
    pub(super) fn done(&mut self, item: Item, refusal: Option<String>, session: &mut Session, now: Instant) {
        match &item {
            Item::Check(_) => session.check.iter_mut().for_each(|check| check.acknowledged(now)),
            Item::Retained(topic) if !self.outbox.has_newer(topic) => {
                let result = refusal.as_ref().map_or(Ok(()), |why| Err(format!("the broker refuses it ({why})")));
                self.resolve(topic, result);
            }
            Item::Retained(_) | Item::OneTimeMessage(_) => {}
        }
        let Some(why) = refusal else { return self.settle(session) };
        match item {
            Item::OneTimeMessage(once) if once.fallback_topic.is_some() => {
                tracing::debug!(topic = once.topic, why, "response topic refused; using the usual topic");
                once.into_fallback_topic().into_iter().for_each(|once| self.outbox.publish_once(once));
            }
            // A self-check message that does not come back is reported in `look`.
            Item::Check(_) => {}
            Item::OneTimeMessage(OneTimeMessage { topic, .. }) | Item::Retained(topic) => {
                self.add_unsupported(format!("it does not pass on what this board publishes on {topic} ({why})"))
            }
        }
        self.settle(session);
    }

    fn settle(&self, session: &mut Session) {
        if session.online.is_some() && self.outbox.is_empty() {
            session.is_careful = false;
        }
    }

    pub(super) fn resolve(&mut self, topic: &str, result: Result<(), String>) {
        for (_, done) in self.awaited.extract_if(.., |(awaited, _)| awaited == topic) {
            // The caller may have stopped waiting.
            done.send(result.clone()).ok();
        }
    }

    /// Carries out a request of a handle.
    pub(super) fn handle_request(&mut self, order: ActorRequest, session: Option<&mut Session>) -> Result<(), Failure> {
        match order {
            ActorRequest::Publish { reply, topic, mut forms } => {
                forms.reverse();
                let Some(payload) = forms.pop() else { return Ok(()) };
                let (topic, fallback_topic, correlation) = match reply {
                    Some(reply) if reply.topic != topic => (reply.topic, Some(topic), reply.correlation),
                    reply => (topic, None, reply.and_then(|reply| reply.correlation)),
                };
                let once = OneTimeMessage {
                    topic,
                    payload,
                    correlation,
                    shorter: forms,
                    fallback_topic,
                    since: Instant::now(),
                };
                if let Some(once) = fitting(once, MAX_BYTES) {
                    self.outbox.publish_once(once);
                }
            }
            ActorRequest::Retain { topic, payload, done } => {
                let bytes = packet_size(&topic, &payload, None);
                self.awaited.retain(|(_, done)| !done.is_closed());
                self.awaited.extend(done.map(|done| (topic.clone(), done)));
                if bytes > MAX_BYTES {
                    self.not_sent(&topic, bytes, MAX_BYTES);
                } else {
                    self.outbox.retain(topic, payload);
                }
            }
            ActorRequest::Subscribe { filter, messages } => {
                // Before the broker has accepted us, this only adds the filter: `accepted` requests all of them.
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
        // A status that is too large is so at each change, but the warning comes only once.
        self.add_unsupported(format!(
            "what this board publishes on {topic} needs more than the {most} bytes that it takes"
        ));
        tracing::debug!(topic, bytes, most, "too large a message for the broker; it is not published");
        self.resolve(topic, Err(too_large(bytes, most)));
    }

    fn bytes_of(&self, item: &Item) -> usize {
        match item {
            Item::OneTimeMessage(once) => once.bytes(),
            Item::Retained(topic) => packet_size(topic, &self.outbox.value(topic), None),
            Item::Check(payload) => packet_size(&self.topics.self_check(), payload, None),
        }
    }

    pub(super) fn open(&self, item: &Item) -> OpenRequest {
        OpenRequest { request: request_for(item, &self.topics.self_check()), bytes: self.bytes_of(item) }
    }

    /// Passes queued publications to the client. A large packet is sent alone, so that it is known which packet the
    /// broker hung up on.
    pub(super) fn send_queued(&mut self, session: &mut Session) {
        if session.online.is_none() {
            return;
        }
        let now = Instant::now();
        let most = session.most_bytes.min(self.disconnect_causes.most_bytes(now).unwrap_or(MAX_BYTES));
        let window = if session.is_careful { 1 } else { session.window };
        while !self.outbox.open().any(|item| self.bytes_of(item) >= LARGE)
            && let Some(item) = self.outbox.next(window)
        {
            let Some(item) = self.allowed(item, most, now) else { continue };
            if self.bytes_of(&item) >= LARGE && self.outbox.open().next().is_some() {
                self.outbox.put_back(item);
                break;
            }
            let once = Delivery { is_retained: false, ..session.delivery };
            let own;
            let kept;
            let (topic, payload, delivery, correlation) = match &item {
                Item::OneTimeMessage(said) => (&said.topic, &said.payload, once, said.correlation.as_ref()),
                Item::Retained(topic) => {
                    kept = self.outbox.value(topic);
                    (topic, &kept, session.delivery, None)
                }
                Item::Check(payload) => {
                    own = self.topics.self_check();
                    (&own, payload, once, None)
                }
            };
            match session.connection.publish(topic, payload, delivery, correlation) {
                Ok(()) => self.outbox.handed_over(item),
                Err(_) => {
                    self.outbox.put_back(item);
                    break;
                }
            }
        }
    }

    /// The publication, or its replacement, if the broker accepts it.
    fn allowed(&mut self, item: Item, most: usize, now: Instant) -> Option<Item> {
        let OpenRequest { request, bytes } = self.open(&item);
        let Request::Publish(topic) = &request else { return None };
        if self.disconnect_causes.is_blocked(&request, now) {
            self.resolve(topic, Err(format!("the broker hangs up when this board publishes on {topic}")));
            return match item {
                Item::OneTimeMessage(once) => {
                    self.allowed(Item::OneTimeMessage(once.into_fallback_topic()?), most, now)
                }
                Item::Retained(_) | Item::Check(_) => None,
            };
        }
        if bytes <= most {
            return Some(item);
        }
        match item {
            Item::OneTimeMessage(once) => {
                self.add_unsupported(format!("some answers and signals need more than the {most} bytes that it takes"));
                fitting(once, most).map(Item::OneTimeMessage)
            }
            Item::Retained(_) | Item::Check(_) => {
                self.not_sent(topic, bytes, most);
                self.outbox.forget(topic);
                None
            }
        }
    }
}

/// The publication if its packet has at most `most` bytes, otherwise its replacement.
fn fitting(once: OneTimeMessage, most: usize) -> Option<OneTimeMessage> {
    let (topic, bytes) = (once.topic.clone(), once.bytes());
    if bytes > most {
        tracing::debug!(topic, bytes, most, "too large a message for the broker; it is shortened or not published");
    }
    once.fitting(most)
}
