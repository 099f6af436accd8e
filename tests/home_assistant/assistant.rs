//! The real Home Assistant, driven through the broker that it shares with the board: no account, no token.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use testkit::broker::{Broker, Client, Listener};

/// How long a start may take: its own first start compiles what it imports.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(20);

/// The log line of Home Assistant when it is ready, with its default configuration.
pub const STATUS: &str = "homeassistant/status";

/// As whom it connects to the broker.
pub const USER: &str = "homeassistant";
/// See [`USER`].
pub const PASSWORD: &str = "the house's own";

/// Two automations of its own let a test do what a person does at its screen, and see what is seen there.
const CONFIGURATION: &str = r#"
homeassistant:
  name: test
  time_zone: UTC
http:
  server_host: 127.0.0.1
  server_port: PORT
logger:
  default: warning
automation:
  - alias: act
    mode: queued
    max: 50
    triggers:
      - trigger: mqtt
        topic: test/act
    actions:
      - action: "{{ trigger.payload_json.action }}"
        target:
          entity_id: "{{ trigger.payload_json.entity }}"
        data: "{{ trigger.payload_json.data }}"
  - alias: look
    mode: queued
    max: 50
    triggers:
      - trigger: mqtt
        topic: test/look
    actions:
      - action: mqtt.publish
        data:
          topic: test/seen
          payload: >-
            {% set ns = namespace(all={}) %}
            {% for id in integration_entities('mqtt') %}{% set ns.all = dict(ns.all, **{id: states(id)}) %}{% endfor %}
            {{ ns.all | to_json }}
"#;

/// A running Home Assistant. Dropped, it is killed, and its log is printed, which shows where a test failed.
pub struct Assistant {
    process: Child,
    directory: TempDir,
    client: Client,
}

impl Assistant {
    /// Starts one with an empty memory at this broker, and waits until it is ready.
    pub async fn start(broker: &Broker) -> Result<Self> {
        let root = make()?;
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.path().join("config");
        fs::create_dir_all(config.join(".storage"))?;
        // Where it lets its own actions write.
        fs::create_dir(config.join("www"))?;
        fs::write(config.join("configuration.yaml"), CONFIGURATION.replace("PORT", &port.to_string()))?;
        let entry = entry(broker);
        fs::write(config.join(".storage/core.config_entries"), serde_json::to_vec(&entry)?)?;

        let mut client = broker.client().await?;
        client.subscribe("test/seen").await?;
        client.subscribe(STATUS).await?;
        let log = File::create(directory.path().join("log"))?;
        let process = spawn(&root, &config, log)?;
        let mut assistant = Self { process, directory, client };
        assistant.wait_until_ready().await?;
        Ok(assistant)
    }

    /// The state of each MQTT entity, by its name in Home Assistant, as a person sees it.
    pub async fn states(&mut self) -> Result<BTreeMap<String, String>> {
        self.client.publish("test/look", "").await?;
        Ok(serde_json::from_value(self.client.next_on("test/seen").await?.json()?)?)
    }

    /// Waits until an entity has this state.
    pub async fn wait_for(&mut self, entity: &str, wanted: &str) -> Result<()> {
        self.wait_until(&format!("{entity} is {wanted}"), |states| {
            states.get(entity).is_some_and(|state| state == wanted)
        })
        .await
    }

    /// Waits until the states are as `is_so` wants them.
    pub async fn wait_until(&mut self, what: &str, is_so: impl Fn(&BTreeMap<String, String>) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let states = self.states().await?;
            if is_so(&states) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain until {what}: {states:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a person does: an action of Home Assistant's at one entity.
    pub async fn act(&mut self, action: &str, entity: &str, data: Value) -> Result<()> {
        let payload = json!({ "action": action, "entity": entity, "data": data });
        self.client.publish("test/act", payload.to_string()).await
    }

    /// The picture that a camera shows, as Home Assistant saves it; waits until it has one.
    pub async fn picture(&mut self, entity: &str) -> Result<Vec<u8>> {
        let file = self.directory.path().join("config/www/picture");
        let deadline = Instant::now() + LIMIT;
        loop {
            self.act("camera.snapshot", entity, json!({ "filename": "/config/www/picture" })).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            match fs::read(&file) {
                Ok(picture) if !picture.is_empty() => return Ok(picture),
                _ => ensure!(Instant::now() < deadline, "{entity} shows no picture for {LIMIT:?}"),
            }
        }
    }

    /// Lines of its log with complaints about MQTT messages.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.directory.path().join("log"))?;
        let about_mqtt = |line: &&str| line.contains("mqtt") || line.contains("Template");
        Ok(log.lines().filter(about_mqtt).map(str::to_owned).collect())
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.client.next(Duration::from_secs(1)).await {
                Ok(message) if message.topic == STATUS && message.text() == "online" => return Ok(()),
                _ => ensure!(Instant::now() < deadline, "Home Assistant was not ready within {START_LIMIT:?}"),
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("Home Assistant ended: {status}");
            }
        }
    }
}

impl Drop for Assistant {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards, and with it all in its process namespace.
        self.process.kill().ok();
        self.process.wait().ok();
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        eprintln!("-- Home Assistant's log:\n{log}--");
    }
}

fn make() -> Result<PathBuf> {
    let make = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/home_assistant/make"))
        .stderr(Stdio::inherit())
        .output()
        .context("tests/home_assistant/make cannot be run")?;
    ensure!(make.status.success(), "tests/home_assistant/make failed: {}", make.status);
    Ok(String::from_utf8(make.stdout)?.trim_end().into())
}

/// In namespaces of its own, so that its root has the file systems it needs and all of it ends together.
fn spawn(root: &Path, config: &Path, log: File) -> Result<Child> {
    let mut unshare = Command::new("unshare");
    if fs::metadata("/proc/self")?.uid() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    let script =
        "mount --rbind /dev \"$1/dev\" && mount --bind \"$2\" \"$1/config\" && mount -t proc proc \"$1/proc\" &&
        exec chroot \"$1\" /home-assistant/bin/hass --config /config --skip-pip";
    unshare
        .args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", script, "sh"])
        .args([root, config])
        .env_clear()
        .env("PATH", env::var("PATH")?)
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("unshare cannot be run")
}

/// Its MQTT integration as a person sets it up at its screen: broker and nothing else.
fn entry(broker: &Broker) -> Value {
    let address = broker.address(Listener::Plain);
    let time = "2026-01-01T00:00:00.000000+00:00";
    json!({
        "version": 1, "minor_version": 5, "key": "core.config_entries",
        "data": { "entries": [{
            "domain": "mqtt", "title": "broker", "entry_id": "01JTESTMQTT0000000000000000", "source": "user",
            "version": 1, "minor_version": 2, "created_at": time, "modified_at": time,
            "data": {
                "broker": address.ip().to_string(), "port": address.port(), "protocol": "5",
                "username": USER, "password": PASSWORD
            },
            "options": { "discovery": true, "discovery_prefix": "homeassistant" },
            "disabled_by": null, "discovery_keys": {}, "pref_disable_new_entities": false,
            "pref_disable_polling": false, "subentries": [], "unique_id": null
        }] }
    })
}
