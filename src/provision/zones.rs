//! Time zones and countries, as far as the board knows them.

use std::fs;
use std::path::Path;

use super::places::Places;

/// How alike two names are from which on one is taken for a slip of the other; 1 is equal.
/// `Europe/Berln` is 0.92 like `Europe/Berlin`, `Berlin` 0.46.
const LIKELY_SLIP: f64 = 0.7;

/// Bytes of a name beyond which nothing like it is looked for: the longest zone has 32, and the search takes as long as
/// both names are long.
const LONGEST_SLIP: usize = 64;

/// Where tzdata has them (zoneinfo(5), tzfile(5)).
pub(super) const ZONES: &str = "usr/share/zoneinfo";

/// What is wrong with the name of a time zone.
pub(super) fn fault(zone: &str, places: &Places) -> Option<String> {
    let directory = places.at(ZONES);
    if !directory.is_dir() {
        return Some("cannot be set: this system has no time zones (Debian's package tzdata)".into());
    }
    // The name becomes a path, which must not lead anywhere else.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_+-/".contains(c);
    let is_inside = zone.chars().all(is_plain) && zone.split('/').all(|part| !part.is_empty());
    if is_inside && is_zone(&directory.join(zone)) {
        return None;
    }
    let mut known = Vec::new();
    collect(&directory, "", &mut known);
    Some(match nearest(zone, &known) {
        Some(nearest) => format!("is not a time zone that this system knows; did you mean {nearest:?}?"),
        None => "is not a time zone that this system knows; one is \"Europe/Berlin\"".into(),
    })
}

/// What is wrong with a country's code.
pub(super) fn country_fault(country: &str, places: &Places) -> Option<String> {
    if country.len() != 2 || !country.chars().all(|c| c.is_ascii_alphabetic()) {
        return Some("is not the two letters of a country, such as \"DE\" (ISO 3166)".into());
    }
    let country = country.to_ascii_uppercase();
    // tzdata has the list too: a line for each, which begins with the code and a tab.
    let Ok(list) = fs::read_to_string(places.at(ZONES).join("iso3166.tab")) else { return None };
    if list.lines().any(|line| line.split('\t').next() == Some(&country)) {
        return None;
    }
    let hint = if country == "UK" { "; the United Kingdom's is \"GB\"" } else { "" };
    Some(format!("{country:?} is no country's code (ISO 3166){hint}"))
}

/// Besides zones there are tables and programs' files. tzfile(5): a zone begins with these four bytes.
fn is_zone(file: &Path) -> bool {
    fs::read(file).is_ok_and(|content| content.starts_with(b"TZif"))
}

fn collect(directory: &Path, prefix: &str, known: &mut Vec<String>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (name, path) = (format!("{prefix}{name}"), entry.path());
        match path.is_dir() {
            // The same zones again, counted in other ways.
            true if name == "posix" || name == "right" => {}
            true => collect(&path, &format!("{name}/"), known),
            false if name.contains('.') => {}
            false => known.push(name),
        }
    }
}

/// Somebody who writes a city only, or in small letters, means the zone of that city.
fn nearest<'k>(zone: &str, known: &'k [String]) -> Option<&'k str> {
    if zone.len() > LONGEST_SLIP {
        return None;
    }
    let wanted = zone.to_ascii_lowercase().replace(' ', "_");
    let likeness = |known: &str| {
        let known = known.to_ascii_lowercase();
        let city = known.rsplit('/').next().unwrap_or(&known);
        strsim::normalized_damerau_levenshtein(&known, &wanted)
            .max(strsim::normalized_damerau_levenshtein(city, &wanted))
    };
    let best = known.iter().map(|known| (likeness(known), known)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(likeness, _)| *likeness >= LIKELY_SLIP).map(|(_, known)| known.as_str())
}
