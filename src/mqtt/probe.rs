//! Tries the configured broker once, for the doctor.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;

use super::MOST_BYTES;
use super::audit::{Audit, Findings, Step};
use super::capacity::{self, Capacity};
use super::config::{Config, Version};
use super::credentials::Credentials;
use super::limits::Limits;
use super::reach::reach;
use super::session::without_a_word;
use super::topics::Topics;
use super::wire::{Accepted, DIAL_LIMIT, Delivery, Dial, Event, Failure, Kind, Line};

/// All of it: to find an address takes at most 5 s, dialling and the messages to oneself as long each.
const LIMIT: Duration = Duration::from_secs(17);

/// So long an answer of the broker is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// What the broker takes is found out within this, or not at all.
const MEASURING: Duration = Duration::from_secs(20);

/// A status has about as many bytes, of a board with one camera and some viewers.
const STATUS: usize = 4096;

/// What was found of a broker that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How it stands, for people.
    pub text: String,
    /// Whether the access list keeps something from the device that it needs.
    pub is_forbidden: bool,
    /// What the device has to hear and what could not be tried: whether the access list permits it nobody says.
    pub untried: Vec<String>,
    /// What else has to be changed at the broker, for people.
    pub advice: Option<String>,
    /// What to write into the access list; nothing where it is sufficient.
    pub permissions: Vec<String>,
}

/// Connects as this device would, though under a name of its own, and publishes a message on each of its topics, which
/// is empty but for the one to itself.
///
/// # Errors
///
/// Where the broker cannot be used, why not.
pub async fn probe(config: &Config, device: &str) -> Result<Found, String> {
    let Some(url) = &config.url else { return Err("none is configured".into()) };
    let mut tried = within_limit(config, device, Delivery::BEST).await;
    // One that takes QoS 0 only hangs up on more, and says so in MQTT 5 only.
    if config.version == Version::ThreeOneOne && tried.as_ref().is_err_and(|failure| failure.kind == Kind::Closed) {
        let plain = within_limit(config, device, Delivery { is_acknowledged: false, ..Delivery::BEST }).await;
        tried = plain.or(tried);
    }
    let Tried { took, mut limits, findings, delivery } =
        tried.map_err(|failure| format!("{url}: {}", failure.reason))?;
    if !delivery.is_acknowledged {
        limits.lack(Limits::NO_ACKNOWLEDGEMENT.into());
    }
    let capacity = match took {
        Some(_) => timeout(MEASURING, measure(config, device, delivery, limits.most_bytes)).await.ok().flatten(),
        None => None,
    };
    let Capacity { is_retained, size } = capacity.unwrap_or_default();
    if is_retained == Some(false) {
        limits.lack(Limits::NO_RETAINED.into());
    }
    if let Some((back, lost)) = size {
        limits.lack(format!("a message of {lost} bytes does not come back, while one of {back} does"));
    }
    let Findings { forbidden, doubtful, untried, permissions } = findings;
    let mut text = format!("{url}, {}: ", config.version);
    text += &match took {
        Some(took) => format!("a message to itself took {} ms", took.as_millis()),
        None => "a message to itself did not come back".into(),
    };
    let is_forbidden = took.is_none() || !forbidden.is_empty();
    if !forbidden.is_empty() {
        text += &format!("; the access list does not let this device {}", forbidden.join(", "));
    }
    if !doubtful.is_empty() {
        let what = "did not come back: it may do only one of reading and writing there, which is enough, or not that, \
                    and MQTT 3.1.1 does not say which";
        text += &format!("; messages on {} {what}", doubtful.join(", "));
    }
    if !untried.is_empty() {
        let what = "could not be tried, because it may not publish there";
        text += &format!("; whether this device hears what comes on {} {what}", untried.join(", "));
    }
    text += &limits.in_words().map(|limits| format!(", but {limits}")).unwrap_or_default();
    let least = limits.known_bytes().into_iter().chain(size.map(|(back, _)| back)).min();
    let advice = least.filter(|bytes| *bytes < STATUS).map(|_| {
        format!(
            "the status alone has some {STATUS} bytes: let the broker take more (mosquitto: max_packet_size {MOST_BYTES}, \
             and no message_size_limit below that)"
        )
    });
    Ok(Found { text, is_forbidden, untried, advice, permissions })
}

/// The client id of the attempt: another one than the service's, whose connection would end else.
fn client_id(config: &Config, device: &str) -> String {
    match (config.leaves_client_id(), &config.client_id) {
        (true, _) => String::new(),
        (false, None) => format!("{}-doctor", config.client_id(device)),
        // Letters only: this one was most likely chosen for a broker that wants it so.
        (false, Some(id)) => format!("{id}doctor"),
    }
}

async fn within_limit(config: &Config, device: &str, wanted: Delivery) -> Result<Tried, Failure> {
    let tried = timeout(LIMIT, attempt(config, device, wanted));
    tried.await.unwrap_or_else(|_| Err(Failure::away(format!("no answer within {LIMIT:?}"))))
}

/// What the broker takes of messages to oneself; `None` where that could not be found out.
async fn measure(config: &Config, device: &str, delivery: Delivery, most: usize) -> Option<Capacity> {
    let url = config.url.as_ref()?;
    let credentials = Credentials::load(config, url).ok()?;
    let (topics, client_id) = (Topics::new(&config.prefix, device), client_id(config, device));
    let dial = || {
        let (credentials, address, limit) = (credentials.clone(), None, DIAL_LIMIT);
        Line::dial(&Dial { config, url, client_id: &client_id, will: None, credentials, address, limit })
    };
    let own = format!("doctor {:016x}", rand::random::<u64>());
    capacity::measure(dial, &topics.self_check(), &own, delivery, most).await
}

struct Tried {
    /// How long the message to itself took, where it came back.
    took: Option<Duration>,
    limits: Limits,
    findings: Findings,
    /// What the broker takes, as far as it says.
    delivery: Delivery,
}

async fn attempt(config: &Config, device: &str, wanted: Delivery) -> Result<Tried, Failure> {
    let Some(url) = &config.url else { return Err(Failure::refused("none is configured")) };
    let credentials = Credentials::load(config, url).map_err(Failure::refused)?;
    let (topics, client_id) = (Topics::new(&config.prefix, device), client_id(config, device));
    // The service finds the one that answers after an attempt without an answer.
    let reached = reach(url.host(), url.port()).await.map_err(|error| Failure::of_transport(&error))?;
    let (address, limit) = ((!reached.is_first).then_some(reached.address), DIAL_LIMIT);
    let mut line = Line::dial(&Dial { config, url, client_id: &client_id, will: None, credentials, address, limit });
    let busy = |_| Failure::away("the MQTT client is busy");
    // A number of its own, so that it is not taken for the service's, nor the service's for it.
    let own = Bytes::from(rand::random::<u64>().to_string());
    let mut audit: Option<Audit> = None;
    let mut limits = Limits::default();
    let mut best = wanted;
    let mut delivery = Delivery { is_retained: false, ..wanted };
    let mut asked: Option<String> = None;
    let (mut since, mut took) = (Instant::now(), None);
    loop {
        let deadline = audit.as_ref().and_then(Audit::deadline);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            break;
        }
        let now = Instant::now();
        let echo = audit.as_ref().and_then(Audit::echo).filter(|until| *until > now);
        let patience = deadline.or(echo).map_or(ANSWER, |until| until.saturating_duration_since(now));
        let event = match timeout(patience, line.next()).await {
            Ok(event) => event,
            // The end of the patience is no event.
            Err(_) if deadline.or(echo).is_some() || asked.is_none() => Ok(Event::Alive),
            Err(_) => Err(Failure::away(format!("no answer within {ANSWER:?}"))),
        };
        let event = match event {
            Ok(event) => event,
            Err(mut failure) => {
                let is_objection = matches!(failure.kind, Kind::Closed | Kind::Objected);
                if is_objection && audit.as_mut().is_some_and(Audit::hung_up) {
                    break;
                }
                match (&asked, failure.kind) {
                    (Some(asked), Kind::Away | Kind::Closed | Kind::Objected | Kind::TooLarge) => {
                        failure.reason = format!("{} after the broker was asked {asked}", failure.reason);
                    }
                    (None, Kind::Closed) => failure.reason = without_a_word(config, url, &client_id, None),
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
                let tells = config.version == Version::Five && delivery.is_acknowledged;
                audit = Some(Audit::new(&topics, own.clone(), tells));
            }
            (Event::Granted(granted), Some(audit)) => audit.granted(granted, now),
            (Event::Sent(number), Some(audit)) => audit.sent(number, now),
            (Event::Acknowledged { number, refusal }, Some(audit)) => audit.acknowledged(number, refusal, now),
            (Event::Came(message), Some(audit)) => {
                audit.came(&message.topic, &message.payload);
                if audit.heard_itself() && took.is_none() {
                    took = Some(now - since);
                }
            }
            _ => {}
        }
        match audit.as_mut().and_then(|audit| audit.next(now)) {
            Some(Step::Subscribe(filters)) => {
                line.subscribe(&filters).map_err(busy)?;
                asked = Some(format!("for the messages of {}", filters.join(", ")));
            }
            Some(Step::Publish(topic, payload)) => {
                line.publish(&topic, &payload, delivery, None).map_err(busy)?;
                if payload == own {
                    since = now;
                }
                asked = Some(format!("to publish on {topic}"));
            }
            None => {}
        }
    }
    // Where the broker has hung up already there is nobody to say it to.
    line.hang_up().ok();
    // The goodbye has nothing more to tell, whatever becomes of it.
    let leaving = async { while !matches!(line.next().await, Ok(Event::Ended) | Err(_)) {} };
    timeout(LIMIT, leaving).await.ok();
    let findings = audit.map(|audit| audit.findings()).unwrap_or_default();
    Ok(Tried { took, limits, findings, delivery: best })
}

/// What the broker said that it does not do.
fn of(accepted: &Accepted) -> Limits {
    let most_bytes = accepted.most_bytes.unwrap_or(MOST_BYTES).min(MOST_BYTES);
    let mut limits = Limits { most_bytes, lacks: Vec::new() };
    for (is_there, line) in [
        (accepted.best.is_retained, Limits::NO_RETAINED),
        (accepted.best.is_acknowledged, Limits::NO_ACKNOWLEDGEMENT),
        (accepted.has_wildcards, "it has no wildcards, so nobody can watch through it"),
    ] {
        if !is_there {
            limits.lack(line.into());
        }
    }
    limits
}
