//! Detects that a device has appeared while the test picture or tone replaces one: USB devices may need longer to
//! start than the service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;

use crate::attempt::AttemptEvent;

use super::device;

/// How often to check. A check lists two directories and opens no device.
const INTERVAL: Duration = Duration::from_secs(1);

/// The devices that existed when none of them could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotplugWatch(Vec<(PathBuf, Option<(i64, i64)>)>);

impl HotplugWatch {
    /// The devices that exist now. One whose permissions change later counts as another device, because udev sets
    /// them after it makes the node.
    pub fn now() -> Self {
        let cards = fs::read_dir("/dev/snd").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut nodes: Vec<_> = device::video_nodes().into_iter().chain(cards).collect();
        nodes.sort();
        let changed = |node: &PathBuf| fs::metadata(node).ok().map(|node| (node.ctime(), node.ctime_nsec()));
        Self(nodes.into_iter().map(|node| (node.clone(), changed(&node))).collect())
    }

    /// Starts to check while buffers leave the element. Reports to `events` once, when the devices have changed.
    pub fn attach(&self, element: &gst::Element, events: mpsc::Sender<AttemptEvent>) -> Result<(), Error> {
        let pad = element.static_pad("src").ok_or_else(|| Error::broken("no pad to look at buffers"))?;
        let (before, checked) = (self.clone(), std::sync::Mutex::new(Instant::now()));
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // The probe is called by one thread, that of the source.
            let mut checked = checked.lock().expect("lock is never poisoned: no panic while held");
            if checked.elapsed() < INTERVAL {
                return gst::PadProbeReturn::Ok;
            }
            *checked = Instant::now();
            if Self::now() == before {
                return gst::PadProbeReturn::Ok;
            }
            // The receiver is gone only while the pipeline is being stopped.
            events.send(AttemptEvent::Outdated).ok();
            gst::PadProbeReturn::Remove
        });
        Ok(())
    }
}
