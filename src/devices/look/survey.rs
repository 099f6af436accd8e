//! What the board has, found out for the operator: cameras, microphones, encoders, GStreamer's plugins.

use gstreamer as gst;
use peercam::capture::{
    AudioConfig, Config, EncoderTrial, Error, Format, Mode, PASSTHROUGH, Rate, Source, Survey, Video,
};
use peercam::media::Resolution;

use crate::encoder::{TABLE, Work};
use crate::graph::elements::element;
use crate::graph::{complaints, plugins};
use crate::microphone::Sound;
use crate::source::mode::{self, Encoding, Wanted};
use crate::trials::Trials;

use super::controls;
use super::csi;
use super::device::{self, Nodes};

/// Looks at everything. Takes seconds, and blocks; devices in use are not disturbed.
pub fn survey(cameras: &[Config], audio: &AudioConfig, nodes: &Nodes, trials: &mut Trials) -> Survey {
    if let Err(error) = complaints::init() {
        return Survey { gstreamer: format!("does not start: {error}"), ..Survey::default() };
    }
    let first = cameras.first().cloned().unwrap_or_default();
    let near = first.resolution();
    let (found, other): (Vec<_>, Vec<_>) =
        device::video_nodes().into_iter().map(|node| nodes.look(&node, near)).partition(Result::is_ok);
    let usable = found.into_iter().flatten().map(|video| {
        // A camera whose controls cannot be listed is still one.
        let controls = controls::list(&video.path).unwrap_or_default();
        (video, controls)
    });
    let usable = usable.collect();
    let encoders = TABLE.iter().map(|kind| {
        let verdict = trials.verdict(kind, &work(&first, near, f64::from(first.fps)));
        EncoderTrial {
            name: kind.name.to_owned(),
            is_installed: kind.is_installed(),
            has_key_frames_on_demand: verdict.as_ref().is_ok_and(|found| found.has_key_frames_on_demand),
            outcome: verdict.map(|found| found.took),
        }
    });
    let encoders = encoders.collect();
    let is_missing = |(element, _): &&(&str, &str)| gst::ElementFactory::find(element).is_none();
    let missing = plugins::ELEMENTS.iter().filter(is_missing);
    Survey {
        failure: None,
        gstreamer: gst::version_string().to_string(),
        cameras: usable,
        libcamera: csi::cameras().into_iter().map(|camera| camera.id).collect(),
        other_nodes: other.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect(),
        microphones: device::microphones(),
        encoders,
        missing_elements: missing.map(|(element, package)| ((*element).to_owned(), (*package).to_owned())).collect(),
        uses: cameras
            .iter()
            .map(|camera| (camera.name.clone(), picture(camera, nodes, trials).map_err(|error| error.to_string())))
            .collect(),
        sound: sound(cameras, audio, nodes),
    }
}

fn work(config: &Config, resolution: Resolution, fps: f64) -> Work {
    Work { resolution, fps, bitrate: config.ceiling(), key_interval: config.key_interval(fps) }
}

/// Source, mode and encoder that a camera would use, in words.
fn picture(config: &Config, nodes: &Nodes, trials: &mut Trials) -> Result<String, Error> {
    let near = config.resolution();
    let test =
        || (("test picture".to_owned()), Mode { format: "I420".into(), resolution: near, fps: f64::from(config.fps) });
    let (source, mode) = match Source::parse(&config.source) {
        Source::Test => test(),
        Source::Libcamera(id) => {
            drop(element("libcamerasrc")?);
            let camera = csi::camera(id.as_deref())?;
            let format = camera.format()?.into();
            (csi::in_words(&camera.id), Mode { format, ..test().1 })
        }
        Source::V4l2(name) => in_mode(&nodes.camera(&name, near)?, config)?,
        Source::Auto => match nodes.cameras(near).first() {
            Some(video) => in_mode(video, config)?,
            None => test(),
        },
    };
    if mode.format == Format::H264.name() {
        // Who joins waits for the next of them.
        let advice = "it makes key frames as it likes: set their interval at the camera to 2 s or less";
        return Ok(format!("{source}, {mode}, {PASSTHROUGH} ({advice})"));
    }
    let (encoder, _) = trials.choose(&config.encoder, &work(config, mode.resolution, mode.fps))?;
    Ok(format!("{source}, {mode}, {}", encoder.name))
}

fn in_mode(video: &Video, config: &Config) -> Result<(String, Mode), Error> {
    let encoding = if config.encoder == PASSTHROUGH { Encoding::Camera } else { Encoding::Board };
    let wanted = Wanted { resolution: config.resolution(), fps: config.fps, encoding };
    let choice = mode::choose(&video.offers, wanted, |_| 0)
        .ok_or_else(|| Error::NoMode { device: video.in_words(), formats: video.formats() })?;
    let fps = choice.rate.map_or(f64::from(config.fps), Rate::as_fps);
    Ok((video.in_words(), Mode { format: choice.format.name().into(), resolution: choice.resolution, fps }))
}

fn sound(cameras: &[Config], config: &AudioConfig, nodes: &Nodes) -> Option<Result<String, String>> {
    Some(match config.capture.as_str() {
        "off" => return None,
        "test" => Ok("test tone".into()),
        "auto" => match Sound::new(cameras, nodes.clone()).best() {
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
