//! Where commands are handed in: each [`Sender`] has an allowance of its own and its turn in the queue, so that no flood
//! takes from the others, and what an owner needs against a flood passes all that waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::allowance::{Allowance, Allowances, Lane, Rate};
use super::parse::{self, Request};
use super::{HIDDEN, Origin, Outcome, STOPPING, TOO_MANY};
use crate::mqtt::Reply;

/// What one sender may send: a program that sets up a board sends a dozen at once, a slider that is dragged ten a
/// second.
const OF_ONE: Rate = Rate { burst: 20.0, per_second: 10.0 };

/// What all senders of a [`Crowd`] may send together: those of four that each use up their own.
const OF_A_CROWD: Rate = Rate { burst: 80.0, per_second: 40.0 };

/// Refusals that one sender is told: each of a thousand that a program sends by mistake, and the rate of [`OF_ONE`] from
/// then on. An answer to each message of a flood would fill the way that the answers to others take.
const REFUSALS: Rate = Rate { burst: 1000.0, per_second: 10.0 };

/// The same of all senders of a [`Crowd`]: those of four. Names can be made up, each with refusals of its own.
const REFUSALS_OF_A_CROWD: Rate = Rate { burst: 4000.0, per_second: 40.0 };

/// Refusals after which a sender floods: a program that took the board for faster stops before, at the answers.
const EXCESS: Rate = Rate { burst: 100.0, per_second: 10.0 };

/// The longest command that is looked at although its sender has used up its allowance, to see whether it is one that
/// does not wait. Both have 100 bytes and a reason of 200 characters at most.
const MOST_URGENT: usize = 1024;

/// The orders that do not wait which may be in the queue: more than come by the broker at once, where their senders cannot
/// be told apart. One has a hundred bytes or two, and is gone within a millisecond.
const MOST_URGENT_WAITING: usize = 1024;

/// Names by which a crowd tells its senders apart. Of one that is forgotten the allowance begins again; what all of
/// them send together is bounded in any case.
const MOST_KNOWN: usize = 32;

/// Where commands are handed in. A clone is the same desk.
#[derive(Clone, Debug)]
pub struct Desk {
    ordinary: Entrance,
    urgent: Entrance,
    senders: Arc<AtomicU64>,
}

/// What was handed in at a [`Desk`].
#[derive(Debug)]
pub struct Orders {
    ordinary: Exit,
    urgent: Exit,
}

/// A command on its way to be carried out.
#[derive(Debug)]
pub struct Order {
    /// What is wanted.
    pub request: Request,
    /// Who wants it.
    pub sender: SenderId,
    /// The way it came.
    pub origin: Origin,
    /// Where an answer is wanted over MQTT, kept through a restart; `None` for the usual topic or another way in.
    pub reply: Option<Reply>,
    /// Takes each outcome.
    pub outcomes: mpsc::Sender<Outcome>,
}

/// Tells senders apart for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenderId(u64);

/// Somebody who sends commands: a connection, or what can be told apart of those behind a topic.
#[derive(Debug)]
pub struct Sender {
    desk: Desk,
    origin: Origin,
    id: SenderId,
    own: Allowances,
    common: Option<Arc<Mutex<Common>>>,
    refusals: Allowance,
    excess: Allowance,
    is_flooding: bool,
}

/// What all senders of a [`Crowd`] share.
#[derive(Debug)]
struct Common {
    allowance: Allowance,
    refusals: Allowance,
}

/// Senders that come by one way and can be told apart by a name that they give.
#[derive(Debug)]
pub struct Crowd {
    desk: Desk,
    origin: Origin,
    common: Arc<Mutex<Common>>,
    /// The one that was heard last is the last.
    known: VecDeque<(Option<String>, Sender)>,
}

impl Desk {
    /// A desk, and where its orders come out. At most `waiting` wait, but for those that do not wait for others; beyond, the
    /// newest of the sender that has most waiting fails.
    pub fn new(waiting: usize) -> (Self, Orders) {
        let (ordinary, ordinary_exit) = queue(waiting);
        let (urgent, urgent_exit) = queue(MOST_URGENT_WAITING);
        let orders = Orders { ordinary: ordinary_exit, urgent: urgent_exit };
        (Self { ordinary, urgent, senders: Arc::default() }, orders)
    }

    /// Another sender, whose commands come by `origin`.
    pub fn sender(&self, origin: Origin) -> Sender {
        self.sender_of(origin, None)
    }

    /// Senders behind one topic.
    pub fn crowd(&self, origin: Origin) -> Crowd {
        let common = Arc::new(Mutex::new(Common {
            allowance: Allowance::new(OF_A_CROWD),
            refusals: Allowance::new(REFUSALS_OF_A_CROWD),
        }));
        Crowd { desk: self.clone(), origin, common, known: VecDeque::new() }
    }

    fn sender_of(&self, origin: Origin, common: Option<Arc<Mutex<Common>>>) -> Sender {
        Sender {
            desk: self.clone(),
            origin,
            id: SenderId(self.senders.fetch_add(1, Ordering::Relaxed)),
            own: Allowances::new(OF_ONE),
            common,
            refusals: Allowance::new(REFUSALS),
            excess: Allowance::new(EXCESS),
            is_flooding: false,
        }
    }
}

impl Orders {
    /// The next one, those first that do not wait; `None` once nobody can hand in any more.
    pub async fn next(&mut self) -> Option<Order> {
        tokio::select! {
            biased;
            Some(order) = self.urgent.next() => Some(order),
            order = self.ordinary.next() => order,
        }
    }
}

impl Sender {
    /// Hands in a command. Its outcomes come until the last one, `successful` or `failed`; none comes to one of a flood.
    pub fn hand_in(&mut self, text: Bytes) -> mpsc::Receiver<Outcome> {
        self.hand_in_for(text, None)
    }

    /// The same for one whose answer is wanted at another topic.
    pub fn hand_in_for(&mut self, text: Bytes, reply: Option<Reply>) -> mpsc::Receiver<Outcome> {
        // `executing` and the last one.
        let (outcomes, coming) = mpsc::channel(2);
        self.put(&text, reply, outcomes);
        coming
    }

    /// The same where all outcomes for this sender come together. Those that find `outcomes` full are lost: it needs
    /// room for two of each command under way.
    pub fn hand_in_among(&mut self, text: &[u8], outcomes: &mpsc::Sender<Outcome>) {
        self.put(text, None, outcomes.clone());
    }

    /// Whether the sender may be told of a mistake that is seen before it comes here. It counts as a command.
    pub fn may_be_told(&mut self) -> bool {
        let takes = self.takes(Lane::Ordinary, Instant::now());
        if !takes {
            self.note_refusal();
        }
        takes
    }

    /// Whether it goes on sending far more than is taken of it. Where the sender is a connection, that is ended.
    pub fn is_flooding(&self) -> bool {
        self.is_flooding
    }

    fn put(&mut self, text: &[u8], reply: Option<Reply>, outcomes: mpsc::Sender<Outcome>) {
        let refused = match self.admit(text) {
            Ok(request) => {
                let lane = if request.command.is_urgent() { &self.desk.urgent } else { &self.desk.ordinary };
                let order = Order { request, sender: self.id, origin: self.origin, reply, outcomes: outcomes.clone() };
                lane.put(order);
                return;
            }
            Err(Refused::TooMany) => {
                self.note_refusal();
                if !self.may_be_refused_aloud(Instant::now()) {
                    return;
                }
                Outcome::failed(parse::id_of(text), TOO_MANY)
            }
            Err(Refused::Wrong(rejection)) => {
                tracing::info!(id = rejection.id, origin = ?self.origin, "a command was not understood");
                tracing::debug!(reason = rejection.reason, "what is wrong with it");
                Outcome::failed(rejection.id, rejection.reason)
            }
        };
        // Who does not take its outcomes loses them.
        outcomes.try_send(refused).ok();
    }

    /// Reads what is within the allowance. What exceeds it is not even read, unless it may be a command that has an
    /// allowance of its own.
    fn admit(&mut self, text: &[u8]) -> Result<Request, Refused> {
        let now = Instant::now();
        if !may_be_urgent(text) {
            return if self.takes(Lane::Ordinary, now) { Ok(parse::parse(text)?) } else { Err(Refused::TooMany) };
        }
        let read = parse::parse(text);
        let lane = read.as_ref().map_or(Lane::Ordinary, |request| Lane::of(&request.command));
        if self.takes(lane, now) { Ok(read?) } else { Err(Refused::TooMany) }
    }

    /// What a sender may not send takes nothing from the others of its crowd.
    fn takes(&mut self, lane: Lane, now: Instant) -> bool {
        let of_all = |common: &Arc<Mutex<Common>>| common.lock().expect(UNPOISONED).allowance.is_within(now);
        let takes =
            self.is_not_counted(lane) || self.own.of(lane).is_within(now) && self.common.as_ref().is_none_or(of_all);
        if takes && self.is_flooding && self.excess.is_full(now) {
            self.is_flooding = false;
        }
        takes
    }

    /// By a broker a flood cannot be told from the owner, so that a limit for it would be one for him. What passes all that
    /// waits is cheap, and the same is carried out once for all who want it.
    fn is_not_counted(&self, lane: Lane) -> bool {
        let is_told_apart = matches!(self.origin, Origin::WebSocket | Origin::DataChannel);
        !is_told_apart && !matches!(lane, Lane::Ordinary)
    }

    fn may_be_refused_aloud(&mut self, now: Instant) -> bool {
        let of_all = |common: &Arc<Mutex<Common>>| common.lock().expect(UNPOISONED).refusals.is_within(now);
        self.refusals.is_within(now) && self.common.as_ref().is_none_or(of_all)
    }

    fn note_refusal(&mut self) {
        if !self.excess.is_within(Instant::now()) && !self.is_flooding {
            self.is_flooding = true;
            tracing::warn!(origin = ?self.origin, "commands come far faster than they are taken; most are left out");
        }
    }
}

/// A queue in which each sender has its turn, and its two ends.
fn queue(most: usize) -> (Entrance, Exit) {
    let waiting = Arc::new(Mutex::new(Waiting { most, count: 0, senders: VecDeque::new() }));
    let (arrivals, arrived) = mpsc::unbounded_channel();
    (Entrance { waiting: waiting.clone(), arrivals }, Exit { waiting, arrived })
}

#[derive(Clone, Debug)]
struct Entrance {
    waiting: Arc<Mutex<Waiting>>,
    /// One for each order that waits, at least.
    arrivals: mpsc::UnboundedSender<()>,
}

impl Entrance {
    /// Puts an order in. Those that have no place, or will not be looked at any more, are told so.
    fn put(&self, order: Order) {
        let refused = if self.arrivals.is_closed() {
            vec![(order, STOPPING)]
        } else {
            let mut waiting = self.waiting.lock().expect(UNPOISONED);
            let before = waiting.count;
            let refused = waiting.put(order);
            // Where it has closed since, the order goes with the queue.
            (before..waiting.count).for_each(|_| self.arrivals.send(()).unwrap_or_default());
            refused
        };
        for (Order { request, outcomes, .. }, reason) in refused {
            // Who does not take its outcomes loses them.
            outcomes.try_send(Outcome::failed(request.id, reason)).ok();
        }
    }
}

#[derive(Debug)]
struct Exit {
    waiting: Arc<Mutex<Waiting>>,
    arrived: mpsc::UnboundedReceiver<()>,
}

impl Exit {
    /// `None` once nobody can put anything in any more.
    async fn next(&mut self) -> Option<Order> {
        loop {
            self.arrived.recv().await?;
            let next = self.waiting.lock().expect(UNPOISONED).take();
            // The one that arrived may have been given up since.
            if next.is_some() {
                return next;
            }
        }
    }
}

impl Drop for Exit {
    /// Nobody looks at what waits any more, and its senders are not to wait for it.
    fn drop(&mut self) {
        self.arrived.close();
        self.waiting.lock().expect(UNPOISONED).senders.clear();
    }
}

/// Orders that wait, of each sender in the order in which they came.
#[derive(Debug)]
struct Waiting {
    most: usize,
    count: usize,
    /// The sender whose turn it is comes first. None has nothing waiting.
    senders: VecDeque<(SenderId, VecDeque<Order>)>,
}

impl Waiting {
    /// Gives those that have no place now, and why: the order itself, or the newest of the sender that has most.
    fn put(&mut self, order: Order) -> Vec<(Order, &'static str)> {
        let mut given_up = Vec::new();
        if order.request.command.hides() {
            for (_, orders) in &mut self.senders {
                let is_passed = |waiting: &Order| waiting.request.command.shows();
                let (passed, rest) = std::mem::take(orders).into_iter().partition::<VecDeque<_>, _>(is_passed);
                *orders = rest;
                given_up.extend(passed.into_iter().map(|order| (order, HIDDEN)));
            }
            self.senders.retain(|(_, orders)| !orders.is_empty());
            self.count -= given_up.len();
        }
        let own = self.senders.iter().find(|(id, _)| *id == order.sender).map_or(0, |(_, orders)| orders.len());
        if self.count >= self.most {
            let longest = self.senders.iter_mut().map(|(_, orders)| orders).max_by_key(|orders| orders.len());
            let Some(newest) = longest.filter(|orders| orders.len() > own + 1).and_then(VecDeque::pop_back) else {
                given_up.push((order, TOO_MANY));
                return given_up;
            };
            self.count -= 1;
            given_up.push((newest, TOO_MANY));
        }
        self.count += 1;
        match self.senders.iter_mut().find(|(id, _)| *id == order.sender) {
            Some((_, orders)) => orders.push_back(order),
            None => self.senders.push_back((order.sender, VecDeque::from([order]))),
        }
        given_up
    }

    fn take(&mut self) -> Option<Order> {
        let (sender, mut orders) = self.senders.pop_front()?;
        let order = orders.pop_front()?;
        self.count -= 1;
        if !orders.is_empty() {
            self.senders.push_back((sender, orders));
        }
        Some(order)
    }
}

const UNPOISONED: &str = "lock is never poisoned: no panic while held";

impl Crowd {
    /// The one that gives itself this name.
    pub fn sender(&mut self, name: Option<&str>) -> &mut Sender {
        let at = self.known.iter().position(|(known, _)| known.as_deref() == name);
        let known = at.and_then(|at| self.known.remove(at)).unwrap_or_else(|| {
            let sender = self.desk.sender_of(self.origin, Some(self.common.clone()));
            (name.map(str::to_owned), sender)
        });
        if self.known.len() >= MOST_KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(known);
        let (_, sender) = self.known.back_mut().expect("one was just put there");
        sender
    }
}

/// Why a command does not become an order.
enum Refused {
    TooMany,
    Wrong(parse::Rejection),
}

impl From<parse::Rejection> for Refused {
    fn from(rejection: parse::Rejection) -> Self {
        Self::Wrong(rejection)
    }
}

fn may_be_urgent(text: &[u8]) -> bool {
    let names = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    text.len() <= MOST_URGENT && (names(b"privacy") || names(b"dismiss-viewer"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn text(id: usize, rest: &str) -> Bytes {
        format!(r#"{{"id":"{id}",{rest}}}"#).into()
    }

    fn status(id: usize) -> Bytes {
        text(id, r#""command":"get-status""#)
    }

    fn privacy(id: usize) -> Bytes {
        text(id, r#""command":"privacy","args":{"on":true}"#)
    }

    /// How many of `number` commands are taken, of which `orders` are read as they come.
    fn taken(sender: &mut Sender, orders: &mut Orders, number: usize, command: fn(usize) -> Bytes) -> usize {
        let mut taken = 0;
        for id in 0..number {
            sender.hand_in(command(id));
            while orders.ordinary.next().now_or_never().flatten().is_some()
                || orders.urgent.next().now_or_never().flatten().is_some()
            {
                taken += 1;
            }
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn each_sender_has_an_allowance_that_a_flood_of_another_takes_nothing_from() {
        let (desk, mut orders) = Desk::new(8);
        let [mut flood, mut owner] = [Origin::WebSocket; 2].map(|origin| desk.sender(origin));
        assert_eq!(taken(&mut flood, &mut orders, 5000, status), 20);
        assert_eq!(taken(&mut owner, &mut orders, 20, status), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&mut flood, &mut orders, 5000, status), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_flood_fills_the_queue_another_has_its_place_and_its_turn() {
        let (desk, mut orders) = Desk::new(8);
        let [mut flood, mut owner] = [Origin::WebSocket; 2].map(|origin| desk.sender(origin));
        let mut flooded: Vec<_> = (0..8).map(|id| flood.hand_in(status(id))).collect();
        let mut asked = owner.hand_in(status(100));
        assert_eq!(flooded[7].try_recv().unwrap(), Outcome::failed("7".to_owned(), TOO_MANY));
        assert!(flooded[6].try_recv().is_err() && asked.try_recv().is_err());
        let mut refused = flood.hand_in(status(8));
        assert_eq!(refused.try_recv().unwrap(), Outcome::failed("8".to_owned(), TOO_MANY));
        for expected in ["0", "100", "1", "2"] {
            assert_eq!(orders.next().await.unwrap().request.id, expected);
        }
        // Of senders that have no more than the one who comes, none gives way.
        let (desk, _orders) = Desk::new(2);
        let waiting: Vec<_> = (0..2).map(|id| desk.sender(Origin::WebSocket).hand_in(status(id))).collect();
        assert!(desk.sender(Origin::WebSocket).hand_in(status(3)).try_recv().is_ok());
        drop(waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn privacy_passes_what_waits_and_the_flood_of_its_own_sender() {
        let (desk, mut orders) = Desk::new(8);
        let mut sender = desk.sender(Origin::Broker);
        for id in 0..5000 {
            sender.hand_in(status(id));
        }
        sender.hand_in(text(5000, r#""command":"dismiss-viewer","args":{"viewer":"3f2a90c1"}"#));
        sender.hand_in(privacy(5001));
        for expected in ["5000", "5001", "0", "1"] {
            assert_eq!(orders.next().await.unwrap().request.id, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn privacy_has_an_allowance_too_and_the_word_alone_is_no_way_past_the_other() {
        let (desk, mut orders) = Desk::new(8);
        let mut sender = desk.sender(Origin::DataChannel);
        assert_eq!(taken(&mut sender, &mut orders, 5000, privacy), 20);
        let named_so = |id| text(id, r#""command":"set-log-level","args":{"level":"privacy"}"#);
        assert_eq!(taken(&mut sender, &mut orders, 5000, named_so), 20);
        let mut owner = desk.sender(Origin::Broker);
        assert_eq!(taken(&mut owner, &mut orders, 1, privacy), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn privacy_is_switched_on_beside_a_flood_of_made_up_senders_that_switch_it_off() {
        let (desk, mut orders) = Desk::new(8);
        let mut crowd = desk.crowd(Origin::Broker);
        let shown = |id: usize| text(id, r#""command":"privacy","args":{"on":false}"#);
        for round in 0..50 {
            for name in 0..200 {
                crowd.sender(Some(&format!("replies/{name}"))).hand_in(shown(name));
            }
            let mut owner = crowd.sender(Some("replies/owner")).hand_in(privacy(1000 + round));
            assert!(owner.try_recv().is_err(), "round {round}: it is not refused");
            let next = orders.next().await.unwrap();
            assert_eq!(next.request.id, (1000 + round).to_string(), "it takes the place of those that wait");
            assert!(orders.next().now_or_never().is_none());
            tokio::time::advance(Duration::from_millis(50)).await;
        }
    }

    /// Senders with response topics that are made up, and the one of all who name none.
    #[tokio::test(start_paused = true)]
    async fn by_a_broker_nothing_that_does_not_wait_is_refused_beside_a_flood_of_the_same() {
        let shown = |id| text(id, r#""command":"privacy","args":{"on":false}"#);
        let dismiss = |id| text(id, r#""command":"dismiss-viewer","args":{"viewer":"3f2a90c1"}"#);
        for command in [shown, dismiss, privacy as fn(usize) -> Bytes] {
            let (desk, mut orders) = Desk::new(8);
            let mut crowd = desk.crowd(Origin::Broker);
            for id in 0..5000 {
                let made_up = format!("replies/{id}");
                let name = (id % 2 == 0).then_some(made_up.as_str());
                assert_eq!(taken(crowd.sender(name), &mut orders, 1, command), 1, "{id}");
                tokio::task::yield_now().await;
            }
            assert_eq!(taken(&mut desk.sender(Origin::HomeAutomation), &mut orders, 100, command), 100);
            tokio::task::yield_now().await;
            assert_eq!(taken(&mut desk.sender(Origin::DataChannel), &mut orders, 5000, command), 20);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_senders_are_not_told_of_each_refusal_for_ever() {
        let (desk, _orders) = Desk::new(64);
        let mut crowd = desk.crowd(Origin::Broker);
        let mut told = 0;
        for id in 0..10_000 {
            told += usize::from(crowd.sender(Some(&id.to_string())).hand_in(status(id)).try_recv().is_ok());
        }
        // Those of the crowd's allowance that find no place in the queue are told too.
        assert!((4000..4100).contains(&told), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_passed_by_privacy_is_told_so() {
        let (desk, _orders) = Desk::new(8);
        let mut sender = desk.sender(Origin::Broker);
        let mut passed = sender.hand_in(text(1, r#""command":"privacy","args":{"on":false}"#));
        let mut hides = sender.hand_in(privacy(2));
        assert_eq!(passed.try_recv().unwrap(), Outcome::failed("1", HIDDEN));
        assert!(hides.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn senders_behind_one_topic_are_told_apart_by_name_and_bounded_together() {
        let (desk, mut orders) = Desk::new(8);
        let mut crowd = desk.crowd(Origin::Broker);
        assert_eq!(taken(crowd.sender(None), &mut orders, 5000, status), 20);
        assert_eq!(taken(crowd.sender(Some("replies/owner")), &mut orders, 8, status), 8);
        assert_eq!(taken(crowd.sender(None), &mut orders, 10, status), 0, "it is known again");
        let by_many: usize =
            (0..5000).map(|name| taken(crowd.sender(Some(&name.to_string())), &mut orders, 1, status)).sum();
        assert_eq!(by_many, 80 - 28);
        assert_eq!(taken(crowd.sender(Some("another")), &mut orders, 1, privacy), 1);
        assert_eq!(crowd.known.len(), MOST_KNOWN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_noticed_and_not_answered_for_ever_until_its_sender_has_calmed_down() {
        let (desk, _orders) = Desk::new(64);
        let mut sender = desk.sender(Origin::WebSocket);
        let told = |sender: &mut Sender, number: usize| -> usize {
            (0..number).filter(|id| sender.hand_in(status(*id)).try_recv().is_ok()).count()
        };
        assert_eq!(told(&mut sender, 20 + 99), 99);
        assert!(!sender.is_flooding());
        assert_eq!(told(&mut sender, 10_000), 901);
        assert!(sender.is_flooding());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(told(&mut sender, 1), 0, "it is taken");
        assert!(!sender.is_flooding());
    }
}
