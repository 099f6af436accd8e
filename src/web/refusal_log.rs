//! Logs refused requests, once a minute at most: a client must not be able to fill the log with requests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::refusal::Refusal;
use crate::tasks::Group;

/// The time between two log lines.
const PAUSE: Duration = Duration::from_secs(60);

/// Refusals that are not logged yet, by code; there are as many codes as kinds of [`Refusal`].
#[derive(Debug)]
pub struct RefusalLog {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_code: BTreeMap<&'static str, u64>,
    logged_at: Option<Instant>,
}

impl RefusalLog {
    /// No refusals so far.
    pub fn new() -> Self {
        Self { counts: Mutex::default() }
    }

    /// Counts a refusal. The first after a quiet minute is logged at once, for a person who sets something up.
    pub fn count(&self, refusal: &Refusal) {
        // Every program's first request, and a page's own, may come without the secret.
        if *refusal != Refusal::NoSecret {
            self.add(refusal.code(), Instant::now());
        }
    }

    /// Logs what was counted, each minute until `group` stops.
    pub async fn log_each_minute(&self, group: &Group) {
        let mut minutes = tokio::time::interval(PAUSE);
        loop {
            tokio::select! {
                biased;
                () = group.stopped() => break,
                _ = minutes.tick() => self.log_if_due(Instant::now()),
            }
        }
    }

    fn add(&self, code: &'static str, now: Instant) {
        *self.counts().by_code.entry(code).or_default() += 1;
        self.log_if_due(now);
    }

    fn log_if_due(&self, now: Instant) {
        if let Some(text) = self.counts().take(now) {
            tracing::warn!(counts = text, "requests were refused");
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().expect("lock is never poisoned: no panic while held")
    }
}

impl Counts {
    /// The log line, if one is due.
    fn take(&mut self, now: Instant) -> Option<String> {
        let is_due = self.logged_at.is_none_or(|logged_at| now.saturating_duration_since(logged_at) >= PAUSE);
        if !is_due || self.by_code.is_empty() {
            return None;
        }
        self.logged_at = Some(now);
        let text = std::mem::take(&mut self.by_code).into_iter().fold(String::new(), |mut text, (code, count)| {
            let comma = if text.is_empty() { "" } else { ", " };
            write!(text, "{comma}{code}: {count}").expect("a string takes any text");
            text
        });
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refused_requests_is_logged_once_a_minute() {
        let (mut counts, start) = (Counts::default(), Instant::now());
        let mut lines = Vec::new();
        for n in 0..30_000u64 {
            let code = if n % 3 == 0 { "wrong-secret" } else { "foreign-origin" };
            *counts.by_code.entry(code).or_default() += 1;
            lines.extend(counts.take(start + Duration::from_millis(n * 4)));
        }
        assert_eq!(lines, ["wrong-secret: 1", "foreign-origin: 10000, wrong-secret: 5000"]);
        assert_eq!(counts.take(start + Duration::from_secs(180)).unwrap(), "foreign-origin: 10000, wrong-secret: 4999");
        assert_eq!(counts.take(start + Duration::from_secs(360)), None, "nothing new was refused");
    }
}
