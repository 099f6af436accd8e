//! One browser watching. The only room that knows a WebRTC stack.
//!
//! [`Viewers`] admits calls up to a limit and runs a session for each.

mod admission;
mod config;
mod control_channel;
mod peer;
mod progress;
mod reports;
mod session;
mod state;
mod waits;
mod wishes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::command::Desk;
use crate::ice::Servers;
use crate::media::{Bitrate, Feed, H264Profile};
use crate::signalling::{Call, Refusal, Signal, ViewerId, Way};
use crate::tasks::Group;
use admission::Taken;
use control_channel::Commands;
use progress::Progress;
use session::{Notice, Session};

pub use config::LimitsConfig;
pub use peer::Error;
pub use state::State;

/// The `[viewers]` table, and what viewers need of other tables.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many may watch at once.
    pub max: usize,
    /// STUN and TURN servers for the board's own candidates.
    pub servers: Servers,
}

/// One camera as viewers see it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name that a call may ask for.
    pub name: String,
    /// Its pictures.
    pub video: Feed,
    /// The sound that goes with them.
    pub audio: Option<Feed>,
    /// Whether there is sound at the moment, as it changes; none until that is known.
    pub has_sound: watch::Receiver<Option<bool>>,
    /// The profile its pictures are encoded with.
    pub profile: watch::Receiver<H264Profile>,
    /// Whether there is a picture, for the viewer's page.
    pub picture: watch::Receiver<Picture>,
}

/// What the page shows where there is no picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// `idle`, `starting`, `live`, `waiting` or `private`.
    pub state: &'static str,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One viewer as status lists it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The beginning of the viewer's name.
    pub viewer: String,
    /// How it reached us.
    pub way: Way,
    /// Which camera it watches.
    pub camera: String,
    /// Where it is in its life.
    pub state: State,
    /// Seconds since it called.
    pub seconds: u64,
    /// What it gets at the moment.
    pub bitrate: Bitrate,
    /// Frames sent to it, and not sent because it was behind.
    pub frames: u64,
    /// See `frames`.
    pub skipped: u64,
    /// Latest round-trip time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Share of packets lost before retransmission, latest report.
    pub loss: f64,
    /// Packets sent again on request.
    pub retransmitted: u64,
    /// Requests for packets that were not answered because a repeat would not have helped.
    pub withheld: u64,
}

/// Counts since the process began. What sessions count is of those that have ended.
#[derive(Debug, Default)]
struct Counters {
    admitted: AtomicU64,
    refused: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    retransmitted: AtomicU64,
    key_frames_wanted: AtomicU64,
}

/// Counts since the process began, for metrics.
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
    /// Packets repeated.
    pub retransmitted: u64,
    /// Key frames asked for.
    pub key_frames_wanted: u64,
}

/// Notices that wait for a session, which takes each within milliseconds. The last place is for its end.
const NOTICES: usize = 4;

/// A handle to all viewers. A clone is the same viewers.
#[derive(Clone)]
pub struct Viewers {
    shared: Arc<Shared>,
}

struct Shared {
    max: usize,
    sources: Vec<Source>,
    stack: peer::Stack,
    sessions: Mutex<HashMap<ViewerId, Member>>,
    /// Sessions that gave their place away and have not ended yet.
    leaving: AtomicUsize,
    /// Takes the commands of viewers that may give some.
    desk: Desk,
    count: watch::Sender<usize>,
    counters: Counters,
    /// Zero of the clock that pages compare theirs with.
    board_epoch: Instant,
    group: Group,
}

/// A session as the others see it.
struct Member {
    progress: Arc<Progress>,
    notices: mpsc::Sender<Notice>,
}

impl Viewers {
    /// Admits the calls that come on `calls`, until `group` stops.
    ///
    /// # Errors
    ///
    /// When no certificate for DTLS can be made.
    pub fn open(
        config: &Config,
        sources: Vec<Source>,
        calls: mpsc::Receiver<Call>,
        desk: Desk,
        group: &Group,
    ) -> Result<Self, Error> {
        let viewers = Self {
            shared: Arc::new(Shared {
                max: config.max,
                sources,
                stack: peer::Stack::new(config.servers.clone(), group.clone())?,
                sessions: Mutex::default(),
                leaving: AtomicUsize::new(0),
                desk,
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

    fn admit(&self, call: Call) {
        let shared = &self.shared;
        let source = match &call.camera {
            None => shared.sources.first(),
            Some(name) => shared.sources.iter().find(|source| source.name == *name),
        };
        let Some(source) = source else {
            let names: Vec<_> = shared.sources.iter().map(|source| source.name.as_str()).collect();
            let known = names.join(", ");
            return self.refuse(&call, Refusal::UnknownCamera, format!("no camera of that name; there is: {known}"));
        };
        let progress = Arc::new(Progress::new(call.way, source.name.clone()));
        let (notices, noticed) = mpsc::channel(NOTICES);
        if !self.take_place(&call, Member { progress: progress.clone(), notices }) {
            let reason = format!("all {} places are taken, which is the limit; try again later", shared.max);
            return self.refuse(&call, Refusal::TooManyViewers, reason);
        }
        shared.counters.admitted.fetch_add(1, Ordering::Relaxed);
        let place = Place { viewer: call.viewer.clone(), shared: shared.clone(), progress: progress.clone() };
        let commands = Commands::new(&shared.desk, call.rights);
        let (source, stack) = (source.clone(), shared.stack.clone());
        let session = Session::new(call, source, stack, progress, shared.board_epoch, commands, noticed);
        let (count, stop) = (shared.count.subscribe(), shared.group.clone());
        shared.group.spawn(async move {
            session.run(count, stop).await;
            drop(place);
        });
    }

    /// Returns whether there was a place. A call that has to give its own away is told so and ends.
    fn take_place(&self, call: &Call, member: Member) -> bool {
        let shared = &self.shared;
        let mut sessions = shared.sessions();
        let (viewers, taken): (Vec<_>, Vec<Taken>) =
            sessions.iter().map(|(viewer, member)| (viewer.clone(), member.progress.taken())).unzip();
        match admission::place(shared.max, &taken, call.way) {
            admission::Place::Free => {}
            // As many may be on their way out as may be there: who does not take his goodbye stays for a while.
            admission::Place::Of(at) if shared.leaving.load(Ordering::Relaxed) < shared.max => {
                if let Some(member) = sessions.remove(&viewers[at]) {
                    shared.leaving.fetch_add(1, Ordering::Relaxed);
                    // Never full: see `identify`.
                    member.notices.try_send(Notice::GivesWay).ok();
                }
            }
            admission::Place::Of(_) | admission::Place::None => return false,
        }
        sessions.insert(call.viewer.clone(), member);
        shared.count.send_replace(sessions.len());
        true
    }

    fn refuse(&self, call: &Call, code: Refusal, reason: String) {
        self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        tracing::info!(viewer = %call.viewer, way = ?call.way, reason, "viewer refused");
        // The queue of a new call is empty, so this can only fail when the caller has gone.
        call.outgoing.try_send(Signal::error(code, reason)).ok();
    }

    /// Who is there at the moment.
    pub fn list(&self) -> Vec<Summary> {
        let sessions = self.shared.sessions();
        sessions.iter().map(|(viewer, member)| member.progress.summary(viewer)).collect()
    }

    /// Ends the conversation of the viewer that [`list`](Self::list) calls `viewer`, and tells it why. Returns whether
    /// there is one.
    pub fn dismiss(&self, viewer: &str, reason: &str) -> bool {
        let sessions = self.shared.sessions();
        let found = sessions.iter().find(|(id, _)| id.to_string() == viewer);
        // Full where it was dismissed before and has not got that far.
        found.map(|(_, member)| member.notices.try_send(Notice::Dismissed(reason.to_owned())).ok()).is_some()
    }

    /// Has the pages of all viewers show for this long that it is their board which is sought.
    pub fn identify(&self, time: Duration) {
        let sessions = self.shared.sessions();
        for member in sessions.values().filter(|member| member.notices.capacity() > 1) {
            // One that has three notices waiting has other worries.
            member.notices.try_send(Notice::Identify(time)).ok();
        }
    }

    /// How many are there, now and as it changes.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.shared.count.subscribe()
    }

    /// Why the board got no relay when a viewer last needed one; `None` where it did, or none is configured.
    pub fn relay_fault(&self) -> Option<String> {
        self.shared.stack.relay_fault()
    }

    /// How many tasks run for viewers, the one that admits them included.
    pub fn tasks(&self) -> usize {
        self.shared.group.len()
    }

    /// Counts since the process began.
    pub fn totals(&self) -> Totals {
        // Held, so that a session that ends meanwhile is counted once.
        let sessions = self.shared.sessions();
        let sum = |ended: &AtomicU64, of: fn(&Progress) -> u64| {
            ended.load(Ordering::Relaxed) + sessions.values().map(|member| of(&member.progress)).sum::<u64>()
        };
        let counters = &self.shared.counters;
        Totals {
            admitted: counters.admitted.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            frames: sum(&counters.frames, |progress| progress.frames.load(Ordering::Relaxed)),
            bytes: sum(&counters.bytes, Progress::bytes),
            retransmitted: sum(&counters.retransmitted, Progress::retransmitted),
            key_frames_wanted: sum(&counters.key_frames_wanted, Progress::key_frames_wanted),
        }
    }
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, HashMap<ViewerId, Member>> {
        self.sessions.lock().expect("lock is never poisoned: no panic while held")
    }
}

/// A viewer's place among the admitted. Dropping it makes room, however the session ended.
struct Place {
    viewer: ViewerId,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (counters, progress) = (&self.shared.counters, &self.progress);
        let mut sessions = self.shared.sessions();
        counters.frames.fetch_add(progress.frames.load(Ordering::Relaxed), Ordering::Relaxed);
        counters.retransmitted.fetch_add(progress.retransmitted(), Ordering::Relaxed);
        counters.bytes.fetch_add(progress.bytes(), Ordering::Relaxed);
        counters.key_frames_wanted.fetch_add(progress.key_frames_wanted(), Ordering::Relaxed);
        if sessions.remove(&self.viewer).is_none() {
            self.shared.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.count.send_replace(sessions.len());
    }
}

/// Milliseconds with fractions, as JavaScript's clocks have them.
fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests;
