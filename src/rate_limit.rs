//! A rate limiter: a token bucket.
//!
//! The only one in the crate; it limits messages, commands, events, guesses at the secret, and retransmissions.

use std::time::{Duration, Instant};

use tokio::time;

/// The burst, and the number per second after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Most at once.
    pub burst: f64,
    /// Number in each second after that.
    pub per_second: f64,
}

/// The tokens left of a [`Rate`]. It starts full.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    rate: Rate,
    tokens: f64,
    /// `None` until the first use.
    refilled: Option<Instant>,
}

impl RateLimit {
    /// A full bucket.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, refilled: None }
    }

    /// Takes a token, if there is one. A refusal costs nothing, so a sender of far too much still gets its share.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.refill(now);
        let is_allowed = self.tokens >= 1.0;
        if is_allowed {
            self.tokens -= 1.0;
        }
        is_allowed
    }

    /// Time until there is a token: zero if there is one.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        if self.tokens >= 1.0 {
            return Duration::ZERO;
        }
        // A fraction of a nanosecond would round to zero, but there is no token yet.
        Duration::from_secs_f64((1.0 - self.tokens) / self.rate.per_second).max(Duration::from_nanos(1))
    }

    /// Whether no token is missing.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.rate.burst
    }

    /// Adds tokens for a reason other than time passing. Tokens beyond the burst are lost.
    pub fn earn(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.rate.burst);
    }

    fn refill(&mut self, now: Instant) {
        let since = self.refilled.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.earn(since.as_secs_f64() * self.rate.per_second);
    }
}

/// The present time, by the clock that tests can pause.
pub fn now() -> Instant {
    time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3.0, per_second: 2.0 };

    #[test]
    fn a_burst_passes_and_then_the_rate_applies() {
        let (mut limit, start) = (RateLimit::new(RATE), Instant::now());
        assert!(limit.is_full(start));
        assert!((0..3).all(|_| limit.allows(start)));
        assert!(!limit.allows(start) && !limit.is_full(start));
        assert_eq!(limit.wait(start), Duration::from_millis(500));
        let allowed = (0..100).filter(|at| limit.allows(start + Duration::from_millis(100 * at))).count();
        assert_eq!(allowed, 19, "two a second for 9.9 s, however many are refused in between");
    }

    #[test]
    fn no_more_tokens_than_the_burst_are_saved() {
        let (mut limit, start) = (RateLimit::new(RATE), Instant::now());
        assert!((0..3).all(|_| limit.allows(start)));
        let later = start + Duration::from_secs(3600);
        limit.earn(10.0);
        assert!(limit.is_full(later));
        assert_eq!((0..10).filter(|_| limit.allows(later)).count(), 3);
        // A time from another thread that lies earlier removes no tokens.
        assert!(!limit.allows(start));
    }
}
