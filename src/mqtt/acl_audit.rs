//! Finds the topics of the device that a broker's access list forbids, with an empty message on each.
//!
//! Only MQTT 5 reports that a publication is not passed on, and no version reports that messages of a granted
//! subscription are held back (mosquitto grants every subscription). So the audit subscribes to each topic, publishes
//! on it, and checks whether the message comes back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::topics::Topics;

/// An unused viewer name and camera name, for their topics.
const UNUSED_NAME: &str = "doctor";

/// How long to wait for missing messages after the broker has the last one: they take milliseconds, unless the broker
/// is loaded.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait for the self-check message before the next request: a broker that hangs up on that request discards
/// what it has not sent yet.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);

/// How the service uses a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It receives what others publish there.
    Reads,
    /// It publishes there.
    Writes,
    /// Both.
    Both,
}

/// One topic, and the result for it.
#[derive(Debug)]
struct TestedTopic {
    uses: Use,
    /// Where the test message is published.
    topic: String,
    /// What the service subscribes to or publishes on. Equal to `topic` if it has no wildcard.
    filter: String,
    payload: Bytes,
    is_subscribed: bool,
    is_published: bool,
    refused_to_read: Option<String>,
    refused_to_write: Option<String>,
    received: bool,
}

/// A request to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Subscribe to these topics.
    Subscribe(Vec<String>),
    /// Publish this payload on this topic.
    Publish(String, Bytes),
}

/// All topics of one device, requested one after the other, so that it is known which one a broker hangs up on. What
/// the service needs comes first: a broker may hang up on the rest, as AWS IoT does, and still be configured well.
#[derive(Debug)]
pub struct AclAudit {
    tested: Vec<TestedTopic>,
    /// Whether the broker reports that a publication is not passed on.
    reports_refusals: bool,
    /// The requests that are still to be made.
    remaining: VecDeque<PendingStep>,
    asked: Option<PendingStep>,
    /// When the last request was answered.
    last: Option<Instant>,
    /// When the broker got the self-check message.
    self_check_sent: Option<Instant>,
    has_hung_up: bool,
}

/// A request; for a publication also its packet number, once it was sent.
#[derive(Debug)]
enum PendingStep {
    Subscribe(Vec<usize>),
    Publish(usize, Option<u16>),
}

/// Permissions that the access list lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Certainly forbidden uses, as text for people.
    pub forbidden: Vec<String>,
    /// The topics whose message did not come back: either publishing or reading is forbidden.
    pub doubtful: Vec<String>,
    /// The topics that the device reads and may not publish on, so that reading cannot be tested.
    pub untested: Vec<String>,
    /// The lines that mosquitto's access list needs to permit all of it.
    pub permissions: Vec<String>,
}

impl AclAudit {
    /// Nothing is tested yet. `own` is the payload of the self-check message; `reports_refusals` is whether the broker
    /// reports that a publication is not passed on.
    pub fn new(topics: &Topics, own: Bytes, reports_refusals: bool) -> Self {
        let tested = |uses, topic: String, filter: Option<String>| TestedTopic {
            uses,
            filter: filter.unwrap_or_else(|| topic.clone()),
            topic,
            // An empty message means nothing to its receivers, one of which is the service.
            payload: Bytes::new(),
            is_subscribed: false,
            is_published: false,
            refused_to_read: None,
            refused_to_write: None,
            received: false,
        };
        let (calls, answers, snapshots) = (topics.from_viewers(), topics.to_viewer("+"), topics.snapshot("+"));
        let tested = vec![
            TestedTopic { payload: own, ..tested(Use::Both, topics.self_check(), None) },
            tested(Use::Writes, topics.status(), None),
            tested(Use::Writes, topics.outcome(), None),
            tested(Use::Writes, topics.event(), None),
            tested(Use::Writes, topics.to_viewer(UNUSED_NAME), Some(answers)),
            tested(Use::Writes, topics.snapshot(UNUSED_NAME), Some(snapshots)),
            tested(Use::Reads, topics.command(), None),
            tested(Use::Reads, calls.replace('+', UNUSED_NAME), Some(calls)),
        ];
        let (needed, others): (Vec<_>, Vec<_>) = (0..tested.len()).partition(|at| tested[*at].uses != Use::Writes);
        let mut remaining = VecDeque::from([PendingStep::Subscribe(needed), PendingStep::Publish(0, None)]);
        if !reports_refusals {
            // To see whether a publication is passed on, which the broker would report otherwise.
            remaining.push_back(PendingStep::Subscribe(others));
        }
        remaining.extend((1..tested.len()).map(|at| PendingStep::Publish(at, None)));
        Self { tested, reports_refusals, remaining, asked: None, last: None, self_check_sent: None, has_hung_up: false }
    }

    /// Until when to wait for the self-check message; `None` if it is not awaited.
    pub fn echo_deadline(&self) -> Option<Instant> {
        let is_awaited = self.tested[0].is_subscribed && !self.tested[0].received;
        self.self_check_sent.filter(|_| is_awaited).map(|at| at + ECHO_TIMEOUT)
    }

    /// The next request; `None` while the broker has not answered the previous one, or if nothing is left.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if self.asked.is_some() || self.echo_deadline().is_some_and(|until| now < until) {
            return None;
        }
        let tested = |at: &usize| &self.tested[*at];
        let asked = self.remaining.pop_front()?;
        let step = match &asked {
            PendingStep::Subscribe(all) => Step::Subscribe(all.iter().map(|at| tested(at).topic.clone()).collect()),
            PendingStep::Publish(at, _) => Step::Publish(tested(at).topic.clone(), tested(at).payload.clone()),
        };
        self.asked = Some(asked);
        Some(step)
    }

    /// The broker has answered the subscription.
    pub fn granted(&mut self, granted: Vec<Result<(), String>>, now: Instant) {
        let Some(PendingStep::Subscribe(all)) = self.asked.take() else { return };
        for (at, granted) in all.into_iter().zip(granted) {
            self.tested[at].is_subscribed = granted.is_ok();
            self.tested[at].refused_to_read = granted.err();
        }
        self.last = Some(now);
    }

    /// The publication was sent under this number; 0 is never acknowledged.
    pub fn sent(&mut self, number: u16, now: Instant) {
        if let Some(PendingStep::Publish(_, sent)) = &mut self.asked {
            *sent = Some(number);
        }
        if number == 0 {
            self.acknowledged(0, None, now);
        }
    }

    /// The broker acknowledged the publication with this number; `refusal` is why it does not pass it on.
    pub fn acknowledged(&mut self, number: u16, refusal: Option<String>, now: Instant) {
        if let Some(PendingStep::Publish(at, _)) =
            self.asked.take_if(|asked| matches!(asked, PendingStep::Publish(_, Some(sent)) if *sent == number))
        {
            self.tested[at].is_published = true;
            self.tested[at].refused_to_write = refusal;
            self.last = Some(now);
            if at == 0 {
                self.self_check_sent = Some(now);
            }
        }
    }

    /// The broker hung up. Returns whether it did so on a request that the service does not need; then the audit is
    /// over.
    pub fn broker_hung_up(&mut self) -> bool {
        let is_unneeded = |at: &usize| match self.asked {
            Some(PendingStep::Subscribe(_)) => self.tested[*at].uses == Use::Writes,
            _ => self.tested[*at].uses == Use::Reads,
        };
        self.has_hung_up = match &self.asked {
            Some(PendingStep::Subscribe(all)) => all.iter().all(is_unneeded),
            Some(PendingStep::Publish(at, _)) => is_unneeded(at),
            None => false,
        };
        self.has_hung_up
    }

    /// A message arrived, which may be the one that was published there.
    pub fn received(&mut self, topic: &str, payload: &Bytes) {
        for tested in self.tested.iter_mut().filter(|tested| tested.topic == topic && tested.payload == payload) {
            tested.received = true;
        }
    }

    /// When to stop waiting; `None` while a request is to be made or answered.
    pub fn deadline(&self) -> Option<Instant> {
        let has_all = self.asked.is_none() && self.remaining.is_empty();
        let is_over = self.tested.iter().all(|tested| tested.received || !tested.is_subscribed);
        self.last.filter(|_| has_all).map(|last| if is_over { last } else { last + DELIVERY_TIMEOUT })
    }

    /// Whether the self-check message came back.
    pub fn received_own(&self) -> bool {
        self.tested[0].received
    }

    /// What is forbidden.
    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for tested in &self.tested {
            let filter = &tested.filter;
            let (reads, writes) = (tested.uses != Use::Writes, tested.uses != Use::Reads);
            // Everything that is needed, so that the next audit does not report the other half.
            let permission = match tested.uses {
                Use::Reads => format!("topic read {filter}"),
                Use::Writes => format!("topic write {filter}"),
                Use::Both => format!("topic readwrite {filter}"),
            };
            let before = findings.forbidden.len() + findings.doubtful.len();
            if let Some(why) = tested.refused_to_read.as_ref().filter(|_| reads) {
                findings.forbidden.push(format!("subscribe to {filter} ({why})"));
            }
            if let Some(why) = tested.refused_to_write.as_ref().filter(|_| writes) {
                findings.forbidden.push(format!("publish on {filter} ({why})"));
            }
            if reads && !writes && tested.refused_to_read.is_none() && tested.refused_to_write.is_some() {
                findings.untested.push(filter.clone());
            }
            // After the broker hung up nothing comes back.
            let is_missing = tested.is_subscribed && tested.is_published && !tested.received && !self.has_hung_up;
            if is_missing && tested.refused_to_write.is_none() {
                if reads && self.reports_refusals {
                    findings.forbidden.push(format!("read what comes on {filter}"));
                } else if !self.reports_refusals {
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

    /// The findings for a broker that grants, accepts and delivers as the arguments specify.
    fn found(
        reports_refusals: bool,
        grants: impl Fn(&str) -> bool,
        takes: impl Fn(&str) -> bool,
        gives: impl Fn(&str) -> bool,
    ) -> Findings {
        let (mut audit, now) = (AclAudit::new(&Topics::new("peercam", "door"), OWN, reports_refusals), Instant::now());
        let refusal = |is_fine: bool| if is_fine { Ok(()) } else { Err("no".to_owned()) };
        while let Some(step) = audit.next(now).or_else(|| audit.next(now + ECHO_TIMEOUT)) {
            assert_eq!((audit.next(now + ECHO_TIMEOUT), audit.deadline()), (None, None), "one after the other");
            match step {
                Step::Subscribe(topics) => {
                    assert!(topics.iter().all(|topic| !topic.contains('+')), "{topics:?}");
                    audit.granted(topics.iter().map(|topic| refusal(grants(topic))).collect(), now);
                }
                Step::Publish(topic, payload) => {
                    audit.sent(7, now);
                    audit.acknowledged(6, None, now);
                    audit.acknowledged(7, refusal(takes(&topic) || !reports_refusals).err(), now);
                    if takes(&topic) && grants(&topic) && gives(&topic) {
                        audit.received(&topic, &payload);
                    }
                }
            }
        }
        assert!(audit.deadline().is_some());
        audit.findings()
    }

    #[test]
    fn the_broker_may_hang_up_on_requests_that_the_service_does_not_need() {
        let topics = Topics::new("peercam", "door");
        for (reports_refusals, unneeded) in [(true, topics.command()), (false, topics.status())] {
            let (mut audit, now) = (AclAudit::new(&topics, OWN, reports_refusals), Instant::now());
            loop {
                match audit.next(now).unwrap() {
                    Step::Subscribe(filters) if filters.contains(&unneeded) && !reports_refusals => break,
                    Step::Publish(topic, _) if topic == unneeded => break,
                    Step::Subscribe(filters) => {
                        assert!(!audit.broker_hung_up(), "{filters:?} are needed");
                        audit.granted(vec![Ok(()); filters.len()], now);
                    }
                    Step::Publish(topic, payload) => {
                        assert!(!audit.broker_hung_up(), "{topic} is needed");
                        audit.sent(1, now);
                        audit.acknowledged(1, None, now);
                        audit.received(&topic, &payload);
                    }
                }
            }
            assert!(audit.broker_hung_up());
            assert_eq!(audit.findings(), Findings::default());
        }
    }

    #[test]
    fn the_next_request_follows_when_the_self_check_message_is_back_or_late() {
        let now = Instant::now();
        for comes in [true, false] {
            let mut audit = AclAudit::new(&Topics::new("peercam", "door"), OWN, true);
            let Some(Step::Subscribe(topics)) = audit.next(now) else { panic!("nothing is asked for") };
            audit.granted(vec![Ok(()); topics.len()], now);
            let Some(Step::Publish(topic, payload)) = audit.next(now) else { panic!("nothing is published") };
            audit.sent(1, now);
            audit.acknowledged(1, None, now);
            assert_eq!((audit.next(now), audit.echo_deadline()), (None, Some(now + ECHO_TIMEOUT)));
            if comes {
                audit.received(&topic, &payload);
                assert!(audit.next(now).is_some() && audit.echo_deadline().is_none());
            } else {
                assert!(audit.next(now + ECHO_TIMEOUT).is_some(), "a broker that keeps it back is asked all the same");
            }
        }
    }

    #[test]
    fn a_device_with_all_needed_permissions_has_no_findings() {
        assert_eq!(found(true, |_| true, |_| true, |_| true), Findings::default());
        assert_eq!(found(false, |_| true, |_| true, |_| true), Findings::default());
        let is_read =
            |topic: &str| topic.ends_with("command") || topic.ends_with("to-device") || topic.ends_with("check");
        let is_written = |topic: &str| !is_read(topic) || topic.ends_with("check");
        let apart = found(true, |_| true, is_written, is_read);
        let untested = ["peercam/door/command", "peercam/door/viewer/+/to-device"].map(str::to_owned).to_vec();
        assert_eq!(apart, Findings { untested, ..Findings::default() }, "what it may not write to cannot be tried");
    }

    #[test]
    fn each_forbidden_topic_is_reported_with_the_line_that_permits_it() {
        let no_command = |topic: &str| !topic.ends_with("command");
        let refused = found(true, no_command, |_| true, |_| true);
        assert_eq!(refused.forbidden, ["subscribe to peercam/door/command (no)"]);
        assert_eq!(refused.permissions, ["topic read peercam/door/command"]);
        // As mosquitto does it: it grants the subscription and delivers nothing.
        let silent = found(true, |_| true, |_| true, no_command);
        assert_eq!(silent.forbidden, ["read what comes on peercam/door/command"]);
        let no_answers = found(true, |_| true, |topic| !topic.contains("to-viewer"), |_| true);
        assert_eq!(no_answers.forbidden, ["publish on peercam/door/viewer/+/to-viewer (no)"]);
        assert_eq!(no_answers.permissions, ["topic write peercam/door/viewer/+/to-viewer"]);
    }

    #[test]
    fn if_publications_are_dropped_silently_the_missing_ones_are_reported() {
        let dropped = found(false, |_| true, |topic| !topic.ends_with("status"), |_| true);
        assert_eq!((dropped.forbidden.len(), dropped.doubtful), (0, vec!["peercam/door/status".to_owned()]));
        assert_eq!(dropped.permissions, ["topic write peercam/door/status"]);
    }
}
