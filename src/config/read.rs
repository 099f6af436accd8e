//! From TOML to values, with all mistakes of a file at once, each at its line.
//!
//! Each key is read for itself, so that a wrong one does not hide the next. Which keys a table may have is asked
//! of the very types that take them.

use std::fmt;
use std::ops::Range;

use serde::Deserializer;
use serde::de::value::Error as NoValue;
use serde::de::{DeserializeOwned, Error, Visitor};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::wording;

/// How alike two names are from which on one is taken for a slip of the other; 1 is equal.
/// `bitrat` and `bit_rate` are 0.9 like `bitrate`, `colour` is 0.3.
const LIKELY_SLIP: f64 = 0.6;

/// Bytes of a name beyond which nothing like it is looked for: the longest key has 20, and the search takes as long as
/// both names are long.
const LONGEST_SLIP: usize = 64;

/// Mistakes that are named, of a file that has more: a screenful. What is wrong throughout is no configuration, and to
/// look for what was meant by each of its keys takes longer than anybody waits.
const MOST_MISTAKES: usize = 20;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what is allowed, beginning with the key in backquotes where there is one.
    pub message: String,
}

impl Mistake {
    /// The bytes are not UTF-8 from `at` on, counted from 0.
    pub(super) fn not_text(bytes: &[u8], at: usize) -> Self {
        let before = &bytes[..at];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let message = format!(
            "byte {} of the line is 0x{:02x}, which is not UTF-8 text; save the file as UTF-8",
            at - line_start + 1,
            bytes[at]
        );
        Self { line: line_of(before), message }
    }
}

fn line_of(before: &[u8]) -> usize {
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The line of a text in which byte `at` is, counted from 1.
fn line_at(text: &str, at: usize) -> usize {
    line_of(text.get(..at).unwrap_or(text).as_bytes())
}

/// The line of a text in which the value of `key` stands: names with points between them, and for one of a list its
/// number, counted from 0. `None` where it is not there.
pub fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut found) = (Some(root.get_ref()), None);
    let mut list: Option<&DeArray<'_>> = None;
    for part in key.split('.') {
        let value = match (list, table) {
            (Some(list), _) => list.get(part.parse::<usize>().ok()?)?,
            (None, Some(table)) => table.get(part)?,
            (None, None) => return None,
        };
        (table, list) = (value.get_ref().as_table(), value.get_ref().as_array());
        found = Some(value.span().start);
    }
    found.map(|at| line_at(text, at))
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// What a room says of values that cannot be: the key, and what is wrong with it.
pub type Faults = Vec<(&'static str, String)>;

/// A table's name, as written in the file, and the keys it may have.
pub type Section = (&'static str, &'static [&'static str]);

/// One file that is being read.
pub struct Reader<'t> {
    text: &'t str,
    sections: &'t [Section],
    mistakes: Vec<Mistake>,
    /// Those beyond [`MOST_MISTAKES`].
    more: usize,
}

impl<'t> Reader<'t> {
    /// Reads `text`, which may have `sections`.
    ///
    /// # Errors
    ///
    /// The mistakes of syntax. With them the text has no reliable meaning that could be checked further.
    pub fn new(text: &'t str, sections: &'t [Section]) -> Result<(Self, DeTable<'t>), Vec<Mistake>> {
        let mut reader = Self { text, sections, mistakes: Vec::new(), more: 0 };
        let (root, errors) = DeTable::parse_recoverable(text);
        reader.note_syntax(&errors);
        // What stands at the top of a text that is not TOML may be anything, a password for one: it is not named.
        if !reader.mistakes.is_empty() {
            return Err(reader.finish());
        }
        let root = root.into_inner();
        for key in root.keys() {
            if !sections.iter().any(|(name, _)| *name == key.get_ref().as_ref()) {
                let name = key.get_ref();
                reader.note_with(key.span(), |reader| {
                    let hint = reader.hint(name, sections.iter().map(|(name, _)| *name));
                    format!("`{}` is not known at the top of the file{hint}", shortened(name))
                });
            }
        }
        Ok((reader, root))
    }

    /// Notes the first mistake of each line. Behind a list without its end everything reads like more of the list, and
    /// is wrong for no other reason.
    fn note_syntax(&mut self, errors: &[toml::de::Error]) {
        const WITHIN_A_LIST: &str = "missing comma between array elements";
        let is_open = errors.iter().any(|error| error.message().contains("unclosed array"));
        let mut errors: Vec<_> = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
        errors.sort_by_key(|(span, _)| span.start);
        let mut end_of_line = 0;
        for (span, message) in errors {
            if is_open && message.contains(WITHIN_A_LIST) {
                self.note(span, "not TOML: a list that begins above has no end; is its `]` missing?".into());
                return;
            }
            if span.start >= end_of_line {
                let rest = self.text.get(span.start..).unwrap_or_default();
                end_of_line = span.start + rest.find('\n').map_or(rest.len(), |end| end + 1).max(1);
                let message = wording::of_syntax(self.text, span.start, message);
                self.note(span, format!("not TOML: {message}"));
            }
        }
    }

    /// Reads one table; keys that are absent or wrong have their defaults.
    pub fn table<T>(&mut self, name: &str, value: &Spanned<DeValue<'t>>, check: impl Fn(&T) -> Faults) -> T
    where
        T: DeserializeOwned + Default,
    {
        let Some(table) = value.get_ref().as_table() else {
            self.note(value.span(), format!("`{name}` is a table: write [{name}] and its keys below"));
            return T::default();
        };
        self.unknown_keys::<T>(name, table);
        let (mut sound, mut unread) = (DeTable::new(), Vec::new());
        for (key, value) in table.iter().filter(|(key, _)| keys::<T>().contains(&key.get_ref().as_ref())) {
            let mut alone = DeTable::new();
            alone.insert(key.clone(), value.clone());
            match T::deserialize(toml::de::Deserializer::from(Spanned::new(value.span(), alone))) {
                Ok(_) => drop(sound.insert(key.clone(), value.clone())),
                Err(error) => {
                    let (span, key) = (error.span().unwrap_or(value.span()), key.get_ref());
                    let what = wording::of_kind::<T>(key, value, &error, &check);
                    self.note(span, format!("`{name}.{key}`: {what}"));
                    unread.push(format!("`{key}`"));
                }
            }
        }
        let read = T::deserialize(toml::de::Deserializer::from(Spanned::new(value.span(), sound))).unwrap_or_default();
        // What is wrong for want of a key that is there and cannot be read is not wrong by itself.
        let is_by_itself = |message: &String| !unread.iter().any(|key| message.contains(key));
        for (key, message) in check(&read).into_iter().filter(|(_, message)| is_by_itself(message)) {
            let at = table.get(key).map_or(value.span(), Spanned::span);
            self.note(at, format!("`{name}.{key}`: {message}"));
        }
        read
    }

    /// Reads one value that stands by itself; `None` when it is of another kind.
    pub fn value<T: DeserializeOwned>(&mut self, name: &str, value: &Spanned<DeValue<'t>>) -> Option<T> {
        match T::deserialize(toml::de::ValueDeserializer::from(value.clone())) {
            Ok(read) => Some(read),
            Err(error) => {
                let what = wording::of_kind::<T>(name, value, &error, |_| Vec::new());
                self.note(value.span(), format!("`{name}`: {what}"));
                None
            }
        }
    }

    /// Reads an array of tables.
    pub fn tables<T>(&mut self, name: &str, value: &Spanned<DeValue<'t>>, check: impl Fn(&T) -> Faults) -> Vec<T>
    where
        T: DeserializeOwned + Default,
    {
        match value.get_ref().as_array() {
            Some(tables) => tables.iter().map(|table| self.table(name, table, &check)).collect(),
            None => {
                self.note(value.span(), format!("`{name}` can be there several times: write [[{name}]]"));
                Vec::new()
            }
        }
    }

    /// Notes the keys that tables within a value have and `T` does not.
    pub fn unknown_keys_within<T: DeserializeOwned>(&mut self, name: &str, value: &Spanned<DeValue<'t>>) {
        let tables = value.get_ref().as_array().into_iter().flat_map(|array| array.iter());
        for table in tables.filter_map(|value| value.get_ref().as_table()) {
            self.unknown_keys::<T>(name, table);
        }
    }

    /// Notes a mistake that concerns a whole value.
    pub fn note(&mut self, at: Range<usize>, message: String) {
        self.note_with(at, |_| message);
    }

    /// The mistakes, from the top of the file to its end; of many the first that were found, and how many there are.
    pub fn finish(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        if let Some(last) = self.mistakes.last().filter(|_| self.more > 0) {
            let message = format!("and {} more mistakes, here and elsewhere", self.more);
            self.mistakes.push(Mistake { line: last.line, message });
        }
        self.mistakes
    }

    /// Whether there are at most so many tables of this name; else that is noted.
    pub fn has_at_most(&mut self, most: usize, name: &str, value: &Spanned<DeValue<'t>>) -> bool {
        let number = value.get_ref().as_array().map_or(0, |tables| tables.len());
        if number > most {
            self.note(value.span(), format!("`{name}` is there {number} times; {most} times is the most"));
        }
        number <= most
    }

    fn note_with(&mut self, at: Range<usize>, message: impl FnOnce(&Self) -> String) {
        if self.mistakes.len() >= MOST_MISTAKES {
            self.more += 1;
            return;
        }
        let mistake = Mistake { line: line_at(self.text, at.start), message: message(self) };
        self.mistakes.push(mistake);
    }

    fn unknown_keys<T: DeserializeOwned>(&mut self, name: &str, table: &DeTable<'t>) {
        for key in table.keys().filter(|key| !keys::<T>().contains(&key.get_ref().as_ref())) {
            self.note_with(key.span(), |reader| {
                let hint = reader.hint(key.get_ref(), keys::<T>().iter().copied());
                format!("`{}` is not known in `{name}`{hint}", shortened(key.get_ref()))
            });
        }
    }

    /// What was probably meant: a known name that is nearly the same, else the table where that very key belongs.
    fn hint(&self, wrong: &str, known: impl Iterator<Item = &'static str>) -> String {
        let likeness = |name: &str| strsim::normalized_damerau_levenshtein(name, wrong);
        let (mut nearest, mut most) = (None, LIKELY_SLIP);
        let mut all = Vec::new();
        for name in known {
            all.push(name);
            if wrong.len() <= LONGEST_SLIP && likeness(name) >= most {
                (nearest, most) = (Some(name), likeness(name));
            }
        }
        let home = self.sections.iter().find(|(_, keys)| keys.contains(&wrong)).map(|(section, _)| section);
        match (nearest, home) {
            (Some(name), _) => format!("; did you mean `{name}`?"),
            (None, Some(section)) => format!("; it belongs to `{section}`"),
            (None, None) => format!("; known are {}", all.join(", ")),
        }
    }
}

/// As much of a name as is worth repeating.
pub(super) fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_SLIP) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The keys that `T` reads, as its `Deserialize` names them.
pub fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It has no value to give, so it always fails; by then it has been told the keys.
    T::deserialize(Inquiry(&mut keys)).err();
    keys
}

struct Inquiry<'k>(&'k mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Inquiry<'_> {
    type Error = NoValue;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = fields;
        Err(NoValue::custom("asked for its keys only"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("not a table"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
