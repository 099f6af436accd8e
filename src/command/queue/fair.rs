//! A queue in which senders take turns, so that a flood from one does not delay the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::UNPOISONED;
use crate::command::{Outcome, Request, STOPPING, SUPERSEDED, SenderId, TOO_MANY};

/// A request, and the channel for its outcomes.
type Entry = (Request, mpsc::Sender<Outcome>);

/// A queue for `capacity` requests: its two ends.
pub(super) fn fair_queue(capacity: usize) -> (Input, Output) {
    let waiting = Arc::new(Mutex::new(Waiting { capacity, count: 0, senders: VecDeque::new() }));
    let (arrivals, arrived) = mpsc::unbounded_channel();
    (Input { waiting: waiting.clone(), arrivals }, Output { waiting, arrived })
}

#[derive(Clone, Debug)]
pub(super) struct Input {
    waiting: Arc<Mutex<Waiting>>,
    /// At least one for each request that waits.
    arrivals: mpsc::UnboundedSender<()>,
}

impl Input {
    /// Adds a request. Requests that have no place, or will not be executed any more, fail with the reason.
    pub(super) fn add(&self, entry: Entry) {
        let refused = if self.arrivals.is_closed() {
            vec![(entry, STOPPING)]
        } else {
            let mut waiting = self.waiting.lock().expect(UNPOISONED);
            let before = waiting.count;
            let refused = waiting.add(entry);
            // If it was closed since, the request is dropped with the queue.
            (before..waiting.count).for_each(|_| self.arrivals.send(()).unwrap_or_default());
            refused
        };
        for ((request, outcomes), reason) in refused {
            // A sender that does not read its outcomes loses them.
            outcomes.try_send(Outcome::failed(request.id, reason)).ok();
        }
    }
}

#[derive(Debug)]
pub(super) struct Output {
    waiting: Arc<Mutex<Waiting>>,
    arrived: mpsc::UnboundedReceiver<()>,
}

impl Output {
    /// The next request; `None` once all inputs are gone.
    pub(super) async fn next(&mut self) -> Option<Entry> {
        loop {
            self.arrived.recv().await?;
            let next = self.waiting.lock().expect(UNPOISONED).take();
            // The request that arrived may have been dropped since.
            if next.is_some() {
                return next;
            }
        }
    }
}

impl Drop for Output {
    /// Nothing reads the queue any more, and the senders must not wait for it.
    fn drop(&mut self) {
        self.arrived.close();
        self.waiting.lock().expect(UNPOISONED).senders.clear();
    }
}

/// Requests that wait, those of each sender in order of arrival.
#[derive(Debug)]
struct Waiting {
    capacity: usize,
    count: usize,
    /// The sender whose turn it is comes first. Each has at least one request.
    senders: VecDeque<(SenderId, VecDeque<Entry>)>,
}

impl Waiting {
    /// Returns the requests that have no place now, and why: this one, or the newest of the sender with the most.
    fn add(&mut self, entry: Entry) -> Vec<(Entry, &'static str)> {
        let (request, _) = &entry;
        let sender = request.sender;
        let mut refused = Vec::new();
        if request.command.switches_privacy_on() {
            for (_, entries) in &mut self.senders {
                let is_superseded = |(waiting, _): &Entry| waiting.command.switches_privacy_off();
                let (superseded, rest) = std::mem::take(entries).into_iter().partition::<VecDeque<_>, _>(is_superseded);
                *entries = rest;
                refused.extend(superseded.into_iter().map(|entry| (entry, SUPERSEDED)));
            }
            self.senders.retain(|(_, entries)| !entries.is_empty());
            self.count -= refused.len();
        }
        let own = self.senders.iter().find(|(id, _)| *id == sender).map_or(0, |(_, entries)| entries.len());
        if self.count >= self.capacity {
            let longest = self.senders.iter_mut().map(|(_, entries)| entries).max_by_key(|entries| entries.len());
            let Some(newest) = longest.filter(|entries| entries.len() > own + 1).and_then(VecDeque::pop_back) else {
                refused.push((entry, TOO_MANY));
                return refused;
            };
            self.count -= 1;
            refused.push((newest, TOO_MANY));
        }
        self.count += 1;
        match self.senders.iter_mut().find(|(id, _)| *id == sender) {
            Some((_, entries)) => entries.push_back(entry),
            None => self.senders.push_back((sender, VecDeque::from([entry]))),
        }
        refused
    }

    fn take(&mut self) -> Option<Entry> {
        let (sender, mut entries) = self.senders.pop_front()?;
        let entry = entries.pop_front()?;
        self.count -= 1;
        if !entries.is_empty() {
            self.senders.push_back((sender, entries));
        }
        Some(entry)
    }
}
