//! The command queue: each [`Sender`] has a rate limit of its own and its turn in the queue, so that a flood takes
//! nothing from the others, and commands that an owner needs against a flood overtake all that wait.

mod fair;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::allowance::{Allowances, Lane};
use super::parse::{self, Parsed};
use super::{Origin, Outcome, Reply, Request, SenderId, TOO_MANY};
use crate::access::{Denied, Grant, Operation};
use crate::rate_limit::{Rate, RateLimit, now};
use fair::{Input, Output, fair_queue};

/// The rate of one sender: a program that sets up a board sends a dozen at once, a slider that is dragged ten a second.
const SENDER_RATE: Rate = Rate { burst: 20.0, per_second: 10.0 };

/// The rate of all senders of a [`SenderGroup`] together: four times [`SENDER_RATE`].
const GROUP_RATE: Rate = Rate { burst: 80.0, per_second: 40.0 };

/// The rate of refusals that one sender gets: each of a thousand that a program causes by mistake, and the rate of
/// [`SENDER_RATE`] from then on. An answer to each message of a flood would delay the answers to others.
const REFUSAL_RATE: Rate = Rate { burst: 1000.0, per_second: 10.0 };

/// The same for all senders of a [`SenderGroup`]: the rate of four. Names can be made up, each with refusals of its
/// own.
const GROUP_REFUSAL_RATE: Rate = Rate { burst: 4000.0, per_second: 40.0 };

/// Refusals after which a sender counts as flooding: a program that overestimated the board stops before, when it sees
/// the answers.
const FLOOD_RATE: Rate = Rate { burst: 100.0, per_second: 10.0 };

/// The longest command that is parsed although its sender has used up its allowance, to see whether it is urgent. An
/// urgent command has 100 bytes and a reason of 200 characters at most.
const MOST_URGENT_BYTES: usize = 1024;

/// The most urgent requests in the queue: more than come from the broker at once, where senders cannot be told apart.
/// One has a hundred bytes or two, and is done within a millisecond.
const MOST_URGENT_WAITING: usize = 1024;

/// The most names by which a group tells its senders apart. The allowance of a forgotten one begins again; the rate of
/// all of them together is bounded in any case.
const MOST_KNOWN: usize = 32;

/// Expectation of each lock.
const UNPOISONED: &str = "lock is never poisoned: no panic while held";

/// Accepts commands for execution. Clones share the queue.
#[derive(Clone, Debug)]
pub struct CommandQueue {
    ordinary: Input,
    urgent: Input,
    senders: Arc<AtomicU64>,
}

/// The receiving end of a [`CommandQueue`].
#[derive(Debug)]
pub struct Requests {
    ordinary: Output,
    urgent: Output,
}

/// A sender of commands: a connection, or one of the senders behind a topic, if they can be told apart.
#[derive(Debug)]
pub struct Sender {
    queue: CommandQueue,
    origin: Origin,
    grant: Grant,
    id: SenderId,
    own: Allowances,
    shared: Option<Arc<Mutex<SharedLimits>>>,
    refusals: RateLimit,
    excess: RateLimit,
    is_flooding: bool,
}

/// Rate limits of all senders of a [`SenderGroup`] together.
#[derive(Debug)]
struct SharedLimits {
    commands: RateLimit,
    refusals: RateLimit,
}

/// Senders on the same transport that are told apart by a name that they give.
#[derive(Debug)]
pub struct SenderGroup {
    queue: CommandQueue,
    origin: Origin,
    grant: Grant,
    shared: Arc<Mutex<SharedLimits>>,
    /// The most recent one is the last.
    known: VecDeque<(Option<String>, Sender)>,
}

impl CommandQueue {
    /// A queue, and its receiving end. At most `capacity` commands wait, not counting urgent ones; beyond that, the
    /// newest command of the sender with the most waiting commands fails.
    pub fn new(capacity: usize) -> (Self, Requests) {
        let (ordinary, ordinary_output) = fair_queue(capacity);
        let (urgent, urgent_output) = fair_queue(MOST_URGENT_WAITING);
        let requests = Requests { ordinary: ordinary_output, urgent: urgent_output };
        (Self { ordinary, urgent, senders: Arc::default() }, requests)
    }

    /// A new sender, whose commands arrive by `origin` and may do what `grant` allows.
    pub fn sender(&self, origin: Origin, grant: Grant) -> Sender {
        self.sender_of(origin, grant, None)
    }

    /// Senders behind one topic.
    pub fn sender_group(&self, origin: Origin, grant: Grant) -> SenderGroup {
        let shared = Arc::new(Mutex::new(SharedLimits {
            commands: RateLimit::new(GROUP_RATE),
            refusals: RateLimit::new(GROUP_REFUSAL_RATE),
        }));
        SenderGroup { queue: self.clone(), origin, grant, shared, known: VecDeque::new() }
    }

    fn sender_of(&self, origin: Origin, grant: Grant, shared: Option<Arc<Mutex<SharedLimits>>>) -> Sender {
        Sender {
            queue: self.clone(),
            origin,
            grant,
            id: SenderId(self.senders.fetch_add(1, Ordering::Relaxed)),
            own: Allowances::new(SENDER_RATE),
            shared,
            refusals: RateLimit::new(REFUSAL_RATE),
            excess: RateLimit::new(FLOOD_RATE),
            is_flooding: false,
        }
    }
}

impl Requests {
    /// The next request, urgent ones first, and the channel for its outcomes; `None` once all senders are gone.
    pub async fn next(&mut self) -> Option<(Request, mpsc::Sender<Outcome>)> {
        tokio::select! {
            biased;
            Some(request) = self.urgent.next() => Some(request),
            request = self.ordinary.next() => request,
        }
    }
}

impl Sender {
    /// Submits a command. Its outcomes are received until the last one, `successful` or `failed`; a command of a flood
    /// gets none.
    pub fn submit(&mut self, text: Bytes) -> mpsc::Receiver<Outcome> {
        self.submit_with_reply(text, None)
    }

    /// Submits a command whose outcomes go to another topic.
    pub fn submit_with_reply(&mut self, text: Bytes, reply: Option<Reply>) -> mpsc::Receiver<Outcome> {
        // `executing` and the last one.
        let (outcomes, receiver) = mpsc::channel(2);
        self.enqueue(&text, reply, outcomes);
        receiver
    }

    /// Submits a command whose outcomes go to a channel that this sender's commands share. Outcomes that find
    /// `outcomes` full are lost: it needs room for two of each command in progress.
    pub fn submit_to(&mut self, text: &[u8], outcomes: &mpsc::Sender<Outcome>) {
        self.enqueue(text, None, outcomes.clone());
    }

    /// Whether to report a mistake to the sender that was found before the command was submitted. It counts as a
    /// command.
    pub fn may_report_error(&mut self) -> bool {
        let accepts = self.accepts(Lane::Ordinary, now());
        if !accepts {
            self.count_refusal();
        }
        accepts
    }

    /// Whether it goes on sending far more than is accepted. A sender that is a connection is disconnected then.
    pub fn is_flooding(&self) -> bool {
        self.is_flooding
    }

    fn enqueue(&mut self, text: &[u8], reply: Option<Reply>, outcomes: mpsc::Sender<Outcome>) {
        let refused = match self.admit(text) {
            Ok(Parsed { id, command }) => {
                let input = if command.is_urgent() { &self.queue.urgent } else { &self.queue.ordinary };
                let (sender, origin, grant) = (self.id, self.origin, self.grant.clone());
                input.add((Request { id, command, sender, origin, grant, reply }, outcomes));
                return;
            }
            Err(Refusal::TooMany) => {
                self.count_refusal();
                if !self.may_answer_refusal(now()) {
                    return;
                }
                Outcome::failed(parse::id_of(text), TOO_MANY)
            }
            Err(Refusal::Denied(id, denied)) => {
                tracing::info!(id, origin = ?self.origin, %denied, "a command is not allowed to its sender");
                Outcome::failed(id, denied.to_string())
            }
            Err(Refusal::Invalid(rejection)) => {
                tracing::info!(id = rejection.id, origin = ?self.origin, "a command was not understood");
                tracing::debug!(reason = rejection.reason, "why the command was not understood");
                Outcome::failed(rejection.id, rejection.reason)
            }
        };
        // A sender that does not read its outcomes loses them.
        outcomes.try_send(refused).ok();
    }

    /// Parses commands within the allowance. A command that exceeds it is not even parsed, unless it may have an
    /// allowance of its own.
    fn admit(&mut self, text: &[u8]) -> Result<Parsed, Refusal> {
        let now = now();
        // A sender that may send no command at all learns nothing more about this one.
        if let Err(denied) = self.grant.allows(Operation::OpenCommands, now) {
            let accepts = self.accepts(Lane::Ordinary, now);
            return Err(if accepts { Refusal::Denied(parse::id_of(text), denied) } else { Refusal::TooMany });
        }
        if !may_be_urgent(text) {
            return if self.accepts(Lane::Ordinary, now) {
                self.authorize(parse::parse(text)?, now)
            } else {
                Err(Refusal::TooMany)
            };
        }
        let parsed = parse::parse(text);
        let lane = parsed.as_ref().map_or(Lane::Ordinary, |parsed| Lane::of(&parsed.command));
        if self.accepts(lane, now) { self.authorize(parsed?, now) } else { Err(Refusal::TooMany) }
    }

    fn authorize(&self, Parsed { id, command }: Parsed, now: Instant) -> Result<Parsed, Refusal> {
        match command.permitted(&self.grant, now) {
            Ok(command) => Ok(Parsed { id, command }),
            Err(denied) => Err(Refusal::Denied(id, denied)),
        }
    }

    /// Whether the allowances accept a command. A command beyond the sender's own allowance takes nothing from the
    /// others of its group.
    fn accepts(&mut self, lane: Lane, now: Instant) -> bool {
        let of_group = |shared: &Arc<Mutex<SharedLimits>>| shared.lock().expect(UNPOISONED).commands.allows(now);
        let accepts =
            self.is_unlimited(lane) || self.own.of(lane).allows(now) && self.shared.as_ref().is_none_or(of_group);
        if accepts && self.is_flooding && self.excess.is_full(now) {
            self.is_flooding = false;
        }
        accepts
    }

    /// Over a broker a flood cannot be distinguished from the owner, so a limit for it would limit the owner too.
    /// Urgent commands are cheap, and the same one is executed once for all senders.
    fn is_unlimited(&self, lane: Lane) -> bool {
        let is_connection = matches!(self.origin, Origin::WebSocket | Origin::DataChannel);
        !is_connection && !matches!(lane, Lane::Ordinary)
    }

    fn may_answer_refusal(&mut self, now: Instant) -> bool {
        let of_group = |shared: &Arc<Mutex<SharedLimits>>| shared.lock().expect(UNPOISONED).refusals.allows(now);
        self.refusals.allows(now) && self.shared.as_ref().is_none_or(of_group)
    }

    fn count_refusal(&mut self) {
        if !self.excess.allows(now()) && !self.is_flooding {
            self.is_flooding = true;
            tracing::warn!(origin = ?self.origin, "commands come far faster than they are accepted; most are dropped");
        }
    }
}

impl SenderGroup {
    /// The sender that gives itself this name.
    pub fn sender(&mut self, name: Option<&str>) -> &mut Sender {
        let at = self.known.iter().position(|(known, _)| known.as_deref() == name);
        let known = at.and_then(|at| self.known.remove(at)).unwrap_or_else(|| {
            let sender = self.queue.sender_of(self.origin, self.grant.clone(), Some(self.shared.clone()));
            (name.map(str::to_owned), sender)
        });
        if self.known.len() >= MOST_KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(known);
        let (_, sender) = self.known.back_mut().expect("one was just added");
        sender
    }
}

/// Why a command is not enqueued.
enum Refusal {
    TooMany,
    Denied(String, Denied),
    Invalid(parse::Rejection),
}

impl From<parse::Rejection> for Refusal {
    fn from(rejection: parse::Rejection) -> Self {
        Self::Invalid(rejection)
    }
}

fn may_be_urgent(text: &[u8]) -> bool {
    let contains = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    text.len() <= MOST_URGENT_BYTES && (contains(b"privacy") || contains(b"dismiss-viewer"))
}
