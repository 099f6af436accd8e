//! An operator that sends commands to a board through its broker, and receives the outcomes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::broker::{Broker, Client, Received};

/// The topic of commands.
pub const COMMAND: &str = "peercam/door/command";

/// The topic of outcomes.
pub const OUTCOME: &str = "peercam/door/outcome";

/// An operator of the board `door`.
pub struct Operator {
    /// The connection, for what is not a command.
    pub client: Client,
    /// A topic of its own for answers, where it has one.
    answers: Option<&'static str>,
    commands: u32,
}

/// The end of a command.
pub struct Ended {
    /// The last outcome.
    pub outcome: Value,
    /// Whether `executing` was reported before.
    pub has_begun: bool,
    /// How long that took.
    pub took: Duration,
}

impl Operator {
    /// An operator that subscribes to all topics of the board, once that is online.
    pub async fn of(broker: &Broker) -> Result<Self> {
        let mut client = broker.client().await?;
        client.subscribe("peercam/door/#").await?;
        client.next_where("peercam/door/availability", |message| message.text() == "online").await?;
        Ok(Self { client, answers: None, commands: 0 })
    }

    /// An operator with its own answer topic, once the board is online and accepts values of a home automation system.
    pub async fn apart(broker: &Broker, answers: &'static str) -> Result<Self> {
        let mut client = broker.client().await?;
        for topic in [answers, "peercam/door/availability", "peercam/door/home-assistant"] {
            client.subscribe(topic).await?;
        }
        client.next_where("peercam/door/availability", |message| message.text() == "online").await?;
        // Values are taken once the entities are announced.
        client.next_on("peercam/door/home-assistant").await?;
        Ok(Self { client, answers: Some(answers), commands: 0 })
    }

    /// Sends a command, and waits for its outcome.
    pub async fn asks(&mut self, command: &str, arguments: Value) -> Result<Ended> {
        self.commands += 1;
        let id = format!("c{}", self.commands);
        let text = json!({ "id": id, "command": command, "args": arguments }).to_string();
        match self.answers {
            Some(answers) => self.client.request(COMMAND, text, answers, b"").await?,
            None => self.client.publish(COMMAND, text).await?,
        }
        self.outcome(&id).await.with_context(|| format!("{command} {arguments}"))
    }

    /// Waits for the outcome of the command with this id.
    pub async fn outcome(&mut self, id: &str) -> Result<Ended> {
        let (mut has_begun, began) = (false, Instant::now());
        loop {
            let is_its = |message: &Received| message.json().is_ok_and(|outcome| outcome["id"] == id);
            let outcome = self.client.next_where(self.answers.unwrap_or(OUTCOME), is_its).await?.json()?;
            if outcome["status"] != "executing" {
                return Ok(Ended { outcome, has_begun, took: began.elapsed() });
            }
            has_begun = true;
        }
    }

    /// Sends a command that succeeds; returns its result.
    pub async fn gets(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let outcome = self.asks(command, arguments.clone()).await?.outcome;
        ensure!(outcome["status"] == "successful", "{command} {arguments}: {outcome}");
        Ok(outcome["result"].clone())
    }

    /// Sends a command that fails; returns the reason.
    pub async fn fails(&mut self, command: &str, arguments: Value) -> Result<String> {
        let outcome = self.asks(command, arguments.clone()).await?.outcome;
        ensure!(outcome["status"] == "failed", "{command} {arguments}: {outcome}");
        Ok(outcome["reason"].as_str().context("no reason")?.to_owned())
    }

    /// Why a text that has no id is no command.
    pub async fn nameless(&mut self, text: impl Into<bytes::Bytes>) -> Result<String> {
        self.client.publish(COMMAND, text).await?;
        let outcome = self.client.next_where(OUTCOME, |message| message.json().is_ok_and(|it| it["id"] == "")).await?;
        let outcome = outcome.json()?;
        ensure!(outcome["status"] == "failed", "{outcome}");
        Ok(outcome["reason"].as_str().context("no reason")?.to_owned())
    }
}
