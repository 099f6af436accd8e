//! Packetises frames into RTP payloads, once for all viewers.
//!
//! A frame is packetised for a codec and a size. Twenty viewers with the same of both cost one packetisation, and their
//! packets share the frame's bytes. Payloads are kept as long as their frame: feeds keep frames for less than a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use crate::media::Frame;

/// The parameters of packetising a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packetisation {
    /// The packetiser, which also names the packet format for players: `H264`.
    pub packetiser: &'static str,
    /// Maximum size of a payload in bytes.
    pub most: usize,
}

/// The payloads of the present frames, kept as long as a viewer shares them.
#[derive(Debug, Default)]
pub struct Payloads {
    cuts: Mutex<HashMap<(usize, Packetisation), Entry>>,
}

/// Gives viewers the payloads that they share. Clones share the same ones.
#[derive(Clone, Debug, Default)]
pub struct PayloadCache {
    /// All payloads are dropped with the last viewer, and with them the bytes of frames that are no longer needed.
    shared: Arc<Mutex<Weak<Payloads>>>,
}

#[derive(Debug)]
struct Entry {
    /// While this exists, no other frame has the same address.
    frame: Weak<Frame>,
    payloads: Arc<[Bytes]>,
}

impl PayloadCache {
    /// The shared payloads, for one more viewer.
    pub fn share(&self) -> Arc<Payloads> {
        let mut shared = self.shared.lock().expect(UNPOISONED);
        shared.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *shared = Arc::downgrade(&fresh);
            fresh
        })
    }
}

impl Payloads {
    /// The payloads of a frame. `packetise` makes them if the frame was not packetised with these parameters before.
    pub fn of(
        &self,
        frame: &Arc<Frame>,
        cut: Packetisation,
        packetise: impl FnOnce(&Bytes, usize) -> Vec<Bytes>,
    ) -> Arc<[Bytes]> {
        // The lock is held meanwhile, so that others wait for the result instead of packetising too: it takes some
        // microseconds.
        let mut cuts = self.cuts.lock().expect(UNPOISONED);
        let key = (Arc::as_ptr(frame).addr(), cut);
        if let Some(entry) = cuts.get(&key) {
            return entry.payloads.clone();
        }
        let payloads: Arc<[Bytes]> = packetise(&frame.data, cut.most).into();
        cuts.retain(|_, entry| entry.frame.strong_count() > 0);
        cuts.insert(key, Entry { frame: Arc::downgrade(frame), payloads: payloads.clone() });
        payloads
    }
}

const UNPOISONED: &str = "lock is never poisoned: no panic while held";

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SMALL: Packetisation = Packetisation { packetiser: "test", most: 2 };
    const LARGE: Packetisation = Packetisation { packetiser: "test", most: 4 };

    fn frame() -> Arc<Frame> {
        Arc::new(Frame::new(Bytes::from_static(&[1, 2, 3, 4]), Instant::now(), true))
    }

    fn cut(data: &Bytes, most: usize) -> Vec<Bytes> {
        (0..data.len()).step_by(most).map(|at| data.slice(at..data.len().min(at + most))).collect()
    }

    #[test]
    fn a_frame_is_packetised_once_for_each_packetisation() {
        let (cache, frame) = (PayloadCache::default(), frame());
        let (one, other) = (cache.share(), cache.share());
        let (small, large) = (one.of(&frame, SMALL, cut), one.of(&frame, LARGE, cut));
        assert_eq!((small.len(), large.len()), (2, 1));
        let again = other.of(&frame, SMALL, |_, _| unreachable!("it was cut already"));
        assert!(Arc::ptr_eq(&small, &again));
    }

    #[test]
    fn payloads_are_dropped_with_their_frame_and_all_with_the_last_viewer() {
        let (cache, first) = (PayloadCache::default(), frame());
        let viewer = cache.share();
        viewer.of(&first, SMALL, cut);
        drop(first);
        let second = frame();
        viewer.of(&second, SMALL, cut);
        assert_eq!(viewer.cuts.lock().unwrap().len(), 1, "the next frame takes the place");
        drop(viewer);
        assert!(cache.share().cuts.lock().unwrap().is_empty());
    }
}
