//! One WebSocket is one call: text messages with [`Signal`]s, both ways. Commands go over it too, and who wants
//! nothing else opens one without a call.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::manners::Manners;
use super::{Line, MOST_BYTES, Reception, Refusal, Signal, Way, call, parse};
use crate::command;
use crate::command::Origin;
use crate::ice::Issued;
use crate::tasks::Group;

/// Pause between pings. Routers forget an idle TCP connection after a few minutes, browsers never ping by themselves.
const PING: Duration = Duration::from_secs(20);

/// Outcomes that wait for the socket: two of each command that may be under way, and a burst of refusals.
const OUTCOMES: usize = 128;

/// Bytes of a message that are read off the socket. One of more than [`MOST_BYTES`] is objected to, and so that this can
/// be said, it is read; one that is longer than this ends the connection.
pub const MOST_FRAME: usize = 2 * MOST_BYTES;

/// What a socket is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// To watch, and for commands.
    #[default]
    Watching,
    /// For commands alone: it takes no viewer's place.
    Commands,
}

/// Carries one call on `socket` until either side ends it, or the reception's group stops. It came in at the board's
/// address `reached`.
///
/// The upgrade limits messages to [`MOST_FRAME`].
pub async fn serve(
    mut socket: WebSocket,
    purpose: Purpose,
    camera: Option<String>,
    reached: Option<IpAddr>,
    reception: Reception,
) {
    let line = match purpose {
        Purpose::Commands => None,
        Purpose::Watching => {
            let (call, line) = call(Way::WebSocket, camera, reached);
            if reception.calls.send(call).await.is_err() {
                close(&mut socket, close_code::AWAY, "the board shuts down").await;
                return;
            }
            Some(line)
        }
    };
    let (code, reason) = converse(&mut socket, line, &reception).await;
    close(&mut socket, code, reason).await;
}

async fn converse(socket: &mut WebSocket, mut line: Option<Line>, reception: &Reception) -> (u16, &'static str) {
    let Reception { servers, desk, group, .. } = reception;
    let (outcomes, mut coming) = mpsc::channel(OUTCOMES);
    let mut commands = desk.sender(Origin::WebSocket);
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
            signal = next(&mut line) => {
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
                    Some(Ok(Message::Close(_))) | None => return (close_code::NORMAL, ""),
                    Some(Err(error)) => return unread(&error),
                };
                if !manners.is_within_rate(Instant::now()) {
                    return (close_code::POLICY, "too many messages");
                }
                if let Ok(text) = &text && command::is_command(text) {
                    commands.hand_in_among(text.as_bytes(), &outcomes);
                    continue;
                }
                match text.and_then(|text| parse(&text)) {
                    Ok(Signal::IceServers { .. }) => {
                        issued = Issued::now();
                        if send(socket, &Signal::ice_servers(servers)).await.is_err() {
                            return (close_code::NORMAL, "");
                        }
                    }
                    Ok(signal) => {
                        if !pass_on(signal, &line, socket).await {
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
            Some(outcome) = coming.recv() => {
                if socket.send(Message::Text(outcome.message().into())).await.is_err() {
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

/// How to part with a viewer whose message cannot be read (RFC 6455, section 7.4.1). The library tells by words only.
fn unread(error: &axum::Error) -> (u16, &'static str) {
    let words = error.to_string();
    match () {
        () if words.contains("too long") => (close_code::SIZE, "the message is too long"),
        () if words.contains("protocol error") => (close_code::PROTOCOL, "that is no WebSocket frame"),
        () if words.contains("UTF-8") => (close_code::INVALID, "the message is not UTF-8"),
        () => (close_code::NORMAL, ""),
    }
}

async fn next(line: &mut Option<Line>) -> Option<Signal> {
    match line {
        Some(line) => line.to_viewer.recv().await,
        None => std::future::pending().await,
    }
}

/// Returns whether the conversation goes on.
async fn pass_on(signal: Signal, line: &Option<Line>, socket: &mut WebSocket) -> bool {
    match line {
        Some(line) => line.to_device.send(signal).await.is_ok(),
        None => {
            let reason = "this WebSocket is for commands; to watch, open one without `for=commands`";
            send(socket, &Signal::error(Refusal::BadMessage, reason)).await.is_ok()
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
