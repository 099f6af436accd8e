//! All MQTT topics, each defined once.

/// The topics of one device: `<prefix>/<device>/..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    root: String,
}

impl Topics {
    /// The topics of `device` under `prefix`, neither of which has a wildcard.
    pub fn new(prefix: &str, device: &str) -> Self {
        Self { root: format!("{prefix}/{device}") }
    }

    fn of(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    /// Whether `topic` is one of the device's.
    pub fn is_own(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Retained, last will: `online` or `offline`.
    pub fn availability(&self) -> String {
        self.of("availability")
    }

    /// Retained: the status document.
    pub fn status(&self) -> String {
        self.of("status")
    }

    /// Commands from operators.
    pub fn command(&self) -> String {
        self.of("command")
    }

    /// The outcomes of commands.
    pub fn outcome(&self) -> String {
        self.of("outcome")
    }

    /// Events.
    pub fn event(&self) -> String {
        self.of("event")
    }

    /// Retained: the newest still picture of a camera, as JPEG.
    pub fn snapshot(&self, camera: &str) -> String {
        self.of(&format!("snapshot/{camera}"))
    }

    /// The device's messages to itself, which detect that it no longer receives anything.
    pub fn self_check(&self) -> String {
        self.of("self-check")
    }

    /// Plain values from a home automation system; `name` is the entity.
    pub fn set(&self, name: &str) -> String {
        self.of(&format!("set/{name}"))
    }

    /// Retained, for the device itself: what it announced to Home Assistant.
    pub fn home_assistant(&self) -> String {
        self.of("home-assistant")
    }

    /// Signalling messages of all viewers.
    pub fn from_viewers(&self) -> String {
        self.of("viewer/+/to-device")
    }

    /// The viewer that a signalling topic belongs to.
    pub fn viewer_of<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let rest = topic.strip_prefix(&self.root)?.strip_prefix("/viewer/")?;
        rest.strip_suffix("/to-device").filter(|viewer| !viewer.is_empty() && !viewer.contains('/'))
    }

    /// Signalling messages for one viewer.
    pub fn to_viewer(&self, viewer: &str) -> String {
        self.of(&format!("viewer/{viewer}/to-viewer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_as_documented() {
        let topics = Topics::new("peercam", "front-door");
        assert_eq!(topics.availability(), "peercam/front-door/availability");
        assert_eq!(topics.from_viewers(), "peercam/front-door/viewer/+/to-device");
        assert_eq!(topics.to_viewer("anna"), "peercam/front-door/viewer/anna/to-viewer");
        assert_eq!(topics.viewer_of("peercam/front-door/viewer/anna/to-device"), Some("anna"));
    }

    #[test]
    fn a_topic_of_another_kind_has_no_viewer() {
        let topics = Topics::new("peercam", "front-door");
        for topic in [
            "peercam/front-door/viewer//to-device",
            "peercam/front-door/viewer/a/b/to-device",
            "peercam/front-doors/viewer/a/to-device",
            "peercam/front-door/command",
            "",
        ] {
            assert_eq!(topics.viewer_of(topic), None, "{topic}");
        }
    }
}
