//! Which of the device's topics a broker's access list forbids, found out by an empty message on each.
//!
//! Only MQTT 5 says that a publication is not passed on, and no version says that messages of a granted subscription
//! are kept back (mosquitto grants all). So each topic is subscribed to, published to, and seen to come back or not.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::topics::Topics;

/// The name of a viewer and of a camera that nobody has, for their topics.
const NOBODY: &str = "doctor";

/// After the broker has the last message, so long is waited for those that have not come back: it is a matter of
/// milliseconds, but for its load.
const LONGEST: Duration = Duration::from_secs(3);

/// What the service does with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It hears what others publish there.
    Reads,
    /// It publishes there.
    Writes,
    /// Both.
    Both,
}

/// One topic, and what became of it.
#[derive(Debug)]
struct Tried {
    uses: Use,
    /// Where the message to be tried goes.
    topic: String,
    /// What the service subscribes to, or publishes to: the topic, where it has no wildcard.
    filter: String,
    payload: Bytes,
    refused_to_read: Option<String>,
    refused_to_write: Option<String>,
    came: bool,
}

/// All topics of one device.
#[derive(Debug)]
pub struct Audit {
    tried: Vec<Tried>,
    /// How many have been published, and how many of these the broker has; each in their order.
    published: usize,
    numbers: Vec<u16>,
    acknowledged: usize,
    last: Option<Instant>,
}

/// What the access list forbids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is forbidden for certain, for people.
    pub forbidden: Vec<String>,
    /// What did not come back, which may have two reasons.
    pub doubtful: Vec<String>,
    /// What mosquitto's access list has to say to permit all of it.
    pub permissions: Vec<String>,
}

impl Audit {
    /// Nothing is tried yet. `own` is what is published on the topic of messages to oneself.
    pub fn new(topics: &Topics, own: Bytes) -> Self {
        let tried = |uses, topic: String, filter: Option<String>| Tried {
            uses,
            filter: filter.unwrap_or_else(|| topic.clone()),
            topic,
            // It says nothing to those who hear it, the service among them.
            payload: Bytes::new(),
            refused_to_read: None,
            refused_to_write: None,
            came: false,
        };
        let snapshots = topics.snapshot("+");
        let (calls, answers) = (topics.from_viewers(), topics.to_viewer("+"));
        let tried = vec![
            Tried { payload: own, ..tried(Use::Both, topics.self_check(), None) },
            tried(Use::Reads, topics.command(), None),
            tried(Use::Reads, calls.replace('+', NOBODY), Some(calls)),
            tried(Use::Writes, topics.to_viewer(NOBODY), Some(answers)),
            tried(Use::Writes, topics.status(), None),
            tried(Use::Writes, topics.outcome(), None),
            tried(Use::Writes, topics.event(), None),
            tried(Use::Writes, topics.snapshot(NOBODY), Some(snapshots)),
        ];
        Self { tried, published: 0, numbers: Vec::new(), acknowledged: 0, last: None }
    }

    /// What to subscribe to, in this order.
    pub fn filters(&self) -> Vec<String> {
        self.tried.iter().map(|tried| tried.topic.clone()).collect()
    }

    /// The broker has answered the subscription.
    pub fn granted(&mut self, granted: Vec<Result<(), String>>) {
        for (tried, granted) in self.tried.iter_mut().zip(granted) {
            tried.refused_to_read = granted.err();
        }
    }

    /// What to publish next.
    pub fn next(&mut self) -> Option<(String, Bytes)> {
        let tried = self.tried.get(self.published)?;
        self.published += 1;
        Some((tried.topic.clone(), tried.payload.clone()))
    }

    /// The one published the longest ago went out under this number; 0 is never acknowledged.
    pub fn sent(&mut self, number: u16, now: Instant) {
        self.numbers.push(number);
        if number == 0 {
            self.has_one_more(now);
        }
    }

    /// The broker has the one with this number, and passes it on or not.
    pub fn acknowledged(&mut self, number: u16, refusal: Option<String>, now: Instant) {
        let Some(at) = self.numbers.iter().position(|sent| *sent == number) else { return };
        self.tried[at].refused_to_write = refusal;
        self.has_one_more(now);
    }

    fn has_one_more(&mut self, now: Instant) {
        self.acknowledged += 1;
        self.last = Some(now);
    }

    /// A message came. Whether it is the one that was published there.
    pub fn came(&mut self, topic: &str, payload: &Bytes) {
        for tried in self.tried.iter_mut().filter(|tried| tried.topic == topic && tried.payload == payload) {
            tried.came = true;
        }
    }

    /// When there is nothing more to wait for; `None` while the broker has not all of them.
    pub fn deadline(&self) -> Option<Instant> {
        let has_all = self.acknowledged == self.tried.len();
        let is_over = self.tried.iter().all(|tried| tried.came || tried.is_refused());
        self.last.filter(|_| has_all).map(|last| if is_over { last } else { last + LONGEST })
    }

    /// Whether the message to oneself came back.
    pub fn heard_itself(&self) -> bool {
        self.tried[0].came
    }

    /// What is forbidden. `tells` says whether the broker says so of publications.
    pub fn findings(&self, tells: bool) -> Findings {
        let mut findings = Findings::default();
        for tried in &self.tried {
            let filter = &tried.filter;
            let (reads, writes) = (tried.uses != Use::Writes, tried.uses != Use::Reads);
            let mut forbids = |what: String, permission: &str| {
                findings.forbidden.push(what);
                findings.permissions.push(format!("topic {permission} {filter}"));
            };
            let is_granted = tried.refused_to_read.is_none();
            if let Some(why) = tried.refused_to_read.as_ref().filter(|_| reads) {
                forbids(format!("subscribe to {filter} ({why})"), "read");
            }
            if let Some(why) = tried.refused_to_write.as_ref().filter(|_| writes) {
                forbids(format!("publish on {filter} ({why})"), "write");
            }
            if tried.came || !is_granted || tried.refused_to_write.is_some() {
                continue;
            }
            if reads && tells {
                forbids(format!("read what comes on {filter}"), "read");
            } else if !tells {
                findings.doubtful.push(filter.clone());
                let permission = if tried.uses == Use::Writes { "write" } else { "readwrite" };
                findings.permissions.push(format!("topic {permission} {filter}"));
            }
        }
        findings
    }
}

impl Tried {
    fn is_refused(&self) -> bool {
        self.refused_to_read.is_some() || self.refused_to_write.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Bytes = Bytes::from_static(b"own");

    /// What is found where a broker grants, takes and gives back as it likes.
    fn found(
        tells: bool,
        grants: impl Fn(&str) -> bool,
        takes: impl Fn(&str) -> bool,
        gives: impl Fn(&str) -> bool,
    ) -> Findings {
        let (mut audit, now) = (Audit::new(&Topics::new("peercam", "door"), OWN), Instant::now());
        let refusal = |is_fine: bool| if is_fine { Ok(()) } else { Err("no".to_owned()) };
        let filters = audit.filters();
        assert!(filters.iter().all(|filter| !filter.contains('+')), "{filters:?}");
        audit.granted(filters.iter().map(|filter| refusal(grants(filter))).collect());
        let mut number = 0;
        while let Some((topic, payload)) = audit.next() {
            assert_eq!(audit.deadline(), None);
            number += 1;
            audit.sent(number, now);
            audit.acknowledged(number, refusal(takes(&topic) || !tells).err(), now);
            if takes(&topic) && grants(&topic) && gives(&topic) {
                audit.came(&topic, &payload);
            }
        }
        assert!(audit.deadline().is_some());
        audit.findings(tells)
    }

    #[test]
    fn a_device_that_may_do_all_or_all_that_it_needs_finds_nothing() {
        assert_eq!(found(true, |_| true, |_| true, |_| true), Findings::default());
        assert_eq!(found(false, |_| true, |_| true, |_| true), Findings::default());
        let is_read =
            |topic: &str| topic.ends_with("command") || topic.ends_with("to-device") || topic.ends_with("check");
        let is_written = |topic: &str| !is_read(topic) || topic.ends_with("check");
        assert_eq!(found(true, |_| true, is_written, is_read), Findings::default(), "reads and writes apart");
    }

    #[test]
    fn each_forbidden_topic_is_named_with_what_permits_it() {
        let no_command = |topic: &str| !topic.ends_with("command");
        let refused = found(true, no_command, |_| true, |_| true);
        assert_eq!(refused.forbidden, ["subscribe to peercam/door/command (no)"]);
        assert_eq!(refused.permissions, ["topic read peercam/door/command"]);
        // As mosquitto does it: the subscription is granted, and nothing comes.
        let silent = found(true, |_| true, |_| true, no_command);
        assert_eq!(silent.forbidden, ["read what comes on peercam/door/command"]);
        let no_answers = found(true, |_| true, |topic| !topic.contains("to-viewer"), |_| true);
        assert_eq!(no_answers.forbidden, ["publish on peercam/door/viewer/+/to-viewer (no)"]);
        assert_eq!(no_answers.permissions, ["topic write peercam/door/viewer/+/to-viewer"]);
    }

    #[test]
    fn where_publications_are_dropped_without_a_word_the_missing_ones_are_named() {
        let dropped = found(false, |_| true, |topic| !topic.ends_with("status"), |_| true);
        assert_eq!((dropped.forbidden.len(), dropped.doubtful), (0, vec!["peercam/door/status".to_owned()]));
        assert_eq!(dropped.permissions, ["topic write peercam/door/status"]);
    }
}
