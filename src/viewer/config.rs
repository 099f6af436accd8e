//! The table `[viewers]`.

use serde::{Deserialize, Serialize};

/// The `[viewers]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// How many may watch at once.
    pub max: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max: 20 }
    }
}

impl LimitsConfig {
    /// The most that can be asked for. With eight sockets each they need half of the open files that the unit permits
    /// (`LimitNOFILE` of `systemd/peercam.service`).
    const MOST: usize = 500;

    /// The keys whose values cannot be, each with what is wrong and what is allowed.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        if (1..=Self::MOST).contains(&self.max) {
            return Vec::new();
        }
        vec![("max", format!("{} is not within 1 to {}", self.max, Self::MOST))]
    }
}
