//! Parses the bytes of a command, or reports the mistake in them and the allowed values.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use super::MOST_BYTES;
use super::schema::{Command, MOST_ID};

/// The most characters of a reason. The allowed values fit; the wrong value, which it repeats, may have any length.
const MOST_REASON: usize = 600;

/// A command with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Chosen by the sender: 1 to 64 printable ASCII characters.
    pub id: String,
    /// The command.
    pub command: Command,
}

/// Why something is not a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The command's id, if that much could be read, otherwise empty.
    pub id: String,
    /// The mistake, its place, and the allowed values.
    pub reason: String,
}

/// Parses a command. No input makes it panic, and none longer than [`MOST_BYTES`] is parsed.
///
/// # Errors
///
/// The mistake, its place, and the allowed values.
pub fn parse(text: &[u8]) -> Result<Parsed, Rejection> {
    let nameless = |reason: String| Rejection { id: String::new(), reason: shortened(reason, MOST_REASON) };
    let mut fields = object(text).map_err(nameless)?;
    let id = id(&mut fields).map_err(nameless)?;
    let once = serde_json::from_slice::<KeysOnce>(text).map(drop);
    match once.map_err(|error| format!("the command is not read: {error}")).and_then(|()| command(fields)) {
        Ok(command) => Ok(Parsed { id, command }),
        Err(reason) => Err(Rejection { id, reason: shortened(reason, MOST_REASON) }),
    }
}

/// The id of a command that is not parsed further; empty if there is none.
pub fn id_of(text: &[u8]) -> String {
    object(text).and_then(|mut fields| id(&mut fields)).unwrap_or_default()
}

fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    if text.len() > MOST_BYTES {
        return Err(format!("the command has {} bytes; at most {MOST_BYTES} are read", text.len()));
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| format!("the command is not UTF-8 text (byte {} is wrong)", error.valid_up_to() + 1))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(r#"the command is not an object; send {"id":"1","command":"get-status"}"#.into()),
        Err(error) => Err(format!(r#"the command is not JSON ({error}); send {{"id":"1","command":"get-status"}}"#)),
    }
}

fn id(fields: &mut Map<String, Value>) -> Result<String, String> {
    let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    match fields.remove("id") {
        Some(Value::String(id)) if (1..=MOST_ID).contains(&id.len()) && id.bytes().all(is_printable) => Ok(id),
        Some(_) => Err(format!("`id` is not a text of 1 to {MOST_ID} printable ASCII characters")),
        None => {
            Err(format!("`id` is missing: a text of 1 to {MOST_ID} printable ASCII characters, new for each command"))
        }
    }
}

fn command(mut fields: Map<String, Value>) -> Result<Command, String> {
    if fields.remove("type").is_some_and(|kind| kind != "command") {
        return Err("`type` is not `command`, which it is for all commands".into());
    }
    let arguments = fields.remove("args").filter(|arguments| !arguments.is_null()).unwrap_or_else(|| json!({}));
    let name = match fields.remove("command") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(format!("`command` is not a text; it is one of {}", listed(names()))),
        None => return Err(format!("`command` is missing; it is one of {}", listed(names()))),
    };
    if let Some(unknown) = fields.keys().next() {
        return Err(format!("`{unknown}` is not known; a command has `id`, `command` and `args`"));
    }
    if !names().contains(&name.as_str()) {
        return Err(format!("no command is called `{name}`{}; there is: {}", hint(&name), listed(names())));
    }
    if !arguments.is_object() {
        return Err(format!("`args` of {name} is not an object, such as {{\"camera\":\"main\"}}"));
    }
    let tagged = json!({ name: arguments });
    serde_path_to_error::deserialize(tagged).map_err(|error| {
        let mut path = String::from("args");
        // The first segment is the command's name, which is elsewhere in the input.
        for segment in error.path().iter().skip(1) {
            match segment {
                Segment::Map { key } => path.extend([".", key]),
                Segment::Seq { index } => path.push_str(&format!("[{index}]")),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        format!("`{path}`: {}", error.inner())
    })
}

/// JSON in whose objects each key occurs once. With two equal keys parsers differ (RFC 8259, section 4).
struct KeysOnce;

impl<'de> Deserialize<'de> for KeysOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for KeysOnce {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("`{key}` is there twice")));
            }
            keys.insert(key);
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

impl Parsed {
    /// The JSON that [`parse`] reads.
    pub fn to_json(&self) -> Value {
        let tagged = serde_json::to_value(&self.command).expect("a command can be written as JSON");
        let (name, arguments) = match tagged {
            Value::Object(one) => one.into_iter().next().expect("a command has one name"),
            _ => unreachable!("a command is an object with its arguments, if only none"),
        };
        json!({ "id": self.id, "command": name, "args": arguments })
    }
}

/// The names of all commands.
pub fn names() -> &'static [&'static str] {
    crate::names::of::<Command>()
}

fn hint(name: &str) -> String {
    let nearest = crate::names::nearest(name, names().iter().copied());
    nearest.map(|known| format!(" (is `{known}` meant?)")).unwrap_or_default()
}

fn listed(names: &[&str]) -> impl fmt::Display {
    names.join(", ")
}

/// The text, cut to at most `most` characters.
pub fn shortened(mut reason: String, most: usize) -> String {
    if let Some((end, _)) = reason.char_indices().nth(most) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}
