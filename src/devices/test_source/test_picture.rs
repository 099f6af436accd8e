//! The picture without a camera, with which latency and lip sync are measured.
//!
//! It has colour bars; leaves in the wind (noise, in place of the black bar), so that the encoder has as much work
//! as with a real scene and uses the bitrate it is given; a clock (UTC, `HH:MM:SS.mmm`); a bar that moves across
//! once in four seconds; a field at the lower right that is white during the first 100 ms of each Unix second,
//! while the test tone beeps; and the time code of [`peercam::media::time_code`] at the top left. Everything that
//! moves shows the same time, which is also the capture time of the frame. BT.709, video range, I420.

use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use peercam::capture::Error;
use peercam::media::{Resolution, time_code};

use crate::graph::clock;

use super::live_source::{self, Pace, Waker};

/// Duration of flash and beep, from each full second on.
pub const FLASH: Duration = Duration::from_millis(100);

/// Time that the moving bar takes from the left edge to the right.
const SWEEP: Duration = Duration::from_secs(4);

/// White, yellow, cyan, green, magenta, red, blue and black at 75 % as Y, Cb, Cr (BT.709, video range).
const BARS: [[u8; 3]; 8] = [
    [180, 128, 128],
    [168, 44, 136],
    [145, 147, 44],
    [133, 63, 52],
    [63, 193, 204],
    [51, 109, 212],
    [28, 212, 120],
    [16, 128, 128],
];

/// The lower third, on which clock, moving bar and flash field are well visible.
const GROUND: [u8; 3] = [40, 128, 128];

/// Brightness range of the leaves: strong enough to fill 2 Mbit/s at 720p30.
const LEAVES: std::ops::RangeInclusive<u8> = 80..=176;

const WHITE: u8 = 235;
const BLACK: u8 = 16;

/// Digits, colon and point as five columns by seven lines; bit 4 is the leftmost column.
const GLYPHS: [[u8; 7]; 12] = [
    [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
    [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
    [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
    [0b11110, 0b00001, 0b00001, 0b01110, 0b00001, 0b00001, 0b11110],
    [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
    [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
    [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
    [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
    [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
    [0b00000, 0b00100, 0b00100, 0b00000, 0b00100, 0b00100, 0b00000],
    [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100],
];

/// Position of a plane in a picture's buffer.
#[derive(Clone, Copy, Debug)]
struct Plane {
    offset: usize,
    stride: usize,
}

/// Draws the test picture in one size.
#[derive(Debug)]
pub struct TestPicture {
    resolution: Resolution,
    luma: Plane,
    /// The parts that do not move, drawn once; each frame starts as a copy of it.
    background: Vec<u8>,
    /// Noise for the leaves; each line uses a part of it, at another offset each time.
    noise: Vec<u8>,
}

/// Length of the noise: a prime, so that lines and times do not fall into step with it.
const NOISE: usize = 65_537;

impl TestPicture {
    /// A picture with the layout of `info` (I420).
    pub fn new(info: &gst_video::VideoInfo) -> Self {
        let resolution = Resolution { width: info.width(), height: info.height() };
        let plane = |index: usize| Plane { offset: info.offset()[index], stride: info.stride()[index] as usize };
        let mut background = vec![0; info.size()];
        for component in 0..3 {
            let shift = usize::from(component > 0);
            let Plane { offset, stride } = plane(component);
            let (width, height) = (resolution.width as usize >> shift, resolution.height as usize >> shift);
            for line in 0..height {
                let row = &mut background[offset + line * stride..][..width];
                if line * 3 >= height * 2 {
                    row.fill(GROUND[component]);
                    continue;
                }
                for (column, sample) in row.iter_mut().enumerate() {
                    *sample = BARS[column * BARS.len() / width][component];
                }
            }
        }
        let noise = (0..NOISE + resolution.width as usize).map(|_| rand::random_range(LEAVES)).collect();
        Self { resolution, luma: plane(0), background, noise }
    }

    /// Size of a picture in bytes.
    pub fn size(&self) -> usize {
        self.background.len()
    }

    /// Draws the time `unix_time` into `picture`.
    pub fn draw(&self, picture: &mut [u8], unix_time: Duration) {
        picture.copy_from_slice(&self.background);
        let luma = &mut picture[self.luma.offset..];
        self.draw_leaves(luma, unix_time);
        time_code::paint(luma, self.luma.stride, self.resolution.width, unix_time.as_millis() as u64);
        let (width, height) = (self.resolution.width as usize, self.resolution.height as usize);
        let ground = height * 2 / 3 + 1;

        let bar = width / 40;
        let swept = (unix_time.as_millis() % SWEEP.as_millis()) as usize;
        let left = (width - bar) * swept / SWEEP.as_millis() as usize;
        self.fill(luma, (left, ground), (bar, height / 24), WHITE);

        let is_flash = unix_time.subsec_millis() < FLASH.as_millis() as u32;
        let (flash_left, flash_top) = self.flash_place();
        self.fill(
            luma,
            (flash_left, flash_top),
            (width - flash_left, height - flash_top),
            if is_flash { WHITE } else { BLACK },
        );
        self.draw_clock(luma, unix_time);
    }

    /// The upper left corner of the flash field, which reaches to the lower right corner of the picture.
    pub fn flash_place(&self) -> (usize, usize) {
        (self.resolution.width as usize * 3 / 4, self.resolution.height as usize * 3 / 4)
    }

    fn draw_leaves(&self, luma: &mut [u8], unix_time: Duration) {
        let (width, height) = (self.resolution.width as usize, self.resolution.height as usize);
        let left = width * (BARS.len() - 1) / BARS.len();
        let moment = unix_time.as_millis() as usize;
        for line in 0..height * 2 / 3 {
            let place = moment.wrapping_mul(7919).wrapping_add(line * 1009) % NOISE;
            luma[line * self.luma.stride..][left..width].copy_from_slice(&self.noise[place..place + width - left]);
        }
    }

    fn draw_clock(&self, luma: &mut [u8], unix_time: Duration) {
        let seconds = unix_time.as_secs();
        let time = format!(
            "{:02}:{:02}:{:02}.{:03}",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            unix_time.subsec_millis()
        );
        let (width, height) = (self.resolution.width as usize, self.resolution.height as usize);
        // Twelve characters of six columns fill well over half of the width.
        let dot = (width / 115).max(1);
        let (left, top) = (width / 40, height * 4 / 5);
        for (place, character) in time.bytes().enumerate() {
            let glyph = match character {
                b':' => GLYPHS[10],
                b'.' => GLYPHS[11],
                digit => GLYPHS[usize::from(digit - b'0')],
            };
            for (line, columns) in glyph.into_iter().enumerate() {
                for column in (0..5).filter(|column| columns >> (4 - column) & 1 == 1) {
                    self.fill(luma, (left + (place * 6 + column) * dot, top + line * dot), (dot, dot), WHITE);
                }
            }
        }
    }

    /// Fills a rectangle of luma, clipped at the picture's edges.
    fn fill(&self, luma: &mut [u8], (left, top): (usize, usize), (width, height): (usize, usize), value: u8) {
        let right = (left + width).min(self.resolution.width as usize);
        for line in top..(top + height).min(self.resolution.height as usize) {
            if left < right {
                luma[line * self.luma.stride..][left..right].fill(value);
            }
        }
    }
}

/// The test picture as a live source.
pub fn source(resolution: Resolution, fps: u32) -> Result<(gst_app::AppSrc, Waker), Error> {
    let info = format(resolution, fps)?;
    let caps = info.to_caps().map_err(Error::broken)?;
    let picture = TestPicture::new(&info);
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    // Two in the queue and the encoder, two for encoders that keep a reference; more are allocated when needed.
    config.set_params(Some(&caps), picture.size() as u32, 4, 0);
    pool.set_config(config).map_err(Error::broken)?;
    pool.set_active(true).map_err(Error::broken)?;
    let pace = Pace { buffers: fps, seconds: 1 };
    let patience = Duration::from_secs(1) / fps;
    Ok(live_source::source(&caps, pace, patience, move |moment| {
        let mut buffer = pool.acquire_buffer(None).ok()?;
        picture.draw(&mut buffer.get_mut()?.map_writable().ok()?, clock::unix_time(moment));
        Some(buffer)
    }))
}

/// Layout of the test picture in memory.
pub fn format(resolution: Resolution, fps: u32) -> Result<gst_video::VideoInfo, Error> {
    gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, resolution.width, resolution.height)
        .fps(gst::Fraction::new(fps as i32, 1))
        .colorimetry(&"bt709".parse().map_err(Error::broken)?)
        .build()
        .map_err(Error::broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, unix_time: Duration) -> (TestPicture, gst_video::VideoInfo, Vec<u8>) {
        gstreamer::init().unwrap();
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height).build().unwrap();
        let picture = TestPicture::new(&info);
        let mut bytes = vec![0; picture.size()];
        picture.draw(&mut bytes, unix_time);
        (picture, info, bytes)
    }

    #[test]
    fn the_time_code_is_readable_at_each_size() {
        let now = Duration::from_millis(1_763_646_463_123);
        for (width, height) in [(160, 120), (320, 180), (640, 360), (854, 480), (1280, 720), (1920, 1080)] {
            let (_, info, bytes) = picture(width, height, now);
            let read = time_code::decode(&bytes, info.stride()[0] as usize, Resolution { width, height });
            assert_eq!(read, Some(now.as_millis() as u32), "at {width}x{height}");
        }
    }

    #[test]
    fn it_flashes_during_the_first_tenth_of_each_second() {
        for (millis, luma) in [(0, WHITE), (99, WHITE), (100, BLACK), (999, BLACK), (1000, WHITE)] {
            let (picture, info, bytes) = picture(640, 360, Duration::from_millis(1_763_646_463_000 + millis));
            let (left, top) = picture.flash_place();
            assert_eq!(bytes[(top + 4) * info.stride()[0] as usize + left + 4], luma, "{millis} ms");
        }
    }

    #[test]
    fn two_pictures_differ_by_little_more_than_the_moving_parts() {
        let (_, _, first) = picture(1280, 720, Duration::from_millis(1_763_646_463_500));
        let (_, _, second) = picture(1280, 720, Duration::from_millis(1_763_646_463_533));
        let changed = first.iter().zip(&second).filter(|(first, second)| first != second).count();
        // The leaves are an eighth of two thirds of the luma, which is two thirds of the bytes.
        let leaves = first.len() * 2 / 3 / 12;
        let changed = changed.saturating_sub(leaves * 95 / 100);
        assert!((500..first.len() / 50).contains(&changed), "{changed} bytes of {} changed", first.len());
    }
}
