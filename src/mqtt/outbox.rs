//! What is to be published: what happened, which is soon of no use any more, and what is so, which replaces itself.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// What happened waits this long for a connection: a signal or an answer that comes later helps nobody.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// At most so many messages wait, and so many bytes: an exchange of signals has about ten of a few kilobytes, and the
/// refusals of a thousand commands in a burst 100 KB together.
const MOST_WAITING: usize = 1536;
/// See [`MOST_WAITING`].
const MOST_WAITING_BYTES: usize = 1024 * 1024;

/// What a packet has besides topic, payload and correlation data: headers, lengths and numbers are 21 bytes at most.
const PACKET_REST: usize = 32;

/// Something that is said once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// What tells the receiver which question it answers.
    pub correlation: Option<Bytes>,
    /// What is said in its place where the broker does not take as much, the shortest first.
    pub shorter: Vec<Bytes>,
    /// Where it goes if the broker does not let the board publish on `topic`.
    pub elsewhere: Option<String>,
    /// When it was said.
    pub since: Instant,
}

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// It is said once.
    Once(Once),
    /// The newest value of a retained topic; which it is, is looked up when it goes out.
    Kept(String),
    /// The message to oneself.
    Check(Bytes),
}

/// All publications that the broker has not acknowledged, in the order in which they go out.
#[derive(Debug, Default)]
pub struct Outbox {
    kept: BTreeMap<String, Bytes>,
    waiting: VecDeque<Item>,
    /// Handed over, and without a number so far.
    handed: VecDeque<Item>,
    /// Sent out under a number.
    sent: BTreeMap<u16, Item>,
    dropped: u64,
}

/// The size of the packet that this becomes, at most.
pub fn packet_size(topic: &str, payload: &Bytes, correlation: Option<&Bytes>) -> usize {
    topic.len() + payload.len() + correlation.map_or(0, Bytes::len) + PACKET_REST
}

impl Once {
    /// The size of its packet, at most.
    pub fn bytes(&self) -> usize {
        packet_size(&self.topic, &self.payload, self.correlation.as_ref())
    }

    /// Itself, or the fullest that is said in its place, where its packet has at most `most` bytes.
    pub fn fitting(self, most: usize) -> Option<Self> {
        if self.bytes() <= most { Some(self) } else { self.instead()?.fitting(most) }
    }

    /// What is said in its place where the broker does not take as much, if anything.
    fn instead(mut self) -> Option<Self> {
        let payload = self.shorter.pop()?;
        Some(Self { payload, ..self })
    }

    /// The same on the other topic, if there is one.
    pub fn elsewhere(mut self) -> Option<Self> {
        let topic = self.elsewhere.take()?;
        Some(Self { topic, ..self })
    }

    /// What it takes of memory, in bytes.
    fn kept_bytes(&self) -> usize {
        self.bytes() + self.shorter.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Outbox {
    /// Adds something that is said once. The oldest give way to it where too many wait.
    pub fn say(&mut self, once: Once) {
        self.waiting.push_back(Item::Once(once));
        let now = Instant::now();
        self.forget_old(now);
        while self.exceeds() {
            let oldest = self.waiting.iter().position(|item| matches!(item, Item::Once(_)));
            let Some(oldest) = oldest else { break };
            self.waiting.remove(oldest);
            self.dropped += 1;
        }
    }

    /// Sets the value of a retained topic. An empty one removes it.
    pub fn keep(&mut self, topic: String, payload: Bytes) {
        if self.kept.get(&topic) == Some(&payload) {
            return;
        }
        self.enqueue(topic.clone());
        self.kept.insert(topic, payload);
    }

    /// Adds a message to oneself.
    pub fn check(&mut self, payload: Bytes) {
        self.waiting.push_back(Item::Check(payload));
    }

    /// A new connection: the broker may know nothing, and has acknowledged nothing. The `first` topic goes first.
    pub fn start_over(&mut self, first: &str) {
        let unacknowledged = std::mem::take(&mut self.sent).into_values().chain(self.handed.drain(..));
        let said: Vec<_> =
            unacknowledged.chain(self.waiting.drain(..)).filter(|item| matches!(item, Item::Once(_))).collect();
        self.waiting.extend(self.kept.keys().filter(|topic| *topic == first).cloned().map(Item::Kept));
        self.waiting.extend(self.kept.keys().filter(|topic| *topic != first).cloned().map(Item::Kept));
        self.waiting.extend(said);
        // Numbers are given in a circle, so the order of what was sent is not that of its numbers.
        self.waiting.make_contiguous().sort_by_key(|item| match item {
            Item::Kept(_) | Item::Check(_) => None,
            Item::Once(once) => Some(once.since),
        });
        self.forget_old(Instant::now());
    }

    /// What goes out next, if fewer than `window` are under way.
    pub fn next(&mut self, window: usize) -> Option<Item> {
        if self.handed.len() + self.sent.len() >= window {
            return None;
        }
        self.forget_old(Instant::now());
        self.waiting.pop_front()
    }

    /// The value of a retained topic.
    pub fn value(&self, topic: &str) -> Bytes {
        self.kept.get(topic).cloned().unwrap_or_default()
    }

    /// The item was handed over.
    pub fn handed(&mut self, item: Item) {
        self.handed.push_back(item);
    }

    /// The item could not be handed over: it goes out first, later.
    pub fn not_taken(&mut self, item: Item) {
        self.waiting.push_front(item);
    }

    /// The item handed over the longest ago has this number. It is returned where that is 0: nobody acknowledges it.
    pub fn sent(&mut self, number: u16) -> Option<Item> {
        let item = self.handed.pop_front()?;
        if number == 0 {
            self.settled(&item);
            return Some(item);
        }
        self.sent.insert(number, item);
        None
    }

    /// What the broker has not acknowledged.
    pub fn open(&self) -> impl Iterator<Item = &Item> {
        self.sent.values().chain(&self.handed)
    }

    /// Whether a newer value of this topic is to go out.
    pub fn has_newer(&self, topic: &str) -> bool {
        self.waiting.iter().any(|item| matches!(item, Item::Kept(other) if other == topic))
    }

    /// Says the retained value of a topic once more.
    pub fn repeat(&mut self, topic: String) {
        self.enqueue(topic);
    }

    /// Gives up what is open and has at least `bytes`: what is said once is replaced by what it has for that case,
    /// and a retained topic is forgotten.
    pub fn give_up(&mut self, bytes: usize) {
        let open = std::mem::take(&mut self.sent).into_values().chain(self.handed.drain(..));
        let open: Vec<_> = open.collect();
        for item in open {
            match item {
                Item::Kept(topic) if packet_size(&topic, &self.value(&topic), None) >= bytes => {
                    self.kept.remove(&topic);
                }
                Item::Once(once) if once.bytes() >= bytes => {
                    self.handed.extend(once.fitting(bytes - 1).map(Item::Once));
                }
                item => self.handed.push_back(item),
            }
        }
    }

    /// Forgets a retained topic, here and not at the broker.
    pub fn forget(&mut self, topic: &str) {
        self.kept.remove(topic);
    }

    /// The broker has the item with this number, which is returned.
    pub fn acknowledged(&mut self, number: u16) -> Option<Item> {
        let item = self.sent.remove(&number)?;
        self.settled(&item);
        Some(item)
    }

    fn settled(&mut self, item: &Item) {
        if let Item::Kept(topic) = item
            && self.kept.get(topic).is_some_and(Bytes::is_empty)
            && !self.waiting.contains(item)
        {
            // It is removed at the broker; there is nothing to say of it at the next connection.
            self.kept.remove(topic);
        }
    }

    /// Whether the broker has everything.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.sent.is_empty()
    }

    /// How many messages were given up since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn enqueue(&mut self, topic: String) {
        let item = Item::Kept(topic);
        if !self.waiting.contains(&item) {
            self.waiting.push_back(item);
        }
    }

    fn exceeds(&self) -> bool {
        let sizes = self.waiting.iter().filter_map(|item| match item {
            Item::Once(once) => Some(once.kept_bytes()),
            Item::Kept(_) | Item::Check(_) => None,
        });
        let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        count > MOST_WAITING || bytes > MOST_WAITING_BYTES
    }

    fn forget_old(&mut self, now: Instant) {
        let before = self.waiting.len();
        self.waiting.retain(|item| !matches!(item, Item::Once(once) if now - once.since > LONGEST_WAIT));
        self.dropped += (before - self.waiting.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(text: &str) -> Once {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        Once {
            topic: "event".into(),
            payload,
            correlation: None,
            shorter: Vec::new(),
            elsewhere: None,
            since: Instant::now(),
        }
    }

    fn all(outbox: &mut Outbox) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(item) = outbox.next(usize::MAX) {
            all.push(match item {
                Item::Once(once) => String::from_utf8(once.payload.to_vec()).unwrap(),
                Item::Kept(topic) => format!("{topic}={}", String::from_utf8_lossy(&outbox.value(&topic))),
                Item::Check(_) => "check".into(),
            });
        }
        all
    }

    #[test]
    fn of_a_retained_topic_only_the_newest_value_goes_out_and_again_at_each_connection() {
        let mut outbox = Outbox::default();
        outbox.keep("status".into(), "1".into());
        outbox.keep("status".into(), "2".into());
        outbox.keep("availability".into(), "online".into());
        assert_eq!(all(&mut outbox), ["status=2", "availability=online"]);
        outbox.keep("status".into(), "2".into());
        assert_eq!(all(&mut outbox), [""; 0], "nothing has changed");
        outbox.start_over("availability");
        assert_eq!(all(&mut outbox), ["availability=online", "status=2"]);
    }

    #[test]
    fn a_removed_topic_is_removed_at_the_broker_and_then_forgotten() {
        let mut outbox = Outbox::default();
        outbox.keep("status".into(), "1".into());
        outbox.keep("status".into(), Bytes::new());
        outbox.start_over("");
        let item = outbox.next(1).unwrap();
        assert_eq!((&item, outbox.value("status")), (&Item::Kept("status".into()), Bytes::new()));
        outbox.handed(item);
        outbox.sent(7);
        assert!(outbox.acknowledged(7).is_some() && outbox.is_empty());
        outbox.start_over("");
        assert_eq!(all(&mut outbox), [""; 0]);
    }

    #[test]
    fn a_value_that_changes_while_the_one_before_is_under_way_goes_out_after_it() {
        let mut outbox = Outbox::default();
        outbox.keep("status".into(), "1".into());
        let item = outbox.next(1).unwrap();
        outbox.handed(item);
        outbox.sent(1);
        outbox.keep("status".into(), Bytes::new());
        assert_eq!(outbox.next(1), None, "the window is full");
        outbox.acknowledged(1);
        assert_eq!(all(&mut outbox), ["status="]);
    }

    #[test]
    fn what_was_not_acknowledged_goes_out_again_in_its_order_and_checks_do_not() {
        let mut outbox = Outbox::default();
        for text in ["a", "b", "c", "d"] {
            outbox.say(once(text));
        }
        outbox.check("1".into());
        // The numbers have come round.
        for number in [15, 16, 1] {
            let item = outbox.next(3).unwrap();
            outbox.handed(item);
            outbox.sent(number);
        }
        assert!(outbox.next(3).is_none());
        outbox.acknowledged(16);
        outbox.keep("status".into(), "1".into());
        outbox.start_over("availability");
        assert_eq!(all(&mut outbox), ["status=1", "a", "c", "d"]);
    }

    #[test]
    fn what_is_too_large_is_replaced_where_it_was_said_once_and_forgotten_where_it_was_kept() {
        let mut outbox = Outbox::default();
        outbox.keep("picture".into(), "x".repeat(9000).into());
        outbox.keep("status".into(), "1".into());
        outbox.say(Once { shorter: vec!["too large".into()], ..once(&"x".repeat(9000)) });
        outbox.say(once(&"y".repeat(9000)));
        for number in 1..5 {
            let item = outbox.next(8).unwrap();
            outbox.handed(item);
            outbox.sent(number);
        }
        outbox.give_up(9000);
        outbox.start_over("");
        assert_eq!(all(&mut outbox), ["status=1", "too large"]);
    }

    #[test]
    fn what_nobody_acknowledges_is_done_when_it_went_out() {
        let mut outbox = Outbox::default();
        outbox.say(once("a"));
        let item = outbox.next(1).unwrap();
        outbox.handed(item);
        assert!(outbox.next(1).is_none());
        assert!(outbox.sent(0).is_some() && outbox.is_empty());
    }

    #[test]
    fn too_many_too_large_or_too_old_messages_are_dropped_the_oldest_first() {
        let mut outbox = Outbox::default();
        for number in 0..MOST_WAITING + 5 {
            outbox.say(once(&number.to_string()));
        }
        assert_eq!(outbox.take_dropped(), 5);
        assert_eq!(all(&mut outbox)[0], "5");

        for _ in 0..5 {
            outbox.say(once(&"x".repeat(MOST_WAITING_BYTES / 4)));
        }
        assert_eq!((all(&mut outbox).len(), outbox.take_dropped()), (3, 2));

        let before = Instant::now().checked_sub(LONGEST_WAIT + Duration::from_millis(1)).unwrap();
        outbox.keep("status".into(), "1".into());
        outbox.say(Once { since: before, ..once("old") });
        outbox.say(once("new"));
        assert_eq!(all(&mut outbox), ["status=1", "new"]);
        assert_eq!(outbox.take_dropped(), 1);
    }
}
