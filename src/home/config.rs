//! The `[home_assistant]` table.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether and how the board appears in Home Assistant.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct HomeConfig {
    /// Whether it appears.
    pub enabled: bool,
    /// The prefix of Home Assistant's discovery topics.
    pub discovery_prefix: String,
    /// Seconds between still pictures that are taken without a command; 0 for none.
    pub still_interval: u32,
}

impl Default for HomeConfig {
    fn default() -> Self {
        Self { enabled: false, discovery_prefix: "homeassistant".into(), still_interval: 0 }
    }
}

impl HomeConfig {
    /// The invalid values: the key, and what to do.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        let prefix = &self.discovery_prefix;
        let levels = prefix.split('/').all(|level| !level.is_empty());
        let is_plain = !prefix.contains(['+', '#', '\0']) && !prefix.starts_with('$') && prefix.len() <= 128;
        if !levels || !is_plain {
            mistakes.push(("discovery_prefix", "is no topic, such as \"homeassistant\": without +, # or //".into()));
        }
        // Each picture starts an idle camera.
        if self.still_interval != 0 && !(10..=86_400).contains(&self.still_interval) {
            mistakes.push(("still_interval", format!("{} s is neither 0 nor from 10 to 86400", self.still_interval)));
        }
        mistakes
    }

    /// The time between still pictures, if any are wanted.
    pub(super) fn still_interval(&self) -> Option<Duration> {
        (self.still_interval > 0).then(|| Duration::from_secs(u64::from(self.still_interval)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_prefix_and_a_short_interval_are_refused() {
        assert_eq!(HomeConfig::default().check(), []);
        for prefix in ["", "/", "a//b", "a/+", "#", "$SYS"] {
            let config = HomeConfig { discovery_prefix: prefix.into(), ..HomeConfig::default() };
            assert_eq!(config.check()[0].0, "discovery_prefix", "{prefix:?}");
        }
        let config =
            HomeConfig { discovery_prefix: "home/assistant".into(), still_interval: 5, ..HomeConfig::default() };
        assert_eq!(config.check()[0].0, "still_interval");
    }
}
