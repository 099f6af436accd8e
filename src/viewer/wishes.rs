//! Which of a viewer's wishes for a key frame are passed on to the encoder, which all viewers share.
//!
//! A key frame costs as much as ten frames, and all pay for it with their quality. So after the first one a viewer's
//! wish needs a reason: loss that it reports or a picture that moved, and less and less of that, or that no key frame
//! came for a while. Since
//! each key frame goes to all, what one viewer gets another need not ask for.

use std::time::{Duration, Instant};

/// The pause between key frames for a viewer that loses packets. Each further one doubles it: a path that is too narrow
/// is not mended by key frames.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The pause where a viewer has no reason, or has had its share: half of the usual time between key frames.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After so long without a wish a viewer's share is whole again.
const CALM: Duration = Duration::from_secs(10);

/// One viewer's wishes.
#[derive(Debug, Default)]
pub struct Wishes {
    /// When it was sent a key frame, or one was asked for.
    served: Option<Instant>,
    wished: Option<Instant>,
    /// What it has to wait with a reason; `None` before its first wish.
    pause: Option<Duration>,
    /// Until when it waits.
    waits: Option<Instant>,
    /// How many packets it had asked for again.
    asked: u64,
    /// Whether it shows the picture in another place since its last wish.
    has_moved: bool,
}

impl Wishes {
    /// The viewer wishes for a key frame. Its latest report has losses or not, and it has `asked` for so many packets again
    /// so far, which it does sooner than it reports. Whether the encoder is asked for one now; otherwise [`is_due`](Self::is_due)
    /// comes back to it.
    pub fn wish(&mut self, (has_loss, asked): (bool, u64), now: Instant) -> bool {
        let has_moved = std::mem::take(&mut self.has_moved);
        let has_reason = has_loss || has_moved || std::mem::replace(&mut self.asked, asked) != asked;
        let is_calm = self.wished.is_some_and(|wished| now.saturating_duration_since(wished) >= CALM);
        let share = if is_calm { Some(FIRST_PAUSE) } else { self.pause };
        self.wished = Some(now);
        let (Some(share), Some(served)) = (share, self.served) else {
            self.pause = Some(share.unwrap_or(FIRST_PAUSE));
            self.served = Some(now);
            return true;
        };
        self.pause = Some(share);
        let due = served + if has_reason { share } else { LONGEST_PAUSE };
        self.waits = Some(self.waits.map_or(due, |waits| waits.min(due)));
        self.is_due(now)
    }

    /// The viewer has the picture in another section from now on, whose decoder has seen no key frame. That is a
    /// reason, like loss: who moves it to and fro has its share of key frames.
    pub fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Whether a wish that had to wait is passed on now.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if self.waits.is_none_or(|waits| now < waits) {
            return false;
        }
        self.waits = None;
        self.served = Some(now);
        self.pause = self.pause.map(|pause| (pause * 2).min(LONGEST_PAUSE));
        true
    }

    /// A key frame was sent to the viewer, which this or another had wished for.
    pub fn got(&mut self, now: Instant) {
        self.served = Some(now);
        self.waits = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many key frames `viewers` have made in a minute by wishing 30 times a second, all being sent each of them.
    fn key_frames(viewers: usize, has_loss: bool) -> usize {
        let start = Instant::now();
        let mut all: Vec<_> = (0..viewers).map(|_| Wishes::default()).collect();
        let mut made = 0;
        for tick in 0..60 * 30 {
            let now = start + Duration::from_millis(tick * 1000 / 30);
            // Joined before, and served then.
            if tick == 0 {
                all.iter_mut().for_each(|one| one.got(now));
            }
            let asked = all.iter_mut().filter_map(|one| one.wish((has_loss, 0), now).then_some(())).count();
            if asked > 0 {
                made += 1;
                all.iter_mut().for_each(|one| one.got(now));
            }
        }
        made
    }

    #[test]
    fn a_flood_of_wishes_makes_a_key_frame_in_five_seconds_however_many_viewers_make_it() {
        for viewers in [1, 20] {
            assert!(key_frames(viewers, false) <= 13, "{}", key_frames(viewers, false));
            assert!(key_frames(viewers, true) <= 16, "{} with loss", key_frames(viewers, true));
        }
    }

    #[test]
    fn a_first_wish_counts_at_once_and_so_does_one_with_loss_behind_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut wishes = Wishes::default();
        wishes.got(at(0));
        assert!(wishes.wish((false, 0), at(100)), "the first");
        assert!(!wishes.wish((true, 0), at(200)));
        assert!(wishes.wish((true, 0), at(600)));
        assert!(!wishes.wish((true, 0), at(1200)), "twice the pause");
        assert!(wishes.is_due(at(1600)));
        assert!(wishes.wish((true, 0), at(20_000)), "after a calm time");
        assert!(!wishes.wish((false, 0), at(21_100)));
        assert!(wishes.wish((false, 7), at(21_200)), "it has asked for packets again");
    }

    #[test]
    fn a_wish_that_is_made_only_once_is_not_forgotten() {
        let start = Instant::now();
        let mut wishes = Wishes::default();
        assert!(wishes.wish((false, 0), start));
        assert!(!wishes.wish((false, 0), start + Duration::from_secs(1)));
        assert!(!wishes.is_due(start + Duration::from_secs(4)));
        assert!(wishes.is_due(start + Duration::from_secs(5)));
        assert!(!wishes.is_due(start + Duration::from_secs(60)));
        assert!(!wishes.wish((false, 0), start + Duration::from_secs(6)));
        wishes.got(start + Duration::from_secs(7));
        assert!(!wishes.is_due(start + Duration::from_secs(60)), "it was sent one that another had wished for");
    }

    #[test]
    fn a_picture_that_moves_to_and_fro_gets_key_frames_ever_more_rarely() {
        let (start, mut wishes, mut times) = (Instant::now(), Wishes::default(), Vec::new());
        for step in 0..600u64 {
            let now = start + Duration::from_millis(step * 50);
            if step % 10 == 0 {
                wishes.moved();
            }
            if wishes.wish((false, 0), now) || wishes.is_due(now) {
                times.push(step * 50);
            }
        }
        assert_eq!(times[..4], [0, 500, 1500, 3500], "{times:?}");
        assert!(times.len() <= 10, "{times:?}");
    }
}
