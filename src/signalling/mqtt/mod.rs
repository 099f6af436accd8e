//! Signalling through the broker: a viewer's messages on `to-device` go to its channel, and the channel's signals go to
//! `to-viewer`. Never retained: a session description is of no use to later subscribers.
//!
//! One task holds all viewers ([`MqttSignalling`]), and one task for each channel forwards the board's signals. A
//! channel survives the loss of the connection to the broker, as viewers do.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::limits::{Limits, MESSAGES};
use super::{Candidate, ErrorCode, Signal, SignallingContext, Transport, call, parse};
use crate::access::Grant;
use crate::mqtt::{Broker, Message, State};
use crate::rate_limit::RateLimit;

/// The most characters of a viewer's name: twice what a UUID or 128 bits in hexadecimal need.
const MAX_NAME: usize = 64;

/// The most viewers that are kept without a channel: those whose candidates overtook their offer, and those that left
/// recently.
const MAX_WITHOUT_CHANNEL: usize = 64;

/// Candidates kept until the offer comes: twice what a browser with four interfaces sends.
const MAX_EARLY: usize = 32;
/// How long they are kept: as long as a call may take until its offer.
const EARLY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a repeated offer needs no second answer, and how long a viewer without a channel is kept. A broker may
/// deliver a QoS 1 message twice, and impatient pages send an offer twice themselves.
const REPEAT_WINDOW: Duration = Duration::from_secs(60);

/// Signals of channels that wait to be published. The task takes each within microseconds.
const REPLY_QUEUE: usize = 256;

/// Channels beyond the number of admitted viewers: a refused call has a channel until its refusal is sent.
const SPARE_CHANNELS: usize = 8;

/// Serves calls through `broker` until the context's group stops and the last channel has ended. `most_viewers` is how
/// many viewers the board admits.
pub async fn serve(broker: Broker, signalling_context: SignallingContext, most_viewers: usize) {
    let mut messages = broker.subscribe(broker.topics().from_viewers());
    let mut states = broker.state();
    let stop = signalling_context.group.clone();
    let (replies, mut replied) = mpsc::channel(REPLY_QUEUE);
    let mut signalling = MqttSignalling::new(signalling_context, replies, most_viewers + SPARE_CHANNELS);
    let mut is_stopping = false;
    while !is_stopping || signalling.open_channels() > 0 {
        tokio::select! {
            biased;
            () = stop.stopped(), if !is_stopping => is_stopping = true,
            Ok(()) = states.changed() => {
                if *states.borrow_and_update() != State::Online {
                    signalling.connection_lost(Instant::now());
                }
            }
            Some(Reply { name, channel, signal }) = replied.recv() => signalling.pass_on(name, channel, signal),
            Some(message) = messages.recv(), if !is_stopping => {
                let name = broker.topics().viewer_of(&message.topic);
                signalling.handle_message(name, &message, Instant::now());
            }
            else => break,
        }
        for (name, signal) in signalling.outbox.drain(..) {
            broker.publish(broker.topics().to_viewer(&name), Bytes::from(signal.text()));
        }
    }
}

/// A signal from a channel; `None` at its end.
#[derive(Debug)]
struct Reply {
    name: String,
    channel: u64,
    signal: Option<Signal>,
}

/// All viewers that reach us through the broker.
struct MqttSignalling {
    signalling_context: SignallingContext,
    replies: mpsc::Sender<Reply>,
    max_channels: usize,
    viewers: HashMap<String, Viewer>,
    /// Signals to publish, in order, each with the viewer's name.
    outbox: Vec<(String, Signal)>,
    channels_opened: u64,
    hasher: RandomState,
    /// When the connection to the broker was last lost: an answer sent before may not have arrived.
    lost_at: Instant,
    /// Limits the error replies to all viewers together.
    error_limit: RateLimit,
}

/// One viewer, by its name.
struct Viewer {
    channel: Option<OpenChannel>,
    /// Candidates that came before the offer; `None` is the end of candidates.
    early: Vec<Option<Candidate>>,
    early_since: Instant,
    /// The latest offer, and when it came.
    offer: Option<(OfferHash, Instant)>,
    limits: Limits,
    /// Whether its malformed messages are still answered.
    gets_errors: bool,
    last_message: Instant,
}

struct OpenChannel {
    number: u64,
    to_device: mpsc::Sender<Signal>,
    /// Which of the viewer's peer connections this is.
    origin: Option<String>,
}

/// Enough of an offer to recognize it.
type OfferHash = u64;

impl MqttSignalling {
    fn new(signalling_context: SignallingContext, replies: mpsc::Sender<Reply>, max_channels: usize) -> Self {
        Self {
            signalling_context,
            replies,
            max_channels,
            viewers: HashMap::new(),
            outbox: Vec::new(),
            channels_opened: 0,
            hasher: RandomState::new(),
            lost_at: Instant::now(),
            error_limit: RateLimit::new(MESSAGES),
        }
    }

    fn open_channels(&self) -> usize {
        self.viewers.values().filter(|viewer| viewer.channel.is_some()).count()
    }

    fn connection_lost(&mut self, now: Instant) {
        self.lost_at = now;
    }

    /// Handles a message from the viewer that its topic names.
    fn handle_message(&mut self, name: Option<&str>, message: &Message, now: Instant) {
        let Some(name) = name.filter(|name| is_name(name)) else {
            tracing::debug!("a signalling topic without a viewer's name was ignored");
            return;
        };
        if message.is_retained {
            // Its viewer is long gone; handling it would open a call without a viewer at each connection.
            tracing::debug!(name, "a retained signalling message was ignored");
            return;
        }
        self.forget(now);
        let viewer = self.viewers.entry(name.to_owned()).or_insert_with(|| Viewer::new(now));
        viewer.last_message = now;
        if !viewer.limits.allows(now) {
            self.report_malformed(name, "too many messages; send at most 20 a second", now);
            return;
        }
        let text = std::str::from_utf8(&message.payload).map_err(|error| format!("not a signalling message ({error})"));
        match text.and_then(parse) {
            Ok(Signal::IceServers { .. }) => {
                let servers = Signal::ice_servers(&self.signalling_context.servers);
                self.send(name, servers);
            }
            Ok(Signal::Offer { sdp, camera }) => self.on_offer(name, sdp, camera, now),
            Ok(Signal::Candidate { candidate }) => self.on_candidate(name, candidate, now),
            Ok(signal) => self.on_other(name, signal),
            Err(reason) => self.report_malformed(name, reason, now),
        }
    }

    fn on_offer(&mut self, name: &str, sdp: String, camera: Option<String>, now: Instant) {
        let (hash, origin) = (self.hasher.hash_one(&sdp), origin(&sdp));
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        if let Some((known, at)) = viewer.offer
            && known == hash
            && now.saturating_duration_since(at) < REPEAT_WINDOW
            && at > self.lost_at
        {
            tracing::debug!(name, "a repeated offer was answered already");
            return;
        }
        viewer.offer = Some((hash, now));
        if let Some(channel) = &viewer.channel {
            if channel.origin == origin {
                return self.send_to_channel(name, Signal::Offer { sdp, camera: None });
            }
            // The page was reloaded, or has started over, under the same name.
            channel.to_device.try_send(Signal::bye("replaced by a new offer")).ok();
            viewer.channel = None;
        }
        self.open_channel(name, sdp, camera, origin);
    }

    fn open_channel(&mut self, name: &str, sdp: String, camera: Option<String>, origin: Option<String>) {
        if self.open_channels() >= self.max_channels {
            return self.refuse(name, ErrorCode::TooManyViewers, "too many viewers call at once; try again later");
        }
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        let (call, mut channel) = call(Transport::Mqtt, Grant::broker_viewer(), camera, None);
        match self.signalling_context.calls.try_send(call) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return self.refuse(name, ErrorCode::Internal, "too many viewers call at once; try again");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return self.refuse(name, ErrorCode::Internal, "the board shuts down");
            }
        }
        tracing::debug!(viewer = %channel.viewer, name, "viewer calls through the broker");
        // Its queue is empty and holds more than all of these.
        channel.to_device.try_send(Signal::Offer { sdp, camera: None }).ok();
        for candidate in viewer.early.drain(..) {
            channel.to_device.try_send(Signal::Candidate { candidate }).ok();
        }
        self.channels_opened += 1;
        let number = self.channels_opened;
        viewer.channel = Some(OpenChannel { number, to_device: channel.to_device, origin });
        let (replies, name) = (self.replies.clone(), name.to_owned());
        self.signalling_context.group.spawn(async move {
            let mut is_open = true;
            while is_open {
                let signal = channel.to_viewer.recv().await;
                is_open = signal.is_some();
                if replies.send(Reply { name: name.clone(), channel: number, signal }).await.is_err() {
                    break;
                }
            }
        });
    }

    fn on_candidate(&mut self, name: &str, candidate: Option<Candidate>, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        if viewer.channel.is_some() {
            return self.send_to_channel(name, Signal::Candidate { candidate });
        }
        if viewer.early.is_empty() {
            viewer.early_since = now;
        }
        if viewer.early.len() < MAX_EARLY {
            viewer.early.push(candidate);
        } else {
            let reason = "too many candidates before the offer; send the offer first";
            self.send(name, Signal::error(ErrorCode::BadCandidate, reason));
        }
    }

    /// Handles a signal that is valid on an open channel only.
    fn on_other(&mut self, name: &str, signal: Signal) {
        match self.viewers.get_mut(name) {
            Some(Viewer { channel: Some(_), .. }) => self.send_to_channel(name, signal),
            // Before its offer, a `bye` drops the early candidates only.
            Some(viewer) => viewer.early.clear(),
            None => {}
        }
    }

    fn send_to_channel(&mut self, name: &str, signal: Signal) {
        let channel = self.viewers.get(name).and_then(|viewer| viewer.channel.as_ref());
        match channel.map(|channel| channel.to_device.try_send(signal)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                self.refuse(
                    name,
                    ErrorCode::BadMessage,
                    "messages come faster than they can be taken; send this again",
                );
            }
            // The channel has ended: its end is queued, and the viewer gets the reason.
            Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) | None => {}
        }
    }

    /// Forwards a signal from a channel, unless the viewer has another channel by now.
    fn pass_on(&mut self, name: String, number: u64, signal: Option<Signal>) {
        let Some(viewer) = self.viewers.get_mut(&name) else { return };
        if viewer.channel.as_ref().is_none_or(|channel| channel.number != number) {
            return;
        }
        match signal {
            None => viewer.channel = None,
            Some(signal) => {
                if refuses_offer(&signal) {
                    viewer.offer = None;
                }
                self.outbox.push((name, signal));
            }
        }
    }

    fn send(&mut self, name: &str, signal: Signal) {
        self.outbox.push((name.to_owned(), signal));
    }

    /// Refuses the latest message; an offer may be sent again.
    fn refuse(&mut self, name: &str, code: ErrorCode, reason: &str) {
        if let Some(viewer) = self.viewers.get_mut(name) {
            viewer.offer = None;
        }
        self.send(name, Signal::error(code, reason));
    }

    /// Answers a malformed message with its fault, within limits.
    fn report_malformed(&mut self, name: &str, reason: impl Into<String>, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        let gets_errors = viewer.gets_errors;
        viewer.gets_errors = gets_errors && !viewer.limits.is_last_malformed();
        if gets_errors && self.error_limit.allows(now) {
            self.send(name, Signal::error(ErrorCode::BadMessage, reason));
        } else {
            tracing::debug!(name, "a malformed signalling message was not answered");
        }
    }

    /// Drops what is no longer needed, and the viewers that were silent longest if there are too many.
    fn forget(&mut self, now: Instant) {
        for viewer in self.viewers.values_mut() {
            if now.saturating_duration_since(viewer.early_since) > EARLY_TIMEOUT {
                viewer.early.clear();
            }
        }
        self.viewers.retain(|_, viewer| {
            viewer.channel.is_some() || now.saturating_duration_since(viewer.last_message) < REPEAT_WINDOW
        });
        while self.viewers.len() - self.open_channels() >= MAX_WITHOUT_CHANNEL {
            let waiting = self.viewers.iter().filter(|(_, viewer)| viewer.channel.is_none());
            let Some(name) = waiting.min_by_key(|(_, viewer)| viewer.last_message).map(|(name, _)| name.clone()) else {
                break;
            };
            self.viewers.remove(&name);
        }
    }
}

impl Viewer {
    fn new(now: Instant) -> Self {
        Self {
            channel: None,
            early: Vec::new(),
            early_since: now,
            offer: None,
            limits: Limits::default(),
            gets_errors: true,
            last_message: now,
        }
    }
}

/// Whether a topic level is a valid viewer name.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_plain)
}

/// User name and session id of an offer's origin line (RFC 8866, section 5.2), which a peer connection keeps for all
/// its offers.
fn origin(sdp: &str) -> Option<String> {
    let line = sdp.lines().find_map(|line| line.strip_prefix("o="))?;
    let mut words = line.split(' ');
    Some(format!("{} {}", words.next()?, words.next()?))
}

/// Whether a signal means that the latest offer failed, so that the same one may be tried again.
fn refuses_offer(signal: &Signal) -> bool {
    match signal {
        Signal::Error { code, .. } => !matches!(code, ErrorCode::BadMessage | ErrorCode::BadCandidate),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
