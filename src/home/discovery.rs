//! The message by which Home Assistant learns of a board and all of its entities at once
//! (home-assistant.io/integrations/mqtt, "Device discovery payload").

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::entities::Entity;
use crate::mqtt::Topics;

/// The project's place, which Home Assistant shows as the origin of what it found.
const PROJECT: &str = "https://github.com/peercam/peercam";

/// Entities that were announced at some time: their keys and platforms.
pub type Announced = BTreeMap<String, String>;

/// Where the message goes.
pub fn topic(prefix: &str, device: &str) -> String {
    format!("{prefix}/device/{}/config", object_id(device))
}

/// Whether a topic is one to which a device of this name may have been announced, under any prefix.
pub fn is_of(topic: &str, device: &str) -> bool {
    topic.ends_with(&format!("/device/{}/config", object_id(device)))
}

fn object_id(device: &str) -> String {
    format!("peercam-{device}")
}

/// The message. What was `announced` and is no more is removed by an entry of its platform alone.
pub fn message(
    device: &str,
    version: &str,
    topics: &Topics,
    entities: &[Entity],
    announced: &Announced,
) -> Map<String, Value> {
    let id = object_id(device);
    let gone = announced.iter().filter(|(key, _)| !entities.iter().any(|entity| entity.key == **key));
    let gone = gone.map(|(key, platform)| (key.clone(), json!({ "platform": platform })));
    let there = entities.iter().map(|entity| {
        let mut config = entity.config.clone();
        config.insert("unique_id".into(), format!("{id}-{}", entity.key).into());
        if entity.action.is_some() {
            config.insert("command_topic".into(), topics.set(&entity.key).into());
        }
        (entity.key.clone(), config.into())
    });
    let components: Map<String, Value> = gone.chain(there).collect();
    let message = json!({
        "device": {
            "identifiers": [id],
            "name": device,
            "manufacturer": "peercam",
            "model": "peercam",
            "sw_version": version,
        },
        "origin": { "name": "peercam", "sw_version": version, "support_url": PROJECT },
        "availability_topic": topics.availability(),
        "state_topic": topics.status(),
        "qos": 1,
        "components": components,
    });
    match message {
        Value::Object(message) => message,
        other => unreachable!("made as an object above, not {other}"),
    }
}

/// The platforms by key, as they are announced by `entities`.
pub fn announced(entities: &[Entity]) -> Announced {
    let platform = |entity: &Entity| entity.config["platform"].as_str().unwrap_or_default().to_owned();
    entities.iter().map(|entity| (entity.key.clone(), platform(entity))).collect()
}
