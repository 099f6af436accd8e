//! Error reports of viewers in the log: shortened and rate-limited.

use std::time::{Duration, Instant};

use crate::signalling::ViewerId;

/// Maximum number of characters of a viewer's text in the log.
const MAX_LOGGED: usize = 200;

/// Pause between two logged reports of a viewer, so that the log stays readable and the SD card is not worn out.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The error reports of one viewer.
#[derive(Debug, Default)]
pub struct ErrorReports {
    logged_at: Option<Instant>,
    skipped: u64,
}

impl ErrorReports {
    /// Logs an error that a viewer reports, unless one of its reports was logged less than `LOG_INTERVAL` ago.
    pub fn log(&mut self, viewer: &ViewerId, reason: &str, now: Instant) {
        if let Some(skipped) = self.admit(now) {
            tracing::info!(%viewer, reason = cut(reason, MAX_LOGGED), skipped, "the viewer reports an error");
        }
    }

    /// Returns the number of reports skipped since the last logged one if this one is logged, or `None` if it is
    /// skipped.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.logged_at.is_some_and(|logged_at| now.saturating_duration_since(logged_at) < LOG_INTERVAL) {
            self.skipped += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.skipped))
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
    fn a_viewer_s_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("", 3), "");
        assert_eq!(cut(&"x".repeat(256 * 1024), MAX_LOGGED).len(), 200);
    }

    #[test]
    fn a_flood_of_reports_is_logged_six_times_a_minute() {
        let start = Instant::now();
        let mut error_reports = ErrorReports::default();
        let logged_at: Vec<_> =
            (0..1200).filter_map(|tick| error_reports.admit(start + Duration::from_millis(tick * 50))).collect();
        assert_eq!(logged_at, [0, 199, 199, 199, 199, 199]);
    }
}
