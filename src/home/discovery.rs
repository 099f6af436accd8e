//! The message that announces a board and all of its entities to Home Assistant at once
//! (home-assistant.io/integrations/mqtt, "Device discovery payload").

use serde_json::{Map, Value, json};

use super::entities::{Announced, Entity};
use crate::mqtt::Topics;

/// The project's URL, which Home Assistant shows as the origin of the device.
const PROJECT: &str = "https://github.com/peercam/peercam";

/// The topic of the message.
pub fn topic(prefix: &str, device: &str) -> String {
    format!("{prefix}/device/{}/config", object_id(device))
}

/// Whether this topic is for the announcement of the device, under any prefix.
pub fn is_of(topic: &str, device: &str) -> bool {
    topic.ends_with(&format!("/device/{}/config", object_id(device)))
}

fn object_id(device: &str) -> String {
    format!("peercam-{device}")
}

/// The message. An entity that was `announced` and no longer exists is removed by an entry with its platform only.
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

/// The platforms of `entities`, by key.
pub fn announced(entities: &[Entity]) -> Announced {
    let platform = |entity: &Entity| entity.config["platform"].as_str().unwrap_or_default().to_owned();
    entities.iter().map(|entity| (entity.key.clone(), platform(entity))).collect()
}
