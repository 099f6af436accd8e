//! Diagnoses whether the board can use its configured TURN relay, and if not, why.
//!
//! The crate reports a refusal only in its own log, with addresses. The relay's answers pass through our sockets, where
//! the reason can be read; whether a relay candidate was found is known when gathering ends.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::stun;

/// Time limit for an answer of the relay: on another continent it takes half a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the TURN relay, as found by all viewers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct TurnStatus {
    fault: Arc<Mutex<Option<String>>>,
}

impl TurnStatus {
    /// Why there was no relay the last time; `None` if there was one, or none was needed yet.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().expect("lock is never poisoned: no panic while held").clone()
    }

    /// Records the result of one viewer's attempt, and logs it if it has changed.
    fn report(&self, fault: Option<String>) {
        let mut known = self.fault.lock().expect("lock is never poisoned: no panic while held");
        if *known == fault {
            return;
        }
        match &fault {
            Some(reason) => tracing::warn!(reason, "no TURN relay: remote viewers may not be reached"),
            None => tracing::info!("the relay works again"),
        }
        *known = fault;
    }
}

/// The relay's answers to one viewer's requests.
#[derive(Debug, Default)]
pub struct TurnResponses {
    code: AtomicU16,
}

impl TurnResponses {
    /// Inspects a received datagram.
    pub fn inspect(&self, datagram: &[u8]) {
        if datagram.starts_with(&stun::ALLOCATE_ERROR)
            && let Some(code) = error_code(datagram)
        {
            self.code.store(code, Ordering::Relaxed);
        }
    }
}

/// The code of a STUN error response: the hundreds in one byte, the rest in the next.
fn error_code(message: &[u8]) -> Option<u16> {
    let value = stun::attribute(message, stun::ERROR_CODE)?;
    Some(u16::from(value.get(2)? & 0x7) * 100 + u16::from(*value.get(3)?))
}

/// One viewer's attempt to get a relay candidate.
#[derive(Debug)]
pub struct TurnAttempt {
    relay: TurnStatus,
    turn_responses: Arc<TurnResponses>,
    /// When it started; `None` if none is running.
    since: Mutex<Option<Instant>>,
}

impl TurnAttempt {
    /// Creates an attempt that reports its result to `relay`.
    pub fn new(relay: TurnStatus, turn_responses: Arc<TurnResponses>) -> Self {
        Self { relay, turn_responses, since: Mutex::default() }
    }

    /// Called when gathering starts.
    pub fn start(&self) {
        self.turn_responses.code.store(0, Ordering::Relaxed);
        *self.since.lock().expect("lock is never poisoned: no panic while held") = Some(Instant::now());
    }

    /// Called when a relay candidate was found.
    pub fn candidate_found(&self) {
        self.finish();
        self.relay.report(None);
    }

    /// Called when gathering has ended.
    pub fn gathering_ended(&self) {
        if self.finish().is_some() {
            self.relay.report(Some(reason(self.turn_responses.code.load(Ordering::Relaxed))));
        }
    }

    /// Called when no path to the viewer was found. The relay is at fault if its time limit has passed.
    pub fn viewer_given_up(&self, now: Instant) {
        let since = *self.since.lock().expect("lock is never poisoned: no panic while held");
        if since.is_some_and(|since| now.saturating_duration_since(since) >= ANSWER_TIMEOUT) {
            self.gathering_ended();
        }
    }

    fn finish(&self) -> Option<Instant> {
        self.since.lock().expect("lock is never poisoned: no panic while held").take()
    }
}

/// Explains an error code of Allocate (RFC 8656, section 19) to the operator of a board; 0 means no answer.
fn reason(code: u16) -> String {
    match code {
        0 => "the relay did not answer: check its address in `ice.servers`, and whether UDP gets there".into(),
        401 | 441 => "the relay refused the board's credentials (401): check the secret or password in `ice.servers`, \
                      and whether the clocks of board and relay are right"
            .into(),
        403 => "the relay forbids the board to use it (403)".into(),
        486 => "the relay refuses another allocation (486): its quota for one user is reached".into(),
        508 => "the relay is full (508)".into(),
        other => format!("the relay refused ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error response to Allocate with SOFTWARE (7 bytes, padded) before ERROR-CODE.
    fn refusal(code: u16) -> Vec<u8> {
        let mut message = vec![0x01, 0x13, 0, 28];
        message.extend([0; 16]);
        message.extend([0x80, 0x22, 0, 7]);
        message.extend(b"Coturn!\0");
        message.extend([0, 9, 0, 4, 0, 0, (code / 100) as u8, (code % 100) as u8]);
        message
    }

    #[test]
    fn a_refusal_is_reported_until_a_relay_is_found() {
        let (relay, turn_responses) = (TurnStatus::default(), Arc::new(TurnResponses::default()));
        let search = TurnAttempt::new(relay.clone(), turn_responses.clone());
        search.start();
        search.gathering_ended();
        assert!(relay.fault().unwrap().contains("did not answer"));
        for (code, words) in [(401, "credentials"), (486, "quota"), (508, "full"), (400, "refused (400)")] {
            search.start();
            turn_responses.inspect(&refusal(code));
            search.gathering_ended();
            let fault = relay.fault().unwrap();
            assert!(fault.contains(words), "{code}: {fault}");
        }
        search.start();
        // The first request is always refused with 401, which carries the realm.
        turn_responses.inspect(&refusal(401));
        search.candidate_found();
        search.gathering_ended();
        assert_eq!(relay.fault(), None);
    }

    #[test]
    fn a_silent_relay_is_at_fault_only_after_its_time_limit() {
        let relay = TurnStatus::default();
        let search = TurnAttempt::new(relay.clone(), Arc::default());
        search.viewer_given_up(Instant::now() + ANSWER_TIMEOUT);
        search.start();
        search.viewer_given_up(Instant::now());
        assert_eq!(relay.fault(), None);
        search.viewer_given_up(Instant::now() + ANSWER_TIMEOUT);
        assert!(relay.fault().unwrap().contains("did not answer"));
    }

    #[test]
    fn truncated_and_other_messages_are_no_refusals() {
        let turn_responses = TurnResponses::default();
        let whole = refusal(401);
        for gathering_ended in 0..whole.len() {
            turn_responses.inspect(&whole[..gathering_ended]);
        }
        turn_responses.inspect(&[0x80; 1200]);
        assert_eq!(turn_responses.code.load(Ordering::Relaxed), 0);
        turn_responses.inspect(&whole);
        assert_eq!(turn_responses.code.load(Ordering::Relaxed), 401);
    }
}
