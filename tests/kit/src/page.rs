//! The board's own page in a browser: video and sound, by its element and by the browser's counters.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value};
use tokio::time::sleep;

use crate::browser::Browser;

/// Time limit of waits.
const LIMIT: Duration = Duration::from_secs(20);
/// Polling interval, which is also the accuracy of measured times.
const INTERVAL: Duration = Duration::from_millis(30);

/// What every script may use: the element, and what the browser counts of a peer connection's streams.
const PRELUDE: &str = "
    const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
    const viewer = document.querySelector('peercam-viewer');
    const inbound = async (kind, connection = viewer.peerConnection) =>
        [...(await connection.getStats()).values()].find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind);
    const counters = async (connection) => {
        const [video, audio] = [await inbound('video', connection), await inbound('audio', connection)];
        return {
            seconds: video.timestamp / 1000,
            ssrc: video.ssrc,
            frames_decoded: video.framesDecoded,
            frames_dropped: video.framesDropped,
            freezes: video.totalFreezesDuration,
            nacks: video.nackCount,
            key_frame_requests: video.pliCount + video.firCount,
            repeats_received: video.retransmittedPacketsReceived ?? 0,
            audio_energy: audio?.totalAudioEnergy ?? 0,
        };
    };
";

/// The browser's counters of the stream it receives, since the connection began.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    /// The browser's clock.
    pub seconds: f64,
    /// Of the video.
    pub ssrc: u32,
    /// Pictures decoded.
    pub frames_decoded: f64,
    /// Pictures decoded too late, or not at all, and not shown.
    pub frames_dropped: f64,
    /// Seconds in which the picture stood still, as the browser counts it.
    pub freezes: f64,
    /// Requests for lost packets.
    pub nacks: f64,
    /// PLI and FIR.
    pub key_frame_requests: f64,
    /// Packets that came again.
    pub repeats_received: f64,
    /// Of the sound played: squared amplitude times seconds. Nothing is counted for a muted element.
    pub audio_energy: f64,
}

/// The page.
pub struct Page<'a> {
    browser: &'a Browser,
}

impl<'a> Page<'a> {
    /// Opens it.
    pub async fn open(browser: &'a Browser, url: &str) -> Result<Self> {
        browser.open(url).await?;
        Ok(Self::of(browser))
    }

    /// The one that is open.
    pub fn of(browser: &'a Browser) -> Self {
        Self { browser }
    }

    /// Opens it and waits for the picture.
    pub async fn watch(browser: &'a Browser, url: &str) -> Result<Self> {
        let page = Self::open(browser, url).await?;
        page.wait_for_picture().await?;
        Ok(page)
    }

    /// Waits for a live picture.
    pub async fn wait_for_picture(&self) -> Result<()> {
        self.wait_until("a picture", "viewer.state === 'live' && viewer.video.videoWidth > 0").await
    }

    /// The browser's counters now.
    pub async fn counters(&self) -> Result<Counters> {
        self.ask("return counters()").await
    }

    /// The difference of the counters over `span`.
    pub async fn counted(&self, span: Duration) -> Result<Counters> {
        let before = self.counters().await?;
        sleep(span).await;
        let after = self.counters().await?;
        Ok(Counters {
            seconds: after.seconds - before.seconds,
            ssrc: after.ssrc,
            frames_decoded: after.frames_decoded - before.frames_decoded,
            frames_dropped: after.frames_dropped - before.frames_dropped,
            freezes: after.freezes - before.freezes,
            nacks: after.nacks - before.nacks,
            key_frame_requests: after.key_frame_requests - before.key_frame_requests,
            repeats_received: after.repeats_received - before.repeats_received,
            audio_energy: after.audio_energy - before.audio_energy,
        })
    }

    /// Milliseconds from `new RTCPeerConnection` to the first frame of the connection at hand.
    pub async fn time_to_first_frame(&self) -> Result<f64> {
        self.ask(
            "const mark = (name) => performance.getEntriesByName(`peercam:${name}`)[0].startTime;
             return mark('first-frame') - mark('created');",
        )
        .await
    }

    /// Waits until a JavaScript expression is true; otherwise the error has the state of the page.
    pub async fn wait_until(&self, what: &str, condition: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        // While a page is being replaced by another, an error counts as not yet.
        while !self.ask(&format!("return {condition}")).await.unwrap_or(false) {
            if Instant::now() > deadline {
                let page: Value = self.ask("return [location.href, viewer?.situation, viewer?.statistics]").await?;
                bail!("waited {LIMIT:?} in vain for {what}; the page says {page:#}");
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Runs the body of an async function that knows `viewer`, the page's element, `counters`, `inbound` and `pause`.
    pub async fn ask<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        let value = self.browser.run(&format!("{PRELUDE}{body}")).await?;
        from_value(value).with_context(|| format!("what the page gave for: {body}"))
    }
}
