//! The task that keeps the connection: connects, subscribes, publishes, checks, and begins anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::check::{SelfCheck, Verdict};
use super::config::Config;
use super::outage::Outage;
use super::outbox::{Item, Once, Outbox, packet_size};
use super::pauses::{Clocks, Pauses};
use super::subscriptions::Subscriptions;
use super::topics::Topics;
use super::url::Url;
use super::wire::{Dial, Event, Failure, Fate, Kind, Line, OFFLINE, ONLINE};
use super::{MOST_BYTES, Message, Order, State, tls};
use crate::tasks::Group;

/// A connection that has lasted this long was a good one: the next attempt after its end comes soon.
const SETTLED: Duration = Duration::from_secs(10);

/// How often a pause looks whether the clock was set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the broker may take from its acceptance of us to that of our subscriptions.
const SUBSCRIBING: Duration = Duration::from_secs(5);

/// How long the goodbye may take: what is waiting, `offline`, and its acknowledgement.
const GOODBYE: Duration = Duration::from_secs(1);

/// Owns the connection.
pub struct Actor {
    pub config: Config,
    pub url: Url,
    pub client_id: String,
    pub topics: Topics,
    pub orders: mpsc::UnboundedReceiver<Order>,
    pub state: watch::Sender<State>,
    pub group: Group,
    pub outbox: Outbox,
    pub subscriptions: Subscriptions,
    pub outage: Outage,
    /// Read anew after a refusal: a file may be another one by then.
    pub tls: Option<Arc<ClientConfig>>,
    /// Whether it was said that messages to oneself do not come back.
    pub has_warned_of_check: bool,
}

/// How a connection ended.
enum End {
    /// We said goodbye, or were told to stop before there was somebody to say it to.
    Stopped,
    /// It failed, after having been online for this long.
    Failed(Failure, Option<Duration>),
}

/// What belongs to one connection.
struct Session {
    line: Line,
    /// Filters of subscriptions that the broker has not answered, in their order.
    asked: std::collections::VecDeque<Vec<String>>,
    window: usize,
    most_bytes: usize,
    /// Since when the broker has accepted us.
    accepted: Option<Instant>,
    /// Since when it has accepted our subscriptions.
    online: Option<Instant>,
    check: SelfCheck,
    /// Whether it was said that the broker does not pass on what is published.
    has_warned_of_refusal: bool,
}

impl Actor {
    /// Runs until the group stops.
    pub async fn run(mut self) {
        self.outbox.keep(self.topics.availability(), ONLINE.into());
        let mut pauses = Pauses::default();
        loop {
            match self.connection().await {
                End::Stopped => break,
                End::Failed(failure, online) => {
                    if online.is_some_and(|span| span > SETTLED) {
                        pauses = Pauses::default();
                    }
                    self.tell_of(&failure);
                    if failure.kind != Kind::Away {
                        self.tls = None;
                    }
                    let pause = pauses.after(failure.kind);
                    tracing::debug!(reason = failure.reason, pause_ms = pause.as_millis() as u64, "trying again soon");
                    if !self.pause(pause, &mut pauses).await {
                        break;
                    }
                }
            }
        }
        self.state.send_replace(State::Connecting);
    }

    /// One connection, from dialling to its end.
    async fn connection(&mut self) -> End {
        let line = match self.dial().await {
            Ok(line) => line,
            Err(failure) => return End::Failed(failure, None),
        };
        let mut session = Session {
            line,
            asked: std::collections::VecDeque::new(),
            window: 0,
            most_bytes: MOST_BYTES,
            accepted: None,
            online: None,
            check: SelfCheck::new(self.config.keep_alive(), Instant::now()),
            has_warned_of_refusal: false,
        };
        let group = self.group.clone();
        loop {
            let deadline = session.deadline();
            let ended = tokio::select! {
                () = group.stopped() => {
                    self.say_goodbye(&mut session).await;
                    return End::Stopped;
                }
                event = session.line.next() => match event {
                    Ok(event) => self.take(event, &mut session),
                    Err(failure) => Err(failure),
                },
                Some(order) = self.orders.recv() => {
                    self.obey(order, Some(&mut session));
                    Ok(())
                }
                () = sleep_until(deadline.into()), if session.accepted.is_some() => {
                    self.look(&mut session)
                }
            };
            if let Err(failure) = ended {
                return End::Failed(failure, session.online.map(|since| since.elapsed()));
            }
            self.hand_over(&mut session);
        }
    }

    async fn dial(&mut self) -> Result<Line, Failure> {
        if self.url.scheme().is_encrypted() && self.tls.is_none() {
            let config = self.config.clone();
            // Reads some hundred certificates.
            let loaded = tokio::task::spawn_blocking(move || tls::load(&config)).await;
            let loaded = loaded.unwrap_or_else(|_| Err("what TLS needs could not be read".into()));
            self.tls = Some(loaded.map_err(Failure::refused)?);
        }
        let will = self.topics.availability();
        let Self { config, url, client_id, tls, .. } = self;
        Ok(Line::dial(&Dial { config, url, client_id, will: Some(&will), tls: tls.clone() }))
    }

    /// Takes what happened on the line.
    fn take(&mut self, event: Event, session: &mut Session) -> Result<(), Failure> {
        let now = Instant::now();
        session.check.heard(now);
        match event {
            Event::Accepted { window, most_bytes } => {
                session.accepted = Some(now);
                session.window = window;
                session.most_bytes = most_bytes.unwrap_or(MOST_BYTES).min(MOST_BYTES);
                let own = self.topics.self_check();
                let filters = std::iter::once(own.as_str()).chain(self.subscriptions.filters());
                let filters: Vec<_> = filters.map(str::to_owned).collect();
                session.ask(filters)?;
            }
            Event::Granted(granted) => {
                for (filter, _) in session.asked.pop_front().iter().flatten().zip(&granted).filter(|(_, is)| !**is) {
                    tracing::warn!(filter, "the broker's access list does not allow this subscription");
                }
                if session.online.is_none() {
                    session.online = Some(now);
                    session.check = SelfCheck::new(self.config.keep_alive(), now);
                    self.now_online();
                }
            }
            Event::Sent(number) => self.outbox.sent(number),
            Event::Acknowledged { number, refusal } => {
                let item = self.outbox.acknowledged(number);
                if let Some(Item::Check(_)) = item {
                    session.check.acknowledged(now);
                }
                if let (Some(reason), Some(item)) = (refusal, item) {
                    session.tell_of_refusal(&item, &reason, &self.topics);
                }
            }
            Event::Came(message) => self.came(message, session),
            Event::Alive | Event::Ended => {}
        }
        Ok(())
    }

    fn now_online(&mut self) {
        self.outbox.start_over(&self.topics.availability());
        let dropped = self.outbox.take_dropped();
        if self.outage.ended(Instant::now()) {
            tracing::info!(broker = %self.url, dropped, "connected to the broker");
        }
        self.state.send_replace(State::Online);
    }

    fn came(&mut self, message: Message, session: &mut Session) {
        if message.topic == self.topics.self_check() {
            if session.check.came(&message.payload, Instant::now()) {
                self.has_warned_of_check = false;
            }
            return;
        }
        tracing::trace!(topic = message.topic, bytes = message.payload.len(), "a message came");
        self.subscriptions.give(&message);
    }

    /// Does what the handles want.
    fn obey(&mut self, order: Order, session: Option<&mut Session>) {
        match order {
            Order::Publish { topic, payload, correlation } => {
                if fits(&topic, &payload, correlation.as_ref(), MOST_BYTES) {
                    self.outbox.say(Once { topic, payload, correlation, since: Instant::now() });
                }
            }
            Order::Retain { topic, payload } => {
                if fits(&topic, &payload, None, MOST_BYTES) {
                    self.outbox.keep(topic, payload);
                }
            }
            Order::Subscribe { filter, messages } => {
                // One before the broker has taken us is asked for with all others then.
                if let Some(session) = session.filter(|session| session.accepted.is_some())
                    && session.ask(vec![filter.clone()]).is_err()
                {
                    tracing::warn!(filter, "too many subscriptions at once; this one begins with the next connection");
                }
                self.subscriptions.add(filter, messages);
            }
        }
    }

    /// Hands over what may go out.
    fn hand_over(&mut self, session: &mut Session) {
        if session.online.is_none() {
            return;
        }
        while let Some(item) = self.outbox.next(session.window) {
            let own;
            let kept;
            let (topic, payload, fate, correlation) = match &item {
                Item::Once(once) => (&once.topic, &once.payload, Fate::PassedOn, once.correlation.as_ref()),
                Item::Kept(topic) => {
                    kept = self.outbox.value(topic);
                    (topic, &kept, Fate::Kept, None)
                }
                Item::Check(payload) => {
                    own = self.topics.self_check();
                    (&own, payload, Fate::PassedOn, None)
                }
            };
            if !fits(topic, payload, correlation, session.most_bytes) {
                continue;
            }
            match session.line.publish(topic, payload, fate, correlation) {
                Ok(()) => self.outbox.handed(item),
                Err(_) => {
                    self.outbox.not_taken(item);
                    break;
                }
            }
        }
    }

    /// Looks whether the connection is still good for something.
    fn look(&mut self, session: &mut Session) -> Result<(), Failure> {
        if session.online.is_none() {
            let is_late = Instant::now() >= session.deadline();
            return if is_late { Err(Failure::away("the broker does not answer a subscription")) } else { Ok(()) };
        }
        match session.check.look(Instant::now()) {
            Verdict::Fine => Ok(()),
            Verdict::Send(payload) => {
                self.outbox.check(payload);
                Ok(())
            }
            Verdict::Deaf => Err(Failure::away("the connection is deaf: a message to ourselves did not come back")),
            Verdict::Silent => Err(Failure::away("nothing comes from the broker any more")),
            Verdict::NotGiven => {
                if !std::mem::replace(&mut self.has_warned_of_check, true) {
                    tracing::warn!(
                        topic = self.topics.self_check(),
                        "a message to ourselves did not come back; does the broker's access list let this device \
                         read and write the topic? Without it a deaf connection is not noticed"
                    );
                }
                Ok(())
            }
        }
    }

    /// Tells of a failed attempt, if that is news.
    fn tell_of(&mut self, failure: &Failure) {
        if self.outage.failed(failure, Instant::now()) {
            tracing::warn!(broker = %self.url, reason = failure.reason, "no connection to the broker");
        }
        let now = State::Offline { reason: failure.reason.clone() };
        self.state.send_if_modified(|before| {
            let is_news = *before != now;
            *before = now;
            is_news
        });
    }

    /// Waits before the next attempt. Returns whether there is to be one.
    async fn pause(&mut self, pause: Duration, pauses: &mut Pauses) -> bool {
        let (group, end) = (self.group.clone(), Instant::now() + pause);
        let mut clocks = Clocks::read();
        while Instant::now() < end {
            let next = end.min(Instant::now() + CLOCK_INTERVAL);
            tokio::select! {
                () = group.stopped() => return false,
                Some(order) = self.orders.recv() => self.obey(order, None),
                () = sleep_until(next.into()) => {}
            }
            let now = Clocks::read();
            if clocks.were_set_before(now) {
                tracing::debug!("the clock was set: trying the broker at once");
                *pauses = Pauses::default();
                return true;
            }
            clocks = now;
        }
        !group.is_stopped()
    }

    /// Publishes what is waiting and `offline`, and disconnects; the last will is not published then.
    async fn say_goodbye(&mut self, session: &mut Session) {
        if session.online.is_none() {
            return;
        }
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order, Some(&mut *session));
        }
        self.outbox.keep(self.topics.availability(), OFFLINE.into());
        let said = timeout(GOODBYE, async {
            let mut has_hung_up = false;
            loop {
                self.hand_over(session);
                if self.outbox.is_empty() && !has_hung_up {
                    has_hung_up = session.line.hang_up().is_ok();
                }
                match session.line.next().await? {
                    Event::Ended => return Ok::<(), Failure>(()),
                    event => self.take(event, session)?,
                }
            }
        });
        if !matches!(said.await, Ok(Ok(()))) {
            tracing::debug!("the broker did not hear our goodbye");
        }
    }
}

impl Session {
    /// When to look whether it is still good for something.
    fn deadline(&self) -> Instant {
        match (self.accepted, self.online) {
            (Some(accepted), None) => accepted + SUBSCRIBING,
            _ => self.check.deadline(),
        }
    }

    fn ask(&mut self, filters: Vec<String>) -> Result<(), Failure> {
        let too_many = |_| Failure::away("the MQTT client takes no more subscriptions");
        self.line.subscribe(&filters).map_err(too_many)?;
        self.asked.push_back(filters);
        Ok(())
    }

    fn tell_of_refusal(&mut self, item: &Item, reason: &str, topics: &Topics) {
        let topic = match item {
            Item::Once(once) => once.topic.clone(),
            Item::Kept(topic) => topic.clone(),
            // It is told of where it does not come back.
            Item::Check(_) => return,
        };
        if !std::mem::replace(&mut self.has_warned_of_refusal, true) {
            let own = topics.availability();
            tracing::warn!(topic, reason, own, "the broker does not pass on what is published");
        }
    }
}

/// Whether a packet may be that large; a larger one would cost the connection.
fn fits(topic: &str, payload: &Bytes, correlation: Option<&Bytes>, most: usize) -> bool {
    let bytes = packet_size(topic, payload, correlation);
    if bytes > most {
        tracing::warn!(topic, bytes, most, "too large a message for the broker; it is not published");
    }
    bytes <= most
}
