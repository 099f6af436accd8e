//! The task that keeps the connection to the broker: it connects, subscribes, publishes, checks the connection and
//! reconnects.

mod diagnosis;
mod publishing;

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};

use super::backoff::{Clocks, ReconnectBackoff};
use super::client_id_conflict::ClientIdConflict;
use super::config::Config;
use super::credentials::Credentials;
use super::delivery_fallback::DeliveryFallback;
use super::disconnect_causes::{DisconnectCauses, OpenRequest, Request};
use super::happy_eyeballs::{ReachableAddress, first_reachable};
use super::limits::Limits;
use super::log_throttle::LogThrottle;
use super::outbox::Outbox;
use super::self_check::Verdict;
use super::session::Session;
use super::subscriptions::Subscriptions;
use super::topics::Topics;
use super::url::Url;
use super::wire::{Accepted, CONNECT_TIMEOUT, ConnectOptions, Connection, Event, Failure, Kind, OFFLINE, ONLINE};
use super::{ActorRequest, MAX_BYTES, Message, State};
use crate::tasks::Group;

/// A connection that has lasted this long was a good one: the next attempt after its end comes soon.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// How long a broker that accepts a TCP connection has to answer, after an attempt without an answer in the usual time.
/// A broker that looks up the user in a directory, or is behind a slow link, needs longer than others.
const SLOW_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a pause checks whether the clock was set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// Time limit for a clean disconnect: queued messages, then `offline`, and its acknowledgement.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The task that owns the connection.
pub struct Actor {
    pub config: Config,
    pub url: Url,
    /// Our client id. If the configuration leaves it to the broker, the id that the broker assigned.
    pub client_id: String,
    pub topics: Topics,
    pub requests: mpsc::UnboundedReceiver<ActorRequest>,
    pub state: watch::Sender<State>,
    pub limits: watch::Sender<Limits>,
    pub group: Group,
    pub outbox: Outbox,
    pub subscriptions: Subscriptions,
    /// The callers that wait until the broker has the newest value of a retained topic.
    pub awaited: Vec<(String, oneshot::Sender<Result<(), String>>)>,
    pub log_throttle: LogThrottle,
    pub delivery_fallback: DeliveryFallback,
    pub disconnect_causes: DisconnectCauses,
    pub client_id_conflict: ClientIdConflict,
    /// The limits of the broker that were logged already, on earlier connections too.
    pub logged_limits: Limits,
    /// Loaded again after a refusal: a file may have changed by then.
    pub credentials: Option<Credentials>,
    /// Whether the last attempt got no answer in time. The next one then looks for an address that answers.
    pub is_unanswered: bool,
    /// Whether the warning was logged that self-check messages do not come back.
    pub has_warned_of_self_check: bool,
}

/// How a connection ended.
enum End {
    /// We disconnected, or were stopped before there was a connection.
    Stopped,
    /// The next attempt requests another delivery and follows at once.
    RetryNow,
    /// It failed. The next attempt requests less and follows after a pause; there is nothing to report yet.
    RetryWithFallback(Kind),
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
        self.outbox.retain(self.topics.availability(), ONLINE.into());
        let mut backoff = ReconnectBackoff::default();
        loop {
            match self.connection().await {
                End::Stopped => break,
                End::RetryNow if self.group.is_stopped() => break,
                End::RetryNow => {}
                End::RetryWithFallback(kind) => {
                    if !self.pause(backoff.after(kind), &mut backoff).await {
                        break;
                    }
                }
                End::Failed(failure, online) => {
                    if online.is_some_and(|span| span > STABLE_AFTER) && failure.kind != Kind::ClientIdConflict {
                        backoff = ReconnectBackoff::default();
                    }
                    self.report_failure(&failure);
                    if failure.kind.coarse() != Kind::Unavailable {
                        self.credentials = None;
                    }
                    let pause = backoff.after(failure.kind);
                    tracing::debug!(reason = failure.reason, pause_ms = pause.as_millis() as u64, "trying again soon");
                    if !self.pause(pause, &mut backoff).await {
                        break;
                    }
                }
            }
        }
        self.state.send_replace(State::Connecting);
    }

    /// One connection, from dialling to its end.
    async fn connection(&mut self) -> End {
        let reachable = match self.find_address().await {
            Ok(reachable) => reachable,
            Err(end) => return end,
        };
        let connection = match self.connect(reachable).await {
            Ok(connection) => connection,
            Err(failure) => return failure.into(),
        };
        let started = Instant::now();
        let mut session = Session::new(connection, self.config.keep_alive(), Instant::now());
        let group = self.group.clone();
        loop {
            let deadline = session.deadline();
            let ended = tokio::select! {
                () = group.stopped() => {
                    self.disconnect_cleanly(&mut session).await;
                    return End::Stopped;
                }
                event = session.connection.next() => match event {
                    Ok(event) => self.handle_event(event, &mut session),
                    Err(failure) => Err(failure.into()),
                },
                Some(order) = self.requests.recv() => self.handle_request(order, Some(&mut session)).map_err(End::from),
                () = sleep_until(deadline.into()), if session.accepted.is_some() => {
                    self.check_connection(&mut session).map_err(End::from)
                }
            };
            match ended {
                Ok(()) => self.send_queued(&mut session),
                Err(End::Failed(failure, _)) => {
                    if session.accepted.is_none() {
                        self.is_unanswered = started.elapsed() >= CONNECT_TIMEOUT;
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

    /// After an attempt without an answer: finds an address of the broker that accepts connections.
    async fn find_address(&mut self) -> Result<Option<ReachableAddress>, End> {
        if !self.is_unanswered {
            return Ok(None);
        }
        let (group, url) = (self.group.clone(), self.url.clone());
        let mut search = pin!(first_reachable(url.host(), url.port()));
        loop {
            tokio::select! {
                () = group.stopped() => return Err(End::Stopped),
                // Without a session this cannot fail.
                Some(order) = self.requests.recv() => drop(self.handle_request(order, None)),
                reachable = &mut search => {
                    return reachable.map(Some).map_err(|error| Failure::of_transport(&error).into());
                }
            }
        }
    }

    async fn connect(&mut self, reachable: Option<ReachableAddress>) -> Result<Connection, Failure> {
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
        let delivery = self.delivery_fallback.delivery();
        let Self { config, url, client_id, .. } = self;
        let address = reachable.filter(|reachable| !reachable.is_first).map(|reachable| reachable.address);
        let limit = if reachable.is_some() { SLOW_CONNECT_TIMEOUT } else { CONNECT_TIMEOUT };
        if let Some(address) = address {
            tracing::debug!(%address, "the first address of the broker does not answer; this one does");
        }
        Ok(Connection::open(&ConnectOptions {
            config,
            url,
            client_id,
            will: Some((&will, delivery)),
            credentials,
            address,
            limit,
        }))
    }

    /// Handles an event of the connection.
    fn handle_event(&mut self, event: Event, session: &mut Session) -> Result<(), End> {
        let now = Instant::now();
        if let Some(check) = &mut session.check {
            check.packet_received(now);
        }
        match event {
            Event::Accepted(accepted) => return self.accepted(accepted, session, now),
            Event::Granted(granted) => self.granted(granted, session, now)?,
            Event::Sent(number) => {
                if let Some(item) = self.outbox.sent(number) {
                    session.sent_unacknowledged(self.open(&item), now);
                    self.done(item, None, session, now);
                }
            }
            Event::Acknowledged { number, refusal } => {
                if let Some(item) = self.outbox.acknowledged(number) {
                    let OpenRequest { request, bytes } = self.open(&item);
                    self.disconnect_causes.answered(&request, bytes);
                    self.done(item, refusal, session, now);
                }
            }
            Event::Received(message) => self.received(message, session),
            Event::OtherPacket | Event::DisconnectSent => {}
        }
        Ok(())
    }

    fn accepted(&mut self, accepted: Accepted, session: &mut Session, now: Instant) -> Result<(), End> {
        session.accepted = Some(now);
        session.is_careful = self.disconnect_causes.is_careful(now);
        if !self.delivery_fallback.accepted() {
            return Err(End::RetryNow);
        }
        session.window = accepted.window;
        session.most_bytes = accepted.most_bytes.unwrap_or(MAX_BYTES).min(MAX_BYTES);
        session.delivery = self.delivery_fallback.delivery().within(accepted.best);
        session.has_wildcards = accepted.has_wildcards;
        if let Some(given) = accepted.client_id {
            tracing::info!(client_id = given, "the broker gave this board a client id");
            // By this id the broker recognizes that the previous connection is over, and does not publish its will.
            self.client_id = given;
        }
        let most_bytes = session.most_bytes.min(self.disconnect_causes.most_bytes(now).unwrap_or(MAX_BYTES));
        self.limits.send_replace(Limits { most_bytes, unsupported: Vec::new() });
        if !session.delivery.is_retained {
            self.add_unsupported(Limits::NO_RETAINED.into());
        }
        if !session.delivery.is_acknowledged {
            self.add_unsupported(Limits::NO_ACKNOWLEDGEMENT.into());
        }
        let own = self.topics.self_check();
        if self.disconnect_causes.is_blocked(&Request::Publish(own.clone()), now) {
            self.without_check(session, "it hangs up when this board publishes there");
        }
        let filters: Vec<_> = self.subscriptions.filters().map(str::to_owned).collect();
        for filter in filters {
            self.want(filter, session, now);
        }
        if session.check.is_some() {
            // Last: if the broker disallows only one of them, it is most likely this one.
            self.want(own, session, now);
        }
        session.ask()?;
        self.go_online_if_answered(session, now);
        Ok(())
    }

    /// Goes online if all subscriptions are answered and none is left to request.
    fn go_online_if_answered(&mut self, session: &mut Session, now: Instant) {
        if session.online.is_none() && session.has_all_answers() {
            session.begin_checks(self.config.keep_alive(), now);
            self.go_online();
        }
    }

    fn granted(
        &mut self,
        granted: Vec<Result<(), String>>,
        session: &mut Session,
        now: Instant,
    ) -> Result<(), Failure> {
        for (filter, granted) in session.asked.pop_front().into_iter().flatten().zip(granted) {
            self.disconnect_causes.answered(&Request::Subscribe(filter.clone()), filter.len());
            if let Err(why) = granted {
                self.not_granted(&filter, &why, session);
            }
        }
        session.ask()?;
        self.go_online_if_answered(session, now);
        Ok(())
    }

    fn go_online(&mut self) {
        self.outbox.start_connection(&self.topics.availability());
        let dropped = self.outbox.take_dropped();
        if self.log_throttle.connected(Instant::now()) {
            tracing::info!(broker = %self.url, dropped, "connected to the broker");
        }
        self.state.send_replace(State::Online);
    }

    fn received(&mut self, message: Message, session: &mut Session) {
        if message.topic == self.topics.self_check() {
            let check = session.check.as_mut();
            if check.is_some_and(|check| check.received(&message.payload, Instant::now())) {
                self.has_warned_of_self_check = false;
                if self.config.leaves_client_id() {
                    // The broker took an earlier connection for another client's; its last will may come at any time.
                    self.outbox.repeat(self.topics.availability());
                }
            }
            return;
        }
        tracing::trace!(topic = message.topic, bytes = message.payload.len(), "a message came");
        self.subscriptions.give(&message);
    }

    /// Checks whether the connection still works.
    fn check_connection(&mut self, session: &mut Session) -> Result<(), Failure> {
        if session.online.is_none() {
            let filters = || session.asked.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
            return match Instant::now() >= session.deadline() {
                true => {
                    Err(Failure::unavailable(format!("the broker does not answer a subscription to {}", filters())))
                }
                false => Ok(()),
            };
        }
        if let Some(times) = self.log_throttle.take_unlogged(Instant::now()) {
            tracing::warn!(broker = %self.url, times, "the connection to the broker was lost again and came back");
        }
        let Some(check) = &mut session.check else { return Ok(()) };
        match check.poll(Instant::now()) {
            Verdict::Fine => Ok(()),
            Verdict::Send(payload) => {
                self.outbox.check(payload);
                Ok(())
            }
            Verdict::NotDelivering => Err(Failure::unavailable(
                "the broker no longer delivers messages: the self-check message did not come back",
            )),
            Verdict::Silent => Err(Failure::unavailable("nothing comes from the broker any more")),
            Verdict::NeverDelivered => {
                if !std::mem::replace(&mut self.has_warned_of_self_check, true) {
                    tracing::warn!(
                        topic = self.topics.self_check(),
                        "a message to ourselves did not come back; does the broker's access list let this device \
                         read and write the topic? Without it the board does not notice if the broker stops delivering messages"
                    );
                }
                Ok(())
            }
        }
    }

    /// Reports a failed attempt, if the reason is new.
    fn report_failure(&mut self, failure: &Failure) {
        if self.log_throttle.failed(failure, Instant::now()) {
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
    async fn pause(&mut self, pause: Duration, backoff: &mut ReconnectBackoff) -> bool {
        let (group, end) = (self.group.clone(), Instant::now() + pause);
        let mut clocks = Clocks::read();
        while Instant::now() < end {
            let next = end.min(Instant::now() + CLOCK_INTERVAL);
            tokio::select! {
                () = group.stopped() => return false,
                // Without a session this cannot fail.
                Some(order) = self.requests.recv() => drop(self.handle_request(order, None)),
                () = sleep_until(next.into()) => {}
            }
            let now = Clocks::read();
            if clocks.was_set_by(now) {
                tracing::debug!("the clock was set: trying the broker at once");
                *backoff = ReconnectBackoff::default();
                return true;
            }
            clocks = now;
        }
        !group.is_stopped()
    }

    /// Publishes what is queued, then `offline`, and disconnects; the broker then does not publish the last will.
    async fn disconnect_cleanly(&mut self, session: &mut Session) {
        if session.online.is_none() {
            return;
        }
        while let Ok(order) = self.requests.try_recv() {
            if self.handle_request(order, Some(&mut *session)).is_err() {
                break;
            }
        }
        self.outbox.retain(self.topics.availability(), OFFLINE.into());
        let said = timeout(DISCONNECT_TIMEOUT, async {
            let mut has_hung_up = false;
            loop {
                self.send_queued(session);
                if self.outbox.is_empty() && !has_hung_up {
                    has_hung_up = session.connection.disconnect().is_ok();
                }
                match session.connection.next().await? {
                    Event::DisconnectSent => return Ok::<(), End>(()),
                    event => self.handle_event(event, session)?,
                }
            }
        });
        if !matches!(said.await, Ok(Ok(()))) {
            tracing::debug!("the broker did not acknowledge that we disconnect");
        }
    }
}
