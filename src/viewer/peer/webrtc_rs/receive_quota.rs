//! Limits how many bytes a viewer may have sent on its data channels that the board has not read.
//!
//! The SCTP window does not limit this in `rtc-sctp` 0.21.1: a message that never ends is accepted forever
//! (`association/mod.rs:1354`), and messages that the crate has received on a channel wait in a queue of 256. Both
//! happen behind DTLS; our sockets see only how many bytes go in, and we see which messages come out.

use std::time::Instant;

/// Bytes that may be on their way through the stack: one message of the largest size with its overhead, and as much
/// again.
const MOST: usize = 128 * 1024;

/// Bytes of overhead of a message on the wire: records, packets and the acknowledgement of our answer.
const AROUND: usize = 160;

/// Bytes per second that are not counted: heartbeats, and retransmissions of lost data.
const PER_SECOND: f64 = 64.0;

/// The bytes that one viewer may still send.
#[derive(Debug)]
pub struct ReceiveQuota {
    left: usize,
    since: Option<Instant>,
}

impl Default for ReceiveQuota {
    fn default() -> Self {
        Self { left: MOST, since: None }
    }
}

impl ReceiveQuota {
    /// Whether application data of that many bytes may pass.
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

    /// A message of that many bytes has been read. An eighth is added for the overhead of its packets.
    pub fn read(&mut self, bytes: usize) {
        self.left = (self.left + bytes + bytes / 8 + AROUND).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn unread_bytes_are_limited_and_read_bytes_are_not() {
        let start = Instant::now();
        let mut receive_quota = ReceiveQuota::default();
        let taken = (0..1000).filter(|_| receive_quota.admit(1200, start)).count() * 1200;
        assert!((MOST - 1200..=MOST).contains(&taken), "{taken}");
        let hour = start + Duration::from_secs(3600);
        assert!((0..1000).filter(|_| receive_quota.admit(1200, hour)).count() * 1200 <= MOST);

        // For hours: pings, each acknowledged separately, and commands of the largest size.
        let mut receive_quota = ReceiveQuota::default();
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            assert!(receive_quota.admit(37 + 12 + 16 + 48, now) && receive_quota.admit(37 + 12 + 16, now));
            receive_quota.read(45);
            if second % 10 == 0 {
                assert!((0..57).all(|_| receive_quota.admit(1228, now)), "command at {second} s");
                receive_quota.read(64 * 1024);
            }
        }
    }
}
