//! A viewer in the browser that uses ICE servers as described in `docs/protocol.md`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;
use serde_json::from_value;
use tokio::time::sleep;

use crate::board::{PORT, SECRET};
use crate::network::MIDDLE;
use testkit::browser::Browser;

/// Time limit of waits.
const LIMIT: Duration = Duration::from_secs(25);
/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(50);

/// Functions for every script.
const PRELUDE: &str = r"
    const until = async (what, condition) => {
        const end = performance.now() + 20000;
        while (!condition()) {
            if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
            await new Promise((done) => setTimeout(done, 20));
        }
    };
    const make = (iceServers) => {
        window.connection?.close();
        window.candidates = [];
        window.connection = new RTCPeerConnection({ iceServers });
        for (const kind of ['video', 'audio']) connection.addTransceiver(kind, { direction: 'recvonly' });
        const srcObject = new MediaStream(connection.getReceivers().map(({ track }) => track));
        document.body.replaceChildren(
            Object.assign(document.createElement('video'), { muted: true, autoplay: true, srcObject }));
    };
    const say = (message) => socket.send(JSON.stringify(message));
    /** Opens a WebSocket and waits for the servers that come first. */
    const call = async (token) => {
        window.socket?.close();
        window.heard = [];
        window.socket = new WebSocket(`ws://${location.host}/api/signal?token=${token}`);
        socket.onmessage = async ({ data }) => {
            const message = JSON.parse(data);
            heard.push({ at: performance.now(), ...message });
            if (message.type === 'answer') await connection.setRemoteDescription(message);
            if (message.type === 'candidate') await connection.addIceCandidate(message.candidate);
        };
        await until('the servers', () => heard.length > 0);
        return heard[0];
    };
    const servers = () => heard.findLast(({ type }) => type === 'ice-servers').servers;
    const offer = async (options) => {
        connection.onicecandidate = ({ candidate }) => {
            if (candidate) candidates.push(candidate);
            say({ type: 'candidate', candidate });
        };
        await connection.setLocalDescription(await connection.createOffer(options));
        say(connection.localDescription);
    };
    /** The types of both ends of the path that media takes, and the frames so far. */
    const path = async () => {
        const stats = await connection.getStats();
        const all = [...stats.values()];
        const pair = stats.get(all.find(({ type }) => type === 'transport')?.selectedCandidatePairId);
        const end = (id) => stats.get(id)?.candidateType ?? '';
        const video = all.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video');
        return {
            local: end(pair?.localCandidateId), remote: end(pair?.remoteCandidateId),
            frames: video?.framesDecoded ?? 0, freezes: video?.totalFreezesDuration ?? 0,
        };
    };
";

/// The path that media takes.
#[derive(Debug, serde::Deserialize)]
pub struct Path {
    /// The type of the viewer's candidate.
    pub local: String,
    /// The type of the board's.
    pub remote: String,
    /// Pictures decoded so far.
    pub frames: u64,
    /// Seconds without a new frame.
    pub freezes: f64,
}

/// The viewer.
pub struct Viewer<'a> {
    browser: &'a Browser,
}

impl<'a> Viewer<'a> {
    /// A page of the board's origin without a viewer of its own, through the middle.
    pub async fn new(browser: &'a Browser) -> Result<Self> {
        browser.open(&format!("http://{MIDDLE}:{PORT}/healthz")).await?;
        Ok(Self { browser })
    }

    /// Joins by WebSocket with the servers that the board sends.
    pub async fn join(&self) -> Result<()> {
        self.ask(&format!("await call('{SECRET}'); make(servers()); await offer()")).await
    }

    /// Waits until that many more frames are decoded, and returns their path.
    pub async fn watch(&self, more: u64) -> Result<Path> {
        let before = self.path().await?.frames;
        let deadline = Instant::now() + LIMIT;
        loop {
            let path = self.path().await?;
            if path.frames >= before + more {
                return Ok(path);
            }
            if Instant::now() > deadline {
                let state: String = self.ask("return connection.connectionState").await?;
                let heard: String =
                    self.ask("return JSON.stringify(heard.filter(({type}) => type !== 'answer'))").await?;
                bail!("waited {LIMIT:?} in vain for {more} pictures: {path:?}, {state}, heard {heard}");
            }
            sleep(INTERVAL).await;
        }
    }

    /// The path that media takes now.
    pub async fn path(&self) -> Result<Path> {
        self.ask("return path()").await
    }

    /// Runs the body of an async function with the functions of the prelude.
    pub async fn ask<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        Ok(from_value(self.browser.run(&format!("{PRELUDE}{body}")).await?)?)
    }
}
