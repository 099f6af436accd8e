//! Takes orders as they come, decides at once what becomes of each, and sees to it that each has its outcomes.
//!
//! What a command does is not known here; see `effects`.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ring::digest;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::memory::{Key, Memory, Recalled};
use crate::command::{Command, HIDDEN, Order, Orders, Origin, Outcome, Request, STOPPING, SenderId, Subject, TOO_MANY};
use crate::mqtt::Reply;
use crate::tasks::{self, Group};

/// Commands of one sender that are carried out, or wait for their turn, at the same time; those that do not wait have as
/// many places of their own.
const MOST_OF_ONE: usize = 8;

/// The same of all senders, but for those that do not wait: eight senders that each fill their places. One that has none
/// under way finds a place up to twice as many. One waiting
/// command takes a kilobyte, one that applies a configuration 64.
const MOST_OF_ALL: usize = 64;

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
    /// What each of the latest of its kind leaves behind when it ends.
    turns: HashMap<Subject, Turn>,
    /// How many are under way of each; nobody is in it with none.
    places: HashMap<Holder, usize>,
    jobs: JoinSet<Job>,
    /// Tells when privacy is switched on: those that switch it off, and whose turn has not come, are over then.
    shown: watch::Sender<()>,
}

/// Whose place a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    sender: SenderId,
    is_urgent: bool,
}

/// A command that has ended.
struct Job {
    key: Key,
    name: &'static str,
    only_reads: bool,
    holder: Holder,
    ended: Ended,
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
        let (turns, places, jobs) = (HashMap::new(), HashMap::new(), JoinSet::new());
        Self { carry_out, memory, turns, places, jobs, shown: watch::channel(()).0 }
    }

    /// Takes orders until `group` stops; those under way have failed then.
    pub async fn run(&mut self, orders: &mut Orders, group: &Group) {
        loop {
            tokio::select! {
                biased;
                () = group.stopped() => break,
                Some(ended) = self.jobs.join_next() => {
                    // A job is not aborted while this runs, and its panics are its failure.
                    if let Ok(job) = ended {
                        self.ended(job);
                    }
                }
                order = orders.next() => match order {
                    Some(order) => self.take(order),
                    None => break,
                },
            }
        }
        for (id, senders) in std::mem::take(&mut self.memory).give_up() {
            tell(&senders, &Outcome::failed(id, STOPPING));
        }
    }

    fn take(&mut self, order: Order) {
        let outcomes = order.outcomes.clone();
        if let Some(outcome) = self.consider(order) {
            tell(&[outcomes], &outcome);
        }
    }

    /// Begins what is new. Returns what is to be said at once.
    fn consider(&mut self, order: Order) -> Option<Outcome> {
        let Order { request: Request { id, command }, sender, origin, reply, outcomes } = order;
        let key = Key { origin, id: id.clone() };
        let fingerprint = fingerprint(&command);
        match self.memory.recall(&key, &fingerprint, &outcomes) {
            Recalled::New => {}
            Recalled::UnderWay => return Some(Outcome::executing(id)),
            Recalled::Done(outcome) => return Some(outcome),
            Recalled::Other => {
                let reason = format!("`id`: another command had `{id}` in the last 10 minutes; each has a new one");
                return Some(Outcome::failed(id, reason));
            }
        }
        let holder = Holder { sender, is_urgent: command.is_urgent() };
        // The desk bounds how many come that switch privacy on; they take no place that others could hold.
        if !command.hides() && !self.has_place_for(holder) {
            return Some(Outcome::failed(id, TOO_MANY));
        }
        let said = command.takes_time().then(|| Outcome::executing(id.clone()));
        self.memory.begin(key.clone(), fingerprint.clone(), outcomes);
        self.begin(key, holder, Task { id, command, origin, reply, fingerprint });
        said
    }

    fn has_place_for(&self, holder: Holder) -> bool {
        let all = || self.places.iter().filter(|(holder, _)| !holder.is_urgent).map(|(_, taken)| taken).sum::<usize>();
        let own = self.places.get(&holder).copied().unwrap_or_default();
        // A sender that has nothing under way is not kept out by those that have.
        let most = if own == 0 { 2 * MOST_OF_ALL } else { MOST_OF_ALL };
        own < MOST_OF_ONE && (holder.is_urgent || all() < most)
    }

    fn begin(&mut self, key: Key, holder: Holder, task: Task) {
        let limit = task.command.deadline();
        let deadline = Instant::now() + limit;
        let (name, only_reads) = (task.command.name(), task.command.only_reads());
        if task.command.hides() {
            self.shown.send_replace(());
        }
        let mut hidden = task.command.shows().then(|| self.shown.subscribe());
        let (done, mut before) = match task.command.subject() {
            Some(subject) => {
                let (done, next) = oneshot::channel();
                (Some(done), self.turns.insert(subject, Turn(next)))
            }
            None => (None, None),
        };
        tracing::debug!(id = key.id, command = name, origin = ?key.origin, "a command is carried out");
        let work = AssertUnwindSafe((self.carry_out)(task)).catch_unwind();
        *self.places.entry(holder).or_default() += 1;
        self.jobs.spawn(async move {
            let waited = tokio::select! {
                biased;
                () = changed(&mut hidden) => None,
                waited = wait(&mut before, deadline) => Some(waited),
            };
            let ended = match waited {
                None => Ok(Ok(Ended::Now(Err(HIDDEN.into())))),
                Some(Ok(())) => timeout_at(deadline, work).await,
                Some(Err(elapsed)) => Err(elapsed),
            };
            let ended = ended.map(|ended| {
                ended.unwrap_or_else(|panic| {
                    tracing::error!(command = name, panic = tasks::message(&*panic), "a command panicked");
                    Ended::Now(Err("the board itself failed at it; its log says where".into()))
                })
            });
            if let (Some(done), Some(before)) = (done, before) {
                // The next may have been given up too.
                done.send(before).ok();
            }
            Job { key, name, only_reads, holder, ended: ended.unwrap_or_else(|_| Ended::Now(Err(too_late(limit)))) }
        });
    }

    fn ended(&mut self, job: Job) {
        let Job { key, name, only_reads, holder, ended } = job;
        if let Some(taken) = self.places.get_mut(&holder) {
            *taken -= 1;
            if *taken == 0 {
                self.places.remove(&holder);
            }
        }
        let outcome = match ended {
            Ended::Now(Ok(result)) if only_reads => Outcome::answer(key.id.clone(), result),
            Ended::Now(Ok(result)) => Outcome::successful(key.id.clone(), result),
            Ended::Now(Err(reason)) => Outcome::failed(key.id.clone(), reason),
            Ended::AfterRestart => return self.memory.hand_over(&key),
        };
        tracing::info!(
            id = key.id,
            command = name,
            origin = ?key.origin,
            status = ?outcome.status,
            reason = outcome.reason,
            "a command has ended"
        );
        tell(&self.memory.end(&key, &outcome), &outcome);
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

/// Ends when privacy is switched on; never where nobody looks for that.
async fn changed(hidden: &mut Option<watch::Receiver<()>>) {
    match hidden {
        Some(hidden) => _ = hidden.changed().await,
        None => std::future::pending().await,
    }
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

#[cfg(test)]
mod tests;
