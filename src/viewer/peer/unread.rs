//! How much a viewer may have sent on its data channels that nobody has read.
//!
//! SCTP's window is no bound in `rtc-sctp` 0.21.1: a message that never ends is taken on and on
//! (`association/mod.rs:1354`), and what the crate has read of a channel waits in a queue of 256 messages. Both are
//! behind DTLS, where our sockets see only bytes go in, and which messages came out.

use std::time::Instant;

/// Bytes that may be on their way through the stack: one message of the largest size with what is around it, and as
/// much again.
const MOST: usize = 128 * 1024;

/// What a message takes on the wire beside its text: records, packets and the acknowledgement of our answer.
const AROUND: usize = 160;

/// Bytes per second that are forgiven: heartbeats, and repeats of what was lost.
const PER_SECOND: f64 = 64.0;

/// What one viewer may still send.
#[derive(Debug)]
pub struct Unread {
    left: usize,
    since: Option<Instant>,
}

impl Default for Unread {
    fn default() -> Self {
        Self { left: MOST, since: None }
    }
}

impl Unread {
    /// Whether application data of that many bytes may come in.
    pub fn admit(&mut self, bytes: usize, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let forgiven = now.saturating_duration_since(since).as_secs_f64() * PER_SECOND;
        if forgiven >= 1.0 {
            self.since = Some(now);
            self.left = (self.left + forgiven as usize).min(MOST);
        }
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// A message of that many bytes has been read. An eighth more is what its packets have around it.
    pub fn read(&mut self, bytes: usize) {
        self.left = (self.left + bytes + bytes / 8 + AROUND).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_nobody_reads_is_bounded_and_what_is_read_is_not() {
        let start = Instant::now();
        let mut unread = Unread::default();
        let taken = (0..1000).filter(|_| unread.admit(1200, start)).count() * 1200;
        assert!((MOST - 1200..=MOST).contains(&taken), "{taken}");
        let hour = start + Duration::from_secs(3600);
        assert!((0..1000).filter(|_| unread.admit(1200, hour)).count() * 1200 <= MOST);

        // Pings, each acknowledged apart, and commands of the largest size, for hours.
        let mut unread = Unread::default();
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            assert!(unread.admit(37 + 12 + 16 + 48, now) && unread.admit(37 + 12 + 16, now));
            unread.read(45);
            if second % 10 == 0 {
                assert!((0..57).all(|_| unread.admit(1228, now)), "command at {second} s");
                unread.read(64 * 1024);
            }
        }
    }
}
