//! Rate limits of commands, one for each lane.

use super::Command;
use crate::rate_limit::{Rate, RateLimit};

/// Commands that share a rate limit: a flood in one lane takes nothing from the others.
#[derive(Clone, Copy, Debug)]
pub enum Lane {
    Ordinary,
    /// Disconnects a viewer.
    Dismissal,
    /// Switches privacy off.
    PrivacyOff,
    /// Switches privacy on.
    PrivacyOn,
}

impl Lane {
    /// The lane of a command.
    pub fn of(command: &Command) -> Self {
        match command {
            command if command.switches_privacy_on() => Self::PrivacyOn,
            command if command.switches_privacy_off() => Self::PrivacyOff,
            command if command.is_urgent() => Self::Dismissal,
            _ => Self::Ordinary,
        }
    }
}

/// The allowance of each lane.
#[derive(Debug)]
pub struct Allowances([RateLimit; 4]);

impl Allowances {
    /// The same allowance in each lane.
    pub fn new(rate: Rate) -> Self {
        Self([Lane::Ordinary, Lane::Dismissal, Lane::PrivacyOff, Lane::PrivacyOn].map(|_| RateLimit::new(rate)))
    }

    /// The allowance of a lane.
    pub fn of(&mut self, lane: Lane) -> &mut RateLimit {
        &mut self.0[lane as usize]
    }
}
