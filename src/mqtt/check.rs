//! The message to oneself, by which a connection is noticed that is open but deaf.
//!
//! A broker that has lost our subscriptions, or an access list that was changed, leaves everything else as it is:
//! pings are answered, publications acknowledged, and no command ever comes.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// How long after the last check the next begins; a shorter keep-alive makes it shorter.
const PAUSE: Duration = Duration::from_secs(20);

/// After the broker has the message it takes this long at most: it is a matter of milliseconds, but for its load.
const LONGEST: Duration = Duration::from_secs(5);

/// While the broker does not have it: so long without a sign of life, and the connection counts as dead. On a slow
/// uplink a large message before it may take longer, and then acknowledgements show that it moves.
const SILENCE: Duration = Duration::from_secs(10);

/// And in any case after this long.
const HELD_UP: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing for now.
    Fine,
    /// Publish this.
    Send(Bytes),
    /// The broker passes nothing on to us any more.
    Deaf,
    /// Nothing comes from the broker at all.
    Silent,
    /// On this connection it never came back: most likely the broker's access list does not give it.
    NotGiven,
}

/// The check of one connection.
#[derive(Debug)]
pub struct SelfCheck {
    pause: Duration,
    token: u64,
    stage: Stage,
    heard: Instant,
    has_succeeded: bool,
}

#[derive(Debug)]
enum Stage {
    Due(Instant),
    Sent(Instant),
    /// The broker has it, since then.
    There(Instant),
}

impl SelfCheck {
    /// One that begins now.
    pub fn new(keep_alive: Duration, now: Instant) -> Self {
        // A random start, so that another's messages, or one's own from an earlier life, are not taken for these.
        let token = rand::random();
        Self { pause: keep_alive.min(PAUSE), token, stage: Stage::Due(now), heard: now, has_succeeded: false }
    }

    /// When [`SelfCheck::look`] may have something to say.
    pub fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Due(at) => at,
            Stage::Sent(at) => (self.heard.max(at) + SILENCE).min(at + HELD_UP),
            Stage::There(at) => at + LONGEST,
        }
    }

    /// What is to be done now.
    pub fn look(&mut self, now: Instant) -> Verdict {
        if now < self.deadline() {
            return Verdict::Fine;
        }
        match self.stage {
            Stage::Due(_) => {
                self.token = self.token.wrapping_add(1);
                self.stage = Stage::Sent(now);
                Verdict::Send(self.payload())
            }
            Stage::Sent(_) => Verdict::Silent,
            Stage::There(_) if self.has_succeeded => Verdict::Deaf,
            Stage::There(_) => {
                self.stage = Stage::Due(now + self.pause);
                Verdict::NotGiven
            }
        }
    }

    /// Anything came from the broker.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The broker has the message.
    pub fn acknowledged(&mut self, now: Instant) {
        if let Stage::Sent(_) = self.stage {
            self.stage = Stage::There(now);
        }
    }

    /// A message to the topic came. Whether it is the one that is waited for.
    pub fn came(&mut self, payload: &[u8], now: Instant) -> bool {
        let is_ours = !matches!(self.stage, Stage::Due(_)) && payload == self.payload();
        if is_ours {
            self.has_succeeded = true;
            self.stage = Stage::Due(now + self.pause);
        }
        is_ours
    }

    fn payload(&self) -> Bytes {
        format!("{:016x}", self.token).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sent(check: &mut SelfCheck, now: Instant) -> Bytes {
        match check.look(now) {
            Verdict::Send(payload) => payload,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn after_one_that_came_back_a_missing_one_means_deafness() {
        let mut now = Instant::now();
        let mut check = SelfCheck::new(30 * SECOND, now);
        let first = sent(&mut check, now);
        assert!(!check.came(b"another's", now) && check.came(&first, now) && !check.came(&first, now));
        assert_eq!(check.deadline(), now + PAUSE);
        now += PAUSE;
        assert_ne!(sent(&mut check, now), first);
        check.acknowledged(now);
        assert_eq!(check.look(now + LONGEST - SECOND), Verdict::Fine);
        assert_eq!(check.look(now + LONGEST), Verdict::Deaf);
    }

    #[test]
    fn where_none_ever_came_back_it_is_the_access_list_and_is_tried_again() {
        let now = Instant::now();
        let mut check = SelfCheck::new(5 * SECOND, now);
        sent(&mut check, now);
        check.acknowledged(now);
        assert_eq!(check.look(now + LONGEST), Verdict::NotGiven);
        assert_eq!(check.deadline(), now + LONGEST + 5 * SECOND, "the keep-alive is shorter than the usual pause");
        let next = check.deadline();
        sent(&mut check, next);
    }

    #[test]
    fn a_message_that_does_not_even_arrive_means_silence_unless_something_else_is_heard() {
        let now = Instant::now();
        let mut check = SelfCheck::new(30 * SECOND, now);
        sent(&mut check, now);
        check.heard(now + 8 * SECOND);
        assert_eq!(check.look(now + SILENCE), Verdict::Fine);
        assert_eq!(check.look(now + 8 * SECOND + SILENCE), Verdict::Silent);
        check.heard(now + HELD_UP - SECOND);
        assert_eq!(check.look(now + HELD_UP), Verdict::Silent, "it cannot be held up for ever");
    }
}
