//! Chooses the mode of a camera that is nearest to the wanted one.

use peercam::capture::{CaptureFormat, CaptureMode, FrameRate};
use peercam::media::Resolution;

/// Makes both sides even by cutting off the last line and column: encoders only take 4:2:0, whose pictures have
/// even sides.
pub fn even(size: Resolution) -> Resolution {
    Resolution { width: size.width & !1, height: size.height & !1 }
}

/// Removes repeated values, and keeps the first of each.
pub fn without_repetition<T: PartialEq>(things: &mut Vec<T>) {
    let mut place = 0;
    while place < things.len() {
        let is_known = things[..place].contains(&things[place]);
        if is_known { drop(things.remove(place)) } else { place += 1 }
    }
}

/// The mode that the configuration requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModeRequest {
    pub resolution: Resolution,
    pub fps: u32,
    pub encoding: Encoding,
}

/// Where pictures are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// On the board, unless the camera only has H.264, or none of its other formats works.
    Board,
    /// In the camera.
    Camera,
}

/// The mode to request from the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModeChoice {
    pub format: CaptureFormat,
    pub resolution: Resolution,
    /// `None`: any rate that the device sends.
    pub rate: Option<FrameRate>,
}

/// The best mode: of those whose format has failed least, the one nearest to what is wanted, first by size, then
/// by rounded frame rate, then by the cost of its format. `None` if no mode fits `wanted.encoding`.
pub fn choose(
    modes: &[CaptureMode],
    wanted: ModeRequest,
    failures: impl Fn(CaptureFormat) -> u32,
) -> Option<ModeChoice> {
    let fits = |format: CaptureFormat| wanted.encoding == Encoding::Board || format == CaptureFormat::H264;
    let choices = modes.iter().filter(|mode| fits(mode.format)).map(|mode| {
        // The camera's own H.264 is the last resort, unless it is wanted.
        let (format, failed) = (mode.format, failures(mode.format));
        let is_last = wanted.encoding == Encoding::Board && format == CaptureFormat::H264;
        let off = |rate: &FrameRate| (rate.as_fps() - f64::from(wanted.fps)).abs();
        let rate = mode.rates.iter().copied().min_by(|one, other| off(one).total_cmp(&off(other)));
        let resolution = mode.sizes.nearest(wanted.resolution);
        let far =
            resolution.width.abs_diff(wanted.resolution.width) + resolution.height.abs_diff(wanted.resolution.height);
        // 29.97 is as good as 30.
        let slow = rate.as_ref().map_or(0, |rate| off(rate).round() as u64);
        ((failed, is_last, far, slow, format), ModeChoice { format, resolution, rate })
    });
    choices.min_by_key(|(cost, _)| *cost).map(|(_, choice)| choice)
}
#[cfg(test)]
mod tests {
    use peercam::capture::Sizes;

    use super::*;

    const NV12: CaptureFormat = CaptureFormat::called("NV12");
    const I420: CaptureFormat = CaptureFormat::called("I420");
    const YUYV: CaptureFormat = CaptureFormat::called("YUYV");

    const fn size(width: u32, height: u32) -> Resolution {
        Resolution { width, height }
    }

    fn mode(format: CaptureFormat, width: u32, height: u32, rates: &[(u32, u32)]) -> CaptureMode {
        let rates = rates.iter().map(|&(frames, seconds)| FrameRate { frames, seconds }).collect();
        CaptureMode { format, sizes: Sizes::One(size(width, height)), rates }
    }

    fn chosen(modes: &[CaptureMode], width: u32, height: u32, fps: u32) -> String {
        let wanted = ModeRequest { resolution: size(width, height), fps, encoding: Encoding::Board };
        let Some(choice) = choose(modes, wanted, |_| 0) else { return "none".into() };
        let rate = choice.rate.map_or("any".into(), |rate| format!("{}/{}", rate.frames, rate.seconds));
        format!("{} {} {rate}", choice.format.name(), choice.resolution)
    }

    /// The list of the kernel's vivid driver for its webcam input: the larger, the slower; 25/2 among the rates.
    fn vivid() -> Vec<CaptureMode> {
        let rates: [&[(u32, u32)]; 4] = [
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1), (25, 2), (15, 1), (25, 1), (30, 1), (40, 1), (50, 1), (60, 1)],
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1), (25, 2), (15, 1), (25, 1), (30, 1), (40, 1)],
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1), (25, 2), (15, 1), (25, 1)],
            &[(1, 1), (2, 1), (4, 1), (5, 1), (10, 1)],
        ];
        let sizes = [(320, 180), (640, 360), (640, 480), (1280, 720)];
        let each = |format| sizes.into_iter().zip(rates).map(move |((w, h), rates)| mode(format, w, h, rates));
        each(YUYV).chain(each(NV12)).collect()
    }

    #[test]
    fn a_rate_that_the_size_has_is_chosen() {
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
    fn a_raw_format_of_a_usb_camera_is_used_if_it_is_fast_enough() {
        let camera = [
            mode(CaptureFormat::H264, 1280, 720, &[(30, 1)]),
            mode(CaptureFormat::MJPEG, 1280, 720, &[(30, 1), (15, 1)]),
            mode(YUYV, 1280, 720, &[(10, 1)]),
            mode(CaptureFormat::MJPEG, 640, 480, &[(30, 1)]),
            mode(YUYV, 640, 480, &[(30_000, 1001)]),
        ];
        assert_eq!(chosen(&camera, 1280, 720, 30), "MJPEG 1280x720 30/1");
        assert_eq!(chosen(&camera, 1280, 720, 10), "YUYV 1280x720 10/1");
        assert_eq!(chosen(&camera, 640, 480, 30), "YUYV 640x480 30000/1001");
        assert_eq!(chosen(&camera[..1], 640, 480, 30), "H264 1280x720 30/1", "better than nothing");
        assert_eq!(chosen(&[], 640, 480, 30), "none");
    }

    #[test]
    fn the_cameras_own_encoder_is_used_only_on_request() {
        let camera = [mode(YUYV, 640, 480, &[(30, 1)]), mode(CaptureFormat::H264, 1280, 720, &[(30, 1)])];
        let wanted = |encoding| ModeRequest { resolution: size(1280, 720), fps: 30, encoding };
        let format = |encoding| choose(&camera, wanted(encoding), |_| 0).map(|choice| choice.format);
        assert_eq!(format(Encoding::Camera), Some(CaptureFormat::H264));
        assert_eq!(format(Encoding::Board), Some(YUYV));
        assert_eq!(choose(&camera[..1], wanted(Encoding::Camera), |_| 0), None);
    }

    #[test]
    fn formats_with_fewer_failures_come_first_and_h264_comes_last() {
        let camera = [
            mode(CaptureFormat::H264, 1280, 720, &[(30, 1)]),
            mode(CaptureFormat::MJPEG, 1280, 720, &[(30, 1)]),
            mode(YUYV, 640, 480, &[(30, 1)]),
        ];
        let wanted = |encoding| ModeRequest { resolution: size(1280, 720), fps: 30, encoding };
        let chosen = |encoding, failed: [(CaptureFormat, u32); 2]| {
            let failures = |format| failed.iter().find(|(known, _)| *known == format).map_or(0, |(_, failed)| *failed);
            choose(&camera, wanted(encoding), failures).map(|choice| choice.format)
        };
        let cases = [
            ([(CaptureFormat::MJPEG, 0), (YUYV, 0)], CaptureFormat::MJPEG),
            ([(CaptureFormat::MJPEG, 1), (YUYV, 0)], YUYV),
            ([(CaptureFormat::MJPEG, 1), (YUYV, 1)], CaptureFormat::H264),
            ([(CaptureFormat::MJPEG, 2), (CaptureFormat::H264, 1)], YUYV),
        ];
        for (failed, expected) in cases {
            assert_eq!(chosen(Encoding::Board, failed), Some(expected), "{failed:?}");
        }
        assert_eq!(
            chosen(Encoding::Camera, [(CaptureFormat::H264, 9), (YUYV, 0)]),
            Some(CaptureFormat::H264),
            "it was asked for"
        );
    }

    #[test]
    fn the_nearest_size_on_the_grid_of_a_range_is_chosen() {
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
        let range = CaptureMode { format: I420, sizes, rates: vec![] };
        assert_eq!(chosen(&[range], 1280, 720, 30), "I420 1280x720 any");
    }

    #[test]
    fn gstreamer_accepts_and_converts_every_format_of_the_table() {
        gstreamer::init().unwrap();
        let pads = |name: &str| gstreamer::ElementFactory::find(name).unwrap().static_pad_templates();
        let caps = |name: &str, pad: &str| {
            let pads = pads(name);
            pads.iter().find(|template| template.name_template() == pad).unwrap().caps()
        };
        let (camera, converter) = (caps("v4l2src", "src"), caps("videoconvert", "sink"));
        for known in CaptureFormat::all() {
            let (name, caps) = (known.name(), known.caps());
            let format: gstreamer::Caps = caps.parse().unwrap();
            assert!(camera.can_intersect(&format), "v4l2src has no {name}");
            assert!(!caps.starts_with("video/x-raw") || converter.can_intersect(&format), "{name} is not converted");
        }
        let codes: Vec<_> = CaptureFormat::all().flat_map(CaptureFormat::codes).collect();
        let mut once = codes.clone();
        without_repetition(&mut once);
        assert_eq!(once, codes, "a code appears twice");
    }
}
