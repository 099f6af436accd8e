//! Questions to a capture process that wait for their answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::capture::{Answer, Error};

/// Questions that wait for an answer. More are refused.
pub(super) const MOST_REQUESTS: usize = 16;

/// Who waits for an answer.
pub(super) enum Asker {
    /// For what the question says.
    Answer(oneshot::Sender<Result<Answer, Error>>),
    /// For a JPEG.
    Picture(oneshot::Sender<Result<Bytes, Error>>),
}

impl Asker {
    /// Whether nobody waits any more.
    pub(super) fn has_gone(&self) -> bool {
        match self {
            Self::Answer(asker) => asker.is_closed(),
            Self::Picture(asker) => asker.is_closed(),
        }
    }

    /// Tells that there is none.
    pub(super) fn refuse(self, error: Error) {
        // Nobody waits only where the question was given up.
        match self {
            Self::Answer(asker) => drop(asker.send(Err(error))),
            Self::Picture(asker) => drop(asker.send(Err(error))),
        }
    }
}

/// Those that wait, each until its own limit.
#[derive(Default)]
pub(super) struct Questions {
    waiting: BTreeMap<u32, (Instant, Asker)>,
    asked: u32,
}

impl Questions {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes one more. Gives the number that the answer is to carry; none where too many wait, which the asker is told.
    pub(super) fn add(&mut self, asker: Asker, patience: Duration) -> Option<u32> {
        if self.waiting.len() >= MOST_REQUESTS {
            asker.refuse(Error::TooMany);
            return None;
        }
        self.asked = self.asked.wrapping_add(1);
        self.waiting.insert(self.asked, (Instant::now() + patience, asker));
        Some(self.asked)
    }

    /// When the next answer is given up.
    pub(super) fn limit(&self) -> Option<Instant> {
        self.waiting.values().map(|(limit, _)| *limit).min()
    }

    /// Gives up what takes too long. `device` is who does not answer.
    pub(super) fn give_up(&mut self, device: &str) {
        let now = Instant::now();
        for (_, (_, asker)) in self.waiting.extract_if(.., |_, (limit, _)| *limit <= now) {
            asker.refuse(Error::Stuck { device: device.to_owned(), verb: "asked".into() });
        }
    }

    /// An answer of `device`. One to a question that was given up is dropped.
    pub(super) fn answer(&mut self, request: u32, answer: Result<Answer, Error>, device: &str) {
        match self.waiting.remove(&request) {
            Some((_, Asker::Answer(asker))) => drop(asker.send(answer)),
            Some((_, asker)) => asker.refuse(answer.err().unwrap_or_else(|| Error::other_answer(device))),
            None => {}
        }
    }

    /// The same of a picture.
    pub(super) fn picture(&mut self, request: u32, jpeg: Bytes, device: &str) {
        match self.waiting.remove(&request) {
            Some((_, Asker::Picture(asker))) => drop(asker.send(Ok(jpeg))),
            Some((_, asker)) => asker.refuse(Error::other_answer(device)),
            None => {}
        }
    }

    /// Tells all that there will be no answer.
    pub(super) fn refuse_all(&mut self, error: &Error) {
        for (_, asker) in std::mem::take(&mut self.waiting).into_values() {
            asker.refuse(error.clone());
        }
    }
}
