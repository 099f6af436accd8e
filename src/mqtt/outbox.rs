//! The queue of publications: one-time messages, which soon become useless, and retained values, of which only the
//! newest counts.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// How long a one-time message waits for a connection: a signal or an answer that comes later is of no use.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The most messages that wait, and the most bytes: an exchange of signals has about ten of a few kilobytes, and the
/// refusals of a thousand commands in a burst have 100 KB together.
const MAX_WAITING: usize = 1536;
/// See [`MAX_WAITING`].
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// The bytes of a packet besides topic, payload and correlation data: headers, lengths and numbers are 21 at most.
const PACKET_OVERHEAD: usize = 32;

/// A one-time message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTimeMessage {
    /// The topic.
    pub topic: String,
    /// The content.
    pub payload: Bytes,
    /// The correlation data of the request that it answers.
    pub correlation: Option<Bytes>,
    /// Shorter forms, sent instead if the broker does not accept a packet of that size; the shortest first.
    pub shorter: Vec<Bytes>,
    /// The topic to use if the broker does not let the board publish on `topic`.
    pub fallback_topic: Option<String>,
    /// When it was queued.
    pub since: Instant,
}

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A one-time message.
    OneTimeMessage(OneTimeMessage),
    /// The newest value of a retained topic; it is looked up when it is sent.
    Retained(String),
    /// A self-check message.
    Check(Bytes),
}

/// All publications that the broker has not acknowledged, in sending order.
#[derive(Debug, Default)]
pub struct Outbox {
    retained: BTreeMap<String, Bytes>,
    waiting: VecDeque<Item>,
    /// Taken by the client, and without a packet number so far.
    handed_over: VecDeque<Item>,
    /// Sent, by packet number.
    sent: BTreeMap<u16, Item>,
    dropped: u64,
}

/// The size of the packet for this publication at most, in bytes.
pub fn packet_size(topic: &str, payload: &Bytes, correlation: Option<&Bytes>) -> usize {
    topic.len() + payload.len() + correlation.map_or(0, Bytes::len) + PACKET_OVERHEAD
}

impl OneTimeMessage {
    /// The size of its packet at most, in bytes.
    pub fn bytes(&self) -> usize {
        packet_size(&self.topic, &self.payload, self.correlation.as_ref())
    }

    /// The message, or the longest of its shorter forms, whose packet has at most `most` bytes.
    pub fn fitting(self, most: usize) -> Option<Self> {
        if self.bytes() <= most { Some(self) } else { self.instead()?.fitting(most) }
    }

    /// The message in its next shorter form, if there is one.
    fn instead(mut self) -> Option<Self> {
        let payload = self.shorter.pop()?;
        Some(Self { payload, ..self })
    }

    /// The same message on the other topic, if there is one.
    pub fn into_fallback_topic(mut self) -> Option<Self> {
        let topic = self.fallback_topic.take()?;
        Some(Self { topic, ..self })
    }

    /// The memory that it uses, in bytes.
    fn memory_bytes(&self) -> usize {
        self.bytes() + self.shorter.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Outbox {
    /// Queues a one-time message. If too many wait, the oldest are dropped.
    pub fn publish_once(&mut self, once: OneTimeMessage) {
        self.waiting.push_back(Item::OneTimeMessage(once));
        let now = Instant::now();
        self.forget_old(now);
        while self.is_over_limit() {
            let oldest = self.waiting.iter().position(|item| matches!(item, Item::OneTimeMessage(_)));
            let Some(oldest) = oldest else { break };
            self.waiting.remove(oldest);
            self.dropped += 1;
        }
    }

    /// Sets the value of a retained topic. An empty one removes it.
    pub fn retain(&mut self, topic: String, payload: Bytes) {
        if self.retained.get(&topic) == Some(&payload) {
            return;
        }
        self.enqueue(topic.clone());
        self.retained.insert(topic, payload);
    }

    /// Adds a self-check message.
    pub fn check(&mut self, payload: Bytes) {
        self.waiting.push_back(Item::Check(payload));
    }

    /// Begins a new connection: the broker may know nothing, and has acknowledged nothing. The `first` topic goes
    /// first.
    pub fn start_connection(&mut self, first: &str) {
        let unacknowledged = std::mem::take(&mut self.sent).into_values().chain(self.handed_over.drain(..));
        let said: Vec<_> = unacknowledged
            .chain(self.waiting.drain(..))
            .filter(|item| matches!(item, Item::OneTimeMessage(_)))
            .collect();
        self.waiting.extend(self.retained.keys().filter(|topic| *topic == first).cloned().map(Item::Retained));
        self.waiting.extend(self.retained.keys().filter(|topic| *topic != first).cloned().map(Item::Retained));
        self.waiting.extend(said);
        // Packet numbers wrap around, so the order of sending is not that of the numbers.
        self.waiting.make_contiguous().sort_by_key(|item| match item {
            Item::Retained(_) | Item::Check(_) => None,
            Item::OneTimeMessage(once) => Some(once.since),
        });
        self.forget_old(Instant::now());
    }

    /// The next item to send, if fewer than `window` are unacknowledged.
    pub fn next(&mut self, window: usize) -> Option<Item> {
        if self.handed_over.len() + self.sent.len() >= window {
            return None;
        }
        self.forget_old(Instant::now());
        self.waiting.pop_front()
    }

    /// The value of a retained topic.
    pub fn value(&self, topic: &str) -> Bytes {
        self.retained.get(topic).cloned().unwrap_or_default()
    }

    /// The client took the item.
    pub fn handed_over(&mut self, item: Item) {
        self.handed_over.push_back(item);
    }

    /// The client's queue is full: the item returns to the front of ours.
    pub fn put_back(&mut self, item: Item) {
        self.waiting.push_front(item);
    }

    /// The item that was handed over first has this packet number. With number 0 it is returned: it is never
    /// acknowledged.
    pub fn sent(&mut self, number: u16) -> Option<Item> {
        let item = self.handed_over.pop_front()?;
        if number == 0 {
            self.forget_if_removed(&item);
            return Some(item);
        }
        self.sent.insert(number, item);
        None
    }

    /// The items that the broker has not acknowledged.
    pub fn open(&self) -> impl Iterator<Item = &Item> {
        self.sent.values().chain(&self.handed_over)
    }

    /// Whether a newer value of this topic is queued.
    pub fn has_newer(&self, topic: &str) -> bool {
        self.waiting.iter().any(|item| matches!(item, Item::Retained(other) if other == topic))
    }

    /// Queues the retained value of a topic once more.
    pub fn repeat(&mut self, topic: String) {
        self.enqueue(topic);
    }

    /// Drops unacknowledged items with at least `bytes`: a one-time message is replaced by a shorter form, and a
    /// retained topic is forgotten.
    pub fn drop_large(&mut self, bytes: usize) {
        let open = std::mem::take(&mut self.sent).into_values().chain(self.handed_over.drain(..));
        let open: Vec<_> = open.collect();
        for item in open {
            match item {
                Item::Retained(topic) if packet_size(&topic, &self.value(&topic), None) >= bytes => {
                    self.retained.remove(&topic);
                }
                Item::OneTimeMessage(once) if once.bytes() >= bytes => {
                    self.handed_over.extend(once.fitting(bytes - 1).map(Item::OneTimeMessage));
                }
                item => self.handed_over.push_back(item),
            }
        }
    }

    /// Forgets a retained topic here, without removing it at the broker.
    pub fn forget(&mut self, topic: &str) {
        self.retained.remove(topic);
    }

    /// The broker acknowledged the item with this number, which is returned.
    pub fn acknowledged(&mut self, number: u16) -> Option<Item> {
        let item = self.sent.remove(&number)?;
        self.forget_if_removed(&item);
        Some(item)
    }

    fn forget_if_removed(&mut self, item: &Item) {
        if let Item::Retained(topic) = item
            && self.retained.get(topic).is_some_and(Bytes::is_empty)
            && !self.waiting.contains(item)
        {
            // The broker has removed it; there is nothing to publish at the next connection.
            self.retained.remove(topic);
        }
    }

    /// Whether the broker has acknowledged everything.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.handed_over.is_empty() && self.sent.is_empty()
    }

    /// How many messages were dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn enqueue(&mut self, topic: String) {
        let item = Item::Retained(topic);
        if !self.waiting.contains(&item) {
            self.waiting.push_back(item);
        }
    }

    fn is_over_limit(&self) -> bool {
        let sizes = self.waiting.iter().filter_map(|item| match item {
            Item::OneTimeMessage(once) => Some(once.memory_bytes()),
            Item::Retained(_) | Item::Check(_) => None,
        });
        let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        count > MAX_WAITING || bytes > MAX_WAITING_BYTES
    }

    fn forget_old(&mut self, now: Instant) {
        let before = self.waiting.len();
        self.waiting.retain(|item| !matches!(item, Item::OneTimeMessage(once) if now - once.since > MAX_WAIT));
        self.dropped += (before - self.waiting.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(text: &str) -> OneTimeMessage {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        OneTimeMessage {
            topic: "event".into(),
            payload,
            correlation: None,
            shorter: Vec::new(),
            fallback_topic: None,
            since: Instant::now(),
        }
    }

    fn all(outbox: &mut Outbox) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(item) = outbox.next(usize::MAX) {
            all.push(match item {
                Item::OneTimeMessage(once) => String::from_utf8(once.payload.to_vec()).unwrap(),
                Item::Retained(topic) => format!("{topic}={}", String::from_utf8_lossy(&outbox.value(&topic))),
                Item::Check(_) => "check".into(),
            });
        }
        all
    }

    #[test]
    fn only_the_newest_value_of_a_retained_topic_is_sent_and_again_at_each_connection() {
        let mut outbox = Outbox::default();
        outbox.retain("status".into(), "1".into());
        outbox.retain("status".into(), "2".into());
        outbox.retain("availability".into(), "online".into());
        assert_eq!(all(&mut outbox), ["status=2", "availability=online"]);
        outbox.retain("status".into(), "2".into());
        assert_eq!(all(&mut outbox), [""; 0], "nothing has changed");
        outbox.start_connection("availability");
        assert_eq!(all(&mut outbox), ["availability=online", "status=2"]);
    }

    #[test]
    fn a_removed_topic_is_removed_at_the_broker_and_then_forgotten() {
        let mut outbox = Outbox::default();
        outbox.retain("status".into(), "1".into());
        outbox.retain("status".into(), Bytes::new());
        outbox.start_connection("");
        let item = outbox.next(1).unwrap();
        assert_eq!((&item, outbox.value("status")), (&Item::Retained("status".into()), Bytes::new()));
        outbox.handed_over(item);
        outbox.sent(7);
        assert!(outbox.acknowledged(7).is_some() && outbox.is_empty());
        outbox.start_connection("");
        assert_eq!(all(&mut outbox), [""; 0]);
    }

    #[test]
    fn a_value_that_changes_while_the_previous_one_is_unacknowledged_is_sent_after_it() {
        let mut outbox = Outbox::default();
        outbox.retain("status".into(), "1".into());
        let item = outbox.next(1).unwrap();
        outbox.handed_over(item);
        outbox.sent(1);
        outbox.retain("status".into(), Bytes::new());
        assert_eq!(outbox.next(1), None, "the window is full");
        outbox.acknowledged(1);
        assert_eq!(all(&mut outbox), ["status="]);
    }

    #[test]
    fn unacknowledged_messages_are_sent_again_in_order_and_self_checks_are_not() {
        let mut outbox = Outbox::default();
        for text in ["a", "b", "c", "d"] {
            outbox.publish_once(once(text));
        }
        outbox.check("1".into());
        // The numbers have wrapped around.
        for number in [15, 16, 1] {
            let item = outbox.next(3).unwrap();
            outbox.handed_over(item);
            outbox.sent(number);
        }
        assert!(outbox.next(3).is_none());
        outbox.acknowledged(16);
        outbox.retain("status".into(), "1".into());
        outbox.start_connection("availability");
        assert_eq!(all(&mut outbox), ["status=1", "a", "c", "d"]);
    }

    #[test]
    fn a_one_time_message_that_is_too_large_is_replaced_and_a_retained_one_is_forgotten() {
        let mut outbox = Outbox::default();
        outbox.retain("picture".into(), "x".repeat(9000).into());
        outbox.retain("status".into(), "1".into());
        outbox.publish_once(OneTimeMessage { shorter: vec!["too large".into()], ..once(&"x".repeat(9000)) });
        outbox.publish_once(once(&"y".repeat(9000)));
        for number in 1..5 {
            let item = outbox.next(8).unwrap();
            outbox.handed_over(item);
            outbox.sent(number);
        }
        outbox.drop_large(9000);
        outbox.start_connection("");
        assert_eq!(all(&mut outbox), ["status=1", "too large"]);
    }

    #[test]
    fn a_message_without_acknowledgement_is_done_once_sent() {
        let mut outbox = Outbox::default();
        outbox.publish_once(once("a"));
        let item = outbox.next(1).unwrap();
        outbox.handed_over(item);
        assert!(outbox.next(1).is_none());
        assert!(outbox.sent(0).is_some() && outbox.is_empty());
    }

    #[test]
    fn the_oldest_messages_are_dropped_when_they_are_too_many_too_large_or_too_old() {
        let mut outbox = Outbox::default();
        for number in 0..MAX_WAITING + 5 {
            outbox.publish_once(once(&number.to_string()));
        }
        assert_eq!(outbox.take_dropped(), 5);
        assert_eq!(all(&mut outbox)[0], "5");

        for _ in 0..5 {
            outbox.publish_once(once(&"x".repeat(MAX_WAITING_BYTES / 4)));
        }
        assert_eq!((all(&mut outbox).len(), outbox.take_dropped()), (3, 2));

        let before = Instant::now().checked_sub(MAX_WAIT + Duration::from_millis(1)).unwrap();
        outbox.retain("status".into(), "1".into());
        outbox.publish_once(OneTimeMessage { since: before, ..once("old") });
        outbox.publish_once(once("new"));
        assert_eq!(all(&mut outbox), ["status=1", "new"]);
        assert_eq!(outbox.take_dropped(), 1);
    }
}
