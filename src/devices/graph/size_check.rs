//! Checks that a camera keeps to the size that it agreed to.
//!
//! An HDMI receiver has the size of its input, whatever is requested, and some drivers set another size than they
//! promise. v4l2src (1.22) does not check what was set, so its buffers would be read as pictures of another size.

use std::path::PathBuf;
use std::sync::mpsc;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;
use peercam::media::Resolution;

use crate::attempt::AttemptEvent;
use crate::inventory::node::Node;

/// Checks the size that is set when the first raw picture comes.
#[derive(Debug)]
pub struct SizeCheck {
    /// The element whose output is checked.
    pub element: gst::Element,
    /// The device.
    pub node: PathBuf,
    /// The size that was requested from the camera.
    pub size: Resolution,
    /// The size that pictures are expected to have.
    pub expected: Resolution,
}

impl SizeCheck {
    /// Starts to check. Reports another size to `events`; no picture passes then.
    pub fn attach(&self, device: &str, events: mpsc::Sender<AttemptEvent>) -> Result<(), Error> {
        let pad = self.element.static_pad("src").ok_or_else(|| Error::broken("no pad to look at pictures"))?;
        let (node, agreed, expected, device) = (self.node.clone(), self.size, self.expected, device.to_owned());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // Once, for a device that is open and sends: this takes microseconds.
            match Node::open(&node).ok().and_then(|node| node.size()) {
                Some(found) if found != expected => {
                    // The receiver is gone only while the pipeline is being stopped.
                    events.send(AttemptEvent::failed(Error::OtherSize { device: device.clone(), agreed, found })).ok();
                    gst::PadProbeReturn::Drop
                }
                _ => gst::PadProbeReturn::Remove,
            }
        });
        Ok(())
    }
}
