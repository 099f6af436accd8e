//! The formats, sizes and frame rates of cameras that can be used.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::media::Resolution;

use super::Config;

/// A frame rate as devices give it: a fraction, because 30000/1001 is not a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRate {
    /// Frames ...
    pub frames: u32,
    /// ... in so many seconds.
    pub seconds: u32,
}

impl FrameRate {
    /// As a decimal number.
    pub fn as_fps(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds.max(1))
    }

    /// Whether GStreamer accepts it (its fractions have signed numbers) and it is plausible for a camera: from one
    /// frame in ten minutes to a thousand in a second.
    pub fn is_usable(self) -> bool {
        let is_number = |number: u32| (1..=i32::MAX as u32).contains(&number);
        is_number(self.frames) && is_number(self.seconds) && (1.0 / 600.0..=1000.0).contains(&self.as_fps())
    }
}

/// A camera format that we can use: a row of `TABLE`. The order is that of processing cost, lowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaptureFormat(usize);

/// One format and its names.
struct Row {
    /// Its name in status, logs and documents.
    name: &'static str,
    /// Its V4L2 codes: for a single buffer, and if there is one, for a buffer per plane.
    codes: &'static [&'static [u8; 4]],
    /// Its GStreamer caps, as v4l2src (1.22) maps these codes.
    caps: &'static str,
}

const fn row(name: &'static str, codes: &'static [&'static [u8; 4]], caps: &'static str) -> Row {
    Row { name, codes, caps }
}

/// All formats that v4l2src has a raw name for and videoconvert accepts, JPEG and H.264, in the order of their cost.
///
/// First come the 4:2:0 formats, which encoders take directly or nearly so; then 4:2:2 and others that are cheap to
/// convert; then RGB, which needs a matrix. MJPEG has to be decoded, which costs about a fifth of a core for
/// 720p30. Formats with little or no colour come after that. H.264 is passed through. It is last, because most such
/// cameras accept neither requests for key frames nor another bitrate, so new viewers wait for a picture; `encoder
/// = "passthrough"` selects it.
const TABLE: &[Row] = &[
    row("NV12", &[b"NV12", b"NM12"], "video/x-raw,format=NV12"),
    row("I420", &[b"YU12", b"YM12"], "video/x-raw,format=I420"),
    row("YV12", &[b"YV12"], "video/x-raw,format=YV12"),
    row("NV21", &[b"NV21", b"NM21"], "video/x-raw,format=NV21"),
    row("YUYV", &[b"YUYV"], "video/x-raw,format=YUY2"),
    row("UYVY", &[b"UYVY"], "video/x-raw,format=UYVY"),
    row("YVYU", &[b"YVYU"], "video/x-raw,format=YVYU"),
    row("NV16", &[b"NV16", b"NM16"], "video/x-raw,format=NV16"),
    row("NV61", &[b"NV61", b"NM61"], "video/x-raw,format=NV61"),
    row("422P", &[b"422P"], "video/x-raw,format=Y42B"),
    row("NV24", &[b"NV24"], "video/x-raw,format=NV24"),
    row("RGB3", &[b"RGB3"], "video/x-raw,format=RGB"),
    row("BGR3", &[b"BGR3"], "video/x-raw,format=BGR"),
    // The old codes and those of Linux 3.17, which distinguish padding from alpha.
    row("BGRX", &[b"XR24", b"BGR4"], "video/x-raw,format=BGRx"),
    row("XRGB", &[b"BX24", b"RGB4"], "video/x-raw,format=xRGB"),
    row("XBGR", &[b"RX24"], "video/x-raw,format=xBGR"),
    row("RGBX", &[b"XB24"], "video/x-raw,format=RGBx"),
    row("BGRA", &[b"AR24"], "video/x-raw,format=BGRA"),
    row("ARGB", &[b"BA24"], "video/x-raw,format=ARGB"),
    row("ABGR", &[b"RA24"], "video/x-raw,format=ABGR"),
    row("RGBA", &[b"AB24"], "video/x-raw,format=RGBA"),
    row("RGBP", &[b"RGBP"], "video/x-raw,format=RGB16"),
    row("MJPEG", &[b"MJPG", b"JPEG"], "image/jpeg"),
    row("RGBO", &[b"RGBO", b"XR15"], "video/x-raw,format=RGB15"),
    row("411P", &[b"411P"], "video/x-raw,format=Y41B"),
    row("YUV9", &[b"YUV9"], "video/x-raw,format=YUV9"),
    row("YVU9", &[b"YVU9"], "video/x-raw,format=YVU9"),
    row("GREY", &[b"GREY"], "video/x-raw,format=GRAY8"),
    row("Y16", &[b"Y16 "], "video/x-raw,format=GRAY16_LE"),
    row("Y16-BE", &[b"Y16\xa0"], "video/x-raw,format=GRAY16_BE"),
    row("H264", &[b"H264"], "video/x-h264"),
];

impl CaptureFormat {
    /// A JPEG per picture.
    pub const MJPEG: Self = Self::called("MJPEG");

    /// Encoded by the camera.
    pub const H264: Self = Self::called("H264");

    /// The format with this name, which must be in the table.
    pub const fn called(name: &str) -> Self {
        let mut place = 0;
        while !is_same(TABLE[place].name.as_bytes(), name.as_bytes()) {
            place += 1;
        }
        Self(place)
    }

    /// Whether its pictures are uncompressed.
    pub fn is_raw(self) -> bool {
        TABLE[self.0].caps.starts_with("video/x-raw")
    }

    /// All formats, the cheapest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLE.len()).map(Self)
    }

    /// Its V4L2 codes.
    pub fn codes(self) -> &'static [&'static [u8; 4]] {
        TABLE[self.0].codes
    }

    /// The format with this V4L2 pixel code.
    pub fn from_fourcc(code: [u8; 4]) -> Option<Self> {
        TABLE.iter().position(|row| row.codes.contains(&&code)).map(Self)
    }

    /// Its name in status and logs.
    pub fn name(self) -> &'static str {
        TABLE[self.0].name
    }

    /// Its GStreamer caps.
    pub fn caps(self) -> &'static str {
        TABLE[self.0].caps
    }
}

/// `==` for `const` code.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut place = 0;
    while place < one.len() && place < other.len() && one[place] == other[place] {
        place += 1;
    }
    place == one.len() && place == other.len()
}

impl fmt::Debug for CaptureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'de> Deserialize<'de> for CaptureFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = TABLE.iter().position(|row| row.name == name).map(Self);
        known.ok_or_else(|| Error::custom(format_args!("no format is called {name:?}")))
    }
}

impl Serialize for CaptureFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The largest picture that is requested from a camera: H.264 level 5.2 has 36,864 macroblocks of 16 by 16 (table
/// A-1), and browsers decode no more. Each side is at most what the configuration allows.
const MAX_BLOCKS: u64 = 36_864;
const MAX_SIDE: u32 = 4096;

/// Whether H.264 level 5.2 allows pictures of this size.
pub fn is_in_level(size: Resolution) -> bool {
    u64::from(size.width.div_ceil(16)) * u64::from(size.height.div_ceil(16)) <= MAX_BLOCKS
}

/// The shortest side: one H.264 macroblock.
const MIN_SIDE: u32 = 16;

/// The sizes that a device has for a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sizes {
    /// A single size.
    One(Resolution),
    /// All from `least` to `most`, in steps of `step`: sensors behind a scaler, capture cards.
    Range {
        /// The smallest.
        least: Resolution,
        /// The largest.
        most: Resolution,
        /// Step of width and height.
        step: Resolution,
    },
}

impl Sizes {
    /// The part of these sizes that can be used; `None` if there is none.
    pub fn usable(self) -> Option<Self> {
        let sides = MIN_SIDE..=MAX_SIDE;
        match self {
            Self::One(size) => {
                let fits = sides.contains(&size.width) && sides.contains(&size.height) && is_in_level(size);
                fits.then_some(self)
            }
            Self::Range { least, most, step } => {
                let along = |least: u32, most: u32, step: u32| {
                    let step = step.max(1);
                    // The grid starts at the driver's least, whatever is cut off of it.
                    let off = MIN_SIDE.saturating_sub(least).div_ceil(step).saturating_mul(step);
                    let least = least.saturating_add(off);
                    (least <= most.min(MAX_SIDE)).then(|| (least, most.min(MAX_SIDE), step))
                };
                let (least_width, most_width, step_width) = along(least.width, most.width, step.width)?;
                let (least_height, most_height, step_height) = along(least.height, most.height, step.height)?;
                let least = Resolution { width: least_width, height: least_height };
                let most = Resolution { width: most_width, height: most_height };
                let step = Resolution { width: step_width, height: step_height };
                is_in_level(least).then_some(Self::Range { least, most, step })
            }
        }
    }

    /// The size nearest to `wanted`.
    pub fn nearest(self, wanted: Resolution) -> Resolution {
        // No overflow: a usable range ends at [`MAX_SIDE`].
        let along = |least: u32, most: u32, step: u32, wanted: u32| {
            let step = step.clamp(1, MAX_SIDE);
            let steps = (wanted.clamp(least, most) - least + step / 2) / step;
            least + steps.min((most - least) / step) * step
        };
        match self {
            Self::One(size) => size,
            Self::Range { least, most, step } => Resolution {
                width: along(least.width, most.width, step.width, wanted.width),
                height: along(least.height, most.height, step.height, wanted.height),
            },
        }
    }
}

/// One mode that a device supports: a format at one size, or a range of sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureMode {
    /// The format.
    pub format: CaptureFormat,
    /// Its sizes.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Its frame rates at this size (of a range: at the size nearest to the wanted one). Empty if the device does
    /// not report any, as with HDMI receivers.
    pub rates: Vec<FrameRate>,
}

/// Common sizes, from the smallest on phones to the largest that the configuration allows. They are offered for a
/// device without its own list.
pub const USUAL: [Resolution; 7] = [
    Resolution { width: 320, height: 180 },
    Resolution { width: 640, height: 360 },
    Resolution { width: 640, height: 480 },
    Resolution { width: 1280, height: 720 },
    Resolution { width: 1920, height: 1080 },
    Resolution { width: 2560, height: 1440 },
    Resolution { width: 3840, height: 2160 },
];

/// The sizes of these modes that a configuration may request, in ascending order.
pub fn sizes(modes: &[CaptureMode]) -> Vec<Resolution> {
    let of = |mode: &CaptureMode| match mode.sizes {
        Sizes::One(size) => vec![size],
        range @ Sizes::Range { .. } => USUAL.into_iter().filter(|size| range.nearest(*size) == *size).collect(),
    };
    let mut sizes: Vec<_> = modes.iter().flat_map(of).filter(|size| Config::takes(*size)).collect();
    sizes.sort_by_key(|size| (size.width * size.height, size.width));
    sizes.dedup();
    sizes
}

/// The selected capture mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveMode {
    /// Mostly V4L2's name: `YUYV`, `NV12`, `I420`, `MJPEG`, `H264`.
    pub format: String,
    /// Picture size.
    #[serde(flatten)]
    pub resolution: Resolution,
    /// Frames per second.
    pub fps: f64,
}

impl fmt::Display for ActiveMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {} fps", self.format, self.resolution, (self.fps * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(width: u32, height: u32) -> Resolution {
        Resolution { width, height }
    }

    fn one(width: u32, height: u32) -> CaptureMode {
        CaptureMode { format: CaptureFormat::MJPEG, sizes: Sizes::One(size(width, height)), rates: vec![] }
    }

    #[test]
    fn formats_are_serialised_by_name_and_unknown_names_are_rejected() {
        for format in CaptureFormat::all() {
            let text = serde_json::to_string(&format).unwrap();
            assert_eq!(serde_json::from_str::<CaptureFormat>(&text).unwrap(), format);
        }
        assert!(serde_json::from_str::<CaptureFormat>("\"PPMZ\"").unwrap_err().to_string().contains("PPMZ"));
    }

    #[test]
    fn each_configurable_size_of_a_device_is_listed_once() {
        let listed = [(640, 480), (320, 180), (640, 360), (320, 180), (641, 481), (32, 24)];
        let all = listed.map(|(width, height)| one(width, height));
        assert_eq!(sizes(&all), [size(320, 180), size(640, 360), size(640, 480)]);
        let range = Sizes::Range { least: size(32, 32), most: size(1920, 1080), step: size(2, 2) };
        let range = CaptureMode { format: CaptureFormat::called("NV12"), sizes: range, rates: vec![] };
        assert_eq!(sizes(&[range]), USUAL[..5]);
    }

    #[test]
    fn no_range_of_sizes_overflows_and_its_usable_part_can_be_encoded() {
        const EDGES: [u32; 9] = [0, 1, 3, 15, 17, 640, 4097, i32::MAX as u32, u32::MAX];
        for least in EDGES {
            for most in EDGES {
                for step in EDGES {
                    let range = Sizes::Range { least: size(least, 32), most: size(most, 480), step: size(step, 0) };
                    let Some(usable) = range.usable() else { continue };
                    for wanted in EDGES {
                        let Resolution { width, .. } = usable.nearest(size(wanted, 480));
                        assert!((16..=4096).contains(&width) && (least..=most).contains(&width), "{range:?}: {width}");
                        assert_eq!((width - least) % step.max(1), 0, "{range:?}: {width} is no step");
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_that_no_browser_shows_are_not_usable() {
        let cases = [(641, 481, true), (16, 16, true), (15, 16, false), (0, 480, false), (4096, 2304, true)];
        let absurd = [(4096, 4096, false), (8192, 64, false), (u32::MAX, u32::MAX, false)];
        for (width, height, expected) in cases.into_iter().chain(absurd) {
            assert_eq!(Sizes::One(size(width, height)).usable().is_some(), expected, "{width}x{height}");
        }
    }

    #[test]
    fn implausible_rates_are_left_out() {
        let cases = [
            ((30, 1), true),
            ((30_000, 1001), true),
            ((1, 2), true),
            ((1, 10), true),
            ((0, 1), false),
            ((1, 0), false),
            ((u32::MAX, 1), false),
            ((1, u32::MAX), false),
            ((1_000_000, 1), false),
        ];
        for ((frames, seconds), expected) in cases {
            assert_eq!(FrameRate { frames, seconds }.is_usable(), expected, "{frames}/{seconds}");
        }
    }
}
