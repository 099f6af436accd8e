//! Messages to Home Assistant match its documentation.

use serde_json::{Value, json};

use super::discovery;
use super::entities::Announced;
use super::entities::{Controls, Entity, entities};
use crate::mqtt::Topics;

/// The options that every entity may have (home-assistant.io/integrations/mqtt, and "Configuration variables" of each
/// platform, as of 2026.2).
const COMMON: [&str; 7] =
    ["platform", "name", "unique_id", "entity_category", "enabled_by_default", "availability_template", "device_class"];

/// The further options that each platform documents and a camera could use, and those that it requires.
const PLATFORMS: [(&str, &[&str], &[&str]); 7] = [
    (
        "sensor",
        &["value_template", "unit_of_measurement", "state_class", "options", "state_topic"],
        &["value_template"],
    ),
    ("binary_sensor", &["value_template", "payload_on", "payload_off", "state_topic"], &[]),
    (
        "number",
        &["value_template", "command_topic", "min", "max", "step", "mode", "unit_of_measurement"],
        &["command_topic", "min", "max"],
    ),
    ("select", &["value_template", "command_topic", "options"], &["command_topic", "options"]),
    ("switch", &["value_template", "command_topic"], &["command_topic"]),
    ("button", &["command_topic", "payload_press"], &["command_topic"]),
    ("camera", &["topic"], &["topic"]),
];

/// "Device discovery payload": shared options, and those of `device` and `origin`.
const SHARED: [&str; 6] = ["device", "origin", "availability_topic", "state_topic", "qos", "components"];
const DEVICE: [&str; 5] = ["identifiers", "name", "manufacturer", "model", "sw_version"];
const ORIGIN: [&str; 3] = ["name", "sw_version", "support_url"];

/// Device classes by platform and the units that go with them (developers.home-assistant.io, each entity's page).
const CLASSES: [(&str, &str, Option<&str>); 11] = [
    ("sensor", "data_rate", Some("kbit/s")),
    ("number", "data_rate", Some("kbit/s")),
    ("sensor", "duration", Some("s")),
    ("sensor", "data_size", Some("MB")),
    ("sensor", "temperature", Some("°C")),
    ("sensor", "signal_strength", Some("dBm")),
    ("sensor", "enum", None),
    ("binary_sensor", "problem", None),
    ("binary_sensor", "connectivity", None),
    ("button", "restart", None),
    ("button", "identify", None),
];

fn topics() -> Topics {
    Topics::new("peercam", "porch")
}

fn camera(name: &str) -> Value {
    json!({
        "name": name, "state": "live", "device": "vivid (/dev/video0)", "sizes": ["320x180", "640x360"],
        "settings": { "width": 800, "height": 450, "fps": 30, "bitrate": 800, "key_frame_interval": 10 },
    })
}

/// A board that has everything.
fn status(cameras: &[&str]) -> Value {
    json!({
        "device": "porch", "versions": { "peercam": "0.1.0" }, "health": "ok", "privacy": false, "uptime": 5,
        "cameras": cameras.iter().map(|name| camera(name)).collect::<Vec<_>>(),
        "microphone": { "settings": { "on": true } }, "viewers": { "count": 0, "bitrate": 0 },
        "temperature": 48.1, "throttling": { "now": [], "since_start": [] }, "cpu": { "board": 3.0 },
        "memory": { "total": 1 }, "wifi": { "interface": "wlan0", "signal": -50, "quality": 60.0 },
    })
}

/// As `list-controls` returns them.
fn controls() -> Vec<Value> {
    let control = |name: &str, kind: &str, more: Value| {
        let mut control = json!({
            "name": name, "title": name.to_uppercase(), "kind": kind, "access": "writable",
            "minimum": 0, "maximum": 255, "step": 5, "default": 0,
        });
        control.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        control
    };
    let menu = json!([
        { "value": 0, "title": "Off" }, { "value": 1, "title": "50 \"Hz\"" }, { "value": 3, "title": "Off" },
    ]);
    vec![
        control("brightness", "integer", json!({})),
        control("horizontal_flip", "boolean", json!({ "maximum": 1 })),
        control("power_line_frequency", "menu", json!({ "menu": menu, "maximum": 3 })),
        control("do_it", "button", json!({})),
        control("bits", "bitmask", json!({})),
        control("sensor_gain", "integer", json!({ "access": "read-only" })),
        control("fixed", "integer", json!({ "maximum": 0 })),
    ]
}

fn of(cameras: &[&str]) -> Vec<Entity> {
    let controls = Controls::from([(cameras[0].to_owned(), controls())]);
    entities(&status(cameras), &controls, &Announced::new(), &topics())
}

fn message(entities: &[Entity], announced: &Announced) -> Value {
    discovery::message("porch", "0.1.0", &topics(), entities, announced).into()
}

fn keys(value: &Value) -> impl Iterator<Item = &str> {
    value.as_object().unwrap().keys().map(String::as_str)
}

#[test]
fn entities_have_only_documented_options_and_all_required_ones() {
    let entities = of(&["main", "yard"]);
    let message = message(&entities, &Announced::new());
    assert!(keys(&message).all(|key| SHARED.contains(&key)), "{message:#}");
    assert!(keys(&message["device"]).all(|key| DEVICE.contains(&key)), "{message:#}");
    assert!(keys(&message["origin"]).all(|key| ORIGIN.contains(&key)), "{message:#}");
    let components = message["components"].as_object().unwrap();
    assert_eq!(components.len(), entities.len(), "keys are unique");
    for (key, component) in components {
        let platform = component["platform"].as_str().unwrap();
        let (_, options, required) = PLATFORMS.iter().find(|(name, ..)| *name == platform).unwrap();
        for option in keys(component) {
            assert!(COMMON.contains(&option) || options.contains(&option), "{key}: a {platform} has no {option}");
        }
        for option in ["name", "unique_id"].iter().chain(required.iter()) {
            assert!(component.get(option).is_some(), "{key}: a {platform} needs {option}");
        }
        if let Some(class) = component["device_class"].as_str() {
            let unit = component["unit_of_measurement"].as_str();
            assert!(CLASSES.contains(&(platform, class, unit)), "{key}: {class} in {unit:?}");
        }
        // Only an entity that can be set may be a setting.
        let category = component["entity_category"].as_str();
        let may_configure = !["sensor", "binary_sensor"].contains(&platform);
        assert!(matches!(category, None | Some("diagnostic")) || may_configure, "{key}: {category:?}");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(key.chars().all(plain), "{key} becomes a level of a topic");
    }
}

#[test]
fn the_message_matches_the_documentation() {
    let entities = of(&["main"]);
    let message = message(&entities, &Announced::new());
    assert_eq!(discovery::topic("homeassistant", "porch"), "homeassistant/device/peercam-porch/config");
    assert_eq!(message["device"]["identifiers"], json!(["peercam-porch"]));
    assert_eq!(message["availability_topic"], "peercam/porch/availability");
    assert_eq!(message["state_topic"], "peercam/porch/status");
    let components = &message["components"];
    assert_eq!(
        components["main_bitrate"],
        json!({
            "platform": "number", "name": "Bitrate", "unique_id": "peercam-porch-main_bitrate",
            "command_topic": "peercam/porch/set/main_bitrate", "device_class": "data_rate",
            "unit_of_measurement": "kbit/s", "entity_category": "config", "min": 50, "max": 100_000, "step": 1,
            "mode": "box", "value_template": "{{ value_json.cameras[0].settings.bitrate }}",
        })
    );
    assert_eq!(components["main_still"]["topic"], "peercam/porch/snapshot/main");
    assert_eq!(components["main_still"]["name"], Value::Null);
    // The current size is a choice even if the camera has no such mode.
    assert_eq!(components["main_size"]["options"], json!(["320x180", "640x360", "800x450"]));
    assert!(message.to_string().len() < 32 * 1024, "{} bytes", message.to_string().len());
}

#[test]
fn with_several_cameras_each_entity_names_its_camera() {
    let entities = of(&["main", "yard"]);
    let name = |key: &str| entities.iter().find(|entity| entity.key == key).unwrap().config["name"].clone();
    assert_eq!(
        [name("main_bitrate"), name("yard_bitrate"), name("yard_still")],
        ["main Bitrate", "yard Bitrate", "yard"]
    );
    let yard = entities.iter().find(|entity| entity.key == "yard_state").unwrap();
    assert_eq!(yard.config["value_template"], "{{ value_json.cameras[1].state }}");
}

#[test]
fn a_cameras_controls_are_numbers_switches_selects_and_buttons() {
    let entities = of(&["main"]);
    let found: Vec<_> = entities
        .iter()
        .filter(|entity| entity.key.starts_with("main_control_"))
        .map(|entity| (entity.key.trim_start_matches("main_control_"), entity.config["platform"].as_str().unwrap()))
        .collect();
    let expected = [
        ("brightness", "number"),
        ("horizontal_flip", "switch"),
        ("power_line_frequency", "select"),
        ("do_it", "button"),
    ];
    assert_eq!(found, expected, "what cannot be set, or has no entity that suits it, is left out");
    let entity = |key: &str| entities.iter().find(|entity| entity.key.ends_with(key)).unwrap();
    let brightness = entity("brightness");
    assert_eq!(
        brightness.config["value_template"],
        "{{ ((value_json.cameras[0].controls | default({}))['brightness'] | default(none)) }}"
    );
    assert_eq!((&brightness.config["step"], &brightness.config["enabled_by_default"]), (&json!(5), &json!(true)));
    assert_eq!(entity("do_it").config["enabled_by_default"], false);
    let menu = entity("power_line_frequency");
    assert_eq!(menu.config["options"], json!(["Off", "50 \"Hz\""]));
    assert!(menu.config["value_template"].as_str().unwrap().starts_with(r#"{{ {0: "Off", 1: "50 \"Hz\""}.get("#));
    let command = menu.action.as_ref().unwrap().command("h", b"50 \"Hz\"").unwrap();
    let args = json!({ "camera": "main", "control": "power_line_frequency", "value": 1 });
    assert_eq!((&command["command"], &command["args"]), (&json!("set-control"), &args));
}

#[test]
fn the_board_accepts_the_commands_of_all_entities() {
    for entity in of(&["main"]) {
        let Some(action) = entity.action else { continue };
        let value = match entity.config["platform"].as_str().unwrap() {
            "number" => entity.config["max"].to_string(),
            "select" => entity.config["options"][0].as_str().unwrap().to_owned(),
            "switch" => "ON".into(),
            _ => "PRESS".into(),
        };
        let command = action.command("home-1", value.as_bytes()).unwrap();
        let read = crate::command::parse(command.to_string().as_bytes());
        assert!(read.is_ok(), "{}: {command}: {read:?}", entity.key);
    }
}

#[test]
fn missing_parts_have_an_entity_only_if_it_was_announced_before() {
    let mut bare = status(&["main"]);
    for field in ["temperature", "throttling", "wifi", "microphone"] {
        bare.as_object_mut().unwrap().remove(field);
    }
    let has = |announced: &Announced, key: &str| {
        entities(&bare, &Controls::new(), announced, &topics()).iter().any(|entity| entity.key == key)
    };
    let all = ["temperature", "under_voltage", "wifi", "microphone"];
    let before = discovery::announced(&of(&["main"]));
    assert_eq!(all.map(|key| has(&Announced::new(), key)), [false; 4]);
    // Sound that is disabled in the configuration is gone; a figure may come back.
    assert_eq!(all.map(|key| has(&before, key)), [true, true, true, false]);
}

#[test]
fn an_entity_is_removed_by_an_entry_with_its_platform_only() {
    let before = discovery::announced(&of(&["main"]));
    let now = entities(&status(&["main"]), &Controls::new(), &before, &topics());
    let message = message(&now, &before);
    assert_eq!(message["components"]["main_control_brightness"], json!({ "platform": "number" }));
    assert!(message["components"]["main_bitrate"]["unique_id"].is_string());
}

#[test]
fn a_board_removes_only_its_own_announcement() {
    assert!(discovery::is_of("homeassistant/device/peercam-porch/config", "porch"));
    assert!(discovery::is_of("other/prefix/device/peercam-porch/config", "porch"));
    for topic in
        ["homeassistant/device/peercam-yard/config", "peercam/porch/status", "", "device/peercam-porch/config/x"]
    {
        assert!(!discovery::is_of(topic, "porch"), "{topic}");
    }
}
