//! Which of the device's topics a broker's access list forbids, found out by an empty message on each.
//!
//! Only MQTT 5 says that a publication is not passed on, and no version says that messages of a granted subscription
//! are kept back (mosquitto grants all). So each topic is subscribed to, published to, and seen to come back or not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::topics::Topics;

/// The name of a viewer and of a camera that nobody has, for their topics.
const NOBODY: &str = "doctor";

/// After the broker has the last message, so long is waited for those that have not come back: it is a matter of
/// milliseconds, but for its load.
const LONGEST: Duration = Duration::from_secs(3);

/// So long the message to oneself is waited for before more is asked: a broker that hangs up on what is asked next takes
/// with it what it has not sent yet.
const ECHO: Duration = Duration::from_secs(1);

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
    is_subscribed: bool,
    is_published: bool,
    refused_to_read: Option<String>,
    refused_to_write: Option<String>,
    came: bool,
}

/// What the broker is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The messages of these topics.
    Subscribe(Vec<String>),
    /// To take this payload on this topic.
    Publish(String, Bytes),
}

/// All topics of one device, asked for one step after the other, so that it is known which one a broker hangs up on.
/// What the service needs comes first: a broker may hang up on the rest, as AWS IoT does, and be set up well.
#[derive(Debug)]
pub struct Audit {
    tried: Vec<Tried>,
    /// Whether the broker says that a publication is not passed on.
    tells: bool,
    /// What is still to be asked for.
    plan: VecDeque<Asked>,
    asked: Option<Asked>,
    /// When the last step was answered.
    last: Option<Instant>,
    /// When the broker had the message to oneself.
    handed_over: Option<Instant>,
    has_hung_up: bool,
}

/// A step; of a publication its number too, once it went out.
#[derive(Debug)]
enum Asked {
    Messages(Vec<usize>),
    Publication(usize, Option<u16>),
}

/// What the access list forbids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is forbidden for certain, for people.
    pub forbidden: Vec<String>,
    /// What did not come back, which may have two reasons.
    pub doubtful: Vec<String>,
    /// What the device has to hear, and may not publish on, so that it cannot be tried.
    pub untried: Vec<String>,
    /// What mosquitto's access list has to say to permit all of it.
    pub permissions: Vec<String>,
}

impl Audit {
    /// Nothing is tried yet. `own` is what is published on the topic of messages to oneself; `tells` says whether the
    /// broker says that a publication is not passed on.
    pub fn new(topics: &Topics, own: Bytes, tells: bool) -> Self {
        let tried = |uses, topic: String, filter: Option<String>| Tried {
            uses,
            filter: filter.unwrap_or_else(|| topic.clone()),
            topic,
            // It says nothing to those who hear it, the service among them.
            payload: Bytes::new(),
            is_subscribed: false,
            is_published: false,
            refused_to_read: None,
            refused_to_write: None,
            came: false,
        };
        let (calls, answers, snapshots) = (topics.from_viewers(), topics.to_viewer("+"), topics.snapshot("+"));
        let tried = vec![
            Tried { payload: own, ..tried(Use::Both, topics.self_check(), None) },
            tried(Use::Writes, topics.status(), None),
            tried(Use::Writes, topics.outcome(), None),
            tried(Use::Writes, topics.event(), None),
            tried(Use::Writes, topics.to_viewer(NOBODY), Some(answers)),
            tried(Use::Writes, topics.snapshot(NOBODY), Some(snapshots)),
            tried(Use::Reads, topics.command(), None),
            tried(Use::Reads, calls.replace('+', NOBODY), Some(calls)),
        ];
        let (needed, others): (Vec<_>, Vec<_>) = (0..tried.len()).partition(|at| tried[*at].uses != Use::Writes);
        let mut plan = VecDeque::from([Asked::Messages(needed), Asked::Publication(0, None)]);
        if !tells {
            // To see what becomes of a publication, which the broker tells else.
            plan.push_back(Asked::Messages(others));
        }
        plan.extend((1..tried.len()).map(|at| Asked::Publication(at, None)));
        Self { tried, tells, plan, asked: None, last: None, handed_over: None, has_hung_up: false }
    }

    /// Until when the message to oneself is waited for; `None` where it is not.
    pub fn echo(&self) -> Option<Instant> {
        let is_awaited = self.tried[0].is_subscribed && !self.tried[0].came;
        self.handed_over.filter(|_| is_awaited).map(|at| at + ECHO)
    }

    /// What to ask for next; `None` while the broker has not answered the step before, or nothing is left.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if self.asked.is_some() || self.echo().is_some_and(|until| now < until) {
            return None;
        }
        let tried = |at: &usize| &self.tried[*at];
        let asked = self.plan.pop_front()?;
        let step = match &asked {
            Asked::Messages(all) => Step::Subscribe(all.iter().map(|at| tried(at).topic.clone()).collect()),
            Asked::Publication(at, _) => Step::Publish(tried(at).topic.clone(), tried(at).payload.clone()),
        };
        self.asked = Some(asked);
        Some(step)
    }

    /// The broker has answered the subscription.
    pub fn granted(&mut self, granted: Vec<Result<(), String>>, now: Instant) {
        let Some(Asked::Messages(all)) = self.asked.take() else { return };
        for (at, granted) in all.into_iter().zip(granted) {
            self.tried[at].is_subscribed = granted.is_ok();
            self.tried[at].refused_to_read = granted.err();
        }
        self.last = Some(now);
    }

    /// The publication went out under this number; 0 is never acknowledged.
    pub fn sent(&mut self, number: u16, now: Instant) {
        if let Some(Asked::Publication(_, sent)) = &mut self.asked {
            *sent = Some(number);
        }
        if number == 0 {
            self.acknowledged(0, None, now);
        }
    }

    /// The broker has the one with this number, and passes it on or not.
    pub fn acknowledged(&mut self, number: u16, refusal: Option<String>, now: Instant) {
        if let Some(Asked::Publication(at, _)) =
            self.asked.take_if(|asked| matches!(asked, Asked::Publication(_, Some(sent)) if *sent == number))
        {
            self.tried[at].is_published = true;
            self.tried[at].refused_to_write = refusal;
            self.last = Some(now);
            if at == 0 {
                self.handed_over = Some(now);
            }
        }
    }

    /// The broker has hung up. Whether it did so on what the service does not need; then this is the end.
    pub fn hung_up(&mut self) -> bool {
        let is_unneeded = |at: &usize| match self.asked {
            Some(Asked::Messages(_)) => self.tried[*at].uses == Use::Writes,
            _ => self.tried[*at].uses == Use::Reads,
        };
        self.has_hung_up = match &self.asked {
            Some(Asked::Messages(all)) => all.iter().all(is_unneeded),
            Some(Asked::Publication(at, _)) => is_unneeded(at),
            None => false,
        };
        self.has_hung_up
    }

    /// A message came, which may be the one that was published there.
    pub fn came(&mut self, topic: &str, payload: &Bytes) {
        for tried in self.tried.iter_mut().filter(|tried| tried.topic == topic && tried.payload == payload) {
            tried.came = true;
        }
    }

    /// When there is nothing more to wait for; `None` while something is to be asked or answered.
    pub fn deadline(&self) -> Option<Instant> {
        let has_all = self.asked.is_none() && self.plan.is_empty();
        let is_over = self.tried.iter().all(|tried| tried.came || !tried.is_subscribed);
        self.last.filter(|_| has_all).map(|last| if is_over { last } else { last + LONGEST })
    }

    /// Whether the message to oneself came back.
    pub fn heard_itself(&self) -> bool {
        self.tried[0].came
    }

    /// What is forbidden.
    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for tried in &self.tried {
            let filter = &tried.filter;
            let (reads, writes) = (tried.uses != Use::Writes, tried.uses != Use::Reads);
            // All that is needed, so that who permits it is not told of the other half next time.
            let permission = match tried.uses {
                Use::Reads => format!("topic read {filter}"),
                Use::Writes => format!("topic write {filter}"),
                Use::Both => format!("topic readwrite {filter}"),
            };
            let before = findings.forbidden.len() + findings.doubtful.len();
            if let Some(why) = tried.refused_to_read.as_ref().filter(|_| reads) {
                findings.forbidden.push(format!("subscribe to {filter} ({why})"));
            }
            if let Some(why) = tried.refused_to_write.as_ref().filter(|_| writes) {
                findings.forbidden.push(format!("publish on {filter} ({why})"));
            }
            if reads && !writes && tried.refused_to_read.is_none() && tried.refused_to_write.is_some() {
                findings.untried.push(filter.clone());
            }
            // After it has hung up nothing comes back.
            let is_missing = tried.is_subscribed && tried.is_published && !tried.came && !self.has_hung_up;
            if is_missing && tried.refused_to_write.is_none() {
                if reads && self.tells {
                    findings.forbidden.push(format!("read what comes on {filter}"));
                } else if !self.tells {
                    findings.doubtful.push(filter.clone());
                }
            }
            if findings.forbidden.len() + findings.doubtful.len() > before {
                findings.permissions.push(permission);
            }
        }
        findings
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
        let (mut audit, now) = (Audit::new(&Topics::new("peercam", "door"), OWN, tells), Instant::now());
        let refusal = |is_fine: bool| if is_fine { Ok(()) } else { Err("no".to_owned()) };
        while let Some(step) = audit.next(now).or_else(|| audit.next(now + ECHO)) {
            assert_eq!((audit.next(now + ECHO), audit.deadline()), (None, None), "one after the other");
            match step {
                Step::Subscribe(topics) => {
                    assert!(topics.iter().all(|topic| !topic.contains('+')), "{topics:?}");
                    audit.granted(topics.iter().map(|topic| refusal(grants(topic))).collect(), now);
                }
                Step::Publish(topic, payload) => {
                    audit.sent(7, now);
                    audit.acknowledged(6, None, now);
                    audit.acknowledged(7, refusal(takes(&topic) || !tells).err(), now);
                    if takes(&topic) && grants(&topic) && gives(&topic) {
                        audit.came(&topic, &payload);
                    }
                }
            }
        }
        assert!(audit.deadline().is_some());
        audit.findings()
    }

    #[test]
    fn a_broker_may_hang_up_on_what_the_service_does_not_need() {
        let topics = Topics::new("peercam", "door");
        for (tells, unneeded) in [(true, topics.command()), (false, topics.status())] {
            let (mut audit, now) = (Audit::new(&topics, OWN, tells), Instant::now());
            loop {
                match audit.next(now).unwrap() {
                    Step::Subscribe(filters) if filters.contains(&unneeded) && !tells => break,
                    Step::Publish(topic, _) if topic == unneeded => break,
                    Step::Subscribe(filters) => {
                        assert!(!audit.hung_up(), "{filters:?} are needed");
                        audit.granted(vec![Ok(()); filters.len()], now);
                    }
                    Step::Publish(topic, payload) => {
                        assert!(!audit.hung_up(), "{topic} is needed");
                        audit.sent(1, now);
                        audit.acknowledged(1, None, now);
                        audit.came(&topic, &payload);
                    }
                }
            }
            assert!(audit.hung_up());
            assert_eq!(audit.findings(), Findings::default());
        }
    }

    #[test]
    fn more_is_asked_when_the_message_to_oneself_is_back_or_late() {
        let now = Instant::now();
        for comes in [true, false] {
            let mut audit = Audit::new(&Topics::new("peercam", "door"), OWN, true);
            let Some(Step::Subscribe(topics)) = audit.next(now) else { panic!("nothing is asked for") };
            audit.granted(vec![Ok(()); topics.len()], now);
            let Some(Step::Publish(topic, payload)) = audit.next(now) else { panic!("nothing is published") };
            audit.sent(1, now);
            audit.acknowledged(1, None, now);
            assert_eq!((audit.next(now), audit.echo()), (None, Some(now + ECHO)));
            if comes {
                audit.came(&topic, &payload);
                assert!(audit.next(now).is_some() && audit.echo().is_none());
            } else {
                assert!(audit.next(now + ECHO).is_some(), "a broker that keeps it back is asked all the same");
            }
        }
    }

    #[test]
    fn a_device_that_may_do_all_or_all_that_it_needs_finds_nothing() {
        assert_eq!(found(true, |_| true, |_| true, |_| true), Findings::default());
        assert_eq!(found(false, |_| true, |_| true, |_| true), Findings::default());
        let is_read =
            |topic: &str| topic.ends_with("command") || topic.ends_with("to-device") || topic.ends_with("check");
        let is_written = |topic: &str| !is_read(topic) || topic.ends_with("check");
        let apart = found(true, |_| true, is_written, is_read);
        let untried = ["peercam/door/command", "peercam/door/viewer/+/to-device"].map(str::to_owned).to_vec();
        assert_eq!(apart, Findings { untried, ..Findings::default() }, "what it may not write to cannot be tried");
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
