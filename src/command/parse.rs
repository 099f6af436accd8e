//! From the bytes that came to a [`Request`], or to what is wrong with them and what is allowed.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::Error as NoValue;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use super::MOST_BYTES;
use super::schema::{Command, MOST_ID};

/// How alike two names are from which on one is taken for a slip of the other; 1 is equal. `set-vidoe` is 0.97 like
/// `set-video`, `reboot` is 0.5 like `restart`.
const LIKELY_SLIP: f64 = 0.7;

/// Characters of a reason. What is allowed fits; what came may be of any length and is repeated in it.
const MOST_REASON: usize = 600;

/// A command that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Chosen by the sender: 1 to 64 printable ASCII characters.
    pub id: String,
    /// What is to be done.
    pub command: Command,
}

/// Why something is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The command's, if that much could be read, else empty.
    pub id: String,
    /// What is wrong, where, and what is allowed.
    pub reason: String,
}

/// Reads a command. No input makes it panic, and none takes more than [`MOST_BYTES`] of reading.
///
/// # Errors
///
/// What is wrong, where, and what is allowed.
pub fn parse(text: &[u8]) -> Result<Request, Rejection> {
    let nameless = |reason: String| Rejection { id: String::new(), reason: shortened(reason, MOST_REASON) };
    let mut fields = object(text).map_err(nameless)?;
    let id = id(&mut fields).map_err(nameless)?;
    let once = serde_json::from_slice::<KeysOnce>(text).map(drop);
    match once.map_err(|error| format!("the command is not read: {error}")).and_then(|()| command(fields)) {
        Ok(command) => Ok(Request { id, command }),
        Err(reason) => Err(Rejection { id, reason: shortened(reason, MOST_REASON) }),
    }
}

/// The id of a command that is not to be read further; empty where there is none.
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
        // The first segment is the command's name, which stands elsewhere in what came.
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

/// JSON in whose objects each key stands once. RFC 8259, section 4, leaves open which of two counts: readers differ.
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

impl Request {
    /// As [`parse`] reads it.
    pub fn to_json(&self) -> Value {
        let tagged = serde_json::to_value(&self.command).expect("commands hold nothing that JSON cannot");
        let (name, arguments) = match tagged {
            Value::Object(one) => one.into_iter().next().expect("a command has one name"),
            _ => unreachable!("each command has arguments, be they none"),
        };
        json!({ "id": self.id, "command": name, "args": arguments })
    }
}

impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// The names of all commands, asked of the very type that they are read into.
pub fn names() -> &'static [&'static str] {
    struct Ask(Option<&'static [&'static str]>);
    impl<'de> Deserializer<'de> for &mut Ask {
        type Error = NoValue;

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, NoValue> {
            self.0 = Some(variants);
            Err(NoValue::custom("asked only"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
            Err(NoValue::custom("asked only"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }
    let mut ask = Ask(None);
    Command::deserialize(&mut ask).ok();
    ask.0.unwrap_or_default()
}

fn hint(name: &str) -> String {
    let likeness = |known: &&str| strsim::jaro_winkler(known, name);
    let nearest = names().iter().copied().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    nearest
        .filter(|known| likeness(known) >= LIKELY_SLIP)
        .map(|known| format!(" (is `{known}` meant?)"))
        .unwrap_or_default()
}

fn listed(names: &[&str]) -> impl fmt::Display {
    names.join(", ")
}

/// At most so many characters of it.
pub fn shortened(mut reason: String, most: usize) -> String {
    if let Some((end, _)) = reason.char_indices().nth(most) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}
