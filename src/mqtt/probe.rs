//! Tries the configured broker once, for the doctor.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::MOST_BYTES;
use super::check::{SelfCheck, Verdict};
use super::config::Config;
use super::credentials::Credentials;
use super::limits::Limits;
use super::session::without_a_word;
use super::topics::Topics;
use super::wire::{Accepted, Delivery, Dial, Event, Failure, Kind, Line};

/// All of it: dialling takes at most 5 s, and the message to oneself as long.
const LIMIT: Duration = Duration::from_secs(12);

/// Connects as this device would, though under a name of its own, and sends a message to itself. What was found,
/// or what is wrong and what to do.
///
/// # Errors
///
/// Where the broker cannot be used, why not.
pub async fn probe(config: &Config, device: &str) -> Result<String, String> {
    let Some(url) = &config.url else { return Ok("none is configured".into()) };
    let tried = timeout(LIMIT, attempt(config, device));
    let found = tried.await.unwrap_or_else(|_| Err(Failure::away(format!("no answer within {LIMIT:?}"))));
    match found {
        Ok((took, limits)) => {
            let limits = limits.in_words().map(|limits| format!(", but {limits}")).unwrap_or_default();
            Ok(format!("{url}, {}: a message to itself took {} ms{limits}", config.version, took.as_millis()))
        }
        Err(failure) => Err(format!("{url}: {}", failure.reason)),
    }
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

async fn attempt(config: &Config, device: &str) -> Result<(Duration, Limits), Failure> {
    let Some(url) = &config.url else { return Err(Failure::refused("none is configured")) };
    let credentials = Credentials::load(config, url).map_err(Failure::refused)?;
    let (topics, client_id) = (Topics::new(&config.prefix, device), client_id(config, device));
    let mut line = Line::dial(&Dial { config, url, client_id: &client_id, will: None, credentials });
    let busy = |_| Failure::away("the MQTT client is busy");
    let topic = topics.self_check();
    let mut limits = Limits::default();
    let mut delivery = Delivery { is_retained: false, ..Delivery::BEST };
    let mut asked: Option<String> = None;
    let mut sent: Option<(SelfCheck, Instant)> = None;
    loop {
        let patience = sent.as_ref().map_or(LIMIT, |(check, _)| check.deadline() - Instant::now());
        // The end of the patience is no event, but something may be to be said then.
        let event = timeout(patience, line.next()).await.unwrap_or(Ok(Event::Alive));
        let event = event.map_err(|mut failure| {
            match (&asked, failure.kind) {
                (Some(asked), Kind::Closed | Kind::Objected) => {
                    failure.reason = format!("{} after the broker was asked {asked}", failure.reason);
                }
                (None, Kind::Closed) => failure.reason = without_a_word(config, url, &client_id, None),
                _ => {}
            }
            failure
        })?;
        let now = Instant::now();
        match (event, &mut sent) {
            (Event::Accepted(accepted), _) => {
                delivery = delivery.within(accepted.best);
                limits = of(&accepted);
                line.subscribe(std::slice::from_ref(&topic)).map_err(busy)?;
                asked = Some(format!("for the messages of {topic}"));
            }
            (Event::Granted(granted), None) => {
                if let Some(Err(why)) = granted.first() {
                    let what = "the broker's access list has to let this device read and write its topics";
                    return Err(Failure::refused(format!(
                        "the broker does not allow a subscription to {topic} ({why}): {what}"
                    )));
                }
                let mut check = SelfCheck::new(LIMIT, now);
                if let Verdict::Send(payload) = check.look(now) {
                    line.publish(&topic, &payload, delivery, None).map_err(busy)?;
                    asked = Some(format!("to publish on {topic}"));
                }
                sent = Some((check, now));
            }
            // It will not be acknowledged.
            (Event::Sent(0), Some((check, _))) => check.acknowledged(now),
            (Event::Acknowledged { .. }, Some((check, _))) => check.acknowledged(now),
            (Event::Came(message), Some((check, since))) => {
                let is_ours = check.came(&message.payload, now);
                if is_ours {
                    line.hang_up().map_err(busy)?;
                    // The goodbye has nothing more to tell, whatever becomes of it.
                    let leaving = async { while !matches!(line.next().await, Ok(Event::Ended) | Err(_)) {} };
                    timeout(LIMIT, leaving).await.ok();
                    return Ok((now - *since, limits));
                }
            }
            _ => {}
        }
        if let Some((check, _)) = &mut sent
            && check.look(now) != Verdict::Fine
        {
            return Err(Failure::refused(format!(
                "a message to {topic} did not come back: the broker's access list has to let this device read and \
                 write its topics"
            )));
        }
    }
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
