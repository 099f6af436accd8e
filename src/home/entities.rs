//! The entities of a board: the part of the status that each shows, and its command.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::action::{Action, PRESS};
use crate::mqtt::Topics;

/// The controls of each camera, by its name, as the command `list-controls` returns them.
pub type Controls = BTreeMap<String, Vec<Value>>;

/// Entities that were announced at some time: their platforms, by key.
pub type Announced = BTreeMap<String, String>;

/// Common controls. The others are announced too, but disabled until a person enables them in Home Assistant: a camera
/// may have fifty.
const COMMON_CONTROLS: [&str; 20] = [
    "auto_exposure",
    "backlight_compensation",
    "brightness",
    "contrast",
    "exposure_time_absolute",
    "focus_absolute",
    "focus_automatic_continuous",
    "gain",
    "gamma",
    "horizontal_flip",
    "hue",
    "pan_absolute",
    "power_line_frequency",
    "saturation",
    "sharpness",
    "tilt_absolute",
    "vertical_flip",
    "white_balance_automatic",
    "white_balance_temperature",
    "zoom_absolute",
];

/// Group of an entity on the device's page in Home Assistant.
const CONFIG: &str = "config";
/// See [`CONFIG`].
const DIAGNOSTIC: &str = "diagnostic";

/// One entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Unique within the device; the last level of the topic on which it receives values.
    pub key: String,
    /// As documented for its platform, except for the options that all entities have.
    pub config: Map<String, Value>,
    /// The command for a value; `None` if the entity only shows the status.
    pub action: Option<Action>,
}

impl Entity {
    fn new(platform: &str, key: impl Into<String>, name: impl Into<Value>) -> Self {
        let mut config = Map::new();
        config.insert("platform".into(), platform.into());
        config.insert("name".into(), name.into());
        Self { key: key.into(), config, action: None }
    }

    fn with(mut self, option: &str, value: impl Into<Value>) -> Self {
        self.config.insert(option.into(), value.into());
        self
    }

    fn with_action(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }

    /// Shows the result of a template for the status.
    fn with_template(self, template: impl AsRef<str>) -> Self {
        self.with("value_template", format!("{{{{ {} }}}}", template.as_ref()))
    }

    /// Shows `ON` if this holds for the status.
    fn on_if(self, condition: &str) -> Self {
        self.with_template(format!("'ON' if {condition} else 'OFF'"))
    }
}

/// All entities of a board with this status. A figure that was `announced` once stays, such as Wi-Fi while no network
/// is in reach.
pub fn entities(status: &Value, controls: &Controls, announced: &Announced, topics: &Topics) -> Vec<Entity> {
    let cameras = status["cameras"].as_array().map_or(&[][..], Vec::as_slice);
    let mut entities = board(status, announced, topics);
    for (place, camera) in cameras.iter().enumerate() {
        let Some(name) = camera["name"].as_str() else { continue };
        let label = if cameras.len() > 1 { format!("{name} ") } else { String::new() };
        let place = Place { name, label, path: format!("value_json.cameras[{place}]") };
        entities.extend(place.entities(camera, topics));
        let listed = controls.get(name).map_or(&[][..], Vec::as_slice);
        entities.extend(listed.iter().filter_map(|control| place.control(control)));
    }
    entities
}

/// The entities of the board itself.
fn board(status: &Value, announced: &Announced, topics: &Topics) -> Vec<Entity> {
    let sensor = |key: &str, name: &str| Entity::new("sensor", key, name);
    let figure = |key: &str, name: &str| sensor(key, name).with("entity_category", DIAGNOSTIC);
    let measured = |entity: Entity| entity.with("state_class", "measurement");
    let button = |key: &str, name: &str| Entity::new("button", key, name).with("payload_press", PRESS);
    let privacy = Action::switch("privacy", json!({}), "on", [true.into(), false.into()]);
    let mut entities = vec![
        measured(sensor("viewers", "Viewers")).with_template("value_json.viewers.count"),
        measured(sensor("sent", "Sent"))
            .with("device_class", "data_rate")
            .with("unit_of_measurement", "kbit/s")
            .with_template("(value_json.viewers.bitrate / 1000) | round | int"),
        figure("uptime", "Uptime")
            .with("device_class", "duration")
            .with("unit_of_measurement", "s")
            .with_template("value_json.uptime"),
        measured(figure("memory", "Memory"))
            .with("device_class", "data_size")
            .with("unit_of_measurement", "MB")
            .with_template(
                "(value_json.memory.process / 1000000) | round(1) if value_json.memory.process is defined else none",
            ),
        // A state in Home Assistant has at most 255 characters.
        figure("health", "Health").with_template("value_json.health[:255]"),
        Entity::new("binary_sensor", "problem", "Problem")
            .with("device_class", "problem")
            .on_if("value_json.health != 'ok'"),
        // It reports that the board is offline, so it must not become unavailable itself then.
        Entity::new("binary_sensor", "connectivity", "Connectivity")
            .with("device_class", "connectivity")
            .with("entity_category", DIAGNOSTIC)
            .with("state_topic", topics.availability())
            .with("availability_template", "{{ 'online' }}")
            .with("payload_on", "online")
            .with("payload_off", "offline"),
        Entity::new("switch", "privacy", "Privacy").on_if("value_json.privacy").with_action(privacy),
        button("restart", "Restart")
            .with("device_class", "restart")
            .with("entity_category", CONFIG)
            .with_action(Action::press("restart", json!({ "what": "service" }))),
        button("identify", "Identify")
            .with("device_class", "identify")
            .with("entity_category", DIAGNOSTIC)
            .with_action(Action::press("identify", json!({}))),
    ];
    // Figures that some boards do not have.
    let has = |field: &str, key: &str| status.get(field).is_some() || announced.contains_key(key);
    // The first status has neither yet.
    let cpu = "value_json.cpu.board | default(value_json.cpu.process) | default(none)";
    entities.push(measured(figure("cpu", "Processor")).with("unit_of_measurement", "%").with_template(cpu));
    if has("temperature", "temperature") {
        let celsius = measured(figure("temperature", "Temperature")).with("device_class", "temperature");
        entities
            .push(celsius.with("unit_of_measurement", "°C").with_template("value_json.temperature | default(none)"));
    }
    if has("wifi", "wifi") {
        let signal = measured(figure("wifi", "Wi-Fi signal")).with("device_class", "signal_strength");
        entities.push(
            signal
                .with("unit_of_measurement", "dBm")
                .with_template("(value_json.wifi | default({})).signal | default(none)"),
        );
    }
    if has("throttling", "under_voltage") {
        let voltage = Entity::new("binary_sensor", "under_voltage", "Under-voltage").with("device_class", "problem");
        let voltage = voltage.with("entity_category", DIAGNOSTIC);
        entities.push(voltage.on_if("'under-voltage' in (value_json.throttling | default({'now': []})).now"));
    }
    if status.get("microphone").is_some() {
        let microphone = Action::switch("set-audio", json!({}), "on", [true.into(), false.into()]);
        let switch = Entity::new("switch", "microphone", "Microphone");
        entities.push(switch.on_if("value_json.microphone.settings.on").with_action(microphone));
    }
    entities
}

/// A camera, and its path in the status.
struct Place<'s> {
    name: &'s str,
    /// Its name and a space if there are several cameras.
    label: String,
    path: String,
}

impl Place<'_> {
    fn key(&self, what: &str) -> String {
        format!("{}_{what}", self.name)
    }

    fn label(&self, what: &str) -> String {
        format!("{}{what}", self.label)
    }

    fn entity(&self, platform: &str, key: &str, label: &str) -> Entity {
        Entity::new(platform, self.key(key), self.label(label))
    }

    fn args(&self) -> Value {
        json!({ "camera": self.name })
    }

    fn entities(&self, camera: &Value, topics: &Topics) -> Vec<Entity> {
        let path = &self.path;
        // Without a name of its own, the still picture has that of the device.
        let still = if self.label.is_empty() { Value::Null } else { self.name.into() };
        let snapshot = json!({ "camera": self.name, "to": "topic" });
        let button = |key, label| self.entity("button", key, label).with("payload_press", PRESS);
        let states = ["idle", "starting", "live", "waiting", "private"];
        let mut entities = vec![
            Entity::new("camera", self.key("still"), still).with("topic", topics.snapshot(self.name)),
            button("snapshot", "Snapshot").with_action(Action::press("snapshot", snapshot)),
            button("key_frame", "Key frame")
                .with("entity_category", DIAGNOSTIC)
                .with_action(Action::press("key-frame", self.args())),
            self.entity("sensor", "state", "State")
                .with("device_class", "enum")
                .with("options", states.as_slice())
                .with_template(format!("{path}.state")),
            self.entity("number", "bitrate", "Bitrate")
                .with("device_class", "data_rate")
                .with("unit_of_measurement", "kbit/s")
                .with("entity_category", CONFIG)
                // The range that the command `set-video` accepts.
                .with("min", 50)
                .with("max", 100_000)
                .with("step", 1)
                .with("mode", "box")
                .with_template(format!("{path}.settings.bitrate"))
                .with_action(Action::number("set-video", self.args(), "bitrate")),
        ];
        entities.extend(self.size(camera));
        entities
    }

    /// A choice among the sizes of the camera and the one that it is set to.
    fn size(&self, camera: &Value) -> Option<Entity> {
        let side = |name: &str| camera["settings"][name].as_u64();
        let present = (side("width")?, side("height")?);
        let sizes = camera["sizes"].as_array()?.iter().filter_map(|size| {
            let (width, height) = size.as_str()?.split_once('x')?;
            Some((width.parse().ok()?, height.parse().ok()?))
        });
        let mut sizes: Vec<(u64, u64)> = sizes.chain([present]).collect();
        sizes.sort_by_key(|(width, height)| (width * height, *width));
        sizes.dedup();
        let words: Vec<_> = sizes.iter().map(|(width, height)| format!("{width}x{height}")).collect();
        let adds = sizes.iter().map(|(width, height)| json!({ "width": width, "height": height }));
        let action = Action::words("set-video", self.args(), words.iter().cloned().zip(adds));
        let path = &self.path;
        let select = self.entity("select", "size", "Size").with("entity_category", CONFIG).with("options", words);
        Some(select.with_template(format!("{path}.settings.width ~ 'x' ~ {path}.settings.height")).with_action(action))
    }

    /// The entity for a control of the camera; none for a read-only one.
    fn control(&self, control: &Value) -> Option<Entity> {
        let (name, title) = (control["name"].as_str()?, control["title"].as_str()?);
        if name.is_empty() || control["access"] == "read-only" {
            return None;
        }
        let args = json!({ "camera": self.name, "control": name });
        // A value that is not known yet is none, which Home Assistant shows as unknown.
        let value = format!("(({}.controls | default({{}}))['{name}'] | default(none))", self.path);
        let key = format!("control_{name}");
        let entity = |platform| self.entity(platform, &key, title);
        let entity = match control["kind"].as_str()? {
            "integer" => {
                let (minimum, maximum) = (control["minimum"].as_i64()?, control["maximum"].as_i64()?);
                if maximum <= minimum {
                    return None;
                }
                entity("number")
                    .with("min", minimum)
                    .with("max", maximum)
                    .with("step", control["step"].as_u64()?.max(1))
                    .with_template(value)
                    .with_action(Action::number("set-control", args, "value"))
            }
            "boolean" => entity("switch")
                .with_template(format!("{{1: 'ON', 0: 'OFF'}}.get({value})"))
                .with_action(Action::switch("set-control", args, "value", [1.into(), 0.into()])),
            "menu" => {
                let (words, names) = menu(control)?;
                let options: Vec<_> = words.iter().map(|(word, _)| word.clone()).collect();
                let words = words.into_iter().map(|(word, value)| (word, json!({ "value": value })));
                entity("select")
                    .with("options", options)
                    .with_template(format!("{{{names}}}.get({value})"))
                    .with_action(Action::words("set-control", args, words))
            }
            "button" => {
                let args = json!({ "camera": self.name, "control": name, "value": 1 });
                entity("button").with("payload_press", PRESS).with_action(Action::press("set-control", args))
            }
            // No entity suits a set of bits.
            _ => return None,
        };
        Some(entity.with("entity_category", CONFIG).with("enabled_by_default", COMMON_CONTROLS.contains(&name)))
    }
}

/// The titles of a menu with their values, and the same as the inside of a template's mapping. A repeated title counts
/// once.
fn menu(control: &Value) -> Option<(Vec<(String, i64)>, String)> {
    let mut words: Vec<(String, i64)> = Vec::new();
    for choice in control["menu"].as_array()? {
        let (title, value) = (choice["title"].as_str()?, choice["value"].as_i64()?);
        if !title.is_empty() && !words.iter().any(|(known, _)| known == title) {
            words.push((title.into(), value));
        }
    }
    // A JSON string is a valid Jinja string too.
    let names: Vec<_> = words.iter().map(|(title, value)| format!("{value}: {}", json!(title))).collect();
    (!words.is_empty()).then(|| (words, names.join(", ")))
}
