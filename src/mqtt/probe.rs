//! Tries the configured broker once, for the doctor.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;

use super::MAX_BYTES;
use super::acl_audit::{AclAudit, Findings, Step};
use super::capabilities::{self, Capabilities};
use super::config::{Config, Version};
use super::credentials::Credentials;
use super::happy_eyeballs::first_reachable;
use super::limits::Limits;
use super::session::no_reason_given;
use super::topics::Topics;
use super::wire::{Accepted, CONNECT_TIMEOUT, ConnectOptions, Connection, Delivery, Event, Failure, Kind};

/// The limit for everything: finding an address takes at most 5 s, and so do connecting and the self-check messages.
const LIMIT: Duration = Duration::from_secs(17);

/// How long to wait for an answer of the broker.
const ANSWER: Duration = Duration::from_secs(5);

/// The limit for measuring what the broker accepts.
const MEASURING: Duration = Duration::from_secs(20);

/// About the size of the status, in bytes, of a board with one camera and some viewers.
const STATUS: usize = 4096;

/// Findings about a usable broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The state of the broker, as text for people.
    pub text: String,
    /// Whether the access list denies the device something that it needs.
    pub is_forbidden: bool,
    /// The topics that the device reads and that could not be tested: nothing reports whether the access list permits
    /// them.
    pub untested: Vec<String>,
    /// Another change that the broker needs, as text for people.
    pub advice: Option<String>,
    /// The lines to add to the access list; empty if it is sufficient.
    pub permissions: Vec<String>,
}

/// Connects as this device would, but under a client id of its own, and publishes a message on each of its topics,
/// which is empty except for the self-check message.
///
/// # Errors
///
/// Why the broker cannot be used.
pub async fn probe(config: &Config, device: &str) -> Result<Found, String> {
    let Some(url) = &config.url else { return Err("none is configured".into()) };
    let mut tried = within_limit(config, device, Delivery::BEST).await;
    // A broker that accepts QoS 0 only hangs up on more, and reports that in MQTT 5 only.
    if config.version == Version::ThreeOneOne && tried.as_ref().is_err_and(|failure| failure.kind == Kind::Closed) {
        let plain = within_limit(config, device, Delivery { is_acknowledged: false, ..Delivery::BEST }).await;
        tried = plain.or(tried);
    }
    let Outcome { round_trip, mut limits, findings, delivery } =
        tried.map_err(|failure| format!("{url}: {}", failure.reason))?;
    if !delivery.is_acknowledged {
        limits.add_unsupported(Limits::NO_ACKNOWLEDGEMENT.into());
    }
    let capabilities = match round_trip {
        Some(_) => timeout(MEASURING, measure(config, device, delivery, limits.most_bytes)).await.ok().flatten(),
        None => None,
    };
    let Capabilities { is_retained, size } = capabilities.unwrap_or_default();
    if is_retained == Some(false) {
        limits.add_unsupported(Limits::NO_RETAINED.into());
    }
    if let Some((back, lost)) = size {
        limits.add_unsupported(format!("a message of {lost} bytes does not come back, while one of {back} does"));
    }
    let Findings { forbidden, doubtful, untested, permissions } = findings;
    let mut text = format!("{url}, {}: ", config.version);
    text += &match round_trip {
        Some(round_trip) => format!("a message to itself took {} ms", round_trip.as_millis()),
        None => "a message to itself did not come back".into(),
    };
    let is_forbidden = round_trip.is_none() || !forbidden.is_empty();
    if !forbidden.is_empty() {
        text += &format!("; the access list does not let this device {}", forbidden.join(", "));
    }
    if !doubtful.is_empty() {
        let what = "did not come back: this device may only read or only write there, which is enough, or do neither, \
                    and MQTT 3.1.1 does not report which";
        text += &format!("; messages on {} {what}", doubtful.join(", "));
    }
    if !untested.is_empty() {
        let what = "could not be tried, because it may not publish there";
        text += &format!("; whether this device receives messages on {} {what}", untested.join(", "));
    }
    text += &limits.describe().map(|limits| format!(", but {limits}")).unwrap_or_default();
    let least = limits.known_bytes().into_iter().chain(size.map(|(back, _)| back)).min();
    let advice = least.filter(|bytes| *bytes < STATUS).map(|_| {
        format!(
            "the status alone has some {STATUS} bytes: let the broker take more (mosquitto: max_packet_size {MAX_BYTES}, \
             and no message_size_limit below that)"
        )
    });
    Ok(Found { text, is_forbidden, untested, advice, permissions })
}

/// The client id of the attempt: not the service's, whose connection would end otherwise.
fn client_id(config: &Config, device: &str) -> String {
    match (config.leaves_client_id(), &config.client_id) {
        (true, _) => String::new(),
        (false, None) => format!("{}-doctor", config.client_id(device)),
        // Letters only: this id was most likely chosen for a broker that requires that.
        (false, Some(id)) => format!("{id}doctor"),
    }
}

async fn within_limit(config: &Config, device: &str, requested: Delivery) -> Result<Outcome, Failure> {
    let tried = timeout(LIMIT, attempt(config, device, requested));
    tried.await.unwrap_or_else(|_| Err(Failure::unavailable(format!("no answer within {LIMIT:?}"))))
}

/// What the broker accepts, measured by self-check messages; `None` if that could not be found out.
async fn measure(config: &Config, device: &str, delivery: Delivery, most: usize) -> Option<Capabilities> {
    let url = config.url.as_ref()?;
    let credentials = Credentials::load(config, url).ok()?;
    let (topics, client_id) = (Topics::new(&config.prefix, device), client_id(config, device));
    let connect = || {
        let (credentials, address, limit) = (credentials.clone(), None, CONNECT_TIMEOUT);
        Connection::open(&ConnectOptions {
            config,
            url,
            client_id: &client_id,
            will: None,
            credentials,
            address,
            limit,
        })
    };
    let own = format!("doctor {:016x}", rand::random::<u64>());
    capabilities::measure(connect, &topics.self_check(), &own, delivery, most).await
}

struct Outcome {
    /// How long the self-check message took, if it came back.
    round_trip: Option<Duration>,
    limits: Limits,
    findings: Findings,
    /// What the broker accepts, as far as it reports.
    delivery: Delivery,
}

async fn attempt(config: &Config, device: &str, requested: Delivery) -> Result<Outcome, Failure> {
    let Some(url) = &config.url else { return Err(Failure::refused("none is configured")) };
    let credentials = Credentials::load(config, url).map_err(Failure::refused)?;
    let (topics, client_id) = (Topics::new(&config.prefix, device), client_id(config, device));
    // The service searches for it after an attempt without an answer.
    let reachable = first_reachable(url.host(), url.port()).await.map_err(|error| Failure::of_transport(&error))?;
    let (address, limit) = ((!reachable.is_first).then_some(reachable.address), CONNECT_TIMEOUT);
    let mut connection = Connection::open(&ConnectOptions {
        config,
        url,
        client_id: &client_id,
        will: None,
        credentials,
        address,
        limit,
    });
    let busy = |_| Failure::unavailable("the MQTT client is busy");
    // A random number, so that this message and those of the service are not taken for each other.
    let own = Bytes::from(rand::random::<u64>().to_string());
    let mut audit: Option<AclAudit> = None;
    let mut limits = Limits::default();
    let mut best = requested;
    let mut delivery = Delivery { is_retained: false, ..requested };
    let mut asked: Option<String> = None;
    let (mut since, mut round_trip) = (Instant::now(), None);
    loop {
        let deadline = audit.as_ref().and_then(AclAudit::deadline);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            break;
        }
        let now = Instant::now();
        let echo = audit.as_ref().and_then(AclAudit::echo_deadline).filter(|until| *until > now);
        let wait = deadline.or(echo).map_or(ANSWER, |until| until.saturating_duration_since(now));
        let event = match timeout(wait, connection.next()).await {
            Ok(event) => event,
            // This timeout only ends the wait: it becomes an event without effect.
            Err(_) if deadline.or(echo).is_some() || asked.is_none() => Ok(Event::OtherPacket),
            Err(_) => Err(Failure::unavailable(format!("no answer within {ANSWER:?}"))),
        };
        let event = match event {
            Ok(event) => event,
            Err(mut failure) => {
                let is_objection = matches!(failure.kind, Kind::Closed | Kind::Disallowed);
                if is_objection && audit.as_mut().is_some_and(AclAudit::broker_hung_up) {
                    break;
                }
                match (&asked, failure.kind) {
                    (Some(asked), Kind::Unavailable | Kind::Closed | Kind::Disallowed | Kind::TooLarge) => {
                        failure.reason = format!("{} after the broker was asked {asked}", failure.reason);
                    }
                    (None, Kind::Closed) => failure.reason = no_reason_given(config, url, &client_id, None),
                    _ => {}
                }
                return Err(failure);
            }
        };
        let now = Instant::now();
        match (event, &mut audit) {
            (Event::Accepted(accepted), _) => {
                best = best.within(accepted.best);
                delivery = delivery.within(best);
                limits = of(&accepted);
                let reports_refusals = config.version == Version::Five && delivery.is_acknowledged;
                audit = Some(AclAudit::new(&topics, own.clone(), reports_refusals));
            }
            (Event::Granted(granted), Some(audit)) => audit.granted(granted, now),
            (Event::Sent(number), Some(audit)) => audit.sent(number, now),
            (Event::Acknowledged { number, refusal }, Some(audit)) => audit.acknowledged(number, refusal, now),
            (Event::Received(message), Some(audit)) => {
                audit.received(&message.topic, &message.payload);
                if audit.received_own() && round_trip.is_none() {
                    round_trip = Some(now - since);
                }
            }
            _ => {}
        }
        match audit.as_mut().and_then(|audit| audit.next(now)) {
            Some(Step::Subscribe(filters)) => {
                connection.subscribe(&filters).map_err(busy)?;
                asked = Some(format!("for the messages of {}", filters.join(", ")));
            }
            Some(Step::Publish(topic, payload)) => {
                connection.publish(&topic, &payload, delivery, None).map_err(busy)?;
                if payload == own {
                    since = now;
                }
                asked = Some(format!("to publish on {topic}"));
            }
            None => {}
        }
    }
    // The broker may have hung up already.
    connection.disconnect().ok();
    // The outcome of the disconnect does not matter.
    let leaving = async { while !matches!(connection.next().await, Ok(Event::DisconnectSent) | Err(_)) {} };
    timeout(LIMIT, leaving).await.ok();
    let findings = audit.map(|audit| audit.findings()).unwrap_or_default();
    Ok(Outcome { round_trip, limits, findings, delivery: best })
}

/// What the broker reported that it does not do.
fn of(accepted: &Accepted) -> Limits {
    let most_bytes = accepted.most_bytes.unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let mut limits = Limits { most_bytes, unsupported: Vec::new() };
    for (is_there, line) in [
        (accepted.best.is_retained, Limits::NO_RETAINED),
        (accepted.best.is_acknowledged, Limits::NO_ACKNOWLEDGEMENT),
        (accepted.has_wildcards, "it has no wildcards, so nobody can watch through it"),
    ] {
        if !is_there {
            limits.add_unsupported(line.into());
        }
    }
    limits
}
