//! Finds out why a broker hung up without a reason: most likely it does not allow the last request.
//!
//! AWS IoT closes the connection on a subscription or publication that its policy does not allow, and every broker of
//! MQTT 3.1.1 does on a packet that is too large for it. A client that repeats the request never stays connected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A publication of at least this many bytes that the broker hung up on is not sent a second time: status and signals
/// are smaller, pictures larger, and no broker in use has a limit below. A smaller one is tried again, alone.
pub const LARGE: usize = 8 * 1024;

/// How long a request that the broker hung up on is not made. The network may have been the reason after all, or
/// somebody may have changed the broker.
const BLOCKED_FOR: Duration = Duration::from_secs(3600);

/// How many times in a row the broker has to hang up on one request alone before that request is barred: a network that
/// fails cuts connections at any moment.
const ALONE: u32 = 2;

/// How long a request is suspected that is neither made again nor answered: the time of three self-checks.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// The most entries that are kept: a board has some ten topics, and one for each viewer that calls.
const MOST: usize = 256;

/// A request to a broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Subscribe to this filter.
    Subscribe(String),
    /// Publish on this topic.
    Publish(String),
}

/// A request that the broker had not answered when it hung up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// The request.
    pub request: Request,
    /// The packet's size at most, in bytes.
    pub bytes: usize,
}

/// The conclusion from a hang-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No request was open.
    Nothing,
    /// One of these is the cause; from now on they are made one after the other.
    OneOf(Vec<Request>),
    /// This packet is too large; none of its size is sent from now on.
    TooLarge(OpenRequest),
    /// This request is the cause; it is not made from now on.
    Blocked(OpenRequest),
}

/// The requests on which one broker hung up.
#[derive(Debug, Default)]
pub struct DisconnectCauses {
    /// Requests that were open at a hang-up and not answered since, each with how often in a row it was the only one.
    suspected: BTreeMap<Request, u32>,
    /// When the broker last hung up on one of them.
    suspected_at: Option<Instant>,
    blocked: BTreeMap<Request, Instant>,
    /// The smallest packet that it hung up on, and when.
    too_large: Option<(usize, Instant)>,
    /// The largest packet that it accepted.
    taken: usize,
    /// Requests that it has answered: if it hangs up on a larger one of these, the cause is the size.
    allowed: BTreeSet<Request>,
}

impl DisconnectCauses {
    /// The broker hung up while these were open.
    pub fn broker_hung_up(&mut self, mut open: Vec<OpenRequest>, now: Instant) -> Finding {
        open.truncate(MOST);
        let largest = open.iter().max_by_key(|open| open.bytes).filter(|open| open.bytes >= LARGE);
        if let Some(largest) = largest {
            return self.too_large(largest.clone(), now);
        }
        if !self.is_careful(now) {
            self.suspected.clear();
        }
        let is_alone = open.len() == 1;
        for OpenRequest { request, bytes } in &open {
            let times = self.suspected.entry(request.clone()).or_default();
            *times += u32::from(is_alone);
            if *times >= ALONE {
                let request = request.clone();
                self.suspected.remove(&request);
                if self.allowed.remove(&request) && *bytes > self.taken {
                    return self.too_large(OpenRequest { request, bytes: *bytes }, now);
                }
                if self.blocked.len() >= MOST {
                    self.blocked.pop_first();
                }
                self.blocked.insert(request.clone(), now);
                return Finding::Blocked(OpenRequest { request, bytes: *bytes });
            }
        }
        if open.is_empty() {
            return Finding::Nothing;
        }
        self.suspected_at = Some(now);
        Finding::OneOf(open.into_iter().map(|open| open.request).collect())
    }

    /// The broker reported that one of these is too large: the largest counts as that one.
    pub fn reported_too_large(&mut self, open: &[OpenRequest], now: Instant) -> Finding {
        match open.iter().max_by_key(|open| open.bytes) {
            Some(largest) => self.too_large(largest.clone(), now),
            None => Finding::Nothing,
        }
    }

    fn too_large(&mut self, open: OpenRequest, now: Instant) -> Finding {
        let known =
            self.too_large.filter(|(_, since)| now - *since < BLOCKED_FOR).map_or(usize::MAX, |(bytes, _)| bytes);
        self.too_large = Some((known.min(open.bytes), now));
        Finding::TooLarge(open)
    }

    /// The broker answered this request, whose packet had `bytes` bytes.
    pub fn answered(&mut self, request: &Request, bytes: usize) {
        self.taken = self.taken.max(bytes);
        self.suspected.remove(request);
        if self.allowed.len() < MOST && !self.allowed.contains(request) {
            self.allowed.insert(request.clone());
        }
    }

    /// Whether requests have to be made one after the other.
    pub fn is_careful(&self, now: Instant) -> bool {
        !self.suspected.is_empty() && self.suspected_at.is_some_and(|since| now - since < SUSPECT_FOR)
    }

    /// Whether this request must not be made.
    pub fn is_blocked(&self, request: &Request, now: Instant) -> bool {
        self.blocked.get(request).is_some_and(|since| now - *since < BLOCKED_FOR)
    }

    /// The largest packet to send, in bytes: half of what the broker hung up on, or what it accepted before. Each
    /// further hang-up halves it, whatever sizes pictures have.
    pub fn most_bytes(&self, now: Instant) -> Option<usize> {
        let (refused, _) = self.too_large.filter(|(_, since)| now - *since < BLOCKED_FOR)?;
        Some((refused / 2).max(if self.taken < refused { self.taken } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(name: &str) -> Request {
        Request::Subscribe(name.into())
    }

    fn open(requests: &[&Request]) -> Vec<OpenRequest> {
        requests.iter().map(|request| OpenRequest { request: (*request).clone(), bytes: 100 }).collect()
    }

    #[test]
    fn a_request_that_alone_caused_two_hang_ups_is_blocked_for_an_hour() {
        let (mut disconnect_causes, now) = (DisconnectCauses::default(), Instant::now());
        let (check, command) = (filter("self-check"), filter("command"));
        assert_eq!(
            disconnect_causes.broker_hung_up(open(&[&check, &command]), now),
            Finding::OneOf(vec![check.clone(), command.clone()])
        );
        assert!(disconnect_causes.is_careful(now));
        disconnect_causes.answered(&command, 100);
        assert_eq!(disconnect_causes.broker_hung_up(open(&[&check]), now), Finding::OneOf(vec![check.clone()]));
        assert_eq!(disconnect_causes.broker_hung_up(open(&[&check]), now), Finding::Blocked(open(&[&check]).remove(0)));
        assert!(
            disconnect_causes.is_blocked(&check, now)
                && !disconnect_causes.is_blocked(&command, now)
                && !disconnect_causes.is_careful(now)
        );
        assert!(!disconnect_causes.is_blocked(&check, now + BLOCKED_FOR));
    }

    #[test]
    fn a_topic_that_accepted_a_smaller_message_is_not_blocked_and_the_size_becomes_the_limit() {
        let (mut disconnect_causes, now) = (DisconnectCauses::default(), Instant::now());
        let outcome = Request::Publish("outcome".into());
        disconnect_causes.answered(&outcome, 100);
        let large = OpenRequest { request: outcome.clone(), bytes: 3000 };
        assert_eq!(disconnect_causes.broker_hung_up(vec![large.clone()], now), Finding::OneOf(vec![outcome.clone()]));
        assert_eq!(disconnect_causes.broker_hung_up(vec![large.clone()], now), Finding::TooLarge(large));
        assert!(!disconnect_causes.is_blocked(&outcome, now));
        assert_eq!(disconnect_causes.most_bytes(now), Some(1500));
        // With a size that it accepted before, the topic is the cause.
        let small = OpenRequest { request: outcome.clone(), bytes: 90 };
        disconnect_causes.answered(&outcome, 100);
        disconnect_causes.broker_hung_up(vec![small.clone()], now);
        assert_eq!(disconnect_causes.broker_hung_up(vec![small.clone()], now), Finding::Blocked(small));
    }

    #[test]
    fn if_the_broker_reports_a_packet_as_too_large_the_largest_one_is_meant() {
        let (mut disconnect_causes, now) = (DisconnectCauses::default(), Instant::now());
        let status = OpenRequest { request: Request::Publish("status".into()), bytes: 3000 };
        let mut all = open(&[&filter("command")]);
        all.push(status.clone());
        assert_eq!(disconnect_causes.reported_too_large(&all, now), Finding::TooLarge(status));
        assert_eq!(disconnect_causes.most_bytes(now), Some(1500));
        assert_eq!(disconnect_causes.reported_too_large(&[], now), Finding::Nothing);
    }

    #[test]
    fn a_lost_connection_blocks_no_request_that_was_answered_since() {
        let (mut disconnect_causes, now) = (DisconnectCauses::default(), Instant::now());
        let check = filter("self-check");
        for _ in 0..10 {
            assert_eq!(disconnect_causes.broker_hung_up(open(&[&check]), now), Finding::OneOf(vec![check.clone()]));
            disconnect_causes.answered(&check, 100);
            assert_eq!(disconnect_causes.broker_hung_up(Vec::new(), now), Finding::Nothing);
        }
    }

    #[test]
    fn a_request_that_was_open_long_ago_is_no_longer_suspected() {
        let (mut disconnect_causes, now) = (DisconnectCauses::default(), Instant::now());
        let check = filter("self-check");
        disconnect_causes.broker_hung_up(open(&[&check]), now);
        assert!(!disconnect_causes.is_careful(now + SUSPECT_FOR));
        assert_eq!(disconnect_causes.broker_hung_up(open(&[&check]), now + SUSPECT_FOR), Finding::OneOf(vec![check]));
    }

    #[test]
    fn a_large_publication_is_the_cause_at_once_and_half_its_size_is_the_limit_for_an_hour() {
        let (mut disconnect_causes, now) = (DisconnectCauses::default(), Instant::now());
        let large = OpenRequest { request: Request::Publish("snapshot".into()), bytes: 60_000 };
        let mut all = open(&[&filter("command")]);
        all.push(large.clone());
        assert_eq!(disconnect_causes.broker_hung_up(all, now), Finding::TooLarge(large.clone()));
        assert_eq!((disconnect_causes.most_bytes(now), disconnect_causes.is_careful(now)), (Some(30_000), false));
        disconnect_causes.broker_hung_up(vec![OpenRequest { bytes: 80_000, ..large }], now);
        assert_eq!(disconnect_causes.most_bytes(now), Some(30_000), "the smallest counts");
        disconnect_causes.answered(&filter("command"), 45_000);
        assert_eq!(disconnect_causes.most_bytes(now), Some(45_000), "what it took it takes again");
        assert_eq!(disconnect_causes.most_bytes(now + BLOCKED_FOR), None);
    }
}
