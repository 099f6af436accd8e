//! Signalling over a WebSocket: one WebSocket is one call, with [`Signal`]s as text messages in both directions.
//! Commands go over it too; a client that only sends commands opens one without a call.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::limits::Limits;
use super::{ErrorCode, MAX_BYTES, Signal, SignallingChannel, SignallingContext, Transport, call, parse};
use crate::access::{Grant, Operation};
use crate::command;
use crate::command::Origin;
use crate::ice::Issued;
use crate::tasks::{Group, sleep_until};

/// Pause between pings. Routers drop an idle TCP connection after a few minutes, and browsers send no pings themselves.
const PING: Duration = Duration::from_secs(20);

/// Outcomes that wait to be sent: two of each command that may be under way, and a burst of refusals.
const OUTCOMES: usize = 128;

/// The largest message that is read off the socket, in bytes. One of more than [`MAX_BYTES`] is read so that it can be
/// refused with a reason; one that is longer than this ends the connection.
pub const MAX_FRAME: usize = 2 * MAX_BYTES;

/// The purpose of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// To watch, and to send commands.
    #[default]
    Watching,
    /// To send commands only: it does not count as a viewer.
    Commands,
}

impl Purpose {
    /// The operation that opening such a socket needs.
    pub fn operation(self) -> Operation {
        match self {
            Self::Watching => Operation::OpenSignalling,
            Self::Commands => Operation::OpenCommands,
        }
    }
}

/// Carries one call on `socket` until either side ends it, `grant` ends, or the context's group stops. `reached` is
/// the board's address that the client connected to.
///
/// The upgrade limits messages to [`MAX_FRAME`].
pub async fn serve(
    mut socket: WebSocket,
    grant: Grant,
    purpose: Purpose,
    camera: Option<String>,
    reached: Option<IpAddr>,
    signalling_context: SignallingContext,
) {
    let channel = match purpose {
        Purpose::Commands => None,
        Purpose::Watching => {
            let (call, channel) = call(Transport::WebSocket, grant.clone(), camera, reached);
            if signalling_context.calls.send(call).await.is_err() {
                close(&mut socket, close_code::AWAY, "the board shuts down").await;
                return;
            }
            Some(channel)
        }
    };
    let (code, reason) = run(&mut socket, grant, channel, &signalling_context).await;
    close(&mut socket, code, reason).await;
}

async fn run(
    socket: &mut WebSocket,
    grant: Grant,
    mut channel: Option<SignallingChannel>,
    signalling_context: &SignallingContext,
) -> (u16, &'static str) {
    let end = grant.end();
    let SignallingContext { servers, commands, group, .. } = signalling_context;
    let (outcomes, mut finished) = mpsc::channel(OUTCOMES);
    let mut commands = commands.sender(Origin::WebSocket, grant);
    // Always the first message, so that a page knows whether to wait for it.
    let mut issued = Issued::now();
    if send(socket, &Signal::ice_servers(servers)).await.is_err() {
        return (close_code::NORMAL, "");
    }
    let mut pings = tokio::time::interval(PING);
    let mut limits = Limits::default();
    let mut is_alive = true;
    // At a shutdown the session sends `bye`; this waits for that, not for `group` itself.
    loop {
        tokio::select! {
            signal = next(&mut channel) => {
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
                    Some(Err(error)) => return close_reason(&error),
                };
                if !limits.allows(Instant::now()) {
                    return (close_code::POLICY, "too many messages");
                }
                if let Ok(text) = &text && command::is_command(text) {
                    commands.submit_to(text.as_bytes(), &outcomes);
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
                        if !forward(signal, &channel, socket).await {
                            return (close_code::NORMAL, "the call ended");
                        }
                    }
                    Err(reason) => {
                        let refusal = Signal::error(ErrorCode::BadMessage, reason);
                        if send(socket, &refusal).await.is_err() || limits.is_last_malformed() {
                            return (close_code::POLICY, "too many malformed messages");
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
            Some(outcome) = finished.recv() => {
                if socket.send(Message::Text(outcome.message().into())).await.is_err() {
                    return (close_code::NORMAL, "");
                }
            }
            _ = pings.tick() => {
                if !std::mem::take(&mut is_alive) || socket.send(Message::Ping(Default::default())).await.is_err() {
                    return (close_code::AWAY, "no answer to pings");
                }
            }
            () = sleep_until(end) => return (close_code::POLICY, "this access has ended"),
            () = grace(group) => return (close_code::AWAY, "the board shuts down"),
        }
    }
}

/// The close code and reason for a message that cannot be read (RFC 6455, section 7.4.1). The library's errors differ
/// only in their text.
fn close_reason(error: &axum::Error) -> (u16, &'static str) {
    let words = error.to_string();
    match () {
        () if words.contains("too long") => (close_code::SIZE, "the message is too long"),
        () if words.contains("protocol error") => (close_code::PROTOCOL, "that is no WebSocket frame"),
        () if words.contains("UTF-8") => (close_code::INVALID, "the message is not UTF-8"),
        () => (close_code::NORMAL, ""),
    }
}

async fn next(channel: &mut Option<SignallingChannel>) -> Option<Signal> {
    match channel {
        Some(channel) => channel.to_viewer.recv().await,
        None => std::future::pending().await,
    }
}

/// Returns whether the conversation goes on.
async fn forward(signal: Signal, channel: &Option<SignallingChannel>, socket: &mut WebSocket) -> bool {
    match channel {
        Some(channel) => channel.to_device.send(signal).await.is_ok(),
        None => {
            let reason = "this WebSocket is for commands; to watch, open one without `for=commands`";
            send(socket, &Signal::error(ErrorCode::BadMessage, reason)).await.is_ok()
        }
    }
}

/// Returns some time after the group's stop, so that the session can send `bye`.
async fn grace(group: &Group) {
    group.stopped().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn send(socket: &mut WebSocket, signal: &Signal) -> Result<(), axum::Error> {
    socket.send(Message::Text(signal.text().into())).await
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    // The other side may have closed first; then nothing is left to send.
    socket.send(Message::Close(Some(frame))).await.ok();
}
