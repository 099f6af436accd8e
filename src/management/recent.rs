//! Recent commands, so that a redelivered one is not executed again: a broker redelivers a message that was not
//! acknowledged in time, and an operator repeats a command that was not answered.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::command::{Origin, Outcome};
use crate::state::SavedState;

/// How long a command's id stays known. Brokers redeliver at once after a reconnection; people retry for minutes.
const KEPT: Duration = Duration::from_secs(600);

/// The most commands that are known at once: half a minute's from one sender at its rate limit, and far more than
/// people send.
const MOST: usize = 256;

/// A longer outcome is not kept. Only commands that read have one, and they can be executed again.
const MOST_OUTCOME: usize = 16 * 1024;

/// Identifies a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// Transports do not share ids: each has different senders.
    pub origin: Origin,
    /// The id of the command.
    pub id: String,
}

/// Whether a command is known.
#[derive(Debug, PartialEq)]
pub enum Known {
    /// Its id is new.
    No,
    /// The same command is being executed; this sender will receive its outcome too.
    Executing,
    /// The same command has this outcome.
    Ended(Outcome),
    /// The id belongs to another command.
    OtherCommand,
}

/// Recent commands.
#[derive(Debug, Default)]
pub struct RecentCommands {
    /// In the order of arrival.
    entries: VecDeque<Entry>,
    /// Has the commands whose outcome is reported after a restart.
    saved: Option<SavedState>,
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    /// Hash of the command, so that memory does not hold configurations.
    fingerprint: String,
    since: Instant,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// With the senders that wait for the outcome.
    Executing(Vec<mpsc::Sender<Outcome>>),
    Ended(Outcome),
}

impl RecentCommands {
    /// Includes commands from before the restart.
    pub fn after_restart(saved: SavedState) -> Self {
        Self { saved: Some(saved), ..Self::default() }
    }

    /// Looks a command up. If it is being executed, `outcomes` will receive its outcome too.
    pub fn look_up(&mut self, id: &RequestId, fingerprint: &str, outcomes: &mpsc::Sender<Outcome>) -> Known {
        self.entries.retain(|entry| entry.is_executing() || entry.since.elapsed() < KEPT);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == *id) else {
            return self.look_up_saved(id, fingerprint);
        };
        if entry.fingerprint != fingerprint {
            return Known::OtherCommand;
        }
        match &mut entry.progress {
            Progress::Ended(outcome) => Known::Ended(outcome.clone()),
            Progress::Executing(senders) => {
                // The rate limit on commands bounds this list.
                if !senders.iter().any(|sender| sender.same_channel(outcomes)) {
                    senders.push(outcomes.clone());
                }
                Known::Executing
            }
        }
    }

    /// A new command is being executed.
    pub fn begin(&mut self, id: RequestId, fingerprint: String, outcomes: mpsc::Sender<Outcome>) {
        if self.entries.len() >= MOST
            && let Some(oldest) = self.oldest_of_the_busiest_origin()
        {
            self.entries.remove(oldest);
        }
        let progress = Progress::Executing(vec![outcomes]);
        self.entries.push_back(Entry { id, fingerprint, since: Instant::now(), progress });
    }

    /// Per origin, so that a flood on one transport does not displace the ids of another.
    fn oldest_of_the_busiest_origin(&self) -> Option<usize> {
        let ended = || self.entries.iter().enumerate().filter(|(_, entry)| !entry.is_executing());
        let number = |origin: Origin| ended().filter(|(_, entry)| entry.id.origin == origin).count();
        let origins = [Origin::Broker, Origin::WebSocket, Origin::DataChannel, Origin::HomeAutomation];
        let busiest = origins.into_iter().max_by_key(|origin| number(*origin))?;
        ended().find(|(_, entry)| entry.id.origin == busiest).map(|(at, _)| at)
    }

    /// A command has ended. Returns the senders that wait for its outcome.
    pub fn end(&mut self, id: &RequestId, outcome: &Outcome) -> Vec<mpsc::Sender<Outcome>> {
        let Some(at) = self.entries.iter().position(|entry| entry.id == *id) else { return Vec::new() };
        let is_short = serde_json::to_vec(outcome).is_ok_and(|text| text.len() <= MOST_OUTCOME);
        let entry = &mut self.entries[at];
        entry.since = Instant::now();
        let ended = Progress::Ended(outcome.clone());
        let Progress::Executing(senders) = std::mem::replace(&mut entry.progress, ended) else {
            return Vec::new();
        };
        if !is_short {
            self.entries.remove(at);
        }
        senders
    }

    /// Forgets a command whose outcome is reported after a restart: the saved state has it.
    pub fn remove(&mut self, id: &RequestId) {
        self.entries.retain(|entry| entry.id != *id);
    }

    /// All commands in progress whose outcome is not reported after a restart, with the senders that wait for them.
    pub fn into_unfinished(self) -> impl Iterator<Item = (String, Vec<mpsc::Sender<Outcome>>)> {
        let Self { entries, saved } = self;
        let is_saved = move |id: &str| saved.as_ref().is_some_and(|saved| saved.known_command(id).is_some());
        entries.into_iter().filter_map(move |entry| match entry.progress {
            Progress::Executing(senders) if !is_saved(&entry.id.id) => Some((entry.id.id, senders)),
            Progress::Executing(_) | Progress::Ended(_) => None,
        })
    }

    fn look_up_saved(&self, id: &RequestId, fingerprint: &str) -> Known {
        let known = self.saved.as_ref().and_then(|saved| saved.known_command(&id.id));
        match known.filter(|known| known.pending.origin == id.origin) {
            None => Known::No,
            Some(known) if known.pending.fingerprint != fingerprint => Known::OtherCommand,
            Some(known) => known.outcome.map_or(Known::Executing, Known::Ended),
        }
    }
}

impl Entry {
    fn is_executing(&self) -> bool {
        matches!(self.progress, Progress::Executing(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_id(id: &str) -> RequestId {
        RequestId { origin: Origin::Broker, id: id.into() }
    }

    fn sender() -> mpsc::Sender<Outcome> {
        mpsc::channel(1).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_is_known_for_ten_minutes() {
        let mut recent = RecentCommands::default();
        assert_eq!(recent.look_up(&request_id("1"), "a", &sender()), Known::No);
        recent.begin(request_id("1"), "a".into(), sender());
        assert_eq!(recent.look_up(&request_id("1"), "a", &sender()), Known::Executing);
        assert_eq!(recent.look_up(&request_id("1"), "b", &sender()), Known::OtherCommand);
        let other_transport = RequestId { origin: Origin::WebSocket, id: "1".into() };
        assert_eq!(recent.look_up(&other_transport, "b", &sender()), Known::No);
        let outcome = Outcome::successful("1", None);
        assert_eq!(recent.end(&request_id("1"), &outcome).len(), 2, "the first sender and the one that repeated it");
        assert_eq!(recent.look_up(&request_id("1"), "a", &sender()), Known::Ended(outcome));
        assert_eq!(recent.look_up(&request_id("1"), "b", &sender()), Known::OtherCommand);
        tokio::time::advance(KEPT).await;
        assert_eq!(recent.look_up(&request_id("1"), "b", &sender()), Known::No);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_known_commands_is_limited_and_the_oldest_that_has_ended_is_forgotten() {
        let mut recent = RecentCommands::default();
        recent.begin(request_id("first"), "a".into(), sender());
        for number in 0..2 * MOST {
            recent.begin(request_id(&number.to_string()), "a".into(), sender());
            recent.end(&request_id(&number.to_string()), &Outcome::successful(number.to_string(), None));
        }
        assert_eq!(recent.entries.len(), MOST);
        assert_eq!(recent.look_up(&request_id("first"), "a", &sender()), Known::Executing);
        assert_eq!(recent.look_up(&request_id("0"), "a", &sender()), Known::No);
        recent.begin(request_id("long"), "a".into(), sender());
        recent.end(&request_id("long"), &Outcome::successful("long", Some("x".repeat(MOST_OUTCOME).into())));
        assert_eq!(recent.look_up(&request_id("long"), "a", &sender()), Known::No, "it is executed again");
    }
}
