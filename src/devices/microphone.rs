//! Turns the audio configuration into the graph that captures and encodes sound.

use std::collections::BTreeMap;

use alsa::pcm::Format;
use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::{
    AlsaDevice, AudioConfig, Blame, Config, Error, LearnedState, Rendition, Settings, SourceSpec, Step,
};
use serde::{Deserialize, Serialize};

use crate::attempt;
use crate::drift;
use crate::graph::branch::Branch;
use crate::graph::elements::{element, filter};
use crate::graph::{Graph, patience};
use crate::graph_builder::{AttemptOutcome, GraphBuilder};
use crate::inventory::device::{self, Nodes};
use crate::inventory::hotplug::HotplugWatch;
use crate::test_source::test_tone;

/// Microseconds of sound that are read at once: half of an Opus frame, so that no sample waits longer.
const READ_PERIOD: i64 = 10_000;

/// Opus frames per second.
const OPUS_RATE: f64 = 50.0;

/// Size of the device's buffer in microseconds. Sound is read as it comes, so this is not latency: it is how late
/// our thread may be before sound is lost.
const BUFFER_TIME: i64 = 300_000;

/// Turns the audio configuration into a graph.
#[derive(Debug)]
pub struct SoundBuilder {
    cameras: Vec<Config>,
    nodes: Nodes,
    learned: Learned,
}

/// Results of earlier attempts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Learned {
    /// The substitute of `auto` without a microphone. Once a camera or a microphone was there, it stays silence: an
    /// unplugged webcam must not make the board beep.
    without: Option<Substitute>,
    /// The capture device that was tried last.
    last: Option<String>,
    /// Failures of each device since it last worked.
    record: BTreeMap<String, DeviceFailures>,
}

/// Failures of a capture device.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct DeviceFailures {
    /// Number of failures.
    failures: u32,
    /// Number of those in which it delivered nothing, or stopped.
    silences: u32,
}

/// The substitute for a microphone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Substitute {
    Tone,
    Nothing,
}

impl SoundBuilder {
    /// One without experience.
    pub fn new(cameras: &[Config], nodes: Nodes) -> Self {
        Self { cameras: cameras.to_vec(), nodes, learned: Learned::default() }
    }
}

impl GraphBuilder for SoundBuilder {
    fn build(&mut self, settings: &Settings) -> Result<Graph, Error> {
        let config = attempt::of_microphone(settings)?;
        self.learned.last = None;
        // Taken before the devices are listed, so that no device that appears meanwhile is missed.
        let hotplug_watch = HotplugWatch::now();
        // The tone is replaced when the test picture is.
        self.learned.without = self.learned.without.filter(|without| *without == Substitute::Nothing);
        let mut graph = match config.capture.as_str() {
            "test" => tone()?,
            "auto" => match self.best() {
                Some(audio) => self.alsa(&audio.device, audio.in_words())?,
                None if self.substitute() == Substitute::Tone => Graph { hotplug: Some(hotplug_watch), ..tone()? },
                None => return Err(Error::Absent { device: "a microphone".into() }),
            },
            name => match device::microphone(name) {
                Some(audio) => self.alsa(&audio.device, audio.in_words())?,
                None => self.alsa(name, name.to_owned())?,
            },
        };
        graph.branch.elements.push(element("audioconvert")?.build().map_err(Error::broken)?);
        // The tone follows the clock already.
        if self.learned.last.is_some() {
            graph.branch.elements.push(drift::clock_follower()?);
        }
        graph.branch.elements.push(element("audioresample")?.build().map_err(Error::broken)?);
        graph.branch.elements.push(filter(&format!(
            "audio/x-raw,rate={},channels={}",
            test_tone::RATE,
            config.channels
        ))?);
        let opus = element("opusenc")?
            .property("bitrate", config.ceiling().as_bps() as i32)
            .property_from_str("frame-size", "20")
            // A lost packet is rebuilt from the next one; the percentage is the loss that the encoder expects.
            .property("inband-fec", true)
            // The value of WebRTC's own library on phones; the usual 10 costs twice the time and sounds almost the
            // same.
            .property("complexity", 5_i32)
            .property("packet-loss-percentage", 5_i32)
            // Silence is sent too: without packets a viewer cannot distinguish it from loss.
            .property("dtx", false);
        let opus = opus.build().map_err(Error::broken)?;
        graph.branch.elements.push(opus.clone());
        graph.opus = Some(opus);
        Ok(graph)
    }

    fn record_outcome(&mut self, outcome: AttemptOutcome<'_>) {
        let Some(device) = &self.learned.last else { return };
        let is_silence = matches!(
            outcome,
            AttemptOutcome::Stalled { .. } | AttemptOutcome::Failed { error: Error::Silent { .. }, .. }
        );
        match outcome {
            AttemptOutcome::Works => {
                self.learned.record.remove(device);
                self.learned.without = Some(Substitute::Nothing);
            }
            AttemptOutcome::Failed { error, .. } if error.is_absence() => {}
            AttemptOutcome::Failed { .. } | AttemptOutcome::Stalled { .. } => {
                let tried = self.learned.record.entry(device.clone()).or_default();
                tried.failures += 1;
                tried.silences += u32::from(is_silence);
            }
        }
    }

    fn rendition(&mut self, _: &Rendition, _: f64) -> Result<(Branch, String), Error> {
        Err(Error::broken("sound has one encoding only"))
    }

    fn learned(&self) -> LearnedState {
        serde_json::to_value((&self.learned, self.nodes.hanging())).unwrap_or_default()
    }

    fn restore(&mut self, memory: LearnedState) {
        let Ok((learned, hanging)) = serde_json::from_value(memory) else { return };
        self.learned = learned;
        self.nodes.restore(hanging);
    }

    fn record_crash(&mut self, blame: &Blame) {
        match (&blame.step, &self.learned.last) {
            (Step::Looking { at: Some(node) }, _) => self.nodes.record_hang(node),
            (Step::Starting { .. } | Step::Running { .. }, Some(device)) => {
                self.learned.record.entry(device.clone()).or_default().failures += 1;
            }
            _ => {}
        }
    }
}

impl SoundBuilder {
    /// Whether [`build`](Self::build) would find a microphone. Blocks.
    pub fn is_there(&mut self, config: &AudioConfig) -> bool {
        // A named device may be one that ALSA does not list, such as a plugin's.
        config.capture != "auto" || !device::microphones().is_empty() || self.substitute() == Substitute::Tone
    }

    /// The capture device with the fewest failures, so that a busy or mute one does not hide a good one. Among
    /// equals, that of the first camera that has one, because with two cameras of the same model either may be the
    /// first card.
    pub fn best(&self) -> Option<AlsaDevice> {
        let found = device::microphones();
        // Cameras are listed only if there is a choice.
        let plugs = if found.len() > 1 { self.plugs() } else { vec![] };
        let failures = |audio: &AlsaDevice| self.failures_of(&audio.device).failures;
        let place = |audio: &AlsaDevice| plugs.iter().position(|plug| audio.plug.as_ref() == Some(plug));
        found.into_iter().min_by_key(|audio| (failures(audio), place(audio).unwrap_or(usize::MAX)))
    }

    /// Ports of the cameras, in the order of the configuration.
    fn plugs(&self) -> Vec<String> {
        let plug = |camera: &Config| match SourceSpec::parse(&camera.source) {
            SourceSpec::V4l2(name) => self.nodes.camera(&name, camera.resolution()).ok().map(|video| video.bus),
            SourceSpec::Auto => self.nodes.cameras(camera.resolution()).into_iter().next().map(|video| video.bus),
            SourceSpec::Test | SourceSpec::Libcamera(_) => None,
        };
        self.cameras.iter().filter_map(plug).collect()
    }

    fn failures_of(&self, device: &str) -> DeviceFailures {
        self.learned.record.get(device).copied().unwrap_or_default()
    }

    fn alsa(&mut self, name: &str, in_words: String) -> Result<Graph, Error> {
        let mut graph = alsa(name, in_words)?;
        graph.patience = patience(self.failures_of(name).silences, OPUS_RATE);
        self.learned.last = Some(name.to_owned());
        Ok(graph)
    }

    fn substitute(&mut self) -> Substitute {
        *self.learned.without.get_or_insert_with(|| {
            let shows_test = |camera: &Config| match SourceSpec::parse(&camera.source) {
                SourceSpec::Test => true,
                SourceSpec::Auto => self.nodes.cameras(camera.resolution()).is_empty(),
                SourceSpec::V4l2(_) | SourceSpec::Libcamera(_) => false,
            };
            if self.cameras.iter().any(shows_test) { Substitute::Tone } else { Substitute::Nothing }
        })
    }
}

fn tone() -> Result<Graph, Error> {
    let (source, waker) = test_tone::source()?;
    let mut graph = Graph::new(vec![source.upcast()], "test tone".into(), None);
    graph.waker = Some(waker);
    Ok(graph)
}

fn alsa(name: &str, in_words: String) -> Result<Graph, Error> {
    let converted = format!("plug:SLAVE=\"{name}\"");
    let device = if needs_conversion(name) { &converted } else { name };
    let source: gst::Element = element("alsasrc")?
        .property("device", device)
        .property("latency-time", READ_PERIOD)
        .property("buffer-time", BUFFER_TIME)
        .property("provide-clock", false)
        // For devices whose driver has no time stamps. With the default, `skew`, drift shows only once the ring has
        // overrun.
        .property_from_str("slave-method", "re-timestamp")
        .build()
        .map_err(Error::broken)?;
    let mut elements = vec![source];
    if device != name {
        elements.push(filter("audio/x-raw,channels=[1,2]")?);
    }
    Ok(Graph::new(elements, in_words, None))
}

/// Whether the device has only formats that alsasrc (1.22) does not accept and ALSA's own conversion does.
///
/// alsasrc aborts the process at five or seven channels (gstalsa.c, `g_assert_not_reached`), and labels those of a
/// microphone array as cinema loudspeakers. It supports neither samples of 20 bits in three bytes nor compressed
/// formats. If the device cannot be opened, because it is busy or gone, alsasrc reports that.
fn needs_conversion(name: &str) -> bool {
    let probe = || {
        let pcm = alsa::PCM::new(name, alsa::Direction::Capture, true)?;
        let has = alsa::pcm::HwParams::any(&pcm)?;
        let is_known = ALSASRC_FORMATS.iter().any(|format| has.test_format(*format).is_ok());
        Ok::<_, alsa::Error>(has.get_channels_min()? > 2 || !is_known)
    };
    probe().unwrap_or(false)
}

/// The sample formats that alsasrc accepts (`format_map` in gstalsa.c).
const ALSASRC_FORMATS: [Format; 16] = [
    Format::S16LE,
    Format::S16BE,
    Format::S24LE,
    Format::S24BE,
    Format::S243LE,
    Format::S243BE,
    Format::S32LE,
    Format::S32BE,
    Format::FloatLE,
    Format::FloatBE,
    Format::Float64LE,
    Format::Float64BE,
    Format::S8,
    Format::U8,
    Format::U16LE,
    Format::U16BE,
];
