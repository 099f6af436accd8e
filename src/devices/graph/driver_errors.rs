//! Collects the errors of a camera's driver when a stream does not start or breaks off.
//!
//! v4l2src (1.22) reports all of them as lack of memory; the system's own error is only in GStreamer's debug log.
//! So this module receives the log lines about V4L2 and keeps the last ones of each element.

use std::cell::Cell;
use std::collections::VecDeque;
use std::env;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, Once};

use gstreamer as gst;

use peercam::capture::Error;

use super::registry;

/// Number of elements whose lines are kept: at most as many as there are cameras fail at one time.
const MAX_ELEMENTS: usize = 32;

/// Length in bytes after which an element's lines are replaced: two or three of them describe one failure.
const MAX_LENGTH: usize = 200;

/// GStreamer's debug categories of the code that talks to drivers.
const CATEGORIES: [&str; 2] = ["v4l2bufferpool", "v4l2allocator"];

/// Elements and their lines, the newest last.
static LINES: Mutex<VecDeque<(String, String)>> = Mutex::new(VecDeque::new());

/// Debug category and text with which libcamera's element reports that a camera does not have a control (libcamera
/// 0.4 to 0.7). It has no category of its own for that.
const CONTROL_CATEGORY: &str = "default";
const MISSING_CONTROL_TEXT: &str = "is not supported by the camera";

thread_local! {
    /// Whether that was reported in this thread.
    static IS_CONTROL_MISSING: Cell<bool> = const { Cell::new(false) };
}

/// Call before this thread sets a control: clears the report that the camera does not have it.
pub fn clear_missing_control() {
    IS_CONTROL_MISSING.set(false);
}

/// Whether it was reported since then that the camera does not have the control.
pub fn is_control_missing() -> bool {
    IS_CONTROL_MISSING.get()
}

/// Initialises GStreamer, and starts to receive its log.
pub fn init() -> Result<(), Error> {
    static ONCE: Once = Once::new();
    if !gst::INITIALIZED.load(Ordering::Acquire) {
        let _lock = registry::lock();
        gst::init().map_err(Error::broken)?;
    }
    ONCE.call_once(|| {
        // Unless its log was requested, nobody reads it.
        if env::var_os("GST_DEBUG").is_none() {
            gst::log::remove_default_log_function();
            for category in CATEGORIES {
                gst::log::set_threshold_for_name(category, gst::DebugLevel::Error);
            }
            gst::log::set_threshold_for_name(CONTROL_CATEGORY, gst::DebugLevel::Warning);
        }
        gst::log::add_log_function(|category, level, _, _, _, object, message| {
            if level == gst::DebugLevel::Warning && category.name() == CONTROL_CATEGORY {
                let is_missing = message.get().is_some_and(|text| text.contains(MISSING_CONTROL_TEXT));
                return IS_CONTROL_MISSING.set(IS_CONTROL_MISSING.get() || is_missing);
            }
            if level != gst::DebugLevel::Error || !CATEGORIES.contains(&category.name()) {
                return;
            }
            // A pool's name starts with its element's: `v4l2src0:pool0:src`.
            let object = object.map(ToString::to_string).unwrap_or_default();
            let element = object.split(':').next().unwrap_or_default().to_owned();
            let line = message.get().map(|text| text.to_string()).unwrap_or_default();
            add_line(element, line);
        });
    });
    Ok(())
}

/// Keeps a line. An error is followed by its consequences, so the lines of one element are joined.
fn add_line(element: String, line: String) {
    let mut lines = LINES.lock().expect("lock is never poisoned: no panic while held");
    let known = lines.iter().position(|(known, _)| *known == element).and_then(|place| lines.remove(place));
    let line = match known {
        Some((_, before)) if before.len() < MAX_LENGTH => format!("{before}; {line}"),
        _ => line,
    };
    lines.push_back((element, line));
    if lines.len() > MAX_ELEMENTS {
        lines.pop_front();
    }
}

/// The failure of `device` in the element's lines, if there are any. Each is returned once.
pub fn take(element: &str, device: &str) -> Option<Error> {
    let mut lines = LINES.lock().expect("lock is never poisoned: no panic while held");
    let place = lines.iter().position(|(known, _)| known == element)?;
    let (_, line) = lines.remove(place)?;
    Some(failure(device.to_owned(), &line))
}

/// The error for a line, with advice.
fn failure(device: String, line: &str) -> Error {
    let is = |what: &str| line.contains(what);
    // GStreamer's line ends with the system's error text.
    let why = match () {
        () if is("Device or resource busy") => return Error::Busy { device },
        () if is("No such device") => return Error::Gone { device },
        () if is("No space left") => {
            "the USB bus has no room for its pictures; use a smaller size, a lower rate, or a port of another bus"
        }
        () if is("Cannot allocate memory") => "the system has no memory for its pictures; use a smaller size",
        () if is("Link has been severed") => "its input has no signal; check the cable and the sending device",
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
    fn driver_errors_become_texts_with_advice() {
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
