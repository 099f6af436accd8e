//! A viewer in the browser. The test forwards its signalling to and from the broker, message by message.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, json};
use tokio::time::sleep;

use testkit::board::Board;
use testkit::broker::{Broker, Client};
use testkit::browser::Browser;

/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(15);
/// The interval of queries to the browser.
const INTERVAL: Duration = Duration::from_millis(20);

/// Functions for all scripts.
const PRELUDE: &str = "
    const prepare = () => {
        window.candidates = [];
        window.connection = new RTCPeerConnection();
        for (const kind of ['video', 'audio']) connection.addTransceiver(kind, { direction: 'recvonly' });
        connection.onicecandidate = ({ candidate }) => candidates.push(candidate);
        const srcObject = new MediaStream(connection.getReceivers().map(({ track }) => track));
        document.body.replaceChildren(
            Object.assign(document.createElement('video'), { muted: true, autoplay: true, srcObject }));
    };
    const offer = async (options) => {
        await connection.setLocalDescription(await connection.createOffer(options));
        return connection.localDescription;
    };
    const gathered = async () => {
        while (connection.iceGatheringState !== 'complete') await new Promise((done) => setTimeout(done, 5));
        return candidates;
    };
    const video = async () =>
        [...(await connection.getStats()).values()].find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video');
";

/// Counters of the browser.
#[derive(Debug, serde::Deserialize)]
pub struct Counters {
    /// Pictures decoded.
    pub frames: u64,
    /// Number of freezes.
    pub freezes: u64,
}

/// The viewer.
pub struct Viewer<'a> {
    browser: &'a Browser,
    client: Client,
    /// The topic on which it publishes.
    pub to_device: String,
    /// The topic that it receives.
    pub to_viewer: String,
}

impl<'a> Viewer<'a> {
    /// A viewer called `name` of the device `door`, which has subscribed and published nothing yet.
    pub async fn new(browser: &'a Browser, board: &Board, broker: &Broker, name: &str) -> Result<Self> {
        browser.open(&format!("{}/healthz", board.url)).await?;
        Self::silent(browser, broker, name).await
    }

    /// The same on the page that is open.
    pub async fn silent(browser: &'a Browser, broker: &Broker, name: &str) -> Result<Self> {
        let mut client = broker.client().await?;
        let to_viewer = format!("peercam/door/viewer/{name}/to-viewer");
        client.subscribe(&to_viewer).await?;
        Ok(Self { browser, client, to_device: format!("peercam/door/viewer/{name}/to-device"), to_viewer })
    }

    /// Opens another connection to the broker, as after its end.
    pub async fn reconnect(&mut self, broker: &Broker) -> Result<()> {
        self.client = broker.client().await?;
        self.client.subscribe(&self.to_viewer).await
    }

    /// A new peer connection's offer.
    pub async fn offer(&self) -> Result<Value> {
        self.ask("prepare(); return offer()").await
    }

    /// An offer that restarts ICE of the connection at hand.
    pub async fn restart(&self) -> Result<Value> {
        self.ask("return offer({ iceRestart: true })").await
    }

    /// All candidates of the offer made last, with the end of them.
    pub async fn candidates(&self) -> Result<Vec<Value>> {
        let candidates: Vec<Value> = self.ask("return gathered()").await?;
        ensure!(candidates.last() == Some(&Value::Null), "the end is missing: {candidates:?}");
        Ok(candidates.into_iter().map(|candidate| json!({ "type": "candidate", "candidate": candidate })).collect())
    }

    /// Publishes a message to the device.
    pub async fn say(&mut self, message: &Value) -> Result<()> {
        self.say_raw(message.to_string()).await
    }

    /// Publishes a payload that may be invalid.
    pub async fn say_raw(&mut self, payload: impl Into<bytes::Bytes>) -> Result<()> {
        self.client.publish(&self.to_device, payload).await
    }

    /// Publishes a retained message to the device.
    pub async fn retain(&mut self, message: &Value) -> Result<()> {
        self.client.retain(&self.to_device, message.to_string()).await
    }

    /// The next message of this type. Earlier candidates are passed to the page, other messages are skipped.
    pub async fn hear(&mut self, wanted: &str) -> Result<Value> {
        loop {
            let message = self.client.next_on(&self.to_viewer).await?;
            ensure!(!message.is_retained, "retained: {message:?}");
            let message = message.json()?;
            let kind = message["type"].as_str().context("no type")?;
            if kind == wanted {
                return Ok(message);
            }
            ensure!(kind == "candidate" || kind == "ice-servers", "{message} instead of {wanted}");
        }
    }

    /// All messages until none arrives for this long.
    pub async fn until_silence(&mut self, silence: Duration) -> Result<Vec<Value>> {
        self.client.until_silence(silence).await?.iter().map(|message| message.json()).collect()
    }

    /// Makes an offer, has it answered, and waits for a picture.
    pub async fn join(&mut self) -> Result<()> {
        let offer = self.offer().await?;
        self.say(&offer).await?;
        self.accept().await
    }

    /// Applies the answer, trickles the page's candidates, and waits for a picture.
    pub async fn accept(&mut self) -> Result<()> {
        let answer = self.hear("answer").await?;
        let _: Value = self.ask(&format!("await connection.setRemoteDescription({answer}); return null")).await?;
        for candidate in self.candidates().await? {
            self.say(&candidate).await?;
        }
        let frames = self.counters().await?.frames;
        self.watch(frames + 10).await
    }

    /// Waits until so many pictures are decoded.
    pub async fn watch(&self, frames: u64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.counters().await?.frames < frames {
            if Instant::now() > deadline {
                let state: String = self.ask("return connection.connectionState").await?;
                bail!("waited {LIMIT:?} in vain for {frames} pictures; the connection is {state}");
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// What the browser has counted so far.
    pub async fn counters(&self) -> Result<Counters> {
        self.ask(
            "const counted = await video();
             return { frames: counted?.framesDecoded ?? 0, freezes: counted?.freezeCount ?? 0 }",
        )
        .await
    }

    pub async fn ask<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        Ok(from_value(self.browser.run(&format!("{PRELUDE}{body}")).await?)?)
    }
}
