//! Pan, tilt and zoom of a camera.

use serde::{Deserialize, Serialize};

/// The motion of each axis that is to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PtzMovement {
    /// Positive to the right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pan: Option<AxisMotion>,
    /// Positive upwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tilt: Option<AxisMotion>,
    /// Positive towards a closer view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zoom: Option<AxisMotion>,
}

/// How one axis moves, in fractions of its range, because devices use units of their own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AxisMotion {
    /// To a position: 0 is the least (left, down, wide), 1 the greatest.
    To(f64),
    /// By a fraction of the range, from -1 to 1.
    By(f64),
    /// Continuously, at a fraction of the highest speed, from -1 to 1; 0 stops, also on an axis that cannot move
    /// continuously.
    At(f64),
    /// To the default position.
    Home,
}

impl PtzMovement {
    /// Whether nothing is to move.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
