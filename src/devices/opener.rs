//! What opens a device: the way from settings to a graph, which learns by what becomes of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peercam::capture::{Blame, Error, Memory, Rendition, Settings};

use crate::graph::Graph;
use crate::graph::branch::Branch;

/// A camera's or the microphone's way from settings to a graph.
pub trait Opener: Send {
    /// Describes the graph to run for the next attempt. Blocks.
    fn open(&mut self, settings: &Settings) -> Result<Graph, Error>;

    /// Describes one more encoding of the graph of the last attempt, whose pictures come at `fps`, and names its
    /// encoder. Blocks.
    fn rendition(&mut self, wanted: &Rendition, fps: f64) -> Result<(Branch, String), Error>;

    /// What became of the last attempt.
    fn learn(&mut self, outcome: Outcome<'_>);

    /// What was learned, for a process after this one.
    fn memory(&self) -> Memory;

    /// Takes what a process before this one had learned. What cannot be read is forgotten.
    fn recall(&mut self, memory: Memory);

    /// Takes what a process before this one died of.
    fn blame(&mut self, blame: &Blame);
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Frames come and go on.
    Works,
    /// Some frames came, and then none.
    Stalled {
        /// What stands still.
        part: Part,
    },
    /// It could not start, reported an error or brought no first frame.
    Failed {
        /// Why.
        error: &'a Error,
        /// What failed.
        part: Part,
    },
}

/// A part of a graph that may fail while the others work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The camera or the sound card, with what belongs to it alone.
    Device,
    /// Hardware that decodes JPEGs.
    Decoder,
    /// The encoder.
    Encoder,
}

/// One that is shared with the threads of attempts. What a panic in it leaves is as good as before: each attempt begins
/// from the start.
pub type Shared = Arc<Mutex<dyn Opener>>;

/// The opener, for as long as the guard lives.
pub fn locked(opener: &Shared) -> MutexGuard<'_, dyn Opener + 'static> {
    opener.lock().unwrap_or_else(PoisonError::into_inner)
}
