//! How an actor opens and closes its device, and how it reacts to reports of the capture process.

use std::time::Instant;

use crate::capture::{Built, Error, Order, Question};

use super::super::device_state::{Closing, DeviceState, Urgency};
use super::super::settings::Settings;
use super::super::state_machine::{State, Trigger};
use super::super::supervisor::{EndCause, KillReason, SupervisorEvent};
use super::super::timers::{SilenceTimer, Timers};
use super::{ABSENT_RETRY, CHECK, Running};

impl<S: Settings> Running<'_, S> {
    pub(super) fn tune(&mut self, settings: &S) {
        if self.device.built().is_some() {
            self.actor.supervisor.order(&Order::Tune(settings.to_order()));
        }
    }

    pub(super) fn handle_event(&mut self, event: SupervisorEvent) {
        let is_current = |attempt: u32| self.device.attempt() == Some(attempt);
        let is_closing = self.device.closing().is_some();
        match event {
            SupervisorEvent::Closed(attempt) if is_current(attempt) && is_closing => self.device_closed(),
            SupervisorEvent::Closed(attempt) if is_current(attempt) => {
                self.actor.supervisor.kill(KillReason::Hangs("it closed its device without an order"));
            }
            SupervisorEvent::Remains => {
                let device = self.in_words();
                self.device.mark_unkillable(device);
                self.process_unkillable();
            }
            SupervisorEvent::Ended(cause, error) => self.process_ended(cause, error),
            // Reports about an attempt that was given up are ignored.
            SupervisorEvent::Built(attempt, built) if is_current(attempt) && !is_closing => {
                self.graph_built(attempt, built)
            }
            SupervisorEvent::FirstFrame(attempt) if is_current(attempt) && !is_closing => {
                self.apply(Trigger::FirstFrame)
            }
            SupervisorEvent::Outdated(attempt) if is_current(attempt) && !is_closing => {
                self.apply(Trigger::RestartRequested)
            }
            SupervisorEvent::Failed(attempt, error) if is_current(attempt) && !is_closing => self.fail(error),
            SupervisorEvent::Stalled(attempt) if is_current(attempt) && !is_closing => {
                tracing::warn!(device = self.in_words(), "no frames any more, restarting");
                self.apply(Trigger::Stalled);
            }
            SupervisorEvent::Closed(_)
            | SupervisorEvent::Built(..)
            | SupervisorEvent::FirstFrame(_)
            | SupervisorEvent::Outdated(_)
            | SupervisorEvent::Failed(..)
            | SupervisorEvent::Stalled(_) => {}
        }
    }

    /// The process has ended, which has closed the device.
    pub(super) fn process_ended(&mut self, cause: EndCause, error: Error) {
        let was_closing = self.device.closing().is_some();
        self.device = DeviceState::Closed;
        self.actor.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        self.answer_privacy();
        match self.state {
            // It was killed because it did not close its device, which is now closed.
            _ if was_closing => self.device_closed(),
            State::Live if cause != EndCause::Unfit && !self.actor.supervisor.is_crash_looping() => {
                tracing::warn!(reason = %error, "the capture process is started again");
                self.apply(Trigger::Stalled);
            }
            State::Starting | State::Live => self.fail(error),
            State::Idle | State::Waiting | State::Private => {
                if cause != EndCause::Accident {
                    tracing::warn!(reason = %error, "the capture process has ended");
                }
                self.publish_status();
            }
        }
    }

    /// Sets when to end the process, if it is not needed, and has it checked while it is busy.
    pub(super) fn schedule_process_end(&mut self) {
        if self.actor.supervisor.is_busy() {
            self.timers.check.get_or_insert_with(|| Instant::now() + CHECK);
        }
        let is_needed = !matches!(self.device, DeviceState::Closed) || !self.actor.supervisor.is_running();
        self.timers.end_process = (!is_needed).then(|| Instant::now() + self.actor.supervisor.linger());
    }

    pub(super) fn end_idle_process(&mut self) {
        if !matches!(self.device, DeviceState::Closed) {
            return;
        }
        match self.actor.supervisor.has_questions() {
            // Each answer has a time limit.
            true => self.timers.end_process = Some(Instant::now() + ABSENT_RETRY),
            false => self.actor.supervisor.end_process(),
        }
    }

    /// Its device, for people.
    pub(super) fn in_words(&self) -> String {
        let status = self.actor.status.borrow();
        match self.device.built() {
            Some(built) => built.device.clone(),
            None => format!("{} ({})", status.name, status.device),
        }
    }

    /// The process was killed, and is still there.
    pub(super) fn process_unkillable(&mut self) {
        let Some(failure) = self.device.closing().map(Closing::stuck_error) else {
            // It has no device. The next process can be another one; the group waits for the end of this one.
            return self.actor.supervisor.end_process();
        };
        if matches!(self.state, State::Starting | State::Live) {
            return self.fail(failure);
        }
        tracing::error!(source = %self.actor.status.borrow().name, reason = %failure, "the device cannot be closed");
        self.publish_status();
    }

    /// The device is closed.
    pub(super) fn device_closed(&mut self) {
        self.device = DeviceState::Closed;
        self.actor.status.send_if_modified(|status| std::mem::take(&mut status.encoders_running) > 0);
        self.answer_privacy();
        self.publish_status();
        self.schedule_process_end();
        if self.state == State::Starting {
            self.start();
        }
    }

    pub(super) fn start(&mut self) {
        self.opened = Some(Instant::now());
        self.publish_status();
        match self.device.closing() {
            None => {}
            Some(closing) if closing.is_unkillable => return self.fail(closing.stuck_error()),
            // `start` is called again when the device is closed. From now on somebody waits for that.
            Some(_) => {
                let device = self.in_words();
                self.device.begin_closing(device, Urgency::Awaited);
                return;
            }
        }
        let settings = self.actor.settings.borrow().clone();
        let group = self.actor.group.clone();
        let attempt = self.actor.supervisor.open(settings.to_order(), &group);
        self.started_with = Some(settings);
        self.device = DeviceState::Opening { attempt };
        let now = Instant::now();
        self.silence_timer = SilenceTimer { published: 0, since: Some(now) };
        self.timers = Timers { check: Some(now + CHECK), stop_source: self.timers.stop_source, ..Timers::default() };
    }

    pub(super) fn graph_built(&mut self, attempt: u32, built: Built) {
        let now = Instant::now();
        self.key_frames.forced(now);
        self.silence_timer.since = Some(now);
        let size = built.mode.as_ref().map(|mode| mode.resolution);
        self.actor.supervisor.feed().describe(|format| format.size = size);
        self.actor.status.send_modify(|status| status.apply_built(&built));
        self.device = DeviceState::Open { attempt, built };
        let settings = self.actor.settings.borrow().clone();
        if self.started_with.as_ref().is_some_and(|started_with| *started_with != settings) {
            self.tune(&settings);
        }
        self.publish_status();
    }

    /// Closes the device; none of its frames are published any more.
    pub(super) fn stop(&mut self) {
        self.timers =
            Timers { stop_source: self.timers.stop_source, end_process: self.timers.end_process, ..Timers::default() };
        let urgency =
            if matches!(self.state, State::Starting | State::Private) { Urgency::Awaited } else { Urgency::Unawaited };
        let device = self.in_words();
        if let Some(attempt) = self.device.begin_closing(device, urgency) {
            self.actor.supervisor.close(attempt);
        }
    }

    pub(super) fn serve_snapshots(&mut self) {
        if self.state == State::Live {
            let group = self.actor.group.clone();
            for responder in self.snapshots.drain(..) {
                self.actor.supervisor.ask(Question::Snapshot, responder, &group);
            }
        }
    }
}
