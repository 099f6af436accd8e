//! Where a camera is to look.

use serde::{Deserialize, Serialize};

/// Where to, for each axis that is to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Movement {
    /// To the right is positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pan: Option<Motion>,
    /// Up is positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tilt: Option<Motion>,
    /// Nearer is positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zoom: Option<Motion>,
}

/// How one axis moves, in shares of its range, since devices count in units of their own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Motion {
    /// To a place: 0 is the least (left, down, wide), 1 the greatest.
    To(f64),
    /// By a share of the range, from -1 to 1.
    By(f64),
    /// On and on with a share of the highest speed, from -1 to 1; 0 stops, also what cannot move so.
    At(f64),
    /// To where it stands without adjustment.
    Home,
}

impl Movement {
    /// Whether nothing is to move.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
