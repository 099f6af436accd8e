//! Which commands came lately, so that one which is delivered again is not carried out again: a broker redelivers
//! what was not acknowledged in time, and an operator repeats what was not answered.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::command::{Origin, Outcome};
use crate::upkeep::Upkeep;

/// How long a command is known by its id. Brokers redeliver at once after a reconnection; people try for minutes.
const KEPT: Duration = Duration::from_secs(600);

/// How many are known at once: of one sender at the rate that is let through for long half a minute's, and far more than
/// people send.
const MOST: usize = 256;

/// An outcome that is longer is not kept. Only commands that read have one, and they may as well read again.
const MOST_OUTCOME: usize = 16 * 1024;

/// By what a command is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Ways in do not share their ids: each is used by others.
    pub origin: Origin,
    /// The command's.
    pub id: String,
}

/// What is known of an id.
#[derive(Debug, PartialEq)]
pub enum Recalled {
    /// Nothing: it is a new one.
    New,
    /// The same command is being carried out; its outcome will be told to this sender as well.
    UnderWay,
    /// The same command was carried out.
    Done(Outcome),
    /// The id was another command's.
    Other,
}

/// What came lately.
#[derive(Debug, Default)]
pub struct Memory {
    /// In the order in which they came.
    known: VecDeque<Known>,
    /// Knows those that have their last outcome after a restart.
    upkeep: Option<Upkeep>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    /// Of the command, so that memory does not hold configurations.
    fingerprint: String,
    since: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// And who wants to know.
    UnderWay(Vec<mpsc::Sender<Outcome>>),
    Done(Outcome),
}

impl Memory {
    /// Knows what came before the restart.
    pub fn after(upkeep: Upkeep) -> Self {
        Self { upkeep: Some(upkeep), ..Self::default() }
    }

    /// What is known of this id. A sender of what is under way will be told of its outcome.
    pub fn recall(&mut self, key: &Key, fingerprint: &str, outcomes: &mpsc::Sender<Outcome>) -> Recalled {
        self.known.retain(|known| known.is_under_way() || known.since.elapsed() < KEPT);
        let Some(known) = self.known.iter_mut().find(|known| known.key == *key) else {
            return self.recall_entrusted(key, fingerprint);
        };
        if known.fingerprint != fingerprint {
            return Recalled::Other;
        }
        match &mut known.state {
            State::Done(outcome) => Recalled::Done(outcome.clone()),
            State::UnderWay(senders) => {
                // The rate at which commands are taken bounds this list.
                if !senders.iter().any(|sender| sender.same_channel(outcomes)) {
                    senders.push(outcomes.clone());
                }
                Recalled::UnderWay
            }
        }
    }

    /// A new command is under way.
    pub fn begin(&mut self, key: Key, fingerprint: String, outcomes: mpsc::Sender<Outcome>) {
        if self.known.len() >= MOST
            && let Some(oldest) = self.oldest_of_the_way_with_most()
        {
            self.known.remove(oldest);
        }
        self.known.push_back(Known { key, fingerprint, since: Instant::now(), state: State::UnderWay(vec![outcomes]) });
    }

    /// So that a flood by one way makes nothing of another way unknown.
    fn oldest_of_the_way_with_most(&self) -> Option<usize> {
        let ended = || self.known.iter().enumerate().filter(|(_, known)| !known.is_under_way());
        let number = |way: Origin| ended().filter(|(_, known)| known.key.origin == way).count();
        let ways = [Origin::Broker, Origin::WebSocket, Origin::DataChannel, Origin::HomeAutomation];
        let most = ways.into_iter().max_by_key(|way| number(*way))?;
        ended().find(|(_, known)| known.key.origin == most).map(|(at, _)| at)
    }

    /// One has come to its end. Returns who wants to know.
    pub fn end(&mut self, key: &Key, outcome: &Outcome) -> Vec<mpsc::Sender<Outcome>> {
        let Some(at) = self.known.iter().position(|known| known.key == *key) else { return Vec::new() };
        let is_short = serde_json::to_vec(outcome).is_ok_and(|text| text.len() <= MOST_OUTCOME);
        let known = &mut self.known[at];
        known.since = Instant::now();
        let State::UnderWay(senders) = std::mem::replace(&mut known.state, State::Done(outcome.clone())) else {
            return Vec::new();
        };
        if !is_short {
            self.known.remove(at);
        }
        senders
    }

    /// One has its last outcome after a restart, from somebody else.
    pub fn hand_over(&mut self, key: &Key) {
        self.known.retain(|known| known.key != *key);
    }

    /// All that are under way and will not be told by somebody else, and who wants to know.
    pub fn give_up(self) -> impl Iterator<Item = (String, Vec<mpsc::Sender<Outcome>>)> {
        let Self { known, upkeep } = self;
        let is_entrusted = move |id: &str| upkeep.as_ref().is_some_and(|upkeep| upkeep.entrusted(id).is_some());
        known.into_iter().filter_map(move |known| match known.state {
            State::UnderWay(senders) if !is_entrusted(&known.key.id) => Some((known.key.id, senders)),
            State::UnderWay(_) | State::Done(_) => None,
        })
    }

    fn recall_entrusted(&self, key: &Key, fingerprint: &str) -> Recalled {
        let entrusted = self.upkeep.as_ref().and_then(|upkeep| upkeep.entrusted(&key.id));
        match entrusted.filter(|entrusted| entrusted.pending.origin == key.origin) {
            None => Recalled::New,
            Some(entrusted) if entrusted.pending.fingerprint != fingerprint => Recalled::Other,
            Some(entrusted) => entrusted.outcome.map_or(Recalled::UnderWay, Recalled::Done),
        }
    }
}

impl Known {
    fn is_under_way(&self) -> bool {
        matches!(self.state, State::UnderWay(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { origin: Origin::Broker, id: id.into() }
    }

    fn sender() -> mpsc::Sender<Outcome> {
        mpsc::channel(1).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_is_known_for_ten_minutes() {
        let mut memory = Memory::default();
        assert_eq!(memory.recall(&key("1"), "a", &sender()), Recalled::New);
        memory.begin(key("1"), "a".into(), sender());
        assert_eq!(memory.recall(&key("1"), "a", &sender()), Recalled::UnderWay);
        assert_eq!(memory.recall(&key("1"), "b", &sender()), Recalled::Other);
        let other_way = Key { origin: Origin::WebSocket, id: "1".into() };
        assert_eq!(memory.recall(&other_way, "b", &sender()), Recalled::New);
        let outcome = Outcome::successful("1", None);
        assert_eq!(memory.end(&key("1"), &outcome).len(), 2, "the first sender and the one who repeated it");
        assert_eq!(memory.recall(&key("1"), "a", &sender()), Recalled::Done(outcome));
        assert_eq!(memory.recall(&key("1"), "b", &sender()), Recalled::Other);
        tokio::time::advance(KEPT).await;
        assert_eq!(memory.recall(&key("1"), "b", &sender()), Recalled::New);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_forgets_the_oldest_that_has_ended() {
        let mut memory = Memory::default();
        memory.begin(key("first"), "a".into(), sender());
        for number in 0..2 * MOST {
            memory.begin(key(&number.to_string()), "a".into(), sender());
            memory.end(&key(&number.to_string()), &Outcome::successful(number.to_string(), None));
        }
        assert_eq!(memory.known.len(), MOST);
        assert_eq!(memory.recall(&key("first"), "a", &sender()), Recalled::UnderWay);
        assert_eq!(memory.recall(&key("0"), "a", &sender()), Recalled::New);
        memory.begin(key("long"), "a".into(), sender());
        memory.end(&key("long"), &Outcome::successful("long", Some("x".repeat(MOST_OUTCOME).into())));
        assert_eq!(memory.recall(&key("long"), "a", &sender()), Recalled::New, "it is read again");
    }
}
