//! One V4L2 node: its identity, formats, sizes and rates (Linux, userspace-api/media/v4l).
//!
//! A driver's answers are input like any other: names are bytes, lists can be endless, ranges absurd. The results
//! of this module are bounded and valid, whatever the driver answers.

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

use peercam::capture::{FrameRate, Sizes};
use peercam::media::Resolution;

use crate::source::mode;

/// Most formats of a node, and most sizes and rates of each. The richest camera known to the authors has a tenth of
/// that; v4l2src queries all of them without limit.
const MAX_FORMATS: u32 = 128;
const MAX_SIZES: u32 = 512;
const MAX_RATES: u32 = 256;

/// Most steps of a range of rates: v4l2src (1.22) makes a list of them.
const MAX_STEPS: f64 = 10_000.0;

/// Common frame rates, offered from a range.
const USUAL_RATES: [u32; 8] = [5, 10, 15, 20, 25, 30, 50, 60];

/// Faults of an input.
const NO_SIGNAL: &str = "its input has no signal: check the cable and the sending device";
const UNSTABLE: &str = "its input's signal is unstable: check the cable and the sending device";

/// A list that does not end.
#[derive(Debug, PartialEq, Eq)]
pub struct Endless;

/// An open node.
#[derive(Debug)]
pub struct Node {
    file: File,
}

/// A node's own description (`VIDIOC_QUERYCAP`).
#[derive(Clone, Debug)]
pub struct Identity {
    pub driver: String,
    pub card: String,
    pub bus: String,
    /// Capabilities of this node, not of all nodes of its device.
    pub can: Capabilities,
}

impl From<v4l2_capability> for Identity {
    fn from(found: v4l2_capability) -> Self {
        let all = Capabilities::from_bits_retain(found.capabilities);
        // Drivers older than Linux 3.4 have one set of capabilities for all nodes.
        let own = Capabilities::from_bits_retain(found.device_caps);
        let can = if all.contains(Capabilities::DEVICE_CAPS) { own } else { all };
        let card = Some(words(&found.card)).filter(|card| !card.is_empty()).unwrap_or_else(|| "unnamed".into());
        Self { driver: words(&found.driver), card, bus: words(&found.bus_info), can }
    }
}

impl Node {
    /// Opens the node, also while other programs have it open (userspace-api/media/v4l/open.rst, "Multiple Opens").
    pub fn open(path: &Path) -> io::Result<Self> {
        // Non-blocking: opening a named pipe would wait for its other end.
        let flags = OFlags::NONBLOCK.bits() as i32;
        Ok(Self { file: OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)? })
    }

    /// The file, for further ioctls.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its own description.
    pub fn identity(&self) -> io::Result<Identity> {
        ioctl::querycap(&self.file).map_err(|error| os_error(error.into()))
    }

    /// Why its input delivers no pictures, as reported by an HDMI receiver without a cable for example
    /// (vidioc-enuminput.rst).
    pub fn fault(&self) -> Option<&'static str> {
        let input = ioctl::g_input(&self.file).ok()?;
        let found = ioctl::enuminput::<v4l2_input>(&self.file, input).ok()?;
        let is = |flags: u32| found.status & flags != 0;
        Some(match () {
            () if is(V4L2_IN_ST_NO_POWER) => "its input has no power",
            () if is(V4L2_IN_ST_NO_SIGNAL) => NO_SIGNAL,
            () if is(V4L2_IN_ST_NO_ACCESS) => "its input is protected from being copied",
            () if is(V4L2_IN_ST_NO_SYNC | V4L2_IN_ST_NO_H_LOCK | V4L2_IN_ST_NO_V_LOCK) => UNSTABLE,
            // Only if the input has timings: the query may take a while.
            () if found.capabilities & V4L2_IN_CAP_DV_TIMINGS == 0 => return None,
            () => match ioctl::query_dv_timings::<v4l2_dv_timings>(&self.file).map_err(Errno::from) {
                Err(Errno::ENOLINK) => NO_SIGNAL,
                Err(Errno::ENOLCK) => UNSTABLE,
                Err(Errno::ERANGE) => {
                    "its input's signal exceeds its limits: choose a smaller size at the sending device"
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

    /// Makes an HDMI receiver adopt the timings of its input: until then its size is another one. While it streams
    /// they are the same already.
    fn adopt_timings(&self) {
        if let Ok(found) = ioctl::query_dv_timings::<v4l2_dv_timings>(&self.file) {
            // A device that does not adopt them has other ways to report its size.
            ioctl::s_dv_timings::<_, v4l2_dv_timings>(&self.file, found).ok();
        }
    }

    fn set_size(&self, queue: QueueType) -> Option<Resolution> {
        let set = ioctl::g_fmt::<v4l2r::Format>(&self.file, queue).ok()?;
        Some(Resolution { width: set.width, height: set.height })
    }

    /// The V4L2 codes of its formats.
    pub fn formats(&self, queue: QueueType) -> Result<Vec<[u8; 4]>, Endless> {
        let found = bounded(MAX_FORMATS, |index| ioctl::enum_fmt::<v4l2_fmtdesc>(&self.file, queue, index).ok())?;
        Ok(found.into_iter().map(|format| format.pixelformat.to_le_bytes()).collect())
    }

    /// The sizes of one format that an encoder can accept. A driver without a list, such as that of an HDMI
    /// receiver, has the size that is set.
    pub fn sizes(&self, queue: QueueType, code: [u8; 4]) -> Result<Vec<Sizes>, Endless> {
        let code = PixelFormat::from_fourcc(&code);
        let mut listed = Vec::new();
        for index in 0.. {
            let Ok(found) = ioctl::enum_frame_sizes::<v4l2_frmsizeenum>(&self.file, index, code) else { break };
            if index >= MAX_SIZES {
                return Err(Endless);
            }
            match found.size() {
                Some(FrmSizeTypes::Discrete(size)) => {
                    listed.push(Sizes::One(Resolution { width: size.width, height: size.height }));
                }
                // The only entry of its list (vidioc-enum-framesizes.rst).
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
            self.adopt_timings();
            listed.extend(self.set_size(queue).map(Sizes::One));
        }
        Ok(listed.into_iter().filter_map(Sizes::usable).collect())
    }

    /// The rates of a format at one size; empty if the driver reports none.
    pub fn rates(&self, code: [u8; 4], at: Resolution) -> Result<Vec<FrameRate>, Endless> {
        let code = PixelFormat::from_fourcc(&code);
        let ask =
            |index| ioctl::enum_frame_intervals::<v4l2_frmivalenum>(&self.file, index, code, at.width, at.height).ok();
        let mut rates = Vec::new();
        for index in 0.. {
            let Some(found) = ask(index) else { break };
            if index >= MAX_RATES {
                return Err(Endless);
            }
            // A frame interval is the inverse of a rate.
            let rate = |interval: v4l2_fract| FrameRate { frames: interval.denominator, seconds: interval.numerator };
            match found.intervals() {
                Some(FrmIvalTypes::Discrete(interval)) => rates.push(rate(*interval)),
                Some(FrmIvalTypes::StepWise(range)) => {
                    let (slow, fast) = (rate(range.max), rate(range.min));
                    // The steps are in time; without a valid step, v4l2src only uses the first rate.
                    let seconds = |of: v4l2_fract| f64::from(of.numerator) / f64::from(of.denominator.max(1));
                    let steps = (seconds(range.max) - seconds(range.min)) / seconds(range.step);
                    if found.type_ == STEPWISE && steps.is_finite() && steps > MAX_STEPS {
                        return Err(Endless);
                    }
                    let within = |fps: &u32| (slow.as_fps()..=fast.as_fps()).contains(&f64::from(*fps));
                    rates.extend([slow, fast]);
                    rates.extend(USUAL_RATES.into_iter().filter(within).map(|frames| FrameRate { frames, seconds: 1 }));
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

/// The answers of `ask` from index 0 until there is none.
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

/// Text from a driver: any bytes, up to a NUL. Invalid UTF-8 and terminal control characters become U+FFFD.
pub fn words(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.trim().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The system's error as one of the standard library.
pub fn os_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}
