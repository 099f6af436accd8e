//! Which of a camera's modes comes nearest to the one that is wanted.

use peercam::capture::{Format, Offer, Rate};
use peercam::media::Resolution;

/// The size without its last line and column where it is odd: pictures in 4:2:0, which is all that encoders take, have
/// even sides.
pub fn even(size: Resolution) -> Resolution {
    Resolution { width: size.width & !1, height: size.height & !1 }
}

/// Leaves the first of equal things.
pub fn without_repetition<T: PartialEq>(things: &mut Vec<T>) {
    let mut place = 0;
    while place < things.len() {
        let is_known = things[..place].contains(&things[place]);
        if is_known { drop(things.remove(place)) } else { place += 1 }
    }
}

/// What is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    pub resolution: Resolution,
    pub fps: u32,
    pub encoding: Encoding,
}

/// Who encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The board, unless the camera has nothing but H.264, or nothing else of it works.
    Board,
    /// The camera.
    Camera,
}

/// The mode to ask the device for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub format: Format,
    pub resolution: Resolution,
    /// None: whatever the device sends.
    pub rate: Option<Rate>,
}

/// The offer to take: of those whose format has failed least, the one nearest to what is wanted, first by size, then by
/// whole frames per second, then by the cost of its format. `None` if there is no offer that fits `wanted.encoding`.
pub fn choose(offers: &[Offer], wanted: Wanted, failures: impl Fn(Format) -> u32) -> Option<Choice> {
    let fits = |format: Format| wanted.encoding == Encoding::Board || format == Format::H264;
    let choices = offers.iter().filter(|offer| fits(offer.format)).map(|offer| {
        // What the camera has encoded is the last resort, unless it is asked for.
        let (format, failed) = (offer.format, failures(offer.format));
        let is_last = wanted.encoding == Encoding::Board && format == Format::H264;
        let off = |rate: &Rate| (rate.as_fps() - f64::from(wanted.fps)).abs();
        let rate = offer.rates.iter().copied().min_by(|one, other| off(one).total_cmp(&off(other)));
        let resolution = offer.sizes.nearest(wanted.resolution);
        let far =
            resolution.width.abs_diff(wanted.resolution.width) + resolution.height.abs_diff(wanted.resolution.height);
        // 29.97 is as good as 30.
        let slow = rate.as_ref().map_or(0, |rate| off(rate).round() as u64);
        ((failed, is_last, far, slow, format), Choice { format, resolution, rate })
    });
    choices.min_by_key(|(cost, _)| *cost).map(|(_, choice)| choice)
}
#[cfg(test)]
mod tests {
    use peercam::capture::Sizes;

    use super::*;

    const NV12: Format = Format::called("NV12");
    const I420: Format = Format::called("I420");
    const YUYV: Format = Format::called("YUYV");

    const fn size(width: u32, height: u32) -> Resolution {
        Resolution { width, height }
    }

    fn offer(format: Format, width: u32, height: u32, rates: &[(u32, u32)]) -> Offer {
        let rates = rates.iter().map(|&(frames, seconds)| Rate { frames, seconds }).collect();
        Offer { format, sizes: Sizes::One(size(width, height)), rates }
    }

    fn chosen(offers: &[Offer], width: u32, height: u32, fps: u32) -> String {
        let wanted = Wanted { resolution: size(width, height), fps, encoding: Encoding::Board };
        let Some(choice) = choose(offers, wanted, |_| 0) else { return "none".into() };
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
        each(YUYV).chain(each(NV12)).collect()
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
            offer(Format::MJPEG, 1280, 720, &[(30, 1), (15, 1)]),
            offer(YUYV, 1280, 720, &[(10, 1)]),
            offer(Format::MJPEG, 640, 480, &[(30, 1)]),
            offer(YUYV, 640, 480, &[(30_000, 1001)]),
        ];
        assert_eq!(chosen(&camera, 1280, 720, 30), "MJPEG 1280x720 30/1");
        assert_eq!(chosen(&camera, 1280, 720, 10), "YUYV 1280x720 10/1");
        assert_eq!(chosen(&camera, 640, 480, 30), "YUYV 640x480 30000/1001");
        assert_eq!(chosen(&camera[..1], 640, 480, 30), "H264 1280x720 30/1", "better than nothing");
        assert_eq!(chosen(&[], 640, 480, 30), "none");
    }

    #[test]
    fn the_cameras_own_encoder_is_used_when_asked_for_and_only_then() {
        let camera = [offer(YUYV, 640, 480, &[(30, 1)]), offer(Format::H264, 1280, 720, &[(30, 1)])];
        let wanted = |encoding| Wanted { resolution: size(1280, 720), fps: 30, encoding };
        let format = |encoding| choose(&camera, wanted(encoding), |_| 0).map(|choice| choice.format);
        assert_eq!(format(Encoding::Camera), Some(Format::H264));
        assert_eq!(format(Encoding::Board), Some(YUYV));
        assert_eq!(choose(&camera[..1], wanted(Encoding::Camera), |_| 0), None);
    }

    #[test]
    fn formats_that_failed_stand_behind_those_that_failed_less_and_h264_behind_all_others() {
        let camera = [
            offer(Format::H264, 1280, 720, &[(30, 1)]),
            offer(Format::MJPEG, 1280, 720, &[(30, 1)]),
            offer(YUYV, 640, 480, &[(30, 1)]),
        ];
        let wanted = |encoding| Wanted { resolution: size(1280, 720), fps: 30, encoding };
        let chosen = |encoding, failed: [(Format, u32); 2]| {
            let failures = |format| failed.iter().find(|(known, _)| *known == format).map_or(0, |(_, failed)| *failed);
            choose(&camera, wanted(encoding), failures).map(|choice| choice.format)
        };
        let cases = [
            ([(Format::MJPEG, 0), (YUYV, 0)], Format::MJPEG),
            ([(Format::MJPEG, 1), (YUYV, 0)], YUYV),
            ([(Format::MJPEG, 1), (YUYV, 1)], Format::H264),
            ([(Format::MJPEG, 2), (Format::H264, 1)], YUYV),
        ];
        for (failed, expected) in cases {
            assert_eq!(chosen(Encoding::Board, failed), Some(expected), "{failed:?}");
        }
        assert_eq!(chosen(Encoding::Camera, [(Format::H264, 9), (YUYV, 0)]), Some(Format::H264), "it was asked for");
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
        let range = Offer { format: I420, sizes, rates: vec![] };
        assert_eq!(chosen(&[range], 1280, 720, 30), "I420 1280x720 any");
    }

    #[test]
    fn gstreamer_takes_every_format_of_the_table_from_a_camera_and_converts_it() {
        gstreamer::init().unwrap();
        let pads = |name: &str| gstreamer::ElementFactory::find(name).unwrap().static_pad_templates();
        let caps = |name: &str, pad: &str| {
            let pads = pads(name);
            pads.iter().find(|template| template.name_template() == pad).unwrap().caps()
        };
        let (camera, converter) = (caps("v4l2src", "src"), caps("videoconvert", "sink"));
        for known in Format::all() {
            let (name, caps) = (known.name(), known.caps());
            let format: gstreamer::Caps = caps.parse().unwrap();
            assert!(camera.can_intersect(&format), "v4l2src has no {name}");
            assert!(!caps.starts_with("video/x-raw") || converter.can_intersect(&format), "{name} is not converted");
        }
        let codes: Vec<_> = Format::all().flat_map(Format::codes).collect();
        let mut once = codes.clone();
        without_repetition(&mut once);
        assert_eq!(once, codes, "a code stands twice");
    }
}
