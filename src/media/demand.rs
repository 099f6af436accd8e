//! The combined demand of a feed's readers on its source.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::Bitrate;

/// The purpose of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A person watches.
    Viewer,
    /// A single picture is wanted, for which the camera has to run.
    Snapshot,
    /// It is recorded.
    Recorder,
    /// It is forwarded.
    Server,
}

/// The combined demand of a feed's readers on its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Readers that show the frames to a person.
    pub viewers: usize,
    /// All other readers.
    pub others: usize,
    /// Counts the requests for a key frame; a change means that one is wanted now.
    pub key_frames: u64,
    /// The lowest bitrate that a reader wants; `None` if none has set one.
    pub bitrate: Option<Bitrate>,
}

impl Demand {
    /// The number of readers. With none the source may close its device.
    pub fn readers(&self) -> usize {
        self.viewers + self.others
    }
}

/// The readers of a feed.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// The number of readers so far, from which each gets its number.
    count: u64,
    wants: BTreeMap<u64, (Purpose, Option<Bitrate>)>,
}

impl Readers {
    /// Adds a reader, and numbers it.
    pub(super) fn join(&mut self, purpose: Purpose) -> u64 {
        let number = self.count;
        self.count += 1;
        self.wants.insert(number, (purpose, None));
        number
    }

    /// Sets the bitrate that a reader wants.
    pub(super) fn want(&mut self, number: u64, bitrate: Option<Bitrate>) {
        if let Some((_, wanted)) = self.wants.get_mut(&number) {
            *wanted = bitrate;
        }
    }

    /// Removes a reader.
    pub(super) fn leave(&mut self, number: u64) {
        self.wants.remove(&number);
    }

    /// The combined demand, with this count of key frame requests.
    pub(super) fn demand(&self, key_frames: u64) -> Demand {
        let viewers = self.wants.values().filter(|(purpose, _)| *purpose == Purpose::Viewer).count();
        let bitrate = self.wants.values().filter_map(|(_, bitrate)| *bitrate).min();
        Demand { viewers, others: self.wants.len() - viewers, key_frames, bitrate }
    }
}

/// The camera's end of the demand.
#[derive(Debug)]
pub struct DemandWatch {
    pub(super) changes: watch::Receiver<Demand>,
}

impl DemandWatch {
    /// Waits until the demand differs from the one last seen.
    pub async fn changed(&mut self) -> Demand {
        // The feed holds the sender; without the feed there is no reader.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.changes.borrow_and_update()
    }

    /// The demand now, which also marks it as seen.
    pub fn now(&mut self) -> Demand {
        *self.changes.borrow_and_update()
    }
}
