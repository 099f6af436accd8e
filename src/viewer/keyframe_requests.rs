//! Limits the key frame requests of a viewer that reach the encoder, which all viewers share.
//!
//! A key frame costs as much as ten other frames and lowers the quality for all viewers. So after the first request, a
//! request needs a reason: losses that the viewer reports, video that moved to another section (both with growing
//! pauses), or a long time without a key frame. Each key frame is sent to all viewers, so one that is sent also
//! satisfies the requests of other viewers.

use std::time::{Duration, Instant};

/// The first pause between key frames for a viewer that loses packets. Each further key frame doubles it: key frames do
/// not help on a path that is too narrow.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause, and the pause for requests without a reason: half of the usual time between key frames.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// After this time without a request the pause starts again at [`FIRST_PAUSE`].
const CALM_AFTER: Duration = Duration::from_secs(10);

/// The key frame requests of one viewer.
#[derive(Debug, Default)]
pub struct KeyFrameRequests {
    /// When the viewer was last sent a key frame, or one was requested from the encoder.
    last_sent: Option<Instant>,
    last_request: Option<Instant>,
    /// Pause for a request with a reason; `None` before the first request.
    pause: Option<Duration>,
    /// When the waiting request is due.
    due_at: Option<Instant>,
    /// Number of packets the viewer had requested again at its last request.
    requested_packets: u64,
    /// Whether the video has moved to another section since the last request.
    has_changed_section: bool,
}

impl KeyFrameRequests {
    /// The viewer requests a key frame. `has_loss` states whether its latest report has losses; `requested_packets` is
    /// the number of packets that it has requested again so far, which shows losses sooner than a report. Returns
    /// whether the request is passed on to the encoder now; otherwise [`is_due`](Self::is_due) passes it on later.
    pub fn request(&mut self, (has_loss, requested_packets): (bool, u64), now: Instant) -> bool {
        let has_changed_section = std::mem::take(&mut self.has_changed_section);
        let has_reason = has_loss
            || has_changed_section
            || std::mem::replace(&mut self.requested_packets, requested_packets) != requested_packets;
        let is_calm =
            self.last_request.is_some_and(|last_request| now.saturating_duration_since(last_request) >= CALM_AFTER);
        let share = if is_calm { Some(FIRST_PAUSE) } else { self.pause };
        self.last_request = Some(now);
        let (Some(share), Some(last_sent)) = (share, self.last_sent) else {
            self.pause = Some(share.unwrap_or(FIRST_PAUSE));
            self.last_sent = Some(now);
            return true;
        };
        self.pause = Some(share);
        let due = last_sent + if has_reason { share } else { MAX_PAUSE };
        self.due_at = Some(self.due_at.map_or(due, |due_at| due_at.min(due)));
        self.is_due(now)
    }

    /// From now on the video is sent in another section, whose decoder has not received a key frame. That is a reason,
    /// like loss, so that a viewer that moves the video back and forth gets key frames less and less often.
    pub fn section_changed(&mut self) {
        self.has_changed_section = true;
    }

    /// Returns whether a waiting request is passed on now.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if self.due_at.is_none_or(|due_at| now < due_at) {
            return false;
        }
        self.due_at = None;
        self.last_sent = Some(now);
        self.pause = self.pause.map(|pause| (pause * 2).min(MAX_PAUSE));
        true
    }

    /// A key frame was sent to the viewer, whether it or another viewer requested it.
    pub fn key_frame_sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
        self.due_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many key frames `viewers` viewers cause in a minute, if each sends 30 requests a second and each key frame
    /// is sent to all.
    fn key_frames(viewers: usize, has_loss: bool) -> usize {
        let start = Instant::now();
        let mut all: Vec<_> = (0..viewers).map(|_| KeyFrameRequests::default()).collect();
        let mut made = 0;
        for tick in 0..60 * 30 {
            let now = start + Duration::from_millis(tick * 1000 / 30);
            // All have joined before and got a key frame then.
            if tick == 0 {
                all.iter_mut().for_each(|one| one.key_frame_sent(now));
            }
            let requested_packets =
                all.iter_mut().filter_map(|one| one.request((has_loss, 0), now).then_some(())).count();
            if requested_packets > 0 {
                made += 1;
                all.iter_mut().for_each(|one| one.key_frame_sent(now));
            }
        }
        made
    }

    #[test]
    fn a_flood_of_requests_causes_one_key_frame_in_five_seconds_for_any_number_of_viewers() {
        for viewers in [1, 20] {
            assert!(key_frames(viewers, false) <= 13, "{}", key_frames(viewers, false));
            assert!(key_frames(viewers, true) <= 16, "{} with loss", key_frames(viewers, true));
        }
    }

    #[test]
    fn a_first_request_passes_at_once_and_so_does_one_with_losses() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut key_frame_requests = KeyFrameRequests::default();
        key_frame_requests.key_frame_sent(at(0));
        assert!(key_frame_requests.request((false, 0), at(100)), "the first");
        assert!(!key_frame_requests.request((true, 0), at(200)));
        assert!(key_frame_requests.request((true, 0), at(600)));
        assert!(!key_frame_requests.request((true, 0), at(1200)), "twice the pause");
        assert!(key_frame_requests.is_due(at(1600)));
        assert!(key_frame_requests.request((true, 0), at(20_000)), "after a pause without requests");
        assert!(!key_frame_requests.request((false, 0), at(21_100)));
        assert!(key_frame_requests.request((false, 7), at(21_200)), "it has requested packets again");
    }

    #[test]
    fn a_single_request_is_not_forgotten() {
        let start = Instant::now();
        let mut key_frame_requests = KeyFrameRequests::default();
        assert!(key_frame_requests.request((false, 0), start));
        assert!(!key_frame_requests.request((false, 0), start + Duration::from_secs(1)));
        assert!(!key_frame_requests.is_due(start + Duration::from_secs(4)));
        assert!(key_frame_requests.is_due(start + Duration::from_secs(5)));
        assert!(!key_frame_requests.is_due(start + Duration::from_secs(60)));
        assert!(!key_frame_requests.request((false, 0), start + Duration::from_secs(6)));
        key_frame_requests.key_frame_sent(start + Duration::from_secs(7));
        assert!(
            !key_frame_requests.is_due(start + Duration::from_secs(60)),
            "it was sent one that another viewer had requested"
        );
    }

    #[test]
    fn repeated_section_changes_cause_fewer_and_fewer_key_frames() {
        let (start, mut key_frame_requests, mut times) = (Instant::now(), KeyFrameRequests::default(), Vec::new());
        for step in 0..600u64 {
            let now = start + Duration::from_millis(step * 50);
            if step % 10 == 0 {
                key_frame_requests.section_changed();
            }
            if key_frame_requests.request((false, 0), now) || key_frame_requests.is_due(now) {
                times.push(step * 50);
            }
        }
        assert_eq!(times[..4], [0, 500, 1500, 3500], "{times:?}");
        assert!(times.len() <= 10, "{times:?}");
    }
}
