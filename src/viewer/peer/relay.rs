//! Whether the board has the relay that its configuration names, and why not.
//!
//! The crate tells of a refusal in its own log only, with addresses. What the relay answers passes through our sockets,
//! where its reason can be read; that no relay candidate came shows when gathering ends.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::stun;

/// A relay that has not answered by then will not: from the other side of the earth it takes half a second.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// What all viewers found out about the relay. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    fault: Arc<Mutex<Option<String>>>,
}

impl Relay {
    /// Why there was no relay the last time; `None` where there was, or nobody has asked yet.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().expect("nobody panics with it").clone()
    }

    /// Takes what one viewer found out, and logs it where it is news.
    fn learn(&self, fault: Option<String>) {
        let mut known = self.fault.lock().expect("nobody panics with it");
        if *known == fault {
            return;
        }
        match &fault {
            Some(reason) => tracing::warn!(reason, "no relay: viewers elsewhere may not be reached"),
            None => tracing::info!("the relay is there again"),
        }
        *known = fault;
    }
}

/// What a relay answered to one viewer's requests.
#[derive(Debug, Default)]
pub struct Answers {
    code: AtomicU16,
}

impl Answers {
    /// Looks at a datagram that came.
    pub fn see(&self, datagram: &[u8]) {
        if datagram.starts_with(&stun::ALLOCATE_ERROR)
            && let Some(code) = error_code(datagram)
        {
            self.code.store(code, Ordering::Relaxed);
        }
    }
}

/// The code of a STUN error response: hundreds and the rest, each in a byte of its own.
fn error_code(message: &[u8]) -> Option<u16> {
    let value = stun::attribute(message, stun::ERROR_CODE)?;
    Some(u16::from(value.get(2)? & 0x7) * 100 + u16::from(*value.get(3)?))
}

/// One viewer's search for a relay candidate.
#[derive(Debug)]
pub struct Search {
    relay: Relay,
    answers: Arc<Answers>,
    /// When it began; `None` when nothing is sought, or it was found.
    since: Mutex<Option<Instant>>,
}

impl Search {
    /// A search whose result `relay` learns.
    pub fn new(relay: Relay, answers: Arc<Answers>) -> Self {
        Self { relay, answers, since: Mutex::default() }
    }

    /// Gathering begins.
    pub fn begin(&self) {
        self.answers.code.store(0, Ordering::Relaxed);
        *self.since.lock().expect("nobody panics with it") = Some(Instant::now());
    }

    /// There is a relay candidate.
    pub fn found(&self) {
        self.finish();
        self.relay.learn(None);
    }

    /// Gathering is over.
    pub fn end(&self) {
        if self.finish().is_some() {
            self.relay.learn(Some(reason(self.answers.code.load(Ordering::Relaxed))));
        }
    }

    /// The viewer is given up; the relay has had its time to answer, or not.
    pub fn give_up(&self, now: Instant) {
        let since = *self.since.lock().expect("nobody panics with it");
        if since.is_some_and(|since| now.saturating_duration_since(since) >= ANSWERS_WITHIN) {
            self.end();
        }
    }

    fn finish(&self) -> Option<Instant> {
        self.since.lock().expect("nobody panics with it").take()
    }
}

/// What an error code of Allocate (RFC 8656, section 19) means to somebody who runs a board; 0 is no answer.
fn reason(code: u16) -> String {
    match code {
        0 => "the relay did not answer: check its address in `ice.servers`, and whether UDP gets there".into(),
        401 | 441 => "the relay refused the board's credentials (401): check the secret or password in `ice.servers`, \
                      and whether the clocks of board and relay are right"
            .into(),
        403 => "the relay forbids the board to use it (403)".into(),
        486 => "the relay gives this board no more (486): its quota for one user is reached".into(),
        508 => "the relay is full (508)".into(),
        other => format!("the relay refused ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to Allocate with SOFTWARE (7 bytes, padded) before ERROR-CODE.
    fn refusal(code: u16) -> Vec<u8> {
        let mut message = vec![0x01, 0x13, 0, 28];
        message.extend([0; 16]);
        message.extend([0x80, 0x22, 0, 7]);
        message.extend(b"Coturn!\0");
        message.extend([0, 9, 0, 4, 0, 0, (code / 100) as u8, (code % 100) as u8]);
        message
    }

    #[test]
    fn a_refusal_is_read_and_told_until_a_relay_is_found() {
        let (relay, answers) = (Relay::default(), Arc::new(Answers::default()));
        let search = Search::new(relay.clone(), answers.clone());
        search.begin();
        search.end();
        assert!(relay.fault().unwrap().contains("did not answer"));
        for (code, words) in [(401, "credentials"), (486, "quota"), (508, "full"), (400, "refused (400)")] {
            search.begin();
            answers.see(&refusal(code));
            search.end();
            let fault = relay.fault().unwrap();
            assert!(fault.contains(words), "{code}: {fault}");
        }
        search.begin();
        // Each first request is refused with 401, to be told the realm.
        answers.see(&refusal(401));
        search.found();
        search.end();
        assert_eq!(relay.fault(), None);
    }

    #[test]
    fn a_relay_that_says_nothing_is_at_fault_only_if_it_had_the_time() {
        let relay = Relay::default();
        let search = Search::new(relay.clone(), Arc::default());
        search.give_up(Instant::now() + ANSWERS_WITHIN);
        search.begin();
        search.give_up(Instant::now());
        assert_eq!(relay.fault(), None);
        search.give_up(Instant::now() + ANSWERS_WITHIN);
        assert!(relay.fault().unwrap().contains("did not answer"));
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_no_refusal() {
        let answers = Answers::default();
        let whole = refusal(401);
        for end in 0..whole.len() {
            answers.see(&whole[..end]);
        }
        answers.see(&[0x80; 1200]);
        assert_eq!(answers.code.load(Ordering::Relaxed), 0);
        answers.see(&whole);
        assert_eq!(answers.code.load(Ordering::Relaxed), 401);
    }
}
