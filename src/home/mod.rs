//! The board as a device in Home Assistant: one MQTT message announces it, the status shows it, and plain values become
//! commands.

mod action;
mod config;
mod discovery;
mod entities;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::access::Grant;
use crate::command::{CommandQueue, Origin, Outcome, Sender, Status};
use crate::mqtt::{Broker, Message};
use crate::tasks::{Group, sleep_until};
use action::Action;
use entities::{Announced, Controls};

pub use config::HomeConfig;

/// The message on Home Assistant's status topic when it has started.
const BIRTH: &[u8] = b"online";

/// Boards announce themselves again within this time after Home Assistant's start, each at a random moment.
const SPREAD: Duration = Duration::from_secs(5);

/// How long an announcement waits for related changes: after a camera was asked for its controls, its sizes appear in
/// the status.
const SETTLE: Duration = Duration::from_millis(300);

/// The most announced entities that are recorded: more than any camera has controls.
const MOST_REMEMBERED: usize = 500;

/// A record of the announcement, retained by the broker: it has to be removed when entities disappear, or Home
/// Assistant is disabled. The board may have lost its own state by then, and may not be allowed to read Home
/// Assistant's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    topic: String,
    #[serde(default)]
    entities: Announced,
}

/// Announces the board `device` and executes the values that it receives, until `group` stops. If Home Assistant is
/// disabled, it removes the announcement instead. `statuses` are the documents that the broker gets.
pub fn open(
    config: &HomeConfig,
    device: &str,
    broker: Broker,
    commands: CommandQueue,
    statuses: watch::Receiver<Arc<Value>>,
    group: &Group,
) {
    let home = Home::new(config.clone(), device.to_owned(), broker, &commands, statuses, group);
    group.keep("Home Assistant", home, |home| {
        let (stop, is_enabled) = (home.group.clone(), home.config.enabled);
        Box::pin(async move {
            tokio::select! {
                biased;
                () = stop.stopped() => {}
                () = async { if is_enabled { home.run().await } else { home.withdraw().await } } => {}
            }
        })
    });
}

struct Home {
    config: HomeConfig,
    device: String,
    broker: Broker,
    /// Sends the board's own commands for Home Assistant.
    own_sender: Sender,
    /// Sends the commands made from received values.
    value_sender: Sender,
    statuses: watch::Receiver<Arc<Value>>,
    group: Group,
    /// The controls of each camera.
    controls: Controls,
    asked: BTreeMap<String, Asked>,
    /// Number of cameras that were asked for controls and have not answered.
    unanswered: usize,
    listings: mpsc::Sender<(String, Option<Vec<Value>>)>,
    listed: mpsc::Receiver<(String, Option<Vec<Value>>)>,
    actions: BTreeMap<String, Action>,
    marker: Marker,
    ids: Ids,
    /// When to announce the board.
    announce_at: Option<Instant>,
    /// When to publish the announcement and the status again.
    repeat_at: Option<Instant>,
}

/// The state of a camera when it was asked for its controls: it is asked again if the state changes.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    device: Value,
    is_private: bool,
}

/// Ids of commands that no earlier run has used.
#[derive(Debug)]
struct Ids {
    start: u32,
    count: u64,
}

impl Ids {
    fn next(&mut self) -> String {
        self.count += 1;
        format!("home-{:08x}-{}", self.start, self.count)
    }
}

impl Home {
    fn new(
        config: HomeConfig,
        device: String,
        broker: Broker,
        commands: &CommandQueue,
        statuses: watch::Receiver<Arc<Value>>,
        group: &Group,
    ) -> Self {
        let [own_sender, value_sender] =
            [Origin::HomeAutomation; 2].map(|origin| commands.sender(origin, Grant::home_automation()));
        let (listings, listed) = mpsc::channel(8);
        let marker = Marker { topic: discovery::topic(&config.discovery_prefix, &device), entities: Announced::new() };
        Self {
            config,
            device,
            broker,
            own_sender,
            value_sender,
            statuses,
            group: group.clone(),
            controls: Controls::new(),
            asked: BTreeMap::new(),
            unanswered: 0,
            listings,
            listed,
            actions: BTreeMap::new(),
            marker,
            ids: Ids { start: rand::random(), count: 0 },
            announce_at: None,
            repeat_at: None,
        }
    }

    async fn run(&mut self) {
        let mut marks = self.broker.subscribe(self.broker.topics().home_assistant());
        let mut values = self.broker.subscribe(self.broker.topics().set("+"));
        let mut births = self.broker.subscribe(format!("{}/status", self.config.discovery_prefix));
        let mut still = self.config.still_interval().map(|interval| Instant::now() + interval);
        loop {
            tokio::select! {
                changed = self.statuses.changed() => match changed {
                    Ok(()) => self.check_status(),
                    Err(_) => return,
                },
                Some((camera, controls)) = self.listed.recv() => self.store_controls(camera, controls),
                Some(mark) = marks.recv() => self.read_marker(&mark),
                Some(value) = values.recv() => self.execute_value(&value),
                Some(birth) = births.recv() => if birth.payload == BIRTH && !birth.is_retained {
                    self.repeat_at = Some(Instant::now() + SPREAD.mul_f64(rand::random()));
                },
                () = sleep_until(self.announce_at) => self.announce(),
                () = sleep_until(self.repeat_at) => self.repeat(),
                () = sleep_until(still) => {
                    self.take_stills();
                    still = self.config.still_interval().map(|interval| Instant::now() + interval);
                }
            }
        }
    }

    /// Removes the announcement of an earlier run, as far as the broker has a record of it.
    async fn withdraw(&self) {
        let mut marks = self.broker.subscribe(self.broker.topics().home_assistant());
        while let Some(mark) = marks.recv().await {
            let earlier = serde_json::from_slice::<Marker>(&mark.payload).ok();
            if let Some(earlier) = earlier.filter(|earlier| discovery::is_of(&earlier.topic, &self.device)) {
                self.broker.retain(earlier.topic, Bytes::new());
                self.broker.retain(mark.topic, Bytes::new());
            }
        }
    }

    /// Checks the status: announces changes, and asks new cameras for their controls.
    fn check_status(&mut self) {
        let status = self.statuses.borrow_and_update().clone();
        for camera in status["cameras"].as_array().into_iter().flatten() {
            let Some(name) = camera["name"].as_str() else { continue };
            let now = Asked { device: camera["device"].clone(), is_private: camera["state"] == "private" };
            let before = self.asked.insert(name.to_owned(), now.clone());
            if before.as_ref() != Some(&now) && !now.is_private {
                self.query_controls(name.to_owned());
            }
        }
        self.schedule_announcement();
    }

    /// Announces the board soon, but not before each camera has listed its controls, so that the first announcement is
    /// complete.
    fn schedule_announcement(&mut self) {
        if self.unanswered == 0 {
            self.announce_at.get_or_insert(Instant::now() + SETTLE);
        }
    }

    fn query_controls(&mut self, camera: String) {
        let id = self.ids.next();
        let command = json!({ "id": id, "command": "list-controls", "args": { "camera": camera } });
        let outcomes = self.own_sender.submit(command.to_string().into());
        let listings = self.listings.clone();
        self.unanswered += 1;
        self.group.spawn(async move {
            let outcome = last(outcomes).await;
            let result = outcome.and_then(|outcome| outcome.result);
            let controls = result.and_then(|result| result["controls"].as_array().cloned());
            // Nothing receives this any more when the board shuts down.
            listings.send((camera, controls)).await.ok();
        });
    }

    /// A camera that does not list its controls is absent, or has none: earlier ones stay.
    fn store_controls(&mut self, camera: String, controls: Option<Vec<Value>>) {
        if let Some(controls) = controls {
            self.controls.insert(camera, controls);
        }
        self.unanswered -= 1;
        self.schedule_announcement();
    }

    fn announce(&mut self) {
        self.announce_at = None;
        let status = self.statuses.borrow().clone();
        let entities = entities::entities(&status, &self.controls, &self.marker.entities, self.broker.topics());
        self.actions =
            entities.iter().filter_map(|entity| Some((entity.key.clone(), entity.action.clone()?))).collect();
        self.marker.entities.extend(discovery::announced(&entities));
        let version = status["versions"]["peercam"].as_str().unwrap_or_default();
        let message = discovery::message(&self.device, version, self.broker.topics(), &entities, &self.marker.entities);
        // The marker first: the announcement must be removable even if the power fails now.
        self.broker.retain(self.broker.topics().home_assistant(), text(&self.marker));
        self.broker.retain(self.marker.topic.clone(), text(&message));
    }

    /// Reads the marker of an earlier run, which may have used another prefix.
    fn read_marker(&mut self, mark: &Message) {
        let Ok(earlier) = serde_json::from_slice::<Marker>(&mark.payload) else { return };
        if !mark.is_retained || !discovery::is_of(&earlier.topic, &self.device) {
            return;
        }
        if earlier.topic != self.marker.topic {
            self.broker.retain(earlier.topic, Bytes::new());
        }
        let is_new = |(key, _): &(String, String)| !self.marker.entities.contains_key(key);
        let room = MOST_REMEMBERED.saturating_sub(self.marker.entities.len());
        let lost: Vec<_> = earlier.entities.into_iter().filter(is_new).take(room).collect();
        if !lost.is_empty() {
            self.marker.entities.extend(lost);
            // At a start the first status causes the first announcement.
            if self.announce_at.is_none() && !self.actions.is_empty() {
                self.schedule_announcement();
            }
        }
    }

    /// Home Assistant has started: publishes messages that it may have missed. The broker still retains them, so they
    /// are not retained again.
    fn repeat(&mut self) {
        self.repeat_at = None;
        let status = self.statuses.borrow().clone();
        // The first announcement is still to come.
        if self.actions.is_empty() {
            return;
        }
        let entities = entities::entities(&status, &self.controls, &self.marker.entities, self.broker.topics());
        let version = status["versions"]["peercam"].as_str().unwrap_or_default();
        let message = discovery::message(&self.device, version, self.broker.topics(), &entities, &self.marker.entities);
        self.broker.publish(self.marker.topic.clone(), text(&message));
        self.broker.publish(self.broker.topics().status(), text(&*status));
    }

    /// Executes a value from an entity's topic.
    fn execute_value(&mut self, value: &Message) {
        let key = value.topic.rsplit('/').next().unwrap_or_default();
        // A retained value would be executed at each connection.
        if value.is_retained || value.payload.is_empty() {
            return;
        }
        let id = self.ids.next();
        let command = match self.actions.get(key) {
            Some(action) => action.command(&id, &value.payload).map_err(|wrong| format!("`{key}`: {wrong}")),
            None => Err(format!("no entity is called `{key}`")),
        };
        match command {
            Ok(command) => {
                let outcomes = self.value_sender.submit(command.to_string().into());
                self.forward_outcome(outcomes);
            }
            Err(reason) if self.value_sender.may_report_error() => {
                tracing::info!(id, reason, "a value from a home automation is not a command");
                publish_outcome(&self.broker, Outcome::failed(id, reason));
            }
            Err(_) => {}
        }
    }

    fn take_stills(&mut self) {
        let status = self.statuses.borrow().clone();
        for camera in status["cameras"].as_array().into_iter().flatten() {
            // A camera that is private or missing gives no picture.
            if camera["state"] == "private" || camera["state"] == "waiting" {
                continue;
            }
            let args = json!({ "camera": camera["name"], "to": "topic" });
            let command = json!({ "id": self.ids.next(), "command": "snapshot", "args": args });
            let outcomes = self.own_sender.submit(command.to_string().into());
            self.forward_outcome(outcomes);
        }
    }

    fn forward_outcome(&self, outcomes: mpsc::Receiver<Outcome>) {
        // Commands without an outcome, as most of a flood are, need no task.
        if outcomes.is_closed() && outcomes.is_empty() {
            return;
        }
        let broker = self.broker.clone();
        self.group.spawn(async move {
            if let Some(outcome) = last(outcomes).await {
                publish_outcome(&broker, outcome);
            }
        });
    }
}

/// Publishes the outcome of a command on the outcome topic: Home Assistant does not show outcomes.
fn publish_outcome(broker: &Broker, outcome: Outcome) {
    broker.answer(None, broker.topics().outcome(), outcome.texts(broker.limits().known_bytes()));
}

async fn last(mut outcomes: mpsc::Receiver<Outcome>) -> Option<Outcome> {
    let mut last = None;
    while let Some(outcome) = outcomes.recv().await {
        let is_last = outcome.status != Status::Executing;
        last = Some(outcome);
        if is_last {
            break;
        }
    }
    last.filter(|outcome| outcome.status != Status::Executing)
}

fn text(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("it can be written as JSON").into()
}

#[cfg(test)]
mod tests;
