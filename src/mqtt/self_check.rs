//! The self-check message, which detects an open connection on which the broker no longer delivers messages.
//!
//! A broker that has lost our subscriptions, or whose access list was changed, leaves everything else as it is: pings
//! are answered, publications are acknowledged, and no command ever arrives.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// The interval between checks; a shorter keep-alive makes it shorter.
const INTERVAL: Duration = Duration::from_secs(20);

/// How long the message may take after the broker has it: usually milliseconds, unless the broker is loaded.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Until the broker has it: after this long without any packet the connection counts as dead. On a slow
/// uplink a large message ahead of it may take longer, and then acknowledgements show progress.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// The limit in any case, even while packets arrive.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The action for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing for now.
    Fine,
    /// Publish this.
    Send(Bytes),
    /// The broker no longer delivers messages to us.
    NotDelivering,
    /// Nothing comes from the broker at all.
    Silent,
    /// No self-check message ever returned on this connection: most likely the broker's access list does not permit it.
    NeverDelivered,
}

/// The check of one connection.
#[derive(Debug)]
pub struct SelfCheck {
    interval: Duration,
    token: u64,
    stage: Stage,
    last_packet: Instant,
    has_succeeded: bool,
}

#[derive(Debug)]
enum Stage {
    Due(Instant),
    Sent(Instant),
    /// The broker acknowledged it at that time.
    Acknowledged(Instant),
}

impl SelfCheck {
    /// A check that begins now.
    pub fn new(keep_alive: Duration, now: Instant) -> Self {
        // A random start, so that messages of another client, or of an earlier run of ours, are not taken for these.
        let token = rand::random();
        Self {
            interval: keep_alive.min(INTERVAL),
            token,
            stage: Stage::Due(now),
            last_packet: now,
            has_succeeded: false,
        }
    }

    /// When [`SelfCheck::poll`] may return something other than [`Verdict::Fine`].
    pub fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Due(at) => at,
            Stage::Sent(at) => (self.last_packet.max(at) + SILENCE_TIMEOUT).min(at + MAX_WAIT),
            Stage::Acknowledged(at) => at + DELIVERY_TIMEOUT,
        }
    }

    /// The action that is due now.
    pub fn poll(&mut self, now: Instant) -> Verdict {
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
            Stage::Acknowledged(_) if self.has_succeeded => Verdict::NotDelivering,
            Stage::Acknowledged(_) => {
                self.stage = Stage::Due(now + self.interval);
                Verdict::NeverDelivered
            }
        }
    }

    /// A packet arrived from the broker.
    pub fn packet_received(&mut self, now: Instant) {
        self.last_packet = now;
    }

    /// The broker acknowledged the message.
    pub fn acknowledged(&mut self, now: Instant) {
        if let Stage::Sent(_) = self.stage {
            self.stage = Stage::Acknowledged(now);
        }
    }

    /// A message on the topic arrived. Returns whether it is the awaited one.
    pub fn received(&mut self, payload: &[u8], now: Instant) -> bool {
        let is_ours = !matches!(self.stage, Stage::Due(_)) && payload == self.payload();
        if is_ours {
            self.has_succeeded = true;
            self.stage = Stage::Due(now + self.interval);
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
        match check.poll(now) {
            Verdict::Send(payload) => payload,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_missing_message_after_a_returned_one_means_not_delivering() {
        let mut now = Instant::now();
        let mut check = SelfCheck::new(30 * SECOND, now);
        let first = sent(&mut check, now);
        assert!(!check.received(b"another's", now) && check.received(&first, now) && !check.received(&first, now));
        assert_eq!(check.deadline(), now + INTERVAL);
        now += INTERVAL;
        assert_ne!(sent(&mut check, now), first);
        check.acknowledged(now);
        assert_eq!(check.poll(now + DELIVERY_TIMEOUT - SECOND), Verdict::Fine);
        assert_eq!(check.poll(now + DELIVERY_TIMEOUT), Verdict::NotDelivering);
    }

    #[test]
    fn if_no_message_ever_returned_the_access_list_is_the_cause_and_the_check_is_repeated() {
        let now = Instant::now();
        let mut check = SelfCheck::new(5 * SECOND, now);
        sent(&mut check, now);
        check.acknowledged(now);
        assert_eq!(check.poll(now + DELIVERY_TIMEOUT), Verdict::NeverDelivered);
        assert_eq!(
            check.deadline(),
            now + DELIVERY_TIMEOUT + 5 * SECOND,
            "the keep-alive is shorter than the usual pause"
        );
        let next = check.deadline();
        sent(&mut check, next);
    }

    #[test]
    fn an_unacknowledged_message_means_silence_unless_other_packets_arrive() {
        let now = Instant::now();
        let mut check = SelfCheck::new(30 * SECOND, now);
        sent(&mut check, now);
        check.packet_received(now + 8 * SECOND);
        assert_eq!(check.poll(now + SILENCE_TIMEOUT), Verdict::Fine);
        assert_eq!(check.poll(now + 8 * SECOND + SILENCE_TIMEOUT), Verdict::Silent);
        check.packet_received(now + MAX_WAIT - SECOND);
        assert_eq!(check.poll(now + MAX_WAIT), Verdict::Silent, "the wait has an upper limit");
    }
}
