//! From the audio configuration to the graph that captures and encodes sound.

use std::collections::BTreeMap;

use alsa::pcm::Format;
use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::{Audio, AudioConfig, Blame, Config, Error, Memory, Rendition, Settings, Source, Step};
use serde::{Deserialize, Serialize};

use crate::attempt;
use crate::drift;
use crate::graph::branch::Branch;
use crate::graph::elements::{element, filter};
use crate::graph::{Graph, patience};
use crate::look::device::{self, Nodes};
use crate::look::newcomer::Newcomer;
use crate::opener::{Opener, Outcome};
use crate::test_source::test_tone;

/// How much is read at once: half of an Opus frame, so that no sample waits longer.
const READ: i64 = 10_000;

/// Opus frames per second.
const OPUS_FRAMES: f64 = 50.0;

/// What the device may hold, in microseconds. Sound is read as it comes, so this is no latency but how long our
/// thread may be late before sound is lost.
const RING: i64 = 100_000;

/// The microphone's way from configuration to graph.
#[derive(Debug)]
pub struct Sound {
    cameras: Vec<Config>,
    nodes: Nodes,
    learned: Learned,
}

/// What was found out on earlier attempts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Learned {
    /// What `auto` means without a microphone. Once a camera or a microphone was there it stays silence: an unplugged
    /// webcam must not make the board beep.
    without: Option<Without>,
    /// The capture device that was tried last.
    last: Option<String>,
    /// What became of each since it last worked.
    record: BTreeMap<String, Tried>,
}

/// What became of attempts with a capture device.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Tried {
    /// How often it failed.
    failures: u32,
    /// How often of these it only brought nothing, or stopped.
    silences: u32,
}

/// What is sent without a microphone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Without {
    Tone,
    Nothing,
}

impl Sound {
    /// One that knows nothing yet.
    pub fn new(cameras: &[Config], nodes: Nodes) -> Self {
        Self { cameras: cameras.to_vec(), nodes, learned: Learned::default() }
    }
}

impl Opener for Sound {
    fn open(&mut self, settings: &Settings) -> Result<Graph, Error> {
        let config = attempt::of_microphone(settings)?;
        self.learned.last = None;
        // Before the look at them, so that none that comes meanwhile is missed.
        let there = Newcomer::now();
        // The tone ends with the test picture.
        self.learned.without = self.learned.without.filter(|without| *without == Without::Nothing);
        let mut graph = match config.capture.as_str() {
            "test" => tone()?,
            "auto" => match self.best() {
                Some(audio) => self.alsa(&audio.device, audio.in_words())?,
                None if self.without() == Without::Tone => Graph { newcomer: Some(there), ..tone()? },
                None => return Err(Error::Absent { device: "a microphone".into() }),
            },
            name => match device::microphone(name) {
                Some(audio) => self.alsa(&audio.device, audio.in_words())?,
                None => self.alsa(name, name.to_owned())?,
            },
        };
        graph.branch.elements.push(element("audioconvert")?.build().map_err(Error::broken)?);
        // The tone is made by the clock.
        if self.learned.last.is_some() {
            graph.branch.elements.push(drift::follower()?);
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
            // A lost packet is rebuilt from the next one; the share is what the encoder shall reckon with.
            .property("inband-fec", true)
            // What WebRTC's own library takes on phones; the usual 10 costs twice the time and is hard to tell from it.
            .property("complexity", 5_i32)
            .property("packet-loss-percentage", 5_i32)
            // Silence is sent too: without packets a viewer cannot tell it from loss.
            .property("dtx", false);
        let opus = opus.build().map_err(Error::broken)?;
        graph.branch.elements.push(opus.clone());
        graph.opus = Some(opus);
        Ok(graph)
    }

    fn learn(&mut self, outcome: Outcome<'_>) {
        let Some(device) = &self.learned.last else { return };
        let is_silence =
            matches!(outcome, Outcome::Stalled { .. } | Outcome::Failed { error: Error::Silent { .. }, .. });
        match outcome {
            Outcome::Works => {
                self.learned.record.remove(device);
                self.learned.without = Some(Without::Nothing);
            }
            Outcome::Failed { error, .. } if error.is_absence() => {}
            Outcome::Failed { .. } | Outcome::Stalled { .. } => {
                let tried = self.learned.record.entry(device.clone()).or_default();
                tried.failures += 1;
                tried.silences += u32::from(is_silence);
            }
        }
    }

    fn rendition(&mut self, _: &Rendition, _: f64) -> Result<(Branch, String), Error> {
        Err(Error::broken("sound has one encoding only"))
    }

    fn memory(&self) -> Memory {
        serde_json::to_value((&self.learned, self.nodes.hanging())).unwrap_or_default()
    }

    fn recall(&mut self, memory: Memory) {
        let Ok((learned, hanging)) = serde_json::from_value(memory) else { return };
        self.learned = learned;
        self.nodes.recall(hanging);
    }

    fn blame(&mut self, blame: &Blame) {
        match (&blame.step, &self.learned.last) {
            (Step::Looking { at: Some(node) }, _) => self.nodes.blame(node),
            (Step::Starting { .. } | Step::Running { .. }, Some(device)) => {
                self.learned.record.entry(device.clone()).or_default().failures += 1;
            }
            _ => {}
        }
    }
}

impl Sound {
    /// Whether [`open`](Self::open) would find something. Blocks.
    pub fn is_there(&mut self, config: &AudioConfig) -> bool {
        // A device of a given name may be one that ALSA does not list, such as a plugin's.
        config.capture != "auto" || !device::microphones().is_empty() || self.without() == Without::Tone
    }

    /// The capture device with the fewest failures, so that one that is busy or mute does not hide a good one; among
    /// equals that of the first camera which has one, since of two cameras of one kind either may be the first card.
    pub fn best(&self) -> Option<Audio> {
        let found = device::microphones();
        // Cameras are looked at only where there is a choice.
        let plugs = if found.len() > 1 { self.plugs() } else { vec![] };
        let failures = |audio: &Audio| self.tried(&audio.device).failures;
        let place = |audio: &Audio| plugs.iter().position(|plug| audio.plug.as_ref() == Some(plug));
        found.into_iter().min_by_key(|audio| (failures(audio), place(audio).unwrap_or(usize::MAX)))
    }

    /// Where the cameras are plugged in, in the order of the configuration.
    fn plugs(&self) -> Vec<String> {
        let plug = |camera: &Config| match Source::parse(&camera.source) {
            Source::V4l2(name) => self.nodes.camera(&name, camera.resolution()).ok().map(|video| video.bus),
            Source::Auto => self.nodes.cameras(camera.resolution()).into_iter().next().map(|video| video.bus),
            Source::Test | Source::Libcamera(_) => None,
        };
        self.cameras.iter().filter_map(plug).collect()
    }

    fn tried(&self, device: &str) -> Tried {
        self.learned.record.get(device).copied().unwrap_or_default()
    }

    fn alsa(&mut self, name: &str, in_words: String) -> Result<Graph, Error> {
        let mut graph = alsa(name, in_words)?;
        graph.patience = patience(self.tried(name).silences, OPUS_FRAMES);
        self.learned.last = Some(name.to_owned());
        Ok(graph)
    }

    fn without(&mut self) -> Without {
        *self.learned.without.get_or_insert_with(|| {
            let shows_test = |camera: &Config| match Source::parse(&camera.source) {
                Source::Test => true,
                Source::Auto => self.nodes.cameras(camera.resolution()).is_empty(),
                Source::V4l2(_) | Source::Libcamera(_) => false,
            };
            if self.cameras.iter().any(shows_test) { Without::Tone } else { Without::Nothing }
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
        .property("latency-time", READ)
        .property("buffer-time", RING)
        .property("provide-clock", false)
        // Of a device whose driver has no stamps. By its default, `skew`, drift shows only once the ring has overrun.
        .property_from_str("slave-method", "re-timestamp")
        .build()
        .map_err(Error::broken)?;
    let mut elements = vec![source];
    if device != name {
        elements.push(filter("audio/x-raw,channels=[1,2]")?);
    }
    Ok(Graph::new(elements, in_words, None))
}

/// Whether the device has only what alsasrc (1.22) does not take, and ALSA's own conversion does.
///
/// alsasrc ends the process at five or seven channels (gstalsa.c, `g_assert_not_reached`), and calls those of an array of
/// microphones the loudspeakers of a cinema. It knows no samples of 20 bits in three bytes and nothing compressed. What a
/// device does not tell, because it is busy or gone, alsasrc will.
fn needs_conversion(name: &str) -> bool {
    let asked = || {
        let pcm = alsa::PCM::new(name, alsa::Direction::Capture, true)?;
        let has = alsa::pcm::HwParams::any(&pcm)?;
        let is_known = KNOWN.iter().any(|format| has.test_format(*format).is_ok());
        Ok::<_, alsa::Error>(has.get_channels_min()? > 2 || !is_known)
    };
    asked().unwrap_or(false)
}

/// The samples that alsasrc takes, as devices have them (`format_map` in gstalsa.c).
const KNOWN: [Format; 16] = [
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
