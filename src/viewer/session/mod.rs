//! The session of one viewer, from its call to its end: runs the state machine in [`super::state`].

mod media;
mod peer_events;
mod reporting;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::control_channel::{Commands, Reply};
use super::error_reports::ErrorReports;
use super::keyframe_requests::KeyFrameRequests;
use super::optional_wait::{next_event, next_frame};
use super::peer::{Error, Event as PeerEvent, Gathering, Kind, Peer, Stack};
use super::session_stats::SessionStats;
use super::state::{Action, Event, State};
use super::{Picture, Source};
use crate::command::Outcome;
use crate::media::{Frame, Purpose, Subscription};
use crate::sdp::Board;
use crate::signalling::{Call, Candidate, CloseReason, ErrorCode, Signal, Transport};
use crate::tasks::{Group, sleep_until};

/// Candidates kept until the offer arrives: twice as many as a browser with four interfaces sends.
const EARLY_CANDIDATES: usize = 64;

/// How often a viewer's bitrate is calculated.
const TICK: Duration = Duration::from_secs(1);

/// How long an answer waits until it is known whether there is sound: a capture process reports that within a quarter
/// of a second.
const SOUND_KNOWN: Duration = Duration::from_secs(1);

/// A notice to a session, from an operator or from the admission of viewers.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An operator identifies the board: pages make themselves noticeable for this time.
    Identify(Duration),
    /// The session ends, for this reason.
    Dismissed(String),
    /// Another call has taken the place of this viewer, which is not connected yet.
    Replaced,
}

/// How a session ends.
struct Close {
    reason: Cow<'static, str>,
    code: Option<CloseReason>,
}

/// The session of one viewer.
pub struct Session {
    call: Call,
    source: Source,
    stack: Stack,
    stats: Arc<SessionStats>,
    board_epoch: Instant,
    state: State,
    deadline: Option<Instant>,
    is_signalling_open: bool,
    /// `false` while a transport is being restarted.
    has_all_transports: bool,
    peer: Option<Peer>,
    /// The latest offer and its answer: an impatient viewer repeats its offer.
    answered: Option<(String, String)>,
    early_candidates: Vec<Candidate>,
    has_end_of_candidates: bool,
    /// Subscribed from the call on, so that the camera starts while ICE is in progress; read only once connected.
    /// `None` while the viewer wants no video, so that the camera can stop.
    video: Option<Subscription>,
    audio: Option<Subscription>,
    key_frame_requests: KeyFrameRequests,
    error_reports: ErrorReports,
    commands: Commands,
    notices: mpsc::Receiver<Notice>,
}

/// The event that woke the session.
enum Wakeup {
    Stopping,
    Signal(Option<Signal>),
    Peer(PeerEvent),
    Frame(Kind, Arc<Frame>),
    PictureChanged,
    SoundChanged,
    CountChanged,
    Outcome(Outcome),
    Notice(Notice),
    Late,
    Tick,
}

impl Session {
    /// Creates a session for a call that was admitted.
    pub fn new(
        call: Call,
        source: Source,
        stack: Stack,
        stats: Arc<SessionStats>,
        board_epoch: Instant,
        commands: Commands,
        notices: mpsc::Receiver<Notice>,
    ) -> Self {
        let video = Some(source.video.subscribe(Purpose::Viewer));
        let state = State::default();
        Self {
            call,
            stack,
            stats,
            board_epoch,
            state,
            deadline: state.time_limit().map(|time_limit| Instant::now() + time_limit),
            is_signalling_open: true,
            has_all_transports: true,
            peer: None,
            answered: None,
            early_candidates: Vec::new(),
            has_end_of_candidates: false,
            video,
            audio: None,
            key_frame_requests: KeyFrameRequests::default(),
            error_reports: ErrorReports::default(),
            source,
            commands,
            notices,
        }
    }

    /// Runs the session until it ends; `count` is the number of viewers.
    pub async fn run(mut self, mut count: watch::Receiver<usize>, stop: Group) {
        tracing::info!(viewer = %self.call.viewer, way = ?self.call.transport, camera = self.source.name, "viewer called");
        let mut picture = self.source.picture.clone();
        let mut ticks = tokio::time::interval(TICK);
        let mut bytes = 0;
        let close = loop {
            let wakeup = self.wait(&mut picture, &mut count, &mut ticks, &stop).await;
            let action = match wakeup {
                Wakeup::Stopping => self.apply(Event::Stopping),
                Wakeup::Signal(Some(signal)) => self.on_signal(signal).await,
                Wakeup::Signal(None) => {
                    self.is_signalling_open = false;
                    // A viewer that restarts a transport has to keep its signalling connection.
                    self.apply(if self.has_all_transports { Event::SignallingClosed } else { Event::Bye })
                }
                Wakeup::Peer(event) => self.on_peer(event, &picture, &count).await,
                Wakeup::Frame(Kind::Video, frame) => self.send_video(&frame).await,
                Wakeup::Frame(Kind::Audio, frame) => self.send_audio(&frame).await,
                Wakeup::PictureChanged => self.send_picture_state(&picture).await,
                Wakeup::SoundChanged => self.send_sound_state().await,
                Wakeup::CountChanged => self.send_viewer_count(&count).await,
                Wakeup::Outcome(outcome) => self.send_text(&Commands::message(outcome)).await,
                Wakeup::Notice(Notice::Identify(time)) => self.send_identify(time).await,
                Wakeup::Notice(Notice::Dismissed(reason)) => {
                    break Close { reason: reason.into(), code: Some(CloseReason::Dismissed) };
                }
                Wakeup::Notice(Notice::Replaced) => Action::Close("others wait and no path was found yet; call again"),
                Wakeup::Late => self.apply(Event::TimedOut),
                Wakeup::Tick => {
                    let now = self.stats.bytes();
                    self.stats.bitrate.store((now - bytes) * 8, Ordering::Relaxed);
                    bytes = now;
                    if self.key_frame_requests.is_due(Instant::now()) {
                        self.request_key_frame();
                    }
                    Action::Wait
                }
            };
            match action {
                Action::Wait => {}
                Action::Stream => self.stream(),
                Action::Close(reason) => break Close { reason: reason.into(), code: None },
            }
        };
        self.close(close).await;
    }

    async fn wait(
        &mut self,
        picture: &mut watch::Receiver<Picture>,
        count: &mut watch::Receiver<usize>,
        ticks: &mut tokio::time::Interval,
        stop: &Group,
    ) -> Wakeup {
        let is_streaming = matches!(self.state, State::Watching | State::Interrupted);
        let deadline = self.deadline;
        tokio::select! {
            biased;
            () = stop.stopped() => Wakeup::Stopping,
            // Notices come before everything from the viewer, which may be a flood.
            Some(notice) = self.notices.recv() => Wakeup::Notice(notice),
            frame = next_frame(&mut self.video), if is_streaming => Wakeup::Frame(Kind::Video, frame),
            frame = next_frame(&mut self.audio), if is_streaming => Wakeup::Frame(Kind::Audio, frame),
            event = next_event(&mut self.peer) => Wakeup::Peer(event),
            signal = self.call.incoming.recv(), if self.is_signalling_open => Wakeup::Signal(signal),
            // Once the sender is gone there are no more changes; the pattern does not match and disables the branch.
            Ok(()) = picture.changed() => Wakeup::PictureChanged,
            Ok(()) = self.source.has_sound.changed() => Wakeup::SoundChanged,
            Ok(()) = count.changed() => Wakeup::CountChanged,
            outcome = self.commands.outcome() => Wakeup::Outcome(outcome),
            () = sleep_until(deadline) => Wakeup::Late,
            () = sleep_until(self.call.grant.end()) => Wakeup::Notice(Notice::Dismissed("this access has ended".into())),
            _ = ticks.tick() => Wakeup::Tick,
        }
    }

    fn apply(&mut self, event: Event) -> Action {
        let (next, action) = self.state.on(event);
        if next != self.state {
            tracing::debug!(viewer = %self.call.viewer, from = ?self.state, to = ?next, "viewer's state changed");
            self.state = next;
            self.deadline = next.time_limit().map(|time_limit| Instant::now() + time_limit);
            *self.stats.state.lock().expect("lock is never poisoned: no panic while held") = next;
        }
        action
    }

    async fn on_signal(&mut self, signal: Signal) -> Action {
        match signal {
            Signal::Offer { sdp, .. } => self.on_offer(sdp).await,
            Signal::Candidate { candidate } => {
                self.on_candidate(candidate).await;
                Action::Wait
            }
            Signal::Bye { .. } => self.apply(Event::Bye),
            Signal::Error { reason, .. } => {
                self.error_reports.log(&self.call.viewer, &reason, Instant::now());
                Action::Wait
            }
            // The signalling layer answers this message; here there is nothing to do.
            Signal::IceServers { .. } => Action::Wait,
            Signal::Answer { .. } => {
                self.send_error(ErrorCode::BadMessage, "the board makes no offers, so it takes no answers").await;
                Action::Wait
            }
        }
    }

    /// Whether there is sound. Right after the service has started this is not known yet; a player whose answer has no
    /// audio may never send another offer.
    async fn has_sound(&mut self) -> bool {
        let known = self.source.has_sound.wait_for(Option::is_some);
        match tokio::time::timeout(SOUND_KNOWN, known).await {
            Ok(Ok(known)) => known.unwrap_or_default(),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn on_offer(&mut self, sdp: String) -> Action {
        if let Some((_, answer)) = self.answered.as_ref().filter(|(offer, _)| *offer == sdp) {
            let answer = answer.clone();
            self.send_signal(Signal::Answer { sdp: answer }).await;
            return Action::Wait;
        }
        let has_sound = self.has_sound().await;
        let board = Board {
            profile: self.source.profile(),
            has_sound,
            // WHEP allows further offers only for an ICE restart.
            can_renegotiate: self.call.transport != Transport::Whep,
        };
        let result = match &mut self.peer {
            Some(peer) => {
                // An ICE restart starts a new generation of candidates.
                self.has_end_of_candidates = false;
                let place = peer.video_section();
                let answer = peer.negotiate(&sdp, board).await;
                if peer.video_section() != place {
                    self.key_frame_requests.section_changed();
                }
                answer
            }
            None => self.connect(&sdp, board).await,
        };
        match result {
            Ok(answer) => {
                self.update_subscriptions();
                if let Some(reasons) = self.peer.as_ref().and_then(Peer::rejections) {
                    tracing::info!(viewer = %self.call.viewer, reasons, "sections of an offer are rejected");
                }
                self.answered = Some((sdp, answer.clone()));
                self.send_signal(Signal::Answer { sdp: answer }).await;
                for candidate in std::mem::take(&mut self.early_candidates) {
                    self.add_candidate(candidate).await;
                }
                self.apply(Event::Answered)
            }
            Err(error) => {
                let code = refusal(&error);
                // The error may quote the offer, which does not belong in the log; it is sent to the viewer.
                tracing::info!(viewer = %self.call.viewer, ?code, "offer refused");
                tracing::trace!(%error, "why the offer was refused");
                self.send_error(code, error.to_string()).await;
                // The session goes on: the viewer may send a better offer within the time limit.
                Action::Wait
            }
        }
    }

    async fn connect(&mut self, offer: &str, board: Board) -> Result<String, Error> {
        // HTTP allows only one answer; the other kinds of signalling stay open.
        let gathering = if self.call.transport == Transport::Whep { Gathering::Full } else { Gathering::Trickle };
        let (peer, answer) = self.stack.answer(offer, board, self.call.reached, gathering).await?;
        // Set once: a session has one peer connection.
        self.stats.peer.set(peer.statistics()).ok();
        self.peer = Some(peer);
        Ok(answer)
    }

    async fn on_candidate(&mut self, candidate: Option<Candidate>) {
        let Some(candidate) = candidate.filter(|candidate| !candidate.candidate.is_empty()) else {
            self.has_end_of_candidates = true;
            return;
        };
        if self.has_end_of_candidates {
            // RFC 8838, section 14: candidates after the end of candidates are ignored.
            self.send_error(ErrorCode::BadCandidate, "this candidate came after the end of candidates and is ignored")
                .await;
        } else if self.peer.is_some() {
            self.add_candidate(candidate).await;
        } else if self.early_candidates.len() < EARLY_CANDIDATES {
            self.early_candidates.push(candidate);
        } else {
            self.send_error(ErrorCode::BadCandidate, "too many candidates before the offer; send the offer first")
                .await;
        }
    }

    async fn add_candidate(&mut self, candidate: Candidate) {
        let Some(peer) = &self.peer else { return };
        if let Err(error) = peer.add_candidate(candidate).await {
            self.send_error(refusal(&error), error.to_string()).await;
        }
    }

    async fn close(mut self, close: Close) {
        let Close { reason, code } = close;
        let seconds = self.stats.since.elapsed().as_secs();
        tracing::info!(viewer = %self.call.viewer, %reason, seconds, "viewer gone");
        // If no path was found, the reason includes the fault of the relay.
        let fault = self.peer.as_ref().filter(|_| self.state == State::Connecting).and_then(Peer::relay_fault);
        let said = fault.map_or_else(|| reason.to_string(), |fault| format!("{reason}; {fault}"));
        self.send_signal(Signal::Bye { reason: said, code }).await;
        self.send_reply(&Reply::Bye { reason: &reason, code }).await;
    }
}

fn refusal(error: &Error) -> ErrorCode {
    match error {
        Error::BadOffer(_) => ErrorCode::BadOffer,
        Error::NoCommonCodec(_) => ErrorCode::NoCommonCodec,
        Error::BadCandidate(_) => ErrorCode::BadCandidate,
        Error::Stack(_) => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests;
