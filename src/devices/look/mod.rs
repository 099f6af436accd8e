//! What devices there are, what they offer, and how they are adjusted and moved. Capturing is GStreamer's work.

pub mod controls;
pub mod csi;
pub mod csi_controls;
pub mod device;
mod extended;
pub mod movement;
pub mod newcomer;
pub mod node;
pub mod survey;
