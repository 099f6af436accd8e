//! What the board says of itself: status, metrics, health, snapshot.

mod health;
mod metrics;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::tasks::Group;
use crate::viewer;
use crate::viewer::Viewers;
use health::{Look, Pulse};

/// How often frames are looked for. Below the shortest time that health speaks of.
const LOOK: Duration = Duration::from_secs(1);

/// Where the kernel has temperatures (Documentation/driver-api/thermal/sysfs-api.rst).
const THERMAL: &str = "/sys/class/thermal";

/// What the board's status is gathered from.
pub struct Parts {
    /// How the board calls itself.
    pub device: String,
    /// By name, in the configured order.
    pub cameras: Vec<(String, Camera)>,
    /// `None` where sound is off.
    pub microphone: Option<Microphone>,
    /// Who watches.
    pub viewers: Viewers,
}

/// A handle to what the board says of itself. A clone is the same.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    started: Instant,
    pulses: Mutex<Vec<Pulse>>,
}

/// The status document of `GET /api/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// How the board calls itself.
    pub device: String,
    /// Of the software.
    pub versions: Versions,
    /// Seconds since the process began.
    pub uptime: u64,
    /// `ok`, or why viewers have no picture.
    pub health: String,
    /// Each camera, in the configured order.
    pub cameras: Vec<camera::Status>,
    /// The microphone, unless sound is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microphone: Option<camera::Status>,
    /// Who watches.
    pub viewers: Watching,
    /// Degrees Celsius of the warmest sensor, where the board has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// Versions of what runs.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// Of peercam.
    pub peercam: &'static str,
    /// Of the kernel, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// The viewers part of [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct Watching {
    /// How many there are.
    pub count: usize,
    /// Each of them.
    pub list: Vec<viewer::Summary>,
    /// Counts since the process began.
    pub totals: viewer::Totals,
    /// Why the board got no relay when a viewer last needed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_fault: Option<String>,
    /// Tasks that run for them: sessions, and the drivers of their peer connections. One where nobody watches.
    pub tasks: usize,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no camera has.
    #[error("no camera is called `{wanted}`; there is: {known}")]
    UnknownCamera {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// The camera gives none.
    #[error(transparent)]
    Camera(#[from] camera::Error),
}

impl Control {
    /// Begins to watch over the parts, until `group` stops.
    pub fn open(parts: Parts, group: &Group) -> Self {
        let pulses = Mutex::new(vec![Pulse::default(); parts.cameras.len()]);
        let control = Self { shared: Arc::new(Shared { parts, started: Instant::now(), pulses }) };
        let (looking, stop) = (control.clone(), group.clone());
        group.spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    biased;
                    () = stop.stopped() => break,
                    _ = ticks.tick() => looking.observe(),
                }
            }
        });
        control
    }

    /// The status now.
    pub fn status(&self) -> Status {
        let parts = &self.shared.parts;
        let list = parts.viewers.list();
        Status {
            device: parts.device.clone(),
            versions: Versions {
                peercam: env!("CARGO_PKG_VERSION"),
                kernel: read_line(Path::new("/proc/sys/kernel/osrelease")),
            },
            uptime: self.shared.started.elapsed().as_secs(),
            health: self.health().err().unwrap_or_else(|| "ok".into()),
            cameras: parts.cameras.iter().map(|(_, camera)| camera.status().borrow().clone()).collect(),
            microphone: parts.microphone.as_ref().map(|microphone| microphone.status().borrow().clone()),
            viewers: Watching {
                count: list.len(),
                list,
                totals: parts.viewers.totals(),
                relay_fault: parts.viewers.relay_fault(),
                tasks: parts.viewers.tasks(),
            },
            temperature: temperature(Path::new(THERMAL)),
        }
    }

    /// The same in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let parts = &self.shared.parts;
        let cameras = parts.cameras.iter().map(|(name, camera)| (name.as_str(), camera.feed().published()));
        let microphone = parts.microphone.iter().map(|microphone| ("microphone", microphone.feed().published()));
        let encoded: Vec<_> = cameras.chain(microphone).collect();
        metrics::write(&self.status(), &encoded, self.health().is_ok())
    }

    /// Whether frames flow or nobody wants any.
    ///
    /// # Errors
    ///
    /// Which camera gives no frames, and why.
    pub fn health(&self) -> Result<(), String> {
        let now = Instant::now();
        let pulses = self.shared.pulses.lock().expect("nobody panics with it");
        for ((name, camera), pulse) in self.shared.parts.cameras.iter().zip(pulses.iter()) {
            pulse.health(&look(camera, now), now).map_err(|reason| format!("camera {name}: {reason}"))?;
        }
        Ok(())
    }

    /// Whether the process does its work, for the watchdog: a camera that says what it waits for is no reason
    /// for a restart.
    ///
    /// # Errors
    ///
    /// Which camera is stuck.
    pub fn liveness(&self) -> Result<(), String> {
        let now = Instant::now();
        let pulses = self.shared.pulses.lock().expect("nobody panics with it");
        let stuck = self.shared.parts.cameras.iter().zip(pulses.iter()).find(|(_, pulse)| !pulse.is_alive(now));
        stuck.map_or(Ok(()), |((name, _), _)| Err(format!("camera {name} gives no frames and does not say why")))
    }

    /// One current picture as JPEG, of the named camera or the first.
    ///
    /// # Errors
    ///
    /// When there is no such camera or no picture.
    pub async fn snapshot(&self, camera: Option<&str>) -> Result<Bytes, Error> {
        let cameras = &self.shared.parts.cameras;
        let wanted = match camera {
            None => cameras.first(),
            Some(wanted) => cameras.iter().find(|(name, _)| name == wanted),
        };
        let Some((_, camera)) = wanted else {
            let known: Vec<_> = cameras.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::UnknownCamera { wanted: camera.unwrap_or_default().into(), known: known.join(", ") });
        };
        Ok(camera.snapshot().await?)
    }

    fn observe(&self) {
        let now = Instant::now();
        let mut pulses = self.shared.pulses.lock().expect("nobody panics with it");
        for ((_, camera), pulse) in self.shared.parts.cameras.iter().zip(pulses.iter_mut()) {
            pulse.observe(&look(camera, now), now);
        }
    }
}

fn look(camera: &Camera, now: Instant) -> Look {
    let feed = camera.feed();
    let status = camera.status();
    let status = status.borrow();
    Look {
        wanted_by: feed.demand().now().viewers,
        state: status.state,
        reason: status.reason.clone(),
        newest: feed.newest().map(|captured| now.saturating_duration_since(captured)),
    }
}

/// Degrees Celsius of the warmest zone under `root`; the kernel counts in thousandths.
fn temperature(root: &Path) -> Option<f64> {
    let zones = std::fs::read_dir(root).ok()?.flatten().map(|entry| entry.path().join("temp"));
    let millidegrees = zones.filter_map(|file| read_line(&file)?.parse::<i64>().ok());
    // Sensors that are switched off read zero or far below it.
    millidegrees.filter(|value| *value > 0).max().map(|value| value as f64 / 1000.0)
}

fn read_line(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warmest_sensor_counts_and_broken_ones_do_not() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(temperature(root.path()), None);
        for (zone, text) in [("zone0", "41500\n"), ("zone1", "54250\n"), ("zone2", "-273000\n"), ("zone3", "?")] {
            std::fs::create_dir(root.path().join(zone)).unwrap();
            std::fs::write(root.path().join(zone).join("temp"), text).unwrap();
        }
        assert_eq!(temperature(root.path()), Some(54.25));
    }
}
