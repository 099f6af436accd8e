//! Whether a device has come while the test picture or tone stands in for one: USB devices may need longer to start than
//! the service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;

use crate::attempt::Event;

use super::device;

/// How often is looked. It is a look at two folders, which opens no device.
const INTERVAL: Duration = Duration::from_secs(1);

/// The devices that there were when none of them could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer(Vec<(PathBuf, Option<(i64, i64)>)>);

impl Newcomer {
    /// The devices that there are now. One that may be opened since then counts as another: udev gives the permission
    /// after the node.
    pub fn now() -> Self {
        let cards = fs::read_dir("/dev/snd").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut nodes: Vec<_> = device::video_nodes().into_iter().chain(cards).collect();
        nodes.sort();
        let changed = |node: &PathBuf| fs::metadata(node).ok().map(|node| (node.ctime(), node.ctime_nsec()));
        Self(nodes.into_iter().map(|node| (node.clone(), changed(&node))).collect())
    }

    /// Begins to look while buffers leave the element. `events` is told once, when there are other devices.
    pub fn stand(&self, element: &gst::Element, events: mpsc::Sender<Event>) -> Result<(), Error> {
        let pad = element.static_pad("src").ok_or_else(|| Error::broken("no pad to look at buffers"))?;
        let (before, looked) = (self.clone(), std::sync::Mutex::new(Instant::now()));
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // One thread calls it, that of the source.
            let mut looked = looked.lock().expect("lock is never poisoned: no panic while held");
            if looked.elapsed() < INTERVAL {
                return gst::PadProbeReturn::Ok;
            }
            *looked = Instant::now();
            if Self::now() == before {
                return gst::PadProbeReturn::Ok;
            }
            // Nobody listens only while the pipeline is being stopped.
            events.send(Event::Outdated).ok();
            gst::PadProbeReturn::Remove
        });
        Ok(())
    }
}
