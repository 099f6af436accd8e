//! QEMU's monitor: the machine protocol QMP, one JSON object a line.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

/// Time limit of a command: the longest is to write the whole memory of a machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(20);

/// A connection to the monitor of one QEMU.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Monitor {
    /// Connects to the socket that QEMU makes.
    pub async fn connect(socket: &Path, qemu: &mut Child) -> Result<Self> {
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
                Err(error) => return Err(error).context("QEMU's monitor"),
            }
            if let Some(status) = qemu.try_wait()? {
                bail!("QEMU ended at once: {status}");
            }
            sleep(INTERVAL).await;
        };
        let mut monitor = Self { stream: BufReader::new(stream), events: Vec::new() };
        let greeting = timeout(LIMIT, monitor.line()).await.context("QEMU's monitor does not answer")??;
        ensure!(greeting.get("QMP").is_some(), "QEMU's monitor greets with {greeting}");
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Executes a command and returns its result.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{request}\n").as_bytes()).await?;
        let answer = timeout(LIMIT, async {
            loop {
                let line = self.line().await?;
                match line.get("event").and_then(Value::as_str) {
                    Some(event) => self.events.push(event.to_owned()),
                    None => return anyhow::Ok(line),
                }
            }
        });
        let mut answer = answer.await.with_context(|| format!("QEMU does not answer {request}"))??;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => bail!("QEMU refuses {request}: {answer}"),
        }
    }

    /// Waits until QEMU reports this event, or has reported it already; drops the events so far.
    pub async fn wait_for_event(&mut self, name: &str, limit: Duration) -> Result<()> {
        let found = timeout(limit, async {
            while !self.events.iter().any(|event| event == name) {
                let line = self.line().await?;
                self.events.extend(line.get("event").and_then(Value::as_str).map(str::to_owned));
            }
            anyhow::Ok(())
        });
        found.await.with_context(|| format!("no {name} within {limit:?}; there were {:?}", self.events))??;
        self.events.clear();
        Ok(())
    }

    /// Writes memory and devices of a stopped machine to a file.
    pub async fn save(&mut self, file: &Path) -> Result<()> {
        // Without a rate limit: there is no network to share.
        self.execute("migrate-set-parameters", json!({ "max-bandwidth": 0 })).await?;
        self.execute("migrate", json!({ "uri": format!("exec:cat > {}", file.display()) })).await?;
        self.wait_for_migration().await
    }

    /// Waits until QEMU has loaded the saved state, and lets the machine run.
    pub async fn go_on(&mut self) -> Result<()> {
        self.wait_for_migration().await?;
        self.execute("cont", json!({})).await?;
        Ok(())
    }

    async fn wait_for_migration(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let state = self.execute("query-migrate", json!({})).await?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("the machine's state cannot be moved: {state}"),
                _ => ensure!(Instant::now() < deadline, "the machine's state is not moved yet: {state}"),
            }
            sleep(INTERVAL).await;
        }
    }

    async fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line).await? > 0, "QEMU has ended");
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor sends {line:?}"))
    }
}
