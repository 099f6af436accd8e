//! The inventory of the board for the operator: cameras, microphones, encoders, GStreamer's plugins.

use gstreamer as gst;
use peercam::capture::{
    ActiveMode, AudioConfig, CaptureFormat, Config, EncoderTrial, Error, FrameRate, Inventory, PASSTHROUGH, SourceSpec,
    V4l2Camera,
};
use peercam::media::Resolution;

use crate::codec_trials::CodecTrials;
use crate::encoder::{EncodingTask, TABLE};
use crate::graph::elements::element;
use crate::graph::{driver_errors, plugins};
use crate::microphone::SoundBuilder;
use crate::source::mode::{self, Encoding, ModeRequest};

use super::controls;
use super::csi;
use super::device::{self, Nodes};

/// Examines all devices and encoders. Takes seconds, and blocks; devices in use are not disturbed.
pub fn take_inventory(cameras: &[Config], audio: &AudioConfig, nodes: &Nodes, trials: &mut CodecTrials) -> Inventory {
    if let Err(error) = driver_errors::init() {
        return Inventory { gstreamer: format!("does not start: {error}"), ..Inventory::default() };
    }
    let first = cameras.first().cloned().unwrap_or_default();
    let near = first.resolution();
    let (found, other): (Vec<_>, Vec<_>) =
        device::video_nodes().into_iter().map(|node| nodes.examine(&node, near)).partition(Result::is_ok);
    let usable = found.into_iter().flatten().map(|video| {
        // A camera is usable even if its controls cannot be listed.
        let controls = controls::list(&video.path).unwrap_or_default();
        (video, controls)
    });
    let usable = usable.collect();
    let encoders = TABLE.iter().map(|kind| {
        let verdict = trials.verdict(kind, &task(&first, near, f64::from(first.fps)));
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
    Inventory {
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

fn task(config: &Config, resolution: Resolution, fps: f64) -> EncodingTask {
    EncodingTask { resolution, fps, bitrate: config.ceiling(), key_interval: config.key_interval(fps) }
}

/// Source, mode and encoder that a camera would use, as text.
fn picture(config: &Config, nodes: &Nodes, trials: &mut CodecTrials) -> Result<String, Error> {
    let near = config.resolution();
    let test = || {
        (
            ("test picture".to_owned()),
            ActiveMode { format: "I420".into(), resolution: near, fps: f64::from(config.fps) },
        )
    };
    let (source, mode) = match SourceSpec::parse(&config.source) {
        SourceSpec::Test => test(),
        SourceSpec::Libcamera(id) => {
            drop(element("libcamerasrc")?);
            let camera = csi::camera(id.as_deref())?;
            let format = camera.format()?.into();
            (csi::in_words(&camera.id), ActiveMode { format, ..test().1 })
        }
        SourceSpec::V4l2(name) => in_mode(&nodes.camera(&name, near)?, config)?,
        SourceSpec::Auto => match nodes.cameras(near).first() {
            Some(video) => in_mode(video, config)?,
            None => test(),
        },
    };
    if mode.format == CaptureFormat::H264.name() {
        // A new viewer waits for the next key frame.
        let advice = "the camera decides when key frames come: set their interval at the camera to 2 s or less";
        return Ok(format!("{source}, {mode}, {PASSTHROUGH} ({advice})"));
    }
    let (encoder, _) = trials.choose(&config.encoder, &task(config, mode.resolution, mode.fps))?;
    Ok(format!("{source}, {mode}, {}", encoder.name))
}

fn in_mode(video: &V4l2Camera, config: &Config) -> Result<(String, ActiveMode), Error> {
    let encoding = if config.encoder == PASSTHROUGH { Encoding::Camera } else { Encoding::Board };
    let wanted = ModeRequest { resolution: config.resolution(), fps: config.fps, encoding };
    let choice = mode::choose(&video.modes, wanted, |_| 0)
        .ok_or_else(|| Error::NoMode { device: video.in_words(), formats: video.formats() })?;
    let fps = choice.rate.map_or(f64::from(config.fps), FrameRate::as_fps);
    Ok((video.in_words(), ActiveMode { format: choice.format.name().into(), resolution: choice.resolution, fps }))
}

fn sound(cameras: &[Config], config: &AudioConfig, nodes: &Nodes) -> Option<Result<String, String>> {
    Some(match config.capture.as_str() {
        "off" => return None,
        "test" => Ok("test tone".into()),
        "auto" => match SoundBuilder::new(cameras, nodes.clone()).best() {
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
