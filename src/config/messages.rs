//! Messages about syntax errors and values of the wrong type, in the terms of the file.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use crate::names::shortened;

/// Invalid values that a module found: the key, and the fault.
pub type Faults = Vec<(&'static str, String)>;

/// The message about a syntax error at byte `at`, given that of the library. The text there is not repeated: it may be
/// a password.
pub fn of_syntax(text: &str, at: usize, library: &str) -> String {
    let start = text.get(..at).unwrap_or_default().rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let value = line.split_once('=').map(|(_, value)| value.trim());
    match library {
        _ if line.trim_start().starts_with('{') && start == 0 => {
            "this is JSON; tables are [NAME] here, and keys NAME = VALUE".into()
        }
        _ if value.is_some_and(|value| value.is_empty() || value.starts_with('#')) => {
            "there is no value after `=`; write one, or remove the line".into()
        }
        _ if value.is_some_and(|value| value.starts_with(['“', '”', '„', '‘', '’', '«'])) => {
            "text stands in straight quotes (\"), not in those of a text processor".into()
        }
        _ if value.is_none() && line.contains(':') && !line.trim_start().starts_with('[') => {
            "a key and its value have `=` between them, not `:`; tables are [NAME]".into()
        }
        message if message.starts_with("string values must be quoted") => "text needs quotes: \"…\"".into(),
        "duplicate key" if line.trim_start().starts_with('[') => {
            "this table is there a second time; put its keys into the first".into()
        }
        "duplicate key" => "this key is there a second time in its table; keep one".into(),
        message if message.starts_with("unexpected leading zero") => "a number does not begin with 0".into(),
        message if message.starts_with("invalid literal string") || message.starts_with("invalid basic string") => {
            format!("{message}: does the text end with the quote that it begins with?")
        }
        message => message.to_owned(),
    }
}

/// The limits of the integer types: if a key has limits, its check names them for one of these.
const ENDS: [&str; 5] = ["0", "255", "65535", "4294967295", "9223372036854775807"];

/// The fault of the value of `key`, or of a value within it. `check` knows the limits of the table's numbers.
pub fn of_kind<T>(key: &str, value: &Spanned<DeValue<'_>>, error: &Error, check: impl Fn(&T) -> Faults) -> String
where
    T: DeserializeOwned,
{
    let Some(wanted) = wanted(error.message()) else { return of_variant(error.message()) };
    let place = error.span().unwrap_or(value.span());
    let value = within(value, &place).unwrap_or(value.get_ref());
    let (shown, kind) = shown(value);
    if wanted != WHOLE_NUMBER {
        return format!("{shown} is {kind}; {wanted} is needed");
    }
    let number = value.as_integer().map(|number| number.to_string());
    let is_negative = number.as_ref().is_some_and(|number| number.starts_with('-'));
    let limits = |end: &&str| limits::<T>(key, end, &check);
    let found = if is_negative { ENDS.iter().find_map(limits) } else { ENDS.iter().rev().find_map(limits) };
    match (number, found) {
        (Some(number), Some(limits)) => format!("{number}{limits}"),
        (Some(number), None) => format!("{number} is too {}", if is_negative { "small" } else { "large" }),
        (None, limits) => {
            let from = limits.and_then(|text| {
                let at = text.find(" from ").or_else(|| text.find(" within "))?;
                Some(format!(",{}", &text[at..]))
            });
            format!("{shown} is {kind}; {wanted} is needed{}", from.unwrap_or_default())
        }
    }
}

const WHOLE_NUMBER: &str = "a whole number";

/// The value at `place`, in a list or table of lists and tables.
fn within<'v, 't>(value: &'v Spanned<DeValue<'t>>, place: &Range<usize>) -> Option<&'v DeValue<'t>> {
    match value.get_ref() {
        found if value.span() == *place => Some(found),
        DeValue::Array(list) => list.iter().find_map(|one| within(one, place)),
        DeValue::Table(table) => table.values().find_map(|one| within(one, place)),
        _ => None,
    }
}

/// The expected type, in plain words; `None` if the message is not about a value of the wrong type.
fn wanted(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (_, wanted) = rest.rsplit_once(", expected ")?;
    Some(match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => WHOLE_NUMBER,
        "f32" | "f64" => "a number",
        "a string" | "path string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list in [ ]",
        "a map" => "a table",
        other => other.strip_prefix("struct ").map_or(other, |_| "a table"),
    })
}

/// The message about a word that is not one of the expected ones; other messages stay as they are.
fn of_variant(message: &str) -> String {
    let parts = message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "));
    parts.map_or_else(|| message.to_owned(), |(given, known)| format!("{given} is not known; write {known}"))
}

/// The value as in the file, shortened if it is long, and its type. Never a password: its type has a message of its
/// own.
fn shown(value: &DeValue<'_>) -> (String, &'static str) {
    match value {
        DeValue::String(text) => (format!("{:?}", shortened(text)), "text"),
        DeValue::Integer(number) => (shortened(&number.to_string()), "a number"),
        DeValue::Float(number) => (shortened(number.as_str()), "a number with a point or an exponent"),
        DeValue::Boolean(value) => (value.to_string(), "neither number nor text"),
        DeValue::Datetime(time) => (time.to_string(), "a date"),
        DeValue::Array(_) => ("what stands there".into(), "a list"),
        DeValue::Table(_) => ("what stands there".into(), "a table"),
    }
}

/// The message of the table's check for `end` as the value of `key`, without the number.
fn limits<T: DeserializeOwned>(key: &str, end: &str, check: impl Fn(&T) -> Faults) -> Option<String> {
    let text = format!("{key} = {end}");
    let table = DeTable::parse(&text).ok()?;
    let alone = Spanned::new(table.span(), table.into_inner());
    let read = T::deserialize(toml::de::Deserializer::from(alone)).ok()?;
    let faults = check(&read).into_iter().filter(|(faulty, _)| *faulty == key);
    faults.filter_map(|(_, fault)| fault.strip_prefix(end).map(str::to_owned)).next()
}
