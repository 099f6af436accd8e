//! Questions to a capture process that wait for answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::capture::{Answer, Error};

/// Most questions that may wait for an answer. Further ones are refused.
pub(super) const MAX_PENDING: usize = 16;

/// The sender for an answer.
pub(super) enum Responder {
    /// For an answer.
    Answer(oneshot::Sender<Result<Answer, Error>>),
    /// For a JPEG.
    Picture(oneshot::Sender<Result<Bytes, Error>>),
}

impl Responder {
    /// Whether the receiver is gone.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Answer(responder) => responder.is_closed(),
            Self::Picture(responder) => responder.is_closed(),
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(self, error: Error) {
        // The receiver is gone only if it no longer wants the answer.
        match self {
            Self::Answer(responder) => drop(responder.send(Err(error))),
            Self::Picture(responder) => drop(responder.send(Err(error))),
        }
    }
}

/// The questions that wait, each until its own time limit.
#[derive(Default)]
pub(super) struct PendingQuestions {
    waiting: BTreeMap<u32, (Instant, Responder)>,
    asked: u32,
}

impl PendingQuestions {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a question. Returns the number that the answer must carry; `None` if too many wait, and `responder` then
    /// gets the error.
    pub(super) fn add(&mut self, responder: Responder, limit: Duration) -> Option<u32> {
        if self.waiting.len() >= MAX_PENDING {
            responder.refuse(Error::TooMany);
            return None;
        }
        self.asked = self.asked.wrapping_add(1);
        self.waiting.insert(self.asked, (Instant::now() + limit, responder));
        Some(self.asked)
    }

    /// When the next question times out.
    pub(super) fn next_limit(&self) -> Option<Instant> {
        self.waiting.values().map(|(limit, _)| *limit).min()
    }

    /// Answers the questions that have timed out. `device` is the device that does not answer.
    pub(super) fn expire(&mut self, device: &str) {
        let now = Instant::now();
        for (_, (_, responder)) in self.waiting.extract_if(.., |_, (limit, _)| *limit <= now) {
            responder.refuse(Error::Stuck { device: device.to_owned(), verb: "asked".into() });
        }
    }

    /// Delivers an answer of `device`. An answer to a question that has timed out is dropped.
    pub(super) fn answer(&mut self, request: u32, answer: Result<Answer, Error>, device: &str) {
        match self.waiting.remove(&request) {
            Some((_, Responder::Answer(responder))) => drop(responder.send(answer)),
            Some((_, responder)) => responder.refuse(answer.err().unwrap_or_else(|| Error::other_answer(device))),
            None => {}
        }
    }

    /// Delivers a picture in the same way.
    pub(super) fn picture(&mut self, request: u32, jpeg: Bytes, device: &str) {
        match self.waiting.remove(&request) {
            Some((_, Responder::Picture(responder))) => drop(responder.send(Ok(jpeg))),
            Some((_, responder)) => responder.refuse(Error::other_answer(device)),
            None => {}
        }
    }

    /// Answers all questions with an error.
    pub(super) fn refuse_all(&mut self, error: &Error) {
        for (_, responder) in std::mem::take(&mut self.waiting).into_values() {
            responder.refuse(error.clone());
        }
    }
}
