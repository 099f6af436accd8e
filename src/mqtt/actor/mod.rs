//! The task that keeps the connection: connects, subscribes, publishes, checks, and begins again.

mod learning;
mod publishing;

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};

use super::check::Verdict;
use super::config::Config;
use super::credentials::Credentials;
use super::limits::Limits;
use super::outage::Outage;
use super::outbox::Outbox;
use super::pauses::{Clocks, Pauses};
use super::reach::{Reached, reach};
use super::rivals::Rivals;
use super::session::Session;
use super::subscriptions::Subscriptions;
use super::suspects::{Open, Request, Suspects};
use super::terms::Terms;
use super::topics::Topics;
use super::url::Url;
use super::wire::{Accepted, DIAL_LIMIT, Dial, Event, Failure, Kind, Line, OFFLINE, ONLINE};
use super::{MOST_BYTES, Message, Order, State};
use crate::tasks::Group;

/// A connection that has lasted this long was a good one: the next attempt after its end comes soon.
const SETTLED: Duration = Duration::from_secs(10);

/// What a broker that has taken a connection gets for its answer, after it gave none in the usual time: one that asks a
/// directory for the user, or is behind a slow link, needs longer than others.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a pause looks whether the clock was set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the goodbye may take: what is waiting, `offline`, and its acknowledgement.
const GOODBYE: Duration = Duration::from_secs(1);

/// Owns the connection.
pub struct Actor {
    pub config: Config,
    pub url: Url,
    /// Who we are; where the configuration leaves that to the broker, the name that it gave.
    pub client_id: String,
    pub topics: Topics,
    pub orders: mpsc::UnboundedReceiver<Order>,
    pub state: watch::Sender<State>,
    pub limits: watch::Sender<Limits>,
    pub group: Group,
    pub outbox: Outbox,
    pub subscriptions: Subscriptions,
    /// Those who want to know whether the broker has the newest value of a retained topic.
    pub awaited: Vec<(String, oneshot::Sender<Result<(), String>>)>,
    pub outage: Outage,
    pub terms: Terms,
    pub suspects: Suspects,
    pub rivals: Rivals,
    /// What was said of the broker's limits, on earlier connections too.
    pub told: Limits,
    /// Read again after a refusal: a file may be another one by then.
    pub credentials: Option<Credentials>,
    /// Whether the last attempt had no answer in time, so that the next one looks for an address that gives one.
    pub is_unanswered: bool,
    /// Whether it was said that messages to oneself do not come back.
    pub has_warned_of_check: bool,
}

/// How a connection ended.
enum End {
    /// We said goodbye, or were told to stop before there was somebody to say it to.
    Stopped,
    /// The next attempt is another one, and is made at once.
    Again,
    /// It failed, and the next one is another, after a pause: there is nothing to tell of so far.
    Differently(Kind),
    /// It failed, after having been online for this long.
    Failed(Failure, Option<Duration>),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure, None)
    }
}

impl Actor {
    /// Runs until the group stops.
    pub async fn run(&mut self) {
        self.outbox.keep(self.topics.availability(), ONLINE.into());
        let mut pauses = Pauses::default();
        loop {
            match self.connection().await {
                End::Stopped => break,
                End::Again if self.group.is_stopped() => break,
                End::Again => {}
                End::Differently(kind) => {
                    if !self.pause(pauses.after(kind), &mut pauses).await {
                        break;
                    }
                }
                End::Failed(failure, online) => {
                    if online.is_some_and(|span| span > SETTLED) && failure.kind != Kind::Rival {
                        pauses = Pauses::default();
                    }
                    self.tell_of(&failure);
                    if failure.kind.in_short() != Kind::Away {
                        self.credentials = None;
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
        let reached = match self.look_around().await {
            Ok(reached) => reached,
            Err(end) => return end,
        };
        let line = match self.dial(reached).await {
            Ok(line) => line,
            Err(failure) => return failure.into(),
        };
        let dialled = Instant::now();
        let mut session = Session::new(line, self.config.keep_alive(), Instant::now());
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
                    Err(failure) => Err(failure.into()),
                },
                Some(order) = self.orders.recv() => self.obey(order, Some(&mut session)).map_err(End::from),
                () = sleep_until(deadline.into()), if session.accepted.is_some() => {
                    self.look(&mut session).map_err(End::from)
                }
            };
            match ended {
                Ok(()) => self.hand_over(&mut session),
                Err(End::Failed(failure, _)) => {
                    if session.accepted.is_none() {
                        self.is_unanswered = dialled.elapsed() >= DIAL_LIMIT;
                    }
                    return self.failed(failure, session);
                }
                Err(end) => {
                    session.leave().await;
                    return end;
                }
            }
        }
    }

    /// After an attempt without an answer, an address of the broker's that takes connections.
    async fn look_around(&mut self) -> Result<Option<Reached>, End> {
        if !self.is_unanswered {
            return Ok(None);
        }
        let (group, url) = (self.group.clone(), self.url.clone());
        let mut search = pin!(reach(url.host(), url.port()));
        loop {
            tokio::select! {
                () = group.stopped() => return Err(End::Stopped),
                // Without a session nothing of it can fail.
                Some(order) = self.orders.recv() => drop(self.obey(order, None)),
                reached = &mut search => {
                    return reached.map(Some).map_err(|error| Failure::of_transport(&error).into());
                }
            }
        }
    }

    async fn dial(&mut self, reached: Option<Reached>) -> Result<Line, Failure> {
        let credentials = match &self.credentials {
            Some(known) => known.clone(),
            None => {
                let (config, url) = (self.config.clone(), self.url.clone());
                let loaded = tokio::task::spawn_blocking(move || Credentials::load(&config, &url)).await;
                let loaded = loaded.unwrap_or_else(|_| Err("the credentials could not be read".into()));
                self.credentials.insert(loaded.map_err(Failure::refused)?).clone()
            }
        };
        let will = self.topics.availability();
        let delivery = self.terms.delivery();
        let Self { config, url, client_id, .. } = self;
        let address = reached.filter(|reached| !reached.is_first).map(|reached| reached.address);
        let limit = if reached.is_some() { PATIENCE } else { DIAL_LIMIT };
        if let Some(address) = address {
            tracing::debug!(%address, "the first address of the broker does not answer; this one does");
        }
        Ok(Line::dial(&Dial { config, url, client_id, will: Some((&will, delivery)), credentials, address, limit }))
    }

    /// Takes what happened on the line.
    fn take(&mut self, event: Event, session: &mut Session) -> Result<(), End> {
        let now = Instant::now();
        if let Some(check) = &mut session.check {
            check.heard(now);
        }
        match event {
            Event::Accepted(accepted) => return self.accepted(accepted, session, now),
            Event::Granted(granted) => self.granted(granted, session, now)?,
            Event::Sent(number) => {
                if let Some(item) = self.outbox.sent(number) {
                    session.went_out(self.open(&item), now);
                    self.done(item, None, session, now);
                }
            }
            Event::Acknowledged { number, refusal } => {
                if let Some(item) = self.outbox.acknowledged(number) {
                    let Open { request, bytes } = self.open(&item);
                    self.suspects.answered(&request, bytes);
                    self.done(item, refusal, session, now);
                }
            }
            Event::Came(message) => self.came(message, session),
            Event::Alive | Event::Ended => {}
        }
        Ok(())
    }

    fn accepted(&mut self, accepted: Accepted, session: &mut Session, now: Instant) -> Result<(), End> {
        session.accepted = Some(now);
        session.is_careful = self.suspects.is_careful(now);
        if !self.terms.accepted() {
            return Err(End::Again);
        }
        session.window = accepted.window;
        session.most_bytes = accepted.most_bytes.unwrap_or(MOST_BYTES).min(MOST_BYTES);
        session.delivery = self.terms.delivery().within(accepted.best);
        session.has_wildcards = accepted.has_wildcards;
        if let Some(given) = accepted.client_id {
            tracing::info!(client_id = given, "the broker gave this board a client id");
            // Under the same name the broker knows that the connection before is over, and does not publish its will.
            self.client_id = given;
        }
        let most_bytes = session.most_bytes.min(self.suspects.most_bytes(now).unwrap_or(MOST_BYTES));
        self.limits.send_replace(Limits { most_bytes, lacks: Vec::new() });
        if !session.delivery.is_retained {
            self.lack(Limits::NO_RETAINED.into());
        }
        if !session.delivery.is_acknowledged {
            self.lack(Limits::NO_ACKNOWLEDGEMENT.into());
        }
        let own = self.topics.self_check();
        if self.suspects.is_barred(&Request::Publication(own.clone()), now) {
            self.without_check(session, "it hangs up when this board publishes there");
        }
        let filters: Vec<_> = self.subscriptions.filters().map(str::to_owned).collect();
        for filter in filters {
            self.want(filter, session, now);
        }
        if session.check.is_some() {
            // Last: where the broker allows only one of them not, it is most likely this one.
            self.want(own, session, now);
        }
        session.ask()?;
        self.if_answered(session, now);
        Ok(())
    }

    /// All subscriptions are answered, or none is left to ask for.
    fn if_answered(&mut self, session: &mut Session, now: Instant) {
        if session.online.is_none() && session.has_asked_all() {
            session.begin_checks(self.config.keep_alive(), now);
            self.now_online();
        }
    }

    fn granted(
        &mut self,
        granted: Vec<Result<(), String>>,
        session: &mut Session,
        now: Instant,
    ) -> Result<(), Failure> {
        for (filter, granted) in session.asked.pop_front().into_iter().flatten().zip(granted) {
            self.suspects.answered(&Request::Messages(filter.clone()), filter.len());
            if let Err(why) = granted {
                self.not_granted(&filter, &why, session);
            }
        }
        session.ask()?;
        self.if_answered(session, now);
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
            let check = session.check.as_mut();
            if check.is_some_and(|check| check.came(&message.payload, Instant::now())) {
                self.has_warned_of_check = false;
                if self.config.leaves_client_id() {
                    // To the broker an earlier connection was another client's, whose last will may come at any time.
                    self.outbox.repeat(self.topics.availability());
                }
            }
            return;
        }
        tracing::trace!(topic = message.topic, bytes = message.payload.len(), "a message came");
        self.subscriptions.give(&message);
    }

    /// Looks whether the connection is still good for something.
    fn look(&mut self, session: &mut Session) -> Result<(), Failure> {
        if session.online.is_none() {
            let filters = || session.asked.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
            return match Instant::now() >= session.deadline() {
                true => Err(Failure::away(format!("the broker does not answer a subscription to {}", filters()))),
                false => Ok(()),
            };
        }
        if let Some(times) = self.outage.unsaid(Instant::now()) {
            tracing::warn!(broker = %self.url, times, "the connection to the broker was lost again and came back");
        }
        let Some(check) = &mut session.check else { return Ok(()) };
        match check.look(Instant::now()) {
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
                // Without a session nothing of it can fail.
                Some(order) = self.orders.recv() => drop(self.obey(order, None)),
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
            if self.obey(order, Some(&mut *session)).is_err() {
                break;
            }
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
                    Event::Ended => return Ok::<(), End>(()),
                    event => self.take(event, session)?,
                }
            }
        });
        if !matches!(said.await, Ok(Ok(()))) {
            tracing::debug!("the broker did not hear our goodbye");
        }
    }
}
