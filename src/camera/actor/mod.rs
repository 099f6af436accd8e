//! What keeps a camera or a microphone going: starts it for its viewers, stops it after them, restarts it when it
//! fails or falls silent, and passes on what viewers want of the encoder.

mod life;

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::{Error, Order, PRIVACY, Question};
use crate::media::{Demand, DemandWatch};
use crate::tasks::{Backoff, Group};

use super::device::{Device, Hiding};
use super::due::{KeyFrames, Looked, Progress, Timers, sleep_until};
use super::host::{Host, Killing};
use super::questions::{Asker, MOST_REQUESTS};
use super::settings::{Settings, Warmth};
use super::state::{Action, Event};
use super::{Privacy, State, Status};

/// How long a source runs on without viewers: a page that is reloaded finds it running.
const GRACE: Duration = Duration::from_secs(2);

/// How often progress is looked at, so that a silent stall is noticed within a second.
const CHECK: Duration = Duration::from_millis(200);

/// A device that takes so long to bring its first picture keeps people waiting, who are told what is done.
const SLOW: Duration = Duration::from_secs(5);

/// A look that comes so late says that this process itself stood still, and nothing of the other.
const STOOD_STILL: Duration = Duration::from_millis(300);

/// How often a device that is not there is looked for. Looking is cheap, so that its return is noticed fast.
const LOOK: Duration = Duration::from_millis(250);

/// What a handle asks of its actor.
pub(super) enum Command<S> {
    /// Other settings; the answer when they are in effect or given up.
    Configure(S, Verdict),
    /// Another pipeline in the place of the running one.
    Restart,
    /// Privacy; the answer when the device is closed, or takes too long for it.
    Privacy(Privacy, oneshot::Sender<Result<(), Error>>),
    /// A question to the capture process, which is started for it. A snapshot waits until frames flow.
    Ask(Question, Asker),
    /// Somebody is likely to watch soon: the capture process is to be there by then.
    Prepare,
}

/// Takes what became of new settings.
pub(super) type Verdict = oneshot::Sender<Result<(), Error>>;

/// What an actor is made of.
pub(super) struct Actor<S> {
    pub(super) host: Host,
    pub(super) settings: watch::Sender<S>,
    pub(super) privacy: Privacy,
    pub(super) status: watch::Sender<Status>,
    pub(super) inbox: mpsc::UnboundedReceiver<Command<S>>,
    pub(super) group: Group,
    /// When it looked last whether frames come, for who watches over it.
    pub(super) looked: Looked,
}

/// New settings whose first picture is waited for.
struct Trial<S> {
    former: S,
    verdict: Verdict,
}

/// The actor at work.
struct Running<'a, S> {
    actor: &'a mut Actor<S>,
    demand: DemandWatch,
    state: State,
    device: Device,
    /// What the attempt was begun with.
    begun_with: Option<S>,
    hiding: Option<Hiding>,
    timers: Timers,
    backoff: Backoff,
    key_frames: KeyFrames,
    wishes: u64,
    progress: Progress,
    /// When the device was told to open.
    opened: Option<Instant>,
    failure: Option<Error>,
    /// Snapshots that wait for frames.
    snapshots: Vec<Asker>,
    trial: Option<Trial<S>>,
}

impl<S: Settings> Actor<S> {
    /// Runs until the group stops. After a panic it can be run again: privacy, settings and the inbox are kept.
    pub(super) async fn run(&mut self) {
        self.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        // What a panic has left of it is not known.
        self.host.leave();
        let mut running = Running {
            demand: self.host.sink().feed.demand(),
            actor: self,
            state: State::Idle,
            device: Device::Closed,
            begun_with: None,
            hiding: None,
            timers: Timers::default(),
            // A device that is busy or broken becomes free unannounced; its picture is to be back within 2 s.
            backoff: Backoff::new(LOOK, Duration::from_millis(1500)),
            key_frames: KeyFrames::default(),
            wishes: 0,
            progress: Progress::default(),
            opened: None,
            failure: None,
            snapshots: Vec::new(),
            trial: None,
        };
        running.run().await;
        // The group waits for the end of the process.
        running.actor.host.leave();
    }
}

impl<S: Settings> Running<'_, S> {
    async fn run(&mut self) {
        let group = self.actor.group.clone();
        if self.actor.privacy == Privacy::On {
            self.apply(Event::Hidden);
        }
        let now = self.demand.now();
        self.follow(now);
        loop {
            let hiding = self.hiding.as_ref().map(|hiding| hiding.limit);
            let closing = self.device.closing().and_then(|closing| closing.limit);
            let timers = [self.timers.next(), closing, hiding, self.actor.host.answer_limit()];
            let timer = timers.into_iter().flatten().min();
            let device = self.in_words();
            tokio::select! {
                biased;
                () = group.stopped() => return,
                Some(command) = self.actor.inbox.recv() => self.obey(command),
                demand = self.demand.changed() => self.follow(demand),
                heard = self.actor.host.heard(&device) => self.hear(heard),
                () = sleep_until(timer) => self.look(),
            }
        }
    }

    fn obey(&mut self, command: Command<S>) {
        if let Command::Privacy(privacy, _) = command {
            self.actor.privacy = privacy;
        }
        match command {
            Command::Configure(settings, verdict) => self.configure(settings, verdict),
            Command::Restart => self.apply(Event::Renewed),
            Command::Privacy(Privacy::On, done) => {
                self.hiding.get_or_insert_default().told.push(done);
                self.snapshots.drain(..).for_each(|asker| asker.refuse(Error::Private));
                self.apply(Event::Hidden);
                // What is there to be shown was recorded before.
                self.actor.host.sink().feed.clear();
                if self.device.closing().is_none() {
                    self.answer_hiding();
                }
            }
            Command::Privacy(Privacy::Off, done) => {
                self.answer_hiding();
                self.apply(Event::Shown);
                // Nobody waits only where the request was given up.
                done.send(Ok(())).ok();
                let now = self.demand.now();
                self.follow(now);
            }
            Command::Ask(_, asker) if self.state == State::Private => asker.refuse(Error::Private),
            Command::Ask(Question::Snapshot, asker) => {
                self.snapshots.retain(|waiting| !waiting.has_gone());
                if self.snapshots.len() >= MOST_REQUESTS {
                    return asker.refuse(Error::TooMany);
                }
                self.snapshots.push(asker);
                self.serve_snapshots();
            }
            Command::Ask(question, asker) => {
                let group = self.actor.group.clone();
                self.actor.host.ask(question, asker, &group);
                self.linger();
            }
            Command::Prepare if self.state == State::Private => {}
            Command::Prepare => {
                let group = self.actor.group.clone();
                self.actor.host.start(&group);
                self.linger();
            }
        }
    }

    fn configure(&mut self, settings: S, verdict: Verdict) {
        let former = self.actor.settings.send_replace(settings.clone());
        let is_tuned = settings.suits(&former);
        // The first picture of an earlier trial never came, so what was before it is what can be gone back to.
        let former = match self.trial.take() {
            Some(earlier) if !is_tuned => {
                earlier.verdict.send(Err(Error::Superseded)).ok();
                earlier.former
            }
            Some(earlier) => {
                self.trial = Some(earlier);
                former
            }
            None => former,
        };
        if is_tuned {
            self.tune(&settings);
            verdict.send(Ok(())).ok();
            // It may be wanted warm now, or not any more.
            let now = self.demand.now();
            return self.follow(now);
        }
        if matches!(self.state, State::Idle | State::Private) {
            verdict.send(Ok(())).ok();
            return;
        }
        self.trial = Some(Trial { former, verdict });
        self.apply(Event::Renewed);
    }

    /// The trial is over, if there was one: its settings hold.
    fn accept(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.verdict.send(Ok(())).ok();
        }
    }

    fn follow(&mut self, demand: Demand) {
        let has_wish = std::mem::replace(&mut self.wishes, demand.key_frames) != demand.key_frames;
        if demand.viewers > 0 || self.actor.settings.borrow().warmth() == Warmth::Kept {
            self.timers.leave = None;
            if self.state == State::Idle {
                // The first frame of a pipeline is a key frame, which fulfils the wish.
                return self.apply(Event::Wanted);
            }
        } else if self.state != State::Idle && self.timers.leave.is_none() {
            self.timers.leave = Some(Instant::now() + GRACE);
        }
        if has_wish && matches!(self.state, State::Starting | State::Live) {
            self.timers.key_frame = self.key_frames.wish(Instant::now());
            self.force_due_key_frame(Instant::now());
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let is_due = |timer: Option<Instant>| timer.is_some_and(|due| due <= now);
        self.force_due_key_frame(now);
        if is_due(self.actor.host.answer_limit()) {
            let device = self.in_words();
            self.actor.host.give_up_answers(&device);
            self.linger();
        }
        if is_due(self.hiding.as_ref().map(|hiding| hiding.limit)) {
            self.answer_hiding();
        }
        if let Device::Closing(closing) = &mut self.device
            && is_due(closing.limit)
        {
            closing.limit = None;
            self.actor.host.kill(Killing::Hurry);
        }
        if is_due(self.timers.leave) {
            self.timers.leave = None;
            return self.apply(Event::Unwanted);
        }
        if is_due(self.timers.end) {
            self.timers.end = None;
            self.end_idle();
        }
        if is_due(self.timers.retry) {
            self.timers.retry = None;
            return self.apply(Event::RetryDue);
        }
        if let Some(due) = self.timers.check.filter(|due| *due <= now) {
            let is_watched = !matches!(self.device, Device::Closed) || self.actor.host.is_busy();
            self.timers.check = is_watched.then_some(now + CHECK);
            if now - due > STOOD_STILL {
                // What was sent meanwhile is still to be read.
                self.progress.since = Some(now);
                self.actor.host.stood_still();
            }
            self.check(now);
        }
    }

    /// Whether the process hangs. Its device's frames are watched over by itself.
    fn check(&mut self, now: Instant) {
        self.actor.looked.at(now);
        let silence = self.progress.silence(self.actor.host.published(), now);
        if self.state == State::Starting {
            // It may be slow by now.
            self.tell();
        }
        if self.actor.host.hangs(&self.device, silence) {
            tracing::warn!(device = self.in_words(), "the capture process hangs, and is ended");
            self.actor.host.kill(Killing::Hangs("it hung"));
        }
    }

    fn force_due_key_frame(&mut self, now: Instant) {
        if self.timers.key_frame.is_some_and(|due| due <= now) {
            self.timers.key_frame = None;
            self.key_frames.forced(now);
            if self.device.built().is_some() {
                self.actor.host.order(&Order::KeyFrame { rendition: 0 });
            }
        }
    }

    /// Tells those who wait for it whether the device is closed.
    fn answer_hiding(&mut self) {
        let Some(hiding) = self.hiding.take() else { return };
        // Before the answers, so that who has one and asks for the status finds it there.
        self.tell();
        hiding.answer(self.device.closing());
    }

    fn fail(&mut self, failure: Error) {
        // A device that is not there says nothing about the settings: they hold.
        if let Some(trial) = self.trial.take_if(|_| failure.is_of_settings()) {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "the new settings do not work, back to the former");
            self.actor.settings.send_replace(trial.former);
            trial.verdict.send(Err(failure)).ok();
            return self.apply(Event::Renewed);
        }
        let is_news = self.failure.as_ref().is_none_or(|known| known.to_string() != failure.to_string());
        if is_news {
            let name = self.actor.status.borrow().name.clone();
            tracing::warn!(source = %name, reason = %failure, "waiting");
        }
        self.failure = Some(failure);
        self.apply(Event::Failed);
    }

    fn apply(&mut self, event: Event) {
        let (state, action) = self.state.on(event);
        self.state = state;
        match action {
            Action::Nothing => return,
            Action::Start => return self.start(),
            Action::Restart => {
                self.stop();
                return self.start();
            }
            Action::Stop => {
                self.failure = None;
                self.backoff.reset();
                self.stop();
                self.timers.leave = None;
            }
            Action::Pause => {
                self.stop();
                let is_absent = self.failure.as_ref().is_some_and(Error::is_absence);
                if is_absent {
                    self.backoff.reset();
                }
                let pause = if is_absent { LOOK } else { self.backoff.pause() };
                self.timers.retry = Some(Instant::now() + pause);
            }
            Action::Settle => {
                self.failure = None;
                if let Some(built) = self.device.built() {
                    tracing::info!(device = %built.device, mode = built.mode.as_ref().map(tracing::field::display),
                        encoder = built.encoder, "frames flow");
                }
                self.backoff.reset();
                self.serve_snapshots();
            }
        }
        self.tell();
        // Before the answer, so that a status asked for after it has the new values.
        self.accept();
    }

    /// What takes so long that people are told, where it is no failure.
    fn slowness(&self) -> Option<String> {
        let is_slow = self.opened.is_some_and(|opened| opened.elapsed() > SLOW);
        is_slow.then(|| format!("it takes long to start: {}", self.actor.host.doing()))
    }

    /// Publishes state and reason where they changed.
    fn tell(&self) {
        let reason = match self.state {
            State::Private => Some(match self.device.closing() {
                Some(closing) if self.hiding.is_none() => closing.may_be_open().to_string(),
                _ => PRIVACY.to_owned(),
            }),
            State::Starting => self.failure.as_ref().map(Error::to_string).or_else(|| self.slowness()),
            _ => self.failure.as_ref().map(Error::to_string),
        };
        // Until an attempt brings a frame it is waited for: a status that says so four times a second tells nothing.
        let state = if self.state == State::Starting && reason.is_some() { State::Waiting } else { self.state };
        self.actor.status.send_if_modified(|status| {
            let is_news = (status.state, &status.reason) != (state, &reason);
            (status.state, status.reason) = (state, reason);
            is_news
        });
    }
}
