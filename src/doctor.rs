//! `peercam doctor`: the devices of this board, those that would be used, and advice for each fault.

use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::board::{BoardSensors, Throttling};
use crate::camera::{self, AudioConfig, Config, Inventory, Launcher};
use crate::config;
use crate::mdns;
use crate::mqtt;
use crate::notices;

/// 2024-01-01: a clock that reads less was never set.
const PLAUSIBLE: u64 = 1_704_067_200;

/// A Raspberry Pi slows down at 80 °C; others are near their limits too.
const HOT: f64 = 80.0;

const MIB: u64 = 1024 * 1024;

/// Below this much free memory the kernel soon kills a process: one 720p encoder takes about 40 MB.
const TIGHT: u64 = 64 * MIB;

/// State of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but less well than it could.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Subject: `camera`, `encoder`, `clock`.
    pub topic: String,
    /// Its state.
    pub level: Level,
    /// The finding.
    pub found: String,
    /// Advice, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Everything that was checked. Displayed for people, serialised for programs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst level of all items.
    pub level: Level,
    /// Each thing.
    pub items: Vec<Item>,
    /// All details of what the board has.
    #[serde(rename = "survey")]
    pub inventory: Inventory,
}

impl Report {
    /// Whether something does not work.
    pub fn has_problem(&self) -> bool {
        self.level == Level::Problem
    }

    /// Adds one thing that was checked.
    pub fn add(&mut self, item: Item) {
        self.level = self.level.max(item.level);
        self.items.push(item);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Item { topic, level, found, advice } in &self.items {
            let level = match level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Problem => "problem",
            };
            writeln!(f, "{level:8} {topic:12} {found}")?;
            if let Some(advice) = advice {
                writeln!(f, "{:21} -> {advice}", "")?;
            }
        }
        Ok(())
    }
}

/// Checks the board as these configurations would use it. Takes a few seconds.
pub async fn check(cameras: &[Config], audio: &AudioConfig, launcher: &Launcher) -> Report {
    let inventory = camera::take_inventory(cameras, audio, launcher).await;
    let mut items = Vec::new();
    match &inventory.failure {
        Some(why) => {
            let advice = "`systemctl status peercam-capture.socket` and `journalctl -t peercam-capture` have details";
            items.push(item("devices", Level::Problem, format!("cannot be examined: {why}"), Some(advice)));
        }
        None => {
            devices(&inventory, &mut items);
            encoders(&inventory, &mut items);
            uses(&inventory, &mut items);
        }
    }
    items.push(network());
    let level = items.iter().map(|item| item.level).max().unwrap_or(Level::Ok);
    Report { level, items, inventory }
}

/// Checks what the kernel reports of the board itself below `root`, which is `/` except in tests.
pub fn board(root: &Path) -> Vec<Item> {
    let figures = BoardSensors::new(root.to_owned(), None).read();
    let mut items = vec![clock(root), memory(figures.memory.available)];
    items.extend(figures.temperature.map(temperature));
    items.extend(figures.throttling.as_ref().map(throttling));
    items
}

/// Checks the files that the configuration names, and finds the keys that have no effect.
///
/// `text` is the text that `config` was read from.
pub fn files(config: &config::Config, text: &config::Text) -> Vec<Item> {
    let advice = "correct the name in the configuration, or what the file holds";
    let faults = config.file_faults(text).into_iter();
    let faults = faults.map(|fault| item("configuration", Level::Problem, fault, Some(advice)));
    let idle = config
        .without_effect()
        .into_iter()
        .map(|(key, what)| item("configuration", Level::Warning, text.located(key, &format!("`{key}` {what}")), None));
    faults.chain(idle).collect()
}

/// Tries the broker as this device would use it. Takes some seconds at most; `None` if none is configured.
pub async fn broker(config: &mqtt::Config, device: &str) -> Option<Item> {
    config.url.as_ref()?;
    Some(match mqtt::probe(config, device).await {
        Ok(found) => {
            let user = config.user.as_ref().map(|user| format!("user {user}"));
            let heard = found.untested.iter().map(|filter| format!("topic read {filter}"));
            let lines: Vec<_> = found.permissions.into_iter().chain(heard).collect();
            let has_lines = !lines.is_empty();
            let lines: Vec<_> = user.into_iter().chain(lines).collect();
            let lines = format!("in mosquitto's access list these lines grant the rights: {}", lines.join(" | "));
            let advice: Vec<_> = found.advice.iter().cloned().chain(has_lines.then_some(lines)).collect();
            // With MQTT 3.1.1, a device with all the rights it needs looks the same as one without. That is no
            // warning, because no change would clear it.
            let level = match found.is_forbidden {
                true => Level::Problem,
                false if found.advice.is_some() || !found.untested.is_empty() => Level::Warning,
                false => Level::Ok,
            };
            item("broker", level, found.text, (!advice.is_empty()).then(|| advice.join("; ")).as_deref())
        }
        Err(why) if config.user.is_some() && config.password.is_none() && config.password_file.is_none() => {
            let advice = "no password was found: the credential is given to the service only; try mqtt.password_file";
            item("broker", Level::Problem, why, Some(advice))
        }
        Err(why) => item("broker", Level::Problem, why, Some("correct the [mqtt] table, or the broker")),
    })
}

/// The board's name on the network with this configuration. Only the running service finds out whether another
/// device has the same name.
pub fn name(config: &config::Config) -> Item {
    let name = mdns::host_name(&config.device_id());
    match (config.mdns.enabled, config.web.listen.ip().is_loopback()) {
        (true, false) => item("name", Level::Ok, format!("announced to its networks as {name}"), None),
        (false, false) => item("name", Level::Ok, "not announced: [mdns] enabled = false", None),
        (_, true) => item("name", Level::Ok, "not announced: the page is for this machine only", None),
    }
}

/// Notices that the system's services have left.
pub fn notices(root: &Path) -> impl Iterator<Item = Item> {
    notices::from_files(root).into_iter().map(|notice| item(&notice.about, Level::Warning, notice.text, None))
}

fn item(topic: &str, level: Level, found: impl Into<String>, advice: Option<&str>) -> Item {
    Item { topic: topic.into(), level, found: found.into(), advice: advice.map(str::to_owned) }
}

fn devices(inventory: &Inventory, items: &mut Vec<Item>) {
    for (video, controls) in &inventory.cameras {
        let mut formats: Vec<_> = video
            .modes
            .iter()
            .map(|mode| match mode.sizes {
                camera::Sizes::One(size) => format!("{:?} {size}", mode.format),
                camera::Sizes::Range { least, most, .. } => format!("{:?} {least} to {most}", mode.format),
            })
            .collect();
        formats.dedup();
        let found = format!("{}: {}; {} controls", video.in_words(), formats.join(", "), controls.len());
        items.push(match video.modes.is_empty() {
            false if video.is_receiver => {
                item("video node", Level::Ok, format!("{} {}", video.in_words(), camera::RECEIVER), None)
            }
            false => match &video.fault {
                None => item("camera", Level::Ok, found, None),
                Some(fault) => item("camera", Level::Warning, format!("{found}; {fault}"), None),
            },
            true => {
                let found = format!("{}: only {}", video.in_words(), video.unused_formats.join(", "));
                item("camera", Level::Warning, found, Some("choose another: it has no format that can be used"))
            }
        });
    }
    for id in &inventory.libcamera {
        items.push(item("camera", Level::Ok, format!("{id}, through libcamera: source = \"libcamera:{id}\""), None));
    }
    if inventory.libcamera.is_empty() && inventory.cameras.iter().all(|(video, _)| video.is_receiver) {
        let advice = "plug in a camera; until then the test picture is shown";
        items.push(item("camera", Level::Warning, "no V4L2 camera", Some(advice)));
    }
    for node in &inventory.other_nodes {
        items.push(item("video node", Level::Ok, node, None));
    }
    for audio in &inventory.microphones {
        items.push(item("microphone", Level::Ok, audio.in_words(), None));
    }
    if inventory.microphones.is_empty() {
        let advice = "plug one in, or set capture = \"off\"";
        items.push(item("microphone", Level::Warning, "no ALSA capture device", Some(advice)));
    }
}

fn encoders(inventory: &Inventory, items: &mut Vec<Item>) {
    items.push(item("gstreamer", Level::Ok, &inventory.gstreamer, None));
    for encoder in &inventory.encoders {
        items.push(match &encoder.outcome {
            Ok(took) => {
                let on_demand = if encoder.has_key_frames_on_demand {
                    ""
                } else {
                    ", but makes no key frames on demand: one comes each second"
                };
                let works = format!("{} works ({} ms){on_demand}", encoder.name, took.as_millis());
                item("encoder", Level::Ok, works, None)
            }
            // A missing encoder of another kind of board is no fault.
            Err(why) if !encoder.is_installed => item("encoder", Level::Ok, why, None),
            Err(why) => item("encoder", Level::Warning, why, None),
        });
    }
    for (element, package) in &inventory.missing_elements {
        // These are needed by some users only.
        let level = if ["libcamerasrc", "avdec_h264"].contains(&element.as_str()) { Level::Ok } else { Level::Problem };
        let advice = format!("apt install {package}");
        let advice = (level != Level::Ok).then_some(advice.as_str());
        items.push(item("plugin", level, format!("{element} is not installed ({package})"), advice));
    }
}

fn uses(inventory: &Inventory, items: &mut Vec<Item>) {
    let has_encoder = inventory.encoders.iter().any(|encoder| encoder.outcome.is_ok());
    let advice =
        if has_encoder { "correct the [[camera]] table" } else { "install what is missing; see encoder and plugin" };
    for (name, used) in &inventory.uses {
        items.push(match used {
            Ok(used) => item("would use", Level::Ok, format!("{name}: {used}"), None),
            Err(why) => item("would use", Level::Problem, format!("{name}: {why}"), Some(advice)),
        });
    }
    match &inventory.sound {
        None => items.push(item("would use", Level::Ok, "no sound: capture is \"off\"", None)),
        Some(Ok(used)) => items.push(item("would use", Level::Ok, format!("sound: {used}"), None)),
        Some(Err(why)) => items.push(item("would use", Level::Warning, format!("sound: {why}"), None)),
    }
}

/// The address that packets to other networks would leave from. Connecting a UDP socket sends nothing.
fn network() -> Item {
    let outward = |local: &str, remote: &str| {
        let socket = std::net::UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok().map(|address| address.ip().to_string())
    };
    // Documentation addresses (RFC 5737, RFC 3849): they are reached by the default route, whatever it is.
    let found: Vec<_> =
        [outward("0.0.0.0:0", "192.0.2.1:9"), outward("[::]:0", "[2001:db8::1]:9")].into_iter().flatten().collect();
    match found.is_empty() {
        false => item("network", Level::Ok, found.join(", "), None),
        true => item("network", Level::Warning, "no route to other networks", Some("connect a cable, or set up Wi-Fi")),
    }
}

fn clock(root: &Path) -> Item {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if seconds < PLAUSIBLE {
        let advice = "connect to a network with a time server; TLS and links need the right time";
        return item("clock", Level::Problem, "the clock was never set", Some(advice));
    }
    // systemd-timesyncd touches this file when the clock is synchronised.
    let is_synchronised = root.join("run/systemd/timesync/synchronized").exists();
    let found = if is_synchronised { "set, and synchronised by systemd-timesyncd" } else { "set" };
    item("clock", Level::Ok, found, None)
}

fn memory(available: Option<u64>) -> Item {
    let Some(bytes) = available else { return item("memory", Level::Ok, "unknown", None) };
    let found = format!("{} MiB free", bytes / MIB);
    match bytes < TIGHT {
        true => item("memory", Level::Warning, found, Some("stop other programs, or lower the resolution")),
        false => item("memory", Level::Ok, found, None),
    }
}

fn temperature(degrees: f64) -> Item {
    let found = format!("{degrees:.0} °C");
    match degrees >= HOT {
        true => item("temperature", Level::Warning, found, Some("cool the board: it slows down when it is hot")),
        false => item("temperature", Level::Ok, found, None),
    }
}

fn throttling(throttling_state: &Throttling) -> Item {
    let suffered = throttling_state.since_start.iter().map(|what| {
        let words = match *what {
            "under-voltage" => "too little voltage",
            "frequency-capped" => "its clock is capped",
            "throttled" => "it is throttled",
            "soft-temperature-limit" => "it is too warm",
            other => other,
        };
        format!("{words} ({})", if throttling_state.now.contains(what) { "now" } else { "earlier" })
    });
    let suffered: Vec<_> = suffered.collect();
    match suffered.is_empty() {
        true => item("throttling", Level::Ok, "none", None),
        false => {
            let advice = "use a stronger power supply and cool the board";
            item("throttling", Level::Warning, suffered.join(", "), Some(advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_read_from_the_files_of_each_kind_of_board() {
        let pi4 = ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
        let pi5 = ("sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0x50000\n");
        let volt = ("sys/class/hwmon/hwmon2/name", "rpi_volt\n");
        let cases = [
            (vec![pi4], "too little voltage (now), it is throttled (now)", Level::Warning),
            (vec![pi5], "too little voltage (earlier), it is throttled (earlier)", Level::Warning),
            (vec![volt, ("sys/class/hwmon/hwmon2/in0_lcrit_alarm", "1\n")], "too little voltage (now)", Level::Warning),
            (vec![volt, ("sys/class/hwmon/hwmon2/in0_lcrit_alarm", "0\n")], "none", Level::Ok),
        ];
        for (files, found, level) in cases {
            let root = tempfile::tempdir().unwrap();
            let memory = ("proc/meminfo", "MemTotal:       24601648 kB\nMemAvailable:    40960 kB\n");
            let heat = ("sys/class/thermal/thermal_zone0/temp", "81000\n");
            for (file, text) in files.iter().chain(&[memory, heat]) {
                std::fs::create_dir_all(root.path().join(file).parent().unwrap()).unwrap();
                std::fs::write(root.path().join(file), text).unwrap();
            }
            let items = board(root.path());
            let of = |topic: &str| items.iter().find(|item| item.topic == topic).unwrap();
            assert_eq!((of("throttling").found.as_str(), of("throttling").level), (found, level), "{files:?}");
            assert_eq!((of("memory").found.as_str(), of("memory").level), ("40 MiB free", Level::Warning));
            assert_eq!((of("temperature").found.as_str(), of("temperature").level), ("81 °C", Level::Warning));
        }
        assert!(
            board(Path::new("/nowhere")).iter().all(|item| item.topic != "throttling"),
            "a board without throttling reports"
        );
    }
}
