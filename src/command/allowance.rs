//! How many commands may come: at once, and in each second from then on, of each kind that is counted apart.

use tokio::time::Instant;

use super::Command;

/// Commands that are counted together: a flood of one lane takes nothing from the others.
#[derive(Clone, Copy, Debug)]
pub enum Lane {
    Ordinary,
    /// Parts with a viewer.
    Dismissing,
    /// Switches privacy off.
    Showing,
    /// Switches it on.
    Hiding,
}

impl Lane {
    /// The lane of a command.
    pub fn of(command: &Command) -> Self {
        match command {
            hides if hides.hides() => Self::Hiding,
            shows if shows.shows() => Self::Showing,
            urgent if urgent.is_urgent() => Self::Dismissing,
            _ => Self::Ordinary,
        }
    }
}

/// How much may come in each lane.
#[derive(Debug)]
pub struct Allowances([Allowance; 4]);

impl Allowances {
    /// Of as much in each lane.
    pub fn new(rate: Rate) -> Self {
        Self([Lane::Ordinary, Lane::Dismissing, Lane::Showing, Lane::Hiding].map(|_| Allowance::new(rate)))
    }

    /// The one of a lane.
    pub fn of(&mut self, lane: Lane) -> &mut Allowance {
        &mut self.0[lane as usize]
    }
}

/// How many at once, and how many in each second from then on.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: f64,
    /// In each second from then on.
    pub per_second: f64,
}

/// How much may come.
#[derive(Debug)]
pub struct Allowance {
    rate: Rate,
    left: f64,
    since: Instant,
}

impl Allowance {
    /// All of it is left.
    pub fn new(rate: Rate) -> Self {
        Self { rate, left: rate.burst, since: Instant::now() }
    }

    /// Whether one more may come. What is refused costs nothing: who sends far too much still gets its share.
    pub fn is_within(&mut self, now: Instant) -> bool {
        self.earn(now);
        let is_within = self.left >= 1.0;
        self.left -= if is_within { 1.0 } else { 0.0 };
        is_within
    }

    /// Whether all of it is left.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.earn(now);
        self.left >= self.rate.burst
    }

    fn earn(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() * self.rate.per_second;
        self.since = now;
        self.left = (self.left + earned).min(self.rate.burst);
    }
}
