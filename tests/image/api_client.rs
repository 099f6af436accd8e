//! A client in the board's network with its secret, without a browser: status, pictures and commands.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Time limit of each wait: an emulated board boots in about 30 s, on a busy machine in some minutes.
const LIMIT: Duration = Duration::from_secs(300);
/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(100);
/// Time limit of a request: a board that is off does not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A client with the secret of the board at an address.
pub struct ApiClient {
    client: Client,
    address: SocketAddr,
    secret: String,
}

impl ApiClient {
    /// A client for the board's page at `address`, with its secret.
    pub fn new(address: impl Into<SocketAddr>, secret: &str) -> Result<Self> {
        let client =
            Client::builder().no_proxy().connect_timeout(Duration::from_secs(1)).timeout(ANSWER_LIMIT).build()?;
        Ok(Self { client, address: address.into(), secret: secret.into() })
    }

    /// Waits for the status, in the notation of `docs/protocol.md`.
    pub async fn status(&self) -> Result<Value> {
        Ok(self.wait_for("/api/status").await?.json().await?)
    }

    /// Waits until the board returns a picture.
    pub async fn picture(&self) -> Result<()> {
        let picture = self.wait_for("/snapshot.jpg").await?.bytes().await?;
        // Start of image, and the first byte of the marker after it (ITU-T T.81, B.1.1.3).
        ensure!(picture.starts_with(&[0xff, 0xd8, 0xff]), "the answer is no JPEG");
        Ok(())
    }

    /// Waits until the status is as wanted.
    pub async fn status_where(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status().await?;
            if is_wanted(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain for {what} in {status:#}");
            sleep(INTERVAL).await;
        }
    }

    /// The board's notice about this, if there is one.
    pub async fn notice(&self, about: &str) -> Result<Option<String>> {
        let status = self.status().await?;
        let notices = status["notices"].as_array().cloned().unwrap_or_default();
        let found = notices.into_iter().find(|notice| notice["about"] == about);
        Ok(found.and_then(|notice| notice["text"].as_str().map(str::to_owned)))
    }

    /// The status code of the answer to a request without the secret.
    pub async fn without_secret(&self, path: &str) -> Result<StatusCode> {
        Ok(self.client.get(format!("http://{}{path}", self.address)).send().await?.status())
    }

    /// A connection for commands.
    pub async fn commands(&self) -> Result<Commands> {
        let url = format!("ws://{}/api/signal?for=commands", self.address).parse()?;
        let request = ClientRequestBuilder::new(url).with_header("Authorization", format!("Bearer {}", self.secret));
        let connecting = timeout(ANSWER_LIMIT, tokio_tungstenite::connect_async(request));
        let (socket, _) = connecting.await.context("the board's WebSocket does not open")??;
        Ok(Commands(socket))
    }

    /// Asks until the board answers with 200.
    async fn wait_for(&self, path: &str) -> Result<Response> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let request = self.client.get(format!("http://{}{path}", self.address)).bearer_auth(&self.secret);
            let said = match request.send().await {
                Ok(response) if response.status() == StatusCode::OK => return Ok(response),
                // A wrong secret stays wrong, and each further attempt counts towards the rate limit.
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => bail!("{path}: the secret is wrong"),
                Ok(response) => response.status().to_string(),
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < deadline, "{}{path} within {LIMIT:?}: {said}", self.address);
            sleep(INTERVAL).await;
        }
    }
}

/// A WebSocket for commands.
pub struct Commands(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Commands {
    /// Sends a command and does not wait for its outcome.
    pub async fn send(&mut self, id: &str, command: &str, arguments: Value) -> Result<()> {
        let text = json!({ "type": "command", "id": id, "command": command, "args": arguments }).to_string();
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// The last outcome of a command that was sent.
    pub async fn outcome(&mut self, id: &str) -> Result<Value> {
        let outcome = timeout(LIMIT, async {
            while let Some(message) = self.0.next().await {
                let Message::Text(text) = message? else { continue };
                let told: Value = serde_json::from_str(&text)?;
                if told["type"] == "outcome" && told["id"] == id && told["status"] != "executing" {
                    return anyhow::Ok(told);
                }
            }
            bail!("the board closed the connection")
        });
        outcome.await.with_context(|| format!("no outcome within {LIMIT:?}"))?
    }

    /// Sends a command that has to succeed, and returns its result.
    pub async fn done(&mut self, id: &str, command: &str, arguments: Value) -> Result<Value> {
        self.send(id, command, arguments).await?;
        let outcome = self.outcome(id).await?;
        ensure!(outcome["status"] == "successful", "{command}: {outcome}");
        Ok(outcome["result"].clone())
    }
}
