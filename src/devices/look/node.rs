//! One V4L2 node, asked what it is and what it offers (Linux, userspace-api/media/v4l).
//!
//! A driver's answers are input like any other: names are bytes, lists can be endless, ranges absurd. What is said here
//! is bounded and sound, whatever the driver says.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use v4l2r::bindings::v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_STEPWISE as STEPWISE;
use v4l2r::bindings::{
    V4L2_IN_CAP_DV_TIMINGS, V4L2_IN_ST_NO_ACCESS, V4L2_IN_ST_NO_H_LOCK, V4L2_IN_ST_NO_POWER, V4L2_IN_ST_NO_SIGNAL,
    V4L2_IN_ST_NO_SYNC, V4L2_IN_ST_NO_V_LOCK,
};
use v4l2r::bindings::{
    v4l2_capability, v4l2_dv_timings, v4l2_fmtdesc, v4l2_fract, v4l2_frmivalenum, v4l2_frmsizeenum, v4l2_input,
};
use v4l2r::ioctl::{self, Capabilities, FrmIvalTypes, FrmSizeTypes};
use v4l2r::nix::errno::Errno;
use v4l2r::{PixelFormat, QueueType};

use peercam::capture::{Rate, Sizes};
use peercam::media::Resolution;

use crate::source::mode;

/// How many formats a node can have, and sizes and rates each. The richest camera known to the makers of this software
/// has a tenth of that; v4l2src asks for all of them without an end.
const MOST_FORMATS: u32 = 128;
const MOST_SIZES: u32 = 512;
const MOST_RATES: u32 = 256;

/// How many steps a range of rates can have: v4l2src (1.22) makes a list of them.
const MOST_STEPS: f64 = 10_000.0;

/// Rates that people ask for: what is offered out of a range.
const USUAL_RATES: [u32; 8] = [5, 10, 15, 20, 25, 30, 50, 60];

/// What is the matter with an input.
const NO_SIGNAL: &str = "its input has no signal: look at the cable, and at what sends";
const UNSTABLE: &str = "its input's signal is unstable: look at the cable, and at what sends";

/// A list that does not end.
#[derive(Debug, PartialEq, Eq)]
pub struct Endless;

/// An open node.
#[derive(Debug)]
pub struct Node {
    file: File,
}

/// What a node says it is (`VIDIOC_QUERYCAP`).
#[derive(Clone, Debug)]
pub struct Identity {
    pub driver: String,
    pub card: String,
    pub bus: String,
    /// Of this node, not of all nodes of its device.
    pub can: Capabilities,
}

impl From<v4l2_capability> for Identity {
    fn from(found: v4l2_capability) -> Self {
        let all = Capabilities::from_bits_retain(found.capabilities);
        // Drivers older than Linux 3.4 have one set for all nodes.
        let own = Capabilities::from_bits_retain(found.device_caps);
        let can = if all.contains(Capabilities::DEVICE_CAPS) { own } else { all };
        let card = Some(words(&found.card)).filter(|card| !card.is_empty()).unwrap_or_else(|| "unnamed".into());
        Self { driver: words(&found.driver), card, bus: words(&found.bus_info), can }
    }
}

impl Node {
    /// Opens the node beside other programs that have it open (userspace-api/media/v4l/open.rst, "Multiple Opens").
    pub fn open(path: &Path) -> io::Result<Self> {
        // Without waiting: opening a named pipe would wait for its other end.
        let flags = OFlags::NONBLOCK.bits() as i32;
        Ok(Self { file: OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)? })
    }

    /// The file to ask more of.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What it says it is.
    pub fn identity(&self) -> io::Result<Identity> {
        ioctl::querycap(&self.file).map_err(|error| os_error(error.into()))
    }

    /// What keeps its input from bringing pictures, as an HDMI receiver without a cable says it (vidioc-enuminput.rst).
    pub fn fault(&self) -> Option<&'static str> {
        let input = ioctl::g_input(&self.file).ok()?;
        let found = ioctl::enuminput::<v4l2_input>(&self.file, input).ok()?;
        let is = |flags: u32| found.status & flags != 0;
        Some(match () {
            () if is(V4L2_IN_ST_NO_POWER) => "its input has no power",
            () if is(V4L2_IN_ST_NO_SIGNAL) => NO_SIGNAL,
            () if is(V4L2_IN_ST_NO_ACCESS) => "what comes in is protected from being copied",
            () if is(V4L2_IN_ST_NO_SYNC | V4L2_IN_ST_NO_H_LOCK | V4L2_IN_ST_NO_V_LOCK) => UNSTABLE,
            // Only where the input has timings: the query may take a while.
            () if found.capabilities & V4L2_IN_CAP_DV_TIMINGS == 0 => return None,
            () => match ioctl::query_dv_timings::<v4l2_dv_timings>(&self.file).map_err(Errno::from) {
                Err(Errno::ENOLINK) => NO_SIGNAL,
                Err(Errno::ENOLCK) => UNSTABLE,
                Err(Errno::ERANGE) => {
                    "its input's signal is more than it can take: choose a smaller size at what sends"
                }
                _ => return None,
            },
        })
    }

    /// The size that is set.
    pub fn size(&self) -> Option<Resolution> {
        let is_planar = self.identity().ok()?.can.contains(Capabilities::VIDEO_CAPTURE_MPLANE);
        self.set_size(if is_planar { QueueType::VideoCaptureMplane } else { QueueType::VideoCapture })
    }

    /// Has an HDMI receiver take over the timings of what it receives: until then its size is another one. Of one that
    /// streams they are the same already.
    fn take_timings(&self) {
        if let Ok(found) = ioctl::query_dv_timings::<v4l2_dv_timings>(&self.file) {
            // What does not take them has told its size by other means.
            ioctl::s_dv_timings::<_, v4l2_dv_timings>(&self.file, found).ok();
        }
    }

    fn set_size(&self, queue: QueueType) -> Option<Resolution> {
        let set = ioctl::g_fmt::<v4l2r::Format>(&self.file, queue).ok()?;
        Some(Resolution { width: set.width, height: set.height })
    }

    /// The codes of its formats.
    pub fn formats(&self, queue: QueueType) -> Result<Vec<[u8; 4]>, Endless> {
        let found = bounded(MOST_FORMATS, |index| ioctl::enum_fmt::<v4l2_fmtdesc>(&self.file, queue, index).ok())?;
        Ok(found.into_iter().map(|format| format.pixelformat.to_le_bytes()).collect())
    }

    /// The sizes of one format that an encoder can take. A driver that has no list, such as that of an HDMI receiver,
    /// has the one that is set.
    pub fn sizes(&self, queue: QueueType, code: [u8; 4]) -> Result<Vec<Sizes>, Endless> {
        let code = PixelFormat::from_fourcc(&code);
        let mut listed = Vec::new();
        for index in 0.. {
            let Ok(found) = ioctl::enum_frame_sizes::<v4l2_frmsizeenum>(&self.file, index, code) else { break };
            if index >= MOST_SIZES {
                return Err(Endless);
            }
            match found.size() {
                Some(FrmSizeTypes::Discrete(size)) => {
                    listed.push(Sizes::One(Resolution { width: size.width, height: size.height }));
                }
                // The only one of its list (vidioc-enum-framesizes.rst).
                Some(FrmSizeTypes::StepWise(range)) => {
                    listed.push(Sizes::Range {
                        least: Resolution { width: range.min_width, height: range.min_height },
                        most: Resolution { width: range.max_width, height: range.max_height },
                        step: Resolution { width: range.step_width, height: range.step_height },
                    });
                    break;
                }
                None => break,
            }
        }
        if listed.is_empty() {
            self.take_timings();
            listed.extend(self.set_size(queue).map(Sizes::One));
        }
        Ok(listed.into_iter().filter_map(Sizes::usable).collect())
    }

    /// The rates of a format at one size; none where the driver does not tell.
    pub fn rates(&self, code: [u8; 4], at: Resolution) -> Result<Vec<Rate>, Endless> {
        let code = PixelFormat::from_fourcc(&code);
        let ask =
            |index| ioctl::enum_frame_intervals::<v4l2_frmivalenum>(&self.file, index, code, at.width, at.height).ok();
        let mut rates = Vec::new();
        for index in 0.. {
            let Some(found) = ask(index) else { break };
            if index >= MOST_RATES {
                return Err(Endless);
            }
            // A frame's interval is the inverse of a rate.
            let rate = |interval: v4l2_fract| Rate { frames: interval.denominator, seconds: interval.numerator };
            match found.intervals() {
                Some(FrmIvalTypes::Discrete(interval)) => rates.push(rate(*interval)),
                Some(FrmIvalTypes::StepWise(range)) => {
                    let (slow, fast) = (rate(range.max), rate(range.min));
                    // The steps are of time; without a sound one, v4l2src takes the first rate alone.
                    let seconds = |of: v4l2_fract| f64::from(of.numerator) / f64::from(of.denominator.max(1));
                    let steps = (seconds(range.max) - seconds(range.min)) / seconds(range.step);
                    if found.type_ == STEPWISE && steps.is_finite() && steps > MOST_STEPS {
                        return Err(Endless);
                    }
                    let within = |fps: &u32| (slow.as_fps()..=fast.as_fps()).contains(&f64::from(*fps));
                    rates.extend([slow, fast]);
                    rates.extend(USUAL_RATES.into_iter().filter(within).map(|frames| Rate { frames, seconds: 1 }));
                    break;
                }
                None => break,
            }
        }
        rates.retain(|rate| rate.is_usable());
        mode::without_repetition(&mut rates);
        Ok(rates)
    }
}

/// What `ask` answers from index 0 until it has nothing more.
fn bounded<T>(most: u32, mut ask: impl FnMut(u32) -> Option<T>) -> Result<Vec<T>, Endless> {
    let mut found = Vec::new();
    for index in 0..=most {
        match ask(index) {
            Some(one) => found.push(one),
            None => return Ok(found),
        }
    }
    Err(Endless)
}

/// A driver's text: any bytes, up to a NUL. What is no UTF-8 and what a terminal would obey is shown as U+FFFD.
pub fn words(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.trim().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// What the system said, as the standard library has it.
pub fn os_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}
