//! How an actor has its device opened and closed, and what it makes of what the capture process says.

use std::time::Instant;

use crate::capture::{Built, Error, Order, Question};

use super::super::device::{Closing, Device, Wait};
use super::super::due::{Progress, Timers};
use super::super::host::{Cause, Heard, Killing};
use super::super::settings::Settings;
use super::super::state::{Event, State};
use super::{CHECK, LOOK, Running};

impl<S: Settings> Running<'_, S> {
    pub(super) fn tune(&mut self, settings: &S) {
        if self.device.built().is_some() {
            self.actor.host.order(&Order::Tune(settings.to_order()));
        }
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        let is_current = |attempt: u32| self.device.attempt() == Some(attempt);
        let is_closing = self.device.closing().is_some();
        match heard {
            Heard::Closed(attempt) if is_current(attempt) && is_closing => self.go_on(),
            Heard::Closed(attempt) if is_current(attempt) => {
                self.actor.host.kill(Killing::Hangs("it closed its device without being told to"));
            }
            Heard::Remains => {
                let device = self.in_words();
                self.device.remains(device);
                self.remain();
            }
            Heard::Ended(cause, error) => self.end(cause, error),
            // What is said of an attempt that was given up is no news.
            Heard::Built(attempt, built) if is_current(attempt) && !is_closing => self.take_over(attempt, built),
            Heard::FirstFrame(attempt) if is_current(attempt) && !is_closing => self.apply(Event::FirstFrame),
            Heard::Outdated(attempt) if is_current(attempt) && !is_closing => self.apply(Event::Renewed),
            Heard::Failed(attempt, error) if is_current(attempt) && !is_closing => self.fail(error),
            Heard::Stalled(attempt) if is_current(attempt) && !is_closing => {
                tracing::warn!(device = self.in_words(), "no frames any more, restarting");
                self.apply(Event::Stalled);
            }
            Heard::Closed(_)
            | Heard::Built(..)
            | Heard::FirstFrame(_)
            | Heard::Outdated(_)
            | Heard::Failed(..)
            | Heard::Stalled(_) => {}
        }
    }

    /// The process has ended, and the device is closed by that.
    pub(super) fn end(&mut self, cause: Cause, error: Error) {
        let was_closing = self.device.closing().is_some();
        self.device = Device::Closed;
        self.actor.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        self.answer_hiding();
        match self.state {
            // It was killed because it did not close its device, which is closed now.
            _ if was_closing => self.go_on(),
            State::Live if cause != Cause::Unfit && !self.actor.host.flaps() => {
                tracing::warn!(reason = %error, "the capture process is started again");
                self.apply(Event::Stalled);
            }
            State::Starting | State::Live => self.fail(error),
            State::Idle | State::Waiting | State::Private => {
                if cause != Cause::Accident {
                    tracing::warn!(reason = %error, "the capture process has ended");
                }
                self.tell();
            }
        }
    }

    /// From now on the process stays for a while that nobody may need any more, and is watched where it is busy.
    pub(super) fn linger(&mut self) {
        if self.actor.host.is_busy() {
            self.timers.check.get_or_insert_with(|| Instant::now() + CHECK);
        }
        let is_needed = !matches!(self.device, Device::Closed) || !self.actor.host.is_running();
        self.timers.end = (!is_needed).then(|| Instant::now() + self.actor.host.linger());
    }

    pub(super) fn end_idle(&mut self) {
        if !matches!(self.device, Device::Closed) {
            return;
        }
        match self.actor.host.is_asked() {
            // Each answer has a limit.
            true => self.timers.end = Some(Instant::now() + LOOK),
            false => self.actor.host.leave(),
        }
    }

    /// What it has to do with, for people.
    pub(super) fn in_words(&self) -> String {
        let status = self.actor.status.borrow();
        match self.device.built() {
            Some(built) => built.device.clone(),
            None => format!("{} ({})", status.name, status.device),
        }
    }

    /// The process was killed, and is still there.
    pub(super) fn remain(&mut self) {
        let Some(failure) = self.device.closing().map(Closing::hangs) else {
            // It has no device. The next process can be another; the group waits for the end of this one.
            return self.actor.host.leave();
        };
        if matches!(self.state, State::Starting | State::Live) {
            return self.fail(failure);
        }
        tracing::error!(source = %self.actor.status.borrow().name, reason = %failure, "the device does not let go");
        self.tell();
    }

    /// The device is closed.
    pub(super) fn go_on(&mut self) {
        self.device = Device::Closed;
        self.actor.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        self.answer_hiding();
        self.tell();
        self.linger();
        if self.state == State::Starting {
            self.start();
        }
    }

    pub(super) fn start(&mut self) {
        self.opened = Some(Instant::now());
        self.tell();
        match self.device.closing() {
            None => {}
            Some(closing) if closing.remains => return self.fail(closing.hangs()),
            // Once it is closed this is called again. From now on it is waited for.
            Some(_) => {
                let device = self.in_words();
                self.device.let_go(device, Wait::Somebody);
                return;
            }
        }
        let settings = self.actor.settings.borrow().clone();
        let group = self.actor.group.clone();
        let attempt = self.actor.host.open(settings.to_order(), &group);
        self.begun_with = Some(settings);
        self.device = Device::Opening { attempt };
        let now = Instant::now();
        self.progress = Progress { published: 0, since: Some(now) };
        self.timers = Timers { check: Some(now + CHECK), leave: self.timers.leave, ..Timers::default() };
    }

    pub(super) fn take_over(&mut self, attempt: u32, built: Built) {
        let now = Instant::now();
        self.key_frames.forced(now);
        self.progress.since = Some(now);
        self.actor.status.send_modify(|status| status.take_in(&built));
        self.device = Device::Open { attempt, built };
        let settings = self.actor.settings.borrow().clone();
        if self.begun_with.as_ref().is_some_and(|begun_with| *begun_with != settings) {
            self.tune(&settings);
        }
        self.tell();
    }

    /// Has the device closed; nothing of it is published any more.
    pub(super) fn stop(&mut self) {
        self.timers = Timers { leave: self.timers.leave, end: self.timers.end, ..Timers::default() };
        let wait = if matches!(self.state, State::Starting | State::Private) { Wait::Somebody } else { Wait::Nobody };
        let device = self.in_words();
        if let Some(attempt) = self.device.let_go(device, wait) {
            self.actor.host.close(attempt);
        }
    }

    pub(super) fn serve_snapshots(&mut self) {
        if self.state == State::Live {
            let group = self.actor.group.clone();
            for asker in self.snapshots.drain(..) {
                self.actor.host.ask(Question::Snapshot, asker, &group);
            }
        }
    }
}
