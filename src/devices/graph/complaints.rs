//! What a camera's driver says where a stream does not begin or breaks off.
//!
//! v4l2src (1.22) reports each of that as lack of memory; the system's own error is only in GStreamer's debug log. So
//! its lines about V4L2 are listened to, and the last ones of each element are kept.

use std::cell::Cell;
use std::collections::VecDeque;
use std::env;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, Once};

use gstreamer as gst;

use peercam::capture::Error;

use super::registry;

/// How many elements' lines are kept: of those that fail at one time there are as many as cameras at most.
const MOST: usize = 32;

/// Bytes after which an element's lines begin again: two or three of them tell of one failure.
const LONG: usize = 200;

/// GStreamer's names of what talks to drivers.
const CATEGORIES: [&str; 2] = ["v4l2bufferpool", "v4l2allocator"];

/// Element and lines, the newest last.
static LINES: Mutex<VecDeque<(String, String)>> = Mutex::new(VecDeque::new());

/// Where libcamera's element says that a camera does not have a control, and in which words (libcamera 0.4 to 0.7). It has
/// no category of its own for that.
const OF_CONTROLS: &str = "default";
const NO_CONTROL: &str = "is not supported by the camera";

thread_local! {
    /// Whether that was said in this thread.
    static HAS_NO_CONTROL: Cell<bool> = const { Cell::new(false) };
}

/// Begins to listen for a camera that does not have a control which this thread is about to set.
pub fn forget_control() {
    HAS_NO_CONTROL.set(false);
}

/// Whether the camera said since then that it does not have the control.
pub fn of_control() -> bool {
    HAS_NO_CONTROL.get()
}

/// Starts GStreamer, and begins to listen.
pub fn init() -> Result<(), Error> {
    static ONCE: Once = Once::new();
    if !gst::INITIALIZED.load(Ordering::Acquire) {
        let _turn = registry::turn();
        gst::init().map_err(Error::broken)?;
    }
    ONCE.call_once(|| {
        // Without a wish for its log nobody expects to read it.
        if env::var_os("GST_DEBUG").is_none() {
            gst::log::remove_default_log_function();
            for category in CATEGORIES {
                gst::log::set_threshold_for_name(category, gst::DebugLevel::Error);
            }
            gst::log::set_threshold_for_name(OF_CONTROLS, gst::DebugLevel::Warning);
        }
        gst::log::add_log_function(|category, level, _, _, _, object, message| {
            if level == gst::DebugLevel::Warning && category.name() == OF_CONTROLS {
                let says = message.get().is_some_and(|text| text.contains(NO_CONTROL));
                return HAS_NO_CONTROL.set(HAS_NO_CONTROL.get() || says);
            }
            if level != gst::DebugLevel::Error || !CATEGORIES.contains(&category.name()) {
                return;
            }
            // A pool is called after its element: `v4l2src0:pool0:src`.
            let object = object.map(ToString::to_string).unwrap_or_default();
            let element = object.split(':').next().unwrap_or_default().to_owned();
            let line = message.get().map(|text| text.to_string()).unwrap_or_default();
            keep(element, line);
        });
    });
    Ok(())
}

/// An error is followed by what comes of it, so that the lines of one element stand together.
fn keep(element: String, line: String) {
    let mut lines = LINES.lock().expect("lock is never poisoned: no panic while held");
    let known = lines.iter().position(|(known, _)| *known == element).and_then(|place| lines.remove(place));
    let line = match known {
        Some((_, before)) if before.len() < LONG => format!("{before}; {line}"),
        _ => line,
    };
    lines.push_back((element, line));
    if lines.len() > MOST {
        lines.pop_front();
    }
}

/// The failure of `device` that the element's lines tell of, if there are any. Each is told once.
pub fn taken(element: &str, device: &str) -> Option<Error> {
    let mut lines = LINES.lock().expect("lock is never poisoned: no panic while held");
    let place = lines.iter().position(|(known, _)| known == element)?;
    let (_, line) = lines.remove(place)?;
    Some(failure(device.to_owned(), &line))
}

/// What a line means for those who have the device.
fn failure(device: String, line: &str) -> Error {
    let is = |what: &str| line.contains(what);
    // What GStreamer logs ends with the system's words for the error.
    let why = match () {
        () if is("Device or resource busy") => return Error::Busy { device },
        () if is("No such device") => return Error::Gone { device },
        () if is("No space left") => {
            "the USB bus has no room for its pictures; use a smaller size, a lower rate, or a plug of another bus"
        }
        () if is("Cannot allocate memory") => "the system has no memory for its pictures; use a smaller size",
        () if is("Link has been severed") => "its input has no signal; look at the cable, and at what sends",
        () if is("we want at least") => "its driver gives fewer than two buffers",
        () if is("error with STREAMON") => "it does not begin to send; try another cable, plug or size",
        () if is("dequeuing") => "it broke off; try another cable or plug if it happens again",
        () => "its driver fails",
    };
    Error::Failed { device, why: why.to_owned(), cause: Some(line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_error_is_told_in_words_that_say_what_to_do() {
        let cases = [
            ("error with STREAMON 28 (No space left on device)", "camera: the USB bus has no room"),
            ("error with STREAMON 16 (Device or resource busy)", "camera is busy"),
            ("error with STREAMON 67 (Link has been severed)", "camera: its input has no signal"),
            ("error with STREAMON 71 (Protocol error)", "(error with STREAMON 71 (Protocol error))"),
            ("error requesting 4 buffers: Cannot allocate memory", "camera: the system has no memory"),
            ("we received 1 buffer from device '/dev/video0', we want at least 2", "fewer than two buffers"),
            ("failed dequeuing a mmap buffer: Input/output error", "camera: it broke off"),
            ("failed dequeuing a mmap buffer: No such device", "camera is gone"),
        ];
        for (line, words) in cases {
            let told = failure("camera".into(), line).to_string();
            assert!(told.contains(words), "{line}: {told}");
        }
    }
}
