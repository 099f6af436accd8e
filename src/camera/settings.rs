//! What an actor has to know of the settings of a camera or of the microphone.

use crate::capture;
use crate::capture::{AudioConfig, Config};

/// The configuration of a camera or of the microphone, as far as their actor has to understand it.
pub(super) trait Settings: Clone + PartialEq + Send + Sync + 'static {
    /// Whether a graph that was started with `running` only needs to be tuned.
    fn suits(&self, running: &Self) -> bool;
    /// What happens when nobody watches.
    fn warmth(&self) -> Warmth;
    /// As the capture process is told them.
    fn to_order(&self) -> capture::Settings;
}

/// What happens to a source that nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warmth {
    /// It runs on.
    Kept,
    /// Its device is closed.
    Closed,
}

impl Settings for Config {
    fn suits(&self, running: &Self) -> bool {
        let Self { bitrate, key_frame_interval, keep_warm, .. } = *running;
        Self { bitrate, key_frame_interval, keep_warm, ..self.clone() } == *running
    }

    fn warmth(&self) -> Warmth {
        if self.keep_warm { Warmth::Kept } else { Warmth::Closed }
    }

    fn to_order(&self) -> capture::Settings {
        capture::Settings::Camera(self.clone())
    }
}

impl Settings for AudioConfig {
    fn suits(&self, running: &Self) -> bool {
        Self { bitrate: running.bitrate, ..self.clone() } == *running
    }

    fn warmth(&self) -> Warmth {
        Warmth::Closed
    }

    fn to_order(&self) -> capture::Settings {
        capture::Settings::Microphone(self.clone())
    }
}
