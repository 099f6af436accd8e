//! The viewers' topics of the broker become calls: what a viewer says to `to-device` goes to its line, and what its
//! line says goes to `to-viewer`. Never retained: a session description is of no use to whoever comes later.
//!
//! One task holds all viewers ([`Exchange`]), and one for each line passes on what the board says. A line outlives
//! the connection to the broker, as viewers do.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::manners::Manners;
use super::{Candidate, Reception, Refusal, Signal, Way, call, parse};
use crate::mqtt::{Broker, Message, State};

/// Letters of a viewer's name: a UUID or 128 bits in hexadecimal, twice over.
const LONGEST_NAME: usize = 64;

/// Viewers that are remembered without a line: those whose candidates overtook their offer, and those who left lately.
const MOST_WAITING: usize = 64;

/// Candidates kept until the offer comes: what a browser with four interfaces sends, twice over.
const MOST_EARLY: usize = 32;
/// How long they are kept: as long as a call may take to its offer.
const EARLY: Duration = Duration::from_secs(10);

/// How long the same offer again is a repeat that needs no second answer, and how long a viewer without a line is
/// remembered. A broker may deliver twice what is sent at QoS 1, and impatient pages send twice by themselves.
const REPEAT: Duration = Duration::from_secs(60);

/// Messages of lines that wait for the broker's queue. The task takes each within microseconds.
const WAITING: usize = 256;

/// Lines beyond the viewers that are admitted: a call that is refused has a line until its refusal is on its way.
const SPARE_LINES: usize = 8;

/// Answers calls through `broker`, until the reception's group stops and the last line has said goodbye.
/// `most_viewers` is how many the other end admits.
pub async fn serve(broker: Broker, reception: Reception, most_viewers: usize) {
    let mut messages = broker.subscribe(broker.topics().from_viewers());
    let mut states = broker.state();
    let stop = reception.group.clone();
    let (replies, mut replied) = mpsc::channel(WAITING);
    let mut exchange = Exchange::new(reception, replies, most_viewers + SPARE_LINES);
    let mut is_stopping = false;
    while !is_stopping || exchange.open_lines() > 0 {
        tokio::select! {
            biased;
            () = stop.stopped(), if !is_stopping => is_stopping = true,
            Ok(()) = states.changed() => {
                if *states.borrow_and_update() != State::Online {
                    exchange.lost_connection(Instant::now());
                }
            }
            Some(Reply { name, line, signal }) = replied.recv() => exchange.pass_on(name, line, signal),
            Some(message) = messages.recv(), if !is_stopping => {
                let name = broker.topics().viewer_of(&message.topic);
                exchange.take(name, &message, Instant::now());
            }
            else => break,
        }
        for (name, signal) in exchange.said.drain(..) {
            broker.publish(broker.topics().to_viewer(&name), Bytes::from(signal.text()));
        }
    }
}

/// What a line says; `None` at its end.
#[derive(Debug)]
struct Reply {
    name: String,
    line: u64,
    signal: Option<Signal>,
}

/// All viewers that reach us through the broker.
struct Exchange {
    reception: Reception,
    replies: mpsc::Sender<Reply>,
    most_lines: usize,
    viewers: HashMap<String, Viewer>,
    /// To be published, in order.
    said: Vec<(String, Signal)>,
    lines_opened: u64,
    hasher: RandomState,
    /// When the broker was last away: an answer from before may not have arrived.
    lost_at: Instant,
    /// How many complaints go out in all, whatever the number of names they go to.
    complaints: Manners,
}

/// One viewer by its name.
struct Viewer {
    line: Option<OpenLine>,
    /// What came before the offer; `None` among them is the end of candidates.
    early: Vec<Option<Candidate>>,
    early_since: Instant,
    /// The latest offer, and when it came.
    offer: Option<(Fingerprint, Instant)>,
    manners: Manners,
    /// Whether it still gets to know what is wrong with its messages.
    is_heeded: bool,
    heard: Instant,
}

struct OpenLine {
    number: u64,
    to_device: mpsc::Sender<Signal>,
    /// Which of the viewer's peer connections this is.
    origin: Option<String>,
}

/// Enough of an offer to know it again.
type Fingerprint = u64;

impl Exchange {
    fn new(reception: Reception, replies: mpsc::Sender<Reply>, most_lines: usize) -> Self {
        Self {
            reception,
            replies,
            most_lines,
            viewers: HashMap::new(),
            said: Vec::new(),
            lines_opened: 0,
            hasher: RandomState::new(),
            lost_at: Instant::now(),
            complaints: Manners::default(),
        }
    }

    fn open_lines(&self) -> usize {
        self.viewers.values().filter(|viewer| viewer.line.is_some()).count()
    }

    fn lost_connection(&mut self, now: Instant) {
        self.lost_at = now;
    }

    /// Takes a message for the viewer that its topic names.
    fn take(&mut self, name: Option<&str>, message: &Message, now: Instant) {
        let Some(name) = name.filter(|name| is_name(name)) else {
            tracing::debug!("a signalling topic without a viewer's name was ignored");
            return;
        };
        if message.is_retained {
            // Whose it was has long gone; taking it would call for nobody at each connection.
            tracing::debug!(name, "a retained signalling message was ignored");
            return;
        }
        self.forget(now);
        let viewer = self.viewers.entry(name.to_owned()).or_insert_with(|| Viewer::new(now));
        viewer.heard = now;
        if !viewer.manners.is_within_rate(now) {
            self.complain(name, "too many messages; send at most 20 a second", now);
            return;
        }
        let text = std::str::from_utf8(&message.payload).map_err(|error| format!("not a signalling message ({error})"));
        match text.and_then(parse) {
            Ok(Signal::IceServers { .. }) => {
                let servers = Signal::ice_servers(&self.reception.servers);
                self.say(name, servers);
            }
            Ok(Signal::Offer { sdp, camera }) => self.on_offer(name, sdp, camera, now),
            Ok(Signal::Candidate { candidate }) => self.on_candidate(name, candidate, now),
            Ok(signal) => self.on_other(name, signal),
            Err(reason) => self.complain(name, reason, now),
        }
    }

    fn on_offer(&mut self, name: &str, sdp: String, camera: Option<String>, now: Instant) {
        let (fingerprint, origin) = (self.hasher.hash_one(&sdp), origin(&sdp));
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        if let Some((known, at)) = viewer.offer
            && known == fingerprint
            && now.saturating_duration_since(at) < REPEAT
            && at > self.lost_at
        {
            tracing::debug!(name, "the same offer again is answered already");
            return;
        }
        viewer.offer = Some((fingerprint, now));
        if let Some(line) = &viewer.line {
            if line.origin == origin {
                return self.tell_line(name, Signal::Offer { sdp, camera: None });
            }
            // The page was loaded again, or has begun anew, under the name that it had.
            line.to_device.try_send(Signal::bye("replaced by a new offer")).ok();
            viewer.line = None;
        }
        self.open_line(name, sdp, camera, origin);
    }

    fn open_line(&mut self, name: &str, sdp: String, camera: Option<String>, origin: Option<String>) {
        if self.open_lines() >= self.most_lines {
            return self.refuse(name, Refusal::TooManyViewers, "too many viewers call at once; try again later");
        }
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        let (call, mut line) = call(Way::Mqtt, camera, None);
        match self.reception.calls.try_send(call) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return self.refuse(name, Refusal::Internal, "too many viewers call at once; try again");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return self.refuse(name, Refusal::Internal, "the board shuts down");
            }
        }
        tracing::debug!(viewer = %line.viewer, name, "viewer calls through the broker");
        // Its queue is empty and holds more than all of these.
        line.to_device.try_send(Signal::Offer { sdp, camera: None }).ok();
        for candidate in viewer.early.drain(..) {
            line.to_device.try_send(Signal::Candidate { candidate }).ok();
        }
        self.lines_opened += 1;
        let number = self.lines_opened;
        viewer.line = Some(OpenLine { number, to_device: line.to_device, origin });
        let (replies, name) = (self.replies.clone(), name.to_owned());
        self.reception.group.spawn(async move {
            let mut is_open = true;
            while is_open {
                let signal = line.to_viewer.recv().await;
                is_open = signal.is_some();
                if replies.send(Reply { name: name.clone(), line: number, signal }).await.is_err() {
                    break;
                }
            }
        });
    }

    fn on_candidate(&mut self, name: &str, candidate: Option<Candidate>, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        if viewer.line.is_some() {
            return self.tell_line(name, Signal::Candidate { candidate });
        }
        if viewer.early.is_empty() {
            viewer.early_since = now;
        }
        if viewer.early.len() < MOST_EARLY {
            viewer.early.push(candidate);
        } else {
            let reason = "too many candidates before the offer; send the offer first";
            self.say(name, Signal::error(Refusal::BadCandidate, reason));
        }
    }

    /// What makes sense on an open line only.
    fn on_other(&mut self, name: &str, signal: Signal) {
        match self.viewers.get_mut(name) {
            Some(Viewer { line: Some(_), .. }) => self.tell_line(name, signal),
            // Who says goodbye before its offer has nothing to end but what was kept for it.
            Some(viewer) => viewer.early.clear(),
            None => {}
        }
    }

    fn tell_line(&mut self, name: &str, signal: Signal) {
        let line = self.viewers.get(name).and_then(|viewer| viewer.line.as_ref());
        match line.map(|line| line.to_device.try_send(signal)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                self.refuse(name, Refusal::BadMessage, "messages come faster than they can be taken; send this again");
            }
            // The line's end is on its way to us, and the viewer is told the reason.
            Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) | None => {}
        }
    }

    /// Passes on what a line says, unless the viewer has another one by now.
    fn pass_on(&mut self, name: String, number: u64, signal: Option<Signal>) {
        let Some(viewer) = self.viewers.get_mut(&name) else { return };
        if viewer.line.as_ref().is_none_or(|line| line.number != number) {
            return;
        }
        match signal {
            None => viewer.line = None,
            Some(signal) => {
                if refuses_offer(&signal) {
                    viewer.offer = None;
                }
                self.said.push((name, signal));
            }
        }
    }

    fn say(&mut self, name: &str, signal: Signal) {
        self.said.push((name.to_owned(), signal));
    }

    /// Refuses what came last; an offer may come again.
    fn refuse(&mut self, name: &str, code: Refusal, reason: &str) {
        if let Some(viewer) = self.viewers.get_mut(name) {
            viewer.offer = None;
        }
        self.say(name, Signal::error(code, reason));
    }

    /// Tells a viewer what is wrong with its message, as long as that may help.
    fn complain(&mut self, name: &str, reason: impl Into<String>, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(name) else { return };
        let is_heeded = viewer.is_heeded;
        viewer.is_heeded = is_heeded && !viewer.manners.is_last_mistake();
        if is_heeded && self.complaints.is_within_rate(now) {
            self.say(name, Signal::error(Refusal::BadMessage, reason));
        } else {
            tracing::debug!(name, "a signalling message without sense was not answered");
        }
    }

    /// Lets go of what nobody needs any more, and of the longest silent where there are too many.
    fn forget(&mut self, now: Instant) {
        for viewer in self.viewers.values_mut() {
            if now.saturating_duration_since(viewer.early_since) > EARLY {
                viewer.early.clear();
            }
        }
        self.viewers.retain(|_, viewer| viewer.line.is_some() || now.saturating_duration_since(viewer.heard) < REPEAT);
        while self.viewers.len() - self.open_lines() >= MOST_WAITING {
            let waiting = self.viewers.iter().filter(|(_, viewer)| viewer.line.is_none());
            let Some(name) = waiting.min_by_key(|(_, viewer)| viewer.heard).map(|(name, _)| name.clone()) else {
                break;
            };
            self.viewers.remove(&name);
        }
    }
}

impl Viewer {
    fn new(now: Instant) -> Self {
        Self {
            line: None,
            early: Vec::new(),
            early_since: now,
            offer: None,
            manners: Manners::default(),
            is_heeded: true,
            heard: now,
        }
    }
}

/// Whether a topic's level can be a viewer's name.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_plain)
}

/// User and session of an offer's origin line (RFC 8866, section 5.2), which a peer connection keeps for all its offers.
fn origin(sdp: &str) -> Option<String> {
    let line = sdp.lines().find_map(|line| line.strip_prefix("o="))?;
    let mut words = line.split(' ');
    Some(format!("{} {}", words.next()?, words.next()?))
}

/// Whether a signal says that the latest offer led to nothing, so that the same one may be tried again.
fn refuses_offer(signal: &Signal) -> bool {
    match signal {
        Signal::Error { code, .. } => !matches!(code, Refusal::BadMessage | Refusal::BadCandidate),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
