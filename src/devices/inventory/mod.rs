//! Finds devices, their formats and controls; sets controls and moves cameras. GStreamer does the capturing.

pub mod controls;
pub mod csi;
pub mod csi_controls;
pub mod device;
mod extended_controls;
pub mod hotplug;
pub mod node;
pub mod ptz;
pub mod report;
