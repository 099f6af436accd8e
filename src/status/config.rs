//! The `[status]` table.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often figures are published to the broker.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct StatusConfig {
    /// Seconds between statuses while nothing changes.
    pub interval: u32,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self { interval: 30 }
    }
}

impl StatusConfig {
    /// The mistakes in these values: the key, and the correction.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let is_right = (5..=3600).contains(&self.interval);
        let mistake = || ("interval", format!("{} s is not from 5 to 3600", self.interval));
        (!is_right).then(mistake).into_iter().collect()
    }

    /// The same as a duration.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.interval))
    }
}
