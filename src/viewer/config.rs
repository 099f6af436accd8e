//! The `[viewers]` table of the configuration.

use serde::{Deserialize, Serialize};

/// The `[viewers]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Maximum number of viewers at the same time.
    pub max: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max: 20 }
    }
}

impl LimitsConfig {
    /// Largest value of `max`. With eight sockets per viewer, 500 viewers need half of the open files that the unit
    /// permits (`LimitNOFILE` of `systemd/peercam.service`).
    const MOST: usize = 500;

    /// The keys with invalid values, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        if (1..=Self::MOST).contains(&self.max) {
            return Vec::new();
        }
        vec![("max", format!("{} is not within 1 to {}", self.max, Self::MOST))]
    }
}
