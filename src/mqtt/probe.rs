//! Tries the configured broker once, for the doctor.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::check::{SelfCheck, Verdict};
use super::config::Config;
use super::topics::Topics;
use super::wire::{Dial, Event, Failure, Fate, Line};
use super::{client_id, tls};

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
    let tried = timeout(LIMIT, attempt(config, device)).await;
    let found = tried.unwrap_or_else(|_| Err(Failure::away(format!("no answer within {LIMIT:?}"))));
    match found {
        Ok(took) => Ok(format!("{url}, {}: a message to itself took {} ms", config.version, took.as_millis())),
        Err(failure) => Err(format!("{url}: {}", failure.reason)),
    }
}

async fn attempt(config: &Config, device: &str) -> Result<Duration, Failure> {
    let Some(url) = &config.url else { return Err(Failure::refused("none is configured")) };
    let loaded = if url.scheme().is_encrypted() { Some(tls::load(config).map_err(Failure::refused)?) } else { None };
    let (topics, client_id) = (Topics::new(&config.prefix, device), format!("{}-doctor", client_id(device)));
    let mut line = Line::dial(&Dial { config, url, client_id: &client_id, will: None, tls: loaded });
    let busy = |_| Failure::away("the MQTT client is busy");
    let topic = topics.self_check();
    let mut sent: Option<(SelfCheck, Instant)> = None;
    loop {
        let patience = sent.as_ref().map_or(LIMIT, |(check, _)| check.deadline() - Instant::now());
        // The end of the patience is no event, but something may be to be said then.
        let event = timeout(patience, line.next()).await.unwrap_or(Ok(Event::Alive))?;
        let now = Instant::now();
        match (event, &mut sent) {
            (Event::Accepted { .. }, _) => line.subscribe(std::slice::from_ref(&topic)).map_err(busy)?,
            (Event::Granted(_), None) => {
                let mut check = SelfCheck::new(LIMIT, now);
                if let Verdict::Send(payload) = check.look(now) {
                    line.publish(&topic, &payload, Fate::PassedOn, None).map_err(busy)?;
                }
                sent = Some((check, now));
            }
            (Event::Acknowledged { .. }, Some((check, _))) => check.acknowledged(now),
            (Event::Came(message), Some((check, since))) => {
                let is_ours = check.came(&message.payload, now);
                if is_ours {
                    line.hang_up().map_err(busy)?;
                    // The goodbye has nothing more to tell, whatever becomes of it.
                    let leaving = async { while !matches!(line.next().await, Ok(Event::Ended) | Err(_)) {} };
                    timeout(LIMIT, leaving).await.ok();
                    return Ok(now - *since);
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
