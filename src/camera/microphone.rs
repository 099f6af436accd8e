//! From the audio configuration to the graph that captures and encodes sound.

use std::collections::BTreeMap;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::capture::filter;
use super::device::{self, Audio, Source};
use super::opener::{Opener, Outcome};
use super::pipeline::Graph;
use super::{AudioConfig, Config, Error, element, test_tone};

/// How much is read at once: half of an Opus frame, so that no sample waits longer.
const READ: i64 = 10_000;

/// What the device may hold, in microseconds. Sound is read as it comes, so this is no latency but how long our
/// thread may be late before sound is lost.
const RING: i64 = 100_000;

/// The microphone's way from configuration to graph.
#[derive(Debug)]
pub(super) struct Sound {
    cameras: Vec<Config>,
    /// What `auto` means without a microphone, decided once: an unplugged camera must not make the board beep.
    without: Option<Without>,
    /// The capture device that `auto` tried last.
    last: Option<String>,
    /// How often each failed since it last worked.
    failures: BTreeMap<String, u32>,
}

/// What is sent without a microphone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Tone,
    Nothing,
}

impl Sound {
    pub(super) fn new(cameras: &[Config]) -> Self {
        Self { cameras: cameras.to_vec(), without: None, last: None, failures: BTreeMap::new() }
    }
}

impl Opener<AudioConfig> for Sound {
    fn open(&mut self, config: &AudioConfig) -> Result<Graph, Error> {
        let mut graph = match config.capture.as_str() {
            "test" => tone()?,
            "auto" => match self.best() {
                Some(audio) => alsa(&audio.device, audio.in_words())?,
                None if self.without() == Without::Tone => tone()?,
                None => return Err(Error::Absent { device: "a microphone".into() }),
            },
            name => alsa(name, name.to_owned())?,
        };
        for name in ["audioconvert", "audioresample"] {
            graph.elements.push(element(name)?.build().map_err(Error::broken)?);
        }
        graph.elements.push(filter(&format!("audio/x-raw,rate={},channels={}", test_tone::RATE, config.channels))?);
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
        graph.elements.push(opus.clone());
        graph.opus = Some(opus);
        Ok(graph)
    }

    fn learn(&mut self, outcome: Outcome<'_>) {
        let Some(device) = &self.last else { return };
        match outcome {
            Outcome::Works => drop(self.failures.remove(device)),
            Outcome::Failed(failure) if failure.is_absence() => {}
            Outcome::Failed(_) | Outcome::Stalled => *self.failures.entry(device.clone()).or_default() += 1,
        }
    }
}

impl Sound {
    /// Whether [`open`](Self::open) would find something. Blocks.
    pub(super) fn is_there(&mut self, config: &AudioConfig) -> bool {
        // A device of a given name may be one that ALSA does not list, such as a plugin's.
        config.capture != "auto" || !device::microphones().is_empty() || self.without() == Without::Tone
    }

    /// The capture device with the fewest failures, so that one that is busy or mute does not hide a good one.
    fn best(&mut self) -> Option<Audio> {
        let failures = |audio: &Audio| self.failures.get(&audio.device).copied().unwrap_or_default();
        let best = device::microphones().into_iter().min_by_key(failures);
        self.last = best.as_ref().map(|audio| audio.device.clone());
        best
    }

    fn without(&mut self) -> Without {
        *self.without.get_or_insert_with(|| {
            let shows_test = |camera: &Config| match Source::parse(&camera.source) {
                Source::Test => true,
                Source::Auto => device::cameras(camera.resolution()).is_empty(),
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
    // alsasrc (1.22) ends the process at a device of five or seven channels (gstalsa.c, `g_assert_not_reached`), and
    // calls those of an array of microphones the loudspeakers of a cinema. ALSA's own conversion knows no such names.
    let converted = format!("plug:SLAVE=\"{name}\"");
    let device = if has_more_than_two_channels(name) { &converted } else { name };
    let source: gst::Element = element("alsasrc")?
        .property("device", device)
        .property("latency-time", READ)
        .property("buffer-time", RING)
        .property("provide-clock", false)
        .build()
        .map_err(Error::broken)?;
    let mut elements = vec![source];
    if device != name {
        elements.push(filter("audio/x-raw,channels=[1,2]")?);
    }
    Ok(Graph::new(elements, in_words, None))
}

/// Whether the device has neither one channel nor two. What it does not tell, because it is busy or gone, alsasrc will.
fn has_more_than_two_channels(name: &str) -> bool {
    let least = || {
        let pcm = alsa::PCM::new(name, alsa::Direction::Capture, true)?;
        alsa::pcm::HwParams::any(&pcm)?.get_channels_min()
    };
    least().is_ok_and(|least| least > 2)
}
