//! Turns a plain value on an entity's topic into a command.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The longest value that is read: the title of a menu's item has at most 31 characters (Linux, `v4l2_querymenu`).
const MOST_BYTES: usize = 256;

/// What Home Assistant sends when a button is pressed, by default.
pub const PRESS: &str = "PRESS";

/// The command of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    command: &'static str,
    args: Map<String, Value>,
    accepts: Accepts,
}

/// The values that an entity's topic accepts.
#[derive(Clone, Debug, PartialEq)]
enum Accepts {
    /// A whole number, for the argument of this name.
    Number(&'static str),
    /// One of these words, with the arguments that it adds.
    Words(BTreeMap<String, Map<String, Value>>),
}

impl Action {
    /// A number becomes the argument `name`.
    pub fn number(command: &'static str, args: Value, name: &'static str) -> Self {
        Self { command, args: object(args), accepts: Accepts::Number(name) }
    }

    /// `ON` and `OFF` become the argument `name`.
    pub fn switch(command: &'static str, args: Value, name: &'static str, [on, off]: [Value; 2]) -> Self {
        Self::words(command, args, [("ON".into(), json!({ name: on })), ("OFF".into(), json!({ name: off }))])
    }

    /// A button press.
    pub fn press(command: &'static str, args: Value) -> Self {
        Self::words(command, args, [(PRESS.into(), json!({}))])
    }

    /// Each word adds arguments.
    pub fn words(command: &'static str, args: Value, words: impl IntoIterator<Item = (String, Value)>) -> Self {
        let words = words.into_iter().map(|(word, adds)| (word, object(adds))).collect();
        Self { command, args: object(args), accepts: Accepts::Words(words) }
    }

    /// The command for `payload`, with this id.
    ///
    /// # Errors
    ///
    /// Which values are allowed.
    pub fn command(&self, id: &str, payload: &[u8]) -> Result<Value, String> {
        let shown = || String::from_utf8_lossy(&payload[..payload.len().min(40)]).into_owned();
        let text = std::str::from_utf8(payload).ok().filter(|text| text.len() <= MOST_BYTES).map(str::trim);
        let mut args = self.args.clone();
        match &self.accepts {
            Accepts::Number(name) => {
                let number = text.and_then(whole).ok_or_else(|| format!("{:?} is no whole number", shown()))?;
                args.insert((*name).into(), number.into());
            }
            Accepts::Words(words) => {
                let adds = text.and_then(|text| words.get(text)).ok_or_else(|| {
                    let known: Vec<_> = words.keys().map(String::as_str).collect();
                    format!("{:?} is not one of {}", shown(), known.join(", "))
                })?;
                args.extend(adds.clone());
            }
        }
        Ok(json!({ "id": id, "command": self.command, "args": args }))
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => unreachable!("arguments are an object, not {other}"),
    }
}

/// Home Assistant writes whole numbers as `5` or, from a template, as `5.0`.
fn whole(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        // Beyond this, a float cannot represent every whole number.
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_become_commands() {
        let bitrate = Action::number("set-video", json!({ "camera": "main" }), "bitrate");
        let privacy = Action::switch("privacy", json!({}), "on", [true.into(), false.into()]);
        let restart = Action::press("restart", json!({ "what": "service" }));
        let size = json!({ "width": 640, "height": 360 });
        let size = Action::words("set-video", json!({ "camera": "main" }), [("640x360".to_owned(), size)]);
        let cases = [
            (&bitrate, "1200", json!({ "camera": "main", "bitrate": 1200 })),
            (&bitrate, " 1200.0 ", json!({ "camera": "main", "bitrate": 1200 })),
            (&bitrate, "-3", json!({ "camera": "main", "bitrate": -3 })),
            (&privacy, "ON", json!({ "on": true })),
            (&privacy, "OFF", json!({ "on": false })),
            (&restart, "PRESS", json!({ "what": "service" })),
            (&size, "640x360", json!({ "camera": "main", "width": 640, "height": 360 })),
        ];
        for (action, payload, args) in cases {
            let command = action.command("h1", payload.as_bytes()).unwrap();
            assert_eq!((&command["id"], &command["args"]), (&"h1".into(), &args), "{payload}");
        }
    }

    #[test]
    fn other_values_are_refused_with_the_allowed_ones() {
        let number = Action::number("set-video", json!({}), "bitrate");
        let switch = Action::switch("privacy", json!({}), "on", [true.into(), false.into()]);
        for payload in ["", "abc", "1.5", "1e300", "NaN", "inf", "0x10"] {
            assert!(number.command("h", payload.as_bytes()).unwrap_err().ends_with("is no whole number"), "{payload}");
        }
        for payload in [&b"on"[..], b"", b"\xff\xfe", &[b'O'; 10_000]] {
            assert!(switch.command("h", payload).unwrap_err().ends_with("is not one of OFF, ON"), "{payload:?}");
        }
    }
}
