//! The subscriptions of the service: passes each message to the readers whose filter matches.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Message;

/// All subscriptions; they outlive connections.
#[derive(Debug, Default)]
pub struct Subscriptions {
    all: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    filter: String,
    messages: mpsc::Sender<Message>,
    /// Messages lost because the reader was too slow, since the last one that it took.
    lost: u64,
}

impl Subscriptions {
    /// Adds a subscription.
    pub fn add(&mut self, filter: String, messages: mpsc::Sender<Message>) {
        self.all.push(Subscription { filter, messages, lost: 0 });
    }

    /// All filters.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|subscription| subscription.filter.as_str())
    }

    /// Passes a message to every reader whose filter matches. A reader that is too slow loses it; one that is gone is
    /// removed.
    pub fn give(&mut self, message: &Message) {
        self.all.retain_mut(|subscription| {
            let Subscription { filter, messages, lost } = subscription;
            if !matches(filter, &message.topic) {
                return true;
            }
            match messages.try_send(message.clone()) {
                Ok(()) => {
                    if std::mem::take(lost) > 0 {
                        tracing::info!(filter, "its reader keeps up again");
                    }
                    true
                }
                Err(TrySendError::Full(_)) => {
                    *lost += 1;
                    // Powers of two: a flood gives a handful of lines, each with the count so far.
                    if lost.is_power_of_two() {
                        tracing::warn!(filter, lost, "messages come faster than they are read");
                    }
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        });
    }
}

/// Whether a topic matches a filter (MQTT 5, section 4.7). `rumqttc` has this too, and panics at some topics.
fn matches(filter: &str, topic: &str) -> bool {
    // Topics that begin with $ are the broker's own, and a wildcard in that place does not match them.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn wildcards_match_as_the_specification_defines() {
        for (filter, topic, is_within) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b", "a", false),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a//c", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a", "", false),
            ("+", "é", true),
        ] {
            assert_eq!(matches(filter, topic), is_within, "{filter} {topic}");
        }
    }

    #[test]
    fn a_slow_reader_loses_the_newest_messages_and_other_readers_lose_none() {
        let mut subscriptions = Subscriptions::default();
        let (slow, mut slow_reader) = mpsc::channel(1);
        let (fast, mut fast_reader) = mpsc::channel(8);
        let (gone, _) = mpsc::channel(1);
        for messages in [slow, fast, gone] {
            subscriptions.add("a/+".into(), messages);
        }
        for number in 0..3_u8 {
            let payload = Bytes::copy_from_slice(&[number]);
            subscriptions.give(&Message { topic: "a/b".into(), payload, is_retained: false, reply: None });
        }
        assert_eq!(slow_reader.try_recv().unwrap().payload[0], 0);
        assert!(slow_reader.try_recv().is_err());
        assert_eq!((fast_reader.len(), fast_reader.try_recv().unwrap().payload[0]), (3, 0));
        assert_eq!(subscriptions.filters().count(), 2, "a closed reader is removed");
    }
}
