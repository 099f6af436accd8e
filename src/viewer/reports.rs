//! What a viewer says that is repeated elsewhere: in the board's log, or to itself.

use std::time::{Duration, Instant};

use crate::signalling::ViewerId;

/// Characters of a viewer's words in the log.
const LOGGED: usize = 200;

/// The pause between two reports of a viewer in the log: a person can read them, and a card is not worn.
const PAUSE: Duration = Duration::from_secs(10);

/// One viewer's reports of errors.
#[derive(Debug, Default)]
pub struct Reports {
    told: Option<Instant>,
    untold: u64,
}

impl Reports {
    /// Logs what a viewer reports, unless it has reported something a moment ago.
    pub fn tell(&mut self, viewer: &ViewerId, reason: &str, now: Instant) {
        if let Some(untold) = self.admit(now) {
            tracing::info!(%viewer, reason = cut(reason, LOGGED), untold, "the viewer reports an error");
        }
    }

    /// Whether a report is logged now, with the number of those before it that were not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < PAUSE) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The first `most` characters of a text.
pub fn cut(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_s_words_are_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("", 3), "");
        assert_eq!(cut(&"x".repeat(256 * 1024), LOGGED).len(), 200);
    }

    #[test]
    fn a_flood_of_reports_is_six_lines_a_minute() {
        let start = Instant::now();
        let mut reports = Reports::default();
        let told: Vec<_> =
            (0..1200).filter_map(|tick| reports.admit(start + Duration::from_millis(tick * 50))).collect();
        assert_eq!(told, [0, 199, 199, 199, 199, 199]);
    }
}
