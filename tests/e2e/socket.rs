//! A signalling WebSocket without a page, and hand-written offers.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use testkit::board::Board;

/// An answer comes within this time, and a silent socket is closed after ten seconds.
const LIMIT: Duration = Duration::from_secs(13);

/// One WebSocket to a board.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Opens it.
    pub async fn open(board: &Board) -> Result<Self> {
        Self::open_at(&board.signal_url(), None).await
    }

    /// Opens it at an address, as a page of `origin` does if there is one.
    pub async fn open_at(url: &str, origin: Option<&str>) -> Result<Self> {
        let mut request = url.into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", HeaderValue::from_str(origin)?);
        }
        Ok(Self { stream: connect_async(request).await?.0 })
    }

    /// Sends a JSON message.
    pub async fn send(&mut self, message: Value) -> Result<()> {
        self.send_raw(message.to_string()).await
    }

    /// Sends a text, or bytes.
    pub async fn send_raw(&mut self, message: impl Into<Message>) -> Result<()> {
        Ok(self.stream.send(message.into()).await?)
    }

    /// Sends an offer.
    pub async fn offer(&mut self, sdp: &str) -> Result<()> {
        self.send(json!({ "type": "offer", "sdp": sdp })).await
    }

    /// The next message of one of these types.
    pub async fn receive(&mut self, types: &[&str]) -> Result<Value> {
        loop {
            let message = timeout(LIMIT, self.stream.next()).await.with_context(|| format!("no {types:?} came"))?;
            if let Message::Text(text) = message.context("the socket was closed")?? {
                let message: Value = serde_json::from_str(&text)?;
                if message["type"].as_str().is_some_and(|word| types.contains(&word)) {
                    return Ok(message);
                }
            }
        }
    }

    /// The code of the error that comes next, whose reason is a sentence.
    pub async fn refusal(&mut self) -> Result<String> {
        let error = self.receive(&["error", "answer"]).await?;
        let reason = error["reason"].as_str().with_context(|| format!("no reason in {error}"))?;
        anyhow::ensure!(reason.len() > 10, "no sentence: {error}");
        Ok(error["code"].as_str().with_context(|| format!("no code in {error}"))?.to_owned())
    }

    /// Reads until the other side closes; its reason, if it gave one.
    pub async fn closed(&mut self) -> Result<Option<CloseFrame>> {
        loop {
            match timeout(LIMIT, self.stream.next()).await.context("the socket stays open")? {
                Some(Ok(Message::Close(frame))) => return Ok(frame),
                Some(Ok(_)) => {}
                // Closed with something of ours unread, which the system tells by a reset.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

/// An offer to receive video by `codec`, as small as it can be.
pub fn offer(codec: &str) -> String {
    let fingerprint = ["A1"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=recvonly\r\na=setup:actpass\r\n\
         a=ice-ufrag:four\r\na=ice-pwd:0123456789abcdef01234567\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=rtpmap:96 {codec}/90000\r\n\
         a=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
    )
}
