//! Reads TOML into values, and reports all mistakes of a file at once, each with its line.
//!
//! Each key is read separately, so that a wrong one does not hide the next. The keys of a table come from the type that
//! it is read into.

use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::messages::{self, Faults};
use crate::names::{self, shortened};

/// The most mistakes that are reported for one file: a screenful. A file with more is probably not a configuration, and
/// a suggestion for each of its keys would take too long.
const MOST_MISTAKES: usize = 20;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// The fault and the allowed values, after the key in backquotes if there is one.
    pub message: String,
}

impl Mistake {
    /// The mistake of text that is not UTF-8 from byte `at` on, counted from 0.
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

/// The line of a text that byte `at` is in, counted from 1.
fn line_at(text: &str, at: usize) -> usize {
    line_of(text.get(..at).unwrap_or(text).as_bytes())
}

/// The line with the value of `key`: names separated by dots, and for an element of a list its number, counted from 0.
/// `None` if the key is absent.
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

/// The name of a table, as in the file, and its keys.
pub type Section = (&'static str, &'static [&'static str]);

/// One file that is being read.
pub struct Reader<'t> {
    text: &'t str,
    sections: &'t [Section],
    mistakes: Vec<Mistake>,
    /// Number of mistakes beyond [`MOST_MISTAKES`].
    more: usize,
}

impl<'t> Reader<'t> {
    /// Reads `text`, which may have `sections`.
    ///
    /// # Errors
    ///
    /// The syntax errors. A text with syntax errors has no reliable meaning that could be checked further.
    pub fn new(text: &'t str, sections: &'t [Section]) -> Result<(Self, DeTable<'t>), Vec<Mistake>> {
        let mut reader = Self { text, sections, mistakes: Vec::new(), more: 0 };
        let (root, errors) = DeTable::parse_recoverable(text);
        reader.note_syntax(&errors);
        // The top of a text that is not TOML may be anything, such as a password: it is not repeated.
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

    /// Records the first mistake of each line. After an unclosed list all lines look like elements of it, and are wrong
    /// for no other reason.
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
                let message = messages::of_syntax(self.text, span.start, message);
                self.note(span, format!("not TOML: {message}"));
            }
        }
    }

    /// Reads one table; keys that are absent or wrong get their defaults.
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
        for (key, value) in table.iter().filter(|(key, _)| names::of::<T>().contains(&key.get_ref().as_ref())) {
            let mut alone = DeTable::new();
            alone.insert(key.clone(), value.clone());
            match T::deserialize(toml::de::Deserializer::from(Spanned::new(value.span(), alone))) {
                Ok(_) => drop(sound.insert(key.clone(), value.clone())),
                Err(error) => {
                    let (span, key) = (error.span().unwrap_or(value.span()), key.get_ref());
                    let what = messages::of_kind::<T>(key, value, &error, &check);
                    self.note(span, format!("`{name}.{key}`: {what}"));
                    unread.push(format!("`{key}`"));
                }
            }
        }
        let read = T::deserialize(toml::de::Deserializer::from(Spanned::new(value.span(), sound))).unwrap_or_default();
        // A fault that is the consequence of an unreadable key is not reported.
        let is_independent = |message: &String| !unread.iter().any(|key| message.contains(key));
        for (key, message) in check(&read).into_iter().filter(|(_, message)| is_independent(message)) {
            let at = table.get(key).map_or(value.span(), Spanned::span);
            self.note(at, format!("`{name}.{key}`: {message}"));
        }
        read
    }

    /// Reads a single value; `None` if it is of the wrong type.
    pub fn value<T: DeserializeOwned>(&mut self, name: &str, value: &Spanned<DeValue<'t>>) -> Option<T> {
        match T::deserialize(toml::de::ValueDeserializer::from(value.clone())) {
            Ok(read) => Some(read),
            Err(error) => {
                let what = messages::of_kind::<T>(name, value, &error, |_| Vec::new());
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

    /// Records keys of tables within a value that `T` does not have.
    pub fn unknown_keys_within<T: DeserializeOwned>(&mut self, name: &str, value: &Spanned<DeValue<'t>>) {
        let tables = value.get_ref().as_array().into_iter().flat_map(|array| array.iter());
        for table in tables.filter_map(|value| value.get_ref().as_table()) {
            self.unknown_keys::<T>(name, table);
        }
    }

    /// Records a mistake that concerns a whole value.
    pub fn note(&mut self, at: Range<usize>, message: String) {
        self.note_with(at, |_| message);
    }

    /// The mistakes in the order of their lines; of many, the first that were found, and the number of others.
    pub fn finish(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        if let Some(last) = self.mistakes.last().filter(|_| self.more > 0) {
            let message = format!("and {} more mistakes, here and elsewhere", self.more);
            self.mistakes.push(Mistake { line: last.line, message });
        }
        self.mistakes
    }

    /// Whether there are at most `most` tables of this name. Records a mistake otherwise.
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
        for key in table.keys().filter(|key| !names::of::<T>().contains(&key.get_ref().as_ref())) {
            self.note_with(key.span(), |reader| {
                let hint = reader.hint(key.get_ref(), names::of::<T>().iter().copied());
                format!("`{}` is not known in `{name}`{hint}", shortened(key.get_ref()))
            });
        }
    }

    /// A suggestion: a known name that is similar, otherwise the table to which the key belongs.
    fn hint(&self, wrong: &str, known: impl Iterator<Item = &'static str>) -> String {
        let known: Vec<_> = known.collect();
        let nearest = names::nearest(wrong, known.iter().copied());
        let home = self.sections.iter().find(|(_, keys)| keys.contains(&wrong)).map(|(section, _)| section);
        match (nearest, home) {
            (Some(name), _) => format!("; did you mean `{name}`?"),
            (None, Some(section)) => format!("; it belongs to `{section}`"),
            (None, None) => format!("; known are {}", known.join(", ")),
        }
    }
}
