//! A viewer made of `webrtcbin` and GStreamer's own decoders.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_sdp as gst_sdp;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use gstreamer_webrtc as gst_webrtc;
use peercam::media::Resolution;
use peercam::media::time_code;
use reqwest::{Client, Url};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Time limit of waits.
const LIMIT: Duration = Duration::from_secs(15);

/// The caps of the board's pictures.
pub const VIDEO: &str = "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,\
                     packetization-mode=(string)1,profile-level-id=(string)42e01f,level-asymmetry-allowed=(string)1";
/// The caps of its sound.
pub const AUDIO: &str =
    "application/x-rtp,media=audio,encoding-name=OPUS,payload=97,clock-rate=48000,encoding-params=(string)2";

/// Asks for a data channel, and is its label.
pub const CHANNEL: &str = "control";

const DECODE_VIDEO: &str =
    "queue ! rtph264depay ! h264parse ! openh264dec ! video/x-raw,format=I420 ! appsink name=sink sync=false";
const DECODE_AUDIO: &str = "queue ! rtpopusdepay ! opusdec ! audioconvert ! audioresample ! \
                            audio/x-raw,format=S16LE,rate=48000,channels=1 ! appsink name=sink sync=false";

/// Half of the beep's amplitude.
const LOUD: u16 = 4096;

/// Samples of silence before a beep, which nine tenths of each second are.
const SILENCE: u32 = 24_000;

/// What was seen and heard.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Time codes, as they came.
    pub codes: Vec<u32>,
    /// Pictures in which there is none.
    pub unreadable: u32,
    /// Age of the oldest picture when it came out of the decoder.
    pub oldest: Duration,
    /// Samples of sound, and how many of them belong to a beep.
    pub samples: u32,
    /// See `samples`.
    pub loud: u32,
    /// How long after a whole second of the player's clock the pictures have it that a second of the board's began, in
    /// ms, by the latest one.
    pub flash: Option<u64>,
    /// The same by the latest beep, which begins with the second.
    pub beep: Option<u64>,
    /// Samples since the last loud one.
    silence: u32,
    /// What the board has said on the data channel.
    pub told: Vec<String>,
}

/// How the viewer's streams share transports.
#[derive(Clone, Copy, Debug)]
pub enum Bundling {
    /// All of them share one.
    All,
    /// Each has its own, which is `webrtcbin`'s default.
    None,
    /// The picture is in a group of its own, and the sound in none.
    PictureAlone,
    /// As in `None`, but the password that the board is told of the sound's transport is wrong.
    SoundUnreachable,
}

/// The viewer.
pub struct Player {
    pipeline: gst::Pipeline,
    seen: Arc<Mutex<Seen>>,
    session: String,
}

impl Player {
    /// Joins the board at `url` by WHEP, to receive `streams`, which are [`VIDEO`], [`AUDIO`] and [`CHANNEL`].
    pub async fn join(url: &str, streams: &[&str], bundling: Bundling) -> Result<Self> {
        gst::init()?;
        let pipeline = gst::Pipeline::new();
        let webrtc = gst::ElementFactory::make("webrtcbin")
            .property(
                "bundle-policy",
                match bundling {
                    Bundling::All => gst_webrtc::WebRTCBundlePolicy::MaxBundle,
                    _ => gst_webrtc::WebRTCBundlePolicy::None,
                },
            )
            .property("latency", 100_u32)
            .build()
            .context("webrtcbin (Debian: gstreamer1.0-plugins-bad, gstreamer1.0-nice)")?;
        pipeline.add(&webrtc)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (weak, shared) = (pipeline.downgrade(), seen.clone());
        webrtc.connect_pad_added(move |_, pad| {
            if let Some(pipeline) = weak.upgrade()
                && pad.direction() == gst::PadDirection::Src
            {
                let result = decode(&pipeline, pad, &shared);
                result.unwrap_or_else(|error| gst::error!(gst::CAT_DEFAULT, "{error:#}"));
            }
        });
        pipeline.set_state(gst::State::Playing)?;
        for caps in streams {
            if *caps == CHANNEL {
                let channel = webrtc.emit_by_name::<gst_webrtc::WebRTCDataChannel>(
                    "create-data-channel",
                    &[&CHANNEL, &None::<gst::Structure>],
                );
                let seen = seen.clone();
                channel.connect_on_message_string(move |_, text| {
                    look(&seen).told.extend(text.map(str::to_owned));
                });
                continue;
            }
            let direction = gst_webrtc::WebRTCRTPTransceiverDirection::Recvonly;
            let caps: gst::Caps = caps.parse()?;
            webrtc.emit_by_name::<gst_webrtc::WebRTCRTPTransceiver>("add-transceiver", &[&direction, &caps]);
        }

        let offer = made_offer(&webrtc).await?;
        applied(&webrtc, "set-local-description", &offer).await?;
        let request = Client::builder().no_proxy().build()?.post(format!("{url}/whep"));
        let mut offer = offer.sdp().as_text()?;
        match bundling {
            Bundling::PictureAlone => {
                let tag = offer.lines().find_map(|line| line.strip_prefix("a=mid:")).context("sections have tags")?;
                offer = offer.replacen("m=", &format!("a=group:BUNDLE {tag}\r\nm="), 1);
            }
            Bundling::SoundUnreachable => {
                let (picture, sound) = offer.split_once("m=audio").context("sound is wanted")?;
                offer = format!("{picture}m=audio{}", sound.replacen("a=ice-pwd:", "a=ice-pwd:wrong", 1));
            }
            Bundling::All | Bundling::None => {}
        }
        let response = request.header("Content-Type", "application/sdp").body(offer).send().await?;
        let status = response.status();
        let location = response.headers().get("Location").map(|place| place.to_str().unwrap_or_default().to_owned());
        let answer = response.text().await?;
        ensure!(status == 201, "WHEP answered {status}: {answer}");
        let sdp = gst_sdp::SDPMessage::parse_buffer(answer.as_bytes())?;
        let answer = gst_webrtc::WebRTCSessionDescription::new(gst_webrtc::WebRTCSDPType::Answer, sdp);
        applied(&webrtc, "set-remote-description", &answer).await?;
        Ok(Self { pipeline, seen, session: Url::parse(url)?.join(&location.context("no Location")?)?.to_string() })
    }

    /// Waits for the first picture.
    pub async fn wait_for_picture(&self) -> Result<()> {
        self.wait_for(|seen| !seen.codes.is_empty()).await
    }

    /// Waits for a second of sound.
    pub async fn wait_for_sound(&self) -> Result<()> {
        self.wait_for(|seen| seen.samples >= 48_000).await
    }

    /// Waits until what was seen is enough.
    pub async fn wait_for(&self, is_enough: impl Fn(&Seen) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !is_enough(&self.seen()?) {
            ensure!(Instant::now() < deadline, "not enough within {LIMIT:?}: {:?}", self.seen()?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Forgets what was seen so far.
    pub fn begin(&self) {
        *look(&self.seen) = Seen::default();
    }

    /// What was seen since then; an error if the pipeline has one.
    pub fn seen(&self) -> Result<Seen> {
        let bus = self.pipeline.bus().context("a pipeline has a bus")?;
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
            bail!("GStreamer: {message:?}");
        }
        Ok(look(&self.seen).clone())
    }

    /// Ends the session.
    pub async fn leave(self) -> Result<()> {
        let response = Client::builder().no_proxy().build()?.delete(&self.session).send().await?;
        ensure!(response.status() == 200, "DELETE: {}", response.status());
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).ok();
    }
}

fn look(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("lock is never poisoned: no panic while held")
}

async fn made_offer(webrtc: &gst::Element) -> Result<gst_webrtc::WebRTCSessionDescription> {
    let (made, offer) = oneshot::channel();
    let promise = gst::Promise::with_change_func(move |reply| {
        let offer = reply.ok().flatten().and_then(|reply| reply.get("offer").ok());
        // Nobody waits any more where this fails.
        made.send(offer).ok();
    });
    webrtc.emit_by_name::<()>("create-offer", &[&None::<gst::Structure>, &promise]);
    timeout(LIMIT, offer).await??.context("webrtcbin made no offer")
}

async fn applied(
    webrtc: &gst::Element,
    signal: &str,
    description: &gst_webrtc::WebRTCSessionDescription,
) -> Result<()> {
    let (applied, done) = oneshot::channel();
    let promise = gst::Promise::with_change_func(move |reply| {
        let error = reply.ok().flatten().and_then(|reply| reply.get::<gst::glib::Error>("error").ok());
        applied.send(error).ok();
    });
    webrtc.emit_by_name::<()>(signal, &[description, &promise]);
    match timeout(LIMIT, done).await?? {
        Some(error) => bail!("{signal}: {error}"),
        None => Ok(()),
    }
}

/// Puts the decoder behind a new stream.
fn decode(pipeline: &gst::Pipeline, pad: &gst::Pad, seen: &Arc<Mutex<Seen>>) -> Result<()> {
    let caps = pad.current_caps().context("a stream without caps")?;
    let media: String = caps.structure(0).context("empty caps")?.get("media")?;
    let is_video = media == "video";
    let bin = gst::parse::bin_from_description(if is_video { DECODE_VIDEO } else { DECODE_AUDIO }, true)?;
    let sink = bin.by_name("sink").and_downcast::<gst_app::AppSink>().context("no appsink")?;
    let seen = seen.clone();
    let note: fn(&gst::Sample, &mut Seen) -> Option<()> = if is_video { see } else { hear };
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        note(&sample, &mut look(&seen)).ok_or(gst::FlowError::Error)?;
        Ok(gst::FlowSuccess::Ok)
    });
    sink.set_callbacks(callbacks.build());
    pipeline.add(&bin)?;
    bin.sync_state_with_parent()?;
    pad.link(&bin.static_pad("sink").context("no ghost pad")?)?;
    Ok(())
}

/// Reads a picture's time code.
fn see(sample: &gst::Sample, seen: &mut Seen) -> Option<()> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    let resolution = Resolution { width: info.width(), height: info.height() };
    let stride = usize::try_from(frame.plane_stride()[0]).ok()?;
    match time_code::decode(frame.plane_data(0).ok()?, stride, resolution) {
        Some(code) => {
            let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
            let age = u64::from((now as u32).wrapping_sub(code));
            seen.oldest = seen.oldest.max(Duration::from_millis(age));
            seen.codes.push(code);
            let since = now.checked_sub(age)? % 1000;
            seen.flash = Some((due(sample)? + 1000 - since) % 1000);
        }
        None => seen.unreadable += 1,
    }
    Some(())
}

/// When the player shows or plays a sample, in ms of the pipeline's clock.
fn due(sample: &gst::Sample) -> Option<u64> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    Some(segment.to_running_time(sample.buffer()?.pts()?)?.mseconds())
}

/// Counts samples, and finds where a beep begins.
fn hear(sample: &gst::Sample, seen: &mut Seen) -> Option<()> {
    let map = sample.buffer()?.map_readable().ok()?;
    for (at, bytes) in (0..).zip(map.chunks_exact(2)) {
        let is_loud = i16::from_le_bytes([bytes[0], bytes[1]]).unsigned_abs() > LOUD;
        if is_loud && seen.silence > SILENCE {
            seen.beep = Some((due(sample)? + at / 48) % 1000);
        }
        seen.samples += 1;
        seen.loud += u32::from(is_loud);
        seen.silence = if is_loud { 0 } else { seen.silence + 1 };
    }
    Some(())
}
