//! Viewers: browsers and players that watch one camera. Only the submodule `peer` knows a WebRTC stack.
//!
//! [`Viewers`] admits calls up to a limit and runs one session per call.

mod admission;
mod config;
mod control_channel;
mod error_reports;
mod keyframe_requests;
mod optional_wait;
mod peer;
mod session;
mod session_stats;
mod state;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::access::Operation;
use crate::command::CommandQueue;
use crate::ice::Servers;
use crate::media::{Bitrate, Feed, H264Profile};
use crate::signalling::{Call, ErrorCode, Signal, Transport, ViewerId};
use crate::tasks::Group;
use admission::OccupiedPlace;
use control_channel::Commands;
use session::{Notice, Session};
use session_stats::SessionStats;

pub use config::LimitsConfig;
pub use peer::Error;
pub use state::State;

/// The `[viewers]` table, and settings of other tables that viewers need.
#[derive(Clone, Debug)]
pub struct Config {
    /// Maximum number of viewers at the same time.
    pub max: usize,
    /// STUN and TURN servers for the board's own candidates.
    pub servers: Servers,
}

/// The video and audio source of viewers: one camera.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name that a call may ask for.
    pub name: String,
    /// Its video.
    pub video: Feed,
    /// Its audio.
    pub audio: Option<Feed>,
    /// Whether the camera has sound, updated when it changes; `None` until that is known.
    pub has_sound: watch::Receiver<Option<bool>>,
    /// Whether there is a picture, for the viewer's page.
    pub picture: watch::Receiver<Picture>,
}

impl Source {
    /// The H.264 profile that the camera's video is encoded with.
    fn profile(&self) -> H264Profile {
        let format = self.video.format();
        let profile = format.borrow().profile();
        profile.unwrap_or(H264Profile::CONSTRAINED_BASELINE)
    }

    /// A copy without audio, for a viewer whose grant excludes it.
    fn without_audio(self) -> Self {
        Self { audio: None, has_sound: watch::channel(Some(false)).1, ..self }
    }
}

/// State of the camera's picture, which the page shows while there is no picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// `idle`, `starting`, `live`, `waiting` or `private`.
    pub state: &'static str,
    /// Reason for the state `waiting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One viewer, as the status lists it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The first characters of the viewer's id.
    pub viewer: String,
    /// The transport of its signalling.
    #[serde(rename = "way")]
    pub transport: Transport,
    /// Name of the camera that it watches.
    pub camera: String,
    /// State of its session.
    pub state: State,
    /// Seconds since its call came in.
    pub seconds: u64,
    /// Bitrate sent to it at the moment.
    pub bitrate: Bitrate,
    /// Video frames sent to it.
    pub frames: u64,
    /// Video frames not sent to it because it was behind.
    pub skipped: u64,
    /// Latest round-trip time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Share of packets lost before retransmission, latest report.
    pub loss: f64,
    /// Packets sent again on request.
    pub retransmitted: u64,
    /// Requested packets that were not sent again because they would have been of no use.
    pub withheld: u64,
}

/// Counts since the process started. The counts kept by sessions cover ended sessions only.
#[derive(Debug, Default)]
struct Counters {
    admitted: AtomicU64,
    refused: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    retransmitted: AtomicU64,
    key_frames_wanted: AtomicU64,
}

/// Counts since the process started, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Calls that became viewers.
    pub admitted: u64,
    /// Calls refused because too many were watching or the camera is unknown.
    pub refused: u64,
    /// Video frames sent, counted once per viewer.
    pub frames: u64,
    /// RTP payload bytes sent.
    pub bytes: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Key frames asked for.
    pub key_frames_wanted: u64,
}

/// Length of the queue of notices for a session, which handles each within milliseconds. The last place is reserved for
/// the notice that ends the session.
const NOTICES: usize = 4;

/// A handle to all viewers. Clones share the same viewers.
#[derive(Clone)]
pub struct Viewers {
    shared: Arc<Shared>,
}

struct Shared {
    max: usize,
    sources: Vec<Source>,
    stack: peer::Stack,
    sessions: Mutex<HashMap<ViewerId, SessionHandle>>,
    /// Sessions that were replaced but have not ended yet.
    leaving: AtomicUsize,
    /// Accepts the commands of viewers whose grant allows them.
    commands: CommandQueue,
    count: watch::Sender<usize>,
    counters: Counters,
    /// Epoch of the board clock, with which pages compare their own clock.
    board_epoch: Instant,
    group: Group,
}

/// The part of a session that other tasks can reach.
struct SessionHandle {
    stats: Arc<SessionStats>,
    notices: mpsc::Sender<Notice>,
}

impl Viewers {
    /// Admits the calls received on `calls`, until `group` stops.
    ///
    /// # Errors
    ///
    /// When the DTLS certificate cannot be created.
    pub fn open(
        config: &Config,
        sources: Vec<Source>,
        calls: mpsc::Receiver<Call>,
        commands: CommandQueue,
        group: &Group,
    ) -> Result<Self, Error> {
        let viewers = Self {
            shared: Arc::new(Shared {
                max: config.max,
                sources,
                stack: peer::Stack::new(config.servers.clone(), group.clone())?,
                sessions: Mutex::default(),
                leaving: AtomicUsize::new(0),
                commands,
                count: watch::channel(0).0,
                counters: Counters::default(),
                board_epoch: Instant::now(),
                group: group.clone(),
            }),
        };
        let (admitting, stop) = (viewers.clone(), group.clone());
        group.keep("admission of viewers", calls, move |calls| {
            let (admitting, stop) = (admitting.clone(), stop.clone());
            Box::pin(async move {
                loop {
                    let call = tokio::select! {
                        biased;
                        () = stop.stopped() => break,
                        call = calls.recv() => call,
                    };
                    let Some(call) = call else { break };
                    admitting.admit(call);
                }
            })
        });
        Ok(viewers)
    }

    fn admit(&self, mut call: Call) {
        let shared = &self.shared;
        let allowed = call.grant.allows(Operation::Watch, Instant::now());
        match allowed.and_then(|()| call.grant.camera(call.camera.as_deref())) {
            Ok(camera) => call.camera = camera,
            Err(denied) => return self.refuse(&call, ErrorCode::NotAllowed, denied.to_string()),
        }
        let source = match &call.camera {
            None => shared.sources.first(),
            Some(name) => shared.sources.iter().find(|source| source.name == *name),
        };
        let Some(source) = source else {
            let names: Vec<_> = shared.sources.iter().map(|source| source.name.as_str()).collect();
            let known = names.join(", ");
            return self.refuse(&call, ErrorCode::UnknownCamera, format!("no camera of that name; there is: {known}"));
        };
        let stats = Arc::new(SessionStats::new(call.transport, source.name.clone()));
        let (notices, noticed) = mpsc::channel(NOTICES);
        if !self.take_place(&call, SessionHandle { stats: stats.clone(), notices }) {
            let reason = format!("all {} places are taken, which is the limit; try again later", shared.max);
            return self.refuse(&call, ErrorCode::TooManyViewers, reason);
        }
        shared.counters.admitted.fetch_add(1, Ordering::Relaxed);
        let place = Place { viewer: call.viewer.clone(), shared: shared.clone(), stats: stats.clone() };
        let commands = Commands::new(&shared.commands, call.grant.clone());
        let (mut source, stack) = (source.clone(), shared.stack.clone());
        if call.grant.allows(Operation::Hear, Instant::now()).is_err() {
            source = source.without_audio();
        }
        let session = Session::new(call, source, stack, stats, shared.board_epoch, commands, noticed);
        let (count, stop) = (shared.count.subscribe(), shared.group.clone());
        shared.group.spawn(async move {
            session.run(count, stop).await;
            drop(place);
        });
    }

    /// Returns whether the call got a place. If another call is replaced by it, that call is notified and ends.
    fn take_place(&self, call: &Call, member: SessionHandle) -> bool {
        let shared = &self.shared;
        let mut sessions = shared.sessions();
        let (viewers, occupied): (Vec<_>, Vec<OccupiedPlace>) =
            sessions.iter().map(|(viewer, member)| (viewer.clone(), member.stats.occupied())).unzip();
        match admission::place(shared.max, &occupied, call.transport) {
            admission::Place::Free => {}
            // At most `max` sessions may be leaving at once: a session whose viewer does not read its `bye` ends late.
            admission::Place::Of(at) if shared.leaving.load(Ordering::Relaxed) < shared.max => {
                if let Some(member) = sessions.remove(&viewers[at]) {
                    shared.leaving.fetch_add(1, Ordering::Relaxed);
                    // This queue is never full: see `identify`.
                    member.notices.try_send(Notice::Replaced).ok();
                }
            }
            admission::Place::Of(_) | admission::Place::None => return false,
        }
        sessions.insert(call.viewer.clone(), member);
        shared.count.send_replace(sessions.len());
        true
    }

    fn refuse(&self, call: &Call, code: ErrorCode, reason: String) {
        self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        tracing::info!(viewer = %call.viewer, way = ?call.transport, reason, "viewer refused");
        // The queue of a new call is empty, so this fails only if the caller is already gone.
        call.outgoing.try_send(Signal::error(code, reason)).ok();
    }

    /// All viewers that have a place at the moment.
    pub fn list(&self) -> Vec<Summary> {
        let sessions = self.shared.sessions();
        sessions.iter().map(|(viewer, member)| member.stats.summary(viewer)).collect()
    }

    /// Ends the session of the viewer that [`list`](Self::list) names `viewer`, and sends it the reason. Returns
    /// whether there is such a viewer.
    pub fn dismiss(&self, viewer: &str, reason: &str) -> bool {
        let sessions = self.shared.sessions();
        let found = sessions.iter().find(|(id, _)| id.to_string() == viewer);
        // The queue is full if the viewer was dismissed before and its session has not handled that yet.
        found.map(|(_, member)| member.notices.try_send(Notice::Dismissed(reason.to_owned())).ok()).is_some()
    }

    /// Makes the pages of all viewers identify this board for this time.
    pub fn identify(&self, time: Duration) {
        let sessions = self.shared.sessions();
        for member in sessions.values().filter(|member| member.notices.capacity() > 1) {
            // The last place in the queue stays free for the notice that ends the session.
            member.notices.try_send(Notice::Identify(time)).ok();
        }
    }

    /// The number of viewers, updated when it changes.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.shared.count.subscribe()
    }

    /// The reason why the board got no TURN relay when a viewer last needed one; `None` if it got one or none is
    /// configured.
    pub fn relay_fault(&self) -> Option<String> {
        self.shared.stack.relay_fault()
    }

    /// Number of tasks that run for viewers, including the task that admits them.
    pub fn tasks(&self) -> usize {
        self.shared.group.len()
    }

    /// Counts since the process started.
    pub fn totals(&self) -> Totals {
        // The lock is held so that a session that ends meanwhile is counted only once.
        let sessions = self.shared.sessions();
        let sum = |ended: &AtomicU64, of: fn(&SessionStats) -> u64| {
            ended.load(Ordering::Relaxed) + sessions.values().map(|member| of(&member.stats)).sum::<u64>()
        };
        let counters = &self.shared.counters;
        Totals {
            admitted: counters.admitted.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            frames: sum(&counters.frames, |stats| stats.frames.load(Ordering::Relaxed)),
            bytes: sum(&counters.bytes, SessionStats::bytes),
            retransmitted: sum(&counters.retransmitted, SessionStats::retransmitted),
            key_frames_wanted: sum(&counters.key_frames_wanted, SessionStats::key_frames_wanted),
        }
    }
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, HashMap<ViewerId, SessionHandle>> {
        self.sessions.lock().expect("lock is never poisoned: no panic while held")
    }
}

/// A viewer's place among the admitted ones. Dropping it frees the place, however the session ended.
struct Place {
    viewer: ViewerId,
    shared: Arc<Shared>,
    stats: Arc<SessionStats>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (counters, stats) = (&self.shared.counters, &self.stats);
        let mut sessions = self.shared.sessions();
        counters.frames.fetch_add(stats.frames.load(Ordering::Relaxed), Ordering::Relaxed);
        counters.retransmitted.fetch_add(stats.retransmitted(), Ordering::Relaxed);
        counters.bytes.fetch_add(stats.bytes(), Ordering::Relaxed);
        counters.key_frames_wanted.fetch_add(stats.key_frames_wanted(), Ordering::Relaxed);
        if sessions.remove(&self.viewer).is_none() {
            self.shared.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.count.send_replace(sessions.len());
    }
}

/// Milliseconds with fractions, the unit of JavaScript's clocks.
fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests;
