//! Which H.264 encoder this board has, and what its knobs are called.
//!
//! All encoders are made to do the same: constrained baseline, no B-frames, no look-ahead, no access unit
//! delimiters, a bitrate and key frames on demand. How each is told so is a row of [`TABLE`].

pub mod trial;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use peercam::capture::Error;
use peercam::media::{Bitrate, Resolution};

use crate::graph::elements::{caps, element};

/// What an encoder is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub resolution: Resolution,
    pub fps: f64,
    pub bitrate: Bitrate,
    /// Frames between key frames that nobody asked for.
    pub key_interval: u32,
}

/// How an encoder is told its bitrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BitrateKnob {
    /// By the property `bitrate`, in kbit/s.
    Kilobits,
    /// By the property of this name, in bit/s.
    Bits(&'static str),
    /// By V4L2 controls, in bit/s: the property `extra-controls` holds them all.
    V4l2Controls,
}

/// How an encoder is asked for a key frame while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyFrameKnob {
    /// By GStreamer's force-key-unit event.
    Event,
    /// By the V4L2 control `force_key_frame`. `v4l2h264enc` translates the event from GStreamer 1.22.5 on only.
    V4l2Control,
}

/// What an encoder cannot do, although it says nothing or hangs when asked.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    /// Width and height must be multiples of these.
    grid: (u32, u32),
    least_fps: f64,
    /// Rows of 16x16 blocks per second.
    most_blocks_per_second: f64,
}

impl Limits {
    /// What every H.264 encoder for 4:2:0 pictures needs.
    const NONE: Self = Self { grid: (2, 2), least_fps: 0.0, most_blocks_per_second: f64::INFINITY };

    /// bcm2835-codec of Raspberry Pi 4 and older. The grid is that of its ISP; below 9 fps its rate control fails;
    /// level 4 (245760 blocks/s) is what the silicon does (raspberrypi/linux 4739, 4906, 3974; firmware 1608).
    const RASPBERRY_PI: Self = Self { grid: (32, 16), least_fps: 9.0, most_blocks_per_second: 245_760.0 };
}

/// A level (H.264, table A-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// As caps have it.
    name: &'static str,
    /// As the sequence parameter set has it.
    pub idc: u8,
}

/// One encoder and its knobs.
#[derive(Debug, PartialEq)]
pub struct Kind {
    /// The GStreamer element's name, by which configuration and status call it.
    pub name: &'static str,
    /// Where it comes from: a Debian package, or whose software brings it.
    pub origin: &'static str,
    /// Hardware can hang or refuse in ways that only a trial shows.
    pub is_hardware: bool,
    bitrate: BitrateKnob,
    key_frame: KeyFrameKnob,
    /// The property for the number of frames between key frames.
    key_interval: Option<&'static str>,
    /// Raw formats that it takes and that mean 4:2:0; others would become a profile that browsers lack.
    formats: &'static str,
    /// What it is asked for by caps; a level is added where `has_level_in_caps`.
    caps: &'static str,
    /// Encoders that choose the level by themselves choose right; V4L2 ones need to be told.
    has_level_in_caps: bool,
    /// Properties and their values, set where this version of the element has them.
    fixed: &'static [(&'static str, &'static str)],
    limits: Limits,
}

/// The knobs that VA's two encoders share.
const VA: &[(&str, &str)] =
    &[("b-frames", "0"), ("ref-frames", "1"), ("rate-control", "cbr"), ("target-usage", "6"), ("aud", "false")];

const CONSTRAINED_BASELINE: &str = "video/x-h264,profile=constrained-baseline";

/// In the order of preference: what costs no processor time first.
pub const TABLE: &[Kind] = &[
    Kind {
        name: "v4l2h264enc",
        origin: "gstreamer1.0-plugins-good, and a kernel with a V4L2 encoder",
        is_hardware: true,
        bitrate: BitrateKnob::V4l2Controls,
        key_frame: KeyFrameKnob::V4l2Control,
        key_interval: None,
        formats: "{ NV12, I420 }",
        // The driver may offer baseline only under either name.
        caps: "video/x-h264,profile={ (string)constrained-baseline, (string)baseline }",
        has_level_in_caps: true,
        fixed: &[],
        limits: Limits::RASPBERRY_PI,
    },
    Kind {
        name: "mpph264enc",
        origin: "gstreamer-rockchip, from the board's vendor",
        is_hardware: true,
        bitrate: BitrateKnob::Bits("bps"),
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("gop"),
        formats: "{ NV12, I420 }",
        caps: "video/x-h264",
        has_level_in_caps: false,
        fixed: &[("profile", "baseline"), ("rc-mode", "cbr"), ("header-mode", "each-idr")],
        limits: Limits::NONE,
    },
    Kind {
        name: "vah264enc",
        origin: "gstreamer1.0-plugins-bad, and a VA driver",
        is_hardware: true,
        bitrate: BitrateKnob::Kilobits,
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("key-int-max"),
        formats: "NV12",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: VA,
        limits: Limits::NONE,
    },
    Kind {
        name: "vah264lpenc",
        origin: "gstreamer1.0-plugins-bad, and a VA driver",
        is_hardware: true,
        bitrate: BitrateKnob::Kilobits,
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("key-int-max"),
        formats: "NV12",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: VA,
        limits: Limits::NONE,
    },
    Kind {
        name: "nvh264enc",
        origin: "gstreamer1.0-plugins-bad, and NVIDIA's driver",
        is_hardware: true,
        bitrate: BitrateKnob::Kilobits,
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("gop-size"),
        formats: "{ NV12, I420 }",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: &[
            ("bframes", "0"),
            ("zerolatency", "true"),
            ("rc-mode", "cbr"),
            ("preset", "low-latency-hp"),
            ("aud", "false"),
        ],
        limits: Limits::NONE,
    },
    Kind {
        name: "nvv4l2h264enc",
        origin: "NVIDIA's software for Jetson",
        is_hardware: true,
        bitrate: BitrateKnob::Bits("bitrate"),
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("idrinterval"),
        formats: "{ NV12, I420 }",
        caps: "video/x-h264",
        has_level_in_caps: false,
        // Profile 0 is baseline; it makes no B-frames and no flexible macroblock order.
        fixed: &[("profile", "0"), ("insert-sps-pps", "true"), ("maxperf-enable", "true"), ("preset-level", "1")],
        limits: Limits::NONE,
    },
    Kind {
        name: "x264enc",
        origin: "gstreamer1.0-plugins-ugly",
        is_hardware: false,
        bitrate: BitrateKnob::Kilobits,
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("key-int-max"),
        formats: "{ I420, NV12 }",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: &[
            ("tune", "zerolatency"),
            // Superfast takes half as much processor time again (3.7 ms instead of 2.5 ms for a 720p picture on a
            // server's core) for up to a sixth fewer bytes; a board without an encoder has no such time.
            ("speed-preset", "ultrafast"),
            // All threads work on one frame; frame threads would each hold one back.
            ("sliced-threads", "true"),
            ("byte-stream", "true"),
            ("aud", "false"),
            ("bframes", "0"),
            ("intra-refresh", "false"),
            // A key frame may be as large as what is sent in this many milliseconds: a longer burst would stand
            // in the queue of a slow path and delay what follows, a shorter one would make key frames ugly.
            ("vbv-buf-capacity", "200"),
        ],
        limits: Limits::NONE,
    },
    Kind {
        name: "openh264enc",
        origin: "gstreamer1.0-plugins-bad",
        is_hardware: false,
        bitrate: BitrateKnob::Bits("bitrate"),
        key_frame: KeyFrameKnob::Event,
        key_interval: Some("gop-size"),
        formats: "I420",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: &[
            ("usage-type", "camera"),
            ("complexity", "low"),
            ("rate-control", "bitrate"),
            // Dropped frames are the queue's business, which drops before the work is done.
            ("enable-frame-skip", "false"),
            ("scene-change-detection", "false"),
            ("slice-mode", "n-slices"),
            ("num-slices", "1"),
        ],
        limits: Limits::NONE,
    },
];

/// An encoder in a pipeline.
#[derive(Clone, Debug)]
pub struct Encoder {
    pub kind: &'static Kind,
    element: gst::Element,
    /// Frames between key frames at most, of an encoder that makes none on demand.
    longest_key_interval: Option<u32>,
}

impl Kind {
    /// The row with this name.
    pub fn named(name: &str) -> Result<&'static Self, Error> {
        TABLE.iter().find(|kind| kind.name == name).ok_or_else(|| Error::UnknownEncoder { name: name.to_owned() })
    }

    /// The level that it is asked for, where it has to be told one: as a number in caps, and as the level_idc of its
    /// sequence parameter set.
    pub fn level(&self, work: &Work) -> Option<Level> {
        self.has_level_in_caps.then(|| level(work))
    }

    /// Whether GStreamer has the element here. V4L2 and VA elements exist only where a device was found.
    pub fn is_installed(&self) -> bool {
        gst::ElementFactory::find(self.name).is_some()
    }

    /// Why it cannot do `work`, if it is known not to.
    pub fn obstacle(&self, work: &Work) -> Option<String> {
        let Resolution { width, height } = work.resolution;
        let (columns, rows) = self.limits.grid;
        if width % columns != 0 || height % rows != 0 {
            return Some(format!(
                "{} needs a width that is a multiple of {columns} and a height that is a multiple of {rows}, not {}",
                self.name, work.resolution
            ));
        }
        if work.fps < self.limits.least_fps {
            return Some(format!("{} needs at least {} frames per second", self.name, self.limits.least_fps));
        }
        (blocks_per_second(work) > self.limits.most_blocks_per_second)
            .then(|| format!("{} is too slow for {} at {:.0} fps", self.name, work.resolution, work.fps))
    }

    /// The encoder for a pipeline, with what stands before and after it.
    pub fn build(&'static self, work: Work) -> Result<(Vec<gst::Element>, Encoder), Error> {
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
            // One slice a thread; more than four cost bits and win no time at the sizes of a camera.
            let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
            encoder.set_property("threads", threads as u32);
        }
        let level = self.level(&work).map_or(String::new(), |level| format!(",level=(string){}", level.name));
        let encoded = element("capsfilter")?
            .property("caps", caps(&format!("{}{level}", self.caps))?)
            .build()
            .map_err(Error::broken)?;
        let tuned = Encoder { kind: self, element: encoder.clone(), longest_key_interval: None };
        tuned.tune(work.bitrate, work.key_interval);
        Ok((vec![raw, encoder, encoded], tuned))
    }
}

impl Encoder {
    /// Sets the bitrate and the number of frames between key frames that nobody asked for, also while running.
    ///
    /// An element that cannot change the latter while it runs (x264enc and openh264enc cannot) keeps the one that it
    /// was started with.
    pub fn tune(&self, bitrate: Bitrate, key_interval: u32) {
        let key_interval = key_interval.min(self.longest_key_interval.unwrap_or(u32::MAX));
        if let Some(property) = self.kind.key_interval.filter(|property| self.is_changeable(property)) {
            self.set_number(property, key_interval.into());
        }
        match self.kind.bitrate {
            BitrateKnob::Kilobits => {
                self.set_number("bitrate", bitrate.as_kbps().max(1));
            }
            BitrateKnob::Bits(property) => {
                self.set_number(property, bitrate.as_bps().max(1000));
            }
            BitrateKnob::V4l2Controls => {
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

    /// Makes a key frame each second from now on, whatever it is tuned to: who joins cannot ask for one.
    pub fn has_key_frames_each_second(&mut self, work: Work) {
        self.longest_key_interval = Some(work.fps.ceil().max(1.0) as u32);
        self.tune(work.bitrate, work.key_interval);
    }

    /// Whether it makes a key frame when it is asked for one.
    pub fn has_key_frames_on_demand(&self) -> bool {
        self.longest_key_interval.is_none()
    }

    /// Asks for a key frame at the next picture.
    pub fn force_key_frame(&self) {
        match self.kind.key_frame {
            KeyFrameKnob::Event => {
                let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
                if let Some(pad) = self.element.static_pad("src") {
                    pad.send_event(event);
                }
            }
            KeyFrameKnob::V4l2Control => {
                // The other controls keep the values that they were given before.
                let control = gst::Structure::builder("controls").field("force_key_frame", 1).build();
                self.element.set_property("extra-controls", control);
            }
        }
    }

    /// Sets the property to the number, or to what comes nearest of all that it takes: `vah264enc` takes at most 1024
    /// frames between key frames.
    fn set_number(&self, property: &str, number: u64) {
        let taken = self.element.find_property(property).map_or(number, |property| nearest(&property, number));
        self.element.set_property_from_str(property, &taken.to_string());
    }

    /// Whether this version of the element has the property, and takes it in the state that it is in.
    fn is_changeable(&self, property: &str) -> bool {
        let is_at_rest = self.element.current_state() < gst::State::Paused;
        let found = self.element.find_property(property);
        found.is_some_and(|property| is_at_rest || property.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING))
    }
}

/// What comes nearest to `number` of all that the property takes.
fn nearest(property: &glib::ParamSpec, number: u64) -> u64 {
    if let Some(property) = property.downcast_ref::<glib::ParamSpecUInt>() {
        return number.clamp(property.minimum().into(), property.maximum().into());
    }
    if let Some(property) = property.downcast_ref::<glib::ParamSpecInt>() {
        return number.clamp(property.minimum().max(0) as u64, property.maximum().max(0) as u64);
    }
    number
}

fn blocks_per_second(work: &Work) -> f64 {
    let Resolution { width, height } = work.resolution;
    f64::from(width.div_ceil(16) * height.div_ceil(16)) * work.fps
}

/// The lowest level that is enough, but at least 4: bcm2835-codec hangs with VGA below level 3, and decoders in
/// browsers take any level that their profile is offered with (H.264, table A-1; RFC 6184, level-asymmetry).
fn level(work: &Work) -> Level {
    match blocks_per_second(work) {
        blocks if blocks <= 245_760.0 => Level { name: "4", idc: 40 },
        blocks if blocks <= 522_240.0 => Level { name: "4.2", idc: 42 },
        blocks if blocks <= 983_040.0 => Level { name: "5.1", idc: 51 },
        _ => Level { name: "5.2", idc: 52 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(width: u32, height: u32, fps: f64) -> Work {
        Work { resolution: Resolution { width, height }, fps, bitrate: Bitrate::kbps(2000), key_interval: 300 }
    }

    #[test]
    fn the_encoder_of_the_raspberry_pi_is_not_asked_for_what_makes_it_hang() {
        let pi = Kind::named("v4l2h264enc").unwrap();
        let cases = [
            (work(1280, 720, 30.0), None),
            (work(640, 480, 30.0), None),
            (work(1920, 1088, 30.0), None),
            (work(1920, 1080, 30.0), Some("multiple")),
            (work(854, 480, 30.0), Some("multiple")),
            (work(1280, 720, 5.0), Some("at least 9")),
            (work(1920, 1088, 60.0), Some("too slow")),
        ];
        for (work, expected) in cases {
            let obstacle = pi.obstacle(&work);
            match expected {
                None => assert_eq!(obstacle, None, "{work:?}"),
                Some(part) => assert!(obstacle.as_deref().is_some_and(|why| why.contains(part)), "{obstacle:?}"),
            }
        }
        assert_eq!(Kind::named("x264enc").unwrap().obstacle(&work(854, 480, 5.0)), None);
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
            assert_eq!(level(&work(width, height, fps)).name, expected, "{width}x{height} at {fps}");
        }
    }

    #[test]
    fn what_a_property_does_not_take_becomes_what_comes_nearest() {
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
        assert!(matches!(Kind::named("x265enc"), Err(Error::UnknownEncoder { .. })));
    }
}
