//! GStreamer's players, each as it is with its defaults: pictures and sound of a board are decoded and counted.
//!
//! `gstreamer-player whepsrc|whepclientsrc|webrtcbin|bundled URL SECRET`; ends without an error when enough has come.
//! `bundled` is a `webrtcbin` that offers one transport for picture and sound. By default it offers one for each.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_sdp as gst_sdp;
use gstreamer_webrtc as gst_webrtc;
use serde_json::json;
use tokio::sync::oneshot;

const VIDEO: &str = "video,encoding-name=H264,payload=96,clock-rate=90000";
const AUDIO: &str = "audio,encoding-name=OPUS,payload=97,clock-rate=48000";

/// What has come out of the decoders so far.
#[derive(Default)]
struct Counts {
    frames: AtomicU32,
    sound: AtomicU32,
}

fn main() -> Result<()> {
    gst::init()?;
    gstrswebrtc::plugin_register_static()?;
    gstwebrtchttp::plugin_register_static()?;
    let [_, kind, url, secret] = &env::args().collect::<Vec<_>>()[..] else { bail!("KIND URL SECRET are wanted") };
    let source = match kind.as_str() {
        "bundled" => gst::ElementFactory::make("webrtcbin").property_from_str("bundle-policy", "max-bundle").build()?,
        _ => gst::ElementFactory::make(kind).build()?,
    };
    let pipeline = gst::Pipeline::new();
    pipeline.add(&source)?;
    let counts = Arc::new(Counts::default());
    let (weak, counted) = (pipeline.downgrade(), counts.clone());
    source.connect_pad_added(move |source, pad| {
        if let Some(pipeline) = weak.upgrade()
            && pad.direction() == gst::PadDirection::Src
            && let Err(error) = decode(&pipeline, pad, &counted)
        {
            gst::element_error!(source, gst::StreamError::Failed, ("{error:#}"));
        }
    });
    let played = play(&pipeline, &source, [kind, url, secret], &counts);
    pipeline.set_state(gst::State::Null)?;
    played
}

/// Joins, and plays until enough has come.
fn play(
    pipeline: &gst::Pipeline,
    source: &gst::Element,
    [kind, url, secret]: [&String; 3],
    counts: &Counts,
) -> Result<()> {
    match kind.as_str() {
        "whepsrc" => {
            source.set_property("whep-endpoint", url);
            source.set_property("auth-token", secret);
        }
        "whepclientsrc" => {
            let signaller: glib::Object = source.property("signaller");
            signaller.set_property("whep-endpoint", url);
            signaller.set_property("auth-token", secret);
        }
        _ => {}
    }
    pipeline.set_state(gst::State::Playing)?;
    if source.factory().is_none_or(|factory| factory.name() != "webrtcbin") {
        return count(pipeline, counts);
    }
    // The elements have a runtime of their own, and want none around them.
    let runtime = tokio::runtime::Runtime::new()?;
    let session = runtime.block_on(join(source, url, secret))?;
    count(pipeline, counts)?;
    runtime.block_on(async { client()?.delete(session).bearer_auth(secret).send().await?.error_for_status() })?;
    Ok(())
}

/// Tells the suite what has come, once it is enough.
fn count(pipeline: &gst::Pipeline, counts: &Counts) -> Result<()> {
    let bus = pipeline.bus().context("a pipeline has a bus")?;
    loop {
        let [frames, sound] = [&counts.frames, &counts.sound].map(|count| count.load(Ordering::Relaxed));
        if frames >= 100 && sound >= 100 {
            println!("{}", json!({ "frames": frames, "sound": sound }));
            return Ok(());
        }
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
            && let gst::MessageView::Error(error) = message.view()
        {
            bail!("{}: {}", error.error(), error.debug().unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Puts decoders behind a stream, and counts what comes out of them.
fn decode(pipeline: &gst::Pipeline, pad: &gst::Pad, counts: &Arc<Counts>) -> Result<()> {
    let decoder = gst::ElementFactory::make("decodebin").build()?;
    pipeline.add(&decoder)?;
    let (weak, counts) = (pipeline.downgrade(), counts.clone());
    decoder.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else { return };
        let sink = gst::ElementFactory::make("fakesink").build().expect("an element of GStreamer itself");
        let entry = sink.static_pad("sink").expect("a sink has a pad");
        let is_video = pad.query_caps(None).to_string().starts_with("video/");
        let counts = counts.clone();
        entry.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let count = if is_video { &counts.frames } else { &counts.sound };
            count.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
        pipeline.add(&sink).expect("a new element belongs nowhere yet");
        pad.link(&entry).expect("a fakesink takes anything");
        sink.sync_state_with_parent().expect("a fakesink starts");
    });
    decoder.sync_state_with_parent()?;
    pad.link(&decoder.static_pad("sink").context("a decoder has a pad")?)?;
    Ok(())
}

fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build()
}

/// What a program does with `webrtcbin` that gives each stream the least caps. Gives the address of its session.
async fn join(webrtc: &gst::Element, url: &str, secret: &str) -> Result<reqwest::Url> {
    for stream in [VIDEO, AUDIO] {
        let caps: gst::Caps = format!("application/x-rtp,media={stream}").parse()?;
        let direction = gst_webrtc::WebRTCRTPTransceiverDirection::Recvonly;
        webrtc.emit_by_name::<gst_webrtc::WebRTCRTPTransceiver>("add-transceiver", &[&direction, &caps]);
    }
    let (made, offer) = oneshot::channel();
    let promise = gst::Promise::with_change_func(move |reply| {
        let offer = reply.ok().flatten().and_then(|reply| reply.get("offer").ok());
        // Nobody waits any more where this fails.
        made.send(offer).ok();
    });
    webrtc.emit_by_name::<()>("create-offer", &[&None::<gst::Structure>, &promise]);
    let offer: gst_webrtc::WebRTCSessionDescription = offer.await?.context("webrtcbin made no offer")?;
    apply(webrtc, "set-local-description", &offer).await?;
    let request = client()?.post(url).bearer_auth(secret);
    let request = request.header("Content-Type", "application/sdp").body(offer.sdp().as_text()?);
    let response = request.send().await?;
    let status = response.status();
    let location = response.headers().get("Location").cloned();
    let base = response.url().clone();
    let answer = response.text().await?;
    ensure!(status == 201, "{status}: {answer}");
    let answer = gst_sdp::SDPMessage::parse_buffer(answer.as_bytes())?;
    let answer = gst_webrtc::WebRTCSessionDescription::new(gst_webrtc::WebRTCSDPType::Answer, answer);
    apply(webrtc, "set-remote-description", &answer).await?;
    Ok(base.join(location.context("no Location")?.to_str()?)?)
}

async fn apply(webrtc: &gst::Element, signal: &str, description: &gst_webrtc::WebRTCSessionDescription) -> Result<()> {
    let (applied, done) = oneshot::channel();
    let promise = gst::Promise::with_change_func(move |reply| {
        let error = reply.ok().flatten().and_then(|reply| reply.get::<glib::Error>("error").ok());
        applied.send(error).ok();
    });
    webrtc.emit_by_name::<()>(signal, &[description, &promise]);
    match done.await? {
        Some(error) => bail!("{signal}: {error}"),
        None => Ok(()),
    }
}
