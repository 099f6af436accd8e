//! The H.264 encoders, and the names of their properties.
//!
//! All are set to the same: constrained baseline, no B-frames, no look-ahead, no access unit delimiters, a bitrate
//! and key frames on demand. A row of [`TABLE`] has how each is set.

mod table;
pub mod trial;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use peercam::capture::Error;
use peercam::media::{Bitrate, Resolution};

use crate::graph::elements::{caps, element};

pub use table::TABLE;

/// The task of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncodingTask {
    pub resolution: Resolution,
    pub fps: f64,
    pub bitrate: Bitrate,
    /// Interval of the regular key frames, in frames.
    pub key_interval: u32,
}

/// How an encoder's bitrate is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BitrateControl {
    /// With the property `bitrate`, in kbit/s.
    Kilobits,
    /// With the property of this name, in bit/s.
    Bits(&'static str),
    /// With V4L2 controls, in bit/s: the property `extra-controls` holds all of them.
    V4l2Controls,
}

/// How a key frame is requested from a running encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyFrameControl {
    /// With GStreamer's force-key-unit event.
    Event,
    /// With the V4L2 control `force_key_frame`. `v4l2h264enc` translates the event from GStreamer 1.22.5 on only.
    V4l2Control,
}

/// Limits of an encoder beyond which it hangs or fails without an error.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    /// Width and height must be multiples of these.
    grid: (u32, u32),
    least_fps: f64,
    /// 16x16 macroblocks per second.
    most_blocks_per_second: f64,
}

impl Limits {
    /// The limits of every H.264 encoder for 4:2:0 pictures.
    const NONE: Self = Self { grid: (2, 2), least_fps: 0.0, most_blocks_per_second: f64::INFINITY };

    /// bcm2835-codec of Raspberry Pi 4 and older. The grid is that of its ISP; below 9 fps its rate control fails;
    /// level 4 (245760 macroblocks/s) is the limit of the chip (raspberrypi/linux 4739, 4906, 3974; firmware 1608).
    const RASPBERRY_PI: Self = Self { grid: (32, 16), least_fps: 9.0, most_blocks_per_second: 245_760.0 };
}

/// A level (H.264, table A-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// In caps.
    name: &'static str,
    /// `level_idc` in the sequence parameter set.
    pub idc: u8,
}

/// One encoder and its properties.
#[derive(Debug, PartialEq)]
pub struct EncoderKind {
    /// Name of the GStreamer element, also used in the configuration and the status.
    pub name: &'static str,
    /// Its source: a Debian package, or the vendor's software.
    pub origin: &'static str,
    /// Whether it is hardware, which can hang or refuse in ways that only a trial shows.
    pub is_hardware: bool,
    bitrate: BitrateControl,
    key_frame: KeyFrameControl,
    /// The property for the key-frame interval.
    key_interval: Option<&'static str>,
    /// Raw formats that it accepts and encodes as 4:2:0; others would result in a profile that browsers lack.
    formats: &'static str,
    /// The caps that it is asked for; a level is added if `has_level_in_caps`.
    caps: &'static str,
    /// Whether the level has to be requested: encoders that choose it themselves choose right, V4L2 ones do not choose.
    has_level_in_caps: bool,
    /// Properties and their values, set if this version of the element has them.
    fixed: &'static [(&'static str, &'static str)],
    limits: Limits,
}

/// An encoder in a pipeline.
#[derive(Clone, Debug)]
pub struct Encoder {
    pub kind: &'static EncoderKind,
    element: gst::Element,
    /// The longest key-frame interval, in frames, for an encoder that makes no key frames on demand.
    longest_key_interval: Option<u32>,
}

impl EncoderKind {
    /// The level that it is asked for, if it has to be requested.
    pub fn level(&self, task: &EncodingTask) -> Option<Level> {
        self.has_level_in_caps.then(|| level(task))
    }

    /// Whether the GStreamer element exists. V4L2 and VA elements exist only if a device was found.
    pub fn is_installed(&self) -> bool {
        gst::ElementFactory::find(self.name).is_some()
    }

    /// Why it cannot do `task`, if it is known not to.
    pub fn unsupported_reason(&self, task: &EncodingTask) -> Option<String> {
        let Resolution { width, height } = task.resolution;
        let (columns, rows) = self.limits.grid;
        if width % columns != 0 || height % rows != 0 {
            return Some(format!(
                "{} needs a width that is a multiple of {columns} and a height that is a multiple of {rows}, not {}",
                self.name, task.resolution
            ));
        }
        if task.fps < self.limits.least_fps {
            return Some(format!("{} needs at least {} frames per second", self.name, self.limits.least_fps));
        }
        (blocks_per_second(task) > self.limits.most_blocks_per_second)
            .then(|| format!("{} is too slow for {} at {:.0} fps", self.name, task.resolution, task.fps))
    }

    /// The encoder for a pipeline, with the elements before and after it.
    pub fn build(&'static self, task: EncodingTask) -> Result<(Vec<gst::Element>, Encoder), Error> {
        let raw = element("capsfilter")?
            .property("caps", caps(&format!("video/x-raw,format={}", self.formats))?)
            .build()
            .map_err(Error::broken)?;
        let encoder = element(self.name)?.build().map_err(Error::broken)?;
        for (property, value) in self.fixed {
            if encoder.has_property(property) {
                encoder.set_property_from_str(property, value);
            }
        }
        if self.name == "x264enc" {
            // One slice per thread; more than four cost bits and save no time at the sizes of a camera.
            let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
            encoder.set_property("threads", threads as u32);
        }
        let level = self.level(&task).map_or(String::new(), |level| format!(",level=(string){}", level.name));
        let encoded = element("capsfilter")?
            .property("caps", caps(&format!("{}{level}", self.caps))?)
            .build()
            .map_err(Error::broken)?;
        let tuned = Encoder { kind: self, element: encoder.clone(), longest_key_interval: None };
        tuned.tune(task.bitrate, task.key_interval);
        Ok((vec![raw, encoder, encoded], tuned))
    }
}

impl Encoder {
    /// Sets the bitrate and the key-frame interval in frames, also while running.
    ///
    /// An element that cannot change the interval while it runs (x264enc and openh264enc cannot) keeps the one that
    /// it was started with.
    pub fn tune(&self, bitrate: Bitrate, key_interval: u32) {
        let key_interval = key_interval.min(self.longest_key_interval.unwrap_or(u32::MAX));
        if let Some(property) = self.kind.key_interval.filter(|property| self.is_changeable(property)) {
            self.set_number(property, key_interval.into());
        }
        match self.kind.bitrate {
            BitrateControl::Kilobits => {
                self.set_number("bitrate", bitrate.as_kbps().max(1));
            }
            BitrateControl::Bits(property) => {
                self.set_number(property, bitrate.as_bps().max(1000));
            }
            BitrateControl::V4l2Controls => {
                // A key-frame period of 1 makes bcm2835-codec send broken streams.
                let period = key_interval.max(2).min(i32::MAX as u32) as i32;
                let controls = gst::Structure::builder("controls")
                    .field("video_bitrate", bitrate.as_bps().min(i32::MAX as u64) as i32)
                    .field("h264_i_frame_period", period)
                    .field("repeat_sequence_header", 1)
                    .build();
                self.element.set_property("extra-controls", controls);
            }
        }
    }

    /// Makes a key frame each second from now on, whatever interval is set: new viewers cannot request one.
    pub fn has_key_frames_each_second(&mut self, task: EncodingTask) {
        self.longest_key_interval = Some(task.fps.ceil().max(1.0) as u32);
        self.tune(task.bitrate, task.key_interval);
    }

    /// Whether it makes a key frame on demand.
    pub fn has_key_frames_on_demand(&self) -> bool {
        self.longest_key_interval.is_none()
    }

    /// Requests a key frame at the next picture.
    pub fn force_key_frame(&self) {
        match self.kind.key_frame {
            KeyFrameControl::Event => {
                let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
                if let Some(pad) = self.element.static_pad("src") {
                    pad.send_event(event);
                }
            }
            KeyFrameControl::V4l2Control => {
                // The other controls keep their values.
                let control = gst::Structure::builder("controls").field("force_key_frame", 1).build();
                self.element.set_property("extra-controls", control);
            }
        }
    }

    /// Sets the property to the nearest number that it accepts: `vah264enc` accepts at most 1024 frames between key
    /// frames.
    fn set_number(&self, property: &str, number: u64) {
        let taken = self.element.find_property(property).map_or(number, |property| nearest(&property, number));
        self.element.set_property_from_str(property, &taken.to_string());
    }

    /// Whether this version of the element has the property, and accepts it in its present state.
    fn is_changeable(&self, property: &str) -> bool {
        let is_at_rest = self.element.current_state() < gst::State::Paused;
        let found = self.element.find_property(property);
        found.is_some_and(|property| is_at_rest || property.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING))
    }
}

/// The nearest number that the property accepts.
fn nearest(property: &glib::ParamSpec, number: u64) -> u64 {
    if let Some(property) = property.downcast_ref::<glib::ParamSpecUInt>() {
        return number.clamp(property.minimum().into(), property.maximum().into());
    }
    if let Some(property) = property.downcast_ref::<glib::ParamSpecInt>() {
        return number.clamp(property.minimum().max(0) as u64, property.maximum().max(0) as u64);
    }
    number
}

fn blocks_per_second(task: &EncodingTask) -> f64 {
    let Resolution { width, height } = task.resolution;
    f64::from(width.div_ceil(16) * height.div_ceil(16)) * task.fps
}

/// The lowest sufficient level, but at least 4: bcm2835-codec hangs with VGA below level 3, and decoders in
/// browsers accept any level of a profile that they offer (H.264, table A-1; RFC 6184, level-asymmetry).
fn level(task: &EncodingTask) -> Level {
    match blocks_per_second(task) {
        blocks if blocks <= 245_760.0 => Level { name: "4", idc: 40 },
        blocks if blocks <= 522_240.0 => Level { name: "4.2", idc: 42 },
        blocks if blocks <= 983_040.0 => Level { name: "5.1", idc: 51 },
        _ => Level { name: "5.2", idc: 52 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(width: u32, height: u32, fps: f64) -> EncodingTask {
        EncodingTask { resolution: Resolution { width, height }, fps, bitrate: Bitrate::kbps(2000), key_interval: 300 }
    }

    #[test]
    fn the_raspberry_pi_encoder_is_not_used_outside_its_limits() {
        let pi = EncoderKind::named("v4l2h264enc").unwrap();
        let cases = [
            (task(1280, 720, 30.0), None),
            (task(640, 480, 30.0), None),
            (task(1920, 1088, 30.0), None),
            (task(1920, 1080, 30.0), Some("multiple")),
            (task(854, 480, 30.0), Some("multiple")),
            (task(1280, 720, 5.0), Some("at least 9")),
            (task(1920, 1088, 60.0), Some("too slow")),
        ];
        for (task, expected) in cases {
            let unsupported_reason = pi.unsupported_reason(&task);
            match expected {
                None => assert_eq!(unsupported_reason, None, "{task:?}"),
                Some(part) => assert!(
                    unsupported_reason.as_deref().is_some_and(|why| why.contains(part)),
                    "{unsupported_reason:?}"
                ),
            }
        }
        assert_eq!(EncoderKind::named("x264enc").unwrap().unsupported_reason(&task(854, 480, 5.0)), None);
    }

    #[test]
    fn the_level_is_high_enough_and_never_below_four() {
        let cases = [
            ((640, 480, 30.0), "4"),
            ((1920, 1088, 30.0), "4"),
            ((1920, 1080, 60.0), "4.2"),
            ((3840, 2160, 30.0), "5.1"),
        ];
        for ((width, height, fps), expected) in cases {
            assert_eq!(level(&task(width, height, fps)).name, expected, "{width}x{height} at {fps}");
        }
    }

    #[test]
    fn an_unsupported_property_value_becomes_the_nearest_supported_one() {
        gst::init().unwrap();
        let queue = gst::ElementFactory::make("queue").build().unwrap();
        let encoder = gst::ElementFactory::make("x264enc").build().unwrap();
        let nearest_of =
            |element: &gst::Element, name: &str, number| nearest(&element.find_property(name).unwrap(), number);
        assert_eq!(nearest_of(&encoder, "key-int-max", 300), 300);
        assert_eq!(nearest_of(&encoder, "key-int-max", u64::MAX), i32::MAX as u64);
        assert_eq!(nearest_of(&queue, "max-size-buffers", u64::MAX), u64::from(u32::MAX));
    }

    #[test]
    fn hardware_comes_first_and_names_are_unique() {
        let software = TABLE.iter().position(|kind| !kind.is_hardware).unwrap();
        assert!(TABLE[software..].iter().all(|kind| !kind.is_hardware));
        let names: std::collections::BTreeSet<_> = TABLE.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), TABLE.len());
        assert!(matches!(EncoderKind::named("x265enc"), Err(Error::UnknownEncoder { .. })));
    }

    #[test]
    fn the_configuration_accepts_the_encoders_of_the_table_in_its_order() {
        let names: Vec<_> = TABLE.iter().map(|kind| kind.name).collect();
        assert_eq!(names, peercam::capture::ENCODERS);
    }
}
