//! Which of a camera's modes comes nearest to the one that is wanted.

use serde::Serialize;

use crate::media::Resolution;

use super::Config;

/// Frames per second as devices count them: a fraction, since 30000/1001 is no decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Frames ...
    pub frames: u32,
    /// ... in so many seconds.
    pub seconds: u32,
}

impl Rate {
    /// As a decimal number.
    pub fn as_fps(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds.max(1))
    }
}

/// What a camera can send that we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Format {
    /// 4:2:0 in two planes: what most encoders take as it is.
    Nv12,
    /// 4:2:0 in three planes.
    I420,
    /// 4:2:2, packed: converted at little cost.
    Yuyv,
    /// A JPEG for each picture: decoded, at the cost of about a fifth of a core for 720p30.
    Mjpeg,
    /// Encoded by the camera, and passed through.
    ///
    /// Last, because most such cameras take neither wishes for key frames nor another bitrate, so that joiners
    /// wait for a picture; `encoder = "passthrough"` asks for it.
    H264,
}

impl Format {
    /// The format with this V4L2 pixel code.
    pub(super) fn from_fourcc(code: &[u8; 4]) -> Option<Self> {
        Some(match code {
            b"NV12" => Self::Nv12,
            b"YU12" => Self::I420,
            b"YUYV" => Self::Yuyv,
            b"MJPG" | b"JPEG" => Self::Mjpeg,
            b"H264" => Self::H264,
            _ => return None,
        })
    }

    /// How status and logs call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nv12 => "NV12",
            Self::I420 => "I420",
            Self::Yuyv => "YUYV",
            Self::Mjpeg => "MJPEG",
            Self::H264 => "H264",
        }
    }

    /// What GStreamer's caps call it.
    pub(super) fn caps(self) -> &'static str {
        match self {
            Self::Nv12 => "video/x-raw,format=NV12",
            Self::I420 => "video/x-raw,format=I420",
            Self::Yuyv => "video/x-raw,format=YUY2",
            Self::Mjpeg => "image/jpeg",
            Self::H264 => "video/x-h264",
        }
    }
}

/// The sizes that a device has for a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Sizes {
    /// Just this one.
    One(Resolution),
    /// All from `least` to `most`, in steps of `step`: sensors behind a scaler, capture cards.
    Range {
        /// The smallest.
        least: Resolution,
        /// The largest.
        most: Resolution,
        /// What width and height grow by.
        step: Resolution,
    },
}

impl Sizes {
    /// The size nearest to `wanted`.
    pub(super) fn nearest(self, wanted: Resolution) -> Resolution {
        let along = |least: u32, most: u32, step: u32, wanted: u32| {
            let step = step.max(1);
            least + (wanted.clamp(least, most.max(least)) - least + step / 2) / step * step
        };
        match self {
            Self::One(size) => size,
            Self::Range { least, most, step } => Resolution {
                width: along(least.width, most.width, step.width, wanted.width).min(most.width),
                height: along(least.height, most.height, step.height, wanted.height).min(most.height),
            },
        }
    }
}

/// One format of a device at one size, or range of sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Offer {
    /// The format.
    pub format: Format,
    /// Its sizes.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Its rates at this size (in a range: at the size nearest to the wanted one). Empty where the device
    /// does not tell, as HDMI receivers do.
    pub rates: Vec<Rate>,
}

/// Sizes that people know, from the smallest of a phone to the largest that the configuration allows: what is offered
/// where a device has no list of its own.
pub(super) const USUAL: [Resolution; 7] = [
    Resolution { width: 320, height: 180 },
    Resolution { width: 640, height: 360 },
    Resolution { width: 640, height: 480 },
    Resolution { width: 1280, height: 720 },
    Resolution { width: 1920, height: 1080 },
    Resolution { width: 2560, height: 1440 },
    Resolution { width: 3840, height: 2160 },
];

/// The sizes that a configuration could ask these offers for, the smallest first.
pub(super) fn sizes(offers: &[Offer]) -> Vec<Resolution> {
    let of = |offer: &Offer| match offer.sizes {
        Sizes::One(size) => vec![size],
        range @ Sizes::Range { .. } => USUAL.into_iter().filter(|size| range.nearest(*size) == *size).collect(),
    };
    let mut sizes: Vec<_> = offers.iter().flat_map(of).filter(|size| Config::takes(*size)).collect();
    sizes.sort_by_key(|size| (size.width * size.height, size.width));
    sizes.dedup();
    sizes
}

/// What is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) resolution: Resolution,
    pub(super) fps: u32,
    pub(super) encoding: Encoding,
}

/// Who encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The board, unless the camera has nothing but H.264.
    Board,
    /// The camera.
    Camera,
}

/// The mode to ask the device for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) format: Format,
    pub(super) resolution: Resolution,
    /// None: whatever the device sends.
    pub(super) rate: Option<Rate>,
}

/// The offer nearest to what is wanted: first by size, then by whole frames per second, then by the cost of its
/// format. `None` if there is no offer that fits `wanted.encoding`.
pub(super) fn choose(offers: &[Offer], wanted: Wanted) -> Option<Choice> {
    let has_raw = offers.iter().any(|offer| offer.format != Format::H264);
    let fits = |format: Format| match wanted.encoding {
        Encoding::Camera => format == Format::H264,
        Encoding::Board => format != Format::H264 || !has_raw,
    };
    let choices = offers.iter().filter(|offer| fits(offer.format)).map(|offer| {
        let off = |rate: &Rate| (rate.as_fps() - f64::from(wanted.fps)).abs();
        let rate = offer.rates.iter().copied().min_by(|one, other| off(one).total_cmp(&off(other)));
        let resolution = offer.sizes.nearest(wanted.resolution);
        let far =
            resolution.width.abs_diff(wanted.resolution.width) + resolution.height.abs_diff(wanted.resolution.height);
        // 29.97 is as good as 30.
        let slow = rate.as_ref().map_or(0, |rate| off(rate).round() as u64);
        ((far, slow, offer.format), Choice { format: offer.format, resolution, rate })
    });
    choices.min_by_key(|(cost, _)| *cost).map(|(_, choice)| choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(width: u32, height: u32) -> Resolution {
        Resolution { width, height }
    }

    fn offer(format: Format, width: u32, height: u32, rates: &[(u32, u32)]) -> Offer {
        let rates = rates.iter().map(|&(frames, seconds)| Rate { frames, seconds }).collect();
        Offer { format, sizes: Sizes::One(size(width, height)), rates }
    }

    fn chosen(offers: &[Offer], width: u32, height: u32, fps: u32) -> String {
        let wanted = Wanted { resolution: size(width, height), fps, encoding: Encoding::Board };
        let Some(choice) = choose(offers, wanted) else { return "none".into() };
        let rate = choice.rate.map_or("any".into(), |rate| format!("{}/{}", rate.frames, rate.seconds));
        format!("{} {} {rate}", choice.format.name(), choice.resolution)
    }

    /// What the kernel's vivid driver lists for its webcam input: slower the larger, 25/2 among them.
    fn vivid() -> Vec<Offer> {
        let rates: [&[(u32, u32)]; 4] = [
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1), (25, 2), (15, 1), (25, 1), (30, 1), (40, 1), (50, 1), (60, 1)],
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1), (25, 2), (15, 1), (25, 1), (30, 1), (40, 1)],
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1), (25, 2), (15, 1), (25, 1)],
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1)],
        ];
        let sizes = [(320, 180), (640, 360), (640, 480), (1280, 720)];
        let each = |format| sizes.into_iter().zip(rates).map(move |((w, h), rates)| offer(format, w, h, rates));
        each(Format::Yuyv).chain(each(Format::Nv12)).collect()
    }

    #[test]
    fn a_real_rate_of_that_size_is_chosen() {
        let cases = [
            ((640, 480, 30), "NV12 640x480 25/1"),
            ((640, 360, 30), "NV12 640x360 30/1"),
            ((640, 360, 13), "NV12 640x360 25/2"),
            ((1280, 720, 30), "NV12 1280x720 10/1"),
            ((320, 240, 60), "NV12 320x180 60/1"),
            ((4000, 3000, 1), "NV12 1280x720 1/1"),
            ((1, 1, 1000), "NV12 320x180 60/1"),
        ];
        for ((width, height, fps), expected) in cases {
            assert_eq!(chosen(&vivid(), width, height, fps), expected, "{width}x{height} at {fps}");
        }
    }

    #[test]
    fn a_usb_camera_is_used_raw_where_that_is_fast_enough() {
        let camera = [
            offer(Format::H264, 1280, 720, &[(30, 1)]),
            offer(Format::Mjpeg, 1280, 720, &[(30, 1), (15, 1)]),
            offer(Format::Yuyv, 1280, 720, &[(10, 1)]),
            offer(Format::Mjpeg, 640, 480, &[(30, 1)]),
            offer(Format::Yuyv, 640, 480, &[(30_000, 1001)]),
        ];
        assert_eq!(chosen(&camera, 1280, 720, 30), "MJPEG 1280x720 30/1");
        assert_eq!(chosen(&camera, 1280, 720, 10), "YUYV 1280x720 10/1");
        assert_eq!(chosen(&camera, 640, 480, 30), "YUYV 640x480 30000/1001");
        assert_eq!(chosen(&camera[..1], 640, 480, 30), "H264 1280x720 30/1", "better than nothing");
        assert_eq!(chosen(&[], 640, 480, 30), "none");
    }

    #[test]
    fn the_cameras_own_encoder_is_used_when_asked_for_and_only_then() {
        let camera = [offer(Format::Yuyv, 640, 480, &[(30, 1)]), offer(Format::H264, 1280, 720, &[(30, 1)])];
        let wanted = |encoding| Wanted { resolution: size(1280, 720), fps: 30, encoding };
        let format = |encoding| choose(&camera, wanted(encoding)).map(|choice| choice.format);
        assert_eq!(format(Encoding::Camera), Some(Format::H264));
        assert_eq!(format(Encoding::Board), Some(Format::Yuyv));
        assert_eq!(choose(&camera[..1], wanted(Encoding::Camera)), None);
    }

    #[test]
    fn the_sizes_of_a_device_are_listed_once_and_as_far_as_they_can_be_asked_for() {
        let odd = offer(Format::Mjpeg, 641, 481, &[]);
        let tiny = offer(Format::Mjpeg, 32, 24, &[]);
        let all: Vec<_> = vivid().into_iter().chain([odd, tiny]).collect();
        assert_eq!(sizes(&all), [size(320, 180), size(640, 360), size(640, 480), size(1280, 720)]);
        let range = Sizes::Range { least: size(32, 32), most: size(1920, 1080), step: size(2, 2) };
        let range = Offer { format: Format::Nv12, sizes: range, rates: vec![] };
        assert_eq!(sizes(&[range]), USUAL[..5]);
    }

    #[test]
    fn a_range_of_sizes_has_the_nearest_step() {
        let sizes = Sizes::Range { least: size(32, 32), most: size(1920, 1080), step: size(16, 8) };
        let cases = [
            ((1280, 720), (1280, 720)),
            ((641, 363), (640, 360)),
            ((1, 1), (32, 32)),
            ((9999, 9999), (1920, 1080)),
            ((1919, 1079), (1920, 1080)),
        ];
        for ((width, height), (expected_width, expected_height)) in cases {
            assert_eq!(sizes.nearest(size(width, height)), size(expected_width, expected_height));
        }
        let range = Offer { format: Format::I420, sizes, rates: vec![] };
        assert_eq!(chosen(&[range], 1280, 720, 30), "I420 1280x720 any");
    }
}
