//! How the files of the state directory are written, so that one which was damaged is not taken for what was written.
//!
//! The first line after the brace is the checksum of all that follows it. A letter that changed in a name would
//! otherwise open a camera that was closed, and a file cut in two could still be read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Digest;

/// What a file begins with, up to its checksum.
const HEAD: &str = "{\n  \"sha256\": \"";
/// What stands between the checksum and what it is of.
const NECK: &str = "\",\n";
/// A file without a checksum, as version 0.1 wrote it, begins so.
const OPEN: &str = "{\n";

/// A structure as a file's text.
///
/// # Errors
///
/// What the structure cannot be written for.
pub(super) fn text(content: &impl Serialize) -> serde_json::Result<String> {
    let written = serde_json::to_string_pretty(content)?;
    // Each has a field.
    let body = written.strip_prefix(OPEN).unwrap_or(&written);
    Ok(format!("{HEAD}{}{NECK}{body}", Digest::of(body).0))
}

/// What a file's bytes say; `fields` are those of the structure.
///
/// # Errors
///
/// What shows that it is not what was written.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], fields: &[&str]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("byte {} is not text", error.valid_up_to() + 1))?;
    if let Some((checksum, body)) = text.strip_prefix(HEAD).and_then(|rest| rest.split_once(NECK)) {
        if Digest::of(body).0 != checksum {
            return Err("its checksum is another, so it was changed since it was written".into());
        }
        return serde_json::from_str(&format!("{OPEN}{body}")).map_err(|error| error.to_string());
    }
    // Version 0.1 wrote no checksum. What has more fields than it had is a damaged one of ours.
    let all: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(other) = all.keys().find(|name| !fields.contains(&name.as_str())) {
        return Err(format!("`{other}` is not known"));
    }
    serde_json::from_value(Value::Object(all)).map_err(|error| error.to_string())
}
