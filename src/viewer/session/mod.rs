//! One viewer from its call to its end: a driver around the table in [`super::state`].

mod sending;
mod telling;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::control_channel::{Commands, Reply, Request};
use super::peer::{Error, Event as PeerEvent, Later, Peer, Stack};
use super::progress::Progress;
use super::reports::{Reports, cut};
use super::state::{Action, Event, State};
use super::waits::{event_of, next_of, sleep_until};
use super::wishes::Wishes;
use super::{Picture, Source, milliseconds};
use crate::command::Outcome;
use crate::media::{Frame, Subscription};
use crate::sdp::Board;
use crate::signalling::{Call, Candidate, Farewell, Refusal, Signal, Way};
use crate::tasks::Group;

/// Candidates kept until the offer comes: twice what a browser with four interfaces sends.
const EARLY_CANDIDATES: usize = 64;

/// How often a viewer's bitrate is worked out.
const TICK: Duration = Duration::from_secs(1);

/// How long an answer waits until it is known whether there is sound: a capture process says so within a quarter of a second.
const SOUND_KNOWN: Duration = Duration::from_secs(1);

/// What an operator has a viewer told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The board shows itself, and so shall its pages.
    Identify(Duration),
    /// The conversation ends, for this reason.
    Dismissed(String),
    /// It is not connected yet, and another call has got its place.
    GivesWay,
}

/// How a conversation ends.
struct Parting {
    reason: Cow<'static, str>,
    code: Option<Farewell>,
}

/// One viewer.
pub struct Session {
    call: Call,
    source: Source,
    stack: Stack,
    progress: Arc<Progress>,
    board_epoch: Instant,
    state: State,
    deadline: Option<Instant>,
    is_line_open: bool,
    /// Whether no transport is being begun again.
    is_back: bool,
    peer: Option<Peer>,
    /// The latest offer and our answer to it: an impatient viewer repeats its offer.
    answered: Option<(String, String)>,
    early: Vec<Candidate>,
    have_candidates_ended: bool,
    /// Held from the call on, so that the camera starts while ICE is still at work. Read from once connected. `None`
    /// while the viewer wants no pictures, so that the camera may rest.
    video: Option<Subscription>,
    audio: Option<Subscription>,
    wishes: Wishes,
    reports: Reports,
    commands: Commands,
    notices: mpsc::Receiver<Notice>,
}

/// What woke the session.
enum Woken {
    Stopping,
    Signal(Option<Signal>),
    Peer(PeerEvent),
    Video(Arc<Frame>),
    Audio(Arc<Frame>),
    PictureChanged,
    SoundChanged,
    CountChanged,
    Outcome(Outcome),
    Notice(Notice),
    Late,
    Tick,
}

impl Session {
    /// A session for a call that was admitted.
    pub fn new(
        call: Call,
        source: Source,
        stack: Stack,
        progress: Arc<Progress>,
        board_epoch: Instant,
        commands: Commands,
        notices: mpsc::Receiver<Notice>,
    ) -> Self {
        let video = Some(source.video.subscribe());
        let state = State::default();
        Self {
            call,
            stack,
            progress,
            board_epoch,
            state,
            deadline: state.patience().map(|patience| Instant::now() + patience),
            is_line_open: true,
            is_back: true,
            peer: None,
            answered: None,
            early: Vec::new(),
            have_candidates_ended: false,
            video,
            audio: None,
            wishes: Wishes::default(),
            reports: Reports::default(),
            source,
            commands,
            notices,
        }
    }

    /// Lives the viewer's life; `count` is the number of viewers.
    pub async fn run(mut self, mut count: watch::Receiver<usize>, stop: Group) {
        tracing::info!(viewer = %self.call.viewer, way = ?self.call.way, camera = self.source.name, "viewer called");
        let mut picture = self.source.picture.clone();
        let mut ticks = tokio::time::interval(TICK);
        let mut bytes = 0;
        let parting = loop {
            let woken = self.wait(&mut picture, &mut count, &mut ticks, &stop).await;
            let action = match woken {
                Woken::Stopping => self.happened(Event::Stopping),
                Woken::Signal(Some(signal)) => self.hear(signal).await,
                Woken::Signal(None) => {
                    self.is_line_open = false;
                    // Who begins a transport again goes on speaking.
                    self.happened(if self.is_back { Event::LineClosed } else { Event::Bye })
                }
                Woken::Peer(event) => self.on_peer(event, &picture, &count).await,
                Woken::Video(frame) => self.send_video(&frame).await,
                Woken::Audio(frame) => self.send_audio(&frame).await,
                Woken::PictureChanged => self.tell_picture(&picture).await,
                Woken::SoundChanged => self.tell_sound().await,
                Woken::CountChanged => self.tell_count(&count).await,
                Woken::Outcome(outcome) => self.tell_text(&Commands::message(outcome)).await,
                Woken::Notice(Notice::Identify(time)) => self.tell_identify(time).await,
                Woken::Notice(Notice::Dismissed(reason)) => {
                    break Parting { reason: reason.into(), code: Some(Farewell::Dismissed) };
                }
                Woken::Notice(Notice::GivesWay) => Action::Part("others wait and no path was found yet; call again"),
                Woken::Late => self.happened(Event::TooLate),
                Woken::Tick => {
                    let now = self.progress.bytes();
                    self.progress.bitrate.store((now - bytes) * 8, Ordering::Relaxed);
                    bytes = now;
                    if self.wishes.is_due(Instant::now()) {
                        self.want_key_frame();
                    }
                    Action::Wait
                }
            };
            match action {
                Action::Wait => {}
                Action::Stream => self.stream(),
                Action::Part(reason) => break Parting { reason: reason.into(), code: None },
            }
        };
        self.part(parting).await;
    }

    async fn wait(
        &mut self,
        picture: &mut watch::Receiver<Picture>,
        count: &mut watch::Receiver<usize>,
        ticks: &mut tokio::time::Interval,
        stop: &Group,
    ) -> Woken {
        let is_streaming = matches!(self.state, State::Watching | State::Interrupted);
        let deadline = self.deadline;
        tokio::select! {
            biased;
            () = stop.stopped() => Woken::Stopping,
            // Before all that comes from the viewer, which may be a flood.
            Some(notice) = self.notices.recv() => Woken::Notice(notice),
            frame = next_of(&mut self.video), if is_streaming => Woken::Video(frame),
            frame = next_of(&mut self.audio), if is_streaming => Woken::Audio(frame),
            event = event_of(&mut self.peer) => Woken::Peer(event),
            signal = self.call.incoming.recv(), if self.is_line_open => Woken::Signal(signal),
            // With the sender gone there is nothing more to tell; the arm is off then.
            Ok(()) = picture.changed() => Woken::PictureChanged,
            Ok(()) = self.source.has_sound.changed() => Woken::SoundChanged,
            Ok(()) = count.changed() => Woken::CountChanged,
            outcome = self.commands.outcome() => Woken::Outcome(outcome),
            () = sleep_until(deadline) => Woken::Late,
            _ = ticks.tick() => Woken::Tick,
        }
    }

    fn happened(&mut self, event: Event) -> Action {
        let (next, action) = self.state.on(event);
        if next != self.state {
            tracing::debug!(viewer = %self.call.viewer, from = ?self.state, to = ?next, "viewer's state changed");
            self.state = next;
            self.deadline = next.patience().map(|patience| Instant::now() + patience);
            *self.progress.state.lock().expect("nobody panics with it") = next;
        }
        action
    }

    async fn hear(&mut self, signal: Signal) -> Action {
        match signal {
            Signal::Offer { sdp, .. } => self.on_offer(sdp).await,
            Signal::Candidate { candidate } => {
                self.on_candidate(candidate).await;
                Action::Wait
            }
            Signal::Bye { .. } => self.happened(Event::Bye),
            Signal::Error { reason, .. } => {
                self.reports.tell(&self.call.viewer, &reason, Instant::now());
                Action::Wait
            }
            // The way in answers this; here it has gone astray and there is nothing to do.
            Signal::IceServers { .. } => Action::Wait,
            Signal::Answer { .. } => {
                self.object(Refusal::BadMessage, "the board makes no offers, so it takes no answers").await;
                Action::Wait
            }
        }
    }

    /// Whether there is sound. After the start of the service it is not known at once; a player that is answered without
    /// sound then may never ask again.
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
            self.say(Signal::Answer { sdp: answer }).await;
            return Action::Wait;
        }
        let has_sound = self.has_sound().await;
        let board = Board {
            profile: *self.source.profile.borrow(),
            has_sound,
            // WHEP has offers to restart ICE only.
            takes_more: self.call.way != Way::Whep,
        };
        let result = match &mut self.peer {
            Some(peer) => {
                // An ICE restart begins a new generation of candidates.
                self.have_candidates_ended = false;
                let place = peer.place_of_picture();
                let answer = peer.negotiate(&sdp, board).await;
                if peer.place_of_picture() != place {
                    self.wishes.moved();
                }
                answer
            }
            None => self.connect(&sdp, board).await,
        };
        match result {
            Ok(answer) => {
                self.follow_wishes();
                if let Some(reasons) = self.peer.as_ref().and_then(Peer::rejections) {
                    tracing::info!(viewer = %self.call.viewer, reasons, "sections of an offer are rejected");
                }
                self.answered = Some((sdp, answer.clone()));
                self.say(Signal::Answer { sdp: answer }).await;
                for candidate in std::mem::take(&mut self.early) {
                    self.add_candidate(candidate).await;
                }
                self.happened(Event::Answered)
            }
            Err(error) => {
                let code = refusal(&error);
                // The words may quote the offer, which has no business in a log; its sender gets them.
                tracing::info!(viewer = %self.call.viewer, ?code, "offer refused");
                tracing::trace!(%error, "why the offer was refused");
                self.object(code, error.to_string()).await;
                // The call goes on: the viewer may send a better offer while its patience lasts.
                Action::Wait
            }
        }
    }

    async fn connect(&mut self, offer: &str, board: Board) -> Result<String, Error> {
        // HTTP answers once; the other ways go on speaking.
        let later = if self.call.way == Way::Whep { Later::InAnswer } else { Later::Trickled };
        let (peer, answer) = self.stack.reached_at(self.call.reached).answer(offer, board, later).await?;
        // Set once: a session has one peer connection.
        self.progress.link.set(peer.statistics()).ok();
        self.peer = Some(peer);
        Ok(answer)
    }

    async fn on_candidate(&mut self, candidate: Option<Candidate>) {
        let Some(candidate) = candidate.filter(|candidate| !candidate.candidate.is_empty()) else {
            self.have_candidates_ended = true;
            return;
        };
        if self.have_candidates_ended {
            // RFC 8838, section 14: what comes after the end of candidates is ignored.
            self.object(Refusal::BadCandidate, "this candidate came after the end of candidates and is ignored").await;
        } else if self.peer.is_some() {
            self.add_candidate(candidate).await;
        } else if self.early.len() < EARLY_CANDIDATES {
            self.early.push(candidate);
        } else {
            self.object(Refusal::BadCandidate, "too many candidates before the offer; send the offer first").await;
        }
    }

    async fn add_candidate(&mut self, candidate: Candidate) {
        let Some(peer) = &self.peer else { return };
        if let Err(error) = peer.add_candidate(candidate).await {
            self.object(refusal(&error), error.to_string()).await;
        }
    }

    async fn on_peer(
        &mut self,
        event: PeerEvent,
        picture: &watch::Receiver<Picture>,
        count: &watch::Receiver<usize>,
    ) -> Action {
        match event {
            PeerEvent::Candidate(candidate) => {
                self.say(Signal::Candidate { candidate }).await;
                Action::Wait
            }
            PeerEvent::Reached => {
                // DTLS takes about 20 ms more: a key frame of now will be in the feed when it is done.
                self.join_video();
                Action::Wait
            }
            PeerEvent::Connected => {
                self.is_back = true;
                if matches!(self.state, State::Watching | State::Interrupted) {
                    // The picture goes by another transport now, where nothing has come yet.
                    self.wishes.moved();
                    self.join_video();
                }
                self.happened(Event::Connected)
            }
            PeerEvent::Disconnected => self.happened(Event::Disconnected),
            PeerEvent::Closed => self.happened(Event::Closed),
            PeerEvent::Left => self.happened(Event::Bye),
            PeerEvent::ControlOpened => {
                self.tell_picture(picture).await;
                self.tell_sound().await;
                self.tell_count(count).await
            }
            PeerEvent::KeyFrameWanted => {
                if self.wishes.wish(self.progress.losses(), Instant::now()) {
                    self.want_key_frame();
                }
                Action::Wait
            }
            PeerEvent::Lost(what) => {
                tracing::info!(viewer = %self.call.viewer, what, "the viewer lost a transport; the others go on");
                self.audio.take_if(|_| what == "sound");
                Action::Wait
            }
            PeerEvent::Idle => self.happened(Event::Idle),
            PeerEvent::Refused(refusal) => {
                tracing::info!(viewer = %self.call.viewer, %refusal, "the DTLS handshake failed");
                self.happened(Event::Refused)
            }
            PeerEvent::Gone { transport, is_main } => {
                tracing::info!(viewer = %self.call.viewer, "the viewer gave up a transport and begins it again");
                self.is_back = false;
                let begun = match &mut self.peer {
                    Some(peer) if self.is_line_open => peer.begin_again(transport).await,
                    _ => return self.happened(Event::Bye),
                };
                match begun {
                    Ok(()) if is_main => self.happened(Event::BegunAgain),
                    Ok(()) => Action::Wait,
                    Err(error) => {
                        tracing::warn!(viewer = %self.call.viewer, %error, "the transport does not begin again");
                        self.happened(Event::Closed)
                    }
                }
            }
            PeerEvent::Message(text) => self.on_message(&text).await,
        }
    }

    async fn on_message(&mut self, text: &str) -> Action {
        let Some(peer) = &self.peer else { return Action::Wait };
        match serde_json::from_str(text) {
            Ok(Request::Ping { sent }) => {
                let now = Instant::now();
                let board = milliseconds(now - self.board_epoch);
                let rtp = peer.video_clock().map(|clock| clock.timestamp(now));
                peer.tell(&Reply::Pong { sent, board, rtp }.text()).await;
                Action::Wait
            }
            Ok(Request::Bye {}) => self.happened(Event::Bye),
            Ok(Request::Command {}) if self.commands.take(text) => Action::Wait,
            Ok(Request::Command {}) => Action::Part("commands came without end"),
            Err(error) => {
                // The error quotes what it could not read.
                let error = error.to_string();
                let error = cut(&error, 100);
                let reason = format!("not a message of this channel ({error}); send {{\"type\":\"ping\",\"sent\":..}}");
                peer.tell(&Reply::Error { reason }.text()).await;
                Action::Wait
            }
        }
    }

    async fn part(mut self, parting: Parting) {
        let Parting { reason, code } = parting;
        let seconds = self.progress.since.elapsed().as_secs();
        tracing::info!(viewer = %self.call.viewer, %reason, seconds, "viewer gone");
        // Who was never reached may want to know that the relay is to blame.
        let fault = self.peer.as_ref().filter(|_| self.state == State::Connecting).and_then(Peer::relay_fault);
        let said = fault.map_or_else(|| reason.to_string(), |fault| format!("{reason}; {fault}"));
        self.say(Signal::Bye { reason: said, code }).await;
        self.tell(&Reply::Bye { reason: &reason, code }).await;
    }
}

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::BadOffer(_) => Refusal::BadOffer,
        Error::NoCommonCodec(_) => Refusal::NoCommonCodec,
        Error::BadCandidate(_) => Refusal::BadCandidate,
        Error::Stack(_) => Refusal::Internal,
    }
}
