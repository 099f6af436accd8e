//! Whether a camera keeps to the size that it agreed to.
//!
//! An HDMI receiver has the size of what it receives, whatever is asked for, and some drivers set another size than they
//! promise. v4l2src (1.22) does not look at what was set, so that its buffers are read as pictures of another size.

use std::path::PathBuf;
use std::sync::mpsc;

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;
use peercam::media::Resolution;

use crate::attempt::Event;
use crate::look::node::Node;

/// Looks at the size that is set when the first raw picture comes.
#[derive(Debug)]
pub struct Agreed {
    /// The element that the pictures leave.
    pub element: gst::Element,
    /// The device.
    pub node: PathBuf,
    /// The size that the camera was asked for.
    pub size: Resolution,
    /// The size that pictures are taken for.
    pub expected: Resolution,
}

impl Agreed {
    /// Begins to look. `events` is told of another size; no picture passes then.
    pub fn stand(&self, device: &str, events: mpsc::Sender<Event>) -> Result<(), Error> {
        let pad = self.element.static_pad("src").ok_or_else(|| Error::broken("no pad to look at pictures"))?;
        let (node, agreed, expected, device) = (self.node.clone(), self.size, self.expected, device.to_owned());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // Once, of a device that is open and sends: this takes microseconds.
            match Node::open(&node).ok().and_then(|node| node.size()) {
                Some(found) if found != expected => {
                    // Nobody listens only while the pipeline is being stopped.
                    events.send(Event::failed(Error::OtherSize { device: device.clone(), agreed, found })).ok();
                    gst::PadProbeReturn::Drop
                }
                _ => gst::PadProbeReturn::Remove,
            }
        });
        Ok(())
    }
}
