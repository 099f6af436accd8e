//! The encoders, each with how it is set.

use peercam::capture::Error;

use super::{BitrateControl, EncoderKind, KeyFrameControl, Limits};

/// The properties of both VA encoders.
const VA: &[(&str, &str)] =
    &[("b-frames", "0"), ("ref-frames", "1"), ("rate-control", "cbr"), ("target-usage", "6"), ("aud", "false")];

const CONSTRAINED_BASELINE: &str = "video/x-h264,profile=constrained-baseline";

/// In the order of preference: those that need no processor time first.
pub const TABLE: &[EncoderKind] = &[
    EncoderKind {
        name: "v4l2h264enc",
        origin: "gstreamer1.0-plugins-good, and a kernel with a V4L2 encoder",
        is_hardware: true,
        bitrate: BitrateControl::V4l2Controls,
        key_frame: KeyFrameControl::V4l2Control,
        key_interval: None,
        formats: "{ NV12, I420 }",
        // The driver may offer baseline under only one of the names.
        caps: "video/x-h264,profile={ (string)constrained-baseline, (string)baseline }",
        has_level_in_caps: true,
        fixed: &[],
        limits: Limits::RASPBERRY_PI,
    },
    EncoderKind {
        name: "mpph264enc",
        origin: "gstreamer-rockchip, from the board's vendor",
        is_hardware: true,
        bitrate: BitrateControl::Bits("bps"),
        key_frame: KeyFrameControl::Event,
        key_interval: Some("gop"),
        formats: "{ NV12, I420 }",
        caps: "video/x-h264",
        has_level_in_caps: false,
        fixed: &[("profile", "baseline"), ("rc-mode", "cbr"), ("header-mode", "each-idr")],
        limits: Limits::NONE,
    },
    EncoderKind {
        name: "vah264enc",
        origin: "gstreamer1.0-plugins-bad, and a VA driver",
        is_hardware: true,
        bitrate: BitrateControl::Kilobits,
        key_frame: KeyFrameControl::Event,
        key_interval: Some("key-int-max"),
        formats: "NV12",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: VA,
        limits: Limits::NONE,
    },
    EncoderKind {
        name: "vah264lpenc",
        origin: "gstreamer1.0-plugins-bad, and a VA driver",
        is_hardware: true,
        bitrate: BitrateControl::Kilobits,
        key_frame: KeyFrameControl::Event,
        key_interval: Some("key-int-max"),
        formats: "NV12",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: VA,
        limits: Limits::NONE,
    },
    EncoderKind {
        name: "nvh264enc",
        origin: "gstreamer1.0-plugins-bad, and NVIDIA's driver",
        is_hardware: true,
        bitrate: BitrateControl::Kilobits,
        key_frame: KeyFrameControl::Event,
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
    EncoderKind {
        name: "nvv4l2h264enc",
        origin: "NVIDIA's software for Jetson",
        is_hardware: true,
        bitrate: BitrateControl::Bits("bitrate"),
        key_frame: KeyFrameControl::Event,
        key_interval: Some("idrinterval"),
        formats: "{ NV12, I420 }",
        caps: "video/x-h264",
        has_level_in_caps: false,
        // Profile 0 is baseline; it makes no B-frames and no flexible macroblock order.
        fixed: &[("profile", "0"), ("insert-sps-pps", "true"), ("maxperf-enable", "true"), ("preset-level", "1")],
        limits: Limits::NONE,
    },
    EncoderKind {
        name: "x264enc",
        origin: "gstreamer1.0-plugins-ugly",
        is_hardware: false,
        bitrate: BitrateControl::Kilobits,
        key_frame: KeyFrameControl::Event,
        key_interval: Some("key-int-max"),
        formats: "{ I420, NV12 }",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: &[
            ("tune", "zerolatency"),
            // Superfast takes half as much processor time again (3.7 ms instead of 2.5 ms for a 720p picture on a
            // server's core) for up to a sixth fewer bytes; a board without a hardware encoder cannot spare that.
            ("speed-preset", "ultrafast"),
            // All threads work on one frame; frame threads would hold back one frame each.
            ("sliced-threads", "true"),
            ("byte-stream", "true"),
            ("aud", "false"),
            ("bframes", "0"),
            ("intra-refresh", "false"),
            // A key frame may be as large as what is sent in this many milliseconds: a longer burst would wait in
            // the queue of a slow path and delay the following frames, a shorter one would make key frames ugly.
            ("vbv-buf-capacity", "200"),
        ],
        limits: Limits::NONE,
    },
    EncoderKind {
        name: "openh264enc",
        origin: "gstreamer1.0-plugins-bad",
        is_hardware: false,
        bitrate: BitrateControl::Bits("bitrate"),
        key_frame: KeyFrameControl::Event,
        key_interval: Some("gop-size"),
        formats: "I420",
        caps: CONSTRAINED_BASELINE,
        has_level_in_caps: false,
        fixed: &[
            ("usage-type", "camera"),
            ("complexity", "low"),
            ("rate-control", "bitrate"),
            // Frames are dropped by the queue, before they are encoded.
            ("enable-frame-skip", "false"),
            ("scene-change-detection", "false"),
            ("slice-mode", "n-slices"),
            ("num-slices", "1"),
        ],
        limits: Limits::NONE,
    },
];

impl EncoderKind {
    /// The row with this name.
    pub fn named(name: &str) -> Result<&'static Self, Error> {
        TABLE.iter().find(|kind| kind.name == name).ok_or_else(|| Error::UnknownEncoder { name: name.to_owned() })
    }
}
