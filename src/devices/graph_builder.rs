//! Turns settings into a graph, and learns from the outcome of each attempt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peercam::capture::{Blame, Error, LearnedState, Rendition, Settings};

use crate::graph::Graph;
use crate::graph::branch::Branch;

/// Turns settings of a camera or of the microphone into a graph.
pub trait GraphBuilder: Send {
    /// Describes the graph to run for the next attempt. Blocks.
    fn build(&mut self, settings: &Settings) -> Result<Graph, Error>;

    /// Describes one more encoding for the graph of the last attempt, whose pictures come at `fps`, and returns the
    /// name of its encoder. Blocks.
    fn rendition(&mut self, wanted: &Rendition, fps: f64) -> Result<(Branch, String), Error>;

    /// Records the outcome of the last attempt.
    fn record_outcome(&mut self, outcome: AttemptOutcome<'_>);

    /// The learned state, to be passed to the next process.
    fn learned(&self) -> LearnedState;

    /// Restores the learned state of an earlier process. An unreadable one is ignored.
    fn restore(&mut self, learned: LearnedState);

    /// Records what an earlier process died of.
    fn record_crash(&mut self, blame: &Blame);
}

/// Outcome of an attempt.
#[derive(Clone, Copy, Debug)]
pub enum AttemptOutcome<'a> {
    /// Frames come steadily.
    Works,
    /// Some frames came and then stopped.
    Stalled {
        /// The part that stalled.
        part: GraphPart,
    },
    /// It could not start, reported an error or delivered no first frame.
    Failed {
        /// Why.
        error: &'a Error,
        /// The part that failed.
        part: GraphPart,
    },
}

/// A part of a graph that may fail while the others work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphPart {
    /// The camera or the sound card, with the elements that belong to it alone.
    Device,
    /// A hardware JPEG decoder.
    Decoder,
    /// The encoder.
    Encoder,
}

/// A builder shared with the threads of attempts. A panic in it does no harm: each attempt begins with its settings.
pub type SharedBuilder = Arc<Mutex<dyn GraphBuilder>>;

/// Locks the builder.
pub fn lock(builder: &SharedBuilder) -> MutexGuard<'_, dyn GraphBuilder + 'static> {
    builder.lock().unwrap_or_else(PoisonError::into_inner)
}
