//! A viewer in the browser that is not the board's page: a bare peer connection that comes by WHEP.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::from_value;
use tokio::time::sleep;

use testkit::board::Board;
use testkit::browser::Browser;

/// Time limit of waits.
const LIMIT: Duration = Duration::from_secs(15);
/// Polling interval, which is also the accuracy of measured times.
const INTERVAL: Duration = Duration::from_millis(20);

/// Functions for every script.
const PRELUDE: &str = "
    const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
    const SDP = 'application/sdp';
    const FRAGMENT = 'application/trickle-ice-sdpfrag';
    const request = async (method, url, headers = {}, body) => {
        const response = await fetch(url, { method, headers, body });
        const header = (name) => response.headers.get(name);
        return {
            status: response.status, type: header('Content-Type'), location: header('Location'), etag: header('ETag'),
            allow: header('Allow'), accept: header('Accept-Post') ?? header('Accept-Patch'), text: await response.text(),
        };
    };
    /** Makes `connection` with a video that plays and the data channel `control`. */
    const prepare = async () => {
        const connection = (window.connection = new RTCPeerConnection());
        for (const kind of ['video', 'audio']) connection.addTransceiver(kind, { direction: 'recvonly' });
        window.control = connection.createDataChannel('control');
        window.heard = [];
        control.onmessage = ({ data }) => heard.push({ at: performance.now(), ...JSON.parse(data) });
        const video = document.createElement('video');
        const srcObject = new MediaStream(connection.getReceivers().map(({ track }) => track));
        document.body.replaceChildren(Object.assign(video, { muted: true, autoplay: true, srcObject }));
        await connection.setLocalDescription();
    };
    const gathered = async () => {
        while (connection.iceGatheringState !== 'complete') await pause(5);
    };
    /** The candidates and credentials of the local description, as a PATCH has them (RFC 8840, section 9). */
    const fragment = () => {
        const [head, first] = connection.localDescription.sdp.split(/^(?=m=)/m);
        const wanted = /^(m=|a=(mid|ice-ufrag|ice-pwd|candidate|end-of-candidates))/;
        return (head + first).split('\\r\\n').filter((line) => wanted.test(line)).join('\\r\\n') + '\\r\\n';
    };
    const video = async () =>
        [...(await connection.getStats()).values()].find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video');
";

/// The browser's counters of the video, since the connection began.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Pictures decoded.
    pub frames_decoded: f64,
    /// Requests for lost packets.
    pub nack_count: f64,
    /// Requests for a key frame.
    pub pli_count: f64,
    /// See `pli_count`.
    pub fir_count: f64,
    /// Packets that came again.
    #[serde(default)]
    pub retransmitted_packets_received: f64,
}

/// The answer to a request.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// Content type.
    pub r#type: Option<String>,
    /// Headers.
    pub location: Option<String>,
    /// See `location`.
    pub etag: Option<String>,
    /// See `location`.
    pub allow: Option<String>,
    /// `Accept-Post` or `Accept-Patch`.
    pub accept: Option<String>,
    /// The body.
    pub text: String,
}

/// The viewer.
pub struct WhepViewer<'a> {
    browser: &'a Browser,
}

impl<'a> WhepViewer<'a> {
    /// A page of the board's origin without a viewer of its own.
    pub async fn new(browser: &'a Browser, board: &Board) -> Result<Self> {
        browser.open(&format!("{}/healthz", board.url)).await?;
        Ok(Self { browser })
    }

    /// Joins by WHEP, and gives the answer.
    pub async fn join(&self) -> Result<Answer> {
        self.ask(
            "await prepare();
             window.answer = await request('POST', '/whep', { 'Content-Type': SDP }, connection.localDescription.sdp);
             await connection.setRemoteDescription({ type: 'answer', sdp: answer.text });
             return answer;",
        )
        .await
    }

    /// Waits until more than `frames` are decoded.
    pub async fn wait_for_frames_after(&self, frames: f64) -> Result<()> {
        self.wait_until("pictures", &format!("(await video())?.framesDecoded > {frames}")).await
    }

    /// The browser's counters now.
    pub async fn counters(&self) -> Result<Counters> {
        self.ask("return video()").await
    }

    /// Waits until a JavaScript expression is true.
    pub async fn wait_until(&self, what: &str, condition: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !self.ask::<bool>(&format!("return Boolean({condition})")).await? {
            if Instant::now() > deadline {
                let state: String = self.ask("return connection.connectionState").await?;
                bail!("waited {LIMIT:?} in vain for {what}; the connection is {state}");
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Runs the body of an async function with the functions of the prelude.
    pub async fn ask<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        Ok(from_value(self.browser.run(&format!("{PRELUDE}{body}")).await?)?)
    }
}
