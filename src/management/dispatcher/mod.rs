//! Receives requests, decides at once whether to execute each, and ensures that each gets its outcomes.
//!
//! This module does not know what a command does; see `effects`.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::recent::{Known, RecentCommands, RequestId};
use crate::command::{Command, Outcome, Request, Requests, Resource, STOPPING, SUPERSEDED, SenderId, TOO_MANY};
use crate::rate_limit::{Rate, RateLimit, now};
use crate::tasks::{self, Group};

/// The most commands of one sender that are executed, or wait for another command, at the same time, not counting
/// urgent ones.
const MOST_OF_ONE: usize = 8;

/// The most urgent commands of all senders: one to dismiss each viewer, and as many with wrong names as arrive within
/// the microseconds that it takes to refuse them.
const MOST_URGENT: usize = 256;

/// The most senders that wait for the result of one urgent command: of a broker's flood, the commands that arrive
/// within some tenths of a second. Each takes about 200 bytes.
const MOST_JOINED: usize = 2048;

/// The least time between two commands that switch privacy off, and between two that switch it on: a flood switches the
/// cameras, and writes to the card, ten times a second at most.
const BETWEEN_SWITCHES: Duration = Duration::from_millis(100);

/// Ends of commands that are logged: all from people and programs, few of a flood.
const LOGGED: Rate = Rate { burst: 100.0, per_second: 10.0 };

/// The most commands of all senders, not counting urgent ones: eight senders with [`MOST_OF_ONE`] each. A sender that
/// has none in progress finds a place up to twice as many. One waiting command takes a kilobyte, one that applies a
/// configuration 64.
const MOST_OF_ALL: usize = 64;

/// Error for a command that exceeds [`MOST_JOINED`].
const TOO_MANY_JOINED: &str =
    "too many want the same at once; it is carried out, and `get-status` shows what became of it";

/// The end of a command's execution.
#[derive(Debug)]
pub enum Completion {
    /// Its result, or why there is none.
    Now(Result<Option<Value>, String>),
    /// Its outcome is reported after a restart.
    AfterRestart,
}

/// Receives requests; `execute` executes them.
pub struct Dispatcher<E> {
    execute: E,
    recent: RecentCommands,
    /// The latest command of each resource.
    latest: HashMap<Resource, Predecessor>,
    /// Number of commands in progress per quota; quotas without any are not listed.
    in_progress: HashMap<Quota, usize>,
    tasks: JoinSet<Ended>,
    /// Urgent commands in progress that may be joined, by their fingerprints.
    joinable: HashMap<String, Joinable>,
    /// Senders of the same command as one in progress; each gets its outcome under an id of its own.
    joined: HashMap<RequestId, Vec<(String, mpsc::Sender<Outcome>)>>,
    /// When the last command that switches privacy off, and the last that switches it on, arrived.
    switched_at: [Option<Instant>; 2],
    logged: RateLimit,
    /// Signals that privacy is switched on: commands that switch it off and still wait end then.
    privacy_on: watch::Sender<()>,
}

/// Commands that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Quota {
    sender: SenderId,
    is_urgent: bool,
}

/// A command in progress that others may join.
struct Joinable {
    id: RequestId,
    switches_privacy_off: bool,
}

/// A command that has ended.
struct Ended {
    id: RequestId,
    name: &'static str,
    only_reads: bool,
    quota: Quota,
    completion: Completion,
}

/// Completes when the command before has ended. A command that gave up waiting sends the predecessor it waited for.
struct Predecessor(oneshot::Receiver<Predecessor>);

impl<E, F> Dispatcher<E>
where
    E: Fn(Request) -> F,
    F: Future<Output = Completion> + Send + 'static,
{
    /// Starts with the `recent` commands from before the restart.
    pub fn new(execute: E, recent: RecentCommands) -> Self {
        Self {
            execute,
            recent,
            latest: HashMap::new(),
            in_progress: HashMap::new(),
            tasks: JoinSet::new(),
            joinable: HashMap::new(),
            joined: HashMap::new(),
            switched_at: [None; 2],
            logged: RateLimit::new(LOGGED),
            privacy_on: watch::channel(()).0,
        }
    }

    /// Receives requests until `group` stops; those in progress fail then.
    pub async fn run(&mut self, requests: &mut Requests, group: &Group) {
        loop {
            tokio::select! {
                biased;
                () = group.stopped() => break,
                Some(ended) = self.tasks.join_next() => {
                    // A task is not aborted while this runs, and a panic in it is caught.
                    if let Ok(ended) = ended {
                        self.end(ended);
                    }
                }
                next = requests.next() => match next {
                    Some((request, outcomes)) => self.receive(request, outcomes),
                    None => break,
                },
            }
        }
        for (id, senders) in std::mem::take(&mut self.recent).into_unfinished() {
            send(&senders, &Outcome::failed(id, STOPPING));
        }
        for (id, sender) in std::mem::take(&mut self.joined).into_values().flatten() {
            send(&[sender], &Outcome::failed(id, STOPPING));
        }
    }

    fn receive(&mut self, request: Request, outcomes: mpsc::Sender<Outcome>) {
        if let Some(outcome) = self.start_if_new(request, &outcomes) {
            send(&[outcomes], &outcome);
        }
    }

    /// Starts a new command. Returns the outcome to send at once.
    fn start_if_new(&mut self, request: Request, outcomes: &mpsc::Sender<Outcome>) -> Option<Outcome> {
        let (command, id) = (&request.command, request.id.clone());
        let request_id = RequestId { origin: request.origin, id: id.clone() };
        let fingerprint = command.fingerprint();
        match self.recent.look_up(&request_id, &fingerprint, outcomes) {
            Known::No => {}
            Known::Executing => return Some(Outcome::executing(id)),
            Known::Ended(outcome) => return Some(outcome),
            Known::OtherCommand => {
                let reason = format!("`id`: another command had `{id}` in the last 10 minutes; each has a new one");
                return Some(Outcome::failed(id, reason));
            }
        }
        let executing = command.reports_executing().then(|| Outcome::executing(id.clone()));
        if command.switches_privacy_on() {
            self.privacy_on.send_replace(());
            self.joinable.retain(|_, joinable| !joinable.switches_privacy_off);
        }
        if let Some(joined) = self.joinable.get(&fingerprint).and_then(|other| self.joined.get_mut(&other.id)) {
            if joined.len() >= MOST_JOINED {
                return Some(Outcome::failed(id, TOO_MANY_JOINED));
            }
            joined.push((id, outcomes.clone()));
            return executing;
        }
        let quota = Quota { sender: request.sender, is_urgent: command.is_urgent() };
        // Commands that switch privacy on take no place from others, and only one runs at a time.
        if !command.switches_privacy_on() && !self.has_place_for(quota) {
            return Some(Outcome::failed(id, TOO_MANY));
        }
        self.recent.begin(request_id.clone(), fingerprint.clone(), outcomes.clone());
        self.start(request_id, fingerprint, quota, request);
        executing
    }

    fn has_place_for(&self, quota: Quota) -> bool {
        let alike = self.in_progress.iter().filter(|(other, _)| other.is_urgent == quota.is_urgent);
        let all = alike.map(|(_, count)| count).sum::<usize>();
        if quota.is_urgent {
            return all < MOST_URGENT;
        }
        let own = self.in_progress.get(&quota).copied().unwrap_or_default();
        // A sender with nothing in progress is not blocked by those that have commands in progress.
        let most = if own == 0 { 2 * MOST_OF_ALL } else { MOST_OF_ALL };
        own < MOST_OF_ONE && all < most
    }

    fn start(&mut self, id: RequestId, fingerprint: String, quota: Quota, request: Request) {
        let command = &request.command;
        let limit = command.deadline();
        let deadline = Instant::now() + limit;
        let (name, only_reads) = (command.name(), command.only_reads());
        if command.is_urgent() {
            let switches_privacy_off = command.switches_privacy_off();
            self.joinable.insert(fingerprint, Joinable { id: id.clone(), switches_privacy_off });
            self.joined.insert(id.clone(), Vec::new());
        }
        let not_before = self.not_before(command);
        let mut privacy_on = command.switches_privacy_off().then(|| self.privacy_on.subscribe());
        let (done, mut before) = match command.resource() {
            Some(resource) => {
                let (done, next) = oneshot::channel();
                (Some(done), self.latest.insert(resource, Predecessor(next)))
            }
            None => (None, None),
        };
        tracing::debug!(id = id.id, command = name, origin = ?id.origin, "a command is carried out");
        let work = AssertUnwindSafe((self.execute)(request)).catch_unwind();
        *self.in_progress.entry(quota).or_default() += 1;
        self.tasks.spawn(async move {
            let waited = tokio::select! {
                biased;
                () = changed(&mut privacy_on) => None,
                waited = wait(&mut before, not_before, deadline) => Some(waited),
            };
            let completion = match waited {
                None => Ok(Ok(Completion::Now(Err(SUPERSEDED.into())))),
                Some(Ok(())) => timeout_at(deadline, work).await,
                Some(Err(elapsed)) => Err(elapsed),
            };
            let completion = completion.map(|completion| {
                completion.unwrap_or_else(|panic| {
                    tracing::error!(command = name, panic = tasks::panic_message(&*panic), "a command panicked");
                    Completion::Now(Err("the board itself failed at it; its log says where".into()))
                })
            });
            if let (Some(done), Some(before)) = (done, before) {
                // The next command may have given up too.
                done.send(before).ok();
            }
            let completion = completion.unwrap_or_else(|_| Completion::Now(Err(too_late(limit))));
            Ended { id, name, only_reads, quota, completion }
        });
    }

    /// When it may start.
    fn not_before(&mut self, command: &Command) -> Option<Instant> {
        let Command::Privacy(wanted) = command else { return None };
        let now = Instant::now();
        let last = self.switched_at[usize::from(wanted.on)].replace(now)?;
        (now - last < BETWEEN_SWITCHES).then_some(now + BETWEEN_SWITCHES)
    }

    fn end(&mut self, ended: Ended) {
        let Ended { id, name, only_reads, quota, completion } = ended;
        self.joinable.retain(|_, joinable| joinable.id != id);
        let joined = self.joined.remove(&id).unwrap_or_default();
        if let Some(count) = self.in_progress.get_mut(&quota) {
            *count -= 1;
            if *count == 0 {
                self.in_progress.remove(&quota);
            }
        }
        let outcome = match completion {
            Completion::Now(Ok(result)) if only_reads => Outcome::answer(id.id.clone(), result),
            Completion::Now(Ok(result)) => Outcome::successful(id.id.clone(), result),
            Completion::Now(Err(reason)) => Outcome::failed(id.id.clone(), reason),
            Completion::AfterRestart => return self.recent.remove(&id),
        };
        if self.logged.allows(now()) {
            tracing::info!(
                id = id.id,
                command = name,
                origin = ?id.origin,
                status = ?outcome.status,
                reason = outcome.reason,
                joined = joined.len(),
                "a command has ended"
            );
        }
        for (id, sender) in joined {
            send(&[sender], &Outcome { id, ..outcome.clone() });
        }
        send(&self.recent.end(&id, &outcome), &outcome);
    }
}

/// Waits until the command may start. Afterwards `before` is `None` or, after a timeout, the predecessor that it still
/// waits for.
async fn wait(before: &mut Option<Predecessor>, not_before: Option<Instant>, deadline: Instant) -> Result<(), Elapsed> {
    while let Some(Predecessor(end)) = before {
        // Its sender is dropped, or sends another predecessor.
        *before = timeout_at(deadline, end).await?.ok();
    }
    if let Some(time) = not_before {
        sleep_until(time).await;
    }
    Ok(())
}

/// Completes when privacy is switched on; never for a command that does not depend on it.
async fn changed(privacy_on: &mut Option<watch::Receiver<()>>) {
    match privacy_on {
        Some(privacy_on) => _ = privacy_on.changed().await,
        None => std::future::pending().await,
    }
}

fn too_late(limit: Duration) -> String {
    format!("not done within {} s; `get-status` shows what became of it", limit.as_secs())
}

fn send(senders: &[mpsc::Sender<Outcome>], outcome: &Outcome) {
    for sender in senders {
        // A sender that is gone, or does not receive its outcomes, loses them; nothing waits for it.
        sender.try_send(outcome.clone()).ok();
    }
}

#[cfg(test)]
mod tests;
