//! Why a broker hung up without a word: most likely it does not allow what it was asked for last.
//!
//! AWS IoT closes the connection on a subscription or publication that its policy does not allow, and every broker of
//! MQTT 3.1.1 on a packet that is too large for it. A client that asks for the same again never stays connected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A publication of at least this many bytes that the broker hung up on is not sent a second time: status and signals
/// are smaller, pictures larger, and no broker in use has a limit below. What is smaller is tried again, alone.
pub const LARGE: usize = 8 * 1024;

/// How long what the broker hung up on is not asked for. The network may have been the reason after all, or somebody
/// has changed the broker.
const BARRED: Duration = Duration::from_secs(3600);

/// So often in a row the broker has to hang up on one request alone before that one is to blame: a network that fails
/// cuts anywhere.
const ALONE: u32 = 2;

/// How long a request is suspected that is neither made again nor answered: three of the board's messages to itself.
const SUSPECTED: Duration = Duration::from_secs(60);

/// Kept of these at most: a board has some ten topics, and one for each viewer that calls.
const MOST: usize = 256;

/// What a broker can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// The messages of a filter.
    Messages(String),
    /// To take a publication on this topic.
    Publication(String),
}

/// A request that the broker had not answered when it hung up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What was asked for.
    pub request: Request,
    /// The packet's size at most, in bytes.
    pub bytes: usize,
}

/// What a hang-up led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing was asked.
    Nothing,
    /// One of these; they are asked for one after the other from now on.
    OneOf(Vec<Request>),
    /// This packet is too large, and none of its size is sent from now on.
    TooLarge(Open),
    /// This request, which is not made from now on.
    Barred(Open),
}

/// What one broker hung up on.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Open at a hang-up and not answered since, each with how often in a row it was the only one.
    suspected: BTreeMap<Request, u32>,
    /// When the broker hung up on one of them last.
    suspected_at: Option<Instant>,
    barred: BTreeMap<Request, Instant>,
    /// The smallest packet that it hung up on, and when.
    too_large: Option<(usize, Instant)>,
    /// The largest packet that it took.
    taken: usize,
    /// What it has answered: hanging up on more of the same, it does so because of the size.
    allowed: BTreeSet<Request>,
}

impl Suspects {
    /// The broker hung up while these were open.
    pub fn hung_up(&mut self, mut open: Vec<Open>, now: Instant) -> Finding {
        open.truncate(MOST);
        let largest = open.iter().max_by_key(|open| open.bytes).filter(|open| open.bytes >= LARGE);
        if let Some(largest) = largest {
            return self.too_large(largest.clone(), now);
        }
        if !self.is_careful(now) {
            self.suspected.clear();
        }
        let is_alone = open.len() == 1;
        for Open { request, bytes } in &open {
            let times = self.suspected.entry(request.clone()).or_default();
            *times += u32::from(is_alone);
            if *times >= ALONE {
                let request = request.clone();
                self.suspected.remove(&request);
                if self.allowed.remove(&request) && *bytes > self.taken {
                    return self.too_large(Open { request, bytes: *bytes }, now);
                }
                if self.barred.len() >= MOST {
                    self.barred.pop_first();
                }
                self.barred.insert(request.clone(), now);
                return Finding::Barred(Open { request, bytes: *bytes });
            }
        }
        if open.is_empty() {
            return Finding::Nothing;
        }
        self.suspected_at = Some(now);
        Finding::OneOf(open.into_iter().map(|open| open.request).collect())
    }

    /// The broker said that one of these is too large: the largest is, then.
    pub fn said_too_large(&mut self, open: &[Open], now: Instant) -> Finding {
        match open.iter().max_by_key(|open| open.bytes) {
            Some(largest) => self.too_large(largest.clone(), now),
            None => Finding::Nothing,
        }
    }

    fn too_large(&mut self, open: Open, now: Instant) -> Finding {
        let known = self.too_large.filter(|(_, since)| now - *since < BARRED).map_or(usize::MAX, |(bytes, _)| bytes);
        self.too_large = Some((known.min(open.bytes), now));
        Finding::TooLarge(open)
    }

    /// The broker answered this request, which had a packet of so many bytes.
    pub fn answered(&mut self, request: &Request, bytes: usize) {
        self.taken = self.taken.max(bytes);
        self.suspected.remove(request);
        if self.allowed.len() < MOST && !self.allowed.contains(request) {
            self.allowed.insert(request.clone());
        }
    }

    /// Whether requests are to be made one after the other.
    pub fn is_careful(&self, now: Instant) -> bool {
        !self.suspected.is_empty() && self.suspected_at.is_some_and(|since| now - since < SUSPECTED)
    }

    /// Whether this is not to be asked for.
    pub fn is_barred(&self, request: &Request, now: Instant) -> bool {
        self.barred.get(request).is_some_and(|since| now - *since < BARRED)
    }

    /// The largest packet that is sent, in bytes. Half of what the broker hung up on, or what it took before: each
    /// further hang-up halves it, whatever sizes pictures have.
    pub fn most_bytes(&self, now: Instant) -> Option<usize> {
        let (refused, _) = self.too_large.filter(|(_, since)| now - *since < BARRED)?;
        Some((refused / 2).max(if self.taken < refused { self.taken } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(name: &str) -> Request {
        Request::Messages(name.into())
    }

    fn open(requests: &[&Request]) -> Vec<Open> {
        requests.iter().map(|request| Open { request: (*request).clone(), bytes: 100 }).collect()
    }

    #[test]
    fn what_the_broker_hung_up_on_alone_twice_is_barred_for_an_hour() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let (check, command) = (filter("self-check"), filter("command"));
        assert_eq!(
            suspects.hung_up(open(&[&check, &command]), now),
            Finding::OneOf(vec![check.clone(), command.clone()])
        );
        assert!(suspects.is_careful(now));
        suspects.answered(&command, 100);
        assert_eq!(suspects.hung_up(open(&[&check]), now), Finding::OneOf(vec![check.clone()]));
        assert_eq!(suspects.hung_up(open(&[&check]), now), Finding::Barred(open(&[&check]).remove(0)));
        assert!(suspects.is_barred(&check, now) && !suspects.is_barred(&command, now) && !suspects.is_careful(now));
        assert!(!suspects.is_barred(&check, now + BARRED));
    }

    #[test]
    fn a_topic_that_took_less_before_is_not_barred_and_its_size_is_the_limit() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let outcome = Request::Publication("outcome".into());
        suspects.answered(&outcome, 100);
        let large = Open { request: outcome.clone(), bytes: 3000 };
        assert_eq!(suspects.hung_up(vec![large.clone()], now), Finding::OneOf(vec![outcome.clone()]));
        assert_eq!(suspects.hung_up(vec![large.clone()], now), Finding::TooLarge(large));
        assert!(!suspects.is_barred(&outcome, now));
        assert_eq!(suspects.most_bytes(now), Some(1500));
        // Of a size that it took before, it is the topic.
        let small = Open { request: outcome.clone(), bytes: 90 };
        suspects.answered(&outcome, 100);
        suspects.hung_up(vec![small.clone()], now);
        assert_eq!(suspects.hung_up(vec![small.clone()], now), Finding::Barred(small));
    }

    #[test]
    fn where_the_broker_says_that_something_is_too_large_the_largest_is() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let status = Open { request: Request::Publication("status".into()), bytes: 3000 };
        let mut all = open(&[&filter("command")]);
        all.push(status.clone());
        assert_eq!(suspects.said_too_large(&all, now), Finding::TooLarge(status));
        assert_eq!(suspects.most_bytes(now), Some(1500));
        assert_eq!(suspects.said_too_large(&[], now), Finding::Nothing);
    }

    #[test]
    fn a_connection_that_is_lost_bars_nothing_that_was_answered_since() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let check = filter("self-check");
        for _ in 0..10 {
            assert_eq!(suspects.hung_up(open(&[&check]), now), Finding::OneOf(vec![check.clone()]));
            suspects.answered(&check, 100);
            assert_eq!(suspects.hung_up(Vec::new(), now), Finding::Nothing);
        }
    }

    #[test]
    fn what_was_open_long_ago_is_not_suspected_any_more() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let check = filter("self-check");
        suspects.hung_up(open(&[&check]), now);
        assert!(!suspects.is_careful(now + SUSPECTED));
        assert_eq!(suspects.hung_up(open(&[&check]), now + SUSPECTED), Finding::OneOf(vec![check]));
    }

    #[test]
    fn a_large_publication_is_to_blame_at_once_and_half_its_size_is_the_limit_for_an_hour() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let large = Open { request: Request::Publication("snapshot".into()), bytes: 60_000 };
        let mut all = open(&[&filter("command")]);
        all.push(large.clone());
        assert_eq!(suspects.hung_up(all, now), Finding::TooLarge(large.clone()));
        assert_eq!((suspects.most_bytes(now), suspects.is_careful(now)), (Some(30_000), false));
        suspects.hung_up(vec![Open { bytes: 80_000, ..large }], now);
        assert_eq!(suspects.most_bytes(now), Some(30_000), "the smallest counts");
        suspects.answered(&filter("command"), 45_000);
        assert_eq!(suspects.most_bytes(now), Some(45_000), "what it took it takes again");
        assert_eq!(suspects.most_bytes(now + BARRED), None);
    }
}
