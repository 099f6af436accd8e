//! The settings of a camera or of the microphone, as far as an actor uses them.

use crate::capture;
use crate::capture::{AudioConfig, Config};

/// The configuration of a camera or of the microphone, as far as an actor uses it.
pub(super) trait Settings: Clone + PartialEq + Send + Sync + 'static {
    /// Whether a graph that was started with `running` can change to these settings without a restart.
    fn can_retune(&self, running: &Self) -> bool;
    /// What the source does without viewers.
    fn idle_policy(&self) -> IdlePolicy;
    /// The settings as sent to the capture process.
    fn to_order(&self) -> capture::Settings;
}

/// What a source does without viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdlePolicy {
    /// It keeps running.
    KeepRunning,
    /// Its device is closed.
    CloseDevice,
}

impl Settings for Config {
    fn can_retune(&self, running: &Self) -> bool {
        let Self { bitrate, key_frame_interval, keep_warm, .. } = *running;
        Self { bitrate, key_frame_interval, keep_warm, ..self.clone() } == *running
    }

    fn idle_policy(&self) -> IdlePolicy {
        if self.keep_warm { IdlePolicy::KeepRunning } else { IdlePolicy::CloseDevice }
    }

    fn to_order(&self) -> capture::Settings {
        capture::Settings::Camera(self.clone())
    }
}

impl Settings for AudioConfig {
    fn can_retune(&self, running: &Self) -> bool {
        Self { bitrate: running.bitrate, ..self.clone() } == *running
    }

    fn idle_policy(&self) -> IdlePolicy {
        IdlePolicy::CloseDevice
    }

    fn to_order(&self) -> capture::Settings {
        capture::Settings::Microphone(self.clone())
    }
}
