//! The board as a device in Home Assistant: announced by one message over the broker, shown by the status, and used
//! by plain values that become commands.

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
use tokio::time::{Instant, sleep_until};

use crate::command::{Desk, Origin, Outcome, Sender, Status};
use crate::mqtt::{Broker, Message};
use crate::tasks::Group;
use action::Action;
use discovery::Announced;
use entities::Controls;

pub use config::HomeConfig;

/// Home Assistant's word on its status topic when it has started.
const BIRTH: &[u8] = b"online";

/// Within this time after Home Assistant's start boards announce themselves again, each at a moment of its own.
const SPREAD: Duration = Duration::from_secs(5);

/// How long an announcement waits for what comes along with its cause: a camera that is asked for its controls tells its
/// sizes in the status after that.
const SETTLE: Duration = Duration::from_millis(300);

/// Entities that were ever announced and are remembered. More than any camera has controls.
const MOST_REMEMBERED: usize = 500;

/// What the broker keeps for us: what has to be taken back when entities go, or Home Assistant is switched off. The
/// board itself may have lost all memory by then, and may not read Home Assistant's own topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    topic: String,
    #[serde(default)]
    entities: Announced,
}

/// Announces the board `device` and carries out what is wanted of it, until `group` stops; or, where that is switched
/// off, takes back what was announced. `statuses` are the texts that the broker gets.
pub fn open(
    config: &HomeConfig,
    device: &str,
    broker: Broker,
    desk: Desk,
    statuses: watch::Receiver<Arc<Value>>,
    group: &Group,
) {
    let home = Home::new(config.clone(), device.to_owned(), broker, &desk, statuses, group);
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
    /// What the board itself wants to know and have done for Home Assistant.
    own: Sender,
    /// What is wanted by the values that come.
    values: Sender,
    statuses: watch::Receiver<Arc<Value>>,
    group: Group,
    /// What each camera lets one adjust, and the device that said so.
    controls: Controls,
    asked: BTreeMap<String, Asked>,
    /// How many cameras have been asked and have not answered.
    unanswered: usize,
    listings: mpsc::Sender<(String, Option<Vec<Value>>)>,
    listed: mpsc::Receiver<(String, Option<Vec<Value>>)>,
    actions: BTreeMap<String, Action>,
    marker: Marker,
    ids: Ids,
    /// When to announce.
    due: Option<Instant>,
    /// When to say all of it again.
    again: Option<Instant>,
}

/// What a camera was like when it was asked for its controls: if that changes, it is asked again.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    device: Value,
    is_private: bool,
}

/// Ids of commands, which no earlier start has used.
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
        desk: &Desk,
        statuses: watch::Receiver<Arc<Value>>,
        group: &Group,
    ) -> Self {
        let [own, values] = [Origin::HomeAutomation; 2].map(|origin| desk.sender(origin));
        let (listings, listed) = mpsc::channel(8);
        let marker = Marker { topic: discovery::topic(&config.discovery_prefix, &device), entities: Announced::new() };
        Self {
            config,
            device,
            broker,
            own,
            values,
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
            due: None,
            again: None,
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
                    Ok(()) => self.look(),
                    Err(_) => return,
                },
                Some((camera, controls)) = self.listed.recv() => self.learn(camera, controls),
                Some(mark) = marks.recv() => self.recall(&mark),
                Some(value) = values.recv() => self.obey(&value),
                Some(birth) = births.recv() => if birth.payload == BIRTH && !birth.is_retained {
                    self.again = Some(Instant::now() + SPREAD.mul_f64(rand::random()));
                },
                () = at(self.due) => self.announce(),
                () = at(self.again) => self.repeat(),
                () = at(still) => {
                    self.take_stills();
                    still = self.config.still_interval().map(|interval| Instant::now() + interval);
                }
            }
        }
    }

    /// Takes back what an earlier start has announced, as far as the broker knows of it.
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

    /// Has a look at the status: announces what is new in it, and asks cameras that are new for their controls.
    fn look(&mut self) {
        let status = self.statuses.borrow_and_update().clone();
        for camera in status["cameras"].as_array().into_iter().flatten() {
            let Some(name) = camera["name"].as_str() else { continue };
            let now = Asked { device: camera["device"].clone(), is_private: camera["state"] == "private" };
            let before = self.asked.insert(name.to_owned(), now.clone());
            if before.as_ref() != Some(&now) && !now.is_private {
                self.ask_for_controls(name.to_owned());
            }
        }
        self.have_announced();
    }

    /// Soon, and not before each camera has said what it has, so that the first announcement is the whole one.
    fn have_announced(&mut self) {
        if self.unanswered == 0 {
            self.due.get_or_insert(Instant::now() + SETTLE);
        }
    }

    fn ask_for_controls(&mut self, camera: String) {
        let id = self.ids.next();
        let command = json!({ "id": id, "command": "list-controls", "args": { "camera": camera } });
        let outcomes = self.own.hand_in(command.to_string().into());
        let listings = self.listings.clone();
        self.unanswered += 1;
        self.group.spawn(async move {
            let outcome = last(outcomes).await;
            let result = outcome.and_then(|outcome| outcome.result);
            let controls = result.and_then(|result| result["controls"].as_array().cloned());
            // Nobody listens any more when the board shuts down.
            listings.send((camera, controls)).await.ok();
        });
    }

    /// A camera that does not say what it has is away for the moment, or has nothing: what it had before stays.
    fn learn(&mut self, camera: String, controls: Option<Vec<Value>>) {
        if let Some(controls) = controls {
            self.controls.insert(camera, controls);
        }
        self.unanswered -= 1;
        self.have_announced();
    }

    fn announce(&mut self) {
        self.due = None;
        let status = self.statuses.borrow().clone();
        let entities = entities::entities(&status, &self.controls, &self.marker.entities, self.broker.topics());
        self.actions =
            entities.iter().filter_map(|entity| Some((entity.key.clone(), entity.action.clone()?))).collect();
        self.marker.entities.extend(discovery::announced(&entities));
        let version = status["versions"]["peercam"].as_str().unwrap_or_default();
        let message = discovery::message(&self.device, version, self.broker.topics(), &entities, &self.marker.entities);
        // The marker first: what is announced must be taken back even if the power goes now.
        self.broker.retain(self.broker.topics().home_assistant(), text(&self.marker));
        self.broker.retain(self.marker.topic.clone(), text(&message));
    }

    /// What an earlier start has announced, perhaps under another prefix.
    fn recall(&mut self, mark: &Message) {
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
            // At a start the first status brings the first announcement.
            if self.due.is_none() && !self.actions.is_empty() {
                self.have_announced();
            }
        }
    }

    /// Home Assistant has started: says again what it may have missed. The broker still has it all, so it is only said.
    fn repeat(&mut self) {
        self.again = None;
        let status = self.statuses.borrow().clone();
        // Not announced yet: that comes by itself.
        if self.actions.is_empty() {
            return;
        }
        let entities = entities::entities(&status, &self.controls, &self.marker.entities, self.broker.topics());
        let version = status["versions"]["peercam"].as_str().unwrap_or_default();
        let message = discovery::message(&self.device, version, self.broker.topics(), &entities, &self.marker.entities);
        self.broker.publish(self.marker.topic.clone(), text(&message));
        self.broker.publish(self.broker.topics().status(), text(&*status));
    }

    /// Carries out a value that came to an entity's topic.
    fn obey(&mut self, value: &Message) {
        let key = value.topic.rsplit('/').next().unwrap_or_default();
        // A value is for now. One that a broker kept would be carried out at each connection.
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
                let outcomes = self.values.hand_in(command.to_string().into());
                self.pass_on(outcomes);
            }
            Err(reason) if self.values.may_be_told() => {
                tracing::info!(id, reason, "a home automation's value is no command");
                tell(&self.broker, Outcome::failed(id, reason));
            }
            Err(_) => {}
        }
    }

    fn take_stills(&mut self) {
        let status = self.statuses.borrow().clone();
        for camera in status["cameras"].as_array().into_iter().flatten() {
            // What is private or not there gives no picture.
            if camera["state"] == "private" || camera["state"] == "waiting" {
                continue;
            }
            let args = json!({ "camera": camera["name"], "to": "topic" });
            let command = json!({ "id": self.ids.next(), "command": "snapshot", "args": args });
            let outcomes = self.own.hand_in(command.to_string().into());
            self.pass_on(outcomes);
        }
    }

    fn pass_on(&self, outcomes: mpsc::Receiver<Outcome>) {
        // Those that are left out without a word, as most of a flood are, cost no task.
        if outcomes.is_closed() && outcomes.is_empty() {
            return;
        }
        let broker = self.broker.clone();
        self.group.spawn(async move {
            if let Some(outcome) = last(outcomes).await {
                tell(&broker, outcome);
            }
        });
    }
}

/// Says what became of a command where operators look: Home Assistant has no place for it.
fn tell(broker: &Broker, outcome: Outcome) {
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
    serde_json::to_vec(value).expect("it holds nothing that JSON cannot").into()
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
