//! The `[device]` table, and the id of a device without a configured one.

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::Faults;

/// The `[device]` table.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct DeviceConfig {
    /// The device's id; `None` means an id derived from the machine id.
    pub id: Option<String>,
}

impl DeviceConfig {
    pub(super) fn check(&self) -> Faults {
        match &self.id {
            Some(id) if !is_device_id(id) => {
                vec![("id", "is not 1 to 64 letters, digits, `-` or `_` (without accents)".into())]
            }
            _ => Vec::new(),
        }
    }
}

/// An id made from the machine id, otherwise the host name, otherwise a constant.
pub(super) fn derived_id() -> String {
    let of_machine = || {
        let machine = std::fs::read_to_string("/etc/machine-id").ok()?;
        let machine = machine.trim();
        // Before the first boot is over, the file is empty or "uninitialized" (machine-id(5)).
        (machine.len() == 32).then(|| device_id_of(machine))
    };
    let of_host = || device_id_of_host(&std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?);
    of_machine().or_else(of_host).unwrap_or_else(|| "peercam".into())
}

/// The host name without its domain, if it is a valid device id. The kernel's placeholder for no name, and `localhost`,
/// are not.
pub(super) fn device_id_of_host(name: &str) -> Option<String> {
    let id = name.trim().split('.').next().unwrap_or_default();
    (is_device_id(id) && id != "localhost").then(|| id.to_owned())
}

/// At most 64 characters: it becomes part of topics and file names. A host name, which must be shorter, is truncated.
fn is_device_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !id.is_empty() && id.len() <= 64 && id.chars().all(is_plain)
}

/// An id that stays the same on one machine and does not reveal its machine id, as machine-id(5) requires.
pub(super) fn device_id_of(machine: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, machine.as_bytes());
    let tag = hmac::sign(&key, b"peercam device id");
    format!("peercam-{}", hex::encode(&tag.as_ref()[..4]))
}
