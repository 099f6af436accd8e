//! Takes orders as they come, decides at once what becomes of each, and sees to it that each has its outcomes.
//!
//! What a command does is not known here; see `effects`.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use ring::digest;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::memory::{Key, Memory, Recalled};
use crate::command::{self, Command, Order, Origin, Outcome, Request, STOPPING, Subject, TOO_MANY};
use crate::mqtt::Reply;
use crate::tasks::Group;

/// Commands that may come at once: a program that sets up a board sends a dozen.
const BURST: f64 = 20.0;

/// Commands per second from then on: a slider that is dragged sends as many.
const PER_SECOND: f64 = 10.0;

/// Commands that are carried out, or wait for their turn, at the same time.
const MOST_UNDER_WAY: usize = 8;

/// A command that is to be carried out.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// What to do.
    pub command: Command,
    /// Which way it came.
    pub origin: Origin,
    /// Where its answer is wanted.
    pub reply: Option<Reply>,
    /// By which the same command is known again.
    pub fingerprint: String,
}

/// How a command ended.
#[derive(Debug)]
pub enum Ended {
    /// With a result, or why not.
    Now(Result<Option<Value>, String>),
    /// It has its last outcome after a restart, by somebody else.
    AfterRestart,
}

/// Takes orders; `carry_out` does what they say.
pub struct Intake<C> {
    carry_out: C,
    memory: Memory,
    allowance: Allowance,
    /// What each of the latest of its kind leaves behind when it ends.
    turns: HashMap<Subject, Turn>,
    jobs: JoinSet<(Key, &'static str, Ended)>,
}

/// Comes when the one before has ended; one that gave up waiting passes on whom it waited for.
struct Turn(oneshot::Receiver<Turn>);

impl<C, F> Intake<C>
where
    C: Fn(Task) -> F,
    F: Future<Output = Ended> + Send + 'static,
{
    /// Knows nothing yet but what `memory` has of the time before.
    pub fn new(carry_out: C, memory: Memory) -> Self {
        let turns = HashMap::new();
        Self { carry_out, memory, allowance: Allowance::default(), turns, jobs: JoinSet::new() }
    }

    /// Takes orders until `group` stops; those under way have failed then.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>, group: Group) {
        loop {
            tokio::select! {
                biased;
                () = group.stopped() => break,
                Some(ended) = self.jobs.join_next() => {
                    // A job is not aborted while this runs, and none panics.
                    if let Ok((key, name, ended)) = ended {
                        self.ended(&key, name, ended);
                    }
                }
                order = orders.recv() => match order {
                    Some(order) => self.take(order),
                    None => break,
                },
            }
        }
        for (id, senders) in self.memory.give_up() {
            tell(&senders, &Outcome::failed(id, STOPPING));
        }
    }

    fn take(&mut self, order: Order) {
        let outcome = match command::parse(&order.text) {
            _ if !self.allowance.is_within(Instant::now()) => {
                tracing::debug!(origin = ?order.origin, "too many commands");
                Some(Outcome::failed(command::id_of(&order.text), TOO_MANY))
            }
            Ok(request) => self.consider(request, &order),
            Err(rejection) => {
                tracing::info!(id = rejection.id, origin = ?order.origin, "a command was not understood");
                tracing::debug!(reason = rejection.reason, "what is wrong with it");
                Some(Outcome::failed(rejection.id, rejection.reason))
            }
        };
        if let Some(outcome) = outcome {
            tell(std::slice::from_ref(&order.outcomes), &outcome);
        }
    }

    /// Begins what is new. Returns what is to be said at once.
    fn consider(&mut self, request: Request, order: &Order) -> Option<Outcome> {
        let Request { id, command } = request;
        let key = Key { origin: order.origin, id: id.clone() };
        let fingerprint = fingerprint(&command);
        match self.memory.recall(&key, &fingerprint, &order.outcomes) {
            Recalled::New => {}
            Recalled::UnderWay => return Some(Outcome::executing(id)),
            Recalled::Done(outcome) => return Some(outcome),
            Recalled::Other => {
                let reason = format!("`id`: another command had `{id}` in the last 10 minutes; each has a new one");
                return Some(Outcome::failed(id, reason));
            }
        }
        if self.jobs.len() >= MOST_UNDER_WAY {
            return Some(Outcome::failed(id, TOO_MANY));
        }
        let said = command.takes_time().then(|| Outcome::executing(id.clone()));
        self.memory.begin(key.clone(), fingerprint.clone(), order.outcomes.clone());
        let task = Task { id, command, origin: order.origin, reply: order.reply.clone(), fingerprint };
        self.begin(key, task);
        said
    }

    fn begin(&mut self, key: Key, task: Task) {
        let limit = task.command.deadline();
        let deadline = Instant::now() + limit;
        let name = task.command.name();
        let (done, mut before) = match task.command.subject() {
            Some(subject) => {
                let (done, next) = oneshot::channel();
                (Some(done), self.turns.insert(subject, Turn(next)))
            }
            None => (None, None),
        };
        tracing::debug!(id = key.id, command = name, origin = ?key.origin, "a command is carried out");
        let work = (self.carry_out)(task);
        self.jobs.spawn(async move {
            let ended = match wait(&mut before, deadline).await {
                Ok(()) => timeout_at(deadline, work).await,
                Err(elapsed) => Err(elapsed),
            };
            if let (Some(done), Some(before)) = (done, before) {
                // The next may have been given up too.
                done.send(before).ok();
            }
            (key, name, ended.unwrap_or_else(|_| Ended::Now(Err(too_late(limit)))))
        });
    }

    fn ended(&mut self, key: &Key, name: &str, ended: Ended) {
        let outcome = match ended {
            Ended::Now(Ok(result)) => Outcome::successful(key.id.clone(), result),
            Ended::Now(Err(reason)) => Outcome::failed(key.id.clone(), reason),
            Ended::AfterRestart => return self.memory.hand_over(key),
        };
        tracing::info!(
            id = key.id,
            command = name,
            origin = ?key.origin,
            status = ?outcome.status,
            reason = outcome.reason,
            "a command has ended"
        );
        tell(&self.memory.end(key, &outcome), &outcome);
    }
}

/// Waits for its turn. Afterwards `before` is `None`, or, too late, the one that is still waited for.
async fn wait(before: &mut Option<Turn>, deadline: Instant) -> Result<(), Elapsed> {
    while let Some(Turn(end)) = before {
        // Its sender is dropped, or passes on another.
        *before = timeout_at(deadline, end).await?.ok();
    }
    Ok(())
}

fn too_late(limit: Duration) -> String {
    format!("not done within {} s; `get-status` shows what became of it", limit.as_secs())
}

/// By which the same command is known again, however it was written.
fn fingerprint(command: &Command) -> String {
    let text = serde_json::to_vec(command).expect("commands hold nothing that JSON cannot");
    let digest = digest::digest(&digest::SHA256, &text);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tell(senders: &[mpsc::Sender<Outcome>], outcome: &Outcome) {
    for sender in senders {
        // Who has gone, or does not take its outcomes, loses them; nobody waits for it.
        sender.try_send(outcome.clone()).ok();
    }
}

/// How many commands may come.
#[derive(Debug)]
struct Allowance {
    left: f64,
    since: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: BURST, since: Instant::now() }
    }
}

impl Allowance {
    fn is_within(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() * PER_SECOND;
        self.since = now;
        self.left = (self.left + earned).min(BURST);
        // What is refused costs nothing: who sends far too much still gets its share.
        let is_within = self.left >= 1.0;
        self.left -= if is_within { 1.0 } else { 0.0 };
        is_within
    }
}

#[cfg(test)]
mod tests;
