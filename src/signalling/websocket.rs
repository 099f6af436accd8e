//! One WebSocket is one call: text messages with [`Signal`]s, both ways.

use std::time::{Duration, Instant};

use super::manners::Manners;
use super::{Line, Reception, Refusal, Signal, Way, call, parse};
use crate::ice::Issued;
use crate::tasks::Group;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};

/// Pause between pings. Routers forget an idle TCP connection after a few minutes, browsers never ping by themselves.
const PING: Duration = Duration::from_secs(20);

/// Carries one call on `socket` until either side ends it, or the reception's group stops.
///
/// The upgrade must limit messages to [`super::MOST_BYTES`].
pub async fn serve(mut socket: WebSocket, camera: Option<String>, reception: Reception) {
    let (call, line) = call(Way::WebSocket, camera);
    if reception.calls.send(call).await.is_err() {
        close(&mut socket, close_code::AWAY, "the board shuts down").await;
        return;
    }
    let (code, reason) = converse(&mut socket, line, &reception).await;
    close(&mut socket, code, reason).await;
}

async fn converse(socket: &mut WebSocket, mut line: Line, reception: &Reception) -> (u16, &'static str) {
    let Reception { servers, group, .. } = reception;
    // Always the first message, so that a page knows whether to wait for it.
    let mut issued = Issued::now();
    if send(socket, &Signal::ice_servers(servers)).await.is_err() {
        return (close_code::NORMAL, "");
    }
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
                    Ok(Signal::IceServers { .. }) => {
                        issued = Issued::now();
                        if send(socket, &Signal::ice_servers(servers)).await.is_err() {
                            return (close_code::NORMAL, "");
                        }
                    }
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
            () = servers.outdated(issued) => {
                issued = Issued::now();
                if send(socket, &Signal::ice_servers(servers)).await.is_err() {
                    return (close_code::NORMAL, "");
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
    socket.send(Message::Text(signal.text().into())).await
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    // The other side may have gone first; there is nothing left to say to it then.
    socket.send(Message::Close(Some(frame))).await.ok();
}
