//! What the board has, found out for the operator: cameras, microphones, encoders, GStreamer's plugins.

use std::time::Duration;

use gstreamer as gst;
use serde::Serialize;

use super::complaints;
use super::controls::{self, Control};
use super::device::{self, Audio, Source, Video};
use super::encoder::{TABLE, Work};
use super::microphone::Sound;
use super::mode::{self, Encoding, Wanted};
use super::{AudioConfig, Config, Error, Mode, PASSTHROUGH, plugins, trial};

/// What there is, and what would be used.
#[derive(Debug, Default, Serialize)]
pub struct Survey {
    /// The version of GStreamer, or why it does not start.
    pub gstreamer: String,
    /// Cameras with their controls.
    pub cameras: Vec<(Video, Vec<Control>)>,
    /// Video nodes that are no usable cameras, and why.
    pub other_nodes: Vec<String>,
    /// Microphones.
    pub microphones: Vec<Audio>,
    /// Each encoder, tried at the first camera's size.
    pub encoders: Vec<EncoderTrial>,
    /// Elements that are missing, and the Debian package that has each.
    pub missing_elements: Vec<(&'static str, &'static str)>,
    /// For each configured camera: what would be used, or why nothing can be.
    pub uses: Vec<(String, Result<String, String>)>,
    /// What would be used for sound, or why nothing can be.
    pub sound: Option<Result<String, String>>,
}

/// How one encoder did.
#[derive(Debug, Serialize)]
pub struct EncoderTrial {
    /// The GStreamer element.
    pub name: &'static str,
    /// Whether its software is installed here.
    pub is_installed: bool,
    /// How long a few pictures took, or why it cannot be used.
    pub outcome: Result<Duration, String>,
    /// Whether it makes a key frame when a viewer needs one. Without, one comes each second.
    pub has_key_frames_on_demand: bool,
}

/// Looks at everything. Takes seconds, and blocks; devices in use are not disturbed.
pub fn survey(cameras: &[Config], audio: &AudioConfig) -> Survey {
    if let Err(error) = complaints::init() {
        return Survey { gstreamer: format!("does not start: {error}"), ..Survey::default() };
    }
    let first = cameras.first().cloned().unwrap_or_default();
    let near = first.resolution();
    let (found, other): (Vec<_>, Vec<_>) =
        device::video_nodes().into_iter().map(|node| Video::look(&node, near)).partition(Result::is_ok);
    let usable = found.into_iter().flatten().map(|video| {
        // A camera whose controls cannot be listed is still one.
        let controls = controls::list(&video.path).unwrap_or_default();
        (video, controls)
    });
    let encoders = TABLE.iter().map(|kind| {
        let verdict = trial::verdict(kind, &work(&first, near, f64::from(first.fps)));
        EncoderTrial {
            name: kind.name,
            is_installed: kind.is_installed(),
            has_key_frames_on_demand: verdict.as_ref().is_ok_and(|found| found.has_key_frames_on_demand),
            outcome: verdict.map(|found| found.took),
        }
    });
    let is_missing = |(element, _): &&(&str, &str)| gst::ElementFactory::find(element).is_none();
    Survey {
        gstreamer: gst::version_string().to_string(),
        cameras: usable.collect(),
        other_nodes: other.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect(),
        microphones: device::microphones(),
        encoders: encoders.collect(),
        missing_elements: plugins::ELEMENTS.iter().filter(is_missing).copied().collect(),
        uses: cameras
            .iter()
            .map(|camera| (camera.name.clone(), picture(camera).map_err(|error| error.to_string())))
            .collect(),
        sound: sound(cameras, audio),
    }
}

fn work(config: &Config, resolution: crate::media::Resolution, fps: f64) -> Work {
    Work { resolution, fps, bitrate: config.ceiling(), key_interval: config.key_interval(fps) }
}

/// Source, mode and encoder that a camera would use, in words.
fn picture(config: &Config) -> Result<String, Error> {
    let near = config.resolution();
    let test =
        || (("test picture".to_owned()), Mode { format: "I420".into(), resolution: near, fps: f64::from(config.fps) });
    let (source, mode) = match Source::parse(&config.source) {
        Source::Test => test(),
        Source::Libcamera(id) => {
            drop(super::element("libcamerasrc")?);
            (id.unwrap_or_else(|| "libcamera".into()), test().1)
        }
        Source::V4l2(name) => in_mode(&device::camera(&name, near)?, config)?,
        Source::Auto => match device::cameras(near).first() {
            Some(video) => in_mode(video, config)?,
            None => test(),
        },
    };
    if mode.format == mode::Format::H264.name() {
        return Ok(format!("{source}, {mode}, {PASSTHROUGH}"));
    }
    let (encoder, _) = trial::choose(&config.encoder, &work(config, mode.resolution, mode.fps))?;
    Ok(format!("{source}, {mode}, {}", encoder.name))
}

fn in_mode(video: &Video, config: &Config) -> Result<(String, Mode), Error> {
    let encoding = if config.encoder == PASSTHROUGH { Encoding::Camera } else { Encoding::Board };
    let wanted = Wanted { resolution: config.resolution(), fps: config.fps, encoding };
    let choice = mode::choose(&video.offers, wanted, |_| 0)
        .ok_or_else(|| Error::NoMode { device: video.in_words(), formats: video.formats() })?;
    let fps = choice.rate.map_or(f64::from(config.fps), mode::Rate::as_fps);
    Ok((video.in_words(), Mode { format: choice.format.name().into(), resolution: choice.resolution, fps }))
}

fn sound(cameras: &[Config], config: &AudioConfig) -> Option<Result<String, String>> {
    Some(match config.capture.as_str() {
        "off" => return None,
        "test" => Ok("test tone".into()),
        "auto" => match Sound::new(cameras).best() {
            Some(audio) => Ok(audio.in_words()),
            None => Err("there is no microphone: the test picture has the test tone, other pictures are silent".into()),
        },
        name => match device::microphone(name) {
            Some(audio) => Ok(audio.in_words()),
            None => match alsa::PCM::new(name, alsa::Direction::Capture, true) {
                Ok(_) => Ok(name.to_owned()),
                Err(error) => Err(format!("{name} cannot be opened: {error}")),
            },
        },
    })
}
