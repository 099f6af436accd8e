//! Checks time zones and countries against the board's tzdata.

use std::fs;
use std::path::Path;

use super::paths::Paths;
use crate::names;

/// The directory of tzdata (zoneinfo(5), tzfile(5)).
pub(super) const ZONES: &str = "usr/share/zoneinfo";

/// The fault of a time zone's name, if it has one.
pub(super) fn fault(zone: &str, paths: &Paths) -> Option<String> {
    let directory = paths.at(ZONES);
    if !directory.is_dir() {
        return Some("cannot be set: this system has no time zones (Debian's package tzdata)".into());
    }
    // The name becomes a path, which must not leave the directory.
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

/// The fault of a country code, if it has one.
pub(super) fn country_fault(country: &str, paths: &Paths) -> Option<String> {
    if country.len() != 2 || !country.chars().all(|c| c.is_ascii_alphabetic()) {
        return Some("is not the two letters of a country, such as \"DE\" (ISO 3166)".into());
    }
    let country = country.to_ascii_uppercase();
    // tzdata has the list too: a line for each country, which begins with the code and a tab.
    let Ok(list) = fs::read_to_string(paths.at(ZONES).join("iso3166.tab")) else { return None };
    if list.lines().any(|line| line.split('\t').next() == Some(&country)) {
        return None;
    }
    let hint = if country == "UK" { "; the United Kingdom's is \"GB\"" } else { "" };
    Some(format!("{country:?} is no country's code (ISO 3166){hint}"))
}

/// The directory has other files too. tzfile(5): a zone begins with these four bytes.
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

/// The most similar zone, also for a city alone, or for lower case.
fn nearest<'k>(zone: &str, known: &'k [String]) -> Option<&'k str> {
    let wanted = zone.to_ascii_lowercase().replace(' ', "_");
    names::nearest_by(zone, known.iter().map(String::as_str), |known| {
        let known = known.to_ascii_lowercase();
        let city = known.rsplit('/').next().unwrap_or(&known);
        strsim::normalized_damerau_levenshtein(&known, &wanted)
            .max(strsim::normalized_damerau_levenshtein(city, &wanted))
    })
}
