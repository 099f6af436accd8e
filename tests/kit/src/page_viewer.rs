//! A viewer in the browser on an emulated board: video and sound, by the page's element and the browser's counters.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, json};
use tokio::time::{Instant, sleep};

use crate::browser::Browser;

/// What can be waited for comes within this time: an emulated board takes some 10 s to restart the service.
const LIMIT: Duration = Duration::from_secs(60);
/// Polling interval, which is also the accuracy of measured times.
const INTERVAL: Duration = Duration::from_millis(50);

/// Picture size and the colours in it.
pub type Colours = ((u32, u32), Vec<[u8; 3]>);

/// What the browser counts of the stream it receives, since the connection began.
#[derive(Debug, Deserialize)]
pub struct Counters {
    /// The browser's clock.
    pub seconds: f64,
    /// Pictures decoded.
    pub frames_decoded: f64,
    /// Seconds in which the picture stood still, as the browser counts it.
    pub freezes: f64,
    /// Of the sound received: squared amplitude times seconds.
    pub audio_energy: f64,
    /// Sound that did not come in time and was made up, in samples.
    pub audio_concealed: f64,
    /// All samples played, made up or not.
    pub audio_samples: f64,
}

/// A board's page in a browser.
pub struct Viewer<'a> {
    browser: &'a Browser,
}

impl<'a> Viewer<'a> {
    /// Logs in as a person does, and stays on the page that follows.
    pub async fn log_in(browser: &'a Browser, url: &str, secret: &str) -> Result<Self> {
        browser.open(&format!("{url}/")).await?;
        browser.enter("#secret", secret).await?;
        let viewer = Self { browser };
        viewer.wait_until("the page behind the login", "viewer !== null").await?;
        Ok(viewer)
    }

    /// The browser that has the page.
    pub fn browser(&self) -> &Browser {
        self.browser
    }

    /// Waits for a live picture of this size.
    pub async fn wait_for_picture(&self, width: u32, height: u32) -> Result<()> {
        let size = format!("viewer.video.videoWidth === {width} && viewer.video.videoHeight === {height}");
        self.wait_until(&format!("a picture of {width}x{height}"), &format!("viewer.state === 'live' && {size}")).await
    }

    /// Waits until sound comes.
    pub async fn wait_for_sound(&self) -> Result<()> {
        self.wait_until("sound", "(await counters()).audio_samples > 0").await
    }

    /// Sends a command of its own, as the page may, and gives its last outcome.
    pub async fn command(&self, command: &str, arguments: Value) -> Result<Value> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let outcome = self.command_as(&id, command, arguments).await?;
        ensure!(!outcome.is_null(), "{command}: the board closed the WebSocket");
        Ok(outcome)
    }

    /// The same under an `id` that can be sent again; `null` if the board hangs up before the last outcome.
    pub async fn command_as(&self, id: &str, command: &str, arguments: Value) -> Result<Value> {
        let text = json!({ "type": "command", "id": id, "command": command, "args": arguments }).to_string();
        self.ask(&format!(
            "const socket = new WebSocket(`ws://${{location.host}}/api/signal`);
             return await new Promise((done) => {{
                 socket.onopen = () => socket.send({});
                 socket.onclose = () => done(null);
                 socket.onmessage = (message) => {{
                     const outcome = JSON.parse(message.data);
                     if (outcome.type !== 'outcome' || outcome.id !== {id:?} || outcome.status === 'executing') return;
                     done(outcome);
                     socket.close();
                 }};
             }});",
            json!(text)
        ))
        .await
    }

    /// The same for a command that ends at once, however often the board has to be asked because it is not there yet.
    pub async fn answered(&self, id: &str, command: &str, arguments: Value) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let outcome = self.command_as(id, command, arguments.clone()).await?;
            if !outcome.is_null() {
                return Ok(outcome);
            }
            ensure!(Instant::now() < deadline, "nobody answers {command} within {LIMIT:?}");
            sleep(INTERVAL).await;
        }
    }

    /// Lets the sound be heard. Of a muted element the browser counts no energy, and gives silence to an audio graph.
    pub async fn unmute(&self) -> Result<()> {
        self.ask("viewer.video.muted = false; viewer.video.volume = 1; await viewer.video.play();").await
    }

    /// Waits until the page shows nothing of the picture that it had last.
    pub async fn wait_until_hidden(&self) -> Result<()> {
        let condition = "getComputedStyle(viewer.video.closest('.picture')).opacity === '0'";
        self.wait_until("the picture to be hidden", condition).await
    }

    /// Waits until the page says that there is no picture.
    pub async fn wait_for_loss(&self) -> Result<()> {
        self.wait_until("the page to notice that the picture is gone", "viewer.state !== 'live'").await
    }

    /// Waits until the page is live again and has decoded more than `frames`, on a connection that it had.
    pub async fn wait_for_frames_after(&self, frames: f64) -> Result<()> {
        let condition = format!("viewer.state === 'live' && (await counters()).frames_decoded > {frames}");
        self.wait_until("pictures", &condition).await
    }

    /// Marks the peer connection at hand for [`has_remembered_connection`](Self::has_remembered_connection).
    pub async fn remember_connection(&self) -> Result<()> {
        let there: bool = self.ask("window.remembered = viewer.peerConnection; return remembered !== null").await?;
        ensure!(there, "the page has no peer connection");
        Ok(())
    }

    /// Whether the page still has the very same peer connection.
    pub async fn has_remembered_connection(&self) -> Result<bool> {
        self.ask("return window.remembered !== undefined && viewer.peerConnection === window.remembered").await
    }

    /// The browser's counters now.
    pub async fn counters(&self) -> Result<Counters> {
        self.ask("return counters()").await
    }

    /// The frequency at which the received sound is loudest, in Hz, exact to 6.
    pub async fn loudest_frequency(&self) -> Result<f64> {
        self.ask(
            "const { track } = viewer.peerConnection.getReceivers().find(({ track }) => track.kind === 'audio');
             const context = new AudioContext({ sampleRate: 48000 });
             const analyser = new AnalyserNode(context, { fftSize: 8192 });
             context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
             await new Promise((done) => setTimeout(done, 1000));
             const decibels = new Float32Array(analyser.frequencyBinCount);
             analyser.getFloatFrequencyData(decibels);
             await context.close();
             return decibels.indexOf(Math.max(...decibels)) * 48000 / 8192;",
        )
        .await
    }

    /// What `/api/status` says.
    pub async fn status(&self) -> Result<Value> {
        self.ask("return await (await fetch('/api/status')).json()").await
    }

    /// Waits until the page gives this reason for having no picture.
    pub async fn wait_for_reason(&self, part: &str) -> Result<()> {
        let condition = format!("JSON.stringify(viewer.situation).includes({})", json!(part));
        self.wait_until(&format!("the reason {part:?}"), &condition).await
    }

    /// Fetches `/snapshot.jpg`; its size, and its colours at the given shares of its width and height.
    pub async fn snapshot_colours(&self, camera: &str, across: &[f64], down: f64) -> Result<Colours> {
        let source = format!(
            "const response = await fetch('/snapshot.jpg?camera={camera}');
             if (!response.ok) throw new Error(`status ${{response.status}}: ${{await response.text()}}`);
             const type = response.headers.get('Content-Type');
             if (type !== 'image/jpeg') throw new Error(`the content type is ${{type}}`);
             const source = await createImageBitmap(await response.blob());
             const {{ width, height }} = source;"
        );
        self.colours(&source, across, down).await
    }

    /// The same of the video as it is shown now.
    pub async fn video_colours(&self, across: &[f64], down: f64) -> Result<Colours> {
        let source = "const source = viewer.video; const { videoWidth: width, videoHeight: height } = source;";
        self.colours(source, across, down).await
    }

    async fn colours(&self, source: &str, across: &[f64], down: f64) -> Result<Colours> {
        // Each colour is the mean of 5 x 5 pixels: what coding does to one alone does not count.
        self.ask(&format!(
            "{source}
             const canvas = new OffscreenCanvas(width, height);
             const drawing = canvas.getContext('2d', {{ willReadFrequently: true }});
             drawing.drawImage(source, 0, 0);
             const colours = {across}.map((x) => {{
                 const {{ data }} = drawing.getImageData(Math.round(x * width) - 2, Math.round({down} * height) - 2, 5, 5);
                 const mean = (channel) => {{
                     let sum = 0;
                     for (let i = channel; i < data.length; i += 4) sum += data[i];
                     return Math.round(sum / 25);
                 }};
                 return [mean(0), mean(1), mean(2)];
             }});
             return [[width, height], colours];",
            across = json!(across),
        ))
        .await
    }

    /// Waits until a JavaScript expression is true; otherwise the error has the state of the page.
    async fn wait_until(&self, what: &str, condition: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        // While a page is being replaced by another, an error counts as not yet.
        while !self.ask(&format!("return {condition}")).await.unwrap_or(false) {
            if Instant::now() > deadline {
                let situation =
                    "return [location.href, viewer?.situation, viewer?.video.videoWidth, viewer?.statistics]";
                let page: serde_json::Value = self.ask(situation).await?;
                bail!("waited {LIMIT:?} in vain for {what}; the page says {page:#}");
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Runs the body of an async function that knows `viewer`, the page's element, and `counters`.
    async fn ask<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        let script = format!(
            "const viewer = document.querySelector('peercam-viewer');
             const counters = async () => {{
                 const report = [...(await viewer.peerConnection.getStats()).values()];
                 const inbound = (kind) => report.find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind);
                 const [video, audio] = [inbound('video'), inbound('audio')];
                 return {{
                     seconds: video.timestamp / 1000,
                     frames_decoded: video.framesDecoded,
                     freezes: video.totalFreezesDuration,
                     audio_energy: audio.totalAudioEnergy,
                     audio_concealed: audio.concealedSamples,
                     audio_samples: audio.totalSamplesReceived,
                 }};
             }};
             {body}"
        );
        from_value(self.browser.run(&script).await?).with_context(|| format!("what the page gave for: {body}"))
    }
}
