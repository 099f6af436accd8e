//! Status in Prometheus' text format (version 0.0.4).

use std::fmt::Display;

use super::Status;
use crate::board::Telemetry;
use crate::camera;
use crate::camera::State;

/// The states, each of which is a separate series, as is usual for enumerations.
const STATES: [(State, &str); 5] = [
    (State::Idle, "idle"),
    (State::Starting, "starting"),
    (State::Live, "live"),
    (State::Waiting, "waiting"),
    (State::Private, "private"),
];

/// All metrics, one after the other; `encoded` is how many frames came from each source.
pub fn write(status: &Status, encoded: &[(&str, u64)], is_healthy: bool) -> String {
    let mut page = Page::default();
    let build = [("version", status.versions.peercam), ("device", status.device.as_str())];
    page.family("peercam_info", "gauge", "Version and name of this board.", [(labels(&build), 1)]);
    page.single("peercam_uptime_seconds", "gauge", "Since the process began.", status.uptime);
    page.single("peercam_healthy", "gauge", "1 while frames flow or nobody wants any.", u8::from(is_healthy));
    board(&mut page, &status.telemetry);
    if let Some(broker) = &status.broker {
        let is_online = u8::from(broker.state == "online");
        page.single("peercam_broker_online", "gauge", "1 while the broker is connected.", is_online);
    }

    let cameras = status.cameras.iter().map(|camera| &camera.source);
    let sources: Vec<&camera::Status> =
        cameras.chain(status.microphone.iter().map(|microphone| &microphone.source)).collect();
    let states = sources.iter().flat_map(|source| {
        STATES.map(|(state, name)| {
            (labels(&[("source", &source.name), ("state", name)]), u8::from(source.state == state))
        })
    });
    page.family("peercam_source_state", "gauge", "1 for the state that the source is in.", states);
    let starts = sources.iter().map(|source| (labels(&[("source", &source.name)]), source.encoder_starts));
    page.family("peercam_encoder_starts_total", "counter", "Encoders started.", starts);
    let running = sources.iter().map(|source| (labels(&[("source", &source.name)]), source.encoders_running));
    page.family("peercam_encoders_running", "gauge", "Encoders that run now.", running);
    let frames = encoded.iter().map(|(source, frames)| (labels(&[("source", source)]), frames));
    page.family("peercam_frames_encoded_total", "counter", "Pictures, and packets of sound.", frames);

    let (viewers, totals) = (&status.viewers, &status.viewers.totals);
    page.single("peercam_viewers", "gauge", "Viewers at present.", viewers.count);
    page.single("peercam_viewer_tasks", "gauge", "Tasks that run for viewers; 1 without any.", viewers.tasks);
    page.single("peercam_viewers_admitted_total", "counter", "Calls that became viewers.", totals.admitted);
    page.single("peercam_viewers_refused_total", "counter", "Calls that were refused.", totals.refused);
    page.single("peercam_frames_sent_total", "counter", "Video frames, counted once for each viewer.", totals.frames);
    page.single("peercam_packets_retransmitted_total", "counter", "RTP packets sent again.", totals.retransmitted);
    page.single("peercam_sent_bits_per_second", "gauge", "To all viewers together.", viewers.bitrate);
    page.text
}

/// Figures of the board, as far as it has them.
fn board(page: &mut Page, telemetry: &Telemetry) {
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.single(&format!("peercam_{name}"), "gauge", help, value);
        }
    };
    gauge("temperature_celsius", "Of the warmest sensor.", telemetry.temperature);
    gauge("board_cpu_percent", "Of all cores together.", telemetry.cpu.board);
    gauge("process_cpu_percent", "Of one core, by this process.", telemetry.cpu.process);
    gauge("load1", "Tasks that run or wait to run, on average over a minute.", Some(telemetry.cpu.load[0]));
    gauge("memory_total_bytes", "Memory of the board.", Some(telemetry.memory.total as f64));
    let available = telemetry.memory.available.map(|bytes| bytes as f64);
    gauge("memory_available_bytes", "What programs could still get.", available);
    let resident = telemetry.memory.process.map(|bytes| bytes as f64);
    gauge("process_memory_bytes", "Resident memory of this process.", resident);
    let disk = telemetry.disk.as_ref().map(|disk| disk.available as f64);
    gauge("disk_available_bytes", "Free space of the state directory.", disk);
    let signal = telemetry.wifi.as_ref().map(|wifi| f64::from(wifi.signal));
    gauge("wifi_signal_dbm", "Signal level of the access point.", signal);
    if let Some(throttling) = &telemetry.throttling {
        let names = crate::board::THROTTLING;
        let now = names.map(|name| (labels(&[("reason", name)]), u8::from(throttling.now.contains(&name))));
        page.family("peercam_throttled", "gauge", "1 for what slows the board down now.", now);
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help, [(String::new(), value)]);
    }

    fn family<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (labels, value) in samples {
            self.text.push_str(&format!("{name}{labels} {value}\n"));
        }
    }
}

/// `{name="value",..}` with the three characters escaped that the format asks for.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_escape_special_characters() {
        assert_eq!(labels(&[("source", "a\"b\\c\nd"), ("state", "live")]), r#"{source="a\"b\\c\nd",state="live"}"#);
    }
}
