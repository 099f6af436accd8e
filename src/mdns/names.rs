//! The name that a board requests, and the one that it gets.

/// The most bytes of a label (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
/// Bytes for the suffix of a host name if another device has the name, up to `-99`.
const HOST_SUFFIX: usize = 3;
/// Bytes for the suffix of a service name in that case, up to ` (99)`.
const SERVICE_SUFFIX: usize = 5;

/// The name of a board whose id has no letter or digit.
const DEFAULT_NAME: &str = "peercam";

/// The name under which a board is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name that it got, such as `front-door.local`.
    pub host: String,
    /// The name that it requested, if another device has that.
    pub taken: Option<String>,
}

impl Name {
    /// The name that was requested.
    pub(super) fn as_wanted(wanted: &str) -> Self {
        Self { host: wanted.to_owned(), taken: None }
    }

    /// Another name, as the library writes it.
    pub(super) fn instead_of(wanted: &str, got: &str) -> Self {
        Self { host: got.trim_end_matches('.').to_owned(), taken: Some(wanted.to_owned()) }
    }
}

/// The host name of a board with the id `device`: letters, digits and hyphens, not at the ends (RFC 952, RFC 1123,
/// section 2.1), and lower case.
pub fn host_name(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = device.chars().map(plain).take(MAX_LABEL - HOST_SUFFIX).collect();
    let label = label.trim_matches('-');
    format!("{}.local", if label.is_empty() { DEFAULT_NAME } else { label })
}

/// The name of its services: `device`, or as much of it as fits. A longer one would not be announced.
pub(super) fn service_name(device: &str) -> &str {
    &device[..device.floor_char_boundary(MAX_LABEL - SERVICE_SUFFIX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_device_id_becomes_a_host_name() {
        for (device, expected) in [
            ("front-door", "front-door.local"),
            ("Front_Door", "front-door.local"),
            ("_cam_", "cam.local"),
            ("---", "peercam.local"),
            ("", "peercam.local"),
            ("garage 2", "garage-2.local"),
        ] {
            assert_eq!(host_name(device), expected);
        }
        let long = host_name(&format!("{}_", "x".repeat(70)));
        assert_eq!(long, format!("{}.local", "x".repeat(60)));
        let hyphen_at_the_cut = host_name(&format!("{}_y", "x".repeat(59)));
        assert_eq!(hyphen_at_the_cut, format!("{}.local", "x".repeat(59)));
    }

    #[test]
    fn a_service_name_fits_into_a_label_with_a_number_appended() {
        assert_eq!(service_name("Front_Door"), "Front_Door");
        assert_eq!(service_name(&"x".repeat(64)), "x".repeat(58));
        assert_eq!(service_name(&"ü".repeat(40)), "ü".repeat(29));
    }
}
