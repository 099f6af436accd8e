//! One WebSocket is one call: text messages with [`Signal`]s, both ways.

use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use tokio::sync::mpsc;

use super::{Call, Line, Refusal, Signal, Way, call, parse};
use crate::tasks::Group;

/// Messages that may come at once, and per second from then on. A browser trickles ten candidates in a burst,
/// and an ICE restart does so again.
const BURST: f64 = 100.0;
/// See [`BURST`].
const PER_SECOND: f64 = 20.0;

/// Messages without sense after which the socket is closed: enough for a developer to see what is wrong.
const MOST_MISTAKES: u32 = 10;

/// Pause between pings. Routers forget an idle TCP connection after a few minutes, browsers never ping by themselves.
const PING: Duration = Duration::from_secs(20);

/// Carries one call on `socket` until either side ends it, or `group` stops.
///
/// The upgrade must limit messages to [`super::MOST_BYTES`].
pub async fn serve(mut socket: WebSocket, camera: Option<String>, calls: mpsc::Sender<Call>, group: Group) {
    let (call, line) = call(Way::WebSocket, camera);
    if calls.send(call).await.is_err() {
        close(&mut socket, close_code::AWAY, "the board shuts down").await;
        return;
    }
    let (code, reason) = converse(&mut socket, line, &group).await;
    close(&mut socket, code, reason).await;
}

async fn converse(socket: &mut WebSocket, mut line: Line, group: &Group) -> (u16, &'static str) {
    let mut pings = tokio::time::interval(PING);
    let mut manners = Manners::default();
    let mut is_alive = true;
    // The session is told of a shutdown too and says goodbye; this waits for that, not for `group` itself.
    loop {
        tokio::select! {
            signal = line.to_viewer.recv() => {
                let Some(signal) = signal else { return (close_code::NORMAL, "the call ended") };
                if send(socket, &signal).await.is_err() {
                    return (close_code::NORMAL, "");
                }
            }
            message = socket.recv() => {
                is_alive = true;
                let text = match message {
                    Some(Ok(Message::Text(text))) => Ok(text),
                    Some(Ok(Message::Binary(_))) => Err("messages are text, not binary".to_owned()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return (close_code::NORMAL, ""),
                };
                if !manners.is_within_rate(Instant::now()) {
                    return (close_code::POLICY, "too many messages");
                }
                match text.and_then(|text| parse(&text)) {
                    Ok(signal) => {
                        if line.to_device.send(signal).await.is_err() {
                            return (close_code::NORMAL, "the call ended");
                        }
                    }
                    Err(reason) => {
                        let refusal = Signal::error(Refusal::BadMessage, reason);
                        if send(socket, &refusal).await.is_err() || manners.is_last_mistake() {
                            return (close_code::POLICY, "too many messages without sense");
                        }
                    }
                }
            }
            _ = pings.tick() => {
                if !std::mem::take(&mut is_alive) || socket.send(Message::Ping(Default::default())).await.is_err() {
                    return (close_code::AWAY, "no answer to pings");
                }
            }
            () = grace(group) => return (close_code::AWAY, "the board shuts down"),
        }
    }
}

/// After the group's stop, the time in which the session says its goodbye.
async fn grace(group: &Group) {
    group.stopped().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn send(socket: &mut WebSocket, signal: &Signal) -> Result<(), axum::Error> {
    let text = serde_json::to_string(signal).expect("signals hold nothing that JSON cannot");
    socket.send(Message::Text(text.into())).await
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    // The other side may have gone first; there is nothing left to say to it then.
    socket.send(Message::Close(Some(frame))).await.ok();
}

/// How a viewer behaves on its socket.
struct Manners {
    allowance: f64,
    since: Instant,
    mistakes: u32,
}

impl Default for Manners {
    fn default() -> Self {
        Self { allowance: BURST, since: Instant::now(), mistakes: 0 }
    }
}

impl Manners {
    fn is_within_rate(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() * PER_SECOND;
        self.since = now;
        self.allowance = (self.allowance + earned).min(BURST) - 1.0;
        self.allowance >= 0.0
    }

    fn is_last_mistake(&mut self) -> bool {
        self.mistakes += 1;
        self.mistakes >= MOST_MISTAKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_fine_and_a_flood_is_not() {
        let mut manners = Manners::default();
        let start = manners.since;
        assert!((0..100).all(|_| manners.is_within_rate(start)));
        assert!(!manners.is_within_rate(start));
        assert!(manners.is_within_rate(start + Duration::from_secs(1)));
    }
}
