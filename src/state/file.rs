//! The format of the files in the state directory, which detects damage.
//!
//! The first line after the brace is the checksum of everything after it. Without it, one changed letter in a name
//! could open a camera that was closed, and a truncated file could still parse.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Digest;

/// The start of a file, up to its checksum.
const HEAD: &str = "{\n  \"sha256\": \"";
/// The text between the checksum and the checksummed content.
const NECK: &str = "\",\n";
/// The start of a file without a checksum, as version 0.1 wrote it.
const OPEN: &str = "{\n";

/// Serializes a structure to a file's text.
///
/// # Errors
///
/// Why the structure cannot be serialized.
pub(super) fn text(content: &impl Serialize) -> serde_json::Result<String> {
    let written = serde_json::to_string_pretty(content)?;
    // Every structure has at least one field.
    let body = written.strip_prefix(OPEN).unwrap_or(&written);
    Ok(format!("{HEAD}{}{NECK}{body}", Digest::of(body).0))
}

/// Parses a file's bytes; `fields` are the field names of the structure.
///
/// # Errors
///
/// Why the bytes are not what was written.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], fields: &[&str]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("byte {} is not text", error.valid_up_to() + 1))?;
    if let Some((checksum, body)) = text.strip_prefix(HEAD).and_then(|rest| rest.split_once(NECK)) {
        if Digest::of(body).0 != checksum {
            return Err("its checksum is another, so it was changed since it was written".into());
        }
        return serde_json::from_str(&format!("{OPEN}{body}")).map_err(|error| error.to_string());
    }
    // Version 0.1 wrote no checksum. A file with more fields than version 0.1 had is a damaged file of a later version.
    let all: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(other) = all.keys().find(|name| !fields.contains(&name.as_str())) {
        return Err(format!("`{other}` is not known"));
    }
    serde_json::from_value(Value::Object(all)).map_err(|error| error.to_string())
}
