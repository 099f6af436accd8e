//! What is said of a value of the wrong kind: in the words of the file, not of the program that reads it.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::read::{Faults, shortened};

/// What is wrong with the syntax at byte `at`, where the library says `said`. What stands there is not repeated: it may be
/// a password.
pub fn of_syntax(text: &str, at: usize, said: &str) -> String {
    let start = text.get(..at).unwrap_or_default().rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let value = line.split_once('=').map(|(_, value)| value.trim());
    match said {
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
        said if said.starts_with("string values must be quoted") => "text needs quotes: \"…\"".into(),
        "duplicate key" if line.trim_start().starts_with('[') => {
            "this table is there a second time; put its keys into the first".into()
        }
        "duplicate key" => "this key is there a second time in its table; keep one".into(),
        said if said.starts_with("unexpected leading zero") => "a number does not begin with 0".into(),
        said if said.starts_with("invalid literal string") || said.starts_with("invalid basic string") => {
            format!("{said}: does the text end with the quote that it begins with?")
        }
        said => said.to_owned(),
    }
}

/// Numbers at the ends of what a key can hold: where a key has limits, its check names them for one of these.
const ENDS: [&str; 5] = ["0", "255", "65535", "4294967295", "9223372036854775807"];

/// What is wrong with the value of `key`, or with one within it. `check` knows the limits of the table's numbers.
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

/// The value that stands at `place`, in a list or table of lists and tables.
fn within<'v, 't>(value: &'v Spanned<DeValue<'t>>, place: &Range<usize>) -> Option<&'v DeValue<'t>> {
    match value.get_ref() {
        found if value.span() == *place => Some(found),
        DeValue::Array(list) => list.iter().find_map(|one| within(one, place)),
        DeValue::Table(table) => table.values().find_map(|one| within(one, place)),
        _ => None,
    }
}

/// What serde wants, in plain words; `None` where it says something else than that a value has the wrong kind.
fn wanted(said: &str) -> Option<&str> {
    let rest = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "))?;
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

/// One word of several is wanted, and another one is there; or what a room says itself.
fn of_variant(said: &str) -> String {
    let parts = said.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "));
    parts.map_or_else(|| said.to_owned(), |(given, known)| format!("{given} is not known; write {known}"))
}

/// The value as it is written, as far as it is worth repeating, and what it is. Passwords do not come here: their type
/// says by itself what it wants.
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

/// What the table's check says of `end` as the value of `key`, behind the number.
fn limits<T: DeserializeOwned>(key: &str, end: &str, check: impl Fn(&T) -> Faults) -> Option<String> {
    let text = format!("{key} = {end}");
    let table = DeTable::parse(&text).ok()?;
    let alone = Spanned::new(table.span(), table.into_inner());
    let read = T::deserialize(toml::de::Deserializer::from(alone)).ok()?;
    let faults = check(&read).into_iter().filter(|(faulty, _)| *faulty == key);
    faults.filter_map(|(_, fault)| fault.strip_prefix(end).map(str::to_owned)).next()
}
