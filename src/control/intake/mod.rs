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
use tokio::time::{Instant, sleep_until, timeout_at};

use super::memory::{Key, Memory, Recalled};
use crate::command::{
    Allowance, Command, HIDDEN, Order, Orders, Origin, Outcome, Rate, Request, STOPPING, SenderId, Subject, TOO_MANY,
};
use crate::mqtt::Reply;
use crate::tasks::{self, Group};

/// Commands of one sender that are carried out, or wait for their turn, at the same time, but for those that do not wait.
const MOST_OF_ONE: usize = 8;

/// Of those that do not wait, by all senders: one for each viewer that is to be parted with, and for names that no viewer
/// has as many as come within the microseconds that it takes to say so.
const MOST_URGENT: usize = 256;

/// Those that want the same as one of these: of a broker's flood, what comes within some tenths of a second. Each has about
/// 200 bytes.
const MOST_JOINED: usize = 2048;

/// The least time between two that switch privacy off, and between two that switch it on: a flood switches the cameras,
/// and writes to the card, ten times a second at most.
const BETWEEN_SWITCHES: Duration = Duration::from_millis(100);

/// Ends of commands that are logged: what people and programs do is, what a flood does is not.
const LOGGED: Rate = Rate { burst: 100.0, per_second: 10.0 };

/// The same of all senders, but for those that do not wait: eight senders that each fill their places. One that has none
/// under way finds a place up to twice as many. One waiting
/// command takes a kilobyte, one that applies a configuration 64.
const MOST_OF_ALL: usize = 64;

/// Why one fails that too many want at once.
const ALL_THE_SAME: &str =
    "too many want the same at once; it is carried out, and `get-status` shows what became of it";

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
    /// Those under way that do not wait and may be joined, by their fingerprints.
    joinable: HashMap<String, Leader>,
    /// Who wants the same as one under way, and is told of its outcome under an id of its own.
    joined: HashMap<Key, Vec<(String, mpsc::Sender<Outcome>)>>,
    /// When one that switches privacy off, and one that switches it on, came last.
    switched_at: [Option<Instant>; 2],
    logged: Allowance,
    /// Tells when privacy is switched on: those that switch it off, and whose turn has not come, are over then.
    shown: watch::Sender<()>,
}

/// Whose place a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    sender: SenderId,
    is_urgent: bool,
}

/// One that others may join.
struct Leader {
    key: Key,
    /// Whether it is over where privacy is switched on.
    shows: bool,
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
        Self {
            carry_out,
            memory,
            turns: HashMap::new(),
            places: HashMap::new(),
            jobs: JoinSet::new(),
            joinable: HashMap::new(),
            joined: HashMap::new(),
            switched_at: [None; 2],
            logged: Allowance::new(LOGGED),
            shown: watch::channel(()).0,
        }
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
        for (id, sender) in std::mem::take(&mut self.joined).into_values().flatten() {
            tell(&[sender], &Outcome::failed(id, STOPPING));
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
        let said = command.takes_time().then(|| Outcome::executing(id.clone()));
        if command.hides() {
            self.shown.send_replace(());
            self.joinable.retain(|_, leader| !leader.shows);
        }
        if let Some(joined) = self.joinable.get(&fingerprint).and_then(|leader| self.joined.get_mut(&leader.key)) {
            if joined.len() >= MOST_JOINED {
                return Some(Outcome::failed(id, ALL_THE_SAME));
            }
            joined.push((id, outcomes));
            return said;
        }
        let holder = Holder { sender, is_urgent: command.is_urgent() };
        // They take no place that others could hold, and there is one at a time.
        if !command.hides() && !self.has_place_for(holder) {
            return Some(Outcome::failed(id, TOO_MANY));
        }
        self.memory.begin(key.clone(), fingerprint.clone(), outcomes);
        self.begin(key, holder, Task { id, command, origin, reply, fingerprint });
        said
    }

    fn has_place_for(&self, holder: Holder) -> bool {
        let alike = self.places.iter().filter(|(other, _)| other.is_urgent == holder.is_urgent);
        let all = alike.map(|(_, taken)| taken).sum::<usize>();
        if holder.is_urgent {
            return all < MOST_URGENT;
        }
        let own = self.places.get(&holder).copied().unwrap_or_default();
        // A sender that has nothing under way is not kept out by those that have.
        let most = if own == 0 { 2 * MOST_OF_ALL } else { MOST_OF_ALL };
        own < MOST_OF_ONE && all < most
    }

    fn begin(&mut self, key: Key, holder: Holder, task: Task) {
        let limit = task.command.deadline();
        let deadline = Instant::now() + limit;
        let (name, only_reads) = (task.command.name(), task.command.only_reads());
        if task.command.is_urgent() {
            let leader = Leader { key: key.clone(), shows: task.command.shows() };
            self.joinable.insert(task.fingerprint.clone(), leader);
            self.joined.insert(key.clone(), Vec::new());
        }
        let not_before = self.not_before(&task.command);
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
                waited = wait(&mut before, not_before, deadline) => Some(waited),
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

    /// When it may begin.
    fn not_before(&mut self, command: &Command) -> Option<Instant> {
        let Command::Privacy(wanted) = command else { return None };
        let now = Instant::now();
        let last = self.switched_at[usize::from(wanted.on)].replace(now)?;
        (now - last < BETWEEN_SWITCHES).then_some(now + BETWEEN_SWITCHES)
    }

    fn ended(&mut self, job: Job) {
        let Job { key, name, only_reads, holder, ended } = job;
        self.joinable.retain(|_, leader| leader.key != key);
        let joined = self.joined.remove(&key).unwrap_or_default();
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
        if self.logged.is_within(Instant::now()) {
            tracing::info!(
                id = key.id,
                command = name,
                origin = ?key.origin,
                status = ?outcome.status,
                reason = outcome.reason,
                joined = joined.len(),
                "a command has ended"
            );
        }
        for (id, sender) in joined {
            tell(&[sender], &Outcome { id, ..outcome.clone() });
        }
        tell(&self.memory.end(&key, &outcome), &outcome);
    }
}

/// Waits for its turn. Afterwards `before` is `None`, or, too late, the one that is still waited for.
async fn wait(before: &mut Option<Turn>, not_before: Option<Instant>, deadline: Instant) -> Result<(), Elapsed> {
    while let Some(Turn(end)) = before {
        // Its sender is dropped, or passes on another.
        *before = timeout_at(deadline, end).await?.ok();
    }
    if let Some(time) = not_before {
        sleep_until(time).await;
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
